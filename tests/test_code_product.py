"""Layers that multiply codes: values, gradients, programs, and what they refuse."""

from collections import Counter
from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import dispatch, products
from capscale.kernels.config import PRODUCTS
from jax.extend.core import jaxprs_in_params
from support import tiny
from support.cases import parametrize

from capscale.errors import UserError
from capscale.formats.base import NO_CONTEXT
from capscale.formats.floats import E4M3
from capscale.formats.grids import Int
from capscale.formats.scalar import Scalar
from capscale.gradients import BackwardProduct, Gradients
from capscale.policy_names import find_policy
from capscale.representation import (
    Operand,
    ProjectedActivations,
    ProjectedWeight,
    Representation,
    linear,
    operand,
    project,
    project_activations,
    project_once,
    project_weights,
    rotated,
)
from capscale.train.memory import AT_ONCE, Memory
from capscale.train.sharding import batch_sharding, make_mesh, replicated, state_sharding
from capscale.train.step import Program, RunScalars, evaluate_chunk, initial_state, train_chunk, train_step

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((2, 8, 96)), jnp.float32)
W = jnp.asarray(RNG.standard_normal((96, 24)), jnp.float32)
G = jnp.asarray(RNG.standard_normal((2, 8, 24)), jnp.float32)
INT4 = operand("int4", per_token=True)
INT8_GRADIENTS = Gradients(BackwardProduct(Scalar(Int(8)), Scalar(Int(8))), BackwardProduct(Scalar(Int(8))))
HELD = {
    "int4": Representation(operand("int4"), INT4),
    "int4 rotated, signs": Representation(operand("int4"), INT4, hadamard=32, signs=7),
    "int8": Representation(operand("int8"), operand("int8", per_token=True), hadamard=32),
    "one scale a matrix": Representation(operand("ternary-mean"), operand("absmax-int8", per_token=True)),
    "float8": Representation(operand("int4"), Operand(Scalar(E4M3))),
    "gradients": Representation(operand("int4"), INT4, gradients=INT8_GRADIENTS),
}


def both(function):
    """Results of a function where codes are multiplied, and where values are."""
    found = []
    for mode in ("codes", "values"):
        with products.force(mode):
            found.append(function())
    return found


CASES = [(name, dtype) for name in HELD for dtype in ("float32", "bfloat16")]


@parametrize(("name", "dtype"), CASES, default=[("int4 rotated, signs", "bfloat16"), ("int8", "float32")])
def test_the_product_is_that_of_the_values(name, dtype):
    """Against float64 products of the values; and the gradients of values, bit for bit.

    Values are levels times scales rounded to float32, codes are multiplied unrounded, and int8 sums are exact: two
    roundings of factors, two of scales and one of the sum. Float8 and values sum in float32, one rounding a term, and
    values in bfloat16 are rounded to 8 bits before.
    """
    x, g, held = X.astype(dtype), G.astype(dtype), HELD[name]
    codes, values = both(lambda: jax.vjp(lambda x, w: linear(x, w, held), x, W))
    rows = rotated(x, held).astype(jnp.float32)  # turned in the dtype of x
    full = np.asarray(project(held.activations, rows, NO_CONTEXT), np.float64)
    w64 = np.asarray(project_weights(W, held), np.float64)
    exact, size = full @ w64, np.abs(full) @ np.abs(w64)
    unit, stored = 2.0**-24, 2.0**-8 if dtype == "bfloat16" else 0.0
    summed = 96 * unit if name == "float8" else 0.0
    bound = (4 + summed / unit) * unit * size + (unit + stored) * np.abs(exact)
    np.testing.assert_array_less(np.abs(np.asarray(codes[0], np.float64) - exact), bound)
    looser = bound + (100 * unit + 2 * stored) * size
    np.testing.assert_array_less(np.abs(np.asarray(values[0], np.float64) - exact), looser)
    jax.tree.map(np.testing.assert_array_equal, codes[1](g), values[1](g))
    assert codes[0].dtype == values[0].dtype == x.dtype


@pytest.mark.ci
def test_integers_are_summed_where_float32_rounds():
    """Of 4096 inputs the product of values has lost bits of the exact sum, that of codes none but in the last place."""
    x, w = (jnp.asarray(RNG.standard_normal(shape), jnp.float32) for shape in ((4, 4096), (4096, 8)))
    held = HELD["int8"]
    codes, values = both(lambda: np.asarray(linear(x, w, held), np.float64))
    factors = (np.asarray(project_activations(x, held), np.float64), np.asarray(project_weights(w, held), np.float64))
    exact = factors[0] @ factors[1]
    assert np.abs(codes - exact).max() < np.abs(values - exact).max() / 4


@pytest.mark.ci
def test_rows_of_zeros_and_rows_that_are_not_finite():
    x = X.at[0, 0].set(0).at[0, 1, 3].set(jnp.nan).at[0, 2, 5].set(jnp.inf)
    codes, values = both(lambda: linear(x, W.at[:, 1].set(0), HELD["int4"]))
    np.testing.assert_array_equal(np.isnan(codes), np.isnan(values))
    np.testing.assert_array_equal(codes[0, 0], 0)
    np.testing.assert_array_equal(codes[1, :, 1], 0)
    assert np.isnan(codes[0, 1:3]).all()


def test_operands_that_were_projected_ahead_bring_their_codes():
    held = HELD["int4 rotated, signs"]
    with products.force("codes"):
        expected = linear(X, W, held)
        once = project_once(X, held)
        np.testing.assert_array_equal(linear(once, W, held), expected)
        with pytest.raises(UserError, match=r"the weights were projected without.*codes_of_weights"):
            linear(X, ProjectedWeight(project_weights(W, held)), held)
        with pytest.raises(UserError, match=r"the activations were projected without.*project_once"):
            linear(ProjectedActivations(once.value, held), W, held)


REFUSED = {
    "groups of 32 inputs share a scale": Representation(operand("int4-g32"), INT4),
    "weights=lloyd4 x int4|levels of both are neither": Representation(operand("lloyd4"), INT4),
    "activations=higgs-d2-n16: ": Representation(operand("int4"), operand("higgs-d2-n16", per_token=True)),
    "weights=2:4.int4: ": Representation(operand("2:4+int4"), INT4),
    "weights=lsq4: learned scales are multiplied as values": Representation(operand("lsq4"), INT4),
}


@pytest.mark.parametrize(("told", "held"), REFUSED.items(), ids=REFUSED)
def test_formats_without_codes_are_refused_by_name_or_multiplied_as_values(told, held, monkeypatch):
    w = W
    monkeypatch.setenv(PRODUCTS, "codes")
    with pytest.raises(UserError, match=told) as refused:
        linear(X, w, held)
    assert "use CAPSCALE_PRODUCTS=auto" in str(refused.value)
    monkeypatch.setenv(PRODUCTS, "most")
    with pytest.raises(UserError, match="CAPSCALE_PRODUCTS='most'"):
        linear(X, w, held)
    if "lsq4" not in told:
        with products.force("auto"):
            assert jax.make_jaxpr(lambda x, w: linear(x, w, held))(X, w) is not None


def test_values_are_multiplied_where_an_operand_is_dense_and_where_nothing_was_found_faster():
    cases: list[tuple[Representation, products.Products]] = [
        (Representation(operand("int4")), "codes"),
        (HELD["int4"], "auto"),
    ]
    for held, mode in cases:
        with products.force("values"):
            plain = str(jax.make_jaxpr(lambda x, w, held=held: linear(x, w, held))(X, W))
        with products.force(mode):
            assert str(jax.make_jaxpr(lambda x, w, held=held: linear(x, w, held))(X, W)) == plain


RUN = tiny.run(batch=8, model=replace(tiny.MODEL, layers=3), representation=replace(HELD["int4"], hadamard=8))
PACE = RunScalars(jnp.float32(0.02), jnp.int32(12))
WINDOW_SBU = jnp.asarray(RNG.integers(0, 96, (1, 8, 17)), jnp.int32)


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner)


def multiplied(run, memory=AT_ONCE) -> Counter:
    """Products of a train step by the dtypes that they multiply and sum in."""
    program = Program.of(run, memory)
    state = jax.eval_shape(lambda: initial_state(program, jnp.int32(1)))
    with products.force("codes"):
        traced = jax.make_jaxpr(lambda s, w: train_step(program, s, w, PACE))(state, WINDOW_SBU[0])
    dots = [eqn for eqn in equations(traced.jaxpr) if eqn.primitive.name == "dot_general"]
    return Counter((eqn.invars[0].aval.dtype.name, eqn.outvars[0].aval.dtype.name) for eqn in dots)


@pytest.mark.ci
def test_inputs_are_put_in_codes_once_for_the_layers_that_read_them():
    """By the four kernels of a layer that project them for its seven products; weights have seven that encode."""
    held = Representation(operand("int4"), INT4, hadamard=128)
    run = tiny.run(model=replace(tiny.MODEL, width=128, feed_forward_width=384, layers=3), representation=held)
    program = Program.of(run)
    state = jax.eval_shape(lambda: initial_state(program, jnp.int32(1)))
    window = jax.ShapeDtypeStruct((4, 17), jnp.int32)
    with dispatch.target("tpu"), products.force("codes"):
        traced = jax.make_jaxpr(lambda s, w: train_step(program, s, w, PACE))(state, window)
    calls = Counter(eqn.params["name"] for eqn in equations(traced.jaxpr) if eqn.primitive.name == "pallas_call")
    of_inputs = tuple(calls[f"capscale_project{ahead}_coded"] for ahead in ("_normed", "_gated", ""))
    assert (*of_inputs, calls["capscale_encode"]) == (2, 1, 1, 7)


@pytest.mark.ci
def test_every_layer_of_a_step_multiplies_codes_once_forward():
    """Seven products of the body of the scan; and again all but the last where the backward pass does so once more."""
    assert multiplied(RUN)["int8", "int32"] == 7
    assert multiplied(RUN, Memory(remat=True))["int8", "int32"] == 13


@pytest.mark.ci
def test_layers_that_differ_multiply_what_they_hold():
    policy = find_policy(["layers/0/.*=dense", "layers/1/.*=int4 x int8 hadamard 8", ".*=int4 x int4 hadamard 8"])
    assert multiplied(replace(RUN, representation=policy), Memory(microbatches=2))["int8", "int32"] == 14
    mixed = find_policy(["layers/0/.*=int4 x e4m3", "layers/.*=int4 x int4"])
    with pytest.raises(UserError, match=r"its layers would be multiplied in float8_e4m3fn and int8 codes"):
        multiplied(replace(RUN, representation=mixed))


@cache
def after(fsdp, memory, mode) -> Any:
    """Parameters after a step on two devices."""
    program, mesh = Program.of(RUN, memory, 2), make_mesh(fsdp)
    shapes = jax.eval_shape(lambda: initial_state(program, jnp.int32(1)))
    shardings = (state_sharding(mesh, shapes), batch_sharding(mesh, 1), replicated(mesh), replicated(mesh))
    state = jax.jit(lambda: initial_state(program, jnp.int32(1)))()
    inputs = jax.device_put((state, WINDOW_SBU, jnp.int32(1), PACE), shardings)
    with jax.set_mesh(mesh), products.force(mode):
        compiled = jax.jit(partial(train_chunk, program), in_shardings=shardings).lower(*inputs).compile()
    assert ("s8[" in str(compiled.as_text())) == (mode == "codes")
    return jax.tree.map(np.asarray, compiled(*inputs)[0].params)


@pytest.mark.parametrize(
    "gather",
    [
        pytest.param("codes", marks=pytest.mark.ci),
        pytest.param("layer", marks=pytest.mark.slow),
        pytest.param("step", marks=pytest.mark.slow),
    ],
)
def test_devices_that_share_weights_multiply_as_those_that_have_them(gather):
    """However weights are sent, and in micro-batches: as near as sums of gradients are."""
    found, alone = (after(fsdp, Memory(microbatches=2, gather=gather), "codes") for fsdp in (2, 1))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, alone)


@pytest.mark.slow
def test_an_evaluation_by_codes_is_that_by_values():
    """But for what float32 rounds; where each layer is computed anew as well."""
    program, mesh = Program.of(RUN, Memory(True, 2), 2), make_mesh(2)
    shapes = jax.eval_shape(lambda: initial_state(program, jnp.int32(1)))
    shardings = state_sharding(mesh, shapes), batch_sharding(mesh, 1)
    state = jax.jit(lambda: initial_state(program, jnp.int32(1)))()
    inputs = jax.device_put((state, WINDOW_SBU), shardings)
    with jax.set_mesh(mesh):
        evaluate = jax.jit(partial(evaluate_chunk, program), in_shardings=shardings)
        codes, values = both(lambda: np.asarray(evaluate(*inputs)))
    np.testing.assert_allclose(codes, values, rtol=1e-5)
