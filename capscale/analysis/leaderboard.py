"""The law bench: all laws on one table or several, and which of them predicts best what it was not fitted to."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from capscale.analysis.cut_offs import CutOffs
from capscale.analysis.ensemble import MOST_CUTS, Ensemble, combined
from capscale.analysis.extensions import Extensions, additive_law, extensions
from capscale.analysis.families import family
from capscale.analysis.fit import Constraints, Settings
from capscale.analysis.inspection import Inspection, inspect
from capscale.analysis.law import Law
from capscale.analysis.laws import LAWS
from capscale.analysis.operands import facts
from capscale.analysis.rollouts import Axis, Cut
from capscale.analysis.selection import rows_of
from capscale.analysis.table import Table
from capscale.analysis.validation import Validation, pooled, validate, validate_ensemble
from capscale.errors import UserError

THREADS = 2
"""Laws fitted at once: the compiler, which takes most of the time, lets another thread run."""
RANKED: tuple[Axis, ...] = ("N", "D")
"""Directions whose ranks make the mean one: every law has them."""
DENSE_ONLY = "it is about dense runs, and the table has formats; name it by --laws to see it on the dense runs alone"
NO_FORMATS = "every run is dense, where it is one of the dense laws under another name"


@dataclass(frozen=True)
class TableBench:
    """All laws on one table.

    Attributes:
      table: the rows that the laws are compared on.
      cuts: the rollouts, for laws of those rows.
      lines: a law each, the ensemble last.
      inspections: of the laws that were fitted.
      ensemble: None where none of its laws could be fitted.
      impossible: cut-offs asked for that leave this table nothing to fit or nothing to predict.
      left_out: laws that the table cannot carry, with the reason.
      further: the number that the additive law lacks, of all rows that it is about; None where no law of its kind is
        compared, or the table carries none.
    """

    table: Table
    cuts: tuple[Cut, ...]
    lines: tuple[Validation, ...]
    inspections: tuple[Inspection, ...]
    ensemble: Ensemble | None
    impossible: tuple[str, ...]
    left_out: dict[str, str]
    further: Extensions | None = None

    @property
    def fitted(self) -> tuple[Validation, ...]:
        """The lines of laws that the table carries."""
        return tuple(v for v in self.lines if not v.why)

    def cuts_along(self, axis: Axis) -> int:
        """How many cuts there are in one direction."""
        return sum(c.axis == axis for c in self.cuts)

    def ranks(self, names: Sequence[str], axis: Axis) -> dict[str, float]:
        """Rank of every named law by its error beyond the cuts in one direction; empty without such cuts.

        Errors that print alike share their places. A law that could be fitted below fewer of the cuts comes after
        those of more; one that could be below none, or is about other runs than most, comes last.
        """
        if not self.cuts_along(axis):
            return {}
        line = {v.name: v for v in self.fitted if v.runs == len(self.table)}
        keys = []
        for name in names:
            folds = line[name].along(axis) if name in line else ()
            keys.append((-len(folds), float(format(pooled(folds), ".3g")) if folds else np.inf))
        order = {key: i for i, key in enumerate(sorted(set(keys)))}
        found = rankdata([order[k] for k in keys], method="average")
        return {name: float(r) for name, r in zip(names, found, strict=True)}


class Standing(NamedTuple):
    """One law over all tables."""

    name: str
    mean_rank: float
    """Over tables and directions; NaN where no table allows a cut."""
    ranks: tuple[dict[Axis, float], ...]
    """By direction, for each table."""
    missing: tuple[bool, ...]
    """Tables on which it was not fitted to the rows that are compared."""


def standings(benches: Sequence[TableBench]) -> tuple[Standing, ...]:
    """All laws that some table carries, the one of the best mean rank first; by the error of the fit without ranks."""
    names = list(dict.fromkeys(v.name for b in benches for v in b.fitted))
    by_table: list[list[tuple[Axis, dict[str, float]]]] = [
        [(axis, b.ranks(names, axis)) for axis in RANKED] for b in benches
    ]
    rmse = {name: np.nanmean([v.rmse for b in benches for v in b.fitted if v.name == name]) for name in names}
    found = []
    for name in names:
        mine = tuple(_of(name, ranks) for ranks in by_table)
        every = [rank for ranks in mine for rank in ranks.values()]
        there = [any(v.name == name and v.runs == len(b.table) for v in b.fitted) for b in benches]
        mean = float(np.mean(every)) if every else float("nan")
        found.append(Standing(name, mean, mine, tuple(not t for t in there)))
    return tuple(sorted(found, key=lambda s: (np.nan_to_num(s.mean_rank, nan=np.inf), rmse[s.name])))


def _of(name: str, ranks: Sequence[tuple[Axis, dict[str, float]]]) -> dict[Axis, float]:
    return {axis: found[name] for axis, found in ranks if found}


def law_bench(
    table: Table,
    laws: Sequence[Law] = (),
    settings: Settings | None = None,
    constraints: Constraints | None = None,
    cut_offs: CutOffs | None = None,
) -> TableBench:
    """All laws on one table, whichever wins, on the rows that all of them are about.

    Args:
      table: the runs.
      laws: those to compare; by default all that ship, dense ones where every run is dense, the others elsewhere.
      settings, constraints: of every fit.
      cut_offs: by default at most `MOST_CUTS` in each direction, as ensembles have them.

    Where tensors are sparse and quantized, tanh comes twice: rho of the joint GMSE, and the product over the stages.
    """
    compared, left_out = _compared(table, laws)
    rows = _common_rows(table, compared)
    cut_offs = cut_offs or CutOffs(most=MOST_CUTS)
    cuts = cut_offs.of(rows)

    def one(law: Law) -> tuple[Validation, Inspection | None]:
        try:
            mine = rows if not law.dense else rows_of(table, law)
        except UserError as error:
            return Validation(law.name, law.equation, why=str(error).removeprefix(f"{table.source}: ")), None
        found = validate(mine, law, cuts if len(mine) == len(rows) else cut_offs.of(mine), settings, constraints)
        return found, None if found.fit is None else inspect(found.fit, profiled=False)

    done = _in_threads(one, compared)
    known = {v.name: v for v, _ in done}
    ensemble = _ensemble(rows, known, lambda law: validate(rows, law, cuts, settings, constraints))
    lines = [v for v, _ in done]
    if ensemble is not None:
        lines.append(validate_ensemble(ensemble))
    left_out |= {v.name: v.why for v in lines if v.why}
    inspections = tuple(i for _, i in done if i is not None)
    further = _further(table, compared, settings, () if constraints else inspections)
    return TableBench(rows, cuts, tuple(lines), inspections, ensemble, cut_offs.impossible(rows), left_out, further)


def _further(
    table: Table, laws: Sequence[Law], settings: Settings | None, inspections: Sequence[Inspection]
) -> Extensions | None:
    """The further number of the additive law: of free capacities where some law has them, else of a form."""
    about = [base for law in laws if (base := additive_law(law)) is not None]
    law = next((base for base in about if base.free), about[0] if about else None)
    if law is None:
        return None
    try:
        mine = rows_of(table, law)
        known = [i.outlying.without for i in inspections if i.fit.law == law and len(i.fit.table) == len(mine)]
        return extensions(mine, law, settings, known[0] if known else None)
    except UserError:
        return None  # the law itself is among those left out, with the reason


def _compared(table: Table, laws: Sequence[Law]) -> tuple[list[Law], dict[str, str]]:
    """The laws to fit, and those that ship and say nothing of such a table."""
    left_out: dict[str, str] = {}
    found = list(laws)
    twice = [name for name, count in Counter(law.name for law in laws).items() if count > 1]
    if twice:
        raise UserError(f"--laws has two laws called {twice[0]!r}; name them apart, or give one of them")
    if not laws:
        all_dense = all(r.is_dense for r in table.rows)
        # Without formats a law of capacity is its dense part, which of the coupled law has no other name.
        dense = [law for name, law in LAWS.items() if law.dense or name == "decoupled-coupled"]
        found = dense if all_dense else [law for law in LAWS.values() if not law.dense]
        left_out = {name: NO_FORMATS if all_dense else DENSE_ONLY for name, law in LAWS.items() if law not in found}
    if LAWS["tanh"] in found and any(len(facts(n).stages) > 1 for r in table.rows for n in (r.weights, r.activations)):
        found.append(replace(LAWS["tanh"], name="tanh-product", combination="product"))
    return found, left_out


def _common_rows(table: Table, laws: Sequence[Law]) -> Table:
    """The rows that all laws are about, dense ones aside, whose errors could not be compared otherwise."""
    of_formats = [law for law in laws if not law.dense]
    if not of_formats:
        return rows_of(table, laws[0])
    # A law that reads the cache is about the rows of the others, and more.
    of_error = sorted((law for law in of_formats if not law.per_format), key=lambda law: law.cache)
    plain = any(r.is_plain for r in table.rows)
    return rows_of(table, of_error[0] if of_error and plain else of_formats[0])


def _in_threads(
    one: Callable[[Law], tuple[Validation, Inspection | None]], laws: Sequence[Law]
) -> list[tuple[Validation, Inspection | None]]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, laws))


def _ensemble(table: Table, known: dict[str, Validation], fitted: Callable[[Law], Validation]) -> Ensemble | None:
    """The default ensemble, of capacities by their GMSE if it is known of all formats, else of free ones."""
    for stem in ("tanh", "decoupled"):
        laws = family(LAWS[stem])
        first = known.get(laws[0].name) or fitted(laws[0])
        if first.fit is None:
            continue
        lines = [first, *(known.get(law.name) or fitted(law) for law in laws[1:])]
        kept = [v for v in lines if v.fit is not None]
        fits = [v.fit for v in kept if v.fit is not None]
        tried = list(zip(*(v.tried for v in kept), strict=True))
        return combined(fits, tried, [(v.name, v.why) for v in lines if v.fit is None])
    return None
