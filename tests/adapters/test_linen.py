"""Flax Linen models under a policy: attention, scanned stacks, convolutions, what formats own, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from support.cases import parametrize

from capscale.adapters import compress, describe
from capscale.errors import UserError
from capscale.estimators import StraightThrough
from capscale.formats import NM, Noise, TopK
from capscale.formats.base import NO_CONTEXT
from capscale.formats.rigl import RigL
from capscale.formats.schedule import Cubic
from capscale.models.projected import project_params
from capscale.representation import DENSE, Operand, Representation, operand, project_weights

W4 = Representation(operand("int4"))
W4A8 = Representation(operand("int4"), operand("int8", per_token=True), hadamard=16)
X = jax.random.normal(jax.random.key(1), (2, 5, 64))


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention(4, name="attention")(x, x)


class Block(nn.Module):
    features: int = 64

    @nn.compact
    def __call__(self, x, _):
        x = nn.LayerNorm(name="norm")(x)
        return x + nn.Dense(self.features, name="dense")(x), None


def scanned(remat=False):
    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            block = nn.remat(Block) if remat else Block
            axes, rngs = {"params": 0}, {"params": True, "formats": True}
            return nn.scan(block, variable_axes=axes, split_rngs=rngs, length=3)(name="blocks")(x, None)[0]

    return Stack()


def test_attention_is_projected_along_what_it_contracts():
    """By shape alone, (64, 4, 16) would be 64 matrices of 4 inputs, and scales be of 4 values."""
    found = describe(Attention(), W4, X).compressed
    rows = {path: (each.shape, each.row) for path, each in found.items()}
    assert rows == {
        **{f"attention/{name}/kernel": ((64, 4, 16), 64) for name in ("query", "key", "value")},
        "attention/out/kernel": ((4, 16, 64), 64),
    }
    params = Attention().init(jax.random.key(0), X)["params"]
    compressed = compress(Attention(), W4, X)
    by_hand = jax.tree.map(lambda w: w, params)
    for name in ("query", "key", "value"):
        w = params["attention"][name]["kernel"]
        by_hand["attention"][name]["kernel"] = project_weights(w.reshape(64, 64), W4).reshape(w.shape)
    out = params["attention"]["out"]["kernel"]
    by_hand["attention"]["out"]["kernel"] = project_weights(out.reshape(64, 64), W4).reshape(out.shape)
    expected = Attention().apply({"params": by_hand}, X)
    np.testing.assert_allclose(compressed.apply({"params": params}, X), expected, rtol=1e-5, atol=1e-5)
    wrong = jax.tree.map(lambda w: project_weights(w, W4) if w.ndim == 3 else w, params)
    assert np.abs(Attention().apply({"params": wrong}, X) - expected).max() > 1e-2, "this test can fail"


@parametrize("remat", [False, True], default=[True])
def test_a_scanned_stack_is_its_layers_one_by_one(remat):
    model = scanned(remat)
    compressed = compress(model, W4A8, X)
    assert compressed.coverage.compressed["blocks/dense/kernel"].contraction.axes(3) == ((1,), (2,), (0,))
    params = compressed.init(jax.random.key(0), X)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, model.init(jax.random.key(0), X)["params"])
    one = compress(Block(), W4A8, X, None)
    expected = X
    for layer in range(3):
        expected, _ = one.apply({"params": jax.tree.map(lambda w, i=layer: w[i], params["blocks"])}, expected, None)
    found = jax.jit(compressed.apply)({"params": params}, X)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(compressed.apply({"params": p}, X)))))(params)
    assert float(jnp.min(jnp.std(gradient["blocks"]["dense"]["kernel"], axis=(1, 2)))) > 0


def test_a_convolution_is_projected_over_window_and_inputs():
    model, x = nn.Conv(8, (3, 3), use_bias=False), jnp.ones((1, 6, 6, 16))
    params = model.init(jax.random.key(0), x)["params"]
    kernel = params["kernel"]
    projected = project_weights(kernel.reshape(-1, 8), W4).reshape(kernel.shape)
    found = compress(model, W4, x).apply({"params": params}, x)
    np.testing.assert_array_equal(found, model.apply({"params": {"kernel": projected}}, x))
    with pytest.raises(UserError, match="window of \\(3, 3\\)"):
        compress(model, W4A8, x)
    compress(nn.Conv(8, (1, 1)), W4A8, x)  # one place: a product like any other


def test_masters_are_projected_in_float32_whatever_is_computed_in():
    model = nn.Dense(24, use_bias=False, dtype=jnp.bfloat16)
    params = model.init(jax.random.key(0), X)["params"]
    found = compress(model, W4, X).apply({"params": params}, X)
    held = project_weights(params["kernel"], W4)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, model.apply({"params": {"kernel": held}}, X))


def test_noise_draws_from_the_stream_and_every_layer_its_own():
    noisy = Representation(Operand(Noise(0.05)))
    compressed = compress(scanned(), noisy, X)
    params = scanned().init(jax.random.key(0), X)
    with pytest.raises(UserError, match=r"draws random numbers.*rngs=.*split_rngs"):
        compressed.apply(params, X)
    one, again, other = (compressed.apply(params, X, rngs={"formats": jax.random.key(k)}) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_schedule_reads_the_progress_of_the_collection():
    pruned = Representation(Operand(TopK(0.5, schedule=Cubic()), StraightThrough()))
    compressed = compress(nn.Dense(8), pruned, X)
    params = nn.Dense(8).init(jax.random.key(0), X)
    with pytest.raises(UserError, match=r"follows a schedule.*progress"):
        compressed.apply(params, X)
    run = jax.jit(lambda share: compressed.apply({**params, "capscale": {"progress": share}}, X))
    np.testing.assert_allclose(run(0.0), nn.Dense(8).apply(params, X), rtol=1e-5, atol=1e-5)
    assert np.abs(run(1.0) - run(0.0)).max() > 0.1


def test_learned_scales_are_parameters_beside_the_kernel():
    learned = Representation(operand("lsq4"))
    model = scanned()
    compressed = compress(model, learned, X)
    params = compressed.init(jax.random.key(0), X)["params"]
    assert params["blocks"]["dense"]["weights_step"].shape[0] == 3
    gradient = jax.grad(lambda p: jnp.sum(compressed.apply({"params": p}, X)))(params)
    assert np.all(np.any(np.asarray(gradient["blocks"]["dense"]["weights_step"]).reshape(3, -1) != 0, axis=1))
    with pytest.raises(UserError, match=r"learns blocks/dense/weights_step.*make it with init"):
        compressed.apply(model.init(jax.random.key(0), X), X)


class Own(nn.Module):
    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.normal(), (x.shape[-1], 8))
        return nn.Dense(8, precision="highest", name="exact")(x) + x @ w


@pytest.mark.parametrize(
    ("model", "policy", "says"),
    [
        (nn.Dense(8), (("dense/.*", W4),), "matches no parameter.*there are kernel"),
        (Attention(), ((".*query.*", W4),), "no rule covers attention/key/kernel"),
        (Attention(), ((".*", W4), (".*query.*", DENSE)), "decides nothing: rules ahead of it match"),
        (Own(), W4, "its precision='highest' cannot be followed"),
        (Own(), (("exact/.*", DENSE), (".*", W4)), r"w \(64, 8\) is of no known layer"),
        (nn.Dense(8, dot_general=jax.lax.dot_general), W4, "a dot_general of its own"),
        (nn.Dense(8), Representation(Operand(RigL(0.5))), "keeps a state.*compress the parameters"),
        (nn.Dense(8), ((".*", "int4"),), "no Representation"),
        (nn.Dense(8), (("(", W4),), "no regular expression"),
        (nn.Dense(8), (("kernel", W4, 0),), "whose layer says"),
    ],
)
def test_what_cannot_be_held_is_refused(model, policy, says):
    with pytest.raises(UserError, match=says):
        compress(model, policy, X)


def test_a_model_needs_inputs_to_be_known():
    with pytest.raises(UserError, match="give example inputs"):
        compress(nn.Dense(8), W4)


def test_rules_may_leave_layers_dense_and_say_so():
    found = describe(Attention(), ((".*/out/kernel", DENSE), (".*", Representation(Operand(NM(2, 4))))), X)
    assert "dense: rule '.*/out/kernel'" in str(found)
    assert len(found.compressed) == 3


def test_weights_held_for_linear_are_refused_by_other_layers():
    params = nn.Dense(8).init(jax.random.key(0), X)["params"]
    held = project_params(params, W4, NO_CONTEXT)
    with pytest.raises(UserError, match=r"met another layer.*capscale\.compress"):
        nn.Dense(8).apply({"params": held}, X)


def test_compiled_layers_are_compressed_by_the_policy_of_the_moment():
    """`nn.jit` keeps what it has compiled: neither another policy, nor an earlier progress, may be taken from there."""

    class Jitted(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.jit(nn.Dense)(8, name="dense")(x)

    model = Jitted()
    params = model.init(jax.random.key(0), X)
    w = params["params"]["dense"]["kernel"]
    np.testing.assert_array_equal(model.apply(params, X), X @ w)
    for name in ("int2", "int8"):
        r = Representation(operand(name))
        found = compress(model, r, X).apply(params, X)
        np.testing.assert_allclose(found, X @ project_weights(w, r), rtol=1e-5, atol=1e-5)
    pruned = compress(model, Representation(Operand(TopK(0.5, schedule=Cubic()), StraightThrough())), X)
    start, end = (pruned.apply({**params, "capscale": {"progress": jnp.float32(share)}}, X) for share in (0.0, 1.0))
    np.testing.assert_allclose(start, X @ w, rtol=1e-5, atol=1e-5)
    assert np.abs(end - start).max() > 0.1
