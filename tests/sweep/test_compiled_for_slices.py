"""Steps compiled for a slice that is not here: the paper's fit, what XLA refuses is remedied, and chips are as sold."""

import importlib.util
import inspect
from dataclasses import replace

import jax
import pytest
from capscale.experiments.paper_capacity import SIX
from capscale.kernels import aot
from support import tiny
from support.compiled_steps import keep_steps

from capscale.errors import UserError
from capscale.models.ladder import PAPER
from capscale.sweep import preflight
from capscale.sweep.choosing import remedy
from capscale.sweep.preflight import Setting, compile_step, device_hours
from capscale.sweep.schedule import read_schedule
from capscale.sweep.slices import CHIPS, find_slice, slices
from capscale.train import compiled as functions
from capscale.train import sharding
from capscale.train.flops import flops_per_token
from capscale.train.memory import Memory
from capscale.train.run import Optimizer, Run
from capscale.train.sharding import make_mesh

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'capscale[tpu]'"
)
GB = 10**9


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
    steps = keep_steps(monkeypatch)
    setting = Setting(find_slice("v5e:2x2"), 4, Memory(microbatches=4, gather="step"))
    for name in ("dense", "int4"):
        run = paper_run("30M", name)
        assert compile_step(replace(run, model=replace(run.model, layers=3)), setting, quick=True).fits
    dense, int4 = (read_schedule(each.as_text(), 4, 1 / 32).sent for each in steps)
    assert int4 == pytest.approx(dense, rel=1e-6)  # sums of squares for metrics beside


@needs_libtpu
@pytest.mark.slow
@pytest.mark.usefixtures("as_users_have_it")
def test_products_of_split_weights_are_whole(monkeypatch):
    """XLA by itself takes them apart, which reads and writes as much again; not where its compiler lacks the option."""
    setting, run = Setting(find_slice("v5e:4x4"), 16, Memory(microbatches=2)), paper_run("430M", "dense")
    run, found = replace(run, model=replace(run.model, layers=3)), []
    monkeypatch.setattr(preflight, "sharded", inspect.unwrap(functions.sharded))  # not what is made already
    for option in (sharding.WINDOWED_FROM_MIB, "xla_jf_nonsense"):
        monkeypatch.setattr(sharding, "WINDOWED_FROM_MIB", option)
        estimate = compile_step(run, setting, quick=True).estimate
        assert estimate is not None
        found.append(estimate.compute)
    assert found[0] < 0.7 * found[1]


@needs_libtpu
def test_programs_of_a_slice_that_splits_weights_alone_have_options():
    devices = find_slice("v5e:2x2").devices()
    assert sharding.compiler_options(make_mesh(4, devices)) == {sharding.WINDOWED_FROM_MIB: sharding.NEVER}
    assert sharding.compiler_options(make_mesh(1, devices)) is None
    assert sharding.compiler_options(make_mesh(len(jax.devices()))) is None


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
