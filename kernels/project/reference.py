"""The projection of rows in plain jnp: what every kernel is compared with."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..hadamard import rotate
from ..jit_inline import jit_inline
from ..matmul.codes import Multiplicand
from ..rms import largest_magnitude, root_mean_square
from .affine import extremes
from .bitplanes import pack
from .codes import Encoded, code_bits, code_of, coded_grid, encoded_spec
from .mask import pack_mask, unpack_mask
from .projection import Projection, in_dtype, on_grid, rounded
from .scales import normalised
from .spec import Codebook, Pattern, Spec, closeness, exact_halves, radius_of

AT_ONCE = 32  # codewords in one pass over the vectors, between which the best stays in registers


class Projected(NamedTuple):
    """Result of a projection of rows."""

    value_RK: Array
    """In the dtype of x."""
    mask_RW: Array | None
    """Where the gradient passes, as `mask.pack_mask` packs it; None: everywhere."""
    codes: Multiplicand | None = None
    """The same rows in codes, where they were asked for; of rows whose scale is NaN they mean nothing."""


@jit_inline(0)
def project(spec: Spec, x_RK: Array, given_R1: Array | None = None) -> Projected:
    """Nearest representable rows, and the mask of their gradient. `given_R1`: what the scale rule is given."""
    spec.check(x_RK.shape[-1])
    rows = rotate(x_RK, spec.rotation) if spec.rotation else x_RK
    full = rows.astype(jnp.float32)
    keep, threshold = survivors(spec.pattern, full) if spec.pattern else (None, None)
    if spec.codebook is not None:
        projection = on_codebook(spec.codebook, full, scale_RK(spec, full, given_R1))
    elif spec.grid is None:
        assert keep is not None
        projection = Projection(jnp.where(keep, full, 0.0), keep=keep)
    else:
        measured = jnp.where(keep, full, 0.0) if keep is not None and spec.measured_on_survivors else full
        projection = on_grid(spec.grid, full, scale_RK(spec, measured, given_R1), keep)
    rms = jnp.broadcast_to(root_mean_square(full), full.shape) if spec.reads_rms else None
    passes = spec.mask(full, projection._replace(threshold=threshold, rms=rms)) if spec.mask else None
    if passes is not None and spec.grid is not None:
        passes = _beside_values(passes)
    value = in_dtype(projection.value, x_RK.dtype)
    return Projected(
        rotate(value, spec.rotation) if spec.rotation and spec.back else value,
        None if passes is None else pack_mask(jnp.broadcast_to(passes, full.shape)),
    )


@jit_inline(0)
def encode(spec: Spec, x_RK: Array, given_R1: Array | None = None) -> Encoded:
    """Codes and scales of the nearest representable rows. Raises ValueError where the spec has no codes."""
    spec.check(x_RK.shape[-1])
    grid, spec = coded_grid(spec), encoded_spec(spec)
    full = (rotate(x_RK, spec.rotation) if spec.rotation else x_RK).astype(jnp.float32)
    scale = scale_RK(spec, full, given_R1)
    return Encoded(pack(code_of(grid, full, scale), code_bits(grid)), scale[:, :: spec.group or max(full.shape[1], 1)])


@jit_inline(0)
def backward(spec: Spec, mask_RW: Array | None, g_RK: Array) -> Array:
    """Gradient with respect to the rows, from that with respect to their value."""
    if spec.rotation and spec.back:
        g_RK = rotate(g_RK, spec.rotation)
    if mask_RW is not None:
        g_RK = jnp.where(unpack_mask(mask_RW, g_RK.shape[-1]), g_RK, jnp.zeros_like(g_RK))
    return rotate(g_RK, spec.rotation) if spec.rotation else g_RK


def _beside_values(passes: Array) -> Array:
    """The mask, which XLA on a GPU writes as it writes the values, and packs afterwards.

    Left to itself it reads the rows again to pack, and where both find the level on the way it writes signs for that as
    well, as many bytes as these. A mask of a pattern or a codebook alone has little in common with the values.
    """
    return lax.platform_dependent(passes, cuda=lax.optimization_barrier, default=lambda passes: passes)


def scale_RK(spec: Spec, measured_RK: Array, given_R1: Array | None) -> Any:
    """The scale of every value, and its offset where the rule gives one."""
    assert spec.scale is not None
    size = spec.group or measured_RK.shape[-1]
    groups = measured_RK.reshape(measured_RK.shape[0], measured_RK.shape[1] // max(size, 1), size)
    match spec.scale.statistic:
        case "rms":
            share = None if spec.share is None else jnp.full((*groups.shape[:-1], 1), spec.share, jnp.float32)
            statistic = root_mean_square(groups, share=share)
        case "largest":
            statistic = largest_magnitude(groups)
        case "extremes":
            statistic = extremes(groups)
        case "none":
            statistic = None
    scale = spec.scale(statistic, None if given_R1 is None else given_R1[..., None])
    return jax.tree.map(lambda of: jnp.broadcast_to(of, groups.shape).reshape(measured_RK.shape), scale)


def on_codebook(codebook: Codebook, x: Array, scale: Array) -> Projection:
    """The nearest codeword of every vector of the last axis, scaled; `relative_magnitude` that of the vector."""
    normal, index = code_of_vectors(codebook, x, scale)
    radius = jnp.broadcast_to(
        radius_of(codebook, [normal[..., i] for i in range(codebook.dimension)])[..., None], normal.shape
    )
    chosen = codebook.table()[index][..., :-1]
    value = jnp.where(jnp.isfinite(normal), rounded(chosen * scale.reshape(normal.shape)), normal)
    return Projection(value.reshape(x.shape), relative_magnitude=radius.reshape(x.shape))


def code_of_vectors(codebook: Codebook, x: Array, scale: Array) -> tuple[Array, Array]:
    """Vectors of the last axis in units of their scale, (..., vectors, dimension), and the codeword of each, int32.

    The nearest, the first of equals; as `nearest_word` chooses, one codeword after the other.
    """
    normal = normalised(x, scale).reshape(*x.shape[:-1], x.shape[-1] // codebook.dimension, codebook.dimension)
    halves = [exact_halves(normal[..., i]) for i in range(codebook.dimension)]

    def better(best: tuple[Array, Array], word: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        score, index = best
        row, number = word
        total = closeness(halves, [row[i] for i in range(codebook.dimension)], row[codebook.dimension])
        win = total > score
        return (jnp.where(win, total, score), jnp.where(win, number, index)), None

    lead = jnp.full_like(normal[..., 0], -jnp.inf)
    start = (
        lead,
        jnp.zeros_like(lead, jnp.int32),
    )  # like `lead`, which varies over the devices of a shard_map as x does
    table = codebook.table()
    numbers = jnp.arange(len(table), dtype=jnp.int32)
    (_, index), _ = lax.scan(better, start, (table, numbers), unroll=min(AT_ONCE, len(table)))
    return normal, index


def survivors(pattern: Pattern, x: Array) -> tuple[Array, Array]:
    """Which entries of the last axis stay, and the smallest kept magnitude of each run.

    By counting who stands before whom: m^2 comparisons, no sort.
    """
    kept, of = pattern.n // pattern.unit, pattern.m // pattern.unit
    units = x.reshape(*x.shape[:-1], x.shape[-1] // pattern.m, of, pattern.unit)
    size = jnp.abs(units[..., 0]) if pattern.unit == 1 else root_mean_square(units)[..., 0]
    here = jnp.arange(of).reshape((1,) * (size.ndim - 1) + (of,))
    rank = jnp.zeros(size.shape, jnp.int32)
    for other in range(of):
        rival = jnp.broadcast_to(size[..., other : other + 1], size.shape)
        rank = rank + ((rival > size) | ((rival == size) & (here > other))).astype(jnp.int32)
    threshold = jnp.sum(jnp.where(rank == kept - 1, size, 0.0), axis=-1, keepdims=True)
    keep, threshold = (jnp.broadcast_to(y[..., None], units.shape) for y in (rank < kept, threshold))
    return keep.reshape(x.shape), threshold.reshape(x.shape)
