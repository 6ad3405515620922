"""Decoders packed matrix by matrix: values bit for bit, bytes as described, and layouts of others by policy."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capscale.checkpoints import compressed_tensors, gguf_file
from capscale.checkpoints.export import export, with_policy, with_weights
from capscale.checkpoints.huggingface import load, places, rows_of
from capscale.checkpoints.rounding import in_format
from capscale.checkpoints.safetensors_file import Tensors
from capscale.checkpoints.source import Source, read_source
from capscale.cli import main
from capscale.errors import UserError
from capscale.formats import packing
from capscale.formats.catalog import find
from capscale.models.config import ModelConfig
from capscale.models.coverage import parameters
from capscale.models.initial import initial_params
from capscale.policy_names import find_policy
from capscale.representation import DENSE

pytestmark = pytest.mark.ci

MODEL = ModelConfig(3, 2, 32, 64, 16, feed_forward_width=64, kv_heads=1, dtype="float32", init_std=0.3)
RULES = (
    "layers/0/.*=dense",
    "layers/(1|2)/mlp/(up|gate)/kernel=2:4+int4",
    "layers/1/mlp/down/.*=top50",
    "layers/2/.*=nvfp4 x int8",
    "embedding=int8",
    "head=mxfp4",
    ".*=int3 hadamard 16 signs 5",
)
POLICY = find_policy(RULES)
OTHERS = find_policy(["layers/0/.*=dense", "layers/1/mlp/.*=nvfp4", ".*=mxfp4"])


@cache
def params(model):
    return jax.jit(lambda key: initial_params(model, DENSE, key))(jax.random.key(0))


def source(model=MODEL, **changes):
    return Source(Path("here"), model, params(model), DENSE, **changes)


def leaves(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.fixture(scope="module", params=[False, True], ids=["own head", "tied"])
def mixed(request):
    rules = POLICY if not request.param else tuple(rule for rule in POLICY if rule.pattern != "head")
    return with_policy(source(replace(MODEL, tied_embeddings=request.param)), rules), rules


def test_values_come_back_bit_for_bit(mixed, tmp_path):
    held, rules = mixed
    export(held, "capscale", tmp_path / "out", "float32")
    read = read_source(tmp_path / "out")
    found, expected = leaves(read.held()), leaves(held.held())
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, path)
    assert (
        (read.model, read.inputs, read.policy)
        == (held.model, held.inputs, held.policy)
        == (held.model, held.inputs, rules)
    )
    assert read.weights_name == held.weights_name


def exact(tensor):
    """Whether all of its fields are of whole bits: of six patterns of 2:4 many are one number, rounded up to bytes."""
    fields = tensor.format.layout(tensor.shape, tensor.dtype)
    return all(field.radix & (field.radix - 1) == 0 for field in fields)


def test_bytes_are_those_that_describe_tells(mixed, tmp_path):
    held, rules = mixed
    written = export(held, "capscale", tmp_path / "out", "bfloat16")
    packed = packing.load(tmp_path / "out" / "packed.safetensors")
    assert sum(tensor.nbytes for tensor in packed.values()) == written.packed_bytes + written.other_bytes
    compared = 0
    for leaf in parameters(held.model, rules):
        stack, layers, *rest = [*leaf.path.split("/", 2), ""]
        first, _, last = layers.partition("-")
        numbers = range(int(first), int(last or first) + 1) if first.isdecimal() else ()
        names = [f"{stack}/{n}/{rest[0]}" for n in numbers] or [leaf.path]
        size = sum(packed[name].nbytes for name in names)
        if all(exact(packed[name]) for name in names):
            assert size == leaf.bytes, leaf.path
            compared += 1
        else:
            assert leaf.format == "2:4+int4"
            assert 0 <= size - leaf.bytes < 3 * len(names), "three fields, each up to a whole byte"
    assert compared > 15
    assert packed["layers/2/mlp/up/kernel"].format == find("2:4+int4")
    assert packed["embedding"].format == find("int8")


@pytest.mark.parametrize("weights", ["int4", "top50"])
def test_one_format_for_all_is_packed_too(weights, tmp_path):
    held = with_weights(source(), find(weights))
    export(held, "capscale", tmp_path / "out")
    read = read_source(tmp_path / "out")
    for path, value in leaves(held.held()).items():
        np.testing.assert_array_equal(leaves(read.held())[path], value, path)
    assert (read.weights_name, read.policy) == (weights, ())


def test_packed_weights_are_not_rounded_again_and_their_values_written(mixed, tmp_path):
    held, rules = mixed
    export(held, "capscale", tmp_path / "out", "float32")
    read = read_source(tmp_path / "out")
    for round_again in (
        lambda: in_format(read, find("int4")),
        lambda: with_policy(read, rules),
        lambda: export(read, "capscale", tmp_path / "again"),
        lambda: export(read, "gguf", tmp_path / "again"),
    ):
        with pytest.raises(UserError, match=r"is packed in layers/0/.*, and would be rounded twice; give the run"):
            round_again()
    export(read, "hf", tmp_path / "values", "float32")
    _, written = load(tmp_path / "values")
    for path, value in leaves(held.held()).items():
        np.testing.assert_array_equal(leaves(written)[path], value, path)


def test_what_is_damaged_is_refused(tmp_path):
    out = tmp_path / "out"
    export(with_policy(source(), POLICY), "capscale", out, "float32")
    described, tensors = (out / "packed.json").read_text(), packing.load(out / "packed.safetensors")
    (out / "packed.json").write_text(described.replace('"batch":1', '"batch":2').replace('"batch": 1', '"batch": 2'))
    with pytest.raises(UserError, match=r"packed.json was altered after it was written"):
        read_source(out)
    (out / "packed.json").write_text(described)
    name = "layers/1/mlp/up/kernel"
    packing.save(out / "packed.safetensors", {key: value for key, value in tensors.items() if key != name})
    with pytest.raises(UserError, match=f"{name} is missing"):
        read_source(out)
    other = packing.pack(find("int8"), jnp.ones((64, 32)))
    packing.save(out / "packed.safetensors", tensors | {name: other})
    with pytest.raises(UserError, match=rf"{name} is int8 of shape \(64, 32\), and packed.json says 2:4\+int4"):
        read_source(out)
    packing.save(out / "packed.safetensors", tensors | {"layers/9/mlp/up/kernel": other})
    with pytest.raises(UserError, match="layers/9/mlp/up/kernel is no tensor of it"):
        read_source(out)
    with pytest.raises(UserError, match="a packed model, which has no steps"):
        read_source(out, step=3)


def test_noise_and_dense_weights_are_packed_nowhere(tmp_path):
    for rules, message in ((["layers/1/.*=noise2", ".*=int4"], "noise2 draws"), ([".*=dense"], "these are dense")):
        with pytest.raises(UserError, match=message):
            export(with_policy(source(), find_policy(rules)), "capscale", tmp_path / "out")
        assert not list((tmp_path).glob("out/*"))


def test_compressed_tensors_names_the_modules_of_each_format(tmp_path):
    held = with_policy(source(), OTHERS)
    written = export(held, "compressed-tensors", tmp_path / "out", "float32")
    assert written.layout == "mxfp4-pack-quantized, nvfp4-pack-quantized"
    told = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert told["format"] == "mixed-precision"
    groups = {group["format"]: group["targets"] for group in told["config_groups"].values()}
    linear = {name.removesuffix(".weight"): place for name, place in places(MODEL).items() if place.is_kernel}
    assert groups["nvfp4-pack-quantized"] == [f"model.layers.1.mlp.{name}_proj" for name in ("gate", "up", "down")]
    assert set(told["ignore"]) == {"lm_head", *(name for name, place in linear.items() if place.layer == 0)}
    assert sorted([*groups["nvfp4-pack-quantized"], *groups["mxfp4-pack-quantized"], *told["ignore"]]) == sorted(
        [*linear, "lm_head"]
    )
    tensors, rows = (
        Tensors(tmp_path / "out"),
        rows_of(held.params, linear["model.layers.1.mlp.up_proj"]),
    )
    for part, value in compressed_tensors.encode(find("nvfp4"), rows, np.dtype(np.float32)).items():
        assert tensors.read(f"model.layers.1.mlp.up_proj.{part}").tobytes() == np.asarray(value).tobytes()
    np.testing.assert_array_equal(
        tensors.read("model.layers.0.mlp.up_proj.weight"), rows_of(held.params, linear["model.layers.0.mlp.up_proj"])
    )


def test_torchao_and_gguf_say_each_tensors_type(tmp_path):
    held = with_policy(source(), OTHERS)
    export(held, "torchao", tmp_path / "torchao")
    said = Tensors(tmp_path / "torchao").metadata
    kinds = {name: json.loads(said[name])["_type"] for name in json.loads(said["tensor_names"])}
    assert kinds["model.layers.0.mlp.up_proj.weight"] == kinds["lm_head.weight"] == "Tensor"
    assert kinds["model.layers.1.mlp.up_proj.weight"] == "NVFP4Tensor"
    assert kinds["model.layers.2.mlp.up_proj.weight"] == "MXTensor"
    mixed = find_policy(["embedding=q5_0", "layers/0/.*=dense", "layers/1/.*=q4_0", ".*=mxfp4"])
    written = export(with_policy(source(), mixed), "gguf", tmp_path / "gguf", "bfloat16")
    tensors = gguf_file.read(written.files[0]).tensors
    names = ("token_embd.weight", "blk.0.ffn_up.weight", "blk.1.ffn_up.weight", "blk.2.ffn_up.weight", "output.weight")
    assert [tensors[name].kind.name for name in names] == ["Q5_0", "BF16", "Q4_0", "MXFP4", "BF16"]
    assert written.packed_bytes == sum(t.nbytes for t in tensors.values() if t.kind.name in ("Q5_0", "Q4_0", "MXFP4"))
    for container in ("torchao", "compressed-tensors"):
        with pytest.raises(UserError, match=f"{container} keeps embedding as it is, and it is held in q5_0"):
            export(with_policy(source(), mixed), container, tmp_path / "no")


def test_the_command(tmp_path, capsys):
    place, rules = tmp_path / "in", tmp_path / "rules.txt"
    export(source(), "hf", place)
    rules.write_text("# first\n\n" + "\n".join(RULES) + "\n")
    words = ["export", str(place), "--policy", str(rules), "--as", "capscale", "--dtype", "bfloat16", "--out"]
    assert main([*words, str(tmp_path / "out"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["weights"] == "; ".join(RULES)
    described = sum(leaf.bytes for leaf in parameters(MODEL, POLICY))
    assert content["packed_bytes"] + content["other_bytes"] == pytest.approx(described, abs=12)
    assert "activations" in content["remark"]
    assert main([*words, str(tmp_path / "again"), "--weights", "int4"]) == 2
    assert "--policy says the format of every matrix" in capsys.readouterr().err
    words[3] = "layers/9/.*=int4"
    assert main([*words, str(tmp_path / "again")]) == 2
    assert "rule 'layers/9/.*' matches no parameter" in capsys.readouterr().err
    assert main(["audit", str(tmp_path / "out" / "packed.safetensors")]) == 0
    assert "2:4+int4" in capsys.readouterr().out
