"""How the documentation is built: `make docs`. Nothing is loaded from elsewhere, neither at build nor by the pages."""

project = "migration_assets"
author = "the authors of migration_assets"
html_title = "migration_assets"
extensions = ["myst_parser", "sphinx_copybutton"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sphinx = False
copybutton_exclude = ".linenos"
# A key in a block of settings or a command is no Python.
highlight_language = "none"
