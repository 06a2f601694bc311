"""The planted faults: each fits the code as it is, and the tool tells caught from survived."""

import ast
import collections
import functools
import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, writes

ROOT = Path(__file__).parent.parent

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "tools")
    plant_faults = importlib.import_module("plant_faults")
    for shared_name in ("pages", "faults", "plant_faults"):  # other tests import their own
        sys.modules.pop(shared_name, None)

FAULTS, Fault, Outcome = plant_faults.FAULTS, plant_faults.Fault, plant_faults.Outcome


# The list ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.file}: {fault.name}")
def test_fault_fits_the_code_once_and_changes_what_it_does(fault):
    _, changed, cell = plant_faults.planted(fault, ROOT)
    if cell is None:
        original = (ROOT / fault.file).read_text(encoding="utf-8")
    else:
        notebook = json.loads((ROOT / fault.file).read_text(encoding="utf-8"))
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        original = "".join(cells[cell]["source"])
    # The chapters have no magic commands, so that a cell is plain Python.
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(original))


def test_faults_can_be_told_apart():
    assert len({(fault.file, fault.name) for fault in FAULTS}) == len(FAULTS)
    assert len({plant_faults.planted(fault, ROOT)[0] for fault in FAULTS}) == len(FAULTS)
    assert not [fault.name for fault in FAULTS if "|" in fault.name or "\n" in fault.name]


def test_every_chapter_and_module_has_faults():
    numbers = collections.Counter(fault.file for fault in FAULTS)
    assert len(FAULTS) >= 40
    for path in (ROOT / "book").glob("*.ipynb"):
        assert numbers[f"book/{path.name}"] >= 4, path.name
    for module in (
        "objectives models evaluation training trained data plotting runtime reporting"
    ).split():
        assert numbers[f"vae_lib/{module}.py"] >= 2, module


def test_faults_name_chapters_that_there_are():
    numbers = {int(path.name[:2]) for path in (ROOT / "book").glob("*.ipynb")}
    for fault in FAULTS:
        assert fault.chapters and set(fault.chapters) <= numbers, fault.name
        assert len(set(fault.chapters)) == len(fault.chapters), fault.name
        if fault.file.startswith("book/"):
            assert fault.chapters == (int(Path(fault.file).name[:2]),), fault.name


# The machinery, on a project of one cell ----------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A library of one function, a chapter that calls it, and what nbval needs here."""
    root = tmp_path_factory.mktemp("project")
    for folder in ("vae_lib", "book", "tests"):
        (root / folder).mkdir()
    for name in ("conftest.py", "pyproject.toml", "tests/nb_compare.py"):
        shutil.copy(ROOT / name, root / name)
    (root / "vae_lib" / "__init__.py").write_text("def double(x):\n    return x * 2\n")
    write_chapter(root, stored="8\n")
    return root


def write_chapter(root, stored, more=("", "", "")):
    """Two cells and an empty one; `more` is added to the code of each."""
    cells = [
        new_code_cell("from vae_lib import double", execution_count=1),
        new_code_cell(
            "print(double(4))", execution_count=2,
            outputs=[new_output("stream", name="stdout", text=stored)],
        ),
        new_code_cell("", execution_count=3),
    ]  # fmt: skip
    for number, (cell, code) in enumerate(zip(cells, more)):
        cell.source += code
        cell.id = f"cell-{number}"  # the same whenever it is written
    (root / "book" / "01_tiny.ipynb").write_text(writes(new_notebook(cells=cells)))


def in_library(old, new):
    return Fault("a name", "vae_lib/__init__.py", old, new, (1,))


def in_chapter(old, new):
    return Fault("a name", "book/01_tiny.ipynb", old, new, (1,))


def make_runner(root, tmp_path, outcomes=None):
    return plant_faults.Runner(root, tmp_path, timeout=60.0, outcomes=outcomes)


def test_harmful_fault_is_caught_where_it_shows(project, tmp_path):
    outcome = make_runner(project, tmp_path).try_fault(in_library("x * 2", "x * 3"), False)
    assert (outcome.kind, outcome.chapter, outcome.cell) == ("caught", 1, 1)
    assert outcome.said.startswith("output 1 (stdout): 8") or "stored 8, new 12" in outcome.said
    assert list(tmp_path.iterdir()) == []  # the copy is gone


def test_harmless_edit_survives_and_its_outcome_is_kept(project, tmp_path, monkeypatch):
    outcomes, harmless = tmp_path / "outcomes.jsonl", in_library("x * 2", "x + x")
    assert make_runner(project, tmp_path, outcomes).try_fault(harmless, False).kind == "passed"

    def copy_with_prose(root, folder, original=plant_faults.copy_project):
        copy = original(root, folder)
        path = copy / "book" / "01_tiny.ipynb"
        notebook = json.loads(path.read_text())
        notebook["cells"].append(new_markdown_cell("A sentence."))
        path.write_text(json.dumps(notebook))
        return copy

    # The second time nothing is run, nor if only the prose has changed; but what differs is.
    monkeypatch.setattr(plant_faults, "run_notebook", lambda *_: Outcome("timeout"))
    runner = make_runner(project, tmp_path, outcomes)
    assert runner.try_fault(harmless, False).kind == "passed"
    assert runner.try_fault(in_library("x * 2", "2 * x"), False).kind == "timeout"
    monkeypatch.setattr(plant_faults, "copy_project", copy_with_prose)
    assert runner.try_fault(harmless, False).kind == "passed"
    assert runner.try_fault(in_chapter("double(4)", "double(3 + 1)"), False).kind == "timeout"


@pytest.mark.parametrize(("cell", "kind"), [(0, "timeout"), (1, "timeout"), (2, "caught")])
def test_outcome_holds_as_long_as_nothing_up_to_the_cell_that_noticed_changes(
    project, tmp_path, monkeypatch, cell, kind
):
    project = shutil.copytree(project, tmp_path / "project")  # others use the first one too
    outcomes, harmful = tmp_path / "outcomes.jsonl", in_library("x * 2", "x * 3")
    outcome = make_runner(project, tmp_path, outcomes).try_fault(harmful, False)
    assert (outcome.kind, outcome.cell) == ("caught", 1)

    more = ["", "", ""]
    more[cell] = "\nmore = 1"
    write_chapter(project, "8\n", more)
    monkeypatch.setattr(plant_faults, "run_notebook", lambda *_: Outcome("timeout"))
    assert make_runner(project, tmp_path, outcomes).try_fault(harmful, False).kind == kind


def test_alternative_text_of_a_figure_decides_nothing(project, tmp_path):
    project = shutil.copytree(project, tmp_path / "project")
    path = project / "book" / "01_tiny.ipynb"
    before = plant_faults.keys_of_run(project / "vae_lib", path)
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    code[0]["metadata"]["mystnb"] = {"image": {"alt": "a line"}}
    path.write_text(json.dumps(notebook))
    assert plant_faults.keys_of_run(project / "vae_lib", path) == before
    code[0]["metadata"]["vae_book"] = {"atol": 1.0}
    path.write_text(json.dumps(notebook))
    assert plant_faults.keys_of_run(project / "vae_lib", path)[0] != before[0]


def test_comments_and_docstrings_decide_nothing(project, tmp_path):
    project = shutil.copytree(project, tmp_path / "project")
    path, library = project / "book" / "01_tiny.ipynb", project / "vae_lib" / "__init__.py"
    before, code = plant_faults.keys_of_run(project, path), library.read_text()
    library.write_text(f'"""Another docstring."""\n\n# A comment.\n{code}')
    assert plant_faults.keys_of_run(project, path) == before
    library.write_text(f"{code}\nmore = 1\n")
    assert plant_faults.keys_of_run(project, path) != before
    library.write_text(f"{code}\nno program(\n")
    assert plant_faults.keys_of_run(project, path) != before


def differ(keys, before):
    return [ours != theirs for ours, theirs in zip(keys, before, strict=True)]


def test_live_figures_decide_only_what_becomes_of_chapters_that_have_some(project, tmp_path):
    project = shutil.copytree(project, tmp_path / "project")
    path = project / "book" / "01_tiny.ipynb"
    keys = functools.partial(plant_faults.keys_of_run, project, path)
    (project / "vae_lib" / "widgets").mkdir()
    module = project / "vae_lib" / "widgets" / "figure.js"
    before = keys()
    module.write_text("1")
    assert keys() == before
    (project / "vae_lib" / "figure.js").write_text("1")
    assert keys()[0] != before[0]

    write_chapter(project, "8\n", ("", "\nfrom vae_lib.widgets import Figure", ""))
    before = keys()
    module.write_text("2")
    assert differ(keys(), before) == [False, True, True]  # from the cell that makes the figure
    before, notebook = keys(), json.loads(path.read_text())
    notebook["metadata"]["widgets"] = {"state": {}}
    path.write_text(json.dumps(notebook))
    assert differ(keys(), before) == [False, True, True]


def test_the_hidden_cell_that_installs_the_library_decides_nothing(project, tmp_path):
    project = shutil.copytree(project, tmp_path / "project")
    path = project / "book" / "01_tiny.ipynb"
    notebook = json.loads(path.read_text())
    cell = notebook["cells"][0]
    cell["metadata"]["tags"] = ["remove-cell"]
    path.write_text(json.dumps(notebook))
    before = plant_faults.keys_of_run(project, path)
    cell["source"] += "\nprint()"
    path.write_text(json.dumps(notebook))
    assert plant_faults.keys_of_run(project, path) == before
    del cell["metadata"]["tags"]
    path.write_text(json.dumps(notebook))
    assert plant_faults.keys_of_run(project, path) != before


def test_outcomes_that_a_run_did_not_use_are_forgotten(project, tmp_path, monkeypatch):
    outcomes = tmp_path / "outcomes.jsonl"
    monkeypatch.setattr(plant_faults, "run_notebook", lambda *_: Outcome("caught", cell=1))
    for new in ("x * 3", "x * 4"):
        make_runner(project, tmp_path, outcomes).try_fault(in_library("x * 2", new), False)
    kept = outcomes.read_text().splitlines()
    assert len(kept) == 2

    runner = make_runner(project, tmp_path, outcomes)
    runner.try_fault(in_library("x * 2", "x * 4"), False)
    runner.forget_unused()
    assert outcomes.read_text().splitlines() == kept[1:]


def test_error_of_a_fault_that_makes_no_program_is_not_a_catch(project, tmp_path):
    outcome = make_runner(project, tmp_path).try_fault(in_library("x * 2", "y * 2"), False)
    assert (outcome.kind, outcome.cell) == ("broken", 1)
    assert "NameError" in outcome.said


def test_chapter_that_fails_as_it_is_stops_everything(project, tmp_path, monkeypatch):
    caught = Outcome("caught", cell=1, said="output 1")
    monkeypatch.setattr(plant_faults, "run_notebook", lambda *_: caught)
    with pytest.raises(plant_faults.FaultError, match="chapter 1 fails as it is"):
        make_runner(project, tmp_path).try_fault(in_library("x * 2", "x * 3"))


def test_copy_imports_its_own_library(project, tmp_path):
    make_runner(project, tmp_path).check_import()


@pytest.mark.parametrize("fault", [in_library("x", "y"), in_library("z", "y"),
                                   in_chapter("double", "y"), in_chapter("gone", "y")])
def test_old_text_must_be_there_once(project, fault):
    with pytest.raises(plant_faults.FaultError, match=r"a name: [02] times in"):
        plant_faults.planted(fault, project)


def test_planting_keeps_the_stored_outputs(project):
    text, source, cell = plant_faults.planted(in_chapter("(4)", "(5)"), project)
    cells = json.loads(text)["cells"]
    assert (source, cell) == ("print(double(5))", 1)
    assert cells[1]["source"] == source and cells[1]["outputs"][0]["text"] in ("8\n", ["8\n"])


# What pytest reports --------------------------------------------------------------------------------


def read_report(tmp_path, contents, status=1):
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuites><testsuite>{contents}</testsuite></testsuites>")
    return plant_faults.read_report(report, status, "first\nlast")


CASE = '<testcase name="Cell 3"><failure message="m">Notebook cell execution failed\nCell 3: '


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ('<testcase name="Cell 0"/>' + CASE
         + "Cell outputs differ\n\nInput:\nx\n\nTraceback:\noutput 1:\n  differs</failure></testcase>",
         ("caught", 3, "output 1: differs")),
        (CASE + "Cell execution caused an exception\n\nInput:\nx\n\nTraceback:\n"
         "#x1B[31mValueError#x1B[0m: TypeError: no\nmore</failure></testcase>",
         ("caught", 3, "ValueError: TypeError: no")),
        (CASE + "Cell execution caused an exception\n\nInput:\nx\n\nTraceback:\n"
         "NameError: y</failure></testcase>", ("broken", 3, "NameError: y")),
        (CASE + "Timeout of 9 seconds exceeded executing cell\n\nInput:\nx</failure></testcase>",
         ("timeout", 3, "Timeout of 9 seconds exceeded executing cell")),
        ('<testcase name="Cell 3"><failure>pytest plugin exception: Kernel dead</failure></testcase>',
         ("broken", 3, "pytest plugin exception: Kernel dead")),
        ('<testcase name="book"><error message="collection failure">x</error></testcase>',
         ("broken", None, "pytest said: last")),
        ('<testcase name="Cell 3"><error message="failed on setup">x</error></testcase>',
         ("broken", None, "pytest said: last")),
        ("", ("broken", None, "pytest said: last")),
    ],
)  # fmt: skip
def test_report_of_a_failed_run(tmp_path, contents, expected):
    assert read_report(tmp_path, contents) == expected


def test_report_of_a_run_that_passed(tmp_path):
    assert read_report(tmp_path, '<testcase name="Cell 0"/>', status=0) == ("passed", None, "")
    # Nothing run, or a cell that pytest expected to fail, is not a pass.
    assert read_report(tmp_path, "", status=0)[0] == "broken"
    skipped = '<testcase name="Cell 0"><skipped/></testcase>'
    assert read_report(tmp_path, skipped, status=0)[0] == "broken"
    assert plant_faults.read_report(tmp_path / "none", 0, "x")[0] == "broken"


def test_page_counts_what_was_caught():
    faults = [in_library("x", "y"), in_chapter("(4)", "(5)")]
    places = dict(zip(faults, ["vae_lib/__init__.py", "chapter 1, cell 1"]))
    results = dict(zip(faults, [Outcome("caught", 2, 7), Outcome("passed")]))
    lines = plant_faults.as_page(faults, places, results).splitlines()
    assert lines[0].startswith("Of 2 faults") and "catches 1" in lines[0]
    assert lines[4:] == ["| a name | `vae_lib/__init__.py` | 2, cell 7 |",
                         "| a name | chapter 1, cell 1 | nothing |"]  # fmt: skip


@pytest.mark.parametrize(("kinds", "status"), [(["caught"], 0), (["caught", "passed"], 1),
                                              (["broken"], 1), (["timeout"], 1)])
def test_exit_status_is_0_only_if_all_are_caught(monkeypatch, capsys, kinds, status):
    faults = FAULTS[: len(kinds)]
    results = {fault: Outcome(kind, 1, 2) for fault, kind in zip(faults, kinds)}
    monkeypatch.setattr(plant_faults, "FAULTS", faults)
    monkeypatch.setattr(plant_faults, "run_all", lambda *_: results)
    assert plant_faults.main([]) == status
    assert ("SURVIVED" in capsys.readouterr().out) == ("passed" in kinds)
