"""Lists of experiments, of ladders, and of the runs of a sweep that is not started."""

from dataclasses import dataclass


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


def show_runs(experiment: str, ladder: str, text: str | None, out: str) -> int:
    """Prints every run of a sweep with its cost and whether `out` has its result; makes and trains nothing."""
    from etils import epath

    from capscale.data.load import load_source
    from capscale.files import is_there
    from capscale.sweep.display import run_name
    from capscale.sweep.plan import check_names, plan

    check_names(experiment, ladder)
    planned = plan(experiment, ladder, load_source(text).id)
    missing = 0.0
    done = 0
    for run in planned.runs:
        present = is_there(planned.directory_of(run, epath.Path(out)) / "result.json")
        done += present
        missing += 0.0 if present else run.flops
        state = "has its result" if present else f"{run.steps:,} steps, {run.flops:.2e} FLOPs"
        print(f"{run.run_id}  {run_name(run)}: {state}")
    print(f"{done} of {len(planned.runs)} results are present; {missing:.2e} FLOPs to train")
    return 0
