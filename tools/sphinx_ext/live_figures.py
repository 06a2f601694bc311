"""Sphinx extension: live figures on pages without a kernel.

A chapter's live figure (`vae_lib.widgets`) is committed with its picture and its state. On the page
the picture stands first, with its text alternative: it is what there is without JavaScript and in
print. A script of the book's own, live_static/live_figures.js, puts the live widget in its place.

Why not Jupyter's widget manager? Its script is 3.6 MB (0.92 MB as it is transferred), of which a
live figure needs nothing but the few functions that anywidget passes to a module; ours has 9.5 kB
(3.5 kB). So only widgets of anywidget can be shown. Another one in a chapter is a warning, which
`make book` takes for an error, and so is a picture without a text alternative.

A figure's state may be large (the weights of a network). It is not in the page but in scripts
under _static/live, named by what they hold: pages that show the same share them, and they are
loaded only when the figure comes near the screen. They are scripts since a page that is opened as
a file may load nothing else.

The directive `live-figure` shows on another page what a chapter shows:

    ```{live-figure} 05_latent_space.ipynb#cell-id
    :alt: What the picture shows (default: the text alternative that the chapter gives)
    ```
"""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
import shutil
import struct
import urllib.parse
from collections.abc import Iterator
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from myst_nb.sphinx_ import NbMetadataCollector
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

STATIC = Path(__file__).parent / "live_static"
SCRIPT, STYLE = "live_figures.js", "live_figures.css"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
# What a figure has only for the widget manager's sake.
MANAGERS_TRAITS = ("layout", "tabbable", "tooltip")
LONG_TEXTS = ("_esm", "_css")
MODEL_REFERENCE = "IPY_MODEL_"

logger = logging.getLogger(__name__)


class live_figure(nodes.General, nodes.Element):
    """A live figure: its picture, its only child; the path of a notebook; a model in that."""


# What the notebooks hold --------------------------------------------------------------------------


def read_notebook(path: Path) -> dict:
    """Return a notebook as it is now; it is parsed once as long as it does not change."""
    return _parse(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _parse(path: Path, changed: int) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def models_of(notebook: dict) -> dict[str, dict]:
    """Return the models of widgets that a notebook's metadata hold, by name."""
    return notebook["metadata"].get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})


def why_not_live(notebook: dict, model: str) -> str:
    """Say why a page cannot show this model; the empty string if it can."""
    found = models_of(notebook).get(model)
    if found is None:
        return "its state is not stored with the notebook: run tools/execute.py on it"
    if found["model_module"] != "anywidget":
        kind = f"{found['model_name']} of {found['model_module']}"
        return f"it is an ordinary widget ({kind}), no live figure of vae_lib.widgets"
    if "_esm" not in found["state"]:
        return "its state has no module (_esm)"
    traits = {n: x for n, x in found["state"].items() if n not in MANAGERS_TRAITS}
    if MODEL_REFERENCE in json.dumps(traits):
        return "one of its traits is another widget"
    return ""


def files_of(model: dict) -> dict[str, str]:
    """Return the scripts that hold a model's state, by digest: first the state, then its parts."""
    state = {
        name: value
        for name, value in model["state"].items()
        if (not name.startswith("_") or name == "_anywidget_id") and name not in MANAGERS_TRAITS
    }
    parts: dict[str, str] = {}
    texts = {n: _add(parts, model["state"][n]) for n in LONG_TEXTS if model["state"].get(n)}
    buffers = [[each["path"], _add(parts, each["data"])] for each in model.get("buffers", [])]
    files: dict[str, str] = {}
    _add(files, {"state": state, "texts": texts, "buffers": buffers})
    return files | parts


def _add(files: dict[str, str], value: Any) -> str:
    content = json.dumps(value, ensure_ascii=False, sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:20]
    files[digest] = f'liveFigures.add("{digest}", {content});\n'
    return digest


# From a notebook's output to a figure of a page ---------------------------------------------------


def put_live_figures(app: Sphinx, doctree: nodes.document) -> None:
    """Replace the outputs of a chapter that show a widget by live figures."""
    docname = app.env.docname
    # MyST-NB would write all state into the page.
    NbMetadataCollector.get_js_files(app.env, docname).pop("ipywidgets_state", None)
    for bundle in list(doctree.findall(nodes.container)):
        if bundle.get("nb_element") != "mime_bundle":
            continue
        by_kind = {child["mime_type"]: child for child in bundle.children}
        if WIDGET_VIEW not in by_kind:
            continue
        path = Path(app.env.doc2path(docname))
        notebook = read_notebook(path)
        view = by_kind[WIDGET_VIEW].astext()
        model = json.loads(view[view.index("{") : view.rindex("}") + 1])["model_id"]
        cell = notebook["cells"][_cell_of(bundle)]
        picture = by_kind["image/png"].children[0] if "image/png" in by_kind else None
        figure = make_figure(app, path, model, picture, f"{path.name}, cell {cell['id']}", bundle)
        if figure is None:
            bundle.remove(by_kind[WIDGET_VIEW])  # what else the output has may be shown
        else:
            bundle.replace_self(figure)


def _cell_of(node: nodes.Node) -> int:
    """Return the index, among the cells of the notebook, of the one that an output belongs to."""
    while node.get("nb_element") != "cell_code":
        node = node.parent
    return node["cell_index"]


def make_figure(
    app: Sphinx, path: Path, model: str, picture: nodes.image | None, place: str, location: Any
) -> live_figure | None:
    """Return the node for a model of a notebook; a warning and None if it cannot be shown."""
    problem = why_not_live(read_notebook(path), model)
    if not problem and picture is None:
        problem = "its output has no picture (image/png)"
    if not problem and not picture.get("alt", "").strip():
        problem = "its picture has no text alternative (mystnb.image.alt in the cell's metadata)"
    if problem:
        logger.warning("%s: this widget is not shown: %s", place, problem, location=location,
                       type="live_figures")  # fmt: skip
        return None
    name = path.relative_to(app.srcdir).as_posix()
    shown = app.env.metadata[app.env.docname].setdefault("live_figures", [])
    if [name, model] not in shown:
        shown.append([name, model])
    return live_figure("", picture, notebook=name, model=model)


class LiveFigureDirective(SphinxDirective):
    """The live figure that a cell of a chapter shows. See this module's docstring."""

    required_arguments = 1
    option_spec = {"alt": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        name, _, cell_id = self.arguments[0].partition("#")
        relative, absolute = self.env.relfn2path(name)
        self.env.note_dependency(relative)
        path = Path(absolute)
        if not path.is_file():
            return self._problem(f"there is no notebook {relative}")
        notebook = read_notebook(path)
        cell = next((each for each in notebook["cells"] if each.get("id") == cell_id), None)
        if cell is None:
            return self._problem(f"{relative} has no cell {cell_id!r}")
        outputs = [each.get("data", {}) for each in cell.get("outputs", [])]
        shown = [data for data in outputs if WIDGET_VIEW in data]
        if not shown:
            return self._problem(f"the cell {cell_id!r} of {relative} shows no widget")
        image = cell["metadata"].get("mystnb", {}).get("image", {})
        alt = self.options.get("alt") or image.get("alt", "")
        picture = self._picture(shown[0], alt) if "image/png" in shown[0] else None
        model = shown[0][WIDGET_VIEW]["model_id"]
        place = f"{path.name}, cell {cell_id}"
        figure = make_figure(
            self.env.app, path.resolve(), model, picture, place, self.get_location()
        )
        return [] if figure is None else [figure]

    def _picture(self, output: dict, alt: str) -> nodes.image:
        """The picture among an output's data, in a file that MyST-NB would give the same name."""
        content = base64.b64decode("".join(output["image/png"]))
        folder = Path(self.env.mystnb_config.output_folder)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{hashlib.sha256(content).hexdigest()}.png"
        if not file.exists():  # a newer one would make other pages that show it look outdated
            file.write_bytes(content)
        above = Path(self.env.srcdir).resolve()
        uri = "/" + Path(posixpath.relpath(file.as_posix(), above.as_posix())).as_posix()
        return nodes.image("", uri=uri, alt=alt)

    def _problem(self, text: str) -> list[nodes.Node]:
        logger.warning("live-figure: %s", text, location=self.get_location(), type="live_figures")
        return []


# In the built site --------------------------------------------------------------------------------


def visit_live_figure(translator: Any, node: live_figure) -> None:
    """Write a figure as HTML: the picture, and where the script finds the rest."""
    picture = node.children[0]
    builder = translator.builder
    uri = picture["uri"]
    source = uri
    if uri in builder.images:
        source = posixpath.join(builder.imgpath, urllib.parse.quote(builder.images[uri]))
    width, height = _size(Path(builder.srcdir) / uri.lstrip("/"))
    notebook = read_notebook(Path(builder.srcdir) / node["notebook"])
    model = models_of(notebook)[node["model"]]
    widget = model["state"].get("_anywidget_id", "").rpartition(".")[2]
    digests = " ".join(files_of(model))
    translator.body.append(
        f'<div class="live-figure" data-live="{digests}"'
        f' data-live-model="{escape(node["notebook"])}#{escape(node["model"])}"'
        f' data-live-widget="{escape(widget)}">\n'
        f'<img src="{escape(source)}" alt="{escape(picture["alt"])}"'
        f' width="{width}" height="{height}" />\n</div>\n'
    )
    raise nodes.SkipNode


def _size(png: Path) -> tuple[int, int]:
    """Width and height of a picture, pixels."""
    return struct.unpack(">II", png.read_bytes()[16:24])


def show_picture(translator: Any, node: live_figure) -> None:
    """In other formats a figure is its picture."""


def add_assets(app: Sphinx, pagename: str, template: str, context: dict, doctree: Any) -> None:
    """Load the script and the style sheet on pages with a live figure, and on no others."""
    if app.env.metadata.get(pagename, {}).get("live_figures"):
        app.add_css_file(STYLE)
        app.add_js_file(SCRIPT, defer="defer")


def add_static_folder(app: Sphinx, config: Config) -> None:
    config.html_static_path = [*config.html_static_path, str(STATIC)]


def shown_models(app: Sphinx) -> Iterator[dict]:
    """The models that the site's pages show."""
    for metadata in app.env.metadata.values():
        for name, model in metadata.get("live_figures", []):
            yield models_of(read_notebook(Path(app.srcdir) / name))[model]


def write_state(app: Sphinx, exception: Exception | None) -> None:
    """Write the scripts that hold the figures' state, and nothing else, to _static/live."""
    if exception is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_static" / "live"
    shutil.rmtree(folder, ignore_errors=True)
    for model in shown_models(app):
        folder.mkdir(parents=True, exist_ok=True)
        for digest, content in files_of(model).items():
            (folder / f"{digest}.js").write_text(content, encoding="utf-8", newline="\n")


def setup(app: Sphinx) -> dict[str, Any]:
    other = (show_picture, show_picture)
    app.add_node(live_figure, html=(visit_live_figure, None), latex=other, text=other)
    app.add_directive("live-figure", LiveFigureDirective)
    app.connect("config-inited", add_static_folder)
    app.connect("doctree-read", put_live_figures)
    app.connect("html-page-context", add_assets)
    app.connect("build-finished", write_state)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
