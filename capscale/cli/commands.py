"""The commands by name, and one command line read: with their examples in every help page, and a guess at a typo."""

import difflib
import inspect
import sys
from typing import Any, get_args

import tyro

from capscale.cli import (
    allocating,
    analysis,
    auditing,
    bench,
    comparing,
    data,
    describe,
    evaluating,
    exporting,
    factorizing,
    formats,
    importing,
    launch,
    listing,
    missing,
    planning,
    preflight,
    quantizing,
    reproduce,
    rising,
    status,
    sweep,
)
from capscale.errors import UserError

COMMANDS: dict[str, Any] = {
    "gmse": formats.Gmse,
    "plot-formats": formats.PlotFormats,
    "describe": describe.Describe,
    "audit": auditing.Audit,
    "export": exporting.Export,
    "evaluate": evaluating.Evaluate,
    "quantize": quantizing.Quantize,
    "allocate": allocating.Allocate,
    "data": data.Data,
    "list": listing.List,
    "sweep": sweep.Sweep,
    "run": sweep.Run,
    "reproduce": reproduce.Reproduce,
    "missing": missing.Missing,
    "status": status.Status,
    "preflight": preflight.Preflight,
    "launch": launch.Launch,
    "import": importing.Import,
    "fit": analysis.Fit,
    "report": analysis.Report,
    "compare": comparing.Compare,
    "bench": bench.Bench,
    "post-training": rising.PostTraining,
    "predict": planning.Predict,
    "plan": planning.Plan,
    "factorize": factorizing.Factorize,
}


def parse(arguments: list[str]) -> Any:
    """The command that the arguments ask for, ready to run; asked for help, prints it and exits.

    Raises:
      UserError: a command that does not exist, with those that are spelled alike.
    """
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        close = difflib.get_close_matches(arguments[0], COMMANDS, n=3, cutoff=0.5)
        guess = f"did you mean {', '.join(close)}? " if close else ""
        raise UserError(f"there is no command {arguments[0]!r}; {guess}The commands are {', '.join(COMMANDS)}")
    description = "The capscale command: `capscale COMMAND --help` shows what each one does, with examples."
    try:
        return tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="capscale", args=arguments, description=description)
    except SystemExit as exit:
        found = examples(arguments)
        if exit.code == 0 and found:
            sys.stdout.write("\n".join([f"{'Examples' if len(found) > 1 else 'Example'}:", *found, ""]))
        raise


def examples(arguments: list[str]) -> list[str]:
    """Example lines of the command that the arguments begin with, indented by two; none without a command."""
    words = [word for word in arguments if not word.startswith("-")]
    command = COMMANDS.get(words[0]) if words else None
    lines = [line for kind in _kinds(command, words[1:]) for line in _examples_of(kind)]
    return list(dict.fromkeys(lines))


def _kinds(command: Any, words: list[str]) -> list[type]:
    """The class of a command; of one with commands of its own, that one, or all of them where none is named."""
    if command is None:
        return []
    parts = [part for part in _parts(command) if inspect.isclass(part)]
    named = [part for part in parts if words and part.__name__.lower() == words[0].replace("-", "")]
    return named or parts


def _parts(command: Any) -> list[Any]:
    if inspect.isclass(command) and "Example" in (command.__doc__ or ""):
        return [command]
    inner = [*get_args(command)]
    if inspect.isclass(command):
        inner = [*inner, *getattr(command, "__annotations__", {}).values()]
    return [part for each in inner for part in _parts(each)] or ([command] if inspect.isclass(command) else [])


def _examples_of(kind: type) -> list[str]:
    text = inspect.getdoc(kind) or ""
    _, found, after = text.partition("Examples:\n") if "Examples:\n" in text else text.partition("Example:\n")
    lines = after.split("\n\n")[0].splitlines() if found else []
    return [line for line in lines if line.startswith("  ")]
