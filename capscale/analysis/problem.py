"""A law on a table: the coordinates of the fit, and the loss and rho at any coordinates.

Coordinates are the law's numbers, their logarithms where a number says so; then those of its form for each group of
formats that share them, or the logarithm of each format's free rho; then each format's own numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from capscale.analysis.arrays import Arrays, check_columns, curve_of, gather, group_of, row_parts
from capscale.analysis.law import RHO_BOUNDS, Law, Numbers, Runs
from capscale.analysis.table import Row, Table
from capscale.capacity import Parameter
from capscale.errors import UserError

STEP = 1e-6
"""Of central differences, in coordinates."""
FREE_RHO = Parameter("rho", *RHO_BOUNDS, (0.1, 1.0), log=True)


class Layout(NamedTuple):
    """How coordinates make numbers: with shapes, all that the compiled program depends on. Hashable."""

    law: Law
    groups: int
    curves: int
    gradients: int
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
        xp, found = z.__array_namespace__(), Numbers(numbers)
        first = len(self.law.parameters) + self.groups * len(self.per_group)
        for count, names, chosen in (
            (self.curves, self.law.own_of_format, arrays.curve),
            (self.gradients, self.law.own_of_gradients, arrays.gradients),
        ):
            if count == 0:
                found |= {own.parameter.name: own.dense for own in names}
                continue
            last = first + count * len(names)
            table = z[first:last].reshape(count, len(names))[chosen]
            for i, own in enumerate(names):
                value = xp.exp(table[:, i]) if own.parameter.log else table[:, i]
                found[own.parameter.name] = xp.where(chosen >= 0, value, own.dense)
            first = last
        return Numbers(found)

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
            arrays.cache,
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
    gradients: tuple[str, ...]
    """Ways to hold the gradients that have numbers of their own, in the order of theirs."""
    parameters: tuple[Parameter, ...]
    """In coordinates: bounds and ranges of logarithms where `log` is set."""
    N0: float
    D0: float
    arrays: Arrays
    loss: np.ndarray
    weight: np.ndarray

    @property
    def law(self) -> Law:
        """Law that the numbers belong to."""
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
        """Derivative of the loss by the coordinates (R, p), by central differences; to one side at a bound.

        Beyond its bounds a law need not be finite.
        """
        lower, upper = (np.array([getattr(q, side) for q in self.parameters]) for side in ("lower", "upper"))
        above, below = np.minimum(z + STEP, np.maximum(upper, z)), np.maximum(z - STEP, np.minimum(lower, z))
        up, down = (self.predict(np.where(np.eye(len(z)) > 0, to, z), arrays) for to in (above, below))
        return ((up - down) / (above - below)[:, None]).T

    def gather(self, rows: Sequence[Row]) -> Arrays:
        """Arrays that the law reads of any rows, fitted or to be predicted."""
        return gather(rows, self.law, (self.groups, self.curves, self.gradients), (self.N0, self.D0))

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


def pose(table: Table, law: Law, fixed: Sequence[str] = ()) -> Problem:
    """The arrays and coordinates of `law` on `table`.

    Where a number with a unit of N (D) is `fixed`, N0 (D0) is 1: its coordinate is then the given value itself.
    """
    if law.dense:
        compressed = sum(not r.is_dense for r in table.rows)
        if compressed:
            raise UserError(f"the {law.name} law takes dense rows only; {compressed} of {len(table)} are not")
    check_columns(table, law)
    parts = row_parts(table.rows, law)
    used = {group_of(law, p, r) for mine, r in zip(parts, table.rows, strict=True) for p in mine}
    groups = tuple(c for c in table.curves if c in used)
    groups += tuple(sorted(used - set(groups)))
    names = dict.fromkeys(curve_of(law, table.first_of_curve[c]) for c in table.curves)
    curves = tuple(c for c in names if c != "dense") if law.own_of_format else ()
    ways = dict.fromkeys(table.first_of_curve[c].gradients for c in table.curves)
    gradients = tuple(g for g in ways if g != "dense") if law.own_of_gradients else ()
    log_n, log_d, loss = np.log(table.column("N")), np.log(table.column("D")), table.column("loss")
    held = [law.exponents[name] for name in fixed if name in law.exponents]
    in_N, in_D = law.has_units
    N0 = float(np.exp(np.mean(log_n))) if in_N and not any(n for n, _ in held) else 1.0
    D0 = float(np.exp(np.mean(log_d))) if in_D and not any(d for _, d in held) else 1.0
    return Problem(
        layout=Layout(law, len(groups), len(curves), len(gradients), bool(np.ptp(log_d) > 1e-9)),
        groups=groups,
        curves=curves,
        gradients=gradients,
        parameters=_parameters(law, (groups, curves, gradients), float(loss.min())),
        N0=N0,
        D0=D0,
        arrays=gather(table.rows, law, (groups, curves, gradients), (N0, D0)),
        loss=loss,
        weight=table.column("weight"),
    )


def _parameters(
    law: Law, owners: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], smallest: float
) -> tuple[Parameter, ...]:
    groups, curves, gradients = owners
    found = [_in_coordinates(p, p.name, smallest) for p in law.parameters]
    each = Layout(law, 0, 0, 0, True).per_group
    found += [_in_coordinates(p, f"{p.name}[{g}]" if g else p.name, smallest) for g in groups for p in each]
    for names, numbers in ((curves, law.own_of_format), (gradients, law.own_of_gradients)):
        found += [_in_coordinates(o.parameter, f"{o.parameter.name}[{c}]", smallest) for c in names for o in numbers]
    return tuple(found)


def _in_coordinates(p: Parameter, name: str, smallest: float) -> Parameter:
    """A number with its bounds and range as the fit's coordinate has them."""
    scale = smallest if p.of_loss else 1.0
    ends = np.array([p.lower, p.upper, *p.start]) * scale
    lower, upper, first, last = map(float, np.log(ends) if p.log else ends)
    return Parameter(name, lower, upper, (first, last), p.log)
