"""Sphinx extension: pages that are light.

The theme brings all of Font Awesome twice to every page, as a script that holds drawings (0.54 MB
as it is transferred) and as a font (0.16 MB), for the sake of about twenty icons. Here the script
is taken out, since the font has the same icons, and of the font the icons that the site shows go
into a style sheet, icons.css. So they also show where a browser refuses fonts to pages that are
opened as files. An icon that is none of them still comes from the whole font.
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

STYLE = "icons.css"
FAMILY, WEIGHT, FONT = "Font Awesome 6 Free", 900, "fa-solid-900.ttf"
SCRIPT = re.compile(r'[ \t]*<script defer src="[^"]*/fontawesome\.js[^"]*"></script>\n')
# In the theme's style sheet: .fa-bars:before,.fa-navicon:before{content:"\f0c9"}
ICON_RULE = re.compile(r'((?:\.fa-[\w-]+:+before,?)+)\{content:"\\([0-9a-f]+)"\}')
ICON_NAME = re.compile(r"\bfa-[\w-]+")
# Icons that the theme shows by its style sheet alone, such as those of admonitions.
ICON_CHARACTER = re.compile("[\uf000-\uf8ff]")

logger = logging.getLogger(__name__)


def lighten(app: Sphinx, exception: Exception | None) -> None:
    """Take the icons' script out of the pages that were built, and write icons.css."""
    if exception is not None or app.builder.name != "html":
        return
    out = Path(app.outdir)
    taken_out, texts = 0, []
    for page in out.rglob("*.html"):
        if "_static" in page.relative_to(out).parts:
            continue
        text = page.read_text(encoding="utf-8")
        lighter, count = SCRIPT.subn("", text)
        if count:
            page.write_text(lighter, encoding="utf-8", newline="\n")
        taken_out += count
        texts.append(lighter)
    style = out / "_static" / "styles" / "pydata-sphinx-theme.css"
    font = out / "_static" / "vendor" / "fontawesome" / "webfonts" / FONT
    if not taken_out or not style.is_file() or not font.is_file():
        logger.warning("light_pages: the theme's icons are not where they were", type="light_pages")
        return
    for file in (out / "_static" / "scripts").glob("fontawesome.js*"):
        file.unlink()
    texts += [file.read_text(encoding="utf-8") for file in (out / "_static").rglob("*sphinx*.js")]
    codes = icons_shown(texts, style.read_text(encoding="utf-8"))
    (out / "_static" / STYLE).write_text(icon_style(font, codes), encoding="utf-8", newline="\n")


def icons_shown(texts: list[str], style: str) -> list[int]:
    """Return the code points of the icons that texts name, or that a style sheet shows."""
    named = {
        name: int(code, 16)
        for rule, code in ICON_RULE.findall(style)
        for name in ICON_NAME.findall(rule)
    }
    codes = {named[name] for text in texts for name in ICON_NAME.findall(text) if name in named}
    return sorted(codes | set(map(ord, ICON_CHARACTER.findall(style))))


def icon_style(font: Path, codes: list[int]) -> str:
    """Return a style sheet that holds these characters of a font."""
    # It comes with matplotlib.
    from fontTools import subset

    options = subset.Options(flavor="woff", notdef_outline=True, layout_features=[])
    options.drop_tables += ["FFTM"]
    whole = subset.load_font(str(font), options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=codes)
    subsetter.subset(whole)
    buffer = io.BytesIO()
    subset.save_font(whole, buffer, options)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        "/* Some of the icons of Font Awesome Free (https://fontawesome.com/license/free; the font:"
        " SIL OFL 1.1). */\n"
        f"@font-face {{\n  font-family: '{FAMILY}';\n  font-style: normal;\n"
        f"  font-weight: {WEIGHT};\n  font-display: block;\n"
        f"  src: url('data:font/woff;base64,{data}') format('woff');\n"
        f"  unicode-range: {', '.join(f'U+{code:x}' for code in codes)};\n}}\n"
    )


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_css_file(STYLE)
    app.connect("build-finished", lighten)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
