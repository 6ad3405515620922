"""Tokens per second of one training step: ours, dense and QAT, and beside it the same model in PyTorch.

    python scripts/bench_step.py                           # the 30M model, batch 4 x 512, float32 on a CPU
    pip install torch==2.13.0 && python scripts/bench_step.py --torch
    python scripts/bench_step.py --size 200M --batch 16 --dtype bfloat16 --steps 20    # on an accelerator
    python scripts/bench_step.py --also quartet nvfp4-pretraining "dense gradients quartet"    # with gradients

Formats: dense; INT4 weights with block-128 Hadamard rotation ("int4"); the same for weights and activations
("int4-both"). `--also` adds representations by their text (`capscale.policy_names`), recipes for all three products
among them: these emulate, so that rounding is added to products that stay as they are. Every program runs in a process
of its own, one after another, in `--rounds`: a shared machine's speed drifts, so that neighbours in time are compared.
After two steps of warm-up a round's time is the median of `--steps`, and a program's that of its fastest round. Ratios
are of tokens per second; overhead is a format's step time over that of the dense step of the same program. On a machine
with other work `step_cpu_s` of the JSON file tells more: seconds of all cores together, the least over rounds below.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from about import about

FORMATS = ("dense", "int4", "int4-both")
BASELINES = ("torch-eager", "torch-compile")
WARM_UP = 2


class Step(NamedTuple):
    """A step of capscale.

    Attributes:
      function: compiled when called; it takes the state's memory.
      state: before the first step.
      rest: its other arguments.
    """

    function: Any
    state: Any
    rest: tuple[Any, ...]


def step_of(size: str, batch: int, dtype: str, fmt: str) -> Step:
    """The step of `capscale`, on tokens by chance."""
    import dataclasses

    import jax
    import jax.numpy as jnp
    import numpy as np

    from capscale.models.ladder import find_size
    from capscale.policy_names import find_representation
    from capscale.train.run import Optimizer
    from capscale.train.step import Program, RunScalars, initial_state, train_chunk

    model = dataclasses.replace(find_size(size), dtype=dtype)
    text = {"int4": "int4 hadamard 128", "int4-both": "int4 x int4 hadamard 128"}.get(fmt, fmt)
    program = Program(model, find_representation(text), Optimizer(1.0), batch)
    step = jax.jit(lambda *arguments: train_chunk(program, *arguments), donate_argnums=0)
    state = jax.jit(lambda seed: initial_state(program, seed))(jnp.int32(0))
    windows = np.random.default_rng(0).integers(0, model.vocabulary, (1, batch, model.context + 1), np.uint16)
    return Step(step, state, (windows, jnp.int32(1), RunScalars(jnp.float32(1e-3), jnp.int32(1000))))


def ours(size: str, batch: int, dtype: str, fmt: str) -> tuple[Callable[[], float], dict[str, Any]]:
    """A function that does one step of capscale and waits for its loss, and what it ran on."""
    import jax

    step, state, rest = step_of(size, batch, dtype, fmt)

    def run() -> float:
        nonlocal state
        state, metrics = step(state, *rest)
        return float(metrics["loss"][0])

    return run, {"version": jax.__version__, "device": jax.devices()[0].device_kind}


def theirs(size: str, batch: int, fmt: str, compiled: bool) -> tuple[Callable[[], float], dict[str, Any]]:
    """The same in PyTorch, float32."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch_baseline import Shape, Trainer

    from capscale.models.ladder import find_size

    model = find_size(size)
    shape = Shape(model.layers, model.heads, model.width, model.hidden, model.vocabulary)
    trainer = Trainer(shape, fmt, compiled)  # pyright: ignore[reportArgumentType]
    windows = torch.randint(model.vocabulary, (batch, model.context + 1))
    return lambda: trainer(windows), {"version": torch.__version__, "device": "cpu", "threads": torch.get_num_threads()}


def measure(program: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Times one program in this process, with the allocator set as `capscale sweep` sets it, for PyTorch too."""
    from capscale.heap import keep_freed_memory

    keep_freed_memory()
    library, _, fmt = program.partition(":")
    if library == "capscale":
        step, where = ours(arguments.size, arguments.batch, arguments.dtype, fmt)
    else:
        step, where = theirs(arguments.size, arguments.batch, fmt, compiled=library == "torch-compile")
    losses, times, used = [], [], []
    for _ in range(WARM_UP + arguments.steps):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        losses.append(step())
        times.append(time.perf_counter() - start)
        used.append(_since(before))
    of_cpus, faults = zip(*used[WARM_UP:], strict=True)
    return where | {
        "program": program,
        "first_step_s": times[0],
        "step_s": statistics.median(times[WARM_UP:]),
        "fastest_step_s": min(times[WARM_UP:]),
        "slowest_step_s": max(times[WARM_UP:]),
        "step_cpu_s": statistics.median(of_cpus),
        "first_step_cpu_s": used[0][0],
        "page_faults": statistics.median(faults),
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def _since(before: resource.struct_rusage) -> tuple[float, int]:
    """Seconds of all CPUs that this process has taken since, and pages that the kernel has given it."""
    now = resource.getrusage(resource.RUSAGE_SELF)
    seconds = now.ru_utime - before.ru_utime + now.ru_stime - before.ru_stime
    return seconds, now.ru_minflt - before.ru_minflt


def _check_names(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Ends with status 2 for a name that nothing has, before minutes are spent on the others."""
    from capscale.errors import UserError
    from capscale.models.ladder import find_size
    from capscale.policy_names import find_representation

    try:
        find_size(arguments.size)
        for text in arguments.also:
            find_representation(text)
    except UserError as error:
        parser.error(str(error))


def main() -> None:
    """Runs every program in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="30M")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1, help="how often every program is measured")
    parser.add_argument("--torch", action="store_true", help="measure PyTorch too, eager and torch.compile")
    parser.add_argument("--also", nargs="+", default=[], metavar="TEXT", help="other representations, such as quartet")
    parser.add_argument("--json", metavar="FILE", help="write the measurements there")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments)))
        return
    if arguments.torch and arguments.dtype != "float32":
        parser.error("--torch compares in float32; leave --dtype away")
    _check_names(parser, arguments)
    libraries = ("capscale", *(BASELINES if arguments.torch else ()))
    begun, rows = about("jax", *(["torch"] if arguments.torch else [])), []
    programs = [f"{library}:{fmt}" for fmt in FORMATS for library in libraries]
    programs += [f"capscale:{text}" for text in arguments.also]
    for program in programs * arguments.rounds:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", program]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append(json.loads(output.splitlines()[-1]))
        print(f"{program}: {rows[-1]['step_s']:.3f} s a step", file=sys.stderr)
    rounds = {program: [row["step_s"] for row in rows if row["program"] == program] for program in programs}
    seconds = {program: min(found) for program, found in rounds.items()}
    of_cpus = {name: min(row["step_cpu_s"] for row in rows if row["program"] == name) for name in programs}
    print(
        f"{arguments.size}, batch {arguments.batch}, {arguments.dtype}, {rows[0]['device']}, jax {rows[0]['version']}"
    )
    heads = "".join(f"{f'/ {name}':>16}" for name in libraries[1:])
    wide = max(10, 2 + max(len(text) for text in ("", *arguments.also)))
    print(f"{'format':<{wide}}{'s a step':>10}{'slowest round':>15}{'CPU s':>8}{'over dense':>12}{heads}")
    for fmt in (*FORMATS, *arguments.also):
        own = seconds[f"capscale:{fmt}"]
        others = libraries[1:] if fmt in FORMATS else ()
        ratios = "".join(f"{seconds[f'{name}:{fmt}'] / own:>15.2f}x" for name in others)
        slowest = max(rounds[f"capscale:{fmt}"])
        cpu, over = of_cpus[f"capscale:{fmt}"], own / seconds["capscale:dense"]
        print(f"{fmt:<{wide}}{own:>10.3f}{slowest:>15.3f}{cpu:>8.2f}{over:>11.3f}x{ratios}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({**begun, "programs": rows}, file, indent=1)


if __name__ == "__main__":
    main()
