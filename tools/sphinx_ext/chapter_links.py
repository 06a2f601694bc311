"""Sphinx extension: on the page of a problem set the chapter that it names is a link.

The file that students get lies in their own folder, where no link to a chapter leads anywhere. So
it says "chapter 3 of the book" in plain words (tools/problem_sets.py), and the page, which is made
from the same file, says the same with a link.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

RELEASED = "book/assignments/released/"
CHAPTER = re.compile(r"\bchapter (\d) of the book\b")


def link_chapters(app: Sphinx, page: str, content: list[str]) -> None:
    """Make links of a page's words, in the text of its notebook before that is parsed."""
    if page.startswith(RELEASED):
        content[0] = with_links(content[0], app.env.found_docs)


def with_links(text: str, pages: set[str]) -> str:
    """Return the text with a link for each chapter that is one of the pages."""
    names = {found[1]: page for page in pages if (found := re.match(r"book/0(\d)_\w+$", page))}

    def link(words: re.Match) -> str:
        if words[1] not in names:
            return words[0]
        return f"[{words[0]}](../../{names[words[1]].removeprefix('book/')}.ipynb)"

    return CHAPTER.sub(link, text)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", link_chapters)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
