"""Experiments: each file plans the runs of one figure or table, and those of the paper also judge its claims.

A file defines `runs(ladder, data) -> list[Run]`; `capscale sweep NAME` trains them. A file of the reproduction,
`capscale reproduce NAME`, defines besides

    CLAIMS: tuple[Claim, ...]                                 # what the paper says, and what agrees; before any run
    def estimates(evidence: Evidence) -> dict[str, Estimate]  # our number for every claim, by its name
    def figure(evidence: Evidence) -> Figure                  # the paper's picture, ours and the printed numbers in it

A claim whose number cannot be had gets an `Estimate(missing=reason)`. Files import matplotlib inside `figure` alone:
training needs no plots.
"""
