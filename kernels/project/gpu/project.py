"""The projection of rows on Hopper (Mosaic GPU).

    x (R, K)  --reshape-->  tiles, (R K / 128, 128), each a row of the kernel

                     128 values
                 +----------------+
    64 tiles     |                |   a block: one warpgroup, in shared memory by TMA, as wgmma reads it
                 +----------------+
                     |  x +-1 matrix or a permutation, on the tensor cores, where values are rotated or exchanged
                 +----+----+--   --+
                 |    |    |  ...  |   strips (64, columns) in registers: neighbours in the same place of each
                 +----+----+--   --+

Values pass through registers once. What several tiles of a row share is measured before (see `sums`). The Hadamard
rotation is a product with a matrix of signs, and so is the exchange of neighbours that N:M sparsity, codebooks and
groups below 8 values need (see `tiles`). Where values share a scale in groups of 16, 32, 64 or 96 and nothing is
rotated or exchanged, every group is a tile.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from ..mask import pack_mask, unpack_mask
from ..reference import Projected
from ..spec import Spec
from . import strips
from . import sums as gpu_sums
from .tiles import ROWS, TILE, Interleave, Tiles, call, interleave_of

DTYPES = (jnp.float32, jnp.bfloat16)


def unsupported(spec: Spec, shape: tuple[int, ...], dtype: DTypeLike) -> str | None:
    """Why this kernel cannot project rows of this shape, or None where it can."""
    if dtype not in DTYPES:
        return f"it takes float32 and bfloat16, not {jnp.dtype(dtype)}"
    try:
        spec.check(shape[1])
    except ValueError as error:
        return str(error)
    interleave = interleave_of(spec, shape[1])
    if isinstance(interleave, str):
        return interleave
    if spec.scale is not None and spec.scale.statistic == "extremes" and interleave.shared > interleave.tile:
        return f"both ends of {interleave.shared} values, which are several tiles of {interleave.tile}, are left to XLA"
    return None


def project(spec: Spec, x_RK: Array, given_R1: Array | None = None, *, interpret: bool = False) -> Projected:
    """Projection of rows as `reference.project`, on Hopper."""
    rows, width = x_RK.shape
    if not rows:
        return Projected(x_RK, pack_mask(x_RK != 0) if spec.mask else None)
    interleave = whole_interleave(spec, width)
    x, operands = operands_of(spec, interleave, x_RK, given_R1, interpret=interpret)
    leaves, structure = jax.tree.flatten(operands)
    out_type = [jax.ShapeDtypeStruct(operands.x.shape, x.dtype)]
    if spec.mask is not None:
        out_type.append(jax.ShapeDtypeStruct(operands.x.shape, jnp.int8))
    body = partial(_forward, spec, width, structure)
    out = call(body, leaves, tuple(out_type), interleave=interleave, rotation=spec.rotation, interpret=interpret)
    value = out[0][: x.shape[0]].reshape(x_RK.shape)
    mask = pack_mask(out[1][: x.shape[0]].reshape(x_RK.shape) != 0) if spec.mask is not None else None
    return Projected(value, mask)


def backward(spec: Spec, mask_RW: Array | None, g_RK: Array, *, interpret: bool = False) -> Array:
    """`reference.backward` on Hopper: rotations on the tensor cores, the mask by XLA where nothing is rotated."""
    if mask_RW is None and spec.rotation is None:
        return g_RK
    passes = None if mask_RW is None else unpack_mask(mask_RW, g_RK.shape[1])
    if spec.rotation is None or not g_RK.shape[0]:
        assert passes is not None
        return jnp.where(passes, g_RK, jnp.zeros_like(g_RK))
    interleave = Interleave(TILE, TILE)
    given = [g_RK, *([] if passes is None else [passes.astype(jnp.int8)])]
    operands = [_padded(x.reshape(-1, TILE)) for x in given]
    out_type = (jax.ShapeDtypeStruct(operands[0].shape, g_RK.dtype),)
    out = call(
        partial(_backward, spec), operands, out_type, interleave=interleave, rotation=spec.rotation, interpret=interpret
    )[0]
    return out[: g_RK.size // TILE].reshape(g_RK.shape)


def whole_interleave(spec: Spec, width: int) -> Interleave:
    """`interleave_of`. Raises ValueError where there is none."""
    interleave = interleave_of(spec, width)
    if isinstance(interleave, str):
        raise ValueError(f"{spec} on rows of {width} values: {interleave}")
    return interleave


class Operands(NamedTuple):
    """Inputs of a kernel: tiles, and numbers of each of them. The same of references inside of it."""

    x: Any
    given: Any = None
    shared: Any = None
    """`Sums` of the values that share a scale, where they are several tiles and the scale reads any."""
    row: Any = None
    """`Sums` of the row, where the mask reads its root mean square."""
    words: Any = None
    """The codebook's table."""


def operands_of(
    spec: Spec, interleave: Interleave, x_RK: Array, given_R1: Array | None, *, interpret: bool
) -> tuple[Array, Operands]:
    """Rows as they are cut, and the operands of a kernel."""
    width = x_RK.shape[1]
    x = x_RK.reshape(-1, interleave.tile)
    padded, given, shared, row = _padded(x), None, None, None
    if given_R1 is not None:
        given = _padded(jnp.repeat(given_R1.astype(jnp.float32), width // interleave.tile, axis=0))[:, 0]
    measure = partial(gpu_sums.measure, spec, interleave, padded, x.shape[0], interpret=interpret)
    if spec.scale is not None and spec.scale.statistic != "none" and interleave.shared > interleave.tile:
        shared = measure(
            size=interleave.shared, survivors=spec.measured_on_survivors, squares=spec.scale.statistic == "rms"
        )
    if spec.reads_rms:
        row = measure(size=width, survivors=False, squares=True)
    words = None if spec.codebook is None else spec.codebook.table().reshape(-1)
    return x, Operands(padded, given, shared, row, words)


def _padded(x: Array) -> Array:
    """Rows up to a multiple of a block."""
    return jnp.pad(x, ((0, -x.shape[0] % ROWS), (0, 0)))


class Source(NamedTuple):
    """Inputs of a kernel: a tile of each of its rows, cut into strips, and their scales."""

    spec: Spec
    tiles: Tiles
    operands: Operands
    """Numbers of the tiles are read, `x` and `words` are not."""

    @classmethod
    def of(cls, spec: Spec, tiles: Tiles, operands: Operands) -> "Source":
        """Reads what is a number of every tile."""
        refs, structure = jax.tree.flatten((operands.given, operands.shared, operands.row))
        given, shared, row = jax.tree.unflatten(structure, tiles.columns(refs))
        return cls(spec, tiles, operands._replace(given=given, shared=shared, row=row))

    def parts(self) -> list[list[Array]]:
        """Strips of the tile, part by part."""
        return self.tiles.interleave.strips(
            self.tiles.interleaved(self.tiles.load(self.operands.x).astype(jnp.float32))
        )

    def rms(self, width: int) -> Array | None:
        """The root mean square of every row of `width` values, where the mask reads it."""
        row = self.operands.row
        return None if row is None else row.root_mean_square(width)

    def of_row(self, parts: list[list[Array]]) -> Any:
        """The scale of every tile, where its values share one."""
        interleave = self.tiles.interleave
        if self.spec.scale is None or interleave.group is not None:
            return None
        if interleave.shared > interleave.tile:
            return strips.scale_of(self.spec, self.operands.shared, interleave.shared, self.operands.given)
        read = [x for part in parts for x in strips.measured(self.spec, part)]
        return strips.measure(self.spec, read, shape=(ROWS,), size=interleave.shared, given=self.operands.given)

    def of_groups(self, part: list[Array]) -> list[Any]:
        """The scale of the group that a part of a tile is; where its strips are narrower, of each run of them."""
        interleave = self.tiles.interleave
        assert interleave.group is not None
        measure = partial(strips.measure, self.spec, size=interleave.group, given=self.operands.given)
        if not interleave.narrow:
            return [measure(part, shape=(ROWS,))]
        runs = [part[first : first + interleave.group] for first in range(0, interleave.factor, interleave.group)]
        return [measure(run, shape=part[0].shape) for run in runs]

    def spread(self, scales: list[Any], part: list[Array]) -> list[Any]:
        """The scale of every strip of a part of a tile, out of that of its row, or of its groups."""

        def whole(x: Array) -> Array:
            return x if x.ndim > 1 else lax.broadcast_in_dim(x, part[0].shape, (0,))

        full = [jax.tree.map(whole, scale) for scale in scales]
        return [scale for scale in full for _ in range(len(part) // len(full))]


def _forward(spec: Spec, width: int, structure: Any, tiles: Tiles, *refs: Any) -> None:
    operands = structure.unflatten(refs[: structure.num_leaves])
    value_ref, *mask_ref = refs[structure.num_leaves :]
    source = Source.of(spec, tiles, operands)
    parts, rms = source.parts(), source.rms(width)
    of_row = source.of_row(parts)

    def word(i: Any) -> list[Any]:
        assert spec.codebook is not None
        row = spec.codebook.dimension + 1
        return [operands.words[i * row + j] for j in range(row)]

    def scales(part: list[Array]) -> list[Any]:
        return source.spread(source.of_groups(part) if of_row is None else [of_row], part)

    values, flags = [], []
    for part in parts:  # what waits for the other parts is as narrow as it can be: two bfloat16 are one register
        found, passes = strips.project(spec, part, scales, word, rms)
        values.append([x.astype(value_ref.dtype) for x in found])
        if mask_ref:
            flags.append([_flags(of, tiles.interleave.strip) for of in passes])
    for ref in mask_ref:
        tiles.store(ref, tiles.gathered_bytes(tiles.joined(flags)).astype(jnp.int8))
    value = tiles.joined(values)
    value = tiles.rotated_back(value) if spec.back else tiles.gathered(value)
    tiles.store(value_ref, value.astype(value_ref.dtype))


def _flags(passes: Array | None, columns: int) -> Array:
    """1 where the gradient passes, else 0; None: everywhere."""
    ones = jnp.ones((ROWS, columns), jnp.float32)
    return (ones if passes is None else jnp.where(passes, ones, 0.0)).astype(jnp.bfloat16)


def _backward(spec: Spec, tiles: Tiles, g_ref: Any, *refs: Any) -> None:
    *mask, out_ref = refs
    g = tiles.load(g_ref).astype(jnp.float32)
    if spec.back:
        g = tiles.rotate(g)
    for mask_ref in mask:
        g = jnp.where(tiles.load(mask_ref).astype(jnp.int32) > 0, g, 0.0)
    tiles.store(out_ref, tiles.rotate(g).astype(out_ref.dtype))
