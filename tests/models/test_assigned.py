"""A policy on a decoder: which weight it holds in what, and the refusals by name."""

from dataclasses import replace

import pytest
from support import tiny

from capscale.errors import UserError
from capscale.models.assigned import Assigned, assigned, every, mapped, runs
from capscale.models.config import ModelConfig
from capscale.policy import Rule
from capscale.policy_names import find_policy
from capscale.representation import DENSE, Representation, operand

MODEL = replace(tiny.MODEL, layers=4, tied_embeddings=False, biases=("query",))
INT4, INT8 = Representation(operand("int4")), Representation(operand("int8"))
LSQ = Representation(operand("int4 [lsq]"))
ENDS = (("layers/(0|3)/.*", DENSE), (".*", INT4))


def test_first_match_decides_for_every_layer():
    held = assigned(MODEL, ENDS)
    assert isinstance(held, Assigned)
    assert held.of("layers/mlp/up/kernel") == (DENSE, INT4, INT4, DENSE)
    assert [(start, stop) for start, stop, _ in held.segments] == [(0, 1), (1, 3), (3, 4)]
    assert held.embedding == held.head == DENSE
    apart = assigned(MODEL, ((".*/mlp/.*", INT4), (".*/(query|key)/kernel", INT8), (".*", DENSE)))
    assert isinstance(apart, Assigned)
    assert len(apart.segments) == 1
    block = apart.layers[0]
    assert [block.of(name) for name in ("query", "value", "out", "up")] == [INT8, DENSE, DENSE, INT4]


@pytest.mark.parametrize("policy", [INT4, ((".*", INT4),), (("layers/1/.*", INT4), ("layers/.*", INT4))])
def test_rules_that_agree_are_the_one_representation(policy):
    assert assigned(MODEL, policy) == INT4
    assert tiny.run(model=MODEL, representation=policy).run_id == tiny.run(model=MODEL, representation=INT4).run_id


@pytest.mark.parametrize(
    ("first", "embedding", "head"),
    [
        (("head", INT8), DENSE, INT8),
        (("embedding|head", INT8), INT8, INT8),
        (("head|layers/1/.*", INT8), DENSE, INT8),
        (("e.*g", INT8), INT8, DENSE),
        (("head", DENSE), DENSE, DENSE),
        (("layers/1/.*", INT8), DENSE, DENSE),
    ],
)
def test_tables_are_compressed_where_they_are_named(first, embedding, head):
    held = assigned(MODEL, (first, (".*", INT4)))
    found = (held.embedding, held.head) if isinstance(held, Assigned) else (DENSE, DENSE)
    assert found == (embedding, head)


def test_a_tied_head_goes_with_its_embedding():
    tied = replace(MODEL, tied_embeddings=True)
    held = assigned(tied, (("embedding", INT8), (".*", INT4)))
    assert isinstance(held, Assigned)
    assert (held.embedding, held.head) == (INT8, DENSE)
    with pytest.raises(UserError, match="rule 'head' names a head, and that of this model is its embedding"):
        assigned(tied, (("head", INT8), (".*", INT4)))


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (
            (("layers/9/.*", INT8), (".*", INT4)),
            "'layers/9/.*' matches no parameter .* layers/0/attention/query/kernel",
        ),
        ((("layers/0/.*", INT8),), "no rule covers layers/1/attention/query/kernel, .* and 13 more"),
        (((".*", INT4), ("layers/1/.*", INT8)), "'layers/1/.*' decides nothing: rules ahead of it match layers/1/"),
        ((("final_norm/.*", INT8), (".*", INT4)), "would compress final_norm/gain, which is a gain of a norm"),
        (((".*/bias", INT8), (".*", INT4)), "would compress layers/0/attention/query/bias, .* which is a bias"),
        (((".*", INT4, 0),), "states Contraction.* whose layer says"),
        ((("embedding", Representation(activations=operand("int8"))), (".*", INT4)), "leave its activations dense"),
        ((("head", Representation(operand("rigl50"))), (".*", INT4)), "head: RigL.* keeps a state"),
        ((("head", Representation(activations=operand("noise2"))), (".*", INT4)), "head: Noise.* draws noise"),
        (((".*", "int4"),), "'.*' has 'int4', which is no Representation"),
        ((("(", INT4),), "pattern '\\(' is no regular expression"),
    ],
)
def test_what_a_policy_cannot_mean_is_refused_by_name(policy, says):
    with pytest.raises(UserError, match=says):
        assigned(MODEL, policy)
    with pytest.raises(UserError, match=says):
        tiny.run(model=MODEL, representation=policy)


def test_a_tied_embedding_does_not_stay_rotated():
    tied = replace(MODEL, tied_embeddings=True)
    both = Representation(operand("int4"), operand("int4"), 8)
    with pytest.raises(UserError, match="embedding: it is looked up as well as multiplied"):
        assigned(tied, (("embedding", both), (".*", INT4)))


def test_every_and_mapped():
    held = assigned(MODEL, ENDS)
    assert isinstance(held, Assigned)
    assert every(held) == (DENSE, INT4)
    assert mapped(held, lambda each: INT8) == Assigned(held.layers, INT8, INT8).mapped(lambda each: INT8)
    assert mapped(INT4, lambda each: INT8) == INT8
    assert runs((1, 1, 2)) == [(0, 2, 1), (2, 3, 2)]


def test_a_run_under_a_policy_has_an_id_of_its_own_and_says_its_rules():
    rules = find_policy(["layers/(0|3)/.*=dense", ".*=int4"])
    run = tiny.run(model=MODEL, representation=list(rules))
    assert run.representation == rules
    ids = {run.run_id, tiny.run(model=MODEL, representation=INT4).run_id}
    ids |= {tiny.run(model=MODEL, representation=(Rule("layers/(0|2)/.*", DENSE), rules[1])).run_id}
    assert len(ids) == 3
    assert hash(run) == hash(tiny.run(model=MODEL, representation=rules))


def test_models_without_a_gate_have_no_rule_for_one():
    olmo2 = ModelConfig(2, 1, 8, 96, 16, multiple_of=8, family="olmo2")
    with pytest.raises(UserError, match=r"'\.\*gate\.\*' matches no parameter"):
        assigned(olmo2, ((".*gate.*", INT8), (".*", INT4)))
