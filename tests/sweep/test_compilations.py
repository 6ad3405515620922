"""One compilation a program, whatever the number of threads that need it."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import jax
import jax.numpy as jnp
import pytest
from limits import LIMIT_S

from capscale.sweep.compilations import Compilations, programs_first


def test_programs_come_first_and_their_repeats_in_order():
    assert programs_first("abacbd", lambda letter: letter) == list("abcdab")
    assert programs_first([], str) == []


def test_two_threads_compile_once():
    """The program is traced as often as it is compiled: twice, without the wait."""
    compilations, begin, traced = Compilations(), Barrier(2), []

    @jax.jit
    def program(x):
        traced.append(1)
        Event().wait(0.3)  # as long as another thread needs to get here
        return x + 1

    def work(number):
        begin.wait(LIMIT_S)
        with compilations.once("program", Event()) as compiled:
            result = program(jnp.float32(number))
            compiled()
            return float(result)

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(work, (1, 2))) == [2.0, 3.0]
    assert len(traced) == 1


def test_who_fails_lets_the_others_go():
    compilations, waiting = Compilations(), Event()

    def first():
        with compilations.once("program", Event()):
            waiting.wait(LIMIT_S)
            raise ValueError("no memory")

    def second():
        with compilations.once("program", Event()):
            return "went on"

    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(first)
        other = pool.submit(second)
        waiting.set()
        with pytest.raises(ValueError, match="no memory"):
            failing.result(LIMIT_S)
        assert other.result(LIMIT_S) == "went on"


def test_none_waits_when_all_are_to_stop():
    compilations, stop, entered = Compilations(), Event(), Event()

    def first():
        with compilations.once("program", stop):
            entered.set()
            stop.wait(LIMIT_S)
            Event().wait(1.0)

    def second():
        with compilations.once("program", stop):
            return "stopped"

    with ThreadPoolExecutor(2) as pool:
        pool.submit(first)
        assert entered.wait(LIMIT_S)
        other = pool.submit(second)
        stop.set()
        assert other.result(LIMIT_S) == "stopped"


def test_other_programs_do_not_wait():
    compilations = Compilations()
    with compilations.once("one", Event()), compilations.once("another", Event()):
        pass
