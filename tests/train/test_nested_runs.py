"""Runs of several widths: the mean of their losses, a row for each, exact resume, and what is refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from support import tiny

import capscale
from capscale.analysis.rows import read
from capscale.checkpoints.evaluation import widths
from capscale.checkpoints.source import read_source
from capscale.errors import UserError
from capscale.files import write_json
from capscale.formats.base import Context
from capscale.formats.catalog import find
from capscale.gradients import BackwardProduct
from capscale.models.projected import project_params, values_of
from capscale.policy import Rule
from capscale.representation import DENSE, Representation, operand
from capscale.train.corrections import Cage
from capscale.train.executor import Population
from capscale.train.loop import train
from capscale.train.losses import loss_and_gradient
from capscale.train.step import Program, RunScalars, initial_state, train_step

NAME = "nested-8-4-2-weighted-1-1-2"
NESTED = Representation(operand(NAME))


@pytest.mark.ci
def test_a_step_descends_the_weighted_mean_of_all_widths():
    """Against losses and gradients of three models of one width; straight-through masks nothing."""
    run = tiny.run(representation=NESTED)
    program = Program.of(run)
    state = initial_state(program, jnp.int32(0))
    windows = jax.random.randint(jax.random.key(1), (4, tiny.MODEL.context + 1), 0, 96)
    step = jax.jit(train_step, static_argnums=0)
    after, metrics = step(program, state, windows, RunScalars(jnp.float32(0.01), jnp.int32(12)))
    losses, gradients = [], []
    for width in (8, 4, 2):
        alone = program.at(width)
        held = project_params(state.params, alone.held, Context(jnp.float32(0)))
        loss, gradient = loss_and_gradient(alone, held, windows, Context(jnp.float32(0)))
        losses.append(float(loss))
        gradients.append(values_of(gradient))
    assert len(set(losses)) == 3
    np.testing.assert_allclose(metrics["loss"], np.dot(losses, (0.25, 0.25, 0.5)), rtol=1e-5)
    mean = {
        path: sum(share * each[path] for share, each in zip((0.25, 0.25, 0.5), gradients, strict=True))
        for path in values_of(state.params)
    }
    norm = float(np.sqrt(sum(np.square(g).sum() for g in mean.values())))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)
    before, moved = values_of(state.params), values_of(after.params)
    for path, g in mean.items():
        told = np.abs(g) > 1e-3  # where Adam's first direction is the sign of the gradient
        np.testing.assert_array_equal(np.sign(before[path] - moved[path])[told], np.sign(g)[told])


def test_flops_count_every_width_whose_loss_does():
    dense = tiny.dense_run()
    for name, passes in (("nested-8-4-2", 3), ("nested-8-4-2-weighted-0-0-1", 1), ("int4", 1)):
        run = replace(dense, representation=Representation(operand(name)))
        assert (run.flops, run.step_flops) == (passes * dense.flops, passes * dense.step_flops)


@pytest.mark.ci
def test_rows_and_checkpoints_of_a_nested_run(tmp_path):
    run = tiny.run(representation=NESTED)
    directory = tmp_path / "sweep" / "runs" / run.run_id
    result = tiny.train_one(run, directory)
    rows = [result["row"], *result["slices"]]
    names = [f"{NAME}{end}" for end in ("", "-at4", "-at2")]
    assert [row["weights"] for row in rows] == names
    assert rows[0]["weights_gmse"] < rows[1]["weights_gmse"] < rows[2]["weights_gmse"]
    assert len({row["loss"] for row in rows}) == 3
    assert {row["slice_of"] for row in rows[1:]} == {NAME}
    # The same from the checkpoint, width by width.
    found = widths(read_source(directory), tiny.corpus())
    assert [each.weights for each in found] == names
    assert [each.loss for each in found] == pytest.approx([row["loss"] for row in rows], abs=1e-6)
    assert [each.said for each in found] == [row["loss"] for row in rows]
    assert widths(read_source(directory), tiny.corpus(), width=4) == found[1:2]
    with pytest.raises(UserError, match=r"--width 3: .* has the widths 8, 4, 2"):
        widths(read_source(directory), tiny.corpus(), width=3)
    # Bit for bit from a stop and a second start.
    again = tmp_path / "again"
    tiny.interrupt([run], [again], tiny.one_device(run), at=6)
    resumed = tiny.train_one(run, again)
    assert (resumed["row"], resumed["slices"]) == (result["row"], result["slices"])
    # A table has a point for each width.
    listing = {"runs": [run.run_id], "planned": {}, "experiment": "nested", "ladder": "tests"}
    write_json(epath.Path(tmp_path / "sweep" / "sweep.json"), listing)
    assert set(read(tmp_path / "sweep").curves) == set(names)


@pytest.mark.ci
def test_a_population_has_the_losses_of_every_width(tmp_path):
    run = tiny.run(representation=NESTED)
    alone = tiny.train_one(run, tmp_path / "alone")
    beside = [replace(run, seed=1), run]
    paths = [epath.Path(tmp_path / str(each.seed)) for each in beside]
    trained = train(beside, tiny.corpus(), paths, Population(run, jax.devices()[:1]), intervals=tiny.SHORT)
    found, expected = ([row["loss"] for row in result["slices"]] for result in (trained[1], alone))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: tiny.run(representation=Representation(operand(f"{NAME}-at4"))), "a slice is read off a run"),
        (lambda: Representation(activations=operand(NAME, per_token=True)), "widths are of one stored tensor"),
        (lambda: BackwardProduct(gradient=find(NAME)), "widths are of stored weights"),
        (lambda: capscale.compress({"w": jnp.ones((8, 8))}, NESTED), "name one slice, such as"),
        (
            lambda: tiny.run(representation=NESTED, optimizer=replace(tiny.run().optimizer, correction=Cage())),
            "holds its weights in several widths",
        ),
        (
            lambda: tiny.run(
                representation=(
                    Rule("layers/0/.*", NESTED),
                    Rule("layers/.*", Representation(operand("nested-8-3"))),
                    Rule(".*", DENSE),
                )
            ),
            "several widths in one model",
        ),
    ],
)
def test_what_has_one_width_alone_is_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()
