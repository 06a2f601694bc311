"""Run chapters again, in place (`make execute`).

    python tools/execute.py                         every chapter
    python tools/execute.py book/03_elbo.ipynb      this one
    python tools/execute.py --force ...             replace outputs even if they say the same
    python tools/execute.py --tidy ...              only normalise, without running anything
    python tools/execute.py --check ...             only say whether that would change something

Outputs that agree with the stored ones, by the comparison that the tests make, are left as they
are. So a run with the same results changes no file, although no two runs print the same seconds,
and no two machines the same last digits. A chapter that fails is left as it was.

A widget's model is stored as it was when the cell that shows it ended, once for every cell that
shows it, as the pictures beside it are. All of it is stored, its module too: what was run is what
the pages show, and the notebook is alive wherever widgets are, without a kernel.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from nb_compare import (  # noqa: E402
    MODEL_REFERENCE,
    WIDGET_STATE,
    WidgetModels,
    cell_tolerance,
    compare_cell_outputs,
    expects_error,
    models_shown,
    stored_models,
    views,
)

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
# What editors write into a cell and no reader or tool of the book needs: when it was run, how it
# was folded, where it was scrolled to.
EDITOR_METADATA = ("ExecuteTime", "collapsed", "colab", "execution", "id", "scrolled", "vscode")
# A widget's state is kept: without it the site could not show the widget.
NOTEBOOK_METADATA = ("mystnb", "widgets")


class ChapterError(Exception):
    """A chapter that could not be run to its end."""


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; the exit status is 1 if a chapter failed."""
    parser = argparse.ArgumentParser(prog="execute.py", description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", type=Path, help="default: book/*.ipynb")
    parser.add_argument("--force", action="store_true", help="replace all outputs")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--tidy", action="store_true", help="normalise without running")
    only.add_argument("--check", action="store_true", help="change nothing, only say what would")
    options = parser.parse_args(arguments)

    # Were it set, figures would go to a window or nowhere instead of into the notebook.
    os.environ.pop("MPLBACKEND", None)
    failed = False
    for path in options.chapters or every_chapter():
        try:
            if options.check:
                for problem in faults(path):
                    print(f"{path}: {problem}")
                    failed = True
            elif options.tidy:
                write(path, to_text(normalise(read(path))))
            else:
                rerun(path, options.force)
        except (ChapterError, OSError, ValueError) as error:
            # nbformat's own errors, about a file that is no notebook, are ValueErrors too.
            print(f"{path}: {error}", file=sys.stderr)
            failed = True
    return int(failed)


def every_chapter() -> list[Path]:
    """The chapters, named as seen from the current folder."""
    return [Path(os.path.relpath(path)) for path in sorted((ROOT / "book").glob("*.ipynb"))]


def rerun(path: Path, force: bool = False) -> None:
    """Run a chapter and write it back, with the stored outputs where the new ones agree."""
    stored = normalise(read(path))
    start = time.perf_counter()
    new = normalise(execute(stored, path))
    changed = [] if force else keep_what_agrees(stored, new)
    write(path, to_text(normalise(new)))
    seconds = time.perf_counter() - start
    outcome = "all outputs replaced" if force else "the same results"
    if changed:
        outcome = f"new outputs in cells {', '.join(map(str, changed))}"
    print(f"{path}: {seconds:.0f} s, {outcome}", flush=True)


def execute(notebook: NotebookNode, path: Path) -> NotebookNode:
    """Return the notebook with the outputs of a new run in a new kernel."""
    notebook = copy.deepcopy(notebook)
    notebook.metadata.pop("widgets", None)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    started: list[NotebookNode] = []
    models: dict[str, dict] = {}

    def keep_models(cell: NotebookNode, cell_index: int, execute_reply: dict) -> None:
        shown = copy.deepcopy(models_shown(cell.outputs, client.widgets.models))
        models.update(rename_models([cell], shown, lambda name: f"{cell_index}-{name}"))

    client = Client(
        notebook,
        timeout=None,
        kernel_name=KERNEL["name"],
        # Not its remark that it talks over TCP, once for every chapter.
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.resolve().parent)}},
        record_timing=False,
        coalesce_streams=True,
        # Its own would be the last state, which a later cell may have changed.
        store_widget_state=False,
        on_cell_start=lambda cell, cell_index: started.append(cell),
        on_cell_executed=keep_models,
    )
    print(f"{path}: running {len(code_cells(notebook))} code cells", flush=True)
    try:
        client.execute()
        store_models(notebook, models)
        return notebook
    except (CellExecutionError, DeadKernelError) as error:
        # Numbered as the tests number them: code cells from 0.
        for number, cell in enumerate(code_cells(notebook)):
            if started and cell is started[-1]:
                where = f"cell {number} failed, the file is as it was\n{cell.source}"
                raise ChapterError(f"{where}\n\n{error}") from error
        raise


class Client(NotebookClient):
    """Runs a notebook, and keeps the models of its widgets."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.widgets = WidgetModels()

    def handle_comm_msg(self, outs: list[NotebookNode], msg: dict, cell_index: int) -> None:
        super().handle_comm_msg(outs, msg, cell_index)
        self.widgets.handle(msg)


def keep_what_agrees(stored: NotebookNode, new: NotebookNode) -> list[int]:
    """Put stored outputs back where the new ones agree; return the numbers of the other cells.

    The models of both are then in the notebook; `normalise` drops those that nothing shows.
    """
    changed = []
    stored = copy.deepcopy(stored)
    new_models = stored_models(new)
    old_models = rename_models(
        code_cells(stored), stored_models(stored), lambda name: f"stored-{name}"
    )
    for number, (old, cell) in enumerate(zip(code_cells(stored), code_cells(new), strict=True)):
        tolerance = cell_tolerance(cell.metadata)
        error_expected = expects_error(cell)
        if compare_cell_outputs(
            old.outputs,
            cell.outputs,
            tolerance,
            error_expected=error_expected,
            stored_models=old_models,
            new_models=new_models,
        ):
            changed.append(number)
            continue
        for output in old.outputs:
            if "execution_count" in output:
                output.execution_count = cell.execution_count
        cell.outputs = old.outputs
    store_models(new, {**new_models, **old_models})
    return changed


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Return the notebook without what differs between two runs or two editors."""
    notebook = copy.deepcopy(notebook)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    kept = {key: notebook.metadata[key] for key in NOTEBOOK_METADATA if key in notebook.metadata}
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}, **kept}
    )
    for cell in notebook.cells:
        for key in EDITOR_METADATA:
            cell.metadata.pop(key, None)
        cell.metadata.pop("jupyter", None)
        cell.source = cell.source.rstrip("\n")
    tidy_models(notebook)
    return notebook


def tidy_models(notebook: NotebookNode) -> None:
    """Keep the models of widgets that a view shows, numbered in the order in which they appear.

    A kernel names them at random. Of a layout the traits without a value are dropped: a front end
    puts them back, and there are dozens.
    """
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    models = models_shown(outputs, stored_models(notebook))
    names = list(dict.fromkeys([*(view["model_id"] for view in views(outputs)), *models]))
    numbered = {name: f"{number:032x}" for number, name in enumerate(names)}
    models = rename_models(code_cells(notebook), models, lambda name: numbered.get(name, name))
    for model in models.values():
        if model["model_name"] == "LayoutModel":
            model["state"] = {n: x for n, x in model["state"].items() if x is not None}
    store_models(notebook, models)


def rename_models(cells: list[NotebookNode], models: dict, new_name: Callable[[str], str]) -> dict:
    """Return the models under new names, which the cells' outputs and the models then refer to.

    The outputs are changed in place.
    """

    def renamed(value: Any) -> Any:
        if isinstance(value, str) and value.startswith(MODEL_REFERENCE):
            return MODEL_REFERENCE + new_name(value.removeprefix(MODEL_REFERENCE))
        if isinstance(value, dict):
            return {key: renamed(each) for key, each in value.items()}
        return [renamed(each) for each in value] if isinstance(value, list) else value

    for cell in cells:
        for view in views(cell.outputs):
            view["model_id"] = new_name(view["model_id"])
    return {
        new_name(name): {**model, "state": renamed(model["state"])}
        for name, model in models.items()
    }


def store_models(notebook: NotebookNode, models: dict) -> None:
    """Make these the models of widgets that a notebook's metadata hold."""
    notebook.metadata.pop("widgets", None)
    if models:
        state = {"state": models, "version_major": 2, "version_minor": 0}
        notebook.metadata.widgets = nbformat.from_dict({WIDGET_STATE: state})


def faults(path: Path) -> list[str]:
    """Return why a committed chapter is not as this program leaves it, one line each."""
    notebook = read(path)
    problems = []
    if path.read_text(encoding="utf-8") != to_text(normalise(notebook)):
        problems.append("not normalised: run tools/execute.py --tidy on it")
    counts = [cell.execution_count for cell in code_cells(notebook) if cell.source.strip()]
    if counts != list(range(1, len(counts) + 1)):
        problems.append("not run from top to bottom: run tools/execute.py on it")
    return problems


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def read(path: Path) -> NotebookNode:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(notebook, dict) or notebook.get("nbformat") != 4 or "cells" not in notebook:
        raise ChapterError("not a notebook of format 4")
    # nbformat would invent random names for cells that have none, or the same as another.
    notebook["nbformat_minor"] = 5
    taken: set[str] = set()
    for number, cell in enumerate(notebook["cells"]):
        names = (cell.get("id"), f"cell-{number}", *(f"cell-{number}-{i}" for i in range(1000)))
        cell["id"] = next(name for name in names if name and name not in taken)
        taken.add(cell["id"])
    return nbformat.reads(json.dumps(notebook), as_version=4)


def to_text(notebook: NotebookNode) -> str:
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def write(path: Path, text: str) -> None:
    """Replace a file in one step, and only if its content changes."""
    if path.read_text(encoding="utf-8") == text:
        return
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8", newline="\n")
    os.replace(new, path)


if __name__ == "__main__":
    sys.exit(main())
