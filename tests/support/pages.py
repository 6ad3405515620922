"""Blocks of code on the pages below docs/, and what they define."""

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str = "python") -> list[str]:
    """The page's blocks in a language, in order."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def defined(page: str, statement: str) -> dict[str, Any]:
    """Names that the one block with this statement defines; the block has all that it imports."""
    (block,) = [block for block in blocks(page) if statement in block]
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(block, f"docs/{page}.md", "exec"), names)
    return names
