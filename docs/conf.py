"""The site made from these pages: ``python -m sphinx -W --keep-going -b html docs docs/_build/html``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "docs" / "_ext")]
os.environ["COLUMNS"] = "80"  # the width of the commands' help texts

from glasspool import __version__  # noqa: E402  (found by the path above)

project = "glasspool"
author = "the glasspool developers"
copyright = "the glasspool developers"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "public_names",
]
exclude_patterns = ["_build", "_ext"]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

# The newest milliseconds of a stack differ in every run: examples with such output are run and compared
# by tests/integration/test_docs.py, those in docstrings by the builder "doctest".
doctest_test_doctest_blocks = "default"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
maximum_signature_line_length = 88

# Console output, PromQL and SQL are shown as they are where Pygments cannot read them.
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = f"glasspool {__version__}"
html_static_path = ["_static"]
html_css_files = ["glasspool.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
