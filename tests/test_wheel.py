"""The wheel: built from this tree, unpacked elsewhere, and used from another folder."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.limits import LIMIT_S

ROOT = Path(__file__).parent.parent
PARTS = {"capscale", "kernels", "experiments", "setup.py", "README.md", "pyproject.toml", "LICENSE"}


@pytest.mark.slow
def test_the_wheel_is_whole_and_works_elsewhere(tmp_path):
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(tmp_path)]  # setuptools from the index
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, timeout=LIMIT_S)
    for name in tracked.stdout.decode().split("\0")[:-1]:
        if (ROOT / name).is_file() and name.split("/")[0] in PARTS:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*pip, str(source)], check=True, capture_output=True, timeout=10 * LIMIT_S)
    (wheel,) = tmp_path.glob("*.whl")
    place, elsewhere = tmp_path / "installed", tmp_path / "else where"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    metadata = next(place.glob("*.dist-info/METADATA")).read_text()
    assert "Description-Content-Type: text/markdown" in metadata
    assert "https://arxiv.org/abs/2506.01863" in metadata
    assert (place / "capscale" / "py.typed").exists()
    code = f"""
import sys; sys.path.insert(0, {str(place)!r})
import capscale, jax.numpy as jnp
assert capscale.__file__.startswith({str(place)!r}), capscale.__file__
from capscale.kernel_checks import check_kernels
tree = {{"w": jnp.ones((8, 8))}}
compressed = capscale.compress(tree, ((".*", capscale.Representation(capscale.operand("int4")), 0),))
print(compressed.project(tree)["w"].shape, len(dir(capscale)) > 30)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, check=False, capture_output=True, text=True,
                          timeout=LIMIT_S)  # fmt: skip
    assert done.stdout == "(8, 8) True\n", done.stderr
