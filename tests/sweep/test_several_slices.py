"""Several TPU slices that train one run: which devices share parameters, and what crosses between slices."""

import importlib.util
import json
import math
from dataclasses import dataclass, replace

import jax
import pytest
from support import tiny

from capscale.cli import main
from capscale.errors import UserError
from capscale.models.initial import initial_params
from capscale.sweep import preflight
from capscale.sweep.choosing import shared_by
from capscale.sweep.estimate import estimate
from capscale.sweep.preflight import Setting, compile_step
from capscale.sweep.schedule import Schedule
from capscale.sweep.slices import find_slice
from capscale.train.sharding import make_mesh

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'capscale[tpu]'"
)


@dataclass(frozen=True)
class Chip:
    """A device of a slice, as JAX tells of it."""

    slice_index: int
    process_index: int
    id: int
    platform: str = "tpu"


CHIPS = [Chip(number // 4, number // 2, number) for number in range(8)]
"""Two slices of two hosts of two chips."""


@pytest.mark.parametrize("fsdp", [1, 2, 4])
def test_parameters_stay_inside_a_slice(fsdp):
    mixed = [CHIPS[number] for number in (5, 0, 7, 2, 4, 1, 6, 3)]
    rows = make_mesh(fsdp, mixed).devices
    assert rows.shape == (8 // fsdp, fsdp)
    assert all(len({chip.slice_index for chip in row}) == 1 for row in rows)
    assert [chip.process_index for chip in rows.flat] == [0, 0, 1, 1, 2, 2, 3, 3], "consecutive rows of a process"


def test_parameters_across_slices_are_refused():
    with pytest.raises(UserError, match="fsdp=8 does not divide the 4 devices of a slice, which share parameters"):
        make_mesh(8, CHIPS)
    hosts = [replace(chip, platform="gpu") for chip in CHIPS]  # GPUs count hosts as slices
    assert make_mesh(8, hosts).devices.shape == (1, 8)


def test_a_ring_of_slices_adds_up(monkeypatch):
    """Of 8 bytes each of two slices sends 8, of four 12; nothing is computed beside."""
    schedule = Schedule(0.0, (), {"all-reduce": 5.0}, 0.0, {}, handed_over=8.0)
    for count, sent in ((1, 0), (2, 8), (4, 12)):
        found = estimate(schedule, find_slice("v5e:2x2", count), 4 * count)
        assert found.between == pytest.approx(sent / 3.125e9)
        assert found.sent == 5 + sent == sum(found.kinds.values())
        assert found.kinds == {"all-reduce": 5.0} | ({"between slices": sent} if sent else {})
        assert found.step == pytest.approx(5 / 9e10 + sent / 3.125e9)
    assert find_slice("v5e:2x2", 2).larger[0] == find_slice("v5e:2x4", 2)


@pytest.fixture
def as_users_have_it():
    """JAX's own lowering of bfloat16 products into float32 promotes types, which is not allowed in tests."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@needs_libtpu
@pytest.mark.ci
@pytest.mark.usefixtures("as_users_have_it")
def test_gradients_cross_between_slices_once(monkeypatch):
    """XLA's program for two slices of four chips: each chip hands over a quarter of the float32 gradients, once."""
    run = tiny.dense_run(batch=16, model=replace(tiny.MODEL, width=256, vocabulary=512, multiple_of=128))
    seen = []
    read = preflight.read_schedule
    monkeypatch.setattr(preflight, "read_schedule", lambda *args: seen.append(read(*args)) or seen[-1])
    setting = Setting(find_slice("v5e:2x2", 2))
    compiled = compile_step(run, setting)
    assert compiled.fits
    assert compiled.limit == 16 * 2**30
    params = jax.eval_shape(lambda: initial_params(run.model, run.representation, jax.random.key(0)))
    gradients = 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert 1 <= seen[0].handed_over / (gradients / 4) < 1.1
    assert compiled.estimate is not None
    assert compiled.estimate.between == pytest.approx(seen[0].handed_over / 3.125e9)
    assert shared_by(setting.slice) == 4


@needs_libtpu
@pytest.mark.ci
def test_preflight_takes_slices(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    (tmp_path / "mine.py").write_text(
        "from support import tiny\n\ndef runs(ladder, data):\n    return [tiny.run(data=data, batch=16)]\n"
    )
    asked = ["preflight", str(tmp_path / "mine.py"), "--vocabulary", "96", "--topology", "v5e:2x2"]
    assert main([*asked, "--slices", "2", "--mfu", "0.5", "--quick", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["setting"] == "--topology v5e:2x2 --slices 2"
    (run,) = found["programs"][0]["runs"]
    assert run["device_hours"] == pytest.approx(8 * run["hours"])
    assert main([*asked, "--slices", "2", "--fsdp", "8"]) == 2
    assert "fsdp=8 does not divide the 4 devices of a slice" in capsys.readouterr().err
    assert main([*asked, "--slices", "0"]) == 2
    assert "--slices 0 must be at least 1" in capsys.readouterr().err
