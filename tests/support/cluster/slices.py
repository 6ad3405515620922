"""Slices of machines that are given and taken away, the processes on them, and what is to happen to these."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from support.cluster.bucket import Weather
from support.cluster.simulation import Process, SimulatedEvent, SimulatedLock

GRACE_S = 30.0
"""Seconds from SIGTERM to SIGKILL."""
DETECTED_S = 100.0
"""Seconds until JAX's heartbeat finds that another process has died, and ends this one with signal 6."""


@dataclass(frozen=True)
class Plan:
    """Things that are to happen.

    Attributes:
      seed: of everything that happens by chance.
      runs: how many.
      slices: how many; of each four, one has two hosts.
      preemptions: machines taken away, by SIGTERM and 30 s of grace or without a word.
      dead: hosts that die alone, of two that train a run together, and processes killed on a machine that stays.
      stalls: processes that stand still for 30 to 240 s.
      weather: of the bucket.
      most_h: hours after which it is ended, whatever is left to do.
    """

    seed: int = 0
    runs: int = 250
    slices: int = 20
    preemptions: int = 40
    dead: int = 8
    stalls: int = 6
    weather: Weather = field(default_factory=Weather)
    most_h: float = 8.0


class Report(NamedTuple):
    """The end of it. Hours are of slices; they add up to those that slices were up.

    Attributes:
      ended: runs by what their result is: "as undisturbed", "lost", "other numbers".
      twice: runs that were trained to their end more than once.
      happened: preemptions and the like, by kind.
      statuses: exit statuses of processes that were not killed.
      makespan_h: from the beginning to the last result.
      up_h, useful_h, again_h, compiling_h, idle_h: seconds behind steps that count, behind steps that were done
        before, before the first step of a process and run, and without a run that is free.
      requests: of the bucket, by kind.
      failures: messages of failed runs.
    """

    ended: dict[str, int]
    twice: int
    happened: dict[str, int]
    statuses: dict[int, int]
    makespan_h: float
    up_h: float
    useful_h: float
    again_h: float
    compiling_h: float
    idle_h: float
    requests: dict[str, int]
    failures: list[str]

    @property
    def other_h(self) -> float:
        """Of leases, checkpoints, results, retries and looking for work."""
        return self.up_h - self.useful_h - self.again_h - self.compiling_h - self.idle_h


LOOK_S = 10.0
"""Seconds between looks at what seldom happens."""


class Stop(SimulatedEvent):
    """A process's flag to stop, by which the launcher also waits for runs of others."""

    idle_s = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        began = self._simulation.now
        try:
            return super().wait(timeout)
        finally:
            self.idle_s += self._simulation.now - began


class Host(Process):
    """A process of a slice."""

    def __init__(self, slice_: "Slice", index: int, name: str, place: str, skew_s: float):
        super().__init__(name, place, skew_s)
        self.slice, self.index = slice_, index
        self.ended = SimulatedEvent(slice_.fleet.simulation)
        self.stop = Stop(slice_.fleet.simulation)
        self.saving = SimulatedLock(slice_.fleet.simulation, again=True)
        self.seen: dict[str, Any] = {}
        self.gathered = 0
        self.status: int | None = None

    def at_end(self) -> None:
        self.ended.set()


class Lost(Exception):
    """Raised by a collective whose other side is gone."""


class Slice:
    """Machines that train a run together, given and taken away."""

    def __init__(self, fleet: Any, number: int):
        self.fleet, self.number, self.hosts_each = fleet, number, 2 if number % 4 == 3 else 1
        self.hosts: list[Host] = []
        self.starts = self.machines = 0
        self.gatherings: dict[int, dict[int, Any]] = {}
        self.whole: dict[int, SimulatedEvent] = {}
        self.machine_is_gone = False

    def live(self) -> list[Host]:
        return [host for host in self.hosts if not host.is_dead and host.status is None]

    def keep(self) -> None:
        """Starts the processes as often as what ended them asks for it: the work of whoever rents machines out."""
        simulation, random = self.fleet.simulation, self.fleet.random
        wait_s, new_machine = random.uniform(0, 120), True
        while True:
            simulation.sleep(wait_s)
            self.starts += 1
            self.machines += new_machine
            self.gatherings, self.whole = {}, {}
            self.hosts = [
                Host(
                    self,
                    index,
                    f"slice {self.number} start {self.starts} host {index}",
                    f"slice {self.number} machine {self.machines} host {index}",
                    random.choice([0.0, 0.0, -7200.0, 3e7]),
                )
                for index in range(self.hosts_each)
            ]
            began = simulation.now
            for host in self.hosts:
                simulation.spawn(lambda host=host: self.fleet.command(host), host, "main")
            for host in self.hosts:
                host.ended.wait()
            self.fleet.up_s += simulation.now - began
            self.fleet.idle_s += self.hosts[0].stop.idle_s
            ended = [host.status for host in self.hosts]
            self.fleet.statuses.update(status for status in ended if status is not None)
            if any(status in (0, 2) for status in ended):
                return
            preempted = any(host.stop.is_set() for host in self.hosts) or self.machine_is_gone
            self.machine_is_gone = False
            wait_s, new_machine = (random.expovariate(1 / 180), True) if preempted else (20.0, False)

    def gather(self, host: Host, value: Any) -> list[Any]:
        """Values that all hosts give, in their order; where one of them is gone, what JAX does then."""
        number, host.gathered = host.gathered, host.gathered + 1
        given = self.gatherings.setdefault(number, {})
        given[host.index] = value
        simulation, until = self.fleet.simulation, None
        is_whole = self.whole.setdefault(number, SimulatedEvent(simulation))
        if len(given) == len(self.hosts):
            is_whole.set()
        while not is_whole.wait(LOOK_S):
            if len(self.live()) < len(self.hosts):
                if self.fleet.random.random() < 0.5:  # the connection is seen to be closed
                    raise Lost("UNAVAILABLE: connection closed by peer")
                until = until or simulation.now + DETECTED_S
                if simulation.now > until:
                    simulation.kill(host)
                    simulation.check_alive()
        return [given[index] for index in sorted(given)]
