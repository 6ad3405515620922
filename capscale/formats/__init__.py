"""Compressed formats: values that say how a tensor is held, and project to it."""

from .base import Context, Format, Projection
from .compose import Then
from .dense import Dense
from .grids import Int
from .pattern import NM
from .scalar import Scalar
from .scale import Rms
from .sparse import TopK

__all__ = ["NM", "Context", "Dense", "Format", "Int", "Projection", "Rms", "Scalar", "Then", "TopK"]
