"""Laws that stand side by side: one form of rho in several shapes, of which the additive law is a case."""

from dataclasses import replace
from typing import NamedTuple

from capscale.analysis.law import Law
from capscale.analysis.shipped.capacity import COUPLED, DECOUPLED, DRIFT, TOKENS, additive


class Wider(NamedTuple):
    """A law with one more number than another, which it is at one value of it."""

    law: Law
    number: str
    at: float


SHAPES = (Wider(COUPLED, "g", 1.0), Wider(TOKENS, "k", 0.0), Wider(DRIFT, "delta", 0.0))
"""Shapes beside the additive one, which all of them contain."""


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
