"""Runs whose weights are held at the nearest matrix of low rank: the basis is state, kept, shared, and follows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from support import tiny

from capscale.checkpoints.evaluation import evaluated
from capscale.checkpoints.rounding import in_format
from capscale.checkpoints.source import read_source
from capscale.formats.base import NO_CONTEXT
from capscale.formats.catalog import find
from capscale.models.mixture import of_format
from capscale.models.projected import kernels_of
from capscale.representation import Representation, operand
from capscale.train.executor import Sharded
from capscale.train.loop import train
from capscale.train.run import Optimizer
from capscale.train.sharding import make_mesh

RUN = tiny.run(representation=Representation(operand("nearest-lowrank0.5")))


@pytest.mark.ci
def test_a_run_resumes_bit_for_bit_and_holds_low_ranks_near_the_best(tmp_path):
    whole = tiny.train_one(RUN, tmp_path / "whole")
    tiny.interrupt([RUN], [tmp_path / "parts"], tiny.one_device(RUN), at=6)
    assert tiny.train_one(RUN, tmp_path / "parts")["row"] == whole["row"]
    source = read_source(tmp_path / "whole")
    assert evaluated(source, tiny.corpus()).loss == pytest.approx(whole["row"]["loss"], rel=2e-6)
    held, masters = kernels_of(source.held()), kernels_of(source.params)
    for path, kernel in held.items():
        share, shape = find("nearest-lowrank0.5"), kernel.shape[1:]
        rank = max(1, int(0.5 * shape[0] * shape[1] / sum(shape)))
        assert all(np.linalg.matrix_rank(np.asarray(matrix), tol=1e-4) == rank for matrix in kernel)
        rows = jnp.swapaxes(masters[path], -1, -2)
        best = jnp.swapaxes(share.project(rows, NO_CONTEXT).value, -1, -2)
        errors = [float(jnp.square(each - masters[path]).sum()) for each in (kernel, best)]
        assert errors[0] < 1.02 * errors[1]


@pytest.mark.ci
def test_a_run_by_rounds_resumes_bit_for_bit_and_is_near_the_rounds_from_the_beginning(tmp_path):
    held = Representation(operand("int2~lowrank-r2-rounds4"))
    run = tiny.run(representation=held, optimizer=Optimizer(0.002))  # at ten times that, a step is a quarter of them
    whole = tiny.train_one(run, tmp_path / "whole")
    tiny.interrupt([run], [tmp_path / "parts"], tiny.one_device(run), at=6)
    assert tiny.train_one(run, tmp_path / "parts")["row"] == whole["row"]
    assert whole["row"]["weights_gmse"] == of_format(run.model, find("int2~lowrank-r2-rounds4"))[0]
    source = read_source(tmp_path / "whole")
    assert evaluated(source, tiny.corpus()).loss == pytest.approx(whole["row"]["loss"], rel=2e-6)
    anew = source._replace(state=None)
    masters = kernels_of(source.params)
    followed, best = (
        sum(float(jnp.square(kernel - masters[path]).sum()) for path, kernel in kernels_of(each.held()).items())
        for each in (source, anew)
    )
    assert followed < 1.1 * best


@pytest.mark.slow
def test_devices_that_share_weights_train_alike(tmp_path):
    one = tiny.train_one(RUN, tmp_path / "one")["row"]["loss"]
    executor = Sharded(RUN, make_mesh(2, jax.devices()[:2]))
    (result,) = train([RUN], tiny.corpus(), [epath.Path(tmp_path / "two")], executor, intervals=tiny.SHORT)
    assert result["row"]["loss"] == pytest.approx(one, rel=1e-4)


@pytest.mark.slow
def test_trained_weights_are_brought_to_low_rank_afterwards(tmp_path):
    """A state that spares work is none that training moves: rounding finds the subspace anew."""
    tiny.train_one(tiny.dense_run(), tmp_path / "dense")
    source = read_source(tmp_path / "dense")
    losses = [
        evaluated(in_format(source, find(name)), tiny.corpus()).loss
        for name in ("int8~lowrank0.5", "nearest-lowrank0.5")
    ]
    assert losses[0] == pytest.approx(evaluated(source, tiny.corpus()).loss, abs=1e-3)
    assert np.isfinite(losses[1])
