"""The order, the clock and the rows of scripts/device_check.sh, with cases that need no accelerator."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def environment(out: Path, limit: float) -> dict[str, str]:
    places = os.pathsep.join([str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")])
    own = {"REHEARSE": "skeleton", "OUT": str(out), "LIMIT": str(limit), "PYTHON": sys.executable, "PYTHONPATH": places}
    return os.environ | own


def rows_of(out: Path) -> list[dict]:
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert json.loads((out / "device.json").read_text())["rows"] == rows
    return rows


def test_what_fails_crashes_or_hangs_costs_its_own_row(tmp_path):
    command = ["bash", str(ROOT / "scripts" / "device_check.sh")]
    done = subprocess.run(command, env=environment(tmp_path, 60), capture_output=True, text=True, check=False)
    rows = rows_of(tmp_path)
    assert done.returncode == 1, done.stderr
    outcomes = [
        {row["case"]: (row["outcome"], row.get("error", "")) for row in rows[a:b]} for a, b in ((0, 5), (5, 11))
    ]
    one_by_one = {
        "passes": ("passed", ""),
        "fails": ("wrong", "1 of 4 values differ, 0 may"),
        "crashes": ("did not finish", "ended by signal SIGSEGV: "),
        "hangs": ("did not finish", "killed after 2 s"),
        "passes too": ("passed", ""),
    }
    held = {"cannot be compiled": ("did not finish", "ValueError: no such instruction")}
    assert outcomes[0] == one_by_one
    assert outcomes[1] == {case: one_by_one[case] for case in ("passes", "fails", "crashes", "hangs")} | held
    assert [row["case"] for row in rows[-4:]] == ["passes", "fails", "crashes", "hangs"], "in the order of the plan"
    assert rows[1]["measured"] == 1.0, "what was measured before the error is kept"
    assert "held: 3 did not finish, 1 passed, 1 wrong" in done.stdout
    assert "rehearsal: 3 passed, 1 wrong, 2 did not finish" in done.stdout
    assert "killed after 2 s" in (tmp_path / "summary.txt").read_text()


def test_only_what_is_named_is_done(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    plan = importlib.import_module("device_plan")
    monkeypatch.setattr(plan, "ONLY", ("projections", "256 rows", "ncu"))
    _, together = plan.phases(1)
    cases = {part.name: part.cases for part in together.parts}
    assert cases == {"projections": plan.PROJECTIONS, "products": ("256 rows",)}
    assert [part for part in ("ncu", "tests") if plan.wanted(part)] == ["ncu"]
    monkeypatch.setattr(plan, "ONLY", ("projection",))
    with pytest.raises(SystemExit, match="ONLY names projection; "):
        plan.phases(1)


def test_what_there_is_no_time_for_is_said(tmp_path):
    command, start = [sys.executable, str(ROOT / "scripts" / "device_check.py")], time.monotonic()
    done = subprocess.run(command, env=environment(tmp_path, 3.5), capture_output=True, text=True, check=False)
    rows = rows_of(tmp_path)
    assert len(rows) == 11, "one for every case"
    assert rows[-1]["outcome"] == "not begun"
    assert rows[-1]["error"] == "no time left"
    assert done.returncode == 1
    assert time.monotonic() - start < 20


def test_told_to_end_it_leaves_its_rows(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "device_check.py")]
    process = subprocess.Popen(command, env=environment(tmp_path, 60), stdout=subprocess.PIPE, text=True)
    file, end = tmp_path / "rows.jsonl", time.monotonic() + 20
    while time.monotonic() < end and not (file.exists() and "crashes" in file.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 143
    assert {"passes", "fails", "crashes"} <= {row["case"] for row in rows_of(tmp_path)}
    assert "rehearsal: " in said


@pytest.mark.parametrize("rows", [8, 1000])
def test_the_table_is_short(rows, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from device_summary import LONGEST, summary

    where = {"part": "where", "case": "limits", "outcome": "passed", "at": 1.0, "clocks": None}
    where |= {"copy_bytes_per_s": 4e12, "bf16_flop_per_s": 8e14}
    cut = {"part": "steps", "case": "30M int4 auto", "outcome": "did not finish", "error": "out of memory", "at": 2.0}
    step = {"step_s": 0.01, "tokens_per_s": 8e5, "flop_per_s": 4e14, "peak_bytes": None, "kernels": 7}
    step |= {"compile_s": 20.0, "first_loss": 10.4, "last_loss": 9.0, "outcome": "passed", "at": 3.0, "part": "steps"}
    text = summary({}, [where, cut, *(step | {"case": f"{i}M dense auto"} for i in range(rows))], 420.0)
    assert "MFU 50.0%" in text
    assert "did not finish: out of memory" in text
    assert len(text) < LONGEST + 100


def test_counters_of_the_profiler_are_read(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from device_profile import METRICS, kernels

    names = ["ID", "Kernel Name", *METRICS.values()]
    units = {"us": "ns", "dram_bytes": "Mbyte", "shared_bytes": "Kbyte/block"}
    table = [names, ["", "", *(units.get(name, "") for name in METRICS)], ["0", "project", *["1,500.5"] * len(METRICS)]]
    text = "==PROF== Connected\n" + "\n".join(",".join(f'"{cell}"' for cell in line) for line in table)
    (row,) = kernels(text)
    assert (row["case"], row["us"], row["dram_bytes"], row["registers"]) == ("project", 1.5005, 1500.5e6, 1500.5)
    assert kernels("==ERROR== no counters") == []
