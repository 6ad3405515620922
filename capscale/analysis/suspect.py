"""Rows that smell of a unit mistake: a fit would swallow them."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from capscale.analysis.row import Row, named_rows
from capscale.capacity import Scaling
from capscale.errors import UserError

LARGEST_NATS = math.log(2**18)
"""ln of a vocabulary that no run here exceeds; a loss above it is not in nats per token, or has diverged."""
TEXT = Scaling(A=406.4, alpha=0.34, B=410.7, beta=0.28, E=1.69)
"""Losses of dense models on text, roughly: Hoffmann et al. 2022, arXiv 2203.15556, equation 10."""
LEAST_N, LEAST_D = 100, 1e5
"""Parameters and tokens below which no language model is trained; 30 is 30 million."""
MOST_RATIO = 1e5
"""Tokens per parameter that no run has reached: Qwen3-0.6B, at 36 trillion tokens, has 60,000 (arXiv 2505.09388)."""
GAP_BELOW, GAP_ABOVE = 30.0, 100.0
"""Factors in D/N that lie between rows in other units and all others, and not within a table of isoFLOP curves."""
BITS_RATIO = (1.3, 1.65)
"""Of losses over `TEXT`: in bits they are 1 / ln 2 = 1.44 times as large, give or take the text and its tokenizer."""
PASS = "rows that mean it pass with --keep-suspect"


def refuse_unit_mistakes(rows: Sequence[Row], records: Sequence[Mapping[str, Any]], source: str) -> None:
    """Refuses rows whose N, D or loss cannot be in parameters, tokens and nats per token.

    Args:
      rows: of a table.
      records: which they were made of.
      source: names the table.

    Raises:
      UserError: naming the rows and how to say their unit.
    """
    if below := _too_few_tokens(rows):
        raise UserError(
            f"{source}: fewer tokens than parameters: {named_rows(below, 'D')}; D counts tokens, not batches or "
            f"billions, and N non-embedding parameters; {_unit_remedy('D', below, rows)}; {PASS}"
        )
    if above := _too_many_tokens(rows):
        raise UserError(
            f"{source}: more tokens per parameter than in any run, or in the other rows: "
            f"{named_rows(above, 'N')}; N counts parameters, not millions or billions; "
            f"{_unit_remedy('N', above, rows)}; {PASS}"
        )
    for name, least, noun in (("N", LEAST_N, "parameters"), ("D", LEAST_D, "tokens")):
        if small := [row for row in rows if getattr(row, name) < least]:
            raise UserError(
                f"{source}: under {least:,.0f} {noun}: {named_rows(small, name)}; "
                f"{_unit_remedy(name, small, rows)}; {PASS}"
            )
    as_bits = [r for r, record in zip(rows, records, strict=True) if _is_in_bits(r, record)]
    as_bits += [r for r in _jumps_by_bits(rows) if r not in as_bits]
    if as_bits := as_bits or _all_in_bits(rows) or _format_in_bits(rows):
        raise UserError(
            f"{source}: the loss looks like bits, not nats per token: {named_rows(as_bits, 'loss')}; bits per token "
            f"become nats times ln 2 = 0.6931, by --map loss=COLUMN*0.693147 if all rows are, "
            f"and a perplexity by its logarithm; {PASS}"
        )


def _unit_remedy(name: str, odd: Sequence[Row], rows: Sequence[Row]) -> str:
    if len(odd) < len(rows) / 2:
        return "correct these rows if they are in millions or billions"
    return f"if it counts millions or billions: --map {name}=COLUMN*1e6 or *1e9"


def _too_few_tokens(rows: Sequence[Row]) -> list[Row]:
    """Rows with D < N, unless they are the lower end of a table whose D/N goes on above 1 without a gap."""
    below = [row for row in rows if row.D < row.N]
    ratios = np.sort([row.D / row.N for row in rows])
    if not below or ratios[-1] < 1:
        return below
    first = int(np.searchsorted(ratios, 1.0))
    if np.max(np.diff(np.log(ratios[: first + 1]))) > math.log(GAP_BELOW):
        return below
    dense = [row.loss / float(TEXT.loss(row.N, row.D, 1.0)) for row in below if row.is_dense]
    return below if dense and np.median(dense) < 0.5 else []


def _too_many_tokens(rows: Sequence[Row]) -> list[Row]:
    """Rows beyond `MOST_RATIO`, and a few whose D/N is `GAP_ABOVE` times that of any of the others."""
    above = [row for row in rows if row.D / row.N > MOST_RATIO]
    order = sorted(rows, key=lambda row: row.D / row.N)
    jumps = [b.D / b.N / (a.D / a.N) for a, b in itertools.pairwise(order)]
    gaps = [i + 1 for i, jump in enumerate(jumps) if jump > GAP_ABOVE and len(rows) - i - 1 < len(rows) / 3]
    return above or (order[gaps[0] :] if gaps else [])


def _is_in_bits(row: Row, record: Mapping[str, Any]) -> bool:
    return row.loss > LARGEST_NATS or record.get("bits_per_byte") == row.loss


def _all_in_bits(rows: Sequence[Row]) -> list[Row]:
    """All dense rows, where most lie above what models of text reach by 1 / ln 2."""
    dense = [row for row in rows if row.is_dense and row.N >= 1e6 and row.D >= 1e7]
    over = [row.loss / float(TEXT.loss(row.N, row.D, 1.0)) for row in dense]
    return dense if len(dense) >= 3 and BITS_RATIO[0] < np.median(over) < BITS_RATIO[1] else []


def _format_in_bits(rows: Sequence[Row]) -> list[Row]:
    """All rows of a format that lie above the dense ones of their N and D by 1 / ln 2, whatever these are."""
    dense = {(row.N, row.D): row.loss for row in rows if row.is_dense}
    curves: dict[str, list[Row]] = {}
    for row in rows:
        if not row.is_dense and (row.N, row.D) in dense:
            curves.setdefault(row.curve, []).append(row)
    for group in curves.values():
        over = np.array([row.loss / dense[row.N, row.D] for row in group])
        # A format that is that bad would be so by more at some sizes than at others.
        if len(group) >= 3 and 1.40 < np.median(over) < 1.58 and np.ptp(over) < 0.03 * np.median(over):
            return group
    return []


def _jumps_by_bits(rows: Sequence[Row]) -> list[Row]:
    """Rows 1 / ln 2 above what the other runs of their format say at that size and number of tokens."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.curve, []).append(row)
    odd = []
    for group in groups.values():
        X = np.stack([np.ones(len(group)), np.log([r.N for r in group]), np.log([r.D for r in group])], 1)
        y = np.log([r.loss for r in group])
        for i in range(len(group) if 4 <= len(group) <= 200 else 0):
            others = np.arange(len(group)) != i
            coefficients, *_ = np.linalg.lstsq(X[others], y[others], rcond=1e-6)
            spread = np.std(y[others] - X[others] @ coefficients)
            jump = y[i] - X[i] @ coefficients
            if abs(jump + math.log(math.log(2))) < 0.06 and spread < 0.06:
                odd.append(group[i])
    return odd
