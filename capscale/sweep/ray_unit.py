"""Units of a Ray cluster, each of which one run takes: devices of one host, or all hosts of a TPU slice."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from capscale.checks import check_choice, check_whole
from capscale.errors import UserError
from capscale.sweep.launchers.cloud_tpu import accelerator_type, hosts_of
from capscale.sweep.slices import Slice

Kind = Literal["CPU", "GPU", "TPU"]
"""Ray's names of devices."""

SLICE_LABEL, POD_LABEL, WORKER_LABEL = "ray.io/tpu-slice-name", "ray.io/tpu-pod-type", "ray.io/tpu-worker-id"
"""Labels that Ray gives to the hosts of TPUs (ray/_private/accelerators/tpu.py of 2.60)."""
CHIPS_THAT_RAY_GIVES = (1, 2, 4, 8)
"""Of a TPU host to one task (the same file)."""


@dataclass(frozen=True)
class Unit:
    """The devices that one run takes.

    Attributes:
      kind: of its devices.
      devices: of each host.
      pod: type of the TPU slice whose hosts train the run together, in Ray's words, such as v5litepod-16; None for
        devices of one host.
      hosts: of that slice.
    """

    kind: Kind
    devices: int
    pod: str | None = None
    hosts: int = 1

    def __post_init__(self):
        check_whole(self, "devices", "hosts", least=1)
        check_choice(self, "kind", get_args(Kind))
        if self.kind == "TPU" and self.devices not in CHIPS_THAT_RAY_GIVES:
            raise UserError(f"--devices-per-run {self.devices}: of a TPU host Ray gives 1, 2, 4 or 8 chips to a run")
        if self.hosts > 1 and self.pod is None:
            raise UserError(f"hosts={self.hosts} are those of a TPU slice; name its pod")

    @property
    def of_host(self) -> dict[str, float]:
        """Resources of one host."""
        return {"CPU": self.devices} if self.kind == "CPU" else {"CPU": 1, self.kind: self.devices}

    @property
    def bundles(self) -> list[dict[str, float]]:
        """Resources of each host of a slice; the first is the one with Ray's mark for a slice, its worker 0."""
        return [self.of_host | {f"TPU-{self.pod}-head": 1}, *[self.of_host] * (self.hosts - 1)]

    def __str__(self):
        if self.pod is None:
            return f"a node with {self.devices} {self.kind}"
        return f"a TPU slice {self.pod} of {self.hosts} hosts with {self.devices} chips each"

    def is_there(self, nodes: Iterable[Mapping[str, Any]]) -> bool:
        """Whether the nodes, busy or not, could hold it; `nodes` as `ray.nodes` lists them."""
        able = [node for node in nodes if node["Alive"] and _holds(node["Resources"], self.of_host)]
        if self.pod is None:
            return bool(able)
        hosts = [node.get("Labels") or {} for node in able]
        names = [labels.get(SLICE_LABEL) for labels in hosts if labels.get(POD_LABEL) == self.pod]
        return any(names.count(name) >= self.hosts for name in names if name)


def unit(
    there: Mapping[str, float], devices: int = 1, *, kind: Kind | None = None, slice_: Slice | None = None
) -> Unit:
    """The unit that is asked for.

    Args:
      there: resources of the cluster; what it has now says what devices are, where `kind` does not.
      devices: of one host.
      kind: of the devices.
      slice_: TPU slice that trains each run, in place of all of these.
    """
    if slice_ is not None:
        hosts = hosts_of(slice_)
        return Unit("TPU", slice_.chips // hosts, accelerator_type(slice_) if hosts > 1 else None, hosts)
    accelerators: tuple[Kind, ...] = ("GPU", "TPU")
    found: list[Kind] = [name for name in accelerators if there.get(name, 0.0) > 0]
    return Unit(kind or (found[0] if found else "CPU"), devices)


def largest(nodes: Iterable[Mapping[str, Any]]) -> str:
    """Words for the most devices that nodes have: `8 CPU and 4 GPU on one node at most`."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    most = {kind: max((node.get(kind, 0.0) for node in alive), default=0.0) for kind in get_args(Kind)}
    return " and ".join(f"{count:.0f} {kind}" for kind, count in most.items() if count or kind == "CPU")


def _holds(there: Mapping[str, float], asked: Mapping[str, float]) -> bool:
    return all(there.get(name, 0.0) >= count for name, count in asked.items())
