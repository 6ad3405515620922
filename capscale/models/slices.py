"""Models of fewer bits that are slices of one tensor: a policy with nested formats as one policy for every width."""

from dataclasses import replace

from capscale.errors import UserError
from capscale.formats.nested import Nested
from capscale.models.assigned import Held, every
from capscale.policy import Frozen
from capscale.representation import Representation


def nested_in(held: Held) -> Nested | None:
    """The nested format of a model's weights; None where no weight is held in one.

    Raises:
      UserError: two of them with other widths or other weights of the losses: every width is one model.
    """
    found = [each.weights.format for each in every(held) if isinstance(each.weights.format, Nested)]
    for other in found[1:]:
        if (other.widths, other.shares, other.at) != (found[0].widths, found[0].shares, found[0].at):
            raise UserError(
                f"nested formats of several widths in one model: {found[0]} and {other}; use the same widths and "
                "weights in all layers, so that each width is one model"
            )
    return found[0] if found else None


def at_width(policy: Frozen, bits: int) -> Frozen:
    """The policy with every nested format at its slice of so many bits."""

    if isinstance(policy, Representation):
        return sliced(policy, bits)
    return tuple(replace(rule, representation=sliced(rule.representation, bits)) for rule in policy)


def sliced(held: Representation, bits: int) -> Representation:
    """The representation with nested weights at their slice of so many bits."""
    format = held.weights.format
    if not isinstance(format, Nested):
        return held
    return replace(held, weights=replace(held.weights, format=format.sliced(bits)))
