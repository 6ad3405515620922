"""The parametrization as a value: the arrays that it stores, their first values, and the matrix that they make."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array

from capscale.errors import UserError

Shape = tuple[int, int]
"""Inputs and outputs of a matrix."""
Stored = Mapping[str, Array]
"""Stored numbers by the name of their array."""


class Parametrization(ABC):
    """A set of matrices, each made of stored numbers: a frozen dataclass, which is all that decides it.

    Subclasses say the arrays of a shape (`arrays`), the deviation of their first values (`deviations`), the matrix
    (`value`), and where it has a closed form the error of the nearest matrix of the set (`gmse`).

    Gradients reach the stored numbers by the transpose of `value`'s derivative: of a linear map that is its transpose,
    of a product of factors the product rule. The optimizer treats stored numbers as it treats a dense matrix, by one
    rate and one decay: first values are spread evenly over the factors, so that a step of all of them moves an entry of
    the product about as far as a step of its own would.
    """

    @abstractmethod
    def arrays(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """Shapes of the stored arrays of a matrix; UserError for a shape that has none."""

    @abstractmethod
    def deviations(self, shape: Shape, std: float) -> dict[str, float]:
        """Deviations of the first values, Gaussian, that give the entries of the matrix the deviation `std`."""

    @abstractmethod
    def value(self, stored: Stored, shape: Shape) -> Array:
        """The matrix (in, out), float32."""

    @abstractmethod
    def gmse(self, shape: Shape) -> float | None:
        """Mean squared error of the nearest matrix of the set to a standard Gaussian one; None where none is known.

        It is a fact of the set. Unlike that of a format it does not say what training makes of it.
        """

    def init(self, key: Array, shape: Shape, std: float) -> dict[str, Array]:
        """First stored numbers, whose matrix has entries of mean 0 and deviation `std`."""
        deviations, arrays = self.deviations(shape, std), self.arrays(shape)
        keys = jax.random.split(key, len(arrays))
        return {
            name: deviations[name] * jax.random.normal(key, size, jnp.float32)
            for key, (name, size) in zip(keys, arrays.items(), strict=True)
        }

    def stored_numbers(self, shape: Shape) -> int:
        """How many numbers are stored of a matrix."""
        return sum(math.prod(size) for size in self.arrays(shape).values())

    def has(self, shape: Shape) -> bool:
        """Whether a matrix of the shape can be stored so; `arrays` says why where it cannot."""
        try:
            self.arrays(shape)
        except UserError:
            return False
        return True

    def refused(self, shape: Shape, why: str) -> UserError:
        """An error that names this, the shape, and why they do not go together."""
        return UserError(f"{self} of a matrix of {shape[0]} inputs and {shape[1]} outputs: {why}")


def of_share(share: float, shape: Shape, each: int) -> int:
    """How many parts of `each` stored numbers a share of the entries pays for, one at least."""
    # A share such as 0.3 is a little less in binary, and must still pay for the parts that it pays for in decimals.
    return max(1, math.floor(share * shape[0] * shape[1] / each + 1e-9))
