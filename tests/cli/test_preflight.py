"""`capscale preflight`: what it says of memory, steps and hours, what it refuses, and what it says would fit."""

import importlib.util
import json
from dataclasses import replace

import pytest
from support import tiny

from capscale.cli import main
from capscale.representation import Representation, operand
from capscale.sweep import choosing
from capscale.sweep.choosing import remedy
from capscale.sweep.estimate import Estimate
from capscale.sweep.preflight import Compiled, Setting
from capscale.sweep.slices import Slice, find_slice
from capscale.train.memory import Memory

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'capscale[tpu]'"
)
GB = 10**9


class OfNowhere:
    """A device that a mesh takes."""

    process_index = 0


EXPERIMENT = """
from support import tiny
from capscale.train.run import Optimizer

def runs(ladder, data):
    return [
        *(tiny.run(data=data, seed=seed) for seed in range(2)),
        tiny.run(data=data, optimizer=Optimizer(0.01), tokens=24 * 64),
        tiny.dense_run(data=data),
    ]
"""


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs preflight on four tiny runs of two programs; status, output and errors."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    path = tmp_path / "mine.py"
    path.write_text(EXPERIMENT)

    def run(*options, experiment=str(path)):
        status = main(["preflight", experiment, "--vocabulary", "96", *options])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def pretend(monkeypatch):
    """Compiles nothing: a device needs what the memory model says, and the calls are kept."""
    calls = []
    monkeypatch.setattr(Slice, "devices", lambda self: [None] * self.chips)

    def with_model(gigabytes):
        def compile_step(run, setting, quick=False):
            calls.append((run, setting))
            need = int(gigabytes(setting) * GB)
            limit = setting.slice.chip.hbm
            refused = "" if need <= limit else f"Used {need / 2**30:.2f}G"
            kinds, units = {"all-gather": 1e9, "reduce-scatter": 2e9}, {"memory": 0.5, "vector unit": 0.25}
            found = Estimate(0.5, 0.25, 0.5, 0.25, 3e9, by_schedule=True, units=units, kinds=kinds)
            estimated = None if refused else found
            return Compiled(need, limit, 1.0, refused, estimated)

        monkeypatch.setattr(choosing, "compile_step", compile_step)
        return calls

    return with_model


@needs_libtpu
def test_programs_under_a_policy_say_what_runs_in_each_layer(command, monkeypatch):
    monkeypatch.setattr(choosing, "compile_step", lambda run, setting, quick: Compiled(GB, 2 * GB, 1.0, ""))
    rules = ("--policy", "layers/0/.*=dense", ".*=int4 x int8")
    status, printed, _ = command("--topology", "v5e:2x2", *rules)
    assert status == 0
    lines = printed.splitlines()
    assert any(line.startswith("  layers/1/mlp/up/kernel: int4 x int8, ") for line in lines)
    assert not any("layers/0/" in line for line in lines if line.startswith("  "))
    _, printed, _ = command("--topology", "v5e:2x2", *rules, "--json")
    (program,) = json.loads(printed)["programs"]
    assert program["policy"] == "layers/0/.*=dense; .*=int4 x int8"
    assert {row["path"].split("/")[1] for row in program["layers"]} == {"1"}


@needs_libtpu
def test_a_program_says_how_many_products_are_of_codes(command, monkeypatch):
    """In a line of its own where codes are asked for; in JSON always."""
    counts = {"int8": 7, "float8": 0, "values": 31}
    compiled = Compiled(GB, 2 * GB, 1.0, "", products=counts)
    monkeypatch.setattr(choosing, "compile_step", lambda run, setting, quick: compiled)
    _, printed, _ = command("--topology", "v5e:2x2", "--json")
    assert [program["products"] for program in json.loads(printed)["programs"]] == [counts, counts]
    _, plain, _ = command("--topology", "v5e:2x2")
    monkeypatch.setenv("CAPSCALE_PRODUCTS", "auto")
    _, asked, _ = command("--topology", "v5e:2x2")
    assert "products" not in plain
    assert asked.splitlines().count("  products: 7 of int8, 31 of values") == 2


@pytest.mark.ci
@needs_libtpu
def test_a_sweep_of_tiny_runs_is_compiled_for_a_slice(command):
    status, text, _ = command("--topology", "v5e:2x2", "--json", "--mfu", "0.25", "--quick")
    assert status == 0
    found = json.loads(text)
    compressed, dense = found["programs"]
    assert [len(compressed["runs"]), len(dense["runs"])] == [3, 1]
    for program in (compressed, dense):
        assert program["fits"]
        assert program["estimate"]["compute_by"] == "products and bytes"
        assert program["estimate"]["kernels_by"] == "schedule", "it has none"
        assert program["estimate"]["step_s"] > program["estimate"]["compute_s"] > 0
        assert program["products"]["values"] > program["products"]["int8"] == program["products"]["float8"] == 0
        assert 10_000 < program["bytes_per_device"] < program["bytes_there"] == 16 * 2**30
    assert [run["steps"] for run in compressed["runs"]] == [12, 12, 24]
    matrices = tiny.MODEL.non_embedding_parameters + 96 * 8
    per_token = 6 * matrices + 12 * 2 * 8 * 16
    assert [run["flops"] for run in compressed["runs"]] == [per_token * 64 * steps for steps in (12, 12, 24)]
    for run in compressed["runs"]:
        assert run["device_hours"] == pytest.approx(run["flops"] / (0.25 * 197e12) / 3600)
        assert run["hours"] == pytest.approx(run["device_hours"] / 4)
    assert found["total"]["runs"] == 4
    assert found["total"]["device_hours"] == pytest.approx(
        sum(run["device_hours"] for program in found["programs"] for run in program["runs"])
    )


def test_a_program_is_compiled_once_for_all_runs_that_share_it(command, pretend):
    calls = pretend(lambda setting: 1)
    status, text, _ = command("--topology", "v6e:4x4", "--fsdp", "2", "--remat", "--microbatches", "2")
    assert status == 0
    assert len(calls) == 2
    assert {setting for _, setting in calls} == {Setting(find_slice("v6e:4x4"), 2, Memory(True, 2))}
    assert "4 runs, 2 programs" in text
    assert "1e+03" in text  # ms a step: .5 + .25 + .25 s
    assert text.count(" wire ") == 2
    assert "Times are estimates that no chip was asked for" in text
    assert text.count("1.00") == 2


@pytest.mark.parametrize(
    ("gigabytes", "expected"),
    [
        (lambda s: 20 if s.fsdp == 1 else 10, "--topology v5e:2x2 --fsdp 4 --gather step"),
        (lambda s: 5 + 15 / s.memory.microbatches, "--topology v5e:2x2 --fsdp 4 --microbatches 2 --gather step"),
        (lambda s: 10 + 30 / s.memory.microbatches, "--topology v5e:2x2 --fsdp 4 --microbatches 8 --gather step"),
        (lambda s: 10 if s.memory.gather == "layer" and s.fsdp > 1 else 20, "--topology v5e:2x2 --fsdp 4"),
        (
            lambda s: 20 if s.memory.gather == "step" or s.fsdp == 1 else 10,
            "--topology v5e:2x2 --fsdp 4 --gather codes",
        ),
        (lambda s: 10 if s.memory.remat else 20, "--topology v5e:2x2 --fsdp 4 --gather step --remat"),
        (lambda s: 160 / s.slice.chips, "--topology v5e:4x4 --fsdp 16"),
    ],
    ids=["fsdp", "microbatches", "more-microbatches", "layers", "codes", "remat", "slice"],
)
def test_what_does_not_fit_is_told_what_would(gigabytes, expected, command, pretend, monkeypatch):
    big = tiny.run(batch=64, tokens=64 * 16 * 12)
    monkeypatch.setattr(tiny, "run", lambda **changes: replace(big, **changes))
    pretend(gigabytes)
    status, text, _ = command("--topology", "v5e:2x2")
    assert status == 1
    assert "DOES NOT FIT in 17.18 GB" in text
    assert f" fits with {expected} (" in text
    assert json.loads(command("--topology", "v5e:2x2", "--json")[1])["remedy"]["use"] == expected


def test_hours_follow_from_the_estimate_and_from_a_measured_mfu(command, pretend):
    """A step of a second: 60 steps of four runs on four chips; at another MFU as many as FLOPs make."""
    pretend(lambda setting: 1)
    found = json.loads(command("--topology", "v5e:2x2", "--json")[1])
    (first, second), steps = found["programs"], 12 + 12 + 24 + 12
    assert first["estimate"]["step_s"] == 1.0
    assert first["estimate"]["bytes_sent_per_device"] == sum(first["estimate"]["bytes_sent_by_kind"].values()) == 3e9
    assert first["estimate"]["bottleneck"] == second["estimate"]["bottleneck"] == "wire"
    assert first["estimate"]["seconds_by_unit"] == {"memory": 0.5, "vector unit": 0.25}
    assert found["total"]["device_hours"] == pytest.approx(steps * 4 / 3600)
    measured = json.loads(command("--topology", "v5e:2x2", "--json", "--mfu", "0.5")[1])
    mfu = measured["programs"][0]["estimate"]["mfu"]
    assert measured["programs"][0]["runs"][0]["hours"] == pytest.approx(first["runs"][0]["hours"] * mfu / 0.5)


def test_hours_of_what_was_not_compiled_are_not_known(command, pretend):
    pretend(lambda setting: 1000)
    status, text, _ = command("--topology", "v5e:2x2")
    assert status == 1
    assert "chip-hours are not known without an estimate of every step; find a setting that fits, or give --mfu" in text
    assert json.loads(command("--topology", "v5e:2x2", "--json")[1])["total"]["device_hours"] is None


def test_what_nothing_helps_is_said_so(command, pretend):
    pretend(lambda setting: 1000)
    status, text, _ = command("--topology", "v5e:2x2")
    assert status == 1
    assert "nothing tried makes" in text


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("needed", [1, 2, 4, 8, 16])
def test_micro_batches_are_the_fewest_that_fit(needed, remat, pretend):
    """By bisection: of five choices at most three are compiled, wherever one begins."""
    run, limit = tiny.run(batch=64), 16 * 2**30 / GB
    setting = Setting(find_slice("v5e:2x2"), 4, Memory(remat))
    for refused in (None, Compiled(16 * 2**30 * 8, 16 * 2**30, 1.0, "")):
        calls = pretend(lambda s: limit * needed / s.memory.microbatches)
        found = choosing.fewest_microbatches(run, setting, True, refused)
        assert found is not None
        assert found[0] == Setting(setting.slice, 4, Memory(remat, needed))
        assert len({s for _, s in calls}) == len(calls) <= 4
        calls.clear()
    pretend(lambda s: limit * 17 / s.memory.microbatches)
    assert choosing.fewest_microbatches(run, setting, True) is None


@pytest.mark.parametrize(("weights", "coded"), [("int4", True), ("top50", False), ("dense", False)])
def test_codes_are_tried_of_formats_that_have_some(weights, coded, pretend):
    """Behind values and ahead of layers, with and without computing layers anew."""
    calls = pretend(lambda setting: 100)
    run = tiny.run(representation=Representation(operand(weights)))
    assert choosing.remedy_here(run, Compiled(10**11, 10**10, 1.0, ""), Setting(find_slice("v5e:2x2")), True) is None
    tried = list(dict.fromkeys((setting.memory.remat, setting.memory.gather) for _, setting in calls))
    gathers = ["step", "codes", "layer"] if coded else ["step", "layer"]
    assert tried == [(remat, gather) for remat in (False, True) for gather in gathers]


def test_settings_that_the_batch_does_not_split_over_are_not_offered(pretend):
    pretend(lambda setting: 1)
    run = tiny.run(batch=8)
    refused = Compiled(10**12, 16 * 2**30, 1.0, "")
    found = remedy(run, refused, Setting(find_slice("v5e:2x2")), quick=True)
    assert found is not None
    assert run.batch % (found[0].memory.microbatches * found[0].slice.chips) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--topology", "v9:2x2"], "topology 'v9:2x2' is not of a known TPU (v4, v5e, v5p, v6e)"),
        (["--topology", "v5e:3x3"], "topology 'v5e:3x3' is no slice of v5e; known: v5e:2x2, v5e:2x4"),
        (["--topology", "v5e:2x2", "--mfu", "0"], "--mfu 0.0 must lie in (0, 1]"),
        (["--topology", "v5e:2x2", "--sizes", "30M"], "--sizes 30M: "),
        (["--topology", "v5e:2x2", "--vocabulary", "0"], "--vocabulary 0 must be positive"),
        (["--topology", "v5e:2x2", "--fsdp", "3"], "fsdp=3 does not divide the 4 devices"),
        (["--topology", "v5e:4x8"], "batch=4 sequences do not split over"),
    ],
)
def test_bad_input_is_named(options, message, command, monkeypatch):
    monkeypatch.setattr(Slice, "devices", lambda self: [OfNowhere() for _ in range(self.chips)])
    status, _, err = command(*options)
    assert status == 2
    assert message in err
