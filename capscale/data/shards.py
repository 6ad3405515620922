"""Token shards as a source of batches, read through grain."""

import functools
import os
import shutil
import uuid
from functools import cached_property
from pathlib import Path
from typing import Any

import grain
import numpy as np
from etils import epath

from capscale.data.corpus import DataId
from capscale.data.manifest import Manifest, Shard, verify
from capscale.errors import UserError
from capscale.files import TEMPORARY, writing

THREADS, TOGETHER = 4, 64
"""Threads that read, and windows that each reads at a time: handing them over one by one costs more than reading."""


class Shards:
    """The text in a directory of token shards; a `capscale.data.source.Source`.

    Shards are memory-mapped, so only what is read takes memory. Those of a remote directory are copied to a cache on
    the first check: below XDG_CACHE_HOME, one folder a text.

    Raises `UserError` when the directory has no sound manifest.
    """

    def __init__(self, directory: epath.Path):
        self._directory = directory
        self.manifest = Manifest.read(directory)
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
        """Compares every shard with the manifest; see `capscale.data.manifest.verify`."""
        verify(self.manifest, self._local, again=again)

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
        tokens = self._tokens(self.manifest.validation)
        firsts = np.arange(0, len(tokens) - context, context)
        if not len(firsts):
            raise UserError(_too_short(self.id.name, "validation", context, len(tokens)))
        ended = np.cumsum(tokens == self.manifest.tokenizer.end)  # documents that end at or before each token
        document = ended[firsts] - (tokens[firsts] == self.manifest.tokenizer.end)
        return np.asarray(tokens[firsts[:, None] + np.arange(context + 1)]), document.astype(np.int32)

    def _open_windows(self, context: int) -> "_Windows":
        windows = _Windows([self._tokens(shard) for shard in self.manifest.train], context)
        if not windows.count:
            raise UserError(_too_short(self.id.name, "train", context, max(s.tokens for s in self.manifest.train)))
        return windows

    @cached_property
    def _local(self) -> Path:
        if "://" not in str(self._directory):
            return Path(self._directory)
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        cache = Path(home) / "capscale" / self.id.sha256[:32]
        fetch(self.manifest, self._directory, epath.Path(cache))
        return cache

    def _tokens(self, shard: Shard) -> np.ndarray:
        path = self._local / shard.file
        try:
            tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"shard {path} cannot be read ({error}); prepare the data again") from error
        if tokens.shape != (shard.tokens,) or tokens.dtype != self.manifest.dtype:
            raise UserError(
                f"shard {path} holds {tokens.dtype} {tokens.shape}, not {self.manifest.dtype} ({shard.tokens},); "
                "prepare the data again"
            )
        return np.asarray(tokens)


class _Windows:
    """All windows of some shards, by number: `context + 1` tokens, every `context` tokens from each shard's first."""

    def __init__(self, shards: list[np.ndarray], context: int):
        self._shards, self._context = shards, context
        self._ends = np.cumsum([max(len(tokens) - 1, 0) // context for tokens in shards])
        self.count = int(self._ends[-1])

    def read(self, numbers: list[int]) -> np.ndarray:
        """Windows of some numbers below `count`, `(len(numbers), context + 1)`."""
        shards = np.searchsorted(self._ends, numbers, side="right")
        firsts = (numbers - np.append(0, self._ends)[shards]) * self._context
        found = np.empty((len(numbers), self._context + 1), self._shards[0].dtype)
        for row, (shard, first) in enumerate(zip(shards.tolist(), firsts.tolist(), strict=True)):
            found[row] = self._shards[shard][first : first + self._context + 1]
        return found


def fetch(manifest: Manifest, directory: epath.Path, cache: epath.Path) -> None:
    """Copies shards that `cache` does not hold at their full size; two at once do no harm."""
    with writing(cache):
        cache.mkdir(parents=True, exist_ok=True)
    for shard in manifest.shards:
        target = cache / shard.file
        if target.exists() and target.stat().length == shard.size:
            continue
        temporary = cache / f".{shard.file}.{uuid.uuid4().hex}{TEMPORARY}"
        try:
            source = (directory / shard.file).open("rb")
        except OSError as error:
            raise UserError(
                f"shard {directory / shard.file} cannot be read ({error}); prepare the data again"
            ) from error
        with source, writing(target):
            try:
                with temporary.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)


def _too_short(name: str, side: str, context: int, tokens: int) -> str:
    return f"context={context} does not fit the {side} shards of {name!r}: the longest has {tokens:,} tokens; use less"
