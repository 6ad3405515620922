"""Packed weights as torchao's tensor subclasses, flattened as its safetensors support reads them (written for 0.18).

`model.layers.0.mlp.up_proj.weight` becomes `..._weight_qdata` and `..._weight_scale`, and the header of the file says
how they are put together: `torchao.prototype.safetensors.safetensors_support.unflatten_tensor_state_dict` does so.

| class | formats |
| --- | --- |
| MXTensor | mxfp4, mxfp8-e4m3, mxfp8-e5m2, with scales rounded in any way |
| NVFP4Tensor | nvfp4, and its kin with scales found by search |
"""

import json
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from capscale.checkpoints.coded import coded, nibbles, refuse
from capscale.formats.base import Format
from capscale.formats.floats import E2M1, E4M3, E5M2
from capscale.formats.scale import PowerOfTwo, TwoLevel
from capscale.formats.stages import scalar_alone

NAME = "torchao"
MX_ELEMENTS = {
    E2M1: ("float4_e2m1fn_x2", np.dtype(np.uint8)),
    E4M3: ("float8_e4m3fn", np.dtype(ml_dtypes.float8_e4m3fn)),
    E5M2: ("float8_e5m2", np.dtype(ml_dtypes.float8_e5m2)),
}
MX_BLOCK, NVFP4_BLOCK = 32, 16
PLAIN = json.dumps({"_type": "Tensor"})
"""The header's words of a tensor that is not packed."""


def check(format: Format) -> None:
    """Raises `UserError` with the nearest format for one that no subclass holds."""
    scalar = scalar_alone(format)
    if scalar is not None and scalar.scale == TwoLevel(candidates=getattr(scalar.scale, "candidates", ())):
        if scalar.grid == E2M1 and scalar.group == NVFP4_BLOCK:
            return
        refuse(NAME, format, "scales of two levels go with E2M1 in groups of 16", "nvfp4")
    if scalar is not None and isinstance(scalar.scale, PowerOfTwo):
        if scalar.grid in MX_ELEMENTS and scalar.group == MX_BLOCK:
            return
        refuse(NAME, format, "MX is written for E2M1, E4M3 and E5M2 in groups of 32", "mxfp4 or mxfp8-e4m3")
    refuse(NAME, format, "MX and NVFP4 tensors are written alone", "mxfp4, mxfp8-e4m3 or nvfp4")


def encode(format: Format, rows: np.ndarray) -> Mapping[str, np.ndarray]:
    """Tensors of one matrix (out, in), by what follows the name of its layer.

    Raises `UserError` for formats that `check` refuses, and for groups that do not divide the rows.
    """
    check(format)
    scalar = scalar_alone(format)
    assert scalar is not None
    stored = coded(scalar, rows)
    if isinstance(scalar.scale, TwoLevel):
        return {
            "_weight_qdata": nibbles(stored.codes),
            "_weight_scale": stored.stored[0].astype(np.uint8).view(ml_dtypes.float8_e4m3fn),
            "_weight_per_tensor_scale": stored.scales[1].reshape(()),
        }
    _, element = MX_ELEMENTS[scalar.grid]  # pyright: ignore[reportArgumentType] (checked above)
    return {
        "_weight_qdata": nibbles(stored.codes) if scalar.grid == E2M1 else stored.codes.view(element),
        "_weight_scale": stored.stored[0].astype(np.uint8).view(ml_dtypes.float8_e8m0fnu),
    }


def described(format: Format, dtype: str) -> str:
    """The header's words of a packed tensor: its class, its attributes, and the names of its parts."""
    scalar = scalar_alone(format)
    assert scalar is not None
    original = {"_type": "torch.dtype", "_data": dtype}
    if isinstance(scalar.scale, TwoLevel):
        attributes: dict[str, Any] = {
            "is_swizzled_scales": False,
            "use_triton_kernel": False,
            "act_quant_kwargs": None,
            "block_size": NVFP4_BLOCK,
            "orig_dtype": original,
        }
        return _said("NVFP4Tensor", attributes, ["per_tensor_scale", "qdata", "scale"])
    name, _ = MX_ELEMENTS[scalar.grid]  # pyright: ignore[reportArgumentType] (checked by `encode`)
    attributes = {
        "elem_dtype": {"_type": "torch.dtype", "_data": name},
        "block_size": MX_BLOCK,
        "orig_dtype": original,
        "kernel_preference": {"_type": "KernelPreference", "_data": "EMULATED"},
        "act_quant_kwargs": None,
        "is_swizzled_scales": False,
    }
    return _said("MXTensor", attributes, ["qdata", "scale"])


def header(formats: Mapping[str, Format | None], dtype: str) -> dict[str, str]:
    """Words in the header of a file: of every tensor by its name, None for those that are not packed."""
    said = {name: PLAIN if format is None else described(format, dtype) for name, format in formats.items()}
    return said | {"tensor_names": json.dumps(list(formats))}


def _said(name: str, attributes: Mapping[str, Any], parts: list[str]) -> str:
    return json.dumps({"_type": name, "_data": attributes, "_tensor_data_names": parts})
