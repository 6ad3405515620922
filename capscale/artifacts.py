"""Files of a run, each with the run that it belongs to and a digest of its content."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from capscale.errors import UserError
from capscale.files import plain_name, read_json, read_json_if_there
from capscale.storage import children

RESULT_SCHEMA = 2
"""Version of result.json. Since version 2 it holds its own digest."""
READABLE_RESULTS = (1, 2)
DIGEST = "sha256"
"""Field of a JSON object that holds the digest of the others."""
STOPPED = "stopped.json"
"""File of a run that was stopped early (`capscale.train.early`), for as long as it has not gone on."""
ADDITION = re.compile(r"sweep-[0-9a-f]{16}\.json")
"""Names of files that list runs which were added to a sweep."""


def digest(content: Any) -> str:
    """SHA-256 of JSON in its canonical text: the same before it is written and after it is read."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` with its digest."""
    return {**content, DIGEST: digest(dict(content))}


def check_seal(path: epath.PathLike, content: Mapping[str, Any], remedy: str) -> None:
    """Raises `UserError` where the content of `path` has no digest, or another one than it holds."""
    if content.get(DIGEST) != digest({field: value for field, value in content.items() if field != DIGEST}):
        raise UserError(f"{path} was altered after it was written: its content has another {DIGEST}; {remedy}")


def check_result(path: epath.PathLike, found: Mapping[str, Any], run_id: str, remedy: str) -> None:
    """Raises `UserError` unless `found`, the content of a result.json, is the result of that run, as it was written.

    Results of version 1, which have no digest, are held to the rest.
    """
    schema = found.get("schema")
    if schema not in READABLE_RESULTS:
        raise UserError(f"{path} has schema {schema!r}; this version reads {READABLE_RESULTS}; {remedy}")
    if found.get("run_id") != run_id:
        raise UserError(
            f"{path} is the result of run {found.get('run_id')!r}, not of {run_id}: it was copied here; {remedy}"
        )
    if not isinstance(found.get("status"), str) or not isinstance(found.get("row"), dict):
        raise UserError(f"{path} holds no 'status', or no object 'row'; {remedy}")
    if schema > 1:
        check_seal(path, found, remedy)


def read_stopped(directory: epath.Path, run_id: str) -> dict[str, Any] | None:
    """Content of a stopped run's file, its reason as `words`; None where it was not, or has gone on since.

    `UserError` if it is damaged, altered, or of another run.
    """
    path, remedy = directory / STOPPED, "remove it and start the sweep again: the run goes on from its checkpoint"
    found = read_json_if_there(path, remedy)
    if found is None:
        return None
    if found.get("run_id") != run_id:
        raise UserError(f"{path} is of run {found.get('run_id')!r}, not of {run_id}: it was copied here; {remedy}")
    check_seal(path, found, remedy)
    return found


def sweep_listing(directory: epath.Path, remedy: str) -> dict[str, Any]:
    """Content of the sweep.json in `directory`, with the runs that later starts added.

    A start with other flags leaves a file `sweep-DIGEST.json` beside it: files that are written once and named by
    their content lose nothing where two starts add runs at a time, which one file that both rewrite would.

    Raises:
      UserError: a file that is not as it was written, with `remedy`.
    """
    sweep = _listing(directory / "sweep.json", remedy)
    for path in addition_paths(directory):
        added = _listing(path, remedy)
        sweep["runs"] = list(dict.fromkeys([*sweep["runs"], *added["runs"]]))
        sweep["planned"] = {**sweep["planned"], **added["planned"]}
    return sweep


def addition_paths(directory: epath.Path) -> list[epath.Path]:
    """Files of the starts that added runs to the sweep in `directory`, by name."""
    return sorted(path for path in children(directory) if ADDITION.fullmatch(path.name))


def _listing(path: epath.Path, remedy: str) -> dict[str, Any]:
    found = read_json(path, remedy)
    listed, planned = found.get("runs", []), found.get("planned", {})
    if not isinstance(listed, list) or not isinstance(planned, dict):
        raise UserError(f"{path} lists no runs, or not as it should; {remedy}")
    names = [plain_name(run_id, path, "an entry of runs", remedy) for run_id in listed]
    if DIGEST in found:  # which sweeps of earlier versions have not
        check_seal(path, found, remedy)
    return {**found, "runs": names, "planned": planned}
