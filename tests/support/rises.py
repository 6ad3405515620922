"""Tables of rises made by known laws: runs of several sizes and lengths, each rounded to the same formats."""

import csv
import math

import numpy as np

from capscale.analysis.operands import facts, gaussian_error
from capscale.analysis.rises.table import read_rises

FORMATS = ("int6", "int5", "int4", "int3", "int2", "e2m3", "e2m1", "top25", "top50", "2:4", "higgs-d2-n16")
SIZES, TOKENS, SEEDS = (4e3, 1e4, 3e4, 8e4), (1e5, 3e5, 1e6, 3e6), (0, 1)
TRUTH = {"k": 2.0, "b": 0.6, "a": 0.25}
"""At N = 1e4 and D = 1e6."""


def by_gmse(name, exponent=1.0):
    return gaussian_error(name) ** exponent


def by_bits(name, gamma=1.1):
    """Kumar's law; whose gamma is far from 1 / ln 4 = .72, that of GMSE near 4^-bits."""
    return math.exp(-facts(name).stored / gamma)


def by_power_of_bits(name, g=3.0):
    return facts(name).stored ** -g


def records(
    shape=by_gmse,
    seed=0,
    *,
    formats=FORMATS,
    sizes=SIZES,
    tokens=TOKENS,
    seeds=SEEDS,
    spread=0.1,
    text=2e-4,
    noise=0.01,
):
    """Rows of `capscale quantize --csv`: runs and formats depart by factors of their own, text and rounding add."""
    random = np.random.default_rng(seed)
    of_format = dict(zip(formats, np.exp(spread * random.normal(size=len(formats))), strict=True))
    rows = []
    for N in sizes:
        for D in tokens:
            for number in seeds:
                run, slope = f"{N:g}-{D:g}-{number}", math.exp(spread * random.normal())
                slope *= TRUTH["k"] * (D / 1e6) ** TRUTH["b"] * (N / 1e4) ** -TRUTH["a"]
                told = {"run": run, "N": int(N), "D": int(D)}
                rows.append(told | dict(zip(MEASURED, ("dense", 16, 0, 0, 2.0, 0.03, 0, 0), strict=True)))
                for name in formats:
                    error = gaussian_error(name)
                    rise = slope * of_format[name] * shape(name) * math.exp(0.05 * random.normal())
                    rise += text * random.normal() + noise * math.sqrt(error) * random.normal()
                    measured = (name, facts(name).stored, error, error, 2.0 + rise, 0.03, rise, text)
                    rows.append(told | dict(zip(MEASURED, measured, strict=True)))
    return rows


MEASURED = ("weights", "bits", "gmse", "error", "loss", "loss_se", "rise", "rise_se")


def write(path, rows):
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    return path


def table(directory, *args, **changes):
    """The rises of a table that was written and read again."""
    return read_rises([write(directory / "rounded.csv", records(*args, **changes))])
