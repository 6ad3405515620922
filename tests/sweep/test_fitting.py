"""`--memory auto`: the fewest micro-batches that fit, by brute force on two CPU devices; settings kept for workers."""

import importlib.util
import json
from dataclasses import replace

import jax
import pytest
from capscale.experiments.paper_capacity import SIX
from etils import epath
from support import tiny

from capscale.cli import main
from capscale.errors import UserError
from capscale.models.ladder import PAPER
from capscale.sweep import fitting
from capscale.sweep.fitting import Here, fitted, keep, kept, key_of
from capscale.sweep.preflight import Setting, compile_step
from capscale.sweep.slices import find_slice
from capscale.train.memory import Memory
from capscale.train.run import Optimizer, Run

RUN = tiny.run(batch=4, model=replace(tiny.MODEL, width=32, context=64, layers=3), tokens=4 * 64 * 12)
ORDER = [
    (1, Memory()),
    *((2, Memory(False, parts, gather)) for parts in (1, 2) for gather in ("step", "codes", "layer")),
    *((2, Memory(True, parts, gather)) for parts in (1, 2) for gather in ("step", "codes", "layer")),
]
"""All settings on two devices, in the order in which they are wanted."""


@pytest.fixture
def as_users_have_it():
    """JAX's own lowering of bfloat16 products into float32 promotes types, which is not allowed in tests."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def pretend(monkeypatch):
    """Steps that need what a model of memory says; the calls are kept."""
    calls = []

    def with_model(need):
        def compile_step(run, setting, quick=False):
            calls.append(setting)
            bytes_ = need(setting)
            return fitting.Compiled(bytes_, setting.slice.memory(), 0.0, "")

        monkeypatch.setattr("capscale.sweep.choosing.compile_step", compile_step)
        monkeypatch.setattr(fitting, "compile_step", compile_step)
        return calls

    return with_model


@pytest.mark.ci
@pytest.mark.usefixtures("as_users_have_it")
def test_the_first_that_fits_of_all_by_brute_force(tmp_path, pretend):
    """XLA's own count of memory on two CPU devices, of every setting; then the search, with four limits."""
    sizes = {(fsdp, memory): compile_step(RUN, Setting(Here(2**40), fsdp, memory)).bytes for fsdp, memory in ORDER}
    assert len(set(sizes.values())) > 5
    whole, least = sizes[ORDER[0]], min(sizes.values())
    assert least < 0.8 * whole
    pretend(lambda setting: sizes[setting.fsdp, setting.memory])
    for number, limit in enumerate((whole, whole - 1, (whole + least) // 2, least)):
        first = next(setting for setting in ORDER if sizes[setting] <= limit)
        found = fitted(RUN, Here(limit), epath.Path(tmp_path / str(number)))
        assert (found.fsdp, found.memory) == first
    with pytest.raises(UserError, match=r"does not fit on 2 x cpu: with --fsdp 2 --microbatches 2 --remat it takes"):
        fitted(RUN, Here(least - 1), epath.Path(tmp_path / "none"))


def test_a_setting_is_looked_for_once(tmp_path, pretend):
    calls, out = pretend(lambda setting: 10 if setting.memory.microbatches > 1 else 30), epath.Path(tmp_path)
    found = fitted(RUN, Here(20), out)
    assert found == Setting(Here(20), 2, Memory(microbatches=2, gather="step"))
    (file,) = (tmp_path / "memory").iterdir()
    assert file.name == f"{key_of(RUN, Here())}.json"
    told = json.loads(file.read_text())
    assert {name: told[name] for name in ("fsdp", "microbatches", "remat", "gather", "bytes")} == {
        "fsdp": 2,
        "microbatches": 2,
        "remat": False,
        "gather": "step",
        "bytes": 10,
    }
    assert told["for"] == "tiny int4"
    calls.clear()
    alike = replace(RUN, seed=3, tokens=2 * RUN.tokens, optimizer=Optimizer(0.3))
    assert fitted(alike, Here(20), out) == found
    assert fitted(RUN, Here(10**9), out) == replace(found, slice=Here(10**9)), "runs go on as they have begun"
    assert calls == []
    assert fitted(tiny.run(batch=8), Here(20), out) == found
    assert calls, "another program"
    calls.clear()
    pretend(lambda setting: 9 if setting.memory.remat else 30)
    assert fitted(RUN, Here(9), out).memory.remat, "devices with less memory"
    assert kept(RUN, Here(9), out) == fitted(RUN, Here(9), out)


def test_layers_written_out_are_asked_for_and_kept(tmp_path, pretend):
    """A worker that looks by itself asks; one that finds a setting goes by that."""
    calls, out = pretend(lambda setting: 10 if setting.fsdp > 1 else 30), epath.Path(tmp_path)
    found = fitted(RUN, Here(20), out, unroll=True)
    assert found.memory == Memory(gather="step", unroll=True)
    assert str(found) == "--fsdp 2 --gather step --unroll"
    assert all(setting.memory.unroll for setting in calls)
    assert fitted(RUN, Here(20), out) == kept(RUN, Here(20), out) == found


def test_keys_tell_programs_and_devices_apart():
    here = key_of(RUN, Here())
    assert here != key_of(replace(RUN, batch=16), Here())
    assert here != key_of(replace(RUN, optimizer=Optimizer(0.02, clip=2.0)), Here())
    assert here == key_of(replace(RUN, size="other", seed=9), Here(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: told | {"microbatches": 1}, "was altered after it was written"),
        (
            lambda told: fitting.sealed({name: told[name] for name in told if name != "sha256"} | {"schema": 9}),
            "schema 9",
        ),
    ],
)
def test_a_setting_that_was_altered_is_not_used(change, message, tmp_path, pretend):
    pretend(lambda setting: 1)
    out = epath.Path(tmp_path)
    keep(RUN, Setting(Here(9), 2, Memory(microbatches=2)), fitting.Compiled(1, 9, 0.0, ""), out)
    (file,) = (tmp_path / "memory").iterdir()
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(UserError, match=message):
        fitted(RUN, Here(9), out)


def test_devices_that_do_not_tell_their_memory():
    with pytest.raises(UserError, match="devices of kind cpu do not tell their memory; give --device-memory GB"):
        Here().memory()


EXPERIMENT = """
from support import tiny

def runs(ladder, data):
    return [tiny.run(data=data, seed=seed, batch=8) for seed in range(2)]
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(EXPERIMENT)
    (tmp_path / "text.txt").write_bytes(tiny.text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(out):
    found = [json.loads(path.read_text()) for path in sorted(out.glob("runs/*/result.json"))]
    return {result["run_id"]: result["row"]["loss"] for result in found}


@pytest.mark.ci
@pytest.mark.usefixtures("as_users_have_it")
def test_runs_are_trained_with_it(place, monkeypatch):
    """The ids stay, and losses but for rounding; two starts with the kept setting agree bit for bit."""
    common = ["mine.py", "--text", "text.txt"]
    assert main(["sweep", *common, "--out", "plain", "--mode", "mesh"]) == 0
    run = tiny.run(batch=8)
    whole = compile_step(run, Setting(Here(2**40))).bytes
    auto = ["--memory", "auto", "--device-memory", f"{(whole - 1) / 1e9:.12f}"]
    assert main(["sweep", *common, "--out", "fitted", *auto]) == 0
    assert main(["run", *common, "--out", "again", "--index", "0", *auto]) == 0
    plain, found, again = (results(place / name) for name in ("plain", "fitted", "again"))
    assert set(plain) == set(found)
    for run_id, loss in plain.items():
        assert found[run_id] == pytest.approx(loss, rel=1e-4)
    ((run_id, loss),) = again.items()
    assert loss == found[run_id]
    (told,) = [json.loads(path.read_text()) for path in (place / "fitted" / "memory").iterdir()]
    assert told["fsdp"] == 2
    assert told["bytes"] < whole
    monkeypatch.setattr("capscale.sweep.fitting.compile_step", None)  # nothing is looked for again
    (next(iter((place / "fitted" / "runs").iterdir())) / "result.json").unlink()
    assert main(["sweep", *common, "--out", "fitted", *auto]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--memory", "auto"], "devices of kind cpu do not tell their memory; give --device-memory GB"),
        (["--device-memory", "1"], "--device-memory 1 is for --memory auto"),
        (["--memory", "auto", "--device-memory", "0"], "--device-memory 0 must be more than 0 GB"),
        (["--memory", "auto", "--device-memory", "1", "--remat"], "--memory auto finds --remat by itself"),
        (["--memory", "auto", "--fsdp", "2", "--microbatches", "2"], "auto finds --fsdp and --microbatches by itself"),
        (["--memory", "auto", "--device-memory", "1", "--mode", "threads"], "which --mode threads does not; drop one"),
    ],
)
def test_options_that_do_not_go_together(options, message, place, capsys):
    assert main(["sweep", "mine.py", "--text", "text.txt", "--out", "out", *options]) == 2
    assert message in capsys.readouterr().err
    assert not (place / "out").exists()


def test_launch_files_pass_it_on(place, capsys):
    options = ["--memory", "auto", "--device-memory", "15.5"]
    assert main(["launch", "slurm", "mine.py", "--vocabulary", "96", "--out", "/out", *options]) == 0
    assert "--memory auto --device-memory 15.5 --index" in capsys.readouterr().out
    assert main(["launch", "slurm", "mine.py", "--vocabulary", "96", "--out", "/out", *options, "--remat"]) == 2


@pytest.mark.ci
@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'capscale[tpu]'")
def test_preflight_keeps_settings_for_a_slice(place, capsys, monkeypatch):
    """Compiled for v5e; then found by what will run on such devices, and a sweep can begin in that directory."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    options = ["--vocabulary", "96", "--topology", "v5e:2x2", "--memory", "auto", "--json"]
    assert main(["preflight", "mine.py", *options, "--out", "out"]) == 0
    (program,) = json.loads(capsys.readouterr().out)["programs"]
    assert program["setting"] == "--topology v5e:2x2"
    slice_, out = find_slice("v5e:2x2"), epath.Path(place / "out")
    assert kept(tiny.run(batch=8), slice_, out) == Setting(slice_)
    assert kept(tiny.run(batch=8), find_slice("v5e:2x4"), out) is None
    assert main(["preflight", "mine.py", *options, "--out", "out", "--quick"]) == 2
    assert main(["sweep", "mine.py", "--text", "text.txt", "--out", "out", "--mode", "mesh"]) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'capscale[tpu]'")
def test_a_paper_program_gets_a_setting_that_fits(tmp_path):
    """50M on four v5e chips asks for more than they have when all is done at once."""
    model = PAPER.model("50M", 32_000)
    data = replace(tiny.corpus().id, vocabulary=32_000)
    run = Run("50M", model, 10**9, data, Optimizer(1e-3), PAPER.batch, "paper", SIX["int4"])
    place = find_slice("v5e:2x2")
    found = fitted(run, place, epath.Path(tmp_path))
    assert (found.fsdp, found.memory.microbatches > 1) == (4, True)
    (told,) = [json.loads(path.read_text()) for path in (tmp_path / "memory").iterdir()]
    assert told["bytes"] <= place.memory() == 16 * 2**30
    assert told["for"] == "50M int4"
