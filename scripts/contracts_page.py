"""docs/contracts.md: the contracts that formats are held to, the backends that project them, a reason for each no.

    python scripts/contracts_page.py

Reasons are those that the code gives: contracts' of capscale/testing/contracts.py, kernels' of `capscale.kernels`. A
test writes the page again and compares.
"""

import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from capscale.kernels import measured, testing
from capscale.kernels.dispatch import Backend
from capscale.kernels.project import Spec
from capscale.kernels.project.codes import coded_grid
from capscale.kernels.project.op import Op, refusal

from capscale.defaults import default_estimator
from capscale.formats import catalog
from capscale.formats.base import Format
from capscale.fused import trained_spec

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "contracts.md"
ROWS, WIDTH, BLOCK = 4096, 4096, 128
BACKENDS: dict[Backend, str] = {"tpu": "TPU", "gpu": "Hopper"}
HEAD = f"""# Contracts

Made by `python scripts/contracts_page.py`; `tests/formats/test_contracts_page.py` holds it to the code.

Every format of the catalog, what it is held to by `capscale/testing/contracts.py`, and what projects it: a kernel, or
XLA, which runs everything everywhere. Backends are asked about bfloat16 matrices of {ROWS} x {WIDTH} with the default
estimator, as they are in the first of two columns and rotated by {BLOCK} forth and back in the second. A number is a
reason, given below the table; it stands where a kernel does not run, or a contract says nothing of the format.

"""


@cache
def kit() -> tuple[Any, Any]:
    """The contracts, and their table of formats, which stands among the tests."""
    sys.path.insert(0, str(ROOT / "tests" / "formats"))
    return import_module("capscale.testing"), import_module("test_conformance")


def backend_reason(format: Format, backend: Backend, rotation: int | None, op: Op = "project") -> str | None:
    """Why XLA projects, or encodes, rows of this format on a backend in training, or None where a kernel does."""
    spec = trained_spec(format, default_estimator(format, rotation is not None), rotation, rotation is not None)
    width = testing.whole(spec, WIDTH) if isinstance(spec, Spec) else WIDTH
    if isinstance(spec, Spec) and op == "encode":
        try:
            coded_grid(spec)
        except ValueError as error:
            return str(error).removeprefix(f"{spec}: ")
    reason = refusal(spec, backend, (ROWS, width), jnp.bfloat16, op)
    if reason is None and op == "project" and isinstance(spec, Spec):
        return measured.slower_projection(spec, backend)
    return reason


@cache
def reasons(name: str) -> dict[str, str | None]:
    """By column: why not, or None."""
    format, (contracts, table) = catalog.find(name), kit()
    found = {
        f"{told}{', rotated' if rotation else ''}": backend_reason(format, backend, rotation)
        for backend, told in BACKENDS.items()
        for rotation in (None, BLOCK)
    }
    found |= {f"{told}, codes": backend_reason(format, backend, None, "encode") for backend, told in BACKENDS.items()}
    return found | {column(check): contracts.exempt(check, table.SUBJECTS[name]) for check in contracts.CHECKS}


def column(check: Any) -> str:
    """The heading of a contract."""
    return check.__name__.removeprefix("check_").replace("_", " ")


def page() -> str:
    """Text of the whole page."""
    table, checks = {name: reasons(name) for name in catalog.FORMATS}, kit()[0].CHECKS
    columns = list(next(iter(table.values())))
    of_all = [c for c in map(column, checks) if all(row[c] is None for row in table.values())]
    numbers: dict[str, int] = {}
    lines = []
    shown = [c for c in columns if c not in of_all]
    for name, row in table.items():
        cells = [_cell(row[c], numbers, "kernel" if c.startswith(tuple(BACKENDS.values())) else "held") for c in shown]
        lines.append(f"| {' | '.join([name, *cells])} |")
    says = {column(check): (check.__doc__ or "").splitlines()[0] for check in checks}
    return "\n".join(
        [
            f"{HEAD}All {len(table)} formats are held to these:\n",
            *(f"- **{c}**: {says[c]}" for c in of_all),
            "\nand to these, where no reason stands:\n",
            *(f"- **{c}**: {says[c]}" for c in shown if c in says),
            "",
            f"| {' | '.join(['format', *shown])} |",
            f"|{' --- |' * (len(shown) + 1)}",
            *lines,
            "\nReasons:\n",
            *(f"{number}. {reason}" for reason, number in numbers.items()),
            "",
        ]
    )


def _cell(reason: str | None, numbers: dict[str, int], otherwise: str) -> str:
    if reason is None:
        return otherwise
    return f"{'XLA ' if otherwise == 'kernel' else ''}{numbers.setdefault(reason, len(numbers) + 1)}"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
