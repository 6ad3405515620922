"""Formats for the matrices of a trained decoder, one each, of the least loss within a budget of stored bits.

Losses of matrices that are rounded alone are taken to add up, which makes an exact program of the allocation
(`knapsack`); an evolutionary search, which takes nothing for granted, and the same format for all stand beside it, on
text that neither of them saw.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from capscale.checkpoints import evolution, knapsack
from capscale.checkpoints.evaluation import WindowLosses, check_text
from capscale.checkpoints.sensitivity import Mixtures, Sensitivity, calibration_windows, sensitivities
from capscale.checkpoints.source import Source
from capscale.data.source import Source as Text
from capscale.errors import UserError
from capscale.formats.base import Format
from capscale.formats.catalog import find, label
from capscale.models.assigned import full
from capscale.operands import Operand
from capscale.policy import Rule
from capscale.representation import Representation
from capscale.train.record import loss_with_error

STACK = "layers"
"""Name of the stack of layers in paths of parameters."""


class Mixture(NamedTuple):
    """One way to hold all matrices, and what it costs.

    Attributes:
      name: how it was found: "int4 for all", "allocated", "evolved".
      weights: the format of every matrix.
      bits: per value, over all matrices, scales included.
      rise, rise_se: of the loss over that of the trained weights on the held-out text, in nats per token, and its
        standard error.
      calibrated: the rise on the calibration windows.
      less, less_se: held-out loss of the allocated mixture less that of this one, and its standard error; zeros for
        the allocated one.
    """

    name: str
    weights: tuple[str, ...]
    bits: float
    rise: float
    rise_se: float
    calibrated: float
    less: float
    less_se: float


class Allocation(NamedTuple):
    """Allocations of a decoder.

    Attributes:
      sensitivities: of every matrix.
      budget: bits per value that were allowed.
      expected: rise on the calibration windows that the sum over matrices makes of the allocated mixture.
      exact: whether no mixture has a lower sum.
      evaluations: losses of all calibration windows that sensitivities took; as many as the evolutionary search had.
      allocated, evolved, uniform: the mixtures; of one format for all, those within the budget and the next above.
    """

    sensitivities: tuple[Sensitivity, ...]
    budget: float
    expected: float
    exact: bool
    evaluations: int
    allocated: Mixture
    evolved: Mixture
    uniform: tuple[Mixture, ...]


def rules_of_mixture(source: Source, found: Allocation, hadamard: int | None) -> tuple[Rule, ...]:
    """The allocated formats as a policy that trains: one rule a format, which names its matrices."""
    inputs = full(source.model, source.inputs)
    by_held: dict[Representation, list[str]] = {}
    for one, name in zip(found.sensitivities, found.allocated.weights, strict=True):
        stack, rest = one.matrix.path.split("/", 1)
        assert stack == STACK
        own = inputs.of(one.matrix.path)[one.matrix.layer]
        held = replace(own, weights=Operand(find(name)), hadamard=own.hadamard if hadamard is None else hadamard)
        by_held.setdefault(held, []).append(f"{one.matrix.layer}/{rest}")
    return tuple(Rule(f"{STACK}/({'|'.join(paths)})", held) for held, paths in by_held.items())


def allocate(
    source: Source,
    formats: Sequence[Format],
    text: Text,
    bits: float,
    *,
    windows: int = 256,
    hadamard: int | None = None,
    seed: int = 0,
) -> Allocation:
    """The format of every matrix, by its own rises and by evolution, within `bits` per value on average.

    Args:
      source: a run with dense weights, or a checkpoint of Hugging Face.
      formats: to choose from, two at least.
      text: that the run was trained on; rises are measured on windows that were trained on, mixtures on those held out.
      bits: per value of the matrices that are compressed, their scales included; embedding and head are not counted.
      windows: of the calibration text.
      hadamard: largest block that the inputs are rotated in first.
      seed: of the evolutionary search.

    Raises:
      UserError: another text than the run's, fewer than two formats, two windows or the bits that the smallest takes.
    """
    check_text(source, text)
    names = [label(format) for format in formats]
    if len(set(names)) < 2:
        raise UserError(f"an allocation chooses between formats, and {', '.join(names) or 'none'} leaves no choice")
    if windows < 2:
        raise UserError(f"windows={windows}: a standard error takes 2 at least")
    mixtures = Mixtures(source, formats, hadamard)
    calibration = WindowLosses(source, calibration_windows(text, source.model.context, windows))
    told = tuple(sensitivities(mixtures, calibration))
    total = sum(one.values for one in told)
    costs = [one.values * np.array(one.bits) for one in told]
    if sum(cost.min() for cost in costs) > bits * total:
        least = sum(cost.min() for cost in costs) / total
        raise UserError(
            f"{bits:g} bits per value are below {least:.4g}, what the smallest format of every matrix takes"
        )
    chosen = knapsack.choose(costs, [np.array(one.expected) for one in told], bits * total)

    at_start = float(calibration(mixtures.params).mean())
    same = [tuple([choice] * len(told)) for choice in range(len(formats))]
    taken = {choices: sum(cost[c] for cost, c in zip(costs, choices, strict=True)) / total for choices in same}
    within = sorted((c for c in same if taken[c] <= bits), key=lambda c: taken[c])
    above = sorted((c for c in same if taken[c] > bits), key=lambda c: taken[c])
    start = within[-1] if within else tuple(int(np.argmin(cost)) for cost in costs)

    def calibrated(choices: Sequence[int]) -> float:
        return float(calibration(mixtures.of(choices)).mean()) - at_start

    evaluations = len(told) * len(formats)
    found = evolution.search(start, calibrated, costs, bits * total, evaluations=evaluations, seed=seed)
    held_out, blocks = text.validation(source.model.context)
    losses = WindowLosses(source, held_out)
    trained, best = losses(mixtures.params), losses(mixtures.of(chosen.choices))

    def mixture(name: str, choices: tuple[int, ...]) -> Mixture:
        mine = losses(mixtures.of(choices))
        rise, less = loss_with_error(mine - trained, blocks), loss_with_error(best - mine, blocks)
        cost = sum(cost[c] for cost, c in zip(costs, choices, strict=True)) / total
        return Mixture(name, tuple(names[c] for c in choices), cost, *rise, calibrated(choices), *less)

    return Allocation(
        told,
        bits,
        chosen.loss,
        chosen.exact,
        evaluations,
        mixture("allocated", chosen.choices),
        mixture("evolved", found.choices),
        tuple(mixture(f"{names[c[0]]} for all", c) for c in [*within, *above[:1]]),
    )
