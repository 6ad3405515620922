"""How fast the fitter is, against scipy's L-BFGS-B at equal objective, in one run.

    python scripts/bench_fit.py          5-parameter dense law on 240 rows, 7-parameter tanh law on 60 rows
    python scripts/bench_fit.py --json

A full fit is 64 starts and 1,000 bootstrap refits, compilation included. scipy refits a sample of the same resamples
from the same starting point with exact gradients, restarted until it gains less than 1e-9; its time is scaled to
1,000.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
from about import about
from scipy.optimize import minimize

from capscale.analysis.fit import Fit, fit
from capscale.analysis.laws import LAWS
from capscale.analysis.table import Table, make_table
from capscale.analysis.uncertainty import bootstrap
from capscale.capacity import TANH, Capacity, Scaling

TRUTH = Scaling(A=406.4, alpha=0.34, B=410.7, beta=0.28, E=1.69)  # Hoffmann et al. 2022, arXiv 2203.15556
RHO = Capacity(TANH, (("F", 0.41), ("C", 1.39)))  # arXiv 2506.01863, table 3
GMSE = {"dense": 0.0, "int1": 0.36338, "int2": 0.118846, "int3": 0.0374397, "int4": 0.0115429, "int8": 8.76862e-5}
NOISE = 0.003  # nats


def table(names: tuple[str, ...], rows: int) -> Table:
    """Runs drawn from a known law: N over two decades, D/N from 10 to 800."""
    random = np.random.default_rng(0)
    N = np.exp(random.uniform(np.log(1e7), np.log(1e9), rows))
    D = N * np.exp(random.uniform(np.log(10), np.log(800), rows))
    weights = [names[i % len(names)] for i in range(rows)]
    rho = np.array([1.0 if w == "dense" else float(RHO.rho(GMSE[w])) for w in weights])
    loss = TRUTH.loss(N, D, rho) + random.normal(0, NOISE, rows)
    keys = ("N", "D", "loss", "weights", "activations", "weights_gmse")
    values = zip(N, D, loss, weights, ["dense"] * rows, [GMSE[w] for w in weights], strict=True)
    return make_table([dict(zip(keys, v, strict=True)) for v in values], "synthetic")


def scipy_refits(found: Fit, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Objectives of scipy's refits, and seconds, with the gradient written out in numpy."""
    problem, delta = found.problem, found.settings.delta
    a = problem.arrays
    compressed, bits = a.present[:, 0], a.factor.effective_bits[:, 0]

    def call(z: np.ndarray, weight: np.ndarray) -> tuple[float, np.ndarray]:
        log_rho, slopes = 0.0, []
        if len(z) == 7:
            t = np.tanh(z[5] * bits)
            log_rho = np.where(compressed, z[6] * np.log(t), 0.0)
            slopes = [np.where(compressed, z[6] * bits * (1 - t * t) / t, 0.0), np.where(compressed, np.log(t), 0.0)]
        size, data = np.exp(z[0] - z[2] * (a.log_n + log_rho)), np.exp(z[1] - z[3] * a.log_d)
        r = size + data + z[4] - problem.loss
        J = [size, data, -size * (a.log_n + log_rho), -data * a.log_d, np.ones_like(r)]
        J += [-z[2] * size * s for s in slopes]
        far = np.abs(r) > delta
        value = np.sum(weight * np.where(far, delta * (np.abs(r) - delta / 2), r * r / 2))
        # L-BFGS-B's own tests of convergence are absolute: scaled, so that they bind late.
        return 1e4 * float(value), 1e4 * (np.stack(J) @ (weight * np.clip(r, -delta, delta)))

    bounds = list(zip(found.lower, found.upper, strict=True))
    options = {"maxiter": 5000, "maxfun": 50_000, "ftol": 1e-15, "gtol": 1e-10}
    objectives, start = [], time.perf_counter()
    for weight in weights:
        z, best = found.z, np.inf
        for _ in range(20):
            result = minimize(call, z, (weight,), "L-BFGS-B", jac=True, bounds=bounds, options=options)
            z, improved, best = result.x, best - result.fun > 1e-9 * result.fun, min(best, result.fun)
            if not improved:
                break
        objectives.append(best / 1e4)
    return np.array(objectives), time.perf_counter() - start


def measure(law: str, rows: Table, sample: int) -> dict[str, Any]:
    """Times of one law."""
    start = time.perf_counter()
    found = fit(rows, LAWS[law])
    fitted = time.perf_counter() - start
    start = time.perf_counter()
    draws = bootstrap(found, 1000)
    refitted = time.perf_counter() - start
    weights = np.random.default_rng(found.settings.seed).exponential(size=(1000, len(rows)))
    theirs, seconds = scipy_refits(found, weights[:sample])
    return {
        "law": law,
        "numbers": int(found.free.sum()),
        "rows": len(rows),
        "fit_s": fitted,
        "starts_agreeing": found.agreeing,
        "refits_s": refitted,
        "converged": float(draws.converged.mean()),
        "scipy_refits_s": seconds / sample * 1000,
        "speedup_over_scipy": seconds / sample * 1000 / refitted,
        "objective_minus_scipy": float((draws.objective[:sample] - theirs).max()),
    }


def show(r: dict[str, Any], sample: int) -> None:
    """Prints the measured fits."""
    print(f"{r['law']} law: {r['numbers']} numbers, {r['rows']} rows")
    print(f"  64 starts, compilation included   {r['fit_s']:7.2f} s ({r['starts_agreeing']} in the best optimum)")
    print(f"  1,000 bootstrap refits            {r['refits_s']:7.2f} s ({r['converged']:.1%} converged)")
    print(
        f"  scipy L-BFGS-B, 1,000 refits      {r['scipy_refits_s']:7.2f} s, scaled from {sample}: "
        f"{r['speedup_over_scipy']:.0f} times as long"
    )
    print(f"  objective minus scipy's           {r['objective_minus_scipy']:+.1e} at worst")


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=60, help="resamples that scipy refits")
    parser.add_argument("--json", action="store_true")
    arguments, begun = parser.parse_args(), about("jax", "scipy")
    tables = {"dense": table(("dense",), 240), "tanh": table(tuple(GMSE), 60)}
    found = [measure(law, rows, arguments.sample) for law, rows in tables.items()]
    if arguments.json:
        print(json.dumps({**begun, "laws": found}, indent=1))
        return
    for one in found:
        show(one, arguments.sample)


if __name__ == "__main__":
    main()
