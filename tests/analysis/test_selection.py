"""Every command fits a law to the same rows of a table."""

from contextlib import suppress

import pandas as pd
import pytest
import tyro
from support.synthetic import rho_of, runs

from capscale.analysis import capacities, constraints, ensemble, extensions, study_laws, validation
from capscale.analysis.fit import fit as real_fit
from capscale.analysis.laws import LAWS
from capscale.analysis.selection import rows_of
from capscale.analysis.table import make_table
from capscale.cli import analysis, bench, planning
from capscale.errors import UserError

RECORDS = [
    *runs({"int4": rho_of("int4"), "top50": 0.55, "top50 [forward_mask]": 0.7}, seed=0),
    *({**r, "D": 4e6, "run": f"long {i}"} for i, r in enumerate(runs({}, seed=0))),
]
ALL, DENSE, PLAIN = 24, 12, 20
FITTING = (capacities, constraints, ensemble, extensions, study_laws, validation)
"""Modules that hold `fit` by name: imported here, none of them binds a test's stand-in for good."""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "runs.csv"
    pd.DataFrame(RECORDS).to_csv(path, index=False)
    return str(path)


class Recorder:
    """Stands for `fit`, notes which rows came, and ends the command."""

    def __init__(self):
        self.rows = {}

    def __call__(self, table, law, *rest, **named):
        self.rows.setdefault(law.name, set()).add(len(table))
        raise UserError("recorded")


@pytest.mark.parametrize("form", LAWS)
def test_every_command_fits_a_law_to_the_same_rows(file, form, monkeypatch, tmp_path):
    recorder = Recorder()
    monkeypatch.setattr("capscale.analysis.fit.fit", recorder)
    for module in FITTING:
        monkeypatch.setattr(module, "fit", recorder)
    asked = [
        (analysis.Fit, ["--form", form]),
        (planning.Predict, ["--form", form, "--weights", "int4"]),
        (planning.Plan, ["--form", form, "--memory", "1e4", "--tokens", "2e6"]),
        (bench.Bench, ["--laws", form, "--json"]),
    ]
    for command, arguments in asked:
        with suppress(UserError):
            tyro.cli(command, args=[file, *arguments])()
    law = LAWS[form]
    assert form in recorder.rows
    # The laws that it is averaged with in predictions see the same rows.
    assert set().union(*recorder.rows.values()) == {DENSE if law.dense else ALL if law.per_format else PLAIN}


@pytest.mark.ci
def test_so_does_the_report(file, monkeypatch, tmp_path):
    recorder = Recorder()

    def fitting(table, law, *rest, **named):
        with suppress(UserError):
            recorder(table, law)
        return real_fit(table, law, *rest, **named)

    monkeypatch.setattr(study_laws, "fit", fitting)
    tyro.cli(analysis.Report, args=[file, "--bootstrap", "20", "--out", str(tmp_path / "report")])()
    assert recorder.rows == {"decoupled": {24}, "tanh": {PLAIN}}


def test_who_is_left_out_is_said():
    table = make_table(RECORDS, "x", strict=False)
    tanh, dense = rows_of(table, LAWS["tanh"]), rows_of(table, LAWS["dense"])
    assert sum("another estimator" in r.what for r in tanh.remarks) == 4
    assert dense.remarks[-1].what == "left out of the dense law: 12 compressed runs"
    assert rows_of(table, LAWS["decoupled"]).remarks == table.remarks


def test_a_law_without_rows_is_refused():
    masked = [r for r in RECORDS if r["weights_estimator"]]
    with pytest.raises(UserError, match=r"tanh law to: every run has another gradient estimator.*--form decoupled"):
        rows_of(make_table(masked, "x", strict=False), LAWS["tanh"])
    with pytest.raises(UserError, match="dense law to: no dense run"):
        rows_of(make_table(masked, "x", strict=False), LAWS["dense"])
