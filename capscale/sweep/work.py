"""Work of a compiled program's instructions on a chip: operations of products, and bytes of large memory."""

import math
import re
from typing import NamedTuple

from capscale.sweep.hlo import Line, Text, bytes_of, named, operands, shapes

_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_SLICES = ("dynamic-slice", "slice", "gather")
_SAME = ("bitcast", "reshape")


class Work(NamedTuple):
    """Work of an instruction in a step.

    Attributes:
      cycles: XLA's estimate of one run.
      runs: how often it runs in a step.
      flops: of the products in one run.
      bytes: of large memory that one run reads and writes.
    """

    cycles: int
    runs: float
    flops: float
    bytes: int


def work(line: Line, cycles: int, runs: float, sizes: dict[str, str], text: Text, *, kept: int = 0) -> Work:
    """Work of an instruction.

    Args:
      line: the instruction.
      cycles: of one run.
      runs: of the instruction in a step.
      sizes: shapes of its computation by name.
      text: the program.
      kept: bytes of values that are taken to stay in fast memory, wherever the program has them.
    """
    called = named(line.text, "calls") if line.op == "fusion" else None
    if called is None or called not in text.lines:
        read = bytes_of(line.result, kept) if line.op in _SLICES else _read_whole(line, sizes, kept)
        written = _updated(line, sizes) if line.op == "dynamic-update-slice" else bytes_of(line.result, kept)
        return Work(cycles, runs, _flops_of(line, sizes), read + written)
    read = sum(
        min(bytes_of(sizes.get(name, ""), kept), _read(called, place, text))
        for place, name in enumerate(operands(line))
    )
    return Work(cycles, runs, _flops(called, text), read + min(bytes_of(line.result, kept), _written(called, text)))


def _read_whole(line: Line, sizes: dict[str, str], kept: int) -> int:
    names = operands(line)[1:] if line.op == "dynamic-update-slice" else operands(line)
    return sum(bytes_of(sizes.get(name, ""), kept) for name in names)


def _updated(line: Line, sizes: dict[str, str]) -> int:
    return bytes_of(sizes.get(operands(line)[1], ""))


def _flops(computation: str, text: Text) -> float:
    """Operations of all products of a computation, and of those that it calls."""
    lines = text.lines.get(computation, [])
    sizes = {line.name: line.result for line in lines}
    inner = sum(_flops(named(line.text, "calls"), text) for line in lines if line.op == "fusion")
    return inner + sum(_flops_of(line, sizes) for line in lines)


def _flops_of(line: Line, sizes: dict[str, str]) -> float:
    """Operations of a product: two for each entry of its result and each value that is summed for it.

    Libraries' convolutions count as products do: an axis that XLA calls one of space is one of a batch, of the sum, or
    of a single operand, and the longest of the three is how often it is gone through.
    """
    if line.op not in ("convolution", "dot"):
        return 0.0
    left, right = (shapes(sizes.get(name, ""))[0] for name in operands(line)[:2])
    (result,) = shapes(line.result)
    if line.op == "dot":
        contracted = _CONTRACTED.search(line.text)
        axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
        return 2.0 * math.prod(result) * math.prod(left[axis] for axis in axes)
    labels = _LABELS.search(line.text)
    assert labels is not None, line.text
    of_left, of_right, of_result = (
        dict(zip(label, axes, strict=True)) for label, axes in zip(labels.groups(), (left, right, result), strict=True)
    )
    space = [max(of_left[axis], of_right[axis], of_result[axis]) for axis in of_result if axis.isdigit()]
    return 2.0 * of_result["b"] * of_result["f"] * of_right["i"] * math.prod(space)


def _read(computation: str, place: int, text: Text) -> int:
    """Bytes that a computation reads of a parameter: all, unless every use of it takes a part."""
    lines = text.lines[computation]
    mine = next((line for line in lines if line.op == "parameter" and line.operands.startswith(f"{place})")), None)
    return 0 if mine is None else _taken(mine, lines, text)


def _taken(value: Line, lines: list[Line], text: Text) -> int:
    """Bytes of a value that the instructions behind it read."""
    taken, whole = 0, bytes_of(value.result)
    for line in lines:
        names = operands(line)
        if value.name not in names or line.op == "parameter":
            continue
        at = names.index(value.name)
        if line.op in _SLICES and at == 0:
            taken += bytes_of(line.result)
        elif line.op == "dynamic-update-slice" and at == 0:
            continue  # changed in place
        elif line.op in _SAME:
            taken += _taken(line, lines, text)
        elif line.op == "fusion":
            taken += _read(named(line.text, "calls"), at, text)
        else:
            return whole
    return min(taken, whole)


def _written(computation: str, text: Text) -> int:
    """Bytes that a computation writes: of what it updates in place the part that is new."""
    lines = text.lines[computation]
    by_name = {line.name: line for line in lines}
    root = next((line for line in lines if line.text.lstrip().startswith("ROOT ")), lines[-1])
    return sum(
        _new(by_name[name], by_name, text)
        for name in (operands(root) if root.op == "tuple" else [root.name])
        if name in by_name
    )


def _new(line: Line, by_name: dict[str, Line], text: Text) -> int:
    if line.op == "dynamic-update-slice":
        return _updated(line, {name: each.result for name, each in by_name.items()})
    if line.op in _SAME and operands(line)[0] in by_name:
        return _new(by_name[operands(line)[0]], by_name, text)
    if line.op == "fusion" and named(line.text, "calls") in text.lines:
        return _written(named(line.text, "calls"), text)
    return bytes_of(line.result)
