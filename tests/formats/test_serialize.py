"""JSON of values: what changes an id, and what does not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from capscale.errors import UserError
from capscale.formats.serialize import from_json, to_json


@dataclass(frozen=True)
class Before:
    """A class as results of long ago hold it."""

    width: float


@dataclass(frozen=True)
class Grown:
    """The same with a field that came later."""

    JSON_ADDED: ClassVar[Mapping[str, Any]] = {"shift": 0.0}

    width: float
    shift: float = 2.0


@dataclass(frozen=True)
class Derived(Grown):
    """Says nothing of its own about fields that came later."""


@dataclass(frozen=True)
class Turned:
    """The same field, meaning something else."""

    JSON_VERSION: ClassVar[int] = 2

    width: float


def test_added_field_of_the_old_value_is_not_written_and_read_where_missing():
    old = to_json(Before(3)) | {"type": "Grown"}
    assert to_json(Grown(3, 0.0)) == old
    assert from_json(old, (Grown,)) == Grown(3, 0.0)
    assert from_json(to_json(Grown(3)), (Grown,)) == Grown(3)
    assert to_json(Grown(3))["shift"] == 2
    assert "shift" in to_json(Derived(3, 0.0))


def test_version_is_written_and_held_to():
    assert to_json(Turned(3)) == {"type": "Turned", "version": 2, "width": 3}
    assert from_json(to_json(Turned(3)), (Turned,)) == Turned(3)
    with pytest.raises(UserError, match="Turned is of version 1"):
        from_json(to_json(Before(3)) | {"type": "Turned"}, (Turned,))
    with pytest.raises(UserError, match="Before is of version 2"):
        from_json(to_json(Turned(3)) | {"type": "Before"}, (Before,))
