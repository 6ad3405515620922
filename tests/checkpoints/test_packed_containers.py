"""Packed layouts against bytes that the libraries they are written for have decoded, and the formats that they refuse.

`scripts/compare_packed.py --golden tests/checkpoints/packed.safetensors` makes the file: parts of a matrix in every
layout, and digests of what compressed-tensors, torchao and gguf made of them, with their versions.
"""

import hashlib
import json
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from support.cases import parametrize

from capscale.checkpoints import compressed_tensors, gguf_blocks, torchao
from capscale.checkpoints.safetensors_file import Tensors
from capscale.errors import UserError
from capscale.formats.base import NO_CONTEXT
from capscale.formats.catalog import find

GOLDEN = Path(__file__).parent / "packed.safetensors"
TENSORS = Tensors(GOLDEN)
DECODED = json.loads(TENSORS.metadata["decoded"])
EXACT = sorted(DECODED)


def digest(values):
    """Of float32 values, zeros without a sign: codes of E2M1 keep it, and tables of gguf do not."""
    return hashlib.sha256((np.asarray(values, np.float32) + 0.0).tobytes()).hexdigest()


def encoded(container, format, rows, dtype):
    match container:
        case "compressed-tensors":
            return compressed_tensors.encode(format, rows, np.dtype(jnp.dtype(dtype)))
        case "torchao":
            return torchao.encode(format, rows)
    return {"blocks": gguf_blocks.encode(format, rows)}


@parametrize("case", EXACT, default=EXACT[::5])
def test_bytes_are_those_that_the_library_decodes_to_our_values(case):
    container, name, dtype = case.split("/")
    x, format = TENSORS.read("x"), find(name)
    parts = encoded(container, format, x, dtype)
    known = [key.rpartition("/")[2] for key in TENSORS if key.startswith(f"{container}/{name}/")]
    assert sorted(parts) == sorted(known)
    for part, value in parts.items():
        golden = TENSORS.read(f"{container}/{name}/{part}")
        assert (value.dtype, value.shape) == (golden.dtype, golden.shape)
        assert np.asarray(value).tobytes() == golden.tobytes(), part
    ours = format.project(jnp.asarray(x), NO_CONTEXT).value.astype(dtype)
    assert digest(np.asarray(ours, np.float32)) == DECODED[case]
    assert digest(np.asarray(ours, np.float32) * 2) != DECODED[case]


def test_the_golden_file_says_who_decoded_it():
    with safe_open(GOLDEN, framework="numpy") as file:
        assert set(json.loads(file.metadata()["made by"])) >= {"compressed-tensors", "torchao", "gguf", "torch"}


REFUSED = [
    ("compressed-tensors", "int4-g32", "levels of half a step .*; the nearest that it can is mid-tread-int4-g32"),
    ("compressed-tensors", "2:4", "cannot hold 2:4: it stores codes of one grid .*--as hf for its values"),
    ("compressed-tensors", "nf4", "is no grid of its layouts"),
    ("compressed-tensors", "q4_0", "integers have one float a group.* is absmax-mid-tread-int4-g32-bf16"),
    ("compressed-tensors", "q4_k", "integers have one float a group"),
    ("compressed-tensors", "e2m1", "FP4 is NVFP4 or MXFP4 there; the nearest that it can is nvfp4 or mxfp4"),
    ("compressed-tensors", "absmax-e4m3-g128", "FP8 has a float a row, a matrix or a block"),
    ("compressed-tensors", "absmax-twos-int4-matrix", "a scale a row or a group; .* absmax-twos-int4"),
    ("compressed-tensors", "mxfp4-ragged", "its groups divide a row"),
    ("compressed-tensors", "int4-stochastic", "is no grid of its layouts"),
    ("torchao", "mxfp6-e2m3", "MX is written for E2M1, E4M3 and E5M2 in groups of 32"),
    ("torchao", "nvfp4-g16x16", "scales of two levels go with E2M1 in groups of 16"),
    ("torchao", "absmax-twos-int4-g32", "MX and NVFP4 tensors are written alone"),
    ("gguf", "nvfp4", "its types are those of llama.cpp, in groups of 32; the nearest that it can is q4_0, q4_1"),
    ("gguf", "e2m1-g16@e8m0", "MXFP4 has groups of 32"),
    ("gguf", "int4", "its types are those of llama.cpp"),
]


@pytest.mark.parametrize(("container", "name", "message"), REFUSED)
def test_what_a_container_cannot_hold_is_refused_with_the_nearest(container, name, message):
    with pytest.raises(UserError, match=message):
        encoded(container, find(name), np.ones((4, 256), np.float32), "float32")


def test_scales_that_the_type_of_the_model_rounds_are_refused():
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    with pytest.raises(UserError, match=r"absmax-twos-int4-g32 has float32 ones, which bfloat16 rounds; write --dtype"):
        compressed_tensors.encode(find("absmax-twos-int4-g32"), x, np.dtype(ml_dtypes.bfloat16))
    compressed_tensors.encode(find("absmax-twos-int4-g32-bf16"), x, np.dtype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("container", ["compressed-tensors", "torchao", "gguf"])
def test_rows_that_groups_do_not_divide_and_nan_are_refused(container):
    with pytest.raises(UserError, match="group=32 does not divide 48"):
        encoded(container, find("mxfp4"), np.ones((4, 48), np.float32), "float32")
    with pytest.raises(UserError, match="NaN or infinity"):
        encoded(container, find("mxfp4"), np.full((4, 64), np.nan, np.float32), "float32")


def test_super_blocks_of_gguf_divide_rows():
    with pytest.raises(UserError, match="rows of 64 are not whole blocks of 256"):
        gguf_blocks.encode(find("q4_k"), np.ones((4, 64), np.float32))


def test_a_matrix_of_zeros_has_a_finite_divisor():
    parts = compressed_tensors.encode(find("nvfp4"), np.zeros((4, 64), np.float32), np.dtype(np.float32))
    assert np.isfinite(parts["weight_global_scale"]).all()


def test_gguf_decodes_the_blocks_where_it_is_installed():
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install gguf")
    x = TENSORS.read("x")
    for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "mxfp4", "absmax-mid-tread-int8-g32-fp16"):
        kind = gguf.GGMLQuantizationType[gguf_blocks.type_of(find(name)).name]
        found = gguf.quants.dequantize(gguf_blocks.encode(find(name), x), kind).reshape(x.shape)
        np.testing.assert_array_equal(found, find(name).project(jnp.asarray(x), NO_CONTEXT).value)
