"""Normalised Hadamard rotation of an axis in blocks."""

from .orders import BASES, base_of
from .reference import rotate, signs

__all__ = ["BASES", "base_of", "rotate", "signs"]
