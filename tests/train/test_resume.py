"""A run that was stopped, killed or damaged goes on to the same numbers, bit for bit."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from support import tiny
from support.cases import parametrize

from capscale.errors import UserError
from capscale.representation import Representation, operand
from capscale.train.checkpoint import KEPT, Checkpoints
from capscale.train.executor import Population
from capscale.train.loop import LoopIntervals, train

RUN = tiny.run()


def final_state(directory):
    """The last checkpoint, as saved."""
    with Checkpoints(directory / "checkpoints") as checkpoints:
        newest = checkpoints.steps()[0]
        assert newest == tiny.STEPS
        fresh = tiny.one_device(RUN).initial_state([RUN])
        on_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return checkpoints.read(
            newest, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on_device), fresh)
        )


def metric_lines(directory):
    return [
        json.loads(line) | {"seconds": 0, "device_seconds": 0}
        for line in (directory / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed")
    result = tiny.train_one(RUN, directory)
    return result["row"], final_state(directory), metric_lines(directory)


def check_same(undisturbed, result, directory):
    row, state, metrics = undisturbed
    assert result["row"] == row
    jax.tree.map(np.testing.assert_array_equal, final_state(directory), state)
    assert metric_lines(directory) == metrics


@pytest.mark.parametrize("at", [3, 6, 9])
def test_interrupted_run_resumes_exactly(at, undisturbed, tmp_path):
    assert tiny.interrupt([RUN], [tmp_path], tiny.one_device(RUN), at) == at
    assert not (tmp_path / "result.json").exists()
    result = tiny.train_one(RUN, tmp_path)
    assert result["timing"]["resumed_from_step"] == at
    check_same(undisturbed, result, tmp_path)


@pytest.mark.slow
def test_a_run_that_draws_resumes_exactly(tmp_path):
    """Rounding by chance: what is drawn at a step is a function of the run and the step."""
    run = tiny.run(representation=Representation(operand("absmax-int3-g4-stochastic"), operand("int4-stochastic")))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    expected = tiny.train_one(run, whole)["row"]
    tiny.interrupt([run], [stopped], tiny.one_device(run), 6)
    result = tiny.train_one(run, stopped)
    assert result["timing"]["resumed_from_step"] == 6
    assert result["row"] == expected
    assert metric_lines(stopped) == metric_lines(whole)


@pytest.mark.slow
def test_interrupted_again_and_again_in_other_chunks(undisturbed, tmp_path):
    for at, chunk in ((2, 1), (7, 5), (8, 1)):
        tiny.interrupt([RUN], [tmp_path], tiny.one_device(RUN), at, LoopIntervals(chunk=chunk))
    result = tiny.train_one(RUN, tmp_path)
    assert result["timing"]["resumed_from_step"] == 8
    assert result["row"] == undisturbed[0]
    jax.tree.map(np.testing.assert_array_equal, final_state(tmp_path), undisturbed[1])


@pytest.mark.ci
def test_resuming_takes_the_memory_of_one_state(tmp_path, monkeypatch):
    """Where a state fills half of a device, a second one beside it would end every resumption."""
    run = tiny.dense_run(model=replace(tiny.MODEL, width=64))
    tiny.interrupt([run], [tmp_path], tiny.one_device(run), at=3)
    real, bytes_after = ocp.CheckpointManager.restore, []

    def live_bytes():
        return sum(array.nbytes for array in jax.live_arrays())

    def restore(self, *args, **kwargs):
        restored = real(self, *args, **kwargs)
        bytes_after.append(live_bytes() - before)
        return restored

    monkeypatch.setattr(ocp.CheckpointManager, "restore", restore)
    executor = tiny.one_device(run)
    of_one = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(executor.abstract_states([run])))
    before = live_bytes()
    assert tiny.train_one(run, tmp_path, executor)["timing"]["resumed_from_step"] == 3
    assert 0.9 < bytes_after[0] / of_one < 1.1


def test_finished_but_unwritten_result_is_written_without_training(undisturbed, tmp_path):
    tiny.train_one(RUN, tmp_path)
    (tmp_path / "result.json").unlink()
    result = tiny.train_one(RUN, tmp_path)
    assert result["timing"]["resumed_from_step"] == tiny.STEPS
    assert result["timing"]["tokens_per_s"] is None
    check_same(undisturbed, result, tmp_path)


def test_checkpoints_copied_from_another_seed_are_refused(tmp_path):
    other = tiny.run(seed=1)
    tiny.interrupt([other], [tmp_path / "other"], tiny.one_device(other), at=9)
    shutil.copytree(tmp_path / "other" / "checkpoints", tmp_path / "ours" / "checkpoints")
    with pytest.raises(UserError, match=rf"ours/checkpoints/\d is of run {other.run_id}, not of {RUN.run_id}"):
        tiny.train_one(RUN, tmp_path / "ours")
    names = {path.name for path in (tmp_path / "ours" / "checkpoints").iterdir()}
    assert names == {"6", "9"}
    assert not (tmp_path / "ours" / "result.json").exists()


@pytest.mark.ci
def test_checkpoints_of_two_of_a_population_that_changed_places_are_refused(tmp_path):
    runs = [tiny.run(seed=seed) for seed in range(2)]
    directories = [tmp_path / str(seed) for seed in range(2)]
    executor = Population(runs[0], jax.local_devices())
    tiny.interrupt(runs, directories, executor, at=6)
    for source, target in (("0/checkpoints", "kept"), ("1/checkpoints", "0/checkpoints"), ("kept", "1/checkpoints")):
        (tmp_path / source).rename(tmp_path / target)
    with pytest.raises(UserError, match=rf"0/checkpoints/\d is of run {runs[1].run_id}, not of {runs[0].run_id}"):
        train(runs, tiny.corpus(), [epath.Path(directory) for directory in directories], executor)


def data_files(directory, step):
    """The files that hold a checkpoint's arrays, largest first."""
    files = [path for path in (directory / "checkpoints" / str(step)).rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: path.stat().st_size, reverse=True)


def truncate(directory, step):
    for path in data_files(directory, step):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(directory, step):
    """One bit in the middle of every file: what a disk does, not what a crash does."""
    for path in data_files(directory, step):
        content = bytearray(path.read_bytes())
        if content:
            content[len(content) // 2] ^= 0x10
            path.write_bytes(content)


def remove_arrays(directory, step):
    """Everything but the files that say that the checkpoint is complete."""
    for path in data_files(directory, step):
        if path.parent.name == "d":
            path.unlink()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax's threads that still read
@parametrize("damage", [truncate, flip, remove_arrays], default=1)
def test_damaged_newest_checkpoint_falls_back_to_the_one_before(damage, undisturbed, tmp_path):
    tiny.interrupt([RUN], [tmp_path], tiny.one_device(RUN), at=9)
    damage(tmp_path, 9)
    with pytest.warns(UserWarning, match=r"checkpoint .*/checkpoints/9 cannot be read \(.*; it is set aside"):
        result = tiny.train_one(RUN, tmp_path)
    assert result["timing"]["resumed_from_step"] == 6
    assert (tmp_path / "checkpoints" / "unreadable-9").is_dir()
    check_same(undisturbed, result, tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes."),
        ValueError("UNAVAILABLE: Error opening zarr driver: HTTP response code: 503"),
        OSError(5, "Input/output error"),
    ],
    ids=["memory", "store", "disk"],
)
def test_checkpoints_that_cannot_be_read_for_a_while_are_left_for_the_next_start(
    error, undisturbed, tmp_path, monkeypatch
):
    def fail(self, *args, **kwargs):
        raise error

    tiny.interrupt([RUN], [tmp_path], tiny.one_device(RUN), at=9)
    monkeypatch.setattr(ocp.CheckpointManager, "restore", fail)
    with pytest.raises(
        UserError, match=r"checkpoints/9 cannot be read now \(.*; see to the memory, the permissions or"
    ):
        tiny.train_one(RUN, tmp_path)
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["6", "9"]
    result = tiny.train_one(RUN, tmp_path)
    assert result["timing"]["resumed_from_step"] == 9
    check_same(undisturbed, result, tmp_path)


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_all_checkpoints_damaged_is_an_error_and_the_next_start_works(undisturbed, tmp_path):
    tiny.interrupt([RUN], [tmp_path], tiny.one_device(RUN), at=9)
    truncate(tmp_path, 9)
    truncate(tmp_path, 6)
    with (
        pytest.warns(UserWarning, match="set aside"),
        pytest.raises(UserError, match=r"no checkpoint in .* can be read; they were renamed .* start again"),
    ):
        tiny.train_one(RUN, tmp_path)
    result = tiny.train_one(RUN, tmp_path)
    assert result["timing"]["resumed_from_step"] == 0
    check_same(undisturbed, result, tmp_path)


FILL_THE_DISK = """
import resource, sys, warnings
from dataclasses import replace
from support import tiny
from capscale.errors import UserError
from capscale.train.loop import LoopIntervals

def fill(progress):  # no file may grow beyond this any more: the checkpoints are larger, the metrics are not
    if progress.step == 9:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

run = tiny.dense_run(model=replace(tiny.MODEL, width=64))
try:
    tiny.train_one(run, sys.argv[1], intervals=LoopIntervals(3, 0.0, background=sys.argv[2] == "True"), observe=fill)
except UserError as error:
    sys.exit(f"UserError: {error}")
"""


@pytest.mark.ci
@pytest.mark.parametrize("background", [False, True])
def test_full_disk_stops_the_run_and_leaves_the_checkpoint_before(background, tmp_path):
    """In a process of its own, which ends as a command would; the next start goes on."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    arguments = [sys.executable, "-c", FILL_THE_DISK, str(tmp_path), str(background)]
    full = subprocess.run(arguments, check=False, env=environment, capture_output=True, text=True, timeout=300)
    assert f"UserError: checkpoint in {tmp_path}/checkpoints cannot be saved (" in full.stderr
    assert "; free space, fix permissions or choose another --out" in full.stderr
    assert full.returncode == 1
    # By name: orbax, opened and closed at once, would still remove what is half-written while the run below does.
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    kept = sorted((int(name) for name in names if name.isdecimal()), reverse=True)
    # In the background, that of step 6 may have been on its way.
    assert kept in ([6, 3], [3])
    assert background or kept == [6, 3]
    assert not (tmp_path / "result.json").exists()
    again = tiny.train_one(tiny.dense_run(model=replace(tiny.MODEL, width=64)), tmp_path)
    assert again["timing"]["resumed_from_step"] == kept[0]
    assert again["status"] == "ok"


def test_half_written_checkpoint_of_a_killed_run_is_ignored(undisturbed, tmp_path):
    tiny.interrupt([RUN], [tmp_path], tiny.one_device(RUN), at=6)
    # What a kill leaves: a directory under a temporary name, without the file that marks it complete.
    complete = tmp_path / "checkpoints" / "6"
    complete.rename(complete.with_name("6.orbax-checkpoint-tmp"))
    with warnings.catch_warnings(action="error"):
        result = tiny.train_one(RUN, tmp_path)
    assert result["timing"]["resumed_from_step"] == 3
    check_same(undisturbed, result, tmp_path)


def test_few_checkpoints_are_kept(tmp_path):
    tiny.train_one(RUN, tmp_path)
    with Checkpoints(epath.Path(tmp_path) / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [12, 9][:KEPT]
