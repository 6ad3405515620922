"""Every rule on a table where it is true and is said, and on one where it is false and is not."""

import re
from dataclasses import replace

import numpy as np
import pytest
from support.tables import (
    TABLES,
    allowed,
    benched,
    closed,
    contradicted,
    given,
    inspected,
    looked_at,
    moved,
    only_profile,
    resampled,
    shared_pull,
    sharing,
    studied,
    with_delta,
    with_fit,
    with_prior,
)  # fmt: skip

from capscale.analysis.cut_offs import CutOffs
from capscale.analysis.sentences import alts, bench, caveats, fits, notes, outlying, stored, summary, weights
from capscale.analysis.sentences.rule import always, say

pytestmark = pytest.mark.ci

EVERY = (*summary.RULES, *caveats.RULES, *fits.RULES, *notes.EVERY, *bench.EVERY, *outlying.BENCH, *alts.EVERY)
RULES = {rule.name: rule for rule in EVERY}


# rule: (subject of which it is true, what it says there, subject of which it is false)
# fmt: off
CASES = {
    "runs that pull": (lambda: studied("one off"), r"that the others follow: int2 1e\+07", lambda: studied("good")),
    "dense law": (lambda: studied("dense runs"), r"dense law: alpha is 0\.3", lambda: studied("good")),
    "ends below dense": (
        lambda: studied("saturating"), r"learned integer formats are worth less.*Lsat = 0\.\d+ \(0\.\d+ to 0\.\d+,",
        lambda: studied("good"),
    ),
    "part missing": (
        lambda: studied("unknown errors"), "There is no law of GMSE here: no compressed format",
        lambda: studied("good"),
    ),
    "no dense runs": (
        lambda: studied("no dense runs"), r"a model in int8, not of a dense one.*tanh law puts rho at int8 0\.9",
        lambda: studied("good"),
    ),
    "decoupled fit": (lambda: studied("one off"), "pulls the decoupled fit", lambda: studied("good")),
    "constants": (lambda: studied("good"), "these kinds of formats", lambda: studied("dense runs")),
    "constants of dense models": (lambda: studied("dense runs"), "and this recipe", lambda: studied("good")),
    "outlying row": (
        lambda: looked_at("one off"), r"pulls the tanh fit: its loss is \S+ where the other runs say",
        lambda: looked_at("good"),
    ),
    "more outlying rows": (lambda: looked_at("many off"), r"and so do? \d more runs?:", lambda: looked_at("one off")),
    "law wrong": (lambda: looked_at("small"), "it is the law that does not", lambda: looked_at("one off")),
    "outlying format": (
        lambda: looked_at("useless"), "4 of 4 runs of int1 lie above", lambda: looked_at("one off"),
    ),
    "without outlying rows": (
        lambda: looked_at("one off"), r"without 1 outlying run the tanh fit has RMSE 0\.00\d+ nats",
        lambda: looked_at("good"),
    ),
    "few to spare": (
        lambda: looked_at("tiny"), "8 runs for 5 fitted numbers: 3 left", lambda: looked_at("good"),
    ),
    "opening": (lambda: studied("good"), "38 runs in 8 compressed formats and dense", lambda: studied("dense runs")),
    "opening: dense runs": (lambda: studied("dense runs"), "9 dense runs, none", lambda: studied("good")),
    "opening: no dense runs": (lambda: studied("no dense runs"), "none dense", lambda: studied("good")),
    "opening: another unit": (lambda: studied("no dense runs"), "size of a model in int8", lambda: studied("good")),
    "note: resamples": (lambda: studied("good"), "60 resamples", lambda: studied("one size")),
    "note: over E": (lambda: studied("good"), "over all E", lambda: studied("dense runs")),
    "bench: outlying row": (
        lambda: inspected("one off"), r"pulls the fits of decoupled and tanh", lambda: inspected("good"),
    ),
    "bench: without outlying rows": (
        lambda: inspected("one off"), r"decoupled 0\.00\d+ \(", lambda: inspected("good"),
    ),
    "nothing measured": (lambda: studied("one size"), "No capacity is measured", lambda: studied("good")),
    "one format": (lambda: studied("one format"), "trained in int4 is worth", lambda: studied("good")),
    "extremes": (lambda: studied("good"), r"in int1 .* in int8", lambda: studied("noisy")),
    "no extremes": (lambda: studied("noisy"), "No capacity stands out", lambda: studied("good")),
    "in order": (
        lambda: studied("good"), r"integer formats capacity falls.*1\.00 over 4",
        lambda: studied("reversed"),
    ),
    "reversed": (lambda: studied("reversed"), r"capacity rises with.*-1\.00 over 3", lambda: studied("good")),
    "order not told": (lambda: studied("noisy"), "these runs do not say", lambda: studied("good")),
    "one curve holds": (lambda: studied("good"), "One curve serves all kinds", lambda: studied("two curves")),
    "one curve denied": (lambda: studied("two curves"), r"denied.*sparse.*\+0\.", lambda: studied("good")),
    "one curve open": (lambda: studied("noisy"), "cannot be told", lambda: studied("good")),
    "another estimator": (lambda: studied("good"), r"fw\] stands 0\.\d+ above", lambda: studied("noisy")),
    "another estimator not told": (lambda: studied("noisy"), "are not told apart", lambda: studied("good")),
    "near-tie": (lambda: studied("noisy"), r"Near-tie.*turns round in \d+%", lambda: studied("reversed")),
    "not measured": (lambda: studied("one size"), "int4 and int2 is not measured", lambda: studied("good")),
    "too few for a rank correlation": (
        lambda: studied("one format"), r"integer formats \(1",
        lambda: studied("good"),
    ),
    "level kind": (lambda: studied("level"), "No rank correlation for integer", lambda: studied("good")),
    "one kind": (lambda: studied("reversed"), "law of GMSE are integer", lambda: studied("good")),
    "kinds not compared": (lambda: studied("two seeds"), "was not looked at", lambda: studied("good")),
    "both operands": (lambda: studied("both operands"), "int8 x int8", lambda: studied("good")),
    "no GMSE": (lambda: studied("unknown errors"), "no GMSE is known", lambda: studied("both operands")),
    "left out": (lambda: studied("extra dense"), "6 dense runs at other D", lambda: studied("good")),
    "fit": (lambda: studied("good"), "cannot be told from E", None),
    "capacities without exponents": (
        lambda: studied("good"), "read off the dense",
        lambda: studied("several budgets"),
    ),
    "capacities of the law": (lambda: studied("several budgets"), "dense sizes here: 3", lambda: studied("good")),
    "exponents": (lambda: studied("several budgets"), r"D/N runs from 6\.67 to 267", lambda: studied("good")),
    "one seed": (lambda: studied("good"), "One seed", lambda: studied("two seeds")),
    "seeds": (lambda: studied("two seeds"), "At least 2 seeds", lambda: studied("good")),
    "prolonged": (lambda: studied("small"), "the dense curve was prolonged", lambda: studied("one format")),
    "validation error": (lambda: studied("good"), r"± 0\.010 nats", lambda: studied("reversed")),
    "law contradicted": (contradicted, r"tanh-coupled, L = .* of which it is g = 1", lambda: looked_at("good")),
    "one budget of tokens": (lambda: looked_at("good"), "D = 2.048e", lambda: looked_at("several budgets")),
    "constant ratio": (
        lambda: looked_at("constant ratio"), "every D/N is 100",
        lambda: looked_at("several budgets"),
    ),
    "one size": (lambda: looked_at("one size"), r"every run has N = 1e\+08", lambda: looked_at("good")),
    "two sizes": (lambda: looked_at("two sizes"), "2 model sizes", lambda: looked_at("good")),
    "shared errors": (
        lambda: sharing(0.9, 4.0), r"runs of one size share an error with probability 0\.90, of about 0\.00",
        lambda: sharing(0.1, 0.0),
    ),
    "checkpoints": (lambda: sharing(0.9, 4.0, runs=5), "are checkpoints of 5 runs", lambda: sharing(0.9, 4.0)),
    "not converged": (lambda: with_fit(converged=False), "do not quote", lambda: looked_at("good")),
    "lonely start": (lambda: with_fit(agreeing=1), "only 1 of 8", lambda: with_fit(agreeing=2)),
    "missed optimum": (lambda: only_profile("F", below=1.0), "goes 1 below", lambda: only_profile("F", below=0.0)),
    "least squares": (lambda: with_delta(10.0), "never acts", lambda: with_delta(1e-3)),
    "least absolute deviations": (lambda: with_delta(1e-9), "least absolute", lambda: with_delta(1e-3)),
    "fixed numbers contradicted": (
        lambda: given("good", alpha=0.05), r"contradict .* alpha = 0\.05; true", lambda: given("good", alpha=0.22),
    ),
    "fixed numbers agree": (
        lambda: given("good", alpha=0.22), "do not contradict", lambda: given("good", alpha=0.05),
    ),
    "fixed numbers allowed": (
        lambda: allowed("good", alpha=0.05), "with the errors that runs share here it is 1.01 times",
        lambda: given("good", alpha=0.05),
    ),
    "fixed numbers that pull": (
        lambda: given("good", alpha=0.05, F=0.41), "alpha pulls: freed alone, alpha goes to",
        lambda: given("good", F=0.41),
    ),
    "fixed numbers pull together": (
        lambda: shared_pull("good", alpha=0.05, F=0.41), "combination", lambda: given("good", alpha=0.05, F=0.41),
    ),
    "fixed numbers not compared": (
        lambda: replace(given("good", alpha=0.22), comparison=None), "could not be held",
        lambda: given("good", alpha=0.22),
    ),
    "capacity not measured": (
        lambda: resampled("useless", "decoupled"), "int1 is not measured: it ended on the bound",
        lambda: resampled("good", "decoupled"),
    ),
    "unidentified": (
        lambda: looked_at("one size", profiled=True), "alpha is not identified",
        lambda: only_profile("F"),
    ),
    "tied": (lambda: looked_at("one size", profiled=True), "trade off", lambda: only_profile("F")),
    "bound": (lambda: moved("E", 0.0), "E hit its bound 0", lambda: looked_at("good")),
    "points left out": (
        lambda: only_profile("F", left_out=3), r"3 points of \d+ left out",
        lambda: only_profile("F"),
    ),
    "above one": (
        lambda: moved("rho[int4]", np.log(1.2), "decoupled"), r"rho of int4 is 1\.200",
        lambda: looked_at("good", "decoupled"),
    ),
    "priors": (
        lambda: with_prior("good", alpha=(0.2, 0.05)), r"alpha = 0\.2 ± 0\.05", lambda: given("good", alpha=0.22),
    ),
    "note: dense curve": (lambda: studied("good"), "no exponent enters", lambda: studied("several budgets")),
    "note: joint fit": (lambda: studied("several budgets"), "one free ρ", lambda: studied("good")),
    "note: own kind": (lambda: studied("good"), r"\(integer and sparse\)", lambda: studied("one format")),
    "note: other estimators": (lambda: studied("good"), "another gradient estimator", lambda: studied("reversed")),
    "note: not measured": (lambda: studied("one size"), "has its reason", lambda: studied("good")),
    "note: open ends": (lambda: studied("one size"), "A dash", lambda: closed("good")),
    "note: beyond the dense sizes": (lambda: studied("small"), "beyond", lambda: studied("one format")),
    "bench: held-out rows": (
        lambda: benched("grid"), r"of larger models \(.* of longer trainings \(", lambda: benched("several budgets"),
    ),
    "bench: no cuts": (
        lambda: benched("good"), "no longer trainings can be held out: there are too few lengths",
        lambda: benched("grid"),
    ),
    "bench: cut-offs without rows": (
        lambda: benched("grid", cut_offs=CutOffs(sizes=(1e8, 1e12))), r"or nothing to predict: N <= 1e\+12$",
        lambda: benched("grid"),
    ),
    "bench: fewer cuts": (
        lambda: benched("one format"), r"decoupled \(2 of 3 cuts in N\)", lambda: benched("two seeds"),
    ),
    "bench: other runs": (
        lambda: benched("grid", "tanh", "dense"), r"dense is about 15 of the 45 runs, and ranks last",
        lambda: benched("grid"),
    ),
    "bench: gaps": (lambda: benched("grid"), "A dash", lambda: benched("grid", "tanh")),
    "bench: ensemble": (lambda: benched("grid"), r"each of its \d cuts grow", lambda: benched("several budgets")),
    "bench: ranks": (lambda: [benched("grid")], "1 the best", lambda: [benched("several budgets")]),
    "bench: no ranks": (lambda: [benched("several budgets")], "laws stand by their RMSE", lambda: [benched("grid")]),
    "bench: not fitted": (
        lambda: [benched("grid"), benched("unknown errors")], r"marked \* could not be fitted",
        lambda: [benched("grid")],
    ),
    "caption: capacity": (lambda: studied("good"), "Each point is a format", lambda: studied("both operands")),
    "caption: curves of kinds": (lambda: studied("good"), "integer and sparse", lambda: studied("one format")),
    "caption: one curve": (lambda: studied("good"), "thin dashed", lambda: studied("reversed")),
    "caption: other estimators": (lambda: studied("good"), "Hollow", lambda: studied("reversed")),
    "caption: ideal bits": (lambda: studied("good"), "upper axis", lambda: studied("both operands")),
    "caption: loss": (lambda: studied("good"), "dashed line goes", lambda: studied("one size")),
    "caption: loss alone": (lambda: studied("one size"), r"^Loss against size\.$", lambda: studied("good")),
    "caption: errors by seeds": (lambda: studied("two seeds"), "means over seeds", lambda: studied("good")),
    "caption: errors of the text": (lambda: studied("good"), "at dense: 95 %", lambda: studied("reversed")),
    "alt: capacity": (lambda: studied("good"), r"from 0\.\d+ for int8 .* for int1", lambda: studied("both operands")),
    "alt: rank": (lambda: studied("good"), r"error [01]\.\d\d; ", lambda: studied("one format")),
    "alt: agreement": (lambda: studied("good"), r"of \d formats? hold", lambda: studied("no dense runs")),
    "alt: profiles": (lambda: studied("good"), r"F 0\.\d+ to 0\.\d+", lambda: replace(studied("good"), inspected=None)),
    "alt: plane": (lambda: studied("good"), r"int1 is nearest to the bound, 0\.27", lambda: studied("both operands")),
}
# fmt: on
ALWAYS = {name for name, rule in RULES.items() if rule.holds is always and rule.each is None}


DEAR = ("bench: ", "no dense runs", "opening: no dense", "opening: another unit", "left out")
"""Beginnings of the rules whose tables, of another shape each, are fitted for nothing else here."""


def cases(names):
    return [pytest.param(name, marks=pytest.mark.ci if name.startswith(DEAR) else ()) for name in names]


def texts(name, subject):
    return [sentence.text for sentence in say((RULES[name],), subject)]


def test_every_rule_has_a_table_where_it_is_true_and_one_where_it_is_false():
    elsewhere = {rule.name for rule in (*weights.RULES, *stored.RULES)}  # test_weights.py, test_stored_statements.py
    assert set(CASES) | ALWAYS | elsewhere == set(RULES)
    assert len(RULES) == len(EVERY)


@pytest.mark.parametrize("name", cases(CASES))
def test_said_where_true(name):
    true, wanted, _ = CASES[name]
    said = texts(name, true())
    assert any(re.search(wanted, text) for text in said), said


@pytest.mark.parametrize("name", cases(name for name, case in CASES.items() if case[2] is not None))
def test_not_said_where_false(name):
    assert texts(name, CASES[name][2]()) == []


@pytest.mark.ci
@pytest.mark.parametrize("name", sorted(set(TABLES) - {"two sizes", "constant ratio"}))
def test_no_sentence_has_a_number_that_is_none(name):
    rules = (*summary.RULES, *caveats.RULES, *notes.EVERY, *(r for r in alts.EVERY if r not in alts.BENCH))
    for said in say(rules, studied(name)):
        assert not re.search(r"\b(nan|inf)\b|None|\b0 (runs|points)\b", said.text), said


def test_a_capacity_on_its_bound_is_left_out_of_order_and_curves():
    found = studied("useless")
    useless = next(c for c in found.capacities if c.curve == "int1")
    assert useless.why_not == "it ended on the bound of the search, 0.0001"
    assert [k.curves for k in found.kinds] == [("int8", "int4", "int2")]
    assert not any("int1" in (t.first, t.second) for t in found.ties)
    said = {s.rule for s in say((*summary.RULES, *caveats.RULES), found) if "int1" in s.text}
    assert said == {"not measured", "runs that pull", "fit", "decoupled fit"}


def test_sizes_are_those_of_the_table():
    assert texts("sizes", studied("one size")) != texts("sizes", studied("good"))
    assert "464 to 2.054e+04" in texts("sizes", studied("good"))[0]
