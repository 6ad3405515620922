"""Which rows of a table a law is fitted to: one answer for every command, and a remark for every row left out."""

from dataclasses import replace

import numpy as np

from capscale.analysis.law import Law
from capscale.analysis.phases import with_phases
from capscale.analysis.table import Remark, Table
from capscale.errors import UserError


def rows_of(table: Table, law: Law) -> Table:
    """The rows of `table` that `law` is about.

    The dense law is about dense runs. A law of the format (GMSE, bits, sparsity) cannot see the gradient estimator, and
    is about formats with the one that belongs to them; so is a number of every operand's format. A law with a number
    for every format as a whole takes all rows. A law of dense, then quantized training takes those whose policy starts
    a format later (`with_phases`). Raises UserError where none is left.
    """
    table = with_phases(table, law)
    if law.dense:
        dense = np.array([r.is_dense for r in table.rows])
        chosen, left = table.select(dense), int(np.sum(~dense))
        if left:
            said = Remark(table.source, f"left out of the dense law: {left} compressed runs")
            chosen = replace(chosen, remarks=(*chosen.remarks, said))
    else:
        chosen = table if law.per_format and law.sharing == "all" else table.plain(cache=law.cache)
    if not len(chosen):
        wanted = "no dense run" if law.dense else "every run has another gradient estimator than its format's own"
        raise UserError(f"{table.source}: nothing to fit the {law.name} law to: {wanted}; try --form decoupled")
    return chosen


def of_known_error(table: Table) -> Table:
    """The rows whose operands have a GMSE each, which is all that a law of GMSE can read; a remark names the others.

    Raises UserError where no compressed row is left.
    """
    known = np.array([np.isfinite(r.weights_gmse) and np.isfinite(r.activations_gmse) for r in table.rows], bool)
    kept = table.select(known)
    if not any(not r.is_dense for r in kept.rows):
        raise UserError(f"{table.source}: no compressed format has a known GMSE; give weights_gmse or activations_gmse")
    left = dict.fromkeys(r.curve for r, k in zip(table.rows, known, strict=True) if not k)
    said = (Remark(table.source, f"left out of the law of GMSE: {c}, whose GMSE is not known") for c in left)
    return replace(kept, remarks=(*kept.remarks, *said))
