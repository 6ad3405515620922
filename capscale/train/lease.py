"""A lease on a run's directory: of many workers that could train a run, one does."""

import contextlib
import os
import platform
import re
import threading
import uuid
from typing import Any, NamedTuple

from etils import epath

from capscale.clock import clock
from capscale.errors import Unavailable, UserError
from capscale.files import create, read_json_if_there, write_json, writing
from capscale.storage import children
from capscale.train.distributed import all_or_none, is_first
from capscale.train.identity import place as _place
from capscale.train.identity import process as _process

LENGTH_S = 60.0
"""Seconds without a sign of life after which a lease is taken over."""
SETTLE_S = 2.0
"""Seconds between writing a lease and reading it back, where files cannot be created exclusively."""
LONGEST_S = 3600.0
"""Seconds beyond which nobody's lease runs: a file that says so was not written by a worker."""
_RENEWALS = 4
"""Signs of life within the length of a lease."""


class Held(Exception):
    """Another worker trains this run."""


class LeaseLost(Exception):
    """Another worker took this run over; nothing more may be written."""


class Lease:
    """Held for the length of a `with` block, renewed by a thread of its own.

    A lease is a file `lease-<generation>.json` in the run's directory. To take a lease is to create the file of the
    next generation, which succeeds once; the holder rewrites its file several times within `length_s`. A lease ends
    when its holder says so, when its holder is seen to be dead (same machine, same process namespace, no such
    process), or when its content has not changed for `length_s`.

    That time is measured by the watching process on its own monotonic clock, while it looks: storage that nobody can
    reach for a while does not end the leases of those who are alive. Time stamps in the file are for people:
    clocks of two machines may differ, and jump, by more than a lease is long.

    Guarantee. Where files can be created exclusively (local disks, NFS, object storage), two workers never take one
    generation. Elsewhere (file systems without links) the file is written, and read back `settle_s` later: of workers
    that look and write within `settle_s` of one another the last one gets it, and one that was slower than that may
    displace a holder. A holder
    that has been displaced, or was stopped for longer than the lease, finds out at its next `check`, or within a
    quarter of the lease. Until then both may train: the same steps to the same numbers, into files that appear whole,
    and a result that is written once. So a failure of the lease costs time, not correctness.

    Raises on entry:
      Held: somebody else holds it, or has not been silent for long enough yet; try again later.
      UserError: the directory cannot be written.
    """

    def __init__(self, directory: epath.Path, length_s: float = LENGTH_S, settle_s: float = SETTLE_S):
        self._directory, self._length_s, self._settle_s = directory, length_s, settle_s
        self._token = uuid.uuid4().hex
        self._renewals = 0
        self._lost = False
        self._busy, self._ended = clock().lock(), clock().event()

    def __enter__(self) -> "Lease":
        current = check_free(self._directory, self._length_s)
        self._generation = current["generation"] + 1 if current else 1
        self._renewed = clock().monotonic()
        content = self._content()
        created = create(self._path, content, durable=False)
        if created is None:
            write_json(self._path, content, durable=False)
            clock().sleep(self._settle_s)
        if self._is_displaced():
            if created:
                self._path.unlink(missing_ok=True)  # of an earlier generation than somebody else's
            raise Held(f"{self._directory} has just been taken by another worker")
        for path, generation in _generations(self._directory):
            if generation < self._generation:
                path.unlink(missing_ok=True)
        self._thread = clock().start(self._keep, "lease")
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()
        # What cannot be handed back lapses. Whatever a store raises (see `_keep`), the run that was trained is done.
        with self._busy, contextlib.suppress(Exception):
            if not self._lost and not self._is_displaced():
                write_json(self._path, self._content() | {"released": True}, durable=False)

    def check(self) -> None:
        """Raises `LeaseLost` if the lease is no longer held: to be called before anything is written."""
        with self._busy:
            # A process that was stopped, or cut off from its storage, wakes up here before its thread does.
            if not self._lost and clock().monotonic() - self._renewed > self._length_s / 2:
                self._renew()
            if self._lost:
                raise LeaseLost(f"{self._directory} was taken over by another worker; stopped without writing")

    @property
    def generation(self) -> int:
        """Number of this lease among those that the directory had."""
        return self._generation

    @property
    def _path(self) -> epath.Path:
        return self._directory / f"lease-{self._generation}.json"

    def _content(self) -> dict[str, Any]:
        return {
            "generation": self._generation,
            "token": self._token,
            "host": platform.node(),
            "place": _place(),
            "pid": os.getpid(),
            "process": _process(os.getpid()),
            "renewals": self._renewals,
            "length_s": self._length_s,
            "expires_at": round(clock().time() + self._length_s, 1),
        }

    def _keep(self) -> None:
        while not self._ended.wait(self._length_s / _RENEWALS):
            # A full disk or a store that does not answer (object stores raise errors of their own) ends the run's own
            # writes too. The lease lapses meanwhile; should it answer again, the next sign of life is in time or not.
            with self._busy, contextlib.suppress(Exception):
                self._renew()
                if self._lost:
                    return

    def _renew(self) -> None:
        began = clock().monotonic()
        if self._is_displaced():
            self._lost = True
            return
        self._renewals += 1
        write_json(self._path, self._content(), durable=False)
        self._renewed = began

    def _is_displaced(self) -> bool:
        """Whether somebody else has this lease, or a later one.

        A listing may lack what was written a moment ago, so that its own file is asked for by name.
        """
        if any(generation > self._generation for _, generation in _generations(self._directory)):
            return True
        return (_read(self._path) or {}).get("token") != self._token


class Leases:
    """Leases of runs that are trained side by side, all or none; a context manager.

    Of several processes that train one run together the first one holds it, and the others learn from it whether
    to begin.
    """

    def __init__(self, directories: list[epath.Path]):
        self._directories = directories
        self._leases: list[Lease] = []

    def __enter__(self) -> "Leases":
        with contextlib.ExitStack() as stack:
            with all_or_none(Held("the first process could not take the lease")):
                if is_first():
                    self._leases = [stack.enter_context(Lease(directory)) for directory in self._directories]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def generations(self) -> list[int]:
        """How often each run was begun, this time included; none in processes that are not the first."""
        return [lease.generation for lease in self._leases]

    def check(self) -> None:
        """See `Lease.check`; where several processes train together, all of them find out alike."""
        with all_or_none(LeaseLost("the first process does not hold the lease any more; stopped without writing")):
            self.check_here()

    def check_here(self) -> None:
        """The same without asking the other processes, for threads that write beside the training loop."""
        for lease in self._leases:
            lease.check()


def current_lease(directory: epath.Path) -> dict[str, Any] | None:
    """The content of a directory's newest lease, None where there never was one.

    A file that cannot be read, or says what no worker writes, counts as a lease of somebody unknown: it ends by silence
    like any other.
    """
    newest = max(_generations(directory), key=lambda found: found[1], default=None)
    if newest is None:
        return None
    path, generation = newest
    found = _read(path) or {"unreadable": "it is gone"}
    return {"token": None, "length_s": LENGTH_S} | found | {"generation": generation}


def _read(path: epath.Path) -> dict[str, Any] | None:
    """Content of a lease; None where it is gone. Raises `Unavailable` for a store that does not answer."""
    try:
        found = read_json_if_there(path, "it ends by itself")
    except Unavailable:
        raise
    except UserError as error:
        return {"unreadable": str(error)}
    return found if found is None or _is_sane(found) else {"unreadable": repr(found)}


def _is_sane(lease: dict[str, Any]) -> bool:
    """Whether what stands in a lease is of the kinds that are written, and within reason."""
    length_s, expires_at = lease.get("length_s", LENGTH_S), lease.get("expires_at", 0.0)
    numbers = all(isinstance(number, int | float) for number in (length_s, expires_at))
    words = all(isinstance(lease.get(name, ""), str | None) for name in ("token", "host", "place", "process"))
    pid = lease.get("pid", 1)
    return numbers and words and 0 <= length_s <= LONGEST_S and isinstance(pid, int) and 0 < pid < 2**63


def check_free(directory: epath.Path, length_s: float = LENGTH_S) -> dict[str, Any] | None:
    """The newest lease of a directory, which is over; raises `Held` while it is not."""
    current = current_lease(directory)
    if current is not None and not _is_over(directory, current, length_s):
        raise Held(f"{directory} is held by {holder(current)}")
    return current


def is_live(lease: dict[str, Any] | None) -> bool:
    """Whether a lease looks held, for people who ask: by the wall clock, without waiting for a sign of life."""
    # A sign of life from far ahead is of a clock that was wrong.
    return bool(lease) and not _is_ended(lease) and 0 < lease.get("expires_at", 0) - clock().time() < LONGEST_S


def holder(lease: dict[str, Any]) -> str:
    """`process 123 on host`."""
    return f"process {lease.get('pid', 'unknown')} on {lease.get('host', 'an unknown host')}"


def _generations(directory: epath.Path) -> list[tuple[epath.Path, int]]:
    with writing(directory):
        names = [(path, re.fullmatch(r"lease-(\d+)\.json", path.name)) for path in children(directory)]
    return [(path, int(match[1])) for path, match in names if match]


class _Silence(NamedTuple):
    """Another worker's lease as this process sees it: its content, when last, and for how long unchanged."""

    content: dict[str, Any]
    looked_at: float
    length_s: float


_seen: dict[str, _Silence] = {}
"""Of each directory, on the monotonic clock."""
_seeing = threading.Lock()


def _is_over(directory: epath.Path, lease: dict[str, Any], length_s: float) -> bool:
    if _is_ended(lease):
        return True
    allowed_s = max(length_s, lease["length_s"])
    with _seeing:
        now, before = clock().monotonic(), _seen.get(str(directory))
        if before is None or before.content != lease:
            _seen[str(directory)] = _Silence(lease, now, 0.0)
            return False
        # While this process looks elsewhere, or storage shows it nothing, the holder may be cut off as well: of such a
        # time half a lease counts, and the holder has as long again to be heard.
        silent_s = before.length_s + min(now - before.looked_at, allowed_s / 2)
        _seen[str(directory)] = _Silence(lease, now, silent_s)
        return silent_s > allowed_s


def _is_ended(lease: dict[str, Any]) -> bool:
    """Handed back, or its holder is known to be dead."""
    if lease.get("released") is True:
        return True
    return lease.get("place") == _place() and _process(lease.get("pid", 0)) != lease.get("process")
