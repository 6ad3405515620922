"""A rule is a sentence with the condition under which it is true: nothing else puts words into a report."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

NOT_MEASURED = "not measured"
"""Words that stand in prose for a number that there is none of."""


class Sentence(NamedTuple):
    """A sentence that was said, and the rule that said it."""

    rule: str
    text: str


@dataclass(frozen=True)
class Rule:
    """One sentence of a report.

    Attributes:
      name: unique among all rules; tests and JSON know the sentence by it.
      holds: the condition. It gets the subject (a Study, a fit with its profiles), and the item where there is `each`.
      text: the sentence, with the numbers filled in by `number` and its like; called with the same, where it holds.
      each: items of the subject that are spoken of one by one, in order; None for a sentence about the whole.
    """

    name: str
    holds: Callable[..., bool]
    text: Callable[..., str]
    each: Callable[[Any], Iterable[Any]] | None = None


def always(*_: Any) -> bool:
    """The condition of a sentence that is true of every subject, or of every item that `each` has chosen."""
    return True


def say(rules: Sequence[Rule], subject: Any) -> list[Sentence]:
    """The sentences of `rules` that are true of `subject`, in the order of the rules."""
    said = []
    for rule in rules:
        items = [()] if rule.each is None else [(item,) for item in rule.each(subject)]
        said += [Sentence(rule.name, rule.text(subject, *item)) for item in items if rule.holds(subject, *item)]
    return said


def texts(rules: Sequence[Rule], subject: Any) -> list[str]:
    """The sentences of `rules` that are true of `subject`, without the names of their rules."""
    return [sentence.text for sentence in say(rules, subject)]


def number(x: float, style: str = ".3g") -> str:
    """A number in prose, `NOT_MEASURED` for one that is not finite."""
    return format(x, style) if math.isfinite(x) else NOT_MEASURED


def listing(names: Iterable[str], most: int = 12) -> str:
    """Names with commas and "and"; beyond `most`, how many more."""
    shown = list(names)
    if len(shown) > most:
        return f"{', '.join(shown[:most])} and {len(shown) - most} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def plural(count: int, noun: str) -> str:
    """A count with its noun: 1 run, 2 runs."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
