"""Runs the code of a page where it is built, and sets below each block what it printed.

A page whose name is in `executed_pages` runs in a directory of its own, its blocks of Python in one namespace one after
the other, its lines of shell by the command line that they name. A block that fails or warns fails the build, and so
does a command that ends with another status than its comment says (`# exit status 2`).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

LIMIT_S = 1800
LANGUAGES = ("python", "bash")
log = logging.getLogger(__name__)


def blocks_of(tree: nodes.document) -> list[nodes.literal_block]:
    """Blocks of code that name one of the languages that are run."""
    return [block for block in tree.findall(nodes.literal_block) if block.get("language") in LANGUAGES]


def execute(blocks: list[tuple[str, str]]) -> list[str]:
    """Outputs of blocks, (language, code), run by one fresh Python in an empty directory.

    Raises:
      RuntimeError: a block failed or warned; the message is what was said.
    """
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, str(Path(__file__).with_name("run_blocks.py"))]
        done = subprocess.run(
            command, input=json.dumps(blocks), cwd=place, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def run_page(app: Sphinx, tree: nodes.document) -> None:
    """Runs the page that was read, if it is one of those that are, and adds the outputs to its tree."""
    if app.env.current_document.docname not in app.config.executed_pages:
        return
    blocks = blocks_of(tree)
    try:
        outputs = execute([(block["language"], block.astext()) for block in blocks])
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        log.warning("code of the page failed: %s", error, location=app.env.current_document.docname)
        return
    for block, output in zip(blocks, outputs, strict=True):
        if output.strip():
            shown = nodes.literal_block(output, output, classes=["output"])
            shown["language"] = "text"
            block.parent.insert(block.parent.index(block) + 1, shown)


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the names of the pages, and their running."""
    app.add_config_value("executed_pages", [], "env")
    app.connect("doctree-read", run_page)
    return {"parallel_read_safe": True}
