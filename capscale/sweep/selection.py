"""Which runs of an experiment a sweep has: all of them, or those of some sizes, at seeds of one's own."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from capscale.checks import LARGEST_WHOLE, check_choice
from capscale.errors import UserError
from capscale.policy_names import find_policy
from capscale.train.memory import Reduce
from capscale.train.run import Run


@dataclass(frozen=True)
class Selection:
    """Runs of an experiment by size and seed, under a policy of one's own.

    Attributes:
      seeds: in place of the experiment's: every run is at each of them. Empty: as the experiment has them.
      sizes: runs of other sizes are left out. Empty: none is.
      policy: texts of rules (`capscale.policy_names`) in place of every run's representation. Empty: as the experiment
        has them.
      reduce: dtype in which devices send each other gradients, in place of every run's. None: as the experiment has it.
    """

    seeds: tuple[int, ...] = ()
    sizes: tuple[str, ...] = ()
    policy: tuple[str, ...] = ()
    reduce: Reduce | None = None

    def __post_init__(self):
        for seed in self.seeds:
            if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_WHOLE:
                raise UserError(f"--seeds {seed}: a seed is a whole number from 0 to {LARGEST_WHOLE}")
        if self.policy:
            find_policy(self.policy)
        if self.reduce is not None:
            check_choice(self, "reduce", get_args(Reduce))
        for name in ("seeds", "sizes", "policy"):
            values = getattr(self, name)
            if twice := [value for value in dict.fromkeys(values) if values.count(value) > 1]:
                raise UserError(f"--{name} names {twice[0]} twice; drop one")

    def of(self, runs: Sequence[Run], experiment: str, ladder: str) -> tuple[Run, ...]:
        """The selected runs, in their order; seeds of one run stand next to each other, where its first stood.

        Runs that are selected have the ids that they have without a selection, unless a policy, or another
        `reduce`, makes others of them.

        Raises:
          UserError: a size that no run has, with those that are spelled alike; rules that a model has no weights for.
        """
        known = list(dict.fromkeys(run.size for run in runs))
        for size in self.sizes:
            if size not in known:
                close = difflib.get_close_matches(size, known, n=3, cutoff=0.4)
                guess = f"did you mean {', '.join(close)}? " if close else ""
                raise UserError(
                    f"--sizes {size}: {experiment} has no run of that size on the {ladder} ladder; {guess}"
                    f"Its sizes: {', '.join(known)}"
                )
        chosen = [run for run in runs if not self.sizes or run.size in self.sizes]
        if self.policy:
            rules = find_policy(self.policy)
            ruled = [replace(run, representation=rules) for run in chosen]
            chosen = list({run.run_id: run for run in ruled}.values())
        if self.reduce is not None:
            sent = [replace(run, optimizer=replace(run.optimizer, reduce=self.reduce)) for run in chosen]
            chosen = list({run.run_id: run for run in sent}.values())
        if not self.seeds:
            return tuple(chosen)
        first = {at_seed_0.run_id: at_seed_0 for at_seed_0 in (replace(run, seed=0) for run in chosen)}
        return tuple(replace(run, seed=seed) for run in first.values() for seed in self.seeds)


WHOLE = Selection()
"""The experiment as it is."""
