"""Cost of a compiled program, read from its text: cycles that XLA estimates, kernels, and bytes between devices.

XLA for TPUs writes `estimated_cycles` beside every fusion and copy. It leaves out Pallas kernels and collectives; these
are listed here, with how often they run.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from capscale.sweep.hlo import Line, bytes_of, instruction, named, operands, parse
from capscale.sweep.work import Work, work

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BETWEEN_SLICES = '_xla_host_transfer_handler_name="xla_megascale_runtime"'
"""Mark of what hosts send between slices: XLA sums inside of a slice first, and has each device hand over its part."""


class Kernel(NamedTuple):
    """A Pallas kernel of a program.

    Attributes:
      name: as the program calls it, and the compiler its schedule.
      runs: how often it runs in a step.
      bytes: of its operands and results, each moved once.
      kind: its name without the number behind it, and shapes of its results and operands: alike of kernels that the
        compiler compiles once, and writes one schedule of.
    """

    name: str
    runs: float
    bytes: int
    kind: str = ""


class Schedule(NamedTuple):
    """Cost of a step of a compiled program on one device.

    Attributes:
      cycles: XLA's estimate, of everything but kernels and collectives.
      kernels: those that the estimate leaves out.
      sent: bytes that a device sends, by kind of collective, as rings move them.
      sent_alone: bytes of collectives that nothing is computed beside.
      collectives: how many run, by kind.
      handed_over: bytes that a device hands to its host, to be added to those of other slices.
      work: what the cycles are spent on, an entry for each instruction that has some.
    """

    cycles: float
    kernels: tuple[Kernel, ...]
    sent: dict[str, float]
    sent_alone: float
    collectives: dict[str, float]
    handed_over: float = 0.0
    work: tuple[Work, ...] = ()


_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CONSTANT = re.compile(r"[su]32\[\]\S* constant\((\d+)\)")
_INDEX = re.compile(r"[su]32\[\]\S* get-tuple-element\(.*index=(\d+)")
_NUMBER = re.compile(r"\.\d+$")
_LAYOUT = re.compile(r"\{[^}]*\}|/\*index=\d+\*/")
_CALLED = re.compile(r"(?:calls|to_apply|called_computations)=\{?(%[\w.\-]+)")


def read_schedule(text: str, devices: int, share_of_conditionals: float = 1.0, kept: int = 0) -> Schedule:
    """Schedule of a program by its text, `Compiled.as_text()`.

    Args:
      text: of the compiled program.
      devices: of the program, for collectives that name no groups.
      share_of_conditionals: share of steps in which branches run; the costlier branch counts.
      kept: bytes of values whose reading and writing is not counted as work, as they would stay in fast memory.

    A loop whose trips the program does not know counts once, as the loop over steps does.

    >>> import jax
    >>> program = jax.jit(jnp.sum).lower(jnp.ones(4)).compile()
    >>> read_schedule(program.as_text(), devices=1).sent  # a program of one device sends nothing
    {}
    """
    return _Reader(text, devices, share_of_conditionals, kept).schedule()


_PRODUCT = re.compile(r"stablehlo\.dot_general .*: \(tensor<(?:\d+x)*(\w+)>, tensor<(?:\d+x)*(\w+)>\)")
_OF_CODES = {"i8": "int8", "f8E4M3FN": "float8"}


def products_of(lowered: str) -> dict[str, int]:
    """How many products a program takes of codes in int8, in float8, and of values, those of a loop counted once.

    Args:
      lowered: text of the program before it is compiled, `Lowered.as_text()`. Products inside of kernels are not in it.

    >>> import jax
    >>> products_of(jax.jit(jnp.matmul).lower(jnp.ones((4, 4)), jnp.ones((4, 4))).as_text())
    {'int8': 0, 'float8': 0, 'values': 1}
    """
    found = Counter(_OF_CODES.get(left, "values") for left, _ in _PRODUCT.findall(lowered))
    return {kind: found[kind] for kind in (*_OF_CODES.values(), "values")}


def constant_bytes(text: str) -> int:
    """Bytes of the constants of a compiled program, by its text: tables that it was traced with among them."""
    lines = (instruction(line) for line in text.splitlines() if " constant(" in line)
    return sum(bytes_of(found.result) for found in lines if found and found.op == "constant")


class _Reader:
    """The computations of a program, and a walk over them."""

    def __init__(self, text: str, devices: int, share: float, kept: int):
        self.devices, self.share, self.kept, self.program = devices, share, kept, parse(text)
        self.lines = self.program.lines

    def schedule(self) -> Schedule:
        """The cost of one step."""
        self.cycles, self.alone, self.handed_over = 0.0, 0.0, 0.0
        self.sent: dict[str, float] = defaultdict(float)
        self.counts: Counter[str] = Counter()
        self.kernels: list[Kernel] = []
        self.work: list[Work] = []
        self._walk(self.program.entry, 1.0)
        kernels, sent, spent = tuple(self.kernels), dict(self.sent), tuple(self.work)
        return Schedule(self.cycles, kernels, sent, self.alone, dict(self.counts), self.handed_over, spent)

    def _walk(self, computation: str, runs: float) -> None:
        sizes = {line.name: line.result for line in self.lines[computation]}
        for line in self.lines[computation]:
            if line.op == "while":
                self._walk(named(line.text, "body"), runs * self._trips(line))
            elif line.op == "conditional":
                branches = re.findall(r"%[\w.\-]+", line.text.split("branch_computations=")[-1].split("}")[0])
                costs = [self._alone_cycles(branch) for branch in branches]
                self._walk(branches[costs.index(max(costs))], runs * self.share)
            elif line.op == "call":
                self._walk(named(line.text, "to_apply"), runs)
            elif line.op == "send" and BETWEEN_SLICES in line.text:
                self.handed_over += runs * bytes_of(sizes.get(operands(line)[0], ""))
            elif 'custom_call_target="tpu_custom_call"' in line.text:
                read = [sizes.get(name, "") for name in operands(line)]
                moved, name = sum(map(bytes_of, (line.result, *read))), line.name.removeprefix("%")
                kind = f"{_NUMBER.sub('', name)} {_LAYOUT.sub('', ' '.join((line.result, *read)))}"
                self.kernels.append(Kernel(name, runs, moved, kind))
            else:
                cycles = _CYCLES.search(line.text)
                if cycles and int(cycles[1]):
                    self.cycles += runs * int(cycles[1])
                    self.work.append(work(line, int(cycles[1]), runs, sizes, self.program, kept=self.kept))
                for found, beside, scattered, operand_bytes in self._collectives(line, sizes):
                    self._count(found, runs, beside=beside, scattered=scattered, operand_bytes=operand_bytes)

    def _alone_cycles(self, computation: str) -> float:
        return sum(int(found[1]) for line in self.lines[computation] if (found := _CYCLES.search(line.text)))

    def _trips(self, loop: Line) -> int:
        """Trips of a loop that counts from 0 to a constant of its condition; 1 where it compares with data."""
        condition = self.lines[named(loop.text, "condition")]
        constants = [int(value) for line in condition for value in _CONSTANT.findall(line.text)]
        index = next((found[1] for line in condition if (found := _INDEX.search(line.text))), None)
        if len(constants) != 1 or index is None:
            return 1
        return -(-constants[0] // self._increment(named(loop.text, "body"), int(index)))

    def _increment(self, body: str, index: int) -> int:
        """Constant that a loop adds to its count, 1 where it is not written out; a loop may be unrolled twice."""
        lines = {line.name: line for line in self.lines[body]}
        count = lines.get(operands(self.lines[body][-1])[index])
        added = [lines[name] for name in operands(count) if name in lines] if count and count.op == "add" else []
        steps = [int(value) for line in added for value in _CONSTANT.findall(line.text)]
        return steps[0] if steps else 1

    def _collectives(self, line: Line, sizes: dict[str, str]) -> Iterator[tuple[Line, bool, bool, int]]:
        """Collectives that begin with an instruction: whether computed beside, whether only a part of a sum is kept."""
        kind = line.op.removesuffix("-start")
        if kind in COLLECTIVES:
            yield line, line.op.endswith("-start"), False, sum(bytes_of(sizes.get(name, "")) for name in operands(line))
        elif line.op in ("fusion", "async-start") and not re.search(r"-done[.\d]*$", line.name):
            for called in _CALLED.findall(line.text):
                inner = {inner.name: inner.result for inner in self.lines.get(called, [])}
                seen = (
                    "chain_id" in "".join(one.text for one in self.lines.get(called, [])) and "start" not in line.name
                )
                for one in self.lines.get(called, []):
                    if one.op in COLLECTIVES and not seen:  # later links of a chain carry the same transfer on
                        moved = sum(bytes_of(inner.get(name, "")) for name in operands(one))
                        yield one, "start" in line.name, "reduce-scatter" in called or "scatter" in called, moved

    def _count(self, line: Line, runs: float, *, beside: bool, scattered: bool, operand_bytes: int) -> None:
        kind = line.op.removesuffix("-start")
        if kind == "all-reduce" and scattered:
            kind = "reduce-scatter"
        group = _group(line.text, self.devices)
        moved = {
            "all-gather": group - 1.0,
            "reduce-scatter": (group - 1) / group,
            "all-to-all": (group - 1) / group,
            "all-reduce": 2 * (group - 1) / group,
            "collective-permute": 1.0,
        }[kind] * operand_bytes
        self.counts[kind] += runs  # pyright: ignore[reportArgumentType]
        self.sent[kind] += runs * moved
        self.alone += 0.0 if beside else runs * moved


def _group(text: str, devices: int) -> int:
    """Devices that a collective joins, by any of the three ways that XLA writes its groups; all where it writes none.

    Raises `ValueError` for a fourth.
    """
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
    if listed:
        return listed[1].count(",") + 1
    tiled = re.search(r"replica_groups=\[\d+,(\d+)\]", text)
    if tiled:
        return int(tiled[1])
    by_axes = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\S*\))? \{([^}]*)\}", text)
    if by_axes:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", by_axes[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", by_axes[2]))
    unread = re.search(r"replica_groups=(?!\{\})[^ ]*", text)
    if unread:
        raise ValueError(f"groups of devices that are not read: {unread[0]}")
    return devices
