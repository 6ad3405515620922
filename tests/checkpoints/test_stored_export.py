"""Stored numbers of a parametrization, packed in place of their matrices: bytes, values, losses, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
from support import tiny

from capscale.checkpoints.evaluation import evaluated
from capscale.checkpoints.export import export, with_policy, with_weights
from capscale.checkpoints.source import read_source
from capscale.cli import main
from capscale.errors import UserError
from capscale.formats import packing
from capscale.formats.catalog import find
from capscale.models.coverage import parameters
from capscale.models.projected import kernels_of
from capscale.parametrizations import Shared
from capscale.policy_names import find_policy, policy_name
from capscale.representation import Representation

SHARED = Representation(parametrization=Shared(4))
MIXED = find_policy([".*/attention/.*=hashed0.25", ".*/down/.*=int4", ".*=lowrank0.5 x int8"])


EACH = [pytest.param(SHARED, id="lone", marks=pytest.mark.slow), pytest.param(MIXED, id="policy", marks=pytest.mark.ci)]


@pytest.fixture(scope="module", params=EACH)
def trained(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run"
    tiny.train_one(tiny.run(representation=request.param), path)
    return read_source(path), request.param


def test_what_is_stored_comes_back_and_evaluates_as_the_run(trained, tmp_path):
    source, policy = trained
    written = export(source, "capscale", tmp_path / "out", "float32")
    read = read_source(tmp_path / "out")
    for path, kernel in kernels_of(source.held()).items():
        np.testing.assert_array_equal(kernels_of(read.held())[path], kernel, path)
    assert evaluated(read, tiny.corpus()).loss == evaluated(source, tiny.corpus()).loss
    assert read.weights_name == source.weights_name
    assert read.policy == source.policy
    assert source.weights_name == ("shared4" if policy == SHARED else policy_name(MIXED))
    arrays = packing.load(tmp_path / "out" / "packed.safetensors")
    stored = {name for name in arrays if "/kernel/" in name}
    assert stored
    assert all(name.rpartition("/")[0] not in arrays for name in stored), "no matrix beside what it is made of"
    assert sum(tensor.nbytes for tensor in arrays.values()) == written.packed_bytes + written.other_bytes
    with pytest.raises(UserError, match="would be rounded twice"):
        export(read, "capscale", tmp_path / "again")


def test_bytes_are_those_that_describe_counts(trained, tmp_path):
    source, policy = trained
    written = export(source, "capscale", tmp_path / "out", "bfloat16")
    kernels = [leaf for leaf in parameters(source.model, policy) if leaf.path.endswith("kernel")]
    assert written.packed_values == sum(leaf.size for leaf in kernels)
    told = sum(leaf.bytes for leaf in kernels)
    assert 0 <= written.packed_bytes - told < 2 * len(kernels) * source.model.layers
    assert written.bits == pytest.approx(8 * told / written.packed_values, rel=0.02)


@pytest.mark.parametrize("container", ["gguf", "compressed-tensors", "torchao"])
def test_others_have_no_place_for_them(trained, container, tmp_path):
    with pytest.raises(UserError, match=rf"{container} has no place for the numbers that .*0?(4|0.25).*--as hf"):
        export(trained[0], container, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_matrices_are_written_and_rounded(trained, tmp_path):
    source, policy = trained
    export(source, "hf", tmp_path / "values", "float32")
    if policy == SHARED:
        rounded = with_weights(source, find("int4"))
        export(rounded, "capscale", tmp_path / "int4", "float32")
        assert read_source(tmp_path / "int4").weights_name == rounded.weights_name == "int4"
        by_rules = with_policy(source, find_policy([".*/mlp/.*=int4", ".*=dense"]))
        assert by_rules.stored is None


def test_damage_is_refused_and_the_command_says_what_it_wrote(trained, tmp_path, capsys):
    source, _ = trained
    out = tmp_path / "out"
    assert main(["export", str(source.path), "--as", "capscale", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["weights"] == source.weights_name
    assert told["bits"] < 16
    arrays = packing.load(out / "packed.safetensors")
    name = next(name for name in sorted(arrays) if "/kernel/" in name)
    packing.save(out / "packed.safetensors", {key: value for key, value in arrays.items() if key != name})
    with pytest.raises(UserError, match=f"{name} is missing"):
        read_source(out)
    packing.save(out / "packed.safetensors", arrays | {name: replace(arrays[name], shape=(1, *arrays[name].shape))})
    with pytest.raises(UserError, match=f"{name} is dense of shape"):
        read_source(out)
