"""Policy: which representation each weight of a model is held in, as rules by path."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from capscale.checks import check_real
from capscale.contraction import Contraction
from capscale.errors import UserError
from capscale.formats.schedule import PARTS
from capscale.representation import DENSE, Representation


@dataclass(frozen=True)
class Rule:
    """One line of a policy; a plain tuple of two or three is as good.

    Attributes:
      pattern: regular expression that the whole path of a parameter must match, `encoder/.*/kernel`.
      representation: how those weights, and the activations that meet them, are held; `DENSE` to name what stays dense.
      contraction: axes that a product sums over, for arrays that belong to no layer that is known; an int for one axis
        of an array that holds one matrix.
      starts: share of training from which on it is so, in whole ten-thousandths; dense until then. Of the package's own
        training: a loop of one's own compresses with the rules of each part of it.
    """

    JSON_ADDED: ClassVar[Mapping[str, Any]] = MappingProxyType({"contraction": None, "starts": 0.0})

    pattern: str
    representation: Representation
    contraction: Contraction | int | None = None
    starts: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str):
            raise UserError(f"Rule(pattern={self.pattern!r}): give a regular expression of paths, as text")
        if not isinstance(self.representation, Representation):
            raise UserError(
                f"policy: {self.pattern!r} has {self.representation!r}, which is no Representation; "
                "use Representation(weights=operand('int4')), or DENSE"
            )
        axis = self.contraction
        if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int | Contraction)):
            raise UserError(f"policy: {self.pattern!r} has contraction={axis!r}; use an axis, or a Contraction")
        check_real(self, "starts", least=0, below=1)
        if not float(self.starts * PARTS).is_integer() and round(self.starts, 4) != self.starts:
            raise UserError(f"Rule(starts={self.starts}): give a share in whole ten-thousandths, such as 0.9 or 0.3333")
        if self.starts and self.representation == DENSE:
            raise UserError(f"Rule(starts={self.starts}): {self.pattern!r} is dense before and after; leave starts out")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UserError(f"policy: pattern {self.pattern!r} is no regular expression: {error}") from error

    @property
    def stated(self) -> Contraction | None:
        """The contraction, where the rule states one."""
        return Contraction(self.contraction) if isinstance(self.contraction, int) else self.contraction


Policy = Representation | Sequence[Rule | tuple[str, Representation] | tuple[str, Representation, Contraction | int]]
"""A representation for all, or rules of which the first that matches a path decides."""
Frozen = Representation | tuple[Rule, ...]
"""A policy as a value that can be hashed and written as JSON; see `frozen`."""


def rules_of(policy: Policy) -> tuple[Rule, ...]:
    """The rules of a policy, checked; a lone representation is one rule for every path.

    Raises:
      UserError: what is no rule, or a pattern that is no regular expression.
    """
    if isinstance(policy, Representation):
        return (Rule(".*", policy),)
    if isinstance(policy, str) or not isinstance(policy, Sequence) or not policy:
        raise UserError(
            f"policy={policy!r} is neither a Representation nor rules; use ((pattern, Representation), ...)"
        )
    return tuple(_rule(rule) for rule in policy)


def _rule(rule: object) -> Rule:
    if isinstance(rule, Rule):
        return rule
    if not isinstance(rule, tuple) or len(rule) not in (2, 3) or not isinstance(rule[0], str):
        raise UserError(f"policy: {rule!r} is no rule; use (pattern, Representation), or with its contraction as third")
    return Rule(*rule)


def frozen(policy: Policy) -> Frozen:
    """The policy as rules, or as the representation that it is for all; equal policies give equal values.

    Example:
      >>> frozen([(".*", Representation())]) == Representation()
      True
    """
    rules = rules_of(policy)
    (first, *others) = rules
    return first.representation if not others and first == Rule(".*", first.representation) else rules


def first_match(rules: Sequence[Rule], path: str) -> int | None:
    """Place of the first rule whose pattern matches the whole of `path`; None where none does."""
    return next((place for place, rule in enumerate(rules) if re.fullmatch(rule.pattern, path)), None)
