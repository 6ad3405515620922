"""How likely runs are by one law beside others, whatever errors they share: by that, laws are told apart.

A score test (`misspecification`) asks whether a law will do. Of two that will, one may still make the runs a hundred
times as likely. If runs are of one law, another makes them `ENOUGH` times as likely as it does in at most 1 / `ENOUGH`
of tables, where likelihoods are averaged over what is unknown (their ratio then has a mean of 1, and Markov's
inequality does the rest); in under 1 % where each has one number besides, is linear in it, and the noise is known.
"""

from collections.abc import Sequence

import numpy as np

from capscale.analysis.conditioning import jacobian
from capscale.analysis.fit import Fit
from capscale.analysis.shared_errors import log_likelihood

ENOUGH = 20.0
"""Times as likely by one law as by another, from which these are told apart."""


def odds(fits: Sequence[Fit]) -> tuple[float, ...]:
    """How many times as likely the runs are by the likeliest of several laws as by each: 1 of that one.

    Args:
      fits: least-squares fits of the laws to the same rows. Errors that these share are integrated out, and a law pays
        for each number with the square root of the number of rows (Schwarz 1978, Ann. Stat. 6).
    """
    if not fits:
        return ()
    active = fits[0].problem.weight > 0
    rows = int(active.sum())
    numbers = np.array([len(fit.z) for fit in fits])
    freedom = max(rows - int(numbers.max()), 1)
    logs = np.array([_log_likelihood(fit, active, freedom) for fit in fits]) - 0.5 * numbers * np.log(rows)
    return tuple(float(x) for x in np.exp(np.minimum(logs.max() - logs, 700.0)))


def _log_likelihood(fit: Fit, active: np.ndarray, freedom: int) -> float:
    root = np.sqrt(fit.problem.weight)
    return log_likelihood(fit.shared, root * fit.loss_units, root[:, None] * jacobian(fit), active, freedom)
