"""Configuration of the documentation: python -m sphinx -W --keep-going docs docs/_build

`-D plot_gallery=0` leaves out the examples, which take some minutes.
"""

# SPDX-License-Identifier: BSD-3-Clause

import sys
from pathlib import Path

import skjko

sys.path.insert(0, str(Path(__file__).parent))

project = "skjko"
author = copyright = "the skjko developers"
version = release = skjko.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
    "offline",
]
exclude_patterns = ["_build", "**/sg_execution_times.rst", "sg_execution_times.rst"]
templates_path = ["_templates"]

html_theme = "pydata_sphinx_theme"
html_title = f"skjko {version}"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}
html_css_files = ["custom.css"]
html_copy_source = html_show_sourcelink = False
html_math_renderer = "mathml"
html_theme_options = {
    "logo": {"text": "skjko"},
    "header_links_before_dropdown": 6,
    "show_prev_next": False,
    "navbar_end": ["theme-switcher"],
    "footer_end": [],
}

# Parameters and attributes are in the docstrings of the classes.
numpydoc_show_class_members = False
autodoc_typehints = "none"

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    # The others are scripts, which print and take minutes.
    "ignore_pattern": "^(?!plot_)",
    "within_subsection_order": "FileNameSortKey",
    "min_reported_time": 60,
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
    "doc_module": ("skjko",),
    "backreferences_dir": "gallery/backreferences",
}
