"""Checks and times the kernels on this machine's accelerator within LIMIT seconds; scripts/device_check.sh starts it.

Parts and their limits stand in device_plan.py. Every case is done by a worker process (device_worker.py), so that one
that crashes or hangs costs its own row; the rows are written to rows.jsonl in $OUT as they come, and at the end, or
where this process is told to end, all of them to device.json and a table to summary.txt.

Exit status: 0 where everything that was begun passed, 1 where something did not, 2 without an accelerator.
"""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from about import about
from device_plan import PROFILED, REHEARSE, TESTS, Part, Phase, phases
from device_profile import command as profiler
from device_profile import kernels
from device_summary import summary

LIMIT = float(os.environ.get("LIMIT", "420"))
OUT = Path(os.environ.get("OUT", "device_out"))
WORKERS = int(os.environ.get("WORKERS", str(max(1, (os.cpu_count() or 2) - 2))))
TEST_WORKERS = 8
LEAST = 0.5 if REHEARSE == "skeleton" else 8.0
"""Seconds below which nothing is begun: a process takes as long to start."""
CLOSING = 2.0 if REHEARSE == "skeleton" else 5.0
"""Seconds for what comes after the last part."""
LOGGED = 20_000  # characters of what a process says to stderr
OUTCOME = re.compile(r"\b(PASSED|FAILED|ERROR|SKIPPED) (tests/\S.*)")


class Limit:
    """When a case must be done: within so many seconds of its beginning, and before `end`."""

    def __init__(self, end: float, each: float) -> None:
        self.end, self.each = end, each
        self.again()

    def again(self) -> None:
        """The next case begins."""
        self.case_end = time.monotonic() + self.each

    def at(self) -> float:
        """On the clock of `time.monotonic`."""
        return min(self.end, self.case_end)

    def own(self) -> bool:
        """Whether it is the case's own time that is over."""
        return self.case_end <= self.end


class Check:
    """The clock, the rows, and the processes that run."""

    def __init__(self) -> None:
        self.start, self.end = time.monotonic(), time.monotonic() + LIMIT - CLOSING
        self.lock, self.running = threading.Lock(), set[int]()
        self.about, self.rows = about("jax") if REHEARSE != "skeleton" else {}, list[dict[str, Any]]()
        OUT.mkdir(parents=True, exist_ok=True)
        self.file, self.log = (OUT / "rows.jsonl").open("w"), (OUT / "log.txt").open("w")

    def write(self, row: dict[str, Any]) -> None:
        """One more row: to the file, and a word of it to the terminal."""
        with self.lock:
            row = row | {"at": round(time.monotonic() - self.start, 1)}
            self.rows.append(row)
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
            if row["outcome"] != "passed":
                print(f"{row['at']:6.1f} {row['part']}: {row['case']}: {row['outcome']}", row.get("error", "")[:100])

    def lines(self, name: str, command: list[str], until: Callable[[], float], gently: float = 0.0) -> Iterator[str]:
        """Lines that a process writes, until it ends or the clock reads `until()`; then it is killed with all it began.

        `gently`: so many seconds before, it is asked to end, as by Ctrl-C. Its stderr goes to the log at its end.
        Raises TimeoutError where it was killed, ChildProcessError where it ended with a status other than 0 or 1.
        """
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
            assert process.stdout is not None
            descriptor, rest, asked = process.stdout.fileno(), b"", False
            with self.lock:
                self.running.add(process.pid)
            try:
                while True:
                    left = until() - time.monotonic()
                    if left <= 0:
                        raise TimeoutError
                    if gently and not asked and left <= gently:
                        os.killpg(process.pid, signal.SIGINT)
                        asked = True
                    if not select.select([descriptor], [], [], min(left, 0.5))[0]:
                        continue
                    read = os.read(descriptor, 1 << 16)
                    if not read:
                        break
                    *whole, rest = (rest + read).split(b"\n")
                    yield from (line.decode(errors="replace") for line in whole)
                status = process.wait(timeout=max(0.1, until() - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise TimeoutError from None
            finally:
                said = self._end(name, process, errors)
            if status not in (0, 1):
                ended = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
                raise ChildProcessError(f"ended by {ended}: {said}")

    def _end(self, name: str, process: subprocess.Popen[bytes], errors: Any) -> str:
        """Kills what is left of a process, logs what it said to stderr, and returns the last line of it."""
        with self.lock:
            self.running.discard(process.pid)
        try:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=3)
        except (ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
            pass  # gone, or held by the driver: not waited for
        errors.seek(0)
        text = errors.read().decode(errors="replace")[-LOGGED:].strip()
        with self.lock:
            self.log.write(f"=== {name}\n{text}\n")
            self.log.flush()
        return text.rpartition("\n")[2][:300]

    def phase(self, phase: Phase) -> None:
        """The cases of a phase, so many at a time."""
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
                    cases = self._some(part, cases, end)

        with ThreadPoolExecutor(phase.workers) as pool:
            for done in [pool.submit(work) for _ in range(min(phase.workers, len(jobs)))]:
                done.result()

    def _some(self, part: Part, cases: list[str], end: float) -> list[str]:
        """Has a process do the cases, one after another; what is left where it has ended before the last."""
        name = f"{part.name} ahead" if part.ahead else part.name
        if end - time.monotonic() < LEAST:
            for case in cases:
                self.write({"part": name, "case": case, "outcome": "not begun", "error": "no time left"})
            return []
        script = str(Path(__file__).with_name("device_worker.py"))
        command = [sys.executable, script, *(["--ahead"] if part.ahead else []), part.name, *cases]
        left, limit = list(cases), Limit(end, part.each)
        try:
            for line in self.lines(f"{name}: {', '.join(cases)}", command, limit.at):
                try:
                    row = json.loads(line)
                except ValueError:
                    continue  # a library's own words
                if "begun" in row:
                    limit.again()
                else:
                    left.remove(row["case"])
                    self.write({"part": name, **row})
            error = "ended without a row"
        except TimeoutError:
            error = f"killed after {part.each:.0f} s" if limit.own() else "killed: no time left"
        except ChildProcessError as reason:
            error = str(reason)
            if len(left) < len(cases) and "status 3" in error:
                return left  # it said why in a row
        if left:
            self.write({"part": name, "case": left[0], "outcome": "did not finish", "error": error})
        return left[1:]

    def profile(self) -> None:
        """A few kernels by ncu."""
        if shutil.which("ncu") is None or self.end - time.monotonic() < 20:
            why = "no ncu on the PATH" if shutil.which("ncu") is None else "no time left"
            return self.write({"part": "ncu", "case": "all", "outcome": "not begun", "error": why})
        end, path = min(self.end, time.monotonic() + 45), OUT / "ncu.csv"
        try:
            said = list(self.lines("ncu", profiler(path), lambda: end))
            error = " ".join(said[-2:])[:300]
        except (TimeoutError, ChildProcessError) as reason:
            error = str(reason) or "killed: no time left"
        found = kernels(path.read_text()) if path.exists() else []
        for row in found:
            self.write({"part": "ncu", "outcome": "passed", **row})
        if not found:
            self.write({"part": "ncu", "case": ", ".join(PROFILED), "outcome": "did not finish", "error": error})

    def tests(self) -> None:
        """The device tests, in what time is left; one row for each that fails, one for all."""
        if self.end - time.monotonic() < 25:
            return self.write({"part": "tests", "case": "all", "outcome": "not begun", "error": "no time left"})
        files = [f"tests/kernels/{name}" for name in TESTS]
        options = ["-m", "device", "-v", "-rf", "--tb", "short", "-p", "no:cacheprovider", "-W", "default"]
        spread = ["-n", str(TEST_WORKERS), "--dist", "load", "--maxschedchunk", "1", "--timeout", "60"]
        command, counts = [sys.executable, "-m", "pytest", *files, *options, *spread], dict[str, int]()
        error = ""
        try:
            with (OUT / "tests.txt").open("w") as file:
                for line in self.lines("tests", command, lambda: self.end, gently=8.0):
                    file.write(line + "\n")
                    file.flush()
                    if not (match := OUTCOME.search(line)) or line.startswith(("FAILED", "ERROR")):
                        continue
                    outcome = match[1].lower()
                    counts[outcome] = counts.get(outcome, 0) + 1
                    if outcome in ("failed", "error"):
                        self.write({"part": "tests", "case": match[2].strip(), "outcome": outcome})
        except TimeoutError:
            error = "killed: no time left"
        except ChildProcessError as reason:
            error = str(reason)
        outcome = (
            "wrong" if counts.get("failed") or counts.get("error") else "passed" if counts.get("passed") else "skipped"
        )
        outcome = "did not finish" if error else outcome
        self.write({"part": "tests", "case": "all", "outcome": outcome, "error": error, "counts": counts})

    def close(self) -> str:
        """Writes what there is, and returns the table."""
        text = summary(self.about, self.rows, time.monotonic() - self.start)
        (OUT / "device.json").write_text(json.dumps({**self.about, "rows": self.rows}, indent=1))
        (OUT / "summary.txt").write_text(text)
        return text

    def stop(self, *_: Any) -> None:
        """Told to end: kills what runs, and writes."""
        for group in list(self.running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        print(self.close(), flush=True)
        os._exit(143)


def main() -> None:
    """All parts in their order."""
    check = Check()
    signal.signal(signal.SIGTERM, check.stop)
    for i, phase in enumerate(phases(WORKERS)):
        check.phase(phase)
        platform = next((row["platform"] for row in check.rows if "platform" in row), None)
        if i == 0 and not REHEARSE and platform not in ("gpu", "tpu"):
            print(check.close())
            sys.exit("no accelerator was found; REHEARSE=1 tries everything on a CPU, with the kernels interpreted")
    if REHEARSE != "skeleton":
        check.profile()
        check.tests()
    print(check.close())
    sys.exit(0 if all(row["outcome"] in ("passed", "not begun", "skipped") for row in check.rows) else 1)


if __name__ == "__main__":
    main()
