"""Commands about formats alone: their Gaussian error, and the picture of error against bits."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from rich.table import Table

Law = Literal["normal", "laplace", "logistic", "student-t"]


@dataclass(frozen=True)
class Gmse:
    """Gaussian mean squared error of formats: how much of unit variance they lose, before any training.

    Formats that the catalog does not list have names by rules: top55, 3:8, int3-g128, absmax-int3-g128-fp16,
    lloyd3-g32, affine-int5-g16, nf4-g128, e3m2-g64@e8m0 (scales that are powers of two), e2m1-g8x8@e4m3 (scales of two
    levels), gmp33, rigl40-every7, higgs-d2-n16, int4-outliers0.5, noise-as-int5, nearest-lowrank0.1 (the nearest
    matrix of low rank), nearest-lowrank-r8 (of rank 8), int2~lowrank0.1 (with a low rank beside it),
    int2~lowrank0.1-rounds2 (found by two rounds of both), int2-outliers2~lowrank0.1 (and outliers); A+B is A then B,
    A-row is A row by row, B-stochastic rounds by chance, B-unbiased has EDEN's scales, vq@points.npy (or .json) reads
    points of your own from the working directory.

    Examples:
      capscale gmse int4 2:4 top50 --json
      capscale gmse top55+absmax-int3-g128 e2m1-g16@e4m3
      capscale gmse --distribution laplace
      capscale gmse absmax-int4 --row-length 4096
      capscale gmse int4 int4-unbiased mxfp4-stochastic --moments
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names of the catalog, or by the rules above. None: the whole catalog."""
    distribution: Law = "normal"
    """Law of the data, of zero mean and unit variance."""
    df: float = 5.0
    """Degrees of freedom of student-t."""
    row_length: int | None = None
    """Values per row. None: unboundedly long rows, where the error has a limit."""
    moments: bool = False
    """Measure E[x Q(x)] and E[Q(x)^2] too: what gradients lose in a format, by bias and by noise."""
    json: bool = False
    """Print a JSON list and nothing else."""

    def __call__(self) -> int:
        """Prints the table that was asked for."""
        rows = format_rows(self.names, self.distribution, self.df, self.row_length, self.moments)
        if self.json:
            print(json.dumps(rows, indent=1))
        else:
            _print_table(rows, f"{self.distribution} data of unit variance")
            if self.moments:
                _print_moments(rows)
        return 0


@dataclass(frozen=True)
class PlotFormats:
    """Picture of error against bits, with the rate-distortion bound that no format can pass.

    Example:
      capscale plot-formats --out formats.png
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names as `capscale gmse --help` explains them. None: the whole catalog."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("formats.png")
    """Where the picture goes; .png, .svg or .pdf."""

    def __call__(self) -> int:
        """Writes the picture and names it."""
        from capscale.cli.formats_plot import plot

        rows = format_rows(self.names, "normal", None, None)
        plot(rows, self.out)
        print(self.out)
        return 0


def format_rows(
    names: tuple[str, ...], law: Law, df: float | None, row_length: int | None, with_moments: bool = False
) -> list[dict[str, Any]]:
    """One record per format: name, bits, gmse, standard_error, method, effective_bits, gap, bound, has_capacity.

    With moments, one more field, `moments`: what `capscale.gaussian_moments.Moments` has, by name.
    """
    from capscale.cli.waiting import each
    from capscale.formats import catalog
    from capscale.formats.capabilities import has_limit
    from capscale.formats.distributions import NORMAL
    from capscale.formats.families import Laplace, Logistic, StudentT
    from capscale.formats.scaling import ROW
    from capscale.formats.storage import Storable, storage_bits
    from capscale.gaussian_moments import moments
    from capscale.gaussian_mse import bound, effective_bits, gap, gmse

    if law == "student-t" and df is not None:
        distribution = StudentT(df)
    else:
        distribution = {"normal": NORMAL, "laplace": Laplace(), "logistic": Logistic()}[law]
    formats = {name: catalog.find(name) for name in names} or dict(catalog.FORMATS)
    records = []
    for name, format in each(list(formats.items()), "formats"):
        found = gmse(format, distribution, row_length)
        exact, bits = found.value == 0, format.bits
        if row_length is not None and not has_limit(format) and isinstance(format, Storable):
            bits = storage_bits(format, (row_length, row_length))
        records.append(
            {
                "name": name,
                "bits": bits,
                "gmse": found.value,
                "standard_error": found.standard_error,
                "method": found.method,
                "effective_bits": None if exact else effective_bits(found.value),
                "gap": None if exact else gap(found.value, bits),
                "bound": bound(bits),
                "has_capacity": found.has_capacity,
            }
        )
        if with_moments:
            of_format = moments(format, distribution, row_length or ROW)
            told = ("shrinkage", "misalignment", "noise", "effective_bits")
            records[-1]["moments"] = of_format._asdict() | {name: getattr(of_format, name) for name in told}
    return records


def _print_table(rows: list[dict[str, Any]], title: str) -> None:
    from rich.table import Table

    table = Table(title=f"GMSE: error on {title}")
    table.add_column("format")
    for column in ("bits", "GMSE", "± s.e.", "effective bits", "gap to bound"):
        table.add_column(column, justify="right")
    table.add_column("method")
    for row in rows:
        error = f"{row['standard_error']:.1e}" if row["standard_error"] else ""
        effective = "" if row["effective_bits"] is None else f"{row['effective_bits']:.4f}"
        gap = "" if row["gap"] is None else f"{row['gap']:.4f}"
        flag = "" if row["has_capacity"] else " (capacity 0: no better than zeroing)"
        table.add_row(
            row["name"], f"{row['bits']:.4f}", f"{row['gmse']:.10g}", error, effective, gap, row["method"] + flag
        )
    _print(table)


def _print_moments(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(title="Moments on rows of 1024 values, or as long as asked: what gradients lose, measured")
    table.add_column("format")
    for column in (
        r"E\[x Q(x)]",
        "± s.e.",
        r"E\[Q(x)²]",
        "± s.e.",
        "shrinkage",
        "misalignment",
        "noise",
        "effective bits",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        found = row["moments"]
        bits = "" if found["effective_bits"] is None else f"{found['effective_bits']:.3f}"
        errors = [f"{found[name]:.1e}" for name in ("along_error", "square_error")]
        parts = [f"{found[name]:.5f}" for name in ("shrinkage", "misalignment")]
        parts.append("" if found["noise"] is None else f"{found['noise']:.5f}")
        table.add_row(
            row["name"], f"{found['along']:.5f}", errors[0], f"{found['square']:.5f}", errors[1], *parts, bits
        )
    _print(table)


def _print(table: "Table") -> None:
    from rich.console import Console

    console = Console()
    if console.width < 100 and not console.is_terminal:
        console = Console(width=120)
    console.print(table)
