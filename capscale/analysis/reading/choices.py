"""Choices of whoever reads a table: its columns, the rows that are wanted, gaps, and words."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from capscale.errors import UserError


@dataclass(frozen=True)
class Source:
    """Where a column's numbers or words come from."""

    column: str
    factor: float = 1.0
    """Multiplies numbers: 1e6 where a column counts millions."""


@dataclass(frozen=True)
class Choices:
    """Answers to what a table leaves open; by default it is asked about, or refused."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Canonical name: `COLUMN` or `COLUMN*FACTOR`; see `source`."""
    where: tuple[tuple[str, frozenset[str]], ...] = ()
    """Column, and the values of rows that are wanted."""
    fill: Mapping[str, str] = field(default_factory=dict)
    """Canonical name: value of empty cells, or of a column that is not there."""
    replace: Mapping[str, str] = field(default_factory=dict)
    """Word of a format or status, in lower case: what it means."""

    @classmethod
    def parse(
        cls,
        columns: Iterable[str] = (),
        where: Iterable[str] = (),
        fill: Iterable[str] = (),
        replace: Iterable[str] = (),
    ) -> "Choices":
        """Choices as they are written on a command line.

        Example:
          >>> Choices.parse(["N=params*1e6"], ["family=llama"]).columns
          {'N': 'params*1e6'}

        Raises:
          UserError: an entry is not of two sides, or says a second time what another one says otherwise.
        """
        rows = [_sides("--where", text, "family=llama") for text in where]
        return cls(
            _pairs("--map", columns, "loss=final_loss"),
            tuple((name, frozenset(v.strip() for v in values.split(","))) for name, values in rows),
            _pairs("--fill", fill, "activations=dense"),
            {k.lower(): v for k, v in _pairs("--replace", replace, "4bit=int4").items()},
        )

    def source(self, name: str, columns: Iterable[str]) -> Source | None:
        """The column that a canonical name was mapped to, and its factor; None where nothing was said.

        Raises:
          UserError: there is no such column, or the factor is no positive number.
        """
        if (text := self.columns.get(name)) is None:
            return None
        if text in (there := list(columns)):
            return Source(text)
        column, star, number = text.rpartition("*")
        if not star or column.strip() not in there:
            raise UserError(f"--map {name}={text}: no column {column.strip() or text!r}; there are {sorted(there)}")
        try:
            factor = float(number)
        except ValueError:
            factor = math.nan
        if not 0 < factor < math.inf:
            raise UserError(f"--map {name}={text}: {number!r} is no positive number, such as 1e6")
        return Source(column.strip(), factor)


def _sides(flag: str, text: str, example: str) -> tuple[str, str]:
    name, equal, value = text.partition("=")
    if not equal or not name.strip():
        raise UserError(f"{flag} {text!r}: write NAME=VALUE, such as {example}")
    return name.strip(), value.strip()


def _pairs(flag: str, texts: Iterable[str], example: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, value = _sides(flag, text, example)
        if not value:
            raise UserError(f"{flag} {text!r}: write NAME=VALUE, such as {example}")
        if found.setdefault(name, value) != value:
            raise UserError(f"{flag} says {name}={found[name]} and {name}={value}; keep one of them")
    return found
