"""Representations and policies as text and back: on the command line, in tables and in labels.

    int4 x int8 hadamard 128 signs 7        weights, activations, block of the rotation, seed of its signs
    int4 cache int8                         and attention's keys and values; see `capscale.cache_names`
    int4 gradients quartet                  and how backward products are held; see `capscale.gradient_names`
    quartet                                 a whole recipe; see `capscale.recipes`
    shared4 x int8                          weights of a parametrization; see `capscale.parametrizations`
    layers/(0|5)/.*=dense                   a rule: PATTERN=REPRESENTATION
    .*=int4 starts 0.9                      one that is dense until that share of training

All but the weights may be left out. What stands in brackets behind a format is its estimator: `top50 [fw]`.
"""

import re
from collections.abc import Sequence

from capscale.cache_names import cache_name, find_cache
from capscale.errors import UserError
from capscale.gradient_names import find_gradients, gradients_name
from capscale.operands import DENSE_OPERAND, Operand, operand
from capscale.parametrizations import Parametrization, find_parametrization
from capscale.policy import Policy, Rule, rules_of
from capscale.recipes import RECIPES, recipe_name
from capscale.representation import Representation

_REPRESENTATION = re.compile(
    r"(?P<weights>.+?)(?: x (?P<activations>.+?))?(?: hadamard (?P<hadamard>\d+)(?: signs (?P<signs>\d+))?)?"
    r"(?: cache (?P<cache>.+?))?(?: gradients (?P<gradients>.+))?"
)
_SPLIT = re.compile(r"(?<!\?)(?<!\?<)=")
"""The sign between a pattern and its representation, which in `(?=...)` and `(?<=...)` is part of the pattern."""
BETWEEN = "; "
"""Stands between the rules of a policy in one text."""


def representation_name(held: Representation) -> str:
    """Text of a representation, which `find_representation` reads; its repr where no text says all of it.

    Example:
      >>> representation_name(Representation(operand("int4"), operand("int8", per_token=True), hadamard=128))
      'int4 x int8 hadamard 128'
    """
    if (recipe := recipe_name(held)) is not None:
        return recipe
    rotated = held.hadamard is not None
    sides = [side.name(rotated) for side in (held.weights, held.activations)]
    sides[0] = sides[0] if held.parametrization is None else held.weights_label
    name = sides[0] if held.activations.is_dense else " x ".join(sides)
    name += f" hadamard {held.rotation}" if rotated else ""
    name += f" cache {cache_name(held)}" if held.caches_compressed else ""
    name += "" if held.gradients.is_dense else f" gradients {gradients_name(held.gradients)}"
    try:
        return name if find_representation(name) == held else repr(held)
    except UserError:
        return repr(held)


def find_representation(text: str) -> Representation:
    """The representation that a text means; raises `UserError` in the words of what it cannot mean."""
    if text.strip() in RECIPES:
        return RECIPES[text.strip()]
    found = _REPRESENTATION.fullmatch(text.strip())
    if found is None:
        raise UserError(
            f"representation {text!r}: name a format, such as 'int4', 'int4 x int8 hadamard 128' or 'dense'"
        )
    block, signs = (None if found[name] is None else int(found[name]) for name in ("hadamard", "signs"))
    activations = operand(found["activations"] or "dense", per_token=True)
    gradients = find_gradients(found["gradients"] or "dense")
    cache = find_cache(found["cache"] or "dense")
    weights, parametrization = find_weights(found["weights"])
    return Representation(weights, activations, block, signs, gradients, *cache, parametrization=parametrization)


def find_weights(text: str) -> tuple[Operand, Parametrization | None]:
    """Meaning of a name of weights: an operand, or a parametrization with the operand dense.

    Example:
      >>> find_weights("shared4")[1]
      Shared(share=4, seed=0)
    """
    parametrization = find_parametrization(text)
    return (operand(text), None) if parametrization is None else (DENSE_OPERAND, parametrization)


def rule_name(rule: Rule) -> str:
    """Text of a rule, which `find_rule` reads; of a contraction, which the command line has no need of, nothing."""
    starts = f" starts {rule.starts:g}" if rule.starts else ""
    return f"{rule.pattern}={representation_name(rule.representation)}{starts}"


def find_rule(text: str) -> Rule:
    """The rule that a text means.

    Example:
      >>> find_rule("layers/(0|5)/.*=dense").pattern
      'layers/(0|5)/.*'
    """
    parts = _SPLIT.split(text, maxsplit=1)
    if len(parts) != 2 or not all(part.strip() for part in parts):
        raise UserError(
            f"{text!r} is no rule; use PATTERN=REPRESENTATION, such as 'layers/(0|5)/.*=dense' or '.*=int4', or name a "
            "file of rules that is there"
        )
    pattern, name = (part.strip() for part in parts)
    name, starts, share = name.partition(" starts ")
    try:
        return Rule(pattern, find_representation(name), starts=_share(share) if starts else 0.0)
    except UserError as error:
        raise UserError(f"rule {text!r}: {error}") from None


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"starts {text!r} is no share of training; give one such as 0.9") from None


def policy_name(policy: Policy) -> str:
    """Text of a policy on one line: of a lone representation its own, of rules theirs in their order."""
    if isinstance(policy, Representation):
        return representation_name(policy)
    return BETWEEN.join(rule_name(rule) for rule in rules_of(policy))


def find_policy(texts: Sequence[str]) -> tuple[Rule, ...]:
    """The rules that texts mean, in their order: one each, or several that `policy_name` or a file has put together.

    Example:
      >>> len(find_policy(["layers/0/.*=dense; .*=int4"]))
      2
    """
    lines = [line for text in texts for line in text.splitlines() or [text]]
    return tuple(find_rule(rule) for line in lines for rule in line.split(BETWEEN))
