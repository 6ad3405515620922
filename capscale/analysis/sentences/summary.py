"""What a study shows, most important first: the list "In short"."""

import math

from capscale.analysis.sentences import weights
from capscale.analysis.sentences.rule import Rule, always
from capscale.analysis.study import CapacityRow, Study, Tie


def _extremes(study: Study) -> str:
    rows = sorted(study.capacities, key=lambda c: -c.rho.estimate)
    best, worst = rows[0], rows[-1]
    return (
        f"A model trained in {worst.curve} is worth a dense model of {worst.rho.estimate:.0%} of its size; in "
        f"{best.curve}, one of {best.rho.estimate:.0%} ({best.rho.low:.2f} to {best.rho.high:.2f}, 95 %)."
    )


def _order(study: Study) -> str:
    r = study.rank_correlation
    count = sum(c.in_law and math.isfinite(c.gmse) for c in study.capacities)
    return (
        f"The order of capacities is that of the formats' error on Gaussian data, known before training: rank "
        f"correlation {r.estimate:.3f} over {count} formats (95 %: {r.low:.2f} to {r.high:.2f}); one curve "
        f"rho(GMSE) goes through them with correlation {study.correlation:.3f}."
    )


def _beside_the_law(study: Study, c: CapacityRow) -> bool:
    return not c.in_law and math.isfinite(c.gmse)


def _estimator(study: Study, c: CapacityRow) -> str:
    side = "above" if c.rho.estimate > c.law else "below"
    return (
        f"{c.curve} stands {abs(c.rho.estimate - c.law):.2f} {side} the curve (rho {c.rho.estimate:.2f}, law "
        f"{c.law:.2f}) with the same GMSE as its neighbour: GMSE cannot see the gradient estimator."
    )


def _tie(study: Study, t: Tie) -> str:
    return (
        f"Near-tie: {t.first} and {t.second} differ by {t.difference:.3f} ± {t.deviation:.3f}; their order turns "
        f"round in {t.reversed:.0%} of the resamples."
    )


RULES = (
    Rule("extremes", lambda study: len(study.capacities) > 0, _extremes),
    Rule("order", lambda study: math.isfinite(study.rank_correlation.estimate), _order),
    Rule(
        "another estimator", _beside_the_law, _estimator, each=lambda s: sorted(s.capacities, key=lambda c: -c.rho[0])
    ),
    Rule("near-tie", always, _tie, each=lambda study: study.ties),
    *weights.RULES,
)
