"""Runs whose layers are held in different representations: results, rows, resume, populations, shared parameters."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from etils import epath
from support import tiny

from capscale.analysis.table import make_table
from capscale.checkpoints.export import export, with_weights
from capscale.checkpoints.source import read_source
from capscale.errors import UserError
from capscale.formats.catalog import find
from capscale.models.mixture import format_gmse, mixture_of
from capscale.models.projected import values_of
from capscale.policy_names import find_policy
from capscale.train.executor import Population, Sharded
from capscale.train.loop import train
from capscale.train.record import result_row
from capscale.train.run import canonical_json
from capscale.train.sharding import make_mesh
from capscale.train.step import Program

MODEL = replace(tiny.MODEL, layers=3)
RULES = find_policy(["layers/0/.*=dense", "layers/2/mlp/.*=2:4 x int8", "embedding=int8", ".*=int4 x int8 hadamard 8"])


def run(**changes):
    return tiny.run(**({"model": MODEL, "representation": RULES} | changes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("policy")
    return directory, tiny.train_one(run(), directory)


def test_json_of_a_policy_is_its_rules_and_that_of_one_rule_is_its_representation():
    assert '"representation":[{"pattern":"layers/0/.*","representation":{' in canonical_json(run())
    assert canonical_json(run(representation=((".*", tiny.INT4),))) == canonical_json(run(representation=tiny.INT4))
    assert Program.of(run()) == Program.of(run(seed=3))
    assert Program.of(run()).start.representation == tiny.dense_run().representation


def test_its_row_says_the_policy_and_pools_with_nothing():
    row = result_row(run(), 4.5, 0.1, 1.0)
    text = "layers/0/.*=dense; layers/2/mlp/.*=2:4 x int8; embedding=int8; .*=int4 x int8 hadamard 8"
    assert (row["policy"], row["weights"], row["activations"]) == (text, "mixed", "mixed")
    uniform = [result_row(run(representation=tiny.INT4, seed=seed), 4.0 + seed, 0.1, 1.0) for seed in range(2)]
    records = [*({**each, "run": f"uniform {each['seed']}"} for each in uniform), {**row, "run": "mixed"}]
    table = make_table(records, "three runs", strict=False)
    assert table.curves == ("int4", f"mixed: {text}")
    found = next(each for each in table.rows if each.policy)
    assert not found.is_plain
    assert found.weights_gmse == row["weights_gmse"]
    plain = table.plain()
    assert {each.curve for each in plain.rows} == {"int4"}
    assert [remark.what for remark in plain.remarks][-1].endswith("holds its layers in several formats")


def test_rows_without_a_policy_have_no_column_of_it():
    assert "policy" not in result_row(run(representation=tiny.INT4), 4.0, 0.1, 1.0)


def test_means_go_over_the_weights_of_the_layers():
    found, sizes = mixture_of(MODEL, RULES), [rows * columns for rows, columns in MODEL.projections.values()]
    share = sum(sizes[4:]) / (3 * sum(sizes))
    int4, pruned, int8 = (format_gmse(find(name)) for name in ("int4", "2:4", "int8"))
    assert found.weights_gmse == pytest.approx((2 / 3 - share) * int4 + share * pruned)
    assert found.activations_gmse == pytest.approx(2 / 3 * int8)
    assert mixture_of(MODEL, tiny.INT4).weights_gmse == pytest.approx(int4)


@pytest.mark.ci
def test_resumes_bit_for_bit(trained, tmp_path):
    whole, result = trained
    assert result["status"] == "ok"
    assert result["row"]["weights_realised_error"] is None
    assert 0 < result["metrics"]["weights_error"] < 1
    assert tiny.interrupt([run()], [tmp_path], tiny.one_device(run()), at=6) == 6
    again = tiny.train_one(run(), tmp_path)
    assert again["row"] == result["row"]
    first, second = (values_of(read_source(place).params) for place in (whole, tmp_path))
    for path, leaf in first.items():
        np.testing.assert_array_equal(leaf, second[path])


@pytest.mark.ci
def test_population_trains_what_single_runs_train(trained, tmp_path):
    _, alone = trained
    runs = [run(), run(seed=1)]
    places = [epath.Path(tmp_path / str(each.seed)) for each in runs]
    found = train(runs, tiny.corpus(), places, Population(runs[0], jax.devices()[:1]), intervals=tiny.SHORT)
    assert found[0]["row"]["loss"] == pytest.approx(alone["row"]["loss"], abs=2e-3)
    assert found[1]["row"]["loss"] != found[0]["row"]["loss"]


@pytest.mark.ci
def test_devices_that_share_parameters_train_the_same(trained, tmp_path):
    _, alone = trained
    found = tiny.train_one(run(), tmp_path, Sharded(run(), make_mesh(2, jax.devices()[:2])))
    assert found["row"]["loss"] == pytest.approx(alone["row"]["loss"], abs=2e-3)


@pytest.mark.ci
def test_export_writes_values_of_a_policy_and_refuses_one_format_for_it(trained, tmp_path):
    directory, _ = trained
    source = read_source(directory)
    held = values_of(source.held())
    np.testing.assert_array_equal(held["layers/mlp/up/kernel"][0], source.params["layers"]["mlp"]["up"]["kernel"][0])
    zeros = np.asarray(held["layers/mlp/up/kernel"][2]).T.reshape(-1, 4) == 0
    assert (zeros.sum(axis=-1) == 2).all()
    assert len(np.unique(np.asarray(held["embedding"])[5])) <= 8
    assert (np.asarray(held["embedding"]) != np.asarray(source.params["embedding"])).any()
    assert source.compressed_activations
    assert export(source, "hf", tmp_path / "hf").files
    with pytest.raises(UserError, match=r"gguf cannot hold weights in a basis that is rotated in blocks of 8"):
        export(source, "gguf", tmp_path / "gguf")
    with pytest.raises(UserError, match=r"is held under the policy layers/0/.*=dense; .* takes one format"):
        with_weights(source, find("int4"))
