"""Executors of runs: one program for all that need it."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import jax
import pytest
from support import tiny
from support.limits import LIMIT_S

from capscale.sweep.local import _staggered
from capscale.train import compiled as functions_of
from capscale.train.compiled import PROGRAMS_HELD
from capscale.train.executor import Sharded
from capscale.train.sharding import make_mesh


def test_threads_that_begin_together_share_one_compilation(monkeypatch):
    """Two seeds, each in a thread of its own, get the same functions, and JAX compiles a function once."""
    begin, compiled, made = Barrier(2), [], []
    state_sharding = functions_of.state_sharding

    def sharding(*args):
        made.append(1)
        return state_sharding(*args)

    monkeypatch.setattr(functions_of, "state_sharding", sharding)
    run = tiny.run(batch=3)  # a program that no other test has compiled
    mesh = make_mesh(devices=jax.devices()[:1])

    def functions(seed):
        begin.wait(LIMIT_S)
        place = Sharded(replace(run, seed=seed), mesh)
        compiled.append(place._functions.train_chunk)
        return place.initial_state([replace(run, seed=seed)])

    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(functions, (0, 1)))) == 2
    assert compiled[0] is compiled[1]
    assert len(made) == 2  # of the program and of its start, not of each thread's


@pytest.mark.ci
def test_compiled_programs_are_let_go():
    """Each takes hundreds of memory maps, of which Linux grants a process 65,530."""
    mesh = make_mesh(devices=jax.devices()[:1])

    def functions(batch):
        return Sharded(tiny.run(batch=batch, tokens=100_000), mesh)._functions

    first = weakref.ref(functions(5).train_chunk)
    for batch in range(6, 5 + PROGRAMS_HELD):
        functions(batch)
    gc.collect()
    assert first() is functions(5).train_chunk
    for batch in range(100, 100 + PROGRAMS_HELD):
        functions(batch)
    gc.collect()
    assert first() is None


def test_further_runs_of_a_program_come_after_those_that_begin_beside_it():
    runs = [tiny.run(seed=seed, batch=batch) for batch in (2, 4, 6) for seed in (0, 1, 2)]
    ordered = [group[0] for group in _staggered([[run] for run in runs], apart=1)]
    assert [(run.batch, run.seed) for run in ordered] == [
        (2, 0), (4, 0), (2, 1), (2, 2), (6, 0), (4, 1), (4, 2), (6, 1), (6, 2)
    ]  # fmt: skip
