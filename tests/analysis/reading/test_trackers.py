"""Runs as Weights & Biases and TensorBoard leave them: real files, made by those packages."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from etils import epath
from support.foreign import runs
from support.limits import LIMIT_S

from capscale.analysis.reading import tensorboard, wandb, wire
from capscale.analysis.reading.choices import Choices
from capscale.analysis.rows import read
from capscale.errors import UserError

RUNS = runs(("dense", "int4")).iloc[3::4]
STEPS = (1, 2, 4)

WRITE_WANDB = """
import json, sys, wandb
for r in json.load(open("runs.json")):
    config = {"model": {"n_params": r["N"]}, "w_format": r["weights"], "a_format": "bf16", "corpus": "c4"}
    with wandb.init(project="p", name=r["run"], config=config) as run:
        for step in (1, 2, 4):
            told = {"val/loss": r["loss"] + 1 / step - 0.25, "tokens": r["D"] * step / 4, "train/loss": 1.0}
            run.log(told, step=1000 * step)
            run.log({"lr": 0.1}, step=1000 * step + 1)
"""


def check(table):
    """Three checkpoints of every run, the last as it was."""
    assert len(table) == 3 * len(RUNS)
    assert {r.run for r in table.rows} == set(RUNS.run)
    for record in RUNS.to_dict("records"):
        rows = [r for r in table.rows if r.run == record["run"]]
        assert [r.D for r in rows] == pytest.approx([record["D"] * s / 4 for s in STEPS], rel=1e-6)
        assert [r.loss for r in rows] == pytest.approx([record["loss"] + 1 / s - 0.25 for s in STEPS], rel=1e-6)
        assert {(r.N, r.weights, r.activations) for r in rows} == {(record["N"], record["weights"], "dense")}
    assert any("checkpoints of one run" in r.what for r in table.remarks)


@pytest.fixture(scope="module")
def wandb_directory(tmp_path_factory):
    pytest.importorskip("wandb", reason="package wandb is not installed: its run directories")
    place = tmp_path_factory.mktemp("wandb")
    (place / "runs.json").write_text(json.dumps(RUNS.to_dict("records")))
    settings = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(place), "WANDB_DISABLE_CODE": "true"}
    command = [sys.executable, "-c", WRITE_WANDB]
    done = subprocess.run(
        command, cwd=place, env=os.environ | settings, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return place / "wandb"


@pytest.mark.ci
def test_offline_runs_of_wandb(wandb_directory):
    table = read(wandb_directory)
    check(table)
    assert all(row.extra["train/loss"] == 1.0 for row in table.rows)
    (log, *_) = sorted(wandb_directory.glob("*/*.wandb"))
    assert len(read(log)) == 3


def ends(content):
    """Numbers of the fields of every record of a log, and where it ends; logs here are shorter than a block."""
    assert len(content) < wandb.BLOCK
    place, found = wandb.HEADER, []
    for record in wandb._pieces(content):
        place += wandb.HEADER + len(record)
        found.append(({field for field, _ in wire.fields(record)}, place))
    assert place == len(content)
    return found


def test_a_log_that_is_cut_off_is_read_as_far_as_it_goes_and_a_damaged_one_is_named(wandb_directory, tmp_path):
    log = min(wandb_directory.glob("*/*.wandb"))
    content = log.read_bytes()
    path = epath.Path(tmp_path / "run-a.wandb")
    steps = [end for fields, end in ends(content) if wandb.HISTORY in fields]
    assert len(steps) == 2 * len(STEPS), "a loss and a learning rate at each"
    for whole, end in enumerate(steps, 1):
        for more in (0, wandb.HEADER - 1, wandb.HEADER + 5):  # of the next record, which is half-written
            path.write_bytes(content[: end + more])
            found = wandb.read_runs([path])
            run = RUNS.set_index("run").loc[found[0]["run"]]
            assert [r["tokens"] for r in found] == [run.D * s / 4 for s in STEPS[: (whole + 1) // 2]]
            assert all(r["model"] == {"n_params": run.N} and r["state"] == "running" for r in found)
            with pytest.raises(UserError, match="status 'running'"):
                read(path)
    path.write_bytes(b"no log")
    with pytest.raises(UserError, match=r"run-a.wandb: not a readable run of W&B: .*copy it again"):
        read(path)
    path.write_bytes(content[:7] + b"\0\0\0\0\5\0\1" + b"\xff" * 5)
    with pytest.raises(UserError, match="not a readable run of W&B"):
        read(path)


def test_a_log_of_several_blocks(tmp_path):
    """Pieces of a record that goes over the end of a block of 32 KiB."""
    body = bytes(40_000)
    first = wandb.BLOCK - wandb.HEADER - 7
    pieces = [(wandb.BEGIN, body[:first]), (wandb.END, body[first:])]
    content = b":W&B\0\0\0" + b"".join(bytes(4) + len(p).to_bytes(2, "little") + bytes([k]) + p for k, p in pieces)
    assert list(wandb._pieces(content)) == [body]


def test_summaries_of_wandb(tmp_path):
    """The layout of runs that were synchronised (wandb 0.12 to 0.19), written by hand."""
    for record in RUNS.to_dict("records"):
        folder = tmp_path / f"run-20250101_000000-{record['run'].replace('-', '')}" / "files"
        folder.mkdir(parents=True)
        config = "wandb_version: 1\n_wandb:\n  value: {cli_version: 0.19.0}\n"
        config += f"n_params:\n  desc: null\n  value: {record['N']}\nw_format:\n  value: {record['weights']}\n"
        (folder / "config.yaml").write_text(config + "a_format:\n  value: bf16\n")
        summary = {"val/loss": record["loss"], "tokens": record["D"], "_step": 9, "_wandb": {"runtime": 3}}
        (folder / "wandb-summary.json").write_text(json.dumps(summary))
    table = read(tmp_path)
    np.testing.assert_allclose(sorted(table.column("loss")), sorted(RUNS.loss))
    assert {r.run for r in table.rows} == {r.replace("-", "") for r in RUNS.run}
    (folder / "config.yaml").write_text("{")
    with pytest.raises(UserError, match=r"config.yaml: not readable YAML"):
        read(tmp_path)


def test_the_table_that_wandb_exports(tmp_path):
    """Columns as its web page writes them: every cell in quotation marks, configuration and summary side by side."""
    names = {"run": "Name", "N": "n_params", "D": "tokens", "loss": "val/loss", "weights": "w_format"}
    frame = runs().rename(columns=names).drop(columns="activations")
    frame.insert(1, "State", "finished")
    frame = frame.assign(Notes="-", User="me", Tags="", Created="2025-01-01T00:00:00.000Z", Runtime=77, Sweep="")
    frame = frame.assign(**{"train/loss": 2.0})
    frame.loc[3, "State"] = "crashed"
    frame.to_csv(path := tmp_path / "wandb_export.csv", index=False, quoting=1)
    with pytest.raises(UserError, match="--fill activations=dense"):
        read(path)
    with pytest.raises(UserError, match="status 'crashed'"):
        read(path, choices=Choices.parse(fill=["activations=dense"]))
    table = read(path, choices=Choices.parse(fill=["activations=dense"], where=["State=finished"]))
    assert len(table) == 63
    assert not {"Created", "User"} & set(table.rows[0].extra)


def test_a_history_has_its_last_step_where_d_is_one(tmp_path):
    rows = [r | {"_step": s, "loss": r["loss"] + 1 / s - 0.25} for r in runs().to_dict("records") for s in STEPS]
    rows += [r | {"_step": 9, "loss": None} for r in runs().to_dict("records")]
    (path := tmp_path / "history.json").write_text(json.dumps(rows))
    table = read(path)
    assert sorted(table.column("loss")) == pytest.approx(sorted(runs().loss))
    assert {r.what for r in table.remarks} == {
        "64 steps without a loss are left out",
        "64 runs have one D at all of their steps: the last is read",
    }


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    module = pytest.importorskip("tensorboardX", reason="package tensorboardX is not installed: its event files")
    place = tmp_path_factory.mktemp("events")
    for record in RUNS.to_dict("records"):
        with module.SummaryWriter(str(place / record["run"])) as writer:
            for step in STEPS:
                writer.add_scalar("val/loss", record["loss"] + 1 / step - 0.25, step)
                writer.add_scalar("tokens", record["D"] * step / 4, step)
                writer.add_scalar("train/loss", 2.0, step + 50)
            settings = {"n_params": record["N"], "w_format": record["weights"], "a_format": "bf16", "amp": True}
            writer.add_hparams(settings, {"hparam/last": record["loss"]})
    return place


def test_events_of_tensorboard(events):
    check(read(events))
    with pytest.raises(UserError, match="no column"):
        read(next(next(events.iterdir()).glob("*tfevents*")))  # without its hyperparameters


def test_damaged_events_are_named(events, tmp_path):
    content = next(next(events.iterdir()).glob("*tfevents*")).read_bytes()
    (path := tmp_path / "events.out.tfevents.1.a").write_bytes(b"\xff" * 30)
    with pytest.raises(UserError, match=r"tfevents.1.a: not a readable event file: .*copy it again"):
        read(path)
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(UserError, match=r"no column|hold no scalars"):
        read(path)


def test_scalars_as_tensors():
    """As TensorFlow 2 writes them: a tensor, whose plugin is called scalars."""

    def field(number, value):
        return bytes([number << 3 | wire.BYTES, len(value)]) + value

    tensor = field(tensorboard.TENSOR_CONTENT, np.float32(2.5).tobytes())
    named = field(tensorboard.METADATA, field(tensorboard.PLUGIN, field(tensorboard.PLUGIN_NAME, b"scalars")))
    assert tensorboard._scalar(field(tensorboard.TENSOR, tensor) + named) == 2.5
    text = field(tensorboard.METADATA, field(tensorboard.PLUGIN, field(tensorboard.PLUGIN_NAME, b"text")))
    assert tensorboard._scalar(field(tensorboard.TENSOR, tensor) + text) is None


@pytest.mark.parametrize("message", [b"\x0a\x05ab", b"\xff", b"\x0b", b"\xff" * 11])
def test_messages_that_end_early_are_refused(message):
    with pytest.raises(ValueError):
        list(wire.fields(message))


def test_two_trackers_in_one_directory_are_refused(events, wandb_directory, tmp_path):
    for place, name in ((events, "a"), (wandb_directory, "b")):
        file = next(p for p in place.rglob("*") if p.is_file() and (".wandb" in p.name or "tfevents" in p.name))
        (tmp_path / f"{name}{file.name}").write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="both TensorBoard and W&B"):
        read(tmp_path)
