"""Golden files: what is not theirs fails, and --regenerate alone writes."""

import json

import pytest
from support.golden import hold


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "golden.json"
    path.write_text('{"a": [1, 2]}')
    return path


def test_what_differs_fails_and_writes_nothing(path):
    hold((1, 2), path, "a", regenerate=False)
    with pytest.raises(AssertionError):
        hold([1, 3], path, "a", regenerate=False)
    with pytest.raises(AssertionError, match=r"golden\.json has no b: run this test with --regenerate"):
        hold(1, path, "b", regenerate=False)
    assert path.read_text() == '{"a": [1, 2]}'


def test_regenerated_are_those_that_ran(path):
    hold({"x": 0.5}, path, "b", regenerate=True)
    hold([3], path, "a", regenerate=True)
    assert json.loads(path.read_text()) == {"a": [3], "b": {"x": 0.5}}
    assert path.read_text().splitlines()[1] == '  "a": [3],'
    hold([3], path, "a", regenerate=False)
