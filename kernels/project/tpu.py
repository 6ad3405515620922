"""The projection of rows on a TPU: one read of the rows, one write of the values and of the mask.

A block of whole rows lies in VMEM. It is worked through in tiles of (rows, 128 lanes), so that intermediate
values stay in registers: all tiles of a group once for its largest magnitude, once more for its root mean square, and
once for the levels.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

from ..rms.reference import from_sums, limb_bits, limbs, powers
from . import lanes
from .mask import LANES, mask_bytes
from .reference import Projected
from .spec import Measures, Spec, on_grid

DTYPES = (jnp.float32, jnp.bfloat16)
SUBLANES = 32  # rows of a tile of bytes, the mask's
VMEM = 16 * 2**20  # what a kernel gets by default on the generations v4 to v6e


class Tile(NamedTuple):
    """Sizes of the work: `rows` a block, `inner` a tile."""

    rows: int
    inner: int


def unsupported(spec: Spec, shape: tuple[int, int], dtype: DTypeLike) -> str | None:
    """Why this kernel cannot project rows of this shape, or None where it can."""
    width = shape[1]
    sizes = {"rotation": spec.rotation, "group": spec.group}
    if spec.pattern:
        sizes |= {"m": spec.pattern.m, "unit": spec.pattern.unit}
    if dtype not in DTYPES:
        return f"it takes float32 and bfloat16, not {jnp.dtype(dtype)}"
    if not width or width % LANES:
        return f"rows of {width} values are not whole multiples of {LANES} lanes"
    try:
        spec.check(width)
    except ValueError as error:
        return str(error)
    for name, size in sizes.items():
        whole = name == "group" and size and size % LANES == 0
        if size and not whole and (size > LANES or size & (size - 1)):
            return f"{name}={size} is not a power of two up to {LANES}"
    if vmem_bytes(spec, Tile(SUBLANES, SUBLANES), width, dtype) > VMEM:
        return f"{SUBLANES} rows of {width} values do not fit into {VMEM >> 20} MiB"
    return None


def vmem_bytes(spec: Spec, tile: Tile, width: int, dtype: DTypeLike) -> int:
    """VMEM of the forward kernel: rows, values and masks twice (one block is moved while one is worked on), scratch."""
    mask = mask_bytes(width)
    moved = tile.rows * (2 * width * jnp.dtype(dtype).itemsize + mask + 4 * LANES)
    return 2 * (moved + 2 * LANES * LANES) + tile.inner * 4 * (width + mask)


def default_tile(spec: Spec, shape: tuple[int, int], dtype: DTypeLike) -> Tile:
    """Rows that fill half of VMEM, at most 512: beyond that the time to start a block no longer shows."""
    rows, width = shape
    inner = SUBLANES if rows <= SUBLANES else 2 * SUBLANES
    best = Tile(inner, inner)
    while best.rows < min(rows, 512) and vmem_bytes(spec, Tile(2 * best.rows, inner), width, dtype) <= VMEM // 2:
        best = Tile(2 * best.rows, inner)
    return best


def project(
    spec: Spec,
    x_RK: Array,
    given_R1: Array | None = None,
    *,
    tile: Tile | None = None,
    interpret: bool = False,
    rotate_by: str | None = None,
) -> Projected:
    """`reference.project` on a TPU.

    `rotate_by`: "product" (the matrix unit; default where compiled) or "butterflies" (the reference's additions, bit
    for bit; default where interpreted).
    """
    (rows, width), dtype = x_RK.shape, x_RK.dtype
    masked = spec.mask is not None
    shapes = [jax.ShapeDtypeStruct((rows, width), dtype), jax.ShapeDtypeStruct((rows, mask_bytes(width)), jnp.uint8)]
    if not rows:
        return Projected(x_RK, jnp.zeros(shapes[1].shape, jnp.uint8) if masked else None)
    tile = tile or default_tile(spec, x_RK.shape, dtype)
    rotation = _Rotation(spec.rotation, rotate_by or ("butterflies" if interpret else "product"), dtype)
    block = partial(_rows, tile)
    out = pl.pallas_call(
        partial(_forward, spec, tile, rotation),
        grid=(pl.cdiv(rows, tile.rows),),
        in_specs=[block(width), *([block(1)] if given_R1 is not None else []), *rotation.specs],
        out_specs=[block(shape.shape[1]) for shape in shapes[: 1 + masked]],
        out_shape=shapes[: 1 + masked],
        scratch_shapes=[
            pltpu.VMEM((tile.inner, width), jnp.float32),
            pltpu.VMEM((tile.inner, mask_bytes(width)), jnp.int32),
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        interpret=interpret,
        name="capscale_project",
    )(x_RK, *([] if given_R1 is None else [given_R1]), *rotation.operands)
    return Projected(out[0], out[1] if masked else None)


def backward(
    spec: Spec,
    mask_RW: Array | None,
    g_RK: Array,
    *,
    tile: Tile | None = None,
    interpret: bool = False,
    rotate_by: str | None = None,
) -> Array:
    """`reference.backward` on a TPU."""
    rows, width = g_RK.shape
    if not rows or (mask_RW is None and spec.rotation is None):
        return g_RK
    tile = tile or default_tile(spec, g_RK.shape, g_RK.dtype)
    rotation = _Rotation(spec.rotation, rotate_by or ("butterflies" if interpret else "product"), g_RK.dtype)
    block = partial(_rows, tile)
    return pl.pallas_call(
        partial(_backward, spec, tile, rotation),
        grid=(pl.cdiv(rows, tile.rows),),
        in_specs=[block(width), *([block(mask_RW.shape[1])] if mask_RW is not None else []), *rotation.specs],
        out_specs=block(width),
        out_shape=jax.ShapeDtypeStruct((rows, width), g_RK.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        interpret=interpret,
        name="capscale_project_backward",
    )(g_RK, *([] if mask_RW is None else [mask_RW]), *rotation.operands)


def _rows(tile: Tile, width: int) -> pl.BlockSpec:
    return pl.BlockSpec((tile.rows, width), lambda i: (i, 0))


class _Rotation(NamedTuple):
    """How tiles are rotated, and the matrix for it."""

    block: int | None
    by: str
    dtype: DTypeLike

    @property
    def _matrix(self) -> bool:
        return self.block is not None and self.by == "product"

    @property
    def specs(self) -> list[pl.BlockSpec]:
        return [pl.BlockSpec((LANES, LANES), lambda i: (0, 0))] if self._matrix else []

    @property
    def operands(self) -> list[Array]:
        return [lanes.signs(self.block)] if self.block and self._matrix else []

    def __call__(self, x: Array, matrix: list) -> Array:
        """Float32 tile, rotated and rounded to the dtype of the rows."""
        if self.block is None:
            return x
        if self._matrix:
            y = lanes.product(x, matrix[0][...], self.block, self.dtype == jnp.bfloat16)
        else:
            y = lanes.butterflies(x, self.block)
        return y.astype(self.dtype).astype(jnp.float32)


def _forward(spec: Spec, tile: Tile, rotation: _Rotation, x_ref, *refs) -> None:  # noqa: ANN001
    refs = list(refs)
    given_ref = refs.pop(0) if spec.scale is not None and spec.scale.given else None
    matrix = [refs.pop(0) for _ in rotation.specs]
    value_ref, *mask_refs, full_ref, bits_ref = refs
    width = x_ref.shape[1]
    size = spec.group or width
    tiles = max(size // LANES, 1)  # of a group
    stride = bits_ref.shape[1] // LANES

    def sub_block(i: Array, _: None) -> None:
        here = pl.ds(i * tile.inner, tile.inner)
        zero = jnp.zeros((tile.inner, LANES), jnp.int32)
        if mask_refs:
            bits_ref[...] = jnp.zeros_like(bits_ref)

        def column(number: Array) -> pl.Slice:
            return pl.ds(pl.multiple_of(number * LANES, LANES), LANES)

        def group(g: Array, _: None) -> None:
            def each(step, start):  # noqa: ANN001
                if tiles == 1:
                    return step(g, start)
                return lax.fori_loop(g * tiles, (g + 1) * tiles, step, start)

            def measured(full: Array) -> tuple[Array, Array | None]:
                keep = lanes.survivors(spec.pattern, full)[0] if spec.pattern else None
                return (jnp.where(keep, full, 0.0) if keep is not None and spec.measured_on_survivors else full), keep

            def read(c: Array, largest: Array) -> Array:
                full = rotation(x_ref[here, column(c)].astype(jnp.float32), matrix)
                full_ref[:, column(c)] = full
                return jnp.maximum(largest, lanes.magnitude_bits(measured(full)[0]))

            largest = lax.bitcast_convert_type(lanes.over(each(read, zero), min(size, LANES), jnp.maximum), jnp.float32)
            scale = None
            if spec.scale is not None:
                statistic = largest
                if spec.scale.statistic == "rms":
                    power, inverse = powers(largest)
                    bits = limb_bits(size)

                    def add(c: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
                        high, low = limbs(measured(full_ref[:, column(c)])[0], inverse, bits)
                        return sums[0] + high, sums[1] + low

                    sums = (lanes.over(s, min(size, LANES), jnp.add) for s in each(add, (zero, zero)))
                    highs, lows = (s.astype(jnp.float32) for s in sums)
                    share = None if spec.share is None else jnp.full(largest.shape, spec.share, jnp.float32)
                    statistic = from_sums(highs, lows, largest=largest, power=power, bits=bits, count=size, share=share)
                given = None if given_ref is None else jnp.broadcast_to(given_ref[here, :], largest.shape)
                scale = spec.scale(statistic, given)

            def write(c: Array, _: None) -> None:
                full = full_ref[:, column(c)]
                keep, threshold = lanes.survivors(spec.pattern, full) if spec.pattern else (None, None)
                if scale is None:
                    assert keep is not None
                    value, measures = jnp.where(keep, full, 0.0), Measures(keep=keep)
                else:
                    value, measures = on_grid(spec, full, scale, keep)
                if mask_refs:
                    assert spec.mask is not None
                    passes = spec.mask(full, measures._replace(threshold=threshold))
                    passes = jnp.ones(full.shape, jnp.bool) if passes is None else passes
                    bit = lax.shift_left(passes.astype(jnp.int32), jnp.full(full.shape, lax.div(c, stride), jnp.int32))
                    word = column(lax.rem(c, stride))
                    bits_ref[:, word] = bits_ref[:, word] | bit
                value = value.astype(value_ref.dtype)
                if spec.back:
                    value = rotation(value.astype(jnp.float32), matrix).astype(value_ref.dtype)
                value_ref[here, column(c)] = value

            each(write, None)

        lax.fori_loop(0, width // (LANES * tiles), group, None)
        for mask_ref in mask_refs:
            mask_ref[here, :] = bits_ref[...].astype(jnp.uint8)

    lax.fori_loop(0, tile.rows // tile.inner, sub_block, None)


def _backward(spec: Spec, tile: Tile, rotation: _Rotation, g_ref, *refs) -> None:  # noqa: ANN001
    *ins, out_ref = refs
    matrix = [ins.pop() for _ in rotation.specs]
    width = g_ref.shape[1]
    tiles = width // LANES

    def step(i: Array, _: None) -> None:
        here = pl.ds(lax.div(i, tiles) * tile.inner, tile.inner)
        c = lax.rem(i, tiles)
        column = pl.ds(pl.multiple_of(c * LANES, LANES), LANES)
        g = g_ref[here, column].astype(jnp.float32)
        if spec.back:
            g = rotation(g, matrix)
        for mask_ref in ins:
            stride = mask_ref.shape[1] // LANES
            word = mask_ref[here, pl.ds(pl.multiple_of(lax.rem(c, stride) * LANES, LANES), LANES)].astype(jnp.int32)
            bit = lax.shift_right_logical(word, jnp.full(word.shape, lax.div(c, stride), jnp.int32)) & 1
            g = jnp.where(bit == 1, g, 0.0)
        out_ref[here, column] = rotation(g, matrix).astype(out_ref.dtype)

    lax.fori_loop(0, tile.rows // tile.inner * tiles, step, None)
