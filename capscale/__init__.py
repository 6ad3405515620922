"""capscale: compressed training formats, their capacity, and unified scaling laws (arXiv 2506.01863).

The names below are loaded when they are used: `import capscale` by itself imports neither jax nor flax. The rest is in
submodules, which are loaded the same way: `capscale.formats`, `capscale.estimators`, `capscale.adapters`, ...
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from capscale.checkout import find_beside

if TYPE_CHECKING:
    from capscale.adapters import compress as compress
    from capscale.adapters import describe as describe
    from capscale.capacity import Capacity as Capacity
    from capscale.contraction import Contraction as Contraction
    from capscale.contraction import dot_general as dot_general
    from capscale.errors import UserError as UserError
    from capscale.formats import (
        NM as NM,
    )
    from capscale.formats import (
        Absmax as Absmax,
    )
    from capscale.formats import (
        Context as Context,
    )
    from capscale.formats import (
        Float as Float,
    )
    from capscale.formats import (
        Format as Format,
    )
    from capscale.formats import (
        Int as Int,
    )
    from capscale.formats import (
        Levels as Levels,
    )
    from capscale.formats import (
        Noise as Noise,
    )
    from capscale.formats import (
        Outliers as Outliers,
    )
    from capscale.formats import (
        Rms as Rms,
    )
    from capscale.formats import (
        Scalar as Scalar,
    )
    from capscale.formats import (
        SparseQuantized as SparseQuantized,
    )
    from capscale.formats import (
        TopK as TopK,
    )
    from capscale.formats import (
        Vector as Vector,
    )
    from capscale.formats.catalog import FORMATS as FORMATS
    from capscale.formats.packing import pack as pack
    from capscale.formats.packing import unpack as unpack
    from capscale.gaussian_mse import gmse as gmse
    from capscale.gradients import BackwardProduct as BackwardProduct
    from capscale.gradients import Gradients as Gradients
    from capscale.policy import Policy as Policy
    from capscale.policy import Rule as Rule
    from capscale.recipes import find_recipe as find_recipe
    from capscale.representation import (
        DENSE as DENSE,
    )
    from capscale.representation import (
        Operand as Operand,
    )
    from capscale.representation import (
        Representation as Representation,
    )
    from capscale.representation import (
        linear as linear,
    )
    from capscale.representation import (
        operand as operand,
    )
    from capscale.representation import (
        project_activations as project_activations,
    )
    from capscale.representation import (
        project_weights as project_weights,
    )

__version__ = "0.1.0"

find_beside()

_NAMES = {
    "capscale.adapters": "compress describe",
    "capscale.capacity": "Capacity",
    "capscale.contraction": "Contraction dot_general",
    "capscale.errors": "UserError",
    "capscale.formats": (
        "NM Absmax Context Float Format Int Levels Noise Outliers Rms Scalar SparseQuantized TopK Vector"
    ),
    "capscale.formats.catalog": "FORMATS",
    "capscale.formats.packing": "pack unpack",
    "capscale.gaussian_mse": "gmse",
    "capscale.gradients": "BackwardProduct Gradients",
    "capscale.policy": "Policy Rule",
    "capscale.recipes": "find_recipe",
    "capscale.representation": "DENSE Operand Representation linear operand project_activations project_weights",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
_OLD = {"Then": "SparseQuantized"}
_MODULES = (
    "adapters",
    "analysis",
    "capacity",
    "checkpoints",
    "estimators",
    "formats",
    "gaussian_moments",
    "gaussian_mse",
    "kernel_checks",
    "representation",
    "testing",
)

__all__ = [
    "DENSE",
    "FORMATS",
    "NM",
    "Absmax",
    "BackwardProduct",
    "Capacity",
    "Context",
    "Contraction",
    "Float",
    "Format",
    "Gradients",
    "Int",
    "Levels",
    "Noise",
    "Operand",
    "Outliers",
    "Policy",
    "Representation",
    "Rms",
    "Rule",
    "Scalar",
    "SparseQuantized",
    "TopK",
    "UserError",
    "Vector",
    "compress",
    "describe",
    "dot_general",
    "find_recipe",
    "gmse",
    "linear",
    "operand",
    "pack",
    "project_activations",
    "project_weights",
    "unpack",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _OLD:
        from capscale.kernels.renamed import warn_of_old

        warn_of_old(f"{__name__}.{name}", f"{__name__}.{_OLD[name]}")
        return __getattr__(_OLD[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
