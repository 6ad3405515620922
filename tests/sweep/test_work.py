"""Work of a compiled program's instructions: products counted by hand, bytes of slices and of updates in place."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels.aot import compile_for_tpu

from capscale.sweep.hlo import bytes_of, parse, shapes
from capscale.sweep.schedule import read_schedule
from capscale.sweep.work import Work, work

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'capscale[tpu]'"
)
PROGRAM = """HloModule step

%part (a: f32[6,64,32], b: s32[], c: bf16[8,64]) -> f32[8,32] {
  %a = f32[6,64,32]{2,1,0:T(8,128)} parameter(0)
  %b = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %one = f32[1,64,32]{2,1,0:T(8,128)} dynamic-slice(%a, %b, %zero, %zero), dynamic_slice_sizes={1,64,32}
  %layer = f32[64,32]{1,0:T(8,128)} bitcast(%one)
  %c = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} parameter(2)
  ROOT %y = f32[8,32]{1,0:T(8,128)} convolution(%c, %layer), dim_labels=bf_io->bf
}

%stacked (s: f32[6,8,32], t: f32[8,32], i: s32[]) -> (f32[6,8,32], f32[8,32]) {
  %s = f32[6,8,32]{2,1,0:T(8,128)} parameter(0)
  %t = f32[8,32]{1,0:T(8,128)} parameter(1)
  %i = s32[]{:T(128)} parameter(2)
  %double = f32[8,32]{1,0:T(8,128)} add(%t, %t)
  %flat = f32[1,8,32]{2,1,0:T(8,128)} bitcast(%double)
  %into = f32[6,8,32]{2,1,0:T(8,128)} dynamic-update-slice(%s, %flat, %i, %i, %i)
  ROOT %both = (f32[6,8,32]{2,1,0:T(8,128)}, f32[8,32]{1,0:T(8,128)}) tuple(%into, %double)
}

ENTRY %main (w: f32[6,64,32], k: s32[], x: bf16[8,64], z: f32[6,8,32]) -> f32[6,8,32] {
  %w = f32[6,64,32]{2,1,0:T(8,128)} parameter(0)
  %k = s32[]{:T(128)S(6)} parameter(1)
  %x = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} parameter(2)
  %z = f32[6,8,32]{2,1,0:T(8,128)} parameter(3)
  %f = f32[8,32]{1,0:T(8,128)} fusion(%w, %k, %x), kind=kOutput, calls=%part
  %g = (f32[6,8,32]{2,1,0:T(8,128)}, f32[8,32]{1,0:T(8,128)}) fusion(%z, %f, %k), kind=kLoop, calls=%stacked
  ROOT %h = f32[6,8,32]{2,1,0:T(8,128)} get-tuple-element(%g), index=0
}
"""


def of_program(name, kept=0):
    text = parse(PROGRAM)
    lines = text.lines[text.entry]
    (line,) = (line for line in lines if line.name == name)
    return work(line, 7, 3.0, {each.name: each.result for each in lines}, text, kept=kept)


def test_a_slice_is_read_in_part_and_fast_memory_not_at_all():
    """A layer of six, its product with what lies in fast memory, and the result."""
    assert of_program("%f") == Work(7, 3.0, 2 * 8 * 64 * 32, 4 * (64 * 32 + 8 * 32))


def test_an_update_in_place_moves_what_is_new():
    """One row of six and the other result are written, and their source is read."""
    assert of_program("%g") == Work(7, 3.0, 0.0, 4 * 3 * 8 * 32 + 0)


def test_values_that_are_kept_are_not_counted():
    """One of a kilobyte is, of which a layer is read from six."""
    assert of_program("%f", kept=1024).bytes == 4 * 64 * 32


def test_shapes_are_read_with_their_layouts():
    both = "(f32[2,3]{1,0:T(8,128)}, bf16[4]{0:T(1024)S(1)}, pred[], f8e4m3fn[5]{0})"
    assert shapes(both) == [[2, 3], [4], [], [5]]
    assert bytes_of(both) == 24 + 8 + 1 + 5
    assert bytes_of(both, larger_than=0) == 24 + 1 + 5
    assert bytes_of(both, larger_than=5) == 24


PRODUCTS = {
    "rows": ("btm,mf->btf", (4, 128, 256), (256, 384)),
    "back": ("btf,mf->btm", (4, 128, 384), (256, 384)),
    "gradient": ("btm,btf->mf", (4, 128, 256), (4, 128, 384)),
    "batch": ("bqhk,bshk->bhqs", (4, 128, 2, 128), (4, 256, 2, 128)),
    "one sided": ("km,k->m", (256, 128), (256,)),
}


def counted(letters, left, right):
    """Two operations for every choice of an index of each letter."""
    a, b = letters.split("->")[0].split(",")
    return 2.0 * np.prod(list((dict(zip(a, left, strict=True)) | dict(zip(b, right, strict=True))).values()))


@pytest.mark.parametrize("name", PRODUCTS)
def test_operations_of_products_on_a_cpu(name):
    letters, left, right = PRODUCTS[name]
    operands = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (left, right)]
    text = parse(jax.jit(lambda a, b: jnp.einsum(letters, a, b)).lower(*operands).compile().as_text())
    lines = [(line, {each.name: each.result for each in of}) for of in text.lines.values() for line in of]
    found = [work(line, 1, 1.0, sizes, text).flops for line, sizes in lines if line.op in ("dot", "convolution")]
    assert sum(found) == counted(letters, left, right)


@pytest.mark.ci
@needs_libtpu
@pytest.mark.parametrize("name", [name for name in PRODUCTS if name != "one sided"])
def test_operations_of_products_on_a_tpu(name):
    """As libtpu writes them, convolutions with axes of space; a vector's product is none of the matrix unit's."""
    letters, left, right = PRODUCTS[name]
    operands = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in (left, right)]
    compiled = compile_for_tpu("v5e", lambda a, b: jnp.einsum(letters, a, b), *operands)
    found = read_schedule(compiled.as_text(), 1)
    assert found.cycles == sum(part.cycles * part.runs for part in found.work) > 0
    assert sum(part.flops for part in found.work) == counted(letters, left, right)
