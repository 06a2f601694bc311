"""The problem sets: their sources, what is made from them, and the marks that answers get."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import course  # noqa: E402
import marks  # noqa: E402
import problem_sets  # noqa: E402
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


def break_outputs(notebook):
    problem_sets.cell_named(notebook, "setup").execution_count = 1


def break_width(notebook):
    problem_sets.cell_named(notebook, "setup").source += "\n# " + 100 * "x"


def break_schema(notebook):
    problem_sets.cell_named(notebook, "kl").metadata.nbgrader.schema_version = 2


def break_loose_solution(notebook):
    notebook.cells[0].source += f"\n{problem_sets.BEGIN_SOLUTION}\n"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (break_heading, "its heading says 6 points, its cells 5"),
        (break_number, "not numbered"),
        (break_identifier, "expected its id"),
        (break_twice, "id ps3-00 twice"),
        (break_solution, "no ### BEGIN SOLUTION"),
        (break_hidden, "task kl: no hidden tests"),
        (break_scheme, "no mark scheme"),
        (break_outputs, "without outputs"),
        (break_width, "line over 100"),
        (break_schema, "schema version 3"),
        (break_loose_solution, "not nbgrader's"),
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
def test_a_set_has_secrets_to_keep(name):
    assert len(secret_lines(name)) > 20


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_in_the_table_of_contents(name):
    contents = (ROOT / "_toc.yml").read_text()
    assert f"file: book/assignments/released/{name}\n" in contents


def test_a_course_as_its_settings_want_it(tmp_path):
    """Two tasks of one set, other points, a private hidden test; nbgrader releases it."""
    private = tmp_path / "private" / "ps3"
    private.mkdir(parents=True)
    (private / "kl-values.py").write_text("assert SECRET_OF_MINE\n")
    settings = tmp_path / "course.toml"
    settings.write_text(
        'course_id = "mine"\nprivate_tests = "private"\n[sets.ps3]\ntasks = ["kl", "bug"]\n'
        "points = { kl-values = 7 }\n"
    )
    folder = tmp_path / "course"
    done = run("course.py", "new", folder, "--settings", settings)
    assert done.returncode == 0, done.stderr
    given = problem_sets.read(folder / "release" / "ps3" / "ps3.ipynb")
    tasks = problem_sets.tasks(given)
    assert [(task.number, task.name, task.total) for task in tasks] == [(1, "kl", 9), (2, "bug", 6)]
    assert "SECRET_OF_MINE" not in problem_sets.to_text(given)
    kept = problem_sets.read(folder / "source" / "ps3" / "ps3.ipynb")
    cell = problem_sets.cell_named(kept, "kl-values").source
    assert "SECRET_OF_MINE" in cell.split(problem_sets.BEGIN_HIDDEN)[1]
    assert {path.name for path in folder.iterdir()} >= {
        "gradebook.db", "nbgrader_config.py", "release", "source", "submitted"
    }
    assert "mine" in (folder / "nbgrader_config.py").read_text()

    again = run("course.py", "new", folder)
    assert again.returncode == 1 and "not an empty folder" in again.stderr


def test_settings_that_are_left_out_take_everything():
    course_id, settings = problem_sets.read_settings(problem_sets.ASSIGNMENTS / "course.toml")
    assert course_id == "vae"
    assert settings == {name: Settings() for name in SETS}
    assert problem_sets.with_settings("ps3", Settings()) == source()


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


# The marks ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_marks_of_the_source_the_untouched_version_and_wrong_answers(mnist):
    """nbgrader releases, grades and keeps the marks; the rest of the answers is in `make marks`."""
    done = run("marks.py", "--quick", "--sets", *SETS)
    assert done.returncode == 0, done.stdout + done.stderr


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
        ('[[wrong]]\ncell = "kl"\nname = "x"\ncode = ""\nreveals = "y"\nfails = []', "fails a test"),
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
