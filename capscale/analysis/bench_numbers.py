"""Every number of the law bench, for JSON, CSV, the page and the terminal alike."""

from collections.abc import Mapping, Sequence
from typing import Any

from capscale.analysis.leaderboard import RANKED, Standing, TableBench, standings
from capscale.analysis.numbers import comparison_numbers, further_numbers, outlying_numbers
from capscale.analysis.sentences import given, outlying
from capscale.analysis.sentences.bench import ALL_TABLES, BENCH
from capscale.analysis.sentences.rule import listing, texts
from capscale.analysis.validation import Validation, pooled


def bench_numbers(benches: Sequence[TableBench]) -> dict[str, Any]:
    """The leaderboard, and every table's numbers."""
    order = standings(benches)
    return {
        "leaderboard": [standing_numbers(s, benches) for s in order],
        "notes": texts(ALL_TABLES, benches),
        "tables": [table_numbers(b) for b in benches],
    }


def standing_numbers(s: Standing, benches: Sequence[TableBench]) -> dict[str, Any]:
    """A law over all tables; `ranks` by the table's source and the direction."""
    sources = [b.table.source for b in benches]
    return {
        "law": s.name,
        "mean_rank": s.mean_rank,
        "ranks": {source: dict(ranks) for source, ranks in zip(sources, s.ranks, strict=True)},
        "not_fitted_on": [source for source, missing in zip(sources, s.missing, strict=True) if missing],
    }


def table_numbers(bench: TableBench) -> dict[str, Any]:
    """All laws on one table, in the order of its ranks, with rows that pull and what there is to be known."""
    names = {of.fit.law.name: of for of in bench.inspections}
    ensemble = bench.ensemble
    return {
        "table": bench.table.source,
        "sha256": bench.table.sha256,
        "runs": len(bench.table),
        "cuts": [
            {"axis": c.axis, "cut": c.words, "fitted": int(c.train.sum()), "held_out": int(c.test.sum())}
            for c in bench.cuts
        ],
        "laws": [line_numbers(v, bench) for v in in_order(bench)],
        "folds": {v.name: fold_numbers(v) for v in bench.fitted},
        "ensemble": {f.law.name: float(w) for f, w in zip(ensemble.fits, ensemble.weights, strict=True)}
        if ensemble
        else {},
        "left_out": bench.left_out,
        "left_out_by_reason": by_reason(bench.left_out),
        "against_free_fit": {name: comparison_numbers(i.comparison) for name, i in names.items()},
        "outlying": {name: outlying_numbers(i.outlying) for name, i in names.items()},
        "notes": texts(BENCH, bench),
        "outlying_runs": texts(outlying.BENCH, bench.inspections),
        "further": further_numbers(bench.further),
        "given": [f"{name}: {text}" for name, i in names.items() for text in texts(given.RULES, i)],
        "remarks": [r._asdict() for r in bench.table.remarks],
    }


def by_reason(left_out: Mapping[str, str]) -> list[str]:
    """Laws left out in words, those of one reason together."""
    laws: dict[str, list[str]] = {}
    for law, why in left_out.items():
        laws.setdefault(why, []).append(law)
    return [f"{listing(names, 99)}: {why}" for why, names in laws.items()]


def in_order(bench: TableBench) -> list[Validation]:
    """The laws that a table carries, by their mean rank on it."""
    line = {v.name: v for v in bench.fitted}
    return [line[s.name] for s in standings((bench,))]


def line_numbers(v: Validation, bench: TableBench) -> dict[str, Any]:
    """One law on one table: errors and widths in nats, NaN where there is none."""
    names = [w.name for w in bench.fitted]
    ranks = {axis: bench.ranks(names, axis) for axis in RANKED}
    return {
        "law": v.name,
        "equation": v.equation,
        "runs": v.runs,
        "numbers": v.numbers,
        "rmse": v.rmse,
        **{f"rmse_{axis}": pooled(v.along(axis)) for axis in RANKED},
        "rmse_format": pooled(v.formats),
        "inside": v.inside,
        "width": v.width,
        **{f"cuts_{axis}": len(v.along(axis)) for axis in RANKED},
        **{f"rank_{axis}": ranks[axis].get(v.name, float("nan")) for axis in RANKED},
    }


def fold_numbers(v: Validation) -> list[dict[str, Any]]:
    """Every fold of a law: its error, and how many of its intervals held the loss."""
    beyond = [
        {"kind": f.axis, "held_out": f.name, "rows": len(f.errors), "rmse": f.rmse, "inside": float(f.inside.mean())}
        for f in v.beyond
    ]
    return beyond + [
        {"kind": "format", "held_out": f.name, "rows": len(f.errors), "rmse": f.rmse, "inside": None} for f in v.formats
    ]
