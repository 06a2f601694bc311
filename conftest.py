"""Make `pytest --nbval` strict for every notebook, in whichever folder it is.

nbval alone skips figures and widgets, knows no tolerance, and disregards the order of outputs.
Here it keeps its handling of kernels, and the comparison is that of tests/nb_compare.py. This file
stands at the top because pytest reads tests/conftest.py only when it is given that folder: a plain
`pytest --nbval book` would go without it.

VAE_BOOK_REPORT=path appends a line of JSON for each cell compared: how much of its tolerance it
used, and every deviation of a number or a figure. tools/matrix.py makes tables of these lines.
"""

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
from nbformat import from_dict
from nbval.plugin import IPyNbCell, IPyNbFile

sys.path.insert(0, str(Path(__file__).parent / "tests"))

from nb_compare import (
    Comparison,
    Tolerance,
    WidgetModels,
    cell_tolerance,
    expects_error,
    notebook_faults,
    stored_models,
)


def compare_outputs(cell, new, stored):
    """Compare all outputs of a cell; nbval prints the differences below the cell's source."""
    tolerance = cell_tolerance(cell.cell.metadata)
    comparison = Comparison(
        stored,
        new,
        tolerance,
        error_expected=expects_error(cell.cell),
        stored_models=stored_models(cell.parent.nb),
        new_models=widget_models(cell.parent).models,
    )
    cell.comparison_traceback = comparison.differences
    if path := os.environ.get("VAE_BOOK_REPORT"):
        record = {
            "notebook": os.path.relpath(cell.path, cell.config.rootpath),
            "cell": cell.cell_num,
            "outputs": len(stored),
            "differences": len(comparison.differences),
            "largest_ratio": comparison.largest_ratio,
            "deviations": [asdict(deviation) for deviation in comparison.deviations],
        }
        with open(path, "a", encoding="utf-8") as report:
            report.write(json.dumps(record) + "\n")
    return not comparison.differences


def collect(notebook_file, nbval_collect=IPyNbFile.collect):
    """The cells of a notebook, unless it leaves something out of the comparison."""
    cells = list(nbval_collect(notebook_file))
    if faults := notebook_faults(notebook_file.nb):
        name = notebook_file.path.name
        raise notebook_file.CollectError("\n".join([f"{name} cannot be compared:", *faults]))
    return cells


def setup(notebook_file, nbval_setup=IPyNbFile.setup):
    """Start the kernel as Jupyter would."""
    # With the first of these a kernel drops its figures, with the second the output of C code.
    with _without("MPLBACKEND", "PYTEST_CURRENT_TEST"):
        nbval_setup(notebook_file)


def get_kernel_message(notebook_file, *args, nbval_get=IPyNbFile.get_kernel_message, **kwargs):
    """A kernel's next message; one that updates an earlier display changes that display's data.

    nbval knows no updates, and would compare what a progress bar showed at first with what the
    notebook holds, which is what it showed last. Nor does it know what widgets are: their models,
    which messages make and change, are kept with the file.
    """
    message = nbval_get(notebook_file, *args, **kwargs)
    widget_models(notebook_file).handle(message)
    content = message["content"]
    display_id = content.get("transient", {}).get("display_id")
    if display_id is not None:
        displays = notebook_file.__dict__.setdefault("displays", {})
        if message["msg_type"] == "update_display_data":
            displays[display_id].clear()
            displays[display_id].update(content["data"])
        else:
            # Already a NotebookNode: nbval would put a copy of a plain dictionary in the output.
            content["data"] = displays[display_id] = from_dict(content["data"])
    return message


def widget_models(notebook_file):
    """The models of the widgets that a file's kernel has made so far."""
    return notebook_file.__dict__.setdefault("widget_models", WidgetModels())


@contextmanager
def _without(*names):
    removed = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(removed)


def pytest_configure(config):
    options = config.option
    if options.nbval_lax:
        raise pytest.UsageError("nbval's lax mode compares hardly anything; use --nbval")
    if options.nbval_sanitize_with or options.sanitize_with:
        raise pytest.UsageError("what may differ is in SANITISERS of tests/nb_compare.py, no file")
    if options.nbval and not options.nbval_kernel_name:
        # Not the kernel that the notebook names, which may belong to another environment.
        options.nbval_current_env = True
    IPyNbCell.compare_outputs = compare_outputs
    IPyNbFile.collect = collect
    IPyNbFile.setup = setup
    IPyNbFile.get_kernel_message = get_kernel_message


def pytest_report_header(config):
    if config.option.nbval:
        return f"notebooks: every output is compared; {Tolerance()}"
    return None
