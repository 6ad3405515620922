"""Normalised Hadamard rotation of the last axis in blocks."""

from .reference import rotate

__all__ = ["rotate"]
