"""Two tables held against each other: differences that are there are told, and what is not comparable is said so."""

import json
from dataclasses import replace

import numpy as np
import pytest
from support.synthetic import rho_of, runs, write_sweep

from capscale.analysis.comparison.compare import Comparison, NumberDifference, compare, number_difference
from capscale.analysis.comparison.page import comparison_numbers, html, markdown
from capscale.analysis.comparison.pairs import ALL, loss_differences, pairs
from capscale.analysis.comparison.settings import differing, settings
from capscale.analysis.rows import read
from capscale.analysis.sentences import compared
from capscale.analysis.sentences.rule import say
from capscale.analysis.table import make_table
from capscale.analysis.uncertainty import Interval
from capscale.cli import main

NAMES = ("int4", "int2", "top50")


def table(source="made", *, shift=0.0, noise=0.0, seeds=(0,), names=NAMES, generator=0, **columns):
    """Runs of several seeds, whose losses lie `shift` higher than the law, give or take `noise`."""
    random = np.random.default_rng(generator)
    rows = [
        {
            **r,
            **columns,
            "seed": s,
            "loss": r["loss"] + shift + random.normal(0, noise),
            "run": f"{source} {r['run']} {s}",
        }
        for s in seeds
        for r in runs({n: rho_of(n) for n in names}, noise=0.0)
    ]
    return make_table(rows, source, strict=False)


def made(**change):
    """A comparison of two tables, whose parts are as they are said to be."""
    first, second = table("one"), table("two", shift=0.01)
    found = tuple(pairs(first, second))
    line = NumberDifference("int4", Interval(0.8, 0.7, 0.9), Interval(0.9, 0.8, 1.0), Interval(0.1, 0.05, 0.2))
    values = {
        "first": first, "second": second, "pairs": found, "losses": tuple(loss_differences(first, second, found)),
        "capacities": (line,), "law": "tanh", "numbers": (line,), "settings": (), "losses_why_not": "",
        "capacities_why_not": "", "law_why_not": "", "only": ((), ()),
    }  # fmt: skip
    return Comparison(**values | change)


def test_a_shift_is_told_with_its_error():
    first, second = table("one", noise=0.01), table("two", shift=0.05, noise=0.01, generator=1)
    found = loss_differences(first, second, pairs(first, second))
    assert [line.curve for line in found] == [*first.curves, ALL]
    every = found[-1]
    assert every.cells == len(first) == len(second)
    assert every.told
    assert every.low < 0.05 < every.high
    assert every.standard_error == pytest.approx(0.01 * 2**0.5 / len(first) ** 0.5, rel=0.35)


def test_of_runs_that_share_their_error_the_difference_is_sharp():
    first = table("one", noise=0.05)
    second = replace(first, rows=tuple(r._replace(loss=r.loss + 1e-3, run=f"again {r.run}") for r in first.rows))
    every = loss_differences(first, second, pairs(first, second))[-1]
    assert every.mean == pytest.approx(1e-3)
    assert every.standard_error < 1e-9
    assert every.told


def test_intervals_hold_the_truth_as_often_as_they_say():
    inside, plain, random = 0, table("one"), np.random.default_rng(0)
    for _ in range(200):
        first, second = (
            replace(plain, rows=tuple(r._replace(loss=r.loss + random.normal(0, 0.01)) for r in plain.rows))
            for _ in range(2)
        )
        every = loss_differences(first, second, pairs(first, second))[-1]
        inside += not every.told
    assert 180 <= inside <= 199


def test_other_seeds_are_not_paired_and_their_errors_are_those_of_seeds():
    first, second = (table(str(s), noise=0.01, seeds=s, generator=s[0]) for s in ((0, 1), (2, 3)))
    assert pairs(first, second) == []
    found = loss_differences(first, second, [])
    assert {line.how for line in found} == {"unpaired"}
    int4 = next(line for line in found if line.curve == "int4")
    assert int4.cells == 4
    assert int4.standard_error == pytest.approx(0.01 / 4**0.5, rel=0.4)  # two runs a side, four cells
    lone = loss_differences(table("a", seeds=(0,)), table("b", seeds=(1,)), [])
    assert all(np.isnan(line.standard_error) and not line.told for line in lone)


def test_runs_without_a_seed_are_paired_where_there_is_one():
    first, second = table("one"), table("two")
    unknown = [replace(t, rows=tuple(r._replace(seed=float("nan")) for r in t.rows)) for t in (first, second)]
    assert len(pairs(*unknown)) == len(first)
    twice = replace(unknown[1], rows=(*unknown[1].rows, *unknown[1].rows))
    assert pairs(unknown[0], twice) == []


def test_tokens_of_whole_steps_are_the_same_and_others_are_not():
    first = table("one")
    near = replace(first, rows=tuple(r._replace(D=r.D * 1.004) for r in first.rows))
    far = replace(first, rows=tuple(r._replace(D=r.D * 2) for r in first.rows))
    assert len(pairs(first, near)) == len(first)
    assert pairs(first, far) == []


def test_draws_of_two_tables_are_independent():
    random = np.random.default_rng(0)
    found = number_difference("x", (1.0, 1.0), (random.normal(1, 0.3, 4000), random.normal(1, 0.4, 4000)))
    assert found.difference.high == pytest.approx(1.96 * 0.5, rel=0.1)
    assert not found.told


def sweep(directory, **optimizer):
    """A sweep whose results say how they were trained."""
    write_sweep(directory)
    for path in directory.glob("runs/*/result.json"):
        content = json.loads(path.read_text())
        content["run"] = {"optimizer": {"learning_rate": 0.01, "b2": 0.95} | optimizer, "batch": 8, "seed": 0}
        path.write_text(json.dumps(content))
    return directory


def test_settings_that_differ_are_told(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    paths = sweep(tmp_path / "a"), sweep(tmp_path / "b", b2=0.99)
    content = json.loads((paths[1] / "sweep.json").read_text()) | {"versions": {"jax": "1"}, "ladder": "micro"}
    (paths[1] / "sweep.json").write_text(json.dumps(content))
    tables = [read(path) for path in paths]
    found = differing(*(settings(p, t, [r.N for r in t.rows]) for p, t in zip(paths, tables, strict=True)))
    assert {(s.name, s.first, s.second) for s in found} == {
        ("ladder", "nano", "micro"), ("optimizer.b2", "0.95", "0.99"), ("versions.jax", "0", "1"),
    }  # fmt: skip


def test_identical_tables_differ_in_nothing():
    rows = [{**r, "weights": "mine"} if r["weights"] != "dense" else r for r in runs({"int4": 0.6}, noise=0.01)]
    mine = make_table(rows, "made", strict=False)
    found = compare(mine, mine, resamples=20)
    assert found.same_rows
    assert [d.difference for d in found.capacities] == [Interval(0.0, 0.0, 0.0)]
    assert found.capacities[0].first.low < found.capacities[0].first.high
    assert {line.mean for line in found.losses} == {0.0}


@pytest.mark.slow
def test_identical_directories(tmp_path, capsys):
    directory = str(write_sweep(tmp_path, missing=1))
    assert main(["compare", directory, directory, "--bootstrap", "20", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["same_rows"]
    assert told["shared_runs"] == told["same_runs"] == told["first"]["runs"] == 37
    assert "nothing differs" in told["reading"][0]
    assert len(told["capacities"]) == 8
    assert {v for line in (*told["capacities"], *told["law_numbers"]) for v in line["difference"].values()} == {0.0}
    assert {line["mean"] for line in told["losses"]} == {0.0}
    assert told["settings"] == []


def test_tables_that_have_nothing_in_common(tmp_path, capsys):
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path, format_name, text in zip(paths, ("int4", "top50"), ("books", "code"), strict=True):
        rows = [r for r in runs({format_name: 0.5}, corpus=text) if r["weights"] != "dense"]
        path.write_text(json.dumps(rows))
    assert main(["compare", *map(str, paths), "--bootstrap", "20"]) == 0
    shown = capsys.readouterr().out
    assert "These two are not comparable" in shown
    assert "corpus books in one, code in the other" in shown
    assert "has no dense runs" in shown
    assert "Loss, second less first" not in shown
    assert "In the first alone: int4." in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nowhere", "x"], "nowhere: no such file"), (["{table}", "nowhere"], "nowhere: no such file"),
     (["{table}", "{table}", "--form", "tan"], "tan"), (["{table}", "{table}", "--bootstrap", "1"], "at least 2")],
)  # fmt: skip
def test_bad_input_is_explained(arguments, message, tmp_path, capsys):
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(runs({"int4": 0.8})))
    assert main(["compare", *(a.format(table=path) for a in arguments)]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


def test_a_fit_that_cannot_be_is_a_reason_and_not_an_end():
    few = table("few", names=("int4",))
    few = replace(few, rows=few.rows[:3])
    found = compare(few, table("other"), resamples=2)
    assert found.law_why_not.startswith("few: no compressed format has a known GMSE")
    assert found.numbers == ()


SAYS = {
    "compare: same rows": ({"second": table("one")}, {}),
    "compare: nothing": ({"losses_why_not": "a", "capacities_why_not": "b", "law_why_not": "c"}, {}),
    "compare: losses why not": ({"losses_why_not": "of two texts"}, {}),
    "compare: capacities why not": ({"capacities_why_not": "no dense runs"}, {}),
    "compare: law why not": ({"law_why_not": "too few"}, {}),
    "compare: losses": ({}, {"losses": ()}),
    "compare: capacities": ({}, {"capacities": ()}),
    "compare: law": ({}, {"numbers": ()}),
    "compare: shared": ({}, None),
    "compare: same runs": ({"pairs": tuple(pairs(table("one"), table("one"))[:2])}, {}),
    "compare: only first": ({"only": (("int3",), ())}, {}),
    "compare: only second": ({"only": ((), ("int3",))}, {}),
    "compare: paired": ({}, {"losses": ()}),
    "compare: unpaired": ({"losses": tuple(loss_differences(table("one"), table("two"), []))}, {}),
    "compare: other text": ({"losses_why_not": "of two texts"}, {}),
}


def test_every_sentence_is_said_where_it_is_true_and_there_alone():
    assert set(SAYS) == {rule.name for rule in compared.EVERY}
    for name, (true, false) in SAYS.items():
        assert name in {s.rule for s in say(compared.EVERY, made(**true))}, name
        if false is not None:
            assert name not in {s.rule for s in say(compared.EVERY, made(**false))}, name


def test_names_are_text_in_every_form():
    bad = "<script>|</script>"
    line = made().capacities[0]._replace(name=bad)
    numbers = comparison_numbers(made(capacities=(line,), only=((bad,), ())), f"capscale compare {bad}")
    page = html(numbers)
    assert page.count("<script>") == 1  # the page's own
    assert "&lt;script&gt;|&lt;/script&gt; *" in page
    assert "| <script>\\|</script> * |" in markdown(numbers)
