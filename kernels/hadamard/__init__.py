"""Normalised Hadamard rotation of the last axis in blocks."""

from .reference import rotate, signs

__all__ = ["rotate", "signs"]
