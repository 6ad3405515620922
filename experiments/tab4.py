"""Table 4 of arXiv 2506.01863: forms of rho(GMSE) compared by the error of their fit.

Claim: decoupled 4.2e-4, tanh 4.7e-4, logistic 4.9e-4, logistic through (0, 1) and (1, 0) 1.1e-3.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.train.run import Run

from . import tab1


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Those of Table 1: integers and sparsities."""
    return tab1.runs(ladder, data)
