"""Commands about tables of runs: fit and report here, the others beside it."""

import json
import sys
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from capscale.cli.fitting import FormName, law_of, parse_numbers, parse_shared
from capscale.cli.reading import Reading

__all__ = ["Fit", "Report"]


@dataclass(frozen=True)
class Fit:
    """Fit a scaling law to a sweep or a table of runs, and say what the runs do not identify.

    Examples:
      capscale fit runs/demo
      capscale fit runs.csv --form tanh --fix alpha=0.13 beta=0.33 E=1.3
      capscale fit runs.csv --form logistic --prior alpha=0.13:0.05 --bootstrap 1000 --json
    """

    table: tyro.conf.Positional[str]
    """Sweep directory, or .csv, .json, .jsonl, .parquet with columns N, D, loss, weights, activations."""
    form: FormName = "tanh"
    """Form of rho; dense takes dense rows only, -coupled frees the exponent of the bracket."""
    share: Literal["default", "all", "operand", "kind", "family"] = "default"
    """Which formats share the numbers of the form: all, or one set per operand, per kind, or per both (family)."""
    combine: Literal["joint", "product"] = "joint"
    """Sparse and quantized: rho of the joint GMSE, or the product of the stages' capacities."""
    fix: tuple[str, ...] = ()
    """Numbers held fixed, NAME=VALUE."""
    prior: tuple[str, ...] = ()
    """Gaussian priors, NAME=MEAN:DEVIATION."""
    delta: float = 1e-3
    """Huber threshold, in nats."""
    log: bool = False
    """Residuals of the logarithm of the loss."""
    starts: int = 64
    """Starting points; the best result is kept."""
    bootstrap: int = 1000
    """Resamples."""
    shared: Annotated[str, tyro.conf.arg(metavar="auto|none|LEVELS")] = "auto"
    """Errors that runs share: those that the table has, none, or of size, cell (N and D) and run, such as size,cell."""
    seed: int = 0
    """Of the starting points and resamples."""
    reading: tyro.conf.OmitArgPrefixes[Reading] = field(default_factory=Reading)
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Directory for fit.json and the profile figure, as PNG and SVG."""
    json: bool = False
    """Print JSON and nothing else."""

    def __call__(self) -> int:
        """Fits the law and prints it."""
        from capscale.analysis.extensions import extensions
        from capscale.analysis.fit import Settings, fit
        from capscale.analysis.images import image_files
        from capscale.analysis.inspection import inspect
        from capscale.analysis.numbers import (
            comparison_numbers,
            contradiction_numbers,
            findings,
            fit_numbers,
            further_numbers,
            json_ready,
            outlying_numbers,
        )
        from capscale.analysis.report import write_files
        from capscale.analysis.selection import rows_of
        from capscale.analysis.sentences.quotable import not_identified, of_a_wrong_law
        from capscale.analysis.uncertainty import bootstrap
        from capscale.cli.waiting import waiting

        law = law_of(self.form, self.share, self.combine)
        table = rows_of(self.reading.table(self.table), law)
        settings = Settings(self.delta, self.log, self.starts, self.seed, parse_shared(self.shared))
        constraints = parse_numbers(self.fix, self.prior)
        with waiting(f"fitting {len(table)} rows and {self.bootstrap} resamples of them"):
            fitted = fit(table, law, settings, constraints)
            draws = bootstrap(fitted, self.bootstrap)
            inspected = inspect(fitted, draws=draws)
            plain = not (constraints.fixed or constraints.priors)
            further = extensions(table, law, settings, inspected.outlying.without if plain else None)
        curves = inspected.profiles
        content = fit_numbers(fitted) | {
            "command": command_line(),
            "input": table.source,
            "sha256": table.sha256,
            "bootstrap": {n: draws.interval(n)._asdict() for n in fitted.values},
            "bootstrap_rho": {c: i._asdict() for c, i in inspected.rho.items()},
            "not_measured": inspected.not_measured,
            "not_identified": sorted(not_identified(inspected)),
            "contradicted_by": contradiction_numbers(inspected),
            "of_a_wrong_law": sorted(of_a_wrong_law(inspected)),
            "not_told": inspected.not_told,
            "outlying": outlying_numbers(inspected.outlying),
            "bootstrap_converged": float(draws.converged.mean()),
            "profiles": {n: p.interval()._asdict() for n, p in curves.items()},
            "against_free_fit": comparison_numbers(inspected.comparison),
            "further": further_numbers(further),
            "findings": findings(inspected),
            "remarks": [r._asdict() for r in table.remarks],
        }
        text = json.dumps(json_ready(content), indent=1)
        if self.out is not None:
            from capscale.analysis.figures import profile_curves

            figure = profile_curves(list(curves.values()), title=f"{self.form} law: {table.source}")
            write_files(self.out, {"fit.json": text.encode(), **image_files("profiles", figure)})
        if self.json:
            print(text)
        else:
            from capscale.cli.analysis_tables import print_fit

            print_fit(inspected, draws, further)
        return 0


@dataclass(frozen=True)
class Report:
    """Report of a sweep: capacities with error bars, the law of GMSE, and what the runs do not show.

    Example:
      capscale report runs/demo
    """

    table: tyro.conf.Positional[str]
    """Sweep directory, or a table of runs."""
    form: Literal["tanh", "tanh-sat", "logistic", "logistic-1-0"] = "tanh"
    """Form of rho(GMSE)."""
    fix: tuple[str, ...] = ()
    """Numbers held fixed in the law fitted to the losses, NAME=VALUE."""
    prior: tuple[str, ...] = ()
    """Gaussian priors there, NAME=MEAN:DEVIATION."""
    delta: float = 1e-3
    """Huber threshold, in nats."""
    bootstrap: int = 1000
    """Resamples."""
    bench: bool = False
    """Add the law bench: every law, on runs that it has and has not seen (`capscale bench`)."""
    shared: Annotated[str, tyro.conf.arg(metavar="auto|none|LEVELS")] = "auto"
    """Errors that runs share: those that the table has, none, or of size, cell (N and D) and run, such as size,cell."""
    reading: tyro.conf.OmitArgPrefixes[Reading] = field(default_factory=Reading)
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Where the report goes. None: DIR/report of a sweep, ./report of a table."""
    json: bool = False
    """Print every number of the report as JSON and nothing else."""

    def __call__(self) -> int:
        """Writes the report and prints its table."""
        from etils import epath

        from capscale.analysis.fit import Settings
        from capscale.analysis.laws import LAWS
        from capscale.analysis.leaderboard import law_bench
        from capscale.analysis.numbers import json_ready
        from capscale.analysis.report import content_of, write_report
        from capscale.analysis.study import study
        from capscale.cli.waiting import waiting

        table = self.reading.table(self.table)
        settings = Settings(delta=self.delta, shared=parse_shared(self.shared))
        constraints = parse_numbers(self.fix, self.prior)
        with waiting(f"fitting {len(table)} rows and {self.bootstrap} resamples of them"):
            result = study(table, LAWS[self.form], settings, constraints, resamples=self.bootstrap)
        table_path = epath.Path(self.table)
        where = table_path / "report" if table_path.is_dir() else epath.Path("report")
        with waiting("fitting every law, for the bench"):
            bench = law_bench(table, settings=settings) if self.bench else None
        page = write_report(result, self.out or where, command_line(), bench)
        if self.json:
            print(json.dumps(json_ready(content_of(result, command_line(), bench)), indent=1))
        else:
            from capscale.cli.analysis_tables import print_study

            print_study(result)
            print(page)
        return 0


def command_line() -> str:
    """The command as it was typed."""
    import shlex

    return shlex.join(["capscale", *sys.argv[1:]])
