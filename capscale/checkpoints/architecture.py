"""config.json of Hugging Face as a `ModelConfig`. Whatever changes the function is honoured or refused."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from capscale.errors import UserError
from capscale.files import parse_json, unreadable
from capscale.models.config import ModelConfig, Projection
from capscale.models.rope import LinearRope, Llama3Rope

CONFIG = "config.json"
Family = Literal["llama", "olmo2"]
QKV: tuple[Projection, ...] = ("query", "key", "value")
ATTENTION: tuple[Projection, ...] = (*QKV, "out")
MLP: tuple[Projection, ...] = ("gate", "up", "down")


@dataclass(frozen=True)
class Architecture:
    """One `model_type`: its decoder family, and the defaults of fields that a config.json may leave out.

    The defaults are those of transformers (src/transformers/models/*/configuration_*.py), version 5.24.
    """

    name: str
    model_class: str
    family: Family
    defaults: Mapping[str, Any]
    qk_norm: Literal["none", "all-heads", "per-head"] = "none"
    always_biased: tuple[Projection, ...] = ()


_COMMON = {"hidden_act": "silu", "tie_word_embeddings": False, "rope_theta": 10_000.0, "initializer_range": 0.02}
ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            "llama",
            "LlamaForCausalLM",
            "llama",
            _COMMON | {"rms_norm_eps": 1e-6, "attention_bias": False, "mlp_bias": False, "head_dim": None},
        ),
        Architecture(
            "qwen2",
            "Qwen2ForCausalLM",
            "llama",
            _COMMON | {"rms_norm_eps": 1e-6, "num_key_value_heads": 32, "head_dim": None},
            always_biased=QKV,
        ),
        Architecture(
            "qwen3",
            "Qwen3ForCausalLM",
            "llama",
            _COMMON | {"rms_norm_eps": 1e-6, "num_key_value_heads": 32, "attention_bias": False, "head_dim": 128},
            qk_norm="per-head",
        ),
        Architecture(
            "olmo2",
            "Olmo2ForCausalLM",
            "olmo2",
            _COMMON | {"rms_norm_eps": 1e-5, "attention_bias": False},
            qk_norm="all-heads",
        ),
    )
}

NEEDED = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    "max_position_embeddings",
)
READ = frozenset(NEEDED) | {
    *("model_type", "num_key_value_heads", "head_dim", "rms_norm_eps", "tie_word_embeddings", "initializer_range"),
    *("rope_theta", "rope_scaling", "rope_parameters", "attention_bias", "mlp_bias", "dtype", "torch_dtype"),
}
ONLY: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_dropout": (0, 0.0, None),
    "use_sliding_window": (False, None),
    "partial_rotary_factor": (1, 1.0, None),
    "is_decoder": (True, False, None),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "pruned_heads": ({}, None),
    "chunk_size_feed_forward": (0, None),
}
"""Fields that change the function, and the values of them that the decoder here computes."""
NO_FUNCTION = frozenset(
    word
    for line in (
        "architectures transformers_version _name_or_path use_cache bos_token_id eos_token_id pad_token_id",
        "sep_token_id decoder_start_token_id pretraining_tp max_window_layers return_dict",
        "output_hidden_states output_attentions torchscript use_bfloat16 tie_encoder_decoder",
        "cross_attention_hidden_size prefix tokenizer_class task_specific_params problem_type finetuning_task",
        "id2label label2id min_length max_length do_sample early_stopping num_beams num_beam_groups",
        "diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty",
        "no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores",
        "return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values",
        "suppress_tokens begin_suppress_tokens exponential_decay_length_penalty tf_legacy_loss",
        "_attn_implementation_autoset",
    )
    for word in line.split()
)
"""Fields of generation, of training and of other classes, which the logits of tokens do not depend on."""


def read_config(directory: Path) -> tuple[Architecture, ModelConfig]:
    """The decoder that config.json of a checkpoint describes.

    Raises:
      UserError: no such file, an architecture or a value of a field that the decoder does not compute, and any field
        that is not known, by name.
    """
    path = directory / CONFIG
    try:
        found = parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; a checkpoint is a directory of {CONFIG} and safetensors") from error
    except OSError as error:
        raise UserError(unreadable(path, error)) from error
    except ValueError as error:
        raise UserError(f"{path} is not readable JSON ({str(error)[:120]}); fetch it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds {type(found).__name__}, not a JSON object; fetch it again")
    try:
        return parse_config(found)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path}: a field is of another type than transformers writes ({error}); fetch it again"
        ) from error


def parse_config(found: Mapping[str, Any]) -> tuple[Architecture, ModelConfig]:
    """`read_config` of the content of config.json."""
    name = found.get("model_type")
    if name not in ARCHITECTURES:
        raise UserError(
            f"model_type={name!r} is an architecture that is not read; known are {', '.join(ARCHITECTURES)}"
        )
    architecture = ARCHITECTURES[name]
    _check_fields(found)
    fields: dict[str, Any] = {"num_key_value_heads": None} | dict(architecture.defaults) | dict(found)
    if missing := [field for field in NEEDED if fields.get(field) is None]:
        raise UserError(f"{missing[0]} is missing")
    theta, scaling = _rope(fields)
    heads, width = fields["num_attention_heads"], fields["hidden_size"]
    biases = architecture.always_biased
    biases += ATTENTION if fields.get("attention_bias") else ()
    biases += MLP if fields.get("mlp_bias") else ()
    dtype = fields.get("dtype") or fields.get("torch_dtype") or "float32"
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UserError(f"dtype={dtype!r} is no type of weights here; known are float32, bfloat16 and float16")
    kv_heads, head_width = fields["num_key_value_heads"], fields.get("head_dim")
    model = ModelConfig(
        layers=fields["num_hidden_layers"],
        heads=heads,
        width=width,
        vocabulary=fields["vocab_size"],
        context=fields["max_position_embeddings"],
        tied_embeddings=fields["tie_word_embeddings"],
        dtype="bfloat16" if dtype == "bfloat16" else "float32",
        init_std=fields["initializer_range"],
        rope_theta=theta,
        norm_epsilon=fields["rms_norm_eps"],
        family=architecture.family,
        kv_heads=None if kv_heads == heads else kv_heads,
        head_width=head_width,
        feed_forward_width=fields["intermediate_size"],
        mlp="swiglu" if architecture.family == "olmo2" else None,
        qk_norm="per-head" if architecture.qk_norm == "per-head" else None,
        biases=biases,
        rope_scaling=scaling,
    )
    usual = head_width is not None and head_width * heads == width
    return architecture, replace(model, head_width=None) if usual else model


def _check_fields(found: Mapping[str, Any]) -> None:
    """Raises for fields whose value the decoder does not compute, or that nobody here knows."""
    if quantization := found.get("quantization_config"):
        method = quantization.get("quant_method")
        raise UserError(
            f"quantization_config: weights are packed already ({method}); read the dense checkpoint instead"
        )
    for field, values in ONLY.items():
        if field in found and found[field] not in values:
            raise UserError(f"{field}={found[field]!r} is not computed here; only {values[0]!r} is")
    types = found.get("layer_types")
    if types is not None and set(types) != {"full_attention"}:
        raise UserError(f"layer_types={sorted(set(types))}: only full_attention is computed here")
    unknown = [
        field
        for field, value in found.items()
        if field not in READ | NO_FUNCTION | set(ONLY) | {"layer_types", "sliding_window", "quantization_config"}
        and value is not None
    ]
    if found.get("sliding_window") is not None and "use_sliding_window" not in found:
        unknown.append("sliding_window")
    if unknown:
        raise UserError(
            f"{unknown[0]}={found[unknown[0]]!r} may change what the model computes, and is not known here; "
            "take it out of the file where it does not"
        )


def _rope(fields: Mapping[str, Any]) -> tuple[float, LinearRope | Llama3Rope | None]:
    """Base of the wavelengths, and how they are stretched: of transformers 5, or in the two fields of before."""
    told = dict(fields.get("rope_parameters") or fields.get("rope_scaling") or {})
    theta = float(told.pop("rope_theta", None) or fields["rope_theta"])
    kind = told.pop("rope_type", None) or told.pop("type", None) or "default"
    told.pop("type", None)
    if told.pop("partial_rotary_factor", 1.0) != 1.0:
        raise UserError("partial_rotary_factor below 1 is not computed here")
    read: dict[str, tuple[str, ...]] = {
        "default": (),
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    }
    if kind not in read:
        raise UserError(f"rope_type={kind!r} is not computed here; known are {', '.join(read)}")
    if missing := [field for field in read[kind] if field not in told]:
        raise UserError(f"rope_type={kind!r} lacks {missing[0]}")
    if unknown := sorted(set(told) - set(read[kind])):
        raise UserError(f"rope_type={kind!r} has {unknown[0]}={told[unknown[0]]!r}, which is not known here")
    numbers = [told[field] for field in read[kind]]
    return theta, {"linear": LinearRope, "llama3": Llama3Rope}[kind](*numbers) if numbers else None
