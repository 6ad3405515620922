"""Which further number the runs ask of the additive law: a factor of the gradients on D, capacity on tokens, a drift of
capacity with D/N, or the coupling of both terms.

Each makes a wider law, and several may describe the same misfit. So the law and each of the wider ones are held
against every law that has one further number yet, and against curves (`misspecification`); the one that made the runs
passes but for `LEVEL` of tables, whatever errors they share. Where the additive one does not pass, the wider ones are
told apart by how likely they make the runs (`odds`): fewer runs will do for that than for a test of each alone. A
wider law is called what the runs ask for where it passes, where it makes them `ENOUGH` times as likely as each of the
others does, and where it predicts rows that were held out better than the additive one as well. That last comparison
is a condition and no test: the error of one refit is in all of its predictions, so that they are no sample. Of several
that are not told apart every one is named, also one that does not pass but is as likely as one that does.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from capscale.analysis.calibration import MOST_POINTS, Reference
from capscale.analysis.conditioning import column_norms, jacobian
from capscale.analysis.ensemble import MOST_CUTS
from capscale.analysis.families import GRADIENTS_FACTOR, Wider, joined, wider
from capscale.analysis.fit import Fit, Settings, fit, least_squares, with_shared_errors
from capscale.analysis.law import Law
from capscale.analysis.limits import bounds
from capscale.analysis.misspecification import EXACT, LEVEL, added, chance, curvature, placed
from capscale.analysis.odds import ENOUGH, odds
from capscale.analysis.outliers import outliers
from capscale.analysis.problem import pose
from capscale.analysis.rollouts import Cut, cuts, roll_out
from capscale.analysis.shared_errors import infer
from capscale.analysis.shipped.capacity import DECOUPLED
from capscale.analysis.starts import starting_points
from capscale.analysis.table import Table
from capscale.analysis.uncertainty import Interval

STARTS = 8
"""Starting points of the additive law, and of each wider one beside the optimum of that."""
INTERVAL = 0.95
MATTERS = {"eta": np.log(1.25), "k": 0.5, "delta": 0.05, "g": np.log(1.25)}
"""Sizes of the numbers, as steps of their coordinates, from which a plan would be another one: a factor of 1.25 of
tokens, an eighth of capacity for a decade of D/N."""
Verdict = Literal["none", "open", "one", "several", "other", "denied"]


class Asked(NamedTuple):
    """One further number on a table.

    Attributes:
      shape: the wider law with its number.
      chance: how often runs of the additive law would ask for it as much; NaN where they cannot tell it from that law.
      intervals: of the number (of every way to hold the gradients), in the wider law where that was fitted, else by one
        step from the additive one.
      passes: whether the runs ask nothing further of the wider law, None where it was not fitted.
      odds: how many times as likely the runs are by the likeliest of the wider laws; NaN where it was not fitted.
      held_out: root mean squared error beyond the cuts, NaN where it was not looked at.
    """

    shape: Wider
    chance: float
    intervals: dict[str, Interval]
    passes: bool | None = None
    odds: float = float("nan")
    held_out: float = float("nan")

    @property
    def leaves_room(self) -> bool:
        """Whether its interval holds values that would matter."""
        low, high = self.shape.at, self.shape.at
        for interval in self.intervals.values():
            low, high = min(low, interval.low), max(high, interval.high)
        size = MATTERS[self.shape.number]
        ends = np.log([low, high]) if self.shape.at == 1 else np.array([low, high])
        return not self.intervals or bool(np.any(np.abs(ends) > size))


class Extensions(NamedTuple):
    """The further numbers on a table, and what there is to be said of them.

    Attributes:
      fit: the additive law.
      chance: bound on how often runs of that law would ask for something as much.
      asked: a number each.
      held_out: error of the additive law beyond the cuts; NaN where it was not looked at.
      cuts: how many there are.
    """

    fit: Fit
    chance: float
    asked: tuple[Asked, ...]
    held_out: float = float("nan")
    cuts: int = 0

    @property
    def allowed(self) -> tuple[Asked, ...]:
        """The wider laws that may have made the runs where the additive one did not, the likeliest first.

        None where no wider law passes. Else those that are not told apart from the likeliest one, and, where none of
        these passes, those that do as well.
        """
        passing = [a for a in self.asked if a.passes]
        likely = [a for a in self.asked if a.odds < ENOUGH]
        if not any(a.passes for a in likely):
            likely += passing
        return tuple(sorted(likely, key=lambda a: a.odds)) if passing else ()

    @property
    def ratios(self) -> tuple[float, float]:
        """Smallest and largest D/N of the runs."""
        each = (self.fit.table.column("D") / self.fit.table.column("N"))[self.fit.problem.weight > 0]
        return float(each.min()), float(each.max())

    @property
    def verdict(self) -> Verdict:
        """none, or open where room is left; one, several or other than these; denied by the rows held out."""
        if self.chance >= LEVEL:
            return "open" if any(a.leaves_room for a in self.asked) else "none"
        if len(self.allowed) != 1:
            return "several" if self.allowed else "other"
        return "denied" if self.allowed[0].held_out > self.held_out else "one"


def extensions(table: Table, law: Law, settings: Settings | None = None, known: Fit | None = None) -> Extensions | None:
    """The further numbers of the additive law with the form of rho of `law`; None for a law of another shape.

    Args:
      table: the rows that it is fitted to.
      law: additive, or one of the wider ones.
      settings: of the fits.
      known: the additive law fitted to the table less the rows that pull it, without numbers that are given, where
        there is such a fit.

    Raises UserError where the table cannot carry the additive law.
    """
    base = additive_law(law)
    if base is None:
        return None
    if known is not None and known.law == base:
        return extended(known)
    return extended(outliers(fit(table, base, replace(settings or Settings(), starts=STARTS))).without)


def additive_law(law: Law) -> Law | None:
    """The additive law that a law is, or is a wider one of; of laws of gradients that of all pairs."""
    if law.own_of_gradients:
        return DECOUPLED
    if law.dense or law.own:
        return None
    if wider(law):
        return law
    plain = replace(DECOUPLED, form=law.form, free=law.free, sharing=law.sharing, combination=law.combination)
    names = {shape.law.loss for shape in wider(plain)}
    return plain if law.loss in names else None


def extended(plain: Fit) -> Extensions:
    """The further numbers of a fitted additive law."""
    shapes = list(wider(plain.law))
    active = plain.problem.weight > 0
    if plain.law.free and any(r.gradients != "dense" for r, a in zip(plain.table.rows, active, strict=True) if a):
        shapes.append(GRADIENTS_FACTOR)
    if np.sqrt(np.mean(plain.loss_units[active] ** 2)) < EXACT:
        return Extensions(plain, 1.0, tuple(_by_one_step(plain, shape, 1.0) for shape in shapes))
    chances = [chance(plain, added(plain, shape.law, shape)) for shape in shapes]
    bound = _bound([*chances, chance(plain, curvature(plain))])
    told = [float("nan") if p is None else p for p in chances]
    if bound >= LEVEL:
        found = (_by_one_step(plain, shape, p) for shape, p in zip(shapes, told, strict=True))
        return Extensions(plain, bound, tuple(found))
    fits = [None if np.isnan(p) else widened(plain, shape) for shape, p in zip(shapes, told, strict=True)]
    squares = [None if f is None else least_squares(f, f.shared) for f in fits]
    unlikely = iter(odds([f for f in squares if f is not None]))
    found = Extensions(
        plain,
        bound,
        tuple(
            _by_one_step(plain, shape, p)
            if f is None
            else Asked(shape, p, _intervals(f, shape), _passes(f, shape, plain.law, shapes), next(unlikely))
            for shape, p, f in zip(shapes, told, squares, strict=True)
        ),
    )
    if len(found.allowed) != 1:
        return found
    tried = cuts(plain.table, MOST_CUTS)
    only = found.asked.index(found.allowed[0])
    held, error = _beyond((plain, fits[only]), tried)
    asked = tuple(a._replace(held_out=error) if i == only else a for i, a in enumerate(found.asked))
    return found._replace(asked=asked, held_out=held, cuts=len(tried))


def widened(plain: Fit, shape: Wider) -> Fit:
    """The wider law fitted to the rows of the additive one, from its optimum and elsewhere."""
    problem = replace(pose(plain.table, shape.law), weight=plain.problem.weight)
    lower, upper = bounds(problem, plain.constraints)
    z, _ = placed(plain, problem, shape)
    start = np.vstack([z[None], starting_points(problem, lower, upper, count=STARTS, seed=plain.settings.seed)])
    penalty = type(plain.penalty)(np.zeros(len(z)), np.zeros(len(z)))
    draft = replace(plain, problem=problem, lower=lower, upper=upper, penalty=penalty, shared=plain.shared.none())
    solution = draft.solve(draft.batch(start))
    objective = np.where(np.isfinite(solution.objective), solution.objective, np.inf)
    order = np.argsort(objective, kind="stable")
    best = replace(draft, z=solution.z[order[0]], objective=float(objective[order[0]]), optima=solution.z[order[:4]])
    return with_shared_errors(best, solution.z)


def _bound(chances: Sequence[float | None]) -> float:
    """Bound on the chance of the least likely of several; 1 where none can be told."""
    told = [p for p in chances if p is not None]
    return min(1.0, len(told) * min(told)) if told else 1.0


def _passes(fitted: Fit, shape: Wider, plain: Law, shapes: Sequence[Wider]) -> bool:
    """Whether the runs ask nothing further of a wider law."""
    others = [o for o in shapes if o.number != shape.number]
    found = [chance(fitted, added(fitted, joined(plain, [shape, o]), o)) for o in others]
    return _bound([*found, chance(fitted, curvature(fitted))]) >= LEVEL


def _by_one_step(plain: Fit, shape: Wider, p: float) -> Asked:
    """A number that was not fitted: where one step of least squares from the additive law takes it."""
    problem = replace(pose(plain.table, shape.law), weight=plain.problem.weight)
    z, _ = placed(plain, problem, shape)
    lower, upper = bounds(problem, plain.constraints)
    at = replace(plain, problem=problem, lower=lower, upper=upper, z=z)
    return Asked(shape, p, {} if np.isnan(p) else _intervals(at, shape))


def _intervals(at: Fit, shape: Wider) -> dict[str, Interval]:
    """The further numbers by a step of least squares, over the posterior of what runs share."""
    places = [i for i, name in enumerate(at.problem.names) if name.partition("[")[0] == shape.number]
    active, J, r = at.problem.weight > 0, jacobian(at), at.loss_units
    root, norms = np.sqrt(at.problem.weight[active])[:, None], column_norms(J)
    shared = infer(at.shared, r, J / norms, active)
    most = np.argsort(-shared.probability, kind="stable")[:MOST_POINTS]
    steps, deviations = [], []
    for ratio in shared.grid[most]:
        both = at.whiten(np.column_stack([J / norms, r]), ratio)[active] * root
        U, singular, V = np.linalg.svd(both[:, :-1], full_matrices=False)
        inverse = V.T / np.maximum(singular, 1e-9 * singular[0])
        within = U.T @ both[:, -1]
        left = max(float(both[:, -1] @ both[:, -1] - within @ within), 1e-300) / at.freedom
        steps.append((inverse @ within / norms)[places])
        deviations.append(np.sqrt(left * np.sum(inverse**2, axis=1))[places] / norms[places])
    step, deviation = np.array(steps), np.array(deviations)
    probability = shared.probability[most] / shared.probability[most].sum()
    found = {}
    for k, i in enumerate(places):
        centre, unit = probability @ step[:, k], deviation[0, k]
        chances = Reference(probability, (step[:, k] - centre) / unit, deviation[:, k] / unit, at.freedom)
        reach = np.sqrt(chances.limit(INTERVAL)) * unit
        ends = at.z[i] + centre + np.array([0.0, -reach, reach])
        ends = np.clip(ends, at.lower[i], at.upper[i])
        values = np.exp(ends) if at.problem.parameters[i].log else ends
        found[at.problem.names[i]] = Interval(*map(float, values))
    return found


def _beyond(fits: Sequence[Fit | None], tried: Sequence[Cut]) -> tuple[float, ...]:
    """Errors of laws beyond cuts below which all of them can be fitted."""
    squares: list[list[np.ndarray]] = []
    for cut in tried:
        rolled = [None if f is None else roll_out(f, cut) for f in fits]
        if all(r is not None for r in rolled):
            loss = fits[0].problem.loss if fits[0] else np.empty(0)
            squares.append([(loss - r.predicted)[r.test] ** 2 for r in rolled if r is not None])
    if not squares:
        return tuple(float("nan") for _ in fits)
    return tuple(float(np.sqrt(np.mean(np.concatenate([s[i] for s in squares])))) for i in range(len(fits)))
