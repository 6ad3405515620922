"""Text of a compiled program, `Compiled.as_text()`, as XLA writes it: computations of instructions, and shapes."""

import math
import re
from typing import NamedTuple

BITS = {"pred": 8, "bf16": 16, "f16": 16} | {
    f"{kind}{bits}": bits for kind in ("s", "u", "f", "c") for bits in (2, 4, 8, 16, 32, 64, 128)
}
"""Of a value, by the names that XLA gives to dtypes; float8's begin with f8."""


class Line(NamedTuple):
    """An instruction.

    Attributes:
      name: with the percent sign that references have too.
      result: its shape, or a tuple of shapes.
      op: operation, such as `fusion`.
      operands: what stands behind the operation's parenthesis.
      text: the whole line.
    """

    name: str
    result: str
    op: str
    operands: str
    text: str


class Text(NamedTuple):
    """A program: instructions of every computation by name, and the name of the one that it begins with."""

    lines: dict[str, list[Line]]
    entry: str


_COMPUTATION = re.compile(r"\n(?=(?:ENTRY )?%[\w.\-]+ \()")
_HEAD = re.compile(r"\s*(ENTRY )?(%[\w.\-]+) \(")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?(%[\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]\w*?)\[([\d,]*)\](\{[^}]*\})?")
_ELSEWHERE = re.compile(r"S\([1-9]\d*\)")
"""Mark of a layout that lies in another memory than the device's large one: on TPUs in the fast one of a core."""


def instruction(line: str) -> Line | None:
    """The instruction of a line of text, None where there is none."""
    found = _INSTRUCTION.match(line)
    return Line(found[1], found[2], found[3], found[4], line) if found else None


def parse(text: str) -> Text:
    """The computations of a program."""
    lines: dict[str, list[Line]] = {}
    entry = ""
    for part in _COMPUTATION.split("\n" + text):
        head = _HEAD.match(part)
        if head is not None:
            lines[head[2]] = [found for line in part.splitlines() if (found := instruction(line))]
            entry = head[2] if head[1] else entry
    return Text(lines, entry)


def named(text: str, attribute: str) -> str:
    """The computation that an attribute of an instruction names."""
    found = re.search(rf"{attribute}=(%[\w.\-]+)", text)
    assert found is not None, text
    return found[1]


def operands(line: Line) -> list[str]:
    """Names of an instruction's operands."""
    return re.findall(r"%[\w.\-]+", line.operands.split(")")[0])


def shapes(result: str) -> list[list[int]]:
    """Lengths of the axes of a shape, or of each of a tuple."""
    return [[int(axis) for axis in axes.split(",") if axis] for _, axes, _ in _SHAPE.findall(result)]


def bytes_of(result: str, larger_than: int | None = None) -> int:
    """Bytes of a shape as XLA writes it, `f32[2,3]{1,0}`, or of a tuple of such.

    `larger_than`: of those alone that lie in a device's large memory and take more bytes than that.
    """
    total = 0
    for dtype, axes, layout in _SHAPE.findall(result):
        bits = 8 if dtype.startswith("f8") else BITS.get(dtype, 0)
        one = math.prod(int(axis) for axis in axes.split(",") if axis) * bits // 8
        if larger_than is None or (one > larger_than and not _ELSEWHERE.search(layout)):
            total += one
    return total
