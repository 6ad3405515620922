"""Bad input to the commands that train and describe: exit status 2, the message on stderr, nothing made or changed."""

import json
import os
import sys

import pytest
from support import tiny

from capscale.cli import main


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from support import tiny\ndef runs(ladder, data): return [tiny.run(data=data)]\n"
    )
    (tmp_path / "text.txt").write_bytes(tiny.text())
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 2000)
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "thesis.tex").write_text("years of work")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sweep.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    return tmp_path


SWEEP = "sweep mine.py --text text.txt --out new"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sweep capacity_dmo --text text.txt --out new", "did you mean capacity_demo"),
        ("sweep missing.py --text text.txt --out new", "does not exist"),
        (f"{SWEEP} --ladder pico", "known ladders: nano, micro, paper"),
        (f"{SWEEP} --jobs 0", "--jobs 0 must be at least 1"),
        (f"{SWEEP} --processes 2", "--coordinator None, --processes 2 and --process-index None: give all three"),
        (
            f"{SWEEP} --coordinator localhost --processes 2 --process-index 0",
            "--coordinator localhost is not HOST:PORT",
        ),
        (f"{SWEEP} --fsdp 0", "--fsdp 0 must be at least 1"),
        (f"{SWEEP} --microbatches 0", "microbatches=0 must be at least 1"),
        (f"{SWEEP} --launcher ray --fsdp 0", "--fsdp 0 must be at least 1"),
        (f"{SWEEP} --launcher ray --microbatches 0", "microbatches=0 must be at least 1"),
        (f"{SWEEP} --launcher ray --mode mesh", "--mode mesh is for --launcher local"),
        (f"{SWEEP} --launcher ray --slice v5e:9", "topology 'v5e:9' is no slice of v5e"),
        (f"{SWEEP} --launcher ray --slice v5e:4x4 --devices-per-run 2", "a TPU slice says what devices a run gets"),
        (f"{SWEEP} --launcher ray --wait-for-nodes -1", "--wait-for-nodes -1.0 must be 0 minutes or more"),
        (f"{SWEEP} --launcher ray --distributed", "--distributed joins processes that were started together"),
        (f"{SWEEP} --slice v5e:4x4", "--slice is for --launcher ray; on the hosts of a slice start this with --dist"),
        (f"{SWEEP} --mode processes --distributed", "--mode processes starts processes that train apart"),
        ("run mine.py --text text.txt --out new --index 0 --fsdp 0", "--fsdp 0 must be at least 1"),
        ("sweep mine.py --text none.txt --out new", "cannot be read"),
        ("sweep mine.py --text empty.txt --out new", "is empty"),
        ("sweep mine.py --text binary.txt --out new", "is binary"),
        ("sweep mine.py --text short.txt --out new", "too short"),
        ("sweep mine.py --text text.txt --out occupied", "is not empty and holds no sweep.json"),
        ("sweep mine.py --text text.txt --out broken", "is not readable JSON"),
        ("sweep mine.py --text text.txt --out text.txt/below", "cannot be written (Not a directory)"),
        ("run mine.py --text text.txt --out new --index 1", "--index 1 is not one of the 1 runs 0..0"),
        ("run mine.py --text text.txt --out new --index -1", "--index -1 is not one"),
        ("status new", "holds no sweep.json"),
        ("status broken", "is not readable JSON"),
        ("describe --model 31M", "model '31M' is unknown; known models"),
        ("describe --model 30M --weights int44", "format 'int44': Int(bits=44"),
        ("describe --model 30M --activations itn8", "unknown format 'itn8'"),
        ("describe --model 30M --weights int4 --hadamard 100", "power of two"),
        ("describe --model 30M --weights int4 --signs 7", "signs belong to a rotation"),
        ("describe --model 30M --recipe quartett", "unknown recipe 'quartett'; closest: quartet"),
        (
            "describe --model 30M --recipe quartet --weights int4",
            "--recipe quartet says all operands; leave out --weigh",
        ),
        ("describe --model 30M --gradients nvfp5", "gradients 'nvfp5': use dense, the name of a recipe"),
    ],
)
def test_is_explained(arguments, message, place, capsys):
    before = sorted(place.rglob("*"))
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert err.startswith("capscale: ")
    assert message in err
    assert out == ""
    assert [path for path in sorted(place.rglob("*")) if "__pycache__" not in path.parts] == before


@pytest.mark.parametrize(
    "arguments", ["", "swep", "sweep mine.py", f"{SWEEP} --mode quick", f"{SWEEP} --jobs many", "describe --models 30M"]
)
def test_wrong_flags_exit_with_2(arguments, place, capsys):
    try:
        status = main(arguments.split())
    except SystemExit as raised:  # of the parser of flags
        status = raised.code
    assert status == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "package"), [("--tensorboard", "tensorboardX"), ("--wandb formats", "wandb")])
def test_missing_package_is_said_before_anything_is_made(flag, package, place, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(f"{SWEEP} {flag}".split()) == 2
    assert f"package {package} is not installed; pip install" in capsys.readouterr().err
    assert not (place / "new").exists()


def test_describe_30m(capsys):
    arguments = ["describe", "--model", "30M", "--weights", "int4", "--activations", "int8", "--hadamard", "128"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["non_embedding_parameters"] == 30_482_560
    assert found["parameters"] == 30_482_560 + 2 * 32_000 * 640
    assert found["dense_bytes"] == 2 * found["parameters"]
    assert sum(leaf["bytes"] for leaf in found["leaves"]) == pytest.approx(found["bytes"])
    assert {leaf["format"] for leaf in found["leaves"]} == {"dense", "int4"}
    assert main([*arguments, "--signs", "7"]) == 0
    printed = capsys.readouterr().out
    assert "N = 30,482,560" in printed
    assert "Hadamard block: 128 signs 7" in printed


def test_commands_end_quietly_when_interrupted_while_they_are_loaded(monkeypatch, capsys):
    class Loader:
        @staticmethod
        def find_spec(name, *more):
            if name == "capscale.cli.commands":
                raise KeyboardInterrupt

    monkeypatch.delattr("capscale.cli.commands", raising=False)
    monkeypatch.delitem(sys.modules, "capscale.cli.commands", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Loader, *sys.meta_path])
    assert main(["describe", "--model", "30M"]) == 130
    assert capsys.readouterr().err == "capscale: interrupted\n"


def test_commands_end_quietly_when_interrupted(monkeypatch, capsys):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("capscale.cli.describe.Describe.__call__", interrupted)
    assert main(["describe", "--model", "30M"]) == 130
    assert capsys.readouterr().err == "capscale: interrupted\n"
