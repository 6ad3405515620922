"""Hashed weights: each entry takes one of fewer stored numbers, which a hash chooses, with a sign that a hash gives."""

import math
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from capscale.checks import check_real, check_whole
from capscale.parametrizations.base import Parametrization, Shape, Stored, of_share
from capscale.parametrizations.shuffles import hashed, keys_of

TABLES_BELOW = 2**18
"""Matrices of fewer entries find their numbers in tables of the program; those of larger ones are computed in it."""


class _Places(NamedTuple):
    """Of every entry (in, out), the number that it takes and its sign."""

    stored: Any
    signs: Any


@dataclass(frozen=True)
class Hashed(Parametrization):
    """Every entry is the number that a hash of its place names, times a sign of another hash (arXiv 1504.04788).

    Beside `Shared`, which gives every number as many entries, numbers are the value of more or fewer of them, and of
    none about exp(-1/share) are: these are stored and counted all the same, as HashedNets stores them. Hashes are a
    function of the seed and the place, the same in all layers.

    Attributes:
      share: numbers that are stored, of as many entries.
      seed: of the hashes.
    """

    share: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_real(self, "share", above=0, most=1)
        check_whole(self, "seed")

    def arrays(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """One array, without rows."""
        return {"hashed": (of_share(self.share, shape, 1),)}

    def deviations(self, shape: Shape, std: float) -> dict[str, float]:
        """That of the entries."""
        return {"hashed": std}

    def value(self, stored: Stored, shape: Shape) -> Array:
        """Numbers at their places, with their signs; the gradient of a number is the sum over its entries."""
        (count,) = self.arrays(shape)["hashed"]
        found = _table(self.seed, count, shape) if math.prod(shape) < TABLES_BELOW else _found(self.seed, count, shape)
        return jnp.take(stored["hashed"], jnp.asarray(found.stored)) * jnp.asarray(found.signs)

    def gmse(self, shape: Shape) -> float:
        """1 - (numbers that some entry takes) / entries, in expectation over hashes.

        Of a number's entries their signed mean keeps the energy of one, however many they are; with k numbers and n
        entries, k (1 - (1 - 1/k)^n) numbers are expected to have any.
        """
        (count,), entries = self.arrays(shape)["hashed"], math.prod(shape)
        taken = 1.0 if count == 1 else -count * math.expm1(entries * math.log1p(-1 / count))
        return 1 - taken / entries

    def __str__(self) -> str:
        return f"hashed{self.share:g}" + (f"-seed{self.seed}" if self.seed else "")


@cache
def _table(seed: int, count: int, shape: Shape) -> _Places:
    return _found(seed, count, shape, np)


def _found(seed: int, count: int, shape: Shape, xp: ModuleType = jnp) -> _Places:
    keys = keys_of(seed, "hashing")
    flat = xp.arange(math.prod(shape), dtype=np.uint32).reshape(shape)
    stored = (hashed(flat, keys[0]) % np.uint32(count)).astype(np.int32)
    odd = (hashed(flat, keys[1]) & np.uint32(1)).astype(np.float32)
    return _Places(stored, np.float32(1) - np.float32(2) * odd)
