"""Every page of the site in a browser: wide and narrow, light and dark."""

import re
import shutil
from dataclasses import asdict

import browsing
import pytest
from page_checks import DESKTOP, DRAWN, PHONE, PICTURES, SETTLE, look_at

# The lists of faults in a `Look`.
CHECKS = (
    "complaints",
    "other_hosts",
    "images",
    "equations",
    "widths",
    "keyboard",
    "light",
    "dark",
    "printed",
)


@pytest.fixture(scope="module")
def context(browser):
    made = browser.new_context(reduced_motion="reduce")
    yield made
    made.close()


# Each check finds what it is for ----------------------------------------------------------------

GOOD = """<!doctype html><html lang="en"><head><title>A page</title><style>
html { background: white; color: black } a { color: #00e }
@media (prefers-color-scheme: dark) { html { background: black; color: white } a { color: #aaf } }
 .box { overflow-x: auto } .wide { width: 600px }
#left { display: block; margin-left: -9em }
@media (prefers-color-scheme: dark) { #dim { color: #444 } }
.live-figure { display: grid } @media print { .live-figure-view { display: none } }
</style></head><body><main><h1>A page</h1>
<p>Some <a href="#x" id="x">words</a> and <code>code</code>.</p>
<img src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=" alt="A point">
<div class="live-figure" data-phase="live">
<img src="data:image/gif;base64,R0lGODlhAwACAAAAACwAAAAAAwACAAA=" alt="Points (α \\ β)">
<div class="live-figure-view"><b role="img" aria-label="Live"></b><button>Go</button></div></div>
<div class="box" tabindex="0" role="region" aria-label="Wide"><p class="wide">wide</p></div>
%s</main></body></html>"""


def look_at_made_up(context, folder, content):
    (folder / "a.html").write_text(GOOD % content)
    with browsing.served(folder) as url:
        return asdict(look_at(context, f"{url}/a.html"))


def test_nothing_is_wrong_with_a_good_page(context, tmp_path):
    found = look_at_made_up(context, tmp_path, "")
    assert {name: found[name] for name in CHECKS if found[name]} == {}


# A live figure, the second of its page and those after it; two pictures for it.
FIGURE = "<div class='live-figure' data-phase='live'>%s</div>"
POINT = "src='data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA='"
POINTS = "src='data:image/gif;base64,R0lGODlhBAADAAAAACwAAAAABAADAAA='"

# What is put into the good page, the check that has to find it, and words of what it says.
FAULTS = [
    ("<script>console.error('bad')</script>", "complaints", "error: bad"),
    ("<script>console.warn('odd')</script>", "complaints", "warning: odd"),
    ("<script>throw Error('thrown')</script>", "complaints", "exception: thrown"),
    ("<script>Promise.reject(Error('later'))</script>", "complaints", "exception: later"),
    ("<script src='gone.js'></script>", "complaints", "404 for http://127.0.0.1"),
    ("<script>fetch('http://host.invalid')</script>", "complaints", "failed request: http://host"),
    ("<script>fetch('http://elsewhere.invalid')</script>", "other_hosts", "elsewhere.invalid"),
    ("<script>new WebSocket('ws://socket.invalid')</script>", "other_hosts", "socket.invalid"),
    (
        "<script>addEventListener('scroll', () => fetch('http://scroll.invalid'))</script>",
        "other_hosts",
        "scroll.invalid",
    ),
    (
        "<details ontoggle=\"fetch('http://opened.invalid')\"><summary>More</summary>x</details>",
        "other_hosts",
        "opened.invalid",
    ),
    (
        "<button class='search-button__button' onclick=\"fetch('http://search.invalid')\">"
        "Search</button>",
        "other_hosts",
        "search.invalid",
    ),
    ("<img src='gone.png' alt='Gone'>", "images", "gone.png"),
    ("<p style='width: 400px'>wide</p>", "widths", "the page is 4"),
    ("<div style='overflow: hidden'><p class='wide'>cut</p></div>", "widths", "p.wide from"),
    ("<div style='overflow: hidden'><b id='left'>cut</b></div>", "widths", "b#left from -"),
    ("<div class='box' id='keys'><p class='wide'>x</p></div>", "keyboard", "div.box#keys"),
    ("<p id='pale' style='color: #999; background: #fff'>pale</p>", "light", "contrast: #pale"),
    ("<pre><span id='code' style='color: #999'>code</span></pre>", "light", "contrast: #code"),
    ("<button id='mute'></button>", "light", "button-name: #mute"),
    ("<p id='dim'>dim</p>", "dark", "color-contrast: #dim"),
    (FIGURE % "", "printed", "figure 2: no picture is seen"),
    (FIGURE % f"<img {POINT} style='opacity: 0'>", "printed", "figure 3: no picture is seen"),
    (FIGURE % f"<img {POINT} alt=' '>", "printed", "figure 4: no text alternative"),
    (FIGURE % "<img src='gone.png' alt='Gone'>", "printed", "figure 5: no picture is loaded"),
    (FIGURE % f"<img {POINT} alt='Dot'><button>On</button>", "printed", "figure 6: button is seen"),
    (
        FIGURE % f"<img {POINT} alt='Dot' style='margin-bottom: 30px'>",
        "printed",
        "figure 7: 30 pixels are empty",
    ),
    (
        FIGURE % f"<img {POINTS} alt='Dot' style='visibility: hidden'>",
        "printed",
        "figure 8: its picture is not in the PDF",
    ),
    (
        FIGURE % f"<img {POINT} alt='None' style='display: none'>",
        "printed",
        "figure 9: its text alternative is not in the PDF",
    ),
    (
        FIGURE % "<p class='live-figure-view' style='display: block !important'>"
        "<b role='img' aria-label='A curve'>x</b></p>",
        "printed",
        "figure 10: 'A curve' is in the PDF",
    ),
]


@pytest.fixture(scope="module")
def bad(context, tmp_path_factory):
    """The `Look` at a page with all these faults, and enough text to scroll."""
    faulty = "\n".join(fault for fault, _, _ in FAULTS)
    content = f"{faulty}<p style='height: 3000px'>long</p>"
    return look_at_made_up(context, tmp_path_factory.mktemp("bad"), content)


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_a_fault_is_found(bad, number):
    fault, check, words = FAULTS[number]
    assert any(words in line for line in bad[check]), f"{fault} not in {bad[check]}"


def test_what_is_wrong_in_dark_colours_alone_is_found_in_them_alone(bad):
    assert not any("#dim" in line for line in bad["light"])


def test_wrong_equations_are_found(context, site, tmp_path):
    shutil.copy(site / "_static" / "mathjax" / "tex-svg.js", tmp_path)
    formulas = (r"x^2", r"\text{red}", r"\nosuchcommand", r"\frac{1}", r"\left( x")
    content = "".join(rf"<p class='math'>\({formula}\)</p>" for formula in formulas)
    page = "<script src='tex-svg.js'></script>" + content
    found = look_at_made_up(context, tmp_path, page)
    assert (found["formulas"], found["equations"]) == (5, ["3 cannot be read"])
    found = look_at_made_up(context, tmp_path, page + "<p class='math'>forgotten</p>")
    assert "5 of 6 are typeset" in found["equations"]


def test_without_a_browser_tests_are_skipped_but_fail_under_ci(monkeypatch):
    monkeypatch.setattr(browsing, "find_browser", lambda: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no browser .* install one of chromium,"):
        browsing.browser_or_skip()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no browser"):
        browsing.browser_or_skip()


# The book's pages -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def looks(context, site, site_address):
    """A `Look` at each page, by the page's name."""
    names = sorted(
        path.relative_to(site).as_posix()
        for path in site.rglob("*.html")
        if "_static" not in path.parts
    )
    assert {"index.html", "search.html", "book/intro.html"} < set(names)
    names.remove("index.html")
    return {name: look_at(context, f"{site_address}/{name}") for name in names}


def faults(looks, check):
    """What a check found, by page."""
    return {name: getattr(look, check) for name, look in looks.items() if getattr(look, check)}


def test_no_page_has_an_error_or_a_warning(looks):
    assert faults(looks, "complaints") == {}


def test_no_page_asks_another_host(looks):
    assert faults(looks, "other_hosts") == {}


def test_every_image_is_shown(looks):
    assert faults(looks, "images") == {}


def test_every_equation_is_typeset_without_an_error(looks):
    assert sum(look.formulas for look in looks.values()) > 1000
    assert faults(looks, "equations") == {}


def test_no_page_is_wider_than_a_phone(looks):
    assert faults(looks, "widths") == {}


def test_no_serious_violation_in_light_colours(looks):
    assert faults(looks, "light") == {}


def test_no_serious_violation_in_dark_colours(looks):
    assert {tuple(look.themes) for look in looks.values()} == {("light", "dark")}
    assert faults(looks, "dark") == {}


def test_in_print_and_in_a_pdf_pictures_stand_for_the_live_figures(looks):
    assert sum(look.figures for look in looks.values()) >= 6
    assert faults(looks, "printed") == {}


def test_what_scrolls_on_a_phone_does_so_by_keyboard(looks):
    assert faults(looks, "keyboard") == {}


def test_the_first_page_is_the_introduction(open_page, site_address):
    page, log = open_page(f"{site_address}/index.html")
    page.wait_for_url("**/book/intro.html")
    assert (log.complaints, log.other_hosts) == ([], [])


def test_a_page_opened_as_a_file_is_whole(open_page, site, looks):
    name = max(looks, key=lambda name: looks[name].formulas)
    page, log = open_page((site / name).as_uri())
    page.evaluate("MathJax.startup.promise")
    assert page.locator(".math mjx-container").count() >= looks[name].formulas > 0
    assert (log.complaints, log.other_hosts) == ([], [])


# The live figures -------------------------------------------------------------------------------

# How far what is seen has moved, as browsers measure it: 0.1 is called good, 0.25 poor.
WATCH_SHIFT = """
window.shift = 0;
const add = (entries) => entries.forEach((entry) => { window.shift += entry.value; });
const observer = new PerformanceObserver((list) => add(list.getEntries()));
observer.observe({ type: "layout-shift" });
window.shiftSoFar = () => { add(observer.takeRecords()); return window.shift; };
"""
# The figure's lower end is at the top of the window, and the text after it is read.
PAST = """(figure) => {
  figure.scrollIntoView({ block: "end", behavior: "instant" });
  window.scrollBy({ top: window.innerHeight - 150, behavior: "instant" });
}"""
# By how much the place that each figure has without its widget is higher than that.
SPARE = """() => [...document.querySelectorAll(".live-figure")].map((figure) => {
  const view = figure.querySelector(".live-figure-view");
  const height = (e) => e.getBoundingClientRect().height, needed = height(view);
  view.style.display = "none";
  const kept = height(figure);
  view.style.display = "";
  return Math.round(kept - needed);
})"""


@pytest.fixture(scope="module")
def figures(site):
    """The widgets of the live figures on a page, by its name; no page without one."""
    found = {}
    # The introduction first: it is short.
    for path in sorted(site.glob("book/*.html"), reverse=True):
        text = path.read_text(encoding="utf-8")
        if widgets := re.findall(r'<div class="live-figure"[^>]* data-live-widget="(\w+)"', text):
            found[f"book/{path.name}"] = widgets
    assert sum(map(len, found.values())) >= 6
    return found


@pytest.fixture(scope="module")
def first_pages(figures):
    """The pages with a widget that none of those before has."""
    seen, pages = set(), []
    for name, widgets in figures.items():
        if not seen.issuperset(widgets):
            pages.append(name)
            seen.update(widgets)
    return pages


@pytest.fixture
def plain_page(context):
    """A page that goes without its equations: nothing is asked about them, and they take long."""
    page = context.new_page()
    page.route("**/mathjax/**", lambda route: route.abort())
    yield page
    page.close()


def hold_back(page, pattern):
    """Let nothing that fits the pattern come, until the function that is returned is called."""
    held, through = [], []
    page.route(pattern, lambda route: route.continue_() if through else held.append(route))

    def let_through():
        through.append(True)
        for route in held:
            route.continue_()

    return let_through


def test_without_javascript_pictures_stand_for_the_live_figures(open_page, site_address, figures):
    for name, widgets in figures.items():
        page, _ = open_page(f"{site_address}/{name}", java_script_enabled=False)
        for window in (DESKTOP, PHONE):
            page.set_viewport_size(window)
            assert page.evaluate(PICTURES) == [len(widgets), []], (name, window)


@pytest.mark.parametrize("window", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_text_does_not_move_when_a_figure_comes_alive(
    plain_page, site_address, first_pages, window
):
    """Though the reader has gone past the figure before its files were there."""
    plain_page.set_viewport_size(window)
    plain_page.add_init_script(WATCH_SHIFT)
    moved = {}
    for name in first_pages:
        let_through = hold_back(plain_page, "**/_static/live/*.js")
        plain_page.goto(f"{site_address}/{name}")
        figure = plain_page.locator(".live-figure").first
        figure.evaluate(PAST)
        plain_page.wait_for_selector(".live-figure[data-phase=loading]")
        plain_page.evaluate(DRAWN)
        before = plain_page.evaluate("shiftSoFar()")
        let_through()
        plain_page.wait_for_selector(".live-figure[data-phase=live]")
        plain_page.evaluate(DRAWN)
        moved[name] = plain_page.evaluate("shiftSoFar()") - before
    assert {name: shift for name, shift in moved.items() if shift > 0.05} == {}


def test_the_place_that_is_kept_for_a_live_figure_fits_it(plain_page, site_address, first_pages):
    """Within a few lines, since the reader's letters decide where the widget's texts are broken."""
    spare = {}
    for name in first_pages:
        plain_page.set_viewport_size(DESKTOP)
        plain_page.goto(f"{site_address}/{name}")
        plain_page.evaluate(SETTLE)
        for width in (320, 360, 414, 600, 768, 1024, 1280, 1440):
            plain_page.set_viewport_size({"width": width, "height": 900})
            plain_page.evaluate(DRAWN)
            spare[name, width] = plain_page.evaluate(SPARE)
    assert {at: found for at, found in spare.items() if min(found) < -20 or max(found) > 90} == {}


def test_a_figure_that_stays_a_picture_keeps_no_place(plain_page, site_address):
    plain_page.route("**/_static/live/*.js", lambda route: route.abort())
    plain_page.goto(f"{site_address}/book/intro.html")
    figure = plain_page.locator(".live-figure[data-phase=failed]")
    note, picture = figure.locator(".live-figure-note"), figure.locator("img")
    for part in (picture, note):
        part.wait_for(state="visible")
    # The note is a line or two.
    assert figure.bounding_box()["height"] < picture.bounding_box()["height"] + 80
