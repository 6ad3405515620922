"""The wheel, the site and the sdist: built from what is tracked, and used from another folder."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.limits import LIMIT_S

ROOT = Path(__file__).parent.parent
INSTALLED = ("capscale", "kernels", "experiments")
OWN_TESTS = (
    "tests/test_capacity.py",
    "tests/test_facade.py",
    "tests/test_front_page.py",
    "tests/analysis/test_shipped_laws.py",
)
OFFLINE = ("No matching distribution found for setuptools", "Could not fetch URL", "NewConnectionError")


def tracked() -> list[str]:
    """Names of the tracked files, links to folders aside."""
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=False, capture_output=True, timeout=LIMIT_S)
    if found.returncode != 0:
        pytest.skip("tracked files are known in a checkout alone: git ls-files failed here")
    return [name for name in found.stdout.decode().split("\0")[:-1] if (ROOT / name).is_file()]


def succeed(command: list[str], **settings) -> str:
    """Standard output of a command that must succeed, unless it is an index that pip cannot reach."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10 * LIMIT_S, **settings)
    said = done.stdout + done.stderr
    if done.returncode != 0 and any(sign in said for sign in OFFLINE):
        pytest.skip("building needs setuptools from a package index, which cannot be reached from here")
    assert done.returncode == 0, said
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the tracked files, with no build behind it."""
    place = tmp_path_factory.mktemp("source")
    for name in tracked():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes((ROOT / name).read_bytes())
    return place


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    """The wheel of those files."""
    place = tmp_path_factory.mktemp("wheel")
    succeed([sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(place), str(source)])
    (found,) = place.glob("*.whl")
    return found


def fresh_python(place: Path) -> tuple[str, Path]:
    """Python of a new environment, and the folder of its packages."""
    succeed([sys.executable, "-m", "venv", "--without-pip", str(place)])
    (packages,) = place.glob("lib/python*/site-packages")
    return str(place / "bin" / "python"), packages


def borrow(packages: Path) -> None:
    """Lets an environment that holds capscale take what capscale needs from this one, whose capscale comes second."""
    (packages / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")


@pytest.mark.ci
def test_the_wheel_is_whole_and_works_elsewhere(wheel, tmp_path):
    place, elsewhere = tmp_path / "installed", tmp_path / "else where"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    metadata = next(place.glob("*.dist-info/METADATA")).read_text()
    assert "Description-Content-Type: text/markdown" in metadata
    assert "https://arxiv.org/abs/2506.01863" in metadata
    expected = [name for name in tracked() if name.split("/")[0] in INSTALLED]
    assert len(expected) > 300
    lacking = [name for name in expected if not (place / "capscale" / name.removeprefix("capscale/")).is_file()]
    assert not lacking
    code = f"""
import sys; sys.path.insert(0, {str(place)!r})
import capscale, jax.numpy as jnp
assert capscale.__file__.startswith({str(place)!r}), capscale.__file__
from capscale.testing import check_format, check_kernels
tree = {{"w": jnp.ones((8, 8))}}
compressed = capscale.compress(tree, ((".*", capscale.Representation(capscale.operand("int4")), 0),))
print(compressed.project(tree)["w"].shape, len(dir(capscale)) > 30)
"""
    assert succeed([sys.executable, "-c", code], cwd=elsewhere) == "(8, 8) True\n"


@pytest.mark.ci
def test_the_site_is_built_by_the_wheel_alone(source, wheel, tmp_path):
    """Its pages run what a user runs: five hosts, a checkpoint in, rounded, audited and out, fits and launch files."""
    python, packages = fresh_python(tmp_path / "venv")
    succeed([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", str(wheel)])
    borrow(packages)
    site, trees = tmp_path / "site", tmp_path / "trees"
    # Without the current folder on the path, the tree's own capscale/ cannot stand in for the installed one.
    where = {**os.environ, "PYTHONSAFEPATH": "1", "JAX_PLATFORMS": "cpu"}
    asked = ["--fail-on-warning", "--conf-dir", "docs", "--doctree-dir", str(trees), ".", str(site)]
    succeed([python, "-m", "sphinx", "--builder", "html", *asked], cwd=source, env=where)
    pages = {page.relative_to(site).as_posix(): page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    assert len(pages) > 40
    assert 'class="output' in pages["docs/own_model.html"]
    assert "16,384 of 16,705 values compressed" in pages["docs/own_model.html"]
    assert "MXFP4" in pages["docs/checkpoints.html"]
    assert 'id="capscale.formats.scalar.Scalar"' in pages["docs/api/format.html"]
    assert "--ladder-file" in pages["docs/api/commands.html"]
    for name, text in pages.items():
        # What a browser fetches by itself: pictures, scripts, styles, frames; links lead where the reader asks.
        fetched = re.findall(r"<(?:img|script|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']([^\"']+)", text)
        assert not [address for address in fetched if re.match(r"(https?:)?//", address)], name
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert styles
    assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", "".join(styles))
    found = succeed([python, "-c", "import capscale; print(capscale.__file__)"], cwd=source, env=where)
    assert found.startswith(str(packages))


@pytest.mark.ci
def test_the_sdist_installs_and_passes_tests_of_its_own(source, tmp_path):
    """The fresh environment holds capscale from the sdist alone, and borrows what capscale needs from this one."""
    unpacked, built = tmp_path / "unpacked", tmp_path / "built"
    python, packages = fresh_python(tmp_path / "venv")
    pip = [sys.executable, "-m", "pip", "--python", python, "install"]
    succeed([*pip, "setuptools>=65", "wheel"])
    succeed([python, "-c", f"from setuptools.build_meta import build_sdist; build_sdist({str(built)!r})"], cwd=source)
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (tree,) = unpacked.iterdir()
    lacking = [name for name in tracked() if not (tree / name).is_file()]
    assert not lacking
    succeed([*pip, "--no-deps", "--no-build-isolation", str(sdist)])
    borrow(packages)
    # Without the current folder on the path, the tree's own capscale/ cannot stand in for the installed one.
    where = {**os.environ, "PYTHONSAFEPATH": "1"}
    found = succeed([python, "-c", "import capscale.kernels as k; print(k.__file__)"], cwd=tree, env=where)
    assert found.startswith(str(packages))
    succeed([python, "-m", "pytest", "-q", "-p", "no:xdist", "-m", "not slow", *OWN_TESTS], cwd=tree, env=where)
