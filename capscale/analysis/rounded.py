"""Printed capacities as measured ones: what a number of two decimals may have been stands in its resamples."""

import math
from collections.abc import Mapping

import numpy as np

from capscale.analysis.effects import Measured
from capscale.analysis.operands import gaussian_error
from capscale.analysis.records import row_of
from capscale.representation import Representation, operand

HALF = 0.005
"""How far a number may lie from its two decimals."""


def rounded(rho: Mapping[str, float], source: str, resamples: int = 1000, seed: int = 0) -> Measured:
    """Capacities of weight formats by their catalog names, each equally likely anywhere that rounds to its print."""
    random = np.random.default_rng(seed)
    values = np.array(list(rho.values()))
    draws = values[:, None] + random.uniform(-HALF, HALF, (len(values), resamples))
    rows = []
    for i, name in enumerate(rho):
        told = {"weights": name, "activations": "dense", "weights_gmse": gaussian_error(name), "loss": math.nan}
        rows.append(row_of(told, i, source)._replace(curve=name))
    log_rho = np.log(np.concatenate([values[:, None], draws], axis=1))
    return Measured(tuple(Representation(operand(name)) for name in rho), tuple(rows), log_rho, source)
