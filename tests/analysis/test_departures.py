import importlib.util
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from support.synthetic import runs

from capscale.analysis.departures import departures, is_scalar, kin
from capscale.analysis.table import make_table

SHIPPED = json.loads(files("capscale.analysis").joinpath("data/kind_departures.json").read_text())["departures"]


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).resolve().parents[2] / "scripts" / "kind_departures.py"
    spec = importlib.util.spec_from_file_location("kind_departures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_shipped_departures_are_those_of_figures_runs_and_the_committed_rows(script):
    found = [*script.of_figures(), *script.of_quest(), *script.of_experiment("micro_capacity")]
    assert [e["format"] for e in found] == [e["format"] for e in SHIPPED]
    for one, other in zip(found, SHIPPED, strict=True):
        assert one["departure"] == pytest.approx(other["departure"], abs=2e-4), one
        assert one | {"departure": 0} == other | {"departure": 0}


def test_a_departure_takes_the_curve_to_the_capacity(script):
    weights = script.side(script.printed()["6"], "int{:.0f}", columns=False)
    curve = script.curve(weights)
    for e in (e for e in SHIPPED if e["kind"] == "sparse" and e["study"].startswith("arXiv 2506")):
        error = script.gaussian_error(e["format"])
        assert np.exp(np.exp(-e["departure"]) * np.log(curve.rho(error))) == pytest.approx(e["rho"], abs=1e-3)


def test_kinds_have_signs_and_scalar_ones_differ_less():
    found = departures()
    assert found.means[("activations", "sparse")] < -0.1 < 0 < found.means[("weights", "sparse")]
    assert found.means[("weights", "int")] == 0
    assert max(found.of_kind[0], found.of_format[0]) < 0.2 < min(found.of_kind[1], found.of_format[1])


def kin_of(*names, **columns):
    table = make_table(runs(dict.fromkeys(names, 0.5), sizes=(1e4,), tokens=(1e7,), **columns), "x")
    return [kin(r)[0] for r in table.rows if not r.is_dense]


def test_formats_of_one_grid_scale_or_kind_are_kin():
    each = kin_of("int4", "int3", "e2m1", "top50")
    names = [k.name.split()[0] for k in each]
    C = departures().covariance(each)
    at = {n: i for i, n in enumerate(names)}
    correlation = C / np.sqrt(np.outer(np.diag(C), np.diag(C)))
    assert np.linalg.eigvalsh(C).min() > -1e-12
    assert correlation[at["int4"], at["int3"]] > correlation[at["int4"], at["e2m1"]] > 0
    assert correlation[at["int4"], at["top50"]] == 0
    assert np.all(np.diag(correlation) == pytest.approx(1))


def test_names_outside_the_catalog_are_kin_by_their_letters():
    lut3, lut4, other = kin_of("lut3", "lut4", "mine", weights_gmse=0.03)
    assert lut3.kind == lut4.kind != other.kind
    assert lut3.name != lut4.name
    assert not is_scalar("lut3")
