"""Codebooks of one's own: points from Python or from a file, rounded to what kernels multiply exactly."""

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from capscale.errors import UserError
from capscale.files import plain_name
from capscale.kernels.project.spec import SIGNIFICANT

Points = tuple[tuple[float, ...], ...]
MOST_WORDS, MOST_COORDINATES = 2**16, 64
LARGEST_FILE = 2**26
"""Bytes of a file of points: twice what the largest codebook takes in JSON."""


def rounded_points(points: ArrayLike) -> Points:
    """Points (codewords, dimension), each coordinate rounded to 12 significant bits, whose products are exact."""
    found = _numbers(points, "points")
    mantissa, exponent = np.frexp(found)
    nearest = np.ldexp(np.round(mantissa * 2**SIGNIFICANT), exponent - SIGNIFICANT)
    return tuple(map(tuple, nearest.tolist()))


def check_points(points: Any, place: str) -> None:
    """Points as a codebook holds them, or a refusal.

    Raises:
      UserError: no tuple of tuples of finite numbers; equal points; more than a code or a kernel has room for;
        coordinates of more than 12 significant bits.
    """
    if not isinstance(points, tuple) or not all(isinstance(point, tuple) for point in points):
        raise UserError(f"{place} must be a tuple of tuples; use Vector.of(points), which takes arrays too")
    if not all(type(number) in (int, float) for point in points for number in point):
        raise UserError(f"{place} must be numbers; use Vector.of(points), which takes arrays too")
    found = _numbers(points, place)
    mantissa, _ = np.frexp(found)
    if not np.array_equal(mantissa * 2**SIGNIFICANT, np.round(mantissa * 2**SIGNIFICANT)):
        raise UserError(f"{place}: a coordinate has more than {SIGNIFICANT} significant bits; Vector.of rounds them")
    if len(np.unique(found, axis=0)) != len(found):
        raise UserError(f"{place}: points are equal once they are rounded; leave one of them out")


def read_points(path: str | PathLike[str]) -> Points:
    """Points of a `.npy` array or a `.json` list of lists, as `rounded_points` makes them; nothing is executed.

    Raises:
      UserError: another kind of file, none, one that is too large, or other content.
    """
    file = Path(path)
    if file.suffix not in (".npy", ".json"):
        raise UserError(f"{path}: points are read from a .npy array or a .json list of lists")
    if not file.is_file():
        raise UserError(f"{path}: no such file of points")
    if file.stat().st_size > LARGEST_FILE:
        raise UserError(f"{path}: {file.stat().st_size} bytes, and points take {LARGEST_FILE} at most")
    try:
        found = np.load(file, allow_pickle=False) if file.suffix == ".npy" else json.loads(file.read_text())
        return rounded_points(found)
    except (ValueError, TypeError, OSError, EOFError, RecursionError) as error:
        raise UserError(f"{path}: {error}") from error


def named_points(name: str) -> Points:
    """Points of a file of the working directory; one that leads elsewhere is refused: names may come from tables."""
    return read_points(plain_name(name, "vq@FILE", "FILE", "pass Vector.of(read_points(path)) in Python"))


def _numbers(points: ArrayLike, place: str) -> NDArray[np.float64]:
    if isinstance(points, Sequence) and len({np.shape(point) for point in points}) > 1:
        raise UserError(f"{place}: points of different lengths")
    found = np.asarray(points)
    if found.dtype.kind not in "iuf" or found.ndim != 2 or not 2 <= len(found) <= MOST_WORDS:
        raise UserError(f"{place}: give 2 to {MOST_WORDS} points, as a table (points, coordinates) of numbers")
    if not 1 <= found.shape[1] <= MOST_COORDINATES:
        raise UserError(f"{place}: points of {found.shape[1]} coordinates; 1 to {MOST_COORDINATES} are projected onto")
    size = np.abs(found.astype(np.float64))
    if not np.all(np.isfinite(size)) or size.max() > 2.0**60 or np.any((size > 0) & (size < 2.0**-60)):
        raise UserError(f"{place}: coordinates must be 0, or 2^-60 to 2^60 in magnitude: the scale is an RMS's")
    return found.astype(np.float64)
