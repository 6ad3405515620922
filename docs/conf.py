"""Configuration of the site: `bash scripts/docs.sh` builds it, without a network, and a warning fails the build.

The source is the whole repository, so that README, CONTRIBUTING and the pages below docs/ are pages as they stand.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs" / "extensions"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from capscale import __version__  # noqa: E402  (the platform first)

project = "capscale"
author = "The authors of capscale"
version = release = __version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "docstrings", "executed", "facade"]
root_doc = "docs/index"
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/api/*.rst",
    "docs/benchmarks/*.md",
    "experiments/results/README.md",
]
exclude_patterns = ["build", ".venv*", "docs/api/README.md"]
executed_pages = ["docs/start", "docs/own_model", "docs/own_format", "docs/checkpoints", "docs/own_table", "docs/pod"]

# Links as GitHub reads them: by file, and to headings by their words.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["myst.header"]  # a page may begin with a heading of the second level

nitpicky = True
# jax.Array as autodoc calls it, and as a module calls it that imports it for types alone.
nitpick_ignore = [("py:class", "jax.jaxlib._jax.Array"), ("py:class", "Array")]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": False}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 160
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # fields are listed as what they are

html_theme = "furo"
html_title = f"capscale {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "redirect.html"}
templates_path = ["templates"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {"top_of_page_buttons": []}
pygments_style = "friendly"
pygments_dark_style = "monokai"
