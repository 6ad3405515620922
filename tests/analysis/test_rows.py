import json

import numpy as np
import pandas as pd
import pytest
from support.synthetic import well_spread, write_sweep

from capscale.analysis.rows import read
from capscale.analysis.table import make_table
from capscale.artifacts import sealed
from capscale.errors import UserError


def records(rows=24, **change):
    frame = well_spread(rows, 0.003, 0).to_dict("records")
    return [{**r, **change} for r in frame]


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_every_file_kind_reads_the_same(tmp_path, suffix):
    frame = pd.DataFrame(records())
    file = tmp_path / f"runs.{suffix}"
    match suffix:
        case "csv":
            frame.to_csv(file, index=False, float_format="%.17g")
        case "json":
            frame.to_json(file, orient="records", double_precision=15)
        case "jsonl":
            file.write_text("\n".join(json.dumps(r) for r in records()))
        case "parquet":
            pytest.importorskip("pyarrow")
            frame.to_parquet(file)
    table = read(file)
    assert len(table) == 24
    assert table.curves[0] == "dense"
    np.testing.assert_allclose(table.column("loss"), make_table(records(), "x").column("loss"), rtol=1e-13)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize(("content", "message"), [(b"[" * 100_000, "nested too deep"), (b'{"N": "\xff"}', "0xff")])
def test_what_is_no_json_is_named(tmp_path, suffix, content, message):
    file = tmp_path / f"runs.{suffix}"
    file.write_bytes(b"\n" + content)
    with pytest.raises(UserError, match=rf"runs.{suffix}: not a readable {suffix} file: .*{message}") as raised:
        read(file)
    assert ("line 2: " in str(raised.value)) == (suffix == "jsonl")


def test_order_of_rows_does_not_matter():
    plain, shuffled = records(), records()
    np.random.default_rng(0).shuffle(shuffled)
    for i, r in enumerate(plain):
        r["run"] = f"r{i}"
    names = {r["loss"]: r["run"] for r in plain}
    for r in shuffled:
        r["run"] = names[r["loss"]]
    assert make_table(plain, "x").rows == make_table(shuffled, "x").rows
    assert make_table(plain, "x").sha256 == make_table(shuffled, "x").sha256


TOLD = {"weights_realised_error": 0.2, "weights_realised_error_end": 0.1, "weights_pass_rate": 0.6}
TOLD |= {"weights_pass_rate_end": 0.5, "weights_pass_rate_gaussian": 0.7}


def test_digest_is_of_what_fits_see():
    """A table keeps its digest as columns are added that nothing is fitted to, empty or not."""
    known = [{"run": "a", "N": 1e6, "D": 1e8, "loss": 3.25, "weights": "int4", "activations": "dense", "seed": 1}]
    # Computed before there were these columns.
    digest = "5005b06e590db80fc6006120088a9c4e5e9707f669055fbd85d62ffb4b7ba6d3"
    assert make_table(known, "x").sha256 == digest
    assert make_table([known[0] | TOLD], "x").sha256 == digest
    assert make_table([known[0] | {"loss": 3.26}], "x").sha256 != digest
    assert make_table([known[0] | {"default_estimators": True}], "x").sha256 == digest
    assert make_table([known[0] | {"default_estimators": False}], "x").sha256 != digest


def test_what_weights_tell_is_read_where_it_is_there(tmp_path):
    rows = records()
    rows[3] |= TOLD
    rows[4] |= dict.fromkeys(TOLD)
    pd.DataFrame(rows).to_csv(tmp_path / "runs.csv", index=False)
    for table in (make_table(rows, "x"), read(tmp_path / "runs.csv")):
        (told,) = [row for row in table.rows if row.loss == pytest.approx(rows[3]["loss"], rel=1e-13)]
        assert {name: getattr(told, name) for name in TOLD} == TOLD
        for name in TOLD:
            assert np.isnan(table.column(name)).sum() == len(rows) - 1
    with pytest.raises(UserError, match="row 4: weights_pass_rate='half' is no number"):
        make_table([*rows[:3], rows[3] | {"weights_pass_rate": "half"}], "x")


def test_missing_column():
    broken = [{k: v for k, v in r.items() if k != "loss"} | {"bits_per_byte": 1.0} for r in records()]
    with pytest.raises(UserError, match=r"no column \['loss'\].*ln 2"):
        make_table(broken, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"D": 5.0}, r"fewer tokens than parameters: row 3 \(D=5\)"),
        ({"loss": 14.0}, r"looks like bits.*row 3 \(loss=14\)"),
        ({"N": -1.0}, r"N must be finite and positive: row 3"),
        ({"loss": "high"}, r"row 3: loss='high' is no number"),
        ({"weight": -1}, "row 3: weight=-1"),
    ],
)
def test_unit_mistakes_are_refused_by_row(change, message):
    rows = records()
    rows[2] |= change
    with pytest.raises(UserError, match=message):
        make_table(rows, "x")


def test_one_row_in_bits_is_found_among_its_format():
    rows = records(48)
    rows[6]["loss"] /= np.log(2)
    with pytest.raises(UserError, match=r"looks like bits.*row 7 "):
        make_table(rows, "x")
    assert len(make_table(rows, "x", strict=False)) == 48
    assert len(make_table(records(48), "x")) == 48


def test_repeats_and_diverged_runs_are_named():
    rows = records()
    rows += [dict(rows[0]), dict(rows[1], loss=float("nan")), dict(rows[2], loss=rows[2]["loss"] + 0.01)]
    table = make_table(rows, "x")
    said = {r.row: r.what for r in table.remarks}
    assert said == {
        "row 25": "set aside: repeats row 1",
        "row 26": "set aside: diverged, it has no loss to fit",
        "row 27": "kept: another measurement of one configuration",
    }
    assert len(table) == 25


def test_one_seed_with_two_losses_is_refused():
    rows = records(seed=0)
    rows.append(dict(rows[0], loss=rows[0]["loss"] + 0.1))
    with pytest.raises(UserError, match=r"one run, several losses: row 1.*row 25"):
        make_table(rows, "x")


def test_estimators_make_curves_apart():
    rows = records(12, weights="top50", weights_estimator="b-rms 0.1", hadamard=None)
    rows += records(12, weights="top50", weights_estimator="fw", hadamard=None)
    rows += records(12, weights="top50 [a-b-rms 0.5]", hadamard=None)
    table = make_table(rows, "x")
    assert table.curves == ("top50", "top50 [a-b-rms 0.5]", "top50 [fw]")
    assert table.first_of_curve["top50 [a-b-rms 0.5]"].weights == "top50"
    assert {r.curve for r in table.rows if r.is_plain} == {"top50"}
    rows = records(12, weights="int4", hadamard=None) + records(12, weights="int4", hadamard=128)
    assert make_table(rows, "x").curves == ("int4 [hadamard 128]", "int4 [no rotation]")
    rows = records(12, weights="int4", hadamard="128 signs 7") + records(12, weights="int4", hadamard=128)
    assert set(make_table(rows, "x").curves) == {"int4 [hadamard 128]", "int4 [hadamard 128 signs 7]"}


def test_rows_of_earlier_versions_are_what_they_were():
    """`straight_through` was the default of sparsity, and the law was about it; it is not any more, and is named."""
    rows = records(12, weights="top50", weights_estimator="straight_through", hadamard=None)
    rows += records(12, weights="top50", weights_estimator="forward_mask", hadamard=None)
    rows += records(12, weights="int1", weights_estimator="clip", hadamard=128)
    table = make_table(rows, "x")
    assert table.curves == ("top50 [fw]", "top50 [straight-through]", "int1 [clip]")
    assert {r.curve for r in table.rows if r.is_plain} == {"top50 [straight-through]", "int1 [clip]"}


def test_a_row_says_whether_its_estimator_was_the_default_when_it_was_written():
    """Defaults may change again; rows keep what they say of themselves."""
    rows = records(12, weights="top50", weights_estimator="b-rms 0.3", hadamard=None, default_estimators=True)
    rows += records(12, weights="top50", weights_estimator="b-rms 0.1", hadamard=None, default_estimators="False")
    table = make_table(rows, "x")
    assert {r.curve for r in table.rows if r.is_plain} == {"top50 [b-rms 0.3]"}
    with pytest.raises(UserError, match="default_estimators='maybe' is neither"):
        make_table(records(1, default_estimators="maybe"), "x")


@pytest.mark.parametrize("rotation", [None, 128])
def test_one_bit_rows_of_either_rotation_have_their_own_default(rotation):
    scale = 1.3 if rotation else 1.25
    rows = records(12, weights=f"int1 [clip {scale}]", hadamard=rotation)
    assert make_table(rows, "x").curves == ("int1",)
    assert make_table(rows, "x").plain().rows
    other = records(12, weights=f"int1 [clip {1.25 if rotation else 1.3}]", hadamard=rotation)
    assert not make_table(other, "x").plain().rows


def test_a_bracket_and_a_column_that_disagree_are_refused():
    with pytest.raises(UserError, match=r"row 1: weights='top50 \[fw\]', but weights_estimator='b-rms 0.1'"):
        make_table(records(1, weights="top50 [fw]", weights_estimator="b-rms 0.1"), "x")
    same = records(3, weights="top50 [fw]", weights_estimator="forward_mask")
    assert make_table(same, "x").curves == ("top50 [fw]",)
    with pytest.raises(UserError, match="write FORMAT or FORMAT"):
        make_table(records(1, weights="top50 [fw"), "x")
    with pytest.raises(UserError, match="unknown estimator 'ste'"):
        make_table(records(1, weights="top50 [ste]"), "x")
    own = records(3, weights="mine [v2]", weights_gmse=0.1)  # a name that is none of ours keeps its brackets
    assert make_table(own, "x").curves == ("mine [v2]",)


def test_a_format_from_outside_shows_its_estimator_where_it_was_not_the_default():
    rows = records(12, weights="Mine()", weights_gmse=0.05, weights_estimator="trust", default_estimators=False)
    assert make_table(rows, "x").curves == ("Mine() [trust]",)
    rows = records(12, weights="Mine()", weights_gmse=0.05, weights_estimator="trust", default_estimators=True)
    assert make_table(rows, "x").curves == ("Mine()",)


def test_other_estimators_are_left_out_of_a_law_of_gmse_by_name():
    masked = [
        {**r, "run": f"masked {i}", "weights_estimator": "forward_mask"}
        for i, r in enumerate(records())
        if r["weights"] == "int2"
    ]
    usual = [{**r, "weights_estimator": "hypersphere"} if r["weights"] == "int4" else r for r in records()]
    assert masked
    plain = make_table(usual + masked, "x").plain()
    assert len(plain) == 24
    assert {r.row for r in plain.remarks if "left out" in r.what} == {m["run"] for m in masked}


def test_sweep_directory(tmp_path):
    table = read(write_sweep(tmp_path, missing=2, diverged=1))
    assert len(table) == 38 - 3
    assert sorted(r.what.split(":")[0] for r in table.remarks) == ["missing", "missing", "set aside"]
    assert table.context["training_seconds"] == pytest.approx(5.0 * 36)


def test_a_sweep_may_train_on_fewer_tokens_than_parameters(tmp_path):
    """Its units are known, unlike those of a file with the same rows."""
    file = next((write_sweep(tmp_path) / "runs").glob("*/result.json"))
    result = json.loads(file.read_text())
    result["row"]["D"] = result["row"]["N"] // 2
    file.write_text(json.dumps(result))
    table = read(tmp_path)
    assert min(table.column("D") / table.column("N")) == pytest.approx(0.5, rel=0.01)
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([result["row"]]))
    with pytest.raises(UserError, match=r"fewer tokens than parameters.*--keep-suspect"):
        read(rows)
    assert len(read(rows, strict=False)) == 1


def altered(result):
    return sealed(result | {"schema": 2}) | {"row": result["row"] | {"loss": 2.0}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (altered, "was altered after it was written"),
        (lambda result: result | {"schema": 2}, "was altered after it was written"),
        (lambda result: result | {"run_id": "another"}, "is the result of run 'another', not of "),
    ],
    ids=["altered", "without a digest", "of another run"],
)
def test_result_that_is_not_what_it_was_names_file_and_remedy(change, message, tmp_path):
    write_sweep(tmp_path)
    file = next((tmp_path / "runs").glob("*/result.json"))
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(UserError, match=rf"{file} {message}.*start the sweep again"):
        read(tmp_path)


def test_results_with_a_digest_are_read(tmp_path):
    write_sweep(tmp_path)
    before = read(tmp_path)
    for file in (tmp_path / "runs").glob("*/result.json"):
        file.write_text(json.dumps(sealed(json.loads(file.read_text()) | {"schema": 2})))
    assert read(tmp_path).rows == before.rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": ["../elsewhere"]}, "an entry of runs is '../elsewhere', and not the plain name"),
        ({"runs": 3}, "lists no runs, or not as it should"),
        ({"sha256": "0"}, "was altered after it was written"),
    ],
)
def test_sweep_json_that_is_not_what_it_was_is_refused(change, message, tmp_path):
    path = write_sweep(tmp_path) / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=rf"sweep.json.* {message}.*; start the sweep again with another --out"):
        read(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 7}', '{"schema": 1, "status": "ok"}'])
def test_corrupted_result_names_file_and_remedy(tmp_path, content):
    write_sweep(tmp_path)
    file = next((tmp_path / "runs").glob("*/result.json"))
    file.write_text(content)
    with pytest.raises(UserError, match=rf"{file}.*start the sweep again"):
        read(tmp_path)


def test_bad_paths(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "absent.csv")
    with pytest.raises(UserError, match=r"sweep.json: missing"):
        read(tmp_path)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(UserError, match="empty file"):
        read(tmp_path / "empty.csv")
    (tmp_path / "x.doc").write_text("1")
    with pytest.raises(UserError, match="unknown suffix"):
        read(tmp_path / "x.doc")
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="list of JSON objects"):
        read(tmp_path / "x.json")
