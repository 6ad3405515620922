"""Words for what a projection costs on a TPU, of schedules written by hand; and that a process must ask in time."""

import jax.numpy as jnp
import pytest
from capscale.kernels import bundles, costs
from capscale.kernels.aot import Unavailable
from capscale.kernels.chips import TPUS
from capscale.kernels.project import RmsTimes, Spec

from capscale.formats.grids import Int

SPEC = Spec(Int(4), RmsTimes(0.3), group=384)
LOOP = """
   0x1 LB: > {{ %s1 = sadd.s32 1, %s2  ;;  %p1_p2 = scmp.ge.s32.totalorder %s1, {trips} /* loop exit test */ }}
   0x2   : > {{ %v1_v0 = vmatmul.bf16.gmra.mxu0 %v2_v1  ;;  vst [vmem:[#allocation3_spill] sm:$0xff] %v1_v0 }}
   0x3   : > {{ %9 = sbr.rel (!%p1_p2) target = $region1 }}
"""


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Pretends to compile: a schedule of so many trips is written, beside one of something else."""
    asked = []

    def of(trips):
        def compile_for_tpu(chip, function, *operands):
            asked.append((chip, [operand.shape for operand in operands if operand is not None]))
            for name, text in (("capscale_project.1", LOOP.format(trips=trips)), ("fusion.2", "   0x1   :  { }")):
                (tmp_path / f"17-{name}-01-{bundles.PASS}.txt").write_text(text)

        monkeypatch.setattr(bundles, "folder", lambda: tmp_path)
        monkeypatch.setattr(costs, "compile_for_tpu", compile_for_tpu)
        return asked

    return of


def test_a_projection_is_held_against_a_copy(compiled):
    """A million trips of three bundles; and so few that the bytes take longer."""
    asked = compiled(10**6)
    kernel, seconds, copy = costs.of_projection(SPEC, "v6e", (64, 384), jnp.float32)
    assert asked == [("v6e", [(64, 384)])]
    assert kernel == bundles.Cost(bundles=3, cycles=3 * 10**6, multiplying=3 * 10**6, registers=2, spilled=1)
    assert seconds == pytest.approx(3e6 / TPUS["v6e"].clock)
    assert copy == pytest.approx(2 * 64 * 384 * 4 / 1.64e12)
    compiled(1)
    assert costs.of_projection(SPEC, "v6e", (64, 384), jnp.float32).seconds == copy


def test_words_for_it_name_what_it_is_of(compiled):
    """Of whole groups; 2 x 4096 x 4224 values of two bytes take 84.5 us at 819 GB/s, 3 x 10^5 cycles 199.6."""
    asked = compiled(10**5)
    told = costs.costs()["cost-v5e"](SPEC)
    assert asked == [("v5e", [(4096, 4224)])]
    assert told == (
        "estimated 200 us for 4096 x 4224 in bfloat16, 42% of a copy's speed: 300000 cycles in 3 bundles, 100% of them "
        "multiplying, 2 of 64 vector registers, spills: 1"
    )


def test_what_was_loaded_before_cannot_be_asked(monkeypatch):
    monkeypatch.setattr(bundles, "folder", lambda: None)
    with pytest.raises(Unavailable, match="libtpu was loaded before it could be asked for schedules"):
        costs.costs()["cost-v6e"](SPEC)
