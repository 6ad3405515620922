"""GMSE: the error of a format on Gaussian data, the one number that the capacity metric reads.

`GMSE(R) = E[(x - R(x))^2]`, x ~ N(0, 1) (arXiv 2506.01863, section 3); other laws of unit variance for the
paper's ablation. Exact where the format knows how (`capscale.formats.mse.Exact`), in float64 on the host: in
float32 the 8-bit value is off by 0.2 %. Measured otherwise, with its standard error; so are classes derived from a
format that override how it projects (`capscale.formats.stated`). Beside it, the share of gradients that an estimator
lets through to Gaussian data.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from capscale.errors import UserError
from capscale.formats.base import Format, granularity_of
from capscale.formats.capabilities import initial_context
from capscale.formats.distributions import NORMAL, Distribution
from capscale.formats.known_errors import known_error
from capscale.formats.mse import ErrorOfShape, effective_bits, exact_error
from capscale.formats.scaling import ROW
from capscale.formats.stated import CLOSED_FORM, unstated
from capscale.representation import Operand

SEED = 0
RELATIVE_ERROR = 5e-4  # measured values stop here: twice as sure as the 1e-3 that tables promise
CHUNK = 1 << 20  # values drawn at a time
LARGEST_DRAW = 1 << 28  # values after which a measurement reports the error it has
FEWEST_ROWS = 64  # rows from which a standard error is estimated
FEWEST_MATRICES = 4  # the same of matrices that are decomposed, at seconds each
MATRICES_ERROR = 2e-3  # and where they stop


class Gmse(NamedTuple):
    """A mean squared error on unit-variance data, how well it is known, and how."""

    value: float
    standard_error: float
    """0 where the value is computed, not measured."""
    method: str

    @property
    def has_capacity(self) -> bool:
        """False where the format is no better than zeroing the tensor: its capacity is 0."""
        return self.value < 1


@cache
def gmse(format: Format, distribution: Distribution = NORMAL, samples: int | None = None) -> Gmse:
    """Error of `format` on rows of `samples` independent values.

    None: unboundedly long rows; formats whose error has no limit there, or is measured, use rows of 1024 and say so.
    Those of formats of the catalog are shipped (`capscale.formats.known_errors`).

    Example: `gmse(Scalar(Int(4))).value` is 0.0115428844.
    """
    if samples is not None and samples < 2:
        raise UserError(f"gmse(samples={samples}): a row needs at least 2 values")
    if distribution == NORMAL and samples is None and (known := known_error(format)) is not None:
        return Gmse(*known)
    return computed(format, distribution, samples)


def computed(format: Format, distribution: Distribution = NORMAL, samples: int | None = None) -> Gmse:
    """`gmse` anew, where that would read what is known of formats of the catalog."""
    error = exact_error(format, distribution, samples)
    if error is not None:
        return Gmse(error.value, 0.0, error.method)
    return measured(format, distribution, samples or ROW)


@cache
def gmse_of_shape(format: Format, shape: tuple[int, int]) -> Gmse:
    """Error on normal matrices of `shape`, the last axis being that of a row: by a closed form, or measured on such."""
    if isinstance(format, ErrorOfShape) and unstated(format, CLOSED_FORM) is None:
        found = format.error_of(shape, NORMAL)
        if found is not None:
            return Gmse(found, 0.0, f"closed form, matrices of {shape[0]} x {shape[1]}")
    return measured(format, NORMAL, shape[1], shape[0])


def measured(format: Format, distribution: Distribution, samples: int, rows: int | None = None) -> Gmse:
    """Monte Carlo over rows of `samples` values; where the format's granularity is the matrix over matrices of `rows`.

    `rows`: None for square matrices.
    """
    total, square, count, mean, error = 0.0, 0.0, 0, 0.0, 0.0
    decomposed = isinstance(format, ErrorOfShape)
    fewest, enough = (FEWEST_MATRICES, MATRICES_ERROR) if decomposed else (FEWEST_ROWS, RELATIVE_ERROR)
    for x, value in drawn(format, distribution, samples, rows):
        errors = np.square(x - value).mean(axis=(1, 2))
        total, square, count = total + errors.sum(), square + np.square(errors).sum(), count + len(errors)
        mean = total / count
        spread = max(square / count - mean**2, 0.0) * count / max(count - 1, 1)
        error = float(np.sqrt(spread / count))
        if count >= fewest and error <= enough * mean:
            break
    of_matrices = "" if rows is None else f" in matrices of {rows}"
    return Gmse(float(mean), error, f"Monte Carlo, rows of {samples}{of_matrices}")


def drawn(
    format: Format, distribution: Distribution, samples: int, rows: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Values and what `format` makes of them, float64 (draws, rows, samples), until `LARGEST_DRAW` have been drawn.

    A draw is one row of `samples` values, or a matrix of `rows` of them, by default as many, where the format's
    granularity is the matrix.
    """
    rows = (rows or samples) if granularity_of(format) == "matrix" else 1
    batch = max(CHUNK // (rows * samples), 1)
    rng = np.random.default_rng(SEED)

    @jax.jit
    def project(x: jax.Array, key: jax.Array) -> jax.Array:
        ctx = initial_context(format, x)
        return format.project(x, ctx if ctx.key is None else ctx._replace(key=key)).value

    count = 0
    while count == 0 or count * rows * samples < LARGEST_DRAW:
        x = distribution.sample(rng, (batch, rows, samples)).astype(np.float32)
        yield x.astype(np.float64), np.asarray(project(jnp.asarray(x), jax.random.key(count)), np.float64)
        count += batch


@cache
def pass_rate(operand: Operand) -> float:
    """Share of gradients that the operand's estimator lets through to Gaussian values: the mean of its mask.

    Measured on a matrix of 1024 rows of 1024 values, drawn once (standard error at most 0.0005): as for GMSE, rows are
    as good as unboundedly long. Schedules stand at their end, learnable parameters and states at their start. A
    rotation makes no difference, as it turns Gaussian values into Gaussian values; 1 where an estimator masks nothing.
    """
    x = jnp.asarray(np.random.default_rng(SEED).standard_normal((ROW, ROW), np.float32))

    @jax.jit
    def mean_of_mask(x: jax.Array) -> jax.Array:
        mask = operand.backward()(x, operand.format.project(x, initial_context(operand.format, x)))
        ones = jnp.ones_like(x) if mask is None else jnp.broadcast_to(mask, x.shape).astype(jnp.float32)
        return ones.mean(axis=-1)

    return float(np.asarray(mean_of_mask(x), np.float64).mean())


def bound(bits: float) -> float:
    """`4^-b`: no format of b bits per value has a smaller Gaussian error (rate-distortion)."""
    return 4.0**-bits


def gap(gmse: float, bits: float) -> float:
    """Bits per value that the format spends beyond an ideal one of its error."""
    return bits - effective_bits(gmse)
