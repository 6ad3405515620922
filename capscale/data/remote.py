"""Token shards in object storage: read by range, and each block checked as it is read."""

import functools
import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Lock

import numpy as np
from etils import epath

from capscale.data.blocks import BLOCK, SIZE, SUFFIX, BlockDigests, altered
from capscale.data.manifest import Manifest, Shard
from capscale.errors import UserError
from capscale.files import write_bytes
from capscale.storage import make_directory, read_ranges, sizes

CACHE = 1 << 29
"""Bytes of blocks that a process keeps. A smaller text is read once; of a larger one few blocks come twice."""
PIECE = 512 * BLOCK
"""Bytes that are asked for at a time where a whole shard is read: 8 MiB."""
TOGETHER = 16
"""Such pieces that are asked for together."""
_REMEDY = "fetch it again, or prepare the data again"

Span = tuple[Shard, int, int]
"""Blocks of a shard, from the first to before the last."""


class RemoteTokens:
    """Tokens of the shards in a directory of object storage.

    Nothing is copied: windows are read as they are asked for, the last `CACHE` bytes of blocks being kept. Blocks are
    held to digests that lie beside the shard, and these to the manifest.
    """

    def __init__(self, manifest: Manifest, directory: epath.Path):
        self._manifest, self._directory = manifest, directory
        self._dtype = np.dtype(manifest.dtype)
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._bytes, self._keeping, self._checking = 0, Lock(), Lock()
        self._checked = False
        self._digests, self._offset = functools.cache(self._read_digests), functools.cache(self._read_offset)

    def check(self, *, again: bool = False) -> None:
        """Compares the shards with the manifest by name and size, once; `again` reads and hashes every one.

        Raises `UserError` that names a shard which is missing, has another size, or was altered. Of shards that an
        earlier version of the package has made, without digests of blocks, each is read once by every machine.
        """
        with self._checking:
            if self._checked and not again:
                return
            found = sizes(self._directory)
            for shard in self._manifest.shards:
                if shard.file not in found:
                    raise UserError(f"shard {self._place(shard)} is missing; {_REMEDY}")
                if found[shard.file] != shard.size:
                    raise UserError(
                        f"shard {self._place(shard)} has {found[shard.file]:,} bytes, not {shard.size:,}; {_REMEDY}"
                    )
            for shard in self._manifest.shards:
                self._digests(shard)
                if again:
                    self._hash(shard)
            self._checked = True

    def whole(self, shard: Shard) -> np.ndarray:
        """All tokens of a shard."""
        content = b"".join(block for blocks in self._pieces(shard) for block in blocks)
        return np.frombuffer(content, self._dtype, offset=self._offset(shard))

    def windows(self, shards: list[Shard], firsts: list[int], length: int) -> np.ndarray:
        """`length` tokens from each of some places, `(len(firsts), length)`; what is not kept is read together."""
        spans = []
        for shard, first in zip(shards, firsts, strict=True):
            begin = self._offset(shard) + first * self._dtype.itemsize
            spans.append((shard, begin, begin + length * self._dtype.itemsize))
        wanted = [(shard, begin // BLOCK, -(-end // BLOCK)) for shard, begin, end in spans]
        blocks = self._blocks(wanted)
        found = np.empty((len(firsts), length), self._dtype)
        for row, ((shard, begin, end), (_, first, last)) in enumerate(zip(spans, wanted, strict=True)):
            content = b"".join(blocks[shard.file, number] for number in range(first, last))
            found[row] = np.frombuffer(content[begin - first * BLOCK : end - first * BLOCK], self._dtype)
        return found

    def _blocks(self, wanted: Iterable[Span]) -> dict[tuple[str, int], bytes]:
        """Blocks by shard and number, out of what is kept where they are there."""
        needed = {(shard.file, number): shard for shard, first, last in wanted for number in range(first, last)}
        with self._keeping:
            found = {key: self._kept[key] for key in needed if key in self._kept}
            for key in found:
                self._kept.move_to_end(key)
        missing = [
            (shard, number, number + 1) for (file, number), shard in needed.items() if (file, number) not in found
        ]
        for (shard, number, _), (block,) in zip(missing, self._read(missing), strict=True):
            found[shard.file, number] = block
        with self._keeping:
            for shard, number, _ in missing:
                block = found[shard.file, number]
                self._bytes += len(block) - len(self._kept.pop((shard.file, number), b""))
                self._kept[shard.file, number] = block
            while self._bytes > CACHE:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return found

    def _read(self, spans: list[Span]) -> list[list[bytes]]:
        """Blocks of each span, as they are in storage and as their digests say."""
        ranges = [(self._place(shard), first * BLOCK, min(last * BLOCK, shard.size)) for shard, first, last in spans]
        found = []
        for (shard, first, _), content in zip(spans, self._ranges(ranges), strict=True):
            blocks = _cut(content)
            wrong = altered(self._digests(shard), first, blocks)
            if wrong is not None:
                raise UserError(
                    f"shard {self._place(shard)} was altered in block {wrong} (bytes {wrong * BLOCK:,} to "
                    f"{min((wrong + 1) * BLOCK, shard.size):,}): its sha256 is another than was written; {_REMEDY}"
                )
            found.append(blocks)
        return found

    def _pieces(self, shard: Shard) -> Iterator[list[bytes]]:
        """The blocks of a whole shard, some pieces at a time."""
        count, step = -(-shard.size // BLOCK), PIECE // BLOCK
        spans = [(shard, first, min(first + step, count)) for first in range(0, count, step)]
        for first in range(0, len(spans), TOGETHER):
            yield from self._read(spans[first : first + TOGETHER])

    def _ranges(self, ranges: list[tuple[epath.Path, int, int]]) -> list[bytes]:
        try:
            return read_ranges(ranges)
        except FileNotFoundError as error:
            raise UserError(f"shard {error} is missing; {_REMEDY}") from error

    def _hash(self, shard: Shard) -> None:
        found = hashlib.sha256()
        for blocks in self._pieces(shard):
            for block in blocks:
                found.update(block)
        self._compare(shard, found.hexdigest())

    def _compare(self, shard: Shard, sha256: str) -> None:
        if sha256 != shard.sha256:
            found = f"its sha256 is {sha256[:12]}, not {shard.sha256[:12]}"
            raise UserError(f"shard {self._place(shard)} was altered: {found}; {_REMEDY}")

    def _read_offset(self, shard: Shard) -> int:
        """Where the tokens begin; `UserError` where the file's head is not that of these tokens."""
        offset = shard.size - shard.tokens * self._dtype.itemsize
        ((head, *_),) = self._read([(shard, 0, 1)])
        with io.BytesIO(head) as file:
            try:
                np.lib.format.read_magic(file)
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                known = (shape, dtype, file.tell()) == ((shard.tokens,), self._dtype, offset)
            except ValueError:
                known = False
        if not known:
            raise UserError(
                f"shard {self._place(shard)} is no file of {shard.tokens:,} tokens of {self._dtype}; "
                "prepare the data again"
            )
        return offset

    def _read_digests(self, shard: Shard) -> bytes:
        """Digests of a shard's blocks, held to the manifest."""
        if shard.blocks is None:
            return self._made_digests(shard)
        path = self._directory / (shard.file + SUFFIX)
        try:
            found = path.read_bytes()
        except FileNotFoundError as error:
            raise UserError(f"{path}, the digests of a shard's blocks, is missing; {_REMEDY}") from error
        if hashlib.sha256(found).hexdigest() != shard.blocks:
            raise UserError(f"{path}, the digests of a shard's blocks, was altered; {_REMEDY}")
        return found

    def _made_digests(self, shard: Shard) -> bytes:
        """Digests of a shard that was made without, from all of it; kept on this machine."""
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        kept = epath.Path(home) / "capscale" / "blocks" / f"{shard.sha256}-{BLOCK}"
        if kept.exists() and len(found := kept.read_bytes()) == SIZE * -(-shard.size // BLOCK):
            return found
        whole, digests = hashlib.sha256(), BlockDigests()
        for first in range(0, shard.size, PIECE):
            (content,) = self._ranges([(self._place(shard), first, min(first + PIECE, shard.size))])
            whole.update(content)
            digests.update(content)
        self._compare(shard, whole.hexdigest())
        make_directory(kept.parent)
        write_bytes(kept, digests.digest())
        return digests.digest()

    def _place(self, shard: Shard) -> epath.Path:
        return self._directory / shard.file


def _cut(content: bytes) -> list[bytes]:
    return [content[first : first + BLOCK] for first in range(0, len(content), BLOCK)]
