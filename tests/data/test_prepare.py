"""Token shards: what is in them, and that it depends on nothing but the text."""

import gzip
import hashlib
from itertools import pairwise

import numpy as np
import pytest
from etils import epath
from support import texts

from capscale.data import inputs, tokenize
from capscale.data.blocks import BLOCK, SUFFIX
from capscale.data.hub import Dataset
from capscale.data.manifest import Manifest
from capscale.data.prepare import Request, prepare
from capscale.data.tokenize import Split
from capscale.errors import UserError

pytestmark = pytest.mark.usefixtures("small")


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
        blocks = [content[first : first + BLOCK] for first in range(0, len(content), BLOCK)]
        digests = b"".join(hashlib.sha256(block).digest() for block in blocks)
        assert (tmp_path / "out" / (shard.file + SUFFIX)).read_bytes() == digests
        assert shard.blocks == hashlib.sha256(digests).hexdigest()
    assert manifest.unused == {"documents": 0, "tokens": 0}
    assert Manifest.read(epath.Path(tmp_path / "out")) == manifest
    assert sorted(texts.contents(tmp_path / "out")) == sorted(
        ["manifest.json", *(shard.file + end for shard in manifest.shards for end in ("", SUFFIX))]
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
        for side, pattern in (("train", "train-*.npy"), ("validation", "validation*.npy")):
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
    monkeypatch.setattr(tokenize, "SHARD", 3000)
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
        ({"inputs": (), "dataset": Dataset("c4"), "separator": "--"}, "--separator '--' is for text files; .*drop it"),
    ],
)
def test_bad_requests_are_refused(changes, message, book, tmp_path):
    changes = {"inputs": (str(book),), "workers": 1, "split": (0.1, 1 << 20), "separator": texts.SEPARATOR} | changes
    with pytest.raises(UserError, match=message):  # noqa: PT012
        split, workers = Split(*changes.pop("split")), changes.pop("workers")
        prepare(Request(**{"tokenizer": "byte", "split": split} | changes), epath.Path(tmp_path / "out"), workers)


def test_separator_without_text_to_cut_is_refused(book, tmp_path):
    (tmp_path / "lines.jsonl.gz").write_bytes(gzip.compress(texts.json_lines()))
    with pytest.raises(UserError, match=r"--separator '--' is for text files; .*lines.jsonl.gz has .*: drop it"):
        texts.shards(tmp_path / "out", tmp_path / "lines.jsonl.gz", separator="--")
    assert not (tmp_path / "out").exists()
    texts.shards(tmp_path / "out", book, tmp_path / "lines.jsonl.gz")


@pytest.mark.parametrize("share", [0.1, 1 - 1e-12])
def test_document_longer_than_a_shard_is_refused(share, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenize, "SHARD", 3000)
    (tmp_path / "long.jsonl").write_bytes(texts.json_lines(("fine", "Call me " * 375)))
    with pytest.raises(
        UserError, match=r"a document of 3,001 tokens, which begins with 'Call me .* of 3,000; split it"
    ):
        texts.shards(tmp_path / "out", tmp_path / "long.jsonl", split=Split(share, 3000), separator=None)


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


def test_tokenizer_that_changes_meanwhile_is_refused(book, tmp_path):
    from dataclasses import replace

    from capscale.data.tokenizer import load_tokenizer

    identity = replace(load_tokenizer("byte").id, sha256="of another file")
    job = tokenize.Job(str(tmp_path), "byte", None, identity, Split(0.1, 10))
    with pytest.raises(UserError, match="tokenizer 'byte' changed while it was in use"):
        tokenize.tokenize(job, 0, (inputs.Span(str(book)),))
