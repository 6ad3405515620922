"""Sentences about laws of rises: where they stand, what tells them apart, what a table does not measure."""

from collections.abc import Iterator
from typing import NamedTuple

from capscale.analysis.claims import Judgement
from capscale.analysis.rises.fit import RiseFit
from capscale.analysis.rises.forms import GMSE
from capscale.analysis.rises.held_out import Held, Trial
from capscale.analysis.sentences.rule import Rule, always, listing


class Subject(NamedTuple):
    """Subject of the sentences: laws, their trials on rows not seen, and claims."""

    fits: tuple[RiseFit, ...]
    trials: tuple[Trial, ...]
    judgements: tuple[Judgement, ...]

    @property
    def law(self) -> RiseFit | None:
        """The law in proportion to GMSE, where it could be fitted."""
        return next((fit for fit in self.fits if fit.form is GMSE), None)


def _slope(of: Subject) -> str:
    law = of.law
    assert law is not None
    slope, at = law.slope, law.middle
    return (
        f"The rise is {slope.estimate:.3g} ({slope.low:.3g} to {slope.high:.3g}) nats per unit of GMSE at N = "
        f"{at['N']:.3g} and D = {at['D']:.3g}, the middle of the runs; single rises scatter about the law by "
        f"{law.spread:.0%}, and by {law.noise:.2g} times the root of GMSE besides, to either side, as rounding falls."
    )


def _not_told(trial: Trial) -> tuple[Held, ...]:
    return tuple(law for law in trial.laws[1:] if not law.told)


def _same(of: Subject, trial: Trial) -> str:
    names = listing([trial.laws[0].form.name, *(law.form.name for law in _not_told(trial))])
    return f"On {trial.about} this table cannot tell {names} apart: their misses of what they have not seen are alike."


def _folds(of: Subject, trial: Trial) -> str:
    return f"Left out in turn, of {trial.about}: {listing(trial.folds)}; {trial.rows} predictions of clear rises."


def _unmeasured(of: Subject) -> Iterator[str]:
    axes = of.fits[0].axes
    return (axis for axis in ("D", "N") if axis not in axes)


RULES = (
    Rule("rises-slope", lambda of: of.law is not None, _slope),
    Rule(
        "rises-one-axis",
        always,
        lambda of, axis: f"All runs have one {axis}, so nothing says how the rise goes with it; round runs of another.",
        each=_unmeasured,
    ),
    Rule("rises-folds", always, _folds, each=lambda of: of.trials),
    Rule("rises-not-told", lambda of, trial: bool(_not_told(trial)), _same, each=lambda of: of.trials),
    Rule(
        "rises-no-trial",
        lambda of: not of.trials,
        lambda of: "No law could be tried on rows that it had not seen: the table is too small to leave any out.",
    ),
    Rule(
        "rises-claim",
        always,
        lambda of, j: (
            f"{j.claim.name}: {j.reason}; {j.claim.effect}"
            + (f"; {j.estimate.note}" if j.estimate.note else "")
            + f". Accepted: {j.claim.accepted[0]:g} to {j.claim.accepted[1]:.3g}, because {j.claim.why}."
        ),
        each=lambda of: of.judgements,
    ),
)
