"""A lease on a run's directory: one worker holds it, the dead and the silent lose it, clocks do not matter."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest
from etils import epath
from support.limits import LIMIT_S, killed_late

from capscale import store
from capscale.clock import clock
from capscale.errors import UserError
from capscale.train import identity, lease
from capscale.train.lease import Held, Lease, LeaseLost, check_free, current_lease, is_live

SHORT = 0.4
"""Seconds that leases of these tests are long."""


@pytest.fixture
def directory(tmp_path):
    return epath.Path(tmp_path)


def short(directory):
    return Lease(directory, length_s=SHORT, settle_s=0.05)


def leave(directory, **changes):
    """A lease of a worker elsewhere, which says nothing any more."""
    with short(directory):
        content = current_lease(directory)
        assert content is not None
    path = directory / f"lease-{content['generation']}.json"
    path.write_text(json.dumps(content | {"place": "elsewhere", "token": "theirs"} | changes))
    return path


def taken_after(directory, most=5.0):
    """Seconds until a lease could be taken, trying often."""
    began = time.monotonic()
    while time.monotonic() - began < most:
        try:
            with short(directory):
                return time.monotonic() - began
        except Held:
            time.sleep(0.02)
    raise AssertionError("never taken")


def test_one_holds_it_and_hands_it_back(directory):
    with short(directory) as first:
        first.check()
        assert is_live(current_lease(directory))
        with pytest.raises(Held, match=rf"is held by process {os.getpid()} on "):
            short(directory).__enter__()
    assert not is_live(current_lease(directory))
    with short(directory) as second:
        second.check()
    assert [path.name for path in directory.iterdir()] == ["lease-2.json"]


def test_a_live_holder_is_waited_for_however_long(directory):
    with short(directory) as held:
        until = time.monotonic() + 3 * SHORT
        while time.monotonic() < until:
            with pytest.raises(Held):
                short(directory).__enter__()
            time.sleep(0.05)
        held.check()


def test_a_silent_holder_elsewhere_loses_it_after_its_length_and_not_before(directory):
    leave(directory)
    assert SHORT < taken_after(directory) < SHORT + 1


def test_a_process_number_tells_nothing_of_another_machine(directory):
    """There it may be alive; here it is no process, or another."""
    leave(directory, pid=2**22 + 1, process="1")
    with pytest.raises(Held):
        short(directory).__enter__()
    assert taken_after(directory) > SHORT / 2


def test_silence_that_nobody_could_hear_ends_no_lease(directory, monkeypatch):
    """A store that does not answer for a while: who waits sees nothing, and who holds it cannot give a sign of life."""
    leave(directory)
    now = [100.0]
    monkeypatch.setattr(clock(), "monotonic", lambda: now[0])

    def is_free():
        with suppress(Held):
            return check_free(directory, SHORT) is not None
        return False

    assert not is_free()
    now[0] += 1000  # in which it looked elsewhere, or in vain
    assert not is_free()
    now[0] += SHORT / 4
    assert not is_free()
    now[0] += SHORT / 2
    assert is_free(), "and the dead are not waited for for ever"


def test_a_longer_lease_than_ours_is_given_its_time(directory):
    leave(directory, length_s=3 * SHORT)
    assert taken_after(directory) > 3 * SHORT


NO_LEASES = [
    *("", "{", "[]", "[" * 100_000, '{"token": 3}', '{"pid": "me"}', '{"pid": -1}', '{"pid": 1e3}', '{"host": 7}'),
    *('{"length_s": 1e12}', '{"length_s": "long"}', '{"length_s": -1}', '{"length_s": null}', '{"length_s": NaN}'),
    *('{"expires_at": "late"}', '{"place": []}', '{"process": 3}', '{"released": "no"}'),
]


@pytest.mark.parametrize("content", NO_LEASES)
def test_a_damaged_lease_ends_by_silence(content, directory):
    (directory / "lease-1.json").write_text(content)
    assert not is_live(current_lease(directory))
    with pytest.raises(Held, match="is held by process "):
        short(directory).__enter__()
    original, lease.LENGTH_S = lease.LENGTH_S, SHORT
    try:
        assert taken_after(directory) > SHORT / 2
    finally:
        lease.LENGTH_S = original


def test_a_sign_of_life_from_far_ahead_is_none(directory):
    path = leave(directory, released=False, expires_at=time.time() + 100)
    assert is_live(current_lease(directory))
    path.write_text(json.dumps(current_lease(directory) | {"expires_at": time.time() + 1e6}))
    assert not is_live(current_lease(directory))


@pytest.mark.parametrize("jump", [-1e9, -7200, 7200, 1e9])
def test_wall_clocks_decide_nothing(jump, directory, monkeypatch):
    real = time.time
    with short(directory) as held:
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        for _ in range(4):
            with pytest.raises(Held):
                short(directory).__enter__()
            time.sleep(SHORT / 3)
        held.check()
    leave(directory, expires_at=real() - 1e9)
    assert taken_after(directory) > SHORT


@contextmanager
def holder_process(directory):
    code = (
        "import sys, time; from etils import epath; from capscale.train.lease import Lease\n"
        f"with Lease(epath.Path({str(directory)!r}), {SHORT}): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, killed_late(process):
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_killed_holder_on_this_machine_loses_it_at_once(directory, monkeypatch):
    with holder_process(directory) as process:
        with pytest.raises(Held, match=f"held by process {process.pid} on"):
            short(directory).__enter__()
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not collected: a zombie keeps its number
        monkeypatch.setattr(lease, "LENGTH_S", 1e6)
        with short(directory) as ours:
            ours.check()


def test_a_stopped_holder_finds_out_before_it_writes(directory):
    held = short(directory)
    held.__enter__()
    held._ended.set()  # its thread sleeps, as the threads of a stopped process do
    held._thread.join()
    time.sleep(SHORT)
    assert taken_after(directory) > SHORT / 2  # somebody took it over, and has even ended
    with pytest.raises(LeaseLost, match="taken over by another worker"):
        held.check()
    theirs = current_lease(directory)
    held.__exit__()
    assert current_lease(directory) == theirs


def test_a_holder_that_was_displaced_is_told_by_its_thread(directory):
    with short(directory) as held:
        leave_path = directory / "lease-9.json"
        leave_path.write_text(json.dumps(current_lease(directory) | {"token": "theirs"}))
        time.sleep(SHORT)
        assert held._lost
        with pytest.raises(LeaseLost):
            held.check()


def test_a_stopped_holder_that_nobody_replaced_goes_on(directory):
    with short(directory) as held:
        held._ended.set()
        held._thread.join()
        time.sleep(2 * SHORT)
        held.check()
        with pytest.raises(Held):
            short(directory).__enter__()


def contend(directory, workers=8):
    """Many try at once; the numbers of those who got it."""
    together, took = threading.Barrier(workers, timeout=LIMIT_S), []

    def worker(number):
        try:
            together.wait()
            with ExitStack() as held:
                with suppress(Held):
                    held.enter_context(short(directory))
                    took.append(number)
                together.wait()
        except BaseException:
            together.abort()  # or the others would wait for this one
            raise

    threads = [threading.Thread(target=worker, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


def no_links(*args):
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("pid", ["../../proc/self", "1", 1.5, None, [1], -1, 0])
def test_a_process_number_that_is_none_is_no_path(pid, monkeypatch):
    monkeypatch.setattr(identity, "Path", pytest.fail)
    monkeypatch.setattr(identity.os, "kill", pytest.fail)
    assert identity.process(pid) is None


@pytest.mark.parametrize("links", [True, False], ids=["links", "object-storage"])
@pytest.mark.parametrize("before", ["nothing", "released", "dead"])
def test_of_many_at_once_one_gets_it(links, before, directory, monkeypatch):
    if not links:
        monkeypatch.setattr(store.os, "link", no_links)
    if before == "released":
        leave(directory, released=True)
    if before == "dead":
        leave(directory, place=lease._place(), process="0")
    for _ in range(3):
        assert len(contend(directory)) == 1


def test_a_late_worker_with_an_old_view_withdraws(directory, monkeypatch):
    """It saw generation 1 handed back, and creates 2 when 3 is held already and 2 has been removed."""
    leave(directory, released=True)
    old = current_lease(directory)
    for _ in range(2):
        taken_after(directory)
    with short(directory) as held:
        real, views = current_lease, iter([old])
        monkeypatch.setattr(lease, "current_lease", lambda directory: next(views, None) or real(directory))
        with pytest.raises(Held, match="just been taken"):
            short(directory).__enter__()
        held.check()
    assert [path.name for path in directory.iterdir()] == ["lease-4.json"]


def test_unwritable_directory_is_named(directory, monkeypatch):
    with pytest.raises(UserError, match=r"absent cannot be written \(No such file or directory\)"):
        short(directory / "absent").__enter__()


def test_a_full_disk_during_the_lease_lets_it_lapse(directory, monkeypatch):
    with short(directory) as held:

        def full(*args):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(type(directory), "write_bytes", full)
        time.sleep(SHORT)
        with pytest.raises(UserError, match="No space left"):
            held.check()
        monkeypatch.undo()
        held.check()


def test_a_lease_that_cannot_be_handed_back_lapses(directory, monkeypatch):
    """Training under it is done, and is not to be hidden by an error of the store."""

    def write(*args, **options):
        raise RuntimeError("503")

    with short(directory):
        monkeypatch.setattr(lease, "write_json", write)
    monkeypatch.undo()
    assert is_live(current_lease(directory))


def test_a_store_that_fails_in_its_own_way_does_not_end_the_signs_of_life(directory, monkeypatch):
    """Clients of object stores raise errors that are no `OSError`."""
    real, failures = lease.write_json, []

    def write(path, value, **options):
        if len(failures) < 2:
            failures.append(path)
            raise RuntimeError("503")
        return real(path, value, **options)

    with short(directory) as held:
        monkeypatch.setattr(lease, "write_json", write)
        until = time.monotonic() + 20
        while held._renewals < 4 and time.monotonic() < until:
            time.sleep(0.02)
        content = current_lease(directory)
        assert content is not None
        assert content["renewals"] >= 3
    assert len(failures) == 2
