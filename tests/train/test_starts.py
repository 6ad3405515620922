"""Formats that start at a share of training: dense steps, then compressed ones, in one program and through restarts."""

import json
from dataclasses import replace
from fractions import Fraction
from math import ceil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from support import tiny

from capscale.adapters import compress
from capscale.contraction import Contraction
from capscale.errors import UserError
from capscale.formats import grids, scalar, scale
from capscale.formats.base import Context
from capscale.formats.schedule import first_step
from capscale.models.assigned import assigned
from capscale.models.projected import values_of
from capscale.models.warm_start import started, starts_anew
from capscale.policy import Rule
from capscale.policy_names import find_policy, policy_name
from capscale.representation import DENSE, Operand, Representation, operand, weight_rows
from capscale.train.executor import Population, Sharded
from capscale.train.loop import train
from capscale.train.run import canonical_json
from capscale.train.sharding import make_mesh
from capscale.train.state import context_of
from capscale.train.step import Program, RunScalars, initial_state, train_chunk

HALF = find_policy([".*=int4 hadamard 8 starts 0.5"])
SCALARS = RunScalars(jnp.float32(0.02), jnp.int32(tiny.STEPS))
LSQ = Operand(scalar.Scalar(grids.Int(4, "twos-complement"), scale.Learned(), "matrix"))
LEARNED = (Rule("layers/0/.*", Representation(LSQ)), Rule(".*", Representation(LSQ, LSQ), starts=0.5))
CTX = Context(jnp.float32(0.5), None)


def run(**changes):
    return tiny.run(**({"representation": HALF} | changes))


def windows(steps=tiny.STEPS):
    return jnp.asarray(np.random.default_rng(5).integers(0, 96, (steps, 4, 17)), jnp.uint16)


def chunk(program):
    return jax.jit(lambda state, window, count: train_chunk(program, state, window, count, SCALARS))


def test_the_first_step_is_the_same_on_every_device():
    rng = np.random.default_rng(0)
    cases = [(int(rng.integers(1, 10_000)), int(rng.integers(1, 10**6))) for _ in range(300)]
    exact = [ceil(Fraction(part, 10_000) * steps) for part, steps in cases]
    assert [first_step(part / 10_000, steps) for part, steps in cases] == exact
    on_device = [int(first_step(part / 10_000, jnp.int32(steps))) for part, steps in cases[:40]]
    assert on_device == exact[:40]
    assert int(first_step(0.9999, jnp.int32(2**31 - 1))) == ceil(Fraction(9999, 10_000) * (2**31 - 1))


@pytest.mark.ci
def test_steps_are_those_of_the_dense_program_then_of_the_compressed_one():
    program, dense, int4 = (Program.of(each) for each in (run(), tiny.dense_run(), tiny.run()))
    phased = chunk(program)
    state, first = phased(initial_state(program, jnp.int32(0)), windows(), jnp.int32(5))
    state, second = phased(state, windows()[5:], jnp.int32(7))
    assert phased._cache_size() == 2, "one program for each length of windows, whatever is compressed"
    expected, before = chunk(dense)(initial_state(program, jnp.int32(0)), windows()[:6], jnp.int32(6))
    expected, after = chunk(int4)(expected, windows()[6:], jnp.int32(6))
    losses = np.concatenate([first["loss"][:5], second["loss"][:7]])
    np.testing.assert_allclose(losses, np.concatenate([before["loss"], after["loss"]]), rtol=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.params, expected.params)
    switched = np.concatenate([first["switched_at_step"][:5], second["switched_at_step"][:7]])
    assert [(place, value) for place, value in enumerate(switched) if np.isfinite(value)] == [(6, 7)]
    errors = np.concatenate([first["weights_error"][:5], second["weights_error"][:7]])
    assert np.flatnonzero(np.isfinite(errors)).tolist() == [6, 11]  # the first of its part, and the last of all
    assert float(state.averages["weights_error"]) == errors[6]


@pytest.mark.ci
def test_learned_scales_and_masks_start_from_the_weights_of_that_step():
    model = replace(tiny.MODEL, layers=3)
    rules = (*LEARNED[:1], Rule("layers/1/.*", Representation(operand("rigl50")), starts=0.5), LEARNED[1])
    program = Program.of(run(model=model, representation=rules))
    state = initial_state(program, jnp.int32(0))
    moved = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + 0.3 if path[-1].key == "kernel" else leaf, state.params
    )
    begins = program.phases[1].begins
    assert starts_anew(begins)
    assert not starts_anew(Program.of(run()).phases[1].begins)
    params, formats = started(
        model, begins, program.held, moved, state.formats, tokens_BT=windows()[0, :1, :-1].astype(jnp.int32), ctx=CTX
    )
    before, after, masters = values_of(state.params), values_of(params), values_of(moved)
    own = Representation(LSQ)
    for path in ("layers/mlp/up/", "layers/attention/query/"):
        name, kernel = f"{path}weights_step", masters[f"{path}kernel"]
        np.testing.assert_array_equal(after[name][0], before[name][0])  # it learns from the start on
        np.testing.assert_array_equal(after[name][1], before[name][1])
        expected = LSQ.format.initial_learned(weight_rows(kernel[2], own))
        np.testing.assert_allclose(after[name][2], expected, rtol=1e-6)
        assert after[name][2] != before[name][2]
        inputs = f"{path}activations_step"
        assert after[inputs][2] > 0
        assert after[inputs][2] != before[inputs][2]
        np.testing.assert_array_equal(after[inputs][:2], before[inputs][:2])
        np.testing.assert_array_equal(after[f"{path}kernel"], kernel)
        mask = formats[f"{path}kernel"]
        np.testing.assert_array_equal(mask[1], operand("rigl50").format.initial_state(weight_rows(kernel[1], DENSE)))
        np.testing.assert_array_equal(mask[2], state.formats[f"{path}kernel"][2])


@pytest.mark.ci
def test_scales_that_start_later_start_in_the_step_that_begins():
    """Against the dense steps, the new start and the compressed steps, each by itself."""
    program = Program.of(run(representation=LEARNED))
    dense, last = program.phases[0].program, program.last
    whole, _ = chunk(program)(initial_state(program, jnp.int32(0)), windows(), jnp.int32(tiny.STEPS))
    state, _ = chunk(dense)(initial_state(program, jnp.int32(0)), windows()[:6], jnp.int32(6))
    params, formats = started(
        program.model,
        program.phases[1].begins,
        program.held,
        state.params,
        state.formats,
        tokens_BT=windows()[6, :1, :-1].astype(jnp.int32),
        ctx=context_of(state, SCALARS),
    )
    state, _ = chunk(last)(state._replace(params=params, formats=formats), windows()[6:], jnp.int32(6))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole.params, state.params)


@pytest.fixture(scope="module", params=["int4", "learned"])
def trained(request, tmp_path_factory):
    of = run(representation={"int4": HALF, "learned": LEARNED}[request.param])
    directory = tmp_path_factory.mktemp("starts")
    return of, directory, tiny.train_one(of, directory)


def lines(directory):
    found = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [line | {"seconds": 0, "device_seconds": 0} for line in found]


@pytest.mark.ci
def test_metrics_say_where_it_switched(trained):
    _, directory, result = trained
    assert result["status"] == "ok"
    assert result["row"]["weights"] == "mixed"
    assert [line["switched_at_step"] for line in lines(directory)] == [None, None, 7, None]


@pytest.mark.ci
@pytest.mark.parametrize("at", [3, 6, 9])
def test_resumes_bit_for_bit_across_the_switch(trained, at, tmp_path):
    of, directory, result = trained
    assert tiny.interrupt([of], [tmp_path], tiny.one_device(of), at=at) == at
    assert tiny.train_one(of, tmp_path)["row"] == result["row"]
    assert lines(tmp_path) == lines(directory)


@pytest.mark.ci
def test_populations_and_devices_train_the_same(trained, tmp_path):
    of, _, alone = trained
    runs = [of, replace(of, seed=1)]
    places = [epath.Path(tmp_path / str(each.seed)) for each in runs]
    found = train(runs, tiny.corpus(), places, Population(of, jax.devices()[:1]), intervals=tiny.SHORT)
    assert found[0]["row"]["loss"] == pytest.approx(alone["row"]["loss"], abs=2e-3)
    for fsdp in (1, 2):
        place = tmp_path / f"fsdp{fsdp}"
        told = tiny.train_one(of, place, Sharded(of, make_mesh(fsdp, jax.devices()[:2])))
        assert told["row"]["loss"] == pytest.approx(alone["row"]["loss"], abs=2e-3)
        assert [line["switched_at_step"] for line in lines(place)] == [None, None, 7, None]


def test_text_and_json_say_the_start():
    assert policy_name(HALF) == ".*=int4 hadamard 8 starts 0.5"
    assert HALF[0].starts == 0.5
    assert '"starts":0.5' in canonical_json(run())
    at_once = (replace(HALF[0], starts=0.0),)
    assert run(representation=at_once).run_id == tiny.run().run_id
    assert "starts" not in canonical_json(run(representation=(Rule("layers/0/.*", DENSE), *at_once)))
    assert assigned(tiny.MODEL, HALF) == tiny.INT4


@pytest.mark.parametrize(
    ("starts", "says"),
    [
        (1.0, "starts"),
        (-0.1, "starts"),
        (0.33333, "whole ten-thousandths"),
        (True, "starts"),
    ],
)
def test_what_is_no_share_is_refused(starts, says):
    with pytest.raises(UserError, match=says):
        Rule(".*", tiny.INT4, starts=starts)


def test_starts_that_change_nothing_are_refused():
    with pytest.raises(UserError, match="is dense before and after"):
        Rule(".*", DENSE, starts=0.5)
    with pytest.raises(
        UserError, match=r"starts at 0\.95, which is step 12 of 12: nothing would be trained from there"
    ):
        run(representation=(replace(HALF[0], starts=0.95),))
    with pytest.raises(UserError, match=r"rule '\.\*=int4 starts soon': starts 'soon' is no share"):
        find_policy([".*=int4 starts soon"])
    kernel = {"kernel": jnp.ones((8, 8))}
    with pytest.raises(UserError, match=r"starts at 0\.5 of a training that is not counted here"):
        compress(kernel, (Rule(".*", Representation(operand("int4")), Contraction(0), starts=0.5),))
