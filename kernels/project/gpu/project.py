"""The projection of rows on Hopper (Mosaic GPU).

    x (R, K)  --reshape-->  tiles, (R K / 128, 128), each a row of the kernel

                     128 values
                 +----------------+   a block holds whole rows in shared memory, and works on 64 tiles at once
    64 tiles     |                |     --> rotated by a product with the +-1 matrix, columns interleaved (`tiles`)
                 |                |     --> measured, where several tiles share a scale (`measures`)
                 +----+----+--   --+
                 |    |    |  ...  |  strips (64, columns) in registers
                 +----+----+--   --+    --> values in place of the rows, and a flag a value where the gradient passes
                                        --> flags of a row's tiles to bits of bytes, by a product (`cut.Planes`)
                                        --> values rotated back, or their columns

Rows are read once, and values and bits of the mask are all that is written.
"""

from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

from ...hopper import ROWS, swizzled
from ..mask import pack_mask, unpack_mask
from ..reference import Projected
from ..spec import Spec
from . import strips
from .cut import TILE, Block, Interleave, Planes, blocks_of, interleave_of
from .launch import BLOCK_SHARED, call
from .measures import Measure
from .rows import Operand, Rows, factor_memory
from .tiles import Tiles

DTYPES = (jnp.float32, jnp.bfloat16)
MATRIX = 2 * TILE * TILE  # bytes of shared memory of a product's second operand
OVERHEAD = 32 * 1024  # the same beside tiles and matrices: flags of one tile of each row, bits, columns


def unsupported(spec: Spec, shape: tuple[int, ...], dtype: DTypeLike, beside: int = 0) -> str | None:
    """Why this kernel cannot project rows of this shape, or None where it can; `beside`: see `block_of`."""
    if dtype not in DTYPES:
        return f"it takes float32 and bfloat16, not {jnp.dtype(dtype)}"
    try:
        spec.check(shape[1])
    except ValueError as error:
        return str(error)
    interleave = interleave_of(spec, shape[1])
    if isinstance(interleave, str):
        return interleave
    block = block_of(spec, interleave, shape[1], jnp.dtype(dtype).itemsize + beside)
    return block if isinstance(block, str) else None


def block_of(spec: Spec, interleave: Interleave, width: int, value_bytes: int) -> Block | str:
    """The best block that fits into shared memory twice, else once, or why none does.

    `value_bytes`: of shared memory that a value takes, its own and what is written beside it.
    """
    fixed = OVERHEAD + MATRIX * ((spec.rotation is not None) + interleave.interleaved)
    *blocks, last = blocks_of(width, interleave.tile)
    for budget, among in ((BLOCK_SHARED // 2, blocks), (BLOCK_SHARED, [*blocks, last])):
        for block in among:
            if fixed + block.groups * ROWS * interleave.tile * value_bytes <= budget:
                return block
    return f"whole rows of {width} values of {value_bytes} bytes do not fit into a block's shared memory"


def project(spec: Spec, x_RK: Array, given_R1: Array | None = None, *, interpret: bool = False) -> Projected:
    """Projection of rows as `reference.project`, on Hopper."""
    count, width = x_RK.shape
    if not count:
        return Projected(x_RK, pack_mask(x_RK != 0) if spec.mask else None)
    source = Source.of(spec, width, x_RK.dtype.itemsize)
    rows = Rows.of(count, source.block)
    planes = None if spec.mask is None else Planes(source.block, 1)
    outputs = [Operand("tiles", x_RK.dtype)]
    if planes is not None:
        outputs.append(Operand("bytes", jnp.dtype(jnp.int8), planes))
    out = call(
        partial(_forward, source, planes),
        source.operands(rows, x_RK, given_R1),
        outputs,
        rows=rows,
        interleave=source.interleave,
        rotation=spec.rotation,
        gathers=not spec.back or planes is not None,
        scratch=source.memory() | ({} if planes is None else factor_memory(source.block.tile, source.interleave)),
        interpret=interpret,
    )
    return Projected(
        rows.whole(out[0], count),
        None if planes is None else rows.of_bytes(out[1], planes, count),
    )


def backward(spec: Spec, mask_RW: Array | None, g_RK: Array, *, interpret: bool = False) -> Array:
    """`reference.backward` on Hopper: rotations on the tensor cores, the mask by XLA where nothing is rotated."""
    if mask_RW is None and spec.rotation is None:
        return g_RK
    count, width = g_RK.shape
    if spec.rotation is None or not count:
        assert mask_RW is not None
        return jnp.where(unpack_mask(mask_RW, width), g_RK, jnp.zeros_like(g_RK))
    interleave = Interleave(TILE, TILE)
    block = block_of(spec, interleave, width, g_RK.dtype.itemsize)
    assert isinstance(block, Block), block
    rows, planes = Rows.of(count, block), Planes(block, 1)
    operands, scratch = [Operand("tiles", rows.padded(g_RK))], {}
    if mask_RW is not None:
        operands.append(Operand("bytes", rows.bytes_of(mask_RW, planes), planes))
        shape = planes.chunks, ROWS, TILE
        scratch = {"bytes": plgpu.SMEM(shape, jnp.bfloat16, transforms=swizzled(TILE, 2))}
    (out,) = call(
        partial(_backward, spec, planes),
        operands,
        [Operand("tiles", g_RK.dtype)],
        rows=rows,
        interleave=interleave,
        rotation=spec.rotation,
        gathers=False,
        scratch=scratch,
        interpret=interpret,
    )
    return rows.whole(out, count)


class Source(NamedTuple):
    """How rows are read, measured and scaled in a kernel."""

    spec: Spec
    interleave: Interleave
    block: Block
    shared: Measure | None
    """Of the values that share a scale, where they are several tiles and the scale reads any."""
    row: Measure | None
    """Of the row, where the mask reads its root mean square."""

    @classmethod
    def of(cls, spec: Spec, width: int, value_bytes: int) -> "Source":
        """Of rows of `width` values; see `block_of`. Raises ValueError where there is no kernel for them."""
        interleave = whole_interleave(spec, width)
        block = block_of(spec, interleave, width, value_bytes)
        if isinstance(block, str):
            raise ValueError(f"{spec}: {block}")
        shared = row = None
        if spec.scale is not None and interleave.shared > interleave.tile:
            tiles = interleave.shared // interleave.tile
            # Rows that are filled up share with nothing that follows them.
            tiles = block.tiles if tiles == block.real else tiles
            shared = Measure("shared", spec.scale.statistic, tiles, interleave.shared)
        if spec.reads_rms:
            row = Measure("row", "rms", block.tiles, width)
        return cls(spec, interleave, block, shared, row)

    def memory(self) -> dict[str, Any]:
        """Shared memory that it needs."""
        return {name: of for m in (self.shared, self.row) if m is not None for name, of in m.memory(self.block).items()}

    def operands(self, rows: Rows, x_RK: Array, given_R1: Array | None) -> list[Operand]:
        """Rows, the given number of each and the codebook's table, as far as there are."""
        operands = [Operand("tiles", rows.padded(x_RK))]
        if given_R1 is not None:
            operands.append(Operand("column", rows.repeated(given_R1.astype(jnp.float32))))
        if self.spec.codebook is not None:
            operands.append(Operand("memory", self.spec.codebook.table().reshape(-1)))
        return operands

    def measure(self, tiles: Tiles, x: Any) -> None:
        """Turns tiles and takes the measures of several of them."""
        tiles.turn(x)

        def everything(group: Any) -> list[Array]:
            return [strip for starts in self.interleave.starts for strip in tiles.strips(x, group, starts)]

        def measured(group: Any) -> list[Array]:
            parts = (tiles.strips(x, group, starts) for starts in self.interleave.starts)
            return [strip for part in parts for strip in strips.measured(self.spec, part)]

        if self.shared is not None:
            self.shared.take(tiles, measured)
        if self.row is not None:
            self.row.take(tiles, everything)

    def of_row(self, tiles: Tiles, x: Any, group: Any, given: Any) -> Any:
        """The scale of every tile, where its values share one."""
        if self.spec.scale is None or self.interleave.group is not None:
            return None
        if self.shared is not None:
            found = self.shared.found(tiles, group)
            return strips.scale_of(self.spec, found, self.interleave.shared, given)
        parts = (tiles.strips(x, group, starts) for starts in self.interleave.starts)
        read = [strip for part in parts for strip in strips.measured(self.spec, part)]
        return strips.measure(self.spec, read, shape=(ROWS,), size=self.interleave.shared, given=given)

    def of_groups(self, part: list[Array], given: Any) -> list[Any]:
        """The scale of the group that a part of a tile is; where its strips are narrower, of each run of them."""
        interleave = self.interleave
        assert interleave.group is not None
        measure = partial(strips.measure, self.spec, size=interleave.group, given=given)
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


def whole_interleave(spec: Spec, width: int) -> Interleave:
    """`interleave_of`. Raises ValueError where there is none."""
    interleave = interleave_of(spec, width)
    if isinstance(interleave, str):
        raise ValueError(f"{spec} on rows of {width} values: {interleave}")
    return interleave


def _forward(source: Source, planes: Planes | None, tiles: Tiles, operands: list[Any], results: list[Any]) -> None:
    spec, interleave, x = source.spec, source.interleave, operands[0]
    given_ref = operands[1] if spec.scale is not None and spec.scale.given else None
    source.measure(tiles, x)

    def word(i: Any) -> list[Any]:
        assert spec.codebook is not None
        row = spec.codebook.dimension + 1
        return [operands[-1][i * row + j] for j in range(row)]

    def project(group: Any) -> None:
        given = None if given_ref is None else given_ref[group]
        of_row = source.of_row(tiles, x, group, given)
        rms = None if source.row is None else source.row.found(tiles, group).root_mean_square(source.block.width)

        def scales(part: list[Array]) -> list[Any]:
            return source.spread(source.of_groups(part, given) if of_row is None else [of_row], part)

        for starts in interleave.starts:
            values, passes = strips.project(spec, tiles.strips(x, group, starts), scales, word, rms)
            tiles.write(x, group, starts, values)
            if planes is not None:
                tiles.write_factor(starts, [_flags(of, interleave.strip) for of in passes])
        if planes is not None:
            tiles.to_bytes(group, planes, results[1])

    if planes is not None:
        tiles.clear(results[1], planes)
    tiles.each(project)
    if planes is not None:
        tiles.gather_bytes(results[1], planes)
    tiles.turn_back(x, rotated=spec.back)


def _flags(passes: Array | None, columns: int) -> Array:
    """1 where the gradient passes, else 0; None: everywhere."""
    ones = jnp.ones((ROWS, columns), jnp.float32)
    return ones if passes is None else jnp.where(passes, ones, 0.0)


def _backward(spec: Spec, planes: Planes, tiles: Tiles, operands: list[Any], results: list[Any]) -> None:
    g, *mask = operands
    for bytes_ref in mask:
        held = tiles.smem["bytes"]
        for chunk in range(planes.chunks):
            held[chunk] = (bytes_ref[chunk].astype(jnp.int32) & 0xFF).astype(jnp.float32).astype(jnp.bfloat16)
        plgpu.commit_smem()

    def back(group: Any) -> None:
        x = g[group].astype(jnp.float32)
        if spec.back:
            x = tiles.rotate(x)
        for _ in mask:
            x = jnp.where(_bits(tiles, planes, group) > 0, x, 0.0)
        results[0][group] = tiles.rotate(x).astype(g.dtype)

    tiles.each(back)


def _bits(tiles: Tiles, planes: Planes, group: Any) -> Array:
    """Bits of a group's tiles, int32, out of "bytes" in shared memory."""
    held = tiles.smem["bytes"]
    of_chunks = [
        tiles.product([planes.source(group, chunk).astype(jnp.bfloat16)], held.at[chunk])
        for chunk in range(planes.chunks)
    ]
    return lax.shift_right_logical(reduce(jnp.add, of_chunks).astype(jnp.int32), planes.shift(group)) & 1
