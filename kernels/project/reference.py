"""The projection of rows in plain jnp: what every kernel is compared with."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from ..eager import one_program
from ..hadamard import rotate
from ..rms import largest_magnitude, root_mean_square
from ..rounding import rounded_to
from .codes import Encoded, code_bits, code_of, coded_grid, encoded_spec
from .mask import pack_mask, unpack_mask
from .planes import pack
from .scales import normalised
from .spec import Codebook, Measures, Pattern, Spec, nearest_word, on_grid, radius_of, rounded


class Projected(NamedTuple):
    """What a projection returns."""

    value_RK: Array
    """In the dtype of x."""
    mask_RW: Array | None
    """Where the gradient passes, as `mask.pack_mask` packs it; None: everywhere."""


@one_program(0)
def project(spec: Spec, x_RK: Array, given_R1: Array | None = None) -> Projected:
    """Nearest representable rows, and the mask of their gradient. `given_R1`: what the scale rule is given."""
    spec.check(x_RK.shape[-1])
    rows = rotate(x_RK, spec.rotation) if spec.rotation else x_RK
    full = rows.astype(jnp.float32)
    keep, threshold = survivors(spec.pattern, full) if spec.pattern else (None, None)
    if spec.codebook is not None:
        value, measures = on_codebook(spec.codebook, full, scale_RK(spec, full, given_R1))
    elif spec.grid is None:
        assert keep is not None
        value, measures = jnp.where(keep, full, 0.0), Measures(keep=keep)
    else:
        measured = jnp.where(keep, full, 0.0) if keep is not None and spec.measured_on_survivors else full
        value, measures = on_grid(spec, full, scale_RK(spec, measured, given_R1), keep)
    rms = jnp.broadcast_to(root_mean_square(full), full.shape) if spec.reads_rms else None
    passes = spec.mask(full, measures._replace(threshold=threshold, rms=rms)) if spec.mask else None
    value = rounded_to(value, x_RK.dtype)
    return Projected(
        rotate(value, spec.rotation) if spec.rotation and spec.back else value,
        None if passes is None else pack_mask(jnp.broadcast_to(passes, full.shape)),
    )


@one_program(0)
def encode(spec: Spec, x_RK: Array, given_R1: Array | None = None) -> Encoded:
    """Codes and scales of the nearest representable rows. Raises ValueError where the spec has no codes."""
    spec.check(x_RK.shape[-1])
    grid, spec = coded_grid(spec), encoded_spec(spec)
    full = (rotate(x_RK, spec.rotation) if spec.rotation else x_RK).astype(jnp.float32)
    scale = scale_RK(spec, full, given_R1)
    return Encoded(pack(code_of(grid, full, scale), code_bits(grid)), scale[:, :: spec.group or max(full.shape[1], 1)])


@one_program(0)
def backward(spec: Spec, mask_RW: Array | None, g_RK: Array) -> Array:
    """Gradient with respect to the rows, from that with respect to their value."""
    if spec.rotation and spec.back:
        g_RK = rotate(g_RK, spec.rotation)
    if mask_RW is not None:
        g_RK = jnp.where(unpack_mask(mask_RW, g_RK.shape[-1]), g_RK, jnp.zeros_like(g_RK))
    return rotate(g_RK, spec.rotation) if spec.rotation else g_RK


def scale_RK(spec: Spec, measured_RK: Array, given_R1: Array | None) -> Array:
    """The scale of every value."""
    assert spec.scale is not None
    size = spec.group or measured_RK.shape[-1]
    groups = measured_RK.reshape(measured_RK.shape[0], measured_RK.shape[1] // max(size, 1), size)
    match spec.scale.statistic:
        case "rms":
            share = None if spec.share is None else jnp.full((*groups.shape[:-1], 1), spec.share, jnp.float32)
            statistic = root_mean_square(groups, share=share)
        case "largest":
            statistic = largest_magnitude(groups)
        case "none":
            statistic = None
    scale = spec.scale(statistic, None if given_R1 is None else given_R1[..., None])
    return jnp.broadcast_to(scale, groups.shape).reshape(measured_RK.shape)


def on_codebook(codebook: Codebook, x_RK: Array, scale_RK: Array) -> tuple[Array, Measures]:
    """The nearest codeword of every vector, scaled; `radius` that of the vector."""
    normal, size = normalised(x_RK, scale_RK), codebook.dimension
    vectors = normal.reshape(normal.shape[0], normal.shape[1] // size, size)
    vector, table = [vectors[..., i] for i in range(size)], codebook.table()
    chosen = jnp.stack(nearest_word(len(codebook.words), lambda i: list(table[i]), vector), axis=-1)
    value = jnp.where(jnp.isfinite(normal), rounded(chosen.reshape(x_RK.shape) * scale_RK), normal)
    radius = jnp.broadcast_to(radius_of(codebook, vector)[..., None], vectors.shape)
    return value, Measures(radius=radius.reshape(x_RK.shape))


def survivors(pattern: Pattern, x_RK: Array) -> tuple[Array, Array]:
    """Which entries stay, and the smallest kept magnitude of each run."""
    kept, of = pattern.n // pattern.unit, pattern.m // pattern.unit
    units = x_RK.reshape(x_RK.shape[0], x_RK.shape[1] // pattern.m, of, pattern.unit)
    size = jnp.abs(units[..., 0]) if pattern.unit == 1 else root_mean_square(units)[..., 0]
    here = jnp.arange(of).reshape(1, 1, of)
    rank = jnp.zeros(size.shape, jnp.int32)
    for other in range(of):
        rival = jnp.broadcast_to(size[..., other : other + 1], size.shape)
        rank = rank + ((rival > size) | ((rival == size) & (here > other))).astype(jnp.int32)
    threshold = jnp.sum(jnp.where(rank == kept - 1, size, 0.0), axis=-1, keepdims=True)
    keep, threshold = (jnp.broadcast_to(y[..., None], units.shape) for y in (rank < kept, threshold))
    return keep.reshape(x_RK.shape), threshold.reshape(x_RK.shape)
