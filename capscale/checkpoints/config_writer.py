"""A `ModelConfig` as config.json of Hugging Face: which architecture of transformers computes it, and its fields."""

from typing import Any, cast

from capscale.checkpoints.architecture import ARCHITECTURES, ATTENTION, MLP, QKV, Architecture
from capscale.errors import UserError
from capscale.models.config import ModelConfig
from capscale.models.rope import LinearRope, Llama3Rope


def architecture_of(model: ModelConfig) -> Architecture:
    """The architecture of transformers that computes `model`; `UserError` where there is none."""
    gated, norm = model.gated, model.normalised
    parts = set(model.biases)
    attention, mlp = parts - set(MLP), parts & set(MLP)
    if not gated:
        raise UserError(
            "no architecture of transformers has feed-forward layers of squared ReLUs and these norms: a model of "
            "mlp='relu2' stays here"
        )
    if model.family == "olmo2" and norm == "all-heads" and not mlp and attention in (set(), set(ATTENTION)):
        return ARCHITECTURES["olmo2"]
    if model.family == "llama" and norm == "per-head" and not mlp and attention in (set(), set(ATTENTION)):
        return ARCHITECTURES["qwen3"]
    if model.family == "llama" and norm == "none":
        if attention == set(QKV) and not mlp:
            return ARCHITECTURES["qwen2"]
        if attention in (set(), set(ATTENTION)) and mlp in (set(), set(MLP)):
            return ARCHITECTURES["llama"]
    raise UserError(
        f"no architecture of transformers has family={model.family!r} with qk_norm={norm!r} and biases={model.biases}; "
        f"those that are written are {', '.join(ARCHITECTURES)}"
    )


def config_of(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """Content of config.json, which `read_config` and transformers read; `UserError` where no architecture fits."""
    architecture = architecture_of(model)
    content: dict[str, Any] = {
        "architectures": [architecture.model_class],
        "model_type": architecture.name,
        "vocab_size": model.vocabulary,
        "hidden_size": model.width,
        "intermediate_size": model.hidden,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.keys_and_values,
        "max_position_embeddings": model.context,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_epsilon,
        "rope_theta": model.rope_theta,
        "rope_scaling": _written(model.rope_scaling),
        "tie_word_embeddings": model.tied_embeddings,
        "initializer_range": model.init_std,
        "attention_dropout": 0.0,
        "use_cache": True,
        "torch_dtype": dtype,
    }
    if architecture.name != "qwen2":
        content["attention_bias"] = "query" in model.biases
    if architecture.name == "llama":
        content["mlp_bias"] = "up" in model.biases
    if architecture.name in ("llama", "qwen2", "qwen3"):
        content["head_dim"] = model.features_per_head
    elif model.features_per_head * model.heads != model.width:
        raise UserError(f"{architecture.name} has heads of width / heads, and head_width={model.head_width}")
    if architecture.name in ("qwen2", "qwen3"):
        content["use_sliding_window"] = False
    return content


def _written(scaling: LinearRope | Llama3Rope | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    if isinstance(scaling, LinearRope):
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low,
        "high_freq_factor": scaling.high,
        "original_max_position_embeddings": cast(int, scaling.context),
    }
