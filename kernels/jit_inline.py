"""Functions of arrays that are one compiled program also where they are called outside jit."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax

# Newer versions of JAX inline at lowering unless told when, and kernels are to see operations.
INLINE: Any = getattr(getattr(jax, "Inline", None), "JAX_EARLY", True)

Function = TypeVar("Function", bound=Callable[..., Any])


def jit_inline(*static: int) -> Callable[[Function], Function]:
    """Compiles a function as one program for each of its `static` arguments, given by position and hashable.

    Called by itself it is compiled in a fraction of the time that its operations take one by one; inside jit, grad,
    vmap or a kernel it is inlined, as if it were not decorated. Not for what asks `capscale.kernels.dispatch`: its
    answers are not among the arguments.

    Example: `@jit_inline(0)` above `def project(self, x, ctx)`.
    """

    def decorate(function: Function) -> Function:
        return cast(Function, jax.jit(function, static_argnums=static, inline=INLINE))

    return decorate
