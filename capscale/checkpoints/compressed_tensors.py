"""Packed weights in the layout of compressed-tensors, which vLLM and transformers load (written for version 0.20).

One tensor of a linear layer becomes `weight_packed` with `weight_scale` beside it, or `weight` in 8 bits; which of
them, and how they are read, stands in config.json as `quantization_config`. Codes are those that `pack` stores:

| layout | formats |
| --- | --- |
| pack-quantized | integers of 2 to 8 bits with a scale a row or a group, or with a zero point |
| nvfp4-pack-quantized | E2M1 in groups of 16 under scales of two levels |
| mxfp4-pack-quantized | E2M1 in groups of 32 under powers of two |
| float-quantized | E4M3 with a scale a row, a matrix or a block |

Source: github.com/vllm-project/compressed-tensors, compressors/*/base.py and quantization/lifecycle/forward_helpers.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from capscale.checkpoints.coded import Coded, coded, nibbles, refuse
from capscale.errors import UserError
from capscale.formats.affine import Range
from capscale.formats.base import Format
from capscale.formats.catalog import find, label
from capscale.formats.floats import E2M1, E4M3
from capscale.formats.grids import Int
from capscale.formats.scalar import Scalar
from capscale.formats.scale import Absmax, PowerOfTwo, Rms, TwoLevel
from capscale.formats.stages import scalar_alone

NAME = "compressed-tensors"
MIXED = "mixed-precision"
"""Word for a model whose groups are laid out in several ways (`CompressionFormat.mixed_precision`)."""
WORD = 32  # codes of a row that are packed together, into as many int32 as they have bits
NVFP4, MXFP4 = find("nvfp4"), find("mxfp4")


class Layout(NamedTuple):
    """How one format is laid out.

    Attributes:
      name: of the layout in `quantization_config`.
      arguments: of its `weights`.
    """

    name: str
    arguments: dict[str, Any]


def layout_of(format: Format) -> Layout:
    """The layout that holds `format`; `UserError` with the nearest format where none does."""
    scalar = scalar_alone(format)
    if scalar is None:
        refuse(NAME, format, "it stores codes of one grid with scales", "a scalar format, or --as hf for its values")
    format, grid, scale = scalar, scalar.grid, scalar.scale
    if format.ragged:
        refuse(NAME, format, "its groups divide a row", label(replace(format, ragged=False)))
    if grid == E2M1:
        return _fp4(format)
    if grid == E4M3 and isinstance(scale, Absmax | Rms) and not isinstance(format.group, int):
        return Layout("float-quantized", _arguments(8, "float", format))
    if grid == E4M3:
        refuse(NAME, format, "FP8 has a float a row, a matrix or a block", "absmax-e4m3 or absmax-e4m3-g128x128")
    if not isinstance(grid, Int):
        refuse(NAME, format, f"{grid} is no grid of its layouts", "absmax-twos-int4-g128, mxfp4 or nvfp4")
    if grid.kind == "mid-rise":
        nearest = replace(format, grid=Int(max(grid.bits, 2), "mid-tread"))
        refuse(NAME, format, "levels of half a step need a zero point of half a code", label(nearest))
    if isinstance(format.group, tuple) or format.group == "matrix":
        refuse(NAME, format, "integers have a scale a row or a group", label(replace(format, group="row")))
    if grid.kind == "unsigned" and isinstance(scale, Range) and scale.offset == "zero-point":
        return Layout("pack-quantized", _arguments(grid.bits, "int", format, symmetric=False))
    if grid.kind == "unsigned" or not isinstance(scale, Absmax | Rms | PowerOfTwo):
        nearest = Scalar(Int(max(grid.bits, 2), "mid-tread"), Absmax("bfloat16"), format.group)
        refuse(NAME, format, "integers have one float a group, or a float and a zero point", label(nearest))
    return Layout("pack-quantized", _arguments(grid.bits, "int", format))


def _fp4(format: Scalar) -> Layout:
    scale = format.scale
    if isinstance(scale, PowerOfTwo) and format.group == 32:
        return Layout("mxfp4-pack-quantized", _arguments(4, "float", format) | {"scale_dtype": "torch.uint8"})
    two_levels = isinstance(scale, TwoLevel) and scale.scales == E4M3 and scale.granularity == "matrix"
    if two_levels and format.group == 16:
        arguments = _arguments(4, "float", format) | {"strategy": "tensor_group"}
        return Layout("nvfp4-pack-quantized", arguments | {"scale_dtype": "torch.float8_e4m3fn"})
    refuse(NAME, format, "FP4 is NVFP4 or MXFP4 there", "nvfp4 or mxfp4")


def _arguments(bits: int, kind: str, format: Scalar, symmetric: bool = True) -> dict[str, Any]:
    group = format.group
    strategy = {"row": "channel", "matrix": "tensor"}[group] if isinstance(group, str) else "group"
    found = {"num_bits": bits, "type": kind, "symmetric": symmetric, "dynamic": False}
    if isinstance(group, tuple):
        return found | {"strategy": "block", "block_structure": list(group)}
    return found | {"strategy": strategy, "group_size": group if isinstance(group, int) else None}


def config(formats: Mapping[str, Format | None]) -> dict[str, Any]:
    """`quantization_config` of a model.

    Args:
      formats: of the weights of all linear layers but the head, by the names of tensors; None for dense ones.

    Returns:
      One group a format: of all linear layers where they agree, else of the modules that it names, whose own `format`
      says the layout where the groups' differ ("mixed-precision").
    """
    modules: dict[Format, list[str]] = {}
    dense = [name.removesuffix(".weight") for name, format in formats.items() if format is None]
    for name, format in formats.items():
        if format is not None:
            modules.setdefault(format, []).append(name.removesuffix(".weight"))
    alike, groups, layouts = len(modules) == 1 and not dense, {}, []
    for number, (format, names) in enumerate(modules.items()):
        found = layout_of(format)
        layouts.append(found.name)
        group = {"targets": ["Linear"] if alike else names, "weights": found.arguments}
        groups[f"group_{number}"] = group | {
            "input_activations": None,
            "output_activations": None,
            "format": found.name,
        }
    return {
        "quant_method": NAME,
        "format": layouts[0] if len(set(layouts)) == 1 else MIXED,
        "quantization_status": "compressed",
        "ignore": ["lm_head", *dense],
        "kv_cache_scheme": None,
        "config_groups": groups,
    }


def encode(format: Format, rows: np.ndarray, dtype: np.dtype) -> Mapping[str, np.ndarray]:
    """Tensors of one matrix (out, in), by what follows its name, such as `weight_packed`.

    Args:
      format: one that `layout_of` takes.
      rows: the matrix.
      dtype: of the model: that of the scales, in which the library multiplies.

    Raises:
      UserError: scales that `dtype` does not hold, groups that do not divide the rows.
    """
    found = layout_of(format)
    scalar = scalar_alone(format)
    assert scalar is not None
    stored = coded(scalar, rows)
    match found.name:
        case "nvfp4-pack-quantized":
            inner, outer = stored.stored[0], stored.scales[1].reshape(1)
            divisor = np.divide(np.float32(1), outer, out=np.ones(1, np.float32), where=outer > 0)
            return {
                "weight_packed": nibbles(stored.codes),
                "weight_scale": inner.astype(np.uint8).view(ml_dtypes.float8_e4m3fn),
                "weight_global_scale": divisor,
            }
        case "mxfp4-pack-quantized":
            return {"weight_packed": nibbles(stored.codes), "weight_scale": stored.stored[0].astype(np.uint8)}
        case "float-quantized":
            scale = _in_dtype(stored.scales[0], dtype, scalar)
            return {
                "weight": stored.codes.view(ml_dtypes.float8_e4m3fn),
                "weight_scale": scale.reshape(1) if scalar.group == "matrix" else scale,
            }
    return _integers(scalar, stored, dtype)


def _integers(format: Scalar, stored: Coded, dtype: np.dtype) -> Mapping[str, np.ndarray]:
    """Codes counted from the lowest of two's complement, 32 of a row in as many int32 as they have bits."""
    grid = format.grid
    assert isinstance(grid, Int)
    bits, symmetric = grid.bits, not isinstance(format.scale, Range)
    counted = stored.codes + (1 if grid.kind == "mid-tread" else 0)  # whose code 0 is one above the lowest
    found = {
        "weight_packed": _words(counted, bits),
        "weight_scale": _in_dtype(stored.scales[0], dtype, format),
        "weight_shape": np.asarray(stored.codes.shape, np.int64),
    }
    if symmetric:
        return found
    zero = np.ascontiguousarray(_words(stored.stored[1].astype(np.uint8).T, bits).T)
    return found | {"weight_zero_point": zero}


def _words(codes: np.ndarray, bits: int) -> np.ndarray:
    """`int32 (rows, ceil(columns * bits / 32))`: codes one after the other, from the low bits up."""
    rows, columns = codes.shape
    padded = np.pad(codes, [(0, 0), (0, -columns % WORD)])
    each = (padded[..., None] >> np.arange(bits, dtype=np.uint8)) & 1
    packed = np.packbits(each.reshape(rows, -1), axis=-1, bitorder="little").view("<i4")
    return np.ascontiguousarray(packed[:, : -(-columns * bits // WORD)])


def _in_dtype(scale: np.ndarray, dtype: np.dtype, format: Scalar) -> np.ndarray:
    """Scales in the type of the model; refused where that would round them."""
    found = scale.astype(dtype)
    if not np.array_equal(found.astype(np.float32), scale):
        number = getattr(format.scale, "number", "float32")
        raise UserError(
            f"{NAME} multiplies in the type of the scales, and {label(format)} has {number} ones, which {dtype.name} "
            f"rounds; write --dtype float32, or hold the scales in {dtype.name}, such as absmax-twos-int4-g128-bf16"
        )
    return found
