"""The model against the same equations in float64 numpy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny
from support.cases import parametrize

from capscale.formats.base import Context
from capscale.models.decoder import Decoder
from capscale.models.layers import FeedForward, RMSNorm
from capscale.models.llama import LlamaBlock
from capscale.models.rope import LinearRope, Llama3Rope
from capscale.models.rotary import rotary_embedding
from capscale.representation import DENSE

CTX = Context(jnp.float32(0), None)


def gaussian(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def rope(x_BTHK, theta, scaling=None):
    """Pairs (i, i + K/2) as complex numbers, turned by `t theta^(-2 i / K)`."""
    T, K = x_BTHK.shape[1], x_BTHK.shape[3]
    pairs = x_BTHK[..., : K // 2] + 1j * x_BTHK[..., K // 2 :]
    frequencies = [stretched(theta ** (-2 * i / K), scaling) for i in range(K // 2)]
    angle = np.arange(T)[:, None] * np.asarray(frequencies)
    turned = pairs * np.exp(1j * angle)[None, :, None, :]
    return np.concatenate([turned.real, turned.imag], axis=-1)


def stretched(frequency, scaling):
    """One frequency by the cases of Llama 3.1's code."""
    if scaling is None:
        return frequency
    if isinstance(scaling, LinearRope):
        return frequency / scaling.factor
    wavelength = 2 * np.pi / frequency
    if wavelength < scaling.context / scaling.high:
        return frequency
    if wavelength > scaling.context / scaling.low:
        return frequency / scaling.factor
    smooth = (scaling.context / wavelength - scaling.low) / (scaling.high - scaling.low)
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


def rms_norm(x, gain, epsilon):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon) * gain


def dense(x, p):
    return x @ p["kernel"] + p.get("bias", 0)


def swiglu(x, p):
    gate = dense(x, p["gate"])
    return dense(gate / (1 + np.exp(-gate)) * dense(x, p["up"]), p["down"])


def relu2(x, p):
    return dense(np.maximum(dense(x, p["up"]), 0) ** 2, p["down"])


def attention(x_BTM, p, cfg):
    B, T, M = x_BTM.shape
    K = cfg.head_width or M // cfg.heads
    q, k, v = (dense(x_BTM, p[name]) for name in ("query", "key", "value"))
    if cfg.normalised == "all-heads":
        q, k = (rms_norm(y, p[f"{name}_norm"]["gain"], 1e-5) for y, name in ((q, "query"), (k, "key")))
    q, k, v = (y.reshape(B, T, -1, K) for y in (q, k, v))
    if cfg.normalised == "per-head":
        q, k = (rms_norm(y, p[f"{name}_norm"]["gain"], 1e-5) for y, name in ((q, "query"), (k, "key")))
    q, k = (rope(y, cfg.rope_theta, cfg.rope_scaling) for y in (q, k))
    mixed = np.empty((B, T, cfg.heads, K))
    for head in range(cfg.heads):
        shared = head // (cfg.heads // (cfg.kv_heads or cfg.heads))
        scores = np.einsum("BTK,BSK->BTS", q[:, :, head], k[:, :, shared]) / np.sqrt(K)
        scores[:, ~np.tri(T, dtype=bool)] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed[:, :, head] = weights @ v[:, :, shared]
    return dense(mixed.reshape(B, T, -1), p["out"])


def logits(tokens, p, cfg):
    x = p["embedding"][tokens]
    for number in range(cfg.layers):
        layer = jax.tree.map(lambda leaf, number=number: leaf[number], p["layers"])
        gains = layer["attention_norm"]["gain"], layer["mlp_norm"]["gain"]
        feed_forward = swiglu if "gate" in layer["mlp"] else relu2
        if cfg.family == "olmo2":
            mixed = attention(x, layer["attention"], cfg)
            x = x + rms_norm(mixed, gains[0], cfg.norm_epsilon)
            x = x + rms_norm(feed_forward(x, layer["mlp"]), gains[1], cfg.norm_epsilon)
        else:
            normed = rms_norm(x, gains[0], cfg.norm_epsilon)
            x = x + attention(normed, layer["attention"], cfg)
            x = x + feed_forward(rms_norm(x, gains[1], cfg.norm_epsilon), layer["mlp"])
    head = p["embedding"] if cfg.tied_embeddings else p["head"]
    return rms_norm(x, p["final_norm"]["gain"], cfg.norm_epsilon) @ head.T


def initialised(cfg, seed=0):
    """Parameters of order one, gains off one: nothing that a wrong equation could hide behind."""
    tokens = np.random.default_rng(1).integers(0, cfg.vocabulary, (2, cfg.context))
    shapes = jax.eval_shape(Decoder(cfg).init, jax.random.key(seed), jnp.asarray(tokens, jnp.int32), CTX)["params"]
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: (0.5 * rng.standard_normal(leaf.shape)).astype(np.float32), shapes)
    return tokens, params


@pytest.mark.parametrize("theta", [10_000.0, 100.0])
@pytest.mark.parametrize("scaling", [None, LinearRope(4.0), Llama3Rope(8.0, 1.0, 4.0, 64)], ids=str)
def test_rotary_embedding(theta, scaling):
    x = gaussian((2, 7, 3, 8))
    found = rotary_embedding(jnp.asarray(x, jnp.float32), theta, scaling)
    np.testing.assert_allclose(found, rope(x, theta, scaling), atol=1e-5)


def test_wavelengths_of_llama_3_are_kept_mixed_and_stretched():
    """Of the frequencies in the test above each case of the equation is met."""
    scaling = Llama3Rope(8.0, 1.0, 4.0, 64)
    ratios = [stretched(theta ** (-i / 4), scaling) / theta ** (-i / 4) for theta in (1e4, 100.0) for i in range(4)]
    assert {1.0, 1 / 8} < set(ratios)
    assert any(1 / 8 < ratio < 1 for ratio in ratios)


def test_rotary_scores_depend_on_distance_alone():
    q, k = gaussian((1, 1, 1, 8)), gaussian((1, 1, 1, 8), seed=1)
    repeated = [jnp.asarray(np.repeat(each, 12, axis=1), jnp.float32) for each in (q, k)]
    turned_q, turned_k = (np.asarray(rotary_embedding(each, 100.0))[0, :, 0] for each in repeated)
    scores = turned_q @ turned_k.T
    for distance in range(-5, 6):
        diagonal = np.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)
    assert abs(scores[0, 1] - scores[0, 5]) > 1e-2


def test_rms_norm():
    x, gain = gaussian((3, 5, 8)) * 3, gaussian(8, seed=1)
    out = RMSNorm(1e-5).apply({"params": {"gain": jnp.asarray(gain, jnp.float32)}}, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(out, rms_norm(x, gain, 1e-5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("mlp", "equation"), [("swiglu", swiglu), ("relu2", relu2)])
def test_feed_forward(mlp, equation):
    shapes = {"gate": (8, 24), "up": (8, 24), "down": (24, 8)}
    p = {name: {"kernel": gaussian(shape, seed) * 0.5} for seed, (name, shape) in enumerate(shapes.items())}
    x = gaussian((2, 5, 8), seed=9)
    init = jax.nn.initializers.zeros
    layer = FeedForward(replace(tiny.MODEL, mlp=mlp, feed_forward_width=24), DENSE, init, init, jnp.float32)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), p)
    np.testing.assert_allclose(
        layer.apply({"params": params}, jnp.asarray(x, jnp.float32), CTX), equation(x, p), rtol=1e-5, atol=1e-5
    )


@parametrize(
    "changes",
    [
        {"heads": 2, "layers": 2},
        {"tied_embeddings": False, "layers": 3, "rope_theta": 100.0},
        {"family": "olmo2", "heads": 2, "tied_embeddings": False},
        {"heads": 4, "kv_heads": 2, "head_width": 6, "qk_norm": "per-head", "feed_forward_width": 20},
        {"heads": 4, "kv_heads": 1, "rope_scaling": Llama3Rope(8.0, 1.0, 4.0, 64), "biases": ("query", "key", "value")},
        {"heads": 2, "kv_heads": 1, "family": "olmo2", "mlp": "swiglu", "biases": ("out", "gate", "up", "down")},
    ],
    default=3,
    ids=["tied, unrolled", "untied, scanned", "olmo2", "as qwen3", "as qwen2", "as olmo2 published"],
)
def test_logits(changes):
    cfg = replace(tiny.MODEL, **changes)
    tokens, params = initialised(cfg)
    out = jax.jit(Decoder(cfg).apply)({"params": params}, jnp.asarray(tokens, jnp.int32), CTX)
    assert out.dtype == jnp.float32
    expected = logits(tokens, jax.tree.map(lambda leaf: leaf.astype(np.float64), params), cfg)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_computes_in_bfloat16_near_float32():
    cfg = replace(tiny.MODEL, dtype="bfloat16")
    tokens, params = initialised(cfg)
    out = jax.jit(Decoder(cfg).apply)({"params": params}, jnp.asarray(tokens, jnp.int32), CTX)
    exact = logits(tokens, params, cfg)
    assert out.dtype == jnp.float32
    error = np.abs(out - exact).mean() / np.abs(exact).mean()
    assert 1e-4 < error < 0.05


def test_scan_is_the_loop():
    cfg = replace(tiny.MODEL, layers=3)
    tokens, params = initialised(cfg)

    def loop(params, tokens):
        x = params["embedding"][tokens]
        for number in range(cfg.layers):
            layer = jax.tree.map(lambda leaf, number=number: leaf[number], params["layers"])
            x, _ = LlamaBlock(cfg, DENSE).apply({"params": layer}, x, CTX)
        x = RMSNorm(cfg.norm_epsilon).apply({"params": params["final_norm"]}, x)
        return jnp.einsum("BTM,VM->BTV", x, params["embedding"])

    arrays = jax.tree.map(jnp.asarray, params), jnp.asarray(tokens, jnp.int32)
    scanned = jax.jit(lambda p, t: Decoder(cfg).apply({"params": p}, t, CTX))(*arrays)
    np.testing.assert_allclose(scanned, jax.jit(loop)(*arrays), rtol=1e-5, atol=1e-5)


def test_initial_deviations():
    """0.02 everywhere, 0.02 / sqrt(2 layers) on the projections that add to the residual stream, gains of one."""
    cfg = replace(tiny.MODEL, width=64, layers=4, init_std=0.02, tied_embeddings=False)
    params = jax.jit(Decoder(cfg).init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32), CTX)["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [key.key for key in path]
        if names[-1] == "gain":
            np.testing.assert_array_equal(leaf, 1.0)
        else:
            expected = 0.02 / np.sqrt(8) if {"out", "down"} & set(names) else 0.02
            assert float(leaf.std()) == pytest.approx(expected, rel=0.05), names
            per_layer = leaf if leaf.ndim == 3 else leaf[None]
            assert len({float(each.ravel()[0]) for each in per_layer}) == len(per_layer), names
