"""Files are written whole or not at all, and what the disk refuses is said plainly."""

import errno
import json
import os
import threading

import numpy as np
import pytest
from etils import epath
from support.limits import LIMIT_S

from capscale.analysis.rows import read, read_sweep
from capscale.data.manifest import Manifest
from capscale.errors import UserError
from capscale.files import is_there, plain_name, read_json, refuse_link, write_json, writing
from capscale.sweep.directory import check_open
from capscale.sweep.status import read_status
from capscale.train.metrics import Metrics


@pytest.fixture
def path(tmp_path):
    return epath.Path(tmp_path) / "value.json"


def disk_full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("method", ["write_bytes", "replace"])
def test_failed_write_leaves_the_old_file_and_nothing_else(path, method, monkeypatch):
    write_json(path, {"value": 1})
    monkeypatch.setattr(type(path), method, disk_full)
    with pytest.raises(UserError, match=r"value.json cannot be written \(No space left on device\); free space"):
        write_json(path, {"value": 2})
    monkeypatch.undo()
    assert read_json(path, "") == {"value": 1}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, r"value.json is not readable JSON \(it is nested too deep\); mend it"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"1" * 5000, "Exceeds the limit"),
        (b'{"a": "\xff"}', "can't decode byte 0xff"),
        (b"[]", "holds list, not a JSON object; mend it"),
    ],
)
def test_what_is_no_json_is_named(content, message, path):
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_json(path, "mend it")


def no_permission(*args, **kwargs):
    raise PermissionError(errno.EACCES, "Permission denied")


def test_what_may_not_be_read_is_not_called_damaged(path, monkeypatch):
    """Else whoever lacks a permission is told to remove results that are whole. (Root can read: it is refused here.)"""
    path.write_text("{}")
    sweep = path.parent / "sweep"
    (sweep / "runs" / "a").mkdir(parents=True)
    (sweep / "sweep.json").write_text('{"runs": ["a"]}')
    (sweep / "runs" / "a" / "result.json").write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr(type(path), "read_bytes", no_permission)
        with pytest.raises(UserError, match=r"value.json cannot be read \(Permission denied\); see to its permissions"):
            read_json(path, "remove it")
    real = type(path).read_bytes
    some = lambda self: real(self) if self.name == "sweep.json" else no_permission()  # noqa: E731
    monkeypatch.setattr(type(path), "read_bytes", some)
    with pytest.raises(UserError, match=r"a/result.json cannot be read \(Permission denied\); see to"):
        read_sweep(sweep)


def test_what_may_not_be_looked_at_is_not_called_missing(path, monkeypatch):
    assert not is_there(path)
    assert not is_there(path / "below")
    path.write_text("{}")
    assert is_there(path)
    assert not is_there(path / "below a file")
    monkeypatch.setattr(os, "stat", no_permission)
    for look in (read_status, Manifest.read, check_open, is_there, read):
        with pytest.raises(UserError, match=r"cannot be read \(Permission denied\); see to its permissions"):
            look(path)


GOOD = [b'{"step": 3, "loss": 1.0}\n', b'{"step": 6, "loss": 0.5}\n']


@pytest.mark.parametrize(
    "damaged",
    [
        *(b"\xff\n", b"\n", b"{\n", b"[" * 100_000 + b"\n", b"[]\n", b"3\n", b'{"loss": 1}\n'),
        *(b'{"step": "3"}\n', b'{"step": null}\n', b'{"step": NaN}\n', b'{"step": 3, "loss": "\xff"}\n'),
    ],
)
def test_damaged_lines_of_metrics_are_dropped_and_no_other(damaged, path):
    for lines in ([damaged, *GOOD], [GOOD[0], damaged, GOOD[1]], [*GOOD, damaged]):
        path.write_bytes(b"".join(lines))
        Metrics(path, keep_to=6)
        assert path.read_bytes() == b"".join(GOOD)
    path.write_bytes(b"".join([*GOOD, GOOD[0][:-1]]))
    Metrics(path, keep_to=5)
    assert path.read_bytes() == GOOD[0]


def test_half_written_temporary_is_removed(path, monkeypatch):
    real = type(path).write_bytes

    def half(self, content):
        real(self, content[:5])
        disk_full()

    monkeypatch.setattr(type(path), "write_bytes", half)
    with pytest.raises(UserError, match="No space"):
        write_json(path, {"value": 1})
    assert list(path.parent.iterdir()) == []


def test_not_a_number_is_never_written(path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert list(path.parent.iterdir()) == []


def test_new_file_does_not_replace_one_that_is_there(path):
    assert write_json(path, {"value": 1}, new=True)
    assert not write_json(path, {"value": 2}, new=True)
    assert read_json(path, "") == {"value": 1}
    assert list(path.parent.iterdir()) == [path]


def test_of_many_writers_of_a_new_file_one_wins(path):
    barrier, won = threading.Barrier(8, timeout=LIMIT_S), []

    def write(number):
        barrier.wait()
        if write_json(path, {"value": number}, new=True):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert read_json(path, "") == {"value": won[0]}


def test_file_system_without_links(path, monkeypatch):
    monkeypatch.setattr("capscale.files.os.link", disk_full)
    assert write_json(path, {"value": 1}, new=True)
    assert not write_json(path, {"value": 2}, new=True)
    assert read_json(path, "") == {"value": 1}
    assert list(path.parent.iterdir()) == [path]


def test_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    below = epath.Path(tmp_path) / "file" / "value.json"
    with pytest.raises(UserError, match=r"file/value.json cannot be written \(Not a directory\)"):
        write_json(below, {})
    with pytest.raises(UserError, match=r"cannot be written \(weird\)"), writing(below):
        raise OSError("weird")


def history(*losses):
    return {"loss": np.array(losses, np.float32), "grad_norm": np.array(losses, np.float32) * 2}


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_metrics_are_json_even_of_a_diverged_chunk(tmp_path):
    path = epath.Path(tmp_path) / "metrics.jsonl"
    metrics = Metrics(path, keep_to=0)
    metrics.write(3, history(1.0, 2.0, 6.0), 0.5)
    metrics.write(6, history(1.0, np.inf, np.nan), 0.5)
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines())
    assert first == {"step": 3, "loss": 3.0, "grad_norm_max": 12.0, "seconds": 0.5, "device_seconds": 0.5}
    assert second == {"step": 6, "loss": None, "grad_norm_max": None, "seconds": 0.5, "device_seconds": 0.5}


@pytest.mark.parametrize(
    "tail", ["", '{"step": 12, "lo', '{"step": 12, "loss": 1}', "\0\0\0\n", "[]\n", '{"loss": 1}\n']
)
def test_resumed_metrics_drop_what_is_done_again_and_what_a_crash_damaged(tail, tmp_path):
    path = epath.Path(tmp_path) / "metrics.jsonl"
    metrics = Metrics(path, keep_to=0)
    for step in (3, 6, 9):
        metrics.write(step, history(1.0), 0.5)
    path.write_text(path.read_text() + tail)
    resumed = Metrics(path, keep_to=6)
    assert steps(path) == [3, 6]
    resumed.write(9, history(2.0), 0.5)
    assert steps(path) == [3, 6, 9]
    Metrics(path, keep_to=9)
    assert steps(path) == [3, 6, 9]


def test_metrics_survive_a_full_disk_on_opening(tmp_path, monkeypatch):
    path = epath.Path(tmp_path) / "metrics.jsonl"
    Metrics(path, keep_to=0).write(3, history(1.0), 0.5)
    monkeypatch.setattr(type(path), "write_bytes", disk_full)
    with pytest.raises(UserError, match="No space"):
        Metrics(path, keep_to=3)
    assert steps(path) == [3]


@pytest.mark.parametrize("name", ["train-00000-000.npy", "a b", "déjà.npy", "a..b", "efe7338e954464b1"])
def test_plain_names_pass(name):
    assert plain_name(name, "there/manifest.json", "file") == name


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            ".",
            "..",
            ".bashrc",
            "../x",
            "./../../../.bashrc",
            "/etc/passwd",
            "a/b",
            "a/",
            "a\\b",
            "..\\x",
            "C:x",
            "C:",
        ),
        *("a\0b", "a\nb", "a\u202eb", "\ud800", None, 3, ["a"], {"a": 1}, b"a", "/" * 1000),
    ],
)
def test_other_names_are_refused_by_file_field_and_value(name):
    message = (
        r"^there/manifest.json: file is .{1,120}, and not the plain name of a file in its directory; fetch it again$"
    )
    with pytest.raises(UserError, match=message) as raised:
        plain_name(name, "there/manifest.json", "file", "fetch it again")
    assert len(repr(name)) > 100 or repr(name) in str(raised.value)


def test_links_are_refused(tmp_path):
    (tmp_path / "there").mkdir()
    refuse_link(tmp_path / "there")
    refuse_link(tmp_path / "nowhere")
    refuse_link("gs://bucket/there")
    for name, target in (("link", "there"), ("dangling", "nowhere")):
        (tmp_path / name).symlink_to(tmp_path / target)
        with pytest.raises(
            UserError, match=rf"{name} is a link to {tmp_path}/{target}, and files are renamed and removed"
        ):
            refuse_link(epath.Path(tmp_path / name))
