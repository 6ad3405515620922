"""Whether a law's loss can be computed at all: of a user's law, before a fit depends on it and where it ended."""

import traceback
from typing import Any

import jax
import numpy as np

from capscale.analysis.problem import Problem
from capscale.analysis.shipped import SHIPPED
from capscale.analysis.solver import float64_on_cpu
from capscale.errors import UserError


def check_loss(problem: Problem, z: np.ndarray) -> None:
    """Computes the loss at coordinates z (p,) by numpy, and traces it by jax; laws that ship are taken at their word.

    Raises UserError where the law's code raises, with its line, or gives something else than one number a run.
    """
    law = problem.law
    if any(law.loss is shipped.loss for shipped in SHIPPED):
        return
    try:
        with np.errstate(all="ignore"):  # what is not finite here may be so elsewhere
            found: Any = problem.layout.evaluate(z, problem.arrays)
        with float64_on_cpu():
            jax.eval_shape(problem.layout.evaluate, z, problem.arrays)
    except UserError:
        raise
    except Exception as error:
        code = getattr(law.loss, "__code__", None)
        frames = [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        first = str(error).strip().partition("\n")[0]
        raise UserError(
            f"loss(x, p) of the {law.name} law raises {type(error).__name__}: {first}{place}; use what x, p and x.xp "
            "have, which numpy and jax can both run"
        ) from error
    if np.shape(found) != problem.loss.shape:
        raise UserError(
            f"loss(x, p) of the {law.name} law gives an array of shape {np.shape(found)} for {len(problem.loss)} runs; "
            "it must give one loss a run"
        )


def check_derivatives(problem: Problem, z: np.ndarray, free: np.ndarray) -> None:
    """Raises UserError where the loss of counted rows has no finite derivative by some free number at z (p,)."""
    with np.errstate(all="ignore"):
        finite = np.all(np.isfinite(problem.jacobian(z)[problem.weight > 0]), axis=0)
    for name, value, fine in zip(np.array(problem.names)[free], problem.report(z)[free], finite[free], strict=True):
        if not fine:
            raise UserError(
                f"the fit of the {problem.law.name} law ended at {name} = {value:.6g}, beside which its loss is not "
                f"finite: nothing can be said of its errors; write loss(x, p) so that it stays finite, or let the "
                f"bounds of {name} end before"
            )
