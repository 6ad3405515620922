"""The reproduction as one page: verdicts first, then every claim beside the paper's number, with its picture."""

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath
from matplotlib.figure import Figure

from capscale.analysis.claims import Judgement
from capscale.analysis.images import Kind, encoded
from capscale.analysis.inline_svg import inline_svg
from capscale.analysis.numbers import json_ready
from capscale.analysis.report import environment, write_files
from capscale.reproduction.chapters import Found, to_decide

KINDS = ("reproduced", "not reproduced", "undecided at this scale")
PICTURES: tuple[Kind, ...] = ("png", "pdf", "svg")


@dataclass(frozen=True)
class Line:
    """One claim, in words."""

    name: str
    says: str
    source: str
    effect: str
    paper: str
    accepted: str
    why: str
    ours: str
    verdict: str
    reason: str
    power: str
    decide: str
    explained: str
    note: str

    @staticmethod
    def of(judgement: Judgement, explained: Mapping[str, str]) -> "Line":
        """The claim with its numbers shortened for reading."""
        claim, estimate = judgement.claim, judgement.estimate
        return Line(
            name=claim.name,
            says=claim.says,
            source=claim.source,
            effect=claim.effect,
            paper=number(claim.paper),
            accepted=span(*claim.accepted),
            why=claim.why,
            ours="not measured" if estimate.missing else with_interval(estimate.value, estimate.low, estimate.high),
            verdict=judgement.verdict,
            reason=judgement.reason,
            power="–" if math.isnan(judgement.power) else f"{judgement.power:.2f}",
            decide=to_decide(judgement),
            explained=explained.get(claim.name, ""),
            note=estimate.note,
        )


def number(value: float) -> str:
    """A number to three digits."""
    return f"{value:.3g}"


def with_interval(value: float, low: float, high: float) -> str:
    """An estimate with its 95 % interval; without one where chance plays no part."""
    return number(value) if low == high else f"{number(value)} ({number(low)} to {number(high)})"


def span(low: float, high: float) -> str:
    """Accepted effects in words."""
    if low == high:
        return f"exactly {number(low)}"
    if math.isinf(low) or math.isinf(high):
        return f"at least {number(low)}" if math.isinf(high) else f"at most {number(high)}"
    return f"{number(low)} to {number(high)}"


def counts(found: Sequence[Found]) -> dict[str, int]:
    """Number of claims by verdict."""
    told = Counter(j.verdict for f in found for j in f.judgements)
    return {kind: told[kind] for kind in KINDS}


def numbers(found: Sequence[Found], about: Mapping[str, Any]) -> dict[str, Any]:
    """Every number of the page."""
    return {
        **about,
        "verdicts": counts(found),
        "chapters": [
            {
                "name": f.chapter.name,
                "title": f.chapter.title,
                "runs": f.planned,
                "finished": f.finished,
                "training_seconds": f.seconds,
                "claims": [
                    {
                        "name": j.claim.name,
                        "says": j.claim.says,
                        "source": j.claim.source,
                        "effect": j.claim.effect,
                        "paper": j.claim.paper,
                        "accepted": list(j.claim.accepted),
                        "estimate": j.estimate.value,
                        "interval": [j.estimate.low, j.estimate.high],
                        "missing": j.estimate.missing,
                        "power": j.power,
                        "verdict": j.verdict,
                        "reason": j.reason,
                    }
                    for j in f.judgements
                ],
            }
            for f in found
        ],
    }


def write_page(found: Sequence[Found], about: Mapping[str, Any], directory: epath.PathLike) -> epath.Path:
    """Writes reproduction.html (self-contained), reproduction.md, reproduction.json and each picture as PNG, PDF, SVG.

    `about` has `ladder`, `rows`, `command` and what else belongs at the foot. Returns the path of the HTML page. Raises
    UserError where the directory cannot be written.
    """
    figures = {f.chapter.name: f.figure() for f in found}
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    files = {f"{n}.{kind}": content for n, figure in drawn.items() for kind, content in pictures(figure).items()}
    alts = {f.chapter.name: alt(f) for f in found}
    images = {name: inline_svg(figure, name, alts[name]) for name, figure in drawn.items()}
    template = environment("capscale.reproduction").get_template("page.html")
    files["reproduction.html"] = template.render(**_content(found, about, images)).encode()
    files["reproduction.md"] = markdown(found, about, list(drawn)).encode()
    files["reproduction.json"] = (json.dumps(json_ready(numbers(found, about)), indent=1) + "\n").encode()
    write_files(directory, files)
    return epath.Path(directory) / "reproduction.html"


def markdown(found: Sequence[Found], about: Mapping[str, Any], drawn: Collection[str]) -> str:
    """The page as Markdown; the pictures of the chapters in `drawn` lie in the folder `about["pictures"]`."""
    template = environment("capscale.reproduction", escape=False).get_template("page.md")
    return template.render(**_content(found, about, dict.fromkeys(drawn, "")))


def _content(found: Sequence[Found], about: Mapping[str, Any], images: Mapping[str, str]) -> dict[str, Any]:
    chapters = [
        {
            "found": f,
            "lines": [Line.of(j, f.chapter.explained) for j in f.judgements],
            "image": images.get(f.chapter.name),
            "minutes": minutes(f.seconds),
        }
        for f in found
    ]
    return {"chapters": chapters, "verdicts": counts(found), "about": about, "kinds": KINDS}


def pictures(figure: Figure) -> dict[str, bytes]:
    """A chapter's figure in every format."""
    return {kind: encoded(figure, kind) for kind in PICTURES}


def alt(found: Found) -> str:
    """The findings of a chapter, for those who do not see its figure: what was measured, beside the paper's number."""
    lines = [Line.of(j, found.chapter.explained) for j in found.judgements]
    told = [f"{line.says.rstrip('.')}: {line.ours}, in the paper {line.paper}; {line.verdict}." for line in lines]
    return " ".join([f"{found.chapter.title.rstrip('.')}.", *told])


def minutes(seconds: float) -> str:
    """A duration in words."""
    if math.isnan(seconds):
        return "not told by the rows"
    return (
        "none" if seconds == 0 else f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
    )
