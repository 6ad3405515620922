"""Rows of an experiment's own runs, drawn from a law that a test chooses: a claim is true or false by design."""

import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capscale.analysis.claims import Judgement, Verdict, judge
from capscale.analysis.evidence import Evidence
from capscale.capacity import Scaling
from capscale.data.corpus import DataId
from capscale.models.ladder import LADDERS
from capscale.realised import COLUMNS
from capscale.representation import DENSE, Representation
from capscale.train.record import format_gmse, result_row
from capscale.train.run import Run

DATA = DataId("text", "0" * 64, 96)
LAW = Scaling(A=12.0, alpha=0.22, B=30.0, beta=0.4, E=0.4)
"""Of nano models: its dense curve falls by about a fifth of a nat per e-fold of N, as theirs does."""
SEED_SCATTER = 0.008
"""Standard deviation of the loss by seed, in nats: half that of nano runs (experiments/results/recipes.csv), so that
tests tell effects that hold from those that do not."""
BYTES_PER_SYMBOL = 1.0


def planned(experiment: Any, ladder: str = "nano") -> list[Run]:
    """The runs that an experiment asks for."""
    return experiment.runs(LADDERS[ladder], DATA)


def records(
    runs: Iterable[Run],
    rho: Callable[[Any], float],
    *,
    law: Scaling = LAW,
    scatter: float = SEED_SCATTER,
    seed: int = 0,
    columns: Callable[[Run], dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """A row of every run as training would leave it, with the loss A (N rho)^-alpha + B D^-beta + E and its scatter.

    Args:
      runs: each counts once, whatever figures ask for it.
      rho: capacity of a representation; dense runs have 1 and are not asked about.
      law: of the dense losses.
      scatter: standard deviation of the loss by seed, in nats.
      seed: of the scatter.
      columns: further columns of a run, or other values of its own ones.
    """
    random = np.random.default_rng(seed)
    rows = []
    for run in dict.fromkeys(runs):
        capacity = 1.0 if run.representation == DENSE else rho(run.representation)
        expected = float(law.loss(run.non_embedding_parameters, run.trained_tokens, capacity))
        row = result_row(run, expected + random.normal(0.0, scatter), 0.01, BYTES_PER_SYMBOL)
        row |= _told(run) | {"run": run.run_id, "status": "ok"}
        rows.append(row | (columns(run) if columns else {}))
    return rows


def _told(run: Run) -> dict[str, float | None]:
    """Invented statistics of weights: the error that Gaussian ones have, and a gradient that passes everywhere.

    Share that passes of Gaussian weights is not computed: it takes a second for each format.
    """
    if not isinstance(run.representation, Representation):
        return dict.fromkeys(COLUMNS[1:])
    weights = run.representation.weights
    error = None if weights.is_dense else format_gmse(weights.format)
    passes = None if weights.is_dense else 1.0
    return {name: error if "error" in name else passes for name in COLUMNS[1:]}


def evidence(
    experiment: Any,
    rho: Callable[[Any], float],
    *,
    ladder: str = "nano",
    keep: Callable[[Run], bool] = lambda run: True,
    **options: Any,
) -> Evidence:
    """Rows of an experiment of which some runs are kept; `options` are those of `records`."""
    kept = [run for run in planned(experiment, ladder) if keep(run)]
    return Evidence(tuple(records(kept, rho, **options)), "invented", ladder)


def weights_gmse(representation: Representation) -> float:
    """Gaussian mean squared error of the weights, for capacities that follow it."""
    return format_gmse(representation.weights.format)


def judged(experiment: Any, seen: Evidence) -> dict[str, Judgement]:
    """Every claim of an experiment as its estimates have it; each has one, and no estimate is without its claim."""
    found = experiment.estimates(seen)
    assert set(found) == {claim.name for claim in experiment.CLAIMS}
    return {claim.name: judge(claim, found[claim.name]) for claim in experiment.CLAIMS}


def verdicts(experiment: Any, seen: Evidence) -> dict[str, Verdict]:
    """The verdict on every claim."""
    return {name: judgement.verdict for name, judgement in judged(experiment, seen).items()}


def draw(experiment: Any, seen: Evidence) -> bytes:
    """The figure as a PNG, kept in the folder that CAPSCALE_PICTURES names; warnings are errors in tests."""
    drawn = experiment.figure(seen)
    assert drawn.get_figwidth() == pytest.approx(6.4)
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=110)
    if folder := os.environ.get("CAPSCALE_PICTURES"):
        (Path(folder) / f"{experiment.__name__.rpartition('.')[2]}.png").write_bytes(buffer.getvalue())
    return buffer.getvalue()
