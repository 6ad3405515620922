"""Lists of experiments, of ladders, and of the runs of a sweep that is not started."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capscale.sweep.selection import Selection


@dataclass(frozen=True)
class List:
    """Show the experiments that ship with capscale, and the ladders of model sizes that they run on.

    Example:
      capscale list
    """

    def __call__(self) -> int:
        """Prints the experiments and ladders."""
        import importlib

        from capscale.models.ladder import LADDERS
        from capscale.sweep.plan import known_experiments

        print("experiments:")
        for name in known_experiments():
            module = importlib.import_module(f"capscale.experiments.{name}")
            if callable(getattr(module, "runs", None)):
                print(f"  {name:<18}{(module.__doc__ or '').strip().splitlines()[0]}")
        print("ladders (sizes, non-embedding parameters):")
        for name, ladder in LADDERS.items():
            counts = [shape.non_embedding_parameters for shape in ladder.sizes.values()]
            print(f"  {name:<18}{', '.join(ladder.sizes)} ({min(counts):,} to {max(counts):,})")
        return 0


def show_runs(experiment: str, ladder: str, selection: "Selection", text: str | None, out: str) -> int:
    """Prints every run of a sweep with its cost and whether `out` has its result; makes and trains nothing."""
    from etils import epath

    from capscale.cli.selecting import planned
    from capscale.files import is_there
    from capscale.sweep.display import run_name

    listed, _ = planned(experiment, ladder, selection, text)
    missing = 0.0
    done = 0
    for run in listed.runs:
        present = is_there(listed.directory_of(run, epath.Path(out)) / "result.json")
        done += present
        missing += 0.0 if present else run.flops
        state = "has its result" if present else f"{run.steps:,} steps, {run.flops:.2e} FLOPs"
        print(f"{run.run_id}  {run_name(run)}: {state}")
    print(f"{done} of {len(listed.runs)} results are present; {missing:.2e} FLOPs to train")
    return 0
