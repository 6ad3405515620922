"""FLOPs counted matrix by matrix, peaks by the name of the device, and the time that is left."""

from dataclasses import replace

import jax
import pytest
from support import tiny

from capscale.models.ladder import LADDERS, find_size
from capscale.representation import Representation, operand
from capscale.train.flops import flops_per_token, peak_flops
from capscale.train.progress import Clock, mfu


@pytest.mark.parametrize("size", ["nano-16", "30M", "800M", "olmo2-30M"])
def test_flops_are_those_of_the_products(size):
    """Two a multiplication, three times for forward and backward; norms are counted as if each gain were a product."""
    model = find_size(size)
    L, M, F, T, V = model.layers, model.width, model.hidden, model.context, model.vocabulary
    matrices = L * (4 * M * M + (3 if model.family == "llama" else 2) * M * F) + V * M
    scores = 2 * L * T * M  # queries with keys, weights with values
    assert flops_per_token(model) == pytest.approx(3 * 2 * (matrices + scores), rel=1e-2)
    assert flops_per_token(replace(model, context=2 * T)) - flops_per_token(model) == 12 * L * M * T


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.4e12),
        ("cpu", None),
        ("TPU v55", None),
        ("NVIDIA A10", None),
    ],
)
def test_peak_by_kind(kind, peak):
    assert peak_flops(kind) == peak


def test_mfu_is_none_where_the_peak_is_unknown_and_a_share_where_it_is(monkeypatch):
    run = tiny.run(model=LADDERS["paper"].model("30M", 32_000), tokens=10**6)
    assert mfu(run, 1e6, 1) is None

    class Device:
        device_kind = "TPU v5 lite"

    monkeypatch.setattr(jax, "devices", lambda: [Device()] * 4)
    assert mfu(run, 4 * 197e12 / flops_per_token(run.model), 4) == pytest.approx(1.0)
    assert mfu(run, 197e12 / flops_per_token(run.model), 4) == pytest.approx(0.25)
    nested = replace(run, representation=Representation(operand("nested-8-4-2-weighted-1-0-1")))
    assert mfu(nested, 2 * 197e12 / flops_per_token(run.model), 4) == pytest.approx(1.0)  # of two widths that count


def test_time_left_leaves_compilation_out():
    clock = Clock()
    clock.add(10, 100.0)
    assert clock.left_s(20) == pytest.approx(200.0), "all that is known"
    clock.add(10, 2.0)
    clock.add(5, 1.0)
    assert clock.left_s(20) == pytest.approx(4.0)
    assert clock.total_s == pytest.approx(103.0)
    assert clock.last_s == 1.0
