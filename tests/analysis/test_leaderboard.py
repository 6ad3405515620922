"""Ranks of laws, over one table and several, and the cut-offs that they rest on."""

import csv
import io
import json
import re

import numpy as np
import pytest
from support.synthetic import FORMATS, TRUTH, frame_of

from capscale.analysis.bench_numbers import bench_numbers
from capscale.analysis.bench_page import write_bench
from capscale.analysis.cut_offs import CutOffs, parse_cut_offs
from capscale.analysis.fit import Settings
from capscale.analysis.laws import LAWS
from capscale.analysis.leaderboard import TableBench, law_bench, standings
from capscale.analysis.rollouts import cuts, size_cut
from capscale.analysis.table import Table, make_table
from capscale.analysis.validation import BeyondCut, Validation
from capscale.errors import UserError

pytestmark = pytest.mark.ci

QUICK = Settings(starts=16)
LAWS_ASKED = [LAWS[name] for name in ("kumar", "tanh", "tanh-coupled", "frantar")]


def grid_of(names, *, coupled: float = 1.0, noise: float = 0.002, seed: int = 0, source: str = "x") -> Table:
    """6 sizes and 4 lengths of training; losses of the law coupled by this exponent."""
    N = np.repeat(np.geomspace(3e7, 1e9, 6).round(), 4 * len(names))
    D = N * np.tile(np.repeat([20, 60, 180, 540], len(names)), 6)
    frame = frame_of(N, D, [*names] * 24, 0.0, np.random.default_rng(0))
    reducible = (frame["loss"] - TRUTH.E) ** coupled
    frame["loss"] = 1.5 + reducible + np.random.default_rng(seed).normal(0, noise, len(frame))
    return make_table(frame.to_dict("records"), source)


@pytest.fixture(scope="module")
def benches() -> tuple[TableBench, ...]:
    first = grid_of(("dense", "int2", "int3", "int4"), coupled=0.5, source="coupled.csv")
    second = grid_of(("dense", "int1", "int2", "int8"), coupled=0.6, seed=1, source="others.csv")
    return tuple(law_bench(t, LAWS_ASKED, QUICK) for t in (first, second))


def made(line: dict[str, tuple[float, ...]], table: Table, whys: tuple[str, ...] = ()) -> TableBench:
    """A bench of given errors beyond one or several cuts in N; nothing is fitted."""
    asked = tuple(size_cut(table, limit) for limit in (2e8, 4e8))
    one = np.ones(1, bool)
    lines = [
        Validation(
            name, "", runs=len(table), numbers=5, rmse=0.1,
            beyond=tuple(BeyondCut(str(k), one, np.array([e]), "N", one, np.ones(1)) for k, e in enumerate(errors)),
        )
        for name, errors in line.items()
    ]  # fmt: skip
    lines += [Validation(name, "", why="cannot") for name in whys]
    return TableBench(table, asked, tuple(lines), (), None, (), dict.fromkeys(whys, "cannot"))


def test_ranks_share_ties_and_put_last_what_is_missing():
    table = grid_of(("dense", "int4"))
    bench = made({"a": (0.2, 0.2), "b": (0.1, 0.1), "c": (0.20001, 0.2), "fewer": (0.001,), "none": ()}, table)
    ranks = bench.ranks(["a", "b", "c", "fewer", "none", "absent"], "N")
    assert ranks == {"a": 2.5, "b": 1.0, "c": 2.5, "fewer": 4.0, "none": 5.5, "absent": 5.5}
    assert bench.ranks(["a"], "D") == {}, "no cut there"


def test_standings_are_by_mean_rank_over_tables():
    table = grid_of(("dense", "int4"))
    first = made({"a": (0.1, 0.1), "b": (0.2, 0.2), "c": (0.3, 0.3)}, table)
    second = made({"b": (0.1, 0.1), "c": (0.2, 0.2)}, table, whys=("a",))
    found = standings([first, second])
    assert [(s.name, s.mean_rank) for s in found] == [("b", 1.5), ("a", 2.0), ("c", 2.5)]
    assert found[1].missing == (False, True)
    assert found[1].ranks == ({"N": 1.0}, {"N": 3.0})


def test_a_law_about_other_runs_does_not_compete():
    table = grid_of(("dense", "int4"))
    bench = made({"a": (0.2, 0.2)}, table)
    fewer = Validation("b", "", runs=3, numbers=2, rmse=0.0, beyond=made({"b": (0.1, 0.1)}, table).lines[0].beyond)
    both = TableBench(table, bench.cuts, (*bench.lines, fewer), (), None, (), {})
    assert both.ranks(["a", "b"], "N") == {"a": 1.0, "b": 2.0}
    assert standings([both])[1].missing == (True,)


def test_the_law_of_the_data_comes_first(benches):
    order = [s.name for s in standings(benches)]
    assert set(order) == {"kumar", "tanh", "tanh-coupled", "ensemble (4 laws)"}
    laws = [name for name in order if not name.startswith("ensemble")]
    assert laws[0] == "tanh-coupled"
    for bench in benches:
        line = {v.name: v for v in bench.lines}
        assert line["tanh-coupled"].rmse < 0.0025 < line["tanh"].rmse
        assert "sparsity" in bench.left_out["frantar"]
        assert bench.ensemble is not None


def test_numbers_page_and_csv_say_the_same(benches, tmp_path):
    numbers = bench_numbers(benches)
    page = write_bench(benches, numbers, tmp_path, "capscale bench coupled.csv others.csv").read_text()
    content = json.loads((tmp_path / "bench.json").read_text())
    lines = list(csv.DictReader(io.StringIO((tmp_path / "bench.csv").read_text())))
    assert (tmp_path / "bench.png").stat().st_size > 10_000
    cells = [re.findall(r"<td[^>]*>(?:<b>)?([^<]*)", row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", page)]
    told = [line | {"table": t["table"]} for t in content["tables"] for line in t["laws"]]
    assert len(lines) == len(told) == 8
    for line, row in zip(told, lines, strict=True):
        assert (row["table"], row["law"]) == (line["table"], line["law"])
        assert float(row["rmse_N"]) == line["rmse_N"]
        wanted = [f"{line[k]:.3g}" for k in ("rmse", "rmse_N", "rmse_D")]
        assert any(c[0] == line["law"] and c[3:6] == wanted for c in cells if len(c) == 11), line
    for s in content["leaderboard"]:
        ranks = [f"{s['ranks'][t['table']][axis]:.3g}" for t in content["tables"] for axis in ("N", "D")]
        assert [s["law"], f"{s['mean_rank']:.3g}", *ranks] in cells
    assert "http" not in page.replace("http-equiv", ""), "the page needs nothing from elsewhere"
    assert "frantar: " in page


def test_cut_offs_are_those_asked_for():
    table = grid_of(("dense", "int4"))
    assert [c.words for c in CutOffs(most=2).of(table)] == [c.words for c in cuts(table, 2)]
    found = parse_cut_offs([4e8, 2e8], ["1", "D/N=60"], 2)
    words = [c.words for c in found.of(table)]
    assert words == ["N <= 2e+08", "N <= 4e+08", "D/N <= 60", "without the longest 1 of each size"]
    only_D = [c.words for c in parse_cut_offs([], ["1"], 2).of(table)]
    assert only_D == [*[c.words for c in cuts(table, 2) if c.axis == "N"], "without the longest 1 of each size"]
    ratio = next(c for c in found.of(table) if c.words == "D/N <= 60")
    np.testing.assert_array_equal(ratio.test, table.column("D") / table.column("N") > 100)


def test_impossible_cut_offs_are_named():
    table = grid_of(("dense", "int4"))
    asked = parse_cut_offs([1e6, 2e8, 1e12], ["9"], None)
    assert asked.impossible(table) == ("N <= 1e+06", "N <= 1e+12", "without the longest 9 of each size")
    assert [c.words for c in asked.of(table)] == ["N <= 2e+08"]


@pytest.mark.parametrize("text", ["0", "1.5", "-1", "many", "D/N=", "D/N=-3", "D/N=nan"])
def test_bad_lengths_are_refused(text):
    with pytest.raises(UserError, match=r"--cuts-D .*D/N=100"):
        parse_cut_offs([], [text], None)


def test_bad_sizes_are_refused():
    with pytest.raises(UserError, match=r"--cuts-N -1: give a size"):
        parse_cut_offs([-1.0], [], None)


def test_laws_of_one_name_are_refused():
    with pytest.raises(UserError, match="two laws called 'tanh'"):
        law_bench(grid_of(FORMATS), [LAWS["tanh"], LAWS["tanh"]])
