"""Which format, size and number of tokens win under a budget, by how much, and what to train next to know it better.

Training is counted as 6 N D FLOPs (Kaplan et al. 2020, arXiv 2001.08361), divided by a format's speed where one
is given: without speeds no format trains cheaper than dense, and dense wins any FLOP budget.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from capscale.analysis.conditioning import residual_deviation
from capscale.analysis.ensemble import Ensemble, beyond_runs
from capscale.analysis.fit import Fit
from capscale.analysis.predict import Prediction, Predictor, storage_bits, target
from capscale.analysis.table import Row
from capscale.analysis.uncertainty import Interval
from capscale.capacity import FLOPS_PER_PARAMETER_TOKEN
from capscale.checks import check_finite
from capscale.errors import UserError

Cache = Callable[[float], float]
SIZES = 241
"""Sizes among which the best one under a FLOP budget is looked for, over seven decades; a parabola refines it."""


@dataclass(frozen=True)
class Budget:
    """Exactly one of memory (bytes of weights), flops (of training) or loss (to reach), and how D is chosen.

    tokens: training tokens; or tokens_per_parameter. A FLOP budget chooses D itself and takes neither.
    """

    memory: float | None = None
    flops: float | None = None
    loss: float | None = None
    tokens: float | None = None
    tokens_per_parameter: float | None = None

    def __post_init__(self) -> None:
        given = [n for n in ("memory", "flops", "loss") if getattr(self, n) is not None]
        if len(given) != 1:
            raise UserError(f"give one of --memory, --flops and --loss, not {given or 'none'}")
        check_finite(self, "memory", "flops", "loss", "tokens", "tokens_per_parameter", above=0, optional=True)
        ways = (self.tokens is not None) + (self.tokens_per_parameter is not None)
        if self.flops is None and ways != 1:
            raise UserError("give one of --tokens and --tokens-per-parameter: how long the model is to be trained")
        if self.flops is not None and ways:
            raise UserError("--flops chooses the tokens itself; leave --tokens and --tokens-per-parameter out")

    def tokens_of(self, N: float) -> float:
        """D of a model of N parameters."""
        return self.tokens if self.tokens is not None else float(self.tokens_per_parameter or 0) * N


@dataclass(frozen=True)
class Option:
    """One format's best use of the budget."""

    prediction: Prediction
    memory: float
    """Bytes of the compressed weights, and of the cache where it is counted."""
    flops: float
    behind: float
    """Expected loss behind the winner (nats); for a target loss, memory over the winner's."""
    told_apart: bool | None
    """Whether the runs say that the winner is better (95 %); None beyond where an interval is stated."""
    size: Interval | None = None
    """Of least loss under a FLOP budget, with its 95 % interval; open where no interval of the loss is stated."""
    ratio: Interval | None = None
    """Tokens per parameter there."""
    cache: float = 0.0
    """Bytes of attention's cache among them."""


@dataclass(frozen=True)
class NextRun:
    """The single run that would shrink the variance of winner minus runner-up most."""

    row: Row
    deviation_before: float
    deviation_after: float


class Room(NamedTuple):
    """Memory that weights take, and attention's cache where it is counted.

    `cache`: its bytes, of a model of N parameters.
    """

    cache: Cache | None = None

    def cached(self, N: float) -> float:
        """Bytes of the cache; none where it is not counted."""
        return 0.0 if self.cache is None else self.cache(N)

    def taken(self, N: float, bits: float) -> float:
        """Bytes of N weights, and of the cache."""
        return N * bits / 8 + self.cached(N)

    def size(self, memory: float, bits: float) -> float:
        """The N whose weights and cache take so many bytes; `UserError` where the cache leaves nothing."""
        most = 8 * memory / bits
        if self.cache is None:
            return most
        if self.taken(1.0, bits) >= memory:
            raise UserError(
                f"--memory {memory:g}: the cache alone takes more; give a shorter --context, fewer sequences by "
                "--batch, or smaller formats by --keys and --values"
            )
        return float(np.exp(bisect(lambda log_n: memory - self.taken(float(np.exp(log_n)), bits), 0.0, np.log(most))))


@dataclass(frozen=True)
class Plan:
    """Options, best first, and the run to train next (None with fewer than two options)."""

    options: tuple[Option, ...]
    next_run: NextRun | None


def plan(
    ensemble: Ensemble,
    budget: Budget,
    formats: Sequence[tuple[str, str]],
    speed: Mapping[str, float] | None = None,
    count: int = 1000,
    *,
    cache: Cache | None = None,
) -> Plan:
    """The best (N, D) of every (weights, activations) pair under the budget, ranked.

    Args:
      ensemble: of fitted laws.
      budget: of which `memory` is of the weights, and of the cache where it is counted.
      formats: pairs of catalog names.
      speed: factors by which weight formats train faster than dense.
      count: draws.
      cache: bytes of attention's cache of a model of N parameters; None: it is not counted.
    """
    if not formats:
        raise UserError("no formats to choose from; give catalog names")
    predictor = Predictor(ensemble, tuple(target(w, a, runs=ensemble.table) for w, a in formats), count)
    room = Room(cache)
    found = [_best_use(predictor, budget, row, (speed or {}).get(row.weights, 1.0), room) for row in predictor.rows]
    goal = budget.loss is not None
    found.sort(key=(lambda f: f.memory) if goal else (lambda f: f.prediction.loss.estimate))
    winner = found[0]
    options = []
    for use in found:
        # The same draws judge both formats: what they share cancels. Equal losses are compared at the winner's memory,
        # where the other format's model is smaller and its loss higher.
        row = use.prediction.row
        if goal:
            N = room.size(winner.memory, storage_bits(row.weights))
            row = row._replace(N=N, D=budget.tokens_of(N))
        there = predictor.predict(row) if goal else use.prediction
        behind = use.memory / winner.memory if goal else use.prediction.loss.estimate - winner.prediction.loss.estimate
        apart = True if use is winner else _apart(ensemble, there, winner.prediction)
        told = use.size, use.ratio, room.cached(use.prediction.row.N)
        options.append(Option(use.prediction, use.memory, use.flops, float(behind), apart, *told))
    pair = [o.prediction.row for o in options[:2]]
    return Plan(tuple(options), _next_run(ensemble.best, pair) if len(pair) == 2 else None)


def _apart(ensemble: Ensemble, other: Prediction, winner: Prediction) -> bool | None:
    """Whether the other's loss is above the winner's in 95 % of draws; None where no interval is stated."""
    if not (other.stated and winner.stated):
        return None
    difference = other.draws - winner.draws
    freedom = float(ensemble.calibration.freedom(beyond_runs(ensemble.table, [other.row, winner.row])).min())
    middle = float(np.median(difference))
    widen = student.ppf(0.95, freedom) / student.ppf(0.95, 1e9) if np.isfinite(freedom) else 1.0
    return bool(middle - widen * (middle - float(np.quantile(difference, 0.05))) > 0)


@dataclass(frozen=True)
class _Use:
    """A format's best use of the budget."""

    prediction: Prediction
    memory: float
    flops: float
    size: Interval | None = None
    ratio: Interval | None = None


def _best_use(predictor: Predictor, budget: Budget, row: Row, speed: float, room: "Room") -> _Use:
    bits = storage_bits(row.weights)

    def at(N: float) -> Row:
        return row._replace(N=N, D=budget.tokens_of(N))

    size = ratio = None
    if budget.memory is not None:
        row = at(room.size(budget.memory, bits))
    elif budget.flops is not None:
        size, ratio = best_size(predictor, row, budget.flops * speed)
        row = row._replace(N=size.estimate, D=size.estimate * ratio.estimate)
    else:
        assert budget.loss is not None

        def excess(log_n: float) -> float:
            return float(predictor.mean([at(float(np.exp(log_n)))])[0]) - float(budget.loss or 0)

        low, high = np.log(1e2), np.log(1e15)
        if excess(high) > 0:
            raise UserError(
                f"loss {budget.loss:g} is out of reach of {row.weights} at any size up to 1e15 parameters: there it is "
                f"{excess(high) + budget.loss:.3g}; ask for a larger loss or more tokens"
            )
        row = at(float(np.exp(bisect(excess, low, high) if excess(low) > 0 else low)))
    flops = FLOPS_PER_PARAMETER_TOKEN * row.N * row.D / speed
    prediction = predictor.predict(row)
    if size and ratio and not prediction.stated:
        size, ratio = (Interval(i.estimate, -np.inf, np.inf) for i in (size, ratio))
    return _Use(prediction, room.taken(row.N, bits), flops, size, ratio)


def best_size(predictor: Predictor, row: Row, flops: float) -> tuple[Interval, Interval]:
    """Size of least loss at 6 N D = flops, and tokens per parameter there, with 95 % intervals.

    On a grid refined by a parabola, for any law; `Scaling.compute_optimal` is the closed form of the additive one.
    Raises UserError where the runs have one number of tokens: nothing then says what a token is worth.
    """
    if not predictor.ensemble.best.problem.has_data_term:
        D = predictor.ensemble.table.column("D")[0]
        raise UserError(
            f"{predictor.ensemble.table.source}: every run has D = {D:.4g}, so nothing says what a token is worth: a "
            "FLOP budget cannot be divided; add runs of other D, or give --memory or --loss"
        )
    work = flops / FLOPS_PER_PARAMETER_TOKEN
    sizes = np.geomspace(work**0.5 / 1e4, work**0.5 * 1e3, SIZES)
    rows = [row._replace(N=float(n), D=work / float(n)) for n in sizes]
    estimate = lowest(sizes, predictor.mean(rows))
    draws = [lowest(sizes, losses) for d in predictor.draws for losses in d.loss(rows)]
    low, high = np.quantile(draws, [0.025, 0.975])
    # An end of the search is none of an interval.
    low, high = low if low > sizes[0] else 0.0, high if high < sizes[-1] else np.inf
    size = Interval(estimate, float(low), float(high))
    return size, Interval(*(work / n**2 if n > 0 else np.inf for n in (size.estimate, size.high, size.low)))


def lowest(sizes: np.ndarray, losses: np.ndarray) -> float:
    """The size of least loss: the vertex of the parabola in log N about the smallest."""
    k = int(np.argmin(losses))
    if k in (0, len(sizes) - 1):
        return float(sizes[k])
    below, middle, above = losses[k - 1 : k + 2]
    curvature = below - 2 * middle + above
    shift = 0.5 * (below - above) / curvature if curvature > 0 else 0.0
    return float(np.exp(np.log(sizes[k]) + shift * np.log(sizes[1] / sizes[0])))


def bisect(f: Callable[[float], float], low: float, high: float, steps: int = 80) -> float:
    """Root of a falling function between `low` and `high`."""
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if f(middle) > 0 else (low, middle)
    return (low + high) / 2


def _gradients(fit: Fit, rows: Sequence[Row]) -> np.ndarray:
    """Derivatives of the predicted losses by the free coordinates (R, p)."""
    return fit.problem.jacobian(fit.z, fit.problem.gather(rows))[:, fit.free]


def _next_run(fit: Fit, pair: Sequence[Row]) -> NextRun:
    """Among the table's formats at its own and at twice its largest sizes and tokens: by linearised covariance."""
    J = _gradients(fit, fit.table.rows)
    noise = residual_deviation(fit) ** 2
    # A weak ridge keeps directions that the table does not measure at all finite: there any run helps.
    information = J.T @ J / noise + 1e-9 * np.trace(J.T @ J / noise) * np.eye(J.shape[1])
    covariance = np.linalg.inv(information)
    first, second = _gradients(fit, pair)
    wanted = second - first
    before = float(wanted @ covariance @ wanted)
    N, D = fit.table.column("N"), fit.table.column("D")
    sizes, tokens = (
        sorted({N.min(), float(np.median(N)), N.max(), 2 * N.max()}),
        sorted({D.min(), D.max(), 2 * D.max()}),
    )
    rows = [
        curve._replace(N=float(n), D=float(d), run="next")
        for curve, n, d in product(fit.table.first_of_curve.values(), sizes, tokens)
    ]
    G = _gradients(fit, rows)
    remaining = before - (G @ covariance @ wanted) ** 2 / (noise + np.sum((G @ covariance) * G, axis=1))
    best = int(np.argmin(remaining))
    return NextRun(rows[best], before**0.5, max(float(remaining[best]), 0.0) ** 0.5)
