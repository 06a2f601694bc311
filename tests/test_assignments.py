"""The problem sets: their sources, what is made from them, and the marks that answers get."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import address  # noqa: E402
import course  # noqa: E402
import grade  # noqa: E402
import marks  # noqa: E402
import problem_sets  # noqa: E402
import sandbox  # noqa: E402
from pages import between_marks  # noqa: E402
from problem_sets import ProblemSetError, Settings, secret_lines  # noqa: E402

SETS = problem_sets.names()


def run(script, *arguments, **environment):
    """Run a script of tools/; nbgrader is not imported here, as its warnings would be errors."""
    command = [sys.executable, str(ROOT / "tools" / script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def source(name="ps3"):
    return problem_sets.read(problem_sets.source_path(name))


def released(name):
    return problem_sets.read(problem_sets.RELEASED / f"{name}.ipynb")


# The sources -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_a_source_keeps_the_rules(name):
    assert problem_sets.faults(name) == []


def break_heading(notebook):
    cell = next(cell for cell in notebook.cells if cell.source.startswith("## Task 1"))
    cell.source = cell.source.replace("(5 points)", "(6 points)")


def break_minutes(notebook):
    notebook.cells[0].source = notebook.cells[0].source.replace("90 minutes", "9 minutes")


def break_seconds(notebook):
    source = notebook.cells[0].source.replace("about 10\n> seconds", "about 20\n> seconds")
    notebook.cells[0].source = source


def break_number(notebook):
    cell = next(cell for cell in notebook.cells if cell.source.startswith("## Task 2"))
    cell.source = cell.source.replace("Task 2", "Task 3")


def break_identifier(notebook):
    problem_sets.cell_named(notebook, "kl")["id"] = "other"


def break_twice(notebook):
    """Done in the text, since nbformat would repair it."""


def break_solution(notebook):
    cell = problem_sets.cell_named(notebook, "kl")
    cell.source = cell.source.replace(problem_sets.BEGIN_SOLUTION, "# begin")


def break_hidden(notebook):
    for cell in notebook.cells:
        if cell.id.startswith("kl-"):
            cell.source = cell.source.replace(problem_sets.BEGIN_HIDDEN, "# begin")


def break_scheme(notebook):
    cell = problem_sets.cell_named(notebook, "ladder")
    cell.source = cell.source.replace(problem_sets.BEGIN_SCHEME, "Begin")


def break_scheme_end(notebook):
    cell = problem_sets.cell_named(notebook, "ladder")
    end = problem_sets.END_SCHEME
    cell.source = cell.source.replace(f"\n\n{end}", f" {end}")


def break_scheme_begin(notebook):
    cell = problem_sets.cell_named(notebook, "ladder")
    cell.source = cell.source.replace(problem_sets.BEGIN_SCHEME + "\n\n", problem_sets.BEGIN_SCHEME)


def break_outputs(notebook):
    problem_sets.cell_named(notebook, "setup").execution_count = 1


def break_width(notebook):
    problem_sets.cell_named(notebook, "setup").source += "\n# " + 100 * "x"


def break_schema(notebook):
    problem_sets.cell_named(notebook, "kl").metadata.nbgrader.schema_version = 2


def break_loose_solution(notebook):
    notebook.cells[0].source += f"\n{problem_sets.BEGIN_SOLUTION}\n"


def break_link(notebook):
    notebook.cells[0].source += "\nSee [the notation](../../notation.md)."


def break_chapter(notebook):
    notebook.cells[0].source = notebook.cells[0].source.replace("03_elbo", "03_bound")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (break_heading, "its heading says 6 points, its cells 5"),
        (break_minutes, "does not say, as about.toml does: **Time:** about 90 minutes"),
        (break_seconds, "does not say, as about.toml does: **Time:** about 90 minutes"),
        (break_number, "not numbered"),
        (break_identifier, "expected its id"),
        (break_twice, "id ps3-00 twice"),
        (break_solution, "no ### BEGIN SOLUTION"),
        (break_hidden, "task kl: no hidden tests"),
        (break_scheme, "no mark scheme"),
        (break_scheme_end, "cell ladder: a begin or an end that is not on a line of its own"),
        (break_scheme_begin, "cell ladder: a begin or an end that is not on a line of its own"),
        (break_outputs, "without outputs"),
        (break_width, "line over 100"),
        (break_schema, "schema version 3"),
        (break_loose_solution, "not nbgrader's"),
        (break_link, "[the notation](../../notation.md) leads nowhere"),
        (break_chapter, "[chapter 3](../../03_bound.ipynb): no such chapter"),
    ],
)
def test_a_source_that_breaks_a_rule_is_found(spoil, message, monkeypatch, tmp_path):
    notebook = source()
    spoil(notebook)
    (tmp_path / "ps3").mkdir()
    text = problem_sets.to_text(notebook)
    if spoil is break_twice:
        text = text.replace('"id": "ps3-02"', '"id": "ps3-00"')
    (tmp_path / "ps3" / "ps3.ipynb").write_text(text, encoding="utf-8")
    about = (problem_sets.ASSIGNMENTS / "ps3" / "about.toml").read_text(encoding="utf-8")
    (tmp_path / "ps3" / "about.toml").write_text(about, encoding="utf-8")
    monkeypatch.setattr(problem_sets, "ASSIGNMENTS", tmp_path)
    assert any(message in fault for fault in problem_sets.faults("ps3"))


# What is made from them --------------------------------------------------------------------------


def test_what_is_released_is_what_the_sources_give():
    done = run("course.py", "release", "--check")
    assert done.returncode == 0, done.stderr


def test_what_is_released_and_has_no_source_is_found(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(course, "released_versions", lambda names: {})
    monkeypatch.setattr(problem_sets, "RELEASED", tmp_path)
    (tmp_path / "ps9.ipynb").write_text("{}")
    assert course.release(check=True) == 1
    assert "ps9.ipynb" in capsys.readouterr().err
    assert course.release() == 0 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SETS)
def test_a_student_version_has_no_solution(name):
    text = problem_sets.to_text(released(name))
    for secret in secret_lines(name):
        assert secret not in text
    for cell in released(name).cells:
        if problem_sets.nbgrader_of(cell).get("solution") and cell.cell_type == "code":
            assert "# YOUR CODE HERE\n" in cell.source
        for mark in ("BEGIN SOLUTION", "BEGIN HIDDEN", "MARK SCHEME"):
            assert mark not in cell.source


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("url", ["", "https://github.com/some-owner/some.book"])
def test_a_set_begins_with_the_cell_that_installs_the_library(name, url, monkeypatch):
    monkeypatch.setattr(address, "setting", lambda root: (url, "main"))
    first, *others = (
        cell
        for cell in problem_sets.with_settings(name, Settings()).cells
        if cell.cell_type == "code"
    )
    assert first.source == address.setup_source(url)
    assert "remove-cell" in first.metadata["tags"]
    assert problem_sets.nbgrader_of(first)["locked"] and not problem_sets.is_marked(first)
    assert "vae_lib" in others[0].source


@pytest.mark.parametrize("name", SETS)
def test_a_student_version_links_to_nothing_that_a_student_does_not_have(name):
    """It names its chapter in words; tests/test_site.py sees that the page has a link there."""
    text = "\n".join(c.source for c in released(name).cells if c.cell_type == "markdown")
    assert f"chapter {name.removeprefix('ps')} of the book" in text
    assert [link for link in problem_sets.LINK.findall(text) if "://" not in link[1]] == []


@pytest.mark.parametrize("name", SETS)
def test_a_set_has_secrets_to_keep(name):
    assert len(secret_lines(name)) > 20


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_in_the_table_of_contents(name):
    contents = (ROOT / "_toc.yml").read_text()
    assert f"file: book/assignments/released/{name}\n" in contents


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A course: two tasks of one set, other points, a private hidden test; nbgrader released it."""
    place = tmp_path_factory.mktemp("instructor")
    private = place / "private" / "ps3"
    private.mkdir(parents=True)
    (private / "kl-values.py").write_text("SECRET_OF_MINE = kl_diagonal_gaussians\n")
    settings = place / "course.toml"
    settings.write_text(
        'course_id = "mine"\nprivate_tests = "private"\n[sets.ps3]\ntasks = ["kl", "bug"]\n'
        "points = { kl-values = 7 }\n"
    )
    done = run("course.py", "new", place / "course", "--settings", settings)
    assert done.returncode == 0, done.stderr
    return place / "course"


def test_a_course_as_its_settings_want_it(folder):
    given = problem_sets.read(folder / "release" / "ps3" / "ps3.ipynb")
    tasks = problem_sets.tasks(given)
    assert [(task.number, task.name, task.total) for task in tasks] == [(1, "kl", 9), (2, "bug", 6)]
    assert "SECRET_OF_MINE" not in problem_sets.to_text(given)
    kept = problem_sets.read(folder / "source" / "ps3" / "ps3.ipynb")
    cell = problem_sets.cell_named(kept, "kl-values").source
    assert "SECRET_OF_MINE" in cell.split(problem_sets.BEGIN_HIDDEN)[1]
    assert {path.name for path in folder.iterdir()} >= {
        "gradebook.db",
        "nbgrader_config.py",
        "release",
        "source",
        "submitted",
    }
    assert "mine" in (folder / "nbgrader_config.py").read_text()


def test_a_folder_that_holds_something_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("x")
    assert course.main(["new", str(tmp_path)]) == 1
    assert "not an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_settings_that_are_left_out_take_everything():
    course_id, settings = problem_sets.read_settings(problem_sets.ASSIGNMENTS / "course.toml")
    assert course_id == "vae"
    assert settings == {name: Settings() for name in SETS}
    wanted = source()
    first = wanted.cells[0]
    first.source = first.source.replace("[chapter 3](../../03_elbo.ipynb)", "chapter 3 of the book")
    assert wanted != source()
    found = problem_sets.with_settings("ps3", Settings())
    assert [cell for cell in found.cells if cell.id != "library"] == wanted.cells


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("set = 1", "course.toml: expected"),
        ('private_tests = "nowhere"', "no folder"),
        ("[sets.ps99]", "no problem set 'ps99'"),
        ("[sets.ps3]\ntask = []", "sets.ps3: expected"),
        ('[sets.ps3]\ntasks = ["kl", "lk"]', "got 'lk'"),
        ("[sets.ps3]\ntasks = []", "at least one task"),
        ("[sets.ps3]\npoints = { kl = 1 }", "got 'kl'"),
        ("[sets.ps3]\npoints = { kl-check = -1 }", "got -1"),
    ],
)
def test_a_wrong_setting_is_named(text, message, tmp_path):
    (tmp_path / "course.toml").write_text(text)
    with pytest.raises(ProblemSetError, match=re.escape(message)):
        problem_sets.read_settings(tmp_path / "course.toml")


def test_private_tests_make_a_hidden_part_where_there_is_none(tmp_path):
    (tmp_path / "ps3").mkdir()
    (tmp_path / "ps3" / "kl-check.py").write_text("assert True\n")
    cell = problem_sets.cell_named(
        problem_sets.with_settings("ps3", Settings(private_tests=tmp_path)), "kl-check"
    )
    assert cell.source.endswith("### BEGIN HIDDEN TESTS\nassert True\n### END HIDDEN TESTS")
    (tmp_path / "ps3" / "kl.py").write_text("assert True\n")
    with pytest.raises(ProblemSetError, match="kl is not a cell of tests"):
        problem_sets.with_settings("ps3", Settings(private_tests=tmp_path))


# Grading -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def bubblewrap():
    """A sandbox. Without one the tests of hostile code are skipped, under CI they fail."""
    try:
        return sandbox.find("bwrap")
    except sandbox.NoSandboxError as error:
        if os.environ.get("CI"):
            pytest.fail(f"no sandbox: {error}")
        pytest.skip(f"no sandbox: {error}")


@pytest.fixture(scope="session", params=sandbox.KINDS)
def kind(request):
    """Each kind of sandbox. Bubblewrap has to be there under CI, the containers need not."""
    if request.param == "bwrap":
        return request.getfixturevalue("bubblewrap")
    try:
        return sandbox.find(request.param)
    except sandbox.NoSandboxError as error:
        pytest.skip(f"no sandbox: {error}")


def hand_in(folder, student, notebook):
    place = folder / "submitted" / student / "ps3"
    place.mkdir(parents=True, exist_ok=True)
    (place / "ps3.ipynb").write_text(problem_sets.to_text(notebook), encoding="utf-8")


def marks_of(folder):
    """The table of the last run, a dictionary for each student."""
    with open(folder / "grades-ps3.csv", newline="", encoding="utf-8") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_a_batch_is_graded_and_goes_on_where_it_was(folder, bubblewrap):
    """Right, broken and no notebooks, killed half-way; again; then with one handed in anew."""
    given = problem_sets.read(folder / "release" / "ps3" / "ps3.ipynb")
    right = marks.with_solutions(given, source())
    hand_in(folder, "ada", right)
    # Everything up to the first test is missing, the imports too, and a test was made worthless.
    cut = marks.with_solutions(given, source())
    cut.cells = [cell for cell in cut.cells if cell.id not in ("setup", "kl", "kl-check")]
    problem_sets.cell_named(cut, "kl-values").source = "pass"
    hand_in(folder, "bob", cut)
    (folder / "submitted" / "eve" / "ps3").mkdir(parents=True)
    (folder / "submitted" / "eve" / "ps3" / "ps3.ipynb").symlink_to(folder / "gradebook.db")
    # Killed after Ada was run, and most likely before nbgrader had her marks.
    path = folder / ".grading" / "ps3" / "ada.json"
    command = [sys.executable, str(ROOT / "tools" / "grade.py"), str(folder), "ps3", "--jobs", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
        while not path.is_file():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    before = json.loads(path.read_text(encoding="utf-8"))
    assert before["cells"] and not (folder / "grades-ps3.csv").exists()
    done = run("grade.py", folder, "ps3", "--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 graded, 0 not" in done.stdout
    assert json.loads(path.read_text(encoding="utf-8")) == {**before, "graded": True}
    table = marks_of(folder)
    assert [table[name]["total"] for name in ("ada", "bob", "eve")] == ["15", "6", "0"]
    assert table["ada"]["remarks"] == ""
    for remark in ("setup was deleted", "kl-check was deleted", "kl-values was changed"):
        assert remark in table["bob"]["remarks"]
    assert "graded as untouched" in table["eve"]["remarks"]

    # As if killed before nbgrader had Ada's marks, for certain; Bob has handed in again.
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**record, "seconds": 1234.5, "graded": False}), encoding="utf-8")
    problem_sets.cell_named(right, "kl").source = next(
        a.code for a in problem_sets.answers("ps3") if a.name == "quotient of two exponentials"
    )
    hand_in(folder, "bob", right)
    done = run("grade.py", folder, "ps3")
    assert done.returncode == 0, done.stdout + done.stderr
    table = marks_of(folder)
    assert (table["ada"]["total"], table["ada"]["seconds"]) == ("15", "1234.5")
    assert (table["bob"]["total"], table["bob"]["remarks"]) == ("14", "")
    assert json.loads(path.read_text(encoding="utf-8"))["graded"] is True


def pair(name, code, test):
    """A cell that a student wrote, and one that marks it."""
    cells = [
        nbformat.v4.new_code_cell(code, id=name),
        nbformat.v4.new_code_cell(test, id=f"{name}-t"),
    ]
    for cell, grade in zip(cells, (False, True)):
        cell.metadata["nbgrader"] = {
            "grade": grade,
            "solution": not grade,
            "locked": grade,
            "schema_version": 3,
            "grade_id": cell.id,
            "task": False,
            **({"points": 1} if grade else {}),
        }
    return cells


FORGED = """
def f():
    kernel = get_ipython().kernel
    content = {"execution_count": 1, "data": {"text/plain": "1"}, "metadata": {}}
    kernel.send_response(kernel.iopub_socket, "execute_result", content)
    raise ValueError
"""
STUBBORN = """
def f():
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
"""
PATCHED = """
import ast, builtins, torch
class NoAsserts(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.Pass()
get_ipython().ast_transformers.append(NoAsserts())
torch.allclose = torch.Tensor.__eq__ = lambda *arguments, **options: True
builtins.abs = lambda x: 0
"""
LOOKS_AROUND = """
def f():
    for path in {paths}:
        try:
            return open(path)
        except FileNotFoundError:
            pass
    raise FileNotFoundError
"""
FAKE = """
class torch:
    equal = ones = zeros = lambda *arguments: True
nn = stream = None
import sys
sys.modules["math"] = torch
"""
OF_CLASSES = """
import torch, vae_lib
torch.nn.Linear.forward = lambda self, x: x
torch.optim.Adam.step = lambda self: self.param_groups[0]["params"][0].data.fill_(5)
torch.autograd.grad = lambda *arguments: (torch.zeros(1),)
vae_lib.VAE.decode = lambda self, z: z
vae_lib.objectives.torch = vae_lib.kl_to_standard_normal = None
"""
TEST_OF_CLASSES = """
x = torch.ones(1, 2)
assert not torch.equal(nn.Linear(2, 2)(x), x), "linear"
weight = nn.Parameter(torch.ones(1))
torch.optim.Adam([weight]).step()
assert weight == 1, "step"
assert torch.autograd.grad((3 * weight).sum(), weight)[0] == 3, "grad"
assert vae_lib.VAE().decode(torch.zeros(1, 2)).shape == (1, 784), "decode"
assert vae_lib.kl_to_standard_normal is not None and vae_lib.objectives.torch is torch, "library"
raise KeyError("all as it was")
"""
# The locked cell without points that a set begins with.
GIVEN = """
import torch
import vae_lib
from torch import nn
from vae_lib import stream

def doubled(x):
    return 2 * x
"""
# For each: what the student wrote, the test, and the error that the test must end with.
HOSTILE = {
    "fine": ("def f():\n    return 1", "assert f() == 1", None),
    "loop": ("def f():\n    while True:\n        pass", "f()", "KeyboardInterrupt"),
    "stubborn": (STUBBORN, "f()", "DeadKernelError"),
    "exit": ("import os\ndef f():\n    os._exit(0)", "f()", "DeadKernelError"),
    "raises": ("import sys\ndef f():\n    sys.exit(0)", "f()", "SystemExit"),
    "memory": ("def f():\n    return bytearray(100 << 30)", "f()", "MemoryError"),
    "network": (
        "import socket\ndef f():\n    socket.create_connection(('192.0.2.1', 80), 2)",
        "f()",
        "OSError",
    ),
    "outside": ("def f():\n    open('/usr/written', 'w')", "f()", "OSError"),
    "gradebook": (LOOKS_AROUND, "f()", "FileNotFoundError"),
    "source": (LOOKS_AROUND, "f()", "FileNotFoundError"),
    "loud": ("def f():\n    print(3_000_000 * 'x')\n    return 1", "assert f() == 1", None),
    "lines": (
        "def f():\n    for _ in range(300):\n        print(100_000 * 'x')\n    return 1",
        "assert f() == 1",
        None,
    ),
    "louder": ("def f():\n    print(40_000_000 * 'x')\n    return 1", "assert f() == 1", None),
    "warns": ("def f():\n    import sys\n    print('hm', file=sys.stderr)", "f()", None),
    "forged": (FORGED, "f()", "ValueError"),
    "syntax": ("def g(:", "g()", "NameError"),
    "patched": (PATCHED, "assert torch.allclose(torch.ones(1), torch.zeros(1))", "AssertionError"),
    "after": (
        "def f():\n    return 1",
        "import torch\nassert f() == abs(torch.ones(1)).item()",
        None,
    ),
    "abs": ("abs = lambda x: 0\ndef f():\n    return 2", "assert abs(f()) == 0", "AssertionError"),
    "builtins": (
        "__builtins__ = {'len': lambda x: 7}",
        "def called():\n    return len('')\nassert called() == 7",
        "AssertionError",
    ),
    "fake": (
        FAKE,
        "import math\nstream('fake'), nn.Linear, math.pi\n"
        "assert torch.equal(torch.ones(1), torch.zeros(1))",
        "AssertionError",
    ),
    "classes": (OF_CLASSES, TEST_OF_CLASSES, "KeyError"),
    # What a test defines stays for the tests to come that use it, and only for them.
    "given": (
        "def f():\n    return 3",
        "def trebled(x):\n    return doubled(x) + x\nassert f() == trebled(1)",
        None,
    ),
    "taken": (
        "trebled = doubled = lambda x: 1\ndef f():\n    return 1",
        "assert f() == trebled(1)",
        "AssertionError",
    ),
    "own": (
        "def trebled(x):\n    return 5\ndef filter(x):\n    return trebled(x)\n"
        "def f():\n    return filter(0)",
        "assert f() == 5 and [trebled for trebled in (abs(-1),)] == [1]",
        None,
    ),
    "variable": (
        "def f():\n    return 1",
        "for trebled in range(3):\n    pass\nassert f() == 1",
        None,
    ),
    "kept": ("def f():\n    return 2", "assert f() == trebled", None),
}


def test_the_names_that_a_test_needs():
    """Its own and those behind what it calls; not its own variables, nor those within functions."""
    locked = [
        "import math\nimport torch.nn\nfrom vae_lib import stream as s\nlevel = 1",
        "def half(x):\n    y = len(x)\n    return math.floor(y / level)",
        "def other(x):\n    return stream(x)",
        "!ls",
    ]
    used, defined, variables = grade.names_of(locked[0])
    assert (used, defined, variables) == (set(), {"math", "torch", "s"}, {"level"})
    test = "for draw in range(3):\n    assert [half(other) for other in (f(draw),)]"
    assert grade.names_needed(test, locked) == {"range", "half", "f", "len", "math", "level"}


@pytest.mark.slow
def test_hostile_cells_lose_their_own_points_and_no_others(kind, tmp_path):
    secrets = {"gradebook": "gradebook.db", "source": "source/ps3/ps3.ipynb"}
    home = tmp_path / "submitted" / "ada" / "ps3"
    for folder in (home, tmp_path / "source" / "ps3"):
        folder.mkdir(parents=True)
    cells = pair("setup", "", GIVEN)[1:]
    del cells[0].metadata.nbgrader["points"]
    cells[0].metadata.nbgrader["grade"] = False
    for name, (code, test, _) in HOSTILE.items():
        if name in secrets:
            (tmp_path / secrets[name]).write_text("secret")
            ways = [f"{tmp_path}/", "", "../", "../../../"]
            code = code.replace("{paths}", repr([way + secrets[name] for way in ways]))
        cells += pair(name, code, test)
    notebook = nbformat.v4.new_notebook(cells=cells)
    path, outcome = tmp_path / "notebook.json", tmp_path / "outcome.json"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    # Not here, where each warning of the packages that talk to kernels would be an error.
    program = (
        "import json, sys, nbformat, grade, sandbox\n"
        "notebook, remarks = nbformat.from_dict(json.load(open(sys.argv[1]))), []\n"
        "grade.execute(notebook, sys.argv[3], sandbox.Limits(cell_seconds=3), remarks)\n"
        "json.dump([notebook, remarks], open(sys.argv[2], 'w'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tools'}"}
    command = [sys.executable, "-c", program, str(path), str(outcome), kind]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home)
    assert done.returncode == 0, done.stderr
    notebook, remarks = json.loads(outcome.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if not cell["metadata"].get("nbgrader", {}).get("grade"):
            continue
        errors = [o["ename"] for o in cell["outputs"] if o["output_type"] == "error"]
        wanted = HOSTILE[cell["id"].removesuffix("-t")][2]
        assert errors == ([wanted] if wanted else []), (cell["id"], cell["outputs"])
        streams = [o for o in cell["outputs"] if o["output_type"] == "stream"]
        assert all(o["name"] == "stdout" and len(o["text"]) < 2 << 20 for o in streams)
        assert not any(o["output_type"] == "execute_result" for o in cell["outputs"])
    told = "; ".join(remarks)
    for remark in (
        "3 s, loop-t",
        "interrupted in stubborn-t",
        "died in exit-t",
        "torch.allclose",
        "ast",
        "abs replaced, before abs-t",
        "Linear.forward",
        "doubled, trebled replaced, before taken-t",
    ):
        assert remark in told
    assert not any(remark.endswith((" given-t", " own-t", " fine-t")) for remark in remarks)
    assert not Path("/usr/written").exists()


@pytest.mark.slow
def test_a_kernel_that_does_not_start_costs_nobody_points():
    """A sandbox in which something is missing would otherwise give everybody 0."""
    program = (
        "import grade, nbformat, sandbox\n"
        "sandbox.wrap = lambda *arguments: ['false']\n"
        "notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('1')])\n"
        "try:\n"
        "    grade.execute(notebook, None, sandbox.Limits(), [])\n"
        "except grade.NoKernelError as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tools'}"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout == "the kernel did not start\n", done.stderr


def test_without_a_sandbox_nothing_is_graded(tmp_path):
    done = run("grade.py", tmp_path, "ps3", PATH=str(tmp_path))
    assert done.returncode == 2
    assert "bwrap is not installed" in done.stderr and "--no-sandbox" in done.stderr


@pytest.mark.parametrize("kind", [*sandbox.KINDS, None])
def test_a_sandbox_shows_neither_the_course_nor_the_sources(kind, tmp_path):
    words = sandbox.wrap(kind, [sys.executable, "-c", ""], tmp_path, sandbox.Limits())
    assert words.count(str(tmp_path)) == 2 * (kind == "bwrap")
    assert not any(word.startswith((str(ROOT / "book"), str(ROOT / "tests"))) for word in words)
    if kind in ("docker", "podman"):
        assert words[words.index("--network") + 1] == "none" and "--read-only" in words
        mounts = [words[i + 1] for i, word in enumerate(words) if word == "--volume"]
        writable = [mount for mount in mounts if not mount.endswith(":ro")]
        assert writable == [f"{tmp_path}:{tmp_path}"]
        assert "--interactive" in words and "pidfd_open" in words[-7]  # ends with who started it


def test_limits_are_lowered_where_they_may_not_be_raised(tmp_path):
    """Most users may not, nor may anybody in a container."""
    program = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    words = sandbox.wrap(None, [sys.executable, "-c", program], tmp_path, sandbox.Limits())
    command = ["bash", "-c", 'ulimit -n 200; exec "$@"', "bash", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "(200, 200)\n", done.stderr


def test_a_submission_that_is_no_file_is_not_read(tmp_path):
    (tmp_path / "link").symlink_to(ROOT / "README.md")
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(grade.LARGEST_SUBMISSION + 1)
    for name in ("link", "pipe", "large", "missing"):
        with pytest.raises(OSError):
            grade.read_submission(tmp_path / name)
    (tmp_path / "plain").write_text("x")
    assert grade.read_submission(tmp_path / "plain") == b"x"


def test_a_submission_is_put_in_order():
    """Locked cells as the source has them, the last of two cells of one name, own cells kept."""
    given, remarks = released("ps3"), []
    course_source = problem_sets.with_settings("ps3", Settings())
    submitted = marks.with_solutions(given, source())
    again = nbformat.from_dict(json.loads(json.dumps(problem_sets.cell_named(submitted, "kl"))))
    again["id"], again.source = "again", "def kl_diagonal_gaussians(): pass"
    submitted.cells.insert(8, again)
    check = problem_sets.cell_named(submitted, "kl-check")
    check.cell_type, check.source = "markdown", "I did it."
    del check["outputs"], check["execution_count"]
    problem_sets.cell_named(submitted, "kl-values").metadata.nbgrader.points = 100
    submitted.cells = [c for c in submitted.cells if c.id not in ("setup", "elbo", "elbo-check")]
    submitted.cells.append(nbformat.v4.new_code_cell("mine = 1"))
    fixed = grade.repaired(submitted, given, course_source, remarks)
    names = [problem_sets.nbgrader_of(c).get("grade_id") for c in fixed.cells]
    wanted = [c.id for c in given.cells if problem_sets.nbgrader_of(c)]
    assert sorted(filter(None, names)) == sorted(wanted)
    for before, after in (("setup", "kl"), ("kl-check", "elbo"), ("elbo", "elbo-check")):
        assert names.index(before) < names.index(after)
    for task in problem_sets.tasks(source()):
        for cell, points in task.points.items():
            marked, original = (problem_sets.cell_named(n, cell) for n in (fixed, source()))
            assert marked.source == original.source
            assert marked.metadata.nbgrader.points == points
    assert problem_sets.cell_named(fixed, "kl").source == again.source
    assert fixed.cells[-1].source == "mine = 1"
    told = "; ".join(remarks)
    for remark in ("kl more than once", "kl-check was made a markdown", "setup was", "elbo was"):
        assert remark in told


# The marks ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_marks_of_the_source(mnist):
    """nbgrader releases, grades and keeps the marks; of all sets and answers in `make marks`."""
    done = run("marks.py", "--quick", "--jobs", "1", "--sets", SETS[-1])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_every_answer_passes_and_fails_the_tests_that_it_must(mnist):
    """And the source and the untouched version: of all sets, in one process, without nbgrader."""
    done = run("marks.py", "--direct", "--sets", *SETS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_running_directly_finds(monkeypatch):
    """A test that complains without an error, one that tests nothing, no untouched version, and a
    reference that takes too long."""
    notebook = source()
    notebook.cells = [c for c in notebook.cells if problem_sets.task_of(c) == "kl"]
    setup = nbformat.v4.new_code_cell("import math, sys, torch\nfrom vae_lib import stream")
    notebook.cells.insert(0, setup)
    problem_sets.cell_named(notebook, "kl-check").source += "\nprint('!', file=sys.stderr)"
    problem_sets.cell_named(notebook, "kl-values").source = "kl_diagonal_gaussians"
    right, wrong = (
        next(a for a in problem_sets.answers("ps3") if a.name == name)
        for name in ("loop over dimensions", "arguments exchanged")
    )
    monkeypatch.setattr(problem_sets, "read", lambda path: notebook)
    monkeypatch.setattr(problem_sets, "answers", lambda name: [right, wrong])
    monkeypatch.setattr(problem_sets, "LONGEST_RUN", 0)
    tried, problems = marks.run_directly("ps3")
    assert tried == 2
    assert re.fullmatch(r"reference: it ran for \d+ s: expected 0 at most", problems[0])
    assert problems[1:] == [
        "reference: kl-check failed with stderr: !\n",
        "untouched: kl-values passed",
        "untouched: kl-edges passed",
        "kl: loop over dimensions: kl-check failed with stderr: !\n",
        "kl: arguments exchanged: kl-check failed with stderr: !\n",
        "kl: arguments exchanged: kl-values passed",
    ]


@pytest.mark.parametrize("name", SETS)
def test_enough_answers_are_tried(name):
    assert marks.too_few(name) == []


def test_too_few_answers_are_found(monkeypatch):
    few = [a for a in problem_sets.answers("ps3") if a.name != "arguments exchanged"]
    few = [a for a in few if a.name not in ("log σ for log σ²", "softplus")]
    monkeypatch.setattr(problem_sets, "answers", lambda name: few)
    assert [line.split(":")[0] for line in marks.too_few("ps3")] == ["kl", "elbo"]


def test_the_page_has_the_marks_of_these_answers():
    wanted = between_marks(course.PAGE, "marks", "\n\n".join(map(marks.marks_table, SETS)))
    assert course.PAGE.read_text(encoding="utf-8") == wanted, "run make marks ARGS=--write"


@pytest.mark.parametrize("name", SETS)
def test_every_answer_is_in_some_submission(name):
    handed_in = marks.submissions(name)
    assert {a for each in handed_in for a in each.answers} == set(problem_sets.answers(name))
    assert [each.student for each in handed_in[:2]] == [marks.REFERENCE, marks.UNTOUCHED]
    for each in handed_in[2:]:
        cells = [answer.cell for answer in each.answers]
        assert len(set(cells)) == len(cells)
        assert each.fails == {cell for answer in each.answers for cell in answer.fails}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"kl-check": 0.0}, "reference: kl-check got 0.0 of 1, expected 1"),
        ({"ladder": 4.0}, "ladder got 4.0 of 4, expected None"),
        ({"kl-values": None}, "kl-values got None of 3, expected 3"),
    ],
)
def test_a_mark_that_is_not_as_it_must_be_is_found(change, message):
    reference = marks.submissions("ps3")[0]
    scores = {cell: p for task in problem_sets.tasks(source()) for cell, p in task.points.items()}
    outcome = marks.Outcome("reference", {**scores, "ladder": None, **change}, "", 1.0)
    problems = marks.compare("ps3", reference, outcome)
    assert len(problems) == (message is not None)
    assert message is None or message in problems[0]
    failed = marks.Outcome("reference", scores, "RuntimeError", 1.0)
    assert "nbgrader failed" in marks.compare("ps3", reference, failed)[0]


def test_the_untouched_version_must_lose_all_points_for_code():
    untouched = marks.submissions("ps3")[1]
    tasks = problem_sets.tasks(source())
    assert untouched.fails == {c for task in tasks if not task.by_hand for c in task.points}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('[[right]]\ncell = "lk"\nname = "x"\ncode = ""', "no cell for a solution"),
        ('[[right]]\ncell = "kl"\ncode = ""', "no name"),
        (
            '[[wrong]]\ncell = "kl"\nname = "x"\ncode = ""\nreveals = "y"\nfails = []',
            "fails a test",
        ),
        (
            '[[wrong]]\ncell = "kl"\nname = "x"\ncode = ""\nreveals = "y"\nfails = ["elbo-check"]',
            "got 'elbo-check'",
        ),
    ],
)
def test_a_wrong_entry_among_the_answers_is_named(entry, message, monkeypatch, tmp_path):
    (tmp_path / "ps3.toml").write_text(entry)
    monkeypatch.setattr(problem_sets, "ANSWERS", tmp_path)
    with pytest.raises(ProblemSetError, match=re.escape(message)):
        problem_sets.answers("ps3")
