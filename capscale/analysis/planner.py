"""Which format, size and number of tokens win under a budget, by how much, and what to train next to know it better.

Training is counted as 6 N D FLOPs (Kaplan et al. 2020, arXiv 2001.08361), divided by a format's speed where one
is given: without speeds no format trains cheaper than dense, and dense wins any FLOP budget.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from capscale.analysis.conditioning import residual_deviation
from capscale.analysis.fit import Fit
from capscale.analysis.predict import Prediction, predict, storage_bits, target
from capscale.analysis.table import Row
from capscale.analysis.uncertainty import Bootstrap
from capscale.checks import check_finite
from capscale.errors import UserError

FLOPS_PER_PARAMETER_TOKEN = 6.0


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
    """Bytes of the compressed weights."""
    flops: float
    behind: float
    """Expected loss behind the winner (nats); for a target loss, memory over the winner's."""
    told_apart: bool
    """False where the resamples do not say that the winner is better (95 %)."""


@dataclass(frozen=True)
class NextRun:
    """The single run that would shrink the variance of winner minus runner-up most."""

    row: Row
    deviation_before: float
    deviation_after: float


@dataclass(frozen=True)
class Plan:
    """Options, best first, and the run to train next (None with fewer than two options)."""

    options: tuple[Option, ...]
    next_run: NextRun | None


def plan(
    fit: Fit,
    draws: Bootstrap,
    budget: Budget,
    formats: Sequence[tuple[str, str]],
    speed: Mapping[str, float] | None = None,
) -> Plan:
    """The best (N, D) of every (weights, activations) pair under the budget, ranked."""
    if not formats:
        raise UserError("no formats to choose from; give catalog names")
    found = [_best_use(fit, draws, budget, pair, (speed or {}).get(pair[0], 1.0)) for pair in formats]
    goal = budget.loss is not None
    found.sort(key=(lambda f: f[1]) if goal else (lambda f: f[0].loss.estimate))
    winner = found[0]
    options = []
    for prediction, memory, flops in found:
        # The same resample of the law judges both formats: what they share cancels. Equal losses are compared at
        # the winner's memory, where the other format's model is smaller and its loss higher.
        there = predict(fit, draws, _of_memory(prediction.row, winner[1], budget)) if goal else prediction
        difference = there.loss_draws - winner[0].loss_draws
        apart = prediction is winner[0] or float(np.quantile(difference, 0.05)) > 0
        behind = memory / winner[1] if goal else prediction.loss.estimate - winner[0].loss.estimate
        options.append(Option(prediction, memory, flops, float(behind), apart))
    pair = [o.prediction.row for o in options[:2]]
    return Plan(tuple(options), _next_run(fit, pair) if len(pair) == 2 else None)


def _of_memory(row: Row, memory: float, budget: Budget) -> Row:
    N = 8 * memory / storage_bits(row.weights)
    return row._replace(N=N, D=budget.tokens_of(N))


def _best_use(
    fit: Fit, draws: Bootstrap, budget: Budget, pair: tuple[str, str], speed: float
) -> tuple[Prediction, float, float]:
    weights, activations = pair
    bits = storage_bits(weights)

    def loss_at(N: float, D: float) -> float:
        return _loss(fit, target(weights, activations, N=N, D=D))

    if budget.memory is not None:
        N = 8 * budget.memory / bits
        D = budget.tokens_of(N)
    elif budget.flops is not None:
        work = budget.flops * speed / FLOPS_PER_PARAMETER_TOKEN
        sizes = np.geomspace(work**0.5 / 1e4, work**0.5 * 1e3, 400)
        N = float(sizes[int(np.argmin([loss_at(n, work / n) for n in sizes]))])
        D = work / N
    else:
        assert budget.loss is not None

        def excess(log_n: float) -> float:
            N = float(np.exp(log_n))
            return loss_at(N, budget.tokens_of(N)) - float(budget.loss or 0)

        low, high = np.log(1e2), np.log(1e15)
        if excess(high) > 0:
            raise UserError(
                f"loss {budget.loss:g} is out of reach of {weights} at any size up to 1e15 parameters, where the fit "
                f"says {budget.loss + excess(high):.3g}; ask for a larger loss or more tokens"
            )
        root = bisect(excess, low, high) if excess(low) > 0 else low
        N = float(np.exp(root))
        D = budget.tokens_of(N)
    prediction = predict(fit, draws, target(weights, activations, N=N, D=D))
    return prediction, N * bits / 8, FLOPS_PER_PARAMETER_TOKEN * N * D / speed


def bisect(f: Callable[[float], float], low: float, high: float, steps: int = 80) -> float:
    """Root of a falling function between `low` and `high`."""
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if f(middle) > 0 else (low, middle)
    return (low + high) / 2


def _loss(fit: Fit, row: Row, z: np.ndarray | None = None) -> float:
    return float(fit.problem.predict(fit.z if z is None else z, fit.problem.gather([row]))[0])


def _gradient(fit: Fit, row: Row) -> np.ndarray:
    """Derivative of the predicted loss by the free coordinates."""
    steps = np.eye(len(fit.z))[fit.free] * 1e-6
    return np.array([(_loss(fit, row, fit.z + s) - _loss(fit, row, fit.z - s)) / 2e-6 for s in steps])


def _next_run(fit: Fit, pair: Sequence[Row]) -> NextRun:
    """Among the table's formats at its own and at twice its largest sizes and tokens: by linearised covariance."""
    J = np.stack([_gradient(fit, r) for r in fit.table.rows])
    noise = residual_deviation(fit) ** 2
    # A weak ridge keeps directions that the table does not measure at all finite: there any run helps.
    information = J.T @ J / noise + 1e-9 * np.trace(J.T @ J / noise) * np.eye(J.shape[1])
    covariance = np.linalg.inv(information)
    wanted = _gradient(fit, pair[1]) - _gradient(fit, pair[0])
    before = float(wanted @ covariance @ wanted)
    N, D = fit.table.column("N"), fit.table.column("D")
    sizes, tokens = (
        sorted({N.min(), float(np.median(N)), N.max(), 2 * N.max()}),
        sorted({D.min(), D.max(), 2 * D.max()}),
    )
    best, after = fit.table.rows[0], np.inf
    for curve, n, d in product(fit.table.first_of_curve.values(), sizes, tokens):
        row = curve._replace(N=float(n), D=float(d), run="next")
        g = covariance @ _gradient(fit, row)
        remaining = before - float(wanted @ g) ** 2 / (noise + float(_gradient(fit, row) @ g))
        if remaining < after:
            best, after = row, remaining
    return NextRun(best, before**0.5, max(after, 0.0) ** 0.5)
