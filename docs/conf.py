"""How Sphinx builds the pages: `make docs` writes them to build/docs."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from widthwise.version import __version__

project = "widthwise"
release = version = __version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_parser"]
default_role = "code"
smartquotes_action = "D"  # dashes alone: phi'' is a derivative
highlight_language = "none"  # what is indented is an equation or a command
suppress_warnings = ["myst.header"]  # pages of tables may skip a level

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes and units stand in the text
napoleon_use_ivar = True
napoleon_attr_annotations = False

html_theme = "furo"
html_title = f"widthwise {release}"
html_copy_source = html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["wide.css"]

SECTIONS = ("Args:", "Attributes:", "Returns:", "Raises:", "Example:", "Yields:")


def as_rst(app: Any, what: str, name: str, thing: object, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: equations are what is indented, and no sign in the prose is markup but backticks."""
    out: list[str] = []
    in_section = in_doctest = in_equation = False
    for line in lines:
        flush = bool(line) and not line.startswith(" ")
        if flush:
            in_section, in_equation = line.strip() in SECTIONS, False
        in_doctest = (in_doctest or line.lstrip().startswith(">>>")) and bool(line.strip())
        if line.startswith(" ") and not in_section and not in_equation and not in_doctest:
            in_equation = True
            out += ["", "::", ""]
        out.append(line if in_doctest or in_equation else escaped(described(line) if in_section else line))
    if what in ("property", "attribute"):
        out[:0] = ["..", ""]  # an empty comment, or napoleon takes what stands before a colon for a type
    lines[:] = out


def described(line: str) -> str:
    """Of a line `a, b: n.` in a section: two names stay one field, and n. is no number of a list."""
    line = re.sub(r"^ +\w+(?:, \w+)+(?=: )", lambda names: names[0].replace(", ", ","), line)
    return re.sub(r"^( +[\w,]+: \w{1,2})\.(?= |$)", r"\1\\.", line)


def escaped(line: str) -> str:
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(p if p.startswith("`") else re.sub(r"([*|])|(?<=\w)(_)(?!\w)", r"\\\1\2", p) for p in parts)


def setup(app: Any) -> None:
    finite = importlib.import_module("finite")
    for name in finite.__all__:  # it imports them when they are asked for, and autodoc does not ask
        setattr(finite, name, getattr(finite, name))
    app.connect("autodoc-process-docstring", as_rst, priority=400)
