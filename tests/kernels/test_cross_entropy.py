"""Cross-entropy with gradients: kernels interpreted on a CPU, and compiled for TPUs, against XLA and the equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import dispatch
from capscale.kernels.aot import CHIPS
from capscale.kernels.cross_entropy import choose, cross_entropy, reference, tpu
from capscale.kernels.vmem import SPILLED, VMEM
from support.targets import compile_for_tpu

from capscale.models.ladder import PAPER
from capscale.models.loss import tokens_at_once


def operands(shape, vocabulary, dtype=jnp.bfloat16, spread=0.3):
    batch, tokens, width = shape
    keys = jax.random.split(jax.random.key(vocabulary), 3)
    x = jax.random.normal(keys[0], (batch, tokens, width)).astype(dtype)
    head = (spread * jax.random.normal(keys[1], (vocabulary, width))).astype(dtype)
    return x, head, jax.random.randint(keys[2], (batch, tokens), 0, vocabulary)


def equation(x, head, target):
    """In float64: the loss, its gradients by logits and by features, without any rounding."""
    x, head = np.float64(x), np.float64(head)
    logit = x @ head.T
    norm = np.log(np.exp(logit).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(logit, np.asarray(target)[..., None], -1)
    slope = np.exp(logit - norm) - (np.arange(len(head)) == np.asarray(target)[..., None])
    return (norm - chosen).sum(), slope, slope @ head


def interpreted(*x):
    with dispatch.target("tpu", interpret=True), dispatch.force("require"):
        return jax.jit(cross_entropy)(*x)


@pytest.mark.kernel("cross-entropy", "interpret-tpu")
@pytest.mark.parametrize(
    ("shape", "vocabulary", "spread"),
    [
        ((1, 128, 8), 384, 0.3),
        pytest.param((2, 256, 64), 512, 4.0, marks=pytest.mark.slow),  # logits of some hundreds
        pytest.param((3, 128, 32), 640, 0.0, marks=pytest.mark.slow),  # of zero
    ],
)
def test_kernels_are_the_equation(shape, vocabulary, spread):
    """Loss and gradients to float32's rounding; by logits to bfloat16's, in which they are kept."""
    x = operands(shape, vocabulary, spread=spread)
    found = interpreted(*x)
    loss, slope, dx = equation(*x)
    assert found.by_logits_BTV.dtype == jnp.bfloat16
    assert (found.loss.dtype, found.by_features_BTM.dtype) == (jnp.float32, jnp.float32)
    np.testing.assert_allclose(found.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(np.float64(found.by_logits_BTV), slope, rtol=2.0**-8, atol=1e-5)
    scale = np.abs(slope).sum(-1, keepdims=True) * np.abs(np.float64(x[1])).max()
    assert np.all(np.abs(np.float64(found.by_features_BTM) - dx) <= 2.0**-8 * scale + 1e-6)


@pytest.mark.kernel("cross-entropy", "interpret-tpu")
def test_kernels_differ_from_xla_by_float32_rounding():
    """A logit's gradient may end on the neighbouring bfloat16: one in a hundred does, at most."""
    x = operands((1, 128, 8), 384)
    found, expected = interpreted(*x), jax.jit(reference.cross_entropy)(*x)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
    one, other = (np.float32(y.by_logits_BTV) for y in (found, expected))
    assert np.mean(one != other) < 0.01
    np.testing.assert_allclose(one, other, rtol=2.0**-7, atol=1e-6)


def test_cpus_and_gpus_run_the_reference_itself():
    x = operands((1, 4, 8), 12, jnp.float32)
    for platform in ("cpu", "gpu"):
        with dispatch.target(platform):
            assert str(jax.make_jaxpr(cross_entropy)(*x)) == str(jax.make_jaxpr(reference.cross_entropy)(*x))


@pytest.mark.parametrize(
    ("rows", "shape", "dtype", "reason"),
    [
        (128, (32_000, 640), jnp.float32, "the head is multiplied in float32; the kernels multiply bfloat16"),
        (96, (32_000, 640), jnp.bfloat16, "96 tokens by 32000 symbols are no multiples of 128 by 128"),
        (128, (96, 640), jnp.bfloat16, "128 tokens by 96 symbols are no multiples of 128 by 128"),
        (128, (32_000, 20_480), jnp.bfloat16, "128 rows of 20480 features do not fit into 16 MiB"),
    ],
)
def test_what_the_kernels_do_not_take_is_left_to_xla(rows, shape, dtype, reason):
    assert tpu.unsupported(rows, *shape, dtype) == reason
    with dispatch.target("tpu"):
        assert choose(rows, shape, dtype) == "xla"


@pytest.mark.parametrize("size", PAPER.sizes)
def test_every_size_of_the_paper_has_kernels(size):
    """On 16 chips, all at once and in 16 micro-batches, with blocks that fit into a v4's memory."""
    model = PAPER.model(size, 32_000)
    for sequences in (32, 2):
        rows = sequences * tokens_at_once(sequences, model.context, model.vocabulary)
        assert tpu.unsupported(rows, model.vocabulary, model.width, model.dtype) is None
        chosen = tpu.blocks(rows, model.vocabulary, model.width)
        assert chosen is not None
        assert tpu.vmem_bytes(*chosen, model.width) + SPILLED <= VMEM


@pytest.mark.slow
@pytest.mark.kernel("cross-entropy", "compiled-tpu")
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("width", [640, 2048])
def test_they_compile_for_tpus(chip, width):
    shapes = ((4, 512, width), jnp.bfloat16), ((32_000, width), jnp.bfloat16), ((4, 512), jnp.int32)
    with dispatch.target("tpu"), dispatch.force("require"):
        compiled = compile_for_tpu(chip, cross_entropy, *(jax.ShapeDtypeStruct(*shape) for shape in shapes))
    assert compiled.as_text().count('custom_call_target="tpu_custom_call"') == 2
