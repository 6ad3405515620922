"""Two devices against one: a run over a mesh, and runs side by side as a population."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from support import tiny

from capscale.errors import UserError
from capscale.formats.base import Context
from capscale.models.projected import project_params
from capscale.representation import Representation, operand
from capscale.train.checkpoint import Checkpoints
from capscale.train.compiled import train_chunk_of_runs
from capscale.train.executor import Population, Sharded
from capscale.train.loop import LoopIntervals, train
from capscale.train.run import Optimizer
from capscale.train.sharding import make_mesh, split_as_state, state_sharding
from capscale.train.step import Program, RunScalars, initial_state, train_chunk

RUN = tiny.run()
POPULATION = [tiny.run(seed=0), tiny.run(seed=1), tiny.run(seed=1, optimizer=Optimizer(0.05))]


TOLD = ("weights_realised_error", "weights_realised_error_end", "weights_pass_rate", "weights_pass_rate_end")


def losses(directory):
    return np.array([json.loads(line)["loss"] for line in (directory / "metrics.jsonl").read_text().splitlines()])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Every run of the population trained by itself on one device: rows and losses."""
    found = []
    for run in POPULATION:
        directory = tmp_path_factory.mktemp("alone")
        found.append((tiny.train_one(run, directory)["row"], losses(directory)))
    return found


def check_close(row, found, expected):
    expected_row, expected_losses = expected
    np.testing.assert_allclose(found, expected_losses, rtol=1e-5)
    assert row["loss"] == pytest.approx(expected_row["loss"], rel=1e-4)
    for name in TOLD:
        assert row[name] == pytest.approx(expected_row[name], rel=0.02)
    results = dict.fromkeys(("loss", "loss_se", "bits_per_byte", *TOLD))
    assert row | results == expected_row | results


@pytest.mark.parametrize("fsdp", [pytest.param(1, id="data=2", marks=pytest.mark.slow), pytest.param(2, id="fsdp=2")])
def test_mesh_of_two_is_one_device(fsdp, alone, tmp_path):
    executor = Sharded(RUN, make_mesh(fsdp))
    kernel = executor.initial_state([RUN]).params["layers"]["mlp"]["up"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 8, 24 // fsdp)}
    result = tiny.train_one(RUN, tmp_path, executor)
    check_close(result["row"], losses(tmp_path), alone[0])


@pytest.mark.parametrize("runs", [[RUN], POPULATION], ids=["mesh", "population"])
def test_abstract_states_are_those_of_a_state(runs):
    executor = Population(RUN, jax.local_devices()) if len(runs) > 1 else Sharded(RUN, make_mesh(2))
    states = executor.unstack(executor.initial_state(runs), runs)

    def described(leaf):
        return leaf.shape, leaf.dtype, getattr(leaf, "sharding", None)

    assert jax.tree.map(described, executor.abstract_states(runs)) == jax.tree.map(described, states)


def test_projected_weights_stay_split_and_so_does_their_gradient():
    """Each device has its half of both: gathered, they would take more than all that is split."""
    w = jnp.arange(32.0).reshape(8, 4)

    def both(w):
        value, pull = jax.vjp(lambda w: split_as_state({"w": 2 * w})["w"], w)
        return value, *pull(jnp.ones_like(value))

    assert all(y.is_fully_replicated for y in jax.jit(both)(w))
    mesh = make_mesh(2)
    with jax.set_mesh(mesh):
        found = jax.jit(both)(w)
    assert [{shard.data.shape for shard in y.addressable_shards} for y in found] == [{(4, 4)}, {(4, 4)}]


@pytest.mark.slow
def test_run_goes_on_over_other_devices(alone, tmp_path):
    """A checkpoint does not remember how its arrays were laid out."""
    tiny.interrupt([RUN], [tmp_path], Sharded(RUN, make_mesh(2)), at=6)
    result = tiny.train_one(RUN, tmp_path)
    assert result["timing"]["resumed_from_step"] == 6
    check_close(result["row"], losses(tmp_path), alone[0])


@pytest.mark.ci
def test_projected_weights_and_masks_are_the_same_bit_for_bit():
    """Sharded over either axis, int4 weights and the gradients that their estimator lets through."""
    program = Program.of(RUN)
    params = jax.jit(lambda: initial_state(program, jnp.int32(0)).params)()

    @jax.jit
    def held_and_pulled(params):
        held, pull = jax.vjp(lambda p: project_params(p, program.representation, Context(jnp.float32(0))), params)
        return held, pull(jax.tree.map(jnp.ones_like, held))

    split = jax.device_put(params, state_sharding(make_mesh(2), params))
    jax.tree.map(np.testing.assert_array_equal, held_and_pulled(split), held_and_pulled(params))


@pytest.mark.ci
def test_population_is_its_runs(alone, tmp_path):
    """Three runs over two devices: seeds and learning rates of their own."""
    directories = [tmp_path / str(number) for number in range(3)]
    executor = Population(POPULATION[0], jax.local_devices())
    results = train(POPULATION, tiny.corpus(), list(map(epath.Path, directories)), executor, intervals=tiny.SHORT)
    for result, directory, expected in zip(results, directories, alone, strict=True):
        check_close(result["row"], losses(directory), expected)
    assert len({result["row"]["loss"] for result in results}) == 3


@pytest.mark.ci
def test_population_skips_what_is_not_due():
    """Work of every few steps is a branch: mapped over runs with a step of each, both would be computed."""
    run = tiny.run(representation=Representation(operand("rigl50")))
    program, runs = Program.of(run), 2

    def branches(train_chunk):
        state = jax.eval_shape(jax.vmap(partial(initial_state, program)), jnp.arange(runs))
        window = jax.ShapeDtypeStruct((runs, 3, run.batch, run.model.context + 1), jnp.int32)
        scalars = RunScalars(jax.ShapeDtypeStruct((runs,), jnp.float32), jax.ShapeDtypeStruct((runs,), jnp.int32))
        traced = jax.make_jaxpr(train_chunk)(state, window, jnp.int32(3), scalars)
        return str(traced).count(" cond[")

    matrices = len(jax.tree.leaves(jax.eval_shape(partial(initial_state, program), jnp.int32(0)).formats))
    assert branches(partial(train_chunk_of_runs, program)) == 1 + matrices
    assert branches(jax.vmap(partial(train_chunk, program), in_axes=(0, 0, None, 0))) == 0


def rows_of(results):
    return [result["row"] for result in results]


@pytest.mark.slow
def test_interrupted_population_resumes_exactly_and_remembers_who_diverged(tmp_path):
    runs = [tiny.run(seed=0), tiny.run(seed=1, optimizer=Optimizer(1e30)), tiny.run(seed=2)]
    executor = Population(runs[0], jax.local_devices())
    undisturbed = [epath.Path(tmp_path) / f"undisturbed-{number}" for number in range(3)]
    disturbed = [epath.Path(tmp_path) / f"disturbed-{number}" for number in range(3)]
    expected = train(runs, tiny.corpus(), undisturbed, executor, intervals=tiny.SHORT)
    assert [result["status"] for result in expected] == ["ok", "diverged", "ok"]

    tiny.interrupt(runs, disturbed, executor, at=6)
    with Checkpoints(disturbed[2] / "checkpoints") as ahead:  # one of them got further before a kill
        ahead.save(10, executor.unstack(executor.initial_state(runs), runs)[2])
    results = train(runs, tiny.corpus(), disturbed, executor, intervals=tiny.SHORT)
    assert results[0]["timing"]["resumed_from_step"] == 6
    assert rows_of(results) == rows_of(expected)
    for directory in disturbed:
        with Checkpoints(directory / "checkpoints") as checkpoints:
            assert checkpoints.steps() == [12, 9]


@pytest.mark.slow
def test_population_ends_when_all_have_diverged(tmp_path):
    runs = [tiny.run(seed=seed, optimizer=Optimizer(1e30)) for seed in range(3)]
    directories = [epath.Path(tmp_path) / str(number) for number in range(3)]
    executor = Population(runs[0], jax.local_devices())
    results = train(runs, tiny.corpus(), directories, executor, intervals=LoopIntervals(chunk=3, checkpoint_s=100))
    assert {result["status"] for result in results} == {"diverged"}
    assert len(losses(directories[0])) < 4


def test_devices_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match=r"fsdp=3 does not divide the 2 devices; use a divisor"):
        make_mesh(3)
    with pytest.raises(UserError, match="fsdp=0"):
        make_mesh(0)
    with pytest.raises(UserError, match=r"batch=3 sequences do not split over 1 micro-batches on 2 devices"):
        Sharded(tiny.run(batch=3), make_mesh())
