"""Is capacity multiplicative? A matrix of capacities against the outer product of one row and one column.

Rows and columns are choices for two operands (or two stages of one), one of them dense. Finding 3 of
arXiv 2506.01863: rho(r, c) = rho(r, dense) rho(dense, c).
"""

import json
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from capscale.analysis.table import Table
from capscale.analysis.uncertainty import Bootstrap
from capscale.errors import UserError


@dataclass(frozen=True)
class Matrix:
    """Measured capacities (I, J) with what rows and columns stand for; NaN where nothing was measured."""

    name: str
    rows: str
    columns: str
    row_names: tuple[str, ...]
    column_names: tuple[str, ...]
    capacity: np.ndarray
    dense: tuple[int, int]
    """Row and column of the uncompressed choice."""
    draws: np.ndarray | None = None
    """Resamples (S, I, J), where the entries come from runs."""

    def __post_init__(self) -> None:
        if self.capacity.shape != (len(self.row_names), len(self.column_names)):
            raise UserError(f"{self.name}: {self.capacity.shape} capacities for {len(self.row_names)} rows")
        if min(self.capacity.shape) < 2:
            raise UserError(f"{self.name}: at least 2 rows and 2 columns make a factorization")
        if np.any(self.capacity <= 0):
            raise UserError(f"{self.name}: capacities must be positive")
        i, j = self.dense
        if np.any(np.isnan(self.capacity[i])) or np.any(np.isnan(self.capacity[:, j])):
            raise UserError(f"{self.name}: the dense row and the dense column must be complete")


@dataclass(frozen=True)
class Factorization:
    """A predicted matrix and its errors, measured minus predicted; positive where the product underestimates."""

    method: str
    matrix: Matrix
    predicted: np.ndarray
    row_factor: np.ndarray
    column_factor: np.ndarray
    tested: np.ndarray
    """Entries that the prediction has not read (I, J)."""

    @property
    def errors(self) -> np.ndarray:
        """Measured minus predicted (I, J)."""
        return self.matrix.capacity - self.predicted

    def summary(self, where: np.ndarray | None = None) -> dict[str, float]:
        """Mean and largest absolute error, mean error, and share of positive errors over the tested entries."""
        chosen = self.tested & ~np.isnan(self.errors) & (True if where is None else where)
        e = self.errors[chosen]
        if not len(e):
            return {"entries": 0, "mean_abs": np.nan, "max_abs": np.nan, "mean": np.nan, "share_positive": np.nan}
        return {
            "entries": len(e),
            "mean_abs": float(np.mean(np.abs(e))),
            "max_abs": float(np.max(np.abs(e))),
            "mean": float(np.mean(e)),
            "share_positive": float(np.mean(e > 1e-12)),
        }


def outer_product(matrix: Matrix) -> Factorization:
    """Dense row times dense column, over the dense entry. Only the other entries test it."""
    i, j = matrix.dense
    rows, columns = matrix.capacity[:, j], matrix.capacity[i]
    corner = matrix.capacity[i, j]
    tested = np.ones_like(matrix.capacity, bool)
    tested[i], tested[:, j] = False, False
    predicted = np.outer(rows, columns) / corner
    return Factorization("outer product", matrix, predicted, rows / corner, columns, tested)


def best_rank_one(matrix: Matrix) -> Factorization:
    """The product of any two vectors that is closest in log capacity (least squares over measured entries)."""
    height, width = matrix.capacity.shape
    known = ~np.isnan(matrix.capacity)
    where = np.argwhere(known)
    X = np.zeros((len(where), height + width))
    X[np.arange(len(where)), where[:, 0]] = 1
    X[np.arange(len(where)), height + where[:, 1]] = 1
    solution, *_ = np.linalg.lstsq(X, np.log(matrix.capacity[known]), rcond=None)
    shift = solution[matrix.dense[0]]
    rows, columns = np.exp(solution[:height] - shift), np.exp(solution[height:] + shift)
    return Factorization("best rank 1", matrix, np.outer(rows, columns), rows, columns, known)


def error_interval(matrix: Matrix, level: float = 0.95) -> np.ndarray | None:
    """Interval of the outer product's element-wise errors over the resamples (2, I, J); None for printed numbers."""
    if matrix.draws is None:
        return None
    i, j = matrix.dense
    products = matrix.draws[:, :, j, None] * matrix.draws[:, None, i, :] / matrix.draws[:, i, j][:, None, None]
    return np.quantile(matrix.draws - products, [(1 - level) / 2, (1 + level) / 2], axis=0)


def printed() -> dict[str, Matrix]:
    """The paper's three printed matrices, by figure."""
    content = json.loads((files("capscale.analysis") / "data" / "printed_capacities.json").read_text())
    found = {}
    for f in content["figures"]:
        capacity = np.array(f["capacity"])
        # The dense choice: no sparsity, 16 bits.
        rows = [f"{v:g}" for v in f["row_values"]]
        columns = [f"{v:g}" for v in f["column_values"]]
        i = rows.index("0") if "0" in rows else rows.index("16")
        j = columns.index("0") if "0" in columns else columns.index("16")
        matrix = Matrix(f["figure"], f["rows"], f["columns"], tuple(rows), tuple(columns), capacity, (i, j))
        found[f["name"]] = matrix
    return found


def from_runs(table: Table, draws: Bootstrap) -> Matrix:
    """The matrix of a table's capacities: weight formats by activation formats, from the decoupled fit's resamples."""
    first = table.first_of_curve
    cells: dict[tuple[str, str], str] = {}
    for curve in table.curves:
        row = first[curve]
        if row.is_plain:
            cells.setdefault((row.weights, row.activations), curve)
    weights = tuple(dict.fromkeys(w for w, _ in cells))
    activations = tuple(dict.fromkeys(a for _, a in cells))
    missing = [n for n in weights if (n, "dense") not in cells] + [n for n in activations if ("dense", n) not in cells]
    if missing:
        raise UserError(
            f"{table.source}: no factorization without runs of each format alone; missing with a dense partner: "
            f"{', '.join(dict.fromkeys(missing))}"
        )
    names = list(draws.fit.rho)
    rho, every = np.array(list(draws.fit.rho.values())), draws.rho
    capacity = np.full((len(weights), len(activations)), np.nan)
    sampled = np.full((len(every), *capacity.shape), np.nan)
    for (w, a), curve in cells.items():
        at = weights.index(w), activations.index(a)
        capacity[at] = rho[names.index(curve)]
        sampled[:, at[0], at[1]] = every[:, names.index(curve)]
    dense = weights.index("dense"), activations.index("dense")
    return Matrix(table.source, "weights", "activations", weights, activations, capacity, dense, sampled)
