"""Make problem sets ready for students, and courses for instructors.

python tools/course.py release               student versions into book/assignments/released,
                                             and their table into the page for instructors
python tools/course.py release --check       say whether these are what the sources give
python tools/course.py tidy                  write the sources as nbformat does
python tools/course.py new FOLDER            an nbgrader course: settings, sources, released
                                             versions, a gradebook without students
python tools/course.py new FOLDER --settings course.toml
                                             the same with some sets or tasks, other points,
                                             private hidden tests: book/assignments/course.toml
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import problem_sets
from pages import between_marks, table
from problem_sets import ProblemSetError, Settings

PAGE = problem_sets.ROOT / "book" / "for_instructors.md"

CONFIG = """\
# Settings of this course; https://nbgrader.readthedocs.io says what else can be set.
c = get_config()

c.CourseDirectory.course_id = {course_id!r}
# An endless loop ends after so many seconds; the cell then has no points.
c.Execute.timeout = 60
c.Execute.extra_arguments = ["--log-level=ERROR", "--HistoryManager.hist_file=:memory:"]
# A cell of tests that a student deleted is put back.
c.OverwriteCells.add_missing_cells = True
c.LimitOutput.max_lines = 200
"""


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; the exit status is 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="course.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("release")
    command.add_argument("--check", action="store_true", help="change nothing, only say what would")
    commands.add_parser("tidy")
    command = commands.add_parser("new")
    command.add_argument("folder", type=Path)
    command.add_argument("--settings", type=Path)
    options = parser.parse_args(arguments)
    try:
        if options.command == "release":
            return release(options.check)
        if options.command == "tidy":
            tidy()
            return 0
        course_id, settings = problem_sets.read_settings(
            options.settings and options.settings.expanduser()
        )
        folder = options.folder.expanduser()
        make_course(folder, settings, course_id)
        print(f"A course with {', '.join(settings)} is in {folder}.")
        print(f"Give students the files in {folder / 'release'}, and put what they hand in")
        print(f"into {folder / 'submitted' / '<student>' / '<set>'}; then")
        print(f"    make grade DIR={folder} SET={next(iter(settings))}")
    except (ProblemSetError, OSError) as error:
        print(f"course: {error}", file=sys.stderr)
        return 1
    return 0


def release(check: bool = False) -> int:
    """Write the student versions of all sets, or say which are not what their source gives."""
    versions = released_versions(problem_sets.names())
    wanted = {problem_sets.RELEASED / f"{name}.ipynb": text for name, text in versions.items()}
    wanted[PAGE] = between_marks(PAGE, "sets", sets_table())
    wrong = 0
    for path in sorted({*wanted, *problem_sets.RELEASED.glob("*.ipynb")}):
        text = wanted.get(path)
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        wrong += 1
        shown = os.path.relpath(path)
        if check:
            print(f"{shown}: not what its source gives; make release", file=sys.stderr)
        elif text is None:
            path.unlink()
            print(f"{shown}: removed, since it has no source")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
            print(f"{shown}: written")
    if not wrong:
        print(f"{len(versions)} student versions are what their sources give.")
    return int(check and wrong > 0)


def sets_table() -> str:
    """The sets, their tasks, points and goals, in Markdown."""
    rows, goals = [], []
    for name in problem_sets.names():
        number, about = name.removeprefix("ps"), problem_sets.about(name)
        notebook = problem_sets.read(problem_sets.source_path(name))
        found = problem_sets.tasks(notebook)
        minutes, total = about["minutes"], sum(task.total for task in found)
        title = f"**[Problem set {number}](assignments/released/{name}.ipynb)**"
        time = f"about {minutes} minutes; runs in {about['seconds']} s on two CPU cores"
        rows.append([title, "", f"**{total:g}**", time])
        for task in found:
            cells = ", ".join(f"`{cell}` {points:g}" for cell, points in task.points.items())
            by = "marked by hand" if task.by_hand else cells
            rows.append([f"{task.number}. {task.title}", f"`{task.name}`", f"{task.total:g}", by])
        chapter = f"[chapter {number}]({about['chapter']}.ipynb)"
        goals.append(f"**Problem set {number}**, on {chapter}. Students")
        goals.append("\n".join(f"- {goal};" for goal in about["goals"]).removesuffix(";") + ".")
    header = ["task", "its name", "points", "cells of tests and their points"]
    return "\n\n".join([table(header, rows), "### Learning goals", *goals])


def released_versions(names: list[str]) -> dict[str, str]:
    """The text of the student version of each set, as nbgrader makes it."""
    with tempfile.TemporaryDirectory() as folder:
        course = Path(folder) / "course"
        make_course(course, {name: Settings() for name in names}, gradebook=False)
        found = {}
        for name in names:
            notebook = problem_sets.read(course / "release" / name / f"{name}.ipynb")
            found[name] = problem_sets.to_text(notebook)
        return found


def tidy() -> None:
    """Write each source as nbformat does, so that a change of one line is one line of the diff."""
    for name in problem_sets.names():
        path = problem_sets.source_path(name)
        notebook = problem_sets.read(path)
        for cell in notebook.cells:
            cell.source = cell.source.rstrip("\n")
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        path.write_text(problem_sets.to_text(notebook), encoding="utf-8", newline="\n")


def make_course(
    folder: Path, settings: Mapping[str, Settings], course_id: str = "vae", gradebook: bool = True
) -> None:
    """Make an nbgrader course in a new or empty folder, to release only if it has no gradebook.

    Raises `ProblemSetError` if the folder holds anything, or nbgrader cannot release a set. What
    was written until then is removed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ProblemSetError(f"{folder} exists and is not an empty folder")
    notebooks = {name: problem_sets.with_settings(name, each) for name, each in settings.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "submitted").mkdir()
        config = CONFIG.format(course_id=course_id)
        (folder / "nbgrader_config.py").write_text(config, encoding="utf-8")
        for name, notebook in notebooks.items():
            source = folder / "source" / name
            source.mkdir(parents=True)
            (source / f"{name}.ipynb").write_text(problem_sets.to_text(notebook), encoding="utf-8")
        with nbgrader_api(folder, gradebook) as api:
            for name in notebooks:
                result = api.generate_assignment(name)
                if not result["success"]:
                    raise ProblemSetError(f"nbgrader did not release {name}:\n{explain(result)}")
    except BaseException:
        shutil.rmtree(folder)
        raise


@contextlib.contextmanager
def nbgrader_api(folder: Path, gradebook: bool = True) -> Iterator:
    """nbgrader's own programming interface, in a course's folder."""
    # Imported here, since it takes two seconds.
    from nbgrader.apps import NbGraderAPI
    from nbgrader.coursedir import CourseDirectory
    from traitlets.config import PyFileConfigLoader

    # nbgrader calls the program alembic, which lies beside Python's and may not be on the path.
    beside = str(Path(sys.executable).parent)
    if beside not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join((beside, os.environ["PATH"]))
    folder = folder.resolve()
    config = PyFileConfigLoader("nbgrader_config.py", path=str(folder)).load_config()
    config.CourseDirectory.root = str(folder)
    config.Application.log_level = "ERROR"
    if not gradebook:  # as the option --no-db; to make one takes seconds
        config.GenerateAssignment.no_database = True
        config.SaveCells.enabled = False
    api = NbGraderAPI(CourseDirectory(config=config), config=config)
    # Whatever it logs comes back with its results.
    with contextlib.redirect_stderr(open(os.devnull, "w")):
        yield api


def explain(result: Mapping) -> str:
    """What nbgrader logged and the error it ended with."""
    return "\n".join(filter(None, (result.get("log"), result.get("error"))))


if __name__ == "__main__":
    sys.exit(main())
