"""The conformance table: every catalog entry against every contract of `capscale.testing`."""

import pytest

from capscale.formats import catalog
from capscale.formats.base import Format, Projection
from capscale.formats.compose import SparseQuantized
from capscale.formats.dense import Dense
from capscale.formats.nearest import Nearest
from capscale.formats.noise import Noise
from capscale.formats.outliers import Outliers
from capscale.formats.pattern import NM
from capscale.formats.rigl import RigL
from capscale.formats.scalar import Scalar
from capscale.formats.scale import Absmax, Learned, PowerOfTwo
from capscale.formats.sparse import TopK
from capscale.formats.vector import Vector
from capscale.testing import CHECKS, ONE_PROGRAM, Subject, exempt

# One entry for every mechanism is held to all contracts at every change, those of few mechanisms by default; entries
# that differ from one of these by a number are held to what one compiled program tells, and to the rest with -m slow.
DEFAULT = frozenset(("dense", "int4", "mxfp4", "2:4", "noise2"))
AT_EVERY_CHANGE = frozenset(
    (
        "dense",
        "int4",
        "lloyd3",
        "mxfp4",
        "nvfp4",
        "lsq4",
        "top50",
        "2:4",
        "rigl75",
        "top50+int4",
        "top50+rotated-int4",
        "higgs-d2-n16",
        "int4-outliers1",
        "nearest-lowrank0.25",
        "int2~lowrank0.05",
        "noise2",
    )
)


def marks_of(name: str, check: object) -> list[pytest.MarkDecorator]:
    if name in DEFAULT:
        return []
    return [pytest.mark.ci if name in AT_EVERY_CHANGE or check in ONE_PROGRAM else pytest.mark.slow]


def symmetric(format: Format) -> bool:
    """Codebooks, two's complement and noise are not."""
    if isinstance(format, SparseQuantized | Outliers):
        return symmetric(format.rounding if isinstance(format, SparseQuantized) else format.inner)
    if isinstance(format, Scalar):
        levels = format.grid.levels
        return bool((levels == -levels[::-1]).all())
    return not isinstance(format, Vector | Noise)


def repeats(format: Format) -> str:
    """Survivors survive again; grids whose scale does not move, or moves by powers of two, keep their levels."""
    if isinstance(format, Dense | TopK | NM | RigL):
        return "exactly"
    if isinstance(format, Scalar):
        if isinstance(format.scale, PowerOfTwo | Learned):
            return "exactly"
        return "closely" if isinstance(format.scale, Absmax) else "no"
    return "closely" if isinstance(format, Nearest) else "no"


SUBJECTS = {name: Subject(f, symmetric=symmetric(f), repeats=repeats(f)) for name, f in catalog.FORMATS.items()}


@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(
            name,
            check,
            id=f"{name}-{check.__name__}",
            marks=marks_of(name, check),
        )
        for name in catalog.FORMATS
        for check in CHECKS
    ],
)
def test_conformance(name, check):
    reason = exempt(check, SUBJECTS[name])
    if reason is not None:
        pytest.skip(reason)
    check(SUBJECTS[name])


def test_default_entries_exist():
    assert set(catalog.FORMATS) >= AT_EVERY_CHANGE >= DEFAULT
    assert len(catalog.FORMATS) >= 148


class OffByAStep(Scalar):
    """A known-bad format: what it returns is one step beside what it says and stores, and it says that both hold."""

    error, layout, store, load = Scalar.error, Scalar.layout, Scalar.store, Scalar.load

    def project(self, x, ctx):
        projection = super().project(x, ctx)
        return projection._replace(value=projection.value + projection.step.astype(x.dtype))


class SeesOtherRows(Scalar):
    """A known-bad format: its scale is shared by the matrix though it claims rows."""

    def project(self, x, ctx):
        whole = x.reshape(1, -1)
        return Projection(super().project(whole, ctx).value.reshape(x.shape))


@pytest.mark.parametrize(
    ("bad", "check"),
    [(OffByAStep, "check_storage"), (OffByAStep, "check_gmse"), (SeesOtherRows, "check_rows")],
)
def test_the_table_catches_bad_formats(bad, check):
    good = catalog.find("int4")
    checks = {each.__name__: each for each in CHECKS}
    with pytest.raises(AssertionError):
        checks[check](Subject(bad(good.grid)))
