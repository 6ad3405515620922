"""Capacity and loss of a representation that may never have been trained, with an interval that admits the unknown.

An ensemble of laws (`ensemble`) predicts: the spread of its laws, the errors of their numbers and of what rows share,
the departures of formats and kinds from the law (`departures`), the scatter of single runs, and, beyond the runs, what
the laws missed when they were rolled out on the table itself. Where the table could not try a distance, no interval
is stated.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from capscale.analysis.departures import departures, kin
from capscale.analysis.drawing import Draws, draw
from capscale.analysis.ensemble import BY_CHANCE, LEVEL, Ensemble, beyond_runs
from capscale.analysis.mixed import mixture
from capscale.analysis.operands import facts
from capscale.analysis.rollouts import NO_DISTANCE, Beyond
from capscale.analysis.table import Row, Table, make_table
from capscale.analysis.uncertainty import Interval
from capscale.errors import UserError
from capscale.estimator_names import split_name

NEAR_GMSE = 1.05
"""Factor of GMSE within which a format counts as inside those of the runs."""
MOST_DRAWS = 100_000
"""Held in memory at once; the ends of a 95 % interval of so many are known to three digits."""
NOT_STATED = float("inf")


@dataclass(frozen=True)
class Prediction:
    """Capacity and loss of one representation at (N, D), by an ensemble."""

    row: Row
    rho: Interval
    """Capacity."""
    loss: Interval
    """Of a single run, in nats per token; infinite ends where no interval is stated."""
    dense_equivalent: Interval
    """Parameters: N rho."""
    beyond: tuple[float, float]
    """How far beyond the runs, in e-folds of N and of D."""
    draws: np.ndarray
    """Of the expected loss, without the scatter of single runs; those of one `Predictor` belong together (S,)."""
    notes: tuple[str, ...]

    @property
    def stated(self) -> bool:
        """Whether an interval of the loss is stated."""
        return bool(np.isfinite(self.loss.low))


def target(
    weights: str, activations: str = "dense", *, N: float = 1e9, D: float = 1e11,
    weights_gmse: float = float("nan"), activations_gmse: float = float("nan"),
    columns: Mapping[str, float] | None = None, runs: Table | None = None,
) -> Row:  # fmt: skip
    """A row to predict; names outside the catalog need their GMSE. `columns` are others, for laws that read them.

    It has the rotation of `runs` (see `as_in`), and none without them. An estimator in brackets counts as the default
    where it is that of the format in either basis, rotated or not.
    """
    record = {"N": N, "D": D, "loss": 1.0, "weights": weights, "activations": activations, "run": "prediction"}
    record |= {"weights_gmse": weights_gmse, "activations_gmse": activations_gmse, **(columns or {})}
    plain, rotated = (
        make_table([record | {"hadamard": block}], "prediction", strict=False).rows[0] for block in (None, 128)
    )
    found = plain if plain.is_plain or not rotated.is_plain else rotated
    return found if runs is None else as_in(runs, found)


def as_in(table: Table, row: Row) -> Row:
    """The row with the rotation that the table's runs of its formats have, or most of its compressed runs."""
    compressed = [r for r in table.rows if not r.is_dense and r.is_plain]
    same = [r for r in compressed if (r.weights, r.activations) == (row.weights, row.activations)] or compressed
    counts = Counter(r.hadamard for r in same)
    return row._replace(hadamard=max(counts, key=lambda h: (counts[h], h))) if counts else row


def format_error(ensemble: Ensemble) -> float:
    """RMS of the formats' mean residuals beyond what the scatter of their runs explains, by the best law, in nats.

    Departures are of rho: a format near rho = 1 that stands off all the same has another recipe, or another law.
    """
    best = ensemble.best
    residuals, excess = best.problem.loss - mixture(best)[0].loss(best.table.rows), []
    curve = np.array([r.curve for r in best.table.rows])
    for name in best.table.curves:
        mine = residuals[curve == name]
        if len(mine) > 1:
            excess.append(np.mean(mine) ** 2 - np.var(mine, ddof=1) / len(mine))
    return float(np.sqrt(max(np.mean(excess), 0.0))) if excess else 0.0


@dataclass(frozen=True)
class Predictor:
    """Predictions of several representations by the same draws, so that what they share cancels in differences."""

    ensemble: Ensemble
    rows: tuple[Row, ...]
    """Of the representations, at any N and D, each with the rotation that it is to have."""
    count: int = 1000
    level: float = LEVEL

    def __post_init__(self) -> None:
        if not 20 <= self.count <= MOST_DRAWS:
            raise UserError(f"draws={self.count}: at least 20 and at most {MOST_DRAWS:,} draws; a thousand will do")
        if not 0 < self.level < 1:
            raise UserError(f"level={self.level:g}: must lie strictly between 0 and 1, such as 0.95")
        for row in self.rows:
            if row.is_parametrized and not self.ensemble.best.law.per_format:
                raise UserError(
                    f"{row.curve}: what is trained of a parametrization are its stored numbers, and no nearest point, "
                    "so a law of GMSE says nothing of its capacity; train it, and read its own in `capscale report`"
                )
            if not row.is_plain and not self.ensemble.best.law.per_format:
                raise UserError(
                    f"{row.curve}: a law of GMSE cannot see the estimator and would say of it what it says of the "
                    "default; ask for the format without brackets, or read its measured capacity in `capscale report`"
                )

    @cached_property
    def draws(self) -> tuple[Draws, ...]:
        """As many from each component as its share; the seed is that of the fits."""
        return draw(self.ensemble.components(self.rows), self.count, self.ensemble.best.settings.seed)

    @cached_property
    def format_error(self) -> float:
        """Deviation of formats from the law in nats, beyond their departures."""
        return format_error(self.ensemble)

    @cached_property
    def _missed(self) -> np.ndarray:
        """Standard normals of what the laws miss beyond the runs: of all formats in common, and of each (1 + R, S)."""
        random = np.random.default_rng([self.ensemble.best.settings.seed, 1])
        return random.normal(size=(1 + len(self.rows), sum(len(d.scatter) for d in self.draws)))

    def mean(self, rows: Sequence[Row]) -> np.ndarray:
        """Expected loss of rows of the representations (R,)."""
        total = sum(d.share for d in self.draws)
        return sum((d.share / total * d.posterior.loss(rows) for d in self.draws), np.zeros(len(rows)))

    def expected(self, row: Row, beyond: Beyond) -> np.ndarray:
        """Draws of the expected loss, with what the laws miss beyond the runs (S,)."""
        losses = np.concatenate([d.loss([row])[:, 0] for d in self.draws])
        random = np.random.default_rng([self.ensemble.best.settings.seed, *f"{row.weights}/{row.activations}".encode()])
        losses = losses + random.normal(0.0, self.format_error, len(losses))
        strength = np.array([1 + abs(float(np.log(np.median(self._rho(row)))))])
        calibration = self.ensemble.calibration
        deviation = float(np.sqrt(calibration.added(beyond, strength)[0]))
        own = 1 + [r.identity for r in self.rows].index(row.identity)
        common = calibration.common
        return losses + deviation * (np.sqrt(common) * self._missed[0] + np.sqrt(1 - common) * self._missed[own])

    def _rho(self, row: Row) -> np.ndarray:
        return np.ones(1) if row.is_dense else np.concatenate([d.rho(row) for d in self.draws])

    def predict(self, row: Row) -> Prediction:
        """Capacity and loss of one of the representations at the row's N and D."""
        by = beyond_runs(self.ensemble.table, [row])
        calibration = self.ensemble.calibration
        losses, rho = self.expected(row, by), self._rho(row)
        scatter = np.concatenate([d.scatter for d in self.draws])
        estimate = float(self.mean([row])[0])
        ends = np.quantile(losses + scatter, [(1 - self.level) / 2, (1 + self.level) / 2])
        freedom = float(calibration.freedom(by)[0])
        tail = (1 + self.level) / 2
        widen = float(student.ppf(tail, freedom) / norm.ppf(tail)) if np.isfinite(freedom) else 1.0
        low, high = estimate + widen * (ends - estimate)
        stated = bool(calibration.stated(by)[0]) and self._tried(row, rho)
        loss = Interval(estimate, *((float(low), float(high)) if stated else (-NOT_STATED, NOT_STATED)))
        middle, below, above = np.quantile(rho, [0.5, (1 - self.level) / 2, (1 + self.level) / 2])
        capacity = Interval(float(middle), float(below), float(above))
        return Prediction(
            row=row,
            rho=capacity,
            loss=loss,
            dense_equivalent=Interval(*(float(x * row.N) for x in capacity)),
            beyond=(float(by.N[0]), float(by.D[0])),
            draws=losses,
            notes=(*self._notes(row, by, rho, stated=stated),),
        )

    def _below(self, row: Row, rho: np.ndarray) -> float:
        """E-folds that N rho lies below those of the runs; 0 within, and by a law without capacities."""
        known = self.ensemble.best.rho
        least = min((r.N * known[r.curve] for r in self.ensemble.table.rows if known), default=0.0)
        return max(float(np.log(least / (row.N * np.median(rho)))), 0.0) if least > 0 else 0.0

    def _tried(self, row: Row, rho: np.ndarray) -> bool:
        """Whether the rollouts went as far in N as N rho lies below those of the runs.

        The laws see N rho: a weak format of a size that the table has can be a far smaller model than any of its runs.
        """
        return self._below(row, rho) <= self.ensemble.calibration.reach["N"] * (1 + BY_CHANCE) + NO_DISTANCE

    def _notes(self, row: Row, by: Beyond, rho: np.ndarray, *, stated: bool) -> list[str]:
        ensemble = self.ensemble
        notes = [*_kinds(ensemble, row), *_errors(ensemble, row)]
        below = self._below(row, rho)
        if below > NO_DISTANCE:
            reach = np.exp(ensemble.calibration.reach["N"])
            said = (
                f"N rho = {row.N * np.median(rho):.3g} is {np.exp(below):.3g} times below the dense-equivalent sizes of"
            )
            tried = f"rollouts of these runs tried {reach:.2g} times in N"
            farther = "" if self._tried(row, rho) else ", and no farther"
            notes.append(f"{said} the runs: extrapolated; {tried}{farther}")
        for axis, value, far in (("N", row.N, float(by.N[0])), ("D", row.D, float(by.D[0]))):
            if far > 0:
                notes.append(_distance(ensemble, axis, value, far))
        if not stated:
            notes.append("no interval of the loss is stated there: nothing in these runs tells how wrong the laws are")
        if not ensemble.best.problem.has_data_term and float(by.D[0]) > 0:
            D = ensemble.table.column("D")[0]
            notes.append(f"every run has D = {D:.4g}: the loss is the one at that D, whatever D is asked for")
        return notes


def predict(ensemble: Ensemble, row: Row, count: int = 1000, level: float = LEVEL) -> Prediction:
    """Capacity and loss of `row`'s representation at its N and D.

    Raises UserError where its estimators are not the defaults of its formats and the laws are of GMSE.
    """
    return Predictor(ensemble, (row,), count, level).predict(row)


def _distance(ensemble: Ensemble, axis: str, value: float, far: float) -> str:
    calibration = ensemble.calibration
    seen = ensemble.table.column(axis)
    reach = calibration.reach["N" if axis == "N" else "D"]
    folds = calibration.folds["N" if axis == "N" else "D"]
    within = far <= reach * 1.05
    tried = (
        f"rollouts of these runs ({folds} {'cut' if folds == 1 else 'cuts'}) tried {np.exp(reach):.2g} times"
        if folds
        else "no rollout of these runs is possible in that direction"
    )
    where = f"{np.exp(far):.3g} times beyond the runs ({seen.min():.3g} to {seen.max():.3g})"
    # Longer than any training of about that size is beyond, though other sizes were trained as long.
    if axis == "D" and seen.min() <= value <= seen.max():
        where = f"{np.exp(far):.3g} times beyond the trainings of about that size"
    return f"{axis} = {value:.3g} is {where}: extrapolated; {tried}{'' if within else ', and no farther'}"


def _kinds(ensemble: Ensemble, row: Row) -> list[str]:
    evidence = departures()
    notes = []
    known = sorted({f"{k.operand} {k.kind}" for r in ensemble.table.rows for k in kin(r)})
    for k in kin(row) if not ensemble.best.law.per_format else ():
        if f"{k.operand} {k.kind}" not in known:
            mean = evidence.means.get((k.operand, k.kind))
            told = (
                f"other studies put it {'above' if mean >= 0 else 'below'} the curve of integers: log rho times "
                f"{np.exp(-mean):.2f}"
                if mean is not None
                else "no study here has it"
            )
            spread = float(np.exp(evidence.deviation(k)))
            notes.append(
                f"no runs of {k.operand} {k.kind} in this fit (it has {', '.join(known) or 'dense only'}); {told}, and "
                f"formats of such a kind differ by a factor of about {spread:.2f} in log rho, which the interval admits"
            )
    return notes


def _errors(ensemble: Ensemble, row: Row) -> list[str]:
    notes = []
    for operand in ("weights", "activations") if not ensemble.best.law.per_format else ():
        error = getattr(row, f"{operand}_gmse")
        rows = [r for r in ensemble.table.rows if getattr(r, operand) != "dense"]
        seen = [getattr(r, f"{operand}_gmse") for r in rows]
        if getattr(row, operand) != "dense" and seen and np.all(np.isfinite(seen)):
            low, high = min(seen), max(seen)
            if not low / NEAR_GMSE <= error <= high * NEAR_GMSE:
                notes.append(
                    f"GMSE of {operand} {error:.3g} is beyond those of the runs ({low:.3g} to {high:.3g}): extrapolated"
                )
    return notes


def storage_bits(name: str) -> float:
    """Stored bits per weight of a catalog format, masks and scales included; UserError for other names."""
    from capscale.formats.catalog import find

    name, _ = split_name(name)
    if facts(name).kind == name and name not in ("dense",):
        raise UserError(f"{name}: not in the catalog, so its storage is unknown; `capscale gmse` lists the names")
    return float(find(name).bits)
