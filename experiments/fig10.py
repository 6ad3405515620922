"""Figure 10a of arXiv 2506.01863: capacity against the error on Gaussian, Logistic, Student-t and Laplace data.

Claim: rho(error) is monotone under each; the Gaussian has the widest spread of errors and the best fit.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.train.run import Run

from . import tab1


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Those of Table 1: integers and sparsities."""
    return tab1.runs(ladder, data)
