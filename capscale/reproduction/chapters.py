"""An experiment with its claims, judged on the rows that its runs have left."""

import difflib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from etils import epath

from capscale.analysis.claims import LEAST_POWER, TWO_SIDED, Claim, Estimate, Judgement, judge
from capscale.analysis.evidence import Evidence
from capscale.analysis.rows import SECONDS, read_run_records
from capscale.data.corpus import DataId
from capscale.errors import UserError
from capscale.models.ladder import Ladder
from capscale.train.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL = "all"
POWER_80 = TWO_SIDED + 0.8416
"""Effect over deviation at which a two-sided test of 5 % has a power of 80 %."""


@dataclass(frozen=True)
class Chapter:
    """One figure or table of the paper: an experiment that has claims."""

    name: str
    module: ModuleType

    @property
    def title(self) -> str:
        """First line of the file's docstring."""
        return (self.module.__doc__ or self.name).strip().splitlines()[0]

    @property
    def says(self) -> str:
        """The rest of the docstring: claim, source, numbers."""
        return "\n".join((self.module.__doc__ or "").strip().splitlines()[1:]).strip()

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Claims of the paper, in the order of its file."""
        return self.module.CLAIMS

    @property
    def explained(self) -> dict[str, str]:
        """Explanations that were tried for a claim that is not reproduced, by its name."""
        return getattr(self.module, "EXPLAINED", {})

    def runs(self, ladder: Ladder, data: DataId) -> list[Run]:
        """The runs that its claims rest on."""
        return self.module.runs(ladder, data)


@dataclass(frozen=True)
class Found:
    """A chapter with its verdicts."""

    chapter: Chapter
    judgements: tuple[Judgement, ...]
    evidence: Evidence
    planned: int
    """Runs that it asks for."""

    @property
    def finished(self) -> int:
        """Runs of it that have a row."""
        return len(self.evidence.records)

    @property
    def seconds(self) -> float:
        """Wall seconds of training of these, one run after the other; NaN where the rows do not say."""
        told = [float(r.get(SECONDS) or math.nan) for r in self.evidence.records]
        return sum(told) if told else 0.0

    def figure(self) -> "Figure | None":
        """The paper's picture with ours; None where there is nothing to draw."""
        try:
            return self.chapter.module.figure(self.evidence)
        except UserError:
            return None


def chapters() -> tuple[Chapter, ...]:
    """All of them, in the order of the page."""
    from capscale.experiments import reproduction

    return tuple(Chapter(name, module) for name, module in reproduction.chapters().items())


def chosen(names: Sequence[str]) -> tuple[Chapter, ...]:
    """The chapters of these names, `all` for every one; UserError names the ones there are."""
    every = {chapter.name: chapter for chapter in chapters()}
    for name in names:
        if name != ALL and name not in every:
            close = difflib.get_close_matches(name, every, n=3, cutoff=0.4) or list(every)
            raise UserError(f"{name!r} is no figure or table of the reproduction; did you mean {', '.join(close)}?")
    wanted = set(every) if ALL in names else set(names)
    return tuple(chapter for name, chapter in every.items() if name in wanted)


def judged(chapter: Chapter, runs: Sequence[Run], rows: epath.PathLike | None, ladder: str) -> Found:
    """The verdicts of a chapter on the rows of its runs in a sweep's directory or a table; none of them where None.

    Raises UserError where the file is not readable, or the chapter does not estimate each claim once.
    """
    ids = [run.run_id for run in runs]
    records = read_run_records(rows, ids) if rows is not None and ids else []
    evidence = Evidence(tuple(records), f"{chapter.name} on {ladder}", ladder)
    estimates: dict[str, Estimate] = chapter.module.estimates(evidence)
    check_names(chapter, estimates)
    verdicts = tuple(judge(claim, estimates[claim.name]) for claim in chapter.claims)
    return Found(chapter, verdicts, evidence, len(ids))


def check_names(chapter: Chapter, estimated: Collection[str]) -> None:
    """Refuses estimates that are not one for each claim."""
    names = [claim.name for claim in chapter.claims]
    if sorted(names) != sorted(estimated):
        raise UserError(f"{chapter.name}: it claims {', '.join(names)}, and estimates {', '.join(estimated)}")


def to_decide(judgement: Judgement) -> str:
    """Remedy for an undecided claim, in words; empty for a decided one."""
    claim, estimate = judgement.claim, judgement.estimate
    if judgement.verdict != "undecided at this scale":
        return ""
    if estimate.missing:
        return "the runs that are missing"
    if claim.beyond:
        return "the paper's ladder"
    gap = abs(claim.paper - claim.null) if claim.null is not None else min(abs(e - claim.paper) for e in claim.accepted)
    if gap == 0 or math.isinf(gap) or estimate.deviation == 0:
        return "a larger ladder"
    times = math.ceil((estimate.deviation * POWER_80 / gap) ** 2)
    if judgement.power < LEAST_POWER and times > 1:
        return f"{times} times as many runs (80 % power for the paper's effect), or a larger ladder"
    return "more seeds, or a larger ladder: the effect found lies at the edge of what agrees"
