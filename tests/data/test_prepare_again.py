"""`prepare` started again, after whatever stopped it, and in the wrong place."""

import errno
import json
import os

import pytest
from etils import epath
from support import texts

from capscale.data import tokenize
from capscale.data.manifest import Manifest
from capscale.data.tokenize import Split
from capscale.errors import UserError

pytestmark = pytest.mark.usefixtures("small")


LOST = (".json", "-tokens.npy", "-documents.npy")


class Stopped(Exception):
    pass


def stop_before_assembly(out, book, **options):
    """All parts, and not what follows."""

    def stop(*args):
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("capscale.data.prepare.assemble", stop)
        with pytest.raises(Stopped):
            texts.shards(out, book, **options)


@pytest.mark.parametrize("after", [0, 1, 4])
def test_what_is_done_is_kept(after, book, tmp_path, monkeypatch):
    """Stopped after some parts and between the writes of the next; only the parts that are missing are done again."""
    whole = texts.shards(tmp_path / "whole", book)
    real, done = tokenize.write_json, []

    def stop(path, value):
        if len(done) == after:
            raise Stopped
        done.append(path.name)
        return real(path, value)

    monkeypatch.setattr(tokenize, "write_json", stop)
    with pytest.raises(Stopped):
        texts.shards(tmp_path / "out", book)
    monkeypatch.setattr(tokenize, "write_json", lambda path, value: done.append(path.name) or real(path, value))
    (tmp_path / "out" / ".train-00000-000.npy.0.tmp").write_bytes(b"half")
    assert texts.shards(tmp_path / "out", book) == whole
    assert len(done) == len(set(done)) == len(whole.train)
    assert texts.contents(tmp_path / "out") == texts.contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "lost", ["train-00002-000.npy", "train-00002-001.npy", *(f".parts/00002{end}" for end in LOST)]
)
def test_writes_that_a_machine_lost_are_made_again(lost, book, tmp_path, monkeypatch):
    """A file system that loses power may keep a name and not the content."""
    small = {"split": Split(0.1, 3000)}
    monkeypatch.setattr(tokenize, "SHARD", 3000)
    texts.shards(tmp_path / "whole", book, **small)
    stop_before_assembly(tmp_path / "out", book, **small)
    (tmp_path / "out" / lost).write_bytes(b"")
    texts.shards(tmp_path / "out", book, **small)
    assert texts.contents(tmp_path / "out") == texts.contents(tmp_path / "whole")


@pytest.mark.parametrize("field", ["train", "held_out"])
def test_records_that_name_files_elsewhere_are_made_again(field, book, tmp_path):
    whole = texts.shards(tmp_path / "whole", book)
    stop_before_assembly(tmp_path / "out", book)
    path = tmp_path / "out" / ".parts" / "00001.json"
    record = json.loads(path.read_text())
    if field == "train":
        record["train"][0]["file"] = f"../whole/{record['train'][0]['file']}"
    else:
        for name in record["held_out"]:  # as large, elsewhere, as those here should be
            (tmp_path / "whole" / name).write_bytes((path.parent / name).read_bytes())
            (path.parent / name).write_bytes(b"")
        record["held_out"] = {f"../../whole/{name}": size for name, size in record["held_out"].items()}
    path.write_text(json.dumps(record))
    assert texts.shards(tmp_path / "out", book) == whole
    for shard in whole.shards:
        assert (tmp_path / "out" / shard.file).read_bytes() == (tmp_path / "whole" / shard.file).read_bytes()


def test_records_that_name_files_elsewhere_are_not_assembled(book, tmp_path, monkeypatch):
    stop_before_assembly(tmp_path / "out", book)
    path = tmp_path / "out" / ".parts" / "00001.json"
    path.write_text(path.read_text().replace('"train-', '"../train-'))
    monkeypatch.setattr("capscale.data.prepare.is_done", lambda out, number: True)
    with pytest.raises(UserError, match=r"00001.json: file of a shard is '../train-.*, and not the plain name"):
        texts.shards(tmp_path / "out", book)


def test_parts_behind_a_link_are_refused(book, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".parts").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"out/.parts is a link to .*elsewhere"):
        texts.shards(tmp_path / "out", book)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_prepared_already(book, tmp_path, monkeypatch):
    first = texts.shards(tmp_path / "out", book)
    before = texts.contents(tmp_path / "out")
    monkeypatch.setattr(tokenize, "save", None)
    assert texts.shards(tmp_path / "out", book) == first
    assert texts.contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": Split(0.2, 1 << 20)}, "begun with another share: 0.1, now 0.2; remove the directory"),
        ({"separator": "\n"}, "begun with another separator"),
        ({"name": "other"}, "begun with another name: 'texts', now 'other'"),
        ({"tokenizer": "tiny.model"}, "begun with another kind: 'byte', now 'sentencepiece'"),
    ],
)
@pytest.mark.parametrize("stage", ["begun", "done"])
def test_another_text_is_refused(stage, changes, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    book = texts.write_text(tmp_path / "book.txt")
    (tmp_path / "tiny.model").write_bytes(texts.sentencepiece_model())
    if stage == "begun":
        stop_before_assembly(tmp_path / "out", book)
    else:
        texts.shards(tmp_path / "out", book)
    before = texts.contents(tmp_path / "out")
    with pytest.raises(UserError, match=message):
        texts.shards(tmp_path / "out", book, **changes)
    assert texts.contents(tmp_path / "out") == before


def test_input_changed_while_stopped_is_refused(book, tmp_path):
    stop_before_assembly(tmp_path / "out", book)
    os.utime(book, (0, 0))
    with pytest.raises(UserError, match="begun with another changed"):
        texts.shards(tmp_path / "out", book)


def test_plan_of_which_nothing_is_done_is_dropped(book, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"\xff" * 20_000)
    with pytest.raises(UserError, match="is binary"):
        texts.shards(tmp_path / "out", tmp_path / "bad.txt")
    assert texts.shards(tmp_path / "out", book) == texts.shards(tmp_path / "whole", book)
    assert texts.contents(tmp_path / "out") == texts.contents(tmp_path / "whole")


def test_shards_of_a_dropped_plan_are_removed(book, tmp_path):
    (tmp_path / "out" / ".parts").mkdir(parents=True)
    (tmp_path / "out" / "train-00099-000.npy").write_bytes(b"of another plan")
    texts.shards(tmp_path / "out", book)
    assert "train-00099-000.npy" not in texts.contents(tmp_path / "out")


@pytest.mark.parametrize("at", [0, 3, 11])
def test_full_disk_is_said_and_survived(at, book, tmp_path, monkeypatch):
    whole = texts.shards(tmp_path / "whole", book)
    path = type(epath.Path(tmp_path))
    real, count = path.open, iter(range(1000))

    def full(self, mode="r", **options):
        if "w" in mode and next(count) == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, mode, **options)

    monkeypatch.setattr(path, "open", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); free space"):
        texts.shards(tmp_path / "out", book)
    monkeypatch.setattr(path, "open", real)
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert texts.shards(tmp_path / "out", book) == whole


def test_two_at_once_are_refused(book, tmp_path):
    import fcntl

    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is being prepared by another process"):
            texts.shards(tmp_path / "out", book)
    texts.shards(tmp_path / "out", book)


def test_lock_that_its_holder_has_just_removed_is_no_lock(book, tmp_path, monkeypatch):
    """Between opening the file and locking it: whoever comes next would lock another file of that name."""
    import fcntl

    real = fcntl.flock

    def flock(file, how):
        (tmp_path / "out" / ".lock").unlink()
        return real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match="is being prepared by another process"):
        texts.shards(tmp_path / "out", book)
    monkeypatch.undo()
    texts.shards(tmp_path / "out", book)


def test_manifest_of_an_interrupted_run_is_never_there(book, tmp_path):
    stop_before_assembly(tmp_path / "out", book)
    with pytest.raises(UserError, match=r"holds no manifest.json; make token shards with `capscale data prepare`"):
        Manifest.read(epath.Path(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / ".parts" / "plan.json").read_text())["name"] == "texts"
