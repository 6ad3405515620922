"""Digests of a file's blocks, by which a part of it can be checked without the rest."""

import hashlib
from collections.abc import Iterable

BLOCK = 1 << 14
"""Bytes of a block. Windows lie anywhere: each takes one or two blocks, of which it needs a kilobyte or two."""
SUFFIX = ".blocks"
"""How the digests of a file are called, beside it: SHA-256 of each block, 32 bytes each, in their order."""
SIZE = hashlib.sha256().digest_size


class BlockDigests:
    """Digests of the blocks of a content that is given piece by piece.

    Example:
      >>> digests = BlockDigests()
      >>> digests.update(b"a" * BLOCK + b"b")
      >>> len(digests.digest()) // SIZE
      2
    """

    def __init__(self):
        self._done: list[bytes] = []
        self._hash, self._filled = hashlib.sha256(), 0

    def update(self, content: bytes | memoryview) -> None:
        """The next bytes of the content."""
        view = memoryview(content)
        while view:
            part, view = view[: BLOCK - self._filled], view[BLOCK - self._filled :]
            self._hash.update(part)
            self._filled += len(part)
            if self._filled == BLOCK:
                self._end()

    def digest(self) -> bytes:
        """The digests of all blocks, the last one as long as the content is."""
        if self._filled:
            self._end()
        return b"".join(self._done)

    def _end(self) -> None:
        self._done.append(self._hash.digest())
        self._hash, self._filled = hashlib.sha256(), 0


def altered(digests: bytes, first: int, blocks: Iterable[bytes]) -> int | None:
    """The first of some blocks, numbered from `first` on, that has another digest; None where all have theirs."""
    for number, block in enumerate(blocks, first):
        if hashlib.sha256(block).digest() != digests[number * SIZE : (number + 1) * SIZE]:
            return number
    return None
