"""Live figures on a built page: with a script, without one, in print, and if something goes wrong.

On a small project of their own, not on the book's pages.
"""

import base64
import importlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt
import pytest
import traitlets
from browsing import served

from vae_lib.widgets.base import LiveFigure

ROOT = Path(__file__).parent.parent
EXTENSIONS = ROOT / "tools" / "sphinx_ext"
VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(EXTENSIONS)
    live_figures = importlib.import_module("live_figures")


# A live figure, and a small book with it ----------------------------------------------------------

# It counts clicks. What it shows: the count, the numbers of its buffers, and how often it started.
MODULE = """
function initialize({ model, signal }) {
  document.body.dataset.started = Number(document.body.dataset.started || 0) + 1;
  signal.addEventListener("abort", () => { document.body.dataset.aborted = "yes"; });
  return () => { document.body.dataset.closed = "yes"; };
}
function render({ model, el }) {
  const button = document.createElement("button");
  button.className = "demo";
  const weights = model.get("weights"), nested = model.get("nested").parts[1];
  const draw = () => {
    const numbers = [weights.getFloat32(0, true), weights.getFloat32(4, true), nested.getInt8(0)];
    button.textContent = [model.get("count"), model.get("label"), ...numbers].join(" | ");
  };
  model.on("change:count", draw);
  button.addEventListener("click", () => {
    model.set("count", model.get("count") + 1);
    model.save_changes();
  });
  el.append(button);
  draw();
  return () => { document.body.dataset.gone = "yes"; };
}
export default async () => ({ initialize, render });
"""
STYLE = ".demo { border: 3px solid rgb(1, 2, 3); min-height: 20px; }"


class Demo(LiveFigure):
    """What the tests show."""

    _esm = MODULE
    _css = STYLE
    count = traitlets.Int(3).tag(sync=True)
    label = traitlets.Unicode('a "quoted" </script> <b>, μ').tag(sync=True)
    weights = traitlets.Bytes(struct.pack("<2f", 0.5, -2.0)).tag(sync=True)
    nested = traitlets.Dict({"parts": [1, struct.pack("b", -7)]}).tag(sync=True)

    def static_figure(self):
        figure, _ = plt.subplots(figsize=(3, 2))
        return figure

    def __repr__(self):
        return "Demo()"


class Broken(Demo):
    _esm = "export default { render("


class Failing(Demo):
    _esm = "export default { render() { throw new Error('no such digit'); } }"


def cell(name, shown=None, alt="A picture of <nothing> & \"nobody\"", **changes):
    """A code cell of a notebook; `changes` replace kinds of data in its output (None: removed)."""
    outputs = []
    if shown is not None:
        bundle = shown._repr_mimebundle_()
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        data = {kind: x for kind, x in (data | changes).items() if x is not None}
        outputs.append({"output_type": "execute_result", "execution_count": 1, "data": data,
                        "metadata": metadata})  # fmt: skip
    metadata = {"mystnb": {"image": {"alt": alt}}} if alt else {}
    return {"cell_type": "code", "id": name, "metadata": metadata, "execution_count": 1,
            "source": "1", "outputs": outputs}  # fmt: skip


def write_notebook(path, *cells, widgets=()):
    state = ipywidgets.Widget.get_manager_state(widgets=list(widgets))
    title = {"cell_type": "markdown", "id": "title", "metadata": {}, "source": f"# {path.stem}"}
    notebook = {
        "cells": [title, *cells],
        "metadata": {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
            "widgets": {STATE: state},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(notebook))


CONFIGURATION = f"""
import sys
sys.path.insert(0, {str(EXTENSIONS)!r})
extensions = ["myst_nb", "live_figures"]
exclude_patterns = ["_build"]
nb_execution_mode = "off"
nb_ipywidgets_js = {{}}
html_theme = "basic"
"""


def build(source, *options):
    """Build a project; return what was warned of."""
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-n", "-q", *options]
    done = subprocess.run(
        [*command, str(source), str(source / "_build" / "html")],
        capture_output=True,
        text=True,
        env=os.environ | {"NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The source of a small book."""
    source = tmp_path_factory.mktemp("book")
    (source / "conf.py").write_text(CONFIGURATION)
    (source / "index.md").write_text(
        "# Start\n\n```{live-figure} chapters/figures.ipynb#two-of-it\n:alt: Another text\n```\n\n"
        "```{toctree}\nplain\ndeep\nchapters/figures\nchapters/wrong\n```\n"
    )
    figure = "```{live-figure} chapters/figures.ipynb#one\n```\n"
    (source / "deep.md").write_text("# Deep\n\n" + "A line.\n\n" * 200 + figure)
    (source / "plain.md").write_text("# Plain\n\nNothing is alive here.\n")
    good, other, broken, failing = widgets = [Demo(), Demo(count=8), Broken(), Failing()]
    cells = [cell("one", good), cell("two-of-it", other), cell("twice", good)]
    write_notebook(source / "chapters" / "figures.ipynb", *cells, widgets=widgets)
    cells = [cell("broken", broken), cell("failing", failing), cell("after", good)]
    write_notebook(source / "chapters" / "wrong.ipynb", *cells, widgets=widgets)
    return source


@pytest.fixture(scope="module")
def site(project):
    assert build(project) == ""
    return project / "_build" / "html"


def figures_of(site, page):
    html = (site / f"{page}.html").read_text(encoding="utf-8")
    return re.findall(r'<div class="live-figure".*?</div>', html, re.DOTALL)


# Without a browser --------------------------------------------------------------------------------


def test_a_figure_on_a_page_is_its_picture(site):
    figures = figures_of(site, "chapters/figures")
    assert len(figures) == 3
    for figure in figures:
        assert 'alt="A picture of &lt;nothing&gt; &amp; &quot;nobody&quot;"' in figure
        (source,) = re.findall(r'src="([^"]*)"', figure)
        picture = (site / "chapters" / source).read_bytes()
        width, height = struct.unpack(">II", picture[16:24])
        assert (width, height) == (330, 220)
        assert f'width="{width}" height="{height}"' in figure


def test_the_page_holds_no_state(site):
    for page in ("index", "chapters/figures"):
        html = (site / f"{page}.html").read_text(encoding="utf-8")
        assert "_esm" not in html and STATE not in html and VIEW not in html
        assert re.search(r'<script defer="defer" src="[./]*_static/live_figures.js', html)
        assert "_static/live_figures.css" in html
    assert "live_figures" not in (site / "plain.html").read_text(encoding="utf-8")


def test_pages_share_the_files_of_what_they_share(site):
    names = [
        re.search('data-live="([^"]*)"', figure)[1].split()
        for page in ("chapters/figures", "index")
        for figure in figures_of(site, page)
    ]
    first, second, again, elsewhere = names
    assert first == again and second == elsewhere
    assert first[0] != second[0] and first[1:] == second[1:] and len(first) == 5
    files = {file.stem for file in (site / "_static" / "live").iterdir()}
    assert files == {name for page in ("figures", "wrong")
                     for figure in figures_of(site, f"chapters/{page}")
                     for name in re.search('data-live="([^"]*)"', figure)[1].split()}  # fmt: skip


def test_the_files_hold_what_the_notebook_holds():
    demo = Demo(count=5)
    model = ipywidgets.Widget.get_manager_state(widgets=[demo])["state"][demo.model_id]
    files = live_figures.files_of(model)
    values = {}
    for name, content in files.items():
        found = re.fullmatch(r'liveFigures\.add\("(\w+)", (.*)\);\n', content, re.DOTALL)
        assert found[1] == name
        values[name] = json.loads(found[2])
    state = values[next(iter(files))]
    assert state["state"] == {
        "_anywidget_id": f"{Demo.__module__}.Demo",
        "count": 5,
        "label": demo.label,
        "nested": {"parts": [1, None]},
    }
    assert {key: values[name] for key, name in state["texts"].items()} == {
        "_esm": MODULE, "_css": STYLE,
    }  # fmt: skip
    assert {".".join(map(str, path)): base64.b64decode(values[name])
            for path, name in state["buffers"]} == {
        "weights": demo.weights, "nested.parts.1": struct.pack("b", -7),
    }  # fmt: skip


def test_what_cannot_be_shown_is_a_warning(tmp_path):
    (tmp_path / "conf.py").write_text(CONFIGURATION)
    slider, demo, gone, parent = ipywidgets.IntSlider(), Demo(), Demo(), Demo()
    parent.add_traits(child=traitlets.Any().tag(sync=True, **ipywidgets.widget_serialization))
    parent.child = slider
    (tmp_path / "index.md").write_text(
        "# Start\n\n```{toctree}\na\n```\n\n"
        + "".join(
            f"```{{live-figure}} {name}\n```\n\n"
            for name in ("a.ipynb#nowhere", "b.ipynb#x", "a.ipynb#no-widget", "a.ipynb#no-alt")
        )
    )
    cells = [
        cell("slider", slider),
        cell("no-alt", demo, alt=None),
        cell("no-picture", demo, **{"image/png": None}),
        cell("no-state", gone),
        cell("parent", parent),
        cell("no-widget"),
    ]
    write_notebook(tmp_path / "a.ipynb", *cells, widgets=[slider, demo, parent])
    warnings = build(tmp_path).splitlines()
    expected = {
        "slider": "it is an ordinary widget (IntSliderModel of @jupyter-widgets/controls)",
        "no-alt": "its picture has no text alternative",
        "no-picture": "its output has no picture",
        "no-state": "its state is not stored with the notebook",
        "parent": "one of its traits is another widget",
    }
    for name, message in expected.items():
        (warning,) = [w for w in warnings if f"a.ipynb, cell {name}: " in w and "index.md" not in w]
        assert message in warning and "WARNING" in warning
    for message in (
        "index.md:7: WARNING: live-figure: a.ipynb has no cell 'nowhere'",
        "live-figure: there is no notebook b.ipynb",
        "live-figure: the cell 'no-widget' of a.ipynb shows no widget",
        "a.ipynb, cell no-alt: this widget is not shown: its picture has no text alternative",
    ):
        assert [w for w in warnings if "index.md" in w and message in w], message
    assert len(warnings) == len(expected) + 4
    # What else their outputs hold is shown.
    html = (tmp_path / "_build" / "html" / "a.html").read_text(encoding="utf-8")
    assert html.count("<img") == 3 and "IntSlider" in html and "Demo()" in html
    assert VIEW not in html


# In a browser -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def below(site, tmp_path_factory):
    """The address of the site, which stands two folders below the top of its host."""
    top = tmp_path_factory.mktemp("host")
    (top / "a").mkdir()
    shutil.copytree(site, top / "a" / "b")
    with served(top) as url:
        yield f"{url}/a/b"


LIVE = '.live-figure[data-phase="live"]'


@pytest.fixture(params=["below", "file"])
def address(request, site):
    return site.as_uri() if request.param == "file" else request.getfixturevalue("below")


def test_figures_come_alive(open_page, address):
    page, log = open_page(f"{address}/chapters/figures.html")
    page.wait_for_function(f"document.querySelectorAll('{LIVE}').length === 3")
    first, second, again = page.locator(f"{LIVE} button").all()
    assert first.inner_text() == '3 | a "quoted" </script> <b>, μ | 0.5 | -2 | -7'
    assert second.inner_text().startswith("8 | ")
    # The third shows the same model as the first: what changes in one is seen in the other.
    first.click()
    assert again.inner_text().startswith("4 | ")
    assert second.inner_text().startswith("8 | ")
    assert page.evaluate("document.body.dataset.started") == "2"
    # Its style is there once; the picture is there, but neither seen nor read out.
    assert first.evaluate("x => getComputedStyle(x).borderTopWidth") == "3px"
    assert page.evaluate("document.head.querySelectorAll('style').length") == 1
    assert not page.locator(f"{LIVE} > img").first.is_visible()
    assert log.complaints == []

    page.emulate_media(media="print")
    assert page.locator(f"{LIVE} > img").first.is_visible()
    assert not first.is_visible()


def test_a_view_answers_for_its_own_listeners_only(open_page, below):
    page, log = open_page(f"{below}/chapters/figures.html")
    page.wait_for_function(f"document.querySelectorAll('{LIVE}').length === 3")
    texts = page.evaluate(
        """async () => {
          const [first, , third] = document.querySelectorAll(".live-figure");
          const [one, three] = [first, third].map((figure) => figure.querySelector("button"));
          const texts = [];
          const say = () => texts.push(one.textContent[0] + three.textContent[0]);
          say();
          third.liveFigure.model.set("count", 4);
          say();
          const { model } = third.liveFigure;
          await third.liveFigure.remove(); // it hears of nothing any more
          model.set("count", 5);
          say();
          first.liveFigure.model.off(); // nor does the other now
          model.set("count", 6);
          say();
          return [...texts, document.body.dataset.closed];
        }"""
    )
    assert texts == ["33", "44", "54", "54", None]
    # The model itself ends with its last view, not before.
    page.evaluate("document.querySelector('.live-figure').liveFigure.remove()")
    page.wait_for_function("document.body.dataset.closed === 'yes'")


def test_off_leaves_the_listeners_of_other_views(open_page, below):
    page, log = open_page(f"{below}/chapters/figures.html")
    page.wait_for_function(f"document.querySelectorAll('{LIVE}').length === 3")
    page.evaluate("document.querySelector('.live-figure').liveFigure.model.off()")
    page.locator(f"{LIVE} button").first.click()
    texts = [button.inner_text() for button in page.locator(f"{LIVE} button").all()]
    assert [text[0] for text in texts] == ["3", "8", "4"]


def test_nothing_is_loaded_before_the_figure_comes_near(open_page, below):
    def loaded():
        return [url for url in log.requests if "/_static/live/" in url]

    page, log = open_page(f"{below}/deep.html")
    page.wait_for_load_state("networkidle")
    assert loaded() == []
    assert page.locator(".live-figure").get_attribute("data-phase") == "waiting"
    page.locator(".live-figure").scroll_into_view_if_needed()
    page.wait_for_selector(LIVE)
    assert len(loaded()) == 5


def test_the_page_does_not_move_when_a_figure_comes_alive(open_page, below):
    page, log = open_page(f"{below}/chapters/figures.html", java_script_enabled=False)
    height = page.locator(".live-figure").first.bounding_box()["height"]
    page, log = open_page(f"{below}/chapters/figures.html")
    page.wait_for_selector(LIVE)
    assert page.locator(".live-figure").first.bounding_box()["height"] == height >= 220


def test_without_javascript_there_is_the_picture(open_page, address):
    page, log = open_page(f"{address}/chapters/figures.html", java_script_enabled=False)
    pictures = page.locator(".live-figure > img").all()
    assert len(pictures) == 3 and all(picture.is_visible() for picture in pictures)
    assert page.get_by_alt_text('A picture of <nothing> & "nobody"').count() == 3


def test_another_page_shows_what_the_chapter_shows(open_page, address):
    page, log = open_page(f"{address}/index.html")
    page.wait_for_selector(LIVE)
    assert page.locator(f"{LIVE} button").inner_text().startswith("8 | ")
    assert page.get_by_alt_text("Another text").count() == 1


def test_a_module_that_fails_leaves_the_picture_and_a_line(open_page, address):
    page, log = open_page(f"{address}/chapters/wrong.html")
    page.wait_for_selector(LIVE)
    page.wait_for_function("document.querySelectorAll('[data-phase=failed]').length === 2")
    broken, failing, after = page.locator(".live-figure").all()
    for figure, reason in ((broken, "Unexpected end of input"), (failing, "no such digit")):
        assert figure.locator("img").is_visible()
        assert figure.locator(".live-figure-view").count() == 0
        note = figure.locator(".live-figure-note")
        assert note.is_visible() and note.get_attribute("role") == "status"
        assert note.inner_text().startswith(f"This figure is not live here: {reason}")
    assert after.locator("button").inner_text().startswith("3 | ")
    assert len(log.complaints) == 2


def test_a_file_that_is_missing_or_damaged_leaves_the_picture_and_a_line(open_page, site, below):
    _, *parts = re.search('data-live="([^"]*)"', figures_of(site, "index")[0])[1].split()
    for answer, reason in (
        ({"status": 404}, "its data could not be loaded"),
        ({"body": "liveFigures.add("}, "its data are damaged"),
    ):
        page, log = open_page("about:blank")
        page.route(f"**/{parts[-1]}.js", lambda route: route.fulfill(**answer))  # noqa: B023
        page.goto(f"{below}/index.html")
        note = page.locator(".live-figure-note")
        note.wait_for()
        assert reason in note.inner_text()
        assert page.locator(".live-figure > img").is_visible()


def test_a_figure_that_goes_is_cleaned_up(open_page, below):
    page, log = open_page(f"{below}/index.html")
    page.wait_for_selector(LIVE)
    page.evaluate("document.querySelector('.live-figure').liveFigure.remove()")
    page.wait_for_function("document.body.dataset.closed")
    assert page.evaluate("({...document.body.dataset})") == {
        "started": "1", "gone": "yes", "aborted": "yes", "closed": "yes",
    }  # fmt: skip
    assert page.locator(".live-figure > img").is_visible()
    assert page.locator("button").count() == 0


def test_the_model_does_what_anywidget_promises(open_page, below):
    page, log = open_page(f"{below}/index.html")
    page.wait_for_selector(LIVE)
    said = page.evaluate(
        """async () => {
          const { model } = document.querySelector(".live-figure").liveFigure;
          const said = [];
          const one = (who, value) => said.push(["one", who === model, value]);
          const two = () => said.push("two");
          const any = () => said.push("any");
          model.on("change:count change:label", one);
          model.on("change:label", two);
          model.on("change", any);
          model.set("count", 1);
          model.set("count", 1);
          model.set({ count: 2, label: "x" });
          said.push(model.get("count"), model.get("label"), model.get("nothing"));
          model.set("list", [1, { a: 2 }]);
          model.set("list", [1, { a: 2 }]);
          model.set("list", [1, { a: 3 }]);
          model.off("change:label", one);
          model.set("label", "y");
          model.off();
          model.set("count", 3);
          said.push(model.save_changes(), model.send({ a: 1 }));
          return said;
        }"""
    )
    assert said == [
        ["one", True, 1], "any",
        ["one", True, 2], ["one", True, "x"], "two", "any",
        2, "x", None,
        "any", "any",
        "two", "any",
        None, None,
    ]  # fmt: skip


# The last, since it changes the book -------------------------------------------------------------


def test_a_page_that_shows_a_chapters_figure_follows_the_chapter(project, site):
    def state_file(page):
        name = re.search(r'data-live="(\w+)', figures_of(site, page)[0])[1]
        return site / "_static" / "live" / f"{name}.js"

    gone = state_file("index")
    path = project / "chapters" / "figures.ipynb"
    notebook = json.loads(path.read_text())
    for model in notebook["metadata"]["widgets"][STATE]["state"].values():
        if "count" in model["state"]:
            model["state"]["count"] += 6
    path.write_text(json.dumps(notebook))
    assert build(project) == ""
    # Not only the page with the contents, which is written again whenever a chapter is.
    assert '"count": 9' in state_file("deep").read_text()
    assert '"count": 14' in state_file("index").read_text()
    assert not gone.exists()
