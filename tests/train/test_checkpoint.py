"""A save that is stopped is explained in words that name the place."""

import logging
import shutil
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from support.cases import parametrize

from capscale.errors import UserError
from capscale.train import distributed
from capscale.train.checkpoint import Checkpoints, _fingerprint
from capscale.train.distributed import FailedElsewhere, is_agreed

STATE = {"value": jnp.arange(4.0)}


@pytest.mark.parametrize("method", ["save", "wait_until_finished", "close"])
@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: Error writing\n  No space left on device"),
        RuntimeError(),
    ],
    ids=["OSError", "tensorstore", "nameless"],
)
def test_failed_save_is_a_user_error(method, error, tmp_path, monkeypatch):
    real = getattr(ocp.CheckpointManager, method)

    def fail(self, *args, **kwargs):
        monkeypatch.setattr(ocp.CheckpointManager, method, real)
        raise error

    def save():
        with Checkpoints(tmp_path / "checkpoints") as checkpoints:
            monkeypatch.setattr(ocp.CheckpointManager, method, fail)
            checkpoints.save(1, STATE)
            checkpoints.wait()

    reason = "No space left on device" if str(error) else "RuntimeError"
    with pytest.raises(UserError, match=f"{tmp_path}/checkpoints cannot be saved .*{reason}.*; free space"):
        save()


def test_place_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/checkpoints cannot be saved .*free space, fix permissions or choose"):
        Checkpoints(tmp_path / "file" / "checkpoints")


def test_relative_directories_are_as_good(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Checkpoints("run/checkpoints") as checkpoints:
        checkpoints.save(1, STATE)
        checkpoints.wait()
        np.testing.assert_array_equal(checkpoints.read(1, STATE)["value"], STATE["value"])


def test_object_storage_is_no_place_on_this_machine(tmp_path, monkeypatch):
    """Resolved like a path, `gs://` is a folder here: the next worker, elsewhere, would begin at step 0."""
    monkeypatch.chdir(tmp_path)
    opened = []
    monkeypatch.setattr(ocp, "CheckpointManager", lambda directory, **options: opened.append(str(directory)))
    monkeypatch.setattr("capscale.train.checkpoint.settle_unmarked", lambda *_: None)  # it would ask the storage
    assert str(Checkpoints("gs://bucket/run/checkpoints").directory) == "gs://bucket/run/checkpoints"
    assert opened == ["gs://bucket/run/checkpoints"]
    with pytest.raises(
        UserError, match=r"s3://bucket/run/checkpoints cannot hold checkpoints: .*; choose another --out"
    ):
        Checkpoints("s3://bucket/run/checkpoints")
    assert not list(tmp_path.iterdir())


def test_saving_a_step_again_is_nothing_and_later_steps_can_be_forgotten(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in (3, 6):
            checkpoints.save(step, STATE)
        checkpoints.save(6, STATE)
        checkpoints.wait()
        assert checkpoints.steps() == [6, 3]
        checkpoints.forget_after(3)
        assert checkpoints.steps() == [3]
        checkpoints.save(5, STATE)  # orbax saves nothing below its newest step
        checkpoints.wait()
        assert checkpoints.steps() == [5, 3]


OURS, THEIRS = "7a05ba650e07592c", "efe7338e954464b1"


def saved_by(directory, run_id, *steps):
    with Checkpoints(directory, run_id=run_id) as checkpoints:
        for step in steps:
            checkpoints.save(step, STATE)
        checkpoints.wait()


def test_a_checkpoint_is_read_by_its_own_run_and_by_who_does_not_ask(tmp_path):
    saved_by(tmp_path / "ours", OURS, 9)
    for run_id in (OURS, None):
        with Checkpoints(tmp_path / "ours", run_id=run_id) as checkpoints:
            np.testing.assert_array_equal(checkpoints.read(9, STATE)["value"], STATE["value"])
    with Checkpoints(tmp_path / "ours", run_id=OURS) as checkpoints:
        checkpoints.check_owner()


@pytest.mark.parametrize("step", [3, 12], ids=["older than ours", "newest"])
def test_a_checkpoint_of_another_run_is_refused_by_both_names_and_stays(step, tmp_path):
    saved_by(tmp_path / "theirs", THEIRS, step)
    saved_by(tmp_path / "ours", OURS, 9)
    shutil.copytree(tmp_path / "theirs" / str(step), tmp_path / "ours" / str(step))
    with Checkpoints(tmp_path / "ours", run_id=OURS) as checkpoints:
        with pytest.raises(
            UserError, match=rf"ours/{step} is of run {THEIRS}, not of {OURS}: it was copied .* move it"
        ):
            checkpoints.check_owner()
        assert set(checkpoints.steps()) == {9, step}


@parametrize("damage", ["", "{", '{"custom_metadata": {}}', None], default=[None])
def test_arrays_of_another_run_are_none_of_ours_even_if_nothing_says_so(damage, tmp_path):
    """Their fingerprints do: what says whose they are may be lost, or was altered."""
    saved_by(tmp_path / "theirs", THEIRS, 9)
    path = tmp_path / "theirs" / "9" / "_CHECKPOINT_METADATA"
    if damage is None:
        path.write_text(path.read_text().replace(THEIRS, OURS))
    else:
        path.write_text(damage)
    with Checkpoints(tmp_path / "theirs", run_id=OURS) as checkpoints:
        checkpoints.check_owner()
        with pytest.warns(UserWarning, match=r"9 cannot be read \(its numbers are not those .*; it is set aside"):
            assert checkpoints.read(9, STATE) is None


@pytest.mark.parametrize("damage", ["", '{"custom_metadata": {}}'])
def test_our_own_arrays_are_read_even_if_nothing_says_so(damage, tmp_path):
    saved_by(tmp_path, OURS, 9)
    (tmp_path / "9" / "_CHECKPOINT_METADATA").write_text(damage)
    with Checkpoints(tmp_path, run_id=OURS) as checkpoints:
        checkpoints.check_owner()
        np.testing.assert_array_equal(checkpoints.read(9, STATE)["value"], STATE["value"])


def test_checkpoints_of_an_earlier_version_say_nothing_and_are_read(tmp_path):
    saved_by(tmp_path, None, 9)
    with Checkpoints(tmp_path, run_id=OURS) as checkpoints:
        checkpoints.check_owner()
        np.testing.assert_array_equal(checkpoints.read(9, STATE)["value"], STATE["value"])


def test_who_owns_a_checkpoint_may_be_unknown_for_a_while(saved, monkeypatch):
    def fail(self, *args, **kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(ocp.CheckpointManager, "metadata", fail)
    with pytest.raises(UserError, match=r"checkpoints/9 cannot be read now .*Input/output error.* left as it is"):
        saved.check_owner()


@pytest.fixture
def saved(tmp_path):
    """Checkpoints with one of step 9."""
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(9, STATE)
        checkpoints.wait()
        yield checkpoints


def test_what_passes_is_named_and_the_checkpoint_stays(saved, monkeypatch):
    def fail(self, *args, **kwargs):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17 bytes")

    monkeypatch.setattr(ocp.CheckpointManager, "restore", fail)
    reason = r"\(RESOURCE_EXHAUSTED: Out of memory allocating 17 bytes\)"
    with pytest.raises(
        UserError, match=f"{saved.directory}/9 cannot be read now {reason} and was left as it is; see to"
    ):
        saved.read(9, STATE)
    monkeypatch.undo()
    np.testing.assert_array_equal(saved.read(9, STATE)["value"], STATE["value"])


def test_numbers_that_are_not_those_saved_are_damage(saved, monkeypatch):
    """Of a small array orbax keeps no checksum: what is read may look sound."""
    real = Checkpoints._restore_alone

    def altered(self, step, abstract):
        found, marks = real(self, step, abstract)
        leaf = found["state"]["value"]
        return found | {"state": found["state"] | {"value": leaf.at[(0,) * leaf.ndim].add(1)}}, marks

    monkeypatch.setattr(Checkpoints, "_restore_alone", altered)
    with pytest.warns(UserWarning, match=r"9 cannot be read \(its numbers are not those that were saved\); it is set"):
        assert saved.read(9, STATE) is None


def hear(monkeypatch, *answers):
    """Lets this process hear of another one what `answers` say, and nothing after them; what it said itself."""
    told, left = [], list(answers)
    monkeypatch.setattr(
        distributed, "any_process", lambda *flags: told.append(flags) or (left.pop(0) if left else flags)
    )
    return told


def test_a_checkpoint_that_another_process_cannot_read_now_is_read_by_none(saved, monkeypatch):
    told = hear(monkeypatch, (True, False, True))
    with pytest.raises(FailedElsewhere) as raised:
        saved.read(9, STATE)
    assert told == [(False, False, False)], "the fingerprint that all add up was not begun"
    assert is_agreed(raised.value)


@pytest.mark.parametrize(
    "answers", [[(False, True, False)], [(False, False, False), (False, True, False)]], ids=["files", "numbers"]
)
def test_a_checkpoint_that_another_process_finds_damaged_is_so_for_all(answers, saved, monkeypatch):
    told = hear(monkeypatch, *answers)
    with pytest.warns(UserWarning, match=r"9 cannot be read \(another process says how\); it is set aside"):
        assert saved.read(9, STATE) is None
    assert told == [(False, False, False)] * len(answers)


def test_the_same_step_is_set_aside_again_and_again(saved):
    for _ in range(3):
        saved.set_aside(9)
        saved.save(9, STATE)
        saved.wait()
    found = {path.name for path in saved.directory.iterdir() if path.name.startswith("unreadable")}
    assert found == {"unreadable-9", "unreadable-9-2", "unreadable-9-3"}
    assert saved.steps() == [9]


def test_what_cannot_be_set_aside_is_said_to_all(saved, monkeypatch):
    def fail(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(saved.directory), "rename", fail)
    told = hear(monkeypatch)
    with pytest.raises(UserError, match=r"checkpoints/9 cannot be written \(Permission denied\); free space, fix"):
        saved.set_aside(9)
    assert told == [(True, False, True)]


def flipped(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


@pytest.mark.ci
def test_every_flipped_bit_is_found_or_harmless(tmp_path):
    """Small arrays are stored as they are: no reader but ours would notice."""
    values = np.random.default_rng(0).standard_normal((30, 40)).astype(np.float32)
    state = {"a": jnp.asarray(values), "b": jnp.asarray(values > 0), "c": jnp.asarray(values, jnp.bfloat16)}
    with Checkpoints(tmp_path / "whole") as checkpoints:
        checkpoints.save(1, state)
    files = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("ocdbt*/d/*")]
    outcomes = []
    for number, (file, share) in enumerate((file, share) for file in files for share in (0.3, 0.6, 0.9)):
        copy = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", copy)
        flipped(copy / file, int((copy / file).stat().st_size * share))
        with warnings.catch_warnings(action="ignore"), Checkpoints(copy) as checkpoints:
            back = checkpoints.read(1, state)
        if back is not None:
            jax.tree.map(np.testing.assert_array_equal, back, state)
        outcomes.append(back is None)
    assert any(outcomes), "no position of those tried holds a number"


def test_readings_in_two_threads_leave_logs_and_warnings_as_they_were(tmp_path, monkeypatch):
    """The first to begin ends first: what the other one finds must not be the silence of the first."""
    begun, ended = threading.Event(), threading.Event()

    def first(*args):
        begun.set()
        second_began.wait(0.3)
        return None, None

    def second(*args):
        second_began.set()
        ended.wait(10)
        return None, None

    second_began, log, filters = threading.Event(), logging.getLogger("asyncio"), list(warnings.filters)
    with Checkpoints(tmp_path / "a") as a, Checkpoints(tmp_path / "b") as b, ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(a, "_try", first)
        monkeypatch.setattr(b, "_try", second)
        reading = pool.submit(a.read, 1, STATE)
        assert begun.wait(10)
        other = pool.submit(b.read, 1, STATE)
        reading.result()
        ended.set()
        other.result()
    assert log.level == logging.NOTSET
    assert warnings.filters == filters


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint32, bool])
def test_fingerprint(dtype):
    """Of the values alone: any change and any exchange shows, the sharding does not."""
    leaf = (jnp.arange(32).reshape(4, 8) % 5 % 2).astype(dtype)
    changed, exchanged = leaf.at[2, 3].set(~leaf[2, 3] if dtype is bool else 1 - leaf[2, 3]), leaf[::-1]
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.device_put(leaf, jax.NamedSharding(mesh, jax.P(None, "fsdp")))
    whole, sharded, *others = (int(_fingerprint(each)) for each in (leaf, split, changed, exchanged))
    assert sharded == whole
    assert whole not in others
