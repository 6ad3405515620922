"""The directory of a sweep: sweep.json says whose runs it holds, and starts with other flags add theirs."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from etils import epath

from capscale.artifacts import addition_paths, digest, sealed, sweep_listing
from capscale.errors import UserError
from capscale.files import is_there, parse_json, read_json, refuse_link, write_json, writing
from capscale.models.ladder import LADDERS, Ladder
from capscale.storage import check_checkpoints, children, make_directory
from capscale.store import TEMPORARY
from capscale.sweep.display import run_name
from capscale.sweep.plan import Sweep, short
from capscale.sweep.selection import WHOLE

SCHEMA = 1
"""Version of the fields of sweep.json."""
MEMORY = "memory"
"""Folder of memory settings: see `capscale.sweep.fitting`."""
DAMAGED = "move it away, or choose another --out"


def open_directory(sweep: Sweep, out: epath.Path, command: str, versions: dict[str, str]) -> None:
    """Makes `out` the directory of this sweep, or checks that it is, or adds the runs of a start with other flags.

    `sweep.json` records the experiment, the text and the expected runs with their planned FLOPs; it is written once.
    Other seeds and sizes of the same experiment, more sizes of a ladder of one's own, and runs that the experiment was
    given since, are added in files beside it (`capscale.artifacts.sweep_listing`).

    Raises:
      UserError: another sweep lives there, or this one before an edit; no checkpoints can be kept there.
    """
    check_checkpoints(out)
    path = out / "sweep.json"
    identity = _identity(sweep)
    planned = {run.run_id: {"name": run_name(run), "steps": run.steps, "flops": run.flops} for run in sweep.runs}
    content = sealed(identity | {"planned": planned, "command": command, "versions": versions})
    with writing(out):
        is_new = not path.exists()
    if is_new:
        with writing(out):
            make_directory(out)
            # Memory settings may be there first: `capscale preflight --out` writes them.
            occupied = any(not child.name.endswith(TEMPORARY) and child.name != MEMORY for child in children(out))
        if occupied and not path.exists():  # unless another launcher of this sweep has just opened it
            raise UserError(f"{out} is not empty and holds no sweep.json; choose an empty or new --out")
        write_json(path, content, new=True)
    refuse_link(out / "runs")
    listed = sweep_listing(out, DAMAGED)["runs"]
    known = False
    for found in _files(out):
        known |= _agrees(found, sweep, identity, out)
    if not known and not set(identity["runs"]) <= set(listed):
        write_json(out / f"sweep-{digest(identity)[:16]}.json", content, new=True)


def _identity(sweep: Sweep) -> dict[str, Any]:
    """Whose runs a file lists; a selection and the sizes of a ladder of one's own stand in it only where there are."""
    identity = {
        "schema": SCHEMA,
        "experiment": sweep.experiment,
        "ladder": sweep.ladder.name,
        "data": {"name": sweep.data.name, "sha256": sweep.data.sha256, "vocabulary": sweep.data.vocabulary},
        "runs": [run.run_id for run in sweep.runs],
    }
    if sweep.ladder.name not in LADDERS:
        identity["ladder_sizes"] = _sizes(sweep.ladder)
    if sweep.selection != WHOLE:
        chosen = {"seeds": list(sweep.selection.seeds), "sizes": list(sweep.selection.sizes)}
        chosen |= {"policy": list(sweep.selection.policy)} if sweep.selection.policy else {}
        chosen |= {"reduce": sweep.selection.reduce} if sweep.selection.reduce else {}
        identity["selection"] = chosen | {"of": digest(list(sweep.every))}
    return identity


def _sizes(ladder: Ladder) -> dict[str, Any]:
    """Shape, learning rate and batch of every size, as JSON has them."""
    told = {
        size: asdict(model) | {"learning_rate": ladder.learning_rates[size], "batch": ladder.batch}
        for size, model in ladder.sizes.items()
    }
    return parse_json(json.dumps(told))


def _files(out: epath.Path) -> Iterator[dict[str, Any]]:
    for path in (out / "sweep.json", *addition_paths(out)):
        yield read_json(path, DAMAGED)


def _agrees(found: Mapping[str, Any], sweep: Sweep, identity: Mapping[str, Any], out: epath.Path) -> bool:
    """Whether a file of the directory lists just these runs; `UserError` where it is another sweep's.

    Of one experiment and ladder, one selection gives one list of runs, and all selections are of one list: else the
    experiment was edited, or code that its formats use. One that still has every run that the file lists has grown, and
    goes on: a run is named by what it is, so that none is trained by one edit and read by another.
    """
    for field in ("schema", "experiment", "ladder", "data"):
        if found.get(field) != identity[field]:
            told = f"its {field} is {short(found.get(field))}, this sweep's is {short(identity[field])}"
            raise UserError(f"{out} holds another sweep: {told}; choose another --out")
    before, now = found.get("ladder_sizes", {}), identity.get("ladder_sizes", {})
    for size in before:
        if before[size] != now.get(size, before[size]):
            raise UserError(
                f"{out} holds another sweep: size {size} of its ladder {identity['ladder']} was {short(before[size])}, "
                f"and is {short(now[size])}; give the size another name, or choose another --out"
            )
    has_all = _whole(found) == _whole(identity) or set(found.get("runs", ())) <= {*sweep.every, *identity["runs"]}
    if before == now and not has_all:
        raise UserError(f"{out} holds another sweep: {_others(found, identity)}; choose another --out")
    return found.get("runs") == identity["runs"]


def _whole(listing: Mapping[str, Any]) -> str:
    """Digest of the experiment's whole list of runs, of which a file lists all or a selection."""
    selection = listing.get("selection")
    return digest(listing.get("runs")) if selection is None else selection["of"]


def _others(found: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """How the runs of a sweep differ from those that its directory lists."""
    listed, wanted = found["runs"], identity["runs"]
    known = sum(run_id in listed for run_id in wanted)
    return (
        f"of this sweep's {len(wanted)} runs it lists {known}, and {len(listed)} in all, as after an edit of the "
        "experiment that took runs away or changed them, or of code that its formats use"
    )


def check_same(sweep: Sweep, out: epath.Path) -> None:
    """Raises `UserError` where another sweep than this one lives in `out`."""
    identity = _identity(sweep)
    for found in _files(out):
        _agrees(found, sweep, identity, out)


def check_open(out: epath.Path) -> None:
    """Raises `UserError` when the directory of a sweep that was opened is not there any more.

    A directory that somebody removed is not made again: without its sweep.json it would be nobody's.
    """
    if not is_there(out / "sweep.json"):
        raise UserError(
            f"{out} went away while it was worked in: it holds no sweep.json any more; nothing was written there "
            "since. Put it back, or start the sweep again to train all runs anew"
        )
