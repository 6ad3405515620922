"""Claims about rounding after training, as conditions on numbers of a table of rises."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from capscale.analysis.claims import Claim, Estimate, Judgement, judge
from capscale.analysis.evidence import interval
from capscale.analysis.rises.fit import RiseFit
from capscale.analysis.rises.held_out import slopes_by_kind

CLAIMS = (
    Claim(
        name="proportional",
        says="The rise of the loss is in proportion to the Gaussian error of the format.",
        source="first order in the error of the weights",
        effect="exponent of GMSE, at equal N and D",
        accepted=(0.85, 1.15),
        why="over a factor of 100 in GMSE the rise is then within a factor of two of proportion",
        paper=1.0,
        deviation=0.03,
    ),
    Claim(
        name="one-slope",
        says="One factor of proportion serves all kinds of formats.",
        source="first order in the error of the weights",
        effect="largest |ln(slope of a kind / slope of all)|",
        accepted=(-math.inf, math.log(1.5)),
        why="a kind whose slope is off by half would be chosen or left for its kind, not for its error",
        paper=0.0,
        deviation=0.1,
    ),
    Claim(
        name="undertrained",
        says="Low bits favour undertrained models: the rise grows with the tokens.",
        source="arXiv 2411.17691, figure 7: D^0.5251; arXiv 2411.04330: D^0.5068",
        effect="exponent of D, at equal N and GMSE",
        accepted=(0.0, math.inf),
        why="the sign; its size is the model family's own",
        paper=0.5251,
        null=0.0,
        deviation=0.1,
    ),
    Claim(
        name="larger",
        says="Larger models lose less: the rise falls with the size.",
        source="arXiv 2411.17691, figure 7: N^-0.2261; arXiv 2411.04330: N^-0.3439",
        effect="exponent a of N^-a, at equal D and GMSE",
        accepted=(0.0, math.inf),
        why="the sign; its size is the model family's own",
        paper=0.2261,
        null=0.0,
        deviation=0.08,
    ),
)


def judged(fits: Sequence[RiseFit], left_out: Mapping[str, str]) -> tuple[Judgement, ...]:
    """Every claim with its estimate and the verdict that it earns.

    Args:
      fits: laws of a table.
      left_out: names of laws that could not be fitted, and why.
    """
    by_name = {fit.form.name: fit for fit in fits}

    def exponent(law: str, name: str, missing: str = "") -> Estimate:
        if law not in by_name:
            return Estimate(missing=left_out[law])
        fit = by_name[law]
        return interval(fit.draws[name], _note(fit)) if name in fit.draws else Estimate(missing=missing)

    estimates = {
        "proportional": exponent("gmse-power", "c"),
        "one-slope": _kinds(by_name["gmse"]) if "gmse" in by_name else Estimate(missing=left_out["gmse"]),
        "undertrained": exponent("gmse", "b", "runs of one length only"),
        "larger": exponent("gmse", "a", "runs of one size only"),
    }
    return tuple(judge(claim, estimates[claim.name]) for claim in CLAIMS)


def _kinds(fit: RiseFit) -> Estimate:
    slopes = slopes_by_kind(fit)
    if len(slopes) < 2:
        return Estimate(missing=f"formats of one kind only: {', '.join(slopes)}")
    ratios = ", ".join(f"{kind} {math.exp(values[0]):.2f}" for kind, values in slopes.items())
    return interval(np.abs(np.stack(list(slopes.values()))).max(axis=0), f"slope over that of all: {ratios}")


def _note(fit: RiseFit) -> str:
    rises = fit.rises
    return f"{len(rises.rise)} rises of {len(set(rises.run))} runs in {len(set(rises.weights))} formats"
