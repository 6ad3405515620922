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


def run(**environment):
    """Whether the process was told, and how many pages the third of three threads got anew."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    output = subprocess.run(
        [sys.executable, "-c", AGAIN], env=own | environment, check=True, capture_output=True, text=True
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
