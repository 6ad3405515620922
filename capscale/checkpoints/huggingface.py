"""Decoders of Hugging Face: their tensors as parameters of `Decoder`, and back.

    model, params = load(Path("Llama-3.2-1B"))
    logits = Decoder(model).apply({"params": params}, tokens_BT, NO_CONTEXT)

Weights (out, in) become kernels (in, out), layers are stacked; float32 masters, whatever the file holds.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from capscale.checkpoints.architecture import CONFIG, read_config
from capscale.checkpoints.config_writer import config_of
from capscale.checkpoints.safetensors_file import FLOATS, Tensors
from capscale.checkpoints.writing import Folder
from capscale.errors import UserError
from capscale.models.config import ModelConfig, Projection

PROJECTIONS: Mapping[Projection, str] = {
    **{name: f"self_attn.{letter}_proj" for name, letter in zip(("query", "key", "value", "out"), "qkvo", strict=True)},
    **{name: f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
NORMS = {
    "llama": {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"},
    "olmo2": {"attention_norm": "post_attention_layernorm", "mlp_norm": "post_feedforward_layernorm"},
}
NUMPY: Mapping[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
"""Types that weights are written in."""


class Place(NamedTuple):
    """Where a tensor of a checkpoint stands in the parameters.

    Attributes:
      path: of the leaf, `layers/mlp/up/kernel`.
      layer: index on its first axis; None for leaves that are not stacked.
      shape: as the checkpoint has it.
    """

    path: str
    layer: int | None
    shape: tuple[int, ...]

    @property
    def is_kernel(self) -> bool:
        """Whether it is a matrix that is compressed, stored (out, in)."""
        return self.path.endswith("kernel")


def places(model: ModelConfig) -> dict[str, Place]:
    """Every tensor of a checkpoint of `model`, by its name there, in the order of the file."""
    M, V = model.width, model.vocabulary
    found = {"model.embed_tokens.weight": Place("embedding", None, (V, M))}
    for layer in range(model.layers):
        for name, path, shape in _of_a_layer(model):
            found[f"model.layers.{layer}.{name}"] = Place(f"layers/{path}", layer, shape)
    found["model.norm.weight"] = Place("final_norm/gain", None, (M,))
    if not model.tied_embeddings:
        found["lm_head.weight"] = Place("head", None, (V, M))
    return found


def _of_a_layer(model: ModelConfig) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    for name, (inputs, outputs) in model.projections.items():
        part = "mlp" if name in ("gate", "up", "down") else "attention"
        yield f"{PROJECTIONS[name]}.weight", f"{part}/{name}/kernel", (outputs, inputs)
        if name in model.biases:
            yield f"{PROJECTIONS[name]}.bias", f"{part}/{name}/bias", (outputs,)
    if model.normalised != "none":
        for name in ("query", "key"):
            every = model.features_per_head if model.normalised == "per-head" else model.projections[name][1]
            yield f"self_attn.{name[0]}_norm.weight", f"attention/{name}_norm/gain", (every,)
    for path, name in NORMS[model.family].items():
        yield f"{name}.weight", f"{path}/gain", (model.width,)


def load(directory: Path) -> tuple[ModelConfig, Any]:
    """Model and float32 parameters of a checkpoint of Llama, Qwen2, Qwen3 or OLMo2.

    Args:
      directory: of config.json and model.safetensors, or shards with model.safetensors.index.json.

    Raises:
      UserError: an architecture or a field that is not computed here; tensors that are missing, left over, or of
        another shape or type than the config says.
    """
    _, model = read_config(directory)
    tensors, wanted = Tensors(directory), places(model)
    _check(tensors, wanted, model)
    stacks: dict[str, list[np.ndarray]] = {}
    for name, place in wanted.items():
        value = np.asarray(tensors.read(name), np.float32)
        stacks.setdefault(place.path, []).append(value.T if place.is_kernel else value)
    params: dict[str, Any] = {}
    for path, values in stacks.items():
        *parents, leaf = path.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = jnp.asarray(np.stack(values) if parents[:1] == ["layers"] else values[0])
    return model, params


def _check(tensors: Tensors, wanted: Mapping[str, Place], model: ModelConfig) -> None:
    if missing := [name for name in wanted if name not in tensors]:
        raise UserError(f"{tensors.path}: {len(missing)} tensors of {CONFIG} are missing, the first {missing[0]!r}")
    for name, place in wanted.items():
        entry = tensors[name]
        if entry.shape != place.shape:
            raise UserError(f"{entry.path}: {name!r} has shape {entry.shape}, its {CONFIG} says {place.shape}")
        if entry.dtype not in FLOATS:
            raise UserError(f"{entry.path}: {name!r} is of type {entry.dtype}; weights are {', '.join(FLOATS)}")
    left = [name for name in tensors if name not in wanted and not name.endswith(".rotary_emb.inv_freq")]
    if model.tied_embeddings and "lm_head.weight" in left:
        left.remove("lm_head.weight")
        embedding = tensors.read("model.embed_tokens.weight")
        head = tensors.read("lm_head.weight")
        if head.shape != embedding.shape or not np.array_equal(head, embedding):
            raise UserError(
                f"{tensors.path}: lm_head.weight is not the embedding, though {CONFIG} says tie_word_embeddings=true"
            )
    if left:
        raise UserError(f"{tensors.path}: {left[0]!r} is no tensor of this architecture; {len(left)} are left over")


def rows_of(params: Any, place: Place) -> np.ndarray:
    """The tensor of one place as a checkpoint has it, (out, in) for kernels, float32."""
    leaf = params
    for name in place.path.split("/"):
        leaf = leaf[name]
    value = np.asarray(leaf if place.layer is None else leaf[place.layer], np.float32)
    return value.T if place.is_kernel else value


def save(directory: Path, model: ModelConfig, params: Any, dtype: str = "float32") -> list[Path]:
    """Writes config.json and model.safetensors, in shards where they are large, that transformers loads.

    Args:
      directory: a new or an empty one.
      model, params: of a `Decoder`, every kernel as it is; project first what is to be compressed.
      dtype: of all tensors: float32, bfloat16 or float16.

    Returns:
      The files, config.json last.

    Raises:
      UserError: a model that no architecture of transformers computes, a directory that is not empty.
    """
    folder = Folder(directory)
    config = config_of(model, dtype)
    for name, place in places(model).items():
        folder.add(name, np.ascontiguousarray(rows_of(params, place)).astype(NUMPY[dtype]))
    return folder.finish(config)
