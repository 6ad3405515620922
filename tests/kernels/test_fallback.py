"""Programs whose kernels fail: run without them where that helps, and failing as before where it does not."""

import logging
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import dispatch
from capscale.kernels.fallback import WithFallback
from support import tiny

from capscale.train.executor import Population

REFUSED = RuntimeError("INTERNAL: Mosaic failed to compile TPU kernel: no such thing\nand much more")


@pytest.fixture(autouse=True)
def nothing_decided(monkeypatch):
    monkeypatch.setattr(dispatch, "_decided", {})


def program(failing, op="project"):
    """A jitted function that asks for a backend, and fails where it is not among the ones that work."""

    def of(x):
        backend = dispatch.choose(op, "on", lambda _: None)
        if backend in failing:
            raise REFUSED
        return x * (2.0 if backend == "reference" else 3.0)

    return jax.jit(of, donate_argnums=0)


def test_a_failing_kernel_is_left_out_once_and_for_all(caplog):
    run = WithFallback(program({"tpu"}))
    with dispatch.target("tpu", interpret=True), caplog.at_level(logging.WARNING, "capscale.kernels"):
        assert [float(run(jnp.float32(1))) for _ in range(3)] == [2, 2, 2]
        assert dispatch.decisions() == "project reference"
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith(
        "XLA alone in place of the kernels (project), as they failed: RuntimeError: INTERNAL: Mosaic"
    )
    assert "\n" not in said


def test_a_kernel_that_works_is_kept(caplog):
    run = WithFallback(program(()))
    with dispatch.target("tpu", interpret=True), caplog.at_level(logging.WARNING, "capscale.kernels"):
        assert float(run(jnp.float32(1))) == 3
        assert dispatch.decisions() == "project tpu"
    assert not caplog.records


@pytest.mark.parametrize("mode", ["require", "reference"])
def test_what_was_asked_for_is_not_replaced(mode):
    run = WithFallback(program({"tpu", "reference"}))
    with dispatch.target("tpu", interpret=True), dispatch.force(mode), pytest.raises(RuntimeError, match="Mosaic"):
        run(jnp.float32(1))


def test_without_kernels_and_failing_either_way_the_error_is_the_first():
    with pytest.raises(RuntimeError, match="Mosaic failed"):
        WithFallback(program({"reference"}))(jnp.float32(1))  # on a CPU, where there was no kernel
    with dispatch.target("tpu", interpret=True), pytest.raises(RuntimeError, match="Mosaic failed"):
        WithFallback(program({"tpu", "reference"}))(jnp.float32(1))


def test_a_program_that_has_taken_its_state_is_not_run_again():
    state = jnp.ones(3)

    def taking(x):
        dispatch.choose("project", "on", lambda _: None)
        x.delete()
        raise REFUSED

    with dispatch.target("tpu", interpret=True), pytest.raises(RuntimeError, match="Mosaic failed"):
        WithFallback(taking)(state)


@pytest.mark.ci
@pytest.mark.parametrize("executor", ["mesh", "population"])
def test_training_goes_on_without_them(executor, monkeypatch, tmp_path, caplog):
    """The losses are those of the reference, bit for bit: nothing was trained twice or left out."""
    model = replace(tiny.MODEL, width=128, layers=1, multiple_of=128)
    run = tiny.run(model=model, tokens=3 * 4 * model.context)

    def of_run(directory):
        found = tiny.one_device(run) if executor == "mesh" else Population(run, jax.devices()[:1])
        return tiny.train_one(run, directory, found)

    with dispatch.target("tpu", interpret=True), dispatch.force("reference"):
        expected = of_run(tmp_path / "reference")

    def broken(*_, **__):
        raise REFUSED

    monkeypatch.setattr("capscale.fused.fused", broken)
    monkeypatch.setattr("capscale.train.executor.sharded", _uncached("sharded"))
    monkeypatch.setattr("capscale.train.executor.side_by_side", _uncached("side_by_side"))
    with dispatch.target("tpu", interpret=True), caplog.at_level(logging.WARNING, "capscale.kernels"):
        found = of_run(tmp_path / "broken")
    assert found["row"]["loss"] == expected["row"]["loss"]
    assert "reference" in found["timing"]["kernels"]
    assert "tpu" not in found["timing"]["kernels"]
    assert any("as they failed" in record.getMessage() for record in caplog.records)
    np.testing.assert_equal(found["metrics"], expected["metrics"])


def _uncached(name):
    from capscale.train import executor

    return getattr(executor, name).__wrapped__
