"""Compressed formats: values that say how a tensor is held, and project to it."""

from capscale.kernels.renamed import old_names

from .affine import Range, SignedMax
from .base import Context, Format, Projection, per_row
from .compensated import Compensated
from .compose import SparseQuantized
from .dense import Dense
from .double_quantized import DoubleQuantized
from .e8p import E8P
from .floats import Float
from .grids import Grid, Int
from .groups import Groups
from .hif4 import HiF4Scales
from .kquant import KQuant
from .levels import AF4, NF4, TERNARY, Levels, lloyd_max
from .magnitude import Magnitude
from .nearest import Nearest
from .noise import Noise
from .of_largest import OfLargest
from .outliers import Outliers
from .pattern import NM
from .points import read_points
from .rigl import RigL
from .rotated import ThenRotated
from .scalar import Scalar
from .scale import Absmax, Learned, PowerOfTwo, Rms, TwoLevel
from .scale_rule import ScaleRule
from .schedule import Constant, Cubic
from .sparse import Sparse, TopK
from .stochastic import StochasticRounding
from .training_scales import MsEden, PowerOfTwoOfRms, PowerOfTwoTimes
from .unbiased import Unbiased
from .vector import Vector

__all__ = [
    "AF4",
    "E8P",
    "NF4",
    "NM",
    "TERNARY",
    "Absmax",
    "Compensated",
    "Constant",
    "Context",
    "Cubic",
    "Dense",
    "DoubleQuantized",
    "Float",
    "Format",
    "Grid",
    "Groups",
    "HiF4Scales",
    "Int",
    "KQuant",
    "Learned",
    "Levels",
    "Magnitude",
    "MsEden",
    "Nearest",
    "Noise",
    "OfLargest",
    "Outliers",
    "PowerOfTwo",
    "PowerOfTwoOfRms",
    "PowerOfTwoTimes",
    "Projection",
    "Range",
    "RigL",
    "Rms",
    "Scalar",
    "ScaleRule",
    "SignedMax",
    "Sparse",
    "SparseQuantized",
    "StochasticRounding",
    "ThenRotated",
    "TopK",
    "TwoLevel",
    "Unbiased",
    "Vector",
    "lloyd_max",
    "per_row",
    "read_points",
]

__getattr__ = old_names(__name__, {"Then": "SparseQuantized"})
