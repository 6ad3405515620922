"""Cases of a test of which a few run by default, and all with -m ci."""

from collections.abc import Collection, Sequence
from typing import Any

import pytest


def parametrize(
    names: str | tuple[str, ...], cases: Sequence[Any], *, default: int | Collection[Any], **more: Any
) -> pytest.MarkDecorator:
    """As `pytest.mark.parametrize`, with the mark ci on all but the first `default` cases, or but those in `default`.

    Cases that have a mark already keep theirs.
    """
    made, first = [], 0
    for case in cases:
        param = pytest.param(*(case if isinstance(names, tuple) else (case,)))
        if isinstance(case, type(param)):
            param = case
        if param.marks:
            pass
        elif first < default if isinstance(default, int) else case in default:
            first += 1
        else:
            param = param._replace(marks=[pytest.mark.ci])
        made.append(param)
    assert first, "no case runs by default"
    return pytest.mark.parametrize(names, made, **more)
