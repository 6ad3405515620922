"""Shards in object storage: read by range, as they are on this machine, and held to the digests of their blocks."""

import dataclasses

import numpy as np
import pytest
from etils import epath
from support import texts

from capscale.data import inputs, remote
from capscale.data.blocks import BLOCK, SIZE, SUFFIX, BlockDigests
from capscale.data.shards import Shards
from capscale.data.tokenize import Split
from capscale.errors import UserError


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Some shards of a few blocks each."""
    root = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "PART", 1 << 15)
        texts.shards(root / "out", texts.write_text(root / "book.txt"), split=Split(0.2, 1 << 20))
    return root / "out"


@pytest.fixture
def copy(directory, bucket):
    """Puts them into a bucket, as they are or as they are said to be."""

    def put(**changed):
        for path in directory.glob("[!.]*"):
            bucket.put(f"text/{path.name}", path.read_bytes())
        for name, content in changed.items():
            bucket.put(f"text/{name}", content)
        return epath.Path(bucket.url) / "text"

    return put


@pytest.fixture
def asked(monkeypatch):
    """Ranges that were read, one list a call."""
    calls, read = [], remote.read_ranges

    def listen(ranges):
        if ranges:
            calls.append([(path.name, first, last) for path, first, last in ranges])
        return read(ranges)

    monkeypatch.setattr(remote, "read_ranges", listen)
    return calls


def test_windows_are_those_of_this_machine(directory, copy, asked):
    local, there = Shards(epath.Path(directory)), Shards(copy())
    there.check()
    assert not asked, "names and sizes are known without reading"
    for context in (5, 64):
        mine, theirs = (shards.batches(context, 32, 3, 2, 5) for shards in (local, there))
        np.testing.assert_array_equal(theirs, mine)
        assert theirs.dtype == mine.dtype
        for got, wanted in zip(there.validation(context), local.validation(context), strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert max(last - first for call in asked for _, first, last in call) <= remote.PIECE
    count = len(asked)
    there.batches(64, 32, 3, 2, 5)
    assert len(asked) == count, "what was read is kept"


def test_no_more_is_kept_than_there_is_room_for(copy, monkeypatch, asked):
    monkeypatch.setattr(remote, "CACHE", 3 * BLOCK)
    there = Shards(copy())
    first = there.batches(64, 32, 3, 0, 4)
    text = there._text
    assert isinstance(text, remote.RemoteTokens)
    assert sum(map(len, text._kept.values())) == text._bytes <= 3 * BLOCK
    count = len(asked)
    np.testing.assert_array_equal(there.batches(64, 32, 3, 0, 4), first)
    assert len(asked) > count


@pytest.mark.parametrize("place", [100, BLOCK - 1, BLOCK, -1])
def test_a_flipped_byte_is_named_with_its_block(place, directory, copy):
    name = Shards(epath.Path(directory)).manifest.validation.file
    content = bytearray((directory / name).read_bytes())
    assert len(content) > BLOCK
    content[place] ^= 1
    there = Shards(copy(**{name: bytes(content)}))
    there.check()
    number = place % len(content) // BLOCK
    first, last = number * BLOCK, min((number + 1) * BLOCK, len(content))
    message = rf"text/{name} was altered in block {number} \(bytes {first:,} to {last:,}\): .*; fetch it again, or prep"
    with pytest.raises(UserError, match=message):
        there.validation(64)
    with pytest.raises(UserError, match=message):
        there.check(again=True)


def test_a_flipped_byte_stops_a_batch(directory, copy):
    shard = Shards(epath.Path(directory)).manifest.train[0]
    content = bytearray((directory / shard.file).read_bytes())
    content[-1] ^= 1
    there = Shards(copy(**{shard.file: bytes(content)}))
    count = sum((shard.tokens - 1) // 64 for shard in there.manifest.train)
    with pytest.raises(UserError, match=f"{shard.file} was altered in block"):
        there.batches(64, count, 3, 0, 1)  # every window once


@pytest.mark.parametrize("what", ["missing", "cut", "digests altered"])
def test_what_is_not_there_as_it_was_is_named_before_the_first_step(what, directory, copy, bucket):
    name = Shards(epath.Path(directory)).manifest.train[1].file
    content = (directory / name).read_bytes()
    if what == "missing":
        there = Shards(copy())
        (epath.Path(bucket.url) / "text" / name).unlink()
        message = rf"text/{name} is missing; fetch it again, or prepare"
    elif what == "cut":
        there = Shards(copy(**{name: content[:-2]}))
        message = rf"text/{name} has {len(content) - 2:,} bytes, not {len(content):,}; fetch it again"
    else:
        there = Shards(copy(**{name + SUFFIX: bytes(SIZE)}))
        message = rf"text/{name}{SUFFIX}, the digests of a shard's blocks, was altered; fetch it again"
    with pytest.raises(UserError, match=message):
        there.check()


def test_shards_of_earlier_versions_are_read_once_for_their_digests(directory, copy, asked, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def earlier():
        shards = Shards(place)
        manifest = shards.manifest
        train = tuple(dataclasses.replace(shard, blocks=None) for shard in manifest.train)
        validation = dataclasses.replace(manifest.validation, blocks=None)
        without = dataclasses.replace(manifest, train=train, validation=validation)
        assert without.data_id == manifest.data_id
        return remote.RemoteTokens(without, place)

    place = copy()
    text = earlier()
    text.check()
    shards = Shards(epath.Path(directory)).manifest.shards
    assert {name for call in asked for name, _, _ in call} == {shard.file for shard in shards}
    whole = np.load(directory / shards[-1].file)
    np.testing.assert_array_equal(text.whole(shards[-1]), whole)
    asked.clear()
    earlier().check()
    assert not asked, "this machine has kept them"
    content = bytearray((directory / shards[0].file).read_bytes())
    content[-1] ^= 1
    copy(**{shards[0].file: bytes(content)})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    with pytest.raises(UserError, match=rf"{shards[0].file} was altered: its sha256 is \w{{12}}, not \w{{12}}"):
        earlier().check()


def test_digests_do_not_depend_on_the_pieces():
    content = np.random.default_rng(0).bytes(3 * BLOCK + 5)
    found = set()
    for step in (1000, BLOCK - 1, BLOCK, 2 * BLOCK + 3, len(content)):
        digests = BlockDigests()
        for first in range(0, len(content), step):
            digests.update(content[first : first + step])
        found.add(digests.digest())
    assert len(found) == 1
    assert len(found.pop()) == 4 * SIZE
