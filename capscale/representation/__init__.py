"""Representation: how weights and activations are compressed, and the one seam to a model.

`linear(x, w, representation)` is the only place where compression meets a model.
"""

from capscale.formats.rotation import hadamard_block
from capscale.gradients import DENSE_GRADIENTS, Gradients
from capscale.kernels.renamed import old_names
from capscale.operands import DENSE_OPERAND, Operand, operand, project
from capscale.product import product
from capscale.representation.layer import linear
from capscale.representation.multiplied import codes_of, codes_of_weights, multiplied, takes_codes
from capscale.representation.projecting import (
    ProjectedActivations,
    ProjectedAhead,
    ProjectedWeight,
    coded_weights,
    given_activations,
    given_weights,
    project_activations,
    project_ahead_once,
    project_cached,
    project_once,
    project_weights,
    weight_rows,
)
from capscale.representation.value import DENSE, Representation, rotated, rotated_back

__all__ = [
    "DENSE",
    "DENSE_GRADIENTS",
    "DENSE_OPERAND",
    "Gradients",
    "Operand",
    "ProjectedActivations",
    "ProjectedAhead",
    "ProjectedWeight",
    "Representation",
    "coded_weights",
    "codes_of",
    "codes_of_weights",
    "given_activations",
    "given_weights",
    "hadamard_block",
    "linear",
    "multiplied",
    "operand",
    "product",
    "project",
    "project_activations",
    "project_ahead_once",
    "project_cached",
    "project_once",
    "project_weights",
    "rotated",
    "rotated_back",
    "takes_codes",
    "weight_rows",
]
__getattr__ = old_names(__name__, {"Held": "ProjectedWeight"})
