"""A decoder as llama.cpp names it: metadata of its shape, tensors of its layers, no tokenizer.

Source: github.com/ggml-org/llama.cpp, gguf-py/gguf/constants.py (names) and conversion/llama.py (the order of rows).
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from capscale.checkpoints import gguf_blocks, gguf_file
from capscale.checkpoints.config_writer import architecture_of
from capscale.checkpoints.gguf_blocks import TYPES, GgmlType
from capscale.checkpoints.huggingface import NUMPY, Place, places, rows_of
from capscale.checkpoints.writing import new_directory
from capscale.errors import UserError
from capscale.formats.base import Format
from capscale.models.config import ModelConfig
from capscale.models.rope import LinearRope

FILE = "model.gguf"
DENSE_TYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
TENSORS = {
    "attention/query": "attn_q",
    "attention/key": "attn_k",
    "attention/value": "attn_v",
    "attention/out": "attn_output",
    "attention/query_norm": "attn_q_norm",
    "attention/key_norm": "attn_k_norm",
    "mlp/gate": "ffn_gate",
    "mlp/up": "ffn_up",
    "mlp/down": "ffn_down",
}
NORMS = {
    "llama": {"attention_norm": "attn_norm", "mlp_norm": "ffn_norm"},
    "olmo2": {"attention_norm": "post_attention_norm", "mlp_norm": "post_ffw_norm"},
}
OUTER = {"embedding": "token_embd.weight", "head": "output.weight", "final_norm/gain": "output_norm.weight"}
QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION


def write(
    model: ModelConfig, params: Any, out: Path, dtype: str, formats: Mapping[str, Format]
) -> tuple[Path, dict[str, int]]:
    """Writes model.gguf into a new directory.

    Args:
      model, params: of a `Decoder`.
      out: the directory.
      dtype: of matrices that are not packed; norms and biases are float32, which llama.cpp asks for.
      formats: of those that are, by their names in a checkpoint of Hugging Face.

    Returns:
      The file, and bytes of every tensor by its name in a checkpoint of Hugging Face.

    Raises:
      UserError: a model that llama.cpp has no architecture for, a format that has no type.
    """
    architecture, kinds = architecture_of(model).name, {n: gguf_blocks.type_of(f) for n, f in formats.items()}
    metadata, named = _metadata(architecture, model), places(model)
    tensors: dict[str, tuple[GgmlType, tuple[int, ...], Any]] = {}
    sizes = {}
    for name, place in named.items():
        as_type = kinds.get(name) or TYPES[DENSE_TYPES[dtype] if len(place.shape) == 2 else "F32"]
        make = partial(_data, model, params, place, architecture, dtype, formats.get(name))
        tensors[_name(place, model)] = as_type, place.shape, make
        sizes[name] = int(np.prod(place.shape)) // as_type.values * as_type.nbytes
        if place.shape[-1] % as_type.values:
            raise UserError(
                f"gguf: rows of {place.shape[-1]} values ({name}) are not whole blocks of {as_type.values}, as "
                f"{as_type.name} has them; the nearest is --as hf"
            )
    if model.rope_scaling is not None and not isinstance(model.rope_scaling, LinearRope):
        factors = _frequency_factors(model)
        tensors["rope_freqs.weight"] = TYPES["F32"], factors.shape, lambda: factors
    return gguf_file.write(new_directory(out) / FILE, metadata, tensors), sizes


def _metadata(architecture: str, model: ModelConfig) -> Mapping[str, Any]:
    head = model.features_per_head
    shape: dict[str, Any] = {
        "context_length": model.context,
        "embedding_length": model.width,
        "block_count": model.layers,
        "feed_forward_length": model.hidden,
        "attention.head_count": model.heads,
        "attention.head_count_kv": model.keys_and_values,
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": float(model.norm_epsilon),
        "rope.dimension_count": head,
        "rope.freq_base": float(model.rope_theta),
        "vocab_size": model.vocabulary,
    }
    if isinstance(model.rope_scaling, LinearRope):
        shape |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(model.rope_scaling.factor)}
    return {
        "general.architecture": architecture,
        "general.name": "capscale export",
        "general.quantization_version": QUANTIZATION_VERSION,
        **{f"{architecture}.{key}": value for key, value in shape.items()},
        "tokenizer.ggml.model": "none",
    }


def _name(place: Place, model: ModelConfig) -> str:
    if place.layer is None:
        return OUTER[place.path]
    _, *parents, leaf = place.path.split("/")
    ending = "bias" if leaf == "bias" else "weight"
    known = TENSORS | NORMS[model.family]
    return f"blk.{place.layer}.{known['/'.join(parents)]}.{ending}"


def _data(  # noqa: PLR0917 all of them are what a tensor is of
    model: ModelConfig, params: Any, place: Place, architecture: str, dtype: str, format: Format | None
) -> np.ndarray:
    rows = rows_of(params, place)
    name = place.path.split("/")[-2] if place.layer is not None else ""
    if architecture == "llama" and name in ("query", "key"):
        rows = interleaved(rows, model.heads if name == "query" else model.keys_and_values)
    if format is not None:
        return gguf_blocks.encode(format, np.ascontiguousarray(rows))
    return rows.astype(NUMPY[dtype]) if rows.ndim == 2 else rows


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows in the order of llama.cpp's Llama, whose rotation pairs neighbours, not i with i + K/2."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _frequency_factors(model: ModelConfig) -> np.ndarray:
    """Factors that llama.cpp divides frequencies by."""
    assert model.rope_scaling is not None
    head = model.features_per_head
    frequency = jnp.asarray(model.rope_theta ** (-np.arange(0, head, 2) / head), jnp.float32)
    return np.asarray(frequency / model.rope_scaling.stretched(frequency), np.float32)
