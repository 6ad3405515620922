"""Simulated tables whose runs are asked for far beyond them, and what `capscale predict` states: for bench_coverage.

Tables of 5 sizes (30M to 480M, each twice the other), 4 lengths of training and 5 formats; what is asked are runs of
formats in the table, and of one that is not, at 1, 2 and 4 times the largest size and the longest training.
Laws: the additive one, and the coupled one that the additive law of the ensemble does not know; noise .004, and .006
shared by the runs of a size. An interval that is not stated counts as refused.
"""

from typing import NamedTuple

import numpy as np
from coverage_designs import COUPLED, NOISE, SHARED, STARTS, TRUTH, Found, rho_of

from capscale.analysis.ensemble import gathered
from capscale.analysis.families import family
from capscale.analysis.fit import Settings
from capscale.analysis.laws import LAWS
from capscale.analysis.predict import Predictor, target
from capscale.analysis.table import Table, make_table
from capscale.capacity import Scaling

FORMATS, NEW_FORMAT = ("dense", "int8", "int4", "int3", "int2"), "int5"
SIZES, RATIOS = 3e7 * 2.0 ** np.arange(5), np.array([25.0, 50.0, 100.0, 200.0])
TIMES = (1.0, 2.0, 4.0)
DRAWS = 400


class Rollout(NamedTuple):
    """The law that makes the losses, and the deviation of what the runs of a size share, in nats."""

    law: Scaling
    shared: float


ROLLOUTS = {
    "rollouts": Rollout(TRUTH, 0.0),
    "rollouts, size": Rollout(TRUTH, SHARED),
    "rollouts, law wrong": Rollout(COUPLED, 0.0),
    "rollouts, law wrong, size": Rollout(COUPLED, SHARED),
}


def table_of(of: Rollout, random: np.random.Generator) -> Table:
    """The runs that are known."""
    of_size = {n: random.normal(0, of.shared) for n in SIZES}
    records = []
    for n in SIZES:
        for r in RATIOS:
            for f in FORMATS:
                loss = float(of.law.loss(n, n * r, rho_of(f))) + of_size[n] + random.normal(0, NOISE)
                records.append({"N": n, "D": n * r, "loss": loss, "weights": f, "activations": "dense"})
    return make_table(records, "simulated")


def replicate(name: str, seed: int) -> list[Found]:
    """Intervals that are stated of every format at every distance from one table."""
    of = ROLLOUTS[name]
    random = np.random.default_rng([seed, list(ROLLOUTS).index(name)])
    ensemble = gathered(table_of(of, random), family(LAWS["tanh"]), Settings(starts=STARTS))
    rows = {f: target(f) for f in (*FORMATS, NEW_FORMAT)}
    predictor = Predictor(ensemble, tuple(rows.values()), DRAWS)
    out = []
    for more_N in TIMES:
        for more_D in TIMES:
            N, D = float(SIZES[-1] * more_N), float(SIZES[-1] * more_N * RATIOS[-1] * more_D)
            error = random.normal(0, of.shared)
            for f, row in rows.items():
                found = predictor.predict(row._replace(N=N, D=D))
                loss = float(of.law.loss(N, D, rho_of(f))) + error + random.normal(0, NOISE)
                asked = f"{'new' if f == NEW_FORMAT else 'known'} format at {more_N:g} N, {more_D:g} D/N"
                out.append(Found.of(asked, "predict", found.loss, loss, refused=not found.stated))
    return out
