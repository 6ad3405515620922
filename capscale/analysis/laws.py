"""The laws: one definition each, with equation and source, and how a table becomes the arrays of a fit.

Every law is E + (a n^-alpha + b d^-beta)^g with n = N rho / N0 and d = D / D0, where N0 and D0 are the
geometric means of the table, so that a and b are losses of the order of one: the fit's coordinates are well
scaled whatever the units. A = a N0^alpha and B = b D0^beta are reported. Laws differ in rho alone, and in g.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from capscale.analysis.operands import Part, parts_of
from capscale.analysis.table import Row, Table
from capscale.capacity import FORMS, Factor, Form, Parameter
from capscale.errors import UserError

Sharing = Literal["all", "operand", "kind", "family"]
"""Which rows share the numbers of a form: all; those of one operand (weights, activations); those of one kind
of format (int, sparse, ...); or of one family = operand and kind together."""
Combination = Literal["joint", "product"]
"""For a tensor that is sparse and quantized: rho of the joint GMSE, or the product of the parts' capacities."""

EXPONENT_BOUNDS = (1e-3, 3.0)
COORDINATE_BOUNDS = (-30.0, 10.0)
RHO_BOUNDS = (1e-4, 4.0)
"""Of a free capacity: far outside what any table can say, and above 1, for formats as good as dense within error."""


@dataclass(frozen=True)
class Law:
    """A scaling law.

    Attributes:
      form: of rho; None for one free rho per format (decoupled), or none at all when `dense` is set.
      dense: rho = 1 everywhere: Chinchilla's law, for dense rows.
      coupled: g is free.
      sharing, combination: see `Sharing` and `Combination`.
    """

    name: str
    form: Form | None
    dense: bool = False
    coupled: bool = False
    sharing: Sharing = "all"
    combination: Combination = "joint"

    @property
    def equation(self) -> str:
        """The whole equation, as text."""
        bracket = "A (N rho)^-alpha + B D^-beta"
        rho = "rho = 1" if self.dense else "one free rho per format" if self.form is None else self.form.equation
        return f"L = ({bracket})^g + E; {rho}" if self.coupled else f"L = {bracket} + E; {rho}"

    @property
    def source(self) -> str:
        """Where the equation is from."""
        if self.form is not None:
            return self.form.source
        return "Hoffmann et al. 2022, arXiv 2203.15556" if self.dense else "Frantar et al. 2025, arXiv 2502.16440"


LAWS: dict[str, Law] = {
    "dense": Law("dense", None, dense=True),
    "decoupled": Law("decoupled", None),
    **{name: Law(name, form) for name, form in FORMS.items()},
    "decoupled-coupled": Law("decoupled-coupled", None, coupled=True),
    "tanh-coupled": Law("tanh-coupled", FORMS["tanh"], coupled=True),
}
LAWS["kumar"] = Law("kumar", FORMS["kumar"], sharing="operand")  # gamma_w and gamma_a in the paper


class Arrays(NamedTuple):
    """What a law reads of R rows with at most K compressed factors each."""

    log_n: Any  # (R,) log N / N0
    log_d: Any  # (R,) log D / D0
    present: Any  # (R, K) bool: False is an uncompressed factor, rho = 1
    group: Any  # (R, K) int: which set of the form's numbers, or which free rho
    factor: Factor  # of (R, K)


@dataclass(frozen=True)
class Problem:
    """A law on a table: names, bounds and starting ranges of the coordinates, and the arrays. p coordinates.

    Coordinates are log a, log b, alpha, beta, E, log g (laws that have it), then per group the numbers of the
    form (their logarithm where the form says so), or the logarithms of free capacities.
    """

    law: Law
    groups: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    N0: float
    D0: float
    has_data_term: bool
    arrays: Arrays
    loss: np.ndarray
    weight: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates, as reported."""
        return tuple(p.name for p in self.parameters)

    @property
    def static(self) -> tuple[Law, int]:
        """What the compiled program depends on besides shapes."""
        return self.law, len(self.groups)

    def coordinate(self, name: str, value: float, alpha: float = 0.0, beta: float = 0.0) -> float:
        """Coordinate of a reported value. For A and B it depends on alpha and beta unless N0 = D0 = 1."""
        parameter = self.parameters[self.names.index(name)]
        shift = {"A": -alpha * np.log(self.N0), "B": -beta * np.log(self.D0)}.get(name, 0.0)
        return float(np.log(value) + shift) if parameter.log else float(value)

    def report(self, z: np.ndarray) -> np.ndarray:
        """Reported values of coordinates z (..., p): A, B, alpha, beta, E, then g and the numbers of rho."""
        z = np.asarray(z, np.float64)
        out = z.copy()
        out[..., 0] += z[..., 2] * np.log(self.N0)
        out[..., 1] += z[..., 3] * np.log(self.D0)
        logs = np.array([p.log for p in self.parameters])
        return np.where(logs, np.exp(np.where(logs, out, 0.0)), out)


def group_of(law: Law, part: Part, curve: str) -> str:
    """Which set of a law's numbers a factor reads; `curve` is the name of the whole format."""
    if law.form is None:
        return curve if law.sharing == "all" else f"{part.operand} {part.name}"
    return {"all": "", "operand": part.operand, "kind": part.kind, "family": f"{part.operand} {part.kind}"}[law.sharing]


def row_parts(rows: Sequence[Row], law: Law) -> list[tuple[Part, ...]]:
    """Compressed factors of every row; the decoupled law sees a format as a whole, unless it is shared by operand."""
    if law.dense:
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


def gather(rows: Sequence[Row], law: Law, groups: tuple[str, ...], N0: float, D0: float) -> Arrays:
    """What the law reads of any rows, fitted or to be predicted; UserError for a format it has no numbers for."""
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
                raise UserError(
                    f"{part.name}: this {law.name} fit has numbers for {', '.join(filter(None, groups)) or 'dense'} "
                    f"only, not for {label!r}; choose a form of GMSE and --share all to carry one over"
                )
            present[i, k], group[i, k] = True, groups.index(label)
            bits[i, k] = part.effective_bits if np.isfinite(part.gmse) else 1.0
            storage[i, k] = part.storage_bits if np.isfinite(part.storage_bits) else 1.0
            sparsity[i, k] = part.sparsity if np.isfinite(part.sparsity) else 0.0
    log_n = np.log(np.array([r.N for r in rows]) / N0)
    log_d = np.log(np.array([r.D for r in rows]) / D0)
    return Arrays(log_n, log_d, present, group, Factor(bits, storage, sparsity))


def pose(table: Table, law: Law, *, centred: tuple[bool, bool] = (True, True)) -> Problem:
    """The arrays and coordinates of `law` on `table`. `centred` is False for N (D) where A (B) is fixed."""
    if law.dense:
        compressed = sum(not r.is_dense for r in table.rows)
        if compressed:
            raise UserError(f"the dense law takes dense rows only; {compressed} of {len(table)} are not")
    parts = row_parts(table.rows, law)
    used = {group_of(law, p, r.curve) for mine, r in zip(parts, table.rows, strict=True) for p in mine}
    groups = tuple(c for c in table.curves if c in used)
    groups += tuple(sorted(used - set(groups)))
    log_n, log_d, loss = np.log(table.column("N")), np.log(table.column("D")), table.column("loss")
    N0 = float(np.exp(np.mean(log_n))) if centred[0] else 1.0
    D0 = float(np.exp(np.mean(log_d))) if centred[1] else 1.0
    return Problem(
        law=law,
        groups=groups,
        parameters=_parameters(law, groups, float(loss.min())),
        N0=N0,
        D0=D0,
        has_data_term=bool(np.ptp(log_d) > 1e-9),
        arrays=gather(table.rows, law, groups, N0, D0),
        loss=loss,
        weight=table.column("weight"),
    )


def _parameters(law: Law, groups: tuple[str, ...], smallest: float) -> tuple[Parameter, ...]:
    head = [
        Parameter("A", *COORDINATE_BOUNDS, (-2.0, 1.0), log=True),
        Parameter("B", *COORDINATE_BOUNDS, (-4.0, 0.5), log=True),
        Parameter("alpha", *EXPONENT_BOUNDS, (0.04, 0.6)),
        Parameter("beta", *EXPONENT_BOUNDS, (0.05, 0.7)),
        Parameter("E", 0.0, smallest, (0.0, 0.95 * smallest)),
    ]
    if law.coupled:
        head.append(Parameter("g", np.log(0.02), np.log(5.0), (np.log(0.4), np.log(1.5)), log=True))
    if law.form is None:
        low, high = np.log(RHO_BOUNDS)
        return (*head, *(Parameter(f"rho[{g}]", low, high, (np.log(0.1), 0.0), log=True) for g in groups))
    for g in groups:
        for p in law.form.parameters:
            name = f"{p.name}[{g}]" if g else p.name
            lower, upper, start = (np.log(p.lower), np.log(p.upper), tuple(np.log(p.start))) if p.log else p[1:4]
            head.append(Parameter(name, float(lower), float(upper), (float(start[0]), float(start[1])), p.log))
    return tuple(head)


def log_capacity(law: Law, groups: int, z: Any, arrays: Arrays) -> Any:
    """log rho of every row (R,), from coordinates z (p,)."""
    xp = z.__array_namespace__()
    if law.dense or groups == 0:
        return xp.zeros_like(arrays.log_n)
    first = 6 if law.coupled else 5
    table = z[first:].reshape(groups, -1)
    chosen = table[arrays.group]  # (R, K, numbers of one group)
    if law.form is None:
        each = chosen[..., 0]
    else:
        numbers: Mapping[str, Any] = {
            p.name: xp.exp(chosen[..., i]) if p.log else chosen[..., i] for i, p in enumerate(law.form.parameters)
        }
        each = law.form.log_rho(numbers, arrays.factor, z[2])
    return xp.sum(xp.where(arrays.present, each, xp.zeros_like(each)), axis=1)


def evaluate(law: Law, groups: int, data_term: bool, z: Any, arrays: Arrays) -> Any:
    """Predicted loss of every row (R,), from coordinates z (p,)."""
    xp = z.__array_namespace__()
    total = xp.exp(z[0] - z[2] * (arrays.log_n + log_capacity(law, groups, z, arrays)))
    if data_term:
        total = total + xp.exp(z[1] - z[3] * arrays.log_d)
    if law.coupled:
        total = total ** xp.exp(z[5])
    return total + z[4]
