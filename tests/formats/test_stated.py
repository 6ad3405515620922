"""Closed form, kernel and packing belong to a definition: who overrides a stage has none until they are stated."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels.rms import largest_magnitude
from jax import lax

from capscale.errors import UserError
from capscale.estimators import Trust
from capscale.formats import (
    E8P,
    NM,
    DoubleQuantized,
    HiF4Scales,
    Int,
    Outliers,
    Scalar,
    SparseQuantized,
    TopK,
    Vector,
    catalog,
)
from capscale.formats.base import NO_CONTEXT
from capscale.formats.floats import E2M1
from capscale.formats.packing import pack, unpack
from capscale.formats.scale import Group, PowerOfTwo, TwoLevel, largest
from capscale.formats.stated import CLOSED_FORM, KERNEL, PACKING, unstated
from capscale.fused import spec_of
from capscale.gaussian_mse import computed, gmse
from capscale.testing import CHECKS, Subject, gaussian, same_bits


@dataclass(frozen=True)
class FourOverSix(TwoLevel):
    """NVFP4 with the largest magnitude of a group at 6 or at 4, whichever has the smaller error."""

    def measure(self, group, grid, ctx):
        x, maximum = group.x, largest(group)
        outer = largest_magnitude(maximum, (-3, -2, -1)) / (6 * 256)  # 1.5 times 256 is a level of E4M3 too
        wanted = maximum / jnp.where(outer > 0, outer, 1.0)
        six, four = (self.scales.nearest(wanted / top)[0] for top in (6, 4))

        def error(level):
            scale = jnp.where(level > 0, level * outer, 1.0)
            return jnp.sum(jnp.square(grid.nearest(x / scale)[0] * scale - x), axis=group.axes, keepdims=True)

        return jnp.where(error(four) < error(six), four, six), outer


@dataclass(frozen=True)
class Even(PowerOfTwo):
    """The exponent of the largest magnitude once its significand is rounded to that of E2M1, ties to even."""

    def measure(self, group, grid, ctx):
        bits = lax.bitcast_convert_type(group.x, jnp.int32) + jnp.int32(1 << 21)
        rounded = lax.bitcast_convert_type(bits & jnp.int32(0x7F800000), jnp.float32)
        return super().measure(Group(rounded, group.axes, group.filled), grid, ctx)


@dataclass(frozen=True)
class Half(Scalar):
    """Half of the projection."""

    def project(self, x, ctx):
        projection = super().project(x, ctx)
        return projection._replace(value=projection.value / 2)


@dataclass(frozen=True)
class Offset(Int):
    """A grid that rounds to the level below the nearest."""

    def nearest(self, u):
        return super().nearest(u - 1.0)


@dataclass(frozen=True)
class Fewer(TopK):
    """Survivors that are halved."""

    def project(self, x, ctx):
        projection = super().project(x, ctx)
        return projection._replace(value=projection.value / 2)


TRIED = {
    "tries 6 and 4": (Scalar(E2M1, FourOverSix(), 16), 0.0075602),
    "even rounding": (Scalar(E2M1, Even(), 32), 0.0125052),
    "a projection that halves": (Half(Int(4)), 0.258),
}


@pytest.mark.parametrize(("format", "measured"), TRIED.values(), ids=TRIED)
def test_the_error_is_measured(format, measured):
    found = gmse(format)
    assert found.method.startswith("Monte Carlo")
    assert found.standard_error > 0
    np.testing.assert_allclose(found.value, measured, rtol=4e-3)


@pytest.mark.parametrize(("format", "measured"), TRIED.values(), ids=TRIED)
def test_nothing_is_packed_and_no_kernel_runs(format, measured):
    with pytest.raises(UserError, match=r"cannot be packed: .* overrides (measure|project) of .* states no"):
        pack(format, gaussian())
    assert "overrides" in str(spec_of(format, Trust()))


@pytest.mark.parametrize(
    "format",
    [
        Scalar(Offset(4)),
        SparseQuantized(NM(2, 4), Half(Int(4))),
        SparseQuantized(Fewer(0.5), Scalar(Int(4))),
        Outliers(Half(Int(4)), 0.01),
        Fewer(0.5),
    ],
    ids=lambda format: type(format).__name__,
)
def test_a_part_takes_the_whole_with_it(format):
    assert unstated(format, CLOSED_FORM)
    assert unstated(format, PACKING)


@pytest.mark.parametrize(
    ("rule", "stage", "derived"),
    [
        (DoubleQuantized, "choosing", (CLOSED_FORM, PACKING)),
        (DoubleQuantized, "measure", (CLOSED_FORM, PACKING)),
        (HiF4Scales, "combine", (PACKING,)),
        (E8P, "project", (PACKING,)),
        (Vector, "measure", (PACKING, KERNEL)),
    ],
)
def test_who_derives_from_what_came_later_has_to_state_it_too(rule, stage, derived):
    """A class that overrides one stage, whatever it makes of it."""
    other = dataclass(frozen=True)(type("Other", (rule,), {stage: lambda self, *arguments: None}))
    value = other(2, 16) if rule is Vector else other()
    (origin, *_) = (base.__name__ for base in rule.__mro__ if stage in vars(base))
    for properties in derived:
        assert f"Other overrides {stage} of {origin} and states no " in str(unstated(value, properties))


@pytest.mark.parametrize("name", catalog.FORMATS)
def test_what_the_package_ships_states_all_it_has(name):
    for derived in (CLOSED_FORM, PACKING, KERNEL):
        assert unstated(catalog.FORMATS[name], derived) is None


@dataclass(frozen=True)
class Named(Scalar):
    """A name is no stage."""

    def __str__(self):
        return "named"


@dataclass(frozen=True)
class Stored(Even):
    """States that the storage of powers of two is its own too."""

    encode, decode = PowerOfTwo.encode, PowerOfTwo.decode


def test_what_overrides_no_stage_keeps_everything():
    assert gmse(Named(Int(4))) == computed(Scalar(Int(4)))  # both on this machine: what is shipped is another's
    same_bits(unpack(pack(Named(Int(4)), gaussian())), Scalar(Int(4)).project(gaussian(), NO_CONTEXT).value)


def test_what_is_stated_holds_again():
    x, format = gaussian(), Scalar(E2M1, Stored(), 32)
    same_bits(unpack(pack(format, x)), format.project(x, NO_CONTEXT).value)
    assert gmse(format).method.startswith("Monte Carlo")  # which it did not state


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_rules_of_ones_own_keep_the_contracts(check):
    check(Subject(Scalar(E2M1, Even(), 32), Trust()))
