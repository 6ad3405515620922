"""Runs that train stored numbers: steps, resumption, devices, rows, checkpoints; and what no model can have."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from support import tiny

from capscale.adapters import compress
from capscale.checkpoints.evaluation import evaluated
from capscale.checkpoints.source import read_source
from capscale.cli import main
from capscale.errors import UserError
from capscale.formats.base import Context
from capscale.models.assigned import assigned
from capscale.models.coverage import parameters
from capscale.models.decoder import Decoder
from capscale.models.initial import initial_params
from capscale.models.parametrized import counted, with_matrices
from capscale.models.projected import kernels_of, project_params, values_of
from capscale.parametrizations import LowRank, Monarch, Shared
from capscale.policy import Rule
from capscale.policy_names import find_policy, find_representation
from capscale.representation import ProjectedWeight, Representation, linear
from capscale.train.executor import Sharded
from capscale.train.loop import train
from capscale.train.losses import loss_and_gradient
from capscale.train.program import Program
from capscale.train.record import result_row
from capscale.train.sharding import make_mesh
from capscale.train.state import RunScalars, initial_state
from capscale.train.step import train_step

SHARED = Representation(parametrization=Shared(4))
MIXED = find_policy([".*/attention/.*=shared2", ".*/down/.*=int4", ".*=lowrank0.5 x int8"])
CTX = Context(jnp.float32(1))
TOKENS = jnp.asarray(np.random.default_rng(1).integers(0, 96, (4, 17)), jnp.int32)


@pytest.mark.ci
@pytest.mark.parametrize("policy", [SHARED, MIXED], ids=["lone", "policy"])
def test_a_step_moves_stored_numbers_by_the_transpose_of_their_map(policy):
    """Gradients that a step takes, against those of the dense model at the same matrices through the same maps.

    And a model called with stored numbers computes what it does with the matrices that they make.
    """
    held, program = assigned(tiny.MODEL, policy), Program.of(tiny.run(representation=policy))
    params = initial_state(program, jnp.int32(0)).params
    matrices = with_matrices(params, tiny.MODEL, held)
    projected = project_params(matrices, held, CTX)
    apart, at_once = (Decoder(tiny.MODEL, held).apply({"params": p}, TOKENS, CTX) for p in (params, projected))
    np.testing.assert_array_equal(apart, at_once)
    _, of_matrices = loss_and_gradient(program, projected, TOKENS, CTX)
    _, pull = jax.vjp(lambda p: project_params(with_matrices(p, tiny.MODEL, held), held, CTX), params)
    (of_stored,) = pull(of_matrices)
    g = values_of(of_matrices)["layers/attention/query/kernel"]
    own = Shared(4 if policy == SHARED else 2)
    for layer in range(tiny.MODEL.layers):
        stored = params["layers"]["attention"]["query"]["kernel"]["shared"][layer]
        ones = jax.vmap(lambda e: own.value({"shared": e}, (8, 8)))(jnp.eye(stored.size).reshape(-1, *stored.shape))
        expected = np.einsum("kio,io->k", np.asarray(ones, np.float64), np.asarray(g[layer], np.float64))
        found = of_stored["layers"]["attention"]["query"]["kernel"]["shared"][layer]
        np.testing.assert_allclose(np.asarray(found).ravel(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.ci
def test_decay_and_the_optimizer_see_what_is_stored():
    """A first step of weight decay alone shrinks stored numbers, and their matrix with them."""
    run = tiny.run(representation=SHARED)
    program = Program.of(replace(run, optimizer=replace(run.optimizer, weight_decay=1e6)))
    state = initial_state(program, jnp.int32(0))
    scalars = RunScalars(jnp.float32(1e-6), jnp.int32(1))
    moved, metrics = jax.jit(train_step, static_argnums=0)(program, state, TOKENS, scalars)
    before, after = (values_of(each.params)["layers/mlp/up/kernel/shared"] for each in (state, moved))
    assert float(jnp.abs(after).mean() / jnp.abs(before).mean()) < 0.9
    assert (float(metrics["weights_error"]), float(metrics["mask_pass_rate"])) == (0, 1)


@pytest.mark.ci
@pytest.mark.parametrize("policy", [SHARED, MIXED], ids=["lone", "policy"])
def test_stopped_goes_on_bit_for_bit_and_its_checkpoint_evaluates(policy, tmp_path):
    run = tiny.run(representation=policy)
    whole = tiny.train_one(run, tmp_path / "whole")
    tiny.interrupt([run], [tmp_path / "parts"], tiny.one_device(run), at=6)
    assert tiny.train_one(run, tmp_path / "parts")["row"] == whole["row"]
    found = evaluated(read_source(tmp_path / "whole"), tiny.corpus())
    assert found.loss == pytest.approx(whole["row"]["loss"], rel=2e-6)
    kernels = kernels_of(read_source(tmp_path / "whole").params)
    assert {path: kernel.shape[1:] for path, kernel in kernels.items()} == {
        f"layers/{'attention' if name in ('query', 'key', 'value', 'out') else 'mlp'}/{name}/kernel": shape
        for name, shape in tiny.MODEL.projections.items()
    }


@pytest.mark.ci
def test_devices_that_share_stored_numbers_train_alike(tmp_path):
    """Two devices with a half of the stored arrays each, and with all of them, against one."""
    run = tiny.run(representation=MIXED)
    one = tiny.train_one(run, tmp_path / "one")["row"]["loss"]
    for fsdp in (1, 2):
        executor = Sharded(run, make_mesh(fsdp, jax.devices()[:2]))
        (result,) = train([run], tiny.corpus(), [epath.Path(tmp_path / f"{fsdp}")], executor, intervals=tiny.SHORT)
        assert result["row"]["loss"] == pytest.approx(one, rel=1e-5)


def test_counts_are_honest_and_n_is_the_dense_shapes():
    run, dense = tiny.run(representation=SHARED), tiny.dense_run()
    row = result_row(run, 2.0, 0.1, 1.0)
    assert (row["weights"], row["weights_gmse"], row["N"]) == ("shared4", 0.75, dense.non_embedding_parameters)
    matrices = sum(a * b for a, b in tiny.MODEL.projections.values()) * tiny.MODEL.layers
    assert row["stored_numbers"] == row["N"] - matrices + matrices // 4
    assert "stored_numbers" not in result_row(dense, 2.0, 0.1, 1.0)
    assert result_row(tiny.run(representation=MIXED), 2.0, 0.1, 1.0)["weights"] == "mixed"
    kernels = [leaf for leaf in parameters(tiny.MODEL, SHARED) if leaf.path.endswith("kernel")]
    assert {(leaf.format, leaf.bits) for leaf in kernels} == {("shared4", 4.0)}
    assert sum(leaf.size for leaf in kernels) == counted(tiny.MODEL, SHARED).entries == matrices
    stored = jax.eval_shape(lambda key: initial_params(tiny.MODEL, SHARED, key), jax.random.key(0))["layers"]
    arrays = [leaf for part in ("attention", "mlp") for leaf in jax.tree.leaves(stored[part])]
    assert sum(leaf.size for leaf in arrays) == counted(tiny.MODEL, SHARED).stored


def test_a_run_has_an_id_of_its_own_and_dense_ones_keep_theirs():
    ids = {tiny.run(representation=Representation(parametrization=p)).run_id for p in (Shared(4), Shared(2), None)}
    assert len(ids) == 3
    assert tiny.run(representation=Representation(parametrization=None)).run_id == tiny.dense_run().run_id


def test_a_lone_product_takes_the_matrix_that_is_made():
    x, stored = jnp.ones((3, 8)), Shared(4).init(jax.random.key(0), (8, 6), 1.0)
    made = ProjectedWeight(Shared(4).value(stored, (8, 6)))
    np.testing.assert_array_equal(linear(x, made, SHARED), linear(x, made.value))
    with pytest.raises(UserError, match="weights of shared4 are made of stored numbers"):
        linear(x, made.value, SHARED)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Representation(parametrization=LowRank(9)), "lowrank-r9 of a matrix of 8 inputs and 8 outputs: rank=9"),
        (Representation(parametrization=Shared(3)), "share=3 does not divide the inputs"),
        ([".*/query/.*=monarch5", ".*=dense"], r"layers/\*/attention/query/kernel: monarch5 .*blocks=5"),
        (["layers/0/mlp/.*=shared2", ".*=dense"], r"layers/\*/mlp/gate/kernel: layers store dense and shared2"),
        (["embedding=shared2", ".*=dense"], "embedding: shared2 is of linear layers"),
        ([".*mlp.*=shared2", ".*=int4 starts 0.5"], r"shared2 stores other numbers .* starts at 0.5"),
        ([".*=shared2 starts 0.5"], r"shared2 stores other numbers .* starts at 0.5"),
    ],
)
def test_what_a_model_cannot_have_is_refused_by_name(policy, words):
    rules = policy if isinstance(policy, Representation) else find_policy(policy)
    with pytest.raises(UserError, match=words):
        tiny.run(representation=rules)


def test_models_of_others_are_refused():
    with pytest.raises(UserError, match="shared4 stores other numbers than the matrix"):
        compress({"kernel": jnp.ones((8, 8))}, (Rule(".*", SHARED, 0),))


def test_describe_says_what_is_stored(capsys):
    assert main(["describe", "--model", "nano-16", "--weights", "shared4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    run = tiny.run(model=replace(tiny.MODEL, width=16), representation=SHARED)
    assert told["stored_numbers"] == result_row(run, 2.0, 0.1, 1.0)["stored_numbers"] < told["non_embedding_parameters"]
    assert main(["describe", "--model", "nano-16", "--policy", ".*mlp.*=nola0.25-r4", ".*=monarch4"]) == 0
    said = capsys.readouterr().out
    for words in ("numbers are stored", "unknown of weights", "nola0.25-r4"):
        assert words in said
    assert find_representation("monarch4").parametrization == Monarch(4)
