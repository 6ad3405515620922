"""Recomputation and micro-batches: the same gradient to rounding, with the weights projected once."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params
from support import tiny
from support.hlo import depths_of_sums_over_devices

from capscale.errors import UserError
from capscale.estimators import Lsq
from capscale.formats import Int, Learned, Scalar
from capscale.formats.base import Context
from capscale.formats.noise import Noise
from capscale.models import loss
from capscale.models.initial import initial_params
from capscale.models.projected import project_params
from capscale.representation import Operand, Representation, operand
from capscale.train.losses import loss_and_gradient, token_losses
from capscale.train.memory import Memory
from capscale.train.sharding import batch_sharding, make_mesh, replicated, state_sharding
from capscale.train.step import (
    Program,
    RunScalars,
    evaluate_chunk,
    initial_state,
    train_chunk,
    train_step,
)

RUN = tiny.run(
    model=replace(tiny.MODEL, tied_embeddings=False, init_std=0.3), representation=Representation(operand("int2"))
)
CTX = Context(jnp.float32(0), None)
PACE = RunScalars(jnp.float32(0.05), jnp.int32(20))
WINDOW_BU = jnp.asarray(np.random.default_rng(0).integers(0, 96, (4, 17)), jnp.int32)
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def loss_and_masters_gradient(program, params):
    held, vjp_to_master = jax.vjp(lambda p: project_params(p, program.representation, CTX), params)
    mean, gradient = loss_and_gradient(program, held, WINDOW_BU, CTX)
    return mean, vjp_to_master(gradient)[0]


@cache
def params():
    return jax.jit(lambda key: initial_params(RUN.model, RUN.representation, key))(jax.random.key(1))


def compute(memory):
    program = Program.of(RUN, memory)
    return jax.jit(lambda p: loss_and_masters_gradient(program, p), compiler_options=QUICK)(params())


@cache
def at_once():
    return compute(Memory())


def check_same(found):
    (mean, gradient), (expected_mean, expected) = found, at_once()
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), gradient, expected)


@pytest.mark.parametrize("fsdp", [pytest.param(1, marks=pytest.mark.ci), pytest.param(2, marks=pytest.mark.slow)])
def test_evaluation_is_the_same_to_rounding(fsdp):
    """In micro-batches, on two devices: every window keeps its place."""
    state = jax.jit(lambda: initial_state(Program.of(RUN), jnp.int32(1)))()
    windows = jnp.stack([WINDOW_BU, WINDOW_BU[::-1]])

    def evaluate(memory, devices=1):
        program = Program.of(RUN, memory, devices)
        return jax.jit(lambda state, windows: evaluate_chunk(program, state, windows), compiler_options=QUICK)

    expected = evaluate(Memory())(state, windows)
    assert len(set(np.asarray(expected[0]).tolist())) == 4
    mesh = make_mesh(fsdp)
    split = jax.device_put(windows, batch_sharding(mesh, 1)), jax.device_put(state, state_sharding(mesh, state))
    with jax.set_mesh(mesh):
        found = evaluate(Memory(microbatches=2), mesh.size)(*reversed(split))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "memory",
    [
        pytest.param(Memory(remat=True), marks=pytest.mark.slow),
        pytest.param(Memory(microbatches=2), marks=pytest.mark.slow),
        Memory(remat=True, microbatches=4),
    ],
)
def test_gradient_is_the_same_to_rounding(memory):
    """And bit for bit where the estimator lets nothing through."""
    found = compute(memory)
    check_same(found)
    zeros, expected = (
        [np.asarray(leaf == 0) for leaf in jax.tree.leaves(tree) if leaf.ndim == 3] for tree in (found[1], at_once()[1])
    )
    jax.tree.map(np.testing.assert_array_equal, zeros, expected)
    assert 0.01 < np.mean(zeros[0]) < 0.5


@pytest.mark.ci
def test_logits_in_parts_are_the_same_to_rounding(monkeypatch):
    monkeypatch.setattr(loss, "LOGITS", 4 * 4 * 96)
    assert [Program.of(RUN).tokens_at_once(sequences) for sequences in (4, 2, 1)] == [4, 8, 16]
    assert Program.of(RUN, devices=2).tokens_at_once(4) == 8
    check_same(compute(Memory()))


def rounds(jaxpr, inside=False):
    """Roundings to a grid inside of scans, and all of them."""
    found = np.zeros(2, int)
    for eqn in jaxpr.eqns:
        found += [inside and eqn.primitive.name == "round", eqn.primitive.name == "round"]
        for inner in jaxprs_in_params(eqn.params):
            found += rounds(inner, inside or eqn.primitive.name == "scan")
    return found


def traced(function, *arguments):
    return rounds(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_weights_are_projected_once_for_all_micro_batches():
    """Nothing is rounded inside the loop over micro-batches, and nothing more is for its sake."""
    programs = [Program.of(RUN, Memory(microbatches=parts)) for parts in (1, 4)]
    state = jax.eval_shape(lambda: initial_state(programs[0], jnp.int32(1)))
    singly, in_parts = (
        traced(lambda state, program=program: train_step(program, state, WINDOW_BU, PACE), state)
        for program in programs
    )
    assert in_parts.tolist() == singly.tolist()
    assert in_parts[0] == 0
    assert in_parts[1] > 0

    def projecting_inside(params):
        return jax.lax.map(lambda row: token_losses(programs[0], params, row[None], CTX), WINDOW_BU)

    assert traced(projecting_inside, state.params)[0] > 0, "the count sees a projection inside"


LEARNED = replace(RUN, representation=Representation(activations=Operand(Scalar(Int(4), Learned(), "matrix"), Lsq())))
DRAWING = replace(RUN, representation=Representation(operand("int2"), Operand(Noise(0.1, "row"))))


@pytest.mark.ci
@pytest.mark.parametrize(
    ("run", "once"),
    [
        pytest.param(RUN, True, id="apart"),
        pytest.param(LEARNED, True, id="learned apart", marks=pytest.mark.slow),
        pytest.param(DRAWING, False, id="drawing together", marks=pytest.mark.slow),
    ],
)
def test_devices_add_up_once_a_step(run, once):
    """The numbers of one device, to rounding; devices add up after all micro-batches, where they can."""
    state = jax.jit(lambda: initial_state(Program.of(run), jnp.int32(1)))()
    windows, count = WINDOW_BU[None], jnp.int32(1)

    def chunk(devices):
        program = Program.of(run, Memory(microbatches=2), devices)
        return lambda state, windows, count, scalars: train_chunk(program, state, windows, count, scalars)

    expected, _ = jax.jit(chunk(1), compiler_options=QUICK)(state, windows, count, PACE)
    mesh = make_mesh(1)
    everywhere = replicated(mesh)
    shardings = (everywhere, batch_sharding(mesh, 1), everywhere, everywhere)
    with jax.set_mesh(mesh):
        lowered = jax.jit(chunk(2), in_shardings=shardings, out_shardings=everywhere).lower(state, windows, count, PACE)
        compiled = lowered.compile(compiler_options=QUICK)
        found, _ = compiled(*jax.device_put((state, windows, count, PACE), shardings))
    for name in ("mu", "params"):
        a, b = ((s.params if name == "params" else optax.tree.get(s.moments, "mu")) for s in (found, expected))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), a, b)
    assert depths_of_sums_over_devices(compiled) == ({1} if once else {2}), "loops: over steps, over micro-batches"


@pytest.mark.ci
def test_memory_is_saved():
    """As the compiler counts what a gradient needs: one of six layers at a time, or a quarter of the batch."""
    run = replace(RUN, model=replace(RUN.model, layers=6, context=64, width=32), batch=32, tokens=32 * 64 * 10)
    params = jax.eval_shape(lambda: initial_params(run.model, run.representation, jax.random.key(0)))
    window = jax.ShapeDtypeStruct((32, 65), jnp.int32)

    def temporary_bytes(memory):
        program = Program.of(run, memory)

        def compute(params, window_BU):
            return loss_and_gradient(program, project_params(params, run.representation, CTX), window_BU, CTX)

        compiled = jax.jit(compute).lower(params, window).compile(compiler_options=QUICK)
        return compiled.memory_analysis().temp_size_in_bytes

    whole = temporary_bytes(Memory())
    assert temporary_bytes(Memory(remat=True)) < whole / 3
    assert temporary_bytes(Memory(microbatches=4)) < whole / 3


def test_memory_that_does_not_split_is_refused():
    with pytest.raises(UserError, match="microbatches=0 must be at least 1"):
        Memory(microbatches=0)
    with pytest.raises(UserError, match=r"batch=4 sequences do not split over 3 micro-batches on 1 devices"):
        Program.of(RUN, Memory(microbatches=3))
    with pytest.raises(UserError, match=r"batch=4 sequences do not split over 2 micro-batches on 4 devices"):
        Program.of(RUN, Memory(microbatches=2), devices=4)


def test_first_states_do_not_depend_on_it():
    assert Program.of(RUN, Memory(remat=True)) != Program.of(RUN)
    assert Program.of(RUN, Memory(remat=True)).start == Program.of(RUN).start
