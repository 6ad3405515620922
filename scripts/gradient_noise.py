"""Norm of the gradient at the end of training, and of the error that compressed gradients make of it, into a table.

    python scripts/gradient_noise.py gradients runs/gradients experiments/results/gradients.csv

Of every run of an experiment whose gradients are compressed, its last checkpoint and the last batches that it was
trained on: the root mean square over the batches of the gradient's norm, as the forward products have it with plain
backward products, and of the norm of what compression adds to it, over several draws where anything is drawn. All
parameters count. The table's rows, found by their runs, get both as columns `gradient_norm` and `gradient_noise`.
"""

import argparse
import csv
import importlib
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from capscale.checkpoints.source import read_source
from capscale.data.corpus import load_corpus
from capscale.data.source import Source as Text
from capscale.formats.base import Context
from capscale.models.ladder import ladder as find_ladder
from capscale.models.projected import project_params, values_of
from capscale.recipes import forward_only
from capscale.representation import Representation
from capscale.train.losses import loss_and_gradient
from capscale.train.run import Run
from capscale.train.step import Program

BATCHES, DRAWS = 8, 4
NORM, NOISE = "gradient_norm", "gradient_noise"


def noise_of(run: Run, params: Any, text: Text) -> tuple[float, float]:
    """Norm of the gradient of held weights, and of its error; `params` are master weights at the end of the run."""
    window_SBU = text.batches(run.model.context, run.batch, run.seed, run.steps - BATCHES, BATCHES)
    keys = jax.random.split(jax.random.key(run.seed), (BATCHES, DRAWS))
    norm, noise = _compiled(Program.of(run))(params, jnp.asarray(window_SBU, jnp.int32), keys)
    return float(np.sqrt(np.mean(np.square(norm)))), float(np.sqrt(np.mean(np.square(noise))))


@cache
def _compiled(program: Program) -> Any:
    return jax.jit(partial(_norms, program))


def _norms(program: Program, params: Any, window_SBU: jax.Array, keys_SK: jax.Array) -> tuple[jax.Array, jax.Array]:
    assert isinstance(program.representation, Representation)
    plain = Program(program.model, forward_only(program.representation), program.optimizer, program.batch)

    def gradient(program: Program, window_BU: jax.Array, key: jax.Array) -> Any:
        ctx = Context(jnp.float32(1), key)
        held = project_params(params, program.held, ctx, {})
        return values_of(loss_and_gradient(program, held, window_BU, ctx)[1])  # without weights that get no gradient

    def of_batch(batch: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        window_BU, keys_K = batch
        exact = gradient(plain, window_BU, keys_K[0])

        def error(key: jax.Array) -> jax.Array:
            return optax.tree.norm(optax.tree.sub(gradient(program, window_BU, key), exact))

        return optax.tree.norm(exact), jax.lax.map(error, keys_K)

    return jax.lax.map(of_batch, (window_SBU, keys_SK))


def main() -> None:
    """Adds both columns to a table, in place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="whose runs they are")
    parser.add_argument("sweep", type=Path, help="directory of `capscale sweep --out`")
    parser.add_argument("table", type=Path, help="CSV of its rows, by scripts/collect_rows.py")
    parser.add_argument("--ladder", default="nano", help="that it was trained on")
    parser.add_argument("--text", help="file that it was trained on; the Python library's prose if not given")
    arguments = parser.parse_args()
    text = load_corpus(arguments.text)
    planned = importlib.import_module(f"capscale.experiments.{arguments.experiment}").runs
    runs = {run.run_id: run for run in planned(find_ladder(arguments.ladder), text.id)}
    with arguments.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        run = runs[row["run"]]
        if isinstance(run.representation, Representation) and not run.representation.gradients.is_dense:
            found = noise_of(run, read_source(arguments.sweep / "runs" / run.run_id).params, text)
            row[NORM], row[NOISE] = (f"{each:.6g}" for each in found)
    columns = list(dict.fromkeys([*rows[0], NORM, NOISE]))
    with arguments.table.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    told = np.array([float(row[NORM]) / float(row[NOISE]) for row in rows if row.get(NORM)])
    print(f"{len(told)} of {len(rows)} rows; norm over noise {told.min():.3g} to {told.max():.3g}")


if __name__ == "__main__":
    main()
