"""Sphinx's settings. The API pages are made from the installed package's docstrings, the extension's included."""

project = "Atoll"
author = "the Atoll authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "Atoll"
html_copy_source = False
html_show_copyright = False
exclude_patterns = ["site"]

myst_enable_extensions = ["deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "separated"
napoleon_numpy_docstring = False
# An "Attributes:" section describes fields that autodoc lists as well.
napoleon_use_ivar = True

# The build needs no network: nothing is linked to other projects' inventories.
