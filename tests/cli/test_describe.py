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
