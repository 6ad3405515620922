"""Runs and checkpoints exported: values and codes are those that the decoder computes with."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from support import tiny

from capscale.checkpoints import gguf_file
from capscale.checkpoints.export import export, with_weights
from capscale.checkpoints.gguf_model import interleaved
from capscale.checkpoints.huggingface import load, places, rows_of
from capscale.checkpoints.source import Source, read_source
from capscale.cli import main
from capscale.errors import UserError
from capscale.formats.base import NO_CONTEXT, Context
from capscale.formats.catalog import find
from capscale.models.config import ModelConfig
from capscale.models.decoder import Decoder
from capscale.models.initial import initial_params
from capscale.models.rope import LinearRope, Llama3Rope
from capscale.representation import DENSE, Operand, Representation, operand

pytestmark = pytest.mark.ci

FIXTURES = Path(__file__).parent / "fixtures"
MODEL = ModelConfig(2, 2, 32, 64, 16, feed_forward_width=64, kv_heads=1, dtype="float32", init_std=0.3)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 64, (2, 12)), jnp.int32)


@cache
def params(model):
    return jax.jit(lambda key: initial_params(model, DENSE, key))(jax.random.key(0))


def source(model=MODEL, **changes):
    return Source(Path("here"), model, params(model), DENSE, **changes)


def compressed(name, **changes):
    return with_weights(source(**changes), find(name))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run, int4 in a rotated basis."""
    directory = tmp_path_factory.mktemp("run")
    tiny.train_one(tiny.run(), directory)
    return directory


def test_a_run_is_exported_as_its_decoder_computes(run, tmp_path):
    found = read_source(run)
    assert (found.model, found.weights) == (tiny.MODEL, tiny.INT4)
    written = export(found, "hf", tmp_path / "out")
    assert written.bits is None
    model, params = load(tmp_path / "out")
    tokens = TOKENS[:, :12]
    plain = Decoder(model).apply({"params": params}, tokens, NO_CONTEXT)
    trained = Decoder(tiny.MODEL, tiny.INT4).apply({"params": found.params}, tokens, Context(jnp.float32(1)))
    np.testing.assert_allclose(plain, trained, rtol=1e-5, atol=1e-5)
    dense = Decoder(tiny.MODEL).apply({"params": found.params}, tokens, NO_CONTEXT)
    assert np.abs(plain - dense).max() > 1e-2, "the test can fail"


def test_a_run_in_a_rotated_basis_is_packed_nowhere(run, tmp_path):
    with pytest.raises(UserError, match=r"rotated in blocks of 8; the nearest is --as hf"):
        export(read_source(run), "compressed-tensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"was trained in int4; leave --weights out"):
        with_weights(read_source(run), find("mxfp4"))
    assert with_weights(read_source(run), find("int4")).weights == tiny.INT4


@pytest.mark.parametrize("weights", ["rigl50", pytest.param("lsq4", marks=pytest.mark.ci), "2:4"])
def test_state_and_learned_steps_of_a_run_are_read(weights, tmp_path):
    representation = Representation(operand(weights), operand("int8", per_token=True))
    tiny.train_one(tiny.run(representation=representation), tmp_path / "run")
    found = read_source(tmp_path / "run")
    assert found.compressed_activations
    held = found.held()
    kernels = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(held) if path[-1].key == "kernel"]
    if weights == "lsq4":
        assert max(len(np.unique(kernel[0])) for kernel in kernels) <= 16
        with pytest.raises(UserError, match="its learned steps"):
            export(found, "gguf", tmp_path / "out")
    else:
        assert all(np.mean(np.asarray(kernel) == 0) == pytest.approx(0.5, abs=0.01) for kernel in kernels)


def test_runs_without_a_whole_checkpoint_are_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"no run.json and no config.json"):
        read_source(tmp_path)
    (tmp_path / "run.json").write_text((run / "run.json").read_text())
    with pytest.raises(UserError, match="no checkpoint kept"):
        read_source(tmp_path)
    (tmp_path / "run.json").write_text('{"type": "Run"}')
    with pytest.raises(UserError, match="describes no run"):
        read_source(tmp_path)
    described = json.loads((run / "run.json").read_text())
    described["representation"]["weights"]["format"] = {"type": "SignMax"}
    (tmp_path / "run.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match="unknown format class 'SignMax'"):
        read_source(tmp_path)
    (tmp_path / "out" / "runs" / "0123").mkdir(parents=True)
    (tmp_path / "out" / "runs" / "0123" / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"it has runs below it, such as .*0123"):
        read_source(tmp_path / "out")


def test_rounded_values_are_those_of_project(tmp_path):
    found = compressed("nvfp4")
    export(found, "hf", tmp_path / "out", "bfloat16")
    _, params = load(tmp_path / "out")
    for name, place in places(MODEL).items():
        rows = jnp.asarray(rows_of(found.params, place))
        expected = find("nvfp4").project(rows, NO_CONTEXT).value if place.is_kernel else rows
        np.testing.assert_array_equal(rows_of(params, place), expected.astype(jnp.bfloat16).astype(jnp.float32), name)


@pytest.mark.parametrize(
    ("container", "weights", "bits"),
    [
        ("compressed-tensors", "mxfp4", 4.25),
        ("compressed-tensors", "absmax-twos-int4-g32-bf16", 4.5),
        ("torchao", "mxfp8-e4m3", 8.25),
        ("gguf", "q4_0", 4.5),
    ],
)
def test_packed_files_hold_the_bits_of_the_format(container, weights, bits, tmp_path):
    written = export(compressed(weights), container, tmp_path / "out", "bfloat16")
    shapes = 16 if weights.startswith("absmax") else 0  # compressed-tensors keeps a shape of two int64 a layer
    matrices = sum(place.is_kernel for place in places(MODEL).values())
    assert find(weights).bits == bits
    assert written.bits == pytest.approx(bits + 8 * shapes * matrices / written.packed_values)
    on_disk = sum(file.stat().st_size for file in written.files)
    assert 0 < on_disk - written.packed_bytes - written.other_bytes < 14_000, "headers alone"


@pytest.mark.parametrize(("container", "copied"), [("hf", True), ("torchao", True), ("gguf", False)])
def test_the_tokenizer_beside_a_checkpoint_is_copied(container, copied, tmp_path):
    before, out = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    for name in ("tokenizer.json", "merges.txt", "notes.txt"):
        (before / name).write_bytes(name.encode())
    written = export(compressed("mxfp4")._replace(path=before), container, out)
    names = {"tokenizer.json", "merges.txt"} if copied else set()
    assert {path.name for path in written.files if path.suffix in (".json", ".txt")} - {"config.json"} == names
    assert all((out / name).read_bytes() == name.encode() for name in names)
    assert not (out / "notes.txt").exists()


def test_dense_weights_are_packed_nowhere(tmp_path):
    with pytest.raises(UserError, match=r"these are dense; name a format by --weights"):
        export(source(), "gguf", tmp_path / "out")


def test_rows_that_are_no_blocks_are_refused_before_anything_is_written(tmp_path):
    narrow = replace(MODEL, width=16, feed_forward_width=32)
    with pytest.raises(UserError, match=r"gguf: rows of 16 values \(model.layers.0.self_attn.q_proj.weight\)"):
        export(compressed("q4_0", model=narrow), "gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"does not divide 16"):
        export(compressed("mxfp4", model=narrow), "torchao", tmp_path / "out")


@pytest.mark.parametrize("scaling", [None, LinearRope(4.0), Llama3Rope(8.0, 1.0, 4.0, 16)], ids=str)
def test_gguf_tells_the_shape(scaling, tmp_path):
    model = replace(MODEL, rope_scaling=scaling, tied_embeddings=True)
    (path,) = export(compressed("q4_0", model=model), "gguf", tmp_path / "out").files
    found = gguf_file.read(path)
    assert found.metadata["llama.attention.head_count_kv"] == 1
    assert found.metadata["llama.rope.freq_base"] == 10_000.0
    assert "output.weight" not in found.tensors
    assert {t.kind.name for name, t in found.tensors.items() if "ffn_up" in name} == {"Q4_0"}
    assert ("rope_freqs.weight" in found.tensors) == isinstance(scaling, Llama3Rope)
    assert found.metadata.get("llama.rope.scaling.factor") == (4.0 if isinstance(scaling, LinearRope) else None)


def test_the_gguf_package_reads_the_file(tmp_path):
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install gguf")
    found = compressed("q4_0")
    (path,) = export(found, "gguf", tmp_path / "out").files
    read = gguf.GGUFReader(path)
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in read.tensors}
    assert set(tensors) == set(gguf_file.read(path).tensors)
    held = found.held()
    rows = rows_of(held, places(MODEL)["model.layers.1.mlp.up_proj.weight"])
    np.testing.assert_array_equal(tensors["blk.1.ffn_up.weight"], rows)
    query = rows_of(held, places(MODEL)["model.layers.0.self_attn.q_proj.weight"])
    np.testing.assert_array_equal(tensors["blk.0.attn_q.weight"], interleaved(query, MODEL.heads))
    assert read.fields["llama.block_count"].contents() == 2
    np.testing.assert_array_equal(tensors["output_norm.weight"], found.params["final_norm"]["gain"])


def test_the_command_writes_and_tells(tmp_path, capsys):
    place = tmp_path / "in"
    export(source(), "hf", place)
    to = str(tmp_path / "out")
    words = ["export", str(place), "--weights", "mxfp4", "--as", "compressed-tensors", "--out", to]
    assert main(words) == 0
    assert "mxfp4 as mxfp4-pack-quantized: 4.2500 bits a value" in capsys.readouterr().out
    assert "model.layers.1.mlp.up_proj.weight_packed" in load_file(Path(to) / "model.safetensors")
    assert json.loads((Path(to) / "config.json").read_text())["quantization_config"]["format"] == "mxfp4-pack-quantized"
    assert main([*words[:-1], str(tmp_path / "more"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bits"] == 4.25


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A dense checkpoint ("in") and a packed one ("out")."""
    into = {name: tmp_path_factory.mktemp("exported") / name for name in ("in", "out")}
    export(source(), "hf", into["in"])
    export(compressed("mxfp4"), "compressed-tensors", into["out"])
    return into


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{in}", "--as", "gguf", "--weights", "int4"], "gguf cannot hold int4"),
        (["{in}", "--as", "gguf"], "these are dense; name a format"),
        (["{in}", "--as", "gguf", "--weights", "int44"], "int44"),
        (["{in}/nowhere", "--as", "hf"], "no run.json and no config.json"),
        (["gs://bucket/x", "--as", "hf"], "copy the checkpoint to this machine"),
        (["{out}", "--as", "hf"], "is no tensor of this architecture|weights are packed already"),
    ],
)
def test_bad_input_is_status_2(words, message, exported, tmp_path, capsys):
    given = [word.format(**exported) for word in words]
    assert main(["export", *given, "--out", str(tmp_path / "new")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("capscale: ")
    assert re.search(message, err)
    assert not (tmp_path / "new").exists()


def test_operands_of_the_fixtures_are_all_compressed():
    model, _ = load(FIXTURES / "llama-biased")
    assert sum(place.is_kernel for place in places(model).values()) == 7 * model.layers
    assert Representation(Operand(find("int4"))).weights.format == find("int4")
