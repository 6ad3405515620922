"""Laws of capacity: a compressed model is as good as a dense one of N rho parameters.

rho is free for every format or a form of its GMSE, bits or sparsity (`capscale.capacity`); the laws differ in what
else it acts on.
"""

from dataclasses import replace
from typing import Any

from capscale.analysis.law import ALPHA, BETA, RHO_BOUNDS, A, B, E, G, Law, Numbers, Own, Runs, size_and_tokens
from capscale.capacity import FORMS, Parameter

CHINCHILLA_RATIO = 20.0
"""Tokens per parameter at which compute-optimal dense models are trained (Hoffmann et al. 2022, table 3)."""


def additive(x: Runs, p: Numbers) -> Any:
    """A (N rho)^-alpha + B D^-beta + E."""
    return p.A * (x.N * x.rho) ** -p.alpha + p.B * x.D**-p.beta + p.E


def coupled(x: Runs, p: Numbers) -> Any:
    """(A (N rho)^-alpha + B D^-beta)^g + E."""
    return (p.A * (x.N * x.rho) ** -p.alpha + p.B * x.D**-p.beta) ** p.g + p.E


def on_tokens(x: Runs, p: Numbers) -> Any:
    """A (N rho)^-alpha + B (D rho^k)^-beta + E: a format of less capacity learns less from a token, too."""
    return p.A * (x.N * x.rho) ** -p.alpha + p.B * (x.D * x.rho**p.k) ** -p.beta + p.E


def drifting(x: Runs, p: Numbers) -> Any:
    """Capacity that falls with the tokens a parameter has seen; rho is that at 20 tokens a parameter."""
    drift = x.xp.where(x.compressed, (x.ratio / CHINCHILLA_RATIO) ** -p.delta, 1.0)
    return p.A * (x.N * x.rho * drift) ** -p.alpha + p.B * x.D**-p.beta + p.E


def two_efficiencies(x: Runs, p: Numbers) -> Any:
    """A (N rho_N)^-alpha + B (D rho_D)^-beta + E: what a format takes from parameters and from tokens, each alone."""
    return p.A * (x.N * p.rho_N) ** -p.alpha + p.B * (x.D * p.rho_D) ** -p.beta + p.E


def gradients_on_tokens(x: Runs, p: Numbers) -> Any:
    """A (N rho)^-alpha + B (D eta)^-beta + E: compressed gradients learn from a token as from eta tokens."""
    return p.A * (x.N * x.rho) ** -p.alpha + p.B * (x.D * p.eta) ** -p.beta + p.E


def gradients_on_size(x: Runs, p: Numbers) -> Any:
    """A (N rho eta)^-alpha + B D^-beta + E: compressed gradients cost parameters, as the forward product's formats."""
    return p.A * (x.N * x.rho * p.eta) ** -p.alpha + p.B * x.D**-p.beta + p.E


DECOUPLED = Law(
    "decoupled",
    (A, B, ALPHA, BETA, E),
    additive,
    formula="A (N rho)^-alpha + B D^-beta + E",
    source="Frantar et al. 2025, arXiv 2502.16440",
    free=True,
    linear=("A", "B", "E"),
    data_term=("B", "beta"),
    units=size_and_tokens,
)
"""The additive law with one free rho for every format, the base of the others."""
DENSE = replace(DECOUPLED, name="dense", free=False, dense=True, source="Hoffmann et al. 2022, arXiv 2203.15556")
COUPLED = replace(
    DECOUPLED,
    name="decoupled-coupled",
    parameters=(*DECOUPLED.parameters, G),
    loss=coupled,
    formula="(A (N rho)^-alpha + B D^-beta)^g + E",
    linear_at=(("g", 1.0),),
)
TOKENS = replace(
    DECOUPLED,
    name="decoupled-tokens",
    parameters=(*DECOUPLED.parameters, Parameter("k", -2.0, 3.0, (0.0, 1.0))),
    loss=on_tokens,
    formula="A (N rho)^-alpha + B (D rho^k)^-beta + E",
    source="the additive law with capacity on both terms; k = 0 is arXiv 2506.01863",
    data_term=("B", "beta", "k"),
)
DRIFT = replace(
    DECOUPLED,
    name="decoupled-drift",
    parameters=(*DECOUPLED.parameters, Parameter("delta", -1.0, 1.0, (-0.1, 0.2))),
    loss=drifting,
    formula="A (N rho (D / 20 N)^-delta)^-alpha + B D^-beta + E",
    source="the additive law with capacity that drifts with D/N; delta = 0 is arXiv 2506.01863",
)
EFFICIENCIES = replace(
    DECOUPLED,
    name="decoupled-efficiencies",
    loss=two_efficiencies,
    formula="A (N rho_N)^-alpha + B (D rho_D)^-beta + E; rho_N and rho_D of every format",
    source="the additive law with an efficiency on either term; rho_D = 1 is arXiv 2502.16440",
    free=False,
    own=tuple(Own(Parameter(name, *RHO_BOUNDS, (0.1, 1.0), log=True), 1.0) for name in ("rho_N", "rho_D")),
)
ETA = (Own(Parameter("eta", *RHO_BOUNDS, (0.3, 1.0), log=True), 1.0, of="gradients"),)
GRADIENTS = replace(
    DECOUPLED,
    name="decoupled-gradients",
    loss=gradients_on_tokens,
    formula="A (N rho)^-alpha + B (D eta)^-beta + E; eta of every way to hold the gradients",
    source="the additive law with a factor of the gradients' format on D; eta = 1 is arXiv 2502.16440",
    own=ETA,
)
GRADIENTS_SIZE = replace(
    GRADIENTS,
    name="decoupled-gradients-size",
    loss=gradients_on_size,
    formula="A (N rho eta)^-alpha + B D^-beta + E; eta of every way to hold the gradients",
    source="the additive law with a factor of the gradients' format on N; eta = 1 is arXiv 2502.16440",
)
GRADIENTS_PAIRS = replace(
    GRADIENTS,
    name="decoupled-gradients-pairs",
    formula="A (N rho)^-alpha + B (D eta)^-beta + E; eta of every way to hold the gradients, rho of every pair",
    source="the additive law of all three products with a factor of the gradients' format on D; eta = 1 is decoupled",
    pairs=True,
)
"""A law that is `decoupled` where eta is 1: whatever the pair costs in parameters is in its rho."""
CAPACITY_LAWS = (
    DENSE,
    DECOUPLED,
    # gamma_w and gamma_a in the paper of Kumar et al.
    *(replace(DECOUPLED.with_form(f), sharing="operand" if f.name == "kumar" else "all") for f in FORMS.values()),
    *(
        law
        for outer in (COUPLED, TOKENS, DRIFT)
        for law in (outer, outer.with_form(FORMS["tanh"], outer.name.replace("decoupled", "tanh")))
    ),
    EFFICIENCIES,
    GRADIENTS,
    GRADIENTS_SIZE,
    GRADIENTS_PAIRS,
)
