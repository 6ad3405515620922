"""Gaussian errors of the catalog, as they were computed once: a table of all of them takes no time.

`data/gmse.json` has them by name, each with a digest of what the name meant; a format that means something else now, or
is new, has no known error and is computed. `bash scripts/test.sh tests/formats/test_known_errors.py -m "slow or not
slow" --regenerate` writes the file anew; that test, without the option, computes them again and compares.
"""

import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

from .base import Format
from .catalog import FORMATS
from .serialize import to_json


@cache
def known_errors() -> dict[str, dict[str, Any]]:
    """`{"format": digest, "gmse": value, "standard_error": number, "method": words}` by name of the catalog."""
    return json.loads((files("capscale.formats") / "data" / "gmse.json").read_text())


@cache
def _names() -> dict[Format, str]:
    return {format: name for name, format in FORMATS.items()}


def known_error(format: Format) -> tuple[float, float, str] | None:
    """Error on endless normal rows, its standard error, how it was found; None of formats that are not listed."""
    entry = known_errors().get(_names().get(format, ""))
    if entry is None or entry["format"] != digest_of(format):
        return None
    return entry["gmse"], entry["standard_error"], entry["method"]


def digest_of(format: Format) -> str:
    """Sixteen hexadecimal digits that tell what a format is."""
    return hashlib.sha256(json.dumps(to_json(format), sort_keys=True).encode()).hexdigest()[:16]
