"""Capacity rho of a format as a function of its Gaussian mean squared error, and the law it enters.

    L(N, D, R) = (A (N rho(R))^-alpha + B D^-beta)^g + E          g = 1: the unified law, arXiv 2506.01863

N non-embedding parameters, D training tokens, L nats per token, rho in (0, 1] the capacity of the
representation and N rho its dense-equivalent size. Every form below is written once and runs on numpy and
on jax arrays alike (`__array_namespace__`): the fit differentiates the very function that predictions use.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from capscale.checks import check_finite, check_number
from capscale.errors import UserError
from capscale.formats.mse import effective_bits

LOG4 = float(np.log(4.0))
FLOPS_PER_PARAMETER_TOKEN = 6.0
"""Of training (Kaplan et al. 2020, arXiv 2001.08361)."""


class Parameter(NamedTuple):
    """A fitted number: its name, its bounds and the range that starting points are drawn from."""

    name: str
    lower: float
    upper: float
    start: tuple[float, float]
    log: bool = False
    """Fitted as its logarithm: for scales, which may span decades."""
    of_loss: bool = False
    """Bounds and range are shares of the smallest loss of the table."""


class Factor(NamedTuple):
    """Statistics of one compressed operand that a capacity form may read; arrays of one shape."""

    effective_bits: Any
    """log_{1/4} GMSE: the bits at which an ideal code would have this error."""
    storage_bits: Any
    """Bits per value as stored."""
    sparsity: Any
    """Share of zeros."""


class Form(NamedTuple):
    """One functional form of rho, with the equation and the source it is from."""

    name: str
    equation: str
    source: str
    parameters: tuple[Parameter, ...]
    log_rho: Callable[[Mapping[str, Any], Factor, Any], Any]
    """(parameters by name, factor, alpha) -> log rho, elementwise."""
    needs: str = "effective_bits"
    """The field of `Factor` that the form reads."""


def _tanh(p: Mapping[str, Any], x: Factor, alpha: Any) -> Any:
    xp = x.effective_bits.__array_namespace__()
    return p["C"] * xp.log(xp.tanh(p["F"] * x.effective_bits))


def _tanh_saturating(p: Mapping[str, Any], x: Factor, alpha: Any) -> Any:
    xp = x.effective_bits.__array_namespace__()
    return xp.log(p["Lsat"]) + _tanh(p, x, alpha)


def _logistic(p: Mapping[str, Any], x: Factor, alpha: Any) -> Any:
    xp = x.effective_bits.__array_namespace__()
    return -xp.log1p(p["scale"] * xp.exp(-LOG4 * p["exponent"] * x.effective_bits))


def _logistic_anchored(p: Mapping[str, Any], x: Factor, alpha: Any) -> Any:
    xp = x.effective_bits.__array_namespace__()
    power = xp.exp(-LOG4 * p["exponent"] * x.effective_bits)
    return xp.log1p(-power) - xp.log1p(p["scale"] * power)


def _kumar(p: Mapping[str, Any], x: Factor, alpha: Any) -> Any:
    xp = x.storage_bits.__array_namespace__()
    return xp.log(-xp.expm1(-x.storage_bits / p["gamma"]))


def _frantar(p: Mapping[str, Any], x: Factor, alpha: Any) -> Any:
    xp = x.sparsity.__array_namespace__()
    kept = 1 - x.sparsity
    amplitude = p["c_S"] + (1 - p["c_S"]) * kept ** p["b_S"]
    return xp.log(kept) - xp.log(amplitude) / alpha


_F = Parameter("F", 0.01, 5.0, (0.15, 1.2))
_C = Parameter("C", 0.05, 10.0, (0.5, 3.0))
_EXPONENT = Parameter("exponent", 0.02, 5.0, (0.2, 1.5))

TANH = Form("tanh", "rho = tanh(F log_{1/4} GMSE)^C", "arXiv 2506.01863, eq. 3 with Lsat = 1", (_F, _C), _tanh)
TANH_SATURATING = Form(
    "tanh-sat",
    "rho = Lsat tanh(F log_{1/4} GMSE)^C",
    "arXiv 2506.01863, eq. 3",
    (_F, _C, Parameter("Lsat", 0.05, 1.5, (0.7, 1.05))),
    _tanh_saturating,
)
LOGISTIC = Form(
    "logistic",
    "rho = 1 / (1 + scale GMSE^exponent)",
    "arXiv 2506.01863, table of forms",
    (_EXPONENT, Parameter("scale", 1e-3, 1e4, (0.5, 50.0), log=True)),
    _logistic,
)
LOGISTIC_ANCHORED = Form(
    "logistic-1-0",
    "rho = (1 - GMSE^exponent) / (1 + scale GMSE^exponent)",
    "arXiv 2506.01863, table of forms: rho(0) = 1, rho(1) = 0",
    (_EXPONENT, Parameter("scale", 1e-3, 1e4, (0.5, 50.0), log=True)),
    _logistic_anchored,
)
KUMAR = Form(
    "kumar",
    "rho = 1 - exp(-bits / gamma)",
    "Kumar et al. 2024, arXiv 2411.04330",
    (Parameter("gamma", 0.05, 50.0, (0.5, 8.0), log=True),),
    _kumar,
    needs="storage_bits",
)
FRANTAR = Form(
    "frantar",
    "A (N rho)^-alpha = A (c_S + (1 - c_S) (1 - S)^b_S) (N (1 - S))^-alpha",
    "Frantar et al. 2023, arXiv 2309.08520: N there counts non-zero parameters",
    (Parameter("b_S", 0.0, 10.0, (0.1, 2.0)), Parameter("c_S", 0.0, 1.0, (0.1, 0.9))),
    _frantar,
    needs="sparsity",
)
FORMS = {f.name: f for f in (TANH, TANH_SATURATING, LOGISTIC, LOGISTIC_ANCHORED, KUMAR, FRANTAR)}


def law_bits(gmse: Any) -> np.ndarray:
    """`effective_bits` of errors strictly between 0 and 1, which have a capacity; raises UserError for others."""
    gmse = np.asarray(gmse, np.float64)
    if np.any(~(gmse > 0) | ~(gmse < 1)):
        raise UserError(f"GMSE must lie strictly between 0 and 1, got {gmse[~((gmse > 0) & (gmse < 1))].tolist()}")
    return np.asarray(effective_bits(gmse))


@dataclass(frozen=True)
class Capacity:
    """A form with its numbers: `Capacity(TANH, (("F", 0.41), ("C", 1.39)))`."""

    form: Form
    values: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        wanted = {p.name for p in self.form.parameters}
        if {name for name, _ in self.values} != wanted:
            raise UserError(f"{self.form.name} takes {sorted(wanted)}, got {[name for name, _ in self.values]}")
        for name, number in self.values:
            check_number(number, f"{self.form.name}: {name}={number!r}")

    def rho(self, gmse: Any) -> np.ndarray:
        """Capacity at Gaussian mean squared error `gmse`; for forms that read GMSE alone."""
        if self.form.needs != "effective_bits":
            raise UserError(f"{self.form.name} is a function of {self.form.needs}, not of GMSE; use a tanh or logistic")
        bits = law_bits(gmse)
        nothing = np.full_like(bits, np.nan)
        return np.exp(self.form.log_rho(dict(self.values), Factor(bits, nothing, nothing), np.nan))

    def best(self, bits: Any) -> np.ndarray:
        """Capacity of an ideal format of `bits` per value, whose GMSE is 4^-bits (rate-distortion bound)."""
        return self.rho(np.power(4.0, -np.asarray(bits, np.float64)))


@dataclass(frozen=True)
class Scaling:
    """The dense part of the law: L = (A n^-alpha + B D^-beta)^g + E at n = N rho."""

    A: float
    alpha: float
    B: float
    beta: float
    E: float
    g: float = 1.0

    def __post_init__(self) -> None:
        check_finite(self, "A", "alpha", "g", above=0)
        check_finite(self, "B", "beta", least=0)
        check_finite(self, "E")

    def loss(self, N: Any, D: Any, rho: Any = 1.0) -> np.ndarray:
        """Predicted loss in nats per token."""
        size = self.A * (np.asarray(N, np.float64) * rho) ** -self.alpha
        return (size + self.B * np.asarray(D, np.float64) ** -self.beta) ** self.g + self.E

    def compute_optimal(self, flops: Any, rho: Any = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Size and tokens of least loss at 6 N D FLOPs, in closed form (Hoffmann et al. 2022, eq. 4), for any g > 0.

        `N^(alpha + beta) = (alpha A rho^-alpha) / (beta B) (flops / 6)^beta`. Raises UserError without a data term.
        """
        if self.B <= 0 or self.beta <= 0:
            raise UserError(f"B={self.B:g}, beta={self.beta:g}: the loss does not fall with tokens, so no size is best")
        product = np.asarray(flops, np.float64) / FLOPS_PER_PARAMETER_TOKEN
        ratio = self.alpha * self.A * np.asarray(rho, np.float64) ** -self.alpha / (self.beta * self.B)
        N = (ratio * product**self.beta) ** (1 / (self.alpha + self.beta))
        return N, product / N

    def dense_equivalent(self, loss: Any, D: Any) -> np.ndarray:
        """Size of the dense model that reaches `loss` on `D` tokens; infinite where D or E alone forbid it."""
        excess = np.maximum(np.asarray(loss, np.float64) - self.E, 0.0)
        rest = excess ** (1 / self.g) - self.B * np.asarray(D, np.float64) ** -self.beta
        possible = rest > 0
        return np.where(possible, (np.where(possible, rest, 1.0) / self.A) ** (-1 / self.alpha), np.inf)
