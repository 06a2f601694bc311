"""What the tests ask of a page in a browser: `look_at` opens it and returns what is wrong with it.

Nothing here knows the book; tests/test_pages.py shows that each check finds what it is for, and
applies them to every page.
"""

import re
from dataclasses import dataclass

from axe_playwright_python.base import AXE_FILE_PATH
from browsing import watch

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}

# A change of the window or of the colours has reached the page.
DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"

# Equations are typeset, live figures live, and everything that waits for its place in the window has
# been shown.
SETTLE = """async () => {
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
  const late = performance.now() + 30000;
  for (const figure of document.querySelectorAll(".live-figure")) {
    figure.scrollIntoView();
    while (!["live", "failed"].includes(figure.dataset.phase) && performance.now() < late) {
      await new Promise((done) => setTimeout(done, 20));
    }
    if (figure.dataset.phase !== "live") console.error("a live figure is not live");
  }
  for (const y of [document.body.scrollHeight, 0]) {
    window.scrollTo(0, y);
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  }
  await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
}"""

# Nothing is caught half-way: what moves is at once where it ends.
NO_MOTION = "*, *::before, *::after { transition: none !important; animation: none !important }"

# What opens in its place stays open; menus, side bars and the search are closed again.
OPEN_EVERYTHING = """async () => {
  const shown = (e) => e.checkVisibility();
  const click = (selector) =>
    [...document.querySelectorAll(selector)].filter(shown).forEach((e) => e.click());
  const drawn = () => new Promise((done) =>
    requestAnimationFrame(() => requestAnimationFrame(done)));
  document.querySelectorAll("details").forEach((e) => { e.open = true; });
  click("button.toggle-button-hidden");
  for (const selector of [".primary-toggle", ".secondary-toggle", ".search-button__button"]) {
    click(selector);
    await drawn();
    document.querySelectorAll("dialog[open]").forEach((e) => e.close());
  }
  click(".article-header-buttons .dropdown > button");
  await drawn();
  click(".article-header-buttons .dropdown > button.show");
  await drawn();
}"""

IMAGES = """() => [...document.images].filter((i) => !i.complete || !i.naturalWidth)
                      .map((i) => i.getAttribute("src"))"""

# How many formulas there are, and the faults. MathJax marks a formula that it cannot read as an
# error, an unknown command by red letters.
EQUATIONS = """() => {
  const count = (selector) => document.querySelectorAll(selector).length, faults = [];
  const formulas = count(".math"), typeset = count(".math mjx-container");
  if (typeset < formulas) faults.push(`${typeset} of ${formulas} are typeset`);
  const wrong = count("mjx-container [data-mml-node=merror]")
    + count("mjx-container g[data-mml-node=mtext][fill=red]");
  if (wrong) faults.push(`${wrong} cannot be read`);
  return [formulas, faults];
}"""

# The page itself, then every box that is cut off or stands out of the window, unless the reader
# can scroll to the rest of it. What is meant for screen readers alone is a pixel or hidden.
WIDTHS = """() => {
  const width = document.documentElement.clientWidth, found = [];
  const name = (e) => [e.localName, ...e.classList].join(".") + (e.id && "#" + e.id);
  const page = document.scrollingElement.scrollWidth;
  if (page > width) found.push(`the page is ${page} wide`);
  for (const e of document.querySelectorAll("body *")) {
    if (e.closest("svg") || (e.closest("mjx-container") && !e.matches("mjx-container"))) continue;
    const box = e.getBoundingClientRect(), style = getComputedStyle(e);
    if (box.width < 2 || box.height < 2 || style.visibility === "hidden") continue;
    if (box.right <= width + 1 && box.left >= -1) continue;
    let around = e.parentElement;
    while (around && around !== document.body
           && !["auto", "scroll"].includes(getComputedStyle(around).overflowX)) {
      around = around.parentElement;
    }
    if (!around || around === document.body) {
      found.push(`${name(e)} from ${Math.round(box.left)} to ${Math.round(box.right)}`);
    }
  }
  return found;
}"""

# Without JavaScript and in print the picture of a live figure stands alone, with its text
# alternative: no control that nobody answers, no empty place. How many figures, and the faults.
PICTURES = """() => {
  const seen = (e) => e.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const figures = [...document.querySelectorAll(".live-figure")], faults = [];
  figures.forEach((figure, i) => {
    const fault = (text) => faults.push(`figure ${i + 1}: ${text}`);
    const picture = figure.querySelector("img");
    const height = picture && seen(picture) ? picture.getBoundingClientRect().height : 0;
    if (!height || !picture.clientWidth) fault("no picture is seen");
    if (!picture?.naturalWidth) fault("no picture is loaded");
    if (!picture?.alt.trim()) fault("no text alternative");
    const others = [...figure.querySelectorAll("*")].filter((e) => e !== picture && seen(e));
    new Set(others.map((e) => e.localName)).forEach((name) => fault(`${name} is seen as well`));
    const empty = Math.round(figure.getBoundingClientRect().height - height);
    if (height && empty > 0) fault(`${empty} pixels are empty`);
  });
  return [figures.length, faults];
}"""

# What a PDF of the page has to hold for each live figure, and what it may not.
IN_PDF = """() => [...document.querySelectorAll(".live-figure")].map((figure) => {
  const picture = figure.querySelector("img");
  return {
    size: [picture?.naturalWidth, picture?.naturalHeight],
    alt: picture?.alt,
    live: [...figure.querySelectorAll(".live-figure-view [aria-label]")].map((e) => e.ariaLabel),
  };
})"""
PDF_IMAGE = re.compile(rb"/Subtype\s*/Image\s*/Width (\d+)\s*/Height (\d+)")
# As it is in ASCII, with a backslash before what has a meaning, or else in UTF-16.
PDF_TEXT = re.compile(rb"/Alt\s*(?:\(((?:\\.|[^\\)])*)\)|<FEFF([0-9A-F]*)>)", re.DOTALL)

# What can be scrolled sideways, but by no key. (axe's rule for it takes longer.)
KEYBOARD = """() => [...document.querySelectorAll("body *")].filter((e) =>
  e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 1
  && ["auto", "scroll"].includes(getComputedStyle(e).overflowX)
  && e.tabIndex < 0 && !e.querySelector("a[href], button, [tabindex='0']")
).map((e) => [e.localName, ...e.classList].join(".") + (e.id && "#" + e.id))"""

AXE_SCRIPT = AXE_FILE_PATH.read_text(encoding="utf-8")

# Of code only the first word of each kind, of tables the first rows, and of equations only the
# first: the thousands of others look the same, and axe would take minutes for them.
THIN_OUT = """() => {
  [...document.querySelectorAll("mjx-container")].slice(9).forEach((e) =>
    e.querySelectorAll("svg, mjx-assistive-mml").forEach((part) => part.replaceChildren()));
  document.querySelectorAll("tbody tr:nth-child(n + 9)").forEach((e) => e.remove());
  const seen = new Set();
  for (const e of document.querySelectorAll("pre span")) {
    const block = e.closest("[class*=highlight-]")?.className ?? "";
    const where = e.closest(".cell_input, .cell_output, .admonition, td")?.className ?? "";
    const kind = [e.className, block, where].join("|");
    // axe does not judge single letters.
    const short = e.textContent.trim().length < 2;
    if (!e.childElementCount && !e.id && (short || seen.has(kind))) e.remove();
    else if (!short) seen.add(kind);
  }
}"""

AXE = """async (rules) => {
  const options = { resultTypes: ["violations"], elementRef: false, preload: false };
  if (rules) options.runOnly = rules;
  const { violations } = await axe.run(document, options);
  return violations.filter((v) => ["serious", "critical"].includes(v.impact)).flatMap((v) =>
    v.nodes.map((n) => `${v.id}: ${n.target.join(" ")}`));
}"""
THEME = "document.documentElement.dataset.theme"
# The rules whose outcome depends on the colours.
COLOUR_RULES = ["color-contrast", "link-in-text-block"]


@dataclass
class Look:
    """What was found wrong with a page, each a list of one line per fault."""

    complaints: list[str]
    other_hosts: list[str]
    images: list[str]
    equations: list[str]
    # At a phone's width.
    widths: list[str]
    keyboard: list[str]
    # Serious and critical violations of axe-core's rules.
    light: list[str]
    dark: list[str]
    # Of live figures, on paper and in a PDF.
    printed: list[str]
    # How many formulas and live figures the page has, and what it calls its colours in a light and
    # a dark system.
    formulas: int
    figures: int
    themes: list[str | None]


def look_at(context, url):
    """Open a page in a context of playwright's, look at it wide, narrow, light, dark, in print."""
    page = context.new_page()
    log = watch(page)
    # As a reader sees it who was never here.
    page.add_init_script("try { localStorage.clear() } catch {}")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(PHONE)
    page.goto(url)
    page.add_style_tag(content=NO_MOTION)
    page.evaluate(SETTLE)
    images = page.evaluate(IMAGES)
    formulas, equations = page.evaluate(EQUATIONS)
    keyboard = page.evaluate(KEYBOARD)
    page.evaluate(OPEN_EVERYTHING)
    widths = page.evaluate(WIDTHS)

    page.set_viewport_size(DESKTOP)
    page.evaluate(OPEN_EVERYTHING)
    page.evaluate(THIN_OUT)
    page.evaluate(AXE_SCRIPT)
    themes = [page.evaluate(THEME)]
    light = page.evaluate(AXE, None)
    page.emulate_media(color_scheme="dark")
    page.evaluate(DRAWN)
    themes.append(page.evaluate(THEME))
    dark = page.evaluate(AXE, COLOUR_RULES)
    # In light colours again: a picture that is dimmed is another one in the PDF.
    page.emulate_media(color_scheme="light", media="print")
    page.evaluate(DRAWN)
    figures, printed = page.evaluate(PICTURES)
    if figures:
        printed += look_at_pdf(page)
    page.close()
    return Look(
        complaints=log.complaints,
        other_hosts=log.other_hosts,
        images=images,
        equations=equations,
        widths=widths,
        keyboard=keyboard,
        light=light,
        dark=dark,
        printed=printed,
        formulas=formulas,
        figures=figures,
        themes=themes,
    )


def look_at_pdf(page):
    """What is wrong with the live figures in a page's PDF.

    It is a tagged one, as readers get from Chromium: it has the text alternatives too.
    """
    pdf = page.pdf(tagged=True)
    sizes = [[int(length) for length in image.groups()] for image in PDF_IMAGE.finditer(pdf)]
    texts = [
        re.sub(r"\\(.)", r"\1", plain.decode("ascii"), flags=re.DOTALL)
        if plain
        else bytes.fromhex(wide.decode("ascii")).decode("utf-16-be")
        for plain, wide in PDF_TEXT.findall(pdf)
    ]
    faults = []
    for number, figure in enumerate(page.evaluate(IN_PDF), 1):
        if figure["size"] not in sizes:
            faults.append(f"figure {number}: its picture is not in the PDF")
        if figure["alt"] not in texts:
            faults.append(f"figure {number}: its text alternative is not in the PDF")
        faults += [f"figure {number}: {x!r} is in the PDF" for x in figure["live"] if x in texts]
    return faults
