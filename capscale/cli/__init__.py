"""The capscale command: `capscale COMMAND --help` shows what each one does, with examples."""

import os
import sys
from typing import Protocol

from capscale.cli.compiled import keep_compiled
from capscale.cli.screen import on_screen
from capscale.errors import TRY_AGAIN, Unavailable, UserError

BAD_INPUT = 2
"""Exit status for input that a message explains."""


class Command(Protocol):
    """A parsed command line, ready to run."""

    def __call__(self) -> int:
        """Does it, and returns the exit status."""
        ...


@on_screen
def main(arguments: list[str] | None = None) -> int:
    """Parses and runs one command; bad input ends with a message on stderr and status 2, without a traceback.

    What may pass by itself ends so too, with status 75 (`TRY_AGAIN`).
    """
    try:
        import logging

        from capscale.storage import quiet_clients

        quiet_clients()
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where it keeps its cache is nobody's concern
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax's tracebacks: what it raises is reported by us

        given = sys.argv[1:] if arguments is None else arguments
        if given == ["--version"]:
            from capscale import __version__

            print(f"capscale {__version__}")
            return 0
        from capscale.cli import (
            allocating,
            analysis,
            bench,
            comparing,
            evaluating,
            planning,
            quantizing,
            reproduce,
            sweep,
        )
        from capscale.cli.commands import parse

        parsed: Command = parse(given)
        trains = isinstance(parsed, sweep.Sweep | sweep.Run) or (
            isinstance(parsed, reproduce.Reproduce) and parsed.trains
        )
        runs_models = trains or isinstance(parsed, allocating.Allocate | quantizing.Quantize | evaluating.Evaluate)
        if not runs_models:
            # What does not leaves accelerators to what does, and has the same numbers on every machine.
            os.environ["JAX_PLATFORMS"] = "cpu"
        fits = analysis.Fit | analysis.Report | bench.Bench | planning.Predict | planning.Plan | reproduce.Reproduce
        if runs_models or isinstance(parsed, fits | comparing.Compare):
            keep_compiled()
        return parsed()
    except UserError as error:
        from capscale.files import printable

        print(f"capscale: {printable(str(error))}", file=sys.stderr)
        return TRY_AGAIN if isinstance(error, Unavailable) else BAD_INPUT
    except ImportError as error:
        from capscale.storage import missing_extra

        if (remedy := missing_extra(error)) is None:
            raise
        print(f"capscale: {remedy}", file=sys.stderr)
        return BAD_INPUT
    except Exception as error:
        from capscale.storage import may_pass, refusal

        if (remedy := refusal(error)) is None:
            raise
        print(f"capscale: {remedy}", file=sys.stderr)
        return TRY_AGAIN if may_pass(error) else BAD_INPUT
    except KeyboardInterrupt:
        print("capscale: interrupted", file=sys.stderr)
        return 130
