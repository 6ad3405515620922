"""Blocks of GGUF: how llama.cpp's types lay out the codes and scales of neighbours on a row.

Source: github.com/ggml-org/llama.cpp, ggml/src/ggml-common.h (block_q4_0, ...) and gguf-py/gguf/quants.py.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from capscale.checkpoints.coded import Coded, coded, refuse
from capscale.formats.base import Format
from capscale.formats.catalog import find
from capscale.formats.floats import E2M1
from capscale.formats.grids import Int
from capscale.formats.scalar import Scalar
from capscale.formats.scale import Absmax, PowerOfTwo
from capscale.formats.stages import scalar_alone

NAME = "gguf"
BLOCK = 32
SUPER = 8  # blocks of Q4_K that share two floats


class GgmlType(NamedTuple):
    """One type of tensor.

    Attributes:
      name: as llama.cpp has it.
      number: in the file.
      values: on a row that make a block.
      nbytes: of a block.
    """

    name: str
    number: int
    values: int
    nbytes: int

    @property
    def bits(self) -> float:
        """Bits per value, scales included."""
        return 8 * self.nbytes / self.values


TYPES: Mapping[str, GgmlType] = {
    name: GgmlType(name, number, values, nbytes)
    for name, number, values, nbytes in (
        ("F32", 0, 1, 4),
        ("F16", 1, 1, 2),
        ("Q4_0", 2, 32, 18),
        ("Q4_1", 3, 32, 20),
        ("Q5_0", 6, 32, 22),
        ("Q5_1", 7, 32, 24),
        ("Q8_0", 8, 32, 34),
        ("Q8_1", 9, 32, 40),
        ("Q2_K", 10, 256, 84),
        ("Q3_K", 11, 256, 110),
        ("Q4_K", 12, 256, 144),
        ("Q5_K", 13, 256, 176),
        ("Q6_K", 14, 256, 210),
        ("Q8_K", 15, 256, 292),
        ("IQ2_XXS", 16, 256, 66),
        ("IQ2_XS", 17, 256, 74),
        ("IQ3_XXS", 18, 256, 98),
        ("IQ1_S", 19, 256, 50),
        ("IQ4_NL", 20, 32, 18),
        ("IQ3_S", 21, 256, 110),
        ("IQ2_S", 22, 256, 82),
        ("IQ4_XS", 23, 256, 136),
        ("I8", 24, 1, 1),
        ("I16", 25, 1, 2),
        ("I32", 26, 1, 4),
        ("I64", 27, 1, 8),
        ("F64", 28, 1, 8),
        ("IQ1_M", 29, 256, 56),
        ("BF16", 30, 1, 2),
        ("TQ1_0", 34, 256, 54),
        ("TQ2_0", 35, 256, 66),
        ("MXFP4", 39, 32, 17),
        ("NVFP4", 40, 64, 36),
        ("Q1_0", 41, 128, 18),
    )
}
"""Types of tensors by their name, those of gguf 0.19 (`GGML_QUANT_SIZES`)."""


def type_of(format: Format) -> GgmlType:
    """The type that holds `format`; `UserError` with the nearest format where none does."""
    scalar = scalar_alone(format)
    if scalar is not None and scalar.grid == E2M1 and isinstance(scalar.scale, PowerOfTwo):
        if scalar.group == BLOCK and not scalar.ragged:
            return TYPES["MXFP4"]
        refuse(NAME, format, "MXFP4 has groups of 32", "mxfp4")
    for name, known in FORMATS.items():
        if format == known:
            return TYPES[name]
    nearest = "q4_0, q4_1, q5_0, q5_1, q4_k, mxfp4 or absmax-mid-tread-int8-g32-fp16 (Q8_0)"
    refuse(NAME, format, "its types are those of llama.cpp, in groups of 32", nearest)


def encode(format: Format, rows: np.ndarray) -> np.ndarray:
    """Bytes of a matrix (out, in), `uint8 (out, bytes of a row)`.

    Raises `UserError` for formats that `type_of` refuses, and for blocks that do not divide the rows.
    """
    kind = type_of(format)
    scalar = scalar_alone(format)
    assert scalar is not None
    if kind.values != BLOCK and rows.shape[-1] % kind.values:
        refuse(NAME, scalar, f"rows of {rows.shape[-1]} are not whole blocks of {kind.values}", "q4_1")
    stored = coded(scalar, rows)
    blocks = _BLOCKS[kind.name](stored, stored.codes.reshape(len(rows), -1, BLOCK))
    return blocks.reshape(len(rows), -1)


def _halves(codes: np.ndarray) -> np.ndarray:
    """Codes of 4 bits, value j of a block with value j + 16 in the high half."""
    return codes[..., : BLOCK // 2] | codes[..., BLOCK // 2 :] << 4


def _float16(stored: np.ndarray) -> np.ndarray:
    """Bytes of the bits of float16, two for each."""
    return stored.astype("<u2")[..., None].view(np.uint8)


def _fifth_bits(codes: np.ndarray) -> np.ndarray:
    return np.packbits(codes >> 4 & 1, axis=-1, bitorder="little")


def _mirrored(stored: Coded, codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes of the signed scale: levels of a negative one are counted from the other end."""
    return np.where(stored.scales[0][..., None] < 0, np.uint8(2**bits - 1) - codes, codes)


def _q4_0(stored: Coded, codes: np.ndarray) -> np.ndarray:
    return np.concatenate([_float16(stored.stored[0]), _halves(_mirrored(stored, codes, 4))], axis=-1)


def _q4_1(stored: Coded, codes: np.ndarray) -> np.ndarray:
    return np.concatenate([*(_float16(part) for part in stored.stored), _halves(codes)], axis=-1)


def _q5_0(stored: Coded, codes: np.ndarray) -> np.ndarray:
    codes = _mirrored(stored, codes, 5)
    return np.concatenate([_float16(stored.stored[0]), _fifth_bits(codes), _halves(codes & 15)], axis=-1)


def _q5_1(stored: Coded, codes: np.ndarray) -> np.ndarray:
    floats = [_float16(part) for part in stored.stored]
    return np.concatenate([*floats, _fifth_bits(codes), _halves(codes & 15)], axis=-1)


def _q8_0(stored: Coded, codes: np.ndarray) -> np.ndarray:
    signed = (codes.astype(np.int16) - 127).astype(np.int8)  # mid-tread: code 127 is zero
    return np.concatenate([_float16(stored.stored[0]), signed.view(np.uint8)], axis=-1)


def _mxfp4(stored: Coded, codes: np.ndarray) -> np.ndarray:
    return np.concatenate([stored.stored[0].astype(np.uint8)[..., None], _halves(codes)], axis=-1)


def _q4_k(stored: Coded, codes: np.ndarray) -> np.ndarray:
    """Both floats, 12 bytes of scales and minima of 6 bits, then the codes of two blocks a byte."""
    rows = len(codes)
    scale, low = (part.reshape(rows, -1, SUPER).astype(np.uint8) for part in stored.stored[:2])
    floats = [_float16(part) for part in stored.stored[2:]]
    packed = [scale[..., :4] | (scale[..., 4:] >> 4 << 6), low[..., :4] | (low[..., 4:] >> 4 << 6)]
    packed.append((scale[..., 4:] & 15) | (low[..., 4:] << 4))
    pairs = codes.reshape(rows, -1, SUPER // 2, 2, BLOCK)
    both = (pairs[..., 0, :] | pairs[..., 1, :] << 4).reshape(rows, -1, SUPER // 2 * BLOCK)
    return np.concatenate([*floats, *packed, both], axis=-1)


FORMATS: Mapping[str, Format] = {
    **{name.upper(): find(name) for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q4_k")},
    "Q8_0": Scalar(Int(8, "mid-tread"), Absmax("float16"), BLOCK),
}
_BLOCKS: Mapping[str, Callable[[Coded, np.ndarray], np.ndarray]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "MXFP4": _mxfp4,
}
