"""The describe command under a policy: runs of layers, what each is held in, and means that add up."""

import json

import pytest

from capscale.cli import main
from capscale.models.mixture import format_gmse
from capscale.representation import operand

RULES = ["layers/(0|5)/.*=dense", "head=int8", ".*/mlp/.*=top50 [fw]", ".*=int4 x int8 hadamard 128"]


def described(capsys, *rules):
    assert main(["describe", "--model", "30M", "--policy", *rules, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_rows_are_runs_of_layers(capsys):
    found = described(capsys, *RULES)
    leaves = {leaf["path"]: leaf for leaf in found["leaves"]}
    assert found["policy"] == "; ".join(RULES)
    assert [path for path in leaves if path.endswith("query/kernel")] == [
        f"layers/{layers}/attention/query/kernel" for layers in ("0", "1-4", "5")
    ]
    middle, head = leaves["layers/1-4/attention/query/kernel"], leaves["head"]
    assert (middle["format"], middle["activations"], middle["hadamard"]) == ("int4", "int8", 128)
    assert middle["shape"] == [4, 640, 640]
    assert (middle["axis"], middle["group"]) == (1, 640)
    assert leaves["layers/1-4/mlp/up/kernel"]["estimator"] == "fw"
    assert (head["format"], head["axis"], head["group"]) == ("int8", 1, 640)
    assert (leaves["embedding"]["format"], leaves["layers/0/mlp/up/kernel"]["format"]) == ("dense", "dense")


def test_totals_add_up(capsys):
    found, dense = described(capsys, *RULES), described(capsys, "layers/0/.*=int8", ".*=dense")
    for name in ("parameters", "non_embedding_parameters", "dense_bytes"):
        assert found[name] == dense[name]
    attention, mlp = 4 * 640 * 640, 3 * 640 * 1792
    share = 4 * mlp / (6 * (attention + mlp))
    int4, top50 = (format_gmse(operand(name).format) for name in ("int4", "top50"))
    both = share * top50 + 4 * attention / (6 * (attention + mlp)) * int4
    assert found["weights_gmse"] == pytest.approx(both)
    assert found["bytes"] == pytest.approx(sum(leaf["bytes"] for leaf in found["leaves"]))
    assert found["layer_bits"] == pytest.approx(
        (2 * 16 * (attention + mlp) + 4 * (9 * mlp + 4.05 * attention)) / (6 * (attention + mlp)), rel=1e-3
    )


def test_table_says_what_json_says(capsys):
    leaves = described(capsys, *RULES)["leaves"]
    assert main(["describe", "--model", "30M", "--policy", *RULES]) == 0
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    for leaf in leaves:
        assert f"{leaf['size']:,}" in lines[leaf["path"]]
        assert leaf["format"] in lines[leaf["path"]]
    assert "an assumption" in printed


def test_the_cache_is_told_layer_by_layer(capsys):
    rules = ["layers/0/attention/key/.*=int4 cache keys int8 values int2", ".*=int4 cache values int4"]
    assert main(["describe", "--model", "30M", "--policy", *rules, "--context", "100", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    told = {leaf["path"]: leaf["cache"] for leaf in found["leaves"] if leaf["cache"] is not None}
    assert told == {"layers/0/attention/key/kernel": "int8", "layers/0-5/attention/value/kernel": "int4"}
    row = 5 * 128  # heads of 128 values; scales are float32, one a head and token
    by_hand = (row + 4 * 5) + 5 * 2 * row + 6 * (row / 2 + 4 * 5)
    assert (found["cache_bytes_per_token"], found["context"]) == (by_hand, 100)
    assert main(["describe", "--model", "30M", "--policy", *rules, "--context", "100"]) == 0
    assert f"{by_hand:,.0f} bytes a token, {100 * by_hand:,.0f} of 100 tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--weights", "int8", "--policy", ".*=int4"], "--policy says all operands; leave out --weights"),
        (["--hadamard", "8", "--policy", ".*=int4"], "--policy says all operands; leave out --hadamard"),
        (["--policy", "layers/9/.*=int8", ".*=int4"], "rule 'layers/9/.*' matches no parameter"),
        (["--policy", "layers/1/.*=int8"], "no rule covers layers/0/attention/query/kernel"),
        (["--policy", "int4"], "'int4' is no rule"),
    ],
)
def test_refusals_end_with_2(arguments, says, capsys):
    assert main(["describe", "--model", "30M", *arguments]) == 2
    assert says in capsys.readouterr().err
