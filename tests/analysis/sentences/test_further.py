"""Every sentence about further numbers where it is true, and where it is not: of findings that were written here."""

import re
from typing import Any, cast

import numpy as np
import pytest

from capscale.analysis.extensions import Asked, Extensions
from capscale.analysis.families import GRADIENTS_FACTOR, SHAPES
from capscale.analysis.numbers import further_numbers, json_ready
from capscale.analysis.sentences.further import RULES, WORDS
from capscale.analysis.sentences.rule import say
from capscale.analysis.uncertainty import Interval

SHAPE = {shape.number: shape for shape in (*SHAPES, GRADIENTS_FACTOR)}
NEAR = {"g": (1.0, 0.95, 1.1), "k": (0.0, -0.2, 0.2), "delta": (0.0, -0.01, 0.02), "eta": (1.0, 0.9, 1.1)}


def asked(number, *interval, passes=None, odds=float("nan"), held_out=float("nan"), chance=0.5):
    name = "eta[quartet]" if number == "eta" else number
    spans = {name: Interval(*interval)} if interval else {}
    return Asked(SHAPE[number], chance, spans, passes, odds, held_out)


def found(chance=0.4, held_out=float("nan"), cuts=0, **others):
    fitted = {} if chance > 0.02 else {"passes": False, "odds": 3e4}
    numbers = {n: others.get(n) or asked(n, *NEAR[n], **fitted) for n in NEAR}
    return Extensions(cast(Any, Additive()), chance, tuple(numbers.values()), held_out, cuts)


class Additive:
    """A fit, as far as its law's name and its runs go: the last row has no weight."""

    class law:
        name = "decoupled"

    class problem:
        weight = np.array([1.0, 1.0, 0.0])

    class table:
        @staticmethod
        def column(name):
            return np.array({"N": [1e8, 1e8, 1e8], "D": [25e8, 200e8, 900e8]}[name])


DRIFT = asked("delta", 0.09, 0.08, 0.1, passes=True, odds=1.0, held_out=0.004)
NONE = found()
CASES = {
    "further: called": (
        found(1e-9, 0.016, 6, delta=DRIFT),
        r"asks for a drift of capacity with D/N \(delta = 0\.09 \(0\.08 to 0\.1\)\): decoupled-drift .* runs, "
        r"the additive law does not \(p = 1e-09, .* 3e\+04 times less likely or more; beyond 6 cuts in "
        r"N and D its error is 0\.004 nats, .* law 0\.016",
    ),
    "further: several": (
        found(1e-3, delta=DRIFT, g=asked("g", 0.8, 0.7, 0.9, passes=True, odds=3.0)),
        r"cannot tell a drift .* and a coupling of both terms \(g = 0\.8 .*\) apart.* 20 times.*D/N of 25 to 200 would",
    ),
    "further: other": (found(1e-3), r"contradict the additive law \(p = 0\.001.*something else than one of a coupling"),
    "further: held-out rows deny it": (
        found(1e-3, 0.003, 6, delta=DRIFT), r"cannot tell: .* allow only a drift.*error is 0\.004 nats.* law 0\.003",
    ),
    "further: open": (
        found(delta=asked("delta", 0.05, -0.1, 0.2), k=asked("k", chance=float("nan"))),
        r"cannot tell: .* leave room for capacity on tokens .*rho\^k\) \(no interval\) and a drift.*-0\.1 to 0\.2",
    ),
    "further: none": (NONE, r"asks for none of these: a coupling of both terms \(g = 1 \(0\.95 to 1\.1\)\), .* and"),
    "further: gradients not asked": (
        NONE._replace(asked=NONE.asked[:3]), "whether they take a factor of D is not asked",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [rule.name for rule in RULES])
def test_said_where_true_and_nowhere_else(name):
    of, wanted = CASES[name]
    (said,) = [s.text for s in say(RULES, of) if s.rule == name]
    assert re.search(wanted, said), said
    for other, (elsewhere, _) in CASES.items():
        also = {s.rule for s in say(RULES, elsewhere)}
        assert (name in also) == (name == other or (name, other) == ("further: none", "further: gradients not asked"))


def test_every_verdict_is_said_once():
    verdicts = [of.verdict for of, _ in CASES.values()]
    assert set(verdicts) == {"one", "several", "other", "denied", "open", "none"}
    for of, _ in CASES.values():
        assert len([s for s in say(RULES, of) if s.rule != "further: gradients not asked"]) == 1
    assert set(WORDS) == set(SHAPE)


def test_a_wider_law_whose_error_is_not_known_is_called_without_it():
    of = found(1e-9, delta=DRIFT._replace(held_out=float("nan")))
    assert of.verdict == "one"
    assert say(RULES, of)[0].text.endswith("; no rows could be held out")


@pytest.mark.parametrize(
    ("drift", "coupling", "named"),  # whether each passes, and its odds
    [
        ((True, 1.0), (False, 30.0), "delta"),
        ((True, 1.0), (True, 30.0), "delta"),  # both describe the runs, and one is far more likely
        ((True, 1.0), (True, 19.0), "delta g"),
        ((True, 1.0), (False, 19.0), "delta g"),  # as likely as what passes: not told from it
        ((True, 19.0), (False, 1.0), "g delta"),
        ((True, 30.0), (False, 1.0), "g delta"),  # what is likely does not pass, what passes is not likely
        ((False, 1.0), (False, 1.0), ""),
    ],
)
def test_laws_that_are_not_told_apart_are_named_both(drift, coupling, named):
    of = found(
        1e-3,
        delta=asked("delta", 0.09, 0.08, 0.1, passes=drift[0], odds=drift[1]),
        g=asked("g", 0.8, 0.7, 0.9, passes=coupling[0], odds=coupling[1]),
    )
    assert " ".join(a.shape.number for a in of.allowed) == named
    assert of.verdict == {0: "other", 1: "one", 2: "several"}[len(of.allowed)]
    (said,) = [s for s in say(RULES, of) if s.rule != "further: gradients not asked"]
    for number in named.split():
        assert WORDS[number] in said.text


@pytest.mark.parametrize(
    ("number", "interval", "room"),
    [
        ("g", (1.0, 0.85, 1.2), False),
        ("g", (1.0, 0.75, 1.1), True),
        ("eta", (1.1, 1.0, 1.3), True),
        ("delta", (0.0, -0.04, 0.04), False),
        ("delta", (0.0, -0.06, 0.04), True),
        ("k", (0.3, 0.1, 0.49), False),
    ],
)
def test_room_is_what_would_matter(number, interval, room):
    assert asked(number, *interval).leaves_room is room


def test_numbers_are_written_with_their_words():
    written = json_ready(further_numbers(CASES["further: called"][0]))
    assert written["verdict"] == "one"
    (drift,) = [n for n in written["numbers"] if n["number"] == "delta"]
    assert (drift["passes"], drift["odds"], drift["allowed"]) == (True, 1.0, True)
    assert [n["number"] for n in written["numbers"] if n["allowed"]] == ["delta"]
    assert drift["intervals"] == {"delta": {"estimate": 0.09, "low": 0.08, "high": 0.1}}
    assert written["words"][0].startswith("The table asks for a drift")
    assert further_numbers(None) is None
