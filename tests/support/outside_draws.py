"""Rounding by chance as recipes have it, held to draws of others: ours by the name of theirs, and how draws compare.

Two implementations draw by other generators, so that their values can be equal in distribution alone: of every number
there are at most two, and how often it is which is a binomial count.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from capscale.formats import Int, StochasticRounding
from capscale.formats.base import Context
from capscale.formats.catalog import find
from capscale.formats.floats import E2M1, E4M3
from support.outside import Values, tensors

DRAWS = 10_240
RARE = 20
"""Draws below which a value of one may be none of the other's: 20 have a chance of 2^-20 to be all on one side."""
STANDARD_ERRORS = 4.0


class Draw(NamedTuple):
    """Ours of a tensor and a key, and the tensor."""

    project: Callable[[Array, Array], Array]
    x: Values


class Drawn(NamedTuple):
    """Draws of every number: its two values, the more frequent one first, and how many draws had that.

    Where there is one value, the other is NaN.
    """

    most: Values
    other: Values
    count: Values


def _format(name: str) -> Callable[[Array, Array], Array]:
    return lambda x, key: find(name).project(x, Context(key=key)).value


def _grid(grid: StochasticRounding) -> Callable[[Array, Array], Array]:
    return lambda x, key: grid.drawn(x, jax.random.uniform(key, x.shape, jnp.float32))[0]


def draws() -> Mapping[str, Draw]:
    """Projections that draw, on 128 numbers: rows as they occur, or numbers in units of a grid and beyond its ends."""
    rows = np.stack([tensors()[kind][0, :64] for kind in ("normal", "outliers")])
    spread = np.random.default_rng(23).uniform(0, 1, (2, 64)).astype(np.float32)
    fp4 = _format("e2m1-g32@e8m0-three-quarters-stochastic")
    int8 = _grid(StochasticRounding(Int(8, "mid-tread")))
    return {
        "quartet mxfp4": Draw(fp4, rows),
        "mxfp4-llm mxfp4": Draw(fp4, rows),
        "microxcaling mxfp4": Draw(_format("mxfp4-stochastic"), rows),
        "quartet2 e2m1": Draw(_grid(StochasticRounding(E2M1)), 14 * spread - 7),
        "quartet2 e4m3": Draw(_grid(StochasticRounding(E4M3)), 450 * spread**4),
        "quartet2 ms-eden": Draw(_format("e2m1-g16@e4m3-ms-eden"), rows),
        "torchao int8 row": Draw(_format("absmax-mid-tread-int8-stochastic"), rows),
        "qwix int8": Draw(int8, 258 * spread - 129),
    }


def ours(draw: Draw) -> Values:
    """Our draws, (10240, 2, 64)."""
    keys = jax.random.split(jax.random.key(23), DRAWS)
    return np.asarray(jax.jit(jax.vmap(draw.project, (None, 0)))(jnp.asarray(draw.x), keys))


def counted(drawn: Values) -> Drawn:
    """Values and counts of draws (10240, ...), flat; an error where there are more than two of a number."""
    flat = np.float64(drawn).reshape(len(drawn), -1)
    low, high = flat.min(axis=0), flat.max(axis=0)
    at_high = np.isclose(flat, high, rtol=1e-5, atol=0)
    assert (at_high | np.isclose(flat, low, rtol=1e-5, atol=0)).all(), "more than two values of a number"
    ups = at_high.sum(axis=0)
    mostly = ups * 2 >= len(flat)
    other = np.where(ups == len(flat), np.nan, np.where(mostly, low, high))
    return Drawn(np.where(mostly, high, low), other, np.where(mostly, ups, len(flat) - ups))


def same_values(mine: Drawn, theirs: Drawn) -> Values:
    """Of every number, whether each value that is no rare one of either is a value of both."""

    def among(value: Values, times: Values, those: Drawn) -> Values:
        known = np.isclose(value, those.most, rtol=1e-5, atol=0) | np.isclose(value, those.other, rtol=1e-5, atol=0)
        return known | (times < RARE)

    return np.all(
        [
            among(value, times, b)
            for a, b in ((mine, theirs), (theirs, mine))
            for value, times in ((a.most, a.count), (a.other, DRAWS - a.count))
        ],
        axis=0,
    )


def standard_errors(mine: Drawn, theirs: Drawn) -> Values:
    """Of every number, the difference of the shares of their most frequent value, in its standard errors."""
    here = np.where(np.isclose(theirs.most, mine.most, rtol=1e-5, atol=0), mine.count, DRAWS - mine.count) / DRAWS
    there = theirs.count / DRAWS
    pooled = (here + there) / 2
    error = np.sqrt(2 * pooled * (1 - pooled) / DRAWS)
    return np.abs(here - there) / np.where(error == 0, 1.0, error)


def as_json(drawn: Drawn) -> dict[str, list[Any]]:
    """Lists of numbers; None where there is no other value."""
    other = [None if np.isnan(x) else float(x) for x in drawn.other]
    return {"most": drawn.most.tolist(), "other": other, "count": drawn.count.tolist()}


def of_json(entry: Mapping[str, list[Any]]) -> Drawn:
    """The inverse of `as_json`."""
    other = np.array([np.nan if x is None else x for x in entry["other"]])
    return Drawn(np.array(entry["most"]), other, np.array(entry["count"]))
