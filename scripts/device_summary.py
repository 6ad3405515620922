"""The table that scripts/device_check.py prints: what was found, shorter than a terminal keeps."""

from collections.abc import Callable, Iterable
from typing import Any

Row = dict[str, Any]
LONGEST = 9000  # characters


def summary(about: Row, rows: list[Row], seconds: float) -> str:
    """Parts in the order in which they came, a line for every row that says something."""
    limits = next((row for row in rows if row["part"] == "where" and "bf16_flop_per_s" in row), {})
    lines = [f"device check: {seconds:.0f} s, {about.get('date', '')}, commit {about.get('commit', '')}"]
    printers: dict[str, Callable[[Row, Row], str]] = {
        "where": _where,
        "programs": _program,
        "steps": _step,
        "projections": _projection,
        "products": _product,
        "ncu": _kernel,
        "tests": _tests,
    }
    for part in dict.fromkeys(row["part"] for row in rows):
        chosen = [row for row in rows if row["part"] == part]
        outcomes = [row["outcome"] for row in chosen]
        counts = ", ".join(f"{outcomes.count(name)} {name}" for name in dict.fromkeys(outcomes))
        lines += ["", f"{part}: {counts}; until {max(row['at'] for row in chosen):.0f} s"]
        lines += [_line(row, printers.get(part, _plain), limits) for row in chosen if part in printers or _bad(row)]
    text = "\n".join(lines)
    return text if len(text) <= LONGEST else text[:LONGEST] + "\n... cut; the rest stands in device.json"


def _bad(row: Row) -> bool:
    return row["outcome"] != "passed"


def _line(row: Row, printed: Callable[[Row, Row], str], limits: Row) -> str:
    said = f"{row['outcome']}: {row.get('error', '')[:150]} " if _bad(row) else ""
    try:
        return f"  {row['case'][:70]:34s} {said}{printed(row, limits)}"
    except (KeyError, TypeError):  # a row that an error cut short
        return f"  {row['case'][:70]:34s} {said}"


def _plain(row: Row, limits: Row) -> str:
    return ""


def _where(row: Row, limits: Row) -> str:
    if "device" in row:
        versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
        return f"{row['device']} ({row['platform']} {row['capability']}), {versions}; {row['clocks']}"
    speeds = f"copy {row['copy_bytes_per_s'] / 1e12:.2f} TB/s, bf16 {row['bf16_flop_per_s'] / 1e12:.0f} TFLOP/s"
    return f"{speeds}; after: {row['clocks']}"


def _program(row: Row, limits: Row) -> str:
    """By dtype: entries that differ of value, mask and gradient, and the largest difference to the largest entry."""
    said = []
    for dtype in ("float32", "bfloat16"):
        found = row.get(dtype) or {}
        parts = [f"{what[:8]} {_differ(d)}" for what, d in found.items() if d["differ"] and "beside" not in what]
        if found:
            said.append(f"{dtype[0]}{dtype[-2:]}: {', '.join(parts) or 'same bits'}")
    return f"{'; '.join(said)}; {row.get('seconds', 0):.0f} s"


def _differ(found: Row) -> str:
    largest = f" ({found['largest']:.0e})" if "largest" in found else ""
    return f"{found['differ']}/{found['entries']}{largest}"


def _step(row: Row, limits: Row) -> str:
    share = f"MFU {row['flop_per_s'] / limits['bf16_flop_per_s']:.1%}, " if limits else ""
    memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.2f} GiB, "
    return (
        f"{1e3 * row['step_s']:8.2f} ms {row['tokens_per_s']:9.0f} tok/s {share}{memory}{row['kernels']} kernels, "
        f"compile {row['compile_s']:.0f} s, loss {row['first_loss']:.4f} {row['last_loss']:.4f}"
    )


def _projection(row: Row, limits: Row) -> str:
    return (
        f"{row['us']:8.0f} us, least {row['least_us']:.0f} ({row['of_copy']:.0%} of copy), "
        f"XLA {row['reference_us']:.0f} ({row['over_reference']:.2f}x)"
    )


def _product(row: Row, limits: Row) -> str:
    return (
        f"{row['us']:8.1f} us, bf16 {row['bf16_us']:.1f} ({row['over_bf16']:.2f}x), unpacked {row['unpacked_us']:.1f} "
        f"({row['over_unpacked']:.2f}x), {row['bytes_per_s'] / 1e12:.2f} TB/s, {row['flop_per_s'] / 1e12:.0f} TFLOP/s"
    )


def _kernel(row: Row, limits: Row) -> str:
    return (
        f"{row['us']:8.1f} us, {row['dram_bytes'] / 1e6:.1f} MB, dram {row['dram_percent']:.0f} %, "
        f"sm {row['sm_percent']:.0f} %, warps {row['warps_percent']:.0f} %, {row['registers']:.0f} registers, "
        f"{row['shared_bytes'] / 1e3:.0f} kB, {row['blocks']:.0f} x {row['threads']:.0f}"
    )


def _tests(row: Row, limits: Row) -> str:
    counts: Iterable[tuple[str, int]] = row.get("counts", {}).items()
    return ", ".join(f"{count} {outcome}" for outcome, count in counts)
