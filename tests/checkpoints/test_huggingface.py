"""Checkpoints of transformers: small random models, saved by it, against what torch computed of them.

`scripts/compare_huggingface.py --fixtures tests/checkpoints/fixtures` makes the files anew; reference.safetensors holds
the versions that did.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.cases import parametrize

from capscale.checkpoints.architecture import parse_config, read_config
from capscale.checkpoints.config_writer import architecture_of, config_of
from capscale.checkpoints.huggingface import load, places, rows_of, save
from capscale.checkpoints.safetensors_file import Tensors, local_path
from capscale.checkpoints.writing import Folder
from capscale.errors import UserError
from capscale.formats.base import NO_CONTEXT
from capscale.models.config import ModelConfig
from capscale.models.decoder import Decoder
from capscale.models.rope import LinearRope, Llama3Rope

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = sorted(path.name for path in FIXTURES.iterdir())
TOLERANCE = 1e-5


@parametrize("name", NAMES, default=["qwen3"])
def test_logits_and_gradients_are_those_of_transformers(name):
    reference = load_file(FIXTURES / name / "reference.safetensors")
    model, params = load(FIXTURES / name)
    tokens = jnp.asarray(reference["tokens"].astype(np.int32))

    def loss(params):
        logits = Decoder(replace(model, dtype="float32")).apply({"params": params}, tokens, NO_CONTEXT)
        logp = jax.nn.log_softmax(logits[:, :-1])
        return -jnp.mean(jnp.take_along_axis(logp, tokens[:, 1:, None], axis=-1)), logits

    gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    found = {"logits": logits} | {f"gradient/{n}": rows_of(gradient, place) for n, place in places(model).items()}
    assert set(found) == set(reference) - {"tokens", "loss"}
    for key, value in found.items():
        np.testing.assert_allclose(value, reference[key], rtol=0, atol=TOLERANCE * np.abs(reference[key]).max())


def test_the_fixtures_use_what_is_read():
    """Grouped heads, tied embeddings, biases, norms a head, heads that are not width / heads, bfloat16, shards."""
    models = {name: load(FIXTURES / name)[0] for name in NAMES}
    assert {model.kv_heads for model in models.values()} == {2}
    assert {name for name, model in models.items() if model.tied_embeddings} == {"llama-biased", "qwen2"}
    assert models["qwen2"].biases == ("query", "key", "value")
    assert len(models["llama-biased"].biases) == 7
    assert models["qwen2"].dtype == "bfloat16"
    assert models["qwen3"].normalised == "per-head"
    assert models["olmo2"].normalised == "all-heads"
    assert models["llama"].head_width == 6
    assert isinstance(models["llama"].rope_scaling, Llama3Rope)
    assert models["llama-biased"].rope_scaling == LinearRope(2.0)
    assert len({entry.path for entry in Tensors(FIXTURES / "qwen3").values()}) == 5


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_reads_back(name, tmp_path):
    model, params = load(FIXTURES / name)
    files = save(tmp_path / "out", model, params)
    assert [file.name for file in files] == ["model.safetensors", "config.json"]
    again, values = load(tmp_path / "out")
    assert replace(again, dtype=model.dtype) == model
    jax.tree.map(np.testing.assert_array_equal, values, params)
    assert architecture_of(again).name == name.partition("-")[0]


def test_shards_are_written_and_read(tmp_path, monkeypatch):
    monkeypatch.setattr("capscale.checkpoints.huggingface.Folder", lambda path: Folder(path, 8_000))
    model, params = load(FIXTURES / "llama")
    files = save(tmp_path / "out", model, params, "bfloat16")
    assert [file.name for file in files[:2]] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    _, values = load(tmp_path / "out")
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(ml_dtypes.bfloat16)), values, params)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(2 * leaf.size for leaf in jax.tree.leaves(params))


def test_a_directory_with_files_is_not_written_into(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="is not an empty directory"):
        save(tmp_path, *load(FIXTURES / "llama"))


CONFIG = json.loads((FIXTURES / "llama" / "config.json").read_text())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mistral"}, "model_type='mistral' is an architecture that is not read; known are llama, qwen2"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not computed here; only 'silu' is"),
        ({"attention_dropout": 0.1}, "attention_dropout=0.1 is not computed here"),
        ({"sliding_window": 4096}, "sliding_window=4096 may change"),
        ({"use_sliding_window": True, "sliding_window": 64}, "use_sliding_window=True is not computed here"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "only full_attention is computed"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type='yarn' is not computed here"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_type='linear' lacks factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "beta": 1}}, "has beta=1, which is not known"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor below 1"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not computed"),
        ({"quantization_config": {"quant_method": "gptq"}}, "weights are packed already .gptq."),
        ({"logits_scaling": 8.0}, "logits_scaling=8.0 may change what the model computes"),
        ({"auto_map": {"AutoModel": "x.py"}}, "auto_map=.* may change"),
        ({"dtype": "float8_e4m3fn"}, "dtype='float8_e4m3fn' is no type of weights"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"num_key_value_heads": 3}, "kv_heads=3 must divide heads=4"),
        ({"hidden_size": "16"}, "width='16' must be a whole number"),
    ],
)
def test_what_the_decoder_does_not_compute_is_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        parse_config(CONFIG | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": [1]},
        {"rope_parameters": {"rope_theta": "far"}},
        {"quantization_config": "gptq"},
        {"layer_types": 5},
        {"num_attention_heads": {}},
        {"model_type": ["llama"]},
        {"rms_norm_eps": 10**400},
    ],
)
def test_fields_of_other_types_are_refused(changes, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | changes))
    with pytest.raises(UserError, match=r"config\.json: "):
        read_config(tmp_path)


@pytest.mark.parametrize("field", ["rope_scaling", "rope_parameters"])
def test_both_spellings_of_long_contexts_are_read(field):
    told = {k: v for k, v in CONFIG.items() if k != "rope_parameters"}
    told |= {field: CONFIG["rope_parameters"], "rope_theta": 500.0}
    if field == "rope_scaling":
        told[field] = {("type" if k == "rope_type" else k): v for k, v in told[field].items() if k != "rope_theta"}
    assert parse_config(told) == parse_config(CONFIG)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlp": "relu2"}, "a model of mlp='relu2' stays here"),
        ({"family": "olmo2", "mlp": "swiglu", "qk_norm": "none"}, "no architecture of transformers has family='olmo2'"),
        ({"biases": ("down",)}, "no architecture of transformers has"),
        ({"family": "olmo2", "mlp": "swiglu", "head_width": 6}, "olmo2 has heads of width / heads"),
    ],
)
def test_a_model_that_transformers_does_not_compute_is_refused(changes, message):
    model = ModelConfig(**{"layers": 1, "heads": 2, "width": 8, "vocabulary": 32, "context": 16} | changes)
    with pytest.raises(UserError, match=message):
        config_of(model, "float32")


def copied(tmp_path, name="llama"):
    place = tmp_path / name
    shutil.copytree(FIXTURES / name, place)
    (place / "reference.safetensors").unlink()
    return place


def altered(place, change):
    tensors = load_file(place / "model.safetensors")
    change(tensors)
    save_file(tensors, place / "model.safetensors")
    return place


NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(NORM), f"1 tensors of config.json are missing, the first '{NORM}'"),
        (lambda t: t.update({NORM: t[NORM][:-1]}), f"'{NORM}' has shape .15,., its config.json says .16,."),
        (lambda t: t.update({NORM: t[NORM].astype(np.int32)}), f"'{NORM}' is of type I32; weights are F32"),
        (lambda t: t.update({NORM: t[NORM].astype(np.float64)}), f"'{NORM}' is of type F64"),
        (lambda t: t.update({"adapter": t[NORM]}), "'adapter' is no tensor of this architecture"),
    ],
)
def test_tensors_that_are_not_of_the_config_are_refused(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load(altered(copied(tmp_path), change))


def test_a_head_beside_tied_embeddings_has_to_be_the_embedding(tmp_path):
    place = altered(copied(tmp_path, "qwen2"), lambda t: t.update({"lm_head.weight": t[EMBEDDING].copy()}))
    jax.tree.map(np.testing.assert_array_equal, load(place), load(FIXTURES / "qwen2"))
    altered(place, lambda t: t.update({"lm_head.weight": t[EMBEDDING] + 1}))
    with pytest.raises(UserError, match=r"lm_head.weight is not the embedding"):
        load(place)


def test_files_that_are_not_whole_are_refused(tmp_path):
    place = copied(tmp_path)
    whole = (place / "model.safetensors").read_bytes()
    for broken in (whole[:-8], whole[:4], b"", b"\xff" * 64, whole + b"0"):
        (place / "model.safetensors").write_bytes(broken)
        with pytest.raises(UserError, match="not a whole safetensors file"):
            load(place)
    (place / "model.safetensors").rename(place / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin may run code when it is read"):
        load(place)
    (place / "config.json").write_text("{")
    with pytest.raises(UserError, match="is not readable JSON"):
        load(place)
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="copy the checkpoint to this machine"):
        local_path("gs://bucket/x")


def test_shards_are_those_of_the_index(tmp_path):
    place = copied(tmp_path, "qwen3")
    index = place / "model.safetensors.index.json"
    content = json.loads(index.read_text())

    def told(changes):
        index.write_text(json.dumps(content | {"weight_map": content["weight_map"] | changes}))
        return place

    with pytest.raises(UserError, match=r"says that model-00001.* holds 'more', and it does not"):
        load(told({"more": "model-00001-of-00005.safetensors"}))
    for name in ("../secret.safetensors", "/etc/passwd", ".hidden", 3):
        with pytest.raises(UserError, match="not the plain name of a file in its directory"):
            load(told({"more": name}))
    told({})
    (place / "model-00003-of-00005.safetensors").unlink()
    with pytest.raises(UserError, match=r"1 of 5 shards are missing: model-00003-of-00005.safetensors"):
        load(place)
    index.write_text("[]")
    with pytest.raises(UserError, match="no index of shards"):
        load(place)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    place = copied(tmp_path, "qwen3")
    shards = sorted(place.glob("model-*.safetensors"))
    save_file({**load_file(shards[0]), **load_file(shards[1])}, shards[0])
    with pytest.raises(UserError, match="is in model-00001"):
        load(place)


def test_the_architecture_is_told(tmp_path):
    architecture, model = read_config(FIXTURES / "qwen3")
    assert (architecture.model_class, model.features_per_head) == ("Qwen3ForCausalLM", 8)
