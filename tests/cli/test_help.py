"""Help pages: an example on each, and every example parses; a mistyped command is guessed; the version."""

import shlex

import pytest
from support import tiny

import capscale
from capscale.cli import main
from capscale.cli.commands import COMMANDS, examples, parse

PAGES = [[name] for name in COMMANDS if name != "data"] + [["data", "prepare"], ["data", "show"]]


def lines(page):
    """Examples of a page as they would be typed, continuation lines joined."""
    joined = "\n".join(examples(page)).replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_every_help_page_shows_examples(page, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*page, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"  capscale {' '.join(page)}" in shown.partition("Example")[2]


@pytest.mark.parametrize("example", [line for page in PAGES for line in lines(page)])
def test_every_example_parses(example):
    words = shlex.split(example)
    assert words[0] == "capscale"
    ends = [i for i, word in enumerate(words) if word in (">", "&&", "|")]
    assert callable(parse(words[1 : min(ends, default=len(words))]))


def test_a_mistyped_command_is_guessed(capsys):
    assert main(["swep"]) == 2
    assert "did you mean sweep" in capsys.readouterr().err
    assert main(["gsme", "int4"]) == 2
    assert "did you mean gmse" in capsys.readouterr().err


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"capscale {capscale.__version__}\n"


def test_experiments_and_ladders_are_listed(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "capacity_demo" in shown
    assert "nano-16" in shown


def test_a_dry_run_lists_runs_and_makes_nothing(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from support import tiny\ndef runs(ladder, data): return [tiny.run(data=data)]\n"
    )
    (tmp_path / "text.txt").write_bytes(tiny.text())
    files = [str(tmp_path / name) for name in ("mine.py", "text.txt", "out")]
    assert main(["sweep", files[0], "--text", files[1], "--out", files[2], "--dry-run"]) == 0
    assert "0 of 1 results are present" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_mistyped_experiment_is_told_before_the_text_is_read(capsys):
    arguments = ["sweep", "capacity_dmo", "--text", "no_such_text.txt", "--out", "nowhere"]
    assert main(arguments) == 2
    assert "did you mean capacity_demo" in capsys.readouterr().err
