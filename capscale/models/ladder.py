"""The named sizes: the same experiments at three scales, nano, micro and paper, in both of the paper's families."""

import difflib
from dataclasses import dataclass, replace

from capscale.checks import check_number, check_whole
from capscale.errors import UserError
from capscale.models.config import ModelConfig


@dataclass(frozen=True)
class Ladder:
    """A family of model sizes trained by one recipe.

    `sizes` maps a size's name to its shape; vocabularies are filled in from the data by `model`.
    `learning_rates` gives the peak rate of each size, `batch` the sequences per step.
    """

    name: str
    sizes: dict[str, ModelConfig]
    learning_rates: dict[str, float]
    batch: int

    def __post_init__(self):
        check_whole(self, "batch", least=1)
        for size, rate in self.learning_rates.items():
            check_number(rate, f"ladder {self.name!r}: learning rate {rate!r} of {size!r}", above=0)

    def model(self, size: str, vocabulary: int) -> ModelConfig:
        """Shape of `size` over a vocabulary; raises `UserError` for a size that is not of this ladder."""
        if size not in self.sizes:
            raise UserError(f"size {size!r} is not of the {self.name} ladder; its sizes: {', '.join(self.sizes)}")
        return replace(self.sizes[size], vocabulary=vocabulary)


def _nano(width: int) -> ModelConfig:
    return ModelConfig(
        layers=2,
        heads=1,
        width=width,
        vocabulary=96,
        context=64,
        multiple_of=8,
        tied_embeddings=True,
        dtype="float32",
        init_std=0.08,
    )


def _micro(layers: int, heads: int, width: int) -> ModelConfig:
    return ModelConfig(
        layers=layers,
        heads=heads,
        width=width,
        vocabulary=256,
        context=256,
        multiple_of=64,
        init_std=round(0.02 * (640 / width) ** 0.5, 4),  # the paper's at its smallest width
    )


def _paper(layers: int, heads: int, width: int) -> ModelConfig:
    return ModelConfig(layers=layers, heads=heads, width=width, vocabulary=32_000, context=512)


_NANO_WIDTHS = (4, 8, 12, 16, 24, 32, 48)

NANO = Ladder(
    name="nano",
    sizes={f"nano-{width}": _nano(width) for width in _NANO_WIDTHS},
    learning_rates={f"nano-{width}": min(0.4 / width, 0.05) for width in _NANO_WIDTHS},
    batch=8,
)
"""Byte-level models of 5e2 to 5e4 parameters, seconds each on one CPU core."""

MICRO = Ladder(
    name="micro",
    sizes={
        "micro-16": _micro(4, 1, 16),
        "micro-24": _micro(4, 1, 24),
        "micro-32": _micro(4, 2, 32),
        "micro-48": _micro(4, 3, 48),
        "micro-64": _micro(4, 2, 64),
        "micro-96": _micro(4, 3, 96),
        "micro-128": _micro(4, 2, 128),
        "micro-192": _micro(5, 3, 192),
        "micro-256": _micro(6, 4, 256),
        "micro-384": _micro(6, 6, 384),
    },
    learning_rates={
        "micro-16": 1e-2,
        "micro-24": 8e-3,
        "micro-32": 7e-3,
        "micro-48": 6e-3,
        "micro-64": 5e-3,
        "micro-96": 4e-3,
        "micro-128": 3.5e-3,
        "micro-192": 3e-3,
        "micro-256": 2.5e-3,
        "micro-384": 2e-3,
    },
    batch=64,
)
"""Models of 2e4 to 1e7 parameters, minutes each on one GPU or TPU chip."""

PAPER = Ladder(
    name="paper",
    sizes={
        "30M": _paper(6, 5, 640),
        "50M": _paper(7, 6, 768),
        "100M": _paper(8, 8, 1024),
        "200M": _paper(10, 10, 1280),
        "430M": _paper(13, 13, 1664),
        "800M": _paper(16, 16, 2048),
    },
    learning_rates={"30M": 1.2e-3, "50M": 1.2e-3, "100M": 6e-4, "200M": 3e-4, "430M": 1.5e-4, "800M": 7.5e-5},
    batch=512,
)
"""The paper's sizes and learning rates (arXiv 2506.01863, training set-up); 430M and 800M are QuEST's
(arXiv 2502.05003)."""


def _olmo2(llama: Ladder) -> Ladder:
    """The second family on a ladder of the first: its shapes, learning rates and batch."""
    return Ladder(
        name=f"{llama.name}-olmo2",
        sizes={f"olmo2-{size}": replace(model, family="olmo2") for size, model in llama.sizes.items()},
        learning_rates={f"olmo2-{size}": rate for size, rate in llama.learning_rates.items()},
        batch=llama.batch,
    )


NANO_OLMO2, MICRO_OLMO2, PAPER_OLMO2 = _olmo2(NANO), _olmo2(MICRO), _olmo2(PAPER)
"""The paper's second family, with the sizes, ratios and optimizer of the first."""

LADDERS = {ladder.name: ladder for ladder in (NANO, MICRO, PAPER, NANO_OLMO2, MICRO_OLMO2, PAPER_OLMO2)}


def ladder(name: str) -> Ladder:
    """The ladder of that name; raises `UserError` with the known names otherwise."""
    if name not in LADDERS:
        close = difflib.get_close_matches(name, LADDERS, n=2, cutoff=0.5)
        guess = f"did you mean {' or '.join(close)}? " if close else ""
        raise UserError(f"ladder {name!r} is unknown; {guess}known ladders: {', '.join(LADDERS)}")
    return LADDERS[name]


def find_size(name: str) -> ModelConfig:
    """The shape of a size by its name alone, on whichever ladder it stands."""
    for candidate in LADDERS.values():
        if name in candidate.sizes:
            return candidate.sizes[name]
    known = [size for candidate in LADDERS.values() for size in candidate.sizes]
    raise UserError(f"model {name!r} is unknown; known models: {', '.join(known)}")
