"""`capscale status --watch --html --price`: a sweep under way on the terminal and as a page."""

import re
import time

import pytest
from support.watched import write_sweep

from capscale.cli import BAD_INPUT, main, watching
from capscale.errors import Unavailable
from capscale.sweep import history


@pytest.fixture
def out(tmp_path):
    place = tmp_path / "out"
    place.mkdir()
    write_sweep(place, seeds=6)
    return place


def test_the_terminal_shows_what_is_under_way(out, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    assert main(["status", str(out), "--price", "2"]) == 0
    said = capsys.readouterr().out
    assert "3 done, 3 diverged, 3 failed, 3 running, 3 started, 3 to do" in said
    assert re.search(r"device-hours spent: 1\.42 \(\$2\.8\d\)", said)
    assert "starts: 30, 15 of them again" in said
    assert "loss jumps at step 400" in said
    assert "RESOURCE_EXHAUSTED" in said
    assert said.index("failed  ") < said.index("running  "), "what needs a look comes first"


def test_the_page_stands_alone_and_is_escaped(out, tmp_path, capsys):
    place = tmp_path / "sweep.html"
    assert main(["status", str(out), "--html", str(place)]) == 0
    page = place.read_text()
    assert "<b>out of memory" not in page
    assert "&lt;b&gt;out of memory" in page
    asked = re.findall(r"(?:src|href)=[\"']?([^\"'>\s]+)", page) + re.findall(r"url\(([^)]+)\)", page)
    assert {place[:1] for place in asked} == {"#"}, "nothing is asked of a network"
    assert "Content-Security-Policy" in page
    assert 'http-equiv="refresh"' not in page
    assert page.count("<svg") == 1
    assert page.count("<tr") == 1 + 18
    assert "$" not in re.sub(r"<script.*</script>", "", page, flags=re.DOTALL), "no price was given"
    assert capsys.readouterr().err == ""


def test_watching_makes_it_anew_until_all_is_done(out, tmp_path, capsys, monkeypatch):
    place, looks = tmp_path / "sweep.html", []
    real = history.read_history

    def read(directory):
        found = real(directory)
        if len(looks) > 2:
            found = [each._replace(status=each.status._replace(state="done")) for each in found]
        return found

    monkeypatch.setattr(history, "read_history", read)
    monkeypatch.setattr(time, "sleep", lambda seconds: looks.append((seconds, place.stat().st_mtime_ns)))
    assert main(["status", str(out), "--watch", "5", "--html", str(place), "--price", "1.5"]) == 0
    assert [seconds for seconds, _ in looks] == [5.0] * 3
    assert len({made for _, made in looks}) == 3
    assert '<meta http-equiv="refresh" content="5">' in place.read_text()
    assert "18 done" in capsys.readouterr().out


def test_a_store_that_does_not_answer_is_asked_again(out, capsys, monkeypatch):
    real, answers = history.read_history, [None, Unavailable("503"), KeyboardInterrupt()]

    def read(directory):
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return real(directory)

    monkeypatch.setattr(history, "read_history", read)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert main(["status", str(out), "--watch", "1"]) == 0
    assert "does not answer (503); looking again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--watch", "0"], "--watch 0.0 must be 1 second or more"),
        (["--watch", "inf"], "and finite"),
        (["--price", "-1"], "--price -1.0 must be 0 dollars or more"),
        (["--json", "--price", "1"], "--json prints what is there once"),
        (["--html", "/nowhere/page.html"], r"/nowhere/page.html cannot be written \(No such file"),
    ],
)
def test_bad_options_are_named(options, message, out, capsys):
    assert main(["status", str(out), *options]) == BAD_INPUT
    assert re.search(message, capsys.readouterr().err)


def test_a_directory_without_a_sweep_is_named(tmp_path, capsys):
    assert main(["status", str(tmp_path), "--watch", "1"]) == BAD_INPUT
    assert "holds no sweep.json" in capsys.readouterr().err


def test_long_lists_are_cut_on_the_terminal(out, capsys, monkeypatch):
    monkeypatch.setattr(watching, "SHOWN", 4)
    assert main(["status", str(out), "--price", "0"]) == 0
    assert "and 8 more" in capsys.readouterr().out
