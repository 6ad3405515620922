"""The grid of runs that a figure asks for: formats by sizes by seeds, trained by the one recipe of a ladder.

Runs are named by content, so figures that ask for the same run share it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from capscale.data.corpus import DataId
from capscale.models.config import ModelConfig
from capscale.models.ladder import Ladder
from capscale.policy import Frozen
from capscale.representation import DENSE, Representation
from capscale.train.run import Optimizer, Run

NANO_TOKENS = 3000 * 8 * 64
"""1.5 million tokens for every nano size, three quarters of a pass over the standard library's prose."""
MICRO_STEPS, MICRO_BATCH, MICRO_RATE = 600, 16, 0.4
"""Of the short micro runs; the rate is times the width, chosen on dense models (experiments/results/README.md)."""
PAPER_RATIO = 100
"""Tokens per parameter on the paper's ladders, of its 25, 50, 100 and 200, where a figure needs one."""
SEEDS = (0, 1)
"""Of every format and size: how far two of one format lie apart is the yardstick for any difference."""


@dataclass(frozen=True)
class Grid:
    """Runs of one ladder and text by its recipe.

    nano: equal tokens (`NANO_TOKENS`), the ladder's rates and batch. micro: equal tokens (600 steps of 16 sequences).
    paper: `PAPER_RATIO` tokens per parameter of the size, AdamW as the paper has it.
    """

    ladder: Ladder
    data: DataId
    amsgrad: bool = False
    """Whether Adam divides by the largest second moment so far (Algorithm 3 of the paper)."""

    @property
    def _kind(self) -> str:
        return self.ladder.name.partition("-")[0]

    @property
    def dense_sizes(self) -> tuple[str, ...]:
        """Sizes of the dense curve, ascending: two more below the compressed ones, which weak formats are worth."""
        every = sorted(self.ladder.sizes, key=lambda size: self.ladder.sizes[size].non_embedding_parameters)
        return tuple(every[:5] if self._kind == "micro" else every[:6])

    @property
    def four(self) -> tuple[str, ...]:
        """Sizes of formats whose every size counts, the largest first, so that a sweep does not end on its longest."""
        return self.dense_sizes[:4][::-1] if self._kind == "paper" else self.dense_sizes[-4:][::-1]

    @property
    def two(self) -> tuple[str, ...]:
        """The middle two of the four."""
        return self.four[1:3]

    def run(
        self,
        size: str,
        representation: Frozen = DENSE,
        *,
        seed: int = 0,
        share: float = 1.0,
        width: int | None = None,
    ) -> Run:
        """One run, on `share` of the tokens; `width` in place of the size's own, with its rate per width."""
        model, rate = self.ladder.model(size, self.data.vocabulary), self.ladder.learning_rates[size]
        if width is not None:
            model, rate = replace(model, width=width), rate * model.width / width
        batch = MICRO_BATCH if self._kind == "micro" else self.ladder.batch
        return Run(
            size=size if width is None else f"{self.ladder.name}-{width}",
            model=model,
            tokens=round(self._tokens(size, model) * share),
            data=self.data,
            optimizer=self._optimizer(rate, model.width),
            batch=batch,
            ladder=self.ladder.name,
            representation=representation,
            seed=seed,
        )

    def over(
        self,
        representations: Iterable[Representation],
        sizes: Sequence[str] | None = None,
        seeds: Sequence[int] = SEEDS,
    ) -> list[Run]:
        """Every representation at every size (the middle two if not given) and seed; seeds of one program together."""
        chosen = self.two if sizes is None else sizes
        every = product(chosen, dict.fromkeys(representations), seeds)
        return [self.run(size, representation, seed=seed) for size, representation, seed in every]

    def dense(self) -> list[Run]:
        """The dense curve that capacities are read off."""
        return self.over([DENSE], self.dense_sizes[::-1])

    def shorter(self) -> list[Run]:
        """Dense runs on a half and a quarter of the tokens, without which the law's data term is not identified."""
        every = product(self.four, (1 / 2, 1 / 4), SEEDS)
        return [self.run(size, share=share, seed=seed) for size, share, seed in every]

    def _tokens(self, size: str, model: ModelConfig) -> int:
        if self._kind == "nano":
            return NANO_TOKENS
        if self._kind == "micro":
            return MICRO_STEPS * MICRO_BATCH * model.context
        return PAPER_RATIO * self.ladder.sizes[size].non_embedding_parameters

    def _optimizer(self, rate: float, width: int) -> Optimizer:
        if self._kind == "nano":
            return Optimizer(rate, b2=0.98, decay="linear", amsgrad=self.amsgrad)
        return Optimizer(MICRO_RATE / width if self._kind == "micro" else rate, amsgrad=self.amsgrad)
