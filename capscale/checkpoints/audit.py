"""Errors that formats make on the tensors of a checkpoint, beside those on Gaussian data, one tensor at a time.

Memory holds a stretch of rows; of formats that measure the whole matrix, a matrix.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.optimize import least_squares

from capscale.analysis.printed import printed
from capscale.capacity import TANH, Capacity
from capscale.checkpoints.packed_files import Stored
from capscale.errors import UserError
from capscale.formats.base import Format
from capscale.formats.capabilities import has_limit, initial_context
from capscale.formats.grids import Int
from capscale.formats.rotation import hadamard_block, turned
from capscale.formats.scalar import Scalar
from capscale.formats.storage import Storable, storage_bits
from capscale.gaussian_mse import gmse, gmse_of_shape
from capscale.realised import ERROR_FACTOR

STRETCH = 1 << 22
"""Values that are projected at a time where rows do not see each other."""


class FormatError(NamedTuple):
    """Error of one format on one tensor.

    Attributes:
      error: `||x - project(x)||^2 / ||x||^2`; NaN where it cannot be taken.
      gmse: the same on Gaussian data.
      bits: per value, scales included.
      rho: capacity by `paper_curve`, where `error` is near enough to `gmse`; else None.
      reason: why there is no error, or no capacity; empty where there are both.
    """

    error: float
    gmse: float
    bits: float
    rho: float | None
    reason: str

    @property
    def ratio(self) -> float:
        """Error in multiples of GMSE."""
        return self.error / self.gmse if self.gmse else np.nan


class Audited(NamedTuple):
    """One tensor: its storage, its kurtosis, and the error of every format by its name."""

    name: str
    shape: tuple[int, ...]
    stored: str
    bits: float
    kurtosis: float | None
    energy: float
    errors: Mapping[str, FormatError]


@dataclass
class _Sums:
    """Running sums of one tensor, float64."""

    energy: float
    wrong: dict[str, float]
    reasons: dict[str, str]


def audited(
    stored: Stored, formats: Mapping[str, Format], hadamard: int | None = None, signs: int | None = None
) -> Audited:
    """Audit of one tensor.

    Args:
      stored: from `capscale.checkpoints.packed_files.stored_tensors`.
      formats: by the names that are printed.
      hadamard: largest block in which rows are rotated first, a power of two; None for none.
      signs: seed of random signs ahead of the rotation, as `Representation.signs`; None for none.

    Returns:
      Errors along the last axis of `(out, rest)`, as weights of Hugging Face are projected along their inputs; none
      for vectors and for what is packed already.

    Raises:
      UserError: a tensor that holds NaN or infinity.
    """
    if stored.read is None or len(stored.shape) < 2 or not prod(stored.shape):
        return Audited(stored.name, stored.shape, stored.format, stored.bits, None, 0.0, {})
    values = stored.read()
    rows = values.reshape(len(values), -1)
    sums = _Sums(0.0, dict.fromkeys(formats, 0.0), {})
    whole = {name: format for name, format in formats.items() if format.granularity != "row"}
    apart = {name: format for name, format in formats.items() if format.granularity == "row"}
    for part in _stretches(rows):
        if not np.isfinite(part).all():
            raise UserError(f"{stored.name!r} holds NaN or infinity; check its source")
        sums.energy += float(np.square(part, dtype=np.float64).sum())
        _add(sums, part, apart, (hadamard, signs))
    if whole:
        _add(sums, np.asarray(rows, np.float32), whole, (hadamard, signs))
    errors = {name: _judged(format, name, sums, rows.shape) for name, format in formats.items()}
    kurtosis = _kurtosis(rows)
    return Audited(stored.name, stored.shape, stored.format, stored.bits, kurtosis, sums.energy, errors)


def _stretches(rows: np.ndarray) -> Iterator[np.ndarray]:
    count = max(STRETCH // rows.shape[1], 1)
    for start in range(0, len(rows), count):
        yield np.asarray(rows[start : start + count], np.float32)


def _add(sums: _Sums, rows: np.ndarray, formats: Mapping[str, Format], rotation: tuple[int | None, int | None]) -> None:
    """Adds the squared error of each format in the rotated basis, which is that in the tensor's own; notes why one
    cannot be projected."""
    hadamard, signs = rotation
    block = None if hadamard is None else hadamard_block(rows.shape[1], hadamard)
    x = turned(jnp.asarray(rows), block, signs)
    for name, format in formats.items():
        if name in sums.reasons:
            continue
        try:
            value = format.project(x, initial_context(format, x)).value
        except UserError as error:
            sums.reasons[name] = str(error)
            continue
        sums.wrong[name] += float(np.square(np.asarray(value - x), dtype=np.float64).sum())


def _judged(format: Format, name: str, sums: _Sums, shape: tuple[int, int]) -> FormatError:
    """The error of one format; GMSE and bits of a format without a limit in large matrices are those of this one."""
    refused = sums.reasons.get(name, "" if sums.energy else "all its values are zero")
    gaussian, bits = gmse(format).value, format.bits
    if not refused and not has_limit(format) and isinstance(format, Storable):
        gaussian, bits = gmse_of_shape(format, shape).value, storage_bits(format, shape)
    if refused:
        return FormatError(float("nan"), gaussian, bits, None, refused)
    return _trusted(sums.wrong[name] / sums.energy, gaussian, bits)


def _trusted(error: float, gaussian: float, bits: float) -> FormatError:
    """An error with the capacity of its GMSE, where that is the error that the values feel."""
    if not 0 < gaussian < 1:
        return FormatError(error, gaussian, bits, None, "a GMSE outside of 0 to 1 has no capacity")
    if not 1 / ERROR_FACTOR <= error / gaussian <= ERROR_FACTOR:
        return FormatError(error, gaussian, bits, None, "GMSE is not the error that these values feel")
    return FormatError(error, gaussian, bits, float(paper_curve().rho(gaussian)), "")


def _kurtosis(rows: np.ndarray) -> float | None:
    """Fourth central moment over the square of the second; 3 for Gaussian values, None for equal ones."""
    count = rows.size
    mean = sum(float(part.sum(dtype=np.float64)) for part in _stretches(rows)) / count
    second = fourth = 0.0
    for part in _stretches(rows):
        square = np.square(part.astype(np.float64) - mean)
        second, fourth = second + float(square.sum()), fourth + float(np.square(square).sum())
    return None if second == 0 else count * fourth / second**2


@cache
def paper_curve() -> Capacity:
    """`tanh(F log_{1/4} GMSE)^C` through the paper's printed capacities of integer weights.

    Figure 6 of arXiv 2506.01863, weights of 1 to 4 bits with dense activations, by least squares of rho.
    """
    told = printed()["6"].alone(0)
    bits = sorted(int(level) for level in told if level != "16")
    rho = np.array([told[str(b)] for b in bits])
    errors = np.array([gmse(Scalar(Int(b))).value for b in bits])

    def curve(numbers: np.ndarray) -> Capacity:
        return Capacity(TANH, (("F", float(numbers[0])), ("C", float(numbers[1]))))

    lower, upper = np.transpose([(p.lower, p.upper) for p in TANH.parameters])
    found = least_squares(lambda numbers: curve(numbers).rho(errors) - rho, [0.4, 1.4], bounds=(lower, upper))
    return curve(found.x)


def overall(tensors: list[Audited], name: str) -> FormatError | None:
    """One format over all tensors that it was taken on: each counts by its energy; None where there are none."""
    taken = [(one.energy, one.errors[name]) for one in tensors if name in one.errors]
    taken = [(energy, error) for energy, error in taken if np.isfinite(error.error)]
    if not taken:
        return None
    total = sum(energy for energy, _ in taken)
    error = sum(energy * error.error for energy, error in taken) / total
    gaussian, bits = (
        values[0] if len(set(values)) == 1 else float(np.average(values, weights=[energy for energy, _ in taken]))
        for values in ([error.gmse for _, error in taken], [error.bits for _, error in taken])
    )
    return _trusted(error, gaussian, bits)
