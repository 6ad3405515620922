"""Bytes between four CPU devices in a step, read from programs that are compiled in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.limits import LIMIT_S

SCRIPT = Path(__file__).parents[1] / "support" / "four_devices.py"
ROWS = {"all-to-all", "collective-permute"}
"""Collectives by which devices would send each other rows of weights."""


def sent(*cases):
    """Bytes by kind of collective, and those of the parameters that devices share, of each case."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    done = subprocess.run(
        [sys.executable, SCRIPT, json.dumps(cases)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=2 * LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [(found["sent"], found["shared"]) for found in json.loads(done.stdout)]


@pytest.mark.ci
def test_devices_project_the_weights_that_they_have():
    """Each sends three quarters of the values that they share, and of their gradients, and no rows for int4.

    By four micro-batches once as well. Without the rule of who projects what, rows and more values go about.
    """
    (ruled, shared), (unruled, _) = sent({"weights": "int4", "microbatches": 4}, {"weights": "int4", "split": False})
    assert ruled["all-gather"] == ruled["reduce-scatter"] == 3 / 4 * shared
    assert not ROWS & set(ruled)
    assert set(unruled) >= ROWS
    assert unruled["all-gather"] > 2 * ruled["all-gather"]


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["dense", "int4"])
def test_bytes_do_not_depend_on_micro_batches(weights):
    """Of devices that share weights, and, of gradients, of devices that have all; embedding and head among them."""
    split = sent(*({"weights": weights, "microbatches": parts} for parts in (1, 2, 4)))
    whole = sent(*({"weights": weights, "fsdp": 1, "microbatches": parts} for parts in (1, 4)))
    assert split[0] == split[1] == split[2]
    assert split[0][0]["all-gather"] == 3 / 4 * split[0][1]
    assert whole[0] == whole[1]
    assert set(whole[0][0]) == {"all-reduce"}
