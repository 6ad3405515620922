"""Exact k-th largest magnitude, without a sort."""

from .op import kth_magnitude, largest

__all__ = ["kth_magnitude", "largest"]
