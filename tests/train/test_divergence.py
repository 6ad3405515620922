"""A number that is not finite, from a step on: the run ends there, with a result that says so."""

from dataclasses import dataclass

import jax.numpy as jnp
import pytest
from jax import Array
from support import tiny
from support.cases import parametrize

from capscale.estimators import StraightThrough
from capscale.formats.base import Context, Granularity, Projection
from capscale.representation import Operand, Representation


@dataclass(frozen=True)
class BreaksAt:
    """The identity until `step` of `steps`; NaN from there on."""

    step: int
    steps: int

    @property
    def bits(self) -> float:
        return 16.0

    @property
    def granularity(self) -> Granularity:
        return "row"

    def project(self, x: Array, ctx: Context) -> Projection:
        step = ctx.progress * self.steps + 0.5  # counted from 1; progress is that of the step's middle
        return Projection(jnp.where(step > self.step - 0.25, jnp.nan, x).astype(x.dtype))

    def error(self) -> float:
        return 0.0


@parametrize("step", [1, pytest.param(7, marks=pytest.mark.slow), tiny.STEPS], default=1)
def test_nan_at_a_step_is_a_result_that_names_the_step(step, tmp_path, monkeypatch):
    monkeypatch.setattr("capscale.models.mixture.format_gmse", lambda fmt: 0.0)
    broken = Representation(Operand(BreaksAt(step, tiny.STEPS), StraightThrough()))
    result = tiny.train_one(tiny.run(representation=broken), tmp_path)
    assert result["status"] == "diverged"
    assert result["row"]["diverged_at_step"] == step
    assert result["row"]["loss"] is None


@pytest.mark.ci
def test_nan_that_never_comes_is_no_divergence(tmp_path, monkeypatch):
    monkeypatch.setattr("capscale.models.mixture.format_gmse", lambda fmt: 0.0)
    whole = Representation(Operand(BreaksAt(tiny.STEPS + 2, tiny.STEPS), StraightThrough()))
    assert tiny.train_one(tiny.run(representation=whole), tmp_path)["status"] == "ok"
