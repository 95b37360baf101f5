"""How the site is built: `make docs`. Pages are markdown; the reference comes from docstrings."""

import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "solvers")]
# Kernels of notebooks are processes of their own, and must import this checkout too.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "solvers"), os.environ.get("PYTHONPATH", "")])
from tmask import __version__

project = "tmask"
author = "The tmask authors"
copyright = author
release = version = __version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "myst_nb", "sphinx_copybutton"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
html_theme = "furo"
html_title = "tmask"
html_extra_path = ["llms.txt"]
html_show_sourcelink = True
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
# Some pages begin one level below the title of a section that others link to.
suppress_warnings = ["myst.header"]
# Notebooks hold what they printed when they were last run; a test runs them anew.
nb_execution_mode = "off"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Cost", "Source"]

# Files of results are no pages of this site: readers get them as they are.
_RESULTS = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+bench/results/[\w.-]+)\)")


def _offer_results(app: Any, name: str, source: list[str]) -> None:
    if not name.startswith("notebooks/"):
        source[0] = _RESULTS.sub(r"{download}`\1 <\2>`", source[0])


def _read_as_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text, not reStructuredText: names in single backquotes are code, | and * are themselves."""
    text = "\n".join(lines)
    parts = re.split(r"(`[^`]+`)", text)
    parts[::2] = [re.sub(r"([|*])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = ["`" + re.sub(r"\s*\n\s*", " ", part) + "`" for part in parts[1::2]]
    lines[:] = "".join(parts).split("\n")


def setup(app: Any) -> None:
    """Hooks of Sphinx."""
    app.connect("source-read", _offer_results)
    app.connect("autodoc-process-docstring", _read_as_text, priority=400)
