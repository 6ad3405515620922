"""`capscale plan --rounded`: how far to train a model that will be rounded after."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from capscale.cli.fitting import Fitting, numbers_of, said_of, words_about
from capscale.errors import UserError

if TYPE_CHECKING:
    from capscale.analysis.rises.lengths import Length
    from capscale.cli.planning import Plan


def plan_rounded(asked: "Plan") -> int:
    """Fits dense losses and rises, and prints the best length of every format."""
    from capscale.analysis.numbers import json_ready
    from capscale.analysis.planner import Room
    from capscale.analysis.predict import Predictor, target
    from capscale.analysis.rises.fit import fit_rises
    from capscale.analysis.rises.forms import GMSE
    from capscale.analysis.rises.lengths import Limit, best_lengths
    from capscale.analysis.rises.table import read_rises
    from capscale.cli.analysis_tables import grid, sentences, span, wide

    given = {"--loss": asked.loss, "--tokens": asked.tokens, "--tokens-per-parameter": asked.tokens_per_parameter}
    given |= {"--speed": asked.speed or None}
    if unused := [name for name, value in given.items() if value is not None]:
        raise UserError(f"--rounded plans how far to train within --memory or --flops; leave {', '.join(unused)} out")
    formats = [name for name in asked.formats if name != "dense"]
    if both := [name for name in formats if "/" in name]:
        raise UserError(f"--formats {both[0]}: rounding after training is of weights; name a weight format alone")
    cache = asked.cached.cache()
    rises = read_rises(list(asked.rounded))
    form = "dense" if asked.fitting.form == Fitting.form else asked.fitting.form
    ensemble, inspected = replace(asked.fitting, form=form).gathered(asked.table)
    fit = fit_rises(GMSE, rises)
    predictor = Predictor(ensemble, (target("dense", runs=ensemble.table),), asked.fitting.draws)
    found, refused = best_lengths(predictor, fit, Limit(asked.memory, asked.flops, Room(cache)), formats)
    if asked.json:
        lengths = [
            each._asdict() | {name: getattr(each, name)._asdict() for name in ("D", "loss", "rise")} for each in found
        ]
        content = {"lengths": lengths, "refused": refused, "fit": said_of(inspected), "ensemble": numbers_of(ensemble)}
        content["rises"] = {name: number._asdict() for name, number in fit.numbers.items()} | {"spread": fit.spread}
        print(json.dumps(json_ready(content), indent=1))
        return 0
    rows = []
    for each in found:
        cached = () if cache is None else (each.cache,)
        sizes = (f"{value:.3g}" for value in (each.N, each.memory, *cached, each.D.estimate))
        losses = (f"{each.loss.estimate:.4f}", span(each.loss, ".3f"), f"{each.rise.estimate:.3f}")
        ratio, behind = f"{each.D.estimate / each.N:.3g}", f"{each.behind:.4f}"
        rows.append((each.weights, *sizes, span(each.D, ".3g"), ratio, *losses, behind))
    counted = ("bytes",) if cache is None else ("bytes", "of them cache")
    columns = ("rounded to", "N", *counted, "train to D", "95 %", "D/N", "loss after", "95 %", "of it rise", "behind")
    grid("How far to train before rounding, best first", columns, rows, wide())
    lines = [*words_about(inspected), *filter(None, map(_end, found))]
    lines += [] if cache is None else asked.cached.said(cache, [each.N for each in found])
    sentences("To be known", [*lines, *(f"not planned: {reason}" for reason in refused.values())])
    sentences("Runs", rises.remarks)
    return 0


def _end(length: "Length") -> str:
    """A sentence where the best length is an end of what the tables have."""
    if length.at_end == "longest":
        return f"{length.weights}: the loss after rounding still falls at the longest training that the tables have"
    if length.at_end == "shortest":
        return f"{length.weights}: the loss after rounding rises from the shortest training on that the tables have"
    return ""
