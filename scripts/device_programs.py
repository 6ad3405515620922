"""One program for every family of kernels: values and gradients beside XLA's, as the device tests compare them.

A gradient is held to the reference's of the same mask; and the gradient of the whole operation, kernels forward and
backward in one program, is held bit for bit to the backward kernel on the mask that the forward kernel wrote.
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from capscale.kernels import dispatch
from capscale.kernels.compare import close, close_codes, gradient_bound, tolerance
from capscale.kernels.matmul import matmul
from capscale.kernels.matmul.reference import dequantize
from capscale.kernels.matmul.reference import tolerance as sum_tolerance
from capscale.kernels.project import encode, project, reference
from capscale.kernels.project.mask import unpack_mask
from capscale.kernels.project.op import BackendChoice
from capscale.kernels.select import largest
from device_kernels import differences, given_numbers, int4_weights, kernel_of, normal, spec_named
from device_plan import REHEARSE, Wrong
from jax import Array
from jax.typing import DTypeLike

SHAPE = (4, 256) if REHEARSE else (300, 640)
"""Several blocks, the last one ragged."""
DTYPES = (jnp.bfloat16,) if REHEARSE else (jnp.float32, jnp.bfloat16)


def run(case: str, row: dict[str, Any]) -> None:
    """Differences by dtype and result. Raises `Wrong` where one is larger than it may be."""
    said = []
    kind, _, rest = case.partition(" ")
    special = {"select": _select, "codes": partial(_codes, rest), "matmul": partial(_product, rest)}
    check: Callable[[DTypeLike, dict[str, Any]], None] = special.get(kind, partial(_projection, case))
    for dtype in (jnp.bfloat16,) if kind == "matmul" else DTYPES:
        found = row.setdefault(jnp.dtype(dtype).name, {})
        try:
            check(dtype, found)
        except AssertionError as error:
            said.append(f"{jnp.dtype(dtype).name}: {error}")
    if said:
        raise Wrong("; ".join(said))


def _projection(name: str, dtype: DTypeLike, found: dict[str, Any]) -> None:
    """Value, mask and gradient; a row of zeros and one with a NaN besides."""
    spec = spec_named(name)
    x, g, given = normal(SHAPE, dtype, 2), normal(SHAPE, dtype, 3), given_numbers(spec, SHAPE[0])
    how, plain = kernel_of(spec, x), BackendChoice("reference")
    module = importlib.import_module(f"capscale.kernels.project.{how.backend}.project")
    forward = jax.jit(lambda x: module.project(spec, x, given, **how.options()))
    expected_of = jax.jit(lambda x: reference.project(spec, x, given))
    backward = jax.jit(lambda mask, g: module.backward(spec, mask, g, **how.options()))
    value, expected = forward(x), expected_of(x)
    found["value"] = differences(value.value_RK, expected.value_RK)
    if value.mask_RW is not None and expected.mask_RW is not None:
        found["mask"] = differences(*(unpack_mask(p.mask_RW, SHAPE[1]) for p in (value, expected)))
    back = backward(expected.mask_RW, g)
    wanted = jax.jit(lambda mask, g: reference.backward(spec, mask, g))(expected.mask_RW, g)
    found["gradient"] = differences(back, wanted)

    def whole(x: Array, g: Array, how: BackendChoice) -> tuple[Array, Array]:
        y, pull = jax.vjp(lambda x: project(spec, x, given, how), x)
        return y, pull(g)[0]

    y, gradient = jax.jit(partial(whole, how=how))(x, g)
    found["whole value"] = differences(y, value.value_RK)
    found["whole gradient"] = differences(gradient, backward(value.mask_RW, g))
    found["gradient beside the reference's"] = differences(gradient, jax.jit(partial(whole, how=plain))(x, g)[1])
    special = x.at[0].set(0.0).at[1, 5].set(jnp.nan)
    nans = [jnp.isnan(f(special).value_RK) for f in (forward, expected_of)]

    close(value, expected, SHAPE[1], tolerance(dtype, exact_rotation=False, tensor_cores=True))
    bound = gradient_bound(dtype, tensor_cores=True)
    assert found["gradient"]["largest"] <= bound, f"gradient: {found['gradient']['largest']:.2g} apart, {bound:.2g} may"
    for what in ("whole value", "whole gradient"):
        assert not found[what]["differ"], f"{what}: {found[what]['differ']} of {found[what]['entries']} differ"
    assert not int((nans[0] != nans[1]).sum()), f"NaN in {int(nans[0].sum())} places, not {int(nans[1].sum())}"


def _select(dtype: DTypeLike, found: dict[str, Any]) -> None:
    """The survivors of every row, ties included, and the smallest of them: bit for bit."""
    x = normal(SHAPE, dtype, 4).at[0].set(0.0)
    x = x.at[1].set(jnp.round(2 * x[1]))
    results = []
    for mode in ("require", "reference"):
        with dispatch.force(mode):
            results.append(jax.jit(lambda x: largest(x, SHAPE[1] // 2))(x))
    for what, ours, theirs in zip(("mask", "threshold"), *results, strict=True):
        found[what] = differences(ours, theirs)
        assert not found[what]["differ"], f"{what}: {found[what]['differ']} of {found[what]['entries']} differ"


def _codes(name: str, dtype: DTypeLike, found: dict[str, Any]) -> None:
    """Codes and scales of a case."""
    spec, x = spec_named(name), normal(SHAPE, dtype, 5)
    given = given_numbers(spec, SHAPE[0])
    how = kernel_of(spec, x, "encode")
    ours, theirs = (jax.jit(lambda x, h=h: encode(spec, x, given, h))(x) for h in (how, BackendChoice("reference")))
    found["codes"], found["scales"] = (differences(a, b) for a, b in zip(ours, theirs, strict=True))
    close_codes(spec, ours, theirs, SHAPE[1], tolerance(dtype, exact_rotation=False, tensor_cores=True))


def _product(name: str, dtype: DTypeLike, found: dict[str, Any]) -> None:
    """Products of one row, of an odd number and of several blocks, to the order of their sums."""
    size = 128 if REHEARSE else 640
    group, sparse = 128 if name.endswith("-g128") else None, name.startswith("2:4")
    w = int4_weights(size, group, sparse, seed=6)
    allowed, failed = sum_tolerance(size, jnp.dtype(dtype)), []
    for rows in (1, 9) if REHEARSE else (1, 9, 300):
        x, results = normal((rows, size), dtype, rows), []
        for mode in ("require", "reference"):
            with dispatch.force(mode):
                results.append(jax.jit(matmul)(x, w))
        found[f"{rows} rows"] = differences(*results)
        apart = jnp.abs(results[0].astype(jnp.float32) - results[1].astype(jnp.float32))
        sums = jnp.matmul(jnp.abs(x).astype(jnp.float32), jnp.abs(dequantize(w)).T, precision=jax.lax.Precision.HIGHEST)
        beyond = int(jnp.sum(~(apart <= 1.001 * allowed * sums)))
        if beyond:
            failed.append(f"{beyond} of {apart.size} of {rows} rows are further apart than their sums allow")
    assert not failed, "; ".join(failed)
