"""A law on a table: the coordinates of the fit, the arrays that it reads, and the loss and rho at any coordinates.

Coordinates are the law's numbers, their logarithms where a number says so; then those of its form for each group of
formats that share them, or the logarithm of each format's free rho; then each format's own numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from capscale.analysis.law import RHO_BOUNDS, Column, Law, Numbers, Operand, Runs
from capscale.analysis.operands import Part, facts, parts_of
from capscale.analysis.table import Row, Table
from capscale.capacity import LOG4, Factor, Parameter
from capscale.errors import UserError

STEP = 1e-6
"""Of central differences, in coordinates."""
FREE_RHO = Parameter("rho", *RHO_BOUNDS, (0.1, 1.0), log=True)


class Arrays(NamedTuple):
    """What a law reads of R rows with at most K compressed factors each."""

    log_n: Any  # (R,) log N / N0
    log_d: Any  # (R,) log D / D0
    ratio: Any  # (R,) D / N
    present: Any  # (R, K) bool: False is an uncompressed factor, rho = 1
    group: Any  # (R, K) int: which set of the form's numbers, or which free rho
    factor: Factor  # of (R, K)
    curve: Any  # (R,) int: which format's own numbers; -1 for dense runs
    weights: Operand  # of (R,)
    activations: Operand
    columns: dict[str, Any]  # of (R,)
    shift: Any = 0.0  # added to log rho of the rows (R,)
    stretch: Any = 1.0  # log rho of each factor is multiplied by this (R, K)


class Layout(NamedTuple):
    """How coordinates make numbers: with shapes, all that the compiled program depends on. Hashable."""

    law: Law
    groups: int
    curves: int
    data_term: bool

    @property
    def per_group(self) -> tuple[Parameter, ...]:
        """The numbers of one group."""
        return (FREE_RHO,) if self.law.free else self.law.form.parameters if self.law.form else ()

    def numbers(self, z: Any) -> Numbers:
        """The law's shared numbers, from coordinates z (..., p)."""
        xp = z.__array_namespace__()
        found = Numbers((p.name, xp.exp(z[..., i]) if p.log else z[..., i]) for i, p in enumerate(self.law.parameters))
        if not self.data_term and self.law.data_term:
            found[self.law.data_term[0]] = found[self.law.data_term[0]] * 0.0
        return found

    def log_rho(self, z: Any, arrays: Arrays) -> Any:
        """log rho of every row (R,), from coordinates z (p,)."""
        xp = z.__array_namespace__()
        return xp.sum(self.log_rho_of_factors(z, arrays) * arrays.stretch, axis=1) + arrays.shift

    def log_rho_of_factors(self, z: Any, arrays: Arrays) -> Any:
        """log rho of every compressed factor by the law (R, K), 0 of those that are absent."""
        xp = z.__array_namespace__()
        first, each = len(self.law.parameters), self.per_group
        if not each or self.groups == 0:
            return xp.zeros(arrays.present.shape)
        table = z[first : first + self.groups * len(each)].reshape(self.groups, -1)
        chosen = table[arrays.group]  # (R, K, numbers of one group)
        if self.law.form is None:
            found = chosen[..., 0]
        else:
            of_form: Mapping[str, Any] = {
                p.name: xp.exp(chosen[..., i]) if p.log else chosen[..., i] for i, p in enumerate(each)
            }
            # Frantar's form is about A (N rho)^-alpha as a whole, and so reads alpha.
            found = self.law.form.log_rho(of_form, arrays.factor, self.numbers(z).get("alpha"))
        return xp.where(arrays.present, found, xp.zeros_like(found))

    def with_own(self, numbers: Numbers, z: Any, arrays: Arrays) -> Numbers:
        """`numbers` and each format's own ones, gathered over rows (R,)."""
        if self.curves == 0:
            return Numbers(numbers | {own.parameter.name: own.dense for own in self.law.own})
        xp = z.__array_namespace__()
        first = len(self.law.parameters) + self.groups * len(self.per_group)
        table = z[first:].reshape(self.curves, len(self.law.own))[arrays.curve]
        found = Numbers(numbers)
        for i, own in enumerate(self.law.own):
            value = xp.exp(table[:, i]) if own.parameter.log else table[:, i]
            found[own.parameter.name] = xp.where(arrays.curve >= 0, value, own.dense)
        return found

    def loss(self, numbers: Numbers, z: Any, arrays: Arrays) -> Any:
        """Loss of every row (R,) with these shared numbers, and rho and own numbers from coordinates z (p,)."""
        xp = z.__array_namespace__()
        runs = Runs(
            xp,
            xp.exp(xp.asarray(arrays.log_n)),
            xp.exp(xp.asarray(arrays.log_d)),
            arrays.ratio,
            xp.exp(self.log_rho(z, arrays)),
            arrays.weights,
            arrays.activations,
            arrays.columns,
        )
        return self.law.loss(runs, self.with_own(numbers, z, arrays))

    def evaluate(self, z: Any, arrays: Arrays) -> Any:
        """Loss of every row (R,), from coordinates z (p,)."""
        return self.loss(self.numbers(z), z, arrays)


@dataclass(frozen=True)
class Problem:
    """A law on a table: names, bounds and starting ranges of the p coordinates, and the arrays."""

    layout: Layout
    groups: tuple[str, ...]
    curves: tuple[str, ...]
    """Formats with numbers of their own, in the order of their coordinates."""
    parameters: tuple[Parameter, ...]
    """In coordinates: bounds and ranges of logarithms where `log` is set."""
    N0: float
    D0: float
    arrays: Arrays
    loss: np.ndarray
    weight: np.ndarray

    @property
    def law(self) -> Law:
        """The law."""
        return self.layout.law

    @property
    def has_data_term(self) -> bool:
        """False in a table of one D, where the law's data term is part of its constant."""
        return self.layout.data_term

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates, as reported."""
        return tuple(p.name for p in self.parameters)

    @property
    def with_units(self) -> tuple[str, ...]:
        """Numbers that have units of N or D: their values, intervals and priors hang on those."""
        return tuple(self.law.exponents)

    def predict(self, z: np.ndarray, arrays: Arrays | None = None) -> np.ndarray:
        """Loss at coordinates z (p,) or (S, p), of the table's rows or of others: (R,) or (S, R)."""
        arrays = self.arrays if arrays is None else arrays
        if z.ndim == 1:
            return self.layout.evaluate(z, arrays)
        return np.stack([self.layout.evaluate(one, arrays) for one in z])

    def log_rho(self, z: np.ndarray, arrays: Arrays | None = None) -> np.ndarray:
        """log rho at coordinates z (p,) or (S, p): (R,) or (S, R)."""
        arrays = self.arrays if arrays is None else arrays
        return self.layout.log_rho(z, arrays) if z.ndim == 1 else np.stack([self.layout.log_rho(o, arrays) for o in z])

    def jacobian(self, z: np.ndarray, arrays: Arrays | None = None) -> np.ndarray:
        """Derivative of the loss by the coordinates (R, p), by central differences."""
        steps = STEP * np.eye(len(z))
        up, down = self.predict(z + steps, arrays), self.predict(z - steps, arrays)
        return ((up - down) / (2 * STEP)).T

    def gather(self, rows: Sequence[Row]) -> Arrays:
        """What the law reads of any rows, fitted or to be predicted."""
        return gather(rows, self.law, (self.groups, self.curves), (self.N0, self.D0))

    def coordinate(self, name: str, value: float) -> float:
        """Coordinate of a reported value, of a number without units or where N0 = D0 = 1."""
        return float(np.log(value)) if self.parameters[self.names.index(name)].log else float(value)

    def report(self, z: np.ndarray) -> np.ndarray:
        """Reported values of coordinates z (..., p), in the units of N and D."""
        z = np.asarray(z, np.float64)
        logs = np.array([p.log for p in self.parameters])
        out = np.where(logs, np.exp(np.where(logs, z, 0.0)), z)
        if self.law.units is not None:
            for name, (n, d) in self.law.units(self.layout.numbers(z)).items():
                i = self.names.index(name)
                scale = np.exp(n * np.log(self.N0) + d * np.log(self.D0))
                out[..., i] = out[..., i] * scale
        return out


def group_of(law: Law, part: Part, curve: str) -> str:
    """Which set of a law's numbers a factor reads; `curve` is the name of the whole format."""
    if law.form is None:
        return curve if law.sharing == "all" else f"{part.operand} {part.name}"
    return {"all": "", "operand": part.operand, "kind": part.kind, "family": f"{part.operand} {part.kind}"}[law.sharing]


def row_parts(rows: Sequence[Row], law: Law) -> list[tuple[Part, ...]]:
    """Compressed factors of every row; a law of free rho sees a format as a whole, unless it is shared by operand."""
    if not law.has_rho:
        return [()] * len(rows)
    found = []
    for r in rows:
        parts = parts_of(r, product=law.combination == "product")
        if law.form is None:
            parts = parts[:1] if law.sharing == "all" else parts
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
    rows: Sequence[Row], law: Law, known: tuple[tuple[str, ...], tuple[str, ...]], centre: tuple[float, float]
) -> Arrays:
    """What the law reads of any rows, fitted or to be predicted; UserError for a format it has no numbers for.

    `known`: groups, and formats with numbers of their own; `centre`: N0 and D0.
    """
    (groups, curves), (N0, D0) = known, centre
    parts = row_parts(rows, law)
    K = max([1, *map(len, parts)])
    shape = (len(rows), K)
    present, group = np.zeros(shape, bool), np.zeros(shape, np.int64)
    # An absent factor reads harmless numbers: where() discards its rho, and its gradient must stay finite.
    bits, storage, sparsity = np.ones(shape), np.ones(shape), np.zeros(shape)
    for i, (row, mine) in enumerate(zip(rows, parts, strict=True)):
        for k, part in enumerate(mine):
            label = group_of(law, part, row.curve)
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
        _operand(rows, law, "weights"),
        _operand(rows, law, "activations"),
        {
            c.name: np.array([_column(law, c, r) for r in rows]) / {"N": N0, "D": D0, "": 1.0}[c.unit]
            for c in law.columns
        },
    )


def _no_numbers(law: Law, name: str, label: str, known: tuple[str, ...]) -> UserError:
    return UserError(
        f"{name}: this {law.name} fit has numbers for {', '.join(filter(None, known)) or 'dense'} only, not for "
        f"{label!r}; choose a form of GMSE and --share all to carry one over"
    )


def _own(law: Law, row: Row, curves: tuple[str, ...]) -> int:
    if row.is_dense or not law.own:
        return -1
    if row.curve not in curves:
        raise _no_numbers(law, row.curve, row.curve, curves)
    return curves.index(row.curve)


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
        raise UserError(f"{asked}, and this row has none; add it to the table, or name its column by --map")
    return column.missing


def _check_columns(table: Table, law: Law) -> None:
    """Raises UserError for a table that has none of the columns that make the law what it is."""
    names = [c.name for c in law.columns]
    if names and not any(np.isfinite(r.extra.get(n, np.nan)) for r in table.rows for n in names):
        about = " or ".join(f"{c.name} ({c.meaning})" for c in law.columns)
        raise UserError(
            f"{table.source}: the {law.name} law reads column {about}, and no row has one; add it to the table, or "
            "name its column by --map"
        )


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


def pose(table: Table, law: Law, fixed: Sequence[str] = ()) -> Problem:
    """The arrays and coordinates of `law` on `table`.

    Where a number with a unit of N (D) is `fixed`, N0 (D0) is 1: its coordinate is then the given value itself.
    """
    if law.dense:
        compressed = sum(not r.is_dense for r in table.rows)
        if compressed:
            raise UserError(f"the {law.name} law takes dense rows only; {compressed} of {len(table)} are not")
    _check_columns(table, law)
    parts = row_parts(table.rows, law)
    used = {group_of(law, p, r.curve) for mine, r in zip(parts, table.rows, strict=True) for p in mine}
    groups = tuple(c for c in table.curves if c in used)
    groups += tuple(sorted(used - set(groups)))
    curves = tuple(c for c in table.curves if c != "dense") if law.own else ()
    log_n, log_d, loss = np.log(table.column("N")), np.log(table.column("D")), table.column("loss")
    held = [law.exponents[name] for name in fixed if name in law.exponents]
    in_N, in_D = law.has_units
    N0 = float(np.exp(np.mean(log_n))) if in_N and not any(n for n, _ in held) else 1.0
    D0 = float(np.exp(np.mean(log_d))) if in_D and not any(d for _, d in held) else 1.0
    return Problem(
        layout=Layout(law, len(groups), len(curves), bool(np.ptp(log_d) > 1e-9)),
        groups=groups,
        curves=curves,
        parameters=_parameters(law, groups, curves, float(loss.min())),
        N0=N0,
        D0=D0,
        arrays=gather(table.rows, law, (groups, curves), (N0, D0)),
        loss=loss,
        weight=table.column("weight"),
    )


def _parameters(law: Law, groups: tuple[str, ...], curves: tuple[str, ...], smallest: float) -> tuple[Parameter, ...]:
    found = [_in_coordinates(p, p.name, smallest) for p in law.parameters]
    each = Layout(law, 0, 0, True).per_group
    found += [_in_coordinates(p, f"{p.name}[{g}]" if g else p.name, smallest) for g in groups for p in each]
    found += [_in_coordinates(o.parameter, f"{o.parameter.name}[{c}]", smallest) for c in curves for o in law.own]
    return tuple(found)


def _in_coordinates(p: Parameter, name: str, smallest: float) -> Parameter:
    """A number with its bounds and range as the fit's coordinate has them."""
    scale = smallest if p.of_loss else 1.0
    ends = np.array([p.lower, p.upper, *p.start]) * scale
    lower, upper, first, last = map(float, np.log(ends) if p.log else ends)
    return Parameter(name, lower, upper, (first, last), p.log)
