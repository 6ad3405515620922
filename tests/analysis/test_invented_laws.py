"""Laws that ship, each fitted to runs that were invented from it, and what each asks of a table."""

import numpy as np
import pytest

from capscale.analysis.arrays import gather
from capscale.analysis.fit import Settings, fit
from capscale.analysis.law import Numbers
from capscale.analysis.laws import LAWS
from capscale.analysis.problem import Layout
from capscale.analysis.profiles import profiles
from capscale.analysis.selection import rows_of
from capscale.analysis.table import make_table
from capscale.analysis.uncertainty import bootstrap
from capscale.errors import UserError

HOFFMANN = {"A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28, "E": 1.69}  # arXiv 2203.15556, eq. 10


def chinchilla(N, D, p):
    return p["A"] * N ** -p["alpha"] + p["B"] * D ** -p["beta"] + p["E"]


SIZES, TOKENS = (5e7, 2e8, 8e8), (5e9, 2e10, 8e10)
GROUPED = ("int4-g16", "int4-g32", "int4-g64", "int4-g256")
CASES = {
    "chen": (
        {"A": 237.7042, "alpha": 0.3022, "B": 596.249, "beta": 0.3022, "E": 1.9279}
        | {"k": 0.1582, "g_N": 0.2186, "g_D": 0.0745, "g_G": 0.7779},
        [(w, w, {}) for w in ("dense", *GROUPED)],
    ),
    "chen-operands": (
        {"A": 237.7042, "alpha": 0.3022, "B": 596.249, "beta": 0.3022, "E": 1.9279}
        | {"k_w": 0.2522, "g_N_w": 0.3589, "g_D_w": 0.1610, "g_G_w": 0.3533}
        | {"k_a": 0.1004, "g_N_a": 0.1816, "g_D_a": 0.0331, "g_G_a": 0.9812},
        [(w, a, {}) for w in ("dense", *GROUPED[::2]) for a in ("dense", *GROUPED[1::2])],
    ),
    "kumar-ptq": (
        HOFFMANN
        | {"gamma_w": 2.6745, "gamma_a": 2.2102, "C_T": 0.0598, "g_D": 0.5068, "g_N": 0.3439, "gamma_post": 0.5907}
        | {"C_w": 0.3, "C_a": 0.5},
        [
            (w, a, {"post_training_bits": b})
            for w in ("dense", "int4", "int8") for a in ("dense", "int8") for b in (2, 3, 4, 16)
        ],
    ),
    "kumar-kv": (
        HOFFMANN | {"gamma_w": 2.6745, "gamma_a": 2.2102, "gamma_kv": 0.9578},
        [
            (w, a, {"cache": c})
            for w in ("dense", "int3") for a in ("dense", "int4") for c in ("dense", "int2", "keys int4 values int2")
        ],
    ),
    "kumar-ptq-kv": (
        HOFFMANN
        | {"gamma_w": 2.6745, "gamma_a": 2.2102, "C_T": 0.0598, "g_D": 0.5068, "g_N": 0.3439, "gamma_post": 0.5907}
        | {"C_w": 0.3, "C_a": 0.5, "gamma_kv": 0.9578, "C_kv": 0.4},
        [
            (w, a, {"cache": c, "post_training_bits": b})
            for w in ("dense", "int4") for a in ("dense", "int4") for c in ("dense", "int3", "int4") for b in (2, 3, 16)
        ],
    ),
    "qid": (
        {"N_c": 6.4e13, "alpha_N": 0.076, "D_c": 1.8e13, "alpha_D": 0.103}
        | {"k": 0.017, "b": 0.5251, "a": 0.2261, "g": 5.4967},
        [(w, "dense", {}) for w in ("dense", "int2", "int3", "int4")],
    ),
    "sun": (
        {"A": 69.2343, "alpha": 0.2368, "B": 68973.0621, "beta": 0.5162, "E": 1.9061, "k": 1 / 11334.5197}
        | {"delta": 3.1926, "nu": 2.9543},
        [(w, "dense", {}) for w in ("dense", "e2m1", "e4m1", "e2m3", "e3m2", "mxfp4", "absmax-e2m1-g16")],
    ),
    "dremov": (
        HOFFMANN | {"theta": 0.1, "kappa": 0.8, "phi": 1.0, "chi": 0.5, "psi": 0.05, "omega": 0.3}
        | {"lambda": 2.0, "mu": 0.6, "nu": 0.05, "xi": -0.1, "rho": 0.5},
        [("dense", "dense", {})]
        + [(w, "dense", {"share": s}) for w in ("int1", "int2", "int4") for s in (0.05, 0.3, 0.7)],
    ),
    "kaplan": ({"N_c": 6.4e13, "alpha_N": 0.076, "D_c": 1.8e13, "alpha_D": 0.103}, [("dense", "dense", {})]),
    "data-constrained": (
        {"A": 521.0, "alpha": 0.3527, "B": 1488.0, "beta": 0.3527, "E": 1.87, "R_N": 5.31, "R_D": 15.39},
        [("dense", "dense", {"epochs": e}) for e in (1.0, 4.0, 16.0, 64.0)],
    ),
    "broken": (
        {"A": 406.4, "alpha": 0.34, "B": 30.0, "c0": 0.15, "c1": 0.3, "d": 2e10, "f": 0.4, "E": 1.69},
        [("dense", "dense", {})],
    ),
    "farseer": (
        {"a1": -1.6656, "alpha": 0.0459, "b1": 3.1333, "a2": 230.73, "beta": -0.1729, "b2": -1.5442}
        | {"a3": -0.062465, "gamma": 0.13, "b3": 0.12849},
        [("dense", "dense", {})],
    ),
}  # fmt: skip
WIDE = {"kaplan", "broken", "farseer", "data-constrained"}


def invented(name, sizes=SIZES, tokens=TOKENS, noise=0.0):
    """A table whose losses are those of a law with the numbers of its case."""
    numbers, formats = CASES[name]
    if name in WIDE:
        sizes, tokens = np.geomspace(sizes[0], sizes[-1], 6), np.geomspace(tokens[0], tokens[-1], 8)
    rows = []
    for weights, activations, given in formats:
        for N in sizes:
            for D in tokens:
                columns = dict(given)
                if share := columns.pop("share", None):
                    columns = {"dense_tokens": (1 - share) * D, "qat_tokens": share * D}
                run = f"{weights} {activations} {N:g} {D:g} {given}"
                rows.append(
                    {"run": run, "N": round(N), "D": round(D), "loss": 1.0, "weights": weights}
                    | {"activations": activations, **columns}
                )
    if name == "dremov":  # a column is there in all rows or in none; dense runs have their tokens in the first phase
        rows = [{"dense_tokens": row["D"], "qat_tokens": None} | row for row in rows]
    law = LAWS[name]
    table = make_table(rows, name, strict=False)
    arrays = gather(table.rows, law, ((), (), ()), (1.0, 1.0))
    loss = Layout(law, 0, 0, 0, True).loss(Numbers(numbers), np.zeros(len(numbers)), arrays)
    loss = loss + np.random.default_rng(0).normal(0, noise, len(loss))
    by_run = dict(zip((r.run for r in table.rows), loss, strict=True))
    return make_table([row | {"loss": float(by_run[row["run"]])} for row in rows], name, strict=False)


@pytest.mark.ci
@pytest.mark.parametrize("name", CASES)
def test_a_fit_finds_the_law_that_runs_were_drawn_from(name):
    """Losses everywhere among the runs, which say more than numbers that may trade with one another, to 1e-4 nats."""
    table = rows_of(invented(name), LAWS[name])
    fitted = fit(table, LAWS[name], Settings(starts=16, shared="none"))
    assert fitted.rmse < 1e-4
    between = invented(name, sizes=(1e8, 4e8), tokens=(1e10, 4e10))
    arrays = fitted.problem.gather(between.rows)
    np.testing.assert_allclose(fitted.problem.predict(fitted.z, arrays), between.column("loss"), atol=1e-3)


def test_efficiencies_of_parameters_and_of_tokens_are_told_apart():
    dense, held = HOFFMANN, {"int4": (0.8, 1.0), "int2": (0.5, 0.6)}
    rows = []
    for weights, (of_N, of_D) in {"dense": (1.0, 1.0), **held}.items():
        for N in SIZES:
            for D in TOKENS:
                loss = chinchilla(N * of_N, D * of_D, dense)
                rows.append({"run": f"{weights} {N:g} {D:g}", "N": N, "D": D, "loss": loss, "weights": weights})
    table = make_table([row | {"activations": "dense"} for row in rows], "x")
    values = fit(table, LAWS["decoupled-efficiencies"], Settings(starts=16, shared="none")).values
    for weights, (of_N, of_D) in held.items():
        assert values[f"rho_N[{weights}]"] == pytest.approx(of_N, rel=1e-3)
        assert values[f"rho_D[{weights}]"] == pytest.approx(of_D, rel=1e-3)


def test_numbers_with_units_are_reported_in_them():
    """The fit is relative to the means of N and D; what it reports is not."""
    values = fit(rows_of(invented("chen"), LAWS["chen"]), LAWS["chen"], Settings(starts=16, shared="none")).values
    for name, value in CASES["chen"][0].items():
        assert values[name] == pytest.approx(value, rel=2e-2), name


@pytest.mark.ci
def test_the_unified_law_with_a_cache_is_found_in_noise():
    """324 runs with an error of .002 nats: every number of the law lies within the 95 % intervals of all at once."""
    numbers = CASES["kumar-ptq-kv"][0]
    law = LAWS["kumar-ptq-kv"]
    fitted = fit(rows_of(invented("kumar-ptq-kv", noise=0.002), law), law, Settings(starts=16, shared="none"))
    assert fitted.rmse == pytest.approx(0.002, rel=0.1)
    intervals = bootstrap(fitted, 200).simultaneous()
    assert set(intervals) == set(numbers)
    for name, found in intervals.items():
        assert found.low <= numbers[name] <= found.high, (name, found)
    for name in ("gamma_w", "gamma_a", "gamma_kv", "gamma_post"):
        assert intervals[name].high < 1.5 * intervals[name].low, (name, intervals[name])


def small(**columns):
    rows = [
        {"run": f"{w}{N:g}{D:g}", "N": N, "D": D, "loss": float(chinchilla(N, D, HOFFMANN)), "weights": w}
        for w in ("dense", "int4")
        for N in SIZES
        for D in TOKENS
    ]
    return make_table([row | {"activations": "dense", **columns} for row in rows], "small")


@pytest.mark.parametrize(
    ("name", "columns", "said"),
    [
        ("kumar-ptq", {}, "kumar-ptq law reads column post_training_bits .bits of the weights after training"),
        ("kumar-kv", {}, r"kumar-kv law is about compressed keys and values, and no row has any .*choose kumar$"),
        ("kumar-ptq-kv", {"cache": "int4"}, "kumar-ptq-kv law reads column post_training_bits"),
        ("kumar-kv", {"cache": "ours"}, "reads the bits of keys and values, and 'ours' is no format of the catalog"),
        ("data-constrained", {}, "data-constrained law reads column unique_tokens .* or epochs"),
        ("dremov", {"qat_tokens": 1e9}, "dremov law reads column dense_tokens .* and this row has none"),
        ("dremov", {"qat_tokens": 0.0, "dense_tokens": 1e9}, "qat_tokens .* must be above 0, and this row has 0"),
        ("chen", {}, "chen law reads the group of a format, and 'int4' has none"),
        ("sun", {}, "sun law reads the exponent of a format, and 'int4' has none"),
    ],
)
def test_a_table_without_what_a_law_reads_is_refused(name, columns, said):
    with pytest.raises(UserError, match=said):
        fit(rows_of(small(**columns), LAWS[name]), LAWS[name], Settings(starts=2))


@pytest.mark.parametrize("name", ["kaplan", "broken", "farseer", "data-constrained"])
def test_dense_laws_take_dense_rows(name):
    chosen = rows_of(small(epochs=1.0), LAWS[name])
    assert all(r.is_dense for r in chosen.rows)


def test_rows_that_differ_in_what_a_law_reads_are_no_repeats():
    row = {"N": 1e8, "D": 1e10, "loss": 3.0, "weights": "dense", "activations": "dense"}
    rows = [row | {"run": f"{epochs:g} epochs", "epochs": epochs} for epochs in (1.0, 4.0)]
    assert len(make_table(rows, "x", strict=False)) == 2
    assert len(make_table([row | {"run": r["run"], "epochs": 4.0} for r in rows], "x", strict=False)) == 1


def test_profiles_of_a_law_that_overflows_at_a_bound_come_without_warnings():
    """(N_c / N)^(alpha_N / alpha_D) does where alpha_D is small. Numbers with units have no profile."""
    table = rows_of(invented("kaplan", noise=0.003), LAWS["kaplan"])
    found = profiles(fit(table, LAWS["kaplan"], Settings(starts=16, shared="none")))
    assert set(found) == {"alpha_N", "alpha_D"}
    for name, curve in found.items():
        interval = curve.interval()
        assert interval.low < interval.estimate < interval.high
        assert abs(interval.estimate - CASES["kaplan"][0][name]) < interval.high - interval.low
