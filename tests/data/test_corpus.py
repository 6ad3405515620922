"""Bytes to symbols, and the split: no held-out symbol is ever trained on."""

import tracemalloc

import numpy as np
import pytest
from support import tiny

from capscale.data import corpus
from capscale.data.batches import window_order
from capscale.data.corpus import BLOCK, HELD_OUT_EVERY, VOCABULARY, Corpus, DataId, byte_corpus, load_corpus
from capscale.errors import UserError

SHORTEST = 2 * HELD_OUT_EVERY * BLOCK
CONTEXTS = (1, 16, 64, 1000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"word " * 1000, "has 5,000 bytes, too short"),
        (b"a" * (SHORTEST - 1), f"give at least {SHORTEST:,} bytes"),
        (b"\xff\xfe" * SHORTEST, "is binary, not UTF-8"),
        (b"text\0" * SHORTEST, "is binary, not UTF-8"),
    ],
    ids=["empty", "short", "one byte short", "not UTF-8", "NUL"],
)
def test_bad_text_is_refused_by_name(content, message, tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        load_corpus(str(file))
    assert "'corpus.txt'" in str(raised.value)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_characters_across_pieces_are_whole(cut, monkeypatch):
    monkeypatch.setattr(corpus, "PIECE", 4 * 97 + cut)
    text = ("\U0001d11e" * SHORTEST).encode()[: 4 * (SHORTEST // 4 + 97)]
    assert np.bincount(byte_corpus(text, "clefs").symbols).tolist() == [len(text) // 4] * 4
    with pytest.raises(UserError, match="is binary, not UTF-8"):
        byte_corpus(text[:-1], "cut")
    with pytest.raises(UserError, match="is binary, not UTF-8"):
        byte_corpus(text[:401] + text[402:], "one byte less")


def test_memory_is_that_of_the_symbols():
    """Not the eight bytes a symbol that numpy counts and looks up by."""
    text = tiny.text() * 40
    tracemalloc.start()
    try:
        byte_corpus(text, "long")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(text) + (16 << 20)
    assert len(text) > (12 << 20)


@pytest.mark.parametrize("name", ["missing.txt", "."])
def test_unreadable_path_is_refused(name, tmp_path):
    with pytest.raises(UserError, match=r"cannot be read .*check the path"):
        load_corpus(str(tmp_path / name))


def test_shortest_text_has_two_held_out_blocks():
    _, blocks = byte_corpus(b"ab" * (SHORTEST // 2), "shortest").validation_windows(64)
    assert np.unique(blocks).tolist() == [19, 39]


def test_symbols_are_the_commonest_bytes_in_order():
    # 120 different bytes, byte b occurring 200 - b times, in an order that must not matter.
    counts = {byte: 200 - byte for byte in range(1, 121)}
    body = b"".join(bytes([byte]) * count for byte, count in reversed(counts.items()))
    text = (body + b"\x01" * SHORTEST)[:SHORTEST]
    symbols = byte_corpus(text, "counted").symbols
    of_byte = dict(zip(text, symbols.tolist(), strict=True))
    assert of_byte == {byte: min(byte - 1, VOCABULARY - 1) for byte in counts}


def test_ties_go_to_the_smaller_byte():
    text = b"dcba" * (SHORTEST // 4)
    assert byte_corpus(text, "ties").symbols[:4].tolist() == [3, 2, 1, 0]


def test_vocabulary():
    corpus = tiny.corpus()
    assert VOCABULARY == 96
    assert corpus.id.vocabulary == VOCABULARY
    assert corpus.symbols.dtype == np.uint8
    assert corpus.symbols.max() < VOCABULARY
    assert len(corpus.symbols) == len(tiny.text())


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("length", [SHORTEST, SHORTEST + 3, 3 * HELD_OUT_EVERY * BLOCK + 19 * BLOCK + 5000])
def test_split_by_brute_force(context, length):
    corpus = byte_corpus(b"ab" * (length // 2) + b"a" * (length % 2), "brute force")
    held_out = np.arange(length) // BLOCK % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    reach = np.arange(context + 1)

    train = corpus.train_windows(context)[:, None] + reach
    assert train.min() >= 0
    assert train.max() < length
    assert not held_out[train].any()

    starts, blocks = corpus.validation_windows(context)
    validation = starts[:, None] + reach
    assert validation.max() < length
    assert held_out[validation].all()
    np.testing.assert_array_equal(validation // BLOCK, np.broadcast_to(blocks[:, None], validation.shape))

    # Targets are every window's symbols but the first: none is scored or trained on twice, and few are left out.
    for windows, share in ((train, ~held_out), (validation, held_out)):
        targets = windows[:, 1:].ravel()
        assert len(np.unique(targets)) == len(targets)
        spans = length / BLOCK / HELD_OUT_EVERY + 1
        assert share.sum() - len(targets) <= spans * (context + 1)


@pytest.mark.parametrize("context", [7, 64])
def test_batches_are_the_windows_in_their_order(context):
    """Whatever the split over steps and rows."""
    corpus, batch, steps = tiny.corpus(), 6, 40
    order = window_order(len(corpus.train_windows(context)), batch, seed=3, first_step=0, steps=steps)
    found = corpus.batches(context, batch, 3, 0, steps)
    assert found.dtype == np.uint8
    assert found.shape == (steps, batch, context + 1)
    for step, row in ((0, 0), (17, 5), (39, 2)):
        first = corpus.train_windows(context)[order[step, row]]
        np.testing.assert_array_equal(found[step, row], corpus.symbols[first : first + context + 1])
    parts = [corpus.batches(context, batch, 3, 0, 25), corpus.batches(context, batch, 3, 25, 15)]
    np.testing.assert_array_equal(np.concatenate(parts), found)
    halves = [corpus.batches(context, batch, 3, 4, 9, rows=rows) for rows in (slice(0, 2), slice(2, 6))]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), found[4:13])


def test_validation_is_the_held_out_windows():
    windows, blocks = tiny.corpus().validation(64)
    starts, expected_blocks = tiny.corpus().validation_windows(64)
    np.testing.assert_array_equal(blocks, expected_blocks)
    np.testing.assert_array_equal(windows[-1], tiny.corpus().symbols[starts[-1] : starts[-1] + 65])
    assert windows.shape == (len(starts), 65)


def test_context_longer_than_a_held_out_block_is_refused():
    with pytest.raises(UserError, match=r"context=8192 .* at most 8191"):
        tiny.corpus().validation_windows(8192)
    assert len(tiny.corpus().validation_windows(8191)[0]) == 2


def test_text_of_more_than_2_gib():
    """Of one symbol and no memory; places beyond 2**31 do not fit 32 bits."""
    symbols = np.broadcast_to(np.zeros(1, np.uint8), (2**31 + 100 * BLOCK,))
    huge = Corpus(DataId("huge", "", VOCABULARY), symbols)
    assert 2**31 < huge.train_windows(4096)[-1] < len(symbols) - 4096
    starts, blocks = huge.validation_windows(4096)
    assert (np.diff(starts) > 0).all()
    assert (starts // BLOCK == blocks).all()
    assert huge.batches(4096, 2, 0, 0, 1).shape == (1, 2, 4097)
