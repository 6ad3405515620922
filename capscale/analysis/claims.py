"""Claims of a paper as conditions on one number each, and the verdict that an estimate of it earns.

A claim is written down before anything is trained: what the number is, which values of it agree with the paper, and
where no effect would be. The verdict follows from these and from an interval; nobody writes it.
"""

import math
from dataclasses import dataclass
from typing import Literal

from scipy.stats import norm

from capscale.errors import UserError

Verdict = Literal["reproduced", "not reproduced", "undecided at this scale"]
UNDECIDED: Verdict = "undecided at this scale"
LEAST_POWER = 0.8
"""Below which a test of the paper's own effect decides nothing, whatever it says."""
TWO_SIDED = float(norm.ppf(0.975))


@dataclass(frozen=True)
class Claim:
    """One statement of the paper as a condition on a number, its effect.

    With a `null` the claim has a direction: the effect is told from `null`, on the side where `accepted` lies. Without
    one it says that the effect lies in `accepted`, as "equal" and "at least" do.

    Attributes:
      name: within its experiment, such as `order-4-bit`.
      says: the paper's statement, in a sentence.
      source: where it stands, such as "Figure 3".
      effect: what the number is, with its unit.
      accepted: lowest and highest effect that agrees with the paper, both included; infinite ends are open.
      why: reason of these bounds.
      paper: the paper's own number; of a claim without a number, the effect that a test of it should not miss.
      null: the effect if the claim were empty; None for a claim that names a range.
      deviation: standard deviation of the effect that the planned runs should have; 0 where chance plays no part.
      beyond: why runs of this size cannot decide it, for claims about the paper's own scale; empty where they can.

    Raises:
      UserError: bounds that are none, `null` among the accepted, or `paper` outside them.
    """

    name: str
    says: str
    source: str
    effect: str
    accepted: tuple[float, float]
    why: str
    paper: float
    null: float | None = None
    deviation: float = 0.0
    beyond: str = ""

    def __post_init__(self) -> None:
        low, high = self.accepted
        if not low <= high:
            raise UserError(f"claim {self.name!r}: accepted={self.accepted} must be a lowest and a highest effect")
        if not low <= self.paper <= high:
            raise UserError(f"claim {self.name!r}: the paper's {self.paper:g} is not in accepted={self.accepted}")
        if self.null is not None and low < self.null < high:
            raise UserError(f"claim {self.name!r}: null={self.null:g} lies in accepted={self.accepted}; shrink it")
        if self.null == self.paper:
            raise UserError(f"claim {self.name!r}: the paper's number is null={self.null:g}; for equality drop null")

    def power(self, deviation: float) -> float:
        """Probability that an estimate of this standard deviation shows the claim, were the paper's number true.

        With a direction: that its 95 % interval excludes `null` on the paper's side. For a range: that the interval
        lies in it.
        """
        if math.isnan(deviation):
            return math.nan
        if deviation == 0:
            return 1.0
        if self.null is not None:
            return float(norm.cdf(abs(self.paper - self.null) / deviation - TWO_SIDED))
        below, above = ((abs(end - self.paper) / deviation - TWO_SIDED) for end in self.accepted)
        return max(0.0, float(norm.cdf(above) - norm.cdf(-below)))


def above_zero(name: str, says: str, source: str, effect: str, *, paper: float, deviation: float) -> Claim:
    """The claim that an effect has the sign of `paper`'s, above none; its size is not part of it."""
    return Claim(name, says, source, effect, (0.0, math.inf), "its sign", paper, null=0.0, deviation=deviation)


@dataclass(frozen=True)
class Estimate:
    """Our number for a claim with the ends of its 95 % interval, or why there is none.

    `note` is what a reader should know of how it was made: its runs, and what was left out.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    note: str = ""
    missing: str = ""

    def __post_init__(self) -> None:
        if not self.missing and not self.low <= self.value <= self.high:
            raise UserError(f"estimate {self.value} does not lie in its interval ({self.low}, {self.high})")

    @property
    def deviation(self) -> float:
        """Standard deviation that an interval of this width stands for."""
        return (self.high - self.low) / (2 * TWO_SIDED)

    @staticmethod
    def exact(value: float, note: str = "") -> "Estimate":
        """A number that chance has no part in."""
        return Estimate(value, value, value, note)


@dataclass(frozen=True)
class Judgement:
    """A claim, what was found of it, and the verdict with its reason."""

    claim: Claim
    estimate: Estimate
    verdict: Verdict
    reason: str
    power: float
    """Of this test for the paper's effect; NaN where nothing was measured."""


def judge(claim: Claim, estimate: Estimate) -> Judgement:
    """The verdict that `estimate` earns on `claim`.

    - undecided: nothing was measured, or the claim is about the paper's own scale;
    - not reproduced: no effect in the interval is accepted;
    - undecided: the power is below `LEAST_POWER`;
    - reproduced: of a direction, some accepted effect is in the interval and `null` is not; of a range, every effect
      in the interval is accepted;
    - undecided otherwise.
    """
    power = math.nan if estimate.missing else claim.power(estimate.deviation)
    return Judgement(claim, estimate, *_verdict(claim, estimate, power), power)


def _verdict(claim: Claim, estimate: Estimate, power: float) -> tuple[Verdict, str]:
    (least, most), (low, high) = claim.accepted, (estimate.low, estimate.high)
    told = claim.null is not None and not low <= claim.null <= high
    rules: tuple[tuple[bool, Verdict, str], ...] = (
        (bool(estimate.missing), UNDECIDED, f"not measured: {estimate.missing}"),
        (bool(claim.beyond), UNDECIDED, claim.beyond),
        (high < least or low > most, "not reproduced", "the interval holds no effect that agrees with the paper"),
        (power < LEAST_POWER, UNDECIDED, f"a test with power {power:.2f} for the paper's effect decides nothing"),
        (told, "reproduced", "the interval excludes no effect and holds the paper's"),
        (claim.null is not None, UNDECIDED, "the interval holds no effect as well"),
        (least <= low and high <= most, "reproduced", "the whole interval agrees with the paper"),
    )
    for applies, verdict, reason in rules:
        if applies:
            return verdict, reason
    return UNDECIDED, "the interval reaches beyond what agrees with the paper"
