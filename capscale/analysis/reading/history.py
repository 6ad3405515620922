"""Histories of runs, which trackers write with many steps of each: the steps that a law can be fitted to."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from capscale.analysis.reading.columns import plain_name
from capscale.analysis.reading.numbers import is_missing
from capscale.analysis.row import Remark

STEPS = ("step", "global_step", "trainer_global_step", "iteration", "iter", "train_step")
"""Columns that count steps, as `plain_name` has them."""


def is_step(name: str) -> bool:
    """Whether a column of that name counts the steps of a run."""
    return plain_name(name) in STEPS


def last_of_histories(records: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Remark]]:
    """Without the steps that have no loss, and of a run whose D is the same at every step its last alone.

    The rows of a run with several D are its checkpoints, and stay. Without a column of steps nothing is left out.
    """
    names = {name for name in {name for record in records for name in record} if is_step(str(name))}
    if len(names) != 1 or any("loss" not in record for record in records):
        return list(records), []
    (step,) = names
    runs: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        runs[record["run"], record.get("N"), record.get("weights"), record.get("activations")].append(record)
    left_out, ended, dropped = 0, 0, set()
    for rows in runs.values():
        told = [row for row in rows if not is_missing(row["loss"])]
        if len(rows) == 1 or not told:
            continue
        left_out += len(rows) - len(told)
        dropped |= {id(row) for row in rows if is_missing(row["loss"])}
        steps = [row.get(step) for row in told]
        if len(told) > 1 and len({row.get("D") for row in told}) == 1 and len(set(steps)) == len(steps):
            last = max(told, key=lambda row: -1.0 if row[step] is None else row[step])
            dropped |= {id(row) for row in told if row is not last}
            ended += 1
    remarks = []
    if left_out:
        remarks.append(Remark(f"column {step!r}", f"{left_out} steps without a loss are left out"))
    if ended:
        remarks.append(Remark(f"column {step!r}", f"{ended} runs have one D at all of their steps: the last is read"))
    return [record for record in records if id(record) not in dropped], remarks
