"""The kit for formats from outside: one call, outcomes by name, and a broken contract named."""

import subprocess
import sys
from dataclasses import dataclass

import jax
import pytest
from support.limits import LIMIT_S

import capscale
from capscale.estimators import Trust
from capscale.formats import NM, Int, Scalar
from capscale.testing import CHECKS, check_format, check_kernels


@pytest.mark.ci
def test_a_format_is_held_to_all_contracts():
    told = []
    outcomes = check_format(Scalar(Int(4)), Trust(), tell=lambda name, outcome: told.append((name, outcome)))
    assert list(outcomes.items()) == told
    assert set(outcomes) == {check.__name__.removeprefix("check_") for check in CHECKS}
    assert outcomes.pop("repeats") == "projected again, it is measured anew, and moves"
    assert set(outcomes.values()) == {"held"}


def test_contracts_that_say_nothing_of_a_format_say_why():
    outcomes = check_format(NM(2, 4), repeats="exactly")
    assert outcomes["repeats"] == "held"
    assert outcomes["levels"] == "it has no grid whose levels could be counted"


@dataclass(frozen=True)
class Doubled(Scalar):
    """A known-bad format: twice its value, and the rest as inherited."""

    error, layout, store, load = Scalar.error, Scalar.layout, Scalar.store, Scalar.load

    def project(self, x, ctx):
        found = super().project(x, ctx)
        return found._replace(value=2 * found.value)


def test_a_broken_contract_is_named():
    with pytest.raises(AssertionError, match=r"^range: The largest float16 numbers project to numbers"):
        check_format(Doubled(Int(4)))


def test_a_promise_that_is_not_kept_is_named():
    with pytest.raises(AssertionError, match="repeats: Projecting again changes nothing"):
        check_format(Scalar(Int(4)), repeats="exactly")


def test_it_is_reached_from_the_facade():
    assert capscale.testing.check_kernels is check_kernels
    assert jax.device_count() == 2


ONE_DEVICE = """
from capscale.formats import Int, Scalar
from capscale.testing import check_format
outcomes = check_format(Scalar(Int(4)))
assert outcomes["sharding"] == outcomes["mapped"] == "JAX has one device here", outcomes
print(sum(outcome == "held" for outcome in outcomes.values()), "held")
"""


@pytest.mark.ci
def test_one_device_is_said_and_pytest_is_not_needed(tmp_path):
    block = "import sys; sys.modules['pytest'] = None\n"
    environment = {"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", block + ONE_DEVICE],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "11 held\n"
