"""Shared by tests of launch files: a folder with stand-ins for the clients, and what was asked of them."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from capscale.cli import main
from support import tiny
from support.limits import LIMIT_S

TESTS = Path(tiny.__file__).parents[1]
RECORD = 'printf "%s\\n" "$(basename "$0")" "$@" >>"$CALLS"; echo --- >>"$CALLS"\n'
EXPERIMENT = """
from support import tiny

def runs(ladder, data):
    return [tiny.run(data=data, seed=seed) for seed in range(2)]
"""

POP = """
pop() {  # the first line of a file, which it loses; nothing where it has none
  if [ -s "$PLACE/$1" ]; then head -n 1 "$PLACE/$1"; sed -i 1d "$PLACE/$1"; fi
}
"""

# Two runs are missing unless MISSING says otherwise; workers end with the statuses in a file, and 0 from there on.
WORKER = """
if [ "$1" = missing ]; then printf "%b" "${MISSING-0\\n1\\n}"; exit "${ASKED:-0}"; fi
status=$(pop statuses)
sleep 0
exit "${status:-0}"
"""

# What stands in for each client: it records its arguments, then starts the workers as the real one would.
STAND_INS = {
    "sbatch": """
array=${1#--array=}; array=${array%%%*}; shift
for index in ${array//,/ }; do SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$index bash "$@"; done
""",
    "squeue": 'printf "%s" "${QUEUED:-}"',
    "scontrol": "",
    # A slice is a file with its state, and a folder that is the home of its hosts. `refusals` are what creating it says
    # before it works, `lost` how often the connection breaks as it is preempted.
    "gcloud": """
slice=$PLACE/slice host=$PLACE/host
case "$4" in
describe)
  if [ "$3" = queued-resources ]; then slice=$PLACE/request; fi
  cat "$slice"
  ;;
create)
  refusal=$(pop refusals)
  if [ -n "$refusal" ]; then echo "$refusal" >&2; exit 1; fi
  echo READY >"$slice"; mkdir -p "$host"
  if [ "$3" = queued-resources ]; then echo ACTIVE >"$PLACE/request"; fi
  ;;
delete) rm -rf "$slice" "$PLACE/request" "$host" ;;
scp) cp "$5" "$host/" ;;
ssh)
  if [ -n "$(pop lost)" ]; then echo PREEMPTED >"$slice"; exit 255; fi
  command=$(while [ "$1" != --command ]; do shift; done; echo "$2")
  cd "$host" && HOME=$host bash -c "$command"
  ;;
esac
""",
    # What is there is a file of names, what has ended another one.
    "xpk": """
case "$2" in
list)
  echo "[XPK] Workload List Output:"
  echo "Jobset Name   Created Time   Status"
  name=known; case "$*" in *FINISHED*) name=ended;; esac
  if [ -e "$PLACE/$name" ]; then sed "s/$/   2026-11-28   $name/" "$PLACE/$name"; fi
  ;;
create)
  if [ -n "$(pop refusals)" ]; then exit 1; fi
  while [ $# -gt 0 ]; do
    if [ "$1" = --command ]; then bash -c "$2"; fi
    shift
  done
  ;;
esac
""",
    "kubectl": """
case "$1" in
get) if [ -e "$PLACE/known" ]; then sed 's/$/   <none>/' "$PLACE/known"; fi
  if [ -e "$PLACE/ended" ]; then sed 's/$/   Failed/' "$PLACE/ended"; fi ;;
create)
  cat >"$PLACE/manifest"
  if [ -n "$(pop refusals)" ]; then exit 1; fi
  python - "$PLACE/manifest" <<'END'
import os, subprocess, sys, yaml
jobset = yaml.safe_load(open(sys.argv[1]))
(job,) = jobset["spec"]["replicatedJobs"]
(container,) = job["template"]["spec"]["template"]["spec"]["containers"]
environment = {variable["name"]: variable["value"] for variable in container["env"]}
subprocess.run(container["command"], env=os.environ | environment, check=False)
END
  ;;
esac
""",
    "sky": """
if [ "$2" = queue ]; then
  printf "%s" "${QUEUED:-[]}"
  exit
fi
if [ -n "$(pop refusals)" ]; then exit 1; fi
while [ $# -gt 1 ]; do
  case "$1" in --env) export "$2";; --workdir) cd "$2";; esac
  shift
done
python - "$1" <<'END'
import subprocess, sys, yaml
task = yaml.safe_load(open(sys.argv[1]))
for step in ("setup", "run"):
    subprocess.run(["bash", "-c", task[step]], check=True)
END
""",
    # A job is a file with its state; it runs where it is submitted, in the files that were sent.
    "ray": """
case "$2" in
status) if [ -e "$PLACE/job" ]; then cat "$PLACE/job"; else echo "Job ${ANSWER-does not exist}" >&2; exit 1; fi ;;
delete) rm "$PLACE/job" ;;
submit)
  if [ -n "$(pop refusals)" ]; then exit 1; fi
  while [ "$1" != -- ]; do
    if [ "$1" = --working-dir ]; then cd "$2"; fi
    shift
  done
  shift
  echo "Status for job 'it': RUNNING" >"$PLACE/job"
  "$@"
  echo "Job 'it' succeeded" >"$PLACE/job"
  ;;
esac
""",
    "python3": "",
    "pip": "",
}

OPTIONS = {
    "slurm": ["--at-once", "2", "--devices-per-run", "4"],
    "gcloud": ["--topology", "v5e:4x4", "--zone", "us-central1-a"],
    "xpk": ["--topology", "v4:2x2x1", "--zone", "us-central2-b", "--cluster", "pod", "--image", "gcr.io/p/capscale"],
    "jobset": ["--topology", "v4:2x2x2", "--image", "gcr.io/p/capscale", "--queue", "q"],
    "skypilot": ["--accelerators", "H100:1"],
    "ray": ["--topology", "v4:2x2x2"],
}


def executable(path: Path, content: str) -> None:
    path.write_text(content)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def make_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an experiment, a text, and stand-ins for the clients on the path."""
    (tmp_path / "mine.py").write_text(EXPERIMENT)
    (tmp_path / "text.txt").write_bytes(tiny.text())
    (tmp_path / "bin").mkdir()
    for name, script in STAND_INS.items():
        executable(tmp_path / "bin" / name, f"#!/usr/bin/env bash\nset -e\n{RECORD}{POP}{script}")
    executable(tmp_path / "bin" / "capscale", f"#!/usr/bin/env bash\n{RECORD}{POP}{WORKER}")
    # Not a link: one into a virtual environment is not recognised as part of it.
    executable(tmp_path / "bin" / "python", f'#!/usr/bin/env bash\nexec "{sys.executable}" "$@"\n')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))  # what is installed there comes first
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(where, *more):
    """The script of a launcher, written to a file."""
    script = Path(f"launch-{where}.sh")
    common = [where, "mine.py", "--out", "out dir", "--text", "text.txt", "--script", str(script)]
    assert main(["launch", *common, *OPTIONS[where], *more]) == 0
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=LIMIT_S)
    return script


def calls(place, of=None):
    """Calls of the stand-ins, or those of one of them."""
    text = (place / "calls").read_text() if (place / "calls").exists() else ""
    found = [call.split("\n")[:-1] for call in text.split("---\n")[:-1]]
    return [call for call in found if of is None or call[0] == of]


def workers(place):
    """Calls of `capscale` that train."""
    return [call for call in calls(place, "capscale") if call[1] != "missing"]


def started(script, *arguments, **environment):
    """Carries a script out, as a user would, with nobody there to answer and no time to wait."""
    environment = os.environ | {"WAIT_S": "0", "TRY_S": "0"} | environment
    return subprocess.run(
        ["bash", str(script), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=LIMIT_S,
        stdin=subprocess.DEVNULL,
    )
