"""Training with compressed gradients: the same numbers by one device or two, resumed, in parts, side by side."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from support import tiny

from capscale.formats.catalog import find
from capscale.gradients import BackwardProduct, Gradients
from capscale.representation import DENSE, Representation, operand
from capscale.train.executor import Population
from capscale.train.loop import train
from capscale.train.memory import AT_ONCE, Memory
from capscale.train.sharding import batch_sharding, make_mesh, state_sharding
from capscale.train.step import Program, RunScalars, initial_state, train_chunk, train_step

ROUNDED = BackwardProduct(find("absmax-mid-tread-int4-g8"), find("absmax-mid-tread-int4-g8"))
DRAWN = BackwardProduct(
    find("absmax-mid-tread-int4-g8-stochastic"), find("absmax-mid-tread-int4-g8"), "given", 8, "drawn"
)
NEAREST = Representation(operand("int4"), operand("int8"), 8, gradients=Gradients(ROUNDED, ROUNDED))
BY_CHANCE = replace(NEAREST, gradients=Gradients(DRAWN, DRAWN))
NEAREST_PLAIN = replace(NEAREST, gradients=Gradients())
MODEL = replace(tiny.MODEL, layers=1)
RUN = tiny.run(model=MODEL, representation=BY_CHANCE)
WINDOW = jnp.asarray(np.random.default_rng(0).integers(0, 96, (4, 17)), jnp.int32)
SCALARS = RunScalars(jnp.float32(0.05), jnp.int32(20))


def after(representation, memory=AT_ONCE, fsdp=None, model=MODEL):
    """Parameters after one step, by one device, or by two of which `fsdp` share one copy."""
    run = tiny.run(model=model, representation=representation)
    program = Program.of(run, memory, 1 if fsdp is None else 2)
    state, mesh = initial_state(program, jnp.int32(7)), make_mesh(fsdp or 1, None if fsdp else jax.devices()[:1])

    def step(state, window):
        return train_chunk(program, state, window, jnp.int32(1), SCALARS)[0].params

    shardings = state_sharding(mesh, state), batch_sharding(mesh, 1)
    with jax.set_mesh(mesh):
        return jax.jit(step, in_shardings=shardings)(*jax.device_put((state, WINDOW[None]), shardings))


def same(found, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found, expected)


@pytest.mark.ci
def test_rounding_to_the_nearest_in_parts_and_on_two_devices():
    """Sequences are rounded apart, so that it does not matter which of them are where."""
    plain = after(NEAREST)
    same(after(NEAREST, Memory(microbatches=2)), plain, atol=2e-4)
    same(after(NEAREST, fsdp=1), plain, atol=2e-4)
    dense = after(replace(NEAREST, gradients=Gradients()))
    assert max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (plain, dense)), strict=True)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("gather", ["layer", "step"])
@pytest.mark.parametrize("representation", [NEAREST, BY_CHANCE], ids=["nearest", "chance"])
def test_two_devices_that_share_weights(representation, gather):
    same(after(representation, Memory(gather=gather), fsdp=2), after(representation), atol=2e-4)


@pytest.mark.slow
def test_chance_on_two_devices_and_computed_anew():
    """Numbers are drawn for all sequences at once, wherever these are."""
    plain = after(BY_CHANCE)
    same(after(BY_CHANCE, fsdp=1), plain, atol=2e-4)
    same(after(BY_CHANCE, Memory(remat=True)), plain, atol=2e-5)


@pytest.mark.slow
def test_gradients_of_one_layer():
    """By rules: layers before and behind keep theirs plain, and weights as given reach the layer that takes them."""
    given = BackwardProduct(find("absmax-mid-tread-int4-g8"), find("absmax-mid-tread-int4-g8"), "given")
    model = replace(tiny.MODEL, layers=3)
    found = {
        name: after((("layers/1/.*", replace(NEAREST, gradients=held)), (".*", NEAREST_PLAIN)), model=model)
        for name, held in (("plain", Gradients()), ("given", Gradients(given, given)))
    }
    plain, rounded = (found[name]["layers"]["mlp"]["down"]["kernel"] for name in ("plain", "given"))
    assert np.isfinite(rounded).all()
    np.testing.assert_allclose(plain[2], rounded[2], atol=1e-6)
    assert np.abs(plain[1] - rounded[1]).max() > 1e-3
    assert np.abs(plain[0] - rounded[0]).max() > 1e-4


@pytest.mark.ci
def test_resumes_to_the_same_bits(tmp_path):
    whole = tiny.train_one(RUN, tmp_path / "whole")
    assert np.isfinite(whole["row"]["loss"])
    tiny.interrupt([RUN], [tmp_path / "parts"], tiny.one_device(RUN), at=6)
    assert tiny.train_one(RUN, tmp_path / "parts")["row"] == whole["row"]


@pytest.mark.slow
def test_population_is_its_runs(tmp_path):
    runs = [replace(RUN, seed=seed) for seed in (0, 1)]
    paths = [epath.Path(tmp_path / str(run.seed)) for run in runs]
    found = train(runs, tiny.corpus(), paths, Population(RUN, jax.local_devices()), intervals=tiny.SHORT)
    for run, result in zip(runs, found, strict=True):
        alone = tiny.train_one(run, tmp_path / f"alone{run.seed}")
        assert result["row"]["loss"] == pytest.approx(alone["row"]["loss"], abs=1e-3)


def test_dense_gradients_leave_the_program_as_it_was():
    """No key is drawn and no operation is added: the same text."""

    def text(representation):
        program = Program.of(tiny.run(model=MODEL, representation=representation))
        state = jax.eval_shape(lambda: initial_state(program, jnp.int32(0)))
        return str(jax.make_jaxpr(lambda s: train_step(program, s, WINDOW, SCALARS))(state))

    assert text(DENSE) == text(Representation(gradients=Gradients()))
    assert "Factors" not in text(DENSE)
