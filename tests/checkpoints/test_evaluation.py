"""Checkpoints evaluated as they are: the losses of results come out again, whatever the formats."""

import csv
import io
import json
import shutil
from dataclasses import replace

import jax
import pytest
from support import tiny

from capscale.checkpoints.evaluation import evaluated
from capscale.checkpoints.source import read_source
from capscale.cli import main
from capscale.data.corpus import byte_corpus
from capscale.errors import UserError
from capscale.representation import DENSE, Representation, operand
from capscale.train.loop import LoopIntervals
from capscale.train.run import Optimizer

pytestmark = pytest.mark.ci

FORMATS = {
    "dense": DENSE,
    "rotated": Representation(operand("int4"), operand("int8", per_token=True), hadamard=8),
    "noise": Representation(operand("noise2-matrix"), operand("noise4", per_token=True)),
    "learned": Representation(operand("lsq4")),
}


LATER = [pytest.param(name, marks=pytest.mark.ci) for name in ("rotated", "learned")]


@pytest.fixture(scope="module", params=["dense", "noise", *LATER])
def trained(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    return directory, tiny.train_one(tiny.run(representation=FORMATS[request.param]), directory)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    directory = tmp_path_factory.mktemp("one")
    return directory, tiny.train_one(tiny.dense_run(), directory)


def test_the_loss_is_that_of_the_result(trained):
    """Of noise the draw is that of the run's own evaluation."""
    directory, result = trained
    found = evaluated(read_source(directory), tiny.corpus())
    row = result["row"]
    assert found.loss == pytest.approx(row["loss"], rel=2e-6)
    assert found.loss_se == pytest.approx(row["loss_se"], rel=1e-4)
    assert found.bits_per_byte == pytest.approx(row["bits_per_byte"], rel=2e-6)
    assert (found.weights, found.activations) == (row["weights"], row["activations"])
    assert (found.step, found.said) == (tiny.STEPS, row["loss"])
    assert found.agrees


def test_an_earlier_checkpoint_is_another_model(dense):
    directory = dense[0]
    last, earlier = (evaluated(read_source(directory, step), tiny.corpus()) for step in (None, 9))
    assert earlier.step == 9
    assert earlier.said is None
    assert earlier.loss > last.loss + 1e-3
    with pytest.raises(UserError, match="no checkpoint of step 6 kept; there are 12, 9"):
        read_source(directory, 6)


def test_another_loss_than_the_results_is_told(dense):
    source = read_source(dense[0])
    moved = source._replace(params=jax.tree.map(lambda leaf: 1.1 * leaf, source.params))
    found = evaluated(moved, tiny.corpus())
    assert found.difference is not None
    assert abs(found.difference) > 1e-3
    assert not found.agrees


def test_what_was_not_kept_is_refused(dense, tmp_path):
    gone = tmp_path / "gone"
    shutil.copytree(dense[0], gone)
    shutil.rmtree(gone / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint kept; sweeps keep the last two of every run, unless"):
        read_source(gone)
    (gone / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"no checkpoint kept; .*remove the run's result.json and start its sweep"):
        read_source(gone)


def test_a_run_that_diverged_is_told(tmp_path):
    wild = tiny.dense_run(optimizer=Optimizer(1e30))
    result = tiny.train_one(wild, tmp_path, intervals=LoopIntervals(chunk=3))
    assert result["status"] == "diverged"
    with pytest.raises(UserError, match="no checkpoint kept; it diverged, and nothing is saved from there on"):
        read_source(tmp_path)


def test_what_is_another_runs_is_refused(dense, tmp_path):
    other, mixed = tmp_path / "other", tmp_path / "mixed"
    tiny.train_one(tiny.dense_run(seed=1), other)
    shutil.copytree(other, mixed)
    shutil.rmtree(mixed / "checkpoints")
    shutil.copytree(dense[0] / "checkpoints", mixed / "checkpoints")
    with pytest.raises(UserError, match=r"is of run .*, not of .*: it was copied here"):
        read_source(mixed)
    shutil.copy(dense[0] / "result.json", other / "result.json")
    with pytest.raises(UserError, match=r"result.json is the result of run .*: it was copied here"):
        evaluated(read_source(other), tiny.corpus())
    with pytest.raises(UserError, match="was trained on tiny"):
        evaluated(read_source(dense[0]), byte_corpus(tiny.text()[::-1], "tiny"))


def test_the_command(dense, tmp_path, capsys):
    directory, result = dense
    (tmp_path / "tiny").write_bytes(tiny.text())
    text = ["--text", str(tmp_path / "tiny")]
    assert main(["evaluate", str(directory), *text, "--csv", str(tmp_path / "out.csv")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"{result['row']['loss']:.4f}" in out
    assert "To be known" not in out
    (row,) = csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text()))
    assert float(row["loss"]) == pytest.approx(result["row"]["loss"], rel=2e-6)

    assert main(["evaluate", str(directory), "--step", "9", *text, "--json"]) == 0
    (content,) = json.loads(capsys.readouterr().out)
    assert (content["step"], content["said"], content["D"]) == (9, None, 768)

    assert main(["evaluate", *text]) == 2
    assert "name the directories of runs" in capsys.readouterr().err


def test_keys_and_values_are_held_as_the_run_held_them(tmp_path):
    cached = replace(DENSE, keys=operand("int2", per_token=True), values=operand("int4", per_token=True), hadamard=8)
    result = tiny.train_one(tiny.run(representation=replace(cached, weights=operand("int4"))), tmp_path)
    source = read_source(tmp_path)
    assert source.inputs == cached
    found = evaluated(source, tiny.corpus())
    assert found.loss == pytest.approx(result["row"]["loss"], rel=2e-6)
    dense = evaluated(source._replace(inputs=DENSE), tiny.corpus())
    assert abs(dense.loss - found.loss) > 1e-4
