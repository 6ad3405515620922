"""Laws of dense runs beside Chinchilla's: other ways in which parameters and tokens meet, and repeated tokens.

Every N here may be N rho: `with_form` makes a law of compressed runs of any of them.
"""

from typing import Any

from capscale.analysis.law import ALPHA, BETA, EXPONENT_BOUNDS, A, B, Column, E, Law, Numbers, Runs, size_and_tokens
from capscale.capacity import Parameter

SMALLEST = 1e-300
"""Added to a term that may be 0 before its logarithm is taken, in float64."""


def coupled_ratios(x: Runs, p: Numbers) -> Any:
    """((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D: arXiv 2001.08361, eq. 1.5."""
    of_N, of_D = x.xp.log(p.N_c / (x.N * x.rho)) * (p.alpha_N / p.alpha_D), p.D_c / x.D
    # The larger term is taken out of the sum: the power of N overflows where alpha_D is small, and D_c may be 0.
    larger = x.xp.maximum(of_N, x.xp.log(of_D + SMALLEST))
    return x.xp.exp(p.alpha_D * (larger + x.xp.log(x.xp.exp(of_N - larger) + of_D * x.xp.exp(-larger))))


def ratios_in_units(p: Numbers) -> dict[str, tuple[Any, Any]]:
    """N_c is a number of parameters, D_c one of tokens."""
    return {"N_c": (1.0, 0.0), "D_c": (0.0, 1.0)}


def worth(x: Runs, once: Any, repeats: Any, R: Any) -> Any:
    """U + U R (1 - exp(-repeats / R)): what `repeats` repetitions of U are worth, in those that are not repeated."""
    return once * (1 - R * x.xp.expm1(-repeats / R))


def data_constrained(x: Runs, p: Numbers) -> Any:
    """Chinchilla in effective parameters and tokens where tokens repeat: arXiv 2305.16264, eq. 5 and 6.

    D' = U + U R_D (1 - exp(-(D / U - 1) / R_D)) of U unique tokens; N' alike of U_N, the parameters that Chinchilla's
    law gives U, or N if that is less.
    """
    N = x.N * x.rho
    unique = x.xp.minimum(x.xp.minimum(x.columns["unique_tokens"], x.D / x.columns["epochs"]), x.D)
    optimal = (p.alpha * p.A / (p.beta * p.B)) ** (1 / p.alpha) * unique ** (p.beta / p.alpha)
    fitting = x.xp.minimum(optimal, N)
    effective_N = worth(x, fitting, N / fitting - 1, p.R_N)
    effective_D = worth(x, unique, x.D / unique - 1, p.R_D)
    return p.A * effective_N**-p.alpha + p.B * effective_D**-p.beta + p.E


def broken(x: Runs, p: Numbers) -> Any:
    """A N^-alpha + B D^-c0 (1 + (D / d)^(1 / f))^(-c1 f) + E, one break of the power of D: arXiv 2210.14891, eq. 1.

    The exponent of D goes from c0 to c0 + c1 about d, over a range that f widens.
    """
    bend = x.xp.logaddexp(0.0, x.xp.log(x.D / p.d) / p.f)  # log of 1 + (D / d)^(1 / f), which may overflow
    return p.A * (x.N * x.rho) ** -p.alpha + p.B * x.D**-p.c0 * x.xp.exp(-p.c1 * p.f * bend) + p.E


def farseer(x: Runs, p: Numbers) -> Any:
    """exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1): arXiv 2506.10972."""
    N = x.N * x.rho
    power = x.xp.exp(p.a1 * N**p.alpha + p.b1)
    return x.xp.exp(p.a3 * N**p.gamma + p.b3) + x.xp.exp(p.a2 * N**p.beta + p.b2 - power * x.xp.log(x.D))


KAPLAN = Law(
    "kaplan",
    (
        Parameter("N_c", 1e-3, 1e25, (1e1, 1e7), log=True),
        Parameter("D_c", 1e-6, 1e15, (1e-2, 1e4), log=True),
        Parameter("alpha_N", *EXPONENT_BOUNDS, (0.03, 0.3)),
        Parameter("alpha_D", *EXPONENT_BOUNDS, (0.05, 0.5)),
    ),
    coupled_ratios,
    formula="((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D",
    source="Kaplan et al. 2020, arXiv 2001.08361, eq. 1.5",
    dense=True,
    data_term=("D_c", "alpha_D"),
    units=ratios_in_units,
)
DATA_CONSTRAINED = Law(
    "data-constrained",
    (A, B, ALPHA, BETA, E, *(Parameter(f"R_{x}", 0.05, 1e4, (1.0, 50.0), log=True) for x in ("N", "D"))),
    data_constrained,
    formula="A N'^-alpha + B D'^-beta + E; D' = U (1 + R_D (1 - exp(-(D / U - 1) / R_D))), N' alike of the N that "
    "suits U",
    source="Muennighoff et al. 2023, arXiv 2305.16264, eq. 5 and 6",
    dense=True,
    linear=("E",),  # A and B say how many parameters suit the tokens
    units=size_and_tokens,
    columns=(
        Column("unique_tokens", "tokens of the corpus", float("inf"), positive=True, unit="D"),
        Column("epochs", "how often they were seen", 1.0, positive=True),
    ),
)
BROKEN = Law(
    "broken",
    (
        A,
        B,
        ALPHA,
        BETA._replace(name="c0"),
        Parameter("c1", -2.0, 2.0, (-0.3, 0.3)),
        Parameter("d", 1e-6, 1e6, (0.2, 5.0), log=True),
        Parameter("f", 0.02, 5.0, (0.1, 1.0), log=True),
        E,
    ),
    broken,
    formula="A N^-alpha + B D^-c0 (1 + (D / d)^(1 / f))^(-c1 f) + E",
    source="Caballero et al. 2022, arXiv 2210.14891, eq. 1 in D, with one break",
    dense=True,
    linear=("A", "B", "E"),
    data_term=("B", "c0", "c1", "d", "f"),
    units=lambda p: {"A": (p.alpha, 0.0), "B": (0.0, p.c0), "d": (0.0, 1.0)},
)
FARSEER = Law(
    "farseer",
    (
        Parameter("a1", -50.0, 0.0, (-3.0, -0.2)),
        Parameter("alpha", 1e-3, 1.0, (0.02, 0.3)),
        Parameter("b1", -10.0, 20.0, (-1.0, 3.0)),
        Parameter("a2", 0.0, 100.0, (1.0, 10.0)),
        Parameter("beta", -1.0, -1e-3, (-0.4, -0.05)),
        Parameter("b2", -50.0, 50.0, (-3.0, 5.0)),
        Parameter("a3", -20.0, 0.0, (-2.0, -0.1)),
        Parameter("gamma", 1e-3, 1.0, (0.05, 0.3)),
        Parameter("b3", -10.0, 20.0, (0.0, 2.0)),
    ),
    farseer,
    formula="exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1)",
    source="Li et al. 2025, arXiv 2506.10972",
    dense=True,
    units=lambda p: {"a1": (-p.alpha, 0.0), "a2": (-p.beta, 0.0), "a3": (-p.gamma, 0.0)},
)
DENSE_LAWS = (KAPLAN, DATA_CONSTRAINED, BROKEN, FARSEER)
