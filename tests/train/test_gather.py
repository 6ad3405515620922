"""Weights that devices share, sent once a step: the numbers of one device, and bytes counted in the compiled step."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels.project.bitplanes import plane_bytes
from support import tiny
from support.hlo import depths_of_sums_over_devices

from capscale.cli.memory_options import memory_of
from capscale.cli.training import Training
from capscale.errors import UserError
from capscale.formats.base import Context
from capscale.formats.noise import Noise
from capscale.models.projected import kernels_of
from capscale.representation import DENSE, Operand, Representation, coded_weights, operand
from capscale.sweep import choosing
from capscale.sweep.preflight import Compiled, Setting
from capscale.sweep.schedule import read_schedule
from capscale.sweep.slices import find_slice
from capscale.train.gradient import Sent, gathered_once
from capscale.train.memory import Memory
from capscale.train.sharding import batch_sharding, make_mesh, replicated, state_sharding
from capscale.train.step import Program, RunScalars, initial_state, train_chunk

INT4 = Representation(operand("int4"), hadamard=8)
RUN = tiny.run(batch=8, model=replace(tiny.MODEL, tied_embeddings=False), representation=INT4)
WINDOW_SBU = jnp.asarray(np.random.default_rng(0).integers(0, 96, (1, 8, 17)), jnp.int32)
PACE = RunScalars(jnp.float32(0.05), jnp.int32(20))


@cache
def step(run, fsdp, memory):
    """A step on two devices, compiled, and the shardings of its operands."""
    program, mesh = Program.of(run, memory, 2), make_mesh(fsdp)
    state = jax.eval_shape(lambda: initial_state(program, jnp.int32(1)))
    everywhere = replicated(mesh)
    shardings = (state_sharding(mesh, state), batch_sharding(mesh, 1), everywhere, everywhere)
    inputs = (state, WINDOW_SBU, jnp.int32(1), PACE)
    with jax.set_mesh(mesh):
        chunk = jax.jit(partial(train_chunk, program), in_shardings=shardings, out_shardings=(shardings[0], everywhere))
        return chunk.lower(*inputs).compile(), shardings


def after(run, fsdp, memory):
    """State after that step."""
    compiled, shardings = step(run, fsdp, memory)
    state = jax.jit(lambda: initial_state(Program.of(run, memory, 2), jnp.int32(1)))()
    found, _ = compiled(*jax.device_put((state, WINDOW_SBU, jnp.int32(1), PACE), shardings))
    return jax.tree.map(np.asarray, found)


def split_bytes(run):
    """Of float32 parameters that two devices share, and of those that both have."""
    shapes = jax.eval_shape(lambda: initial_state(Program.of(run), jnp.int32(1)).params)
    shardings = state_sharding(make_mesh(2), shapes)
    sizes = [
        (4 * leaf.size, "fsdp" in sharding.spec)
        for leaf, sharding in zip(*map(jax.tree.leaves, (shapes, shardings)), strict=True)
    ]
    return (sum(size for size, split in sizes if split == is_split) for is_split in (True, False))


def test_gradients_of_whole_weights_are_the_mean_over_devices():
    """A kernel that is sent in bfloat16 and split along its outputs, a gain that both devices have, rows of each."""
    held = {"kernel": jnp.linspace(-1, 1, 24).reshape(4, 6), "gain": jnp.arange(5.0)}
    rows = jnp.arange(8.0).reshape(2, 4)

    def of_batch(held, coded, rows, ctx):
        assert not coded
        assert {name: leaf.shape for name, leaf in held.items()} == {"kernel": (4, 6), "gain": (5,)}

        def loss(held):
            return jnp.mean(jnp.square(rows @ held["kernel"])) + jnp.sum(held["gain"]) * jnp.sum(rows) * ctx.progress

        return jax.value_and_grad(loss)(held)

    mesh, ctx = make_mesh(2), Context(jnp.float32(0.5))
    with jax.set_mesh(mesh):
        run = jax.jit(lambda held, rows: gathered_once(of_batch, held, rows, ctx, Sent("bfloat16")))
        found = run(jax.device_put(held, state_sharding(mesh, held)), rows)
    sent = held | {"kernel": held["kernel"].astype(jnp.bfloat16).astype(jnp.float32)}
    expected = jax.tree.map(lambda *of: sum(of) / 2, *(of_batch(sent, {}, row[None], ctx) for row in rows))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
    assert {shard.data.shape for shard in found[1]["kernel"].addressable_shards} == {(4, 3)}


@pytest.mark.parametrize("parts", [pytest.param(1, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.ci)])
def test_weights_and_gradients_are_sent_once_whatever_the_micro_batches(parts):
    """Two devices send half of what they share forth and back; the gradients of the rest, the loss and norms of two."""
    compiled, _ = step(RUN, 2, Memory(microbatches=parts, gather="step"))
    found = read_schedule(compiled.as_text(), 2, share_of_conditionals=0)
    shared, own = split_bytes(RUN)
    assert found.sent["all-gather"] == shared / 2
    assert found.sent["reduce-scatter"] == shared / 2
    assert own <= found.sent["all-reduce"] <= own + 4 * 32  # a loss, and sums of squares for clipping and metrics
    assert set(found.sent) == {"all-gather", "reduce-scatter", "all-reduce"}
    assert max(depths_of_sums_over_devices(compiled)) == 1, "loops: over steps, none over micro-batches"


@pytest.mark.parametrize(
    ("run", "memory"),
    [
        pytest.param(RUN, Memory(gather="step"), id="at once", marks=pytest.mark.slow),
        pytest.param(RUN, Memory(microbatches=4, gather="step"), id="in parts", marks=pytest.mark.slow),
        pytest.param(RUN, Memory(True, 4, "step"), id="remat, in parts", marks=pytest.mark.slow),
        pytest.param(replace(RUN, representation=DENSE), Memory(gather="step"), id="dense", marks=pytest.mark.slow),
    ],
)
def test_a_step_is_that_of_devices_that_have_all_weights(run, memory):
    """Bit for bit: every device goes through its rows as it would then, and two gradients have one sum."""
    found, expected = after(run, 2, memory), after(run, 1, replace(memory, gather="layer"))
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


@pytest.mark.slow
def test_formats_meet_whole_rows_of_the_weights_that_devices_have():
    """No device asks another for what it projects."""
    for gather in ("layer", "step"):
        compiled, _ = step(RUN, 2, Memory(microbatches=4, gather=gather))
        assert "all-to-all" not in read_schedule(compiled.as_text(), 2).sent


def test_settings_that_change_nothing_are_not_tried(monkeypatch):
    """Noise that is drawn for all tokens at once makes weights go layer by layer, whatever is asked."""
    tried = []
    monkeypatch.setattr(choosing, "fewest_microbatches", lambda run, setting, *_: tried.append(setting.memory.gather))
    refused, setting = Compiled(10**11, 10**10, 1.0, ""), Setting(find_slice("v5e:2x2"))
    for activations, expected in (
        (Operand(Noise(0.1, "row")), {"layer"}),
        (operand("int4"), {"step", "codes", "layer"}),
    ):
        run = replace(RUN, representation=Representation(operand("int4"), activations))
        assert choosing.remedy_here(run, refused, setting, quick=True) is None
        assert set(tried) == expected
        tried.clear()


@pytest.mark.slow
def test_devices_that_draw_together_stay_together():
    """Noise of activations is drawn for all tokens at once, and weights are gathered layer by layer."""
    run = replace(RUN, representation=Representation(operand("int4"), Operand(Noise(0.1, "row"))))
    once, by_layer = (after(run, 2, Memory(gather=gather)) for gather in ("step", "layer"))
    jax.tree.map(np.testing.assert_array_equal, once.params, by_layer.params)


@pytest.mark.slow
def test_bfloat16_weights_are_sent_as_such_and_give_the_same():
    """They are rounded for the product anyway: half the bytes forth, the same bits of the step."""
    run = replace(RUN, model=replace(RUN.model, dtype="bfloat16"))
    with jax.numpy_dtype_promotion("standard"):
        found, expected = after(run, 2, Memory(gather="step")), after(run, 1, Memory())
        compiled, _ = step(run, 2, Memory(gather="step"))
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    shared, _ = split_bytes(run)
    sent = read_schedule(compiled.as_text(), 2).sent
    assert sent["reduce-scatter"] == shared / 2


CODED = {
    "rotated back": (INT4, 4, None),
    "signs": (Representation(operand("int3"), operand("int4", per_token=True), hadamard=8, signs=3), 4, None),
    "groups": (Representation(operand("int4-g8")), 4, 8),
}


@pytest.mark.ci
@pytest.mark.parametrize(("representation", "bits", "group"), CODED.values(), ids=CODED)
def test_codes_give_the_step_of_the_values_that_they_decode_to(representation, bits, group):
    """Bit for bit, in a loop over layers and micro-batches, in bfloat16; sent are codes and scales, and no value."""
    run = replace(RUN, representation=representation, model=replace(RUN.model, dtype="bfloat16", layers=3))
    memory = [Memory(microbatches=2, gather=gather) for gather in ("codes", "step")]
    with jax.numpy_dtype_promotion("standard"):
        found, expected = (after(run, 2, each) for each in memory)
        texts = [step(run, 2, each)[0].as_text() for each in memory]
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    kernels = kernels_of(jax.eval_shape(lambda: initial_state(Program.of(run), jnp.int32(1)).params))
    shapes = [kernel.shape for kernel in kernels.values()]
    codes = sum(layers * outputs * plane_bytes(inputs, bits) for layers, inputs, outputs in shapes)
    scales = sum(layers * outputs * (inputs // (group or inputs)) for layers, inputs, outputs in shapes)
    values = sum(kernel.size for kernel in kernels.values())
    sent = [read_schedule(text, 2, share_of_conditionals=0).sent["all-gather"] for text in texts]
    assert sent[1] - sent[0] == (4 * values - codes - 4 * scales) / 2  # XLA sends bfloat16 as float32 on a CPU


@pytest.mark.ci
def test_weights_without_codes_are_sent_as_they_are():
    """Masks, codebooks and learned steps have none: as many bytes as by values."""
    w = jnp.asarray(np.random.default_rng(0).normal(size=(16, 8)), jnp.float32)
    for name in ("dense", "top50", "2:4+int4", "higgs-d2-n16", "lsq4"):
        assert coded_weights(w, Representation(operand(name))) is None
    run = replace(RUN, representation=Representation(operand("top50")))
    texts = [step(run, 2, Memory(gather=gather))[0].as_text() for gather in ("codes", "step")]
    sent = [read_schedule(text, 2, share_of_conditionals=0).sent for text in texts]
    assert sent[0] == sent[1]
    assert not any("u8[" in text for text in texts)


def test_settings_that_gather_nothing_are_refused():
    with pytest.raises(UserError, match="gather='always'"):
        Memory(gather="always")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="--gather step: every device has all parameters; give --fsdp N to share them"):
        memory_of(Training(gather="step"))
    assert memory_of(Training(gather="step", fsdp=2)) == Memory(gather="step")
