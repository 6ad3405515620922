"""Which part may import which: read from the sources, and from an interpreter without what only commands need."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support.limits import LIMIT_S

ROOT = Path(__file__).parent.parent

# A part imports only what stands before it, or its own folder. `errors` is the exception that all of them raise.
ORDER = (
    "checkout",
    "errors",
    "checks",
    "clock",
    "heap",
    "store",
    "storage",
    "files",
    "artifacts",
    "outside",
    "kernels",
    "parametrizations",
    "formats",
    "masks",
    "estimators",
    "estimators_rotated",
    "defaults",
    "estimator_names",
    "fused",
    "product",
    "code_product",
    "gradients",
    "backward",
    "operands",
    "coded",
    "representation",
    "recipes",
    "gradient_names",
    "cache_names",
    "kernel_checks",
    "packed",
    "contraction",
    "policy",
    "policy_names",
    "coverage",
    "adapters",
    "gaussian_mse",
    "gaussian_moments",
    "testing",
    "capacity",
    "realised",
    "models",
    "data",
    "train",
    "sweep",
    "analysis",
    "checkpoints",
    "reproduction",
    "monitor",
    "cli",
    "experiments",
)
NEVER = {
    "kernels": set(ORDER) - {"kernels"},
    "analysis": {"models", "data", "train", "sweep"},  # it reads rows of results, whoever trained them
    "experiments": {"cli", "sweep", "reproduction"},
}
LATE = {("sweep", "experiments"), ("reproduction", "experiments")}
"""Finding experiments by name is the sweep's business, and their claims and rows the reproduction's."""


def sources():
    """Every source file with the part it belongs to."""
    for part in ORDER:
        for place in (ROOT / "capscale" / part, ROOT / "capscale" / f"{part}.py", ROOT / part):
            for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
                yield part, path


def imported(code: str, package: tuple[str, ...]) -> set[str]:
    """Dotted names that a module of `package` imports, anywhere in it, relative ones resolved."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{start}.{alias.name}" for alias in node.names}
    return names


def violations(part: str, code: str, package: tuple[str, ...]) -> set[str]:
    """Parts that a module of `part` imports and must not."""
    names = [name.split(".") for name in imported(code, package)]
    used = {name[1] for name in names if name[0] == "capscale" and len(name) > 1 and name[1] in ORDER} - {part}
    later = {other for other in used if ORDER.index(other) > ORDER.index(part) and (part, other) not in LATE}
    outside = {name[0] for name in names if name[0] in ("kernels", "experiments")}
    return later | (used & NEVER.get(part, set())) | outside


FILES = [pytest.param(part, path, id=str(path.relative_to(ROOT))) for part, path in sources()]


@pytest.mark.parametrize(("part", "path"), FILES)
def test_imports_go_one_way(part, path):
    parents = path.relative_to(ROOT).parts[:-1]
    package = parents if parents[:1] == ("capscale",) else ("capscale", *parents)
    assert violations(part, path.read_text(), package) == set()


def test_no_part_is_left_out():
    parts = {
        path.stem for path in (ROOT / "capscale").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert parts - {"__init__"} <= set(ORDER)
    assert len(FILES) > 60


@pytest.mark.parametrize(
    ("part", "code", "found"),
    [
        ("formats", "from capscale.models.decoder import Decoder", {"models"}),
        ("formats", "def f():\n    import capscale.train.loop", {"train"}),
        ("formats", "from ..estimators import Trust", {"estimators"}),
        ("formats", "from capscale import cli", {"cli"}),
        ("kernels", "from capscale.errors import UserError", {"errors"}),
        ("analysis", "from capscale.models import ladder", {"models"}),
        ("train", "import kernels.select", {"kernels"}),
        ("formats", "from . import base\nfrom .base import Format\nfrom capscale.kernels.select import largest", set()),
        ("train", "from capscale.models.decoder import Decoder", set()),
    ],
)
def test_forbidden_imports_are_found(part, code, found):
    assert violations(part, code, ("capscale", part)) == found


def test_kernels_import_jax_alone():
    foreign = set()
    for part, path in sources():
        if part == "kernels":
            tops = {
                name.split(".")[0] for name in imported(path.read_text(), ("capscale", "kernels", path.parent.name))
            }
            foreign |= tops - set(sys.stdlib_module_names) - {"capscale"}
    assert foreign == {"jax"}


ONLY_FOR_COMMANDS = ("tyro", "pandas", "matplotlib", "jinja2", "safetensors", "pyarrow")


def test_training_needs_no_package_of_the_commands():
    """jax, flax, optax, orbax, numpy, scipy and what these bring (rich among it) are enough."""
    modules = "capscale.formats.catalog, capscale.models.decoder, capscale.train.step, capscale.train.loop"
    block = f"import sys\nfor name in {ONLY_FOR_COMMANDS}: sys.modules[name] = None\n"
    command = [sys.executable, "-c"]
    subprocess.run([*command, f"{block}import {modules}"], check=True, timeout=LIMIT_S)
    broken = subprocess.run([*command, f"{block}import tyro"], check=False, capture_output=True, timeout=LIMIT_S)
    assert broken.returncode == 1, "the block blocks"
