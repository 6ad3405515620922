"""Sentences about which further number a table asks of the additive law, or that it cannot tell."""

import math

from capscale.analysis.extensions import Asked, Extensions
from capscale.analysis.odds import ENOUGH
from capscale.analysis.sentences.rule import Rule, listing, number

WORDS = {
    "eta": "a factor of the gradients' format on D",
    "k": "capacity on tokens as well (D rho^k)",
    "delta": "a drift of capacity with D/N",
    "g": "a coupling of both terms",
}


def _named(asked: Asked) -> str:
    """A number in words, with its intervals."""
    spans = [f"{n} = {number(i.estimate)} ({number(i.low)} to {number(i.high)})" for n, i in asked.intervals.items()]
    return f"{WORDS[asked.shape.number]} ({listing(spans)})" if spans else WORDS[asked.shape.number]


def _listed(of: Extensions, last: str = "and") -> str:
    words = [WORDS[a.shape.number] for a in of.asked]
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else words[0]


def _denied(of: Extensions) -> str:
    return f"p = {of.chance:.1g}, errors that runs share counted"


def _held_out(of: Extensions) -> str:
    error = of.allowed[0].held_out
    if math.isnan(error):
        return "no rows could be held out"
    return (
        f"beyond {of.cuts} cuts in N and D its error is {number(error)} nats, that of the additive law "
        f"{number(of.held_out)}"
    )


def _called(of: Extensions) -> str:
    (only,) = of.allowed
    others = [a.odds for a in of.asked if a is not only and not math.isnan(a.odds)]
    by_others = (
        f", and by each of the others they are {number(min(others))} times less likely or more" if others else ""
    )
    return (
        f"The table asks for {_named(only)}: {only.shape.law.name} describes the runs, the additive law does not "
        f"({_denied(of)}){by_others}; {_held_out(of)}"
    )


def _several(of: Extensions) -> str:
    low, high = of.ratios
    return (
        f"The table cannot tell {listing(_named(a) for a in of.allowed)} apart: the additive law does not describe the "
        f"runs ({_denied(of)}), and none of these both describes them and makes them {ENOUGH:g} times as likely as "
        f"each of the others does. Runs beyond D/N of {number(low)} to {number(high)} would tell more than others"
    )


def _contradicted_beyond(of: Extensions) -> str:
    return (
        f"The table cannot tell: of these laws the runs allow only {_named(of.allowed[0])}, and rows held out deny "
        f"it: {_held_out(of)}"
    )


def _open(of: Extensions) -> str:
    room = [a for a in of.asked if a.leaves_room]
    told = listing(_named(a) if a.intervals else f"{WORDS[a.shape.number]} (no interval)" for a in room)
    return f"The table cannot tell: its runs ask for no further number, and leave room for {told}"


def _none(of: Extensions) -> str:
    return f"The table asks for none of these: {listing(_named(a) for a in of.asked)}"


RULES = (
    Rule("further: called", lambda of: of.verdict == "one", _called),
    Rule("further: several", lambda of: of.verdict == "several", _several),
    Rule(
        "further: other",
        lambda of: of.verdict == "other",
        lambda of: (
            f"The runs contradict the additive law ({_denied(of)}), and the table asks for something else than one of "
            f"{_listed(of, 'or')}"
        ),
    ),
    Rule("further: held-out rows deny it", lambda of: of.verdict == "denied", _contradicted_beyond),
    Rule("further: open", lambda of: of.verdict == "open", _open),
    Rule("further: none", lambda of: of.verdict == "none", _none),
    Rule(
        "further: gradients not asked",
        lambda of: all(a.shape.number != "eta" for a in of.asked),
        lambda of: "No run here has compressed gradients: whether they take a factor of D is not asked",
    ),
)
"""Sentences about one `Extensions`, in order."""
