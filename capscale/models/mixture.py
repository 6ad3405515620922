"""Several formats in one model: means of their errors and bits over its weights.

What is exact: the errors of the formats on Gaussian values, and the bits of every array as it is stored. What is an
assumption: that one mean says what the model loses. Means go over the weights of the linear layers, each of which
counts once: the error of a product grows with those of its operands, and the law's N counts weights. Which layers
suffer more from an error, no mean of GMSE says. Embedding and head are not in N, and not in the means.
"""

import functools
import math
from typing import NamedTuple

from capscale.formats.base import Format
from capscale.formats.capabilities import has_limit
from capscale.formats.storage import Storable, storage_bits
from capscale.gaussian_mse import gmse, gmse_of_shape
from capscale.models.assigned import Held, assigned, every
from capscale.models.config import ModelConfig
from capscale.policy import Policy
from capscale.representation import Representation

MIXED = "mixed"
"""Name in tables of an operand that has not one format."""


class Mixture(NamedTuple):
    """Means over the weights of the linear layers.

    Attributes:
      weights, activations: "dense" where none is compressed, else "mixed".
      weights_gmse, activations_gmse: of the errors; dense operands have none. Of activations each is weighted by the
        weights that it meets, as many as products.
      weights_bits: of the formats of unboundedly large matrices, dense ones at 16. A format without a limit, such as
        one of a fixed rank, has bits and error of its matrices here.
      activations_bits: likewise.
    """

    weights: str
    activations: str
    weights_gmse: float
    activations_gmse: float
    weights_bits: float
    activations_bits: float


@functools.cache
def format_gmse(fmt: Format) -> float:
    """Gaussian mean squared error of a format; cached, since a sweep asks for the same few."""
    return float(gmse(fmt).value)


def error_and_bits(fmt: Format, shape: tuple[int, int]) -> tuple[float, float]:
    """GMSE of a format and its bits, in the limit of large matrices, or of one (in, out) where they have no limit."""
    if has_limit(fmt):
        return format_gmse(fmt), float(fmt.bits)
    assert isinstance(fmt, Storable)
    rows = shape[1], shape[0]
    return float(gmse_of_shape(fmt, rows).value), storage_bits(fmt, rows)


def of_format(model: ModelConfig, fmt: Format) -> tuple[float, float]:
    """GMSE and bits of all weights of the linear layers in one format; means where these are of a matrix's size."""
    if has_limit(fmt):
        return error_and_bits(fmt, (1, 1))
    shapes = list(model.projections.values())
    each = [error_and_bits(fmt, shape) for shape in shapes]
    total = sum(math.prod(shape) for shape in shapes)
    error, bits = (
        sum(value * math.prod(shape) for value, shape in zip(column, shapes, strict=True)) / total
        for column in zip(*each, strict=True)
    )
    return error, bits


def mixture_of(model: ModelConfig, policy: Policy) -> Mixture:
    """Means of a model's linear layers under a policy."""
    return mixture_of_held(model, assigned(model, policy))


def mixture_of_held(model: ModelConfig, held: Held) -> Mixture:
    """Means of a model's linear layers whose representations are assigned already."""
    layers, shapes = _layers(model, held), list(model.projections.values())
    sizes = [inputs * outputs for inputs, outputs in shapes]
    total = sum(sizes) * model.layers

    def mean(values: list[list[float]]) -> float:
        return sum(value * size for row in values for value, size in zip(row, sizes, strict=True)) / total

    weights = [[_of_weights(each, shape) for each, shape in zip(row, shapes, strict=True)] for row in layers]
    inputs = [[each.activations.format for each in row] for row in layers]
    errors = mean([[error for error, _ in row] for row in weights]), mean([[format_gmse(f) for f in r] for r in inputs])
    bits = mean([[bits for _, bits in row] for row in weights]), mean([[float(f.bits) for f in r] for r in inputs])
    plain = all(each.weights_label == "dense" for each in every(held))
    alone = all(each.activations.is_dense for each in every(held))
    return Mixture("dense" if plain else MIXED, "dense" if alone else MIXED, *errors, *bits)


def _of_weights(each: Representation, shape: tuple[int, int]) -> tuple[float, float]:
    """Error and bits of a matrix; of a parametrization with an error that nobody knows NaN, and 16 a stored number."""
    format, held = each.weights.format, each.parametrization
    if held is None:
        return error_and_bits(format, shape)
    error = held.gmse(shape)
    return math.nan if error is None else error, float(format.bits) * held.stored_numbers(shape) / math.prod(shape)


def _layers(model: ModelConfig, held: Held) -> list[list[Representation]]:
    if isinstance(held, Representation):
        return [[held] * len(model.projections)] * model.layers
    return [[each for _, each in block.projections] for block in held.layers]
