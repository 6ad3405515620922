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

# What stands in for each client: it records its arguments, then starts the workers as the real one would.
STAND_INS = {
    "sbatch": """
for index in $(seq $(sed -n 's/^#SBATCH --array=\\([0-9]*\\)-\\([0-9]*\\).*/\\1 \\2/p' "$1")); do
  SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$index bash "$1"
done
""",
    "scontrol": "",
    "gcloud": """
if [ "$4" = describe ]; then
  if [ -z "${STATE:-}" ]; then exit 1; fi
  echo "$STATE"
fi
while [ $# -gt 0 ]; do
  if [ "$1" = --command ]; then (cd "$PLACE" && bash -c "${2/cd capscale \\&\\& /}"); fi
  shift
done
""",
    "xpk": """
while [ $# -gt 0 ]; do
  if [ "$1" = --command ]; then bash -c "$2"; fi
  shift
done
""",
    "sky": """
export "${@: -2:1}"
python - "${@: -1}" <<'END'
import subprocess, sys, yaml
task = yaml.safe_load(open(sys.argv[1]))
for step in ("setup", "run"):
    subprocess.run(["bash", "-c", task[step]], check=True)
END
""",
    "python3": "",
    "pip": "",
}

OPTIONS = {
    "slurm": ["--at-once", "2", "--devices-per-run", "4"],
    "gcloud": ["--topology", "v5e:4x4", "--zone", "us-central1-a"],
    "xpk": ["--topology", "v4:2x2x1", "--zone", "us-central2-b", "--cluster", "pod", "--image", "gcr.io/p/capscale"],
    "skypilot": ["--accelerators", "H100:1"],
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
        executable(tmp_path / "bin" / name, f"#!/usr/bin/env bash\nset -e\n{RECORD}{script}")
    executable(tmp_path / "bin" / "capscale", f"#!/usr/bin/env bash\n{RECORD}{{ sleep 0; exit ${{STATUS:-0}}; }}\n")
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


def calls(place):
    text = (place / "calls").read_text() if (place / "calls").exists() else ""
    return [call.split("\n")[:-1] for call in text.split("---\n")[:-1]]


def started(where, script, **environment):
    """Carries a script out, as a user would."""
    command = ["sbatch", str(script)] if where == "slurm" else ["bash", str(script)]
    environment = os.environ | environment
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=LIMIT_S)
