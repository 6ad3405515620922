"""Rows onto a compressed format in one pass: rotation, scale, nearest level and gradient mask, or codes and scales."""

from .codes import Encoded, decode
from .op import encode, project
from .scales import Given, LargestOver, LevelTimes, PowerOfTwo, RmsTimes, ScaleRule, normalised, reciprocal
from .spec import Codebook, Measures, Pattern, Spec
from .tiles import Tile

__all__ = [
    "Codebook",
    "Encoded",
    "Given",
    "LargestOver",
    "LevelTimes",
    "Measures",
    "Pattern",
    "PowerOfTwo",
    "RmsTimes",
    "ScaleRule",
    "Spec",
    "Tile",
    "decode",
    "encode",
    "normalised",
    "project",
    "reciprocal",
]
