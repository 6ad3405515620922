"""Figures as SVG inside a page: no file beside it, no request, colours that follow the page's scheme, tooltips."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

from markupsafe import Markup
from matplotlib.figure import Figure

from capscale.analysis.hover import GID, words_of
from capscale.analysis.images import encoded

COLOR = re.compile(r"#([0-9a-f]{6})\b")
REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline_svg(figure: Figure, name: str, alt: str) -> Markup:
    """The figure as an `<svg>` element of a page.

    Args:
      figure: letters are drawn as paths, so that the page looks the same whatever fonts there are.
      name: unique in the page; ids of parts begin with it.
      alt: the finding, for those who do not see the figure.

    Returns:
      Markup that a template takes as it is. Colours are variables `--m-rrggbb` with the drawn colour as default, which
      the page's style may set; marks of `hover` hold a `<title>`, and `data-key`. Comments, metadata, scripts and
      namespaces are left out, and what comes from a table is escaped.
    """
    root = ET.fromstring(encoded(figure, "svg"))  # our own figure; comments and the doctype are dropped by the parser
    for parent in root.iter():
        for child in [c for c in parent if _local(c.tag) in ("metadata", "style", "script")]:
            parent.remove(child)
    for element in root.iter():
        _plain(element)
    _number(root, name)
    # One mark after the other: several may stand for one row of a table, and so share an id.
    marks = [e for e in root.iter() if e.get("data-key") is not None]
    for element, (_, words) in zip(marks, words_of(figure), strict=True):
        title = ET.Element("title")
        title.text = words
        element.insert(0, title)
    width, height = figure.get_size_inches()
    root.attrib.pop("height", None)
    root.attrib |= {"width": f"{72 * width:.0f}pt", "role": "img", "aria-label": alt, "class": "figure"}
    root.set("viewBox", f"0 0 {72 * width:g} {72 * height:g}")
    return Markup(ET.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    """A name without its namespace, which HTML does not have."""
    return name.rpartition("}")[2]


def _plain(element: ET.Element) -> None:
    """No namespaces, and colours as variables."""
    element.tag = _local(element.tag)
    attributes = {_local(name): value for name, value in element.attrib.items()}
    element.attrib.clear()
    element.attrib.update(attributes)
    if "style" in attributes:
        element.set("style", COLOR.sub(r"var(--m-\1, #\1)", attributes["style"]))


def _number(root: ET.Element, name: str) -> None:
    """Ids of this page: those that something refers to get `name` before them, the others go."""
    used = set(_references(root))
    for element in root.iter():
        given = element.attrib.pop("id", None)
        if given is not None and given.startswith(GID):
            element.set("data-key", given.removeprefix(GID))
        if given in used:
            element.set("id", f"{name}-{given}")
        for attribute, value in element.attrib.items():
            if attribute == "href" and value.startswith("#"):
                element.set(attribute, f"#{name}-{value[1:]}")
            else:
                element.set(attribute, REFERENCE.sub(rf"url(#{name}-\1)", value))


def _references(root: ET.Element) -> Iterator[str]:
    for element in root.iter():
        for attribute, value in element.attrib.items():
            if attribute == "href" and value.startswith("#"):
                yield value[1:]
            yield from REFERENCE.findall(value)
