"""Codes that the TPU's projection writes beside its values: those of the kernel that encodes, bit for bit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import compare, dispatch, products
from capscale.kernels.matmul.codes import Steps, steps_of
from capscale.kernels.project import ExternalScale, LargestOver, RmsTimes, Spec, Tile, multiplicand, op, reference
from capscale.kernels.project.op import BackendChoice
from capscale.kernels.project.tpu import beside
from capscale.kernels.project.tpu import project as tpu
from capscale.kernels.testing import rows
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from capscale.estimators import Trust
from capscale.formats.floats import E2M1
from capscale.formats.grids import Int
from capscale.formats.levels import TERNARY
from capscale.representation import Representation, linear, operand

KERNEL = BackendChoice("tpu", interpret=True)
SPEC = Spec(Int(4), RmsTimes(0.3), mask=Trust(0.4), rotation=128)
STEPS = Steps(0.5)
GRIDS = {
    "int4": (Int(4), RmsTimes(0.3)),
    "int8, an offset": (Int(8), LargestOver(127.5)),
    "unsigned": (Int(8, "unsigned"), LargestOver(255.0)),
    "ternary": (TERNARY, LargestOver(1.0)),
    "e2m1": (E2M1, LargestOver(6.0)),
}


MARKS = {"int4": [], "int8, an offset": pytest.mark.ci}


@pytest.mark.parametrize("name", [pytest.param(n, marks=MARKS.get(n, pytest.mark.slow)) for n in GRIDS])
def test_codes_values_and_masks_are_those_of_two_kernels(name):
    """On rows of zeros, NaN, infinity, large and tied values, in several strips and blocks, the last one ragged."""
    grid, rule = GRIDS[name]
    steps = steps_of(grid.levels)
    assert steps is not None
    for spec, dtype, tile in (
        (Spec(grid, rule, mask=Trust(0.4)), jnp.float32, Tile(64, 32)),
        (Spec(grid, rule, mask=Trust(0.4), rotation=128), jnp.bfloat16, None),
    ):
        x = rows((75, 384), dtype)
        found = jax.jit(partial(tpu.project, spec, tile=tile, interpret=True, steps=steps))(x)
        compare.same(found, reference.project(spec, x), 384, x)
        expected = multiplicand(spec, reference.encode(spec, x), 384, steps, "int8")
        compare.same_multiplicands(found.codes, expected)
        assert np.isnan(expected.scales).any()
        assert len(np.unique(expected.codes)) > 2


@pytest.mark.ci
def test_a_scale_of_no_number_and_a_subnormal_one():
    """Rows of magnitudes at both ends of float32, and one that is zero."""
    x = rows((6, 128), jnp.float32).at[1].set(1e-40).at[2].multiply(1e-38).at[3].set(3e38)
    for spec in (Spec(Int(4), LargestOver(7.5)), Spec(Int(4), RmsTimes(0.3))):
        found = jax.jit(partial(tpu.project, spec, interpret=True, steps=STEPS))(x)
        expected = multiplicand(spec, reference.encode(spec, x), 128, STEPS, "int8")
        compare.same_multiplicands(found.codes, expected)


@pytest.mark.ci
def test_transformations():
    """Gradients are those of values alone; jit, vmap, two devices, and no rows."""
    x, g = (jax.random.normal(jax.random.key(i), (2, 16, 256)) for i in (0, 1))
    run = jax.jit(lambda x: op.project_coded(SPEC, STEPS, x, KERNEL))
    value, codes = run(x)
    (plain,), (found,) = (
        jax.jit(lambda x, g, f=f: jax.vjp(f, x)[1](g))(x, g)
        for f in (lambda x: op.project(SPEC, x, how=KERNEL), lambda x: run(x)[0])
    )
    np.testing.assert_array_equal(plain, found)
    (none,) = jax.jit(lambda x: jax.vjp(lambda x: run(x)[1].scales, x)[1](jnp.ones((2, 16, 1))))(x)
    np.testing.assert_array_equal(none, jnp.zeros_like(x))
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("fsdp")))
        apart, program = run(split), str(run.trace(split).jaxpr)
    assert "shard_map" in program
    for of in (jax.jit(jax.vmap(run))(x), apart):
        jax.tree.map(np.testing.assert_array_equal, of, (value, codes))
    value, codes = run(x[:, :0])
    assert (value.shape, codes.codes.shape, codes.scales.shape) == ((2, 0, 256), (2, 0, 256), (2, 0, 1))


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (Spec(Int(4), RmsTimes(0.3), group=64), "rows have 4 scales"),
        (Spec(Int(4), ExternalScale()), "scales that are given"),
        (Spec(Int(4), RmsTimes(0.3), rotation=128, back=True), "values are rotated back"),
    ],
)
def test_what_has_no_codes_beside_values_says_why(spec, reason):
    assert reason in str(beside.unsupported(spec, 256, jnp.float32))
    with pytest.raises(ValueError, match=reason):
        op.project_coded(spec, STEPS, jnp.zeros((8, 256)), KERNEL)
    with pytest.raises(ValueError, match="of TPUs alone"):
        op.project_coded(SPEC, STEPS, jnp.zeros((8, 256)), BackendChoice("gpu"))


def called(held: Representation) -> set[str]:
    """Names of the kernels of a layer whose product reads codes, on a TPU."""

    def names(jaxpr):
        for step in jaxpr.eqns:
            if step.primitive.name == "pallas_call":
                yield step.params["name"]
            for inner in jaxprs_in_params(step.params):
                yield from names(inner)

    x, w = jnp.zeros((32, 256)), jnp.zeros((256, 128))
    with dispatch.target("tpu"), products.force("codes"):
        return set(names(jax.make_jaxpr(lambda x, w: linear(x, w, held))(x, w).jaxpr))


def test_activations_are_encoded_alone_where_no_projection_writes_their_codes():
    """Those in float8; one kernel makes values and int8 codes of the others, and weights are encoded."""
    both = called(Representation(operand("int4"), operand("int4", per_token=True), hadamard=128))
    assert both == {"capscale_project", "capscale_encode", "capscale_project_coded"}
    float8 = Representation(operand("int4"), operand("e4m3", per_token=True), hadamard=128)
    assert called(float8) == {"capscale_project", "capscale_encode"}
