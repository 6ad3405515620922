"""One process of scripts/device_check.py: does cases of a part one after another, a line of JSON for each.

    python scripts/device_worker.py programs "int4" "2:4"
    python scripts/device_worker.py --held steps "30M int4 auto"      # compiles, says {"ready": CASE}, waits for a line

A line {"begun": CASE} comes before each. After an error the process ends, with status 3: on a GPU a kernel that failed
may have taken the context with it, and whoever started this one starts another for the cases that are left.
"""

import argparse
import contextlib
import importlib
import json
import sys
import time
import traceback
from typing import Any

from device_plan import REHEARSE, Wrong


def say(row: dict[str, Any]) -> None:
    """A row, at once: the process may not live to say it later."""
    print(json.dumps(row), flush=True)


def first_line(error: BaseException) -> str:
    """Text of an error, cut to a line of a table."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:400]


def context(interpreted: bool = True) -> contextlib.ExitStack:
    """One chip as the mesh, and in a rehearsal the GPU's kernels, interpreted where that is asked for."""
    stack = contextlib.ExitStack()
    if REHEARSE != "skeleton":
        import jax
        from capscale.kernels import dispatch

        one = jax.make_mesh((1,), ("chip",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
        stack.enter_context(jax.set_mesh(one))
        if REHEARSE and interpreted:
            stack.enter_context(dispatch.target("gpu", interpret=True))
    return stack


def main() -> None:
    """Runs the cases that it is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--held", action="store_true")
    parser.add_argument("part")
    parser.add_argument("cases", nargs="+")
    arguments = parser.parse_args()
    say({"begun": arguments.cases[0]})
    start = time.perf_counter()
    try:
        module = importlib.import_module(f"device_{arguments.part}")
        stack = context(getattr(module, "INTERPRETED", True))
    except Exception as error:
        traceback.print_exc()
        say({"case": arguments.cases[0], "outcome": "did not finish", "error": first_line(error)})
        sys.exit(3)
    with stack:
        for case in arguments.cases:
            if case != arguments.cases[0]:
                say({"begun": case})
                start = time.perf_counter()
            row: dict[str, Any] = {"case": case, "outcome": "passed"}
            try:
                if arguments.held:
                    measure = module.prepare(case, row)
                    say({"ready": case})
                    if not sys.stdin.readline():
                        return  # whoever held it is gone
                    start = time.perf_counter()
                    measure()
                else:
                    module.run(case, row)  # what it measures before an error stays in the row
            except Wrong as error:
                row |= {"outcome": "wrong", "error": str(error)[:400]}
            except Exception as error:
                traceback.print_exc()
                row |= {"outcome": "did not finish", "error": first_line(error)}
            say(row | {"seconds": round(time.perf_counter() - start, 2)})
            if row["outcome"] == "did not finish":
                sys.exit(3)


if __name__ == "__main__":
    main()
