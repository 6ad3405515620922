"""Random permutations of a matrix's places, computed place by place: no table, the same on every machine.

A Feistel network (Luby and Rackoff, 1988) over rows and columns: each round adds to one coordinate a hash of the other,
modulo its size, which the inverse takes away again. Whatever the hash is, that is a permutation. Arrays are NumPy's or
JAX's: whole numbers of 32 bits are the same in both.
"""

from functools import cache
from hashlib import shake_256
from typing import Any

import numpy as np

ROUNDS = 6
"""Three of each coordinate: three in all already look random to whoever sees places only (Luby and Rackoff)."""


@cache
def keys_of(seed: int, name: str) -> tuple[np.uint32, ...]:
    """Keys of the rounds, and one more, from SHAKE-256, which no version of a library changes."""
    drawn = shake_256(f"{name} {seed}".encode()).digest(4 * (ROUNDS + 1))
    return tuple(np.uint32(int.from_bytes(drawn[i : i + 4], "little")) for i in range(0, len(drawn), 4))


def hashed(x: Any, key: np.uint32) -> Any:
    """32 bits that look random, of a whole number and a key: the last steps of MurmurHash3."""
    x = x * np.uint32(0x9E3779B1) + key
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def moved(rows: Any, columns: Any, shape: tuple[int, int], keys: tuple[np.uint32, ...]) -> tuple[Any, Any]:
    """Where places (uint32) go."""
    height, width = (np.uint32(size) for size in shape)
    for i in range(0, ROUNDS, 2):
        rows = (rows + hashed(columns, keys[i]) % height) % height
        columns = (columns + hashed(rows, keys[i + 1]) % width) % width
    return rows, columns


def moved_back(rows: Any, columns: Any, shape: tuple[int, int], keys: tuple[np.uint32, ...]) -> tuple[Any, Any]:
    """Where places come from: the inverse of `moved`."""
    height, width = (np.uint32(size) for size in shape)
    for i in reversed(range(0, ROUNDS, 2)):
        columns = (columns + (width - hashed(rows, keys[i + 1]) % width)) % width
        rows = (rows + (height - hashed(columns, keys[i]) % height)) % height
    return rows, columns
