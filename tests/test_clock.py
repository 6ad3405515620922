"""The clock that workers live by: the machine's, unless another one is put in its place."""

import threading
import time

from capscale.clock import SystemClock, clock, using


def test_it_is_the_machines():
    assert abs(clock().monotonic() - time.monotonic()) < 1
    assert abs(clock().time() - time.time()) < 1
    began = time.monotonic()
    clock().sleep(0.01)
    assert time.monotonic() - began >= 0.01


def test_another_one_is_put_in_its_place_for_all_threads():
    class Set(SystemClock):
        def monotonic(self):
            return 7.0

    seen = []
    with using(Set()):
        thread = threading.Thread(target=lambda: seen.append(clock().monotonic()))
        thread.start()
        thread.join()
    assert seen == [7.0]
    assert clock().monotonic() != 7.0


def test_threads_wait_for_what_others_do():
    flag, done = clock().event(), []
    thread = clock().start(lambda: done.append(flag.wait(60)), "waits")
    flag.set()
    thread.join()
    assert done == [True]
    with clock().lock(), clock().pool(2, "work") as pool:
        ended, left = clock().wait([pool.submit(lambda: 3)], 60, for_all=True)
        assert ([future.result() for future in ended], left) == ([3], set())
        late = pool.submit(flag.wait)
        assert clock().wait([late], 60) == ({late}, set())
