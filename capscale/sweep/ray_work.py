"""One attempt at a run on Ray: a task on one host, or a process on every host of a TPU slice."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from capscale.clock import clock
from capscale.errors import UserError
from capscale.sweep.ray_unit import POD_LABEL, SLICE_LABEL, WORKER_LABEL, Unit

PORT = 8482
"""Port of JAX's coordinator on the first host of a slice, as on Cloud TPU."""
GRACE_S = 30.0
"""Seconds that processes of a slice have to end by themselves, once one of them has failed."""


class Joined(NamedTuple):
    """Place of a process among those that train a run together: what `capscale.train.distributed.connect` takes."""

    coordinator: str
    processes: int
    place: int


Train = Callable[[int, Joined | None], int]
"""Trains the run at a place of the sweep, alone or joined with others; its exit status."""


class Work(Protocol):
    """One attempt on its way."""

    awaited: list[Any]
    """References of Ray to wait for, each of which is to be told by `hear`."""

    def hear(self, reference: Any) -> None:
        """Notes that a reference is ready."""
        ...

    def ended(self) -> str | None:
        """How it ended, None while it is on its way."""
        ...

    def cancel(self) -> None:
        """Asks it to save and end; what has not begun ends at once."""
        ...

    def close(self) -> None:
        """Gives back what it holds of the cluster, and ends what still runs there."""
        ...


def starting(unit: Unit, train: Train) -> Callable[[int], Work]:
    """A function that starts an attempt at the run at some place of the sweep, on a unit of the cluster's devices.

    Ray hears of the unit at once, and queues it; so an autoscaler sees all that is wanted.

    Raises `UserError` for a Ray that cannot place a slice.
    """
    import ray

    host = dict(unit.of_host)
    options: dict[str, Any] = {"num_cpus": host.pop("CPU")} | ({"num_gpus": host.pop("GPU")} if "GPU" in host else {})
    options |= {"resources": host} if host else {}
    if unit.kind != "CPU" or unit.pod is not None:
        options["max_calls"] = 1  # a process keeps the chips, and the others, that it has first seen
    task: Any = ray.remote(max_retries=0, **options)(train)
    if unit.pod is None:
        return lambda index: OneHost(task.remote(index, None))
    _check_ray()
    taken: set[tuple[str, int]] = set()
    return lambda index: SliceHosts(unit, task, index, taken)


def ending(reference: Any) -> tuple[str, bool]:
    """How a task ended, in words, and whether well."""
    import ray
    from ray.exceptions import RayError

    try:
        status = ray.get(reference)
    except RayError as error:
        return f"worker died ({type(error).__name__})", False
    return f"worker ended with status {status}", status == 0


class OneHost:
    """A task; see `Work`."""

    def __init__(self, reference: Any):
        self.awaited = [reference]
        self._said: str | None = None

    def hear(self, reference: Any) -> None:
        """Keeps how it ended."""
        self.awaited.remove(reference)
        self._said, _ = ending(reference)

    def ended(self) -> str | None:
        """How the task ended, None until it has."""
        return self._said

    def cancel(self) -> None:
        """A running task hears it as Ctrl-C, and saves."""
        import ray

        for reference in self.awaited:
            ray.cancel(reference)

    def close(self) -> None:
        """Nothing: a task that has ended holds nothing."""


class SliceHosts:
    """Processes on the hosts of one slice, which train a run together; see `Work`.

    A placement group holds the hosts: all of them at once, of one slice alone, the first being the slice's worker 0.
    When one process fails, the others have `GRACE_S` to notice; closing the group ends them and gives the slice back.

    Args:
      unit: the slice.
      task: of Ray, trains the run in one process.
      index: place of the run in the sweep.
      taken: addresses and ports of the coordinators of all attempts.
    """

    def __init__(self, unit: Unit, task: Any, index: int, taken: set[tuple[str, int]]):
        from ray.util.placement_group import placement_group

        self._unit, self._task, self._index, self._taken = unit, task, index, taken
        self._group: Any = placement_group(
            unit.bundles,
            bundle_label_selector=[{POD_LABEL: unit.pod or ""}] * unit.hosts,
            topology_strategy={SLICE_LABEL: "STRICT_PACK", "ray.io/node-id": "STRICT_SPREAD"},
        )
        self._ready: Any = self._group.ready()
        self.awaited: list[Any] = [self._ready]
        self._said: list[str] = []
        self._until: float | None = None
        self._at: tuple[str, int] | None = None

    def hear(self, reference: Any) -> None:
        """Starts the processes once the hosts are there, and keeps how each ended."""
        self.awaited.remove(reference)
        if reference is self._ready:
            self._begin()
            return
        said, well = ending(reference)
        self._said.append(said)
        if not well and self._until is None:
            self._until = clock().monotonic() + GRACE_S

    def ended(self) -> str | None:
        """How its processes ended, once all have, or those that were left have had their time."""
        late = self._until is not None and clock().monotonic() > self._until
        if self.awaited and not late:
            return None
        said = [*self._said, *(["the others were ended"] if self.awaited else [])]
        return "; ".join(dict.fromkeys(said))

    def cancel(self) -> None:
        """Each process hears it as Ctrl-C, and they save together; a slice not there yet is asked for no more."""
        import ray

        if self._ready in self.awaited:
            self.awaited.remove(self._ready)
            self._said.append("not begun")
        for reference in self.awaited:
            ray.cancel(reference)

    def close(self) -> None:
        """Gives the slice back; Ray kills what still runs on it."""
        from ray.util.placement_group import remove_placement_group

        remove_placement_group(self._group)
        if self._at is not None:
            self._taken.discard(self._at)

    def _begin(self) -> None:
        import ray
        from ray.util.placement_group import placement_group_table
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        there = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        placed = placement_group_table(self._group)["bundles_to_node_id"]
        nodes = [there.get(placed[bundle]) for bundle in range(self._unit.hosts)]
        places = [None if node is None else (node.get("Labels") or {}).get(WORKER_LABEL) for node in nodes]
        first = nodes[0]
        if first is None or None in nodes:
            self._said.append("a host was lost before training began")
            return
        if places[0] != "0" or sorted(map(str, places)) != sorted(map(str, range(len(places)))):
            self._said.append(f"hosts of {self._unit} are labelled {WORKER_LABEL} {places}, not 0 to {len(places) - 1}")
            return
        address = first["NodeManagerAddress"]
        port = next(port for port in range(PORT, 65536) if (address, port) not in self._taken)
        self._at = address, port
        self._taken.add(self._at)
        coordinator = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        for bundle, place in enumerate(places):
            here = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle)
            joined = Joined(coordinator, len(places), int(str(place)))
            self.awaited.append(self._task.options(scheduling_strategy=here).remote(self._index, joined))


def _check_ray() -> None:
    import inspect

    import ray
    from ray.util.placement_group import placement_group

    if "topology_strategy" not in inspect.signature(placement_group).parameters:
        raise UserError(
            f"--slice: Ray {ray.__version__} cannot keep processes on the hosts of one slice; install 2.60 or later "
            "on the cluster and here"
        )
