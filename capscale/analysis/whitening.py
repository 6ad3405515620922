"""Whitening of residuals whose rows share errors: groups within groups, each with an error of its own.

The covariance of R residuals, in units of the variance of a single row, is

    V = I + sum_k lambda_k Z_k Z_k^T,

where column g of Z_k is 1 for the rows of group g of level k, and lambda_k is the variance of that level's errors over
the variance of single rows. Levels are nested, the finest first. Then W with W V W^T = I is a product of one factor a
level, each a rank-one update per group (a difference from the group's mean, shrunk): O(R) a level, no matrix is made.
"""

from typing import Any

import numpy as np


def whiten(x: Any, group: Any, ratio: Any, active: Any) -> Any:
    """W x, of numpy or jax arrays.

    Rows that are not active share no error with the others, which leave them out of their groups, and pass unchanged.

    Args:
      x: residuals (R,), or a Jacobian (R, p).
      group: index of every row's group in every level, the finest level first (K, R), below R.
      ratio: lambda of every level (K,); 0 is the identity.
      active: which rows take part (R,).
    """
    if len(group) == 0:
        return x
    xp = x.__array_namespace__()
    loading = xp.astype(active, x.dtype)  # what the finer levels' whitening has made of a group's common error
    wide = x.reshape(len(loading), -1)
    for mine, share in zip(group, ratio, strict=True):
        root = xp.sqrt(1 + share * _sums(loading**2, mine))
        mean = _sums(loading[:, None] * wide, mine) * (share / (root * (1 + root)))[:, None]
        wide = wide - loading[:, None] * mean[mine]
        loading = loading / root[mine]
    return wide.reshape(x.shape)


def _sums(x: Any, group: Any) -> Any:
    """Sums over the rows of each group; as many groups as rows, so that one program serves any grouping."""
    if isinstance(x, np.ndarray):
        total = np.zeros_like(x)
        np.add.at(total, group, x)
        return total
    return x.__array_namespace__().zeros_like(x).at[group].add(x)
