"""Runs drawn from a known law, and sweep directories made of them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from capscale.analysis.operands import gaussian_error
from capscale.capacity import TANH, Capacity, Scaling

TRUTH = Scaling(A=406.4, alpha=0.34, B=410.7, beta=0.28, E=1.69)  # Hoffmann et al. 2022, arXiv 2203.15556
RHO = Capacity(TANH, (("F", 0.41), ("C", 1.39)))  # arXiv 2506.01863, table 3, Llama
NANO = Scaling(A=12.0, alpha=0.22, B=0.0, beta=1.0, E=0.4)
FORMATS = ("dense", "int1", "int2", "int3", "int4", "int8")
SIZES = (2912, 5152, 11_584, 20_544)


def rho_of(name: str, capacity: Capacity = RHO) -> float:
    return 1.0 if name == "dense" else float(capacity.rho(gaussian_error(name)))


def well_spread(rows: int, noise: float, seed: int, formats: tuple[str, ...] = FORMATS) -> pd.DataFrame:
    """N over two decades, D/N from 10 to 800."""
    random = np.random.default_rng(seed)
    N = np.exp(random.uniform(np.log(1e7), np.log(1e9), rows)).round()
    D = (N * np.exp(random.uniform(np.log(10), np.log(800), rows))).round()
    return frame_of(N, D, [formats[i % len(formats)] for i in range(rows)], noise, random)


def frame_of(N: np.ndarray, D: np.ndarray, names: list[str], noise: float, random: np.random.Generator) -> pd.DataFrame:
    rho = np.array([rho_of(n) for n in names])
    loss = TRUTH.loss(N, D, rho) + random.normal(0, noise, len(N))
    return pd.DataFrame({"N": N, "D": D, "loss": loss, "weights": names, "activations": "dense"})


def write_sweep(directory: Path, *, noise: float = 0.004, missing: int = 0, diverged: int = 0, seed: int = 0) -> Path:
    """A nano sweep as the sweep command leaves it: fixed D, nine formats, four sizes, a smaller dense anchor."""
    random = np.random.default_rng(seed)
    formats = [("dense", "straight-through", 1.0), ("top50", "fw", 0.7)]
    formats += [(n, "trust", rho_of(n)) for n in ("int8", "int4", "int2")] + [("int1", "clip 1.3", rho_of("int1"))]
    formats += [(n, "b-rms 0.1", rho_of(n)) for n in ("top50", "2:4", "top75")]
    plan = [(n, "dense", "straight-through", 1.0) for n in (464, 1280)] + [(n, *f) for n in SIZES for f in formats]
    ids, kept = [], len(plan) - missing
    for k, (N, name, estimator, rho) in enumerate(plan):
        run_id = f"nano-{N}-{name.replace(':', '')}-{estimator.split()[0]}-{k:04x}"
        ids.append(run_id)
        if k >= kept:
            continue
        bad = k >= kept - diverged
        row = {
            "N": N,
            "D": 2_048_000,
            "loss": None if bad else float(NANO.loss(N, 2_048_000, rho) + random.normal(0, noise)),
            "loss_se": None if bad else 0.01,
            "bits_per_byte": None,
            "weights": name,
            "activations": "dense",
            "weights_estimator": estimator,
            "activations_estimator": "straight-through",
            "hadamard": 128 if name.startswith("int") else None,
            "family": "llama",
            "weights_gmse": 0.0 if name == "dense" else gaussian_error(name),
            "activations_gmse": 0.0,
            "seed": 0,
            "model": f"nano-{N}",
            "width": 8,
            "learning_rate": 0.01,
            "steps": 4000,
        }
        result = {"schema": 1, "run_id": run_id, "status": "diverged" if bad else "ok", "row": row, "run": {}}
        result |= {"timing": {"wall_s": 5.0, "tokens_per_s": 4e5}, "versions": {"jax": "0"}}
        file = directory / "runs" / run_id / "result.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(result))
    sweep = {"schema": 1, "experiment": "capacity_demo", "ladder": "nano", "runs": ids}
    sweep |= {"data": {"name": "stdlib", "sha256": "ab" * 32, "vocabulary": 96}}
    sweep |= {"command": "capscale sweep capacity_demo --ladder nano --out DIR", "versions": {"jax": "0"}}
    (directory / "sweep.json").write_text(json.dumps(sweep))
    return directory


def runs(
    rho: dict[str, float],
    *,
    sizes: tuple[float, ...] = SIZES,
    tokens: tuple[float, ...] = (2_048_000.0,),
    noise: float = 0.003,
    law: Scaling = NANO,
    **columns: object,
) -> list[dict[str, object]]:
    """Records of dense runs, with smaller anchors, and of formats of given rho: "w", "w x a" or "w [estimator]"."""
    random = np.random.default_rng(0)
    found: list[dict[str, object]] = []
    for name, capacity in {"dense": 1.0, **rho}.items():
        format_name, _, estimator = name.removesuffix("]").partition(" [")
        weights, _, activations = format_name.partition(" x ")
        mine = (464.0, 1280.0, *sizes) if name == "dense" and sizes == SIZES else sizes
        for N in mine:
            for D in tokens:
                loss = float(law.loss(N, D, capacity)) + random.normal(0, noise)
                row = {"N": N, "D": D, "loss": loss, "weights": weights, "activations": activations or "dense"}
                found.append({**row, "weights_estimator": estimator, "run": f"{name} {N:g} {D:g}", **columns})
    return found
