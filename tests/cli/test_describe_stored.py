"""The describe command on weights that are not one rounded matrix: made of stored numbers, or nested."""

import json

import pytest

from capscale.cli import main
from capscale.models.ladder import find_size


def described(capsys, *options):
    assert main(["describe", "--model", "micro-64", *options, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def stored(name, rows, columns):
    """Numbers in place of a matrix, counted by hand."""
    entries = rows * columns
    if name == "shared4":
        return entries // 4
    if name == "lowrank0.25":
        return entries // 4 // (rows + columns) * (rows + columns)
    if name == "monarch4":
        return 4 * (rows + columns)
    if name == "nola0.25-r8":
        return entries // 4 // 2 * 2
    a, b = ({64: 8, 192: 12}[side] for side in (rows, columns))  # sides of the first factor, nearest below the root
    each = a * b + entries // (a * b)
    return entries // 4 // each * each


@pytest.mark.ci
@pytest.mark.parametrize("name", ["shared4", "lowrank0.25", "kronecker0.25", "monarch4", "nola0.25-r8"])
def test_stored_numbers_bits_and_bytes_are_those_counted_by_hand(name, capsys):
    model, found = find_size("micro-64"), described(capsys, "--weights", name)
    counts = {place: stored(name, *shape) for place, shape in model.projections.items()}
    leaves = {leaf["path"]: leaf for leaf in found["leaves"]}
    for place, (rows, columns) in model.projections.items():
        (leaf,) = [leaf for path, leaf in leaves.items() if path.endswith(f"/{place}/kernel")]
        assert leaf["bits"] == pytest.approx(16 * counts[place] / (rows * columns))
        assert leaf["bytes"] == pytest.approx(2 * model.layers * counts[place])
    entries = sum(rows * columns for rows, columns in model.projections.values())
    assert found["stored_numbers"] == found["non_embedding_parameters"] - model.layers * (
        entries - sum(counts.values())
    )
    assert found["bytes"] == pytest.approx(2 * (found["parameters"] - model.layers * (entries - sum(counts.values()))))
    assert main(["describe", "--model", "micro-64", "--weights", name]) == 0
    printed = capsys.readouterr().out
    assert f"of which {found['stored_numbers']:,} numbers are stored" in printed
    assert "weights are made of other numbers" in printed
    assert "compressed along" not in printed


def test_rules_tell_the_error_of_matrices_of_stored_numbers(capsys):
    found = described(capsys, "--policy", ".*mlp.*=shared4", ".*attention.*=nola0.25-r8", ".*=dense")
    leaves = {leaf["path"]: leaf for leaf in found["leaves"]}
    up, query = (leaves[f"layers/0-3/{path}/kernel"] for path in ("mlp/up", "attention/query"))
    assert (up["parametrization"], up["gmse"], up["bits"]) == ("shared4", 0.75, 4)
    assert (query["parametrization"], query["gmse"], found["weights_gmse"]) == ("nola0.25-r8", None, None)
    assert leaves["head"]["parametrization"] is None
    assert main(["describe", "--model", "micro-64", "--policy", ".*mlp.*=shared4", ".*=dense"]) == 0
    assert "of a parametrization the error of the nearest such matrix" in capsys.readouterr().out


@pytest.mark.ci
def test_nested_weights_tell_the_bytes_of_every_width(capsys):
    found = described(capsys, "--weights", "nested-8-4-2")
    cut = {width: described(capsys, "--weights", f"nested-8-4-2-at{width}") for width in (4, 2)}
    assert found["slices"] == {"8": found["bytes"]} | {str(width): each["bytes"] for width, each in cut.items()}
    for width, each in cut.items():
        assert "slices" not in each
        entries = sum(leaf["size"] for leaf in found["leaves"] if leaf["path"].endswith("kernel"))
        assert found["bytes"] - each["bytes"] == pytest.approx((8 - width) / 8 * entries)
    for rules in (("--weights", "nested-8-4-2"), ("--policy", ".*mlp.*=nested-8-4-2", ".*=dense")):
        told = described(capsys, *rules)["slices"]
        assert main(["describe", "--model", "micro-64", *rules]) == 0
        line = ", ".join(f"{told[width]:,.0f} bytes at {width} bits" for width in ("8", "4", "2"))
        assert f"models cut out of the nested weights: {line}\n" in capsys.readouterr().out
