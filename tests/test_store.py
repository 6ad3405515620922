"""One suite for every store that runs lie in: disks, mounted buckets, and servers of objects on good and bad days."""

import errno
import itertools
import json
import os
import shutil
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from etils import epath
from support.limits import LIMIT_S
from support.proxy import Trouble, behind_proxy
from support.stores import visiting

from capscale.files import create, read_json, read_json_if_there, write_json, write_text
from capscale.storage import children, files_below, make_directory
from capscale.store import TEMPORARY, store_of
from capscale.train.lease import Held, Lease, LeaseLost, current_lease
from capscale.train.metrics import Metrics, read_metrics

BAD_DAY = Trouble(latency_s=0.01, per_object_s=1.0, resets=0.06, refusals=0.04, late_s=0.5)


@dataclass
class Place:
    """A directory in a store, and what is known of that."""

    directory: epath.Path
    says_who_was_first: bool = True
    trouble: Trouble | None = None


def no_links(*args: Any, **options: Any) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


_moved = itertools.count()


def copying(source: Any, target: Any) -> None:
    """Renames as a mounted bucket does: the object of the new name appears whole, then that of the old one goes."""
    made = f"{os.fspath(target)}.object-{next(_moved)}"
    shutil.copyfile(source, made)
    real_replace(made, target)
    os.unlink(source)


real_replace = os.replace


@pytest.fixture(
    params=[
        *("disk", "no-links", "mounted-bucket", "gs", "s3"),
        pytest.param("gs-bad-day", marks=pytest.mark.ci),
        pytest.param("s3-bad-day", marks=pytest.mark.ci),
    ]
)
def place(request, tmp_path, monkeypatch):
    kind = request.param
    if kind in ("no-links", "mounted-bucket"):
        monkeypatch.setattr(os, "link", no_links)
    if kind == "mounted-bucket":
        monkeypatch.setattr(os, "replace", copying)
        monkeypatch.setattr(os, "rename", copying)
    if kind in ("disk", "no-links", "mounted-bucket"):
        yield Place(epath.Path(tmp_path), kind == "disk")
    elif kind in ("gs", "s3"):
        yield Place(epath.Path(request.getfixturevalue(kind).url) / "out")
    else:
        server, trouble = request.getfixturevalue(f"{kind[:2]}_server"), replace(BAD_DAY, seen=type(BAD_DAY.seen)())
        with behind_proxy(server, trouble) as troubled, visiting(troubled, tmp_path, monkeypatch) as bucket:
            yield Place(epath.Path(bucket.url) / "out", trouble=trouble)


def names(directory):
    return sorted(path.name for path in children(directory))


def soon(what, expected):
    """Waits for a listing that is late."""
    until = time.monotonic() + LIMIT_S
    while what() != expected and time.monotonic() < until:
        time.sleep(0.05)
    assert what() == expected


@pytest.mark.parametrize("content", [b"", b"one", b"\x00\xff" * 300_000], ids=["empty", "short", "long"])
def test_a_file_is_as_it_was_written(content, place):
    store, path = store_of(place.directory), place.directory / "déjà vu.bin"
    for durable in (True, False):
        store.write(path, content, durable=durable)
        assert store.read(path) == content
    store.write(path, b"another")
    assert store.read(path) == b"another"
    soon(lambda: names(place.directory), ["déjà vu.bin"])


def test_what_is_not_there_is_missed_and_may_be_removed(place):
    store, path = store_of(place.directory), place.directory / "none"
    with pytest.raises(FileNotFoundError):
        store.read(path)
    assert read_json_if_there(path, "") is None
    store.remove(path)
    store.write(path, b"some")
    store.remove(path)
    store.remove(path)
    with pytest.raises(FileNotFoundError):
        store.read(path)


def test_directories_need_not_be_there_twice(place):
    store, deep = store_of(place.directory), place.directory / "a" / "b"
    for _ in range(2):
        make_directory(deep)
    store.write(deep / "one", b"1")
    store.write(place.directory / "a" / "two", b"2")
    soon(lambda: names(place.directory / "a"), ["b", "two"])
    expected = [place.directory / "a" / "b" / "one", place.directory / "a" / "two"]
    soon(lambda: sorted(files_below(place.directory, pytest.fail)), expected)


def together(work, count=6):
    """Results of work that several threads begin at once, in the order of their ends."""
    barrier, results = threading.Barrier(count, timeout=LIMIT_S), []

    def one(number):
        barrier.wait()
        results.append(work(number))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_of_many_who_create_a_file_one_does(place):
    for turn in range(3):
        path = place.directory / f"{turn}.json"
        told = together(lambda number, path=path: (create(path, {"number": number}), number))
        if place.says_who_was_first:
            (first,) = [number for created, number in told if created]
            assert sorted(created for created, _ in told) == [False] * 5 + [True]
            assert read_json(path, "") == {"number": first}
        else:
            assert {created for created, _ in told} == {None}
            assert not path.exists()
    assert not [name for name in names(place.directory) if name.endswith(TEMPORARY)]


def test_a_new_file_does_not_replace_one_that_is_there(place):
    path = place.directory / "result.json"
    assert write_json(path, {"loss": 1}, new=True)
    assert not write_json(path, {"loss": 2}, new=True)
    assert read_json(path, "") == {"loss": 1}


def test_a_reader_sees_one_version_or_another(place):
    path, texts = place.directory / "text", ["a" * 20_000, "b" * 30_000]
    write_text(path, texts[0])
    done, seen = threading.Event(), set()

    def read():
        while not done.is_set():
            seen.add(store_of(path).read(path).decode())

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(2 if place.trouble else 20):
        write_text(path, texts[turn % 2 - 1])
    done.set()
    reader.join()
    assert seen <= set(texts)


def test_a_writer_that_dies_leaves_the_old_file_or_the_new_one(place, monkeypatch):
    class Died(BaseException):
        pass

    def die(*args, **options):
        raise Died

    path = place.directory / "value.json"
    write_json(path, {"value": 1})
    if not store_of(path).appends:
        pytest.skip("an object is written by one request")
    for module, name in [(os, "unlink"), (os, "remove"), (os, "replace"), (os, "fsync")]:
        with monkeypatch.context() as patch, suppress(Died):
            patch.setattr(module, name, die)
            write_json(path, {"value": 2})
        assert read_json(path, "") in ({"value": 1}, {"value": 2})
    write_json(path, {"value": 3})
    assert read_json(path, "") == {"value": 3}
    assert all(name == "value.json" or name.endswith((TEMPORARY, "object")) for name in names(place.directory))


def test_of_many_who_want_a_lease_one_has_it(place):
    make_directory(place.directory)
    for _ in range(2):
        together_again, took = threading.Barrier(5, timeout=LIMIT_S), []

        def want(number, barrier=together_again, took=took):
            with ExitStack() as stack:
                with suppress(Held):
                    held = stack.enter_context(Lease(place.directory, settle_s=0.3))
                    took.append(number)
                barrier.wait()
                if number in took:
                    with suppress(LeaseLost):
                        held.check()
                        took.append("held")

        together(want, 5)
        assert len(took) == 2, took
        soon(lambda: (current_lease(place.directory) or {}).get("released"), True)


def test_metrics_grow_and_are_one_file_in_the_end(place):
    make_directory(place.directory)
    path, history = place.directory / "metrics.jsonl", {"loss": np.ones(3, np.float32), "grad_norm": np.ones(3)}
    with Metrics(path, keep_to=0) as metrics:
        for step in (3, 6):
            metrics.write(step, history, 2.0)
            metrics.flush()
    soon(lambda: [line["step"] for line in read_metrics(path)], [3, 6])
    with Metrics(path, keep_to=3) as metrics:
        metrics.write(5, history, 2.0)
        metrics.finish()
    soon(lambda: [line["step"] for line in read_metrics(path)], [3, 5])
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [3, 5]


def test_what_a_store_refuses_for_the_moment_is_done_in_the_end(place):
    """By the clients: gcsfs asks six times over half a minute, botocore five and s3fs five times that."""
    if place.trouble is None:
        pytest.skip("on a bad day")
    place.trouble.resets = place.trouble.refusals = 0.15
    for number in range(12):
        write_json(place.directory / f"{number // 2}.json", {"number": number})
    place.trouble.resets = place.trouble.refusals = 0.0
    for number in range(6):
        assert read_json(place.directory / f"{number}.json", "") == {"number": 2 * number + 1}
    seen = place.trouble.seen
    assert seen["429"], "the second write of an object comes too soon"
    assert seen["503"] + seen["reset before"] + seen["reset after"]


def test_an_answer_that_was_lost_is_no_other_writer(place):
    """The first request creates it, its connection is reset, and the client asks again: it was first all the same."""
    if place.trouble is None:
        pytest.skip("on a bad day")
    place.trouble.resets, place.trouble.refusals = 0.5, 0.0
    made = [create(place.directory / f"{number}", {"number": number}) for number in range(12)]
    assert made == [True] * 12
    assert place.trouble.seen["reset after"] > 0
    place.trouble.resets = 0.0


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("new", [True, False])
def test_a_file_is_on_the_disk_before_it_has_its_name(durable, new, tmp_path, monkeypatch):
    told = []
    for name in ("fsync", "replace", "link"):
        real = getattr(os, name)

        def tell(first, *others, name=name, real=real):
            which = os.readlink(f"/proc/self/fd/{first}") if name == "fsync" else os.fspath(first)
            told.append((name, "directory" if os.path.isdir(which) else "file"))
            return real(first, *others)

        monkeypatch.setattr(os, name, tell)
    write_json(epath.Path(tmp_path) / "result.json", {"loss": 1}, new=new, durable=durable)
    named = ("link" if new else "replace", "file")
    assert told == ([("fsync", "file"), named, ("fsync", "directory")] if durable else [named])
