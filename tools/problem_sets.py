"""The problem sets: their sources, the rules that these keep, and the settings of a course.

A set, say ps3, has one source, book/assignments/ps3/ps3.ipynb, in nbgrader's format. From it
tools/course.py makes the version for students and a course, tools/marks.py the table of marks.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import address
import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
ASSIGNMENTS = ROOT / "book" / "assignments"
RELEASED = ASSIGNMENTS / "released"
ANSWERS = ROOT / "tests" / "assignments"

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
HEADING = re.compile(
    r"^## Task (?P<number>\d+): (?P<title>.+) "
    r"\((?P<points>[\d.]+) points?(?P<hand>, marked by hand)?\)$",
    re.MULTILINE,
)
BEGIN_HIDDEN, END_HIDDEN = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"
BEGIN_SOLUTION, END_SOLUTION = "### BEGIN SOLUTION", "### END SOLUTION"
BEGIN_SCHEME, END_SCHEME = "=== BEGIN MARK SCHEME ===", "=== END MARK SCHEME ==="
REGIONS = (
    (BEGIN_SOLUTION, END_SOLUTION),
    (BEGIN_HIDDEN, END_HIDDEN),
    (BEGIN_SCHEME, END_SCHEME),
)
MARKERS = tuple(marker for region in REGIONS for marker in region)
LINK = re.compile(r"\[(?P<words>[^]\n]*)\]\((?P<target>[^)\s]*)\)")
CHAPTER_LINK = re.compile(r"\[chapter (?P<number>\d)\]\(\.\./\.\./0(?P=number)_\w+\.ipynb\)")
FEWEST_TASKS, MOST_TASKS = 4, 8
MINUTES = (60, 120)  # of a student
LONGEST_RUN = 120  # seconds, on two CPU cores
CODE_WIDTH, PROSE_WIDTH = 100, 116


class ProblemSetError(Exception):
    """A source, a setting or an answer that is not as it must be."""


@dataclass(frozen=True)
class Task:
    """One task of a set: its name, its heading and the points of its cells that are marked."""

    name: str
    number: int
    title: str
    by_hand: bool
    points: dict[str, float]  # by grade_id, in the order of the cells
    solutions: tuple[str, ...]  # the grade_ids of the cells that students write

    @property
    def total(self) -> float:
        return sum(self.points.values())


@dataclass(frozen=True)
class Settings:
    """What an instructor may change of a set; see book/assignments/course.toml."""

    tasks: tuple[str, ...] | None = None  # None: all of them
    points: dict[str, float] = field(default_factory=dict)
    private_tests: Path | None = None  # the folder that holds <set>/<grade_id>.py


def names() -> list[str]:
    """The sets that there are, in order."""
    return sorted(path.parent.name for path in ASSIGNMENTS.glob("*/ps*.ipynb") if is_source(path))


def is_source(path: Path) -> bool:
    return path.parent.name == path.stem


def source_path(name: str) -> Path:
    path = ASSIGNMENTS / name / f"{name}.ipynb"
    if not path.is_file():
        raise ProblemSetError(f"no problem set {name!r}: there are {', '.join(names()) or 'none'}")
    return path


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def to_text(notebook: NotebookNode) -> str:
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def about(name: str) -> dict[str, Any]:
    """What the page for instructors says about a set: chapter, minutes, seconds, goals."""
    return tomllib.loads((ASSIGNMENTS / name / "about.toml").read_text(encoding="utf-8"))


def nbgrader_of(cell: NotebookNode) -> dict[str, Any]:
    return cell.metadata.get("nbgrader", {})


def task_of(cell: NotebookNode) -> str | None:
    return cell.metadata.get("problem_set", {}).get("task")


def is_marked(cell: NotebookNode) -> bool:
    """Whether the cell has points: those of tests, or of a task that is marked by hand."""
    about_cell = nbgrader_of(cell)
    return bool(about_cell.get("grade") or about_cell.get("task"))


def tasks(notebook: NotebookNode) -> list[Task]:
    """The tasks of a source or of a student version, in order."""
    found: list[Task] = []
    for name in dict.fromkeys(filter(None, map(task_of, notebook.cells))):
        cells = [cell for cell in notebook.cells if task_of(cell) == name]
        headings = [match for cell in cells for match in HEADING.finditer(cell.source)]
        if len(headings) != 1:
            wanted = "## Task N: title (P points)"
            raise ProblemSetError(f"task {name}: expected one line {wanted!r}, got {len(headings)}")
        heading = headings[0]
        found.append(
            Task(
                name,
                int(heading["number"]),
                heading["title"],
                bool(heading["hand"]),
                {c.id: nbgrader_of(c)["points"] for c in cells if is_marked(c)},
                tuple(c.id for c in cells if nbgrader_of(c).get("solution")),
            )
        )
        stated = float(heading["points"])
        if stated != found[-1].total:
            raise ProblemSetError(
                f"task {name}: its heading says {stated:g} points, its cells {found[-1].total:g}"
            )
    return found


def cell_named(notebook: NotebookNode, grade_id: str) -> NotebookNode:
    for cell in notebook.cells:
        if nbgrader_of(cell).get("grade_id") == grade_id:
            return cell
    raise ProblemSetError(f"no cell {grade_id!r}")


def without_links(text: str) -> str:
    """A text of a set for a student's folder, from which no link to a chapter leads anywhere.

    On the page of the set tools/sphinx_ext/chapter_links.py makes links of the words again.
    """
    return CHAPTER_LINK.sub(r"chapter \g<number> of the book", text)


def secret_lines(name: str) -> set[str]:
    """The lines of solutions, hidden tests and rubrics that the student version has nowhere."""
    found: set[str] = set()
    for cell in read(source_path(name)).cells:
        for begin, end in REGIONS:
            for region in re.findall(f"{begin}\n(.*?){end}", cell.source, re.DOTALL):
                found |= {line.strip() for line in region.split("\n")}
    given = "\n".join(cell.source for cell in read(RELEASED / f"{name}.ipynb").cells)
    return {line for line in found if len(line) > 20 and line not in given}


def faults(name: str) -> list[str]:
    """What keeps a source from being a problem set of this book, one line for each fault."""
    text = source_path(name).read_text(encoding="utf-8")
    identifiers = [cell.get("id") for cell in json.loads(text)["cells"]]
    if len(set(identifiers)) < len(identifiers):
        # nbformat would give one of two such cells a new name.
        return [f"id {i} twice" for i in set(identifiers) if identifiers.count(i) > 1]
    notebook = read(source_path(name))
    if text != to_text(notebook):
        return ["not as nbformat writes it: python tools/course.py tidy"]
    try:
        found = tasks(notebook)
    except ProblemSetError as error:
        return [str(error)]
    problems = []
    if not FEWEST_TASKS <= len(found) <= MOST_TASKS:
        problems.append(f"{len(found)} tasks: expected {FEWEST_TASKS} to {MOST_TASKS}")
    if [task.number for task in found] != list(range(1, len(found) + 1)):
        problems.append("the tasks are not numbered 1, 2, 3 and so on")
    if not any(task.by_hand for task in found):
        problems.append("no task is marked by hand")
    minutes, seconds = about(name)["minutes"], about(name)["seconds"]
    stated = f"**Time:** about {minutes} minutes. **Running time:** about {seconds} seconds on two"
    if stated not in re.sub(r"\n>? ?", " ", notebook.cells[0].source):
        problems.append(f"its first cell does not say, as about.toml does: {stated}")
    if not MINUTES[0] <= minutes <= MINUTES[1]:
        problems.append(f"{minutes} minutes: expected {MINUTES[0]} to {MINUTES[1]}")
    if seconds > LONGEST_RUN:
        problems.append(f"it runs for {seconds} s: expected {LONGEST_RUN} at most")
    for task in found:
        marked = [cell_named(notebook, grade_id) for grade_id in task.points]
        if task.by_hand:
            if not any(BEGIN_SCHEME in cell.source for cell in marked):
                problems.append(f"task {task.name}: no mark scheme")
        else:
            if not task.solutions:
                problems.append(f"task {task.name}: no cell for a solution")
            if not any(BEGIN_HIDDEN in cell.source for cell in marked):
                problems.append(f"task {task.name}: no hidden tests")
            if all(BEGIN_HIDDEN in cell.source for cell in marked):
                problems.append(f"task {task.name}: no check that students see")
    for cell in notebook.cells:
        problems += [f"cell {cell.id}: {fault}" for fault in _cell_faults(cell)]
    return problems


def _cell_faults(cell: NotebookNode) -> list[str]:
    problems = []
    data = nbgrader_of(cell)
    if data:
        if data.get("grade_id") != cell.id:
            problems.append(f"its grade_id is {data.get('grade_id')!r}; expected its id")
        if data.get("schema_version") != 3:
            problems.append("nbgrader's metadata are not of schema version 3")
        if is_marked(cell) and task_of(cell) is None:
            problems.append("it has points and belongs to no task")
        if data.get("solution") and BEGIN_SOLUTION not in cell.source:
            problems.append(f"no {BEGIN_SOLUTION}")
        if is_marked(cell) and data.get("points", 0) <= 0:
            problems.append("no points")
    elif BEGIN_SOLUTION in cell.source or BEGIN_HIDDEN in cell.source:
        problems.append("a solution or hidden tests in a cell that is not nbgrader's")
    if cell.cell_type == "code" and (cell.outputs or cell.execution_count is not None):
        problems.append("it has been run; sources are kept without outputs")
    lines = cell.source.split("\n")
    for line in lines:
        # nbgrader would take it for one all the same, and `secret_lines` would not.
        if line.strip() not in MARKERS and any(marker in line for marker in MARKERS):
            problems.append(f"a begin or an end that is not on a line of its own: {line}")
    if cell.cell_type == "markdown":
        prose = re.sub(r"`[^`]*`|\$[^$]*\$", "", without_links(cell.source))
        for link in LINK.finditer(prose):
            if not link["target"].startswith(("https://", "http://")):
                wanted = "[chapter N](../../0N_its_name.ipynb)"
                problems.append(f"{link[0]} leads nowhere in a student's folder; only {wanted} may")
        for link in CHAPTER_LINK.finditer(cell.source):
            if not (ROOT / "book" / Path(LINK.match(link[0])["target"]).name).is_file():
                problems.append(f"{link[0]}: no such chapter")
    width = CODE_WIDTH if cell.cell_type == "code" else PROSE_WIDTH
    problems += [f"line over {width}: {line}" for line in lines if len(line) > width]
    return problems


# Settings ----------------------------------------------------------------------------------------


def read_settings(path: Path | None) -> tuple[str, dict[str, Settings]]:
    """A course's name, and for each set that it takes its settings; None stands for the defaults.

    Raises `ProblemSetError` for a key, a set, a task or a cell that does not exist.
    """
    table = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
    _known("course.toml", table, {"course_id", "private_tests", "sets"})
    private = table.get("private_tests")
    if private is not None:
        private = (path.parent / private).resolve()
        if not private.is_dir():
            raise ProblemSetError(f"private_tests: no folder {private}")
    found = {}
    for name, changes in table.get("sets", {n: {} for n in names()}).items():
        notebook = read(source_path(name))
        _known(f"sets.{name}", changes, {"tasks", "points"})
        chosen = changes.get("tasks")
        if chosen is not None:
            _known(f"sets.{name}.tasks", chosen, {task.name for task in tasks(notebook)})
            if not chosen:
                raise ProblemSetError(f"sets.{name}.tasks: expected at least one task")
        points = changes.get("points", {})
        _known(f"sets.{name}.points", points, {g for t in tasks(notebook) for g in t.points})
        for cell, value in points.items():
            if type(value) not in (int, float) or not value >= 0:
                raise ProblemSetError(f"sets.{name}.points.{cell}: expected ≥ 0, got {value!r}")
        found[name] = Settings(None if chosen is None else tuple(chosen), points, private)
    return table.get("course_id", "vae"), found


def _known(where: str, given: Any, known: set[str]) -> None:
    for key in given:
        if key not in known:
            expected = ", ".join(sorted(known))
            raise ProblemSetError(f"{where}: expected some of {expected}; got {key!r}")


def with_settings(name: str, settings: Settings) -> NotebookNode:
    """The source of a set as a course wants it: tasks left out, points and private tests put in.

    Its links to chapters are plain words, since a course lies outside the book's folder. Its first
    code cell is that of the chapters, which installs the library where it is missing.
    """
    notebook = copy.deepcopy(read(source_path(name)))
    first = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    notebook.cells.insert(first, _library_cell())
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = without_links(cell.source)
    if settings.tasks is not None:
        notebook.cells = [c for c in notebook.cells if task_of(c) in (None, *settings.tasks)]
    for grade_id, value in settings.points.items():
        for cell in notebook.cells:
            if nbgrader_of(cell).get("grade_id") == grade_id:
                nbgrader_of(cell)["points"] = value
    folder = settings.private_tests / name if settings.private_tests else None
    for file in sorted(folder.glob("*.py")) if folder and folder.is_dir() else ():
        _add_hidden_tests(cell_named(notebook, file.stem), file.read_text(encoding="utf-8"))
    _renumber(notebook)
    return notebook


def _library_cell() -> NotebookNode:
    """The chapters' hidden first cell, locked and without points."""
    marks = {"grade": False, "grade_id": "library", "locked": True, "schema_version": 3}
    return nbformat.v4.new_code_cell(
        address.setup_source(*address.setting(ROOT)),
        id="library",
        metadata={"nbgrader": {**marks, "solution": False, "task": False}, "tags": ["remove-cell"]},
    )


def _add_hidden_tests(cell: NotebookNode, tests: str) -> None:
    """Put tests at the end of those of a cell that are hidden, or make that part of the cell."""
    if not nbgrader_of(cell).get("grade"):
        raise ProblemSetError(f"private tests: {cell.id} is not a cell of tests")
    if END_HIDDEN in cell.source:
        before, after = cell.source.rsplit(END_HIDDEN, 1)
        cell.source = f"{before}{tests.rstrip()}\n{END_HIDDEN}{after}"
    else:
        cell.source += f"\n{BEGIN_HIDDEN}\n{tests.rstrip()}\n{END_HIDDEN}"


def _renumber(notebook: NotebookNode) -> None:
    """Make the headings say the numbers and the points that the tasks have now."""
    order = list(dict.fromkeys(filter(None, map(task_of, notebook.cells))))
    for cell in notebook.cells:
        if task_of(cell) is None or cell.cell_type != "markdown":
            continue
        number = order.index(task_of(cell)) + 1
        same = [c for c in notebook.cells if task_of(c) == task_of(cell) and is_marked(c)]
        points = sum(nbgrader_of(c)["points"] for c in same)

        def heading(match: re.Match) -> str:
            unit = "point" if points == 1 else "points"
            hand = match["hand"] or ""
            return f"## Task {number}: {match['title']} ({points:g} {unit}{hand})"

        cell.source = HEADING.sub(heading, cell.source)


# Answers -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a student might write into a cell, and the cells of tests that it must fail."""

    cell: str
    name: str
    code: str
    fails: tuple[str, ...] = ()
    reveals: str = ""

    @property
    def right(self) -> bool:
        return not self.fails


def answers(name: str) -> list[Answer]:
    """The right and wrong answers of tests/assignments/<set>.toml.

    Raises `ProblemSetError` for one that names cells which do not exist or are another task's.
    """
    table = tomllib.loads((ANSWERS / f"{name}.toml").read_text(encoding="utf-8"))
    _known(f"{name}.toml", table, {"right", "wrong"})
    home = {
        cell: task
        for task in tasks(read(source_path(name)))
        for cell in (*task.solutions, *task.points)
    }
    found = []
    for kind, keys in (("right", {"cell", "name", "code"}), ("wrong", set(Answer.__annotations__))):
        for entry in table.get(kind, []):
            _known(f"{name}.toml, {kind}", entry, keys)
            where = f"{name}.toml, {entry.get('cell')}, {entry.get('name')}"
            if missing := keys - set(entry):
                raise ProblemSetError(f"{where}: no {', '.join(sorted(missing))}")
            task = home.get(entry["cell"])
            if task is None or entry["cell"] not in task.solutions:
                raise ProblemSetError(f"{where}: no cell for a solution of this name")
            _known(where, entry.get("fails", ()), set(task.points))
            if kind == "wrong" and not (entry["fails"] and entry["reveals"].strip()):
                raise ProblemSetError(f"{where}: a wrong answer fails a test and reveals something")
            found.append(Answer(**{**entry, "fails": tuple(entry.get("fails", ()))}))
    return found
