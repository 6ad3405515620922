"""`capscale launch ray`: a job that a stand-in for `ray job` submits."""

import pytest
from support.launching import calls, make_place, started, workers, written


@pytest.fixture
def place(tmp_path, monkeypatch):
    return make_place(tmp_path, monkeypatch)


def test_ray_gets_one_job_unless_it_has_it(place):
    """It asks for all runs by itself; what has ended without all results is deleted, and submitted again."""
    common = ["--out", "out dir", "--ladder", "nano", "--text", "text.txt"]
    sweep = ["capscale", "sweep", "mine.py", *common, "--launcher", "ray", "--slice", "v4:2x2x2"]
    script = written("ray")
    for state, asked in (
        (None, ["status", "submit"]),
        ("Job 'it' failed", ["status", "delete", "submit"]),
        ("Status for job 'it': RUNNING", ["status"]),
    ):
        (place / "calls").unlink(missing_ok=True)
        if state:
            (place / "job").write_text(f"{state}\n")
        done = started(script)
        assert done.returncode == 0, done.stderr
        assert [call[2] for call in calls(place, "ray")] == asked
        assert workers(place) == ([] if "RUNNING" in (state or "") else [sweep])
    (place / "job").unlink()
    done = started(script, ANSWER="nobody")
    assert done.returncode == 75
    assert "capscale-mine-nano was not submitted: no cluster answers" in done.stderr
    (place / "refusals").write_text("no\n")
    assert started(script).returncode == 75
