"""Rows as the arrays that a law reads, and refusals of rows that it cannot read."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from capscale.analysis.law import Column, Law, Operand
from capscale.analysis.operands import Part, cache_bits, facts, parts_of
from capscale.analysis.table import Row, Table
from capscale.capacity import LOG4, Factor
from capscale.errors import UserError


class Arrays(NamedTuple):
    """Arrays of R rows with at most K compressed factors each, as a law reads them."""

    log_n: Any  # (R,) log N / N0
    log_d: Any  # (R,) log D / D0
    ratio: Any  # (R,) D / N
    present: Any  # (R, K) bool: False is an uncompressed factor, rho = 1
    group: Any  # (R, K) int: which set of the form's numbers, or which free rho
    factor: Factor  # of (R, K)
    curve: Any  # (R,) int: which format's own numbers; -1 for dense runs
    gradients: Any  # (R,) int: which gradients' own numbers; -1 for dense ones
    weights: Operand  # of (R,)
    activations: Operand
    columns: dict[str, Any]  # of (R,)
    cache: Operand
    shift: Any = 0.0  # added to log rho of the rows (R,)
    stretch: Any = 1.0  # log rho of each factor is multiplied by this (R, K)


def group_of(law: Law, part: Part, row: Row) -> str:
    """Which set of a law's numbers a factor of a row reads."""
    if law.form is None:
        return curve_of(law, row) if law.sharing == "all" else f"{part.operand} {part.name}"
    return {"all": "", "operand": part.operand, "kind": part.kind, "family": f"{part.operand} {part.kind}"}[law.sharing]


def curve_of(law: Law, row: Row) -> str:
    """Name of the format that a law has numbers of: of a law of gradients that of the forward product alone, unless it
    is of pairs."""
    return row.forward if law.own_of_gradients and not law.pairs else row.curve


def _of_training(law: Law, row: Row) -> tuple[Part, ...]:
    """The one factor of a row whose products are dense forward, and which has a format all the same: by what it says of
    its gradients or its cache."""
    curve, nan = curve_of(law, row), float("nan")
    return () if curve == "dense" else (Part("training", curve, "training", nan, nan, nan),)


def row_parts(rows: Sequence[Row], law: Law) -> list[tuple[Part, ...]]:
    """Compressed factors of every row; a law of free rho sees a format as a whole, unless it is shared by operand."""
    if not law.has_rho:
        return [()] * len(rows)
    found = []
    for r in rows:
        parts = parts_of(r, product=law.combination == "product")
        if law.form is None:
            if law.sharing == "all":
                parts = parts[:1] or _of_training(law, r)
        else:
            for part in parts:
                if not np.isfinite(getattr(part, law.form.needs.replace("effective_bits", "gmse"))):
                    remedy = {
                        "effective_bits": f"give {part.operand}_gmse or the name of a catalog format",
                        "storage_bits": "it is about quantized formats; leave others out",
                        "sparsity": "it is about sparse formats; leave others out",
                    }[law.form.needs]
                    raise UserError(
                        f"{r.run}: {law.name} reads {law.form.needs} and {part.name!r} has none: {remedy}, or choose "
                        "--form decoupled"
                    )
        found.append(parts)
    return found


def gather(
    rows: Sequence[Row],
    law: Law,
    known: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]],
    centre: tuple[float, float],
) -> Arrays:
    """Arrays that the law reads of any rows, fitted or to be predicted; UserError for a format it has no numbers for.

    `known`: groups, then formats and gradients with numbers of their own; `centre`: N0 and D0.
    """
    (groups, curves, gradients), (N0, D0) = known, centre
    parts = row_parts(rows, law)
    K = max([1, *map(len, parts)])
    shape = (len(rows), K)
    present, group = np.zeros(shape, bool), np.zeros(shape, np.int64)
    # An absent factor reads harmless numbers: where() discards its rho, and its gradient must stay finite.
    bits, storage, sparsity = np.ones(shape), np.ones(shape), np.zeros(shape)
    for i, (row, mine) in enumerate(zip(rows, parts, strict=True)):
        for k, part in enumerate(mine):
            label = group_of(law, part, row)
            if label not in groups:
                raise _no_numbers(law, part.name, label, groups)
            present[i, k], group[i, k] = True, groups.index(label)
            bits[i, k] = part.effective_bits if np.isfinite(part.gmse) else 1.0
            storage[i, k] = part.storage_bits if np.isfinite(part.storage_bits) else 1.0
            sparsity[i, k] = part.sparsity if np.isfinite(part.sparsity) else 0.0
    return Arrays(
        np.log(np.array([r.N for r in rows]) / N0),
        np.log(np.array([r.D for r in rows]) / D0),
        np.array([r.D / r.N for r in rows]),
        present,
        group,
        Factor(bits, storage, sparsity),
        np.array([_own(law, r, curves) for r in rows], np.int64),
        np.array([_of_gradients(law, r, gradients) for r in rows], np.int64),
        _operand(rows, law, "weights"),
        _operand(rows, law, "activations"),
        {
            c.name: np.array([_column(law, c, r) for r in rows]) / {"N": N0, "D": D0, "": 1.0}[c.unit]
            for c in law.columns
        },
        _cache(rows, law),
    )


def _no_numbers(law: Law, name: str, label: str, known: tuple[str, ...]) -> UserError:
    return UserError(
        f"{name}: this {law.name} fit has numbers for {', '.join(filter(None, known)) or 'dense'} only, not for "
        f"{label!r}; choose a form of GMSE and --share all to carry one over"
    )


def _own(law: Law, row: Row, curves: tuple[str, ...]) -> int:
    curve = curve_of(law, row)
    if curve == "dense" or not law.own_of_format:
        return -1
    if curve not in curves:
        raise _no_numbers(law, curve, curve, curves)
    return curves.index(curve)


def _of_gradients(law: Law, row: Row, gradients: tuple[str, ...]) -> int:
    if row.gradients == "dense" or not law.own_of_gradients:
        return -1
    if row.gradients not in gradients:
        known = ", ".join(gradients) or "dense ones"
        raise UserError(f"{row.curve}: this {law.name} fit has numbers of gradients for {known} only")
    return gradients.index(row.gradients)


def _column(law: Law, column: Column, row: Row) -> float:
    value = row.extra.get(column.name, np.nan)
    asked = f"{row.run}: the {law.name} law reads column {column.name} ({column.meaning})"
    if np.isfinite(value):
        if column.positive and not value > 0:
            raise UserError(f"{asked}, which must be above 0, and this row has {value:g}; mend it or leave the row out")
        return float(value)
    if column.compressed and row.is_dense:
        return 1.0  # harmless: the law masks it
    if column.missing is None:
        raise UserError(
            f"{asked}, and this row has none; add it to the table, or give it to a prediction: --column "
            f"{column.name}=VALUE"
        )
    return column.missing


def check_columns(table: Table, law: Law) -> None:
    """Raises UserError for a table that has none of the columns that make the law what it is, or no such gradients."""
    if law.own_of_gradients and all(r.gradients == "dense" for r in table.rows):
        raise UserError(
            f"{table.source}: the {law.name} law is about compressed gradients, and no row has any (column gradients); "
            "choose a law of the forward formats, such as decoupled"
        )
    if law.cache and all(r.cache == "dense" for r in table.rows):
        raise UserError(
            f"{table.source}: the {law.name} law is about compressed keys and values, and no row has any (column "
            f"cache); choose {law.name.removesuffix('-kv')}"
        )
    names = [c.name for c in law.columns]
    if names and not any(np.isfinite(r.extra.get(n, np.nan)) for r in table.rows for n in names):
        about = " or ".join(f"{c.name} ({c.meaning})" for c in law.columns)
        raise UserError(
            f"{table.source}: the {law.name} law reads column {about}, and no row has one; add it to the table"
        )


def _cache(rows: Sequence[Row], law: Law) -> Operand:
    """Keys and values of the rows of a law that reads them; of others harmless numbers."""
    present = np.array([r.cache != "dense" and law.cache for r in rows])
    bits = np.array([cache_bits(r.cache) if there else 16.0 for r, there in zip(rows, present, strict=True)])
    for row, number in zip(rows, bits, strict=True):
        if not np.isfinite(number):
            raise UserError(
                f"{row.run}: the {law.name} law reads the bits of keys and values, and {row.cache!r} is no format of "
                "the catalog; name one, or leave its rows out by --where"
            )
    nothing = np.ones(len(rows))
    return Operand(present, nothing * 0.25, nothing, bits, nothing * 0, nothing * 2, nothing * 8, nothing * 7)


def _operand(rows: Sequence[Row], law: Law, side: str) -> Operand:
    names = [getattr(r, side) for r in rows]
    about = [facts(n) for n in names]
    for row, name, fact in zip(rows, names, about, strict=True):
        for field in law.needs if name != "dense" else ():
            if not np.isfinite(fact.stored if field == "bits" else getattr(fact, field)):
                raise UserError(
                    f"{row.run}: the {law.name} law reads the {field} of a format, and {name!r} has none; leave its "
                    "rows out by --where, or choose another law"
                )
    present = np.array([n != "dense" for n in names])

    def of(values: Sequence[float], absent: float) -> np.ndarray:
        return np.where(present, np.array(values, np.float64), absent)

    gmse = of([getattr(r, f"{side}_gmse") for r in rows], 0.25)
    return Operand(
        present,
        gmse,
        -np.log(np.where(gmse > 0, gmse, 1e-300)) / LOG4,
        of([f.stored for f in about], 16.0),
        np.nan_to_num(of([f.sparsity for f in about], 0.0)),
        of([f.group for f in about], 2.0),
        of([f.exponent for f in about], 8.0),
        of([f.mantissa for f in about], 7.0),
    )
