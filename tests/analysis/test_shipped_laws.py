"""Laws that ship, each held to the numbers that its paper prints and to its limits."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from capscale.analysis.law import Numbers, Operand, Runs
from capscale.analysis.laws import LAWS
from capscale.capacity import FORMS, Factor

HOFFMANN = {"A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28, "E": 1.69}  # arXiv 2203.15556, eq. 10
NOTHING = {"gmse": 0.25, "effective_bits": 1.0, "bits": 16.0, "sparsity": 0.0, "group": 2.0, "exponent": 8.0}


def operand(facts):
    about = NOTHING | {"mantissa": 7.0} | (facts or {})
    return Operand(present=np.array(facts is not None), **{name: np.array(x) for name, x in about.items()})


def loss_at(name, numbers, N, D, *, weights=None, activations=None, cache=None, **columns):
    """Loss by a law with these numbers at N parameters and D tokens, in their own units."""
    N, D = np.asarray(N, np.float64), np.asarray(D, np.float64)
    law = LAWS[name]
    columns = {c.name: columns.get(c.name, c.missing) for c in law.columns}
    runs = Runs(np, N, D, D / N, np.asarray(1.0), operand(weights), operand(activations), columns, operand(cache))
    return law.loss(runs, Numbers(numbers))


def chinchilla(N, D, p):
    return p["A"] * N ** -p["alpha"] + p["B"] * D ** -p["beta"] + p["E"]


def test_chinchilla_gives_the_losses_of_gopher_and_of_itself():
    assert loss_at("dense", HOFFMANN, 280e9, 300e9) == pytest.approx(1.993, abs=5e-4)
    assert loss_at("dense", HOFFMANN, 70e9, 1.4e12) == pytest.approx(1.937, abs=5e-4)


def test_chen_weighs_activations_against_weights_as_section_4_3_does():
    """R = delta(W16A4) / delta(W4A16) at N = 594M: 1.67 and 1.20 at G = 32 and D/N of 100 and 1000; 1.62 at G = 256."""
    dense = {"A": 237.7042, "alpha": 0.3022, "B": 596.2490, "beta": 0.3022, "E": 1.9279}
    weights = {"k_w": 0.2522, "g_N_w": 0.3589, "g_D_w": 0.1610, "g_G_w": 0.3533}
    activations = {"k_a": 0.1004, "g_N_a": 0.1816, "g_D_a": 0.0331, "g_G_a": 0.9812}
    numbers, N = dense | weights | activations, 594e6

    def added(D, G, *which):
        given = {operand: {"group": float(G)} for operand in which}
        return loss_at("chen-operands", numbers, N, D, **given) - chinchilla(N, D, dense)

    for ratio, G, published in ((100, 32, 1.67), (1000, 32, 1.20), (1000, 256, 1.62)):
        D = ratio * N
        assert added(D, G, "activations") / added(D, G, "weights") == pytest.approx(published, rel=0.025)
    both = added(1e11, 64, "weights", "activations")
    assert both == pytest.approx(added(1e11, 64, "weights") + added(1e11, 64, "activations"), rel=1e-12)
    one = dense | {"k": 0.1582, "g_N": 0.2186, "g_D": 0.0745, "g_G": 0.7779}
    grown = [
        loss_at("chen", one, N, D, weights={"group": 128.0}, activations={"group": 128.0}) - chinchilla(N, D, dense)
        for D in (1e10, 1e11)
    ]
    assert grown[1] / grown[0] == pytest.approx(1.22, rel=0.03)  # section 4.2: 22 % from 10B to 100B tokens


def test_kumar_keeps_what_its_table_keeps_and_rounds_as_much_as_its_law_says():
    numbers = {"gamma_w": 2.6745, "gamma_a": 2.2102, "C_T": 0.0598, "g_D": 0.5068, "g_N": 0.3439, "gamma_post": 0.5907}
    alone = numbers | {"A": 1.0, "alpha": 1.0, "B": 0.0, "beta": 1.0, "E": 0.0, "C_w": 50.0, "C_a": 50.0}
    # A N_eff^-1 is 1 / N_eff: 4-bit weights leave .776 of N.
    assert 1 / loss_at("kumar-ptq", alone, 1.0, 1.0, weights={"bits": 4.0}) == pytest.approx(0.776, abs=5e-4)
    assert 1 / loss_at("kumar-ptq", alone, 1.0, 1.0, weights={"bits": 8.0}) == pytest.approx(0.950, abs=5e-4)
    flat = alone | {"A": 0.0}
    N, D = 220e6, 26e9
    expected = 0.0598 * math.exp(-3 / 0.5907) * D**0.5068 / N**0.3439
    assert loss_at("kumar-ptq", flat, N, D, post_training_bits=3.0) == pytest.approx(expected, rel=1e-12)
    assert loss_at("kumar-ptq", flat, N, D, weights={"bits": 4.0}, post_training_bits=4.0) == 0
    assert loss_at("kumar-ptq", flat, N, D) == 0
    # Keys and values are one factor more of either kind, and none where the law has no numbers of theirs.
    cached, given = {"gamma_kv": 1.2, "C_kv": 0.4}, {"cache": {"bits": 3.0}}
    kept = 1 - math.exp(-3 / 1.2)
    for name in ("kumar-kv", "kumar-ptq-kv"):
        assert 1 / loss_at(name, alone | cached, 1.0, 1.0, **given) == pytest.approx(kept, rel=1e-12)
        assert loss_at(name, alone | cached, 1.0, 1.0) == 1
    rounded = loss_at("kumar-ptq-kv", flat | cached, N, D, post_training_bits=2.0, **given)
    expected = 0.0598 * math.exp(-2 / 0.5907) * D**0.5068 / (N * kept) ** 0.3439 * (1 - math.exp(-0.4))
    assert rounded == pytest.approx(expected, rel=1e-12)
    assert loss_at("kumar-ptq-kv", flat | cached, N, D, post_training_bits=3.0, **given) == 0
    assert loss_at("kumar-ptq", flat, N, D, post_training_bits=2.0, **given) > rounded


def test_qid_has_the_published_numbers_and_its_table_of_tokens():
    """Table 1 of the paper, 4 bits: tokens in trillions at which a model of this size loses this much."""
    pythia = {"N_c": 4.74e19, "alpha_N": 0.045, "D_c": 7.63e10, "alpha_D": 0.399}
    figure = pythia | {"k": 0.017, "b": 0.5251, "a": 0.2261, "g": 5.4967}
    dense = ((4.74e19 / 1e9) ** (0.045 / 0.399) + 7.63e10 / 1e12) ** 0.399
    assert loss_at("qid", figure, 1e9, 1e12) == pytest.approx(dense, rel=1e-12)
    at_4_bits = loss_at("qid", figure, 1e9, 1e12, weights={"bits": 4.0}) - dense
    assert at_4_bits == pytest.approx(0.017 * 1e12**0.5251 / (1e9**0.2261 * 4**5.4967), rel=1e-9)

    tokens = {1e9: (1.4424, 2.6786, 4.1556, 5.8422), 7e9: (4.5066, 8.3689, 12.9836, 18.2531)}
    tokens |= {70e9: (17.3499, 32.2192, 49.9854, 70.2723), 405e9: (48.4861, 90.0398, 139.6892, 196.3829)}
    # Two cells give b, one more a, and the first k: the other thirteen are predicted.
    b = math.log(2.5) / math.log(5.8422 / 1.4424)
    a = b * math.log(48.4861 / 1.4424) / math.log(405)
    k = 0.2 * 1e9**a / 1.4424e12**b
    fitted = pythia | {"k": k, "b": b, "a": a, "g": 0.0}
    for N, row in tokens.items():
        for loss, trillions in zip((0.2, 0.3, 0.4, 0.5), row, strict=True):
            D = trillions * 1e12
            added = loss_at("qid", fitted, N, D, weights={"bits": 4.0}) - loss_at("qid", fitted, N, D)
            assert added == pytest.approx(loss, rel=2e-4)


def test_sun_has_the_published_critical_tokens_and_layouts():
    """Section 4.3: a 1B model at G = 128 is worst taught beyond 1730T tokens in BF16, 27T in E4M3, .4T in E2M1."""
    numbers = {"A": 69.2343, "alpha": 0.2368, "B": 68973.0621, "beta": 0.5162, "E": 1.9061}
    numbers |= {"k": 1 / 11334.5197, "delta": 3.1926, "nu": 2.9543}

    def loss(log_D, exponent, mantissa):
        facts = {"exponent": float(exponent), "mantissa": float(mantissa), "group": 128.0}
        return float(loss_at("sun", numbers, 1e9, math.exp(log_D), weights=facts))

    for (exponent, mantissa), published in {(8, 7): 1730e12, (4, 3): 27e12, (2, 1): 0.4e12}.items():
        least = minimize_scalar(
            loss, bounds=(20.0, 45.0), args=(exponent, mantissa), method="bounded", options={"xatol": 1e-9}
        )
        assert math.exp(least.x) == pytest.approx(published, rel=0.03)
    for bits, best in ((4, (2, 1)), (8, (4, 3)), (16, (8, 7))):  # figure 5
        layouts = [(e, bits - 1 - e) for e in range(bits)]
        assert min(layouts, key=lambda layout: loss(30.0, *layout)) == best
    assert loss_at("sun", numbers, 1e9, 1e11, weights={"group": 1.0}) == chinchilla(1e9, 1e11, numbers)
    channel = loss_at("sun", numbers, 1e9, 1e11, weights={"group": np.nan})
    assert channel == pytest.approx(loss_at("sun", numbers, 1e9, 1e11, weights={"group": 2**13.1567}), rel=1e-12)


@pytest.mark.parametrize(
    ("a_S", "b_S", "c_S", "b_N", "published"),
    [(16.8, 0.722, 45.0, 0.245, (1.59, 2.16, 2.63)), (294.0, 0.821, 468.0, 0.392, (1.60, 2.17, 2.63))],
    ids=["T5", "ViT"],
)
def test_frantar_gives_the_dense_sizes_that_the_paper_prints(a_S, b_S, c_S, b_N, published):
    """Dense models as good as sparse ones of as many non-zero weights, at 50, 75 and 87.5 % zeros."""
    form = FORMS["frantar"]
    for sparsity, larger in zip((0.5, 0.75, 0.875), published, strict=True):
        facts = Factor(np.array(np.nan), np.array(np.nan), np.array(sparsity))
        log_rho = form.log_rho({"b_S": b_S, "c_S": c_S / (a_S + c_S)}, facts, b_N)
        assert math.exp(log_rho) / (1 - sparsity) == pytest.approx(larger, abs=5e-3)


def test_data_constrained_counts_repeats_as_the_paper_does():
    """Appendix A: where R_D = 3 four repetitions of a token make 3.21 of it, a hundred 4; where 15.39, fifteen 10.6."""
    one = {"A": 1.0, "alpha": 1.0, "B": 1.0, "beta": 1.0, "E": 0.0, "R_N": 5.309743}

    def worth(epochs, R_D):
        """Of one token, with the one parameter that suits it and adds 1 to the loss."""
        return 1 / (loss_at("data-constrained", one | {"R_D": R_D}, 1.0, float(epochs), epochs=float(epochs)) - 1)

    assert worth(5, 3.0) == pytest.approx(3.21, abs=5e-3)
    assert worth(101, 3.0) == pytest.approx(4.0, abs=1e-6)
    assert worth(16, 15.387756) == pytest.approx(10.58, abs=5e-3)
    c4 = {"A": math.exp(6.255414), "B": math.exp(7.3049974), "E": math.exp(0.6254804)}
    c4 |= {"alpha": 0.3526596, "beta": 0.3526596, "R_N": 5.309743, "R_D": 15.387756}
    U, N, D = 1e9, 2e8, 8e9
    suits = 0.051 * U  # U_N = 0.051 U, appendix A
    N_eff = suits + 5.309743 * suits * (1 - math.exp(-(N / suits - 1) / 5.309743))
    D_eff = U + 15.387756 * U * (1 - math.exp(-7 / 15.387756))
    expected = 521 / N_eff**0.3526596 + 1488 / D_eff**0.3526596 + 1.87
    assert loss_at("data-constrained", c4, N, D, unique_tokens=U) == pytest.approx(expected, rel=1e-3)
    assert loss_at("data-constrained", c4, N, D, epochs=8.0) == pytest.approx(
        loss_at("data-constrained", c4, N, D, unique_tokens=U), rel=1e-12
    )


def test_kaplan_has_its_limits():
    """Table 2 of the paper; eq. 1.1 and 1.2 are the limits of eq. 1.5."""
    numbers = {"N_c": 6.4e13, "alpha_N": 0.076, "D_c": 1.8e13, "alpha_D": 0.103}
    assert loss_at("kaplan", numbers, 1e9, 1e30) == pytest.approx((6.4e13 / 1e9) ** 0.076, rel=1e-9)
    assert loss_at("kaplan", numbers, 1e30, 1e10) == pytest.approx((1.8e13 / 1e10) ** 0.103, rel=1e-2)


def test_broken_is_the_curve_of_its_authors_simulation():
    """Numbers of the authors' noiseless simulation of 4-digit addition; its slopes are c0, then c0 + c1."""
    a, b, c0, c1 = 0.41388453071629455, 2.2772722897737556, 0.055077348404973955, 5.662903816010331
    d, f = 612.5836172918001, 0.059193036393742314
    numbers = {"A": 0.0, "alpha": 1.0, "B": b, "c0": c0, "c1": c1, "d": d, "f": f, "E": a}
    x = np.array([1.0, 100.0, 600.0, 700.0, 4000.0])
    expected = a + b * x**-c0 * (1 + (x / d) ** (1 / f)) ** (-c1 * f)
    np.testing.assert_allclose(loss_at("broken", numbers, np.ones(5), x), expected, rtol=1e-12)
    far = np.array([1e-3, 1e-2, 1e8, 1e9])
    slope = np.diff(np.log(loss_at("broken", numbers | {"E": 0.0}, np.ones(4), far))) / np.diff(np.log(far))
    np.testing.assert_allclose(slope[[0, 2]], [-c0, -c0 - c1], rtol=1e-9)
    one_power = loss_at("broken", HOFFMANN | {"c0": 0.28, "c1": 0.0, "d": 1e9, "f": 0.3}, 1e9, 1e11)
    assert one_power == pytest.approx(chinchilla(1e9, 1e11, HOFFMANN), rel=1e-12)


def test_farseer_spans_the_losses_of_its_runs():
    """Numbers of the authors' notebook; their runs have N of .1 to 25 billion, D of 1 to 512, and .438 to .675 bits."""
    numbers = {"a1": -1.665630816, "alpha": 0.0459, "b1": 3.133347198805445, "a2": 230.73437075885855}
    numbers |= {"beta": -0.1729, "b2": -1.544209554, "a3": -0.062465473, "gamma": 0.13, "b3": 0.1284880679442551}
    expected = math.exp(-0.062465473 * 1e9**0.13 + 0.1284880679442551)
    expected += math.exp(230.73437075885855 * 1e9**-0.1729 - 1.544209554) * 1e11 ** -math.exp(
        -1.665630816 * 1e9**0.0459 + 3.133347198805445
    )
    assert loss_at("farseer", numbers, 1e9, 1e11) == pytest.approx(expected, rel=1e-12)
    assert loss_at("farseer", numbers, 1e9, 1e9) == pytest.approx(0.675, abs=0.01)
    assert loss_at("farseer", numbers, 25.1e9, 1.28e11) == pytest.approx(0.438, abs=0.01)


def test_dremov_adds_three_errors_to_chinchilla():
    numbers = HOFFMANN | {"theta": 0.5, "kappa": 1.0, "phi": 2.0, "chi": 0.5, "psi": 0.1, "omega": 0.3}
    numbers |= {"lambda": 3.0, "mu": 0.7, "nu": 0.2, "xi": -0.1, "rho": 0.4}
    N, D, dense, qat = 4e8, 3e10, 2e10, 1e10
    S_d, S_q = dense / (N * 4 / 8), qat / (N * 4 / 8)
    expected = chinchilla(N, D, HOFFMANN) + 0.5 / 16 + 2 / 4 * N**-0.1 * S_q**-0.3
    expected += 3 * 2 ** (-2.8) * N**-0.2 * S_d**0.1 * S_q**-0.4
    given = {"dense_tokens": dense, "qat_tokens": qat}
    assert loss_at("dremov", numbers, N, D, weights={"bits": 4.0}, **given) == pytest.approx(expected, rel=1e-12)
    assert loss_at("dremov", numbers, N, D, dense_tokens=1.0, qat_tokens=1.0) == chinchilla(N, D, HOFFMANN)


@pytest.mark.parametrize("law", LAWS.values(), ids=lambda law: law.name)
def test_every_law_says_its_equation_and_source(law):
    assert law.formula and law.source  # noqa: PT018
    assert law.equation.startswith("L = ")


def test_the_page_of_laws_has_every_law_with_its_equation_and_source():
    lines = (Path(__file__).resolve().parents[2] / "docs" / "laws.md").read_text().splitlines()
    cells = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    columns = {column.name for law in LAWS.values() for column in law.columns}
    assert set(cells) == set(LAWS) | columns
    for name, law in LAWS.items():
        assert law.equation.removeprefix("L = ") in cells[name], name
        assert cells[name].endswith(f"| {law.source} |"), name
        assert all(f"`{column.name}`" in cells[name] for column in law.columns), name


def test_kaplan_is_finite_where_the_power_of_N_overflows():
    numbers = {"N_c": 8.8e13, "D_c": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.001}
    assert loss_at("kaplan", numbers, 1e8, 1e9) == pytest.approx((8.8e13 / 1e8) ** 0.076, rel=1e-9)
    without_tokens = numbers | {"D_c": 0.0, "alpha_D": 0.095}
    assert loss_at("kaplan", without_tokens, 1e8, 1e9) == pytest.approx((8.8e13 / 1e8) ** 0.076, rel=1e-12)
