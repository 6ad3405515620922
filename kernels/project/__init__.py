"""Projection of rows onto a compressed format in one pass: rotation, scale, nearest level, gradient mask."""

from .op import project
from .spec import Codebook, Given, LargestOver, LevelTimes, Measures, Pattern, PowerOfTwo, RmsTimes, ScaleRule, Spec

__all__ = [
    "Codebook",
    "Given",
    "LargestOver",
    "LevelTimes",
    "Measures",
    "Pattern",
    "PowerOfTwo",
    "RmsTimes",
    "ScaleRule",
    "Spec",
    "project",
]
