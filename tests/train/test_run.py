"""A run as a value: its id, what is derived from it, and what it refuses."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support import tiny
from support.golden import hold
from support.limits import LIMIT_S

from capscale.data import corpus
from capscale.data.corpus import DataId
from capscale.errors import UserError
from capscale.estimators import ForwardMask
from capscale.formats import catalog
from capscale.formats.serialize import to_json
from capscale.models.ladder import NANO, PAPER
from capscale.representation import DENSE, Operand, Representation, operand
from capscale.train.run import NUMERICS, Optimizer, Run, canonical_json, described
from capscale.train.step import MEASURED_EVERY

TEXT = DataId("text", "0" * 64, 96)

RUNS = {
    "nano-dense": Run("nano-16", NANO.model("nano-16", 96), 1_536_000, TEXT, Optimizer(0.025), 8, "nano"),
    "nano-top50": Run(
        "nano-8",
        NANO.model("nano-8", 96),
        512_000,
        TEXT,
        Optimizer(0.05, b2=0.98, decay="linear"),
        8,
        "nano",
        Representation(Operand(catalog.find("top50"), ForwardMask())),
        seed=3,
    ),
    "paper-int4": Run(
        "30M",
        PAPER.model("30M", 32_000),
        25 * 30_482_560,
        DataId("c4", "f" * 64, 32_000),
        Optimizer(1.2e-3),
        512,
        "paper",
        Representation(operand("int4"), operand("2:4+int8 [straight-through+trust]", per_token=True), 128),
    ),
}
GOLDEN = Path(__file__).parent / "golden_runs.json"
"""Canonical JSON and id of these runs. An id that changes orphans every result trained under the old one."""


@pytest.mark.parametrize("name", RUNS)
def test_golden_runs(name, regenerate):
    found = {"run": json.loads(canonical_json(RUNS[name])), "id": RUNS[name].run_id}
    hold(found, GOLDEN, name, regenerate=regenerate)


@pytest.mark.ci
def test_id_is_the_same_in_processes_with_other_hash_seeds():
    code = "import json, test_run as t; print(json.dumps({name: run.run_id for name, run in t.RUNS.items()}))"
    ids = []
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=LIMIT_S)
        ids.append(json.loads(done.stdout))
    assert ids[0] == ids[1] == {name: run.run_id for name, run in RUNS.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"batch": 8},
        {"tokens": 2 * tiny.STEPS * 64},
        {"representation": DENSE},
        {"representation": replace(tiny.INT4, hadamard=4)},
        {"representation": replace(tiny.INT4, signs=0)},
        {"model": replace(tiny.MODEL, layers=3)},
        {"model": replace(tiny.MODEL, family="olmo2")},
        {"optimizer": Optimizer(0.02, b2=0.98)},
        {"optimizer": Optimizer(0.02, amsgrad=True)},
        {"optimizer": Optimizer(0.02, eps=1e-7)},
        {"data": replace(tiny.corpus().id, sha256="0" * 64)},
        {"ladder": "other"},
    ],
)
def test_every_change_changes_the_id(changes):
    assert tiny.run(**changes).run_id != tiny.run().run_id


def test_a_later_version_of_the_numerics_changes_every_id(monkeypatch):
    before = {name: replace(run).run_id for name, run in RUNS.items()}
    assert before == {name: run.run_id for name, run in RUNS.items()}
    monkeypatch.setattr("capscale.train.run.NUMERICS", 2)
    for name, run in RUNS.items():
        assert described(run)["numerics"] == 2
        assert replace(run).run_id != before[name]


def test_numbers_that_no_field_tells_are_those_of_this_version():
    """Where one of them is to be another, `NUMERICS` is to be raised: it decides results, and is in no other part of an
    id."""
    assert NUMERICS == 1
    assert (corpus.BLOCK, corpus.HELD_OUT_EVERY, corpus.VOCABULARY) == (8192, 20, 96)
    assert MEASURED_EVERY == 8


def test_equal_runs_share_an_id():
    whole, real = Optimizer(1, clip=1, weight_decay=0), Optimizer(1.0, clip=1.0, weight_decay=0.0)
    assert whole == real
    assert tiny.run(optimizer=whole).run_id == tiny.run(optimizer=real).run_id


def test_canonical_json_is_sorted_and_tight():
    assert canonical_json((1.5, 2.0, True, None, "é")) == '[1.5,2,true,null,"\\u00e9"]'
    assert canonical_json(Optimizer(0.1)).startswith('{"amsgrad":false,"b1":0.9,"b2":0.95,"clip":1,')
    assert to_json(Optimizer(0.1))["type"] == "Optimizer"


@pytest.mark.parametrize("value", [object(), {"a": 1}, {1, 2}, b"bytes", 1j, lambda: 0, Optimizer])
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(UserError, match="cannot be written as JSON"):
        canonical_json((1, value))


def test_derived_numbers():
    run = RUNS["paper-int4"]
    assert run.tokens_per_step == 512 * 512
    assert run.steps == round(25 * 30_482_560 / 262_144) == 2907
    assert run.trained_tokens == 2907 * 262_144
    assert run.non_embedding_parameters == 30_482_560
    assert run.flops == pytest.approx(6 * 30_482_560 * 2907 * 262_144)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch=0 must be at least 1"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**31}, "seed=2147483648"),
        ({"tokens": 31}, "tokens=31 is less than half a step of 64 tokens"),
        ({"model": replace(tiny.MODEL, vocabulary=95)}, "'tiny' has 96 symbols, the model only 95"),
    ],
)
def test_impossible_runs_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        tiny.run(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0}, "learning_rate=0 must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"learning_rate": float("inf")}, "learning_rate=inf"),
        ({"b1": 1.0}, "b1=1.0 must be at least 0 and below 1"),
        ({"b2": -0.1}, "b2=-0.1"),
        ({"warmup": 1.0}, "warmup=1.0"),
        ({"final": 1.1}, "final=1.1"),
        ({"decay": "step"}, "decay='step' is unknown; use 'cosine' or 'linear'"),
        ({"eps": 0.0}, "eps=0.0 must be above 0"),
        ({"eps": float("nan")}, "eps=nan"),
        ({"clip": 0.0}, "clip=0.0 must be above 0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
    ],
)
def test_impossible_optimizers_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Optimizer(**({"learning_rate": 0.1} | changes))
