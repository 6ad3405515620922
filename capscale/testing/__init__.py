"""Tests for formats of your own: the contracts that every format of the catalog is held to, and their kernels'.

from capscale.testing import check_format, check_kernels

check_format(Mine())     # jit = eager, vmap = loop, 2 devices = 1, unpack(pack(x)) = project(x), GMSE as measured
check_kernels(Mine())    # interpreted, compiled for four TPU generations, lowered for Hopper: bit for bit
"""

from collections.abc import Callable
from typing import Literal

from capscale.estimators import Estimator
from capscale.formats.base import Format
from capscale.kernel_checks import check_kernels

from .contracts import CHECKS, ONE_PROGRAM
from .subject import Subject, block_rows, exempt, gaussian, same_bits

__all__ = [
    "CHECKS",
    "ONE_PROGRAM",
    "Subject",
    "block_rows",
    "check_format",
    "check_kernels",
    "exempt",
    "gaussian",
    "same_bits",
]


def check_format(
    format: Format,
    estimator: Estimator | None = None,
    *,
    symmetric: bool = True,
    repeats: Literal["no", "closely", "exactly"] = "no",
    tell: Callable[[str, str], None] = lambda name, outcome: None,
) -> dict[str, str]:
    """Holds a format to every contract of `CHECKS`; some seconds, most of them compiling.

    Args:
      format: the format.
      estimator: its backward mask; the default one of its kind if not given.
      symmetric: whether project(-x) == -project(x) wherever x is not 0.
      repeats: whether project(project(x)) == project(x).
      tell: called with the name and the outcome of each contract.

    Returns:
      Outcomes by name: "held", or why the contract says nothing of this format, or of this machine.

    Raises:
      AssertionError: a contract is broken; the message begins with its name.

    Example: `check_format(Scalar(Levels((-3.0, -1.0, 1.0, 3.0))))`.
    """
    subject = Subject(format, estimator, symmetric, repeats)
    outcomes: dict[str, str] = {}
    for check in CHECKS:
        name = check.__name__.removeprefix("check_")
        try:
            check(subject)
        except AssertionError as error:
            raise AssertionError(f"{name}: {check.__doc__} {error}") from error
        outcomes[name] = exempt(check, subject) or "held"
        tell(name, outcomes[name])
    return outcomes
