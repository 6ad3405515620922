"""How commands are told to fit: names of laws, fixed numbers, priors."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from capscale.cli.reading import Reading
from capscale.errors import UserError

if TYPE_CHECKING:
    from capscale.analysis.ensemble import Ensemble
    from capscale.analysis.fit import Constraints
    from capscale.analysis.inspection import Inspection
    from capscale.analysis.law import Law
    from capscale.analysis.shared_errors import Asked, Level

FormName = Annotated[str, tyro.conf.arg(metavar="LAW")]
"""Name of a law that ships, or a Python file with one: `mine.py`, or `mine.py:NAME` where it has several."""


def parse_numbers(fix: tuple[str, ...], prior: tuple[str, ...]) -> "Constraints":
    """`alpha=0.13` and `alpha=0.13:0.05`; UserError for anything else."""
    from capscale.analysis.fit import Constraints

    fixed, priors = {}, {}
    for text in fix:
        name, _, value = text.rpartition("=")
        try:
            fixed[name.strip()] = float(value)
        except ValueError as e:
            raise UserError(f"--fix {text!r}: write NAME=VALUE, such as alpha=0.13") from e
    for text in prior:
        name, _, value = text.rpartition("=")
        mean, _, deviation = value.partition(":")
        try:
            priors[name.strip()] = (float(mean), float(deviation))
        except ValueError as e:
            raise UserError(f"--prior {text!r}: write NAME=MEAN:DEVIATION, such as alpha=0.13:0.05") from e
    return Constraints(fixed, priors)


def parse_columns(column: tuple[str, ...]) -> dict[str, float]:
    """`epochs=4`; UserError for anything else."""
    found = {}
    for text in column:
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError as e:
            raise UserError(f"--column {text!r}: write NAME=VALUE, such as epochs=4") from e
    return found


def parse_shared(text: str) -> "Asked":
    """`auto`, `none`, or levels with commas between; UserError for anything else."""
    from capscale.analysis.shared_errors import LEVELS

    if text == "auto":
        return "auto"
    if text == "none":
        return "none"
    named = [part.strip() for part in text.split(",")]
    if unknown := [name for name in named if name not in LEVELS]:
        raise UserError(f"--shared {text!r}: {unknown[0]!r} is none of {', '.join(LEVELS)}; or write auto, or none")
    found: list[Level] = [level for level in LEVELS if level in named]
    return tuple(found)


def law_of(form: FormName, share: str, combine: str) -> "Law":
    """A law by its name or file, with how its numbers are shared and how stages combine."""
    from dataclasses import replace

    from capscale.analysis.laws import law_named

    law = law_named(form)
    return replace(law, sharing=law.sharing if share == "default" else share, combination=combine)  # pyright: ignore


@dataclass(frozen=True)
class Fitting:
    """How the law is fitted before it is used."""

    form: FormName = "tanh"
    """Form of rho."""
    share: Literal["default", "all", "operand", "kind", "family"] = "default"
    """Which formats share the numbers of the form."""
    combine: Literal["joint", "product"] = "joint"
    """Sparse and quantized: rho of the joint GMSE, or the product of the stages' capacities."""
    fix: tuple[str, ...] = ()
    """Numbers held fixed, NAME=VALUE."""
    prior: tuple[str, ...] = ()
    """Gaussian priors, NAME=MEAN:DEVIATION."""
    delta: float = 1e-3
    """Huber threshold, in nats."""
    alone: bool = False
    """Use the law as it is, without its relatives: coupled, with capacity on tokens, and with drift in D/N."""
    draws: int = 1000
    """Draws that intervals are taken from."""
    shared: Annotated[str, tyro.conf.arg(metavar="auto|none|LEVELS")] = "auto"
    """Errors that runs share: those that the table has, none, or of size, cell (N and D) and run, such as size,cell."""
    reading: tyro.conf.OmitArgPrefixes[Reading] = field(default_factory=Reading)

    def gathered(self, path: str) -> "tuple[Ensemble, Inspection]":
        """The law and its relatives fitted to the rows they are about, and what there is to say of the law itself."""
        from capscale.analysis.ensemble import gathered
        from capscale.analysis.families import family
        from capscale.analysis.fit import Settings
        from capscale.analysis.inspection import inspect
        from capscale.cli.waiting import waiting

        law = law_of(self.form, self.share, self.combine)
        table = self.reading.table(path)
        settings = Settings(self.delta, shared=parse_shared(self.shared))
        laws = (law,) if self.alone else family(law)
        constraints = parse_numbers(self.fix, self.prior)
        with waiting(f"fitting {len(laws)} laws to {len(table)} rows"):
            ensemble = gathered(table, laws, settings, constraints)
            return ensemble, inspect(ensemble.fits[0], profiled=False)


def said_of(inspected: "Inspection") -> "dict[str, Any]":
    """JSON of a fit for commands that use one: its law and rows, and how given numbers agree with them."""
    from capscale.analysis.numbers import comparison_numbers, outlying_numbers

    fit = inspected.fit
    return {
        "law": fit.law.name,
        "rows": len(fit.table),
        "rmse": fit.rmse,
        "outlying": outlying_numbers(inspected.outlying),
        "against_free_fit": comparison_numbers(inspected.comparison),
        "remarks": [r._asdict() for r in fit.table.remarks],
    }


def numbers_of(ensemble: "Ensemble") -> "dict[str, Any]":
    """An ensemble for JSON: its laws with their weights, the rollouts, and what intervals rest on."""
    calibration = ensemble.calibration
    return {
        "laws": [
            {"law": f.law.name, "equation": f.law.equation, "weight": float(w), "rmse": f.rmse}
            for f, w in zip(ensemble.fits, ensemble.weights, strict=True)
        ],
        "left_out": dict(ensemble.left_out),
        "rollouts": [{"axis": f.axis, "cut": f.cut, "rows": len(f.error), "rmse": f.rmse} for f in ensemble.folds],
        "growth": calibration.growth,
        "reach": calibration.reach,
        "covered_without_growth": calibration.covered,
    }


def words_about(inspected: "Inspection") -> list[str]:
    """Sentences about rows that pull the fit, and about the numbers that were given."""
    from capscale.analysis.sentences import fits
    from capscale.analysis.sentences.rule import texts

    return texts(fits.ABOUT, inspected)
