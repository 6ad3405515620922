"""Tables as other people write them, drawn from a known law."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from support.synthetic import TRUTH, rho_of

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases"
SIZES, RATIOS = (3e7, 1e8, 3e8, 1e9), (25, 50, 100, 200)


def runs(formats: tuple[str, ...] = ("dense", "int4", "int3", "int2"), *, noise: float = 0.004) -> pd.DataFrame:
    """Four sizes at four ratios of D to N in every format; columns run, N, D, loss, weights, activations."""
    random = np.random.default_rng(0)
    rows = []
    for name, N, ratio in product(formats, SIZES, RATIOS):
        loss = float(TRUTH.loss(N, N * ratio, rho_of(name))) + random.normal(0, noise)
        rows.append((f"{name}-{N / 1e6:.0f}M-{ratio}", int(N), int(N * ratio), round(loss, 4), name, "dense"))
    return pd.DataFrame(rows, columns=["run", "N", "D", "loss", "weights", "activations"])


def isoflop() -> pd.DataFrame:
    """Nine sizes at each of five budgets: the largest models see fewer tokens than they have parameters."""
    random = np.random.default_rng(0)
    rows = []
    for flops, N, name in product((1e17, 1e18, 1e19), np.geomspace(2e7, 2e9, 9).round(), ("dense", "int4")):
        D = round(flops / 6 / N)
        loss = float(TRUTH.loss(N, D, rho_of(name))) + random.normal(0, 0.004)
        rows.append((f"{name}-{flops:g}-{N:g}", N, D, loss, name, "dense"))
    return pd.DataFrame(rows, columns=["run", "N", "D", "loss", "weights", "activations"])


def with_value(frame: pd.DataFrame, row: int, **values: object) -> pd.DataFrame:
    """The frame with some cells of one row replaced."""
    frame = frame.astype(dict.fromkeys(values, object))
    for name, value in values.items():
        frame.loc[row, name] = value
    return frame
