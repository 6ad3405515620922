"""A text as symbols, split into training and held-out windows."""

import codecs
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from etils import epath

from capscale.checks import check_whole
from capscale.data.batches import window_order
from capscale.data.stdlib import standard_library_text
from capscale.errors import UserError

BLOCK = 8192
"""Bytes per block of the train/validation split."""
HELD_OUT_EVERY = 20
"""Every 20th block is held out: 5 % of the text, spread over all of it."""
STANDARD_LIBRARY = "python-standard-library"
"""Name of the text that is at hand everywhere."""
VOCABULARY = 96
"""Symbols of a byte corpus: its 95 commonest bytes, and one symbol for every other byte."""


@dataclass(frozen=True)
class DataId:
    """Identity of the text that a result depends on: its content, and how many symbols."""

    name: str
    sha256: str
    vocabulary: int

    def __post_init__(self):
        check_whole(self, "vocabulary", least=1)


@dataclass(frozen=True, eq=False)
class Corpus:
    """Symbols of a text with the split into training and validation spans.

    Attributes:
      id: name, content hash and vocabulary.
      symbols: `uint8 (n,)`, one symbol per byte of the text.
      bytes_per_symbol: 1.0; losses in nats per symbol become bits per byte through it.
    """

    id: DataId
    symbols: np.ndarray
    bytes_per_symbol: float = 1.0

    @cached_property
    def _held_out_blocks(self) -> list[int]:
        return list(range(HELD_OUT_EVERY - 1, -(-len(self.symbols) // BLOCK), HELD_OUT_EVERY))

    def train_windows(self, context: int) -> np.ndarray:
        """First symbol of every training window, `int64 (n,)`.

        A window is `context + 1` symbols: inputs and, shifted by one, targets. Windows do not share
        targets and never touch a held-out block.
        """
        end = len(self.symbols)
        firsts = [0, *((block + 1) * BLOCK for block in self._held_out_blocks)]
        lasts = [*(block * BLOCK for block in self._held_out_blocks), end]
        return _windows(zip(firsts, lasts, strict=True), context)

    def validation_windows(self, context: int) -> tuple[np.ndarray, np.ndarray]:
        """First symbol of every validation window, `int64 (n,)`, and the held-out block it lies in, `int32 (n,)`.

        Raises `UserError` for a context that no held-out block has room for.
        """
        if context >= BLOCK:
            raise UserError(
                f"context={context} does not fit a held-out block of {BLOCK} symbols; use at most {BLOCK - 1}"
            )
        spans = ((block * BLOCK, min((block + 1) * BLOCK, len(self.symbols))) for block in self._held_out_blocks)
        starts = _windows(spans, context)
        return starts, (starts // BLOCK).astype(np.int32)

    def check(self) -> None:
        """Nothing to check: the symbols are in memory."""

    def batches(
        self, context: int, batch: int, seed: int, first_step: int, steps: int, *, rows: slice = slice(None)
    ) -> np.ndarray:
        """Windows of the batches of some steps, `uint8 (S, rows, context + 1)`; see `Source`."""
        starts = self._train_starts(context)
        order = window_order(len(starts), batch, seed, first_step, steps)[:, rows]
        return self.symbols[starts[order][..., None] + np.arange(context + 1)]

    def validation(self, context: int) -> tuple[np.ndarray, np.ndarray]:
        """Every held-out window, `uint8 (n, context + 1)`, and the block it lies in; see `Source`."""
        starts, blocks = self.validation_windows(context)
        return self.symbols[starts[:, None] + np.arange(context + 1)], blocks

    @cached_property
    def _starts(self) -> dict[int, np.ndarray]:
        return {}

    def _train_starts(self, context: int) -> np.ndarray:
        return self._starts.setdefault(context, self.train_windows(context))


def _windows(spans: Iterable[tuple[int, int]], context: int) -> np.ndarray:
    return np.concatenate([np.arange(first, last - context, context, dtype=np.int64) for first, last in spans])


def byte_corpus(text: bytes, name: str) -> Corpus:
    """Corpus over the bytes of `text`.

    Raises `UserError` for text that is empty, binary (not UTF-8, or holding NUL) or too short to hold
    out two blocks.
    """
    if not text:
        raise UserError(f"text {name!r} is empty; give a file with at least {_SHORTEST:,} bytes of text")
    if b"\0" in text or not _is_utf8(text):
        raise UserError(f"text {name!r} is binary, not UTF-8 text; decompress or convert it first")
    if len(text) < _SHORTEST:
        raise UserError(
            f"text {name!r} has {len(text):,} bytes, too short to train and hold out from; "
            f"give at least {_SHORTEST:,} bytes"
        )
    data = np.frombuffer(text, np.uint8)
    counts = np.sum([np.bincount(part, minlength=256) for part in _pieces(data)], axis=0)
    by_frequency = np.lexsort((np.arange(256), -counts))  # ties go to the smaller byte: a text has one mapping
    symbol_of_byte = np.full(256, VOCABULARY - 1, np.uint8)
    symbol_of_byte[by_frequency[: VOCABULARY - 1]] = np.arange(VOCABULARY - 1, dtype=np.uint8)
    symbols = np.empty_like(data)
    for part, place in zip(_pieces(data), _pieces(symbols), strict=True):
        symbol_of_byte.take(part, out=place, mode="clip")
    return Corpus(DataId(name, hashlib.sha256(text).hexdigest(), VOCABULARY), symbols)


def _is_utf8(text: bytes) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for first in range(0, len(text), PIECE):
            decoder.decode(text[first : first + PIECE])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _pieces(values: np.ndarray) -> list[np.ndarray]:
    """An array in views of `PIECE` values: numpy counts and looks up by indices of 8 bytes each."""
    return [values[first : first + PIECE] for first in range(0, len(values), PIECE)]


PIECE = 1 << 20
_SHORTEST = 2 * HELD_OUT_EVERY * BLOCK


def load_corpus(path: str | None) -> Corpus:
    """The text file at `path` (local or remote), or the standard library's prose when there is none."""
    if path is None:
        return byte_corpus(standard_library_text(), STANDARD_LIBRARY)
    file = epath.Path(path)
    try:
        return byte_corpus(file.read_bytes(), file.name)
    except OSError as error:
        raise UserError(f"text file {path!r} cannot be read ({error.strerror or error}); check the path") from error
