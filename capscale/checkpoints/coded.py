"""Codes and scales of a scalar format, as arrays of (out, in): where every packed layout starts."""

from typing import NamedTuple, NoReturn

import jax.numpy as jnp
import numpy as np
from jax import Array

from capscale.errors import UserError
from capscale.formats.base import NO_CONTEXT, Format
from capscale.formats.catalog import label
from capscale.formats.scalar import Scalar


class Coded(NamedTuple):
    """A projected matrix of shape (out, in) in the codes of its format.

    Attributes:
      codes: of the grid, `uint8 (out, in)`.
      stored: codes of every component of the scales, `uint32`, one a group (out, groups), or one in all.
      scales: the same components as the numbers that they stand for, float32.
    """

    codes: np.ndarray
    stored: tuple[np.ndarray, ...]
    scales: tuple[np.ndarray, ...]


def coded(format: Scalar, rows: Array | np.ndarray) -> Coded:
    """Codes and scales of `format.project(rows)`, as `capscale.formats.packing` would store them.

    Raises `UserError` where the groups do not divide the rows, or `rows` holds NaN or infinity.
    """
    x = jnp.asarray(rows, jnp.float32)
    if not bool(jnp.all(jnp.isfinite(x))):
        raise UserError(f"cannot pack a tensor of shape {x.shape} that holds NaN or infinity; check its source")
    found = format.store(x, NO_CONTEXT)
    names = [field.name for field in format.scale_layout(x.shape)]
    shapes = [(len(x), found[name].size // len(x)) if found[name].size >= len(x) else (1, 1) for name in names]
    if isinstance(format.group, tuple):
        shapes[0] = (x.shape[0] // format.group[0], x.shape[1] // format.group[1])
    loaded = format.load_scales(found, x.shape)
    return Coded(
        np.asarray(found["codes"], np.uint8).reshape(x.shape),
        tuple(found[name].reshape(shape) for name, shape in zip(names, shapes, strict=True)),
        tuple(np.asarray(part, np.float32).reshape(shape) for part, shape in zip(loaded, shapes, strict=True)),
    )


def nibbles(codes: np.ndarray) -> np.ndarray:
    """Two codes of 4 bits a byte along the last axis, the first in the low half."""
    return (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8)


def refuse(container: str, format: Format, reason: str, nearest: str) -> NoReturn:
    """Raises the `UserError` of a format that a container has no layout for."""
    raise UserError(f"{container} cannot hold {label(format)}: {reason}; the nearest that it can is {nearest}")
