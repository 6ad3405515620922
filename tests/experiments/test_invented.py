"""Invented rows are rows as runs leave them: an experiment's evidence measures the capacities that were put in."""

import pytest
from capscale.experiments import tab2, tab3
from support import invented

from capscale.capacity import TANH, Capacity
from capscale.representation import Representation, operand

RHO = Capacity(TANH, (("F", 0.41), ("C", 1.39)))


def test_capacities_that_were_put_in_are_measured():
    seen = invented.evidence(tab3, lambda r: float(RHO.rho(invented.weights_gmse(r))), scatter=0.0)
    llama = seen.only(family="llama")
    assert len(llama.records) == 8 * 2 * 2 + 12
    for name in ("int2", "int4"):
        row = Representation(operand(name), hadamard=128)
        curve = llama.curve(row)
        measured = llama.capacities.rho[llama.capacities.curves.index(curve)]
        assert measured == pytest.approx(float(RHO.rho(invented.weights_gmse(row))), rel=0.02)


def test_runs_can_be_left_out_and_columns_added():
    seen = invented.evidence(
        tab2, lambda r: 1.0, keep=lambda run: run.seed == 0, columns=lambda run: {"note": run.size}
    )
    assert {record["seed"] for record in seen.records} == {0}
    assert {record["note"] for record in seen.records} == {record["model"] for record in seen.records}


def test_a_run_that_two_grids_ask_for_is_one_row():
    runs = invented.planned(tab2)
    assert len(invented.records([*runs, *runs], lambda r: 1.0)) == len(set(runs))
