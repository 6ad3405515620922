"""How far to train a model that will be rounded after: with D the dense loss falls, and what rounding costs rises.

Kumar et al. (arXiv 2411.04330) draw the consequence: at some D more text makes the rounded model worse.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from capscale.analysis.operands import gaussian_error
from capscale.analysis.planner import Room, lowest
from capscale.analysis.predict import Predictor, storage_bits, target
from capscale.analysis.rises.fit import RiseFit
from capscale.analysis.rises.table import asked
from capscale.analysis.uncertainty import Interval
from capscale.capacity import FLOPS_PER_PARAMETER_TOKEN
from capscale.errors import UserError

STEPS = 121
"""Lengths, or sizes, among which the best is looked for; a parabola refines it."""
BY_CHANCE = 1.05
"""Factor by which a size or an error may lie beyond those of the table: rounding of sizes is no extrapolation."""


class Length(NamedTuple):
    """The best use of a limit by a model that is trained dense and rounded after.

    Attributes:
      weights: the format that it is rounded to.
      N: parameters.
      D: training tokens of least loss after rounding, with a 95 % interval; open where draws lie on an end of the
        lengths that the tables have.
      loss: after rounding, in nats per token, with a 95 % interval.
      rise: of it, by rounding.
      memory: bytes of the rounded weights, and of the cache where it is counted.
      behind: expected loss above the best format's.
      at_end: "longest" or "shortest" where the best D is an end of what the tables have: training on, or less, may be
        better still; "" inside.
    """

    weights: str
    N: float
    D: Interval
    loss: Interval
    rise: Interval
    memory: float
    behind: float
    at_end: str
    cache: float = 0.0
    """Bytes of attention's cache among them."""


class Limit(NamedTuple):
    """Resources of a model, one of: bytes of its rounded weights, which fix N; FLOPs of its training, 6 N D.

    With `room` that counts it, `memory` is of attention's cache as well.
    """

    memory: float | None = None
    flops: float | None = None
    room: Room = Room()


def best_lengths(
    predictor: Predictor, fit: RiseFit, limit: Limit, formats: Sequence[str], seed: int = 0
) -> tuple[tuple[Length, ...], dict[str, str]]:
    """The best N and D of every format within the limit, best first, and why others have none.

    Args:
      predictor: of dense losses.
      fit: of rises, in proportion to GMSE.
      limit: of the model.
      formats: catalog names.
      seed: of the formats' departures from the law.

    Raises:
      UserError: another limit than one positive number, or no format that the tables know enough of.
    """
    given = [value for value in (limit.memory, limit.flops) if value is not None]
    if len(given) != 1 or not 0 < given[0] < np.inf:
        raise UserError(f"how far to train takes one of --memory and --flops, a positive number, not {given or 'none'}")
    found, refused = [], {}
    for name in formats:
        try:
            found.append(_best(predictor, fit, limit, name, seed))
        except UserError as reason:
            refused[name] = str(reason)
    if not found:
        raise UserError("; ".join(refused.values()) or "no formats to choose from; give catalog names")
    found.sort(key=lambda length: length.loss.estimate)
    return tuple(each._replace(behind=each.loss.estimate - found[0].loss.estimate) for each in found), refused


def _best(predictor: Predictor, fit: RiseFit, limit: Limit, name: str, seed: int) -> Length:
    gmse = _error_of(fit, name)
    N, D = _path(predictor, fit, limit, name)
    row = target("dense", N=1.0, D=1.0, runs=predictor.ensemble.table)
    rows = [row._replace(N=float(n), D=float(d)) for n, d in zip(N, D, strict=True)]
    rises = np.exp(fit.log_rise(asked(N, D, gmse)))
    dense = np.concatenate([d.loss(rows) for d in predictor.draws])
    random = np.random.default_rng([seed, *name.encode()])
    # A format and a run have a slope of their own; how far off, the scatter of the table's rises says.
    own = np.exp(fit.spread * random.normal(size=len(dense)))
    drawn = dense + rises[1:][random.integers(len(rises) - 1, size=len(dense))] * own[:, None]
    mean = predictor.mean(rows) + rises[0]
    best = lowest(D, mean)
    k = int(np.argmin(mean))
    low, high = np.quantile([lowest(D, losses) for losses in drawn], [0.025, 0.975])
    low, high = -np.inf if low <= D.min() else float(low), np.inf if high >= D.max() else float(high)
    size = float(np.exp(np.interp(np.log(best), *_ascending(np.log(D), np.log(N)))))
    at_end = {D.max(): "longest", D.min(): "shortest"}.get(D[k], "")
    return Length(
        name,
        size,
        Interval(float(best), min(low, best), max(high, best)),
        _interval(float(mean[k]), drawn[:, k]),
        _interval(float(rises[0, k]), rises[1:, k]),
        limit.room.taken(size, storage_bits(name)),
        0.0,
        at_end,
        limit.room.cached(size),
    )


def _ascending(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(x)
    return x[order], y[order]


def _interval(estimate: float, draws: np.ndarray) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(estimate, min(float(low), estimate), max(float(high), estimate))


def _error_of(fit: RiseFit, name: str) -> float:
    gmse, known = gaussian_error(name), fit.rises.gmse
    if name == "dense":
        raise UserError("dense: nothing is rounded; leave it out of --formats")
    if not np.isfinite(gmse):
        raise UserError(f"{name}: no format of the catalog")
    if not known.min() / BY_CHANCE <= gmse <= known.max() * BY_CHANCE:
        raise UserError(
            f"{name}: its GMSE of {gmse:.3g} lies outside of the rounded runs' {known.min():.3g} to {known.max():.3g}; "
            "round runs to formats about it"
        )
    return gmse


def _path(predictor: Predictor, fit: RiseFit, limit: Limit, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and lengths within the limit that both tables have (G,), by length."""
    tables = (predictor.ensemble.table.column("N"), predictor.ensemble.table.column("D")), (fit.rises.N, fit.rises.D)
    (least_N, most_N), (least_D, most_D) = (
        (max(float(t[k].min()) for t in tables), min(float(t[k].max()) for t in tables)) for k in (0, 1)
    )
    if least_D >= most_D:
        raise UserError(f"{name}: the tables have no range of D in common, so nothing says what a token is worth")
    D = np.geomspace(least_D, most_D, STEPS)
    if limit.memory is not None:
        N = np.full(STEPS, limit.room.size(limit.memory, storage_bits(name)))
    else:
        assert limit.flops is not None
        work = limit.flops / FLOPS_PER_PARAMETER_TOKEN
        D = np.geomspace(max(least_D, work / most_N), min(most_D, work / least_N), STEPS)
        N = work / D
        if D[0] > D[-1]:
            raise UserError(
                f"{name}: {limit.flops:g} FLOPs lie outside of what the runs had, N of {least_N:.3g} to {most_N:.3g} "
                f"and D of {least_D:.3g} to {most_D:.3g}; train and round others"
            )
    if not least_N / BY_CHANCE <= N.min() <= N.max() <= most_N * BY_CHANCE:
        raise UserError(
            f"{name}: N = {N[0]:.3g} lies outside of the runs' {least_N:.3g} to {most_N:.3g}; "
            "train and round runs of its size"
        )
    return N, D
