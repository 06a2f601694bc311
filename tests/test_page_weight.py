"""How much a page transfers, and that what is heavy does not keep it from being seen."""

import base64
import functools
import gzip
import importlib
import io
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from fontTools.ttLib import TTFont

ROOT = Path(__file__).parent.parent

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "tools" / "sphinx_ext")
    light_pages = importlib.import_module("light_pages")
    self_contained_site = importlib.import_module("self_contained_site")

# Bytes transferred apart from pictures: without a live figure, and with one or more.
LIGHT, WITH_FIGURES = 1_000_000, 3_000_000
IMPORTED = re.compile(r"""@import\s+(?:url\(\s*)?["']?([^"')\s;]+)""")
COMPRESSED = (".html", ".css", ".js", ".svg", ".json", ".ttf")


@functools.cache
def transferred(file):
    """The bytes that a server sends for a file: it compresses texts, as GitHub Pages does."""
    content = file.read_bytes()
    return len(gzip.compress(content, 6) if file.suffix in COMPRESSED else content)


def parts(site, page):
    """The files that a page loads, apart from pictures: its live figures' data included."""
    html = (site / page).read_text(encoding="utf-8")
    found = re.findall(r'<script[^>]* src="([^"?#]*)', html)
    found += re.findall(r'<link[^>]* rel="stylesheet"[^>]* href="([^"?#]*)', html)
    found += re.findall(r'<link[^>]* href="([^"?#]*)[^>]* rel="stylesheet"', html)
    files = {page, *(os.path.normpath(Path(page).parent / unquote(path)) for path in found)}
    for names in re.findall('data-live="([^"]*)"', html):
        files |= {f"_static/live/{name}.js" for name in names.split()}
    for sheet in [file for file in files if file.endswith(".css")]:
        imported = IMPORTED.findall((site / sheet).read_text(encoding="utf-8"))
        files |= {os.path.normpath(Path(sheet).parent / name) for name in imported}
    return files


def test_parts_of_a_page_and_their_weight(tmp_path):
    for name in ("_static/a.js", "_static/b.css", "_static/d.css", "x/p.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"0" * 10_000)
    (tmp_path / "_static" / "b.css").write_text('@import url("../e.css");\n@import "styles/f.css";')
    (tmp_path / "x" / "p.html").write_text(
        '<script defer src="../_static/a.js?v=1"></script><script>let x</script><img src="q.png">'
        '<link rel="stylesheet" type="text/css" href="../_static/b.css" /><link rel="x" href="y" />'
        '<link href="../_static/d.css" rel="stylesheet" /><div data-live="c"></div>'
    )
    names = "a.js", "b.css", "d.css", "live/c.js", "../e.css", "styles/f.css"
    files = {os.path.normpath(f"_static/{name}") for name in names}
    assert parts(tmp_path, "x/p.html") == {"x/p.html", *files}
    assert transferred(tmp_path / "_static" / "a.js") < 100
    (tmp_path / "q.png").write_bytes(b"0" * 10_000)
    assert transferred(tmp_path / "q.png") == 10_000


def test_pages_are_light(site):
    pages = [path.relative_to(site).as_posix() for path in (site / "book").glob("*.html")]
    assert len(pages) >= 12
    weights = {}
    for page in pages:
        files = parts(site, page)
        weights[page] = sum(transferred(site / file) for file in files)
        limit = WITH_FIGURES if any("/live/" in file for file in files) else LIGHT
        assert weights[page] < limit, f"{page}: {weights[page]} bytes"
    # Not because nothing was counted: the largest part is MathJax, where there are equations.
    mathjax = transferred(site / "_static" / "mathjax" / "tex-svg.js")
    assert weights["book/03_elbo.html"] > mathjax > 500_000
    assert weights["book/references.html"] < mathjax


def test_a_page_loads_what_was_counted_and_its_icons(open_page, site, site_address):
    page, log = open_page(f"{site_address}/book/03_elbo.html")
    below = urlsplit(site_address).path + "/"
    page.wait_for_load_state("networkidle")
    paths = {unquote(urlsplit(url).path).removeprefix(below) for url in log.requests}
    loaded = {path for path in paths if not path.startswith(("_images/", "data:"))}
    assert loaded <= parts(site, "book/03_elbo.html")
    assert "_static/mathjax/tex-svg.js" in loaded and "_static/icons.css" in loaded

    assert page.locator("button.theme-switch-button").first.is_visible()
    fonts = page.evaluate(
        "[...document.fonts].filter(f => f.status === 'loaded').map(f => f.unicodeRange)"
    )
    assert len(fonts) == 1 and "U+F0C9" in fonts[0].upper()  # not the whole font


def test_a_page_is_seen_before_mathjax_and_figures_are_there(browser, site_address):
    context = browser.new_context()
    page = context.new_page()
    held = []
    for pattern in ("**/mathjax/**", "**/live_figures.js*", "**/live/*"):
        page.route(pattern, lambda route: held.append(route))  # never answered
    page.goto(f"{site_address}/book/03_elbo.html", wait_until="commit")
    painted = "performance.getEntriesByName('first-contentful-paint').length > 0"
    page.wait_for_function(painted, timeout=20_000)
    assert held and page.locator("article h1").is_visible()
    assert page.evaluate("document.readyState") != "complete"
    for route in held:
        route.abort()
    context.close()


# Icons -------------------------------------------------------------------------------------------


def test_icons_that_are_shown():
    style = (
        '.fa-bars:before,.fa-navicon:before{content:"\\f0c9"}.fa-sun:before{content:"\\f185"}'
        '.fa-moon:before{content:"\\f186"}html{--pst-icon-bell:"\uf0f3"}'
    )
    texts = ['<i class="fa-solid fa-navicon fa-lg">', 'x.className = "fa-sun"', "fa-sunny"]
    assert light_pages.icons_shown(texts, style) == [0xF0C9, 0xF0F3, 0xF185]


def test_icons_are_drawn_as_in_the_whole_font(site):
    style = (site / "_static" / "icons.css").read_text()
    data = re.search("base64,([^']*)", style)[1]
    small = TTFont(io.BytesIO(base64.b64decode(data)))
    fonts = site / "_static" / "vendor" / "fontawesome" / "webfonts"
    whole = TTFont(fonts / light_pages.FONT)
    named = re.search("unicode-range: ([^;]*)", style)[1].split(", ")
    drawn = set(small.getBestCmap()) & {int(code.removeprefix("U+"), 16) for code in named}
    assert {0xF0C9, 0xF002, 0xF042} <= drawn
    for code in drawn:
        glyphs = (font["glyf"][font.getBestCmap()[code]] for font in (small, whole))
        assert next(glyphs).coordinates == next(glyphs).coordinates


def test_what_runs_on_every_page_is_mathjax_as_we_know_it(tmp_path):
    script = self_contained_site.mathjax_folder() / self_contained_site.MATHJAX_SCRIPT
    altered = tmp_path / script.name
    altered.write_bytes(script.read_bytes() + b" ")
    with pytest.raises(ValueError, match=f"{script.name}: expected SHA-256 .*, got "):
        self_contained_site.verify(altered)
    with pytest.raises(FileNotFoundError, match="install the packages in requirements.txt"):
        self_contained_site.verify(tmp_path / "gone.js")
