"""Decoders rounded by policies and in their cache: against weights projected by hand, and runs trained so."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from capscale.checkpoints.evaluation import WindowLosses, evaluated
from capscale.checkpoints.post_training import rounded
from capscale.checkpoints.rounding import Asked, in_format, under_policy
from capscale.checkpoints.source import read_source
from capscale.cli import main
from capscale.errors import UserError
from capscale.formats.base import NO_CONTEXT
from capscale.formats.catalog import find
from capscale.models.decoder import Decoder
from capscale.policy_names import find_policy, policy_name
from capscale.representation import DENSE, Representation, operand

pytestmark = pytest.mark.ci

RULES = ("layers/0/mlp/.*=int2", "embedding=int8", "layers/1/attention/(key|value)/.*=int3 cache keys int2 values int3")
POLICY = find_policy([*RULES, ".*=int4 hadamard 8"])


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    directory = tmp_path_factory.mktemp("dense")
    tiny.train_one(tiny.run(representation=DENSE, tokens=200 * 64), directory)
    return read_source(directory)


@pytest.fixture(scope="module")
def sharp(dense):
    """Its attention looks at few tokens, so that errors of keys and values tell."""

    def larger(path, leaf):
        return 40 * leaf if "attention" in path[1].key and path[-1].key == "kernel" else leaf

    return dense._replace(
        params=jax.tree_util.tree_map_with_path(lambda p, w: w if len(p) < 3 else larger(p, w), dense.params)
    )


def loss_of(model, params, inputs=DENSE):
    windows, _ = tiny.corpus().validation(model.context)
    losses = jax.jit(
        lambda p, w: jnp.mean(Decoder(model, inputs).apply({"params": p}, w, NO_CONTEXT, 16, method="losses"))
    )
    return float(np.mean([losses(params, jnp.asarray(window[None], jnp.int32)) for window in windows]))


def by_hand(params):
    """Every matrix of `POLICY`, one at a time: which format it is in is written out here once more."""

    def held(path, leaf):
        name = "/".join(key.key for key in path)
        if name == "embedding":
            return find("int8").project(leaf, NO_CONTEXT).value
        if not name.endswith("kernel"):
            return leaf
        layers = []
        for layer, w in enumerate(leaf):
            if layer == 0 and "mlp" in name:
                layers.append(find("int2").project(w.T, NO_CONTEXT).value.T)
            elif layer == 1 and ("key/" in name or "value/" in name):
                layers.append(find("int3").project(w.T, NO_CONTEXT).value.T)
            else:
                turned = Representation(operand("int4"), hadamard=8)
                layers.append(project_by(turned, w))
        return jnp.stack(layers)

    return jax.tree_util.tree_map_with_path(held, params)


def project_by(representation, w):
    """One matrix rotated by a Hadamard matrix in numpy, rounded, and rotated back."""
    h = np.array([[1.0]])
    for _ in range(3):
        h = np.block([[h, h], [h, -h]])
    turn = np.kron(np.eye(w.shape[0] // 8), h / np.sqrt(8))
    rows = jnp.asarray(np.asarray(w, np.float64).T @ turn, jnp.float32)
    return jnp.asarray(np.asarray(representation.weights.format.project(rows, NO_CONTEXT).value, np.float64) @ turn).T


def test_each_matrix_is_rounded_as_its_rule_says(dense):
    held, expected = under_policy(dense, POLICY).held(), by_hand(dense.params)
    for (path, ours), theirs in zip(jax.tree_util.tree_leaves_with_path(held), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6, err_msg=str(path))
    assert np.abs(held["embedding"] - dense.params["embedding"]).max() > 1e-4


def test_losses_before_and_after(sharp):
    dense = sharp
    trained, alone, after = rounded(dense, Asked([find("int4")], POLICY), tiny.corpus())
    assert trained.loss == pytest.approx(loss_of(dense.model, dense.params), rel=1e-6)
    assert (alone.weights, alone.policy, after.weights, after.policy) == ("int4", "", "mixed", policy_name(POLICY))
    cached = Representation(keys=operand("int2", per_token=True), values=operand("int3", per_token=True))
    layers = (("layers/1/attention/(key|value)/.*", cached), (".*", DENSE))
    assert after.loss == pytest.approx(loss_of(dense.model, by_hand(dense.params), layered(dense, layers)), rel=1e-5)
    assert after.rise == pytest.approx(after.loss - trained.loss, rel=1e-6)
    assert (trained.cache, after.cache) == ("dense", "mixed")
    assert [tensor.path for tensor in after.tensors if tensor.path == "embedding"] == ["embedding"]
    sizes = {name: inputs * outputs for name, (inputs, outputs) in dense.model.projections.items()}
    bits = {"int2": 2 * sizes["up"] + 2 * sizes["gate"] + 2 * sizes["down"], "int3": 3 * 2 * sizes["key"]}
    rest = 4 * (2 * sum(sizes.values()) - sizes["up"] - sizes["gate"] - sizes["down"] - 2 * sizes["key"])
    assert after.bits == pytest.approx((sum(bits.values()) + rest) / (2 * sum(sizes.values())))


def layered(source, policy):
    from capscale.models.assigned import assigned

    return assigned(source.model, policy)


def test_a_cache_alone_and_with_weights(sharp):
    dense = sharp
    keys, values = operand("int3", per_token=True), operand("int2", per_token=True)
    trained, cache, both = rounded(dense, Asked([find("int4")], keys=keys, values=values), tiny.corpus())
    held = Representation(keys=keys, values=values)
    assert cache.loss == pytest.approx(loss_of(dense.model, dense.params, held), rel=1e-6)
    weights = in_format(dense, find("int4")).held()
    assert both.loss == pytest.approx(loss_of(dense.model, weights, held), rel=1e-6)
    assert (trained.cache, cache.cache, both.cache) == ("dense", "keys int3 values int2", "keys int3 values int2")
    assert (cache.weights, cache.gmse, cache.error) == ("dense", 0, 0)
    assert abs(cache.rise) > 1e-5
    _, turned = rounded(dense, Asked(keys=keys, values=values, hadamard=8), tiny.corpus())
    rotated = Representation(keys=keys, values=values, hadamard=8)
    assert turned.loss == pytest.approx(loss_of(dense.model, dense.params, rotated), rel=1e-6)
    assert turned.loss != cache.loss


def test_a_run_under_a_policy_is_measured_and_rounded_anew(tmp_path):
    """Its own policy gives the loss of its result; what rules leave dense of inputs stays as it was trained."""
    policy = find_policy(["layers/0/.*=int4 x int8", ".*=int3 cache int4"])
    result = tiny.train_one(tiny.run(representation=policy), tmp_path)
    source = read_source(tmp_path)
    found = evaluated(source, tiny.corpus())
    assert found.loss == pytest.approx(result["row"]["loss"], rel=2e-6)
    assert (found.weights, found.activations, found.cache) == (policy_name(policy), "mixed", "mixed")
    asked = Asked([find("int2")], find_policy(["layers/1/.*=int4 x int4", ".*=int3"]), keys=operand("int8"))
    trained, one, other = rounded(source, asked._replace(keys=None), tiny.corpus())
    assert (trained.loss, trained.rise) == (found.loss, 0)
    assert (one.weights, one.activations, one.cache) == ("int2", "mixed", "mixed")
    first, second = under_policy(source, asked.policy).inputs.layers
    assert first.of("up").activations.format == find("int8")
    assert first.of("up").keys.is_dense
    assert (second.of("up").activations.format, second.of("key").keys.format) == (find("int4"), find("int4"))
    masters = source._replace(weights=DENSE, inputs=under_policy(source, asked.policy).inputs)
    held = under_policy(masters, asked.policy).held()
    windows, _ = tiny.corpus().validation(source.model.context)
    assert other.loss == pytest.approx(WindowLosses(masters, windows)(held).mean(), rel=1e-9)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (["layers/7/.*=int8", ".*=int4"], "rule 'layers/7/.*' matches no parameter"),
        (["layers/0/.*=int8"], "no rule covers layers/1/"),
        (["layers/0/.*=lsq4", ".*=int4"], "lsq4 is learned in training"),
        (["layers/0/.*=int4 x lsq8", ".*=int4"], "lsq8 is learned in training"),
    ],
)
def test_policies_that_it_cannot_have_are_refused(dense, rules, message):
    with pytest.raises(UserError, match=message):
        list(rounded(dense, Asked(policy=find_policy(rules)), tiny.corpus()))


def test_inputs_that_are_rotated_otherwise_are_refused(dense):
    source = dense._replace(inputs=Representation(activations=operand("int8", per_token=True), hadamard=8))
    with pytest.raises(UserError, match="inputs are rotated in blocks of 8, and the policy says 4"):
        under_policy(source, find_policy(["layers/0/.*=int2 hadamard 4", ".*=int4"]))
    with pytest.raises(UserError, match=r"keys.* would let one token see others"):
        list(rounded(source, Asked(keys=operand("int4-matrix")), tiny.corpus()))


def test_the_command_takes_the_file_that_allocate_writes(dense, tmp_path, capsys):
    (tmp_path / "tiny").write_bytes(tiny.text())
    text, rules = ["--text", str(tmp_path / "tiny")], str(tmp_path / "rules.txt")
    run = str(dense.path)
    assert main(["allocate", run, *text, "--bits", "9", "--weights", "int2", "int8", "--policy", rules, "--json"]) == 0
    allocated = json.loads(capsys.readouterr().out)["mixtures"][0]
    words = ["quantize", run, *text, "--policy", rules, "--weights", "int8"]
    assert main([*words, "--csv", str(tmp_path / "out.csv"), "--json"]) == 0
    (content,) = json.loads(capsys.readouterr().out)
    uniform, mixed = content["rounded"]
    assert (uniform["weights"], mixed["weights"]) == ("int8", "mixed")
    assert mixed["rise"] == pytest.approx(allocated["rise"], rel=1e-5, abs=1e-7)
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["weights"], row["policy"] != "") for row in rows] == [
        ("dense", False),
        ("int8", False),
        ("mixed", True),
    ]
    assert main(["quantize", run, *text, "--policy", "layers/0/.*=int2", ".*=int4", "--keys", "int4"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "policy: layers/0/.*=int2; .*=int4" in out
    assert "keys int4" in out
    assert main(["quantize", run, *text, "--policy", "nowhere.txt"]) == 2
    assert "'nowhere.txt' is no rule; use PATTERN" in capsys.readouterr().err
    assert main(["describe", "--model", "nano-16", "--policy", rules, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["policy"].count("=") == 2
