"""Corrections of the weights against their formula, in any basis, and what they are refused for."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from capscale.analysis.table import make_table
from capscale.errors import UserError
from capscale.models.projected import kernels_of, values_of
from capscale.representation import DENSE, Representation, operand, project_weights
from capscale.train.corrections import Cage, DeltaDecay
from capscale.train.record import result_row
from capscale.train.run import Optimizer
from capscale.train.step import Program, RunScalars, initial_state, train_step

ROTATED_BOTH = Representation(operand("int4"), operand("int8", per_token=True), hadamard=8)
PLAIN = Representation(operand("int2"))


def corrected(correction, representation, step=9):
    """Parameters after a step of a run with a correction, those of one without, and those that both started from."""
    run = tiny.run(representation=representation, optimizer=Optimizer(0.05, correction=correction))
    after = []
    for each in (run, replace(run, optimizer=Optimizer(0.05))):
        program = Program.of(each)
        state = initial_state(program, jnp.int32(0))._replace(step=jnp.int32(step))
        windows = jax.random.randint(jax.random.key(1), (4, tiny.MODEL.context + 1), 0, 96)
        done, _ = jax.jit(train_step, static_argnums=0)(
            program, state, windows, RunScalars(jnp.float32(0.05), jnp.int32(12))
        )
        after.append(values_of(done.params))
    return *after, values_of(state.params)


@pytest.mark.ci  # two train steps are compiled
@pytest.mark.parametrize(
    ("correction", "representation", "share"),
    [
        # Step 9 of 12, counted from 0: 9.5 / 12 of the way, where the cosine from the end of the warm-up stands at
        # (1 + cos(pi * .6917 / .9)) / 2 of the peak, and the ramp at (.7917 - .5) / .5.
        (
            Cage(10.0, 0.5),
            ROTATED_BOTH,
            0.5 * (1 + np.cos(np.pi * (9.5 / 12 - 0.1) / 0.9)) / 2 * (9.5 / 12 - 0.5) / 0.5,
        ),
        (DeltaDecay(0.25), PLAIN, 0.25),
    ],
)
def test_the_share_of_the_error_is_taken_away(correction, representation, share):
    with_it, without, before = corrected(correction, representation)
    alone = Representation(representation.weights, hadamard=representation.hadamard)
    for path, w in before.items():
        if path in kernels_of(before):
            held = jax.vmap(lambda w: project_weights(w, alone))(w)  # forth and back, in the basis of the masters
            expected = without[path] - share * (w - held)
            np.testing.assert_allclose(with_it[path], expected, atol=1e-6)
            assert float(jnp.abs(with_it[path] - without[path]).max()) > 1e-4
        else:
            np.testing.assert_array_equal(with_it[path], without[path])


@pytest.mark.ci
def test_nothing_is_corrected_in_the_silence():
    with_it, without, _ = corrected(Cage(10.0, 0.8), PLAIN)
    for path, w in without.items():
        np.testing.assert_array_equal(with_it[path], w)


@pytest.mark.parametrize(
    ("representation", "correction", "said"),
    [
        (DENSE, Cage(), "weights are dense"),
        (Representation(operand("noise4")), Cage(), "noise4 draws"),
        (PLAIN, Cage(strength=30), "move weights past"),
        (PLAIN, "cage", "use Cage"),
    ],
)
def test_what_has_nothing_to_be_pulled_to_is_refused(representation, correction, said):
    with pytest.raises(UserError, match=said):
        tiny.run(representation=representation, optimizer=Optimizer(0.05, correction=correction))


def test_rows_tell_corrected_runs_apart():
    run = tiny.run(representation=PLAIN)
    pulled = replace(run, optimizer=replace(run.optimizer, correction=Cage()))
    assert pulled.run_id != run.run_id
    assert "correction" not in result_row(run, 2.0, 0.01, 1.0)
    rows = [result_row(each, 2.0, 0.01, 1.0) for each in (run, pulled)]
    assert rows[1]["correction"] == "cage 10 silence 0.8"
    table = make_table(rows, "rows", strict=False)
    assert table.curves == ("int2", "int2, cage 10 silence 0.8")
    assert [row.is_plain for row in table.rows] == [True, False]
