"""Trained decoders held otherwise than they were trained: a format or a policy of weights, formats of the cache."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from capscale.checkpoints.source import Source
from capscale.errors import UserError
from capscale.formats.base import Format
from capscale.formats.capabilities import moves
from capscale.formats.catalog import label
from capscale.models.assigned import Assigned, assigned, combined, every, layers_mapped, weights_alone
from capscale.operands import Operand
from capscale.policy import Policy, rules_of
from capscale.policy_names import policy_name
from capscale.representation import DENSE, DENSE_GRADIENTS, DENSE_OPERAND, Representation

SIDES = ("activations", "keys", "values")
"""Operands that are made where a model runs, and rounded there."""


class Asked(NamedTuple):
    """Ways to round one decoder.

    Attributes:
      formats: of all weights, one after the other.
      policy: rules that say each weight, and inputs and cache where they say something.
      keys, values: formats of attention's cache, in all of these; None as the run has them.
      hadamard: largest block that the inputs are rotated in first, with `formats` and the cache.
    """

    formats: Sequence[Format] = ()
    policy: Policy | None = None
    keys: Operand | None = None
    values: Operand | None = None
    hadamard: int | None = None

    def of(self, source: Source) -> Iterator[tuple[str, Source]]:
        """The decoder in each of them, by name: the cache alone first, then formats, then the policy.

        Raises:
          UserError: what this model, or rounding after training, cannot have.
        """
        cache = partial(with_cache, keys=self.keys, values=self.values, hadamard=self.hadamard)
        if self.keys is not None or self.values is not None:
            yield "the cache alone", cache(source)
        else:
            check_rotation(source, self.hadamard)
        for format in self.formats:
            yield label(format), cache(in_format(source, format, self.hadamard))
        if self.policy is not None:
            yield policy_name(self.policy), cache(under_policy(source, self.policy))


def in_format(source: Source, format: Format, hadamard: int | None = None) -> Source:
    """The decoder with its master weights in one format; inputs and cache stay as the run has them.

    Raises:
      UserError: a format that training moves, or inputs that are rotated otherwise.
    """
    source.check_masters()
    _refuse_moving(format)
    check_rotation(source, hadamard)
    return source._replace(
        weights=Representation(Operand(format), hadamard=hadamard), state=None, policy=(), stored=None
    )


def check_rotation(source: Source, hadamard: int | None) -> None:
    """Raises `UserError` for a rotation that the run's compressed inputs do not have."""
    for own in every(source.inputs):
        if not own.activations.is_dense and hadamard is not None and hadamard != own.hadamard:
            raise UserError(
                f"the activations of this run are rotated in blocks of {own.hadamard}; leave --hadamard out"
            )


def under_policy(source: Source, policy: Policy) -> Source:
    """The decoder with its master weights as rules say, and its inputs and cache too where they say something.

    Of inputs and cache, the run's own formats stay where rules leave them dense.

    Raises:
      UserError: a rule that matches nothing, a weight that none covers, a format that training moves, a
        parametrization, or a rotation of inputs that the run's own do not have.
    """
    source.check_masters()
    held = assigned(source.model, policy)
    for each in every(held):
        if each.parametrization is not None:
            raise UserError(f"{each.parametrization} is trained, not rounded to; give rules of formats")
        for operand in (each.weights, each.activations):
            _refuse_moving(operand.format)

    def inputs(rule: Representation, own: Representation) -> Representation:
        """Inputs by a rule, where the run has its own."""
        given = {side: getattr(own if getattr(rule, side).is_dense else rule, side) for side in SIDES}
        if all(operand.is_dense for operand in given.values()):
            return DENSE
        alone = replace(rule, weights=DENSE_OPERAND, gradients=DENSE_GRADIENTS, parametrization=None, **given)
        if own == DENSE or (rule.hadamard, rule.signs) == (own.hadamard, own.signs):
            return alone
        if rule.hadamard is None and all(getattr(rule, side).is_dense for side in SIDES):
            return own
        raise UserError(
            f"{source.path}: its inputs are rotated in blocks of {own.rotation}, and the policy says {rule.rotation}; "
            "say the run's own"
        )

    rules = rules_of(policy) if isinstance(held, Assigned) or len(rules_of(policy)) > 1 else ()
    return source._replace(
        weights=weights_alone(held),
        inputs=combined(source.model, held, source.inputs, inputs),
        state=None,
        policy=rules,
        stored=None,
    )


def with_cache(source: Source, keys: Operand | None, values: Operand | None, hadamard: int | None = None) -> Source:
    """The decoder with attention's keys and values held so, as the run has them where None, head and token alone.

    Args:
      source: the decoder.
      keys, values: their formats, per token.
      hadamard: largest block of the rotation of a head's features; of inputs that are compressed, their own stays.

    Raises:
      UserError: formats that see other tokens, or that training moves.
    """
    for operand in (keys, values):
        if operand is not None:
            _refuse_moving(operand.format)

    def held(own: Representation) -> Representation:
        given = {"keys": own.keys if keys is None else keys, "values": own.values if values is None else values}
        rotated = own if own != DENSE else replace(own, hadamard=hadamard)
        found = replace(rotated, **given)
        return found if found.caches_compressed or not found.activations.is_dense else DENSE

    return source._replace(inputs=layers_mapped(source.model, source.inputs, held))


def _refuse_moving(format: Format) -> None:
    if moves(format):
        raise UserError(f"{label(format)} is learned in training, or moves with it; give a format that only rounds")
