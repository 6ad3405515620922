"""Before anything is trained: runs, time, and the power of every test, chapter by chapter."""

from collections.abc import Sequence
from dataclasses import dataclass

from etils import epath

from capscale.analysis.claims import Claim
from capscale.data.corpus import DataId
from capscale.models.assigned import every
from capscale.models.ladder import Ladder
from capscale.reproduction.chapters import Chapter
from capscale.sweep.preflight import device_hours
from capscale.sweep.slices import Slice
from capscale.train.run import Run

CPU_SECONDS = 8.0
"""Of one nano run on one core, compilation shared by two seeds: 84 runs of the demo in 5.4 minutes on two cores."""
MICRO_SECONDS = 100.0
"""Of one micro run on one core with AVX-512: 53 runs in about 45 minutes on two (experiments/results/README.md)."""


@dataclass(frozen=True)
class PlannedChapter:
    """Estimate of the cost of a chapter."""

    chapter: Chapter
    runs: tuple[Run, ...]
    new: tuple[Run, ...]
    """Those without a result that no chapter before it asks for."""

    @property
    def powers(self) -> list[tuple[Claim, float]]:
        """Of every claim, the power that the planned runs have for the paper's effect."""
        return [(claim, claim.power(claim.deviation)) for claim in self.chapter.claims]


def planned(
    chapters: Sequence[Chapter], ladder: Ladder, data: DataId, out: epath.Path | None
) -> tuple[PlannedChapter, ...]:
    """The chapters' runs, each new one counted once; those with a result in `out` are not new."""
    seen: set[str] = set()
    found = []
    for chapter in chapters:
        runs = tuple(chapter.runs(ladder, data))
        new = tuple(r for r in runs if r.run_id not in seen and not _has_result(out, r))
        seen |= {r.run_id for r in runs}
        found.append(PlannedChapter(chapter, runs, new))
    return tuple(found)


def _has_result(out: epath.Path | None, run: Run) -> bool:
    return out is not None and (out / "runs" / run.run_id / "result.json").exists()


def core_minutes(runs: Sequence[Run]) -> float | None:
    """Estimated minutes of one CPU core for nano and micro runs; None where a run is larger."""
    seconds = {"nano": CPU_SECONDS, "micro": MICRO_SECONDS}
    kinds = [run.ladder.partition("-")[0] for run in runs]
    return sum(seconds[kind] for kind in kinds) / 60 if set(kinds) <= set(seconds) else None


def chip_hours(runs: Sequence[Run], slice_: Slice, mfu: float) -> float:
    """Chip-hours of the runs at a share of the chip's peak."""
    return sum(device_hours(run, slice_, mfu) for run in runs)


def hardest(runs: Sequence[Run]) -> list[Run]:
    """One run for every size, with all operands compressed and rotated where there is one: what preflight compiles."""
    found: dict[str, Run] = {}
    for run in sorted(runs, key=_demand):
        found[run.size] = run
    return [found[size] for size in sorted(found, key=lambda size: found[size].non_embedding_parameters)]


def _demand(run: Run) -> tuple[bool, ...]:
    return max(
        (
            not chosen.gradients.is_dense,
            not chosen.activations.is_dense,
            chosen.hadamard is not None,
            not chosen.weights.is_dense,
        )
        for chosen in every(run.held)
    )
