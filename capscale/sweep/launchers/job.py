"""Parts that all launch files have: the commands of the workers, the runs that are missing, and dry runs."""

import shlex
from dataclasses import dataclass
from typing import Literal

from capscale.checks import check_whole
from capscale.errors import UserError

PREEMPTED = 143
"""Exit status of a worker after SIGTERM."""
ABORTED = 134
"""That of one of several processes which JAX aborts, with signal 6, where its heartbeat finds another one gone."""
RESTARTS = 100
"""Most times that a task is started again."""
LONGEST_NAME = 40
"""Letters of a job's name, index and all: the fewest that one of the clouds takes."""
STORES = {"gs://": "gcs", "s3://": "s3"}
"""Extras of capscale that paths need."""

Capacity = Literal["spot", "on-demand", "reserved"]
"""How machines are bought: preemptible and cheap, at any time, or from a reservation."""

PYTHON = """\
# capscale needs Python 3.11, and fresh machines may have an older one: where --setup did not say how to install it, uv
# does, with a Python 3.12 of its own."""
INSTALLED = 'export PATH="$HOME/.local/bin:$PATH";'
"""Where uv and `pip install --user` put `capscale`; no shell that was not logged in to looks there."""

DRY_RUN = """run() {
  if [ "$dry_run" = yes ]; then printf '%q ' "$@"; echo; else "$@"; fi
}
dry_run=no
if [ "${1:-}" = --dry-run ]; then dry_run=yes; fi
"""

LEFT_BEHIND = (".git", ".venv*", "./runs", "__pycache__", ".*_cache", "*.egg-info")
"""Files of the project's directory that no worker needs, as tar has them; `--out` too, where it lies there."""


@dataclass(frozen=True)
class Job:
    """Settings of a launch.

    Attributes:
      name: of the job, letters, digits and hyphens.
      arguments: of `capscale run`, but for --index.
      missing: arguments of `capscale missing`, which prints the runs to submit.
      runs: how many there are.
      out: directory of the sweep.
      per_task: most runs that one task trains, one after the other or together.
      shared: devices of each run where the runs of a task share its one host, each in a process of its own; None where
        each has all devices of the task.
      setup: command that makes `capscale` available on a fresh machine, in the directory of the project's files; None
        for `ready`'s own.
    """

    name: str
    arguments: tuple[str, ...]
    missing: tuple[str, ...]
    runs: int
    out: str
    per_task: int = 1
    shared: int | None = None
    setup: str | None = None

    def __post_init__(self):
        check_whole(self, "runs", "per_task", least=1)
        check_whole(self, "shared", least=1, optional=True)

    def ready(self, chips: str) -> str:
        """The command that makes `capscale` available; `chips` is the extra that brings JAX for them.

        By uv, which fetches a Python that is new enough where a machine has none: TPU VM images may bring 3.10.
        """
        stores = (STORES[scheme] for scheme in STORES if any(word.startswith(scheme) for word in self.arguments))
        install = "python3 -m uv tool install --force --reinstall-package capscale --python 3.12"
        return self.setup or f"python3 -m pip install uv && {install} '.[{','.join((chips, *stores))}]'"

    def task(self, *more: str, joined: str = "") -> str:
        """The command of one task, but for its indices, which follow; `joined`: options in words of the shell.

        `more`: options by which the devices of a task train a run together, where its runs do not share them.
        """
        return " ".join(filter(None, ("capscale", shlex.join((*self.arguments, *self._how(more))), joined, "--index")))

    def all(self, *more: str) -> str:
        """The command that trains every run; any number of them share the work. `more`: as in `task`."""
        return f"capscale {shlex.join(('sweep', *self.arguments[1:], *self._how(more)))}"

    def _how(self, together: tuple[str, ...]) -> tuple[str, ...]:
        return together if self.shared is None else ("--mode", "processes", "--devices-per-run", str(self.shared))

    @property
    def asks(self) -> str:
        """The command that prints the indices of every task with missing runs, a line each."""
        return shlex.join(("capscale", "missing", *self.missing, "--runs-per-task", str(self.per_task)))

    @property
    def tasks(self) -> str:
        """Lines of bash that set `tasks` to that, and end the script where there are none."""
        return f"""tasks=$({self.asks}) || exit
if [ -z "$tasks" ]; then
  echo "{self.name}: every run has a result"
  exit 0
fi
"""

    @property
    def excluded(self) -> str:
        """Options of tar that leave behind what no worker needs."""
        local = [] if "://" in self.out or self.out.startswith("/") else [f"./{self.out.removeprefix('./')}"]
        return " ".join(shlex.quote(f"--exclude={pattern}") for pattern in (*LEFT_BEHIND, *local))


def job_name(experiment: str, ladder: str, runs: int) -> str:
    """`capscale-paper-capacity-paper`; `UserError` where that and the index of a run are too long for the clouds."""
    words = "".join(
        letter if letter.isascii() and letter.isalnum() else "-" for letter in f"{experiment}-{ladder}".lower()
    )
    name = f"capscale-{'-'.join(filter(None, words.split('-')))}"
    last = f"{name}-{runs - 1}"
    if len(last) > LONGEST_NAME:
        raise UserError(
            f"job name {last!r} has over {LONGEST_NAME} letters, more than the clouds take; rename the experiment file"
        )
    return name
