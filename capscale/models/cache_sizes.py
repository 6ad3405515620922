"""Bytes of attention's cache by the size of a model, of the shapes of a ladder."""

from collections.abc import Sequence

import numpy as np

from capscale.errors import UserError
from capscale.models.assigned import Held
from capscale.models.config import ModelConfig
from capscale.models.coverage import cache_bytes


class CacheSizes:
    """Bytes of the keys and values of so many tokens, as a function of N.

    At the sizes of the ladder they are counted; between them they follow a power of N, and beyond, that of the last
    two.
    """

    def __init__(self, models: Sequence[ModelConfig], held: Held, tokens: int):
        """Counts the cache of every shape.

        Args:
          models: shapes, of two sizes at least.
          held: representation, or representations by layer, of keys and values.
          tokens: in the cache: the context's length, times sequences.

        Raises:
          UserError: shapes of one size, no token, or formats that cannot be stored.
        """
        if tokens < 1:
            raise UserError(f"a cache of {tokens} tokens: it holds 1 at least")
        by_size = {model.non_embedding_parameters: cache_bytes(model, held) * tokens for model in models}
        if len(by_size) < 2:
            raise UserError(
                f"shapes of {len(by_size)} sizes do not say how the cache grows with N; give a ladder of two"
            )
        self.sizes = np.array(sorted(by_size), float)
        self.bytes = np.array([by_size[int(N)] for N in self.sizes])

    def __call__(self, N: float) -> float:
        """Bytes of the cache of a model of N non-embedding parameters."""
        x, y = np.log(self.sizes), np.log(self.bytes)
        at = float(np.log(N))
        k = int(np.clip(np.searchsorted(x, at) - 1, 0, len(x) - 2))
        return float(np.exp(y[k] + (at - x[k]) * (y[k + 1] - y[k]) / (x[k + 1] - x[k])))

    def knows(self, N: float) -> bool:
        """Whether N lies within the sizes of the ladder."""
        return bool(self.sizes[0] <= N <= self.sizes[-1])
