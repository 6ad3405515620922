"""Capacity and loss of a representation that may never have been trained, with an interval that admits the unknown.

Four sources of error are added: the fit's own (bootstrap), the law's misfit of whole formats, the scatter of runs
about the law, and, for a kind of format that the fit has never seen, the error of carrying one law from kind to
kind, as measured on the paper's printed figures (`transfer_error`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import least_squares

from capscale.analysis.factorization import printed
from capscale.analysis.fit import Fit
from capscale.analysis.operands import facts, gaussian_error, parts_of
from capscale.analysis.table import Row, make_table
from capscale.analysis.uncertainty import Bootstrap, Interval
from capscale.capacity import TANH, Capacity
from capscale.errors import UserError
from capscale.estimator_names import split_name


@dataclass(frozen=True)
class Prediction:
    """What a fit says of one representation at (N, D)."""

    row: Row
    rho: Interval
    loss: Interval
    """NaN ends without N and D."""
    dense_equivalent: float
    loss_draws: np.ndarray
    """Resamples of the format's expected loss, without the scatter of single runs (S,)."""
    notes: tuple[str, ...]


def target(
    weights: str, activations: str = "dense", *, N: float = 1e9, D: float = 1e11,
    weights_gmse: float = float("nan"), activations_gmse: float = float("nan"),
    columns: Mapping[str, float] | None = None,
) -> Row:  # fmt: skip
    """A row to predict; names outside the catalog need their GMSE. `columns` are others, for laws that read them.

    An estimator in brackets counts as the default where it is that of the format in either basis, rotated or not.
    """
    record = {"N": N, "D": D, "loss": 1.0, "weights": weights, "activations": activations, "run": "prediction"}
    record |= {"weights_gmse": weights_gmse, "activations_gmse": activations_gmse, **(columns or {})}
    plain, rotated = (
        make_table([record | {"hadamard": block}], "prediction", strict=False).rows[0] for block in (None, 128)
    )
    return plain if plain.is_plain or not rotated.is_plain else rotated


def predict(fit: Fit, draws: Bootstrap, row: Row, level: float = 0.95) -> Prediction:
    """Capacity and loss of `row`'s representation at its N and D.

    Raises UserError where its estimators are not the defaults of its formats and the fit is a law of GMSE.
    """
    problem = fit.problem
    if not row.is_plain and not fit.law.per_format:
        raise UserError(
            f"{row.curve}: a law of GMSE cannot see the estimator and would say of it what it says of the default; "
            "ask for the format without brackets, or read its measured capacity in `capscale report`"
        )
    arrays = problem.gather([row])
    unseen = unseen_kinds(fit, row)
    # One stream of numbers a format: two formats' errors are their own, and a format's are the same wherever asked.
    random = np.random.default_rng([fit.settings.seed, *f"{row.weights}/{row.activations}".encode()])
    z = np.concatenate([fit.z[None], draws.z])
    rho = np.exp(problem.log_rho(z, arrays)[:, 0])
    if unseen:
        # A miss of the law from kind to kind is a shift of rho, common to all sizes.
        shift = np.concatenate([[0.0], random.normal(0.0, transfer_error(), len(z) - 1)])
        moved = np.clip(rho + shift, 0.25 * rho, 1.5)
    else:
        moved = rho
    log_shift = np.log(moved / rho)
    loss = np.array(
        [problem.predict(one, arrays._replace(log_n=arrays.log_n + s))[0] for one, s in zip(z, log_shift, strict=True)]
    )
    loss[1:] += random.normal(0.0, format_error(fit), len(loss) - 1)
    n, p = len(fit.table), int(fit.free.sum())
    scatter = random.choice(fit.residuals, len(z) - 1) * np.sqrt(n / max(n - p, 1))
    return Prediction(
        row=row,
        rho=_interval(moved, moved[1:], level),
        loss=_interval(loss, loss[1:] + scatter, level),
        dense_equivalent=float(moved[0] * row.N),
        loss_draws=loss[1:],
        notes=_notes(fit, row, unseen),
    )


def _interval(values: np.ndarray, spread: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(spread, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values[0]), float(low), float(high))


def format_error(fit: Fit) -> float:
    """RMS of the formats' mean residuals beyond what the scatter of their runs explains, in nats."""
    residuals, excess = fit.residuals, []
    curve = np.array([r.curve for r in fit.table.rows])
    for name in fit.table.curves:
        mine = residuals[curve == name]
        if len(mine) > 1:
            excess.append(np.mean(mine) ** 2 - np.var(mine, ddof=1) / len(mine))
    return float(np.sqrt(max(np.mean(excess), 0.0))) if excess else 0.0


def unseen_kinds(fit: Fit, row: Row) -> tuple[str, ...]:
    """Kinds of the row's formats that the fit has no runs of, as "weights sparse"; none for an unfitted format name."""
    product = fit.law.combination == "product"
    seen = {(p.operand, p.kind) for r in fit.table.rows for p in parts_of(r, product=product)}
    asked = [(p.operand, p.kind) for p in parts_of(row, product=product)]
    return tuple(f"{operand} {kind}" for operand, kind in asked if (operand, kind) not in seen)


def _notes(fit: Fit, row: Row, unseen: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if unseen:
        known = sorted({f"{p.operand} {p.kind}" for r in fit.table.rows for p in parts_of(r, product=False)})
        notes.append(
            f"no runs of {', '.join(unseen)} in this fit (it has {', '.join(known) or 'dense only'}): the interval is "
            f"widened by {transfer_error():.3f} in rho, the error of one law through all kinds in the paper's figures"
        )
    N, D = fit.table.column("N"), fit.table.column("D")
    for name, value, seen in (("N", row.N, N), ("D", row.D, D)):
        if not seen.min() / 1.01 <= value <= seen.max() * 1.01:
            notes.append(
                f"{name} = {value:.3g} is beyond the runs ({seen.min():.3g} to {seen.max():.3g}): extrapolated"
            )
    if not fit.problem.has_data_term and abs(np.log(row.D / D[0])) > 0.01:
        notes.append(f"every run has D = {D[0]:.4g}: the loss is the one at that D, whatever D is asked for")
    return tuple(notes)


@cache
def transfer_error() -> float:
    """RMS error of rho when one F and C go through the kinds of formats of the paper's printed figures.

    INT weights and INT activations of Figure 6, weight and activation sparsity of Figure 2b: each kind is predicted
    from the others, and the errors are pooled.
    """
    kinds = []
    integers, sparse = printed()["6"], printed()["2b"]
    for matrix, prefix in ((integers, "int"), (sparse, "top")):
        i, j = matrix.dense
        for names, rho in ((matrix.row_names, matrix.capacity[:, j]), (matrix.column_names, matrix.capacity[i])):
            named = [(n if prefix == "int" else f"{float(n) * 100:.0f}", r) for n, r in zip(names, rho, strict=True)]
            kinds.append([(gaussian_error(prefix + n), r) for n, r in named if n not in ("16", "0")])
    errors: list[float] = []
    for k, held in enumerate(kinds):
        known = np.array([pair for other, kind in enumerate(kinds) if other != k for pair in kind])

        def off(v: np.ndarray, pairs: np.ndarray = known) -> np.ndarray:
            return Capacity(TANH, (("F", v[0]), ("C", v[1]))).rho(pairs[:, 0]) - pairs[:, 1]

        F, C = least_squares(
            off, [0.4, 1.4], bounds=([p.lower for p in TANH.parameters], [p.upper for p in TANH.parameters])
        ).x
        errors += list(off(np.array([F, C]), np.array(held)))
    return float(np.sqrt(np.mean(np.square(errors))))


def storage_bits(name: str) -> float:
    """Stored bits per weight of a catalog format, masks and scales included; UserError for other names."""
    from capscale.formats.catalog import find

    name, _ = split_name(name)
    if facts(name).kind == name and name not in ("dense",):
        raise UserError(f"{name}: not in the catalog, so its storage is unknown; `capscale gmse` lists the names")
    return float(find(name).bits)
