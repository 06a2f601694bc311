"""The built site: whole, readable without pictures, and loading nothing from another host.

These tests read the files. Those of test_pages.py open them in a browser.
"""

import json
import re
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import problem_sets  # noqa: E402
from problem_sets import secret_lines  # noqa: E402

FOREIGN = re.compile(r"^\s*(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
# Namespaces are names that merely look like addresses; a browser never asks for them.
ADDRESS = re.compile(r"https?://(?!www\.w3\.org/)[^\s\"'<>)\\]+", re.IGNORECASE)
CSS_LOAD = re.compile(r"(?:url\(\s*|@import\s+)[\"']?((?:https?:)?//[^\"')\s]+)", re.IGNORECASE)
# Attributes whose address a browser fetches by itself. A link (a href) waits for the reader.
FETCHED = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "image": ("href", "xlink:href"),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}


class Page(HTMLParser):
    """What the tests look at in a page."""

    def __init__(self, html):
        super().__init__()
        self.tags = []  # (name, attributes)
        self.scripts, self.styles, self.words = [], [], []
        self._inside = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = {name: value or "" for name, value in attributes}
        self.tags.append((tag, attributes))
        if tag in ("script", "style", "pre", "code"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data):
        inside = self._inside[-1] if self._inside else ""
        {"script": self.scripts, "style": self.styles, "": self.words}.get(inside, []).append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def anchors(self):
        return {a[key] for _, a in self.tags for key in ("id", "name") if key in a}


def loaded_from_elsewhere(html):
    """The addresses on other hosts that a browser would ask for when it opens the page."""
    page = Page(html)
    found = []
    for tag, attributes in page.tags:
        for name in FETCHED.get(tag, ()):
            value = attributes.get(name, "")
            parts = value.split(",") if name == "srcset" else [value]
            found += [part.strip() for part in parts if FOREIGN.match(part)]
        found += CSS_LOAD.findall(attributes.get("style", ""))
        if tag == "meta" and attributes.get("http-equiv", "").lower() == "refresh":
            found += ADDRESS.findall(attributes.get("content", ""))
    for script in page.scripts:
        found += ADDRESS.findall(script)
    for style in page.styles:
        found += CSS_LOAD.findall(style)
    return found


def undescribed_images(html):
    """The images without a text alternative, or with nothing but their own file name as one."""
    faults = []
    for image in Page(html).all("img"):
        text, name = image.get("alt", "").strip(), unquote(image.get("src", "").rsplit("/")[-1])
        if not text or text.endswith(name) or re.fullmatch(r"\S+\.(png|svg|jpe?g|gif)", text):
            faults.append(image.get("src", ""))
    return faults


def unrendered_markup(html):
    """Directives and roles that stand in a page as they were typed, and messages of the build."""
    page = Page(html)
    text = "".join(page.words)
    found = re.findall(r":::+\s*\{|```\{|^\.\. [a-z-]+::|\{[a-z:]+\}`", text, re.MULTILINE)
    found += ["system-message" for _, a in page.tags if "system-message" in a.get("class", "")]
    return found


def broken_links(site):
    """The links and images whose target is not in the site, as "page: target"."""
    anchors, broken = {}, []
    pages = [path for path in site.rglob("*.html") if "_static" not in path.parts]
    for path in pages:
        anchors[path.resolve()] = Page(path.read_text(encoding="utf-8")).anchors
    for path in pages:
        page = Page(path.read_text(encoding="utf-8"))
        for tag, attributes in page.tags:
            for name in ("href", "src"):
                target = attributes.get(name, "")
                parts = urlsplit(target)
                if not target or parts.scheme or parts.netloc or target in ("#", "#!"):
                    continue
                file = (path.parent / unquote(parts.path)) if parts.path else path
                file = file.resolve()
                fragment = unquote(parts.fragment)
                missing = not file.is_file()
                if not missing and tag == "a" and fragment and file in anchors:
                    missing = fragment not in anchors[file]
                if missing:
                    broken.append(f"{path.relative_to(site)}: {target}")
    return broken


def faulty(pages, check):
    """What a check finds, for the pages where it finds something."""
    found = {name: check(html) for name, html in pages.items()}
    return {name: faults for name, faults in found.items() if faults}


# Each check finds what it is for -----------------------------------------------------------------


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://example.org/x.js"></script>',
        '<script src="//example.org/x.js"></script>',
        '<link rel="preconnect" href="https://example.org">',
        '<link rel="stylesheet" href="HTTPS://example.org/x.css">',
        '<img src="http://example.org/x.png" alt="x">',
        '<img srcset="a.png 1x, https://example.org/x.png 2x" alt="x">',
        '<iframe src="https://example.org"></iframe>',
        '<script>fetch("https://example.org/x")</script>',
        "<style>@import 'https://example.org/x.css';</style>",
        '<p style="background: url(//example.org/x.png)">x</p>',
        '<meta http-equiv="Refresh" content="0; url=https://example.org">',
    ],
)
def test_a_page_that_loads_something_from_elsewhere_is_found(html):
    assert len(loaded_from_elsewhere(html)) == 1
    local = html.replace("https:", "").replace("http:", "").replace("HTTPS:", "")
    assert loaded_from_elsewhere(local.replace("//", "/")) == []


def test_links_and_namespaces_load_nothing():
    html = '<a href="https://example.org">x</a><script>"http://www.w3.org/2000/svg"</script>'
    assert loaded_from_elsewhere(html) == []


@pytest.mark.parametrize(
    "alt", ["", 'alt=""', 'alt=" "', 'alt="img/a1.png"', 'alt="a1.png"', 'alt="b.svg"']
)
def test_an_image_without_description_is_found(alt):
    assert undescribed_images(f'<img src="img/a1.png" {alt}>') == ["img/a1.png"]
    assert undescribed_images('<img src="img/a1.png" alt="A rising line">') == []


@pytest.mark.parametrize(
    "html",
    [
        "<p>:::{note} x</p>",
        "<p>.. warning:: x</p>",
        "<p>see {cite:p}`x`</p>",
        '<aside class="system-message">x</aside>',
    ],
)
def test_markup_that_was_not_rendered_is_found(html):
    assert len(unrendered_markup(html)) == 1
    assert unrendered_markup(f"<pre>{html}</pre>".replace("system-", "")) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<h1 id="top"></h1><a href="#top"></a><a href="b.html#x"></a>')
    (tmp_path / "b.html").write_text('<a href="a.html#top"></a><a href="https://example.org"></a>')
    assert broken_links(tmp_path) == ["a.html: b.html#x"]
    (tmp_path / "b.html").write_text('<p id="x"></p><img src="c.png"><a href="d.html"></a>')
    assert broken_links(tmp_path) == ["b.html: c.png", "b.html: d.html"]


# The book's site ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def pages(site):
    """The text of every page, by its name."""
    found = {
        path.relative_to(site).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(site.rglob("*.html"))
        if "_static" not in path.parts
    }
    assert len([name for name in found if name.startswith("book/")]) >= 12
    return found


def test_every_page_of_the_contents_is_built(pages):
    contents = (ROOT / "_toc.yml").read_text()
    for name in re.findall(r"(?:root|file): (\S+)", contents):
        assert f"{name}.html" in pages


def test_no_page_loads_anything_from_another_host(pages):
    assert faulty(pages, loaded_from_elsewhere) == {}


def test_no_style_sheet_loads_anything_from_another_host(site):
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        assert CSS_LOAD.findall(sheet.read_text(encoding="utf-8")) == [], sheet


def test_every_image_has_a_text_alternative(pages):
    assert faulty(pages, undescribed_images) == {}


def test_no_markup_is_left_unrendered(pages):
    assert faulty(pages, unrendered_markup) == {}


def test_every_link_and_image_leads_somewhere(site):
    assert broken_links(site) == []


def plain(path):
    """What stands in a file of the site, without the tags that colour it and on one line."""
    text = path.read_text(encoding="utf-8")
    return " ".join(unescape(re.sub(r"<[^>]+>", "", text)).split())


def test_no_solution_is_in_the_site_or_its_sources(site):
    """Nor a hidden test or a rubric: no such line of a set that does not stand in a chapter too."""
    chapters = "".join(plain(path) for path in (ROOT / "book").glob("*.ipynb"))
    secrets = set()
    for name in problem_sets.names():
        secrets |= {json.dumps(line, ensure_ascii=False)[1:-1] for line in secret_lines(name)}
        secrets |= secret_lines(name)
    secrets = {" ".join(line.split()) for line in secrets}
    secrets = {line for line in secrets if line not in chapters}
    assert secrets
    searched = [
        path
        for path in site.rglob("*")
        if path.suffix in (".html", ".ipynb", ".md", ".txt", ".js", ".json")
        and not {"mathjax", "scripts"} & set(path.parts)
    ]
    assert any(path.suffix == ".ipynb" for path in searched)
    texts = {path.relative_to(site).as_posix(): plain(path) for path in searched}
    # Where nothing is hidden, the search finds what it looks for.
    assert any("def kl_diagonal_gaussians" in text for text in texts.values())
    found = [(name, line) for name, text in texts.items() for line in secrets if line in text]
    assert found == []


def test_each_problem_set_can_be_downloaded(site, pages):
    """Its page has a link to the file that students hand in, as nbgrader released it."""
    for name in problem_sets.names():
        page = f"book/assignments/released/{name}.html"
        links = [a.get("href", "") for a in Page(pages[page]).all("a")]
        targets = {(site / page).parent / link for link in links if link.endswith(".ipynb")}
        given = (problem_sets.RELEASED / f"{name}.ipynb").read_text(encoding="utf-8")
        texts = [target.read_text(encoding="utf-8") for target in targets if target.is_file()]
        assert given in texts, page


def test_the_page_of_a_problem_set_has_a_link_to_its_chapter(site, pages):
    """In its text; the file that students get says the same without one."""
    for name in problem_sets.names():
        page = pages[f"book/assignments/released/{name}.html"]
        chapter = problem_sets.about(name)["chapter"]
        words = rf'href="\.\./\.\./{chapter}\.html"><[^>]*>chapter {chapter[1]} of the book<'
        assert re.search(words, page), name
