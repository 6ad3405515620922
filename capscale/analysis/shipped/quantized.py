"""Laws of quantized training and of quantization after it: a dense law and what a format adds to its loss.

Sizes and tokens are in their own units in the equations; each docstring names the equation's source.
"""

from dataclasses import replace
from typing import Any

from capscale.analysis.law import ALPHA, BETA, A, B, Column, E, Law, Numbers, Operand, Runs, size_and_tokens
from capscale.analysis.shipped.dense import KAPLAN, coupled_ratios, ratios_in_units
from capscale.capacity import Parameter

CHANNEL_LOG2_BLOCK = 13.1567
"""log2 of the block that a scale per channel is worth (Sun et al. 2025, section 3.6)."""


def amplitude(name: str) -> Parameter:
    """The factor of a loss added by a format: of the order of one or less, over decades."""
    return Parameter(name, 1e-12, 1e4, (1e-3, 0.3), log=True)


def exponent(name: str, start: tuple[float, float] = (0.05, 0.6), lower: float = -1.0, upper: float = 4.0) -> Parameter:
    """An exponent of a format's term; of either sign, as what a format costs may rise or fall with it."""
    return Parameter(name, lower, upper, start)


def chinchilla(x: Runs, p: Numbers) -> Any:
    """A N^-alpha + B D^-beta + E, the dense part."""
    return p.A * x.N**-p.alpha + p.B * x.D**-p.beta + p.E


def only_in(present: Any, x: Runs, value: Any) -> Any:
    """`value` in runs where something is `present`, 0 elsewhere."""
    return x.xp.where(present, value, 0.0)


def group_error(x: Runs, group: Any, p: Numbers, suffix: str = "") -> Any:
    """k D^g_D log2(G)^g_G N^-g_N, eq. 5 of Chen et al. 2025, with the numbers of this suffix."""
    k, g_D, g_G, g_N = (p[name + suffix] for name in ("k", "g_D", "g_G", "g_N"))
    return k * x.D**g_D * x.xp.log2(group) ** g_G * x.N**-g_N


def chen(x: Runs, p: Numbers) -> Any:
    """Chinchilla + k D^g_D log2(G)^g_G N^-g_N, G values that share a scale: arXiv 2505.14302, eq. 5.

    The numbers are those of one precision, whatever it compresses: W4A4, W4A16 and W16A4 have their own. Where both
    operands are compressed G is the larger group.
    """
    weights, activations = (x.xp.where(o.present, o.group, 1.0) for o in (x.weights, x.activations))
    group = x.xp.where(x.compressed, x.xp.maximum(weights, activations), 2.0)
    return chinchilla(x, p) + only_in(x.compressed, x, group_error(x, group, p))


def chen_operands(x: Runs, p: Numbers) -> Any:
    """Chinchilla + the error of weights + that of activations, each as eq. 5 of arXiv 2505.14302 has it.

    Section 4.3 there: the error of W4A4 is .906 times the sum of those of W4A16 and W16A4.
    """
    of_weights = group_error(x, x.weights.group, p, "_w")
    of_activations = group_error(x, x.activations.group, p, "_a")
    added = only_in(x.weights.present, x, of_weights) + only_in(x.activations.present, x, of_activations)
    return chinchilla(x, p) + added


def kept_by(x: Runs, operand: Operand, gamma: Any) -> Any:
    """1 - exp(-bits / gamma) where the operand was quantized in training, else 1."""
    return x.xp.where(operand.present, -x.xp.expm1(-operand.bits / gamma), 1.0)


def robustified(x: Runs, bits: Any, post: Any, C: Any) -> Any:
    """1 - exp(-C (bits - post)), 0 where weights are rounded no further than they were in training."""
    return -x.xp.expm1(-C * x.xp.maximum(bits - post, 0.0))


def kumar_in_training(x: Runs, p: Numbers) -> Any:
    """Chinchilla in N_eff = N (1 - exp(-P_w / gamma_w)) (1 - exp(-P_a / gamma_a)) (1 - exp(-P_kv / gamma_kv))."""
    N = x.N * kept_by(x, x.weights, p.gamma_w) * kept_by(x, x.activations, p.gamma_a) * kept_by(x, x.cache, p.gamma_kv)
    return p.A * N**-p.alpha + p.B * x.D**-p.beta + p.E


def kumar_after_training(x: Runs, p: Numbers) -> Any:
    """Chinchilla in N_eff, and what rounding weights to P_post bits after training adds: arXiv 2411.04330.

    N_eff = N (1 - exp(-P_w / gamma_w)) (1 - exp(-P_a / gamma_a)). The addition is C_T exp(-P_post / gamma_post)
    D^g_D N_eff^-g_N times 1 - exp(-C_x (P_x - P_post)) of weights and of activations; P_x is 16 where the training
    was dense. Keys and values have a factor of either kind in a law with numbers of theirs.
    """
    post = x.columns["post_training_bits"]
    N = x.N * kept_by(x, x.weights, p.gamma_w) * kept_by(x, x.activations, p.gamma_a)
    if "gamma_kv" in p:
        N = N * kept_by(x, x.cache, p.gamma_kv)
    rounded = p.C_T * x.xp.exp(-post / p.gamma_post) * x.D**p.g_D * N**-p.g_N
    robust = robustified(x, x.weights.bits, post, p.C_w) * robustified(x, x.activations.bits, post, p.C_a)
    if "C_kv" in p:
        robust = robust * robustified(x, x.cache.bits, post, p.C_kv)
    return p.A * N**-p.alpha + p.B * x.D**-p.beta + p.E + rounded * robust


def qid(x: Runs, p: Numbers) -> Any:
    """Kaplan's law + k D^b N^-a P^-g, P bits of the weights after training: arXiv 2411.17691, eq. 8 and figure 7."""
    added = p.k * x.D**p.b * x.N**-p.a * x.weights.bits**-p.g
    return coupled_ratios(x, p) + only_in(x.weights.present, x, added)


def sun(x: Runs, p: Numbers) -> Any:
    """Chinchilla + (D^beta / N^alpha) log2(G) / (gamma (E + 1/2)^delta (M + 1/2)^nu): arXiv 2501.02423, eq. 18.

    E exponent bits, M mantissa bits and G values that share a scale, of the weights, or of the activations where
    weights are dense. A scale per channel counts as the block that section 3.6 there finds it to be worth.
    """

    def of(field: str) -> Any:
        return x.xp.where(x.weights.present, getattr(x.weights, field), getattr(x.activations, field))

    group = of("group")
    blocks = x.xp.where(x.xp.isnan(group), CHANNEL_LOG2_BLOCK, x.xp.log2(x.xp.where(x.xp.isnan(group), 2.0, group)))
    lost = p.k * blocks / ((of("exponent") + 0.5) ** p.delta * (of("mantissa") + 0.5) ** p.nu)
    return chinchilla(x, p) + only_in(x.compressed, x, x.D**p.beta * x.N**-p.alpha * lost)


def dremov(x: Runs, p: Numbers) -> Any:
    """Chinchilla in all tokens + the error of QAT that follows dense training: arXiv 2509.22935.

    theta 2^(-kappa P) + phi 2^(-chi P) N^-psi S_q^-omega + lambda 2^(-mu P) N^-nu S_d^-xi S_q^-rho, P bits of the
    weights, S = 8 D / (N P) tokens of a phase per byte of the weights: S_d of the dense phase, S_q of QAT.
    xi may have either sign: a longer dense phase may make weights easier or harder to quantize.
    """
    P = x.weights.bits
    dense, qat = (8 * x.columns[name] / (x.N * P) for name in ("dense_tokens", "qat_tokens"))
    floor = p.theta * x.xp.exp2(-p.kappa * P)
    short = p.phi * x.xp.exp2(-p.chi * P) * x.N**-p.psi * qat**-p.omega
    joint = p["lambda"] * x.xp.exp2(-p.mu * P) * x.N**-p.nu * dense**-p.xi * qat**-p.rho
    return chinchilla(x, p) + only_in(x.weights.present, x, floor + short + joint)


DENSE_NUMBERS = (A, B, ALPHA, BETA, E)
GROUP_EXPONENTS = (exponent("g_D", (0.0, 0.3)), exponent("g_G", (0.2, 1.2)), exponent("g_N", (0.05, 0.5)))


def suffixed(parameter: Parameter, suffix: str) -> Parameter:
    """The same number of another operand."""
    return parameter._replace(name=parameter.name + suffix)


def sensitivity(operand: str) -> Parameter:
    """Bits gamma over which the capacity of a quantized operand rises."""
    return Parameter(f"gamma_{operand}", 0.05, 50.0, (0.5, 8.0), log=True)


def robustness(operand: str) -> Parameter:
    """How fast rounding further than in training costs its whole amount."""
    return Parameter(f"C_{operand}", 1e-3, 50.0, (0.05, 5.0), log=True)


CHEN = Law(
    "chen",
    (*DENSE_NUMBERS, amplitude("k"), *GROUP_EXPONENTS),
    chen,
    formula="A N^-alpha + B D^-beta + E + k D^g_D log2(G)^g_G N^-g_N",
    source="Chen et al. 2025, arXiv 2505.14302, eq. 5",
    linear=("A", "B", "E", "k"),
    data_term=("B", "beta", "g_D"),
    units=lambda p: size_and_tokens(p) | {"k": (p.g_N, -p.g_D)},
    needs=("group",),
)
CHEN_OPERANDS = Law(
    "chen-operands",
    (
        *DENSE_NUMBERS,
        *(suffixed(q, s) for s in ("_w", "_a") for q in (amplitude("k"), *GROUP_EXPONENTS)),
    ),
    chen_operands,
    formula="A N^-alpha + B D^-beta + E + sum over weights, activations of k D^g_D log2(G)^g_G N^-g_N",
    source="Chen et al. 2025, arXiv 2505.14302, eq. 5 and section 4.3",
    linear=("A", "B", "E", "k_w", "k_a"),
    data_term=("B", "beta", "g_D_w", "g_D_a"),
    units=lambda p: size_and_tokens(p) | {"k_w": (p.g_N_w, -p.g_D_w), "k_a": (p.g_N_a, -p.g_D_a)},
    needs=("group",),
)
KUMAR_AFTER_TRAINING = Law(
    "kumar-ptq",
    (
        *DENSE_NUMBERS,
        *(sensitivity(o) for o in ("w", "a")),
        amplitude("C_T")._replace(upper=1e8, start=(0.1, 1e3)),
        exponent("g_D"),
        exponent("g_N"),
        Parameter("gamma_post", 0.05, 10.0, (0.3, 2.0), log=True),
        *(robustness(o) for o in ("w", "a")),
    ),
    kumar_after_training,
    formula="A N_eff^-alpha + B D^-beta + E + C_T exp(-P_post / gamma_post) D^g_D N_eff^-g_N "
    "prod_x (1 - exp(-C_x (P_x - P_post))); N_eff = N prod_x (1 - exp(-P_x / gamma_x)), x weights, activations",
    source="Kumar et al. 2024, arXiv 2411.04330, the unified law without the KV cache",
    linear=("A", "B", "E", "C_T"),
    data_term=("B", "beta", "g_D"),
    units=lambda p: size_and_tokens(p) | {"C_T": (p.g_N, -p.g_D)},
    needs=("bits",),
    columns=(Column("post_training_bits", "bits of the weights after training; rows without were not rounded", 16.0),),
)
KUMAR_CACHE = Law(
    "kumar-kv",
    (*DENSE_NUMBERS, *(sensitivity(o) for o in ("w", "a", "kv"))),
    kumar_in_training,
    formula="A N_eff^-alpha + B D^-beta + E; N_eff = N prod_x (1 - exp(-P_x / gamma_x)), x weights, activations, cache",
    source="Kumar et al. 2024, arXiv 2411.04330, training with weights, activations and KV cache",
    linear=("A", "B", "E"),
    data_term=("B", "beta"),
    units=size_and_tokens,
    needs=("bits",),
    cache=True,
)
KUMAR_CACHE_AFTER_TRAINING = replace(
    KUMAR_AFTER_TRAINING,
    name="kumar-ptq-kv",
    parameters=(*KUMAR_AFTER_TRAINING.parameters, sensitivity("kv"), robustness("kv")),
    formula=KUMAR_AFTER_TRAINING.formula.replace("weights, activations", "weights, activations, cache"),
    source="Kumar et al. 2024, arXiv 2411.04330, the unified law",
    cache=True,
)
QID = Law(
    "qid",
    (*KAPLAN.parameters, amplitude("k")._replace(upper=1e8, start=(0.1, 1e3)), exponent("b"), exponent("a"),
     exponent("g", (1.0, 6.0), 0.0, 12.0)),
    qid,
    formula="((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D + k D^b N^-a P^-g; P bits of the weights",
    source="Ouyang et al. 2024, arXiv 2411.17691, eq. 8 and figure 7",
    linear=("k",),
    data_term=("D_c", "alpha_D", "b"),
    units=lambda p: ratios_in_units(p) | {"k": (p.a, -p.b)},
    needs=("bits",),
)  # fmt: skip
SUN = Law(
    "sun",
    (*DENSE_NUMBERS, amplitude("k"), exponent("delta", (0.5, 4.0), 0.0, 8.0), exponent("nu", (0.5, 4.0), 0.0, 8.0)),
    sun,
    formula="A N^-alpha + B D^-beta + E + k D^beta N^-alpha log2(G) / ((E_bits + 1/2)^delta (M_bits + 1/2)^nu)",
    source="Sun et al. 2025, arXiv 2501.02423, eq. 18; k = 1 / gamma there",
    linear=("A", "B", "E", "k"),
    data_term=("B", "beta"),
    units=lambda p: size_and_tokens(p) | {"k": (p.alpha, -p.beta)},
    needs=("exponent", "mantissa"),
)
DREMOV = Law(
    "dremov",
    (
        *DENSE_NUMBERS,
        amplitude("theta"),
        exponent("kappa", (0.2, 2.0)),
        amplitude("phi"),
        exponent("chi", (0.2, 2.0)),
        exponent("psi"),
        exponent("omega"),
        amplitude("lambda"),
        exponent("mu", (0.2, 2.0)),
        exponent("nu"),
        exponent("xi", (-0.3, 0.3), -2.0, 2.0),
        exponent("rho"),
    ),
    dremov,
    formula="A N^-alpha + B D^-beta + E + theta 2^(-kappa P) + phi 2^(-chi P) N^-psi S_q^-omega "
    "+ lambda 2^(-mu P) N^-nu S_d^-xi S_q^-rho; S = 8 tokens / (N P) of QAT and of the dense phase before it",
    source="Dremov et al. 2025, arXiv 2509.22935",
    linear=("A", "B", "E", "theta", "phi", "lambda"),
    data_term=("B", "beta"),
    units=lambda p: (
        size_and_tokens(p) | {"phi": (p.psi - p.omega, p.omega), "lambda": (p.nu - p.xi - p.rho, p.xi + p.rho)}
    ),
    needs=("bits",),
    columns=(
        Column("dense_tokens", "tokens of the dense phase", compressed=True, positive=True, unit="D"),
        Column(
            "qat_tokens", "tokens of quantization-aware training after it", compressed=True, positive=True, unit="D"
        ),
    ),
)
QUANTIZED_LAWS = (
    *(CHEN, CHEN_OPERANDS, KUMAR_CACHE, KUMAR_AFTER_TRAINING, KUMAR_CACHE_AFTER_TRAINING, QID, SUN, DREMOV),
)
