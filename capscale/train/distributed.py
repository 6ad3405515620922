"""Several processes that train one run together, each with its own devices: TPU pods, Slurm, or by address."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from capscale.errors import UserError


class FailedElsewhere(UserError):
    """Another process could not do its part of what all do together; that one says why."""


def connect(coordinator: str | None = None, processes: int | None = None, index: int | None = None) -> None:
    """Joins this process with the others; call it once, ahead of anything else of JAX.

    Args:
      coordinator: `host:port` of the first process. On TPU pods, Slurm, Open MPI and Kubernetes, JAX finds this and the
        other two by itself.
      processes: how many there are.
      index: which of them this is, from 0.

    Raises:
      UserError: there is no such cluster, some of the three are missing, or the others do not answer.
    """
    given = (coordinator, processes, index)
    if any(value is None for value in given) and any(value is not None for value in given):
        raise UserError(
            f"--coordinator {coordinator}, --processes {processes} and --process-index {index}: give all three or none"
        )
    try:
        jax.distributed.initialize(coordinator, processes, index)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"this process cannot join others ({reason}); start it on a TPU pod or with srun, or give "
            "--coordinator HOST:PORT, --processes and --process-index"
        ) from error


def is_first() -> bool:
    """Whether this process is the one that writes what all of them know."""
    return jax.process_index() == 0


def any_process(*flags: bool) -> tuple[bool, ...]:
    """Each flag as soon as it is set in any process: what all do together, all must decide alike."""
    if jax.process_count() == 1:
        return flags
    gathered = multihost_utils.process_allgather(np.array(flags))
    return tuple(bool(flag) for flag in np.any(gathered, axis=0))


@contextmanager
def all_or_none() -> Iterator[None]:
    """What every process does inside, all have done or none: a `UserError` in one of them is raised in each.

    In those that have done it, as `FailedElsewhere`.
    """
    refusal = None
    try:
        yield
    except UserError as error:
        refusal = error
    if any_process(refusal is not None)[0]:
        raise refusal or FailedElsewhere(
            "another process could not do its part, and says why; mend that and start all again"
        )


def wait_for_all(what: str) -> None:
    """Until every process has come here; `what` names the place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
