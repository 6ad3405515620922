"""One train step against the same step written in numpy, and against numbers written down once."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import tiny

from capscale.formats.base import Context
from capscale.models.decoder import Decoder
from capscale.representation import DENSE, Representation, operand, project_weights
from capscale.train.optimizer import rate_at
from capscale.train.run import Optimizer
from capscale.train.step import Program, RunScalars, evaluate_chunk, initial_state, train_step

# Loss before the update and gradient norm of steps 1, 2 and 20 of the runs below; jax 0.10 and 0.12 agree to 1e-6.
# An int4 weight on the edge between two levels may fall to either side on another CPU.
GOLDEN = {
    "dense": [(4.5759468, 0.53435713), (4.5642629, 0.57793385), (3.0860727, 0.67741878)],
    "int4": [(4.5757060, 0.53321254), (4.5621615, 0.57513434), (3.1052375, 0.63169605)],
}
TOLERANCE = {"dense": 2e-5, "int4": 5e-4}


def windows(steps):
    """Deterministic sequences with something to learn: s, s + k, s + 2k, ..."""
    rng = np.random.default_rng(5)
    first, stride = rng.integers(0, 96, (steps, 4, 1)), rng.integers(1, 4, (steps, 4, 1))
    return jnp.asarray((first + stride * np.arange(17)) % 96, jnp.int32)


@cache
def compiled(run):
    return jax.jit(lambda state, window, scalars: train_step(Program.of(run), state, window, scalars))


@pytest.mark.parametrize("name", [pytest.param("dense", marks=pytest.mark.slow), "int4"])
def test_step(name):
    """Golden numbers and the numpy step, on one compilation."""
    run = tiny.dense_run() if name == "dense" else tiny.run()
    program, step = Program.of(run), compiled(run)
    scalars = RunScalars(jnp.float32(0.05), jnp.int32(20))
    state, history = initial_state(program, jnp.int32(7)), []
    for number, window in enumerate(windows(20)):
        before = state
        state, metrics = step(state, window, scalars)
        history.append([float(metrics["loss"]), float(metrics["grad_norm"])])
        if number == 3:
            check_against_numpy(run, before, state, window, scalars)
    assert int(state.step) == 20
    assert int(state.diverged_at) == 0
    np.testing.assert_allclose([history[number] for number in (0, 1, 19)], GOLDEN[name], rtol=TOLERANCE[name])
    assert history[19][0] < history[0][0] - 0.5, "it learns"


def check_against_numpy(run, before, after, window, scalars):
    """Loss and gradient through weights projected leaf by leaf; clipping, AdamW and the rate in float64."""
    optimizer = run.optimizer

    def loss(params):
        def hold(path, leaf):
            return project_weights(leaf, run.representation) if path[-1].key == "kernel" else leaf

        held = jax.tree_util.tree_map_with_path(hold, params)
        logits = Decoder(run.model, DENSE).apply({"params": held}, window[:, :-1], Context(jnp.float32(0)))
        return optax.softmax_cross_entropy_with_integer_labels(logits, window[:, 1:]).mean()

    gradient = jax.tree.map(np.float64, jax.jit(jax.grad(loss))(before.params))
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradient)))
    gradient = jax.tree.map(lambda leaf: leaf * min(1.0, optimizer.clip / norm), gradient)
    step = int(before.step)
    rate = float(scalars.learning_rate * rate_at(optimizer, jnp.float32((step + 0.5) / 20)))
    adam = next(part for part in before.moments if isinstance(part, optax.ScaleByAdamState))

    def update(path, leaf, g, m, v):
        leaf, m, v = (np.float64(each) for each in (leaf, m, v))
        m = optimizer.b1 * m + (1 - optimizer.b1) * g
        v = optimizer.b2 * v + (1 - optimizer.b2) * g**2
        direction = m / (1 - optimizer.b1 ** (step + 1)) / (np.sqrt(v / (1 - optimizer.b2 ** (step + 1))) + 1e-8)
        decay = 0.0 if path[-1].key == "gain" else optimizer.weight_decay
        return leaf - rate * (direction + decay * leaf)

    expected = jax.tree_util.tree_map_with_path(update, before.params, gradient, adam.mu, adam.nu)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), after.params, expected)


def test_first_not_finite_loss_is_remembered():
    run = tiny.dense_run()
    program, step = Program.of(run), compiled(run)
    state = initial_state(program, jnp.int32(0))
    poisoned = state._replace(params=state.params | {"embedding": state.params["embedding"] * jnp.nan})
    scalars = RunScalars(jnp.float32(0.05), jnp.int32(20))
    for _ in range(2):
        poisoned, metrics = step(poisoned, windows(1)[0], scalars)
        assert not np.isfinite(metrics["loss"])
        assert int(poisoned.diverged_at) == 1


@pytest.mark.ci
def test_validation_is_under_the_formats_of_the_end_of_training():
    """A gradual format ends as the constant one of its sparsity, and is none at the beginning."""
    state = initial_state(Program.of(tiny.dense_run()), jnp.int32(0))
    large = jax.tree.map(lambda leaf: 8 * leaf if leaf.ndim > 1 else leaf, state.params)
    losses = {
        name: evaluate_chunk(
            Program.of(tiny.run(representation=Representation(weights=operand(name)))),
            state._replace(params=large),
            windows(2),
        )
        for name in ("gmp75", "top75", "dense")
    }
    assert losses["top75"].shape == (2, 4)
    np.testing.assert_allclose(losses["gmp75"], losses["top75"], rtol=1e-6)
    assert np.abs(losses["dense"] - losses["top75"]).max() > 0.01


def test_program_leaves_out_what_is_data():
    """Seeds, rates and lengths share a compilation; nothing else does."""
    program = Program.of(tiny.run())
    same = [tiny.run(seed=1), tiny.run(optimizer=Optimizer(0.7)), tiny.run(tokens=64 * 100)]
    assert {Program.of(run) for run in same} == {program}
    others = [tiny.run(batch=2), tiny.dense_run(), tiny.run(optimizer=Optimizer(0.02, b2=0.9))]
    assert program not in {Program.of(run) for run in others}
