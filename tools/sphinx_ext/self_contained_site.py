"""Sphinx extension: the built site loads nothing from another host.

A reader on a train, behind a school's firewall or with a tracker blocker must see the same
pages as everybody else. MathJax therefore travels with the site, taken from a Python package.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

# The SVG output needs no font files. Firefox refuses fonts to pages opened as file://, so
# with MathJax's other output the equations would be broken for those who open a page by
# double-clicking it.
MATHJAX_SCRIPT = "tex-svg.js"
# Of MathJax 3.2.2. What runs on every page is to be this and nothing else.
MATHJAX_SHA256 = "2af9375000b5a3669be94d436ae1c61159855283cd18b3ee9817fb71c8f94c84"

# What that script may load later: TeX commands outside its core, and, when a reader asks for
# them in the menu of an equation, the spoken and explorable forms (in English).
MATHJAX_ON_DEMAND = (
    "input/tex/extensions/*.js",
    "a11y/*.js",
    "sre/mathmaps/base.json",
    "sre/mathmaps/en.json",
)

def mathjax_folder() -> Path:
    """Return the folder of MathJax's ready-made scripts inside the installed package."""
    folder = Path(str(files("mathjax"))) / "static" / "mathjax" / "es5"
    verify(folder / MATHJAX_SCRIPT)
    return folder


def verify(script: Path) -> None:
    """Raise an error unless the file is there and is MathJax as we know it."""
    if not script.is_file():
        raise FileNotFoundError(
            f"MathJax was expected at {script}: install the packages in requirements.txt"
        )
    found = hashlib.sha256(script.read_bytes()).hexdigest()
    if found != MATHJAX_SHA256:
        raise ValueError(f"{script}: expected SHA-256 {MATHJAX_SHA256}, got {found}")


def use_local_mathjax(app: Sphinx, config: Config) -> None:
    """Point the pages at the copy of MathJax that `copy_mathjax` makes."""
    config.mathjax_path = f"mathjax/{MATHJAX_SCRIPT}"


def copy_mathjax(app: Sphinx, exception: Exception | None) -> None:
    """Copy MathJax beside the site's other static files."""
    if exception is not None or app.builder.format != "html":
        return
    source = mathjax_folder()
    target = Path(app.outdir) / "_static" / "mathjax"
    for pattern in (MATHJAX_SCRIPT, *MATHJAX_ON_DEMAND):
        for file in source.glob(pattern):
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", use_local_mathjax)
    app.connect("build-finished", copy_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
