"""`capscale launch ... --mode processes`: tasks whose runs share one host, and hosts that cannot be shared."""

import pytest
from support.launching import make_place, started, workers, written

from capscale.cli import main
from capscale.errors import UserError
from capscale.sweep.launchers.shared_host import of_skypilot

COMMON = ["mine.py", "--out", "out dir", "--ladder", "nano", "--text", "text.txt"]
SHARED = {
    "slurm": (["--host-devices", "8", "--devices-per-run", "2", "--runs-per-task", "4"], "2"),
    "gcloud": (["--topology", "v5e:2x4"], "1"),
    "xpk": (["--topology", "v6e:2x2", "--devices-per-run", "2", "--runs-per-task", "2"], "2"),
    "jobset": (["--topology", "v5e:2x2", "--runs-per-task", "5"], "1"),
    "skypilot": (["--accelerators", "H100:8", "--devices-per-run", "4", "--runs-per-task", "2"], "4"),
}
"""Options of a launcher, and the devices of each run."""


@pytest.fixture
def place(tmp_path, monkeypatch):
    return make_place(tmp_path, monkeypatch)


@pytest.mark.parametrize("where", SHARED)
def test_workers_share_their_host(where, place):
    if where in ("skypilot", "jobset"):
        pytest.importorskip("yaml")
    options, devices = SHARED[where]
    script = written(where, "--mode", "processes", *options)
    done = started(script, MISSING="0 1\n")
    assert done.returncode == 0, done.stderr
    asked = ["--mode", "processes", "--devices-per-run", devices]
    one = ["sweep", *COMMON, *asked] if where == "gcloud" else ["run", *COMMON, *asked, "--index", "0", "1"]
    assert workers(place) == [["capscale", *one]]
    assert ("#SBATCH --gpus=8\n" in script.read_text()) is (where == "slurm")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["slurm", "--runs-per-task", "8"], "launch slurm needs --host-devices"),
        (
            ["slurm", "--host-devices", "8"],
            "has 8 GPUs, for 8 runs of 1 at a time; give 8 or more",
        ),
        (
            ["slurm", "--host-devices", "8", "--devices-per-run", "3", "--runs-per-task", "4"],
            "has 8 GPUs, of which 2 would be left over; give a divisor of 8",
        ),
        (["slurm", "--host-devices", "2", "--devices-per-run", "4"], "--devices-per-run 4: this host has 2 GPUs"),
        (["gcloud", "--zone", "z"], "--topology v5e:4x4 has several hosts"),
        (["gcloud", "--zone", "z", "--topology", "v5e:2x4", "--devices-per-run", "2"], "of a host with 8 TPU chips"),
        (["jobset", "--image", "i", "--topology", "v5e:2x4"], "such as v5e:2x2"),  # GKE has them as two hosts of four
        (["jobset", "--image", "i", "--topology", "v4:2x2x1", "--slices", "2"], "--slices 2 train each run together"),
        (["xpk", "--topology", "v5p:2x2x2"], "--topology v5p:2x2x2 has several hosts"),
        (["skypilot", "--nodes", "2"], "--nodes 2: several hosts train each run together"),
        (["skypilot", "--accelerators", "tpu-v6e-16"], "--accelerators tpu-v6e-16: several hosts"),
        (["skypilot", "--accelerators", "{H100:8, A100:8}"], "does not say how many there are"),
        (["ray"], "--mode is for slurm, gcloud, xpk, jobset and skypilot, not for ray"),
    ],
)
def test_a_host_that_cannot_be_shared_is_refused(options, message, place, capsys):
    where, *more = options
    command = ["launch", where, "mine.py", "--out", "out", "--text", "text.txt", "--mode", "processes", *more]
    assert main(command) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["slurm", "--host-devices", "8"], "--host-devices 8 is for --mode processes"),
        (["skypilot", "--devices-per-run", "2"], "--devices-per-run of launch skypilot is for --mode processes"),
    ],
)
def test_what_only_sharing_takes_is_refused_without_it(options, message, place, capsys):
    where, *more = options
    assert main(["launch", where, "mine.py", "--out", "out", "--text", "text.txt", *more]) == 2
    assert message in capsys.readouterr().err


def test_devices_of_a_node_by_the_words_of_skypilot():
    found = {name: of_skypilot(name, 1) for name in ("H100:8", "A100-80GB", "tpu-v4-8", "tpu-v5litepod-8", "tpu-v6e-1")}
    assert [(host.kind, len(host.numbers)) for host in found.values()] == [
        ("GPU", 8),
        ("GPU", 1),
        ("TPU", 4),  # Cloud TPU counts the cores of v4
        ("TPU", 8),
        ("TPU", 1),
    ]
    with pytest.raises(UserError, match="several hosts"):
        of_skypilot("tpu-v4-16", 1)
