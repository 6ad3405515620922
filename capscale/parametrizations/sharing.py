"""Shared weights: each stored number is the value of several entries, at random places and with random signs."""

from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from capscale.checks import check_whole
from capscale.parametrizations.base import Parametrization, Shape, Stored
from capscale.parametrizations.shuffles import hashed, keys_of, moved, moved_back

TABLES_BELOW = 2**18
"""Matrices of fewer entries find their places in tables that are part of the program; those of larger ones are computed
in it, about a hundred operations on whole numbers for an entry and step, beside six a token."""


class _Places(NamedTuple):
    """Of every entry the stored number that it holds, (in, out), flat; of every place behind the shuffle, whose copies
    stand below each other, the entry that it comes from, flat, and its sign."""

    stored: Any
    entry: Any
    signs: Any
    """Of every entry (in, out)."""


@dataclass(frozen=True)
class Shared(Parametrization):
    """Every stored number stands for `share` entries of the matrix, each with a sign of its own, ±1 at random.

    Random parameter sharing (arXiv 2310.11611) without its chunks, and HashedNets' sharing with signs (arXiv
    1504.04788) without collisions: exactly `share` entries hold each number. Places and signs are a function of the
    seed and the shape, the same in all layers.
    """

    share: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self, "share", least=2)
        check_whole(self, "seed")

    def arrays(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """One array of `in / share` rows."""
        if shape[0] % self.share:
            raise self.refused(shape, f"share={self.share} does not divide the inputs; choose a divisor of {shape[0]}")
        return {"shared": (shape[0] // self.share, shape[1])}

    def deviations(self, shape: Shape, std: float) -> dict[str, float]:
        """That of the entries."""
        return {"shared": std}

    def value(self, stored: Stored, shape: Shape) -> Array:
        """Numbers at their places, with their signs."""
        self.arrays(shape)
        return cast(Array, _spread(self, shape, stored["shared"]))

    def gmse(self, shape: Shape) -> float:
        """1 - 1/share: the mean over entries that share a number keeps that much of their energy."""
        return 1 - 1 / self.share

    def __str__(self) -> str:
        return f"shared{self.share}" + (f"-seed{self.seed}" if self.seed else "")


def places(sharing: Shared, shape: Shape) -> _Places:
    """Where the numbers of a matrix stand."""
    return _table(sharing, shape) if shape[0] * shape[1] < TABLES_BELOW else _found(sharing, shape, jnp)


@cache
def _table(sharing: Shared, shape: Shape) -> _Places:
    return _found(sharing, shape, np)


def _found(sharing: Shared, shape: Shape, xp: ModuleType) -> _Places:
    keys, width = keys_of(sharing.seed, "sharing"), np.uint32(shape[1])
    flat = xp.arange(shape[0] * shape[1], dtype=np.uint32).reshape(shape)
    rows, columns = moved(flat // width, flat % width, shape, keys)
    from_row, from_column = moved_back(flat // width, flat % width, shape, keys)
    stored = rows % np.uint32(shape[0] // sharing.share) * width + columns
    odd = (hashed(rows * width + columns, keys[-1]) & np.uint32(1)).astype(np.float32)
    signs = np.float32(1) - np.float32(2) * odd
    return _Places(stored.astype(np.int32), (from_row * width + from_column).astype(np.int32), signs)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _spread(sharing: Shared, shape: Shape, stored: Array) -> Array:
    found = places(sharing, shape)
    return jnp.take(stored.reshape(-1), jnp.asarray(found.stored)) * jnp.asarray(found.signs)


def _spread_forward(sharing: Shared, shape: Shape, stored: Array) -> tuple[Array, None]:
    return _spread(sharing, shape, stored), None


def _spread_backward(sharing: Shared, shape: Shape, _: None, g: Array) -> tuple[Array]:
    """The transpose as a look-up too: what JAX derives adds at random places, on GPUs in no fixed order."""
    found = places(sharing, shape)
    by_place = jnp.take((g * jnp.asarray(found.signs)).reshape(-1), jnp.asarray(found.entry))
    return (by_place.reshape(sharing.share, -1, shape[1]).sum(axis=0),)


_spread.defvjp(_spread_forward, _spread_backward)
