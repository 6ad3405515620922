"""Runs blocks of code, [language, code] pairs from standard input as JSON, and prints the list of their outputs.

Started by `executed.py`, in the directory in which the code is to run.
"""

import json
import os
import shlex
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

# Compiled as `capscale sweep` does on CPUs: a third less compilation.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "NO_COLOR": "1",
    "COLUMNS": "92",
    "XLA_FLAGS": "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true",
}
REFUSED = "# exit status 2"


def run_commands(code: str) -> None:
    """Runs each line as the command that it names; comments say which are refused.

    Raises:
      RuntimeError: a status is another than the line says.
    """
    from capscale.cli import main

    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        if words[0] != "capscale":
            raise RuntimeError(f"{line}: only capscale is run")
        if (status := main(words[1:])) != (2 if REFUSED in line else 0):
            raise RuntimeError(f"{line}: exit status {status}")


def run(blocks: list[tuple[str, str]]) -> list[str]:
    """Outputs of the blocks, in order; an error says which block it is of, and what had been said."""
    space: dict[str, Any] = {"__name__": "page"}
    outputs = []
    for language, code in blocks:
        said = StringIO()
        try:
            with redirect_stdout(said), redirect_stderr(said):
                if language == "bash":
                    run_commands(code)
                else:
                    exec(compile(code, "<page>", "exec"), space)
        except Exception as error:
            error.add_note(f"in:\n{code}\nafter:\n{said.getvalue()}")
            raise
        outputs.append(said.getvalue())
    return outputs


if __name__ == "__main__":
    warnings.simplefilter("error")
    sys.stdout.write(json.dumps(run(json.load(sys.stdin))))
