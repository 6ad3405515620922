"""Tensors on which formats are held to the code of others, ours by the name of theirs, and their values as levels."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from capscale.kernels.hadamard import rotate
from jax import Array
from scipy.linalg import hadamard

from capscale.formats.base import NO_CONTEXT, Format
from capscale.formats.catalog import find
from capscale.formats.scalar import Scalar
from capscale.formats.scale import TwoLevel
from capscale.recipes import find_recipe

ROWS, COLUMNS = 128, 256
FULL = np.float32(np.finfo(np.float32).max)
Values = Any
"""A numpy array of floats."""
SIGNS = (1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1)
"""Signs ahead of the rotation that Transformer Engine has written down; recipes here draw theirs from a seed."""


QUEST = find("e2m1-g32@e8m0-rms")
MX = ("mxfp4", "mxfp6-e2m3", "mxfp6-e3m2", "mxfp8-e4m3", "mxfp8-e5m2", "mxint8")


def tensors() -> Mapping[str, Values]:
    """float32 (128, 256) each, the same on every machine: drawn by integers, without a function of floats."""
    random = np.random.default_rng(2509)
    # The mean of four uniform integers is near enough to a Gaussian one, and exact in float32.
    whole = random.integers(-(2**19), 2**19, (4, ROWS, COLUMNS)).sum(axis=0)
    normal = (whole / np.float64(2**19)).astype(np.float32)
    spikes = np.where(random.random((ROWS, COLUMNS)) < 0.01, np.float32(128), np.float32(1))
    holes = np.where(random.random((ROWS, COLUMNS // 16, 1)) < 0.5, 0, 1).repeat(16, -1).reshape(ROWS, COLUMNS)
    ties = random.integers(-24, 25, (ROWS, COLUMNS)).astype(np.float32) / 4
    return {
        "normal": normal,
        "outliers": normal * spikes,
        "zeros": (normal * holes).astype(np.float32),
        "nothing": np.zeros((ROWS, COLUMNS), np.float32),
        "tiny": (normal * np.float32(2.0**-120)).astype(np.float32),
        "subnormal": (normal * np.float32(2.0**-130)).astype(np.float32),
        "largest": normal / np.abs(normal).max() * FULL,
        "ties": ties,
    }


def _as_it_is(x: Values) -> Values:
    return x


class Pair(NamedTuple):
    """Projection that a recipe rounds an operand by, and the unit that its values are small numbers of."""

    project: Callable[[Array], Array]
    unit: Callable[[Values], Values]
    """float64 (1 or 128, 1 or 256) of a float64 tensor."""
    prepare: Callable[[Values], Values] = _as_it_is
    """The tensor that both are given, float32, made of one of `tensors`."""


def _largest(top: float, rows: int | None = None, columns: int | None = None) -> Callable[[Values], Values]:
    """The largest magnitude of tiles, of all by default, over the largest level; 1 where that is 0."""

    def unit(x: Values) -> Values:
        height, width = (side or whole for side, whole in zip((rows, columns), x.shape, strict=True))
        tiles = np.abs(x).reshape(x.shape[0] // height, height, x.shape[1] // width, width)
        found = tiles.max(axis=(1, 3), keepdims=True) / top
        return np.broadcast_to(np.where(found == 0, 1.0, found), tiles.shape).reshape(x.shape)

    return unit


def _one(x: Values) -> Values:
    return np.ones((1, 1))


def _turned(x: Values) -> Values:
    """Columns as rows, rotated in blocks of 16 under the signs, in float64."""
    matrix = np.diag(SIGNS) @ hadamard(16) / 4
    return (x.T.reshape(COLUMNS, ROWS // 16, 16) @ matrix).reshape(COLUMNS, ROWS)


def _rotated_nvfp4(x: Array) -> Array:
    """The operand of the weights' gradient in NVFP4 pretraining: along tokens, rotated in blocks of 16 under signs."""
    rows = jnp.tile(jnp.array(SIGNS, jnp.float32), ROWS // 16)[None] * x.T
    return _by(find("nvfp4"))(rotate(rows, 16, -1))


def centred(x: Values) -> Values:
    """Groups of 32 whose mean is zero: their second half is the first with other signs."""
    first = x.reshape(ROWS, COLUMNS // 32, 32)[..., :16]
    return np.concatenate([first, -first], axis=-1).reshape(ROWS, COLUMNS)


def unrotated(x: Values) -> Values:
    """Groups that a Hadamard matrix turns into `centred`, but for rounding to float32."""
    groups = np.float64(centred(x)).reshape(-1, 32) @ (hadamard(32) / 32**0.5)
    with np.errstate(over="ignore"):
        return groups.astype(np.float32).reshape(ROWS, COLUMNS)


def _mask(x: Array) -> Array:
    """Where the gradient of Quartet's forward pass passes, as 0 and 1."""
    found = find_recipe("quartet").weights.estimator(x, QUEST.project(x, NO_CONTEXT))
    assert found is not None
    return found.astype(jnp.float32)


def _by(format: Format) -> Callable[[Array], Array]:
    return lambda x: format.project(x, NO_CONTEXT).value


def _per_row(format: Format) -> Format:
    assert isinstance(format, Scalar)
    assert isinstance(format.scale, TwoLevel)
    return replace(format, scale=replace(format.scale, granularity="row"))


def ours() -> Mapping[str, Pair]:
    """Projections that recipes round operands by, by the pair's name; theirs are in `scripts/compare_recipes.py`."""
    two_level, row = _largest(6 * 448), _largest(6 * 448, rows=1)
    mx = {
        f"torchao {name}": Pair(_by(find(name.removesuffix(" floor").replace(" ", "-"))), _one)
        for name in ("mxfp4 floor", "mxfp4 ceil", "mxfp4 even", "mxfp8-e4m3 floor", "mxfp8-e5m2 floor")
    }
    return {
        "te nvfp4 1x16": Pair(_by(find("nvfp4")), two_level),
        "te nvfp4 1x16, a scale a row": Pair(_by(_per_row(find("nvfp4"))), row),
        "te nvfp4 16x16": Pair(_by(find("nvfp4-g16x16")), two_level),
        "te nvfp4 1x16 rotated": Pair(_rotated_nvfp4, lambda x: two_level(_turned(x))),
        "te nvfp4 1x16 four over six": Pair(_by(find("nvfp4-four-over-six")), _largest(6 * 256)),
        "te e4m3 current": Pair(_by(find("absmax-e4m3-matrix")), _largest(448)),
        "te e5m2 current": Pair(_by(find("absmax-e5m2-matrix")), _largest(57344)),
        "torchao nvfp4": Pair(_by(find("nvfp4")), two_level),
        **mx,
        "torchao int8 row": Pair(_by(find("absmax-mid-tread-int8")), _largest(127, rows=1)),
        "torchao e4m3 1x128": Pair(_by(find("absmax-e4m3-g128")), _largest(448, 1, 128)),
        "torchao e4m3 128x128": Pair(_by(find("absmax-e4m3-g128x128")), _largest(448, 128, 128)),
        "qwix mxfp4 ceil": Pair(_by(find("mxfp4-ceil")), _one),
        "quartet mxfp4": Pair(_by(QUEST), _one),
        "quartet mxfp4, centred": Pair(_by(QUEST), _one, centred),
        "quartet mxfp4, centred and rotated": Pair(lambda x: _by(QUEST)(rotate(x, 32, -1)), _one, unrotated),
        "quartet mask, centred": Pair(_mask, _one, centred),
        "quartet mxfp4 at 3/4": Pair(_by(find("e2m1-g32@e8m0-three-quarters")), _one),
        **{f"microxcaling {name}": Pair(_by(find(name)), _one) for name in MX},
        "microxcaling mxfp4, ties up": Pair(_by(find("mxfp4")), _one),
    }


def computed(pair: Pair, x: Values) -> Values:
    """Our values, compiled as in training."""
    return np.asarray(jax.jit(pair.project)(jnp.asarray(pair.prepare(x))))


def levels(pair: Pair, x: Values, values: Values) -> Values:
    """Values in units of the tensor, float64, to 12 bits: levels of the grid times levels of the scale.

    A scale in float32 may be a rounding apart between two implementations, which is no other level.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        mantissa, exponent = np.frexp(np.float64(values) / pair.unit(np.float64(pair.prepare(x))))
        found = np.ldexp(np.round(mantissa * 2**12), exponent - 12) + 0.0
    return np.where(np.isnan(found), np.nan, found)


def digest(found: Values) -> str:
    """Digest of levels, 16 digits."""
    return hashlib.sha256(found.astype("<f8").tobytes()).hexdigest()[:16]


SUBNORMAL = "XLA on CPUs takes float32 numbers below 2^-126 for 0, and scales are among them"
BEYOND = "the level nearest to the largest float32 lies beyond it: infinite there, no number here"
DEVIATION = "the scale is of the deviation about a group's mean there, whose power of two may be the next one down"
LOWER = "values midway between two levels fall to the lower one there, and one at the largest level counts as clipped"
QUARTET = ("quartet mxfp4", "quartet mxfp4, centred", "quartet mxfp4, centred and rotated", "quartet mask, centred")
REASONS: Mapping[tuple[str, str], str] = {
    **{("quartet mxfp4", kind): DEVIATION for kind in ("normal", "outliers", "zeros")},
    **{(name, "tiny"): "1e-8 is added to every scale there, far above these values" for name in QUARTET},
    **{(name, "largest"): "squares overflow there" for name in QUARTET},
    **{(name, "ties"): LOWER for name in (*QUARTET, "quartet mxfp4 at 3/4")},
    ("quartet mxfp4 at 3/4", "subnormal"): SUBNORMAL,
    ("quartet mxfp4 at 3/4", "largest"): BEYOND,
    **{(f"microxcaling {name}", "subnormal"): SUBNORMAL for name in (*MX, "mxfp4, ties up")},
    **{(f"microxcaling {name}", "tiny"): SUBNORMAL for name in ("mxfp6-e3m2", "mxfp8-e4m3", "mxfp8-e5m2")},
    ("microxcaling mxint8", "largest"): "log2 is a float32 there, and that of the largest numbers 128: no exponent",
    ("microxcaling mxfp4, ties up", "ties"): "values midway between two levels rise there; ours go to the even one",
    **{(name, kind): SUBNORMAL for name in ours() if name.startswith("te ") for kind in ("tiny", "subnormal")},
    ("te nvfp4 1x16 rotated", "largest"): "the rotation is beyond float32: infinite there, no number here",
    ("te nvfp4 1x16 four over six", "largest"): "squared errors overflow there, so that every group takes 6",
    **{
        (name, "ties"): "the scale of a group lies midway between two; their product of reciprocals is not, ours is"
        for name in ("te nvfp4 1x16", "te nvfp4 1x16, a scale a row")
    },
    ("torchao nvfp4", "nothing"): "the outer scale is 0 there, and 0 / 0 no number",
    ("torchao nvfp4", "tiny"): "the reciprocal of the outer scale overflows there, and everything saturates",
    ("torchao nvfp4", "subnormal"): "the reciprocal of the outer scale overflows there, and everything saturates",
    ("torchao nvfp4", "ties"): "values midway between two levels are not so times their product of reciprocals",
    **{
        (
            f"torchao {name} floor",
            kind,
        ): "a scale of 2^-127, a subnormal: encoded by 2^-126 there and decoded by half of it"
        for name in ("mxfp8-e4m3", "mxfp8-e5m2")
        for kind in ("tiny", "subnormal")
    },
    **{(name, "largest"): BEYOND for name in ("torchao mxfp4 ceil", "torchao mxfp4 even", "qwix mxfp4 ceil")},
    ("torchao int8 row", "tiny"): "scales below 1e-12 are 1e-12 there",
    ("qwix mxfp4 ceil", "tiny"): "scales below 1e-19 are 1 there",
}
"""Why levels differ in more than a few places, by pair and tensor."""
