"""Several processes that train one run together, each with its own devices: TPU pods, Slurm, or by address."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from capscale.errors import Unavailable, UserError
from capscale.storage import is_passing


class FailedElsewhere(UserError):
    """Another process could not do its part of what all do together; that one says why."""


class UnavailableElsewhere(FailedElsewhere, Unavailable):
    """The same of what may pass by itself: all of them are to be started again, not the first one alone."""


def connect(coordinator: str | None = None, processes: int | None = None, index: int | None = None) -> None:
    """Joins this process with the others; call it once, ahead of anything else of JAX.

    Args:
      coordinator: `host:port` of the first process. On TPU pods, Slurm, Open MPI and Kubernetes, JAX finds this and the
        other two by itself.
      processes: how many there are.
      index: which of them this is, from 0.

    Raises:
      UserError: there is no such cluster, some of the three are missing, or the address is none.
      Unavailable: the others do not answer.
    """
    given = (coordinator, processes, index)
    if any(value is None for value in given) and any(value is not None for value in given):
        raise UserError(
            f"--coordinator {coordinator}, --processes {processes} and --process-index {index}: give all three or none"
        )
    host, _, port = ("localhost:1" if coordinator is None else coordinator).rpartition(":")
    if not (host and port.isdecimal()):
        raise UserError(
            f"--coordinator {coordinator} is not HOST:PORT; give the host of the first process and a port that is free "
            "there, such as localhost:12355"
        )
    try:
        jax.distributed.initialize(coordinator, processes, index)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        kind = Unavailable if "DEADLINE_EXCEEDED" in reason else UserError
        raise kind(
            f"this process cannot join others ({reason}); start it on a TPU pod or with srun, or give "
            "--coordinator HOST:PORT, --processes and --process-index"
        ) from error


def is_first() -> bool:
    """Whether this process is the one that writes what all of them know."""
    return jax.process_index() == 0


def any_process(*flags: bool) -> tuple[bool, ...]:
    """Each flag as soon as it is set in any process: what all do together, all must decide alike.

    Raises `Unavailable` when the others do not answer.
    """
    if jax.process_count() == 1:
        return flags
    try:
        gathered = multihost_utils.process_allgather(np.array(flags))
    except Exception as error:  # XLA, Gloo and the coordinator have types of their own for a connection that is lost
        raise _left(error) from error
    return tuple(bool(flag) for flag in np.any(gathered, axis=0))


def numbers_of_first(numbers: Sequence[int]) -> list[int]:
    """The numbers of the first process, in all of them; `Unavailable` when the others do not answer."""
    if jax.process_count() == 1:
        return list(numbers)
    try:
        told = multihost_utils.broadcast_one_to_all(np.array(numbers, np.int32))
    except Exception as error:  # as in `any_process`
        raise _left(error) from error
    return [int(number) for number in told]


def _left(error: Exception) -> Unavailable:
    reason = " ".join(str(error).split())[:200]
    return Unavailable(
        f"the other processes do not answer ({reason}); see why one of them has ended, and start all again"
    )


_LOST = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe|heartbeat|UNAVAILABLE|DEADLINE_EXCEEDED", re.I)
"""Words of XLA for a collective whose other side is gone. Of a TPU's none were seen; others count as failures."""


@contextmanager
def noticing_the_lost() -> Iterator[None]:
    """Turns what XLA raises in a step that another process has left into `Unavailable`."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() > 1 and _LOST.search(str(error)):
            raise _left(error) from error
        raise


@contextmanager
def all_or_none(shared: Exception | None = None) -> Iterator[None]:
    """Makes failure collective: where the block raises in one process, it ends in every process.

    The process that raised re-raises. The others raise `FailedElsewhere`; or `shared`, if all that was raised is of
    its type. All of them know then, and can go on together: see `is_agreed`.
    """
    refusal = None
    try:
        yield
    except Exception as error:
        refusal = error
    is_shared = shared is not None and isinstance(refusal, type(shared))
    failed = refusal is not None and not is_shared
    lasting = failed and refusal is not None and not is_passing(refusal)
    failed, stopped, lasting = any_process(failed, is_shared, lasting)
    if failed:
        kind = FailedElsewhere if lasting else UnavailableElsewhere
        elsewhere = kind("another process could not do its part, and says why; mend that and start all again")
        raise agreed(elsewhere if refusal is None or is_shared else refusal)
    if stopped:
        assert shared is not None
        raise agreed(refusal or shared)


def agreed(error: Exception) -> Exception:
    """Marks an error that every process meets at the same place, each in its own words."""
    vars(error)["agreed"] = True
    return error


def is_agreed(error: Exception) -> bool:
    """Whether every process has met this error, so that none still waits for another."""
    return getattr(error, "agreed", False)


def wait_for_all(what: str) -> None:
    """Until every process has come here; `what` names the place. Raises `Unavailable` when they do not."""
    if jax.process_count() > 1:
        try:
            multihost_utils.sync_global_devices(what)
        except Exception as error:  # as above
            raise _left(error) from error
