"""The kernels that scripts/device_check.py checks and times, by the names in its plan, and what it runs them on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from capscale.kernels import dispatch
from capscale.kernels.matmul import Layout, Weights
from capscale.kernels.project import Spec, Unsupported
from capscale.kernels.project.op import BackendChoice, Op, choose
from jax import Array
from jax.typing import DTypeLike

from capscale.defaults import default_estimator
from capscale.estimators import BRms
from capscale.formats.catalog import find
from capscale.fused import spec_of

ROTATED, BRMS = "+h128", " [b-rms]"
INT4 = tuple((np.arange(16) - 7.5).tolist())
INT4_RMS = float(np.sqrt(np.mean(np.square(INT4))))


def spec_named(name: str) -> Spec:
    """The projection of a format of the catalog; "+h128": rotated by 128 forth and back; " [b-rms]": that mask."""
    plain = name.removesuffix(BRMS).removesuffix(ROTATED)
    rotation = 128 if ROTATED in name else None
    format = find(plain)
    estimator = BRms(0.1) if name.endswith(BRMS) else default_estimator(format, rotation is not None)
    spec = spec_of(format, estimator, rotation, rotation is not None)
    if isinstance(spec, Unsupported):
        raise ValueError(f"{name} has no kernel: {spec}")
    return spec


def given_numbers(spec: Spec, rows: int) -> Array | None:
    """A plausible number for every row, where the scale rule reads one."""
    needed = spec.scale is not None and spec.scale.given
    return jnp.linspace(0.25, 0.5, rows).reshape(rows, 1) if needed else None


def kernel_of(spec: Spec, x: Any, op: Op = "project") -> BackendChoice:
    """The kernel of this device for rows like x. Raises ValueError where only the reference would run."""
    with dispatch.force("require"):  # also where XLA was measured to be faster
        return choose(spec, x, op=op)


def normal(shape: tuple[int, ...], dtype: DTypeLike, seed: int) -> Array:
    """Normal values of a shape and dtype."""
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32).astype(dtype)


def int4_weights(size: int, group: int | None = None, sparse: bool = False, seed: int = 0) -> Weights:
    """Packed int4 weights (size, size) of random codes, scaled so that products keep the size of what they multiply."""
    of = Layout(4, INT4, size, group, sparse)
    codes, pattern = jax.random.split(jax.random.key(seed))
    kept = None
    if sparse:
        nibbles = jnp.asarray([first | second << 2 for first in range(4) for second in range(first + 1, 4)], jnp.uint8)
        drawn = nibbles[jax.random.randint(pattern, (2, size, of.columns), 0, len(nibbles))]
        kept = drawn[0] | drawn[1] << 4
    scale = jnp.full((size, size // group if group else 1), 1 / (INT4_RMS * (size / (1 + sparse)) ** 0.5), jnp.float32)
    return Weights(jax.random.bits(codes, (of.byte_planes, size, of.columns), jnp.uint8), kept, scale, of)


def differences(found: Array, expected: Array) -> dict[str, Any]:
    """How many entries are not equal, a NaN being a NaN, and the largest difference beside the largest magnitude."""
    if not jnp.issubdtype(found.dtype, jnp.floating):
        return {"entries": found.size, "differ": int(jnp.sum(found != expected))}
    a, b = found.astype(jnp.float32), expected.astype(jnp.float32)
    alike = (a == b) | (jnp.isnan(a) & jnp.isnan(b))
    apart = jnp.where(alike | ~jnp.isfinite(a - b), 0.0, jnp.abs(a - b))
    top = jnp.max(jnp.where(jnp.isfinite(b), jnp.abs(b), 0.0))
    return {
        "entries": found.size,
        "differ": int(jnp.sum(~alike)),
        "largest": float(jnp.max(apart) / jnp.where(top > 0, top, 1.0)),
    }
