"""Every run that the claims of arXiv 2506.01863 ask for, each once: the sweep behind `capscale reproduce`.

Figures and tables share runs (the dense curve, integers, sparsities); a directory of this sweep holds those of all. The
files with `CLAIMS` make it up.

Run: `capscale reproduce all --ladder nano --out runs/reproduction`, or `capscale reproduce fig3` for one; on a pod
`capscale launch xpk reproduction --ladder paper ...`, or the name of one figure.
"""

import importlib
import pkgutil
from types import ModuleType

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.train.run import Run


def chapters() -> dict[str, ModuleType]:
    """The experiments that judge claims, by name, in the order of the page."""
    package = importlib.import_module(__package__ or "experiments")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "reproduction")
    modules = {name: importlib.import_module(f"{package.__name__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "CLAIMS")}


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Of all of them, each run once."""
    every = [run for module in chapters().values() for run in module.runs(ladder, data)]
    return list({run.run_id: run for run in every}.values())
