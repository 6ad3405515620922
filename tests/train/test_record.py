"""result.json: written once, whole, and never overruled in silence."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from etils import epath
from support import tiny

from capscale.errors import UserError
from capscale.files import write_json
from capscale.gaussian_mse import pass_rate
from capscale.representation import DENSE, Representation, operand
from capscale.train.record import (
    loss_with_error,
    read_result,
    result,
    result_row,
    weights_row,
    write_result,
)

RUN = tiny.run()


def a_result(loss=3.0, seconds=1.0):
    return result(RUN, "ok", result_row(RUN, loss, 0.1, 1.0), {"wall_s": seconds})


@pytest.fixture
def directory(tmp_path):
    return epath.Path(tmp_path)


def test_row_says_what_was_trained():
    row = result_row(tiny.run(seed=5), 2.0, 0.1, 1.0)
    expected = {"model": "tiny", "width": 8, "N": RUN.non_embedding_parameters, "D": 12 * 64, "seed": 5, "steps": 12}
    expected |= {"weights": "int4", "activations": "dense", "weights_estimator": "trust", "hadamard": 8}
    assert expected.items() <= row.items()
    signed = tiny.run(representation=replace(tiny.INT4, signs=3))
    assert result_row(signed, 2.0, 0.1, 1.0) == result_row(RUN, 2.0, 0.1, 1.0) | {"hadamard": "8 signs 3"}
    assert row["bits_per_byte"] == pytest.approx(2.0 / math.log(2))
    assert row["weights_gmse"] == pytest.approx(0.01154288, abs=1e-8)
    assert row["activations_gmse"] == 0.0
    assert result_row(RUN, None, None, 1.0)["bits_per_byte"] is None


METRICS = {"weights_error": 0.1, "weights_error_end": 0.2, "mask_pass_rate": 0.3, "mask_pass_rate_end": None}


def test_what_weights_tell_is_of_compressed_weights():
    told = weights_row(tiny.run(representation=Representation(operand("int1"), operand("int4"))), METRICS)
    rate = told.pop("weights_pass_rate_gaussian")
    assert rate == pass_rate(operand("int1")) < 0.8
    assert list(told.values()) == [0.1, 0.2, 0.3, None]
    for dense in (DENSE, Representation(activations=operand("int4"))):
        assert weights_row(tiny.run(representation=dense), METRICS) == dict.fromkeys(
            [*told, "weights_pass_rate_gaussian"]
        )


def test_written_result_is_read_back(directory):
    assert read_result(directory, RUN) is None
    write_result(directory, a_result(), RUN)
    assert read_result(directory, RUN) == a_result()
    assert [path.name for path in directory.iterdir()] == ["result.json"]


def test_results_of_version_1_have_no_digest_and_are_read(directory):
    old = {name: value for name, value in a_result().items() if name != "sha256"} | {"schema": 1}
    write_json(directory / "result.json", old)
    assert read_result(directory, RUN) == old
    write_result(directory, a_result(), RUN)
    assert read_result(directory, RUN) == old


def test_same_result_again_is_fine_and_the_first_stays(directory):
    write_result(directory, a_result(seconds=1.0), RUN)
    write_result(directory, a_result(seconds=2.0), RUN)
    assert read_result(directory, RUN)["timing"] == {"wall_s": 1.0}
    assert not (directory / "result.conflict.json").exists()


def test_a_different_result_is_an_error_and_both_are_kept(directory):
    write_result(directory, a_result(loss=3.0), RUN)
    with pytest.raises(UserError, match=r"ended twice with different results: compare result.json and"):
        write_result(directory, a_result(loss=np.nextafter(3.0, 4.0)), RUN)
    assert read_result(directory, RUN)["row"]["loss"] == 3.0
    assert json.loads((directory / "result.conflict.json").read_text())["row"]["loss"] > 3.0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "is not readable JSON"),
        (lambda text: text[: len(text) // 2], "is not readable JSON"),
        (lambda text: "\0" * len(text), "is not readable JSON"),
        (lambda text: "[1, 2]", "holds list, not a JSON object"),
        (lambda text: text.replace('"schema": 2', '"schema": 99'), "schema 99"),
        (lambda text: text.replace(RUN.run_id, "0123456789abcdef"), f"of run '0123456789abcdef', not of {RUN.run_id}"),
        (lambda text: text.replace('"row"', '"raw"'), "holds no 'status', or no object 'row'"),
        (lambda text: text.replace('"status"', '"state"'), "holds no 'status', or no object 'row'"),
        (lambda text: text.replace('"loss": 3.0', '"loss": 3.1'), "was altered after it was written"),
        (lambda text: text.replace('"wall_s": 1.0', '"wall_s": 1.5'), "was altered after it was written"),
        (lambda text: text.replace('"sha256"', '"sha"'), "was altered after it was written"),
    ],
    ids=[
        *("empty", "cut", "zeros", "list", "other schema", "other run", "no row", "no status"),
        *("other loss", "other time", "no digest"),
    ],
)
def test_damaged_result_is_named_with_the_remedy_and_left_alone(damage, message, directory):
    write_result(directory, a_result(), RUN)
    path = directory / "result.json"
    path.write_text(damage(path.read_text()))
    before = path.read_bytes()
    for use in (lambda: read_result(directory, RUN), lambda: write_result(directory, a_result(), RUN)):
        with pytest.raises(UserError, match=message) as raised:
            use()
        assert str(path) in str(raised.value)
        assert "remove it" in str(raised.value)
    assert path.read_bytes() == before


def test_bytes_that_are_no_text_are_named(directory):
    (directory / "result.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not readable JSON"):
        read_result(directory, RUN)


def test_loss_and_its_error_by_brute_force():
    """Blocks as the draws: the error of the mean as that of a ratio estimator over unequal clusters."""
    rng = np.random.default_rng(0)
    blocks = np.repeat([19, 39, 59, 79], [50, 50, 50, 7])
    losses = rng.normal(3, 0.2, len(blocks)) + rng.normal(0, 0.3, 4)[blocks // 20]
    mean, error = loss_with_error(losses, blocks)
    assert mean == pytest.approx(losses.sum() / len(losses))
    sums = [sum(loss - mean for loss, b in zip(losses, blocks, strict=True) if b == block) for block in set(blocks)]
    assert error == pytest.approx(math.sqrt(4 / 3 * sum(s * s for s in sums)) / len(losses))
    assert error > losses.std() / np.sqrt(len(losses)), "windows of a block are not independent"


def test_error_of_equal_blocks_is_that_of_their_means():
    blocks = np.repeat(np.arange(6), 20)
    losses = np.random.default_rng(1).normal(3, 0.2, 120)
    means = losses.reshape(6, 20).mean(axis=1)
    assert loss_with_error(losses, blocks)[1] == pytest.approx(means.std(ddof=1) / np.sqrt(6))
