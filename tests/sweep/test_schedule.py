"""Cost of a compiled program, read from its text: bytes of collectives known by hand, trips of loops, kernels."""

import jax
import jax.numpy as jnp
import pytest
from capscale.kernels import bundles
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from capscale.sweep.estimate import BEYOND, Estimate, estimate, waits_for
from capscale.sweep.schedule import Kernel, Schedule, read_schedule
from capscale.sweep.slices import CHIPS, find_slice
from capscale.sweep.work import Work

X = jax.ShapeDtypeStruct((8, 6), jnp.float32)
BYTES = 8 * 6 * 4


def sent(function, *operands):
    """Schedule of a function that two devices run by themselves, on rows of their own."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"), check_vma=False
    )
    rows = NamedSharding(mesh, PartitionSpec("data"))
    text = jax.jit(mapped, in_shardings=rows, out_shardings=rows).lower(*operands).compile().as_text()
    return read_schedule(text, 2)


@pytest.mark.parametrize(
    ("function", "kind", "expected"),
    [
        (lambda x: x + jax.lax.psum(x, "data"), "all-reduce", BYTES / 2),  # 2 (n - 1) / n of half of x
        (lambda x: jax.lax.all_gather(x, "data", tiled=True)[:4], "all-gather", BYTES / 2),  # n - 1 of it
        (lambda x: jax.lax.psum_scatter(x, "data", tiled=True), "reduce-scatter", BYTES / 4),  # (n - 1) / n
        (lambda x: jax.lax.all_to_all(x, "data", 0, 0, tiled=True), "all-to-all", BYTES / 4),
        (lambda x: jax.lax.ppermute(x, "data", ((0, 1), (1, 0))), "collective-permute", BYTES / 2),
    ],
)
def test_bytes_that_a_device_sends(function, kind, expected):
    found = sent(function, X)
    assert found.sent == {kind: expected}
    assert found.collectives == {kind: 1}


def test_bytes_of_a_loop_are_those_of_its_trips():
    """Three known ones; a loop that data end counts once."""

    def known(x):
        return jax.lax.fori_loop(0, 3, lambda _, y: jax.lax.psum(jnp.sin(y), "data"), x)

    def unknown(x):
        return jax.lax.while_loop(lambda y: y[0, 0] < 1, lambda y: jax.lax.psum(jnp.sin(y), "data"), x)

    assert sent(known, X).sent == {"all-reduce": 3 * BYTES / 2}
    assert sent(known, X).collectives == {"all-reduce": 3}
    assert sent(unknown, X).sent == {"all-reduce": BYTES / 2}


def program(body):
    """A step: a loop that is unrolled twice around `body`, as libtpu writes it."""
    return f"""HloModule step

%condition (p: (u32[], f32[8])) -> pred[] {{
  %p = (u32[]{{:T(128)}}, f32[8]{{0}}) parameter(0)
  %limit = u32[]{{:T(128)}} constant(8)
  %count = u32[]{{:T(128)}} get-tuple-element(%p), index=0
  ROOT %less = pred[]{{:T(512)}} compare(%count, %limit), direction=LT
}}

%body (q: (u32[], f32[8])) -> (u32[], f32[8]) {{
  %q = (u32[]{{:T(128)}}, f32[8]{{0}}) parameter(0)
  %two = u32[]{{:T(128)}} constant(2)
  %i = u32[]{{:T(128)}} get-tuple-element(%q), index=0
  %x = f32[8]{{0}} get-tuple-element(%q), index=1
{body}
  %next = u32[]{{:T(128)}} add(%i, %two)
  ROOT %out = (u32[]{{:T(128)}}, f32[8]{{0}}) tuple(%next, %x)
}}

ENTRY %main (a: (u32[], f32[8])) -> (u32[], f32[8]) {{
  %a = (u32[]{{:T(128)}}, f32[8]{{0}}) parameter(0)
  ROOT %loop = (u32[]{{:T(128)}}, f32[8]{{0}}) while(%a), condition=%condition, body=%body
}}
"""


@pytest.mark.parametrize(
    ("groups", "joined"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", 4),
        ("[4,2]<=[8]", 2),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", 4),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}", 8),
        ("mesh['axis_0'=1,'axis_1'=2,'axis_2'=4], device_ids=([4,2]T(1,0)) {'axis_1'}", 2),
        ("{}", 8),
    ],
)
def test_groups_as_compilers_write_them(groups, joined):
    """Of eight devices: lists, tiles, axes of a mesh, of one whose devices are permuted, and none."""
    body = f"  %r = f32[8]{{0}} all-reduce(%x), replica_groups={groups}, to_apply=%add"
    assert read_schedule(program(body), 8).sent == {"all-reduce": pytest.approx(4 * 2 * (joined - 1) / joined * 32)}


def test_groups_written_in_another_way_are_no_guess():
    body = "  %r = f32[8]{0} all-reduce(%x), replica_groups=ring(0,1), to_apply=%add"
    with pytest.raises(ValueError, match=r"groups of devices that are not read: replica_groups=ring"):
        read_schedule(program(body), 8)


def test_cycles_kernels_and_what_is_computed_beside():
    """By hand: four trips of 100 cycles, of a kernel of 64 bytes, and of a ring of 16 that something runs beside."""
    found = read_schedule(
        program("""  %f = f32[8]{0} fusion(%x), kind=kLoop, calls=%g, backend_config={"estimated_cycles":"100"}
  %k = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call", backend_config={"body":"TU"}
  %s = (f32[8]{0}, f32[8]{0}) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}
  %r = f32[8]{0} all-reduce(%x), replica_groups=mesh['axis_0'=4] {'axis_0'}, to_apply=%add"""),
        devices=4,
    )
    assert found == Schedule(
        cycles=400,
        kernels=(Kernel("k", 4, 64, "k f32[8] f32[8]"),),
        sent={"collective-permute": 4 * 32, "all-reduce": 4 * 2 * 3 / 4 * 32},
        sent_alone=4 * 2 * 3 / 4 * 32,
        collectives={"collective-permute": 4, "all-reduce": 4},
        work=(Work(100, 4, 0.0, 64),),
    )


def test_time_is_what_does_not_overlap():
    """400 cycles and a kernel of 10^6 bytes on v5e beside one ring, after another that nothing runs beside."""
    slice_, chip = find_slice("v5e:2x2"), CHIPS["v5e"]
    second = round(chip.clock)
    spent = (
        Work(second // 2, 0.5, chip.peak / 2, int(chip.bandwidth / 4)),  # as much as the matrix unit can
        Work(second // 4, 1.0, chip.peak / 16, int(chip.bandwidth / 4)),
        Work(second // 8, 4.0, chip.peak / 17, int(chip.bandwidth / 17)),  # neither is half of it
    )
    wire = {"all-reduce": 5 * chip.wire}
    schedule = Schedule(chip.clock, (Kernel("k", 2, int(chip.bandwidth)),), wire, chip.wire, {}, work=spent)
    found = estimate(schedule, slice_, 4)
    units = {"matrix unit": 0.25, "memory": 2.25, "vector unit": 0.5}
    assert found == Estimate(
        pytest.approx(1.0), pytest.approx(2.0), 4.0, 1.0, wire["all-reduce"], False, pytest.approx(units), kinds=wire
    )
    assert found.step == pytest.approx(5.0)
    assert found.bottleneck == "wire"
    assert found._replace(beside=1.0).step == pytest.approx(4.0)
    assert found._replace(beside=0.0, alone=0.0).bottleneck == "memory"
    assert sum(found.units.values()) == pytest.approx(found.compute + found.kernels)
    quick = estimate(schedule, slice_, 4, quick=True)
    asked = 0.5 / 2 + 1 / 16 + 4 / 17 + 0.25 / 2 + 0.25 + 4 / 17  # products, then bytes: cycles do not count
    assert quick.compute == pytest.approx(BEYOND * asked, rel=1e-6)
    assert quick.units == {"chip": quick.compute + quick.kernels}
    assert quick._replace(beside=0.0, alone=0.0).bottleneck == "chip"
    assert quick._replace(compute=found.compute, units=units, quick=False) == found._replace(units=units)


def test_kernels_that_are_compiled_once_have_one_schedule(tmp_path):
    """By hand: three of a kind, one of which is written, and one of another shape, which goes by its bytes."""
    body = "\n".join(
        f'  %k.{i} = f32[{size}]{{0{layout}}} custom-call(%x), custom_call_target="tpu_custom_call"'
        for i, (size, layout) in enumerate([(8, ""), (8, ":S(1)"), (8, ""), (16, "")], start=1)
    )
    schedule = read_schedule(program(body), 1)
    assert [kernel.kind for kernel in schedule.kernels] == ["k f32[8] f32[8]"] * 3 + ["k f32[16] f32[8]"]
    (tmp_path / f"1-k.2-01-{bundles.PASS}.txt").write_text(SCHEDULE)
    slice_, chip = find_slice("v5e:2x2"), CHIPS["v5e"]
    found = estimate(schedule, slice_, 4, tmp_path)
    runs = schedule.kernels[0].runs
    once, moved = bundles.cycles(SCHEDULE) / chip.clock, schedule.kernels[3].bytes / chip.bandwidth
    assert found.kernels == pytest.approx(runs * (3 * once + moved))
    assert not found.by_schedule
    whole = estimate(schedule._replace(kernels=schedule.kernels[:3]), slice_, 4, tmp_path)
    assert whole.by_schedule
    assert whole.kernels == pytest.approx(runs * 3 * once)


@pytest.mark.parametrize(
    ("products", "bytes", "unit"),
    [(0.5, 0.4, "matrix unit"), (0.5, 0.6, "memory"), (0.4, 0.5, "memory"), (0.49, 0.48, "vector unit")],
)
def test_a_part_waits_for_what_takes_half_of_it(products, bytes, unit):
    assert waits_for(1.0, products, bytes) == unit


def test_clocks_are_those_that_are_known():
    """In GHz, as published."""
    assert {name: round(chip.clock / 1e9, 2) for name, chip in CHIPS.items()} == {
        "v4": 1.05,
        "v5e": 1.5,
        "v5p": 1.75,
        "v6e": 1.75,
    }


OUTER = "%p3_p4 = scmp.ge.s32.totalorder (%p1_p2), %s1, 7 /* loop exit test */"
SCHEDULE = f"""
     0   :  {{ %s0 = smov 0 }}
   0x1 LB: > {{ %s1 = sadd.s32 1, %s2 }}
   0x2 LB: >> {{ %s3 = sadd.s32 1, %s4  ;;  %p1_p2 = scmp.ge.s32.totalorder %s3, 5 /* loop exit test */ }}
   0x3   : >> {{ %9 = sbr.rel (!%p1_p2) target = $region1  ;;  {OUTER} }}
   0x4   : > {{ %8 = sbr.rel (!%p3_p4) target = $region2 }}
   0x5   :  {{ %7 = shalt.err }}
"""


def test_bundles_count_as_often_as_their_loops_run():
    """Five trips of two bundles, in seven of two more; and one at the end, the first having no address."""
    assert bundles.cycles(SCHEDULE) == 7 * (2 + 5 * 2) + 1


def test_a_schedule_tells_registers_spills_and_the_matrix_units():
    """In the inner loop one product of rows of bfloat16, in the outer two of float32, of one unit each."""
    spill, single = "vst [vmem:[#allocation3_spill] sm:$0xff] %v5_v1", "vmatmul.f32.vlgmr.msra.gmra.mxu1 %v6_v63"
    multiplies = SCHEDULE.replace("%9 =", "%v7_v0 = vmatmul.bf16.gmra.mxu0 %v6_v63  ;;  %9 =")
    multiplies = multiplies.replace("%8 =", f"%10 = {single}  ;;  {spill}  ;;  %8 =")
    found = bundles.cost(multiplies)
    assert found == bundles.Cost(bundles=6 - 1, cycles=85, multiplying=85, registers=3, spilled=1)
    once = bundles.cost(multiplies.replace("mxu0", "unit0"))
    assert once == found._replace(multiplying=7 * 8)


def test_trips_that_fill_and_empty_the_pipeline_do_not_count():
    """Seven, two of which have no block to work on."""
    of_blocks = SCHEDULE.replace("%s1 = sadd", "%s5 = sphi %s6 /* iteration index, stage = 2 */  ;;  %s1 = sadd")
    assert bundles.cycles(of_blocks) == 5 * (2 + 5 * 2) + 1


@pytest.mark.slow
def test_a_kernel_is_known_by_its_schedule(tmp_path):
    """libtpu writes it in a process of its own, where nothing has loaded it before."""
    import subprocess
    import sys

    from support.limits import LIMIT_S

    code = """
import jax, jax.numpy as jnp
from capscale.kernels import bundles, dispatch
from capscale.kernels.aot import compile_for_tpu
from capscale.kernels.attention import causal_attention
from capscale.sweep.estimate import estimate
from capscale.sweep.schedule import read_schedule
from capscale.sweep.slices import find_slice
folder = bundles.folder()
with dispatch.target("tpu"), dispatch.force("require"):
    shapes = [jax.ShapeDtypeStruct((32, 512, 5, 128), jnp.bfloat16)] * 3
    compiled = compile_for_tpu("v5e", causal_attention, *shapes)
found = estimate(read_schedule(compiled.as_text(), 1), find_slice("v5e:2x2"), 4, folder)
assert found.by_schedule
assert 1e-4 < found.kernels < 5e-4, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if "libtpu is not installed" in done.stderr:
        pytest.skip("needs libtpu")
    assert done.returncode == 0, done.stderr
