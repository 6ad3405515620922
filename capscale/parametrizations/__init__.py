"""Parametrizations: matrices computed from other numbers, which are what is stored and trained.

A format rounds a matrix to the nearest point of a set, and trains through that. A parametrization trains the stored
numbers themselves: the gradient that reaches them is the transpose of the map from them to the matrix.
"""

from capscale.parametrizations.base import Parametrization, Shape, Stored
from capscale.parametrizations.hashing import Hashed
from capscale.parametrizations.kronecker import KroneckerSum
from capscale.parametrizations.low_rank import LowRank, OfRank
from capscale.parametrizations.monarch import Monarch
from capscale.parametrizations.nola import Nola
from capscale.parametrizations.sharing import Shared
from capscale.parametrizations.spelling import find_parametrization, parametrization_name

CLASSES: tuple[type[Parametrization], ...] = (Shared, LowRank, KroneckerSum, Monarch, Nola, Hashed)
"""Of the package, as JSON names them."""

__all__ = [
    "CLASSES",
    "Hashed",
    "KroneckerSum",
    "LowRank",
    "Monarch",
    "Nola",
    "OfRank",
    "Parametrization",
    "Shape",
    "Shared",
    "Stored",
    "find_parametrization",
    "parametrization_name",
]
