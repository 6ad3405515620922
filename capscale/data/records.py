"""Records with a text in one of their fields: lines of JSON, rows of Parquet, entries of a data set."""

from collections.abc import Iterable

from capscale.errors import UserError


def text_of(record: object, field: str, place: str) -> str:
    """The text of a record; `UserError` when it has no such field, or something else in it. See `decoded`."""
    if not isinstance(record, dict):
        raise UserError(f"{place} holds {type(record).__name__}, not an object with a field {field!r}; give JSON lines")
    if field not in record:
        raise UserError(no_field(place, field, record))
    text = record[field]
    if text is None:
        raise UserError(f"{place}: field {field!r} is null, not text; drop the record, or give it an empty text")
    if not isinstance(text, str):
        raise UserError(
            f"{place}: field {field!r} holds {type(text).__name__}, not text; choose another --field, "
            "or turn tokens back into text first"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: field {field!r} is not text ({error.reason}); mend or drop the record") from error
    if "\0" in text:
        raise UserError(f"{place}: field {field!r} is not text (it holds NUL); mend or drop the record")
    return text


def no_field(place: str, field: str, fields: Iterable[str]) -> str:
    """Message for a record, or a file of them, that lacks a field."""
    return f"{place} has no field {field!r}; its fields: {', '.join(map(str, fields)) or 'none'}. Choose one by --field"
