"""Every value that a user makes refuses what it cannot mean, when it is made: NaN, infinities, booleans, words.

`VALUES` says of every number of every public frozen dataclass which of `DOUBTFUL` it takes; all others, and all of
`NEVER`, must be a `UserError`: no other exception, and no silence. A class that is new has to be listed.
"""

import dataclasses
import importlib
import inspect
import math
import pkgutil
import typing
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from flax import linen as nn
from support import tiny

import capscale
from capscale import capacity, estimators, gradients, parametrizations, policy, representation
from capscale.analysis import fit, planner
from capscale.data import corpus, manifest, prepare, tokenize, tokenizer
from capscale.errors import UserError
from capscale.formats import (
    compensated,
    compose,
    double_quantized,
    e8p,
    families,
    floats,
    grids,
    groups,
    kquant,
    levels,
    magnitude,
    nearest,
    nested,
    noise,
    outliers,
    pattern,
    rigl,
    rotated,
    scalar,
    scale,
    schedule,
    sparse,
    training_scales,
    vector,
)
from capscale.models import ladder, rope
from capscale.sweep import fitting, preflight, ray_unit, slices
from capscale.sweep.launchers import job, slurm
from capscale.train import corrections, loop, memory, run, step

NEVER = (math.nan, math.inf, -math.inf, True, False, "1", b"1", 1j, [1])
DOUBTFUL = (-1, 0, 1e-60, 0.5, 1 - 1e-12, 1, 2, 2**70, None)
SHARE = (0, 0.5)
SHARES = (0, 0.5, 1 - 1e-12, 1)
POSITIVE = (0.5, 1 - 1e-12, 1, 2, 2**70)
ANY = (-1, 0, *POSITIVE)
WIDE = (1e-60, *POSITIVE)
"""Of what is computed in float64."""
COUNT = (1, 2)
SOME = (0, 1, 2)

STORED = ("tokens", "documents", "text_bytes", "size")

VALUES: list[tuple[object, dict[str, tuple[object, ...]]]] = [
    (run.Optimizer(0.1), {
        "learning_rate": POSITIVE, "clip": POSITIVE, "b1": SHARE, "b2": SHARE, "warmup": SHARE, "final": SHARES,
        "weight_decay": (0, *POSITIVE), "eps": POSITIVE,
    }),
    (corrections.Cage(), {"strength": POSITIVE, "silence": SHARE}),
    (corrections.DeltaDecay(0.5), {"decay": (0.5, 1 - 1e-12, 1)}),
    (tiny.run(), {"tokens": (), "batch": COUNT, "seed": SOME}),
    (tiny.MODEL, {
        "layers": COUNT, "heads": COUNT, "width": (2,), "vocabulary": COUNT, "context": COUNT, "multiple_of": COUNT,
        "init_std": (0, *POSITIVE), "rope_theta": POSITIVE, "norm_epsilon": POSITIVE, "kv_heads": (1, None),
        "head_width": (2, None), "feed_forward_width": (*COUNT, None),
    }),
    (rope.LinearRope(2), {"factor": (1, 2, 2**70)}),
    (rope.Llama3Rope(8, 0.5, 4, 64), {
        "factor": (1, 2, 2**70), "low": (0.5, 1 - 1e-12, 1, 2), "high": (1 - 1e-12, 1, 2, 2**70), "context": COUNT,
    }),
    (ladder.NANO, {"batch": COUNT}),
    (memory.Memory(), {"microbatches": COUNT}),
    (loop.LoopIntervals(3), {"chunk": COUNT, "checkpoint_s": (0, *WIDE, None), "mtbf_s": POSITIVE}),
    (step.Program.of(tiny.run()), {"batch": COUNT, "devices": COUNT}),
    (corpus.DataId("text", "0" * 64, 96), {"vocabulary": COUNT}),
    (tokenize.Split(0.5, 1), {"share": (1e-60, 0.5, 1 - 1e-12), "cap": COUNT}),
    (tokenizer.TokenizerId("byte", "byte", "0" * 64, 257, None, 256), {
        "vocabulary": (), "begin": (*SOME, None), "end": SOME,
    }),
    (manifest.Shard("train.npy", 1, 1, 1, 1, "0" * 64), dict.fromkeys(STORED, SOME)),
    (prepare.Request("byte"), {"most_lost": (0, 1e-60, 0.5, 1 - 1e-12, 1)}),
    (job.Job("name", (), (), 1, "out"), {"runs": COUNT, "per_task": COUNT, "shared": (*COUNT, None)}),
    (slurm.Asked(), {"devices": COUNT, "hours": COUNT, "at_once": (*COUNT, None), "cpus": (*COUNT, None)}),
    (preflight.Setting(slices.find_slice("v5e:2x2")), {"fsdp": COUNT}),
    (slices.Slice("v5e", "2x2"), {"count": COUNT}),
    (ray_unit.Unit("GPU", 1, "pod"), {"devices": COUNT, "hosts": COUNT}),
    (fitting.Here(), {"given": (*COUNT, None)}),
    (fit.Settings(), {"delta": WIDE, "starts": COUNT, "seed": SOME}),
    (planner.Budget(memory=1.0, tokens=1.0), {"memory": WIDE, "flops": (None,), "loss": (None,), "tokens": WIDE,
                                              "tokens_per_parameter": (None,)}),
    (capacity.Scaling(1.0, 1.0, 1.0, 1.0, 1.0), {
        "A": WIDE, "alpha": WIDE, "g": WIDE, "B": (0, *WIDE), "beta": (0, *WIDE), "E": (-1, 0, *WIDE),
    }),
    (representation.Representation(hadamard=2, signs=0), {"hadamard": (2,), "signs": (0, *COUNT, None)}),
    (parametrizations.Shared(2), {"share": (2,), "seed": SOME}),
    (parametrizations.LowRank(2), {"rank": COUNT, "share": (None,)}),
    (parametrizations.LowRank(share=0.5), {"rank": (None,), "share": SHARES[1:]}),
    (parametrizations.KroneckerSum(2), {"terms": COUNT, "share": (None,)}),
    (parametrizations.Hashed(0.5), {"share": SHARES[1:], "seed": SOME}),
    (parametrizations.Monarch(2), {"blocks": (2,)}),
    (parametrizations.Nola(0.5, 2), {"share": SHARES[1:], "rank": COUNT, "seed": SOME}),
    (gradients.BackwardProduct(scalar.Scalar(grids.Int(4)), hadamard=2, signs=0), {
        "hadamard": (2,), "signs": (0, *COUNT, None),
    }),
    (policy.Rule(".*", tiny.INT4), {"contraction": (-1, 0, *COUNT, 2**70, None), "starts": SHARE}),
    (estimators.Trust(), {"threshold": POSITIVE}),
    (estimators.Clip(), {"scale": POSITIVE}),
    (estimators.TrustRadius(0.3), {"radius": POSITIVE}),
    (estimators.ThroughScale(), {}),
    (estimators.Hypersphere(), {"radius": POSITIVE}),
    (estimators.RmsThreshold(0.1), {"p": (0,)}),
    (estimators.BRms(0.1), {"p": (0,)}),
    (estimators.ABRms(0.1), {"a": SHARES}),
    (grids.Int(4), {"bits": COUNT}),
    (floats.E4M3, {"exponent": COUNT, "mantissa": SOME}),
    (groups.Groups(8), {"size": (2,)}),
    (scalar.Scalar(grids.Int(4), group=8), {"group": (2, 2**70)}),
    (nested.Nested((8, 4, 2)), {"group": (2, 2**70), "at": (2, None)}),
    (scale.Rms(), {"multiple": (*POSITIVE, None)}),
    (scale.Learned(), {}),
    (scale.Absmax(), {}),
    (scale.PowerOfTwo(), {}),
    (scale.TwoLevel(), {}),
    (training_scales.PowerOfTwoTimes(), {"multiple": (1,)}),
    (training_scales.PowerOfTwoOfRms(), {"multiple": (*POSITIVE, None)}),
    (training_scales.MsEden(), {"stretch": POSITIVE, "top": POSITIVE}),
    (magnitude.Magnitude(), {"multiple": POSITIVE}),
    (kquant.KQuant(), {"groups": (2,), "bits": COUNT, "start": (-1, 0, 0.5, 1 - 1e-12, 1, 2), "steps": SOME}),
    (e8p.E8P(), {"step": POSITIVE, "group": (2**70,)}),
    (double_quantized.DoubleQuantized(), {"groups": (2,)}),
    (sparse.TopK(0.5), {"sparsity": SHARE, "unit": COUNT}),
    (rigl.RigL(0.5), {"sparsity": SHARE, "period": COUNT, "stop": (0.5, 1 - 1e-12, 1), "drop": SHARE}),
    (pattern.NM(2, 4), {"n": (1, 2), "m": (), "unit": COUNT}),
    (compensated.Compensated(scalar.Scalar(grids.Int(4)), nearest.Nearest(parametrizations.LowRank(2))), {
        "rounds": COUNT,
    }),
    (outliers.Outliers(scalar.Scalar(grids.Int(4)), 0.01), {"fraction": SHARE}),
    (vector.Vector(2, 16), {"dimension": (2,), "codewords": (), "group": (2, 2**70), "points": (None,)}),
    (noise.Noise(0.1), {"gmse": (0.5, 1 - 1e-12, 1)}),
    (schedule.Cubic(), {"start": SHARE, "end": (0.5, 1 - 1e-12, 1)}),
    (compose.SparseQuantized(sparse.TopK(0.5), scalar.Scalar(grids.Int(4))), {}),
    (rotated.ThenRotated(sparse.TopK(0.5), scalar.Scalar(grids.Int(4))), {}),
    (families.StudentT(), {"df": ()}),
    (families.SphereCoordinate(8), {"values": (2,)}),
]  # fmt: skip


MANY: list[tuple[Callable[[Any], object], tuple[object, ...]]] = [
    (lambda number: levels.Levels((-2.0, number)), (0.5, 1 - 1e-12, 1, 2, 2**70)),
    (lambda number: capacity.Capacity(capacity.TANH, (("F", number), ("C", 1.0))), (-1, 0, *WIDE)),
    (lambda number: fit.Constraints(fixed={"E": number}), (-1, 0, *WIDE)),
    (lambda number: fit.Constraints(priors={"E": (number, 1.0)}), (-1, 0, *WIDE)),
    (lambda number: fit.Constraints(priors={"E": (1.0, number)}), (-1, 0, *WIDE)),
    (lambda number: dataclasses.replace(ladder.NANO, learning_rates={"nano-4": number}), WIDE),
]
"""Values that hold many numbers, made with one of them, and which of `DOUBTFUL` it may be."""

MADE = {
    "adapters": "Contraction Linear",
    "analysis": "Across Bootstrap Calibration Capacities CapacityLaw CapacityRow Claim Comparison Contradiction "
    "CutOffs Departure Difference Draws Estimate Factorization Fit Fold Inspection Judgement Kin Kind Law "
    "Matrix NextRun Option Outlier Outliers Picture Plan Posterior Prediction Predictor Problem Profile "
    "Reference Release RiseFit Rollout Rule Scatter Source Study Table Tie Validation",
    "coded": "Coded",
    "data": "Corpus Job Manifest Share Span",
    "formats": "LargeBlocks LargestOf LargestPairs Packed Tails",
    "reproduction": "Found",
    "sweep": "Chip Endings Outcome Sweep",
    "testing": "Subject",
    "train": "Grid Parsed",
}
"""Classes that the package itself makes, of values that are checked: nobody else has a reason to."""


def public_classes() -> list[type]:
    """Frozen dataclasses of the package that have a number or a flag, outside of commands, kernels and Flax modules."""
    found = []
    for module in pkgutil.walk_packages(capscale.__path__, "capscale."):
        if not module.name.startswith(("capscale.cli", "capscale.kernels", "capscale.experiments")):
            for name, cls in vars(importlib.import_module(module.name)).items():
                own = inspect.isclass(cls) and cls.__module__ == module.name and not name.startswith("_")
                if own and dataclasses.is_dataclass(cls) and not issubclass(cls, nn.Module):
                    found += [cls] if fields_of(cls, int, float, bool) else []
    return found


def fields_of(cls: type, *kinds: type) -> list[str]:
    """Fields that hold one of some kinds, by their annotations; those that hold many are in `MANY`."""
    hints = typing.get_type_hints(cls)

    def holds(hint: object) -> bool:
        return hint in kinds or any(holds(part) for part in typing.get_args(hint))

    of_many = [name for name, hint in hints.items() if typing.get_origin(hint) in (tuple, dict, Mapping)]

    return [field.name for field in dataclasses.fields(cls) if field.name not in of_many and holds(hints[field.name])]


def test_every_class_is_listed():
    listed = {type(value) for value, _ in VALUES}
    made = {name for names in MADE.values() for name in names.split()}
    assert [cls for cls in public_classes() if cls not in listed and cls.__name__ not in made] == []


@pytest.mark.parametrize(("value", "taken"), [pytest.param(*entry, id=type(entry[0]).__name__) for entry in VALUES])
def test_numbers_are_checked_where_a_value_is_made(value, taken):
    assert sorted(taken) == sorted(fields_of(type(value), int, float))
    for name, accepted in taken.items():
        takes_only(accepted, lambda number, name=name: dataclasses.replace(value, **{name: number}))


@pytest.mark.parametrize(("made", "accepted"), MANY)
def test_each_of_many_numbers_is_checked(made, accepted):
    takes_only(accepted, made)


def takes_only(accepted: tuple[object, ...], made: Callable[[Any], object]) -> None:
    for number in (*NEVER, *DOUBTFUL):
        if any(type(number) is type(one) and number == one for one in accepted):
            made(number)
        else:
            with pytest.raises(UserError, match=r"[a-z]{3}"):
                pytest.fail(f"{number!r} was taken: {made(number)}")


@pytest.mark.parametrize("value", [pytest.param(value, id=type(value).__name__) for value, _ in VALUES])
def test_flags_and_words_are_checked_where_a_value_is_made(value):
    hints = typing.get_type_hints(type(value))
    words = [name for name, hint in hints.items() if typing.get_origin(hint) is typing.Literal]
    for name in [*fields_of(type(value), bool), *words]:
        for other in (math.nan, 1, 0, "yes", None):
            with pytest.raises(UserError, match=f"{name}="):
                pytest.fail(f"taken: {dataclasses.replace(value, **{name: other})}")
