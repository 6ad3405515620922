"""Words while a command works: on a terminal's stderr alone, and what a command prints is the same with them."""

import contextlib
import io
import sys
import time

import pytest
from support import tiny

from capscale.cli import main, waiting
from capscale.data import load


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Words stand at once, and on a terminal of the usual kind."""
    monkeypatch.setattr(waiting, "DELAY_S", 0.0)
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@contextlib.contextmanager
def terminal():
    """Stderr as a terminal; pytest has its own from one phase of a test to the next."""
    shown = Terminal()
    with contextlib.redirect_stderr(shown):
        yield shown


def work_until(shown, word, seconds=20):
    until = time.monotonic() + seconds
    while word not in shown.getvalue() and time.monotonic() < until:
        time.sleep(0.01)


def test_a_word_stands_on_a_terminal_while_the_work_takes_long(capsys):
    with terminal() as shown, waiting.waiting("hashing [a] text"):
        work_until(shown, "hashing [a] text")
        sys.stdout.write("to stdout")
    assert "hashing [a] text ..." in shown.getvalue()
    assert capsys.readouterr().out == "to stdout"


def test_work_that_is_soon_done_is_not_spoken_of(monkeypatch):
    monkeypatch.setattr(waiting, "DELAY_S", 100.0)
    with terminal() as shown, waiting.waiting("hashing"):
        pass
    assert shown.getvalue() == ""


def test_an_error_of_the_work_is_raised_on():
    with terminal() as shown:
        with pytest.raises(ValueError, match="broken"), waiting.waiting("hashing"):
            raise ValueError("broken")
        with waiting.waiting("again"):
            work_until(shown, "again")
    assert "again" in shown.getvalue()


def test_items_are_counted_on_a_terminal(capsys):
    with terminal() as shown:
        assert list(waiting.each([3, 1, 2], "formats")) == [3, 1, 2]
    assert "formats" in shown.getvalue()
    assert "3/3" in shown.getvalue()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("forced", [{}, {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}], ids=["plain", "forced"])
def test_pipes_and_files_get_nothing(forced, monkeypatch, capsys):
    for name, value in forced.items():
        monkeypatch.setenv(name, value)
    with waiting.waiting("hashing"):
        time.sleep(0.05)
    assert list(waiting.each([1, 2], "formats")) == [1, 2]
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from support import tiny\ndef runs(ladder, data): return [tiny.run(data=data, seed=seed) for seed in (0, 1)]\n"
    )
    (tmp_path / "text.txt").write_bytes(tiny.text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    return tmp_path


COMMANDS = [
    ("sweep mine.py --text text.txt --out out --dry-run", "reading and hashing text.txt"),
    ("gmse int4 int8 e2m1 --json", "formats"),
]


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(("command", "word"), COMMANDS)
def test_what_a_command_prints_is_the_same_on_a_terminal_and_in_a_pipe(command, word, monkeypatch, capsys):
    quick = load.load_source

    def slow(path):
        if sys.stderr.isatty():
            work_until(sys.stderr, word)
        return quick(path)

    monkeypatch.setattr(load, "load_source", slow)
    assert main(command.split()) == 0
    piped = capsys.readouterr()
    assert piped.err == ""
    with terminal() as shown:
        assert main(command.split()) == 0
    assert word in shown.getvalue()
    assert capsys.readouterr().out == piped.out
    assert piped.out
