"""How gradients are held, as a value: what it refuses, JSON, and ids of runs that have none of it."""

import jax.numpy as jnp
import pytest
from support import tiny

from capscale.adapters import compress
from capscale.contraction import refuse
from capscale.errors import UserError
from capscale.estimators import StraightThrough
from capscale.formats.catalog import find
from capscale.formats.serialize import from_json, to_json
from capscale.gradients import DENSE_GRADIENTS, BackwardProduct, Gradients
from capscale.operands import Operand
from capscale.representation import DENSE, Representation
from capscale.train.run import canonical_json

KNOWN = (Representation, Operand, Gradients, BackwardProduct, StraightThrough)
NVFP4 = Gradients(
    BackwardProduct(find("nvfp4-stochastic")),
    BackwardProduct(find("nvfp4-stochastic"), find("nvfp4"), "given", 16, 0),
)


def test_json_round_trip():
    held = Representation(gradients=NVFP4)
    assert from_json(to_json(held), KNOWN) == held


def test_ids_of_runs_with_dense_gradients_are_as_they_were():
    assert "gradients" not in to_json(DENSE)
    assert from_json(to_json(DENSE), KNOWN) == DENSE
    run = tiny.run()
    assert "gradients" not in canonical_json(run)
    assert tiny.run(representation=Representation(gradients=NVFP4)).run_id != tiny.dense_run().run_id


def test_what_draws():
    assert not DENSE_GRADIENTS.draws
    assert NVFP4.draws
    assert NVFP4.rounds_by_chance
    signs = Gradients(weights=BackwardProduct(find("nvfp4"), hadamard=16, signs="drawn"))
    assert signs.draws
    assert not signs.rounds_by_chance


def test_layers_of_other_frameworks_refuse_them():
    held = Representation(gradients=NVFP4)
    with pytest.raises(UserError, match=r"layer: .* need a key and an axis of tokens"):
        refuse("layer", held)
    with pytest.raises(UserError, match="w: "):
        compress({"w": jnp.ones((16, 16))}, ((".*", held, 0),))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "rounded"}, "source"),
        ({"gradient": find("int4"), "hadamard": 48 * 7}, "block must be a power of two"),
        ({"gradient": find("int4"), "signs": "drawn"}, "signs belong to a rotation; give hadamard=16 too"),
        ({"gradient": find("int4"), "hadamard": 16, "signs": "new"}, "signs"),
        ({"gradient": find("lsq4")}, "no learned scales"),
        ({"operand": find("rigl50")}, "no state from step to step"),
        ({"hadamard": 16}, "two dense operands does nothing but round"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(UserError, match=message):
        BackwardProduct(**arguments)
