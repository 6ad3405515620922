"""The directory of a sweep under way, made up: a run in every state, starts that failed, a loss that jumps."""

import json
import math
import random
import time
from pathlib import Path

STATES = ("done", "running", "started", "failed", "to do", "diverged")


def write_sweep(out: Path, seeds: int = 4) -> list[str]:
    """Writes it into `out`; ids of the runs."""
    chance, runs, planned = random.Random(0), [], {}
    for size, floor in (("30M", 3.4), ("50M", 3.2), ("100M", 2.9)):
        for seed in range(seeds):
            run_id, state = f"{size}-{seed}", STATES[(seed + len(size)) % len(STATES)]
            runs.append(run_id)
            planned[run_id] = {"name": f"{size} int4 seed {seed}", "steps": 2000, "flops": 1e15}
            _write_run(out / "runs" / run_id, run_id, state, floor, chance)
    (out / "sweep.json").write_text(json.dumps({"runs": runs, "planned": planned}))
    return runs


def _write_run(place: Path, run_id: str, state: str, floor: float, chance: random.Random) -> None:
    place.mkdir(parents=True)
    if state == "to do":
        return
    (place / "run.json").write_text(json.dumps({"batch": 64, "model": {"context": 512}}))
    last = {"done": 2000, "diverged": 900}.get(state, chance.randrange(600, 1800, 20))
    lines = []
    for step in range(20, last + 1, 20):
        loss = floor + 7 * math.exp(-step / 250) + chance.gauss(0, 0.02)
        if state == "running" and 400 <= step < 460:
            loss += 2.5
        is_lost = state == "diverged" and step == last
        seconds = 1.2 * chance.uniform(0.95, 1.05)
        lines.append(
            {"step": step, "loss": None if is_lost else loss, "seconds": seconds, "device_seconds": 4 * seconds}
        )
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    began = {"event": "start", "at": 1.8e9, "host": "tpu-7", "pid": 12, "device": "TPU v5e"}
    first = [began | {"step": 0, "again_steps": 0, "again_device_seconds": 0.0}]
    again = [began | {"step": 300, "again_steps": 60, "again_device_seconds": 14.5}]
    ends = {"done": {"event": "done"}, "diverged": {"event": "done"}, "started": {"event": "stopped"}}
    ends["failed"] = {"event": "failed", "error": "XlaRuntimeError: RESOURCE_EXHAUSTED: <b>out of memory</b>"}
    if state in ends:
        again.append(ends[state] | {"step": last, "at": 1.8e9})
    for number, events in ((1, first), (3, again)):
        (place / f"log-{number}.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if state == "running":
        lease = {"host": "tpu-7", "pid": 12, "place": "elsewhere", "process": "9", "expires_at": time.time() + 1e3}
        (place / "lease-3.json").write_text(json.dumps(lease))
    if state == "failed":
        (place / "error.json").write_text(json.dumps({"run_id": run_id, "error": ends["failed"]["error"]}))
    if state in ("done", "diverged"):
        row = {"model": "30M", "weights": "int4", "activations": "dense", "seed": 0}
        row["loss"] = None if state == "diverged" else lines[-1]["loss"]
        status = "diverged" if state == "diverged" else "ok"
        result = {"schema": 1, "run_id": run_id, "status": status, "row": row}
        (place / "result.json").write_text(json.dumps(result))
