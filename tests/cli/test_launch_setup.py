"""How launch files make `capscale` available on fresh machines: with what the sweep needs there, or as --setup says."""

import pytest
from support.launching import calls, executable, make_place, started, workers, written


@pytest.fixture
def place(tmp_path, monkeypatch):
    return make_place(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("where", "options", "extras"),
    [
        ("gcloud", [], "tpu"),
        ("gcloud", ["--out", "gs://b/o"], "tpu,gcs"),
        ("gcloud", ["--out", "gs://b/o", "--text", "gs://b/t", "--vocabulary", "96"], "tpu,gcs"),
        ("skypilot", [], "cuda"),
        ("skypilot", ["--accelerators", "{A100:8, H100:8}", "--text", "s3://b/t", "--vocabulary", "96"], "cuda,s3"),
        ("skypilot", ["--accelerators", "tpu-v6e-8", "--text", "gs://b/t", "--vocabulary", "96"], "tpu,gcs"),
        ("skypilot", ["--out", "gs://b/o", "--text", "s3://b/t", "--vocabulary", "96"], "cuda,gcs,s3"),
    ],
)
def test_fresh_machines_install_what_accelerators_and_paths_need(where, options, extras, place):
    if where == "skypilot":
        pytest.importorskip("yaml")
    done = started(written(where, *options))
    assert done.returncode == 0, done.stderr
    assert {call[-1] for call in calls(place) if call[:3] == ["python3", "-m", "uv"]} == {f".[{extras}]"}


@pytest.mark.parametrize("where", ["gcloud", "skypilot"])
def test_a_setup_that_is_given_is_the_whole_setup(where, place):
    if where == "skypilot":
        pytest.importorskip("yaml")
    done = started(written(where, "--setup", f"echo mine >>{place}/set-up", "--out", "gs://b/o"))
    assert done.returncode == 0, done.stderr
    assert (place / "set-up").read_text() == "mine\n" * (2 if where == "skypilot" else 1)
    assert not calls(place, "python3")


@pytest.mark.parametrize("where", ["gcloud", "skypilot"])
def test_what_was_installed_for_one_user_is_found(where, place):
    """It is on no path of a shell that nobody logged in to, and another may be."""
    if where == "skypilot":
        pytest.importorskip("yaml")
    home = place / "host" if where == "gcloud" else place
    (home / ".local" / "bin").mkdir(parents=True)
    executable(home / ".local" / "bin" / "capscale", "#!/bin/sh\necho this one\n")
    assert "this one" in started(written(where)).stdout
    assert not workers(place)
