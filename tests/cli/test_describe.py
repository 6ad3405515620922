"""The describe command's table: every number of it whole, however narrow the terminal."""

import json

import pytest

from capscale.cli import main


@pytest.mark.parametrize("columns", ["40", "200"])
def test_table_holds_what_the_json_says(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    arguments = ["describe", "--model", "olmo2-30M", "--weights", "2:4+int4", "--hadamard", "128"]
    assert main([*arguments, "--json"]) == 0
    leaves = {leaf["path"]: leaf for leaf in json.loads(capsys.readouterr().out)["leaves"]}
    assert main(arguments) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {words[0]: words[1:] for words in printed if words and words[0] in leaves}
    assert rows.keys() == leaves.keys()
    for path, leaf in leaves.items():
        shape = " x ".join(map(str, leaf["shape"])).split()
        how = [] if leaf["axis"] is None else [str(leaf["axis"]), f"{leaf['group']:,}", leaf["estimator"]]
        numbers = [f"{leaf['bits']:.4g}", f"{leaf['size']:,}", f"{leaf['bytes']:,.0f}"]
        assert rows[path] == [*shape, leaf["format"], *how, *numbers]
    assert leaves["layers/mlp/down/kernel"]["group"] == 2688
    assert leaves["layers/mlp/down/kernel"]["estimator"] == "trust"


def test_recipes_and_gradients_are_told(capsys):
    assert main(["describe", "--model", "30M", "--recipe", "nvfp4-pretraining", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    kernel = next(leaf for leaf in found["leaves"] if leaf["path"] == "layers/mlp/down/kernel")
    assert (kernel["format"], kernel["group"], kernel["estimator"]) == ("nvfp4-g16x16", 256, "straight-through")
    assert found["gradients"] == "nvfp4-pretraining"
    spelled = "dx: int8 x dense, dw: int8 x mxfp4 given H16 signs drawn"
    assert main(["describe", "--model", "30M", "--gradients", spelled]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"gradients: {spelled}" in printed
    assert "gradient of the inputs, along outputs: gradients in int8; weights of the forward product" in printed
    assert (
        "along tokens: gradients in int8; activations as given in mxfp4, rotated in blocks of 16 with drawn" in printed
    )
