"""Token shards: what is in them, and that it depends neither on workers nor on interruptions."""

import errno
import hashlib
import json
import os
from itertools import pairwise

import numpy as np
import pytest
import texts
from etils import epath

from capscale.data import inputs, part
from capscale.data.manifest import Manifest
from capscale.data.part import Split
from capscale.data.prepare import Request, prepare
from capscale.errors import UserError


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Parts of 8 KiB, so that a text of some dozens has many."""
    monkeypatch.setattr(inputs, "PART", 8192)


@pytest.fixture
def book(tmp_path):
    return texts.write_text(tmp_path / "book.txt")


def tokens(out, shards):
    return np.concatenate([np.load(out / shard.file, allow_pickle=False) for shard in shards]).tolist()


def held_out(text, share):
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < share


def encoded(documents):
    return [token for text in documents for token in [*text.encode(), 256]]


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_shards_hold_the_documents_in_order(share, book, tmp_path):
    manifest = texts.shards(tmp_path / "out", book, split=Split(share, 1 << 20))
    train = [text for text in texts.documents() if not held_out(text, share)]
    validation = [text for text in texts.documents() if held_out(text, share)]
    assert tokens(tmp_path / "out", manifest.train) == encoded(train)
    assert tokens(tmp_path / "out", [manifest.validation]) == encoded(validation)
    assert len(manifest.train) > 5
    for side, shards in ((train, manifest.train), (validation, [manifest.validation])):
        assert sum(shard.documents for shard in shards) == len(side)
        assert sum(shard.text_bytes for shard in shards) == sum(len(text.encode()) for text in side)
        assert sum(shard.tokens for shard in shards) == len(encoded(side))
    for shard in manifest.shards:
        content = (tmp_path / "out" / shard.file).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.size, shard.sha256)
    assert manifest.unused == {"documents": 0, "tokens": 0}
    assert Manifest.read(epath.Path(tmp_path / "out")) == manifest
    assert sorted(texts.contents(tmp_path / "out")) == sorted(
        ["manifest.json", *(shard.file for shard in manifest.shards)]
    )


@pytest.mark.parametrize("spare", [-1, 0, 1])
@pytest.mark.parametrize("fitting", [3, 20])
def test_validation_is_capped_at_whole_documents(fitting, spare, book, tmp_path):
    candidates = [text for text in texts.documents() if held_out(text, 0.3)]
    cap = len(encoded(candidates[:fitting])) + spare
    manifest = texts.shards(tmp_path / "out", book, split=Split(0.3, cap))
    count = 0
    while len(encoded(candidates[: count + 1])) <= cap:
        count += 1
    assert count == fitting - (spare < 0)
    assert tokens(tmp_path / "out", [manifest.validation]) == encoded(candidates[:count])
    beyond = candidates[count:]
    assert manifest.unused == {"documents": len(beyond), "tokens": len(encoded(beyond))}
    train = [text for text in texts.documents() if not held_out(text, 0.3)]
    assert tokens(tmp_path / "out", manifest.train) == encoded(train), "what goes beyond is not trained on"


def test_same_document_is_on_the_same_side_whatever_is_around_it(tmp_path):
    some = texts.documents()[::3] * 2
    for name, order in (("all", texts.documents()), ("some", some[::-1])):
        texts.shards(tmp_path / f"{name}.d", texts.write_text(tmp_path / f"{name}.txt", order), split=Split(0.3, 10**6))
    sides = {}
    for name in ("all", "some"):
        for side, pattern in (("train", "train-*"), ("validation", "validation*")):
            found = tokens(
                tmp_path, [type("S", (), {"file": p}) for p in sorted((tmp_path / f"{name}.d").glob(pattern))]
            )
            ends = [-1, *(place for place, token in enumerate(found) if token == 256)]
            sides[name, side] = {bytes(found[a + 1 : b]).decode() for a, b in pairwise(ends)}
    for side in ("train", "validation"):
        assert sides["some", side]
        assert sides["some", side] == sides["all", side] & set(some)


def test_shards_have_a_largest_size_and_share_no_document(book, tmp_path, monkeypatch):
    whole = texts.shards(tmp_path / "whole", book)
    monkeypatch.setattr(part, "SHARD", 3000)
    cut = texts.shards(tmp_path / "cut", book, split=Split(0.1, 3000))
    assert max(shard.tokens for shard in cut.train) <= 3000
    assert len(cut.train) > 1.5 * len(whole.train)
    assert all(np.load(tmp_path / "cut" / shard.file)[-1] == 256 for shard in cut.shards)
    assert tokens(tmp_path / "cut", cut.train) == tokens(tmp_path / "whole", whole.train)


@pytest.mark.parametrize("kind", ["sentencepiece", "huggingface"])
def test_any_number_of_workers_makes_the_same_bytes(kind, tmp_path):
    (tmp_path / "tiny.model").write_bytes(texts.sentencepiece_model())
    (tmp_path / "tiny.json").write_text(texts.huggingface_json())
    (tmp_path / "in").mkdir()
    texts.write_text(tmp_path / "in" / "a.txt")
    (tmp_path / "in" / "b.jsonl").write_bytes(texts.json_lines(texts.documents(150)))
    tokenizer = {"sentencepiece": "tiny.model", "huggingface": "tiny.json"}[kind]
    for workers in (1, 3):
        texts.shards(tmp_path / str(workers), tmp_path / "in", tokenizer=str(tmp_path / tokenizer), workers=workers)
    assert texts.contents(tmp_path / "1") == texts.contents(tmp_path / "3")
    assert len(texts.contents(tmp_path / "1")) > 10


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 4])
def test_what_is_done_is_kept(after, book, tmp_path, monkeypatch):
    """Stopped after some parts and between the writes of the next; only the parts that are missing are done again."""
    whole = texts.shards(tmp_path / "whole", book)
    real, done = part.write_json, []

    def stop(path, value):
        if len(done) == after:
            raise Stopped
        done.append(path.name)
        return real(path, value)

    monkeypatch.setattr(part, "write_json", stop)
    with pytest.raises(Stopped):
        texts.shards(tmp_path / "out", book)
    monkeypatch.setattr(part, "write_json", lambda path, value: done.append(path.name) or real(path, value))
    (tmp_path / "out" / ".train-00000-000.npy.0.tmp").write_bytes(b"half")
    assert texts.shards(tmp_path / "out", book) == whole
    assert len(done) == len(set(done)) == len(whole.train)
    assert texts.contents(tmp_path / "out") == texts.contents(tmp_path / "whole")


@pytest.mark.parametrize("lost", ["train-00002-000.npy", "train-00002-001.npy", ".parts/00002.json"])
def test_writes_that_a_machine_lost_are_made_again(lost, book, tmp_path, monkeypatch):
    """A file system that loses power may keep a name and not the content."""
    small = {"split": Split(0.1, 3000)}
    monkeypatch.setattr(part, "SHARD", 3000)
    texts.shards(tmp_path / "whole", book, **small)
    stop_at_assembly(monkeypatch)
    with pytest.raises(Stopped):
        texts.shards(tmp_path / "out", book, **small)
    (tmp_path / "out" / lost).write_bytes(b"")
    monkeypatch.undo()
    monkeypatch.setattr(inputs, "PART", 8192)
    monkeypatch.setattr(part, "SHARD", 3000)
    texts.shards(tmp_path / "out", book, **small)
    assert texts.contents(tmp_path / "out") == texts.contents(tmp_path / "whole")


def test_prepared_already(book, tmp_path, monkeypatch):
    first = texts.shards(tmp_path / "out", book)
    before = texts.contents(tmp_path / "out")
    monkeypatch.setattr(part, "save", None)
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
        stop_at_assembly(monkeypatch)
        with pytest.raises(Stopped):
            texts.shards(tmp_path / "out", book)
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(inputs, "PART", 8192)
    else:
        texts.shards(tmp_path / "out", book)
    before = texts.contents(tmp_path / "out")
    with pytest.raises(UserError, match=message):
        texts.shards(tmp_path / "out", book, **changes)
    assert texts.contents(tmp_path / "out") == before


def stop_at_assembly(monkeypatch):
    def stop(*args):
        raise Stopped

    monkeypatch.setattr("capscale.data.prepare.assemble", stop)


def test_input_changed_while_stopped_is_refused(book, tmp_path, monkeypatch):
    stop_at_assembly(monkeypatch)
    with pytest.raises(Stopped):
        texts.shards(tmp_path / "out", book)
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": (0.0, 10)}, "validation share 0.0 must lie between 0 and 1"),
        ({"split": (1.0, 10)}, "validation share 1.0 must lie"),
        ({"split": (0.1, 0)}, "validation tokens 0 must lie between 1 and 33,554,432"),
        ({"split": (0.1, 1 << 26)}, "validation tokens 67,108,864 must lie"),
        ({"split": (1e-9, 10)}, "0 of 200 documents are held out with a share of 1e-09, .*raise --validation-share"),
        ({"split": (0.3, 3)}, "the first 2 documents held out exceed 3 tokens; raise --validation-tokens"),
        ({"split": (1 - 1e-12, 1 << 20)}, "nothing to train on"),
        ({"separator": ""}, "--separator is empty"),
        ({"workers": 0}, "--workers 0 must be at least 1"),
        ({"tokenizer": "bite"}, "tokenizer 'bite' is not known"),
        ({"inputs": ()}, "no input is given"),
    ],
)
def test_bad_requests_are_refused(changes, message, book, tmp_path):
    changes = {"inputs": (str(book),), "workers": 1, "split": (0.1, 1 << 20), "separator": texts.SEPARATOR} | changes
    with pytest.raises(UserError, match=message):  # noqa: PT012
        split, workers = Split(*changes.pop("split")), changes.pop("workers")
        prepare(Request(**{"tokenizer": "byte", "split": split} | changes), epath.Path(tmp_path / "out"), workers)


def test_foreign_directory_is_left_alone(book, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds no manifest.json but 'thesis.tex'; choose an empty or new --out"):
        texts.shards(tmp_path / "out", book)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_output_among_the_inputs_is_no_input(tmp_path):
    texts.write_text(tmp_path / "a.txt")
    first = texts.shards(tmp_path / "shards", tmp_path)
    assert texts.shards(tmp_path / "shards", tmp_path) == first
    assert [name for name, _ in first.recipe["inputs"]] == ["a.txt"]


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


def test_tokenizer_that_changes_meanwhile_is_refused(book, tmp_path):
    from dataclasses import replace

    from capscale.data.tokenizer import load_tokenizer

    identity = replace(load_tokenizer("byte").id, sha256="of another file")
    job = part.Job(str(tmp_path), "byte", None, identity, Split(0.1, 10))
    with pytest.raises(UserError, match="tokenizer 'byte' changed while it was in use"):
        part.tokenize(job, 0, (inputs.Span(str(book)),))


def test_two_at_once_are_refused(book, tmp_path):
    import fcntl

    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is being prepared by another process"):
            texts.shards(tmp_path / "out", book)
    texts.shards(tmp_path / "out", book)


def test_manifest_of_an_interrupted_run_is_never_there(book, tmp_path, monkeypatch):
    stop_at_assembly(monkeypatch)
    with pytest.raises(Stopped):
        texts.shards(tmp_path / "out", book)
    with pytest.raises(UserError, match=r"holds no manifest.json; make token shards with `capscale data prepare`"):
        Manifest.read(epath.Path(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / ".parts" / "plan.json").read_text())["name"] == "texts"
