"""Eight devices, in one process and in two, against one device: each configuration in processes of its own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from capscale.errors import Unavailable, UserError
from capscale.train import distributed
from capscale.train.distributed import FailedElsewhere, all_or_none, any_process, connect, is_agreed

SCRIPT = Path(__file__).parents[1] / "support" / "together.py"


def start(directory, *, processes=1, devices=1, fsdp=1, stop_at=0, unread=""):
    """The reports of all processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    # Compiled soon rather than well, all configurations alike.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
    options = {"directory": str(directory), "address": address, "processes": processes}
    options |= {"devices": devices, "fsdp": fsdp, "stop_at": stop_at, "unread": unread}
    started = [
        subprocess.Popen(
            [sys.executable, SCRIPT, json.dumps(options | {"index": index})],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]
    reports = []
    try:
        for process in started:
            out, err = process.communicate(timeout=600)
            assert process.returncode == 0, err[-3000:]
            reports.append(json.loads(out.split("REPORT")[1]))
    finally:
        for process in started:
            process.kill()
    return reports


def losses(directory):
    return np.array([json.loads(line)["loss"] for line in (directory / "metrics.jsonl").read_text().splitlines()])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    directory = tmp_path_factory.mktemp("alone")
    return start(directory)[0], losses(directory)


def check_as_alone(reports, directory, alone):
    expected, expected_losses = alone
    np.testing.assert_allclose(losses(directory), expected_losses, rtol=1e-5)
    for report in reports:
        assert report["row"]["loss"] == pytest.approx(expected["row"]["loss"], rel=1e-4)
        assert report["masks"] == expected["masks"], "bit for bit"
        assert report["steps"] == expected["steps"] == [12, 9]


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 4, 8])
def test_eight_devices_are_one(fsdp, alone, tmp_path):
    reports = start(tmp_path, devices=8, fsdp=fsdp)
    check_as_alone(reports, tmp_path, alone)
    assert reports[0]["devices"] == 8
    assert reports[0]["kernel_bytes"] * fsdp == alone[0]["kernel_bytes"]


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 8])
def test_two_processes_of_four_devices_are_one_device(fsdp, alone, tmp_path):
    """Each reads its own rows; the first alone writes the result and the metrics."""
    reports = start(tmp_path, processes=2, devices=4, fsdp=fsdp)
    check_as_alone(reports, tmp_path, alone)
    assert [report["rows"] for report in reports] == [[0, 4, 1], [4, 8, 1]]
    assert {(report["process_count"], report["devices"]) for report in reports} == {(2, 8)}
    assert reports[0]["kernel_bytes"] * fsdp == alone[0]["kernel_bytes"]
    assert len(losses(tmp_path)) == 4
    assert not (tmp_path / "result.conflict.json").exists()


@pytest.mark.slow
def test_one_process_is_stopped_and_all_save(alone, tmp_path):
    """The run goes on in one process on one device."""
    reports = start(tmp_path, processes=2, devices=1, fsdp=2, stop_at=6)
    assert [report["steps"] for report in reports] == [[6, 3], [6, 3]]
    assert not (tmp_path / "result.json").exists()
    check_as_alone(start(tmp_path), tmp_path, alone)
    assert json.loads((tmp_path / "result.json").read_text())["timing"]["resumed_from_step"] == 6


@pytest.mark.slow
def test_what_one_process_cannot_read_none_goes_on_from(alone, tmp_path):
    """The other one has read its part by then, and must neither wait for ever nor train on alone."""
    start(tmp_path, processes=2, devices=1, fsdp=2, stop_at=6)
    passing = start(tmp_path, processes=2, devices=1, fsdp=2, unread="UNAVAILABLE: 503")
    assert "another process could not do its part" in passing[0]["error"]
    assert "checkpoints/6 cannot be read now (UNAVAILABLE: 503)" in passing[1]["error"]
    assert [report["steps"] for report in passing] == [[6, 3], [6, 3]]
    check_as_alone(
        start(tmp_path, processes=2, devices=1, fsdp=2, unread="DATA_LOSS: a checksum is wrong"), tmp_path, alone
    )
    assert (tmp_path / "checkpoints" / "unreadable-6").is_dir()
    assert json.loads((tmp_path / "result.json").read_text())["timing"]["resumed_from_step"] == 3


def test_a_process_by_itself_decides_by_itself():
    assert any_process(True, False) == (True, False)


def test_a_flag_counts_that_one_process_has_set(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 3)
    elsewhere = np.array([[False, False, True], [False, True, True]])
    monkeypatch.setattr(
        distributed.multihost_utils, "process_allgather", lambda flags: np.concatenate([flags[None], elsewhere])
    )
    assert any_process(False, False, True) == (False, True, True)
    assert any_process(True, False, False) == (True, True, True)


@pytest.mark.parametrize("error", [UserError("no text"), PermissionError(13, "Permission denied"), RuntimeError("503")])
def test_what_one_process_cannot_do_none_has_done(error, monkeypatch):
    """Whatever it raises: a process that did not answer would be asked the next question, and answer that."""
    told = []
    monkeypatch.setattr(distributed, "any_process", lambda *flags: told.append(flags) or flags)

    def fail():
        with all_or_none():
            raise error

    def succeed():
        with all_or_none():
            pass

    with pytest.raises(type(error)) as raised:
        fail()
    assert raised.value is error
    monkeypatch.setattr(distributed, "any_process", lambda *flags: (told.append(flags), told[0])[1])
    with pytest.raises(FailedElsewhere, match="another process could not do its part") as elsewhere:
        succeed()
    assert told == [(True, False, True), (False, False, False)]
    assert is_agreed(error)
    assert is_agreed(elsewhere.value)


def test_what_may_pass_elsewhere_may_pass_here(monkeypatch):
    """Else one process ends with 75 and the other with 2, on which launch files give up."""
    monkeypatch.setattr(distributed, "any_process", lambda *flags: flags)
    with pytest.raises(Unavailable) as raised, all_or_none():
        raise Unavailable("503")
    assert is_agreed(raised.value)
    monkeypatch.setattr(distributed, "any_process", lambda *flags: (True, False, False))
    with pytest.raises(FailedElsewhere) as elsewhere, all_or_none():
        pass
    assert isinstance(elsewhere.value, Unavailable)


def test_processes_that_do_not_answer_are_named(monkeypatch):
    def gather(flags):
        raise RuntimeError("Gloo AllGather failed:\n Connection closed by peer")

    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr(distributed.multihost_utils, "process_allgather", gather)
    with pytest.raises(UserError, match=r"do not answer \(Gloo AllGather failed: Connection closed by peer\); see why"):
        any_process(False)


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":1234", "localhost:http", ""])
def test_addresses_without_a_port_are_refused(address):
    with pytest.raises(UserError, match=rf"--coordinator {address} is not HOST:PORT; give the host"):
        connect(address, 2, 0)


def test_addresses_are_given_whole():
    with pytest.raises(UserError, match=r"--coordinator host:1, --processes None and --process-index 0: give all"):
        connect("host:1", index=0)


def test_no_cluster_is_said_plainly():
    """In a process of its own: JAX must not be in use yet."""
    code = "from capscale.train.distributed import connect; connect()"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "TPU", "OMPI"))}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=environment, capture_output=True, text=True, timeout=120
    )
    assert "UserError: this process cannot join others (" in done.stderr
    assert "srun" in done.stderr
