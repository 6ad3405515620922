"""Which estimator belongs to which format: the recipe of its authors, with the source of each.

This is the one place that says so. Runs, tables, labels and reports ask here; a row that a run writes says whether its
estimators were these.
"""

from capscale.estimators import (
    STRAIGHT_THROUGH,
    TRUST,
    BRms,
    Clip,
    Estimator,
    ForwardMask,
    Hypersphere,
    Lsq,
    ThroughScale,
)
from capscale.estimators_rotated import BothRotated
from capscale.formats.base import Format
from capscale.formats.capabilities import draws, learns
from capscale.formats.magnitude import Magnitude
from capscale.formats.noise import Noise
from capscale.formats.outliers import Outliers
from capscale.formats.pattern import NM
from capscale.formats.rigl import RigL
from capscale.formats.scalar import Scalar
from capscale.formats.schedule import CONSTANT
from capscale.formats.sparse import TopK
from capscale.formats.stages import stages_of
from capscale.formats.vector import Vector

ONE_BIT_ROTATED, ONE_BIT_PLAIN = Clip(1.3), Clip(1.25)
"""`clip_scale` of QuEST's fifteen public one-bit runs, ten rotated and five not (arXiv 2502.05003)."""
RBBM = BRms(0.1)
"""The paper's method for sparsity (arXiv 2506.01863, section 5.2), which does not state p. Chosen by the scan of
`experiments/rbbm_scan.py` (rows in experiments/results/rbbm_scan.csv), on sizes that no report uses."""
CODEWORDS = Hypersphere(1.6)
"""The paper's Algorithm 2, which does not state its radius. Chosen by the scan of `experiments/vq_radius.py` (rows in
experiments/results/vq_radius.csv), on a size that no report uses: the least mean loss over three codebooks. At 1 over
half the vectors of one-bit codebooks lie outside, where their gradient is masked for good."""


def default_estimator(format: Format, rotated: bool = False) -> Estimator:
    """The estimator that its authors train `format` with, in a basis that is `rotated` or not.

    - 1 bit: `Clip`, of QuEST's runs; other grids `Trust` (QuEST), learned steps `Lsq` (arXiv 1902.08153). Scales from
      mean or median magnitudes: straight-through (BitNet b1.58, arXiv 2402.17764); so is stochastic rounding (arXiv
      1502.02551), whose errors reach a whole step within the grid.
    - Sparsity by magnitude, N:M as well: RBBM, `BRms`; on a schedule (GMP), and RigL, the mask itself, `ForwardMask`.
    - Sparse, then quantized: that of the grid, over all entries, pruned ones too (QuEST's `FourEightTrustQuantizer`);
      where the grid is in a basis of its own, RBBM in the given one and the grid's there, `BothRotated`.
    - Codebooks, also on survivors: Algorithm 2 of the paper, `Hypersphere`. Noise: `ThroughScale`, after the authors'
      noise quantizer.
    - Nested integers (MatQuant), E8P, which its authors round trained weights to, and formats from outside:
      straight-through.
    """
    stages = stages_of(format)
    scalar = format.inner if isinstance(format, Outliers) else stages.rounding
    if isinstance(scalar, Vector):
        return CODEWORDS
    if isinstance(scalar, Scalar):
        turned = stages.rotates_between
        if (isinstance(scalar.scale, Magnitude) or draws(scalar)) and scalar is format:
            return STRAIGHT_THROUGH
        one_bit = ONE_BIT_ROTATED if rotated or turned else ONE_BIT_PLAIN
        grid = Lsq() if learns(scalar) else one_bit if scalar.grid.codes == 2 else TRUST
        return BothRotated(RBBM, grid) if turned else grid
    if isinstance(format, Noise):
        return ThroughScale(format.granularity)
    if isinstance(format, TopK) and format.schedule != CONSTANT:
        return ForwardMask()
    others: dict[type, Estimator] = {RigL: ForwardMask(), TopK: RBBM, NM: RBBM}
    return others.get(type(format), STRAIGHT_THROUGH)
