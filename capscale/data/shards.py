"""Token shards as a source of batches, read through grain."""

import functools
import threading
from pathlib import Path
from typing import Any, Protocol

import grain
import numpy as np
from etils import epath

from capscale.data.corpus import DataId
from capscale.data.manifest import Manifest, Shard, verify
from capscale.data.remote import RemoteTokens
from capscale.errors import UserError
from capscale.storage import is_object_storage

THREADS, TOGETHER = 4, 64
"""Threads that read, and windows that each reads at a time: handing them over one by one costs more than reading."""


class Shards:
    """The text in a directory of token shards; a `capscale.data.source.Source`.

    Shards are memory-mapped, so only what is read takes memory. Those in object storage are read by range, and never
    copied: see `capscale.data.remote`.

    Raises `UserError` when the directory has no sound manifest.
    """

    def __init__(self, directory: epath.Path):
        self.manifest = Manifest.read(directory)
        self._text: _Text = (
            RemoteTokens(self.manifest, directory)
            if is_object_storage(directory)
            else _LocalTokens(self.manifest, Path(directory))
        )
        self._windows = functools.cache(self._open_windows)

    @property
    def id(self) -> DataId:
        """Identity of the text; see `Source`."""
        return self.manifest.data_id

    @property
    def bytes_per_symbol(self) -> float:
        """Bytes of text per token of the validation set, whose loss it converts."""
        return self.manifest.validation.text_bytes / self.manifest.validation.tokens

    def check(self, *, again: bool = False) -> None:
        """Compares every shard with the manifest; see `capscale.data.manifest.verify`.

        Of a directory in object storage, names and sizes: contents are checked block by block as they are read.
        """
        self._text.check(again=again)

    def batches(
        self, context: int, batch: int, seed: int, first_step: int, steps: int, *, rows: slice = slice(None)
    ) -> np.ndarray:
        """Windows of the batches of some steps, `uint16 or uint32 (S, rows, context + 1)`; see `Source`.

        Every epoch visits every window once, in grain's order for the seed and the epoch.
        """
        places = np.arange(first_step * batch, (first_step + steps) * batch).reshape(steps, batch)[:, rows]
        # grain adds the epoch to the seed: neighbouring seeds would share epochs if they were not spread out.
        spread = int(np.random.SeedSequence(seed).generate_state(1)[0])
        windows = self._windows(context)
        order: Any = grain.MapDataset.range(windows.count).shuffle(spread).repeat()
        wanted = places.ravel().tolist()
        together = [wanted[first : first + TOGETHER] for first in range(0, len(wanted), TOGETHER)]
        read: Any = grain.MapDataset.source(together).map(lambda group: windows.read([order[place] for place in group]))
        options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=2 * THREADS)
        found = [np.empty((0, context + 1), self.manifest.dtype), *read.to_iter_dataset(options)]
        return np.concatenate(found).reshape(*places.shape, context + 1)

    def validation(self, context: int) -> tuple[np.ndarray, np.ndarray]:
        """Windows of the validation set, `(n, context + 1)`, and the document each begins in; see `Source`."""
        tokens = self._text.whole(self.manifest.validation)
        firsts = np.arange(0, len(tokens) - context, context)
        if not len(firsts):
            raise UserError(_too_short(self.id.name, "validation", context, len(tokens)))
        ended = np.cumsum(tokens == self.manifest.tokenizer.end)  # documents that end at or before each token
        document = ended[firsts] - (tokens[firsts] == self.manifest.tokenizer.end)
        return np.asarray(tokens[firsts[:, None] + np.arange(context + 1)]), document.astype(np.int32)

    def _open_windows(self, context: int) -> "_Windows":
        windows = _Windows(self.manifest.train, self._text, context)
        if not windows.count:
            raise UserError(_too_short(self.id.name, "train", context, max(s.tokens for s in self.manifest.train)))
        return windows


class _Text(Protocol):
    """Tokens of shards, wherever they lie."""

    def check(self, *, again: bool = False) -> None:
        """Raises `UserError` that names a shard which is not as the manifest says."""
        ...

    def whole(self, shard: Shard) -> np.ndarray:
        """All tokens of a shard."""
        ...

    def windows(self, shards: list[Shard], firsts: list[int], length: int) -> np.ndarray:
        """`length` tokens from each of some places, `(len(firsts), length)`."""
        ...


_OPENING = threading.Lock()
"""One thread at a time: NumPy has Python parse the header of a file, and two that did so at once ended in a SystemError
of Python 3.11.7, "AST constructor recursion depth mismatch"."""


class _LocalTokens:
    """Tokens of the shards in a directory of this machine, which are memory-mapped."""

    def __init__(self, manifest: Manifest, directory: Path):
        self._manifest, self._directory = manifest, directory
        self._opened = functools.cache(self._open)

    def check(self, *, again: bool = False) -> None:
        verify(self._manifest, self._directory, again=again)

    def whole(self, shard: Shard) -> np.ndarray:
        with _OPENING:
            return self._opened(shard)

    def windows(self, shards: list[Shard], firsts: list[int], length: int) -> np.ndarray:
        found = np.empty((len(firsts), length), self._manifest.dtype)
        for row, (shard, first) in enumerate(zip(shards, firsts, strict=True)):
            found[row] = self.whole(shard)[first : first + length]
        return found

    def _open(self, shard: Shard) -> np.ndarray:
        path = self._directory / shard.file
        try:
            tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"shard {path} cannot be read ({error}); prepare the data again") from error
        if tokens.shape != (shard.tokens,) or tokens.dtype != self._manifest.dtype:
            raise UserError(
                f"shard {path} holds {tokens.dtype} {tokens.shape}, not {self._manifest.dtype} ({shard.tokens},); "
                "prepare the data again"
            )
        return np.asarray(tokens)


class _Windows:
    """All windows of some shards, by number: `context + 1` tokens, every `context` tokens from each shard's first."""

    def __init__(self, shards: tuple[Shard, ...], text: _Text, context: int):
        self._shards, self._text, self._context = shards, text, context
        self._ends = np.cumsum([max(shard.tokens - 1, 0) // context for shard in shards])
        self.count = int(self._ends[-1])

    def read(self, numbers: list[int]) -> np.ndarray:
        """Windows of some numbers below `count`, `(len(numbers), context + 1)`."""
        places = np.searchsorted(self._ends, numbers, side="right")
        firsts = (numbers - np.append(0, self._ends)[places]) * self._context
        return self._text.windows([self._shards[place] for place in places], firsts.tolist(), self._context + 1)


def _too_short(name: str, side: str, context: int, tokens: int) -> str:
    return f"context={context} does not fit the {side} shards of {name!r}: the longest has {tokens:,} tokens; use less"
