"""A law of one's own, for `capscale fit runs.csv --form docs/own_law.py`, and for bench, predict and plan alike.

A law is a value: its numbers, and `loss(x, p)`, written once in the operations that numpy and jax arrays share (others
are functions of `x.xp`). This one lets a format cost a fixed loss beside its capacity, and reads a column of the table.
"""

from capscale.analysis.law import ALPHA, BETA, A, B, Column, E, Law, size_and_tokens
from capscale.capacity import TANH, Parameter


def loss(x, p):
    """A (N rho)^-alpha + B D^-beta + E, and c for every compressed run, of which warm-up in full precision saves w."""
    dense_share = x.columns["dense_share"]
    cost = x.xp.where(x.compressed, p.c * x.xp.exp(-p.w * dense_share), 0.0)
    return p.A * (x.N * x.rho) ** -p.alpha + p.B * x.D**-p.beta + p.E + cost


FIXED_COST = Law(
    "fixed-cost",
    (
        # Name, bounds, the range that starting points are drawn from; `log` for scales, which may span decades.
        *(A, B, ALPHA, BETA, E),
        Parameter("c", 1e-6, 1.0, (1e-3, 0.1), log=True),
        Parameter("w", 0.0, 20.0, (0.0, 5.0)),
    ),
    loss,
    formula="A (N rho)^-alpha + B D^-beta + E + c exp(-w dense_share) of compressed runs",
    source="invented, to show how",
    form=TANH,  # rho of GMSE; `free=True` in its place gives every format its own rho, neither leaves rho at 1
    linear=("A", "B", "E", "c"),  # amplitudes: starting points find them by least squares
    data_term=("B", "beta"),  # without effect where all runs have one D
    units=size_and_tokens,  # of A and B, so that the fit is well scaled whatever N and D are
    columns=(Column("dense_share", "share of the tokens seen before compression", compressed=True),),
)
