"""Units of a Ray cluster: what a run takes of one, and whether its nodes could hold that."""

import pytest

from capscale.errors import UserError
from capscale.sweep.launchers.cloud_tpu import hosts_of
from capscale.sweep.ray_unit import Unit, largest, unit
from capscale.sweep.slices import find_slice


@pytest.mark.parametrize(
    ("there", "options", "host"),
    [
        ({"CPU": 8.0, "GPU": 4.0}, {"devices": 2}, {"CPU": 1, "GPU": 2}),
        ({"CPU": 8.0, "TPU": 4.0, "TPU-v5e-4-head": 1.0}, {"devices": 4}, {"CPU": 1, "TPU": 4}),
        ({"CPU": 2.0}, {}, {"CPU": 1}),
        ({"CPU": 2.0}, {"devices": 2, "kind": "GPU"}, {"CPU": 1, "GPU": 2}),  # which an autoscaler has yet to add
        ({}, {"slice_": find_slice("v5e:2x4")}, {"CPU": 1, "TPU": 8}),
    ],
)
def test_a_run_asks_for_accelerators_where_there_are_some_or_are_to_be(there, options, host):
    found = unit(there, **options)
    assert (found.of_host, found.hosts) == (host, 1)


@pytest.mark.parametrize(
    ("name", "pod", "hosts"),
    [
        ("v5e:4x4", "v5litepod-16", 4),
        ("v4:2x2x2", "v4-16", 2),
        ("v5p:2x2x4", "v5p-32", 4),
        ("v6e:16x16", "v6e-256", 64),
    ],
)
def test_a_slice_is_its_hosts_with_a_mark_on_the_first(name, pod, hosts):
    found = unit({"CPU": 2.0}, slice_=find_slice(name))
    first, *others = found.bundles
    assert first == {"CPU": 1, "TPU": 4, f"TPU-{pod}-head": 1}
    assert others == [{"CPU": 1, "TPU": 4}] * (hosts - 1)


def test_hosts_of_a_slice():
    names = ("v5e:2x2", "v5e:2x4", "v6e:4x4", "v4:2x2x1", "v5p:2x2x2")
    assert [hosts_of(find_slice(name)) for name in names] == [1, 1, 4, 1, 2]


def node(resources, name=None, pod="v4-16", *, alive=True):
    labels = {} if name is None else {"ray.io/tpu-slice-name": name, "ray.io/tpu-pod-type": pod}
    return {"Alive": alive, "Resources": resources, "Labels": labels}


def test_a_unit_is_there_on_one_node_or_on_all_hosts_of_one_slice():
    four, host = Unit("GPU", 4), {"CPU": 8.0, "TPU": 4.0}
    gpus = [node({"CPU": 8.0, "GPU": 2.0})] * 4
    assert not four.is_there(gpus), "eight in all, but two a node"
    assert Unit("GPU", 2).is_there(gpus)
    assert not Unit("GPU", 2).is_there([node({"CPU": 8.0, "GPU": 2.0}, alive=False)])
    pair = Unit("TPU", 4, "v4-16", 2)
    assert not pair.is_there([node(host, "a"), node(host, "b")]), "of two slices"
    assert not pair.is_there([node(host, "a"), node(host, "a", alive=False)])
    assert not pair.is_there([node(host, "a", "v4-32"), node(host, "a", "v4-32")])
    assert pair.is_there([node(host, "b"), node(host, "a"), node(host, "a")])
    assert largest([*gpus, node({"CPU": 2.0})]) == "8 CPU and 2 GPU"
    assert largest([]) == "0 CPU"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "TPU", "devices": 3}, "--devices-per-run 3: of a TPU host Ray gives 1, 2, 4 or 8 chips"),
        ({"kind": "IPU", "devices": 1}, "kind='IPU'"),
        ({"kind": "TPU", "devices": 4, "hosts": 2}, "hosts=2 are those of a TPU slice; name its pod"),
    ],
)
def test_a_unit_that_cannot_be_is_refused(values, said):
    with pytest.raises(UserError, match=said):
        Unit(**values)
