"""The report of a study: one self-contained HTML page, its figures as PNG, and every number as CSV and JSON."""

import base64
import csv
import io
import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import jinja2
from etils import epath
from matplotlib.figure import Figure

from capscale.analysis.conditioning import conditioning
from capscale.analysis.constraints import Comparison
from capscale.analysis.fit import Fit
from capscale.analysis.measure import CapacityLaw
from capscale.analysis.names import as_cell
from capscale.analysis.pictures import pictures
from capscale.analysis.sentences import caveats, fits, notes, summary
from capscale.analysis.sentences.rule import Rule, say
from capscale.analysis.study import Difference, Study
from capscale.analysis.validation import Validation
from capscale.files import make_directory, writing
from capscale.realised import COLUMNS, ERROR_FACTOR, PASS_SHARE

DPI = 160


def texts(rules: Sequence[Rule], subject: Any) -> list[str]:
    """The sentences of `rules` that are true of `subject`."""
    return [sentence.text for sentence in say(rules, subject)]


def provenance(study: Study, command: str) -> dict[str, str]:
    """Command, versions, hashes, wall time: what is needed to make this page again."""
    context = study.table.context
    packages = ("jax", "numpy", "scipy", "matplotlib")
    entries = {
        "command": command,
        "input": study.table.source,
        "rows' sha256": study.table.sha256,
        "analysed with": ", ".join(
            [f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
        ),
    }
    if "command" in context:
        entries["trained by"] = str(context["command"])
    if "experiment" in context:
        entries["experiment"] = f"{context['experiment']} on the {context.get('ladder', '?')} ladder"
    if isinstance(context.get("versions"), Mapping):
        entries["trained with"] = ", ".join(f"{k} {v}" for k, v in context["versions"].items())
    data = context.get("data")
    if isinstance(data, Mapping):
        entries["text"] = f"{data.get('name')}, sha256 {data.get('sha256')}"
    if context.get("training_seconds"):
        entries["training time"] = f"{context['training_seconds']:.0f} s, summed over runs"
    return entries


def fit_numbers(fit: Fit) -> dict[str, Any]:
    """Everything about one fit, for JSON."""
    about = conditioning(fit)
    return {
        "law": fit.law.name,
        "equation": fit.law.equation,
        "source": fit.law.source,
        "values": fit.values,
        "rho": fit.rho,
        "fixed": dict(fit.constraints.fixed),
        "priors": {k: list(v) for k, v in fit.constraints.priors.items()},
        "rows": len(fit.table),
        "rmse": fit.rmse,
        "objective": fit.objective,
        "delta": fit.settings.delta,
        "logarithmic": fit.settings.logarithmic,
        "share_outside_delta": fit.huber_share,
        "starts": fit.settings.starts,
        "starts_in_the_best_optimum": fit.agreeing,
        "converged": fit.converged,
        "at_bounds": list(fit.bounds_hit),
        "condition": about.condition,
    }


def comparison_numbers(found: Comparison | None) -> dict[str, Any] | None:
    """Fixed numbers and priors held against the free fit, for JSON; None where there were none."""
    if found is None:
        return None
    return {
        "rmse": found.constrained.rmse,
        "rmse_free": found.free.rmse,
        "ratio": found.ratio,
        "limit": found.limit,
        "contradicted": found.contradicted,
        "values_free": found.free.values,
        "freed_alone": [r.__dict__ for r in found.releases],
    }


def curve_numbers(law: CapacityLaw | None) -> dict[str, Any] | None:
    """A form of rho with its numbers, for JSON; None where there is none."""
    return law and {"form": law.form.name, **dict(law.capacity.values)}


def _difference_numbers(d: Difference) -> dict[str, Any]:
    return {
        "first": d.first,
        "second": d.second,
        "difference": d.rho.estimate,
        "low": d.rho.low,
        "high": d.rho.high,
        "deviation": d.deviation,
        "reversed": d.reversed,
    }


def numbers(study: Study, command: str, bench: Sequence[Validation] = ()) -> dict[str, Any]:
    """Every number of the report."""
    return {
        "provenance": provenance(study, command),
        "method": study.measured.method,
        "capacities": [
            {
                "format": c.curve,
                "kind": c.kind,
                "gmse": c.gmse,
                "measured": c.is_measured,
                "why_not_measured": c.why_not,
                "rho": c.rho.estimate,
                "rho_low": c.rho.low,
                "rho_high": c.rho.high,
                "rho_deviation": c.deviation,
                "rho_law": c.law,
                "rho_law_of_kind": c.kind_law,
                "rho_joint_fit": c.joint,
                "rho_over_E_low": c.over_E[0],
                "rho_over_E_high": c.over_E[1],
                "in_law": c.in_law,
                "runs": c.runs,
                **dict(zip(COLUMNS, c.weights, strict=True)),
            }
            for c in study.capacities
        ],
        "kinds": [
            {
                "kind": k.name,
                "formats": list(k.curves),
                "rank_correlation": k.rank and k.rank._asdict(),
                "capacity_law": curve_numbers(k.law),
            }
            for k in study.kinds
        ],
        "across_kinds": {
            "verdict": study.across.verdict,
            "rank_correlation": study.across.rank and study.across.rank._asdict(),
            "capacity_law": curve_numbers(study.capacity_law),
            "correlation": study.correlation,
            "tolerance": study.across.tolerance,
            "departures": [
                {"kind": d.kind, "formats": list(d.curves), **d.rho._asdict()} for d in study.across.departures
            ],
        },
        "near_ties": [_difference_numbers(t) for t in study.ties],
        "other_estimators": [_difference_numbers(d) for d in study.other_estimators],
        "equivalents": [e._asdict() | {"rho": e.rho} for e in study.equivalents],
        "fits": [fit_numbers(study.law), fit_numbers(study.free)],
        "against_free_fit": comparison_numbers(study.inspected.comparison),
        "profiles": {
            f.law.name: {n: p.interval()._asdict() for n, p in ps.items()}
            for f, ps in ((study.law, study.law_profiles), (study.free, study.free_profiles))
        },
        "bootstrap": {n: study.law_bootstrap.interval(n)._asdict() for n in study.law.values},
        "rows": [r.line for r in study.table.rows],
        "findings": [s._asdict() for s in say(fits.RULES, study.inspected)],
        "remarks": [r._asdict() for r in study.table.remarks],
        "bench": [
            {"law": v.law.name, "equation": v.law.equation, "why_not": v.why, "rows": v.rows, **v.line} for v in bench
        ],
        "reading": texts(summary.RULES, study),
        "limits": texts(caveats.RULES, study),
        "notes": {
            "capacities": texts(notes.CAPACITIES, study),
            "fits": texts(notes.FITS, study),
            "equivalents": texts(notes.EQUIVALENTS, study),
            "bench": texts(notes.BENCH, bench),
        },
    }


def json_ready(value: Any) -> Any:
    """Infinities and NaN as null: JSON has neither."""
    if isinstance(value, Mapping):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def environment() -> jinja2.Environment:
    """Templates, with numbers shortened for reading and everything escaped."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("capscale.analysis", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    env.filters["g"] = lambda x: "–" if x is None or not math.isfinite(x) else f"{x:.4g}"
    env.filters["f3"] = lambda x: "–" if x is None or not math.isfinite(x) else f"{x:.3f}"
    env.filters["percent"] = lambda x: "–" if x is None or not math.isfinite(x) else f"{x:.0%}"
    env.filters["base64"] = lambda b: base64.b64encode(b).decode()
    return env


def write_report(study: Study, directory: epath.PathLike, command: str, bench: Sequence[Validation] = ()) -> epath.Path:
    """Write report.html, the figures, capacities.csv, rows.csv and report.json; returns the page's path."""
    content = numbers(study, command, bench)
    images = [(p, png(p.figure)) for p in pictures(study, bench)]
    page = (
        environment()
        .get_template("report.html")
        .render(
            study=study,
            numbers=content,
            images=images,
            laws=(study.law, study.free),
            provenance=content["provenance"],
            factor=ERROR_FACTOR,
            share=PASS_SHARE,
        )
    )
    files: dict[str, bytes] = {
        "report.html": page.encode(),
        "report.json": (json.dumps(json_ready(content), indent=1) + "\n").encode(),
        "capacities.csv": csv_bytes(content["capacities"]),
        "rows.csv": csv_bytes(content["rows"]),
        **{f"{p.name}.png": image for p, image in images},
    }
    write_files(directory, files)
    return epath.Path(directory) / "report.html"


def write_files(directory: epath.PathLike, files: Mapping[str, bytes]) -> None:
    """Write files into a directory, made if need be; UserError where that cannot be done."""
    directory = epath.Path(directory)
    with writing(directory):
        make_directory(directory)
        for name, content in files.items():
            (directory / name).write_bytes(content)


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as CSV, with a header; see `as_cell`."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: as_cell(value) for name, value in row.items()} for row in rows)
    return buffer.getvalue().encode()
