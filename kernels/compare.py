"""Comparison of a kernel with the reference: the same bits, or how far apart they may be."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from .jit_inline import jit_inline
from .matmul.codes import Multiplicand
from .project.bitplanes import unpack
from .project.codes import Encoded, code_bits, coded_grid
from .project.mask import unpack_mask
from .project.reference import Projected
from .project.spec import Spec


class Tolerance(NamedTuple):
    """How far a kernel may be from the reference."""

    relative: float
    """Of values, to the largest magnitude."""
    moved: float
    """Share of values that may be on the other side of a cell boundary; one value where it is positive, however few."""

    def check(self, differ: Array, what: str) -> None:
        """Raises AssertionError where more than that differ."""
        count = int(differ.sum())
        most = max(int(self.moved * differ.size), int(self.moved > 0))
        assert count <= most, f"{count} of {differ.size} {what} differ, {most} may"


TENSOR_CORES = 4e-6
"""Error of float32 rotations on Hopper's tensor cores, to the largest magnitude: they cut off the low bits of what they
add, and add 24 products of pieces one after the other. 1.4e-6 was the largest seen (H200)."""


def tolerance(dtype: DTypeLike, exact_rotation: bool, *, tensor_cores: bool = False) -> Tolerance:
    """None at all for the same additions in float32. The matrix unit adds in another order: an error of a few units in
    the last place, by which values near a boundary between two levels change sides.

    bfloat16 values are rounded twice, which moves about one in 2^8 across a boundary.
    """
    if exact_rotation:
        return Tolerance(0.0, 0.0)
    relative = TENSOR_CORES if tensor_cores else 1e-6
    return Tolerance(relative, 1e-4) if dtype == jnp.float32 else Tolerance(2**-8, 1e-2)


def gradient_bound(dtype: DTypeLike, *, tensor_cores: bool) -> float:
    """How far a gradient of rotated rows may be from the reference's, to its largest magnitude."""
    return TENSOR_CORES if tensor_cores and dtype == jnp.float32 else 2 * float(jnp.finfo(dtype).eps)


def close(found: Projected, expected: Projected, width: int, allowed: Tolerance) -> None:
    """Raises AssertionError where values or masks are further apart than `allowed`."""
    _close(found.value_RK, expected.value_RK, allowed, "values")
    assert (found.mask_RW is None) == (expected.mask_RW is None), "one has a mask, the other none"
    if found.mask_RW is not None and expected.mask_RW is not None:
        allowed.check(unpack_mask(found.mask_RW, width) != unpack_mask(expected.mask_RW, width), "bits of the mask")


def close_codes(spec: Spec, found: Encoded, expected: Encoded, width: int, allowed: Tolerance) -> None:
    """Raises AssertionError where scales are further apart than `allowed`, or more codes have moved."""
    _close(found.scales, expected.scales, allowed, "scales")
    codes, wanted = (unpack(e.codes, width, code_bits(coded_grid(spec))) for e in (found, expected))
    allowed.check(codes != wanted, "codes")


def _close(found: Array, expected: Array, allowed: Tolerance, what: str) -> None:
    """NaN and infinities must stand in the same places: no rounding moves them."""
    finite_alike, near = _nearness(found, expected, allowed.relative)
    assert bool(finite_alike), f"{what}: NaN or infinity where the other has none"
    allowed.check(~near, what)


@jit_inline()
def _nearness(found: Array, expected: Array, relative: float) -> tuple[Array, Array]:
    value, wanted = found.astype(jnp.float32), expected.astype(jnp.float32)
    bound = relative * jnp.max(jnp.abs(wanted), initial=0.0, where=jnp.isfinite(wanted))
    near = (jnp.abs(value - wanted) <= bound) | (value == wanted) | (jnp.isnan(value) & jnp.isnan(wanted))
    return (jnp.isfinite(value) == jnp.isfinite(wanted)).all(), near


def same_codes(found: Encoded, expected: Encoded) -> None:
    """Raises AssertionError where codes or scales differ in a bit."""
    for a, b, what in zip(found, expected, ("codes", "scales"), strict=True):
        equal(a, b, what)


def same_multiplicands(found: Multiplicand, expected: Multiplicand) -> None:
    """Raises AssertionError where scales differ in a bit, or codes of rows whose scale is a number."""
    equal(found.scales, expected.scales, "scales of codes")
    marked = jnp.isnan(expected.scales)
    codes, wanted = (jnp.where(marked, jnp.zeros_like(of.codes), of.codes) for of in (found, expected))
    equal(codes, wanted, "codes of products")


def same(found: Projected, expected: Projected, width: int, x: Array | None = None) -> None:
    """Raises AssertionError where values or masks of rows `x` differ in a bit."""
    equal(found.value_RK, expected.value_RK, "value", x)
    assert (found.mask_RW is None) == (expected.mask_RW is None), "one has a mask, the other none"
    if found.mask_RW is not None and expected.mask_RW is not None:
        equal(unpack_mask(found.mask_RW, width), unpack_mask(expected.mask_RW, width), "mask", x)


def equal(found: Array, expected: Array, what: str, x: Array | None = None) -> None:
    """Raises AssertionError where dtypes, shapes or numbers differ, a NaN being a NaN; it says where first.

    `x`: what was projected, of the same shape.
    """
    assert found.dtype == expected.dtype, f"{what} of {found.dtype}, not {expected.dtype}"
    assert found.shape == expected.shape, f"{what} of {found.shape}, not {expected.shape}"
    differ = _differing(found, expected)
    count = int(differ.sum())
    assert not count, f"{what}: {count} of {found.size} differ, first at {_first(differ, found, expected, x)}"


@jit_inline()
def _differing(found: Array, expected: Array) -> Array:
    alike = found == expected
    if jnp.issubdtype(found.dtype, jnp.floating):
        alike |= jnp.isnan(found) & jnp.isnan(expected)
    return ~alike


def _first(differ: Array, found: Array, expected: Array, x: Array | None) -> str:
    """The index of the first difference, both numbers there, and what they were made of."""
    at = tuple(int(place) for place in jnp.unravel_index(jnp.argmax(differ), differ.shape))
    of = "" if x is None or x.shape != found.shape else f" of x = {x[at].item()!r} ({x.dtype})"
    return f"{list(at)}: {found[at].item()!r}, not {expected[at].item()!r}{of}"
