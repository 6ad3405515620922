"""Activations times packed weights, decoded inside the tile."""

from .layout import Layout, Weights
from .op import matmul

__all__ = ["Layout", "Weights", "matmul"]
