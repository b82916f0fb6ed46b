"""How the documentation site is made: `make docs`, offline, and any warning ends it.

The reference pages are written anew each time, from what they describe (`generate.py`).
"""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generate  # noqa: E402 - it stands beside this file
from sphinx.application import Sphinx  # noqa: E402

generate.write(HERE / "reference")

project = "hitledger"
author = "the hitledger maintainers"
version = release = version_of("hitledger")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nitpicky = True
# What the annotations of our names lead to outside of this project has no page here.
nitpick_ignore_regex = [("py:.*", r"(?!hitledger).*"), ("py:.*", r"hitledger\.(?!errors).*")]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False

# Pages that stand outside of this folder are included in one of the same name within it.
INCLUDED = {"](../CONTRIBUTING.md": "](contributing.md", "](../CHANGELOG.md": "](changelog.md"}

html_theme = "furo"
html_title = f"hitledger {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
copybutton_prompt_text = "$ "


def setup(app: Sphinx) -> None:
    """Have links to included pages lead to where they are on the site."""

    def mend(app: Sphinx, name: str, source: list[str]) -> None:
        del app, name
        for link, place in INCLUDED.items():
            source[0] = source[0].replace(link, place)

    def show(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
        """Have what a docstring sets in be shown as the code that it is."""
        del app, what, name, thing, options
        for at in range(len(lines) - 1, 1, -1):
            before = next((line for line in reversed(lines[:at]) if line.strip()), "")
            if lines[at].startswith("    ") and not lines[at - 1].strip() and not before.startswith("    "):
                lines[at:at] = ["::", ""]

    app.connect("source-read", mend)
    app.connect("autodoc-process-docstring", show, priority=400)  # before napoleon
