"""Which backend is chosen, what is said about it, and that a compiled function follows."""

import logging

import jax
import jax.numpy as jnp
import pytest
from capscale.kernels import config, dispatch
from capscale.kernels.dispatch import choose, force, target


def anything(backend):
    return None


def nothing(backend):
    return f"no {backend} kernel takes float64"


@pytest.fixture(autouse=True)
def undecided(monkeypatch):
    monkeypatch.delenv(config.KERNELS, raising=False)
    monkeypatch.setattr(dispatch, "_decided", {})


def test_a_cpu_runs_the_reference():
    assert dispatch.current() == ("cpu", False, None)
    assert choose("project", "float32 (8, 128)", anything) == "reference"


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_a_target_has_its_kernel(platform):
    with target(platform):
        assert choose("project", "float32 (8, 128)", anything) == platform
        assert choose("project", "float64 (8, 128)", nothing) == "reference"
    assert choose("project", "float32 (8, 128)", anything) == "reference"


def test_reference_wins_over_the_target():
    with target("tpu"), force("reference"):
        assert choose("project", "float32 (8, 128)", anything) == "reference"


def test_require_raises_with_the_reason_and_the_remedy():
    with target("tpu"), force("require"):
        assert choose("project", "float32 (8, 128)", anything) == "tpu"
        with pytest.raises(ValueError, match=r"no kernel runs project .* on tpu: no tpu kernel takes float64; use"):
            choose("project", "float64 (8, 128)", nothing)
    with force("require"), pytest.raises(ValueError, match="on cpu: there are kernels for TPU and GPU alone"):
        choose("project", "float32 (8, 128)", anything)


def test_the_environment_and_its_bad_values(monkeypatch):
    monkeypatch.setenv(config.KERNELS, "reference")
    assert dispatch.mode() == "reference"
    with force("auto"):
        assert dispatch.mode() == "auto"
    monkeypatch.setenv(config.KERNELS, "fast")
    with pytest.raises(ValueError, match="CAPSCALE_KERNELS='fast': use reference, auto, require"):
        dispatch.mode()
    with pytest.raises(ValueError, match="'fast': use reference, auto, require"):
        force("fast")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="target\\('rocm'\\): use cpu, tpu, gpu"):
        target("rocm")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("other", [("float32", (8, 128), 0.1), ("float32", (8, 128), 0.30000000000000004)])
def test_values_that_print_alike_are_decided_apart(other):
    """A decision for one value holds for no other, though the log tells both in the same words."""
    with target("tpu"):
        assert choose("project", ("float32", (8, 128), 0.3), anything, detail="float32 rows") == "tpu"
        assert choose("project", other, nothing, detail="float32 rows") == "reference"


def test_wide_numbers_are_left_to_xla(caplog):
    with target("tpu"), caplog.at_level(logging.WARNING, "capscale.kernels"):
        assert choose("project", "float32 (8, 128)", anything) == "tpu"
        with jax.enable_x64(True):
            assert choose("project", "float32 (8, 128)", anything) == "reference"
    assert "jax_enable_x64 is set, and kernels count in 32 bits" in caplog.text


def test_one_line_a_decision(caplog):
    with caplog.at_level(logging.INFO, "capscale.kernels"), target("tpu"):
        for _ in range(3):
            choose("project", "float64 (8, 128)", nothing)
            choose("project", "float32 (8, 128)", anything)
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "project float64 (8, 128): XLA, as no tpu kernel takes float64"),
        ("INFO", "project float32 (8, 128): tpu"),
    ]


def faster(backend):
    return f"it was measured faster than {backend}"


def test_auto_leaves_to_xla_what_was_measured_slower(caplog):
    detail = "float32 (8, 128)"
    with caplog.at_level(logging.INFO, "capscale.kernels"), target("gpu"):
        assert choose("project", detail, anything, faster) == "reference"
        with force("require"):
            assert choose("project", detail, anything, faster) == "gpu"
        with target("gpu", interpret=True):
            assert choose("project", detail, anything, faster) == "gpu"
    assert caplog.records[0].getMessage() == f"project {detail}: XLA, as it was measured faster than gpu"
    assert caplog.records[0].levelname == "INFO"


def test_what_was_decided_is_told_for_this_platform_alone():
    assert dispatch.decisions() == ""
    choose("select", "float32 (8, 128)", anything)
    with target("tpu"):
        assert dispatch.decisions() == ""
        choose("project", "float32 (8, 128)", anything)
        choose("project", "float64 (8, 128)", nothing)
        choose("attention", "bfloat16", anything)
        assert dispatch.decisions() == "attention tpu, project tpu and reference"
    assert dispatch.decisions() == "select reference"


def test_decided_once():
    asked = []
    with target("gpu"):
        for _ in range(3):
            choose("select", "float32 (8, 128)", asked.append)
    assert asked == ["gpu"]


@pytest.mark.parametrize(
    ("capability", "backend"),
    [("8.9", "reference"), ("9.0", "gpu"), ("10.0", "reference"), ("12.0", "reference"), ("gfx942", "reference")],
)
def test_gpus_other_than_hopper_run_the_reference(monkeypatch, capability, backend):
    class Device:
        device_kind = "a GPU"
        compute_capability = capability

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda platform: [Device()])
    assert choose("project", f"on {capability}", anything) == backend


def test_a_compiled_function_follows_the_context():
    """The choice is made while tracing, so that the context has to be part of jit's key."""
    chosen = []

    @jax.jit
    def f(x):
        chosen.append(choose("project", "float32 (8, 128)", anything))
        return x

    f(jnp.ones(3))
    with target("tpu", interpret=True):
        f(jnp.ones(3))
        f(jnp.ones(3))
        with force("reference"):
            f(jnp.ones(3))
    f(jnp.ones(3))
    assert chosen == ["reference", "tpu", "reference"]
