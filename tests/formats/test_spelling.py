"""Names by rules: every value of the rules has one, names are read as the value they say, and others are refused."""

from dataclasses import dataclass, replace

import pytest

from capscale.errors import UserError
from capscale.formats.affine import Range
from capscale.formats.base import Granularity
from capscale.formats.catalog import FORMATS, find, label
from capscale.formats.compensated import Compensated
from capscale.formats.compose import SparseQuantized
from capscale.formats.floats import E2M1, Float
from capscale.formats.grids import Int
from capscale.formats.levels import NF4, TERNARY, lloyd_max
from capscale.formats.nearest import Nearest
from capscale.formats.noise import Noise
from capscale.formats.outliers import Outliers
from capscale.formats.pattern import NM
from capscale.formats.rigl import RigL
from capscale.formats.scalar import Scalar
from capscale.formats.scale import Absmax, PowerOfTwo, TwoLevel
from capscale.formats.schedule import Cubic
from capscale.formats.sparse import TopK
from capscale.formats.spelling import spell
from capscale.formats.vector import Vector
from capscale.gaussian_mse import gmse
from capscale.parametrizations import KroneckerSum, LowRank

SAID = {
    "top55": TopK(0.55),
    "top12.5": TopK(0.125),
    "gmp33": TopK(0.33, schedule=Cubic()),
    "rigl40-every7": RigL(0.4, period=7),
    "3:8": NM(3, 8),
    "4:16-units4": NM(4, 16, unit=4),
    "absmax-int3-g128": Scalar(Int(3), Absmax(), 128),
    "absmax-int3-g48-fp16": Scalar(Int(3), Absmax("float16"), 48),
    "int5-g20": Scalar(Int(5), group=20),
    "int3-matrix": Scalar(Int(3), group="matrix"),
    "absmax-twos-int4-g32": Scalar(Int(4, "twos-complement"), Absmax(), 32),
    "affine-int5-g16": Scalar(Int(5, "unsigned"), Range(), 16),
    "absmax-e3m3-g8x16": Scalar(Float(3, 3), Absmax(), (8, 16)),
    "nf4-g128": Scalar(NF4, Absmax(), 128),
    "ternary-g64": Scalar(TERNARY, group=64),
    "lloyd3-g32": Scalar(lloyd_max(3), group=32),
    "e2m1-g64@e4m3": Scalar(E2M1, TwoLevel(), 64),
    "e3m2-g64@e8m0-even": Scalar(Float(3, 2), PowerOfTwo("even"), 64),
    "int6-g32@e8m0": Scalar(Int(6, "mid-tread"), PowerOfTwo(), 32),
    "absmax-int4-g32-outliers0.5": Outliers(Scalar(Int(4), Absmax(), 32), 0.005),
    "nearest-lowrank0.3": Nearest(LowRank(share=0.3)),
    "nearest-kronecker0.125": Nearest(KroneckerSum(share=0.125)),
    "int3-g32~lowrank0.1": Compensated(Scalar(Int(3), group=32), Nearest(LowRank(share=0.1))),
    "nearest-lowrank-r16": Nearest(LowRank(16)),
    "nearest-kronecker-k3": Nearest(KroneckerSum(3)),
    "int4~lowrank-r8-rounds5": Compensated(Scalar(Int(4)), Nearest(LowRank(8)), 5),
    "int3-g32-outliers0.5~lowrank0.1": Compensated(
        Outliers(Scalar(Int(3), group=32), 0.005), Nearest(LowRank(share=0.1))
    ),
    "higgs-d2-n16~kronecker0.05": Compensated(Vector(2, 16), Nearest(KroneckerSum(share=0.05))),
    "higgs-d2-n16": Vector(2, 16),
    "noise-gmse0.2": Noise(0.2),
    "noise-gmse0.03-matrix": Noise(0.03, "matrix"),
    "top55+absmax-int3-g128": SparseQuantized(TopK(0.55), Scalar(Int(3), Absmax(), 128)),
    "int5-g48-ragged": Scalar(Int(5), group=48, ragged=True),
}


@pytest.mark.parametrize("name", SAID)
def test_a_name_says_a_value_and_the_value_that_name(name):
    assert find(name) == SAID[name]
    assert label(SAID[name]) == name


@pytest.mark.parametrize(
    ("rule", "listed"),
    [("e2m1-g16@e4m3", "nvfp4"), ("e2m1-g32@e8m0", "mxfp4"), ("int8-g32@e8m0", "mxint8"), ("nf4-g64", "nf4"),
     ("e2m1-g32@e8m0-ceil", "mxfp4-ceil"), ("e2m1-g16x16@e4m3", "nvfp4-g16x16"), ("noise1", "noise1"),
     ("noise-as-int3-matrix", "noise-as-int3-matrix"), ("top50.0", "top50"), ("4:8-units2", "4:8-pairs")],
)  # fmt: skip
def test_what_the_catalog_lists_keeps_its_name_however_it_is_said(rule, listed):
    assert find(rule) == FORMATS[listed]
    assert label(find(rule)) == listed


def test_rules_read_every_name_of_the_catalog_that_they_spell():
    spelled = {name: word for name, format in FORMATS.items() if (word := spell(format, find))}
    assert len(spelled) > 100
    assert {name: find(word) for name, word in spelled.items()} == {name: FORMATS[name] for name in spelled}


@pytest.mark.parametrize(
    ("name", "why"),
    [("int9", "bits"), ("absmax-int4-g1", "at least 2"),
     ("int4-g0", "at least 2"), ("top100", "sparsity"), ("5:4", "NM"), ("e7m3", "exponent"),
     ("absmax-e2m1-g16@e4m3", "leave the other words out"), ("int4-bf16", "absmax-int4-bf16"),
     ("affine-int4-g32-bf16", "leave '-bf16' out"), ("affine-twos-int4", "leave 'twos-' out"),
     ("e2m1@e4m3", "numbered"), ("e2m1-g16@e4m3-ceil", "use @e8m0"), ("top50-outliers1", "scalar format"),
     ("noise-as-top50", "scalar"), ("absmaxx-int4", "closest: absmax-int4"),
     ("nearest-shared4", "no nearest matrix is found of 'shared4'"),
     ("nearest-lowrank-r0", "rank=0"), ("int2~lowrank0.1-rounds0", "rounds=0"), ("int2~lowrank0.1-rounds65", "rounds"),
     ("top50~lowrank0.1", "beside a scalar format"),
     ("int2~int2", "no nearest matrix is found"), ("higgs-d3-n7", "codebook")],
)  # fmt: skip
def test_what_no_format_can_be_is_refused_with_what_can(name, why):
    with pytest.raises(UserError, match=why):
        find(name)


@dataclass(frozen=True)
class Mine:
    """A format from outside."""

    inner: Scalar
    short_name: str = "mine"

    @property
    def bits(self) -> float:
        return 4.0

    @property
    def granularity(self) -> Granularity:
        return "row"

    def project(self, x, ctx):
        return self.inner.project(x, ctx)


def test_a_format_from_outside_says_its_short_name_that_is_no_other():
    mine = Mine(Scalar(Int(4)))
    assert label(mine) == "mine"
    with pytest.raises(UserError, match="calls itself 'top55'"):
        label(replace(mine, short_name="top55"))


def test_names_of_the_catalog_stand_inside_of_names_by_rules():
    noise = find("noise-as-mxfp4")
    assert isinstance(noise, Noise)
    assert noise.gmse == pytest.approx(gmse(find("mxfp4")).value, rel=1e-8)
    assert find("mid-tread-int3-outliers1") == Outliers(Scalar(Int(3, "mid-tread")), 0.01)
    with pytest.raises(UserError, match="'mxfp5'; closest: mxfp4"):
        find("noise-as-mxfp5")


def test_what_no_rule_says_is_shown_as_it_is():
    odd = Scalar(Int(4), Absmax("float16"), "matrix")
    assert find(label(odd)) == odd
    drop = RigL(0.5, drop=0.1)
    assert label(drop) == repr(drop)


def test_help_names_formats_of_every_rule_and_all_are_found():
    from capscale.cli.formats import Gmse

    rules = " ".join((Gmse.__doc__ or "").split("by rules: ")[1].split("; A+B")[0].split())
    names = [part.split(" (")[0] for part in rules.split(", ")]
    assert len(names) >= 14
    assert all(label(find(name)) == name for name in names if name != "noise-as-int5")
