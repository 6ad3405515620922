"""Weights rounded after training: losses against those of results, errors and rises against brute force."""

import csv
import io
import json
from contextlib import closing
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from capscale.checkpoints.post_training import Refused, Rounded, proportion, rounded
from capscale.checkpoints.rounding import Asked
from capscale.checkpoints.source import read_source
from capscale.cli import main
from capscale.cli.trained import _side_by_side
from capscale.data.corpus import byte_corpus
from capscale.errors import UserError
from capscale.formats.base import NO_CONTEXT
from capscale.formats.catalog import find
from capscale.gaussian_mse import gmse
from capscale.models.decoder import Decoder
from capscale.models.projected import kernels_of
from capscale.representation import DENSE, Representation, operand

pytestmark = pytest.mark.ci

BOTH = Representation(operand("int4"), operand("int8", per_token=True), hadamard=8)


def trained(directory, representation):
    result = tiny.train_one(tiny.run(representation=representation), directory)
    return read_source(directory), result["row"]


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("dense"), DENSE)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Weights and activations compressed in a rotated basis."""
    return trained(tmp_path_factory.mktemp("both"), BOTH)


def losses(model, params):
    """Of every held-out window, one at a time."""
    windows, _ = tiny.corpus().validation(model.context)
    apply = jax.jit(lambda window: Decoder(model).apply({"params": params}, window[None, :-1], NO_CONTEXT)[0])
    found = []
    for window in windows.astype(np.int32):
        logp = jax.nn.log_softmax(apply(jnp.asarray(window)))
        found.append(-np.mean(np.asarray(logp)[np.arange(len(window) - 1), window[1:]]))
    return np.array(found, np.float64)


@pytest.mark.parametrize("name", ["dense", "both"])
def test_the_loss_as_trained_is_that_of_the_result(name, request):
    source, row = request.getfixturevalue(name)
    (found,) = rounded(source, Asked([]), tiny.corpus())
    assert found.loss == pytest.approx(row["loss"], rel=2e-6)
    assert found.loss_se == pytest.approx(row["loss_se"], rel=1e-4)
    assert (found.rise, found.rise_se) == (0, 0)
    assert found.weights == row["weights"]


def test_rounding_by_hand(dense):
    """Kernels projected one by one, along their inputs, and evaluated window by window."""
    source, _ = dense
    _, found = rounded(source, Asked([find("int2")]), tiny.corpus())
    wrong = energy = 0.0

    def project(path, leaf):
        nonlocal wrong, energy
        if path[-1].key != "kernel":
            return leaf
        rows = jnp.swapaxes(leaf, -1, -2)
        held = jnp.swapaxes(jnp.stack([find("int2").project(layer, NO_CONTEXT).value for layer in rows]), -1, -2)
        wrong += float(jnp.sum(jnp.square(held - leaf)))
        energy += float(jnp.sum(jnp.square(leaf)))
        return held

    by_hand = jax.tree_util.tree_map_with_path(project, source.params)
    before, after = losses(source.model, source.params), losses(source.model, by_hand)
    assert found.error == pytest.approx(wrong / energy, rel=1e-4)
    assert found.loss == pytest.approx(after.mean(), rel=1e-5)
    assert found.rise == pytest.approx((after - before).mean(), rel=1e-3, abs=1e-6)
    assert (found.gmse, found.bits) == (gmse(find("int2")).value, find("int2").bits)


def test_two_decoders_side_by_side_are_as_one_after_the_other(dense, both):
    sources, asked = [dense[0], both[0]] * 2, Asked([find("int4"), find("int2")])

    def measure(source):
        return list(rounded(source, asked, tiny.corpus()))

    with closing(_side_by_side(measure, sources)) as found:
        assert list(found) == [measure(source) for source in sources]


def test_every_matrix_by_itself(dense):
    source, _ = dense
    _, found = rounded(source, Asked([find("int4")]), tiny.corpus())
    kernels = kernels_of(source.params)
    assert [(t.path, t.layer) for t in found.tensors] == [(path, layer) for path in kernels for layer in range(2)]
    energies = [float(np.square(np.asarray(w)[layer]).sum()) for w in kernels.values() for layer in range(2)]
    errors = [t.error for t in found.tensors]
    assert np.average(errors, weights=energies) == pytest.approx(found.error, rel=1e-5)
    first = np.asarray(next(iter(kernels.values())), np.float64)[0]
    z = (first - first.mean()) / first.std()
    assert found.tensors[0].excess_kurtosis == pytest.approx((z**4).mean() - 3)


def test_a_worse_format_costs_more_and_a_rotation_is_undone(dense):
    source, _ = dense
    _, fine, coarse = rounded(source, Asked([find("int8"), find("int1")]), tiny.corpus())
    assert coarse.rise > 10 * abs(fine.rise)
    assert 0 < coarse.rise_se < coarse.loss_se
    _, rotated = rounded(source, Asked([find("int8")], hadamard=8), tiny.corpus())
    assert rotated.loss == pytest.approx(fine.loss, abs=1e-3)
    assert rotated.error != fine.error


def test_formats_that_cannot_hold_a_row_are_told(dense):
    source, _ = dense
    _, refused, held = rounded(source, Asked([find("mxfp4"), find("int4")]), tiny.corpus())
    assert refused == Refused("mxfp4", refused.reason)
    assert "group=32 does not divide 8" in refused.reason
    assert held.weights == "int4"


@pytest.mark.parametrize("name", ["lsq4", "rigl50"])
def test_formats_that_training_moves_are_refused(name, dense):
    with pytest.raises(UserError, match="learned in training, or moves with it"):
        list(rounded(dense[0], Asked([find(name)]), tiny.corpus()))


def test_texts_and_rotations_that_are_not_the_runs_are_refused(dense, both):
    with pytest.raises(UserError, match=r"was trained on tiny \(sha256 .*name the run's by --text"):
        list(rounded(dense[0], Asked([]), byte_corpus(tiny.text()[::-1], "tiny")))
    narrow = dense[0]._replace(data=None, model=replace(dense[0].model, vocabulary=64))
    with pytest.raises(UserError, match=r"the text has 96 symbols, and .* knows 64"):
        list(rounded(narrow, Asked([]), tiny.corpus()))
    with pytest.raises(UserError, match="rotated in blocks of 8; leave --hadamard out"):
        list(rounded(both[0], Asked([find("int4")], hadamard=4), tiny.corpus()))


def test_rises_as_a_multiple_of_gmse():
    def row(name, gmse, rise, rise_se=1e-4):
        return Rounded(name, 4.0, gmse, gmse, 2.0 + rise, 0.01, rise, rise_se, ())

    rows = [row("a", 0.01, 0.05), row("b", 0.1, 0.4), row("c", 0.001, 0.0002, 0.0001), row("d", 0.0, 0.0)]
    trained = row("dense", 0.0, 0.0)
    found = proportion([trained, *rows])
    assert found is not None
    assert found.slope == pytest.approx(np.sqrt(5 * 4))  # c is within three standard errors of nothing, d has no error
    assert found.factor == pytest.approx(np.sqrt(5 / 4))
    assert found.formats == 2
    far = proportion([trained, *rows, row("e", 0.1, 4.0)])
    assert far is not None
    assert (far.farthest, far.formats) == ("e", 3)
    assert proportion([trained, *rows[:1]]) is None
    others = [each._replace(cache="int4") for each in rows]
    assert proportion([trained, *others]) is None, "what the cache costs is no rise of the weights'"


def test_the_command(dense, both, tmp_path, capsys):
    (tmp_path / "tiny").write_bytes(tiny.text())
    text = ["--text", str(tmp_path / "tiny")]
    runs = [str(dense[0].path), str(both[0].path)]
    formats = ["--weights", "int4", "int2", "mxfp4"]
    assert main(["quantize", *runs, *formats, *text, "--csv", str(tmp_path / "out.csv")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"{dense[0].path.name}: trained in dense, loss {dense[1]['loss']:.4f}" in " ".join(out.split())
    assert "trained in int4 (Hadamard 8)" in " ".join(out.split())
    assert "not rounded to mxfp4: group=32 does not divide 8" in out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [row["weights"] for row in rows] == ["dense", "int4", "int2", "int4", "int4", "int2"]
    assert {row["N"] for row in rows} == {str(dense[0].model.non_embedding_parameters)}
    assert {row["D"] for row in rows} == {str(dense[0].tokens)} == {"768"}

    assert main(["quantize", runs[0], *formats, *text, "--json"]) == 0
    (content,) = json.loads(capsys.readouterr().out)
    assert content["trained"]["loss"] == pytest.approx(dense[1]["loss"], rel=2e-6)
    assert [row["weights"] for row in content["rounded"]] == ["int4", "int2"]
    assert float(rows[1]["rise"]) == pytest.approx(content["rounded"][0]["rise"])
    assert list(content["refused"]) == ["mxfp4"]
    one = content["proportion"]
    assert f"rise = {one['slope']:.3g} x GMSE, within a factor of {one['factor']:.2f}" in " ".join(out.split())

    assert main(["quantize", runs[0], "--weights", "int4"]) == 2
    assert "was trained on tiny" in capsys.readouterr().err
    assert main(["quantize", *text]) == 2
    assert "name the directories of runs" in capsys.readouterr().err
