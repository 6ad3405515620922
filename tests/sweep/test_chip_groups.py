"""Groups of a host's devices: found without taking them, and the environment by which a process sees one alone."""

import pytest

from capscale.errors import UserError
from capscale.sweep.chip_groups import HostDevices, group_environments, host_devices


def made(place, *names):
    for name in names:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return place


@pytest.mark.parametrize(
    ("names", "environment", "found"),
    [
        ([f"accel{chip}" for chip in range(4)], {}, ("TPU", tuple("0123"))),
        (["vfio/vfio", *(f"vfio/{group}" for group in (3, 7, 11, 40, 41, 42, 43, 44))], {}, ("TPU", tuple("01234567"))),
        (["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "vfio/9"], {}, ("GPU", ("0", "1"))),
        (["nvidia0", "nvidia1"], {"CUDA_VISIBLE_DEVICES": "1"}, ("GPU", ("1",))),  # as Slurm gives them
        (["accel0", "accel1"], {"TPU_VISIBLE_CHIPS": "1"}, ("TPU", ("1",))),
    ],
)
def test_devices_are_found_by_their_files(names, environment, found, tmp_path):
    assert host_devices(made(tmp_path, *names), environment) == found


def test_a_host_without_accelerators_is_told_of_threads(tmp_path):
    with pytest.raises(UserError, match="there are none; on CPUs --mode threads trains runs side by side"):
        host_devices(made(tmp_path, "null"), {})


def test_each_chip_of_eight_is_a_slice_of_its_own():
    groups = group_environments(HostDevices("TPU", tuple("01234567")), 1)
    assert [group["TPU_VISIBLE_CHIPS"] for group in groups] == list("01234567")
    assert len({group["TPU_PROCESS_PORT"] for group in groups}) == 8, "libtpu's processes listen, each at its own"
    for group in groups:
        assert group["TPU_CHIPS_PER_PROCESS_BOUNDS"] == group["TPU_PROCESS_BOUNDS"] == "1,1,1"
        assert group["TPU_PROCESS_ADDRESSES"] == f"localhost:{group['TPU_PROCESS_PORT']}"
        assert (group["CLOUD_TPU_TASK_ID"], group["ALLOW_MULTIPLE_LIBTPU_LOAD"]) == ("0", "1")


def test_two_chips_of_four_are_neighbours():
    first, second = group_environments(HostDevices("TPU", tuple("0123")), 2)
    assert (first["TPU_VISIBLE_CHIPS"], second["TPU_VISIBLE_CHIPS"]) == ("0,1", "2,3")
    assert first["TPU_CHIPS_PER_PROCESS_BOUNDS"] == "1,2,1"


def test_gpus_that_fill_no_group_are_left():
    groups = group_environments(HostDevices("GPU", ("0", "2", "5", "6", "7")), 2)
    assert groups == [{"CUDA_VISIBLE_DEVICES": "0,2"}, {"CUDA_VISIBLE_DEVICES": "5,6"}]


@pytest.mark.parametrize(
    ("kind", "count", "size", "said"),
    [
        ("GPU", 2, 4, "--devices-per-run 4: this host has 2 GPUs; ask for fewer"),
        ("TPU", 8, 2, "of a host with 8 TPU chips a process gets 1, or 2 where there are 4"),
        ("TPU", 8, 4, "for all of them use --mode mesh"),
        ("TPU", 4, 3, "of a host with 4 TPU chips a process gets 1"),
    ],
)
def test_groups_that_there_are_not_are_refused(kind, count, size, said):
    with pytest.raises(UserError, match=said):
        group_environments(HostDevices(kind, tuple(map(str, range(count)))), size)
