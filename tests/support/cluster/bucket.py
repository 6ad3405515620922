"""A bucket that is simulated: slow, refusing now and then, one write a second an object, and listings that are late.

The client is as gcsfs 2026.10 is: it asks six times, 0, 1, 2, 4, 8 and 16 seconds and up to one more apart
(`gcsfs.retry.retry_request`), on connections that fail and on HTTP 408, 429 and 500 to 504.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import fsspec
from etils.epath.backend import fsspec_backend
from fsspec.registry import _registry, register_implementation

from support.cluster.simulation import Simulation

T = TypeVar("T")


class Refused(Exception):
    """An answer of the server, as gcsfs tells it."""

    def __init__(self, code: int):
        super().__init__(f"HTTP {code}")
        self.code = code


@dataclass(frozen=True)
class Weather:
    """How a bucket behaves.

    Attributes:
      latency_s: median time of a request.
      slow: hours from a first to a last one, in which requests take ten times as long.
      down: hours in which none is answered.
      refusals: share of requests that fail: by a reset before or after they are done, by 503, each alike.
      late_s: seconds, at most, until a listing shows what was written or removed; None for listings that are true.
      per_object_s: seconds between two writes of an object.
      bandwidth: bytes a second of a worker.
    """

    latency_s: float = 0.05
    slow: tuple[float, float] = (0.5, 0.7)
    down: tuple[float, float] = (1.0, 1.03)
    refusals: float = 0.005
    late_s: float | None = None
    per_object_s: float = 1.0
    bandwidth: float = 200e6


@dataclass
class _Object:
    content: bytes
    written: float
    shown: float


@dataclass
class Bucket:
    """Objects by name; every request takes its time, and may fail."""

    simulation: Simulation
    weather: Weather
    random: Random
    requests: Counter[str] = field(default_factory=Counter)

    def __post_init__(self):
        self._objects: dict[str, _Object] = {}
        self._children: dict[str, dict[str, int]] = {}
        self._ghosts: dict[str, float] = {}

    def put(self, name: str, content: bytes, *, only_new: bool = False, nominal: int | None = None) -> None:
        """Writes an object; `nominal`: bytes that it stands for."""

        def write() -> None:
            found = self._objects.get(name)
            if only_new and found is not None:
                raise FileExistsError(name)
            if found is not None and self.simulation.now - found.written < self.weather.per_object_s:
                self.requests["429"] += 1
                raise Refused(429)
            late = 0.0 if self.weather.late_s is None else self.random.uniform(0, self.weather.late_s)
            shown = self.simulation.now + late if found is None else found.shown
            self._objects[name] = _Object(content, self.simulation.now, shown)
            if found is None:
                self._count(name, 1)

        self._request("put", write, (len(content) if nominal is None else nominal) / self.weather.bandwidth)

    def get(self, name: str) -> bytes:
        """Content of an object; `FileNotFoundError` where there is none."""
        return self._request("get", lambda: self._at(name).content)

    def remove(self, name: str) -> None:
        """Removes an object; `FileNotFoundError` where there is none."""

        def take() -> None:
            self._at(name)
            del self._objects[name]
            self._count(name, -1)
            if self.weather.late_s is not None:
                self._ghosts[name] = self.simulation.now + self.random.uniform(0, self.weather.late_s)

        self._request("remove", take)

    def is_there(self, name: str) -> bool:
        """Whether there is such an object, or one below it."""
        return self._request("look", lambda: name in self._objects or bool(self._children.get(name)))

    def names(self, directory: str) -> list[tuple[str, int | None]]:
        """Listing of a directory: names, and bytes of objects."""
        return self._request("list", lambda: list(self._listed(directory.rstrip("/"))))

    def below(self, directory: str) -> list[str]:
        """All objects below a directory."""
        return self._request("list", lambda: [name for name in self._objects if name.startswith(f"{directory}/")])

    def _listed(self, directory: str) -> Iterator[tuple[str, int | None]]:
        now = self.simulation.now
        for child in self._children.get(directory, ()):
            name = f"{directory}/{child}"
            found = self._objects.get(name)
            if found is None:
                yield name, None
            elif found.shown <= now:
                yield name, len(found.content)
        for name, until in list(self._ghosts.items()):
            if until < now:
                del self._ghosts[name]
            elif name.rpartition("/")[0] == directory and name not in self._objects:
                yield name, 0

    def _count(self, name: str, change: int) -> None:
        """Children of each directory above a name, as many objects as there are below them."""
        while "/" in name:
            directory, _, child = name.rpartition("/")
            inside = self._children.setdefault(directory, {})
            inside[child] = inside.get(child, 0) + change
            if not inside[child]:
                del inside[child]
            name = directory

    def _at(self, name: str) -> _Object:
        if name not in self._objects:
            raise FileNotFoundError(name)
        return self._objects[name]

    def _request(self, kind: str, do: Callable[[], T], seconds: float = 0.0) -> T:
        """One request, asked for as often as gcsfs does."""
        return _through(lambda: self._repeated(kind, do, seconds))

    def _repeated(self, kind: str, do: Callable[[], T], seconds: float) -> T:
        for attempt in range(6):
            if attempt:
                self.simulation.sleep(self.random.random() + 2 ** (attempt - 1))
            try:
                return self._ask(kind, do, seconds)
            except (Refused, ConnectionError):
                if attempt == 5:
                    self.requests["given up"] += 1
                    raise
        raise AssertionError

    def _ask(self, kind: str, do: Callable[[], T], seconds: float) -> T:
        self.requests[kind] += 1
        hour, weather = self.simulation.now / 3600, self.weather
        slow = 10 if weather.slow[0] <= hour < weather.slow[1] else 1
        self.simulation.sleep(slow * (weather.latency_s * self.random.lognormvariate(0, 0.5) + seconds))
        self.simulation.check_alive()
        if weather.down[0] <= hour < weather.down[1]:
            self.requests["not answered"] += 1
            raise ConnectionError("no answer")
        fails = self.random.random() < weather.refusals
        how = self.random.choice(["reset before", "reset after", "503"]) if fails else ""
        if fails:
            self.requests[how] += 1
        if how == "503":
            raise Refused(503)
        if how == "reset before":
            raise ConnectionResetError(how)
        done = do()
        if how == "reset after":
            raise ConnectionResetError(how)
        return done


_through: Callable[[Callable[[], Any]], Any] = eval("lambda call: call()", {"__name__": "fsspec.simulated"})
"""Calls from a module of fsspec's, by which `capscale.storage.refusal` knows what a client has raised."""


def _name(path: str) -> str:
    return path.partition("://")[2].rstrip("/") if "://" in path else path.rstrip("/")


class Client(fsspec.AbstractFileSystem):
    """The bucket of this simulation as fsspec asks for it."""

    cachable = False
    bucket: Bucket
    protocol = ("gs", "gcs")

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        path = _name(path)
        found = self.bucket.names(path)
        if not found:
            raise FileNotFoundError(path)
        if not detail:
            return [name for name, _ in found]
        return [
            {"name": name, "size": size or 0, "type": "directory" if size is None else "file"} for name, size in found
        ]

    def find(self, path: str, **options: Any) -> list[str]:
        return self.bucket.below(_name(path))

    def exists(self, path: str, **options: Any) -> bool:
        return self.bucket.is_there(_name(path))

    def isdir(self, path: str) -> bool:
        return bool(self.bucket.names(_name(path)))

    def rm(self, path: str, recursive: bool = False, **options: Any) -> None:
        path = _name(path)
        for name in self.bucket.below(path) if recursive else [path]:
            self.bucket.remove(name)

    def rm_file(self, path: str) -> None:
        self.bucket.remove(_name(path))

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        first, second = _name(path1), _name(path2)
        for name in self.bucket.below(first) or [first]:
            self.bucket.put(second + name[len(first) :], self.bucket.get(name))
            self.bucket.remove(name)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        return self.bucket.get(_name(path))[start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self.bucket.put(_name(path), bytes(value), only_new=mode == "create")

    def open(self, path: str, mode: str = "rb", *args: Any, **options: Any) -> Any:
        path = _name(path)
        if "r" in mode:
            file = io.BytesIO(self.bucket.get(path))
        else:
            file = _Written(lambda content: self.bucket.put(path, content))
        return file if "b" in mode else io.TextIOWrapper(file, encoding="utf-8")


class _Written(io.BytesIO):
    """A file that becomes an object when it is closed."""

    def __init__(self, put: Callable[[bytes], None]):
        super().__init__()
        self._put = put

    def close(self) -> None:
        if not self.closed:
            content = self.getvalue()
            super().close()
            self._put(content)


@contextmanager
def serving(bucket: Bucket) -> Iterator[None]:
    """Sends all of this process's requests for `gs://` to the bucket."""
    before = {name: _registry.get(name) for name in ("gs", "gcs")}
    Client.bucket = bucket
    for name in before:
        register_implementation(name, Client, clobber=True)
    type(fsspec_backend)._get_filesystem.cache_clear()
    try:
        yield
    finally:
        for name, known in before.items():
            _registry.pop(name, None)
            if known is not None:
                register_implementation(name, known, clobber=True)
        type(fsspec_backend)._get_filesystem.cache_clear()
