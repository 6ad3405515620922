"""Files of a run, each with the run that it belongs to and a digest of its content."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from capscale.errors import UserError

RESULT_SCHEMA = 2
"""Version of result.json. Since version 2 it holds its own digest."""
READABLE_RESULTS = (1, 2)
DIGEST = "sha256"
"""Field of a JSON object that holds the digest of the others."""


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
