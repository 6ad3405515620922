"""Printed capacities of one factor alone."""

from capscale.analysis.factorization import printed


def line(figure: str, axis: int) -> dict[str, float]:
    """rho by the level of one axis of a printed figure, the other one uncompressed: "6", 0 is INT weights."""
    matrix = printed()[figure]
    i, j = matrix.dense
    names, values = (
        (matrix.row_names, matrix.capacity[:, j]) if axis == 0 else (matrix.column_names, matrix.capacity[i])
    )
    return dict(zip(names, map(float, values), strict=True))


def diagonal(figure: str) -> dict[str, float]:
    """rho where both factors have the same level, the uncompressed one left out."""
    matrix = printed()[figure]
    same = {name: float(matrix.capacity[k, k]) for k, name in enumerate(matrix.row_names)}
    return {name: rho for name, rho in same.items() if name != matrix.row_names[matrix.dense[0]]}
