"""`capscale plan` with attention's cache counted, as a user gives it and reads it."""

import json
from contextlib import nullcontext

import pytest
from support.synthetic import well_spread

from capscale.cli import main
from capscale.models.cache_sizes import CacheSizes
from capscale.models.ladder import ladder
from capscale.representation import DENSE, Representation, operand

MEMORY = 2e9
BUDGET = ("--memory", f"{MEMORY:g}", "--tokens", "2e10", "--formats", "dense", "int4")
CACHE = ("--context", "8192", "--batch", "4", "--keys", "int8", "--values", "int4")
QUICK = ("--draws", "50", "--alone")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A table of 60 runs, as a user has it."""
    path = tmp_path_factory.mktemp("plan") / "runs.csv"
    well_spread(60, 0.003, 0).to_csv(path, index=False)
    return str(path)


def planned(capsys, *words):
    assert main(["plan", *words, "--json"]) == 0
    return {o["format"]: o for o in json.loads(capsys.readouterr().out)["options"]}


@pytest.mark.ci
def test_the_cache_takes_room_of_the_weights(runs, capsys, monkeypatch):
    """Bytes of both fill the memory; those of the cache are the ladder's; smaller keys and values leave larger N."""
    alone = planned(capsys, runs, *BUDGET, *QUICK)
    held = planned(capsys, runs, *BUDGET, *CACHE, *QUICK)
    dense = planned(capsys, runs, *BUDGET, *CACHE[:4], *QUICK)
    models = list(ladder("paper").sizes.values())
    both = Representation(keys=operand("int8", per_token=True), values=operand("int4", per_token=True))
    for found, representation in ((held, both), (dense, DENSE)):
        sizes = CacheSizes(models, representation, 4 * 8192)
        for option in found.values():
            assert option["cache_bytes"] == pytest.approx(sizes(option["N"]), rel=1e-6)
            assert option["memory_bytes"] == pytest.approx(MEMORY, rel=1e-6)
    for name, option in alone.items():
        assert option["cache_bytes"] == 0
        assert option["N"] > held[name]["N"] > dense[name]["N"]

    monkeypatch.setenv("COLUMNS", "140")
    assert main(["plan", runs, *BUDGET, *CACHE, *QUICK]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "of them cache" in said
    assert "cache: keys int8, values int4, of 4 x 8,192 tokens, counted in bytes" in said
    assert "no law here says what rounding keys and values costs in loss" in said

    assert main(["plan", runs, "--memory", "1e2", "--tokens", "1e9", "--context", "8192", *QUICK]) == 2
    assert "--memory 100: the cache alone takes more; give a shorter --context" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--keys", "int8"), "--batch, --keys, --values and --shapes are of a cache; give its tokens by --context"),
        (("--context", "0"), "--context 0: a cache holds 1 at least"),
        (("--context", "64", "--batch", "-1"), "--batch -1: a cache holds 1 at least"),
        (("--context", "64", "--keys", "int44"), "bits must be 1 to 8"),
        (("--context", "64", "--keys", "i4"), "'i4'"),
        (("--context", "64", "--values", "lsq4"), "learns a scale, which attention has no parameter for"),
        (("--context", "64", "--shapes", "papr"), "papr"),
        (("--context", "many"), "many"),
    ],
)
def test_what_cannot_be_planned_is_refused(runs, capsys, words, said):
    """Exit status 2, the words on standard error and nothing on standard output."""
    with pytest.raises(SystemExit) if "many" in words else nullcontext() as left:
        assert main(["plan", runs, *BUDGET, *words]) == 2
    assert left is None or left.value.code == 2
    out, err = capsys.readouterr()
    assert said in " ".join(err.split())
    assert "Traceback" not in err
    assert out == ""
