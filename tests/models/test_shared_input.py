"""An input that several layers read is projected once: counted in programs, and by the results of training."""

from collections import Counter
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import dispatch
from capscale.kernels.project.norm import Normed
from jax.extend.core import jaxprs_in_params
from support import tiny
from support.cases import parametrize

from capscale.errors import UserError
from capscale.estimators import Lsq
from capscale.formats.base import Context
from capscale.formats.grids import Int
from capscale.formats.noise import Noise
from capscale.formats.scalar import Scalar
from capscale.formats.scale import Learned
from capscale.models import layers
from capscale.representation import DENSE_OPERAND, Operand, Representation, linear, operand, project_once
from capscale.train.memory import Memory
from capscale.train.step import Program, RunScalars, initial_state, train_step

MODEL = replace(tiny.MODEL, width=128, feed_forward_width=384, layers=3)  # of whole 128 lanes, as kernels need them
INT4 = operand("int4", per_token=True)
PACE = RunScalars(jnp.float32(0.02), jnp.int32(12))


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner)


def traced(run, memory):
    """Equations of a train step of `run`, as it is traced for this target."""
    program = Program.of(run, memory)
    state = jax.eval_shape(lambda: initial_state(program, jnp.int32(1)))
    window = jax.ShapeDtypeStruct((4, 17), jnp.int32)
    return list(equations(jax.make_jaxpr(lambda s, w: train_step(program, s, w, PACE))(state, window).jaxpr))


def kernels(family, memory):
    """Calls of the projection kernels in one layer of a train step whose weights are dense, forward and backward."""
    run = tiny.run(model=replace(MODEL, family=family), representation=Representation(activations=INT4, hadamard=128))
    with dispatch.target("tpu"):
        calls = [eqn for eqn in traced(run, memory) if eqn.primitive.name == "pallas_call"]
    count = Counter(eqn.params["name"] for eqn in calls)
    normed, gated = count["capscale_project_normed"], count["capscale_project_gated"]
    backward = sum(count[f"capscale_project{of}_backward"] for of in ("", "_gated", "_normed"))
    return (normed, gated), normed + gated + count["capscale_project"], backward


@parametrize("memory", [Memory(), Memory(remat=True), Memory(microbatches=2)], default=1, ids=repr)
@pytest.mark.parametrize("family", ["llama", "olmo2"])
def test_four_projections_a_layer(family, memory):
    """Input and output of attention, of the feed-forward layers; again where the backward pass computes them again.

    Inputs that were normalised, or are a gated product, are so by the kernels that project them.
    """
    normed, gated = (2, 1) if family == "llama" else (0, 0)
    times = 2 if memory.remat else 1
    assert kernels(family, memory) == ((times * normed, times * gated), 4 * times, 4)


@pytest.mark.ci
def test_the_count_sees_projections_that_are_not_shared(monkeypatch):
    def apart(x, held, *_):
        value, past = (x.value(), x.x) if isinstance(x, Normed) else (x, x)
        return layers.Inputs(dict.fromkeys(held, value), past)

    monkeypatch.setattr(layers, "shared_inputs", apart)
    assert kernels("llama", Memory()) == ((0, 1), 7, 7)
    assert kernels("olmo2", Memory()) == ((0, 0), 6, 6)


def test_gradients_past_a_norm_are_added_by_the_kernel_that_writes_that_of_the_norm(monkeypatch):
    """Of both residual connections of a layer, and within each norm; XLA adds those of shared inputs."""
    run = tiny.run(model=MODEL, representation=Representation(activations=INT4, hadamard=128))

    def sums():
        with dispatch.target("tpu"):
            added = [eqn for eqn in traced(run, Memory()) if eqn.primitive.name == "add_any"]
        return sum(eqn.outvars[0].aval.shape == (4, 16, MODEL.width) for eqn in added)

    found = sums()
    monkeypatch.setattr(layers, "projected_ahead", lambda *_: None)
    assert sums() == found + 2 * 2


@pytest.mark.parametrize(
    ("activations", "shared", "single"),
    [
        (INT4, 4, 7),
        # each layer has a step of its own
        pytest.param(Operand(Scalar(Int(4), Learned(), "matrix"), Lsq()), 7, 7, marks=pytest.mark.ci),
    ],
    ids=["int4", "learned"],
)
def test_projections_of_a_layer_without_kernels(activations, shared, single, monkeypatch):
    run = tiny.run(model=MODEL, representation=Representation(activations=activations))

    def roundings():
        return sum(eqn.primitive.name == "round" for eqn in traced(run, Memory()))

    found = roundings()
    monkeypatch.setattr(layers, "shared_input", lambda x, *_: x)
    assert found * single == roundings() * shared > 0


def test_layers_that_draw_noise_draw_their_own():
    x, ctx = jnp.ones((1, 2, 8)), Context(key=jax.random.key(0))
    assert layers.shared_input(x, Representation(activations=Operand(Noise(0.1, "row"))), jnp.float32, ctx) is x
    assert layers.shared_input(x, Representation(operand("int4")), jnp.float32, ctx) is x


def saved(run):
    """Arrays that the forward pass of the layers keeps for the backward pass, by shape and dtype."""
    scan = next(e for e in traced(run, Memory()) if e.primitive.name == "scan" and e.params["length"] == MODEL.layers)
    of_one_layer = scan.params["jaxpr"].jaxpr.outvars  # saved arrays have one axis more
    pairs = zip(scan.outvars, of_one_layer, strict=True)
    return Counter(out.aval.str_short() for out, inner in pairs if out.aval.ndim > inner.aval.ndim)


def test_what_is_projected_once_is_saved_once(monkeypatch):
    run = tiny.run(model=replace(MODEL, dtype="bfloat16"), representation=Representation(operand("int4"), INT4))
    shared = saved(run)
    monkeypatch.setattr(layers, "shared_input", lambda x, *_: x)
    difference = saved(run) - shared
    assert difference == {"bool[3,4,16,128]": 3, "bfloat16[3,4,16,128]": 3}  # k, v, up: their masks and inputs


def losses(run):
    program = Program.of(run)
    state, history = initial_state(program, jnp.int32(7)), []
    step = jax.jit(lambda state, window: train_step(program, state, window, PACE))
    for window in np.random.default_rng(5).integers(0, 96, (12, 4, 17)):
        state, metrics = step(state, jnp.asarray(window, jnp.int32))
        history.append(float(metrics["loss"]))
    return np.asarray(history), state.params


@pytest.mark.ci
@pytest.mark.parametrize(
    ("hadamard", "largest"), [pytest.param(None, 0.0, id="plain"), pytest.param(8, 1e-4, id="rotated")]
)
def test_training_is_the_same(hadamard, largest, monkeypatch):
    """Bit for bit without a rotation: a mask of booleans and a sum may be taken in either order."""
    run = tiny.run(representation=Representation(operand("int4"), INT4, hadamard))
    (once, params), _ = losses(run), monkeypatch.setattr(layers, "shared_input", lambda x, *_: x)
    singly, expected = losses(run)
    np.testing.assert_allclose(once, singly, rtol=0, atol=largest)
    if hadamard is None:
        jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("hadamard", [None, 8])
@pytest.mark.parametrize("weights", ["int4", "dense"])
def test_products_of_one_projection(weights, hadamard, dtype):
    representation = Representation(operand(weights), INT4, hadamard)
    w1, w2, x, g = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(16, 8), (16, 8), (5, 16), (5, 8)]))
    x, g = x.astype(dtype), g.astype(dtype)

    def once(x, w1, w2):
        projected = project_once(x, representation)
        return linear(projected, w1, representation), linear(projected, w2, representation)

    def singly(x, w1, w2):
        return linear(x, w1, representation), linear(x, w2, representation)

    (values, pull), (expected, pull_expected) = (jax.vjp(f, x, w1, w2) for f in (once, singly))
    jax.tree.map(np.testing.assert_array_equal, values, expected)
    (into_x, *into_w), (expected_x, *expected_w) = pull((g, g)), pull_expected((g, g))
    jax.tree.map(np.testing.assert_array_equal, into_w, expected_w)
    if hadamard is None:
        np.testing.assert_array_equal(into_x, expected_x)
    else:
        near = 2e-2 if dtype == jnp.bfloat16 else 1e-5
        np.testing.assert_allclose(np.float32(into_x), np.float32(expected_x), rtol=near, atol=near)
    assert 0 < np.mean(np.asarray(into_x) != 0) <= 1


def test_activations_of_another_representation_are_refused():
    x, w = jnp.ones((5, 16)), jnp.ones((16, 8))
    projected = project_once(x, Representation(operand("int4"), INT4, 8))
    with pytest.raises(UserError, match="were projected for"):
        linear(projected, w, Representation(operand("int4"), INT4))
    with pytest.raises(UserError, match="met another operation"):
        jnp.add(cast(Any, projected), 1)
    assert linear(project_once(x, Representation(DENSE_OPERAND, INT4)), w, Representation(DENSE_OPERAND, INT4)).shape
