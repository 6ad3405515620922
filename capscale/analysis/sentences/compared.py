"""Sentences about two tables held against each other: whether that can be done, and what it says."""

from collections.abc import Sequence

from capscale.analysis.comparison.compare import Comparison, NumberDifference
from capscale.analysis.comparison.pairs import LossDifference
from capscale.analysis.sentences.rule import Rule, listing, number, plural

BY_CHANCE = 0.05
"""Share of 95 % intervals that leave the truth out."""


def _same(of: Comparison) -> int:
    return sum(pair.same for pair in of.pairs)


def _told(lines: Sequence[NumberDifference] | Sequence[LossDifference]) -> int:
    return sum(line.told for line in lines)


def _seeds(of: Comparison) -> str:
    unknown = sum(pair.first.seed != pair.first.seed for pair in of.pairs)
    return f", {unknown} of them without a seed" if unknown else ""


def _overall(of: Comparison) -> str:
    line = of.losses[-1]
    cells = "pair" if line.how == "paired" else "cell"
    within = f" (standard error {number(line.standard_error, '.2g')})"
    told = "told from 0" if line.told else "not told from 0"
    return (
        f"The second's losses lie {number(line.mean, '+.3g')} nats a token from the first's{within}, over "
        f"{plural(line.cells, cells)} of {line.curve}: {told} at 95 %."
    )


def _chance(lines: Sequence[NumberDifference]) -> str:
    return (
        f"{_told(lines)} of {plural(len(lines), 'interval')} leave 0 out; of so many, {BY_CHANCE * len(lines):.2g} "
        "would by chance."
    )


VERDICT = (
    Rule(
        "compare: same rows",
        lambda of: of.same_rows,
        lambda of: f"Both hold the same {plural(len(of.first), 'run')}, with the same losses: nothing differs.",
    ),
    Rule(
        "compare: nothing",
        lambda of: not of.comparable,
        lambda of: "These two are not comparable: neither losses, nor capacities, nor laws.",
    ),
    Rule(
        "compare: losses why not",
        lambda of: bool(of.losses_why_not),
        lambda of: f"Losses are not comparable: {of.losses_why_not}.",
    ),
    Rule(
        "compare: capacities why not",
        lambda of: bool(of.capacities_why_not),
        lambda of: f"Capacities are not comparable: {of.capacities_why_not}.",
    ),
    Rule(
        "compare: law why not",
        lambda of: bool(of.law_why_not),
        lambda of: f"The {of.law} law is not compared: {of.law_why_not}.",
    ),
    Rule("compare: losses", lambda of: bool(of.losses) and not of.same_rows, _overall),
    Rule(
        "compare: capacities",
        lambda of: bool(of.capacities) and not of.same_rows,
        lambda of: f"Capacities: {_chance(of.capacities)}",
    ),
    Rule("compare: law", lambda of: bool(of.numbers) and not of.same_rows, lambda of: f"Law: {_chance(of.numbers)}"),
)
SHARED = (
    Rule(
        "compare: shared",
        lambda of: True,
        lambda of: (
            f"{plural(len(of.first), 'run')} in the first, {len(of.second)} in the second, {len(of.pairs)} in both, of "
            f"one format, size, number of tokens and seed{_seeds(of)}."
        ),
    ),
    Rule(
        "compare: same runs",
        lambda of: _same(of) > 0 and not of.same_rows,
        lambda of: (
            f"{_same(of)} of these are the very same run: their difference is 0, and intervals of capacities and of "
            "the law, which take the two tables' errors as independent, are wider than need be."
        ),
    ),
    Rule(
        "compare: only first", lambda of: len(of.only[0]) > 0, lambda of: f"In the first alone: {listing(of.only[0])}."
    ),
    Rule(
        "compare: only second",
        lambda of: len(of.only[1]) > 0,
        lambda of: f"In the second alone: {listing(of.only[1])}.",
    ),
)
LOSSES = (
    Rule(
        "compare: paired",
        lambda of: any(line.how == "paired" for line in of.losses),
        lambda of: (
            "Paired: runs of one seed; the error is that of the mean over pairs, the interval Student's t. An error "
            "that all runs of one table share, such as that of its machine, is not in it."
        ),
    ),
    Rule(
        "compare: unpaired",
        lambda of: any(line.how == "unpaired" for line in of.losses),
        lambda of: (
            "Unpaired: no seed is in both; means of every size, with errors by how far the seeds of each table lie "
            "apart, where that is known."
        ),
    ),
)
CAPACITIES = (
    Rule(
        "compare: other text",
        lambda of: bool(of.capacities) and bool(of.losses_why_not),
        lambda of: "Each capacity is a share of its own table's dense models, on its own text.",
    ),
)
EVERY = (*VERDICT, *SHARED, *LOSSES, *CAPACITIES)
