"""Options that select runs reach every command, and what is cheap to refuse is refused before the text is hashed."""

import json
from dataclasses import replace

import pytest
from support import tiny

from capscale.cli import main
from capscale.cli.commands import parse
from capscale.cli.elsewhere import run_arguments
from capscale.data.load import load_source, unread_id

EXPERIMENT = """
from support import tiny
def runs(ladder, data):
    sizes = list(ladder.sizes)[:2]
    return [tiny.run(data=data, size=size, ladder=ladder.name, seed=seed) for size in sizes for seed in (0, 1)]
"""
LADDER = {
    "name": "mine",
    "batch": 8,
    "shared": {"layers": 2, "heads": 1, "context": 64},
    "sizes": {f"mine-{width}": {"width": width, "learning_rate": 0.01} for width in (4, 8)},
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(EXPERIMENT)
    (tmp_path / "bad.py").write_text("from capscale.representation import operand\ndef runs(l, d): operand('int44')\n")
    (tmp_path / "text.txt").write_bytes(tiny.text())
    (tmp_path / "mine.json").write_text(json.dumps(LADDER))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "")
    return tmp_path


@pytest.fixture
def unhashed(place, monkeypatch):
    """A text that must not be read."""

    def hashed(*_):
        raise AssertionError("the text was hashed")

    monkeypatch.setattr("capscale.data.corpus.byte_corpus", hashed)


def listing(capsys, *more):
    assert main(["sweep", "mine.py", "--text", "text.txt", "--out", "out", "--dry-run", *more]) == 0
    return [line.partition("  ")[2].partition(":")[0] for line in capsys.readouterr().out.splitlines()[:-1]]


def test_a_dry_run_shows_the_selected_runs(place, capsys):
    assert len(listing(capsys)) == 4
    (only,) = listing(capsys, "--sizes", "nano-4", "--seeds", "7")
    assert only.startswith("nano-4 ")
    assert only.endswith(" seed 7")
    own = listing(capsys, "--ladder-file", "mine.json", "--sizes", "mine-8")
    assert [line.split()[0] for line in own] == ["mine-8"] * 2
    assert own == listing(capsys, "--ladder", "mine.json", "--sizes", "mine-8")


@pytest.mark.parametrize(
    "command", ["sweep {} --out out", "sweep {} --out out --dry-run", "run {} --out out --index 0", "preflight {} "]
)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("capacity_dmo", "did you mean capacity_demo"),
        ("capacity_demo --sizes nano-80", "did you mean nano-8"),
        ("capacity_demo --seeds -1", "--seeds -1: a seed is"),
        ("capacity_demo --ladder nnao", "did you mean nano"),
        ("capacity_demo --ladder-file absent.json", "ladder file 'absent.json' does not exist"),
        ("mine.py --ladder-file mine.json --sizes mine-9", "did you mean mine-8"),
        ("bad.py", "int44"),
    ],
)
@pytest.mark.usefixtures("unhashed")
def test_mistakes_are_told_before_the_text_is_hashed(command, given, message, capsys):
    more = ["--topology", "v5e:2x2"] if command.startswith("preflight") else []
    assert main([*command.format(given).split(), "--text", "text.txt", *more]) == 2
    assert message in capsys.readouterr().err
    with pytest.raises(AssertionError, match="the text was hashed"):
        main([*command.format("capacity_demo").split(), "--text", "text.txt", *more])


@pytest.mark.ci
def test_the_text_of_a_command_is_the_one_that_was_checked_but_for_its_hash(place):
    for text in (None, "text.txt"):
        read = load_source(text).id
        assert unread_id(text) == replace(read, sha256="0" * 64)


def test_workers_elsewhere_are_asked_for_the_same_runs(place):
    told = ["mine.py", "--out", "out", "--ladder", "mine.json", "--sizes", "mine-4", "mine-8", "--seeds", "0", "3"]
    arguments = run_arguments(parse(["sweep", *told]), "mine.py", "out")
    found = parse([*arguments, "--index", "1"])
    assert (found.sizes, found.seeds, found.ladder) == (("mine-4", "mine-8"), (0, 3), str(place / "mine.json"))


def test_launch_files_pass_the_selection_on(place, capsys):
    more = ["--sizes", "nano-4", "--seeds", "0", "1", "2", "--vocabulary", "96"]
    assert main(["launch", "slurm", "mine.py", "--out", "/shared/out", *more]) == 0
    script = capsys.readouterr().out
    assert script.count("--sizes nano-4 --seeds 0 1 2") == 2, "for the workers, and for whoever asks what is missing"


def test_reproduce_is_of_ladders_that_come_with_capscale(place, capsys):
    assert main(["reproduce", "fig3", "--ladder", "mine.json", "--plan", "--vocabulary", "96"]) == 2
    assert "ladder 'mine.json' is unknown" in capsys.readouterr().err
