"""A program: all that a compiled train step depends on, but for its data."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from capscale.checks import check_whole
from capscale.formats.capabilities import Stateful, learns
from capscale.models.assigned import Held, assigned, every
from capscale.models.config import ModelConfig
from capscale.models.decoder import Decoder
from capscale.models.loss import tokens_at_once
from capscale.models.slices import at_width, nested_in
from capscale.policy import Frozen, Rule
from capscale.representation import DENSE, DENSE_OPERAND, Representation
from capscale.train.memory import AT_ONCE, Memory
from capscale.train.run import Optimizer, Run


@dataclass(frozen=True)
class Program:
    """Static arguments of a compiled train step. Runs with equal programs share one compilation.

    `devices`: how many a batch is split over; only the memory of the logits follows from it.
    """

    model: ModelConfig
    representation: Frozen
    optimizer: Optimizer
    batch: int
    memory: Memory = AT_ONCE
    devices: int = 1

    def __post_init__(self):
        check_whole(self, "batch", "devices", least=1)
        self.memory.check(self.batch, self.devices)

    @classmethod
    def of(cls, run: Run, memory: Memory = AT_ONCE, devices: int = 1) -> "Program":
        """The program of a run: its learning rate, length and seed are data, not code."""
        optimizer = dataclasses.replace(run.optimizer, learning_rate=1.0)
        return cls(run.model, run.representation, optimizer, run.batch, memory, devices)

    @property
    def start(self) -> "Program":
        """The program that the initial state depends on: formats without learned scales or state share one."""
        representation = self.representation
        optimizer = dataclasses.replace(self.optimizer, correction=None, reduce="float32")
        start = dataclasses.replace(self, optimizer=optimizer, memory=AT_ONCE)
        if not isinstance(representation, Representation):
            plain = all(_owned_of(each) == DENSE for each in every(self.held))
            return dataclasses.replace(start, representation=DENSE if plain else representation)
        return dataclasses.replace(start, representation=_owned_of(representation))

    @cached_property
    def held(self) -> Held:
        """Representations of all weights of the model, by its policy."""
        return assigned(self.model, self.representation)

    @cached_property
    def phases(self) -> tuple["Phase", ...]:
        """Parts of training, each with the program of its steps; one, unless rules start later."""
        rules = self.representation
        if isinstance(rules, Representation) or not any(rule.starts for rule in rules):
            return (Phase(0.0, self, self.held),)

        def held_where(holds: Callable[[float], bool]) -> "Program":
            kept = tuple(
                Rule(rule.pattern, rule.representation if holds(rule.starts) else DENSE, rule.contraction)
                for rule in rules
            )
            return dataclasses.replace(self, representation=kept)

        shares = sorted({0.0, *(rule.starts for rule in rules)})
        return tuple(
            Phase(
                share,
                held_where(lambda starts, share=share: starts <= share),
                held_where(lambda starts, share=share: starts == share).held,
            )
            for share in shares
        )

    @cached_property
    def slices(self) -> tuple["Slice", ...]:
        """One for every width of nested weights, the widest first; none where no weight is nested."""
        nested = nested_in(self.held)
        if nested is None or nested.at is not None:
            return ()
        return tuple(
            Slice(width, share, self.at(width)) for width, share in zip(nested.widths, nested.shares, strict=True)
        )

    def at(self, width: int) -> "Program":
        """The program of one width of nested weights, with the same state."""
        return dataclasses.replace(self, representation=at_width(self.representation, width))

    @property
    def last(self) -> "Program":
        """The program of the steps from which on all rules hold."""
        return self.phases[-1].program

    @property
    def module(self) -> Decoder:
        """Flax module of the model."""
        return Decoder(self.model, self.held, self.memory.remat, self.memory.unroll)

    def tokens_at_once(self, sequences: int) -> int:
        """Tokens of each of so many sequences, of all devices, whose logits exist together."""
        return tokens_at_once(sequences // self.devices, self.model.context, self.model.vocabulary)


class Slice(NamedTuple):
    """One width of nested weights.

    Attributes:
      width: bits.
      share: of its loss in that of a step.
      program: with the weights of this width.
    """

    width: int
    share: float
    program: Program


class Phase(NamedTuple):
    """A part of training.

    Attributes:
      starts: share of the steps at which it begins.
      program: of its steps.
      begins: representations of the weights that are compressed from here on, dense for all others.
    """

    starts: float
    program: Program
    begins: Held


def _owned_of(representation: Representation) -> Representation:
    """The representation with what it stores: operands of learned scales or state, and its parametrization."""
    owns = [
        operand if learns(operand.format) or isinstance(operand.format, Stateful) else DENSE_OPERAND
        for operand in (representation.weights, representation.activations)
    ]
    plain = all(operand.is_dense for operand in owns)
    if plain:
        return Representation(parametrization=representation.parametrization)
    rotation = representation.hadamard, representation.signs
    return Representation(owns[0], owns[1], *rotation, parametrization=representation.parametrization)
