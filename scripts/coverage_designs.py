"""Simulated tables of eight designs, and what `capscale fit` and `capscale predict` state of each: for bench_coverage.

Runs of 4 sizes, 4 ratios of tokens to parameters and 4 formats, noise .004 nats a run and, where a design says so, .006
shared by the runs of a size, of a cell (N and D), or by the checkpoints of a run. An interval that the fit says not to
quote (not identified, not measured, of a law that the runs contradict) counts as refused, whatever it holds. The new
run is dense, of a new size but for tables of one, and predicted as `capscale predict` does.

A wrong law has no true alpha and beta. Its intervals are held to those that it has of the same runs without noise, to
which ever more such tables would lead it (White 1982, Econometrica 50); `refused` is how often it is seen to be wrong.
E and the capacities are those of the law that made the runs, whichever is fitted.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from capscale.analysis.ensemble import gathered
from capscale.analysis.families import family
from capscale.analysis.fit import Settings, fit
from capscale.analysis.inspection import inspect
from capscale.analysis.laws import LAWS
from capscale.analysis.operands import gaussian_error
from capscale.analysis.predict import Prediction, predict, target
from capscale.analysis.sentences.quotable import refused
from capscale.analysis.table import Table, make_table
from capscale.analysis.uncertainty import Interval, bootstrap
from capscale.capacity import TANH, Capacity, Scaling

TRUTH = Scaling(A=406.4, alpha=0.34, B=410.7, beta=0.28, E=1.69)  # Hoffmann et al. 2022, arXiv 2203.15556
COUPLED = Scaling(A=406.4, alpha=0.34, B=410.7, beta=0.28, E=1.69, g=0.7)
RHO = Capacity(TANH, (("F", 0.41), ("C", 1.39)))  # arXiv 2506.01863, table 3, Llama
FORMATS = ("dense", "int4", "int3", "int2")
SIZES, RATIOS = (3e7, 1e8, 3e8, 1e9), (25.0, 50.0, 100.0, 200.0)
NEW = (2e9, 2e11)
"""N and D of the new run, beyond the sizes of the table."""
NOISE, SHARED = 0.004, 0.006
RESAMPLES, STARTS = 300, 16


class Found(NamedTuple):
    """One 95 % interval."""

    number: str
    method: str
    hit: bool
    """Whether it holds the truth."""
    refused: bool
    """Whether it is said not to quote it."""
    width: float
    place: float
    """Of the truth: 0 at the estimate, 1 and -1 at the upper and lower end."""

    @classmethod
    def of(cls, number: str, method: str, interval: Interval, truth: float, *, refused: bool) -> "Found":
        """An interval held to the truth, NaN where there is none."""
        estimate, low, high = interval
        end = high if truth >= estimate else low
        place = 0.0 if truth == estimate else (truth - estimate) / abs(end - estimate) if end != estimate else np.inf
        return cls(number, method, low <= truth <= high, refused, high - low, float(place))


@dataclass(frozen=True)
class Design:
    """A table to draw: its sizes, its ratios, and which error its runs share."""

    shared: str = ""
    sizes: tuple[float, ...] = SIZES
    ratios: tuple[float, ...] = RATIOS
    law: Scaling = TRUTH
    checkpoints: bool = False
    new: tuple[float, float] = NEW

    @property
    def noise(self) -> float:
        """Of single rows; checkpoints of a run differ by little."""
        return 1e-4 if self.checkpoints else NOISE

    def without_noise(self) -> Table:
        """The runs with the losses of the law."""
        return replace(self, shared="").table(None)

    def new_loss(self, random: np.random.Generator) -> float:
        """Loss of a new run, with errors of its own and of its size, cell or run."""
        own = random.normal(0, self.noise) + (random.normal(0, SHARED) if self.shared else 0.0)
        return float(self.law.loss(*self.new)) + own

    def table(self, random: np.random.Generator | None) -> Table:
        """Runs of every size, ratio and format; a run's ten checkpoints in place of its ratios. No noise for None."""
        ratios = tuple(20.0 * k for k in range(1, 11)) if self.checkpoints else self.ratios
        keys = [(n, f, r) for n in self.sizes for f in FORMATS for r in ratios]
        units: dict[Any, float] = {}
        records = []
        for N, name, ratio in keys:
            loss = float(self.law.loss(N, N * ratio, rho_of(name)))
            if random is not None:
                loss += random.normal(0, self.noise)
            unit = {"": None, "size": N, "cell": (N, ratio), "run": (N, name)}[self.shared]
            if random is not None and self.shared:
                loss += units.setdefault(unit, random.normal(0, SHARED))
            run = f"{name}-{N:g}" if self.checkpoints else f"{name}-{N:g}-{ratio:g}"
            row = {"run": run, "N": N, "D": N * ratio, "loss": loss, "weights": name, "activations": "dense"}
            records.append(row)
        return make_table(records, "simulated")


DESIGNS = {
    "independent": Design(),
    "cell": Design("cell"),
    "size": Design("size"),
    "size, 6 sizes": Design("size", sizes=(3e7, 6e7, 1.2e8, 2.5e8, 5e8, 1e9)),
    "trajectory": Design("run", checkpoints=True),
    "D/N constant": Design(ratios=(100.0,)),
    "one size": Design(sizes=(1e8,), new=(1e8, 7e9)),
    "law wrong": Design(law=COUPLED),
}


def rho_of(name: str) -> float:
    """True capacity of a format."""
    return 1.0 if name == "dense" else float(RHO.rho(gaussian_error(name)))


@cache
def truth(design: Design) -> dict[str, float]:
    """True numbers of the fitted law, and true capacities."""
    numbers = {n: getattr(TRUTH, n) for n in ("alpha", "beta", "E")}
    if design.law is not TRUTH:
        found = fit(design.without_noise(), LAWS["tanh"], Settings(starts=STARTS)).values
        numbers |= {n: float(found[n]) for n in ("alpha", "beta")}
    return numbers | {f"rho[{f}]": rho_of(f) for f in FORMATS[1:]}


def new_run(design: Design, table: Table) -> Prediction:
    """A dense run that the table does not have, by the ensemble of laws."""
    ensemble = gathered(table, family(LAWS["tanh"]), Settings(starts=STARTS))
    return predict(ensemble, target("dense", N=design.new[0], D=design.new[1]))


def replicate(name: str, seed: int) -> list[Found]:
    """Intervals that are stated of one table of a design."""
    design = DESIGNS[name]
    random = np.random.default_rng([seed, list(DESIGNS).index(name)])
    table = design.table(random)
    found = fit(table, LAWS["tanh"], Settings(starts=STARTS))
    draws = bootstrap(found, RESAMPLES)
    inspected = inspect(found, draws=draws)
    unsaid = refused(inspected)
    out = []
    for number, value in truth(design).items():
        intervals = {"bootstrap": draws.interval(number)}
        if number in inspected.profiles:
            intervals["profile"] = inspected.profiles[number].interval()
        out += [Found.of(number, method, i, value, refused=number in unsaid) for method, i in intervals.items()]
    said, loss = new_run(design, table), design.new_loss(random)
    return [*out, Found.of("new run", "predict", said.loss, loss, refused=not said.stated)]
