"""Notes on the law bench: its columns, and where laws do not compare."""

from collections.abc import Sequence

from capscale.analysis.leaderboard import RANKED, TableBench, standings
from capscale.analysis.rollouts import Axis
from capscale.analysis.sentences.rule import Rule, always, listing, plural
from capscale.analysis.validation import Validation

WHERE: dict[Axis, str] = {"N": "larger models", "D": "longer trainings"}


def _cuts(bench: TableBench, axis: Axis) -> str:
    return f"{WHERE[axis]} ({listing(c.words for c in bench.cuts if c.axis == axis)})"


def _without_cuts(bench: TableBench) -> list[Axis]:
    return [axis for axis in RANKED if not bench.cuts_along(axis)]


def _fewer(bench: TableBench) -> list[tuple[Validation, Axis]]:
    compared = [v for v in bench.fitted if v.runs == len(bench.table)]
    return [(v, axis) for axis in RANKED for v in compared if len(v.along(axis)) < bench.cuts_along(axis)]


def _elsewhere(bench: TableBench) -> list[Validation]:
    return [v for v in bench.fitted if v.runs != len(bench.table)]


def _ensemble_errors(bench: TableBench) -> str:
    folds = len(next(v for v in bench.lines if v.name.startswith("ensemble")).beyond)
    grow = (
        f"Its intervals beyond each of its {folds} cuts grow as its errors beyond the others say"
        if folds > 1
        else "It has no intervals that other cuts could calibrate, and states those of its theory alone"
    )
    return (
        "The ensemble predicts as `capscale predict` does: its errors, too, have the departures of formats. "
        f"{grow}. It is not fitted again without a format"
    )


BENCH = (
    Rule(
        "bench: held-out rows",
        lambda bench: len(bench.cuts) > 0,
        lambda bench: (
            "Errors beyond the runs are those of every law refitted below each cut: of "
            + " and of ".join(_cuts(bench, axis) for axis in RANKED if bench.cuts_along(axis))
            + ". They are the law's own; its intervals lie about what it says with the departures of formats that the "
            "runs below the cut show, as those of `capscale predict` do: inside is the share of held-out losses in "
            "their 95 % intervals, width the median of these"
        ),
    ),
    Rule(
        "bench: no cuts",
        always,
        lambda bench, axis: (
            f"no {WHERE[axis]} can be held out: there are too few "
            + ("sizes" if axis == "N" else "lengths of training of each size")
        ),
        each=_without_cuts,
    ),
    Rule(
        "bench: cut-offs without rows",
        lambda bench: len(bench.impossible) > 0,
        lambda bench: f"cut-offs that leave nothing to fit or nothing to predict: {listing(bench.impossible)}",
    ),
    Rule(
        "bench: fewer cuts",
        lambda bench: len(_fewer(bench)) > 0,
        lambda bench: (
            "The runs below some cuts say too little for, or do not keep finite, "
            + listing(
                f"{v.name} ({len(v.along(axis))} of {plural(bench.cuts_along(axis), 'cut')} in {axis})"
                for v, axis in _fewer(bench)
            )
            + ", which ranks after the laws of all cuts"
        ),
    ),
    Rule(
        "bench: other runs",
        lambda bench: len(_elsewhere(bench)) > 0,
        lambda bench: (
            f"{listing(f'{v.name} is about {v.runs}' for v in _elsewhere(bench))} of the {len(bench.table)} runs, "
            "and ranks last: its errors do not compare with the others'"
        ),
    ),
    Rule(
        "bench: gaps",
        lambda bench: any(not v.formats for v in bench.fitted if v.fit is not None),
        lambda bench: (
            "A dash under a new format: the law cannot predict one that it has not seen, or there are too few to tell"
        ),
    ),
    Rule("bench: ensemble", lambda bench: bench.ensemble is not None and len(bench.cuts) > 0, _ensemble_errors),
)
"""Of one `TableBench`."""


def _unranked(benches: Sequence[TableBench]) -> bool:
    return not any(b.cuts_along(axis) for b in benches for axis in RANKED)


ALL_TABLES = (
    Rule(
        "bench: ranks",
        lambda benches: not _unranked(benches),
        lambda benches: (
            "Ranks are by the error beyond the runs, 1 the best; errors that print alike to three digits share a rank. "
            "The mean is over tables and directions"
        ),
    ),
    Rule(
        "bench: no ranks",
        _unranked,
        lambda benches: "No table has sizes or lengths of training enough to hold some out: laws stand by their RMSE",
    ),
    Rule(
        "bench: not fitted",
        lambda benches: any(any(s.missing) for s in standings(benches)),
        lambda benches: "A law marked * could not be fitted to that table, or is about other runs there: it ranks last",
    ),
)
"""Of the benches of all tables."""
EVERY = (*BENCH, *ALL_TABLES)
