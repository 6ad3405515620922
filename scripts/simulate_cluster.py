"""A sweep of 250 runs on slices that are preempted, on a clock that is set and a bucket that is made up.

    python scripts/simulate_cluster.py --seeds 0 1 2

What runs are the project's own workers: the sweep's loop and its directory, leases, metrics, the intervals of
checkpoints, results. What is simulated: seconds, machines, the bucket and its client, orbax, collectives of two hosts,
and the steps of training: each changes a number that the result tells, so that one left out or done twice shows. See
`tests/support/cluster`; `tests/sweep/test_simulated_cluster.py` holds it to what is promised.
"""

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
bucket: Any = import_module("support.cluster.bucket")
fleet: Any = import_module("support.cluster.fleet")
slices: Any = import_module("support.cluster.slices")

HEAD = (
    *("seed", "listings", "results", "lost", "twice", "preempted", "died", "stalled", "hours", "slice-hours"),
    *("useful", "done again", "compiling", "idle", "the rest", "requests", "refused"),
)


def row(plan: Any, report: Any) -> list[str]:
    """One simulation as a line of the table."""

    def happened(kind: str) -> str:
        return str(sum(count for name, count in report.happened.items() if name.startswith(kind)))

    def share(hours: float) -> str:
        return f"{hours / report.up_h:.1%}"

    kinds = ("look", "list", "put", "get", "remove")
    asked = sum(report.requests.get(kind, 0) for kind in kinds)
    refused = sum(count for kind, count in report.requests.items() if kind not in (*kinds, "given up"))
    late = plan.weather.late_s
    return [
        str(plan.seed),
        "true" if late is None else f"up to {late:g} s late",
        str(report.ended.get("as undisturbed", 0)),
        str(report.ended.get("lost", 0)),
        str(report.twice),
        *(happened(kind) for kind in ("preempted", "a ", "stalled")),
        f"{report.makespan_h:.2f}",
        f"{report.up_h:.1f}",
        *map(share, (report.useful_h, report.again_h, report.compiling_h, report.idle_h, report.other_h)),
        f"{asked:,}",
        f"{refused:,}",
    ]


def main(given: argparse.Namespace) -> None:
    """Prints a table, a line a seed."""
    print(f"| {' | '.join(HEAD)} |\n| {' | '.join('---' for _ in HEAD)} |")
    began = time.process_time()
    for late_s in given.late:
        for seed in given.seeds:
            weather = bucket.Weather(late_s=late_s or None)
            plan = slices.Plan(seed, given.runs, given.slices, given.preemptions, given.dead, given.stalls, weather)
            print(f"| {' | '.join(row(plan, fleet.Fleet(plan).report()))} |", flush=True)
    print(f"{time.process_time() - began:.0f} s of CPU", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--late", type=float, nargs="+", default=[0.0], help="seconds that listings are late, at most")
    for name in ("runs", "slices", "preemptions", "dead", "stalls"):
        parser.add_argument(f"--{name}", type=int, default=getattr(slices.Plan(), name))
    main(parser.parse_args())
