"""Sphinx extension: no line of a page begins with what belongs to the end of the one before.

To a browser a formula is like a picture: it may begin a new line after it, even with a full stop. And
a number may be parted from its per cent sign. So a formula is kept together with the marks that touch
it, and spaces such as those in 60 %, 15 s, 28 × 28 and ± 0.5 become ones at which no line ends.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

BEFORE = re.compile(r"[(\[“‘]+$")
AFTER = re.compile(r"^(?:[.,;:!?)\]”’…]+|-\w+)")
SPACE = re.compile(
    r"(?<=\d) (?=%|× \d|(?:s|min|MB|GB)\b)|(?<=\d ×) (?=\d)|(?<=±) (?=\d)|(?<=\bch\.) (?=\d)"
)


def keep_together(app: Sphinx, doctree: nodes.document, _page: str) -> None:
    """Change the spaces of a page's text, and put each formula and its marks into one element."""
    if app.builder.format != "html":
        return
    for text in list(doctree.findall(nodes.Text)):
        if isinstance(text.parent, (nodes.literal, nodes.math, nodes.FixedTextElement, nodes.raw)):
            continue
        if SPACE.search(text):
            text.parent.replace(text, nodes.Text(SPACE.sub("\u00a0", text)))
    for formula in list(doctree.findall(nodes.math)):
        parent, place = formula.parent, formula.parent.index(formula)
        left, right = parent[max(place - 1, 0) : place], parent[place + 1 : place + 2]
        # Only in text: what a link or an emphasis ends with stays in it.
        before = BEFORE.search(left[0]) if left and isinstance(left[0], nodes.Text) else None
        after = AFTER.search(right[0]) if right and isinstance(right[0], nodes.Text) else None
        if not (before or after):
            continue
        together = nodes.inline("", "", classes=["keep-together"])
        new: list[nodes.Node] = [together]
        start, end = place, place + 1
        if before:
            start -= 1
            new.insert(0, nodes.Text(left[0][: before.start()]))
            together += nodes.Text(before[0])
        together += formula.deepcopy()
        if after:
            end += 1
            new.append(nodes.Text(right[0][after.end() :]))
            together += nodes.Text(after[0])
        parent[start:end] = [node for node in new if node.astext()]


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-resolved", keep_together)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
