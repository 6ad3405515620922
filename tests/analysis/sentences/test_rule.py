from capscale.analysis.sentences.rule import NOT_MEASURED, Rule, Sentence, listing, number, plural, say

RULES = (
    Rule("falling", lambda xs: xs == sorted(xs, reverse=True), lambda xs: f"falls to {number(xs[-1])}"),
    Rule("negative", lambda xs, x: x < 0, lambda xs, x: f"{number(x)} is negative", each=lambda xs: xs),
)


def test_a_sentence_is_said_where_its_condition_holds():
    assert say(RULES, [2.0, 1.0]) == [Sentence("falling", "falls to 1")]
    assert say(RULES, [1.0, 2.0]) == []


def test_items_are_spoken_of_one_by_one():
    assert [s.text for s in say(RULES, [-1.0, 3.0, -2.0])] == ["-1 is negative", "-2 is negative"]


def test_a_text_is_not_made_where_its_condition_fails():
    assert say((Rule("share", lambda x: x > 0, lambda x: number(1 / x)),), 0) == []


def test_no_number_that_is_none_gets_into_prose():
    assert [number(x) for x in (float("nan"), float("inf"), -float("inf"))] == [NOT_MEASURED] * 3
    assert number(0.12345, ".2f") == "0.12"


def test_lists_and_counts():
    assert [listing("abc"[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert listing(map(str, range(15)), most=3) == "0, 1, 2 and 12 more"
    assert [plural(1, "run"), plural(2, "run")] == ["1 run", "2 runs"]
