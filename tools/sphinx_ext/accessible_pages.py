"""Sphinx extension: pages that everybody can use, where the theme's own HTML is in the way.

After the build each replacement below is made in every page. One that finds nothing in the whole
site is a warning (with -W an error): the theme then writes something else, and somebody has to look
whether it has become right. And figures that are too wide for a phone are made to scroll there.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

from sphinx.application import Sphinx
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)


class Replacement(NamedTuple):
    old: str
    new: str


REPLACEMENTS = (
    # Who comes for the first time has chosen no colours: those of the system are meant. The theme
    # writes an error on the console instead, and shows a light page before a dark one.
    Replacement(
        'dataset.mode = localStorage.getItem("mode") || "";',
        'dataset.mode = localStorage.getItem("mode") || "auto";',
    ),
    Replacement(
        'dataset.theme = localStorage.getItem("theme") || "";',
        'dataset.theme = localStorage.getItem("theme")'
        ' || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");',
    ),
    Replacement('<body data-default-mode="">', '<body data-default-mode="auto">'),
    # The same instruction twice.
    Replacement(
        '<meta name="viewport" content="width=device-width, initial-scale=1.0" />'
        '<meta name="viewport" content="width=device-width, initial-scale=1" />',
        '<meta name="viewport" content="width=device-width, initial-scale=1" />',
    ),
    # A list whose parts are no items of a list, and a role that was taken out of the standard.
    Replacement('<div role="list" class="citation-list">', '<div class="citation-list">'),
    Replacement(' role="doc-biblioentry"', ""),
    # The side bar holds the title and the search as well as the contents: a landmark of its own.
    Replacement(
        '<div id="pst-primary-sidebar" class="bd-sidebar-primary bd-sidebar">',
        '<div id="pst-primary-sidebar" class="bd-sidebar-primary bd-sidebar noprint"'
        ' role="complementary" aria-label="Book">',
    ),
)

# A figure that would be drawn at less than half its size on a phone, its labels too small to read,
# scrolls there instead. (The theme lets an .output scroll, by keys too.)
FIGURE = re.compile(r'(?m)^<img (alt="[^"]*" src="([^"]*/_images/[0-9a-f]{64}\.png)") />')
WIDE, SMALLEST = 750, 0.55


def widen(page: str, folder: Path) -> str:
    """Return a page whose wide figures have a width below which they scroll."""

    def with_width(image: re.Match) -> str:
        width, _ = struct.unpack(">II", (folder / image[2]).read_bytes()[16:24])
        if width < WIDE:
            return image[0]
        style = f"min-width: {SMALLEST * width:.0f}px"
        return f'<div class="output wide-figure"><img {image[1]} style="{style}" /></div>'

    return FIGURE.sub(with_width, page)


def mend_pages(app: Sphinx, exception: Exception | None) -> None:
    """Make the replacements in every page that was written."""
    if exception is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir)
    unused = set(REPLACEMENTS)
    for page in folder.rglob("*.html"):
        if "_static" in page.relative_to(folder).parts:
            continue
        text = mended = page.read_text(encoding="utf-8")
        for replacement in REPLACEMENTS:
            if replacement.old in mended or replacement.new and replacement.new in mended:
                unused.discard(replacement)
            mended = mended.replace(*replacement)
        mended = widen(mended, page.parent)
        if mended != text:
            page.write_text(mended, encoding="utf-8", newline="\n")
    for replacement in REPLACEMENTS:
        if replacement in unused:
            LOGGER.warning("accessible_pages: no page has %r any more", replacement.old)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", mend_pages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
