"""A program whose kernels do not compile, run without them: the choice of a backend reads shapes, not compilers."""

import logging
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import jax

from . import dispatch

Given = ParamSpec("Given")
Result = TypeVar("Result")

logger = logging.getLogger("capscale.kernels")


class WithFallback(Generic[Given, Result]):
    """A jitted `program`, run again without kernels where "auto" gave it some and it failed; from then on always.

    It fails as before where there were no kernels to leave out, where it has begun already (an array that it was to
    take over is gone), where it fails without them as well, and under "require". The reason is logged as a warning,
    once; `dispatch.decisions` then tells of the reference.

    Example: `WithFallback(jax.jit(lambda x: x + 1))(1)`.
    """

    def __init__(self, program: Callable[Given, Result]):
        self.program, self.without = program, False

    def __call__(self, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        """Result of the program, with kernels or without."""
        if self.without:
            with dispatch.force("reference"):
                return self.program(*args, **kwargs)
        try:
            return self.program(*args, **kwargs)
        except Exception as error:
            kernels = dispatch.forget_kernels() if dispatch.mode() == "auto" and _whole((args, kwargs)) else ()
            if not kernels:
                raise
            failed = error
        with dispatch.force("reference"):
            try:
                result = self.program(*args, **kwargs)
            except Exception:
                raise failed from None
        self.without = True
        reason = f"{type(failed).__name__}: {failed}".splitlines()[0]
        logger.warning("XLA alone in place of the kernels (%s), as they failed: %s", ", ".join(kernels), reason)
        return result


def _whole(tree: Any) -> bool:
    """Whether every array can still be read."""
    return not any(leaf.is_deleted() for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array))
