"""Import of `capscale.kernels` and `capscale.experiments` from beside the package, where it is that of a checkout.

An installed package has them inside. An editable install of another checkout would offer its own to a `capscale` that
is imported from this one, by PYTHONPATH or from the working directory, and two versions would mix without a word.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parent
BESIDE = ("kernels", "experiments")


class Beside(MetaPathFinder):
    """Finds the folders that lie beside the package."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Spec of `capscale.kernels` or `capscale.experiments` in this checkout; None for all else."""
        parent, _, name = fullname.rpartition(".")
        if parent != PACKAGE.name or name not in BESIDE:
            return None
        folder = PACKAGE.parent / name
        return spec_from_file_location(fullname, folder / "__init__.py", submodule_search_locations=[str(folder)])


def find_beside() -> None:
    """Has Python look there first, where this is a checkout."""
    inside = any((PACKAGE / name).exists() for name in BESIDE)
    if not inside and all((PACKAGE.parent / name / "__init__.py").exists() for name in BESIDE):
        sys.meta_path.insert(0, Beside())
