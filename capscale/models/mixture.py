"""Several formats in one model: means of their errors and bits over its weights.

What is exact: the errors of the formats on Gaussian values, and the bits of every array as it is stored. What is an
assumption: that one mean says what the model loses. Means go over the weights of the linear layers, each of which
counts once: the error of a product grows with those of its operands, and the law's N counts weights. Which layers
suffer more from an error, no mean of GMSE says. Embedding and head are not in N, and not in the means.
"""

import functools
from typing import NamedTuple

from capscale.formats.base import Format
from capscale.gaussian_mse import gmse
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
      weights_bits: of the formats of unboundedly large matrices, dense ones at 16.
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


def mixture_of(model: ModelConfig, policy: Policy) -> Mixture:
    """Means of a model's linear layers under a policy."""
    held = assigned(model, policy)
    layers, sizes = _layers(model, held), [inputs * outputs for inputs, outputs in model.projections.values()]
    total = sum(sizes) * model.layers

    def mean(values: list[list[float]]) -> float:
        return sum(value * size for row in values for value, size in zip(row, sizes, strict=True)) / total

    sides = [[[each.weights.format for each in row] for row in layers]]
    sides.append([[each.activations.format for each in row] for row in layers])
    errors = [mean([[format_gmse(fmt) for fmt in row] for row in side]) for side in sides]
    bits = [mean([[float(fmt.bits) for fmt in row] for row in side]) for side in sides]
    dense = [all(operand.is_dense for operand in side) for side in zip(*_operands(held), strict=True)]
    weights, activations = ("dense" if each else MIXED for each in dense)
    return Mixture(weights, activations, *errors, *bits)


def _operands(held: Held) -> list[tuple]:
    return [(each.weights, each.activations) for each in every(held)]


def _layers(model: ModelConfig, held: Held) -> list[list[Representation]]:
    if isinstance(held, Representation):
        return [[held] * len(model.projections)] * model.layers
    return [[each for _, each in block.projections] for block in held.layers]
