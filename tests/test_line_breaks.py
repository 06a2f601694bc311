"""What belongs together on a line of a page: formulas and their marks, numbers and their units."""

import importlib
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils import nodes
from docutils.utils import new_document

ROOT = Path(__file__).parent.parent

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "tools" / "sphinx_ext")
    line_breaks = importlib.import_module("line_breaks")
    accessible_pages = importlib.import_module("accessible_pages")


def kept_together(*parts, builder="html"):
    """A paragraph of these parts after the change, formulas written `$x$` and groups in braces."""
    page = new_document("page")
    paragraph = nodes.paragraph()
    for part in parts:
        formula = part.startswith("$")
        paragraph += nodes.math(text=part) if formula else nodes.Text(part)
    page += paragraph
    line_breaks.keep_together(SimpleNamespace(builder=SimpleNamespace(format=builder)), page, "page")
    return "".join(
        f"{{{node.astext()}}}" if isinstance(node, nodes.inline) else node.astext()
        for node in paragraph
    )


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("with ", "$x$", ", and"), "with {$x$,} and"),
        (("the ", "$j$", "-th step"), "the {$j$-th} step"),
        (("so (", "$x$", ")."), "so {($x$).}"),
        (("$a$", ", ", "$b$", " or ", "$c$"), "{$a$,} $b$ or $c$"),
        # Twice the same text before a formula: each keeps its own.
        ((" (", "$a$", " or", " (", "$b$", ")"), " {($a$} or {($b$)}"),
    ],
)
def test_a_formula_is_kept_with_its_marks(parts, expected):
    assert kept_together(*parts) == expected


def test_no_line_ends_between_a_number_and_its_sign():
    assert kept_together("60 % of 28 × 28, ± 0.5") == "60\u00a0% of 28\u00a0×\u00a028, ±\u00a00.5"
    assert kept_together("nats; ch. 3") == "nats; ch.\u00a03"
    assert kept_together("25 min; 15 s") == "25\u00a0min; 15\u00a0s"
    assert kept_together("a % b, 3 of 4, 2 minutes") == "a % b, 3 of 4, 2 minutes"


def test_only_pages_are_changed():
    assert kept_together("$x$", ", 5 %", builder="latex") == "$x$, 5 %"


@pytest.mark.parametrize(("width", "least"), [(749, None), (1000, "550px")])
def test_a_wide_figure_scrolls_where_it_would_be_too_small(tmp_path, width, least):
    name = "0" * 64 + ".png"
    images = tmp_path / "_images"
    images.mkdir()
    (images / name).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(8) + struct.pack(">II", width, 300))
    page = f'<div>\n<img alt="A plot" src="../_images/{name}" />\n</div>'
    folder = tmp_path / "book"
    folder.mkdir()
    widened = accessible_pages.widen(page, folder)
    if least is None:
        assert widened == page
    else:
        assert f'style="min-width: {least}"' in widened
        assert '<div class="output wide-figure"><img alt="A plot"' in widened
