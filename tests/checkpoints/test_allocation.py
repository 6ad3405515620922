"""A format for every matrix: rises by hand, budgets, mixtures against one another, and the command."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from capscale.checkpoints.allocation import allocate
from capscale.checkpoints.evaluation import WindowLosses
from capscale.checkpoints.post_training import Rounded, rounded
from capscale.checkpoints.rounding import Asked
from capscale.checkpoints.sensitivity import Mixtures, Rise, calibration_windows, slope_of
from capscale.checkpoints.source import read_source
from capscale.cli import main
from capscale.errors import UserError
from capscale.formats.base import NO_CONTEXT
from capscale.formats.catalog import find
from capscale.models.assigned import Assigned, assigned
from capscale.models.projected import kernels_of
from capscale.policy_names import find_policy
from capscale.representation import DENSE

pytestmark = pytest.mark.ci

NAMES = ("int2", "int4", "int8")
FORMATS = [find(name) for name in NAMES]


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    directory = tmp_path_factory.mktemp("dense")
    tiny.train_one(tiny.run(representation=DENSE, tokens=200 * 64), directory)
    return read_source(directory)


@pytest.fixture(scope="module")
def found(dense):
    return allocate(dense, FORMATS, tiny.corpus(), 9.0, windows=64)


def test_one_matrix_is_rounded_and_no_other(dense):
    mixtures = Mixtures(dense, FORMATS, None)
    place = next(at for at, m in enumerate(mixtures.matrices) if m.path == "layers/mlp/up/kernel" and m.layer == 1)
    masters, mixed = kernels_of(dense.params), kernels_of(mixtures.one(place, 0))
    for path, kernel in masters.items():
        for layer in range(2):
            w, h = np.asarray(kernel[layer]), np.asarray(mixed[path][layer])
            if (path, layer) == mixtures.matrices[place]:
                by_hand = np.asarray(find("int2").project(jnp.asarray(w.T), NO_CONTEXT).value).T
                np.testing.assert_array_equal(h, by_hand)
                assert mixtures.error(place, 0) == pytest.approx(np.square(by_hand - w).sum(), rel=1e-5)
            else:
                np.testing.assert_array_equal(h, w)


def test_all_in_one_format_is_what_quantize_measures(dense, found):
    _, *alone = rounded(dense, Asked(FORMATS), tiny.corpus())
    uniform = {mixture.name: mixture for mixture in found.uniform}
    assert list(uniform) == ["int2 for all", "int4 for all", "int8 for all"]  # 8-wide rows: scales count for much
    for one in alone:
        assert isinstance(one, Rounded)
        mixture = uniform[f"{one.weights} for all"]
        assert (mixture.rise, mixture.rise_se) == pytest.approx((one.rise, one.rise_se), rel=1e-5, abs=1e-7)


def test_the_budget_holds_and_the_sum_is_the_least(found):
    values = np.array([one.values for one in found.sensitivities])
    for mixture in (found.allocated, found.evolved):
        bits = [one.bits[NAMES.index(w)] for one, w in zip(found.sensitivities, mixture.weights, strict=True)]
        assert mixture.bits == pytest.approx(np.average(bits, weights=values))
        assert mixture.bits <= found.budget
    chosen = sum(
        one.expected[NAMES.index(w)] for one, w in zip(found.sensitivities, found.allocated.weights, strict=True)
    )
    evolved = sum(
        one.expected[NAMES.index(w)] for one, w in zip(found.sensitivities, found.evolved.weights, strict=True)
    )
    assert found.expected == pytest.approx(chosen)
    assert chosen <= evolved + 1e-12
    assert found.exact
    assert found.evaluations == len(found.sensitivities) * len(NAMES) == 42


def test_rises_are_of_the_calibration_windows(dense, found):
    windows = calibration_windows(tiny.corpus(), dense.model.context, 64)
    held_out, _ = tiny.corpus().validation(dense.model.context)
    assert not {w.tobytes() for w in windows} & {w.tobytes() for w in held_out}
    mixtures, losses = Mixtures(dense, FORMATS, None), WindowLosses(dense, windows)
    apart = losses(mixtures.one(3, 0)) - losses(dense.params)
    told = found.sensitivities[3].rises[0]
    assert told.rise == pytest.approx(apart.mean(), abs=1e-9)
    assert told.rise_se == pytest.approx(apart.std(ddof=1) / 8)


def test_expected_losses_are_measured_where_they_are_clear(found):
    for one in found.sensitivities:
        for rise, expected in zip(one.rises, one.expected, strict=True):
            clear = rise.rise > 3 * rise.rise_se
            assert expected == (rise.rise if clear else pytest.approx(one.slope * rise.error))
    assert any(r.rise > 3 * r.rise_se for one in found.sensitivities for r in one.rises)


def test_slopes():
    fine, middle, coarse = Rise(0.01, 0.0002, 1e-4), Rise(0.1, 0.02, 1e-3), Rise(1.0, 0.5, 1e-2)
    assert slope_of([coarse, fine, middle]) == (pytest.approx(0.2), True)  # the fine one is within its error
    assert slope_of([fine, Rise(0.1, 0.002, 0.01)]) == (pytest.approx(0.0022 / 0.11), False)
    assert slope_of([Rise(0.1, -0.5, 1.0)]) == (0.0, False)
    assert slope_of([Rise(0.0, 0.0, 0.0)]) == (0.0, False)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["int4"], {}, "an allocation chooses between formats, and int4 leaves no choice"),
        (NAMES, {"bits": 2.0}, "2 bits per value are below .*, what the smallest format"),
        (NAMES, {"windows": 1}, "windows=1: a standard error takes 2"),
        (["int4", "lsq4"], {}, "lsq4 is learned in training"),
        (["int4", "mxfp4"], {}, "mxfp4 cannot hold the weights .*group=32 does not divide 8"),
    ],
)
def test_refusals(dense, names, options, message):
    bits = options.pop("bits", 9.0)
    with pytest.raises(UserError, match=message):
        allocate(dense, [find(name) for name in names], tiny.corpus(), bits, **options)


def test_a_run_in_a_format_is_refused(tmp_path):
    tiny.train_one(tiny.run(), tmp_path)
    with pytest.raises(UserError, match="was trained in int4: its layers would be rounded twice"):
        allocate(read_source(tmp_path), FORMATS, tiny.corpus(), 9.0)


def test_the_command(dense, found, tmp_path, capsys):
    (tmp_path / "tiny").write_bytes(tiny.text())
    arguments = ["allocate", str(dense.path), "--weights", *NAMES, "--text", str(tmp_path / "tiny"), "--windows", "64"]
    rules = tmp_path / "rules.txt"
    assert main([*arguments, "--bits", "9", "--json", "--policy", str(rules)]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [m["allocated"] for m in content["matrices"]] == list(found.allocated.weights)
    assert [m["name"] for m in content["mixtures"]][:2] == ["allocated", "evolved"]
    assert content["mixtures"][0]["rise"] == pytest.approx(found.allocated.rise)
    held = assigned(dense.model, find_policy([rules.read_text()]))
    for one, name in zip(found.sensitivities, found.allocated.weights, strict=True):
        of_layers = held.of(one.matrix.path) if isinstance(held, Assigned) else (held,) * 2
        assert of_layers[one.matrix.layer].weights.format == find(name)
    assert main([*arguments, "--bits", "1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "1 bits per value are below" in err
