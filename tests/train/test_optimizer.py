"""The learning rate against its formula, and what weight decay acts on."""

import math

import jax
import jax.numpy as jnp
import pytest
from support import tiny

from capscale.train.optimizer import decayed, gradient_transform, rate_at
from capscale.train.run import Optimizer
from capscale.train.step import Program, initial_state


def rate(optimizer, progress):
    """Linear from 0 to 1 over the warm-up, then down to `final` along a half cosine or a line."""
    if progress < optimizer.warmup:
        return progress / optimizer.warmup
    t = (progress - optimizer.warmup) / (1 - optimizer.warmup)
    fall = (1 - math.cos(math.pi * t)) / 2 if optimizer.decay == "cosine" else t
    return 1 - fall * (1 - optimizer.final)


@pytest.mark.parametrize("decay", ["cosine", "linear"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_rate_is_the_formula(decay, warmup, final):
    optimizer = Optimizer(1.0, decay=decay, warmup=warmup, final=final)
    edges = {0.0, 1e-6, warmup, math.nextafter(warmup, 0) if warmup else 0.0, 0.25, 0.5, 0.75, 1.0}
    for progress in edges:
        assert float(rate_at(optimizer, jnp.float32(progress))) == pytest.approx(rate(optimizer, progress), abs=2e-6)


def test_first_and_last_step_learn():
    """Progress is the middle of a step, so that no step is wasted at a rate of zero."""
    steps = 10
    rates = [float(rate_at(Optimizer(1.0), jnp.float32((step + 0.5) / steps))) for step in range(steps)]
    assert rates[0] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.02


@pytest.mark.parametrize("eps", [1e-8, 0.5])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_directions_are_the_algorithm(amsgrad, eps):
    """Gradients that shrink: AMSGrad goes on dividing by the largest second moment so far, Adam forgets it."""
    optimizer = Optimizer(1.0, weight_decay=0.0, clip=1e9, amsgrad=amsgrad, eps=eps)
    transform = gradient_transform(optimizer)
    state, m, v, largest = transform.init({"kernel": jnp.zeros(())}), 0.0, 0.0, 0.0
    for step, g in enumerate([4.0, 2.0, 1.0, 0.5, -0.25, 0.1, 0.1, 0.1], start=1):
        with jax.numpy_dtype_promotion("standard"):
            direction, state = transform.update({"kernel": jnp.float32(g)}, state, {"kernel": jnp.zeros(())})
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        unbiased = v / (1 - 0.95**step)
        largest = max(largest, unbiased) if amsgrad else unbiased
        expected = m / (1 - 0.9**step) / (math.sqrt(largest) + eps)
        assert float(direction["kernel"]) == pytest.approx(expected, rel=1e-5)


def test_matrices_are_decayed_and_gains_are_not():
    shapes = jax.eval_shape(lambda: initial_state(Program.of(tiny.run()), jnp.int32(0))).params
    marked = {
        "/".join(key.key for key in path): on for path, on in jax.tree_util.tree_leaves_with_path(decayed(shapes))
    }
    assert {path.rsplit("/", 1)[-1] for path, on in marked.items() if on} == {"kernel", "embedding"}
    assert {path.rsplit("/", 1)[-1] for path, on in marked.items() if not on} == {"gain"}
