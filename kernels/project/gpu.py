"""The projection of rows on Hopper (Mosaic GPU).

A block of threads takes 64 rows. Their tiles of 128 values pass through registers up to three times: for the largest
magnitude, for the root mean square, and for the levels; from the second time on they come from the L2 cache. The
Hadamard rotation is a product with a matrix of signs on the tensor cores, and so is the exchange of neighbours that
N:M sparsity, codebooks and groups below 8 values need (see `gpu_tiles`). Where values share a scale in groups and
nothing is rotated or exchanged, every group is a row.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from . import gpu_strips as strips
from .gpu_tiles import ROWS, TILE, Cut, Tiles, call, cut_of
from .mask import pack_mask, unpack_mask
from .reference import Projected
from .spec import Spec

DTYPES = (jnp.float32, jnp.bfloat16)


def unsupported(spec: Spec, shape: tuple[int, ...], dtype: DTypeLike) -> str | None:
    """Why this kernel cannot project rows of this shape, or None where it can."""
    if dtype not in DTYPES:
        return f"it takes float32 and bfloat16, not {jnp.dtype(dtype)}"
    try:
        spec.check(shape[1])
    except ValueError as error:
        return str(error)
    cut = cut_of(spec, shape[1])
    return cut if isinstance(cut, str) else None


def project(spec: Spec, x_RK: Array, given_R1: Array | None = None, *, interpret: bool = False) -> Projected:
    """`reference.project` on Hopper."""
    rows, width = x_RK.shape
    if not rows:
        return Projected(x_RK, pack_mask(x_RK != 0) if spec.mask else None)
    cut = whole_cut(spec, width)
    x, operands = operands_of(spec, cut, x_RK, given_R1)
    out_type = [jax.ShapeDtypeStruct(operands[0].shape, x.dtype)]
    if spec.mask is not None:
        out_type.append(jax.ShapeDtypeStruct(operands[0].shape, jnp.int8))
    out = call(partial(_forward, spec), operands, tuple(out_type), cut=cut, rotation=spec.rotation, interpret=interpret)
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
    operands = [_padded(g_RK), *([] if passes is None else [_padded(passes.astype(jnp.int8))])]
    out_type = (jax.ShapeDtypeStruct(operands[0].shape, g_RK.dtype),)
    cut = Cut(g_RK.shape[1], TILE)
    return call(partial(_backward, spec), operands, out_type, cut=cut, rotation=spec.rotation, interpret=interpret)[0][
        : g_RK.shape[0]
    ]


def whole_cut(spec: Spec, width: int) -> Cut:
    """`cut_of`. Raises ValueError where there is none."""
    cut = cut_of(spec, width)
    if isinstance(cut, str):
        raise ValueError(f"{spec} on rows of {width} values: {cut}")
    return cut


def operands_of(spec: Spec, cut: Cut, x_RK: Array, given_R1: Array | None) -> tuple[Array, list[Array]]:
    """Rows as they are cut, and the operands of a kernel: these padded, given numbers, and the codebook's table."""
    per = x_RK.shape[1] // cut.row
    x = x_RK.reshape(x_RK.shape[0] * per, cut.row)
    operands = [_padded(x)]
    if given_R1 is not None:
        operands.append(_padded(jnp.repeat(given_R1.astype(jnp.float32), per, axis=0))[:, 0])
    if spec.codebook is not None:
        operands.append(spec.codebook.table().reshape(-1))
    return x, operands


def _padded(x: Array) -> Array:
    """Rows up to a multiple of a block."""
    return jnp.pad(x, ((0, -x.shape[0] % ROWS), (0, 0)))


class Source(NamedTuple):
    """What a kernel reads: tiles of its rows, cut into strips, and their scales."""

    spec: Spec
    tiles: Tiles
    x: Any
    given: Array | None
    first: Any = None
    """First tile of the group that is worked on, where a row has several of whole tiles."""

    @property
    def size(self) -> int:
        """Values that are worked on: a group of whole tiles, or all of a row."""
        whole = self.x.shape[1]
        return whole if self.tiles.cut.group is not None else self.spec.group or whole

    def tile(self, c: Array) -> Array:
        """Tile `c` as it lies in memory, float32."""
        return self.tiles.load(self.x, c).astype(jnp.float32)

    def parts(self, c: Array) -> list[list[Array]]:
        """Strips of tile `c`, part by part."""
        return self.tiles.cut.strips(self.tiles.dealt(self.tile(c)))

    def each(self, step: Callable[[Array, Any], Any], start: Any) -> Any:
        """See `strips.Each`."""
        first = self.first
        at = step if first is None else lambda c, carried: step(first + c, carried)
        return lax.fori_loop(0, self.size // self.tiles.cut.tile, at, start)

    def each_group(self, run: Callable[["Source"], None]) -> None:
        """`run` on every group of whole tiles; where there is one, or they are narrower, on all of a row."""
        tiles, count = self.size // self.tiles.cut.tile, self.x.shape[1] // self.size
        if count == 1:
            run(self)
        else:
            lax.fori_loop(0, count, lambda g, _: run(self._replace(first=g * tiles)), None)

    def rms(self) -> Array | None:
        """The root mean square of every row, where the mask reads it; in any order of the columns."""
        if not self.spec.reads_rms:
            return None
        width = self.x.shape[1]

        def each(step: Callable[[Any, Any], Any], start: Any) -> Any:
            return lax.fori_loop(0, width // self.tiles.cut.tile, step, start)

        return strips.row_root_mean_square(lambda c: [self.tiles.rotate(self.tile(c))], each, shape=(ROWS,), size=width)

    def of_row(self) -> Array | None:
        """The scale of every row, where its values share one."""
        if self.spec.scale is None or self.tiles.cut.group is not None:
            return None

        def read(c: Array) -> list[Array]:
            if self.spec.rotation is None and not self.spec.measured_on_survivors:
                return [self.tile(c)]  # the same in any order of the columns
            return [x for part in self.parts(c) for x in strips.measured(self.spec, part)]

        return strips.measure(self.spec, read, self.each, shape=(ROWS,), size=self.size, given=self.given)

    def of_groups(self, part: list[Array]) -> list[Array]:
        """The scale of the group that a part of a tile is; where its strips are narrower, of each run of them."""
        cut = self.tiles.cut
        assert cut.group is not None
        measure = partial(strips.measure, self.spec, each=strips.once, size=cut.group, given=self.given)
        if not cut.narrow:
            return [measure(lambda _: part, shape=(ROWS,))]
        runs = [part[first : first + cut.group] for first in range(0, cut.ways, cut.group)]
        return [measure(lambda _, run=run: run, shape=part[0].shape) for run in runs]

    def spread(self, scales: list[Array], part: list[Array]) -> list[Array]:
        """The scale of every strip of a part of a tile, out of that of its row, or of its groups."""
        full = [x if x.ndim > 1 else lax.broadcast_in_dim(x, part[0].shape, (0,)) for x in scales]
        return [scale for scale in full for _ in range(len(part) // len(full))]


def _forward(spec: Spec, tiles: Tiles, x_ref: Any, *refs: Any) -> None:
    ins = list(refs)
    mask_ref = ins.pop() if spec.mask is not None else None
    value_ref = ins.pop()
    given = tiles.column(ins.pop(0)) if spec.scale is not None and spec.scale.given else None
    words = ins.pop(0) if spec.codebook is not None else None
    whole = Source(spec, tiles, x_ref, given)
    rms = whole.rms()

    def word(i: Any) -> list[Any]:
        assert spec.codebook is not None
        assert words is not None
        row = spec.codebook.dimension + 1
        return [words[i * row + j] for j in range(row)]

    def group(source: Source) -> None:
        of_row = source.of_row()

        def scales(part: list[Array]) -> list[Array]:
            return source.spread(source.of_groups(part) if of_row is None else [of_row], part)

        def write(c: Array, _: None) -> None:
            found = [strips.project(spec, part, scales, word, rms) for part in source.parts(c)]
            if mask_ref is not None:
                flags = [[_flags(passes, tiles.cut.strip) for passes in part] for _, part in found]
                tiles.store(mask_ref, c, tiles.gathered_bytes(tiles.joined(flags)).astype(jnp.int8))
            value = tiles.joined([part for part, _ in found]).astype(x_ref.dtype).astype(jnp.float32)
            value = tiles.rotated_back(value) if spec.back else tiles.gathered(value)
            tiles.store(value_ref, c, value.astype(value_ref.dtype))

        source.each(write, None)

    whole.each_group(group)


def _flags(passes: Array | None, columns: int) -> Array:
    """1 where the gradient passes, else 0; None: everywhere."""
    ones = jnp.ones((ROWS, columns), jnp.float32)
    return ones if passes is None else jnp.where(passes, ones, 0.0)


def _backward(spec: Spec, tiles: Tiles, g_ref: Any, *refs: Any) -> None:
    *mask, out_ref = refs

    def step(c: Array, _: None) -> None:
        g = tiles.load(g_ref, c).astype(jnp.float32)
        if spec.back:
            g = tiles.rotate(g)
        for mask_ref in mask:
            g = jnp.where(tiles.load(mask_ref, c).astype(jnp.int32) > 0, g, 0.0)
        tiles.store(out_ref, c, tiles.rotate(g).astype(out_ref.dtype))

    lax.fori_loop(0, g_ref.shape[1] // TILE, step, None)
