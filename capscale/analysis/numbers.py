"""Every number of a fit, and of a report, as JSON has it."""

import math
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from capscale.analysis.capacities import CapacityRow
from capscale.analysis.conditioning import conditioning
from capscale.analysis.constraints import Comparison
from capscale.analysis.differences import Difference
from capscale.analysis.extensions import Extensions
from capscale.analysis.fit import Fit
from capscale.analysis.inspection import Inspection
from capscale.analysis.measure import CapacityLaw
from capscale.analysis.outliers import Outliers
from capscale.analysis.sentences import caveats, fits, further, notes, summary
from capscale.analysis.sentences.rule import say, texts
from capscale.analysis.study import Study
from capscale.realised import COLUMNS


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


def contradiction_numbers(inspected: Inspection) -> dict[str, Any] | None:
    """The wider law that the runs ask for, for JSON; None where they do not contradict the fitted one."""
    found = inspected.contradiction
    if found is None:
        return None
    shape = found.wider
    named = {"law": shape.law.name, "number": shape.number, "instead_of": shape.at} if shape else {"law": None}
    return {**named, "chance": found.chance}


def further_numbers(found: Extensions | None) -> dict[str, Any] | None:
    """Further numbers of the additive law, what the table says of them and in words, for JSON; None where not asked."""
    if found is None:
        return None
    return {
        "law": found.fit.law.name,
        "verdict": found.verdict,
        "chance": found.chance,
        "rmse_held_out": found.held_out,
        "cuts": found.cuts,
        "numbers": [
            {
                "law": asked.shape.law.name,
                "number": asked.shape.number,
                "instead_of": asked.shape.at,
                "chance": asked.chance,
                "intervals": {name: interval._asdict() for name, interval in asked.intervals.items()},
                "passes": asked.passes,
                "odds": asked.odds,
                "allowed": asked in found.allowed,
                "rmse_held_out": asked.held_out,
            }
            for asked in found.asked
        ],
        "words": texts(further.RULES, found),
    }


def outlying_numbers(found: Outliers) -> dict[str, Any]:
    """Rows that pull a fit, and the fit without them, for JSON."""
    without = found.without
    return {
        "rows": [r.__dict__ for r in found.rows],
        "law_is_wrong": found.law_is_wrong,
        "formats": list(found.formats),
        "without": {"values": without.values, "rho": found.rho, "rmse": found.rmse} if found.rows else None,
    }


def findings(inspected: Inspection) -> list[dict[str, str]]:
    """The sentences about a fit with the rules that say them, for JSON."""
    return [s._asdict() for s in say(fits.RULES, inspected)]


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


CAPACITY_COLUMNS = (
    *("format", "kind", "gmse", "measured", "why_not_measured", "rho", "rho_low", "rho_high", "rho_deviation"),
    *("rho_law", "rho_law_of_kind", "rho_joint_fit", "rho_over_E_low", "rho_over_E_high", "in_law", "runs"),
    *COLUMNS,
)


def capacity_numbers(c: CapacityRow) -> dict[str, Any]:
    """One format, by `CAPACITY_COLUMNS`."""
    told = (
        *(c.curve, c.kind, c.gmse, c.is_measured, c.why_not, *c.rho, c.deviation),
        *(c.law, c.kind_law, c.joint, *c.over_E, c.in_law, c.runs),
    )
    return dict(zip(CAPACITY_COLUMNS, (*told, *c.weights), strict=True))


def numbers(study: Study, command: str) -> dict[str, Any]:
    """Every number of the report, the law bench aside."""
    draws = study.law_bootstrap
    return {
        "provenance": provenance(study, command),
        "method": study.measured.method,
        "unit": study.unit,
        "not_made": dict(study.missing),
        "capacities": [capacity_numbers(c) for c in study.capacities],
        "kinds": [
            {
                "kind": k.name,
                "formats": list(k.curves),
                "rank_correlation": k.rank and k.rank._asdict(),
                "capacity_law": curve_numbers(k.law),
                "lsat": k.lsat and k.lsat._asdict(),
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
        "fits": [fit_numbers(i.fit) | {"not_told": i.not_told} for i in study.inspections],
        "outlying": {i.fit.law.name: outlying_numbers(i.outlying) for i in study.inspections},
        "against_free_fit": comparison_numbers(study.inspected.comparison if study.inspected else None),
        "profiles": {
            i.fit.law.name: {n: p.interval()._asdict() for n, p in i.profiles.items()} for i in study.inspections
        },
        "bootstrap": {n: draws.interval(n)._asdict() for n in draws.fit.values} if draws else {},
        "rows": [r.line for r in study.table.rows],
        "findings": findings(study.inspected) if study.inspected else [],
        "remarks": [r._asdict() for r in study.table.remarks],
        "reading": texts(summary.RULES, study),
        "limits": texts(caveats.RULES, study),
        "notes": {
            "opening": texts(notes.OPENING, study),
            "capacities": texts(notes.CAPACITIES, study),
            "fits": texts(notes.FITS, study),
            "equivalents": texts(notes.EQUIVALENTS, study),
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
