"""Sphinx configuration. The site is built strictly and offline: `make docs`."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE / "extensions"))

import segkernel  # noqa: E402

project = "segkernel"
author = "the segkernel authors"
copyright = "the segkernel authors, Apache-2.0"
version = release = segkernel.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "mathml",
    "markdown_in_docstrings",
    "operator_table",
]
exclude_patterns = ["extensions", "pictures"]
nitpicky = True
# Types of other packages: their inventories are on the network, and the build is offline.
nitpick_ignore_regex = [("py:.*", r"(?!segkernel).*")]

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

default_role = "code"  # docstrings put code between single backticks
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_display_short_literal_types = True
python_maximum_signature_line_length = 80
add_module_names = False

copybutton_exclude = ".linenos, .gp"
pygments_style = "friendly"

html_theme = "pydata_sphinx_theme"
html_title = "segkernel"
html_sidebars = {"**": []}  # the pages are in the header
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "friendly",
    "pygments_dark_style": "monokai",
}
