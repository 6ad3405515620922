"""Measures the rule of `capscale sweep --stop-losers`: how often it stops a winner, and what it saves.

Curves of runs that were trained to their end are replayed as a sweep trains them, so that it is known what a run that
is stopped would have come to. A winner is the setting of the least loss, a mean over seeds; it counts as lost where the
rule stops it at any seed.

    python scripts/judge_stopping.py --train DIR       # of 56 nano runs, trained in DIR in three minutes
    python scripts/judge_stopping.py --simulate 300    # of curves that are drawn; nothing is trained
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from etils import epath
from rich.console import Console

from capscale.data.corpus import DataId
from capscale.data.load import load_source
from capscale.models.ladder import Ladder
from capscale.representation import DENSE, Representation, operand
from capscale.sweep.behind import FACTOR, Finished, look_steps, mean_between, verdict
from capscale.sweep.directory import open_directory
from capscale.sweep.display import Display
from capscale.sweep.local import launch
from capscale.sweep.losers import by_promise, published, trials
from capscale.sweep.plan import plan
from capscale.train.run import Optimizer, Run

FACTORS = (0.25, 0.5, FACTOR, 2.0)
ORDERS = 20
"""Orders of training that are tried beside that of the sweep, drawn from the seed."""
STEPS, LINES = 1000, 40


class Whole(NamedTuple):
    """A run that was trained to its end."""

    setting: float
    seed: int
    finished: Finished


class Found(NamedTuple):
    """Outcome of a replay of one group of trials."""

    is_winner_lost: bool
    regret: float
    """Loss of the best setting that is left above the winner's."""
    saved: int
    steps: int


def replay(group: Sequence[Whole], workers: int, factor: float) -> Found:
    """Trains a group in its order by so many workers, each step taking one unit of time."""
    steps = group[0].finished.lines[-1][0]
    free, ended, stopped, saved = [0] * workers, [], set(), 0
    for number, run in enumerate(group):
        worker = int(np.argmin(free))
        began = free[worker]
        free[worker] += steps
        for look in look_steps(steps):
            known = [(name, other) for name, other, at in ended if at <= began + look]
            by_seed: dict[int, dict[str, Finished]] = defaultdict(dict)
            for name, other in known:
                by_seed[other.seed][name] = other.finished
            lines = [line for line in run.finished.lines if line[0] <= look]
            if verdict(lines, by_seed[run.seed], list(by_seed.values()), step=look, steps=steps, factor=factor):
                stopped.add(number)
                saved += steps - look
                free[worker] = began + look
                break
        else:
            ended.append((str(number), run, free[worker]))
    means = {s: np.mean([r.finished.loss for r in group if r.setting == s]) for s in {r.setting for r in group}}
    left = {s for s in means if not any(group[number].setting == s for number in stopped)}
    winner = min(means, key=means.__getitem__)
    regret = min((means[s] for s in left), default=np.inf) - means[winner]
    return Found(winner not in left, float(regret), saved, steps * len(group))


def simulated(chance: np.random.Generator) -> list[Whole]:
    """Seven learning rates at two seeds, of curves whose lead changes.

    A rate that is higher goes further, by a power of the summed rate, and carries a noise that goes with the rate of
    the moment and lags behind it: it is behind in the midst and comes back as the rate decays, the more so the higher
    it is. Too high a rate costs for good. All constants are drawn anew for each group.
    """
    ends, share = np.arange(1, LINES + 1) * (STEPS // LINES), (np.arange(LINES) + 0.5) / LINES
    decay = (1 - share) if chance.random() < 0.5 else 0.5 * (1 + np.cos(np.pi * share))
    power, far, floor = chance.uniform(0.2, 0.7), chance.uniform(0.3, 3.0), chance.uniform(1.5, 4.0)
    noise, harm = chance.lognormal(-2.5, 1.0), chance.lognormal(-2.5, 1.0)
    lag = chance.uniform(0.02, 0.2)
    kept = np.exp(-np.subtract.outer(share, share) / lag) * (np.subtract.outer(share, share) >= 0)
    lagged = kept @ decay / kept.sum(1)
    between_seeds, of_a_batch = chance.lognormal(-5, 0.7), chance.lognormal(-4.5, 0.5)
    found = []
    for seed in range(2):
        batches = chance.normal(0, of_a_batch, LINES)
        for rate in 2.0 ** np.arange(-3, 4):
            went = np.cumsum(rate * decay) / LINES
            level = floor + far * (0.02 + went) ** -power + harm * max(0.0, np.log2(rate)) ** 2
            curve = level + noise * rate**0.7 * lagged + chance.normal(0, between_seeds)
            told = curve + batches + chance.normal(0, of_a_batch / 3, LINES)
            lines = [(int(end), float(loss)) for end, loss in zip(ends, told, strict=True)]
            found.append(Whole(float(rate), seed, Finished(lines, float(curve[-1]))))
    return found


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """The experiment: two sizes, with two schedules, dense and in 2 bits, at seven rates and two seeds."""
    formats = (DENSE, Representation(operand("int2 [trust]"), hadamard=128))
    sizes: tuple[tuple[str, Literal["linear", "cosine"]], ...] = (("nano-8", "linear"), ("nano-16", "cosine"))
    return [
        Run(
            size=size,
            model=ladder.model(size, data.vocabulary),
            tokens=1200 * ladder.batch * 64,
            data=data,
            optimizer=Optimizer(ladder.learning_rates[size] * 2.0**doublings, b2=0.98, decay=decay),
            batch=ladder.batch,
            ladder=ladder.name,
            representation=representation,
            seed=seed,
        )
        for size, decay in sizes
        for representation in formats
        for doublings in range(-3, 4)
        for seed in range(2)
    ]


class Patient:
    """A judge that stops nobody: runs that have one leave lines that are fine enough to be judged by."""

    def is_due(self, step: int) -> bool:
        """Of `capscale.train.early.Judge`: never is one."""
        return False

    def look(self) -> None:
        """Of the same: never called."""


def trained(out: epath.Path) -> list[list[Whole]]:
    """The groups of the experiment's runs, each in the order of its sweep; what is missing in `out` is trained."""
    source = load_source(None)
    sweep = plan(__file__, "nano", source.id)
    open_directory(sweep, out, "scripts/judge_stopping.py", {})
    with Display(Console()) as display:
        launch(sweep, source, out, display, jobs=1, judge=lambda run: Patient())
    groups = []
    for group in trials(sweep.runs).values():
        found = [(run, published(sweep.directory_of(run, out), run)) for run in by_promise(group)]
        groups.append([Whole(run.optimizer.learning_rate, run.seed, each) for run, each in found if each])
    return groups


def by_rate(group: Sequence[Whole]) -> list[Whole]:
    """As a sweep orders a group: the middle rate first."""
    middle = float(np.median(np.log([run.setting for run in group])))
    return sorted(group, key=lambda run: abs(np.log(run.setting) - middle))


def led(groups: Sequence[Sequence[Whole]]) -> int:
    """In how many groups the winner's best run leads its seed halfway: the others come from behind."""
    count = 0
    for group in groups:
        best = min(group, key=lambda run: run.finished.loss)
        steps = best.finished.lines[-1][0]
        halfway = {
            run.setting: mean_between(run.finished.lines, round(0.4 * steps), steps // 2)
            for run in group
            if run.seed == best.seed
        }
        count += halfway[best.setting] == min(loss for loss in halfway.values() if loss is not None)
    return count


def main() -> None:
    """Prints a table: a line for each factor and number of workers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument(
        "--train", type=epath.Path, metavar="DIR", help="directory of runs that are trained to their end"
    )
    either.add_argument("--simulate", type=int, default=0, metavar="GROUPS", help="curves that are drawn")
    options = parser.parse_args()
    if options.simulate:
        chance = np.random.default_rng(0)
        groups = [by_rate(simulated(chance)) for _ in range(options.simulate)]
    else:
        groups = trained(options.train)
    shuffle = random.Random(0)
    shuffled = [shuffle.sample(group, len(group)) for group in groups for _ in range(1 if options.simulate else ORDERS)]
    print(f"{len(groups)} groups of trials, {sum(map(len, groups))} runs; {led(groups)} winners lead halfway\n")
    print("| factor | order | at once | winners stopped | greatest regret | steps saved |")
    print("| --- | --- | --- | --- | --- | --- |")
    for factor in FACTORS:
        for name, ordered in (("the sweep's", groups), ("any", shuffled)):
            for workers in (1, 4):
                found = [replay(group, workers, factor) for group in ordered]
                lost, regret = sum(each.is_winner_lost for each in found), max(each.regret for each in found)
                saved = sum(each.saved for each in found) / sum(each.steps for each in found)
                print(f"| {factor:g} | {name} | {workers} | {lost} of {len(found)} | {regret:.3f} | {saved:.1%} |")


if __name__ == "__main__":
    main()
