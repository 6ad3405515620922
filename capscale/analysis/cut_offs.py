"""Cut-offs that are asked for: the sizes, and the lengths of training, up to which laws are fitted."""

from collections.abc import Sequence
from dataclasses import dataclass

from capscale.analysis.rollouts import Axis, Cut, cuts, longest_left_out, ratio_cut, size_cut, usable
from capscale.analysis.table import Table
from capscale.errors import UserError

RATIO = "D/N="
"""How a cut-off in tokens per parameter is written."""


@dataclass(frozen=True)
class CutOffs:
    """Cut-offs in N and in D; a direction without any has those that each table allows.

    Attributes:
      sizes: parameters of the largest models fitted to.
      longest: how many of the longest trainings of each size are left out.
      ratios: tokens per parameter of the longest trainings fitted to.
      most: cuts of a direction without cut-offs: those that leave least; None: all.
    """

    sizes: tuple[float, ...] = ()
    longest: tuple[int, ...] = ()
    ratios: tuple[float, ...] = ()
    most: int | None = None

    def of(self, table: Table) -> tuple[Cut, ...]:
        """The cuts of a table that have rows to fit and rows to predict."""
        found = cuts(table, self.most)
        in_N = _sorted([c for c in self._asked(table) if c.axis == "N"]) if self.sizes else _along(found, "N")
        asked_D = self.longest or self.ratios
        in_D = _sorted([c for c in self._asked(table) if c.axis == "D"]) if asked_D else _along(found, "D")
        return tuple(c for c in (*in_N, *in_D) if c.train.any() and c.test.any())

    def impossible(self, table: Table) -> tuple[str, ...]:
        """Cut-offs asked for that leave a table nothing to fit or nothing to predict, in words."""
        return tuple(c.words for c in self._asked(table) if not (c.train.any() and c.test.any()))

    def _asked(self, table: Table) -> list[Cut]:
        found = [
            *(size_cut(table, limit) for limit in self.sizes),
            *(longest_left_out(table, count) for count in self.longest),
            *(ratio_cut(table, limit) for limit in self.ratios),
        ]
        return [usable(table, cut) for cut in found]


def _along(found: Sequence[Cut], axis: Axis) -> list[Cut]:
    return [c for c in found if c.axis == axis]


def _sorted(found: Sequence[Cut]) -> list[Cut]:
    """Those that leave least first, as `cuts` has them: an ensemble weighs its laws by earlier ones."""
    return sorted(found, key=lambda c: int(c.train.sum()))


def parse_cut_offs(sizes: Sequence[float], lengths: Sequence[str], most: int | None) -> CutOffs:
    """Cut-offs as commands are given them: sizes in parameters; lengths as whole numbers or `D/N=100`.

    Raises UserError for anything else, naming it.
    """
    for size in sizes:
        if not 0 < size < float("inf"):
            raise UserError(f"--cuts-N {size:g}: give a size in parameters, such as 1e8")
    longest, ratios = [], []
    for text in lengths:
        known = text.removeprefix(RATIO)
        try:
            value = float(known)
        except ValueError:
            value = float("nan")
        if known != text and 0 < value < float("inf"):
            ratios.append(value)
        elif known == text and value >= 1 and value.is_integer():
            longest.append(int(value))
        else:
            raise UserError(
                f"--cuts-D {text!r}: give how many of the longest trainings of each size to leave out, such as 1, or "
                f"the tokens per parameter to fit up to, such as {RATIO}100"
            )
    return CutOffs(tuple(sizes), tuple(longest), tuple(ratios), most)


def refuse_impossible(cut_offs: CutOffs, tables: Sequence[Table]) -> None:
    """Raises UserError for a cut-off that leaves nothing to fit or nothing to predict in each of the tables."""
    never = [words for words in cut_offs.impossible(tables[0]) if all(words in cut_offs.impossible(t) for t in tables)]
    if not never:
        return
    spans = []
    for table in tables:
        N, ratio = table.column("N"), table.column("D") / table.column("N")
        spans.append(f"{table.source} has N {N.min():.4g} to {N.max():.4g}, D/N {ratio.min():.4g} to {ratio.max():.4g}")
    raise UserError(
        f"{never[0]}: this cut-off leaves nothing to fit or nothing to predict; {'; '.join(spans)}; choose --cuts-N or "
        "--cuts-D inside"
    )
