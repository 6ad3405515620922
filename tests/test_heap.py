"""Memory that is freed and asked for again: whether the kernel hands out pages anew, in a process of its own."""

import os
import platform
import subprocess
import sys

import pytest

from capscale.cli import training
from capscale.heap import keep_freed_memory

AGAIN = """
import resource, sys, threading
from capscale.heap import keep_freed_memory

assert "jax" not in sys.modules
print(keep_freed_memory())

found = []

def step():
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    bytearray(b"x") * 2**26
    found.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)

for _ in range(3):
    thread = threading.Thread(target=step)  # as XLA's
    thread.start()
    thread.join()
print(found[-1])
"""

GROWN = """
import sys
from pathlib import Path
from capscale.heap import keep_freed_memory, release_growth

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

keep_freed_memory()
size = int(sys.argv[1]) << 20
del (filled := [bytearray(b"x") * 2**28])[:]
looked = [release_growth(), release_growth()]
pinned = []
for _ in range(2):  # what is asked for no longer fits the hole
    block = bytearray(b"x") * size
    pinned.append(bytearray(2**16))
    del block
before = resident()
print(*looked, release_growth(), release_growth(), before, resident())
"""


def grown(size, **environment):
    """Answers of four calls, and MiB resident ahead of the third and at the end, of blocks of so many MiB in a heap."""
    output = subprocess.run(
        [sys.executable, "-c", GROWN, str(size)], env=clean() | environment, check=True, capture_output=True, text=True
    )
    *told, before, after = output.stdout.split()
    return [each == "True" for each in told], int(before), int(after)


def clean():
    """The environment without settings of malloc."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")
def test_a_heap_that_has_grown_gives_back_what_is_free_in_it_once():
    """Neither one that has not, nor one that keeps nothing."""
    told, before, after = grown(768, JAX_PLATFORMS="cpu")
    assert told == [False, False, True, False]
    assert before > 700
    assert after < 200
    told, before, after = grown(200, JAX_PLATFORMS="cpu")
    assert told == [False] * 4
    assert before > 250
    assert abs(after - before) < 4
    assert grown(768, JAX_PLATFORMS="cpu", MALLOC_ARENA_MAX="2")[0] == [False] * 4


def run(**environment):
    """Whether the process was told, and how many pages the third of three threads got anew."""
    output = subprocess.run(
        [sys.executable, "-c", AGAIN], env=clean() | environment, check=True, capture_output=True, text=True
    )
    told, faults = output.stdout.split()
    return told == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")
def test_a_process_that_keeps_what_it_frees_is_given_no_pages_again():
    """One that trains on CPUs; with accelerators, or settings of the user's own, all is as it was."""
    told, faults = run(JAX_PLATFORMS="cpu")
    assert told
    assert faults < 16
    for other in ({"JAX_PLATFORMS": "tpu,cpu"}, {"JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "2"}):
        told, faults = run(**other)
        assert not told
        assert faults >= 32, "of 64 MiB, in pages of 2 MiB or 4 KiB"


def test_nothing_is_changed_once_jax_is_there(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    assert "jax" in sys.modules
    assert not keep_freed_memory()


def test_commands_that_train_ask_for_it_ahead_of_all_else(monkeypatch):
    class Asked(Exception):
        pass

    def ask():
        raise Asked

    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    monkeypatch.setattr(training, "keep_freed_memory", ask)
    with pytest.raises(Asked):
        training.train(training.Training(), "capacity_demo", "out", "processes")
