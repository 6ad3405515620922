"""Gradients that devices send each other in bfloat16: how far off their sum is, what is sent, and who is refused."""

import importlib.util
import json
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from etils import epath
from jax.sharding import PartitionSpec
from support import tiny
from support.compiled_steps import keep_steps

from capscale.cli import main
from capscale.errors import UserError
from capscale.formats.noise import Noise
from capscale.representation import Operand, Representation, operand
from capscale.sweep.preflight import Setting, compile_step
from capscale.sweep.schedule import read_schedule
from capscale.sweep.slices import find_slice
from capscale.train.executor import Population, Sharded
from capscale.train.loop import claim
from capscale.train.memory import Memory
from capscale.train.record import result_row
from capscale.train.run import described
from capscale.train.sharding import DATA, make_mesh, mapped, mean_over_devices, scattered_mean

RUN = tiny.run(batch=8, tokens=tiny.STEPS * 8 * 16, model=replace(tiny.MODEL, tied_embeddings=False))
ROUNDED = replace(RUN, optimizer=replace(RUN.optimizer, reduce="bfloat16"))


@pytest.mark.parametrize("fsdp", [1, 2])
def test_a_mean_is_off_by_roundings_of_its_parts(fsdp):
    """Against float64, within the bound that is stated; gains are sent as they are."""
    rng = np.random.default_rng(0)
    parts = {
        "kernel": rng.normal(size=(2, 64, 32)) * 10 ** rng.uniform(-3, 3, (2, 64, 32)),
        "gain": rng.normal(size=(2, 64)),
    }
    parts = {name: part.astype(np.float32) for name, part in parts.items()}
    split = {"kernel": PartitionSpec(None, "fsdp"), "gain": PartitionSpec()}
    mean = (
        partial(mean_over_devices, axis=DATA, dtype="bfloat16")
        if fsdp == 1
        else lambda tree: scattered_mean(tree, split, "bfloat16")
    )
    with jax.set_mesh(make_mesh(fsdp)):
        of_devices = PartitionSpec(("data", "fsdp"))
        out = split if fsdp == 2 else PartitionSpec()
        run = mapped(lambda tree: mean({name: leaf[0] for name, leaf in tree.items()}), of_devices, out)
        found = jax.jit(run)(parts)
    exact = {name: part.astype(np.float64).mean(axis=0) for name, part in parts.items()}
    error = np.abs(np.asarray(found["kernel"], np.float64) - exact["kernel"])
    bound = 2.0**-8 * np.abs(parts["kernel"].astype(np.float64)).sum(axis=0)
    assert (error <= bound * (1 + 2.0**-8)).all()
    assert (error / bound).max() > 0.2, "rounded it is"
    np.testing.assert_allclose(found["gain"], exact["gain"], rtol=1e-6, atol=1e-7)


def test_a_run_is_another_by_it(tmp_path):
    """Its id, its name and its row say so, and no directory goes on from one to the other."""
    assert ROUNDED.run_id != RUN.run_id
    assert "reduce" not in json.dumps(described(RUN))
    assert replace(ROUNDED, optimizer=replace(ROUNDED.optimizer, reduce="float32")).run_id == RUN.run_id
    claim(RUN, tiny.corpus(), epath.Path(tmp_path))
    with pytest.raises(UserError, match=f"describes another run than {ROUNDED.run_id}"):
        claim(ROUNDED, tiny.corpus(), epath.Path(tmp_path))
    rows = [result_row(run, 2.0, 0.01, 1.0) for run in (RUN, ROUNDED)]
    assert rows[0] | {"reduce": "bfloat16"} == rows[1]


def test_devices_that_send_nothing_and_sums_that_xla_makes_are_refused():
    with pytest.raises(UserError, match="here is one device; train on several, by --mode mesh"):
        Sharded(ROUNDED, make_mesh(devices=jax.devices()[:1]))
    with pytest.raises(UserError, match="here is one device"):
        Population(ROUNDED, jax.local_devices())
    with pytest.raises(UserError, match="with --fsdp 2 and --gather layer XLA adds up gradients by itself"):
        Sharded(ROUNDED, make_mesh(2))
    with pytest.raises(UserError, match=r"reduce=bfloat16\): it draws noise for all tokens at once"):
        replace(ROUNDED, representation=Representation(operand("int4"), Operand(Noise(0.1, "row"))))
    with pytest.raises(UserError, match="reduce='float16'"):
        replace(RUN.optimizer, reduce="float16")


EXPERIMENT = """
from support import tiny

def runs(ladder, data):
    return [tiny.run(data=data, batch=8, tokens=12 * 8 * 16)]
"""


@pytest.mark.ci
def test_a_sweep_is_trained_with_it(tmp_path, monkeypatch, capsys):
    """On both devices, unasked; beside the runs in float32, whose losses are near; threads are refused."""
    (tmp_path / "mine.py").write_text(EXPERIMENT)
    (tmp_path / "text.txt").write_bytes(tiny.text())
    monkeypatch.chdir(tmp_path)
    common = ["sweep", "mine.py", "--text", "text.txt", "--out", "out"]
    assert main([*common, "--reduce", "bfloat16", "--mode", "threads"]) == 2
    assert "--mode threads trains a run on one device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*common, "--mode", "mesh"]) == 0
    for options in (["--reduce", "bfloat16"], ["--reduce", "bfloat16", "--fsdp", "2", "--gather", "step"]):
        assert main([*common, *options]) == 0
    found = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("runs/*/result.json")]
    losses = {result["row"].get("reduce", "float32"): result["row"]["loss"] for result in found}
    assert len(found) == len(losses) == 2
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.01)
    assert {result["timing"]["devices"] for result in found} == {2}


@pytest.mark.ci
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'capscale[tpu]'")
@pytest.mark.parametrize(("fsdp", "kind"), [(1, "all-reduce"), (4, "reduce-scatter")])
def test_half_the_bytes_are_sent(fsdp, kind, monkeypatch):
    """By XLA's program for four chips of v5e: of gradients, and of nothing else."""
    steps = keep_steps(monkeypatch)
    model = replace(tiny.MODEL, width=256, vocabulary=512, multiple_of=128, layers=2)
    setting = Setting(find_slice("v5e:2x2"), fsdp, Memory(microbatches=2, gather="step" if fsdp > 1 else "layer"))
    for run in (RUN, ROUNDED):
        with jax.numpy_dtype_promotion("standard"):
            assert compile_step(replace(run, model=model), setting, quick=True).fits
    plain, rounded = (read_schedule(each.as_text(), 4, 0).sent for each in steps)
    assert rounded[kind] == pytest.approx(plain[kind] / 2, rel=0.05)
    assert rounded.get("all-gather") == plain.get("all-gather")
