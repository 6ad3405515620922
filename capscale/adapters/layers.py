"""Facts of layers that several hosts share: what is known of one, and what is refused of it."""

from collections.abc import Callable
from functools import cache
from itertools import combinations
from typing import Any, NamedTuple

from jax import Array, lax

from capscale.contraction import Contraction, Owner, activations, held, refuse
from capscale.errors import UserError
from capscale.representation import Representation


class Layer(NamedTuple):
    """The weights of a layer.

    Attributes:
      contraction: axes that its product sums over; None where it is not known.
      why: without one, what its weights are; it completes "kernel is ...".
      shape: of the weights of one layer, ahead of any stacking.
      problem: what keeps its product from being replaced; empty for nothing.
      conv: whether it is a convolution.
      product: False for a table that is looked up.
    """

    contraction: Contraction | None
    why: str = ""
    shape: tuple[int, ...] = ()
    problem: str = ""
    conv: bool = False
    product: bool = True


def precise(module: Any) -> str:
    """Reason why the product of a Flax layer cannot be replaced; empty for none."""
    for name in ("precision", "preferred_element_type"):
        if (value := getattr(module, name, None)) is not None:
            return f"its {name}={value!r} cannot be followed: products are of its dtype, summed in float32; drop it"
    return ""


def refuse_layer(layer: Layer, path: str, representation: Representation) -> None:
    """Raises `UserError` for what the layer cannot hold."""
    if layer.problem:
        raise UserError(f"{path}: {layer.problem}")
    assert layer.contraction is not None
    batched = bool(layer.contraction.axes(len(layer.shape)).stacked)
    refuse(path, representation, batched)
    window = layer.shape[:-2]
    if layer.conv and not representation.activations.is_dense and any(size > 1 for size in window):
        raise UserError(
            f"{path}: activations of a convolution with a window of {window} are seen by several products each, along "
            "other axes than its weights; compress its weights alone, Representation(weights=...)"
        )


@cache
def keep_masters(promote: Callable[..., Any]) -> Callable[..., Any]:
    """A Flax layer's `promote_dtype` that leaves the kernel alone: masters are projected as they are, and cast then.

    Linen passes inputs, kernel and bias one by one, NNX in a tuple.
    """

    def promoted(*arrays: Any, dtype: Any = None, **options: Any) -> Any:
        found = promote(*arrays, dtype=dtype, **options)
        _, kernel, _ = arrays if len(arrays) == 3 else arrays[0]
        return found[0], kernel, found[2]

    return promoted


def convolution(x: Array, w: Array, *args: Any, representation: Representation, owner: Owner, **options: Any) -> Array:
    """`jax.lax.conv_general_dilated` of channels-last `x` and kernels (window..., in, out), as Flax calls it.

    Weights are projected along window and inputs together, which is what one output sums over; activations, where the
    window is a single place, along their channels.
    """
    contraction = Contraction(tuple(range(w.ndim - 1)))
    matrix = held(contraction.matrix(w), representation, owner)
    if not representation.activations.is_dense and options.get("feature_group_count", 1) != 1:
        raise UserError(f"{owner.path}: activations of a grouped convolution are not compressed; compress its weights")
    x = activations(x, representation, owner)
    return lax.conv_general_dilated(x, contraction.restored(matrix, w.shape).astype(x.dtype), *args, **options)


def of_stack(contraction: Contraction, part: tuple[int, ...], whole: tuple[int, ...]) -> Contraction:
    """`contraction` of one layer's kernel, as axes of the array that `nn.scan` or `nn.vmap` made of all of them."""
    extra = len(whole) - len(part)
    added = next(
        axes
        for axes in combinations(range(len(whole)), extra)
        if tuple(size for axis, size in enumerate(whole) if axis not in axes) == part
    )
    kept = [axis for axis in range(len(whole)) if axis not in added]
    inputs, _, stacked = contraction.axes(len(part))
    return Contraction(tuple(kept[axis] for axis in inputs), (*added, *(kept[axis] for axis in stacked)))
