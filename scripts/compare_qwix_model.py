"""A Linen model under our policy beside the same model under qwix' rules: values, gradients, step time.

    pip install qwix==0.1.8 && python scripts/compare_qwix_model.py

Both hold the weights of a two-layer network with attention in E4M3, one largest-magnitude scale for each output,
which is defined alike. By default qwix multiplies by the float32 weights in the backward pass where only the forward
one is compressed; here it is told to multiply by the compressed ones, as capscale does. Times are of a jitted loss
and gradient, the least of `--repeats`, the two taken in turn.
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import qwix  # pyright: ignore[reportMissingImports]
from flax import linen as nn

from capscale.adapters import compress
from capscale.estimators import StraightThrough
from capscale.formats import Absmax, Scalar
from capscale.formats.floats import E4M3
from capscale.representation import Operand, Representation


class Model(nn.Module):
    """Attention and a feed-forward layer."""

    width: int = 256

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`(B, T, M) -> (B, T, M)`."""
        x = x + nn.MultiHeadDotProductAttention(4, name="attention")(x, x)
        return x + nn.Dense(self.width, name="down")(nn.relu(nn.Dense(4 * self.width, name="up")(x)))


def ours(model: nn.Module, x: jax.Array) -> Any:
    """The two lines that capscale takes."""
    r = Representation(Operand(Scalar(E4M3, Absmax()), StraightThrough()))
    return compress(model, r, x)


def theirs(model: nn.Module) -> Any:
    """The two lines that qwix takes."""
    config = {"use_original_residuals": False}
    rules = [qwix.QtRule(module_path=".*", weight_qtype=jnp.float8_e4m3fn, additional_qt_config=config)]
    return qwix.quantize_model(model, qwix.QtProvider(rules))


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    repeats = parser.parse_args().repeats
    x = jax.random.normal(jax.random.key(0), (8, 64, 256))
    params = Model().init(jax.random.key(1), x)["params"]
    models = {"float32": Model(), "capscale": ours(Model(), x), "qwix": theirs(Model())}
    steps = {
        name: jax.jit(jax.value_and_grad(lambda p, m=model: jnp.mean(jnp.square(m.apply({"params": p}, x)))))
        for name, model in models.items()
    }
    values = {name: np.asarray(model.apply({"params": params}, x)) for name, model in models.items()}
    gradients = {name: jax.tree.map(np.asarray, step(params)[1]) for name, step in steps.items()}
    error = {name: np.sqrt(np.mean((value - values["float32"]) ** 2)) for name, value in values.items()}
    apart = np.sqrt(np.mean((values["capscale"] - values["qwix"]) ** 2))
    print(
        f"root mean square from float32: capscale {error['capscale']:.4g}, qwix {error['qwix']:.4g}; apart {apart:.4g}"
    )
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(gradients["capscale"]), jax.tree.leaves(gradients["qwix"]), strict=True
    ):
        scale = float(np.sqrt(np.mean(np.square(b)))) or 1.0
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        print(f"  gradient of {name}: apart {float(np.sqrt(np.mean(np.square(a - b)))) / scale:.2g} of its size")
    least = dict.fromkeys(steps, float("inf"))
    for _ in range(repeats):
        for name, step in steps.items():
            begun = time.perf_counter()
            jax.block_until_ready(step(params))
            least[name] = min(least[name], time.perf_counter() - begun)
    ratios = ", ".join(f"{name} {seconds / least['float32']:.2f}" for name, seconds in least.items())
    print(f"step time as a multiple of float32's: {ratios}")


if __name__ == "__main__":
    main()
