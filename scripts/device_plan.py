"""Plan of scripts/device_check.py: parts in order, and how long each may take. Imports no jax: the workers do.

REHEARSE=1 makes everything tiny and interprets the GPU's kernels on a CPU, to try the order, the clock and the rows.
REHEARSE=skeleton leaves jax out too: cases of the part "rehearsal" succeed, fail, crash or hang in its place.
"""

import os
from typing import NamedTuple

REHEARSE = os.environ.get("REHEARSE", "")
ONLY = tuple(word.strip() for word in os.environ.get("ONLY", "").split(",") if word.strip())
"""Parts and cases that are done, with "ncu" and "tests"; none: all."""


class Wrong(Exception):
    """A result that differs from the reference by more than it may."""


class Part(NamedTuple):
    """Cases of one kind. A process does some one after another; what fails, crashes or hangs costs its own row."""

    name: str
    cases: tuple[str, ...]
    each: float
    """Seconds that a case may take, the start of its process included; then the process is killed."""
    per_process: int = 100
    """Cases that a process does."""
    held: bool = False
    """Whether a case is timed: compiled, then held until nothing else runs. A process does one: it has one peak."""
    turn: float = 30.0
    """Seconds that such a case may take when its turn has come."""


class Phase(NamedTuple):
    """Parts whose cases are done, or compiled, so many at a time."""

    parts: tuple[Part, ...]
    workers: int
    total: float
    """Seconds that the phase may take; what is left then is not begun."""


FORMATS = (
    "int4",
    "int4+h128",
    "2:4+int4+h128",
    "int4-g32",
    "mxfp4+h128",
    "higgs-d2-n16",
    "nvfp4",
    "e2m1",
    "2:4",
    "lsq4",
    "2:4 [b-rms]",
    "int4-g32+h128",
)
PROGRAMS = (*FORMATS, "select top50", "codes int4-g32", "matmul int4", "matmul int4-g128", "matmul 2:4+int4")
"""A family of kernels each."""

STEPS = tuple(
    f"{size} {run}"
    for size in (("30M",) if REHEARSE else ("30M", "200M"))
    for run in ("dense auto", "int4 auto", "int4-both auto", "int4 reference", "int4-both reference")
)
"""Size, format and CAPSCALE_KERNELS; a dense step has no kernel of ours."""

PROJECTIONS = (
    "int4 bfloat16",
    "int4+h128 bfloat16",
    "int4-g32 bfloat16",
    "mxfp4+h128 bfloat16",
    "2:4+int4+h128 bfloat16",
    "higgs-d2-n16 bfloat16",
    "int4+h128 float32",
    "2:4+int4+h128 float32",
    "higgs-d2-n16 float32",
    "nvfp4 bfloat16",
    "e2m1 bfloat16",
    "2:4 bfloat16",
    "2:4+int4 bfloat16",
)

ROWS = (1, 16, 256, 512, 1024, 4096)
PRODUCTS = tuple(f"{rows} rows" for rows in ROWS)

PROFILED = ("int4+h128", "mxfp4+h128", "matmul 16")

TESTS = ("test_project_gpu.py", "test_matmul.py", "test_project.py", "test_codes.py")
"""Files of tests/kernels with device tests, the most telling first."""


def known() -> set[str]:
    """Words that ONLY may hold."""
    cases = {*STEPS, *PROGRAMS, *PROJECTIONS, *PRODUCTS}
    return cases | {"steps", "programs", "projections", "products", "ncu", "tests"}


def wanted(part: str, case: str = "") -> bool:
    """Whether ONLY names the part, or the case."""
    return not ONLY or part in ONLY or case in ONLY


def _those(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The cases that ONLY names."""
    kept = [part._replace(cases=tuple(case for case in part.cases if wanted(part.name, case))) for part in parts]
    return tuple(part for part in kept if part.cases)


def phases(workers: int) -> list[Phase]:
    """All but the profiler and the tests. What takes longest to compile is begun first."""
    if unknown := [word for word in ONLY if word not in known()]:
        raise SystemExit(f"ONLY names {', '.join(unknown)}; device_plan.py has the parts and cases")
    if REHEARSE == "skeleton":
        cases, each = ("passes", "fails", "crashes", "hangs", "passes too"), 2.0
        held = ("passes", "fails", "crashes", "hangs", "cannot be compiled")
        return [
            Phase((Part("rehearsal", cases, each),), 1, 30.0),
            Phase((Part("rehearsal", ("passes",), each), Part("held", held, each, 1, True, each)), 2, 30.0),
        ]
    slow = 40.0 if REHEARSE else 1.0
    together = (
        Part("steps", STEPS, 150.0 * slow, 1, True, 25.0 * slow),
        Part("programs", PROGRAMS, 110.0 * slow, 1),
        Part("projections", PROJECTIONS, 120.0 * slow, 1, True, 20.0 * slow),
        Part("products", PRODUCTS, 100.0 * slow, 1, True, 20.0 * slow),
    )
    return [
        Phase((Part("where", ("device", "limits"), 60.0 * slow),), 1, 60.0 * slow),
        Phase(_those(together), workers, 160.0 * slow),
    ]
