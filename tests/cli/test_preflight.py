"""`capscale preflight`: what it says of memory, steps and hours, what it refuses, and that steps compile for TPUs."""

import importlib.util
import json
from dataclasses import replace

import jax
import pytest
from capscale.experiments.paper_capacity import SIX
from capscale.kernels import aot
from support import tiny

from capscale.cli import main
from capscale.errors import UserError
from capscale.models.ladder import PAPER
from capscale.representation import Representation, operand
from capscale.sweep import preflight
from capscale.sweep.estimate import Estimate
from capscale.sweep.preflight import Compiled, Setting, compile_step, device_hours, remedy
from capscale.sweep.schedule import read_schedule
from capscale.sweep.slices import CHIPS, Slice, find_slice, slices
from capscale.train.flops import flops_per_token
from capscale.train.memory import Memory
from capscale.train.run import Optimizer, Run

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
            kinds = {"all-gather": 1e9, "reduce-scatter": 2e9}
            estimated = None if refused else Estimate(0.5, 0.25, 0.5, 0.25, 3e9, by_schedule=True, kinds=kinds)
            return Compiled(need, limit, 1.0, refused, estimated)

        monkeypatch.setattr(preflight, "compile_step", compile_step)
        return calls

    return with_model


@needs_libtpu
def test_programs_under_a_policy_say_what_runs_in_each_layer(command, monkeypatch):
    monkeypatch.setattr(preflight, "compile_step", lambda run, setting, quick: Compiled(GB, 2 * GB, 1.0, ""))
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
    monkeypatch.setattr(preflight, "compile_step", lambda run, setting, quick: compiled)
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
        assert program["estimate"] is None
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
    assert found["total"]["device_hours"] == pytest.approx(steps * 4 / 3600)
    measured = json.loads(command("--topology", "v5e:2x2", "--json", "--mfu", "0.5")[1])
    mfu = measured["programs"][0]["estimate"]["mfu"]
    assert measured["programs"][0]["runs"][0]["hours"] == pytest.approx(first["runs"][0]["hours"] * mfu / 0.5)


def test_hours_of_what_was_not_compiled_are_not_known(command, pretend):
    pretend(lambda setting: 1000)
    status, text, _ = command("--topology", "v5e:2x2")
    assert status == 1
    assert "chip-hours are not known without an estimate of every step; leave out --quick, or give --mfu" in text
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
        found = preflight.fewest_microbatches(run, setting, True, refused)
        assert found is not None
        assert found[0] == Setting(setting.slice, 4, Memory(remat, needed))
        assert len({s for _, s in calls}) == len(calls) <= 4
        calls.clear()
    pretend(lambda s: limit * 17 / s.memory.microbatches)
    assert preflight.fewest_microbatches(run, setting, True) is None


@pytest.mark.parametrize(("weights", "coded"), [("int4", True), ("top50", False), ("dense", False)])
def test_codes_are_tried_of_formats_that_have_some(weights, coded, pretend):
    """Behind values and ahead of layers, with and without computing layers anew."""
    calls = pretend(lambda setting: 100)
    run = tiny.run(representation=Representation(operand(weights)))
    assert preflight.remedy_here(run, Compiled(10**11, 10**10, 1.0, ""), Setting(find_slice("v5e:2x2")), True) is None
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
    ("message", "gigabytes"),
    [
        ("total memory required for HLO temporaries (32.67G) exceeds available HBM (15.75G).", 32.67),
        ("Used 900.5M of 15.75G hbm", 15.75),
        ("no sizes at all", 0),
    ],
)
def test_sizes_are_read_from_the_compiler(message, gigabytes):
    assert preflight._needed(message) == pytest.approx(gigabytes * 2**30, abs=1)


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


def test_missing_libtpu_has_a_remedy(monkeypatch):
    def no_plugin(*args, **kwargs):
        raise RuntimeError("Unable to initialize backend 'tpu'")

    monkeypatch.setattr(aot, "tpu_devices", aot.tpu_devices.__wrapped__)  # what is known would not be asked again
    for broken, value in (
        ("jax.experimental.topologies.get_topology_desc", no_plugin),
        ("capscale.kernels.aot.find_spec", lambda name: None),
    ):
        monkeypatch.setattr(broken, value)
        with pytest.raises(UserError, match=r"install libtpu: pip install 'capscale\[tpu\]'"):
            find_slice("v5e:2x2").devices()


def test_chips():
    """Memory in GB and bfloat16 TFLOP/s of the data sheets."""
    found = {name: (chip.hbm / 2**30, chip.peak / 1e12) for name, chip in CHIPS.items()}
    assert found == {"v4": (32, 275), "v5e": (16, 197), "v5p": (95, 459), "v6e": (32, 918)}


@needs_libtpu
@pytest.mark.parametrize("generation", CHIPS)
def test_slices_are_those_that_the_compiler_knows(generation):
    for slice_ in slices(generation):
        devices = slice_.devices()
        assert len(devices) % slice_.chips == 0
        assert slice_.larger == [other for other in slices(generation) if other.chips > slice_.chips]


@pytest.fixture
def as_users_have_it():
    """JAX's own lowering of bfloat16 products into float32 promotes types, which is not allowed in tests."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def paper_run(size, name):
    model = PAPER.model(size, 32_000)
    tokens = 100 * PAPER.sizes[size].non_embedding_parameters
    data = replace(tiny.corpus().id, vocabulary=32_000)
    return Run(size, model, tokens, data, Optimizer(1e-3), PAPER.batch, "paper", SIX[name])


def test_hours_of_a_paper_run():
    """30M at 100 tokens per parameter: 6 (30.5 + 20.5) M + attention, over 40 % of 16 v5e chips."""
    run, slice_ = paper_run("30M", "dense"), find_slice("v5e:4x4")
    per_token = 6 * (30_482_560 + 32_000 * 640) + 12 * 6 * 640 * 512
    assert flops_per_token(run.model) == per_token
    assert run.steps == 11_628
    assert device_hours(run, slice_, 0.4) / 16 == pytest.approx(
        per_token * 11_628 * 262_144 / (0.4 * 16 * 197e12) / 3600
    )


@needs_libtpu
@pytest.mark.ci
@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("name", "topology"), [("dense", "v5e:4x4"), ("top50", "v6e:4x4"), ("int4", "v6e:4x4"), ("2:4+int4", "v5e:4x4")]
)
def test_paper_steps_compile(name, topology):
    """Four of the table in docs/benchmarks/preflight.md, which has all."""
    compiled = compile_step(paper_run("30M", name), Setting(find_slice(topology)), quick=True)
    state = 3 * 4 * (30_482_560 + 2 * 32_000 * 640)
    assert compiled.fits
    assert state < compiled.bytes < 16 * GB


@needs_libtpu
@pytest.mark.ci
@pytest.mark.usefixtures("as_users_have_it")
def test_chips_project_the_weights_that_they_have(monkeypatch):
    """Four that share weights send each other as much for int4 as for dense ones."""
    texts, compiled = [], jax.stages.Lowered.compile
    monkeypatch.setattr(
        jax.stages.Lowered, "compile", lambda self, *a, **k: texts.append(made := compiled(self, *a, **k)) or made
    )
    setting = Setting(find_slice("v5e:2x2"), 4, Memory(microbatches=4, gather="step"))
    for name in ("dense", "int4"):
        run = paper_run("30M", name)
        assert compile_step(replace(run, model=replace(run.model, layers=3)), setting, quick=True).fits
    dense, int4 = (read_schedule(each.as_text(), 4, 1 / 32).sent for each in texts)
    assert int4 == pytest.approx(dense, rel=1e-6)  # sums of squares for metrics beside


@needs_libtpu
@pytest.mark.slow
@pytest.mark.usefixtures("as_users_have_it")
def test_a_step_that_xla_refuses_is_given_a_setting_that_compiles():
    run, setting = paper_run("50M", "dense"), Setting(find_slice("v5e:2x2"))
    refused = compile_step(run, setting, quick=True)
    assert not refused.fits
    assert refused.bytes > refused.limit == 16 * 2**30
    found = remedy(run, refused, setting, quick=True)
    assert found is not None
    assert found[0].slice == setting.slice
    assert found[1].fits
