"""capscale data prepare and show: what they print, and bad input explained with exit status 2."""

import json
import os
import subprocess
import sys

import pytest
from support import texts
from support.limits import LIMIT_S

from capscale.cli import main
from capscale.cli.data import unescaped

PREPARE = "data prepare book.txt --separator \\n\\n<|endoftext|>\\n --validation-share 0.1 --workers 1"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts.write_text(tmp_path / "book.txt")
    return tmp_path


@pytest.mark.parametrize(
    ("written", "meant"),
    [(r"\n\n<|endoftext|>\n", texts.SEPARATOR), ("\n", "\n"), (r"\\n", r"\n"), (r"a\tb\r", "a\tb\r"), (r"\x", r"\x")],
)
def test_escapes(written, meant):
    assert unescaped(written) == meant


def test_prepare_then_show(place, capsys):
    assert main(f"{PREPARE} --tokenizer byte --out shards".split()) == 0
    printed = capsys.readouterr().out
    manifest = json.loads((place / "shards" / "manifest.json").read_text())
    assert manifest["name"] == "shards"
    assert manifest["recipe"]["separator"] == texts.SEPARATOR
    documents = manifest["train"][0]["documents"], manifest["validation"]["documents"]
    assert sum(documents) == 200
    assert "257 tokens, 256 ends a document, stored as uint16" in printed
    assert f"{manifest['validation']['tokens']:,}" in printed
    assert "peak memory of a process" in printed
    assert main(["data", "show", "shards"]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("2 shards are whole\n")
    assert printed.splitlines()[:5] == shown.splitlines()[:5]
    assert main(["data", "show", "shards", "--verify"]) == 0
    assert capsys.readouterr().out.endswith("2 shards are whole (hashed now)\n")
    assert main(f"{PREPARE} --tokenizer byte --out shards".split()) == 0, "nothing is left to do"


@pytest.mark.parametrize(("workers", "said"), [("1", False), ("2", True)])
def test_processes_that_have_nothing_to_do_are_remarked_on(workers, said, capsys):
    """Files are shared out by 64 MiB, and small ones together: one process does them, however many are asked for."""
    command = PREPARE.replace("--workers 1", f"--workers {workers}")
    assert main(f"{command} --tokenizer byte --out shards".split()) == 0
    err = capsys.readouterr().err
    assert (
        err
        == ("capscale: --workers 2: the input makes 1 part of about 64 MiB, " * said)
        + "which as many processes have done\n" * said
    )
    assert main(f"{command} --tokenizer byte --out shards".split()) == 0
    assert capsys.readouterr().err == "", "nothing was left to do"


@pytest.mark.parametrize(("separator", "found"), [("\\n\\n", True), ("\\r\\n\\r\\n", False)])
def test_separator_that_never_stands_is_remarked_on(separator, found, place, capsys):
    """Such as one with the other line ends: what is not separated is cut at 1 MiB, which nobody asked for."""
    (place / "long.txt").write_text("\n\n".join(f"{number} {'word ' * 20_000}" for number in range(120)))
    command = ["data", "prepare", "long.txt", "--out", "long", "--tokenizer", "byte", "--validation-share", "0.4"]
    options = ["--workers", "1", "--separator", separator, "--validation-tokens", "33000000"]
    assert main([*command, *options]) == 0
    err = capsys.readouterr().err
    assert err == "" if found else "see that --separator '\\\\r\\\\n" in err


@pytest.mark.parametrize("stamped", [False, True])
def test_show_names_an_altered_shard(stamped, place, capsys):
    assert main(f"{PREPARE} --tokenizer byte --out shards".split()) == 0
    if stamped:
        assert main(["data", "show", "shards"]) == 0
    content = bytearray((place / "shards" / "validation.npy").read_bytes())
    content[-1] ^= 1
    (place / "shards" / "validation.npy").write_bytes(content)
    capsys.readouterr()
    assert main(["data", "show", "shards", "--verify"]) == 2
    out, err = capsys.readouterr()
    assert "validation.npy was altered" in err
    assert "whole" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("data prepare none.txt --tokenizer byte --out new", "input 'none.txt' does not exist"),
        ("data prepare empty.txt --tokenizer byte --out new", "'empty.txt' is empty"),
        ("data prepare book.pdf --tokenizer byte --out new", "'book.pdf' is of no known kind"),
        ("data prepare --tokenizer byte --out new", "no input is given"),
        ("data prepare book.txt --dataset allenai/c4 --tokenizer byte --out new", "both inputs book.txt and --dataset"),
        ("data prepare book.txt --subset en --tokenizer byte --out new", "--subset and --revision belong to --dataset"),
        (f"{PREPARE} --tokenizer bite --out new", "tokenizer 'bite' is not known"),
        (f"{PREPARE} --tokenizer none.model --out new", "tokenizer 'none.model' cannot be read"),
        (f"{PREPARE} --tokenizer byte --out new --validation-tokens 0", "validation tokens 0 must lie between"),
        (f"{PREPARE} --tokenizer byte --out new --eos </s>", "--eos '</s>' cannot be chosen for the byte tokenizer"),
        (f"{PREPARE} --tokenizer byte --out occupied", "occupied holds no manifest.json but 'thesis.tex'"),
        (f"{PREPARE} --tokenizer byte --out book.txt/below", "cannot be written (Not a directory)"),
        ("data show new", "new holds no manifest.json"),
        ("data show occupied", "occupied holds no manifest.json"),
        ("sweep capacity_demo --text occupied --out new", "occupied holds no manifest.json"),
    ],
)
def test_bad_input_is_explained_and_changes_nothing(arguments, message, place, capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    (place / "empty.txt").touch()
    (place / "book.pdf").write_text("%PDF")
    (place / "occupied").mkdir()
    (place / "occupied" / "thesis.tex").write_text("years of work")
    before = sorted(place.rglob("*"))
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert err.startswith("capscale: ")
    assert message in err
    assert out == ""
    assert sorted(place.rglob("*")) == before


def test_disk_that_is_full(place):
    """Files may not grow beyond 16 KiB: what the kernel says of a full disk, the command says in one line."""
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14))\n"
        "from capscale.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = f"{PREPARE} --tokenizer byte --out shards".split()
    command = [sys.executable, "-c", limited, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 2
    assert done.stderr.startswith("capscale: shards/train-00000-000.npy cannot be written (File too large); free space")
    assert len(done.stderr.splitlines()) == 1
    assert main(arguments) == 0, "with space again, it goes on"


EXPERIMENT = """
from dataclasses import replace
from support import tiny
def runs(ladder, data):
    return [tiny.run(data=data, model=replace(tiny.MODEL, vocabulary=data.vocabulary))]
"""


@pytest.fixture
def sweep(place, monkeypatch):
    """The command of a sweep over shards."""
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    (place / "mine.py").write_text(EXPERIMENT)
    assert main(f"{PREPARE} --tokenizer byte --out shards".split()) == 0
    return ["sweep", "mine.py", "--text", "shards", "--out", "runs"]


def test_sweep_stops_ahead_of_the_first_step_when_a_shard_was_altered(sweep, place, capsys):
    content = bytearray((place / "shards" / "train-00000-000.npy").read_bytes())
    content[-1] ^= 1
    (place / "shards" / "train-00000-000.npy").write_bytes(content)
    assert main(sweep) == 2
    assert "train-00000-000.npy was altered" in capsys.readouterr().err
    assert not list(place.rglob("metrics.jsonl"))


@pytest.mark.slow
def test_sweep_trains_on_shards(sweep, place, capsys):
    assert main(sweep) == 0
    assert "1 of 1 results in runs" in capsys.readouterr().out
    (result,) = (json.loads(path.read_text()) for path in place.rglob("result.json"))
    assert result["run"]["data"]["name"] == "shards"
    assert result["row"]["bits_per_byte"] > result["row"]["loss"] / 0.6932  # ends of documents are symbols, not text
