"""Names of parametrizations, alone and in representations and policies, in and out."""

import pytest

from capscale.errors import UserError
from capscale.formats.catalog import find
from capscale.parametrizations import (
    Hashed,
    KroneckerSum,
    LowRank,
    Monarch,
    Nola,
    Shared,
    find_parametrization,
    parametrization_name,
)
from capscale.policy_names import find_representation, representation_name
from capscale.representation import Representation, operand

NAMES = {
    "shared4": Shared(4),
    "shared2-seed7": Shared(2, 7),
    "hashed0.3": Hashed(0.3),
    "hashed0.25-seed2": Hashed(0.25, 2),
    "lowrank0.25": LowRank(share=0.25),
    "lowrank-r8": LowRank(8),
    "kronecker0.3": KroneckerSum(share=0.3),
    "kronecker-k5": KroneckerSum(5),
    "monarch4": Monarch(4),
    "nola0.25-r8": Nola(0.25, 8),
    "nola1e-05-r2-seed3": Nola(1e-5, 2, 3),
}


def test_names_are_read_as_they_are_written():
    for name, value in NAMES.items():
        assert parametrization_name(value) == name
        assert find_parametrization(name) == value
        held = Representation(activations=operand("int8", per_token=True), parametrization=value)
        assert representation_name(held) == f"{name} x int8"
        assert find_representation(f"{name} x int8") == held
    assert find_parametrization("int4") is find_parametrization("shared") is None


def test_numbers_that_cannot_be_are_refused_by_name():
    for name, words in (
        ("shared1", "share=1"),
        ("lowrank1.5", "share=1.5"),
        ("monarch1", "blocks=1"),
        ("hashed2", "share=2"),
    ):
        with pytest.raises(UserError, match=f"'{name}'.*{words}"):
            find_parametrization(name)


def test_a_parametrization_is_no_format():
    """Asked for its error as a format's, it says why there is no capacity in that."""
    with pytest.raises(UserError, match=r"'shared4' is no format but a parametrization, .*GMSE tells neither"):
        find("shared4")
    with pytest.raises(UserError, match="weights=int4 with parametrization=shared4"):
        Representation(operand("int4"), parametrization=Shared(4))
