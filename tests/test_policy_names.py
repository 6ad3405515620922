"""Texts of representations and policies: what is written is read as the same value."""

import re

import pytest

from capscale.errors import UserError
from capscale.estimators import Clip
from capscale.formats.catalog import FORMATS
from capscale.gradients import BackwardProduct, Gradients
from capscale.policy import Rule, frozen
from capscale.policy_names import (
    find_policy,
    find_representation,
    find_rule,
    policy_name,
    representation_name,
    rule_name,
)
from capscale.representation import DENSE, Representation, operand

NAMES = [
    "dense",
    "int4",
    "2:4+int4-dense-scales",
    "top50 [fw]",
    "int1 [clip 1.1] hadamard 128",
    "top50+rotated-int4",
    "e2m1-g64@e8m0 x int8",
    "dense x int8 hadamard 12",
    "int4 [fw+trust] x top50-row [fw] hadamard 128 signs 7",
]


@pytest.mark.parametrize("name", NAMES)
def test_representations_are_read_as_what_was_written(name):
    held = find_representation(name)
    assert representation_name(held) == name
    assert find_representation(f"  {name} ") == held


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_of_the_catalog_is_read_back(name):
    held = Representation(operand(name))
    assert find_representation(representation_name(held)) == held


def test_what_no_text_says_is_not_left_out():
    gradients = Gradients(inputs=BackwardProduct(operand("int8", per_token=True).format))
    held = Representation(operand("int4"), gradients=gradients)
    assert representation_name(held) != "int4"
    assert find_representation(representation_name(held)) == held


def test_parts_mean_what_they_say():
    held = find_representation("int4 [clip 1.3] x int8 hadamard 64 signs 3")
    expected = Representation(operand("int4", Clip(1.3)), operand("int8", per_token=True), 64, 3)
    assert held == expected


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("layers/(0|5)/.*=dense", "layers/(0|5)/.*"),
        ("(?=layers).*/mlp/.*=int4 x int8", "(?=layers).*/mlp/.*"),
        (r"layers/\d+(?<=1)/.*=2:4+int4", r"layers/\d+(?<=1)/.*"),
        (".*=vq@a=b.npy", None),
    ],
)
def test_rules_are_split_behind_their_pattern(text, pattern):
    if pattern is None:
        with pytest.raises(UserError, match=re.escape(f"rule {text!r}: ")):
            find_rule(text)
        return
    rule = find_rule(text)
    assert rule.pattern == pattern
    assert rule_name(rule) == text


def test_policies_in_one_text():
    texts = ["layers/(0|5)/.*=dense", ".*=int4 hadamard 128"]
    rules = find_policy(texts)
    assert rules == (Rule("layers/(0|5)/.*", DENSE), Rule(".*", Representation(operand("int4"), hadamard=128)))
    assert policy_name(rules) == "layers/(0|5)/.*=dense; .*=int4 hadamard 128"
    assert policy_name(rules[1].representation) == "int4 hadamard 128"
    assert frozen([tuple(vars(rule).values())[:2] for rule in rules]) == rules


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("int4", "'int4' is no rule; use PATTERN=REPRESENTATION"),
        (".*=", "'.*=' is no rule"),
        ("=int4", "'=int4' is no rule"),
        ("(=int4", "rule '(=int4': policy: pattern '(' is no regular expression"),
        (".*=int4 x", "rule '.*=int4 x': unknown format 'int4 x'"),
        (".*=int4 hadamard 100", "rule '.*=int4 hadamard 100': Representation(hadamard=100)"),
        (".*=int4 [nothing]", "rule '.*=int4 [nothing]': "),
        (".*=int4 x rigl50", "rule '.*=int4 x rigl50': "),
    ],
)
def test_what_is_no_rule_is_refused_by_its_text(text, says):
    with pytest.raises(UserError, match=re.escape(says)):
        find_rule(text)
