"""Theorem 1 of arXiv 2506.01863: Adam with AMSGrad on compressed weights, and the distance that bounds its gradient.

Claim: the mean squared gradient is bounded by a term in the run average of ||held - masters||, so that representations
with the larger distance are worth less.
Expected: no number is printed. Among representations of one estimator the loss rises with the relative distance
||held - masters|| / ||masters||, which every run tells as the root of `weights_realised_error`; losses are of one
size, where their order is that of capacities. A bound orders nothing across estimators, which change the
gradient itself.

Run: `capscale reproduce theorem1 --ladder nano`, 24 runs, 3 minutes on two cores.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from capscale.analysis.claims import Claim, Estimate
from capscale.analysis.effects import estimates_of, notes, rank_correlations
from capscale.analysis.evidence import RESAMPLES, Evidence, interval
from capscale.analysis.row import Row
from capscale.analysis.seeds import LEAST_FREEDOM
from capscale.data.corpus import DataId
from capscale.errors import UserError
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROTATED = ("int8", "int4", "int3", "int2", "int1")
PLAIN = ("top25", "top50", "top75", "2:4", "top25 [fw]", "top50 [fw]", "top75 [fw]")
LEAST = 3
"""Formats below which an order says nothing."""


class Group(NamedTuple):
    """Representations of one estimator."""

    name: str
    words: str
    representations: tuple[Representation, ...]


def _rotated(*names: str) -> tuple[Representation, ...]:
    return tuple(Representation(operand(name), hadamard=128) for name in names)


def _plain(*names: str) -> tuple[Representation, ...]:
    return tuple(Representation(operand(name)) for name in names)


GROUPS = (
    Group("trust", "rotated integers, trust mask", _rotated(*ROTATED[:4])),
    Group("rbbm", "sparse weights, RBBM", _plain(*PLAIN[:4])),
    Group("forward-mask", "sparse weights, forward mask", _plain(*PLAIN[4:])),
)
ALONE = Group("clip", "rotated 1 bit, clip", _rotated(ROTATED[4]))
"""One format with an estimator of its own: it has a place in the picture, and no order."""

CLAIMS = tuple(
    Claim(
        name=f"order-{group.name}",
        says=f"Among {group.words}, the larger distance from the master weights goes with the larger loss.",
        source="Theorem 1, Algorithm 3",
        effect=f"Spearman's rank correlation of loss and relative distance over {len(group.representations)} formats",
        accepted=(0.75, 1.0),
        why="an exact order; of 4 formats one pair of neighbours may be exchanged (.8), of 3 none (.5)",
        paper=1.0,
        null=0.0,
        deviation=0.05,  # neighbours differ by .03 nats and more, means of two seeds by .008
    )
    for group in GROUPS
)


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every representation at the larger of the middle sizes, with AMSGrad (Algorithm 3): ranks need no dense curve."""
    grid = Grid(ladder, data, amsgrad=True)
    every = [*_rotated(*ROTATED), *_plain(*PLAIN)]
    return grid.over(every, grid.two[:1])


class Distances(NamedTuple):
    """Formats by what their runs tell, means of their seeds with resamples (F, 1 + S)."""

    names: tuple[str, ...]
    distance: np.ndarray
    """||held - masters|| / ||masters||, average over the run."""
    loss: np.ndarray
    """Nats per token."""


def distances(evidence: Evidence, representations: Sequence[Representation]) -> tuple[Distances, str]:
    """Those of the formats that have results, and a note on the others.

    Resamples move means of seeds by the scatter of seeds, pooled over all formats of the experiment; of distances, that
    of their logarithms. Raises UserError where too few seeds tell a scatter, or no format has a result.
    """
    cells: dict[str, list[Row]] = {}
    for row in evidence.table.rows:
        if row.weights_realised_error > 0:
            cells.setdefault(row.curve, []).append(row)
    random = np.random.default_rng(0)
    of_distance = _means(cells, lambda row: 0.5 * np.log(row.weights_realised_error), random)
    of_loss = _means(cells, lambda row: row.loss, random)
    names, absent = [], []
    for each in representations:
        try:
            names.append(evidence.curve(each))
        except UserError as reason:
            absent.append(str(reason))
    names = [name for name in names if name in cells]
    if not names:
        raise UserError("; ".join(absent) or f"{evidence.source}: no run tells the distance of its weights")
    found = (np.stack([means[name] for name in names]) for means in (of_distance, of_loss))
    distance, loss = found
    return Distances(tuple(names), np.exp(distance), loss), f"left out: {'; '.join(absent)}" if absent else ""


def _means(
    cells: dict[str, list[Row]], read: Callable[[Row], float], random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Means of a number over the seeds of every format, then resamples of them (1 + S,)."""
    values = {name: np.array([read(row) for row in rows]) for name, rows in cells.items()}
    freedom = sum(len(each) - 1 for each in values.values())
    if freedom < LEAST_FREEDOM:
        raise UserError(
            f"{freedom} runs repeat another with a new seed, and {LEAST_FREEDOM} tell how far seeds scatter"
        )
    scatter = np.sqrt(sum(np.sum((each - each.mean()) ** 2) for each in values.values()) / freedom)
    deviation = scatter * np.sqrt(freedom / random.chisquare(freedom, RESAMPLES))
    return {
        name: each.mean() + np.append(0.0, deviation * random.standard_normal(RESAMPLES) / np.sqrt(len(each)))
        for name, each in values.items()
    }


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """Rank correlations of loss with distance, per estimator."""

    def order(group: Group) -> Estimate:
        found, note = distances(evidence, group.representations)
        if len(found.names) < LEAST:
            raise UserError(f"{len(found.names)} formats have results, {LEAST} needed; {note}")
        pairs = zip(found.distance.T, found.loss.T, strict=True)
        told = [rank_correlations(distance, -loss[:, None])[0] for distance, loss in pairs]
        each = ", ".join(f"{n} {d:.3g}" for n, d in zip(found.names, found.distance[:, 0], strict=True))
        return interval(np.array(told), notes(f"relative distances: {each}", note))

    return estimates_of({f"order-{group.name}": partial(order, group) for group in GROUPS})


def figure(evidence: Evidence) -> "Figure":
    """Loss against relative distance, an estimator each; the paper draws neither."""
    from capscale.analysis import panels
    from capscale.analysis.labels import Named, place_labels

    drawn, (axes,) = panels.panels(height=4.0)
    axes.set_xscale("log")
    points, lines = [], []
    for k, group in enumerate((*GROUPS, ALONE)):
        try:
            found, _ = distances(evidence, group.representations)
        except UserError:
            continue
        look = panels.style(k)
        order = np.argsort(found.distance[:, 0])
        x, (y, low, high) = found.distance[order, 0], panels.ends(found.loss[order])
        panels.bars(axes, x, found.loss[order], look, group.words)
        axes.plot(x, y, color=look.color, linewidth=0.9, zorder=2)
        lines.append(np.stack([x, y], axis=1))
        points += map(Named, x, y, [found.names[i] for i in order], low, high)
    axes.set_xlabel("relative distance ||held − masters|| / ||masters||, average over the run", fontsize=9)
    axes.set_ylabel("validation loss, nats per token", fontsize=9)
    if points:
        axes.margins(0.12, 0.08)
        panels.key(axes, "upper left")
        place_labels(axes, points, lines)
    else:
        panels.nothing(axes, "none of these runs has a result")
    return drawn
