"""The command that fits laws to what rounding after training costs."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from capscale.analysis.claims import Judgement
    from capscale.analysis.rises.fit import RiseFit
    from capscale.analysis.rises.held_out import Trial
    from capscale.analysis.rises.table import Rises
    from capscale.analysis.uncertainty import Interval


@dataclass(frozen=True)
class PostTraining:
    """Fit laws of the rise of the loss to tables of `capscale quantize --csv`, and judge what is claimed of it.

    The rise is in proportion to the format's Gaussian error, k D^b N^-a GMSE; beside it stand a free exponent, the
    error that the weights realised, and the laws of the bits of QiD (arXiv 2411.17691) and of Kumar et al. (arXiv
    2411.04330), which are about quantized formats alone. Intervals resample runs of one N and D, and formats; laws are
    held against one another on rows that they have not seen. Only dense runs are read.

    Examples:
      capscale post-training rounded.csv
      capscale post-training nano.csv micro.csv --out figures --json
    """

    tables: tyro.conf.Positional[tuple[str, ...]]
    """Tables of `capscale quantize --csv`."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Directory for post-training.json and the picture, as PNG and SVG."""
    json: bool = False
    """Print JSON and nothing else."""

    def __call__(self) -> int:
        """Fits, compares and prints."""
        from capscale.analysis.images import image_files
        from capscale.analysis.numbers import json_ready
        from capscale.analysis.report import write_files
        from capscale.analysis.rises.claims import judged
        from capscale.analysis.rises.figure import rise_figure
        from capscale.analysis.rises.forms import GMSE
        from capscale.analysis.rises.held_out import trials
        from capscale.analysis.rises.table import read_rises
        from capscale.cli.waiting import waiting
        from capscale.errors import UserError

        if not self.tables:
            raise UserError("name tables of `capscale quantize RUN... --csv FILE`")
        rises = read_rises(list(self.tables))
        with waiting(f"fitting laws to {len(rises.rise)} rises"):
            fits, left_out = _fits(rises)
            held, judgements = trials(rises), judged(fits, left_out)
        text = json.dumps(json_ready(_content(rises, fits, left_out, held, judgements)), indent=1)
        if self.out is not None:
            law = next((fit for fit in fits if fit.form is GMSE), None)
            images = image_files("post-training", rise_figure(law)) if law else {}
            write_files(self.out, {"post-training.json": text.encode(), **images})
        if self.json:
            print(text)
        else:
            _show(rises, fits, left_out, held, judgements)
        return 0


def _fits(rises: "Rises") -> "tuple[list[RiseFit], dict[str, str]]":
    """Every law that the table can tell, and of the others why not."""
    from capscale.analysis.rises.fit import fit_rises
    from capscale.analysis.rises.forms import FORMS
    from capscale.errors import UserError

    fits, left_out = [], {}
    for form in FORMS:
        try:
            fits.append(fit_rises(form, rises))
        except UserError as reason:
            left_out[form.name] = str(reason)
    if not fits:
        raise UserError(next(iter(left_out.values())))
    return fits, left_out


def _content(
    rises: "Rises",
    fits: "list[RiseFit]",
    left_out: dict[str, str],
    held: "tuple[Trial, ...]",
    judgements: "tuple[Judgement, ...]",
) -> dict[str, Any]:
    return {
        "input": rises.source,
        "rises": len(rises.rise),
        "runs": len(set(rises.run)),
        "formats": sorted(set(rises.weights)),
        "laws": [
            {
                "law": fit.form.name,
                "formula": fit.form.formula,
                "source": fit.form.source,
                "rises": len(fit.rises.rise),
                "numbers": {name: found._asdict() for name, found in fit.numbers.items()},
                "slope": fit.slope._asdict(),
                "at": fit.middle,
                "spread": fit.spread,
                "noise": fit.noise,
            }
            for fit in fits
        ],
        "left_out": left_out,
        "held_out": [
            {
                "about": trial.about,
                "folds": list(trial.folds),
                "predictions": trial.rows,
                "laws": [
                    {"law": law.form.name, "factor": law.factor, "worse": law.worse._asdict(), "told_apart": law.told}
                    for law in trial.laws
                ],
            }
            for trial in held
        ],
        "claims": [
            {
                "claim": j.claim.name,
                "says": j.claim.says,
                "source": j.claim.source,
                "effect": j.claim.effect,
                "accepted": list(j.claim.accepted),
                "published": j.claim.paper,
                "value": j.estimate.value,
                "low": j.estimate.low,
                "high": j.estimate.high,
                "note": j.estimate.note,
                "verdict": j.verdict,
                "reason": j.reason,
            }
            for j in judgements
        ],
        "remarks": list(rises.remarks),
    }


def _show(
    rises: "Rises",
    fits: "list[RiseFit]",
    left_out: dict[str, str],
    held: "tuple[Trial, ...]",
    judgements: "tuple[Judgement, ...]",
) -> None:
    from capscale.analysis.sentences import rises as words
    from capscale.analysis.sentences.rule import texts
    from capscale.cli.analysis_tables import grid, number, sentences, wide

    rows = []
    for fit in fits:
        numbers = fit.numbers
        own = numbers.get(fit.form.number)
        law, count = fit.form.formula.partition(";")[0], str(len(fit.rises.rise))
        exponents = (_spanned(numbers.get(name)) for name in ("b", "a"))
        rows.append(
            (law, count, *exponents, f"{fit.form.number} = {_spanned(own)}" if own else "", f"{fit.spread:.0%}")
        )
    grid("Rise of the loss, in nats per token", ("law", "rises", "b", "a", "", "spread"), rows, wide())
    for trial in held:
        laws = [
            (law.form.formula.partition(";")[0], f"{law.factor:.2f}", "yes" if law.told else "no" if k else "")
            for k, law in enumerate(trial.laws)
        ]
        grid(
            f"On rows not seen: {trial.about}",
            ("law", "misses by a factor of", "predicts worse than the best"),
            laws,
            wide(),
        )
    verdicts = [(j.claim.says, number(j.estimate.value, ".3g"), _ends(j), j.verdict) for j in judgements]
    grid("Claims", ("", "found", "95 %", "verdict"), verdicts, wide())
    lines = texts(words.RULES, words.Subject(tuple(fits), held, judgements))
    sentences("To be known", [*lines, *(f"{name}: not fitted: {reason}" for name, reason in left_out.items())])
    sentences("Runs", rises.remarks)


def _spanned(found: "Interval | None") -> str:
    return "not measured" if found is None else f"{found.estimate:.3g} ({found.low:.3g} to {found.high:.3g})"


def _ends(of: "Judgement") -> str:
    return "" if of.estimate.missing else f"{of.estimate.low:.3g} to {of.estimate.high:.3g}"
