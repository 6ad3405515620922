"""Boards beside metrics.jsonl, and packages that are missing for them."""

import struct
import sys
from types import SimpleNamespace

import pytest
from etils import epath
from support import tiny

from capscale.errors import UserError
from capscale.train.trackers import open_tensorboard, open_wandb

RUN = tiny.run()


def events(directory):
    """The scalars of all event files as (step, name, value), read as TFRecords."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted(directory.iterdir()):
        data, position = path.read_bytes(), 0
        while position < len(data):
            (length,) = struct.unpack_from("<Q", data, position)
            event = event_pb2.Event.FromString(data[position + 12 : position + 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            position += 12 + length + 4
    return found


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    board = open_tensorboard()(RUN, epath.Path(tmp_path), 0)
    board.write(3, {"loss": 2.5, "seconds": 1.0})
    board.write(6, {"loss": 1.5})
    board.close()
    assert events(tmp_path / "tensorboard") == [(3, "loss", 2.5), (3, "seconds", 1.0), (6, "loss", 1.5)]


def test_wandb(tmp_path, monkeypatch):
    """Against a stand-in for the package: what it is told, and that a run keeps its id."""
    told = []

    def init(**options):
        told.append(options)
        return SimpleNamespace(log=lambda values, step: told.append((step, values)), finish=lambda: told.append("end"))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    board = open_wandb("formats")(RUN, epath.Path(tmp_path), 0)
    board.write(3, {"loss": 2.5})
    board.close()
    options, *rest = told
    assert options["dir"] == str(tmp_path)
    assert (options["project"], options["id"], options["resume"]) == ("formats", RUN.run_id, "allow")
    assert options["config"]["optimizer"]["learning_rate"] == 0.02
    assert rest == [(3, {"loss": 2.5}), "end"]


def test_wandb_keeps_its_own_files_here_where_runs_are_in_a_bucket(monkeypatch):
    told = {}
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **options: told.update(options)))
    open_wandb("formats")(RUN, epath.Path("gs://bucket/out/runs/x"), 0)
    assert told["dir"] is None


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_boards_are_not_written_behind_a_link(name, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, SimpleNamespace(init=pytest.fail, SummaryWriter=pytest.fail))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    open_board = open_tensorboard() if name == "tensorboard" else open_wandb("formats")
    with pytest.raises(UserError, match=rf"{name} is a link to "):
        open_board(RUN, epath.Path(tmp_path), 0)


@pytest.mark.parametrize(("package", "extra"), [("tensorboardX", "tensorboard"), ("wandb", "wandb")])
def test_missing_package_is_named_with_its_extra(package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"package {package} is not installed; pip install 'capscale\[{extra}\]'"):
        open_tensorboard() if extra == "tensorboard" else open_wandb("formats")
