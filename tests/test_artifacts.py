"""Digests of what is left behind: the same before and after a file, and another for anything altered."""

import json

import pytest

from capscale.artifacts import check_result, check_seal, digest, sealed
from capscale.errors import UserError

CONTENT = {"b": [1, 2.5, -0.0, 1e-300, None, True], "a": {"y": "é\n", "x": 0.1 + 0.2}}


def test_digest_is_of_the_content_not_of_its_text():
    assert digest(json.loads(json.dumps(CONTENT, indent=3))) == digest(CONTENT)
    assert digest(dict(reversed(CONTENT.items()))) == digest(CONTENT)
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", "SHA-256 of two braces"


@pytest.mark.parametrize(
    "changed",
    [
        CONTENT | {"a": {"y": "é\n", "x": 0.3}},
        CONTENT | {"b": [1, 2.5, 0.0, 1e-300, None, True]},
        CONTENT | {"c": None},
        {"b": CONTENT["b"]},
    ],
)
def test_any_change_shows(changed):
    whole = sealed(CONTENT)
    check_seal("there", json.loads(json.dumps(whole)), "")
    with pytest.raises(UserError, match=r"^there was altered after it was written: .*; mend it$"):
        check_seal("there", changed | {"sha256": whole["sha256"]}, "mend it")


def test_no_seal_is_a_broken_one():
    with pytest.raises(UserError, match="was altered"):
        check_seal("there", CONTENT, "")


@pytest.mark.parametrize("schema", [None, 0, 3, "2", [2]])
def test_results_of_other_versions_are_refused(schema):
    found = sealed({"schema": schema, "run_id": "a", "status": "ok", "row": {}})
    with pytest.raises(UserError, match=r"there has schema .*; this version reads \(1, 2\); mend it"):
        check_result("there", found, "a", "mend it")
