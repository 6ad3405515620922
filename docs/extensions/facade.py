"""Directives for pages that no docstring is: `facade` lists the public names, `commands` the help of every command."""

import importlib
import inspect
import io
import os
from contextlib import redirect_stdout, suppress
from typing import Any

from docstrings import restructured, targets
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

WIDTH = "92"
"""Columns of help pages."""


class Facade(SphinxDirective):
    """One line for each name of `capscale.__all__`: a link to it, and the first paragraph of its docstring."""

    def run(self) -> list[nodes.Node]:
        """Parses the lines as the page's own."""
        facade = importlib.import_module("capscale")
        known = targets(self.env.app)
        lines = []
        for name in facade.__all__:
            home = facade._HOME[name]
            value, named = getattr(facade, name), ModuleAnalyzer.for_module(home).find_attr_docs().get(("", name))
            text = "\n".join(named) if named else inspect.getdoc(value) if hasattr(value, "__name__") else ""
            about = " ".join((text or "").split("\n\n")[0].split())
            full = known.get(name, f"{home}.{name}")
            lines += [f"- :py:obj:`{name} <{full}>`: {restructured([about], known)[0]}".rstrip(": ")]
        parsed = nodes.Element()
        self.state.nested_parse(StringList(lines, "facade"), self.content_offset, parsed)
        return parsed.children


class Commands(SphinxDirective):
    """A section for each command, with its help page."""

    def run(self) -> list[nodes.Node]:
        """Asks every command for its help, as a terminal of some width without colours shows it."""
        from capscale.cli import commands

        os.environ |= {"COLUMNS": WIDTH, "NO_COLOR": "1", "TERM": "dumb"}
        out: list[nodes.Node] = []
        for name in commands.COMMANDS:
            said = io.StringIO()
            with redirect_stdout(said), suppress(SystemExit):  # as help ends
                commands.parse([name, "--help"])
            section = nodes.section(ids=[name], names=[name])
            shown = nodes.literal_block("", said.getvalue())
            shown["language"] = "text"
            section += [nodes.title("", name), shown]
            out.append(section)
        return out


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers both directives."""
    app.add_directive("facade", Facade)
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
