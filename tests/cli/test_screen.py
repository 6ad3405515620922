"""Output that cannot be written: a full disk, a reader that left, closed streams, an encoding of few characters."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.limits import LIMIT_S

from capscale.cli import main

FULL = Path("/dev/full")
COMMANDS = ["gmse int4", "gmse int4 --json", "describe --model nano-4", "factorize", "fit --help", "status sweep"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"runs": ["a", "b"]}))
    monkeypatch.chdir(tmp_path)


def status_of(command: str) -> int:
    try:
        return main(command.split())
    except SystemExit as end:
        return end.code


@pytest.mark.skipif(not FULL.exists(), reason="this system has no file that is always full")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_said_and_no_traceback(command, place, monkeypatch, capsys):
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert status_of(command) == 2
        assert sys.stdout is full
    assert "capscale: what was printed could not be written (No space left on device)" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_characters_that_a_screen_has_not_are_replaced(command, place, monkeypatch):
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    assert status_of(command) == 0
    screen.flush()
    assert screen.buffer.getvalue()
    monkeypatch.undo()


def test_bad_input_keeps_its_status_where_nothing_can_be_said_of_it(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert status_of("gmse int44") == 2
    assert status_of("gmse int4") == 0


@pytest.mark.ci
def test_a_reader_that_has_seen_enough_is_no_error(place):
    read, write = os.pipe()
    os.close(read)
    program = [sys.executable, "-c", "import sys; from capscale.cli import main; sys.exit(main())", "gmse", "int4"]
    ended = subprocess.run(program, stdout=write, stderr=subprocess.PIPE, timeout=LIMIT_S, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, b"")
