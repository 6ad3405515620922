"""Parts of the input done side by side, in processes of their own."""

import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait

from capscale.data.inputs import Part
from capscale.data.tokenize import Job, tokenize
from capscale.errors import UserError
from capscale.storage import quiet_clients


def tokenize_all(job: Job, parts: Sequence[Part], missing: Sequence[int], workers: int) -> Iterator[int]:
    """Does the parts of the given numbers, here or in processes of their own.

    Yields, as each is done, the peak memory in bytes of the process that did it. Raises what a part raises; parts that
    are done stay done.
    """
    if workers <= 1:
        for number in missing:
            yield measured(job, number, parts[number])
        return
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # a fork would copy locks of threads that are not in the child
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_become_worker) as executor:
        futures = [executor.submit(measured, job, number, parts[number]) for number in missing]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker was killed, perhaps for want of memory; start again with fewer --workers, done parts are kept"
            ) from error
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
            if not all(future.done() for future in futures):  # stopping: nothing half-done is of use
                for child in set(multiprocessing.active_children()) - others:
                    child.terminate()


def measured(job: Job, number: int, part: Part) -> int:
    """Does a part; the peak memory of this process in bytes."""
    tokenize(job, number, part)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _become_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends with it."""
    quiet_clients()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
