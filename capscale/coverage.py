"""Coverage: what a policy makes of every parameter of a model, and the refusals of what it leaves open."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from capscale.contraction import Contraction
from capscale.errors import UserError
from capscale.policy import Policy, Rule, first_match, rules_of
from capscale.representation import DENSE, Representation


class Found(NamedTuple):
    """A parameter of a model, as its host knows it.

    Attributes:
      path: names from the root, joined by slashes.
      shape: of the array, with stacked axes.
      contraction: axes that its product sums over; None where none is known.
      why: of a parameter without one, what is known; it completes "kernel is ...".
      product: False where it is no factor of a product (a bias, a looked-up table): dense without being named.
      by_name: True where only a rule that names it compresses it: one whose pattern has its path in it, or matches
        nothing that is compressed without a name.
    """

    path: str
    shape: tuple[int, ...]
    contraction: Contraction | None
    why: str = ""
    product: bool = True
    by_name: bool = False


class Parameter(NamedTuple):
    """A parameter of a model with what a policy makes of it.

    Attributes:
      path: names from the root, joined by slashes.
      shape: of the array.
      representation: how it is held; None for what stays dense.
      contraction: axes that its product sums over; None for what stays dense.
      reason: why it stays dense; empty for what is compressed.
    """

    path: str
    shape: tuple[int, ...]
    representation: Representation | None = None
    contraction: Contraction | None = None
    reason: str = ""

    @property
    def row(self) -> int | None:
        """Values that one product sums over: the length of the rows that a format sees; None for what stays dense."""
        if self.contraction is None:
            return None
        return prod(self.shape[axis] for axis in self.contraction.axes(len(self.shape)).inputs)


@dataclass(frozen=True)
class Coverage:
    """Every parameter of a model, in its order; `print` shows the table."""

    parameters: tuple[Parameter, ...]

    @property
    def compressed(self) -> dict[str, Parameter]:
        """The compressed ones by path."""
        return {found.path: found for found in self.parameters if found.representation is not None}

    def __str__(self) -> str:
        lines = [("path", "shape", "contraction", "row", "weights", "activations")]
        for found in self.parameters:
            shape = " x ".join(map(str, found.shape)) or "scalar"
            if found.representation is None or found.contraction is None:
                lines.append((found.path, shape, "", "", f"dense: {found.reason}", ""))
                continue
            inputs, _, stacked = found.contraction.axes(len(found.shape))
            axes = ",".join(map(str, inputs)) + (f" per {','.join(map(str, stacked))}" if stacked else "")
            held, rotated = found.representation, found.representation.hadamard is not None
            weights = held.weights.name(rotated) + (f" H{held.rotation}" if rotated else "")
            lines.append((found.path, shape, axes, str(found.row), weights, held.activations.name(rotated)))
        widths = [max(len(line[column]) for line in lines if column < 4 or line[5]) for column in range(6)]
        table = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
        values = [prod(found.shape) for found in self.parameters]
        inside = sum(n for n, found in zip(values, self.parameters, strict=True) if found.representation is not None)
        total = (
            f"{inside:,} of {sum(values):,} values compressed, in {len(self.compressed)} of {len(values)} parameters"
        )
        return "\n".join([*(line.rstrip() for line in table), total])


Refusal = Callable[[Found, Representation], None]
"""Raises `UserError` for a representation that the host cannot hold this parameter in."""


def cover(found: Sequence[Found], policy: Policy, refuse: Refusal, *, in_training: bool = False) -> Coverage:
    """Coverage by a policy: the representation of each parameter.

    Args:
      found: every parameter of the model.
      policy: a representation, or rules.
      refuse: says what the host cannot hold.
      in_training: whether it counts the shares of training that rules may start at.

    Raises:
      UserError: a rule that decides nothing; a weight whose contracted axes are not known; a weight that no rule
        covers; what `refuse` does.
    """
    rules = rules_of(policy)
    if late := [rule for rule in rules if rule.starts and not in_training]:
        raise UserError(
            f"rule {late[0].pattern!r} starts at {late[0].starts:g} of a training that is not counted here; compress "
            "by dense rules for the steps before it, and by the others from there on"
        )
    decided: dict[int, list[Found]] = {place: [] for place in range(len(rules))}
    parameters, uncovered = [], []
    for each in found:
        place = _place(rules, each, found)
        rule = None if place is None else rules[place]
        dense = rule is not None and rule.representation == DENSE
        if place is not None and (each.product or dense):
            decided[place].append(each)
        if not each.product:
            parameters.append(Parameter(each.path, each.shape, reason=each.why))
        elif rule is None and each.by_name:
            parameters.append(Parameter(each.path, each.shape, reason="no rule names it"))
        elif rule is None:
            uncovered.append(each)
        elif dense:
            parameters.append(Parameter(each.path, each.shape, reason=f"rule {rule.pattern!r}"))
        else:
            contraction = _contraction(each, rule)
            contraction.axes(len(each.shape))
            refuse(each, rule.representation)
            parameters.append(Parameter(each.path, each.shape, rule.representation, contraction))
    for place, matched in decided.items():
        if not matched:
            _refuse_idle(rules[place], found)
    if uncovered:
        raise UserError(f"no rule covers {_listed(uncovered)}; add a rule, (pattern, DENSE) for what is to stay dense")
    return Coverage(tuple(parameters))


def _place(rules: Sequence[Rule], each: Found, found: Sequence[Found]) -> int | None:
    """Place of the rule that decides on a parameter."""
    if not each.by_name:
        return first_match(rules, each.path)
    named = [each.path in rule.pattern or not _matched(rule, found, by_name=False) for rule in rules]
    return next((place for place, rule in enumerate(rules) if named[place] and _matched(rule, [each])), None)


def _matched(rule: Rule, found: Sequence[Found], by_name: bool = True) -> list[Found]:
    """Parameters that a rule by itself would decide on; with `by_name` those too that it has to name."""
    matched = [each for each in found if first_match([rule], each.path) is not None]
    return [each for each in matched if by_name or (each.product and not each.by_name)]


def _contraction(found: Found, rule: Rule) -> Contraction:
    stated = rule.stated
    if found.contraction is None and stated is None:
        raise UserError(
            f"{found.path} {found.shape} is {found.why}, so the axes that its product sums over are not known, and "
            f"rule {rule.pattern!r} would compress it; name it dense by a rule ahead, ({found.path!r}, DENSE)"
        )
    if found.contraction is not None and stated is not None:
        raise UserError(
            f"rule {rule.pattern!r} states {stated} of {found.path}, whose layer says {found.contraction}; drop it"
        )
    contraction = found.contraction or stated
    assert contraction is not None
    return contraction


def _refuse_idle(rule: Rule, found: Sequence[Found]) -> None:
    matched = _matched(rule, found)
    weights = _matched(rule, found, by_name=False) or [each for each in matched if each.product]
    if weights:
        raise UserError(f"rule {rule.pattern!r} decides nothing: rules ahead of it match {_listed(weights)} first")
    if matched:
        raise UserError(f"rule {rule.pattern!r} would compress {_listed(matched)}, which is {matched[0].why}")
    paths = _listed([each for each in found if each.product] or found)
    raise UserError(f"rule {rule.pattern!r} matches no parameter (whole paths are matched); there are {paths}")


def _listed(found: Sequence[Found], most: int = 8) -> str:
    paths = [each.path for each in found]
    return ", ".join(paths[:most]) + (f" and {len(paths) - most} more" if len(paths) > most else "")
