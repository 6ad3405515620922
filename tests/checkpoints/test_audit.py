"""Audits: errors against a direct computation, packed files against what wrote them, and when a capacity is told."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels.hadamard import rotate
from safetensors.numpy import save_file

from capscale.checkpoints import audit as auditing
from capscale.checkpoints.audit import Audited, audited, overall, paper_curve
from capscale.checkpoints.export import export, with_weights
from capscale.checkpoints.packed_files import Stored, stored_tensors
from capscale.checkpoints.source import Source
from capscale.cli import main
from capscale.errors import UserError
from capscale.formats import packing
from capscale.formats.base import NO_CONTEXT
from capscale.formats.catalog import find
from capscale.formats.rotation import turned
from capscale.gaussian_mse import gmse, gmse_of_shape
from capscale.models.assigned import assigned, weights_alone
from capscale.models.config import ModelConfig
from capscale.models.initial import initial_params
from capscale.models.parametrized import stored, with_matrices
from capscale.policy_names import find_policy
from capscale.representation import DENSE

RNG = np.random.default_rng(0)
GAUSSIAN = RNG.standard_normal((48, 256)).astype(np.float32)
SPIKY = (RNG.standard_normal((48, 256)) ** 5).astype(np.float32)
NAMES = ("int4", "nvfp4", "ternary-mean", "higgs-d2-n16")
FORMATS = {name: find(name) for name in NAMES}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = {"gaussian": GAUSSIAN, "spiky": SPIKY, "conv": GAUSSIAN.reshape(48, 64, 4), "bias": SPIKY[0]}
    save_file({**tensors, "zeros": np.zeros((4, 64), np.float32), "ids": np.zeros((4, 4), np.int32)}, path)
    return path


def of(path, formats=FORMATS, hadamard=None, signs=None):
    return {one.name: audited(one, formats, hadamard, signs) for one in stored_tensors(path)}


def relative(format, x):
    value = np.asarray(format.project(jnp.asarray(x), NO_CONTEXT).value, np.float64)
    return np.square(value - x).sum() / np.square(x, dtype=np.float64).sum()


@pytest.mark.parametrize("stretch", [1 << 22, 1000], ids=["whole", "in stretches"])
def test_errors_and_kurtosis_are_those_of_the_tensor(stretch, file, monkeypatch):
    monkeypatch.setattr(auditing, "STRETCH", stretch)
    found = of(file)
    for name, x in (("gaussian", GAUSSIAN), ("spiky", SPIKY), ("conv", GAUSSIAN)):
        for label, format in FORMATS.items():
            assert found[name].errors[label].error == pytest.approx(relative(format, x), rel=1e-5)
        centred = x.astype(np.float64) - x.mean(dtype=np.float64)
        assert found[name].kurtosis == pytest.approx((centred**4).mean() / (centred**2).mean() ** 2)
    assert found["conv"].shape == (48, 64, 4)
    assert not found["bias"].errors
    assert not found["ids"].errors
    assert found["zeros"].errors["int4"].reason == "all its values are zero"


def test_a_capacity_is_told_where_the_error_is_that_of_gaussian_values(file):
    found = of(file)
    near, far = found["gaussian"].errors["int4"], found["spiky"].errors["int4"]
    assert near.ratio == pytest.approx(1, abs=0.1)
    assert near.rho == pytest.approx(float(paper_curve().rho(gmse(find("int4")).value)))
    assert far.ratio > 2
    assert far.rho is None
    assert far.reason == "GMSE is not the error that these values feel"


def test_rotated_rows_look_gaussian(file):
    error = of(file, hadamard=256)["spiky"].errors["int4"]
    assert error.error == pytest.approx(relative(find("int4"), np.asarray(rotate(jnp.asarray(SPIKY), 256))), rel=1e-4)
    assert error.rho is not None


def test_random_signs_spread_what_lies_along_a_row_of_the_rotation(tmp_path):
    file, x = tmp_path / "flat.safetensors", np.ones((4, 256), np.float32)
    save_file({"flat": x}, file)
    plain, signed = (of(file, hadamard=256, signs=signs)["flat"].errors["int4"] for signs in (None, 3))
    expected = relative(find("int4"), np.asarray(turned(jnp.asarray(x), 256, 3)))
    assert signed.error == pytest.approx(expected, rel=1e-5)
    assert signed.ratio == pytest.approx(1, abs=0.3)
    assert plain.ratio > 10


def test_all_tensors_count_by_their_energy(file):
    found = list(of(file).values())
    total = overall(found, "int4")
    squares = [float(np.square(x, dtype=np.float64).sum()) for x in (GAUSSIAN, SPIKY, GAUSSIAN)]
    errors = [relative(find("int4"), x) for x in (GAUSSIAN, SPIKY, GAUSSIAN)]
    assert total is not None
    assert total.error == pytest.approx(np.average(errors, weights=squares), rel=1e-5)
    assert overall([], "int4") is None


def test_the_curve_is_near_the_printed_capacities():
    """Figure 6 of arXiv 2506.01863: 0.21, 0.45 (or 0.48), 0.74 and 0.90 of weights of 1 to 4 bits."""
    for bits, rho in ((1, 0.21), (2, 0.45), (3, 0.74), (4, 0.90)):
        assert float(paper_curve().rho(gmse(find(f"int{bits}")).value)) == pytest.approx(rho, abs=0.04)


def test_groups_that_do_not_divide_are_told(file):
    error = of(file, {"g": find("int4-g128"), "odd": find("absmax-int4-g48")})["gaussian"].errors
    assert error["g"].error > 0
    assert "group=48 does not divide 256" in error["odd"].reason


def test_nan_is_refused(tmp_path):
    save_file({"x": np.full((4, 4), np.nan, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="'x' holds NaN or infinity"):
        of(tmp_path / "x.safetensors")


MODEL = ModelConfig(1, 2, 32, 64, 16, feed_forward_width=64, dtype="float32", init_std=0.3)
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("container", "weights", "said", "bits"),
    [
        pytest.param("compressed-tensors", "mxfp4", "mxfp4-pack-quantized float4 g32", 4.25, marks=pytest.mark.ci),
        ("compressed-tensors", "absmax-twos-int3-g32", "pack-quantized int3 g32", 4.0),
        ("compressed-tensors", "absmax-twos-int8", "pack-quantized int8 channel", 9.0),
        ("compressed-tensors", "absmax-e4m3-matrix", "float-quantized float8 tensor", 8 + 32 / 2048),
        ("torchao", "mxfp4", "MXTensor float4_e2m1fn_x2", 4.25),
        ("torchao", "nvfp4", "NVFP4Tensor", 4.5 + 32 / 2048),
        ("gguf", "q4_0", "Q4_0", 4.5),
    ],
)
def test_packed_files_tell_their_format_and_bits(container, weights, said, bits, tmp_path):
    params = initial_params(MODEL, DENSE, jax.random.key(0))
    source = with_weights(Source(Path("here"), MODEL, params, DENSE), find(weights))
    files = export(source, container, tmp_path / "out", "float32").files
    path = files[0] if container == "gguf" else tmp_path / "out"
    found, name = of(path), "blk.0.ffn_up.weight" if container == "gguf" else UP
    assert (found[name].stored, found[name].shape) == (said, (64, 32))
    assert found[name].bits == pytest.approx(bits)
    assert not found[name].errors
    dense = "token_embd.weight" if container == "gguf" else "model.embed_tokens.weight"
    assert found[dense].stored == "F32"
    assert found[dense].errors["int4"].error == pytest.approx(relative(find("int4"), params["embedding"]), rel=1e-5)
    assert len(found) == 1 + 9 + 1 + 1


def test_our_own_packed_files_are_told(tmp_path):
    packing.save(tmp_path / "p.safetensors", {"w": packing.pack(find("2:4"), jnp.asarray(GAUSSIAN, jnp.bfloat16))})
    found = of(tmp_path / "p.safetensors")["w"]
    assert (found.stored, found.shape) == ("2:4", GAUSSIAN.shape)
    assert found.bits == pytest.approx(find("2:4").bits, rel=1e-3)


@pytest.mark.ci
def test_matrices_of_stored_numbers_are_audited_as_matrices(tmp_path):
    """Of an exported model: rows of their inputs, bits of the numbers for every entry; the bare file is the same."""
    held = find_policy([".*/attention/.*=shared4", ".*/down/.*=int4", ".*=dense"])
    params = initial_params(MODEL, assigned(MODEL, held), jax.random.key(0))
    matrices = with_matrices(params, MODEL, assigned(MODEL, held))
    source = Source(Path("here"), MODEL, matrices, weights_alone(assigned(MODEL, held)), policy=held)
    export(source._replace(stored=stored(params, assigned(MODEL, held))), "capscale", tmp_path / "out", "float32")
    found, name = of(tmp_path / "out"), "layers/0/attention/query/kernel"
    assert (found[name].stored, found[name].shape, found[name].bits) == ("shared4", (32, 32), 32 / 4)
    matrix = np.asarray(matrices["layers"]["attention"]["query"]["kernel"][0]).T
    assert found[name].errors["int4"].error == pytest.approx(relative(find("int4"), matrix), rel=1e-5)
    up = np.asarray(matrices["layers"]["mlp"]["up"]["kernel"][0]).T
    assert found["layers/0/mlp/up/kernel"].errors["int4"].error == pytest.approx(relative(find("int4"), up), rel=1e-5)
    assert found["layers/0/mlp/down/kernel"].stored == "int4"
    assert not found["layers/0/mlp/down/kernel"].errors
    assert found.keys() == of(tmp_path / "out" / "packed.safetensors").keys()
    assert not any(name.startswith("layers/attention/query") for name in found)
    assert main(["audit", str(tmp_path / "out"), "--formats", "int4"]) == 0


def test_a_fixed_rank_is_judged_by_the_error_of_its_matrix(file):
    """The error that is expected, and the bits, are those of the tensor's own sides, and means over several."""
    low_rank = find("nearest-lowrank-r16")
    found = of(file, {"rank": low_rank})
    wide, square = found["gaussian"].errors["rank"], found["conv"].errors["rank"]
    assert wide.gmse == gmse_of_shape(low_rank, (48, 256)).value
    assert wide.bits == 16 * 16 * (48 + 256) / (48 * 256)
    assert wide.ratio == pytest.approx(1, abs=0.05)
    assert square.gmse == wide.gmse
    narrow = audited(Stored("n", (48, 64), "F32", 32.0, lambda: GAUSSIAN[:, :64]), {"rank": low_rank}).errors["rank"]
    assert narrow.gmse == gmse_of_shape(low_rank, (48, 64)).value < wide.gmse
    both = overall([found["gaussian"], Audited("n", (48, 64), "F32", 32.0, None, 1.0, {"rank": narrow})], "rank")
    assert both is not None
    assert narrow.gmse < both.gmse < wide.gmse
    assert wide.bits < both.bits < narrow.bits


def test_the_command_prints_a_table_and_json(file, capsys):
    assert main(["audit", str(file), "--formats", "int4", "nvfp4"]) == 0
    shown = capsys.readouterr().out
    for said in ("gaussian", "48 x 64 x 4", "4 bits, GMSE 0.0115", "all of them, by energy", "--hadamard 128 shows"):
        assert said in shown
    assert main(["audit", str(file), "--formats", "int4", "--hadamard", "128", "--signs", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["hadamard"], told["signs"]) == (128, 3)
    assert told["tensors"][0].keys() >= {"name", "shape", "stored", "bits", "kurtosis", "errors"}
    assert told["overall"]["int4"]["rho"] is not None


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), [], "not a whole safetensors file"),
        (lambda path: path.unlink(), [], "no such file or directory"),
        (lambda path: None, ["--formats", "int44"], "int44"),
        (lambda path: None, ["--hadamard", "100"], "must be a power of two"),
        (lambda path: None, ["--signs", "1"], "signs belong to a rotation"),
    ],
)
def test_bad_input_is_status_2(change, words, message, file, capsys):
    change(file)
    assert main(["audit", str(file), *words]) == 2
    assert message in capsys.readouterr().err
