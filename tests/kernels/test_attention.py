"""Causal attention: splash attention interpreted on a CPU, and compiled for a TPU, against XLA's."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import dispatch
from capscale.kernels.aot import CHIPS, lower_for_hopper
from capscale.kernels.attention import causal_attention, choose, reference, tpu
from support.targets import compile_for_tpu

ROUNDING = 2.0**-8
"""Of bfloat16, relative: the root mean square of what may differ. Seen: .53 to .88 of it, where XLA's own bfloat16
program differs from the equation by .55 to .61."""


@pytest.fixture(autouse=True)
def as_users_have_it():
    """JAX's own backward passes promote bfloat16 to float32, which is not allowed in tests."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def operands(batch_and_tokens, heads, kv_heads, width=128, dtype=jnp.bfloat16):
    batch, tokens = batch_and_tokens
    keys = jax.random.split(jax.random.key(tokens), 4)
    counts = (heads, kv_heads, kv_heads, heads)
    return tuple(
        jax.random.normal(key, (batch, tokens, n, width)).astype(dtype) for key, n in zip(keys, counts, strict=True)
    )


def with_gradients(attention):
    def run(q, k, v, g):
        mixed, pull = jax.vjp(attention, q, k, v)
        return mixed, *pull(g)

    return run


def oracle(q, k, v, g):
    """Value and gradients in float32, by autodiff of the equation."""

    def attend(q, k, v):
        k, v = (jnp.repeat(y, q.shape[2] // y.shape[2], axis=2) for y in (k, v))
        score = jnp.einsum("bthk,bshk->bhts", q, k) / q.shape[-1] ** 0.5
        score = jnp.where(jnp.tril(jnp.ones(score.shape[-2:], bool)), score, -jnp.inf)
        return jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(score, axis=-1), v)

    return with_gradients(attend)(*(y.astype(jnp.float32) for y in (q, k, v, g)))


def check(found, expected, rounding):
    """Errors of each tensor relative to its values: their root mean squares, and largest ones at four times that."""
    for name, one, other in zip(("value", "q", "k", "v"), found, expected, strict=True):
        error, values = np.float64(one) - np.float64(other), np.float64(other)
        assert np.sqrt(np.mean(error**2)) <= rounding * np.sqrt(np.mean(values**2)), name
        assert np.abs(error).max() <= 4 * rounding * np.abs(values).max(), name


@pytest.mark.kernel("attention", "interpret-tpu")
@pytest.mark.parametrize(
    ("tokens", "heads", "kv_heads"),
    [(128, 2, 1), pytest.param(256, 2, 2, marks=pytest.mark.slow), pytest.param(1024, 1, 1, marks=pytest.mark.slow)],
)
def test_splash_attention_is_the_equation(tokens, heads, kv_heads):
    """A block, and several, of which those above the diagonal are not visited; a key of two queries."""
    x = operands((2, tokens), heads, kv_heads)
    with dispatch.target("tpu", interpret=True), dispatch.force("require"):
        found = jax.jit(with_gradients(causal_attention))(*x)
    assert [y.dtype for y in found] == [jnp.bfloat16] * 4
    check(found, jax.jit(oracle)(*x), ROUNDING)


def test_the_reference_is_the_equation():
    x = operands((2, 16), 4, 2, width=8, dtype=jnp.float32)
    check(jax.jit(with_gradients(reference.causal_attention))(*x), jax.jit(oracle)(*x), 1e-6)


def test_cpus_run_the_reference_itself():
    """The very equations that stood in the model, so that runs on CPUs keep their bits."""
    x = operands((1, 8), 1, 1, width=8, dtype=jnp.float32)[:3]
    traced = [jax.make_jaxpr(f)(*x) for f in (causal_attention, reference.causal_attention)]
    assert str(traced[0]) == str(traced[1])


def test_gpus_compute_scores_anew_and_give_the_same():
    x = operands((2, 16), 4, 2, width=8, dtype=jnp.float32)
    with dispatch.target("gpu"):
        assert choose(x[0].shape, x[0].dtype) == "xla, recomputed"
        traced = jax.make_jaxpr(with_gradients(causal_attention))(*x)
        found = jax.jit(with_gradients(causal_attention))(*x)
        with dispatch.force("reference"):
            assert choose(x[0].shape, x[0].dtype) == "xla"
    assert "checkpoint" in str(traced) or "remat" in str(traced)
    check(found, jax.jit(with_gradients(reference.causal_attention))(*x), 1e-6)


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((2, 256, 2, 64), jnp.bfloat16, "heads of 64 features are no multiple of 128 lanes"),
        ((2, 200, 2, 128), jnp.bfloat16, "200 tokens are no multiple of 128"),
        ((2, 256, 2, 128), jnp.float32, "queries are float32; the kernel multiplies bfloat16"),
    ],
)
def test_what_the_kernel_does_not_take_is_left_to_xla_and_said(shape, dtype, reason, caplog):
    with dispatch.target("tpu", interpret=True), caplog.at_level(logging.WARNING, "capscale.kernels"):
        dispatch._decided.clear()
        assert choose(shape, dtype) == "xla"
    assert reason in caplog.text
    assert tpu.unsupported(shape, dtype) == reason


def test_sequences_are_split_over_a_mesh():
    """Two devices give what one does, bit for bit: no sequence sees another."""
    x = operands((2, 128), 1, 1)[:3]
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with dispatch.target("tpu", interpret=True):
        expected = jax.jit(causal_attention)(*x)
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        with jax.set_mesh(mesh):
            compiled = jax.jit(causal_attention, in_shardings=rows, out_shardings=rows).lower(*x).compile()
            found = compiled(*jax.device_put(x, rows))
    np.testing.assert_array_equal(np.float32(found), np.float32(expected))
    assert "all-gather" not in compiled.as_text()


@pytest.mark.slow
@pytest.mark.kernel("attention", "compiled-tpu")
@pytest.mark.parametrize("chip", CHIPS)
def test_it_compiles_for_tpus(chip):
    shapes = tuple(jax.ShapeDtypeStruct((4, 512, 5, 128), jnp.bfloat16) for _ in range(4))
    with dispatch.target("tpu"), dispatch.force("require"):
        compiled = compile_for_tpu(chip, with_gradients(causal_attention), *shapes)
    assert compiled.as_text().count('custom_call_target="tpu_custom_call"') == 2
    # The reference would set aside scores, 4 x 5 x 512 x 512 in float32.
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 5 * 512 * 512 * 4


def test_it_lowers_for_hopper():
    shapes = tuple(jax.ShapeDtypeStruct((2, 16, 2, 8), jnp.bfloat16) for _ in range(4))
    with dispatch.target("gpu"):
        text = lower_for_hopper(with_gradients(causal_attention), *shapes)
    assert "custom_call" not in text
