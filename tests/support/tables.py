"""Studies and fits of small tables, each of which makes some sentences true and others false."""

from dataclasses import replace
from functools import cache

import numpy as np

from capscale.analysis.cut_offs import CutOffs
from capscale.analysis.fit import Constraints, Fit, Settings, fit
from capscale.analysis.inspection import Inspection, inspect
from capscale.analysis.laws import LAWS
from capscale.analysis.leaderboard import TableBench, law_bench
from capscale.analysis.selection import rows_of
from capscale.analysis.shared_errors import SharedErrors
from capscale.analysis.study import Study, study
from capscale.analysis.table import Table, make_table
from capscale.analysis.uncertainty import bootstrap
from support.synthetic import TRUTH, frame_of, rho_of, runs

INTEGERS = ("int1", "int2", "int4", "int8")
SPARSE = ("top75", "2:4", "top50")
MIXED = ("2:4+int4", "higgs-d2-n16")
OTHER = "top50 [fw]"
QUICK = Settings(starts=8)


def table(rho: dict[str, float], **change) -> Table:
    return make_table(runs(rho, **change), "made", strict=False)


def true_rho(*names: str) -> dict[str, float]:
    return {n: rho_of(n) for n in names}


WIDE = (1e7, 3e7, 1e8, 3e8, 1e9)


def off(of: Table, *rows: int) -> Table:
    """The table with some losses raised by a nat."""
    changed = tuple(r._replace(loss=r.loss + 1.0) if i in rows else r for i, r in enumerate(of.rows))
    return replace(of, rows=changed)


def without_dense(of: Table) -> Table:
    return of.select(np.array([not r.is_dense for r in of.rows]))


# fmt: off
TABLES = {
    # One curve, integers and sparse in order, another estimator told apart.
    "good": lambda: table({**true_rho(*INTEGERS, *SPARSE), OTHER: 0.75}, seed=0, loss_se=0.01),
    # Capacity rises with error.
    "reversed": lambda: table({"int8": 0.2, "int4": 0.5, "int2": 0.8}),
    "one size": lambda: table(true_rho("int2", "int4"), sizes=(1e8,), tokens=(2e9, 4e9, 8e9, 16e9), law=TRUTH),
    "one format": lambda: table(true_rho("int4")),
    # Three formats with the same losses.
    "level": lambda: table({"int2": 0.5, "int3": 0.5, "int4": 0.5}, noise=0.0),
    # Neighbours within the noise.
    "noisy": lambda: table({"int2": 0.44, "int3": 0.46, "int4": 0.45, OTHER: 0.5, "top50": 0.49}, noise=0.05),
    # Learned steps on .8 of the curve.
    "saturating": lambda: table({f"lsq{b}": 0.8 * rho_of(f"int{b}") for b in (2, 3, 4, 8)}, noise=0.001),
    # A run worth less than the smallest dense one.
    "small": lambda: table(true_rho("int4", "int2") | {"int1": 0.12}),
    # A format that learnt nothing: its capacity ends on the bound.
    "useless": lambda: table(true_rho(*INTEGERS[1:]) | {"int1": 5e-5}),
    # Sparse formats far above the integers' curve.
    "two curves": lambda: table(true_rho(*INTEGERS) | {n: rho_of(n) + 0.25 for n in SPARSE}),
    "both operands": lambda: table({f"{n} x {n}": rho_of(n) ** 2 for n in INTEGERS[1:]}),
    "several budgets": lambda: table(true_rho("int2", "int4"), sizes=(3e7, 1e8, 3e8), tokens=(2e9, 8e9), law=TRUTH),
    "grid": lambda: table(true_rho("int2", "int4"), sizes=WIDE, tokens=(2e9, 8e9, 3e10), law=TRUTH),
    "two sizes": lambda: table(true_rho("int2", "int4"), sizes=(3e7, 3e8), tokens=(2e9, 4e9, 8e9), law=TRUTH),
    "constant ratio": lambda: make_table(
        frame_of(
            np.repeat([3e7, 1e8, 3e8, 1e9], 3), 100 * np.repeat([3e7, 1e8, 3e8, 1e9], 3), ["dense", "int4", "int2"] * 4,
            0.003, np.random.default_rng(0),
        ).to_dict("records"), "made",
    ),
    "two seeds": lambda: make_table(
        [{**r, "seed": s, "run": f"{r['run']} {s}", "loss": r["loss"] + 0.002 * s} for s in (0, 1)
         for r in runs(true_rho("int2", "int4", "top50", "2:4"))], "made", strict=False,
    ),
    "dense runs": lambda: table({}, sizes=(1e7, 1e8, 1e9), tokens=(2e9, 8e9, 3e10), law=TRUTH),
    "no dense runs": lambda: without_dense(table(true_rho("int2", "int4", "int8"), tokens=(1e6, 2e6, 4e6))),
    "unknown errors": lambda: table({"mine": 0.5, "another": 0.4}),
    "tiny": lambda: table(true_rho("int4"), sizes=WIDE[:4], law=TRUTH),
    # One loss far off.
    "one off": lambda: off(table(true_rho("int2", "int4", "int8"), sizes=WIDE), 5),
    # More losses off than are spoken of one by one.
    "many off": lambda: off(
        table(true_rho(*INTEGERS, *SPARSE), sizes=WIDE, tokens=(1e9, 4e9), law=TRUTH), *range(2, 80, 6)
    ),
    "extra dense": lambda: make_table(
        runs(true_rho(*INTEGERS)) + [{**r, "D": 4e6, "run": f"long {i}"} for i, r in enumerate(runs({}))], "made",
        strict=False,
    ),
}
# fmt: on


@cache
def studied(name: str) -> Study:
    return study(TABLES[name](), settings=QUICK, resamples=60)


@cache
def fitted(name: str, law: str = "tanh") -> Fit:
    return fit(rows_of(TABLES[name](), LAWS[law]), LAWS[law], QUICK)


def allowed(name: str, **numbers: float) -> Inspection:
    """Contradicted numbers that shared errors let stand."""
    found = given(name, **numbers)
    return replace(found, comparison=replace(found.comparison, shared_ratio=1.01))


@cache
def given(name: str, **numbers: float) -> Inspection:
    found = fit(rows_of(TABLES[name](), LAWS["tanh"]), LAWS["tanh"], QUICK, Constraints(numbers))
    return inspect(found, profiled=False)


@cache
def with_prior(name: str, **numbers: tuple[float, float]) -> Inspection:
    found = fit(rows_of(TABLES[name](), LAWS["tanh"]), LAWS["tanh"], QUICK, Constraints(priors=numbers))
    return inspect(found, profiled=False)


@cache
def looked_at(name: str, law: str = "tanh", *, profiled: bool = False) -> Inspection:
    return inspect(fitted(name, law), profiled=profiled)


@cache
def contradicted() -> Inspection:
    """The additive law fitted to runs of the coupled one."""
    rows = runs(true_rho("int2", "int4"), sizes=WIDE, tokens=(2e9, 8e9, 3e10), law=replace(TRUTH, g=0.5))
    return inspect(fit(make_table(rows, "made", strict=False), LAWS["tanh"], QUICK), profiled=False)


def with_fit(law: str = "tanh", **change) -> Inspection:
    """The inspection of the good table with attributes of its fit replaced."""
    found = looked_at("good", law)
    return replace(found, fit=replace(found.fit, **change))


def moved(coordinate: str, z: float, law: str = "tanh") -> Inspection:
    """The good table's fit with one coordinate moved."""
    fit = fitted("good", law)
    return with_fit(law, z=np.where(np.array(fit.problem.names) == coordinate, z, fit.z))


def sharing(probability: float, ratio: float, runs: int | None = None) -> Inspection:
    """The good table's fit with an error shared by size, and perhaps its rows as checkpoints of some runs."""
    rows = len(fitted("good").table)
    group = np.unique(fitted("good").table.column("N"), return_inverse=True)[1]
    posterior = np.array([[0.0], [4.0]]), np.array([1 - probability, probability])
    unit = np.arange(rows) % (runs or rows)
    return with_fit(shared=SharedErrors(("size",), group[None], np.array([ratio]), *posterior, unit))


def with_delta(delta: float) -> Inspection:
    return with_fit(settings=replace(QUICK, delta=delta))


def only_profile(name: str, **change) -> Inspection:
    """The good table's fit with one profile, perhaps with attributes replaced."""
    found = looked_at("good", profiled=True)
    return replace(found, profiles={name: replace(found.profiles[name], **change)})


def shared_pull(name: str, **numbers: float) -> Inspection:
    """Fixed numbers that are contradicted together, none of which closes half of the gap."""
    found = given(name, **numbers)
    assert found.comparison is not None
    weak = tuple(replace(r, closes=0.3) for r in found.comparison.releases)
    return replace(found, comparison=replace(found.comparison, releases=weak))


@cache
def resampled(name: str, law: str) -> Inspection:
    found = fitted(name, law)
    return inspect(found, profiled=False, draws=bootstrap(found, 30))


@cache
def benched(name: str, *laws: str, cut_offs: CutOffs | None = None) -> TableBench:
    return law_bench(TABLES[name](), [LAWS[law] for law in laws or ("decoupled", "tanh")], QUICK, cut_offs=cut_offs)


def closed(name: str) -> Study:
    """A study whose profiles have both ends."""
    return replace(studied(name), inspected=only_profile("F"), free_inspected=None)


def inspected(name: str) -> tuple[Inspection, ...]:
    """Of every law of the bench that was fitted."""
    return benched(name).inspections
