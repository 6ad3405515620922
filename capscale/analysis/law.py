"""Scaling laws as values: the loss of runs as a function of what their rows say and of numbers to be fitted.

A law is about ten lines: its numbers with bounds and starting ranges, and `loss(x, p)`, written once and run by numpy
and by jax alike. `x` are the runs (`Runs`), `p` the numbers by name, as attributes:

    def loss(x, p):
        return p.A * (x.N * x.rho) ** -p.alpha + p.B * x.D**-p.beta + p.E

The fit, its errors, the bench and predictions take any such value; `problem` turns one and a table into arrays, `laws`
names those that ship.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from capscale.capacity import Form, Parameter
from capscale.errors import UserError

Sharing = Literal["all", "operand", "kind", "family"]
"""Which rows share the numbers of a form: all; those of one operand (weights, activations); those of one kind
of format (int, sparse, ...); or of one family = operand and kind together."""
Combination = Literal["joint", "product"]
"""For a tensor that is sparse and quantized: rho of the joint GMSE, or the product of the parts' capacities."""

EXPONENT_BOUNDS = (1e-3, 3.0)
AMPLITUDE_BOUNDS = (float(np.exp(-30.0)), float(np.exp(10.0)))
RHO_BOUNDS = (1e-4, 4.0)
"""Of a free capacity: far outside what any table can say, and above 1, for formats as good as dense within error."""


class Numbers(dict[str, Any]):
    """The numbers of a law by name, as attributes too: floats, arrays of one entry a run for numbers of a format."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as e:
            raise UserError(f"this law has no number {name!r}; it has {', '.join(self)}") from e


class Operand(NamedTuple):
    """An operand of R runs: what its format says before any training. Where it is not compressed `present` is False
    and the others hold harmless numbers, for a law to mask."""

    present: Any  # (R,) bool
    gmse: Any
    effective_bits: Any
    """log_{1/4} GMSE."""
    bits: Any
    """Bits per value as stored, scales and masks included; 16 where nothing is compressed."""
    sparsity: Any
    """Share of zeros; 0 of formats that are not sparse."""
    group: Any
    """Values that share a scale; NaN where that is a row, a matrix or unknown."""
    exponent: Any
    """Exponent bits of a floating-point grid; NaN of others."""
    mantissa: Any


class Runs(NamedTuple):
    """R runs as a law reads them. Sizes and tokens are relative to N0 and D0 where the law states its units."""

    xp: Any
    """The array module: numpy or jax.numpy."""
    N: Any
    D: Any
    ratio: Any
    """Tokens per parameter, D / N in their own units."""
    rho: Any
    """Capacity by the law's form, or the free one of the format; 1 for dense runs."""
    weights: Operand
    activations: Operand
    columns: Mapping[str, Any]
    """The further columns that the law asks for, by name."""
    cache: Operand
    """Attention's keys and values together: of numbers `bits` alone, their mean, 16 of a side that is dense."""

    @property
    def compressed(self) -> Any:
        """Which runs have a compressed operand (R,)."""
        return self.weights.present | self.activations.present


class Column(NamedTuple):
    """A further numeric column of a table that a law reads."""

    name: str
    meaning: str
    missing: float | None = None
    """Of a row without it; None: every row must have one. A table without any of a law's columns is refused."""
    compressed: bool = False
    """Whether only compressed rows are asked for it."""
    positive: bool = False
    """Whether it must be above 0."""
    unit: Literal["", "N", "D"] = ""
    """Parameters or tokens: the law reads it relative to N0 or D0, as it does N and D."""


class Own(NamedTuple):
    """A number that every format has of its own, or every way to hold the gradients.

    Attributes:
      parameter: the number.
      dense: its value in dense runs, or where gradients are, where it is not fitted.
      of: "format" or "gradients". Formats of a law with numbers of gradients are those of the forward product, unless
        it is of pairs.
    """

    parameter: Parameter
    dense: float
    of: Literal["format", "gradients"] = "format"


Units = Callable[[Numbers], Mapping[str, tuple[Any, Any]]]


@dataclass(frozen=True)
class Law:
    """A scaling law.

    Attributes:
      name: what commands call it.
      parameters: the numbers that all runs share.
      loss: (runs, numbers) -> nats per token, elementwise over runs.
      formula, source: as they are printed; L = formula.
      form: of rho(GMSE, bits or sparsity), whose numbers come per group of formats (`sharing`); None without.
      free: one free rho per format, in place of a form.
      own: further numbers that every format has of its own, or every way to hold the gradients.
      pairs: of a law with numbers of gradients: formats differ by their gradients too, so that each pair has its rho.
      dense: for dense rows only.
      linear: amplitudes, in which the loss is linear: starting points find them by least squares.
      linear_at: values of other numbers for that, where it is linear only then.
      data_term: numbers without effect in a table of one D, where the first is 0.
      units: numbers -> exponents of N and D in the units of those that have any: A of A N^-alpha has N^alpha. The law
        is then fitted relative to the geometric means of N and D, which scales its coordinates well whatever they are;
        without, in N and D as they stand.
      columns: further columns that it reads.
      needs: fields of `Operand` that a compressed operand must have, of those that some formats are without.
      cache: whether it reads the bits of keys and values, and is about rows that compress them too.
      sharing, combination: see `Sharing` and `Combination`.
    """

    name: str
    parameters: tuple[Parameter, ...]
    loss: Callable[[Runs, Numbers], Any]
    formula: str
    source: str
    form: Form | None = None
    free: bool = False
    own: tuple[Own, ...] = ()
    pairs: bool = False
    dense: bool = False
    linear: tuple[str, ...] = ()
    linear_at: tuple[tuple[str, float], ...] = ()
    data_term: tuple[str, ...] = ()
    units: Units | None = None
    columns: tuple[Column, ...] = ()
    needs: tuple[str, ...] = ()
    cache: bool = False
    sharing: Sharing = "all"
    combination: Combination = "joint"

    def __post_init__(self) -> None:
        names = [p.name for p in self.parameters]
        if len(set(names)) < len(names):
            raise UserError(f"law {self.name}: two numbers of one name in {', '.join(names)}")
        for what, given in (("linear", self.linear), ("data_term", self.data_term)):
            unknown = [n for n in given if n not in names]
            if unknown:
                raise UserError(f"law {self.name}: {what} names {', '.join(unknown)}, and it has {', '.join(names)}")
        if self.free and self.form is not None:
            raise UserError(f"law {self.name}: rho is free or has a form, not both")

    @property
    def has_rho(self) -> bool:
        """Whether the law speaks of a capacity."""
        return self.free or self.form is not None

    @property
    def per_format(self) -> bool:
        """Whether every format has its own numbers: such a law tells estimators apart, and predicts no new format."""
        return self.free or bool(self.own_of_format)

    @property
    def own_of_format(self) -> tuple[Own, ...]:
        """Numbers that every format has of its own."""
        return tuple(own for own in self.own if own.of == "format")

    @property
    def own_of_gradients(self) -> tuple[Own, ...]:
        """Numbers of every way to hold the gradients: the formats of such a law are those of the forward product."""
        return tuple(own for own in self.own if own.of == "gradients")

    @property
    def has_units(self) -> tuple[bool, bool]:
        """Whether some number has a unit of N, and one of D."""
        return any(n for n, _ in self.exponents.values()), any(d for _, d in self.exponents.values())

    @property
    def exponents(self) -> dict[str, tuple[bool, bool]]:
        """Numbers with units, and of which: N, D."""
        if self.units is None:
            return {}
        # Numbers that are no sums of one another, so that only an exponent that is 0 for all of them vanishes.
        middle = Numbers({p.name: 0.731 + 0.0417 * i**1.3 for i, p in enumerate(self.parameters)})
        return {name: (bool(np.any(n)), bool(np.any(d))) for name, (n, d) in self.units(middle).items()}

    @property
    def rho_equation(self) -> str:
        """The part of the equation that is about rho."""
        if self.dense or not self.has_rho:
            return "rho = 1" if self.dense else ""
        return "one free rho per format" if self.form is None else self.form.equation

    @property
    def equation(self) -> str:
        """The whole equation, as text."""
        return "; ".join(filter(None, (f"L = {self.formula}", self.rho_equation)))

    def with_form(self, form: Form, name: str | None = None) -> "Law":
        """The same law with rho of this form."""
        return replace(self, name=name or form.name, form=form, free=False, source=form.source)


def size_and_tokens(p: Numbers) -> dict[str, tuple[Any, Any]]:
    """Units of A N^-alpha and B D^-beta."""
    return {"A": (p.alpha, 0.0), "B": (0.0, p.beta)}


A = Parameter("A", *AMPLITUDE_BOUNDS, (float(np.exp(-2.0)), float(np.exp(1.0))), log=True)
B = Parameter("B", *AMPLITUDE_BOUNDS, (float(np.exp(-4.0)), float(np.exp(0.5))), log=True)
ALPHA = Parameter("alpha", *EXPONENT_BOUNDS, (0.04, 0.6))
BETA = Parameter("beta", *EXPONENT_BOUNDS, (0.05, 0.7))
E = Parameter("E", 0.0, 1.0, (0.0, 0.95), of_loss=True)
G = Parameter("g", 0.02, 5.0, (0.4, 1.5), log=True)
