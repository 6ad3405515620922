"""Rows taken into a linear fit one by one, for as long as the next one is no surprise to those already in.

The nearest come first (Hadi & Simonoff 1993, J. Am. Stat. Assoc. 88, 1264); of large tables several at a time, while
none of them is a surprise, so that the time of a search grows in proportion to the rows. `slope` (n, p) are the
derivatives of the rows at some coordinates and `off` (n,) their residuals there, so that a fit to any set of rows is a
least-squares solution.
"""

import numpy as np
from scipy.special import gammaln
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution

LEVEL = 0.01
"""Share of tables of clean runs in which some row is named: the level of one row is this over the number of rows."""
FLAT = 1e-10
"""Singular values of the rows inside, as a share of the largest, that count as none."""
AT_A_TIME = 1 / 256
"""Rows taken in at once, as a share of those inside: these hardly move the fit, nor the distances of the next."""
UNSEEN = 1e-6
"""Share of a row's derivatives outside those of the rows kept from which these do not predict it."""


def search(slope: np.ndarray, off: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows outside (n,), and every row's distance from the fit to the others in deviations (n,).

    Begins with the rows `inside` (n,). The search ends where the next row is too far, and all rows then outside
    together are.
    """
    (n, p), m = slope.shape, int(inside.sum())
    distance, outside = np.zeros(n), np.zeros(n, bool)
    most = n
    while m < n:
        distance = _distances(slope, off, inside, m - p)
        order = np.argsort(np.abs(distance), kind="stable")
        cut = float(t_distribution.isf(LEVEL / (2 * (m + 1)), m - p))
        block = max(min(int(m * AT_A_TIME), most, (n - m) // 2), 1)
        if abs(distance[order[m + block - 1]]) > cut:
            if block > 1:
                most = block // 2  # some row of these is too far: which one, smaller steps tell
                continue
            if chance(slope, off, order, m, m - p) < LEVEL * 2.0 ** (m - n):
                outside[order[m:]] = True
                break
        m += block
        inside = np.zeros(n, bool)
        inside[order[:m]] = True
    return outside, distance


def _distances(slope: np.ndarray, off: np.ndarray, inside: np.ndarray, spare: int) -> np.ndarray:
    """Distances of rows (n,) from the least-squares fit to those inside, in their own standard deviations.

    A row whose derivatives (n, p) those inside do not span is not predicted by them, and at no distance.
    """
    basis, left, unseen = _left(slope, off, inside)
    scale = np.sqrt(np.sum(left[inside] ** 2) / spare)
    leverage = np.sum(basis**2, axis=1)
    spread = np.sqrt(np.where(inside, np.maximum(1 - leverage, 0.0), 1 + leverage))
    known = (spread > UNSEEN) & ~unseen & (scale > 0)
    return np.where(known, left / np.where(known, spread * scale, 1.0), 0.0)


def chance(slope: np.ndarray, off: np.ndarray, order: np.ndarray, m: int, spare: int) -> float:
    """Bound on how often clean rows have any set of as many outside as far as those after the first m of `order`.

    An F test of one shift for each row outside, times the number of such sets (Bonferroni): the rows inside were
    chosen for being close, and among few rows some choice is always far closer than the rest. With half of the level
    for one row, a quarter for two, ..., all numbers of rows together stay within it.
    """
    inside = np.zeros(len(off), bool)
    inside[order[:m]] = True
    basis, left, _ = _left(slope, off, inside)
    k, far, span = len(off) - m, left[~inside], basis[~inside]
    # (1 + span span^T)^-1 far, by Woodbury's identity, for any number of rows outside.
    rise = float(far @ (far - span @ np.linalg.solve(np.eye(span.shape[1]) + span.T @ span, span.T @ far)))
    rest = float(np.sum(left[inside] ** 2)) / spare
    log_sets = gammaln(len(off) + 1) - gammaln(k + 1) - gammaln(m + 1)
    log_p = f_distribution.logsf(rise / k / rest, k, spare) if rest > 0 else -np.inf
    return float(np.exp(min(log_sets + log_p, 0.0)))


def _left(slope: np.ndarray, off: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows in the orthonormal coordinates of the fit to those inside (n, q), what it leaves (n,), and rows unseen."""
    norms = np.linalg.norm(slope, axis=0)
    slope = slope / np.where(norms > 0, norms, 1.0)
    _, singular, V = np.linalg.svd(slope[inside], full_matrices=False)
    told = singular > FLAT * singular[0]
    V = V[told]
    basis = slope @ V.T / singular[told]
    left = off - basis @ (basis[inside].T @ off[inside])
    unseen = np.linalg.norm(slope - slope @ V.T @ V, axis=1) > UNSEEN * np.linalg.norm(slope, axis=1)
    return basis, left, unseen
