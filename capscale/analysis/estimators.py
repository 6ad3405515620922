"""Estimators in rows of a table: their names, and whether they were the defaults of their formats."""

from functools import cache

from capscale.defaults import default_estimator
from capscale.errors import UserError
from capscale.estimator_names import estimator_name, find_estimator, split_name
from capscale.formats.catalog import find

EARLIER_DEFAULTS = frozenset({"trust", "clip", "straight_through", "both", "hypersphere", "lsq"})
"""Default estimators of one format or another before rows said so themselves (`default_estimators`)."""


@cache
def named(text: str) -> tuple[str, str]:
    """`top50 [fw]` as format and estimator; a name that nothing here knows is a table's own, brackets and all.

    Raises UserError for a known format whose brackets hold no estimator.
    """
    before, bracket, _ = text.partition("[")
    try:
        find(before.strip())
    except UserError:
        return text, ""
    if not bracket:
        return text, ""
    name, estimator = split_name(text)
    find_estimator(estimator)
    return name, estimator


@cache
def canonical(text: str) -> str:
    """The name of an estimator as it is written now; names that nothing here knows stay as they are."""
    try:
        return estimator_name(find_estimator(text)) if text else ""
    except UserError:
        return text


@cache
def was_default(text: str, format_name: str, rotated: bool) -> bool:
    """Whether an estimator was the default of its format when its row was written, by a row that does not say so.

    Rows of earlier versions are known by how they wrote estimators. A row without one, or of a format that
    nothing here knows, says nothing against it.
    """
    if not text or format_name == "dense" or text in EARLIER_DEFAULTS:
        return True
    return _is_default(text, format_name, rotated) is not False


def side_name(format_name: str, estimator: str, rotated: bool, was_default: bool) -> str:
    """`int4`, or `top50 [fw]` where the estimator is not the present default of its format.

    Of a format that nothing here knows, where it was not the default when its row was written.
    """
    usual = _is_default(estimator, format_name, rotated)
    hidden = was_default if usual is None else usual
    return format_name if hidden or not estimator or format_name == "dense" else f"{format_name} [{estimator}]"


@cache
def _is_default(text: str, format_name: str, rotated: bool) -> bool | None:
    """None where the format is unknown here."""
    try:
        format = find(format_name)
    except UserError:
        return None
    try:
        return find_estimator(text) == default_estimator(format, rotated)
    except UserError:
        return False
