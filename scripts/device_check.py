"""Checks and times the kernels on this machine's accelerator within LIMIT seconds; scripts/device_check.sh starts it.

Parts and their limits stand in device_plan.py. Every case is done by a worker process (device_worker.py), so that one
that crashes or hangs costs its own row. What is timed is compiled together with all else, many at a time, and then held
until its turn, when nothing but it runs. Rows are written to rows.jsonl in $OUT as they come, and at the end, or where
this process is told to end, all of them to device.json and a table to summary.txt.

WORKERS, if not all cores, is the number of processes at a time; 1 on a TPU, which has room for no second one.
Exit status: 0 where everything that was begun passed, 1 where something did not or there is no accelerator.
"""

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from about import about
from device_plan import PROFILED, REHEARSE, TESTS, Part, Phase, phases, wanted
from device_processes import RUNNING, Limit, Process
from device_profile import command as profiler
from device_profile import kernels
from device_summary import summary

LIMIT = float(os.environ.get("LIMIT", "420"))
OUT = Path(os.environ.get("OUT", "device_out"))
WORKERS = int(os.environ.get("WORKERS", str(os.cpu_count() or 1)))
TEST_WORKERS = 8
LEAST = 0.5 if REHEARSE == "skeleton" else 8.0
"""Seconds below which nothing is begun: a process takes as long to start."""
CLOSING = 2.0 if REHEARSE == "skeleton" else 5.0
"""Seconds for what comes after the last part."""
OUTCOME = re.compile(r"\b(PASSED|FAILED|ERROR|SKIPPED) (tests/\S.*)")
NO_TIME = {"outcome": "not begun", "error": "no time left"}


class Held(NamedTuple):
    """A case that is compiled and waits for its turn."""

    part: Part
    case: str
    process: Process


class Check:
    """The clock, the rows, and what is held."""

    def __init__(self) -> None:
        self.start, self.end = time.monotonic(), time.monotonic() + LIMIT - CLOSING
        self.lock, self.held = threading.RLock(), list[Held]()  # the main thread is told to end where it may hold it
        self.about, self.rows = about("jax") if REHEARSE != "skeleton" else {}, list[dict[str, Any]]()
        OUT.mkdir(parents=True, exist_ok=True)
        self.file, self.log = (OUT / "rows.jsonl").open("w"), (OUT / "log.txt").open("w")

    def write(self, part: str, row: dict[str, Any]) -> None:
        """One more row: to the file, and a word to the terminal where it is a bad one."""
        with self.lock:
            row = {"part": part, **row, "at": round(time.monotonic() - self.start, 1)}
            self.rows.append(row)
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
            if row["outcome"] != "passed":
                print(f"{row['at']:6.1f} {part}: {row['case']}: {row['outcome']}", row.get("error", "")[:100])

    def process(self, name: str, command: list[str]) -> Process:
        """Starts a process, whose stderr goes to the log under a name."""

        def log(text: str) -> None:
            with self.lock:
                self.log.write(f"=== {name}\n{text}\n")
                self.log.flush()

        return Process(command, log)

    def worker(self, part: Part, cases: list[str]) -> Process:
        """A process of device_worker.py."""
        script = str(Path(__file__).with_name("device_worker.py"))
        held = ["--held"] if part.held else []
        return self.process(f"{part.name}: {', '.join(cases)}", [sys.executable, script, *held, part.name, *cases])

    def phase(self, phase: Phase) -> None:
        """The cases of a phase, so many at a time; then those that are held, one after another."""
        end = min(self.end, time.monotonic() + phase.total)
        jobs: deque[tuple[Part, list[str]]] = deque()
        for part in phase.parts:
            for first in range(0, len(part.cases), part.per_process):
                jobs.append((part, list(part.cases[first : first + part.per_process])))

        def work() -> None:
            while True:
                with self.lock:
                    if not jobs:
                        return
                    part, cases = jobs.popleft()
                while cases:
                    cases = self._prepared(part, cases, end) if part.held else self._done(part, cases, end)
                    if phase.workers == 1:
                        self._turns()

        with ThreadPoolExecutor(phase.workers) as pool:
            for done in [pool.submit(work) for _ in range(min(phase.workers, len(jobs)))]:
                done.result()
        order = [(part.name, case) for part in phase.parts for case in part.cases]
        self.held.sort(key=lambda held: order.index((held.part.name, held.case)))
        self._turns()

    def _done(self, part: Part, cases: list[str], end: float) -> list[str]:
        """Has a process do the cases, one after another; what is left where it has ended before the last."""
        if end - time.monotonic() < LEAST:
            for case in cases:
                self.write(part.name, {"case": case, **NO_TIME})
            return []
        left, limit, error = list(cases), Limit(end, part.each), "ended without a row"
        try:
            for row in map(parsed, self.worker(part, cases).lines(limit)):
                if "begun" in row:
                    limit.again()
                elif "outcome" in row:
                    left.remove(row["case"])
                    self.write(part.name, row)
        except (TimeoutError, ChildProcessError) as reason:
            error = str(reason)
            if len(left) < len(cases) and "status 3" in error:
                return left  # it said why in a row
        if left:
            self.write(part.name, {"case": left[0], "outcome": "did not finish", "error": error})
        return left[1:]

    def _prepared(self, part: Part, cases: list[str], end: float) -> list[str]:
        """Has a process compile the first case, and holds it."""
        case, *rest = cases
        if end - time.monotonic() < LEAST:
            self.write(part.name, {"case": case, **NO_TIME})
            return rest
        process, said, error = self.worker(part, [case]), False, "ended without a row"
        try:
            for row in map(parsed, process.lines(Limit(end, part.each))):
                if "ready" in row:
                    with self.lock:
                        self.held.append(Held(part, case, process))
                    return rest
                if "outcome" in row:
                    said = True
                    self.write(part.name, row)
        except (TimeoutError, ChildProcessError) as reason:
            error = f"compiling: {reason}"
        if not said:
            self.write(part.name, {"case": case, "outcome": "did not finish", "error": error})
        return rest

    def _turns(self) -> None:
        """Has every process that is held run its case, alone."""
        for part, case, process in self.held:
            if self.end - time.monotonic() < LEAST / 2:
                process.end()
                self.write(part.name, {"case": case, **NO_TIME})
                continue
            said, error = False, "ended without a row"
            process.tell("go")
            try:
                for row in map(parsed, process.lines(Limit(self.end, part.turn))):
                    if "outcome" in row:
                        said = True
                        self.write(part.name, row)
            except (TimeoutError, ChildProcessError) as reason:
                error = str(reason)
            if not said:
                self.write(part.name, {"case": case, "outcome": "did not finish", "error": error})
        self.held.clear()

    def profile(self) -> None:
        """A few kernels by ncu."""
        if shutil.which("ncu") is None or self.end - time.monotonic() < 20:
            why = "no ncu on the PATH" if shutil.which("ncu") is None else "no time left"
            return self.write("ncu", {"case": "all", "outcome": "not begun", "error": why})
        path = OUT / "ncu.csv"
        try:
            said = list(self.process("ncu", profiler(path)).lines(Limit(self.end, 50)))
            error = " ".join(said[-2:])[:300]
        except (TimeoutError, ChildProcessError) as reason:
            error = str(reason)
        found = kernels(path.read_text()) if path.exists() else []
        for row in found:
            self.write("ncu", {"outcome": "passed", **row})
        if not found:
            self.write("ncu", {"case": ", ".join(PROFILED), "outcome": "did not finish", "error": error})

    def tests(self) -> None:
        """The device tests, in what time is left; one row for each that fails, one for all."""
        if self.end - time.monotonic() < 25:
            return self.write("tests", {"case": "all", **NO_TIME})
        files = [f"tests/kernels/{name}" for name in TESTS]
        options = ["-m", "device", "-v", "-rf", "--tb", "short", "-p", "no:cacheprovider", "-W", "default"]
        spread = ["-n", str(TEST_WORKERS), "--dist", "load", "--maxschedchunk", "1"]
        spread += ["--timeout", "60", "--timeout-method", "thread"]  # a kernel that hangs hears no signal
        process = self.process("tests", [sys.executable, "-m", "pytest", *files, *options, *spread])
        counts, error, reasons = dict[str, int](), "", list[str]()
        try:
            with (OUT / "tests.txt").open("w") as file:
                for line in process.lines(Limit(self.end, LIMIT), gently=8.0):
                    file.write(line + "\n")
                    file.flush()
                    if line.startswith(("FAILED", "ERROR")):
                        reasons.append(line)  # of the list at the end, which says why
                        continue
                    if (match := OUTCOME.search(line)) is None:
                        continue
                    outcome = match[1].lower()
                    counts[outcome] = counts.get(outcome, 0) + 1
                    if outcome in ("failed", "error"):
                        self.write("tests", {"case": match[2].strip(), "outcome": outcome})
        except (TimeoutError, ChildProcessError) as reason:
            error = str(reason)
        outcome = "passed" if counts.get("passed") else "skipped"
        outcome = "wrong" if counts.get("failed") or counts.get("error") else outcome
        outcome = "did not finish" if error else outcome
        self.write("tests", {"case": "all", "outcome": outcome, "error": error, "counts": counts, "reasons": reasons})

    def close(self) -> str:
        """Writes what there is, and returns the table."""
        text = summary(self.about, self.rows, time.monotonic() - self.start)
        (OUT / "device.json").write_text(json.dumps({**self.about, "rows": self.rows}, indent=1))
        (OUT / "summary.txt").write_text(text)
        return text

    def stop(self, *_: Any) -> None:
        """Told to end: kills what runs, and writes. What is killed so has no row: no thread writes behind this."""
        with self.lock:
            for process in list(RUNNING):
                process.kill()
            print(self.close(), flush=True)
            os._exit(143)


def parsed(line: str) -> dict[str, Any]:
    """A row of a worker; nothing where a library said something of its own."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def main() -> None:
    """All parts in their order."""
    check = Check()
    signal.signal(signal.SIGTERM, check.stop)
    for i, phase in enumerate(phases(WORKERS)):
        check.phase(phase)
        platform = next((row["platform"] for row in check.rows if "platform" in row), None)
        if i == 0 and not REHEARSE and platform == "cpu":
            print(check.close())
            sys.exit("no accelerator was found; REHEARSE=1 tries everything on a CPU, with the kernels interpreted")
    if REHEARSE != "skeleton":
        for name, part in (("ncu", check.profile), ("tests", check.tests)):
            if wanted(name):
                part()
    print(check.close())
    sys.exit(0 if all(row["outcome"] in ("passed", "not begun", "skipped") for row in check.rows) else 1)


if __name__ == "__main__":
    main()
