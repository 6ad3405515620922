"""`--stop-losers` of `sweep`, `run`, `missing` and `launch`: what passes it on, and where it has no meaning."""

import json
import signal

import pytest
from support import tiny

from capscale.cli import BAD_INPUT, main
from capscale.sweep import on_ray
from capscale.train.loop import LoopIntervals

EXPERIMENT = """
from support import tiny
from capscale.train.run import Optimizer

def runs(ladder, data):
    return [tiny.run(data=data, tokens=60 * 64, optimizer=Optimizer(rate)) for rate in (1e-5, 0.02, 0.03)]
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with an experiment and a text."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    short = tiny.LoopIntervals(3, 1e9)
    monkeypatch.setattr(LoopIntervals, "of", classmethod(lambda cls, run, **_: short))
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(EXPERIMENT)
    (tmp_path / "text.txt").write_bytes(tiny.text())
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.ci
def test_a_sweep_stops_its_losers_and_a_later_one_trains_them(place, capsys):
    training = ["mine.py", "--text", "text.txt", "--out", "out"]
    for command in (["sweep", *training, "--jobs", "1"], ["run", *training, "--index", "0", "1", "2"]):
        assert main([*command, "--stop-losers"]) == 0
        said = capsys.readouterr().out
        assert "2 of 3 results in out" in said
        assert "trained now), 1 stopped early\n" in said
    assert main(["status", "out"]) == 0
    assert capsys.readouterr().out.startswith("2 done, 1 stopped early\ndevice-hours: ")
    assert main(["status", "out", "--watch", "1"]) == 0, "which ends, as nothing is left to do"
    assert "3 of 3" in capsys.readouterr().out
    asked = ["missing", "mine.py", "--out", "out"]
    assert main([*asked, "--stop-losers"]) == 0
    assert capsys.readouterr().out == ""
    assert main(asked) == 0
    assert capsys.readouterr().out == "0\n"
    assert main(["run", *training, "--index", "0"]) == 0
    assert "1 of 1 results in out (1 trained now)\n" in capsys.readouterr().out
    assert main(["status", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["done"] == 3


class Here:
    """An attempt of Ray's that trains where it is begun (`capscale.sweep.ray_work.Work`)."""

    def __init__(self, status):
        self.awaited, self._status = [], status

    def ended(self):
        return f"worker ended with status {self._status}"

    def close(self):
        """Nothing is held."""


@pytest.mark.ci
def test_workers_of_ray_stop_a_loser_and_leave_it_alone(place, capsys, monkeypatch):
    """The cluster is made up, and its workers are here; the runs in the middle of the rates are asked for first."""
    ray = pytest.importorskip("ray")
    for name, answer in (("init", None), ("cluster_resources", {"CPU": 1.0}), ("shutdown", None)):
        monkeypatch.setattr(ray, name, lambda answer=answer, **_: answer)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 1.0}}])
    monkeypatch.setattr(on_ray, "starting", lambda unit, train: lambda index: Here(train(index, None)))
    command = ["sweep", "mine.py", "--text", "text.txt", "--out", "out", "--launcher", "ray"]
    for trained in (2, 0):
        assert main([*command, "--stop-losers"]) == 0
        said = capsys.readouterr().out
        assert f"2 of 3 results in out ({trained} trained now), 1 stopped early\n" in said
        assert ("stopped early at step" in said) is (trained > 0)
    assert main(command) == 0
    assert "3 of 3 results in out (1 trained now)\n" in capsys.readouterr().out


def test_launch_files_pass_it_to_workers_and_to_what_asks_for_missing_runs(place, capsys):
    for where, more in (("slurm", []), ("gcloud", ["--zone", "here"]), ("ray", [])):
        command = ["launch", where, "mine.py", "--text", "text.txt", "--out", "gs://b/out", *more]
        assert main([*command, "--stop-losers"]) == 0
        lines = capsys.readouterr().out.splitlines()
        workers = [line for line in lines if "capscale run mine.py" in line or "capscale sweep mine.py" in line]
        assert workers
        assert all("--stop-losers" in line for line in workers)
        assert all("--stop-losers" in line for line in lines if "capscale missing" in line)
        assert main(command) == 0
        assert "--stop-losers" not in capsys.readouterr().out


def test_it_is_refused_where_no_run_is_a_trial(place, capsys):
    assert (
        main(["launch", "slurm", "capacity_demo", "--text", "text.txt", "--out", "out", "--stop-losers"]) == BAD_INPUT
    )
    assert "no two of the 84 runs differ in settings of the optimizer" in capsys.readouterr().err
    assert main(["sweep", "mine.py", "--out", "out", "--stop-losers", "--mode", "population"]) == BAD_INPUT
    assert "--stop-losers stops single runs, which --mode population trains at once" in capsys.readouterr().err
