"""Rows onto a compressed format in one pass: rotation, scale, nearest level and gradient mask, or codes and scales."""

from ..renamed import old_names
from .affine import Extremes, Number, RangeOver, ScaleOffset, SignedLargestOver, extremes
from .codes import Encoded, decode, has_codes, levels_of, multiplicand, without_codes
from .op import encode, project
from .projection import Projection, in_dtype, in_steps, of_level, on_grid, rounded
from .reference import code_of_vectors, on_codebook, survivors
from .scales import ExternalScale, KernelRule, LargestOver, LevelTimes, PowerOfTwoOver, RmsTimes, normalised, reciprocal
from .spec import Codebook, Pattern, Spec, Unsupported
from .tpu.tiles import Tile

__all__ = [
    "Codebook",
    "Encoded",
    "ExternalScale",
    "Extremes",
    "KernelRule",
    "LargestOver",
    "LevelTimes",
    "Number",
    "Pattern",
    "PowerOfTwoOver",
    "Projection",
    "RangeOver",
    "RmsTimes",
    "ScaleOffset",
    "SignedLargestOver",
    "Spec",
    "Tile",
    "Unsupported",
    "code_of_vectors",
    "decode",
    "encode",
    "extremes",
    "has_codes",
    "in_dtype",
    "in_steps",
    "levels_of",
    "multiplicand",
    "normalised",
    "of_level",
    "on_codebook",
    "on_grid",
    "project",
    "reciprocal",
    "rounded",
    "survivors",
    "without_codes",
]

__getattr__ = old_names(__name__, {"Given": "ExternalScale"})
