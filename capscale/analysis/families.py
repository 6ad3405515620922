"""Laws that stand side by side: one form of rho in several shapes, of which the additive law is a case."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from capscale.analysis.law import Law, Numbers, Runs
from capscale.analysis.shipped.capacity import (
    CHINCHILLA_RATIO,
    COUPLED,
    DECOUPLED,
    DRIFT,
    GRADIENTS_PAIRS,
    TOKENS,
    additive,
)


class Wider(NamedTuple):
    """A law with one more number than another, which it is at one value of it."""

    law: Law
    number: str
    at: float


SHAPES = (Wider(COUPLED, "g", 1.0), Wider(TOKENS, "k", 0.0), Wider(DRIFT, "delta", 0.0))
"""Shapes beside the additive one, which all of them contain."""
GRADIENTS_FACTOR = Wider(GRADIENTS_PAIRS, "eta", 1.0)
"""The shape that a table with compressed gradients may ask for besides: of free capacities alone."""


def family(law: Law) -> tuple[Law, ...]:
    """The default ensemble: laws with the form of rho, or the free ones, of `law`; one of another shape is alone."""
    return (law,) if law.dense else (law, *(w.law for w in wider(law)))


def wider(law: Law) -> tuple[Wider, ...]:
    """Laws that `law` is a case of, with its form of rho or its free ones; none for a law that is not additive."""
    if law.loss is not additive or law.own:
        return ()
    stem = "decoupled" if law.free else law.form.name if law.form else law.name
    return tuple(
        shape._replace(
            law=replace(
                shape.law,
                name=shape.law.name.replace(DECOUPLED.name, stem),
                form=law.form,
                free=law.free,
                dense=law.dense,
                sharing=law.sharing,
                combination=law.combination,
            )
        )
        for shape in SHAPES
    )


def several_numbers(x: Runs, p: Numbers) -> Any:
    """(A (N rho drift)^-alpha + B (D rho^k eta)^-beta)^g + E, with those of the further numbers that there are."""
    N, D = x.N * x.rho, x.D
    if "delta" in p:
        N = N * x.xp.where(x.compressed, (x.ratio / CHINCHILLA_RATIO) ** -p.delta, 1.0)
    if "k" in p:
        D = D * x.rho**p.k
    if "eta" in p:
        D = D * p.eta
    reducible = p.A * N**-p.alpha + p.B * D**-p.beta
    return (reducible**p.g if "g" in p else reducible) + p.E


def joined(law: Law, shapes: Sequence[Wider]) -> Law:
    """An additive law with the further numbers of several shapes at once."""
    if len(shapes) == 1:
        return shapes[0].law
    laws = [shape.law for shape in shapes]
    own = tuple(dict.fromkeys(o for each in laws for o in each.own))
    return replace(
        law,
        name=" + ".join([law.name, *(shape.number for shape in shapes)]),
        parameters=(*law.parameters, *(q for each in laws for q in each.parameters if q not in law.parameters)),
        loss=several_numbers,
        formula="(A (N rho)^-alpha + B D^-beta) with " + ", ".join(shape.number for shape in shapes) + " + E",
        data_term=tuple(dict.fromkeys(n for each in (law, *laws) for n in each.data_term)),
        linear_at=tuple(at for each in laws for at in each.linear_at),
        own=own,
        pairs=any(each.pairs for each in laws),
    )
