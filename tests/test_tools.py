"""The scripts behind `make`: the set-up, running chapters again, building, the pinned versions."""

import ast
import importlib.util
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))


def load(name, path=None):
    """Import a fresh copy of a script that lies in no package."""
    spec = importlib.util.spec_from_file_location(name, path or ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The set-up ------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path):
    """A folder with what the set-up reads, and nothing else."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "setup_env.py", tmp_path / "tools")
    for name in ("requirements.txt", "constraints.txt", "pyproject.toml", "Makefile"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.fixture
def setup_env(checkout, monkeypatch):
    """The set-up of that folder with everything slow replaced; `.log` lists what it did."""
    module = load("setup_env", checkout / "tools" / "setup_env.py")
    module.log = []

    def create(python, env):
        module.log.append("create")
        os.mkdir(env)
        Path(env, "pyvenv.cfg").touch()

    def pip(env, arguments, pins):
        module.log.append("pip " + arguments[-1])

    monkeypatch.setattr(module, "create", create)
    monkeypatch.setattr(module, "pip", pip)
    monkeypatch.setattr(module, "runs", lambda python, code: True)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e12))
    return module


def fake_python(folder, answer):
    """A program that answers as a Python would which is asked for its version."""
    path = folder / "some-python"
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def run_setup(checkout, **environment):
    command = [sys.executable, str(checkout / "tools" / "setup_env.py")]
    environment = {**os.environ, **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def the_one_line(result):
    """What a failed set-up says is missing."""
    assert result.returncode == 1
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_the_setup_is_understood_by_old_pythons():
    tree = ast.parse((ROOT / "tools" / "setup_env.py").read_text(encoding="utf-8"))
    too_new = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.AsyncFunctionDef, ast.Nonlocal)
    for node in ast.walk(tree):
        assert not isinstance(node, too_new), f"line {node.lineno}"
        if isinstance(node, ast.arguments):
            assert not node.kwonlyargs and not node.posonlyargs
            assert not any(argument.annotation for argument in node.args)


def test_a_python_that_is_too_old(checkout, tmp_path):
    old = fake_python(tmp_path, "echo 3 9; echo venv")
    line = the_one_line(run_setup(checkout, PYTHON=str(old)))
    assert "Python 3.11 to 3.14 is needed" in line and "is 3.9" in line
    assert not (checkout / ".venv").exists()


def test_a_python_that_is_not_there(checkout):
    line = the_one_line(run_setup(checkout, PYTHON="/no/such/python"))
    assert "/no/such/python does not run" in line


def test_a_python_without_the_venv_module(checkout, tmp_path):
    bare = fake_python(tmp_path, "echo 3 11; exit 1")
    line = the_one_line(run_setup(checkout, PYTHON=str(bare)))
    assert "no venv module" in line and "apt install python3.11-venv" in line


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_no_python_at_all(checkout, tmp_path):
    make = shutil.which("make")
    (tmp_path / "bin").mkdir()
    # Were a Python found after all, it should not go on to install anything.
    environment = {"PATH": str(tmp_path / "bin"), "PIP_NO_INDEX": "1"}
    environment["PIP_CONFIG_FILE"] = os.devnull
    result = subprocess.run(
        [make, "-C", str(checkout), "book"], env=environment, capture_output=True, text=True
    )
    said = [line for line in result.stderr.splitlines() if not line.startswith("make")]
    assert result.returncode != 0
    assert len(said) == 1 and "Python 3.11 to 3.14 is needed, and there is none" in said[0]


def test_no_network(checkout):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    environment = {name: "" for name in os.environ if name.startswith("PIP_")}
    environment |= {
        "PYTHON": sys.executable,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"http://127.0.0.1:{port}/simple",
        "PIP_NO_CACHE_DIR": "1",
    }
    for _ in range(2):
        line = the_one_line(run_setup(checkout, **environment))
        assert "no network: pip cannot reach the package index" in line
        assert not (checkout / ".venv" / "setup-complete").exists()
        # Nothing was installed, so the second attempt does not make the environment again.
        assert not (checkout / ".venv" / "setup-under-way").exists()


def test_a_full_disk_is_seen_before_anything_is_made(setup_env, checkout, monkeypatch):
    monkeypatch.setattr(setup_env.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    with pytest.raises(setup_env.Problem, match=r"disk is too full: .* about \d GB.* 1\.0 GB free"):
        setup_env.main([])
    assert setup_env.log == [] and not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["ERROR: Could not install: [Errno 28] No space left on device"], "the disk is full"),
        (["WARNING: Retrying after connection broken by X", "ERROR: No matching"], "no network"),
        (["socket.gaierror: [Errno -3] Temporary failure in name resolution"], "no network"),
        (["The virtual environment was not created: ensurepip is missing"], "no venv module"),
        (["ERROR: ResolutionImpossible: a needs b<1, c needs b>2"], ""),
    ],
)
def test_what_pip_says_becomes_one_line(setup_env, lines, expected):
    reason = setup_env.explain(lines)
    assert expected in reason if expected else reason == ""


def test_nothing_is_done_when_nothing_changed(setup_env, checkout):
    setup_env.main([])
    assert setup_env.log[0] == "create" and len(setup_env.log) == 4
    setup_env.main([])
    assert len(setup_env.log) == 4
    with open(checkout / "constraints.txt", "a") as file:
        file.write("# changed\n")
    setup_env.main([])
    assert setup_env.log[4:] == setup_env.log[1:4]  # on top of the same environment


def test_an_interrupted_setup_is_noticed_and_starts_afresh(setup_env, checkout, monkeypatch):
    def interrupted(env, arguments, pins):
        raise KeyboardInterrupt

    working = setup_env.pip
    monkeypatch.setattr(setup_env, "pip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        setup_env.main([])
    (checkout / ".venv" / "half-installed").touch()
    monkeypatch.setattr(setup_env, "pip", working)
    setup_env.main([])
    assert setup_env.log.count("create") == 2
    assert not (checkout / ".venv" / "half-installed").exists()
    assert (checkout / ".venv" / "setup-complete").exists()


def test_an_interrupted_update_starts_afresh_too(setup_env, checkout):
    setup_env.main([])
    setup_env.mark(str(checkout / ".venv"))
    setup_env.main([])
    assert setup_env.log.count("create") == 2


def test_a_folder_that_is_no_environment_is_left_alone(setup_env, checkout, monkeypatch):
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "thesis.tex").touch()
    monkeypatch.setattr(setup_env, "runs", lambda python, code: False)
    with pytest.raises(setup_env.Problem, match="is no environment"):
        setup_env.main([])
    assert (checkout / ".venv" / "thesis.tex").exists()


def test_an_unknown_option(checkout):
    command = [sys.executable, str(checkout / "tools" / "setup_env.py"), "--newest"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert the_one_line(result).startswith("set-up: usage:")


# Versions --------------------------------------------------------------------------------------


def requirements():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_the_oldest_versions_are_those_of_the_requirements(setup_env):
    text = "# Why\ntorch>=2.4\n\njupyter-book>=1.0.4.post1,<2\n"
    assert setup_env.oldest_versions(text) == "torch==2.4\njupyter-book==1.0.4.post1"
    for unbounded in ("torch", "torch==2.4", "torch>2.4", "torch>=2.4,!=2.5"):
        with pytest.raises(setup_env.Problem, match="expected NAME>=VERSION"):
            setup_env.oldest_versions(unbounded)
    oldest = setup_env.oldest_versions((ROOT / "requirements.txt").read_text())
    for line, requirement in zip(oldest.splitlines(), requirements(), strict=True):
        name, version = line.split("==")
        assert name == requirement.name and version in requirement.specifier


def test_every_requirement_is_pinned_within_its_bounds():
    for requirement in requirements():
        assert pins()[requirement.name] in requirement.specifier


def test_the_pins_serve_every_system():
    assert not [name for name in pins() if name.startswith(("nvidia", "cuda", "triton"))]


def test_the_library_asks_for_what_the_book_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    book = {requirement.name: requirement.specifier for requirement in requirements()}
    for requirement in map(Requirement, project["dependencies"]):
        assert requirement.specifier == book[requirement.name]


def test_newer_pins_keep_what_surrounds_them():
    text = (ROOT / "constraints.txt").read_text()
    head, found, tail = load("newest_pins").split_constraints(text)
    assert "\n".join([*head, *found, *tail]) + "\n" == text
    assert all(line.startswith("#") or not line for line in head)
    assert all("==" in line for line in found) and "colorama" not in "".join(found)


# Running chapters again ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def execute():
    return load("execute")


def write_notebook(path, *sources):
    cells = [new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(sources)]
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_running_again_gives_the_same_bytes(execute, tmp_path, capsys):
    path = write_notebook(
        tmp_path / "a.ipynb",
        "import time\nprint(f'in {time.time() % 1e3:.6f} s')",
        "import random\nround(1.245 + 0.01 * random.random(), 2)",
        "import ipywidgets\nipywidgets.IntSlider(7)",
        "for i in range(3):\n    print(i, flush=True)\n    time.sleep(0.01)",
    )
    assert execute.main([str(path)]) == 0
    first = path.read_bytes()
    notebook = json.loads(first)
    cells = notebook["cells"]
    assert cells[0]["outputs"][0]["text"][0].startswith("in ")
    # The pieces in which a kernel sends what was printed are joined.
    assert [output["text"] for output in cells[3]["outputs"]] == [["0\n", "1\n", "2\n"]]
    state = notebook["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    assert f"{0:032x}" in state and all(len(name) == 32 for name in state)

    assert execute.main([str(path)]) == 0
    assert path.read_bytes() == first
    assert "the same results" in capsys.readouterr().out

    notebook["cells"][1]["outputs"][0]["data"]["text/plain"] = ["3.0"]
    path.write_text(json.dumps(notebook))
    assert execute.main([str(path)]) == 0
    assert "new outputs in cells 1\n" in capsys.readouterr().out
    again = json.loads(path.read_bytes())["cells"]
    assert again[1]["outputs"][0]["data"]["text/plain"][0].startswith("1.2")
    assert again[0] == cells[0]

    assert execute.main(["--force", str(path)]) == 0
    assert json.loads(path.read_bytes())["cells"][0] != cells[0]


WIDGET = """import anywidget, traitlets
class Figure(anywidget.AnyWidget):
    _esm = "export default {}"
    x = traitlets.Float(1.5).tag(sync=True)
    codes = traitlets.Bytes(b"abc").tag(sync=True)
    __repr__ = lambda self: "Figure()"
figure, unseen = Figure(), Figure()
figure"""


def widget_states(path):
    """The models in a notebook's metadata, and the name of the model that each cell shows."""
    notebook = json.loads(path.read_bytes())
    (state,) = notebook["metadata"]["widgets"].values()
    cells = [cell["outputs"] for cell in notebook["cells"]]
    view = "application/vnd.jupyter.widget-view+json"
    shown = [output["data"][view]["model_id"] for outputs in cells for output in outputs]
    return state["state"], shown


def test_a_widget_is_stored_as_each_cell_left_it(execute, tmp_path, capsys):
    path = write_notebook(tmp_path / "a.ipynb", WIDGET, "figure.x = 2.5\nfigure", "figure.x = 3.5")
    assert execute.main([str(path)]) == 0
    first = path.read_bytes()
    models, shown = widget_states(path)
    assert [models[name]["state"]["x"] for name in shown] == [1.5, 2.5]
    assert all(models[name]["state"]["_esm"] == "export default {}" for name in shown)
    assert [models[name]["buffers"][0]["data"] for name in shown] == ["YWJj", "YWJj"]
    # With each its layout, without what has no value; the one that no cell shows is not there.
    layouts = [models[name]["state"]["layout"].removeprefix("IPY_MODEL_") for name in shown]
    assert set(models) == {*shown, *layouts} == {f"{number:032x}" for number in range(4)}
    assert None not in models[layouts[0]]["state"].values()

    assert execute.main([str(path)]) == 0
    assert path.read_bytes() == first
    assert "the same results" in capsys.readouterr().out
    assert execute.main(["--check", str(path)]) == 0

    # What one cell shows has changed: that cell alone is new, and the other still has its model.
    notebook = json.loads(first)
    (state,) = notebook["metadata"]["widgets"].values()
    state["state"][shown[1]]["state"]["x"] = 7.5
    path.write_text(json.dumps(notebook))
    assert execute.main([str(path)]) == 0
    assert "new outputs in cells 1\n" in capsys.readouterr().out
    assert path.read_bytes() == first

    # Cells that say the same keep what they have, even if the kernel would now say it otherwise.
    state["state"][shown[0]]["state"]["x"] = 1.6  # one unit of the last digit
    path.write_text(json.dumps(notebook))
    assert execute.main([str(path)]) == 0
    models, shown = widget_states(path)
    assert [models[name]["state"]["x"] for name in shown] == [1.6, 2.5]

    # The state has gone, and the views with it.
    notebook["metadata"].pop("widgets")
    path.write_text(json.dumps(notebook))
    assert execute.main([str(path)]) == 0
    assert path.read_bytes() == first
    notebook["cells"] = [cell for cell in notebook["cells"] if "figure.x = 3" in cell["source"][0]]
    notebook["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": state}
    path.write_text(json.dumps(notebook))
    assert execute.main(["--tidy", str(path)]) == 0
    assert "widgets" not in json.loads(path.read_bytes())["metadata"]


def test_a_chapter_that_fails_is_left_as_it_was(execute, tmp_path, capsys):
    bad = write_notebook(tmp_path / "bad.ipynb", "x = 1", "raise ValueError('no such digit')")
    before = bad.read_bytes()
    assert execute.main([str(bad)]) == 1
    said = capsys.readouterr().err
    assert "cell 1 failed" in said and "no such digit" in said
    assert bad.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["bad.ipynb"]


def test_one_failure_does_not_keep_the_other_chapters_from_running(execute, tmp_path, monkeypatch):
    ran = []

    def rerun(path, force):
        ran.append(path.name)
        if path.name == "a.ipynb":
            raise execute.ChapterError("failed")

    monkeypatch.setattr(execute, "rerun", rerun)
    assert execute.main([str(tmp_path / "a.ipynb"), str(tmp_path / "b.ipynb")]) == 1
    assert ran == ["a.ipynb", "b.ipynb"]


def test_what_is_no_notebook_is_refused(execute, tmp_path, capsys):
    for content in ("", "{}", '{"nbformat": 3}'):
        path = tmp_path / "x.ipynb"
        path.write_text(content)
        assert execute.main([str(path)]) == 1
        assert path.read_text() == content
    assert execute.main([str(tmp_path / "missing.ipynb")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 4


def noisy_notebook():
    """A notebook as an editor leaves it."""
    output = new_output("execute_result", data={"text/plain": "1"}, execution_count=1)
    cells = [
        new_markdown_cell("Text\n", id="text", metadata={"id": "abc"}),
        new_code_cell(
            "1\n",
            id="sum",
            execution_count=1,
            outputs=[output],
            metadata={
                "execution": {"iopub.execute_input": "2026-01-01"},
                "collapsed": True,
                "scrolled": False,
                "jupyter": {"outputs_hidden": False},
                "tags": ["hide-input"],
                "vae_book": {"rtol": 0.1},
            },
        ),
    ]
    metadata = {
        "kernelspec": {"name": "mine", "display_name": "Mine", "language": "python"},
        "language_info": {"name": "python", "version": "3.13.1"},
        "vscode": {"interpreter": {"hash": "1"}},
    }
    return new_notebook(cells=cells, metadata=metadata)


def test_metadata_are_normalised(execute, tmp_path):
    path = tmp_path / "a.ipynb"
    nbformat.write(noisy_notebook(), path)
    assert execute.main(["--check", str(path)]) == 1
    assert execute.main(["--tidy", str(path)]) == 0
    assert execute.main(["--check", str(path)]) == 0
    text = path.read_text()
    notebook = json.loads(text)
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert [cell["id"] for cell in notebook["cells"]] == ["text", "sum"]
    assert [cell["source"] for cell in notebook["cells"]] == [["Text"], ["1"]]
    assert notebook["cells"][0]["metadata"] == {}
    assert notebook["cells"][1]["metadata"] == {"tags": ["hide-input"], "vae_book": {"rtol": 0.1}}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert text.endswith("}\n") and list(notebook) == sorted(notebook)


def test_cells_without_a_name_or_with_the_same_get_one(execute, tmp_path):
    notebook = json.loads(nbformat.writes(noisy_notebook()))
    del notebook["cells"][0]["id"]
    notebook["cells"][1]["id"] = "cell-0"
    notebook["nbformat_minor"] = 4
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(notebook))
    assert execute.main(["--tidy", str(path)]) == 0
    tidied = json.loads(path.read_text())
    assert [cell["id"] for cell in tidied["cells"]] == ["cell-0", "cell-1"]


def test_a_chapter_that_was_run_out_of_order_is_found(execute, tmp_path):
    cells = [new_code_cell("1", id=f"c{n}", execution_count=n) for n in (2, 1)]
    path = tmp_path / "a.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    execute.main(["--tidy", str(path)])
    assert execute.faults(path) == ["not run from top to bottom: run tools/execute.py on it"]


def test_there_are_chapters():
    assert len(CHAPTERS) >= 6


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name)
def test_every_chapter_is_committed_normalised(execute, path):
    assert execute.faults(path) == []


# Building --------------------------------------------------------------------------------------


@pytest.fixture
def build_book(tmp_path, monkeypatch):
    """The build of a small book by a stand-in for jupyter-book that fails on a bad page."""
    module = load("build_book")
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "intro.md").write_text("# Good\n")
    (tmp_path / "README.md").write_text("not a page\n")
    code = (
        "import pathlib, sys; root = pathlib.Path(sys.argv[2]); html = root / '_build' / 'html'\n"
        "html.mkdir(parents=True); (html / 'index.html').touch()\n"
        "(root / 'builds').open('a').write('x')\n"
        "sys.exit('# Bad' in (root / 'book' / 'intro.md').read_text())"
    )
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "JUPYTER_BOOK", (sys.executable, "-c", code))
    module.count = lambda: len((tmp_path / "builds").read_text())
    return module


def test_the_site_is_built_when_something_changed_and_only_then(build_book, tmp_path, capsys):
    assert build_book.main() == 0
    page = tmp_path / "_build" / "html" / "index.html"
    said = capsys.readouterr().out
    assert str(page) in said and page.as_uri() in said and "http.server" in said
    (tmp_path / "README.md").write_text("still not a page\n")
    assert build_book.main() == 0 and build_book.count() == 1
    (tmp_path / "book" / "intro.md").write_text("# Better\n")
    assert build_book.main() == 0 and build_book.count() == 2
    (tmp_path / "book" / "extra.md").touch()
    assert build_book.main() == 0 and build_book.count() == 3
    page.unlink()
    assert build_book.main() == 0 and build_book.count() == 4


def test_a_failed_build_fails_again(build_book, tmp_path, capsys):
    assert build_book.main() == 0
    (tmp_path / "book" / "intro.md").write_text("# Bad\n")
    for _ in range(2):
        assert build_book.main() == 1
        assert "The site was not built" in capsys.readouterr().err
    (tmp_path / "book" / "intro.md").write_text("# Good\n")
    assert build_book.main() == 0 and build_book.count() == 4


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_alone_lists_every_target():
    listed = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in set(phony[1].split()) - {"help", "setup"}:
        assert f"make {target}" in listed.stdout


# Tables in pages -------------------------------------------------------------------------------


def test_a_table_replaces_what_is_between_its_marks_and_nothing_else(tmp_path):
    pages = load("pages")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a: begin -->\nold\n<!-- a: end -->\n<!-- b: begin -->\nafter\n")
    pages.put_between_marks(page, "a", pages.table(["x", "y"], [[1, "two"]]))
    assert page.read_text() == (
        "before\n<!-- a: begin -->\n| x | y |\n| --- | --- |\n| 1 | two |\n<!-- a: end -->\n"
        "<!-- b: begin -->\nafter\n"
    )


def test_a_bar_in_a_cell_does_not_end_it():
    assert load("pages").table(["x"], [["p(x | z)"]]).splitlines()[2] == r"| p(x \| z) |"


@pytest.mark.parametrize(
    "content",
    ["no marks", "<!-- a: begin -->", "<!-- a: end --> <!-- a: begin -->"],
)
def test_a_page_without_the_marks_is_left_alone(tmp_path, content):
    pages = load("pages")
    page = tmp_path / "page.md"
    page.write_text(content)
    with pytest.raises(ValueError, match="a: begin"):
        pages.put_between_marks(page, "a", "text")
    assert page.read_text() == content
