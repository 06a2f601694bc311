"""Show that the marks of the problem sets can be trusted, with nbgrader itself (`make marks`).

For each set it makes a course, hands in submissions, has nbgrader grade them and reads its
gradebook:

- the source, solutions and all: it must get every point;
- the student version, untouched: no point for code;
- the answers of tests/assignments/<set>.toml. Each submission takes one of them for each cell, so
  that the most answers of a cell, not their product, say how many submissions there are. A cell of
  tests must fail if the answer says so, and no other may.

    python tools/marks.py                        every set, every answer
    python tools/marks.py --sets ps3 --quick     the source only
    python tools/marks.py --direct               every answer, without nbgrader: see `run_directly`
    python tools/marks.py --write                put the tables into the page for instructors
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import problem_sets
from course import PAGE, explain, make_course, nbgrader_api
from nbformat import NotebookNode
from pages import put_between_marks, table
from problem_sets import Answer, Settings

REFERENCE, UNTOUCHED = "reference", "untouched"
FEWEST_RIGHT, FEWEST_WRONG = 2, 5


@dataclass(frozen=True)
class Submission:
    """What one invented student hands in, and which cells of tests must fail."""

    student: str
    notebook: NotebookNode
    answers: tuple[Answer, ...]
    fails: frozenset[str]


@dataclass(frozen=True)
class Outcome:
    """What nbgrader made of a submission: each marked cell's score, None if a hand must mark."""

    student: str
    scores: dict[str, float | None]
    error: str
    seconds: float


def main(arguments: list[str] | None = None) -> int:
    """Grade, compare and say what differs; the exit status is 1 if a mark is not as it must be."""
    parser = argparse.ArgumentParser(prog="marks.py", description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=problem_sets.names())
    parser.add_argument("--quick", action="store_true", help="one submission for each set")
    parser.add_argument("--direct", action="store_true", help="without nbgrader, in seconds")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="gradings at once")
    parser.add_argument("--write", action="store_true", help="put the tables into the page")
    options = parser.parse_args(arguments)
    if options.write and (
        options.quick or options.direct or options.sets != problem_sets.names()
    ):
        parser.error("--write is for all answers of all sets")
    # Each grading has a core to itself.
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    wrong = 0
    for name in options.sets if options.direct else ():
        tried, problems = run_directly(name)
        print(*(f"{name}: {problem}" for problem in problems), sep="\n", end="\n" * bool(problems))
        print(f"{name}: {tried} answers run, {len(problems) or 'no'} marks are wrong", flush=True)
        wrong += len(problems)
    for name in () if options.direct else options.sets:
        start = time.perf_counter()
        handed_in = submissions(name, options.quick)
        outcomes = grade(name, handed_in, options.jobs)
        problems = [p for each in handed_in for p in compare(name, each, outcomes[each.student])]
        problems += [] if options.quick else too_few(name)
        for problem in problems:
            print(f"{name}: {problem}")
        wrong += len(problems)
        seconds = time.perf_counter() - start
        longest = max(outcome.seconds for outcome in outcomes.values())
        print(
            f"{name}: {len(handed_in)} submissions graded in {seconds:.0f} s, "
            f"{longest:.0f} s at most for one; {len(problems) or 'no'} marks are wrong",
            flush=True,
        )
    if options.write and not wrong:
        put_between_marks(PAGE, "marks", "\n\n".join(map(marks_table, options.sets)))
    return int(wrong > 0)


def submissions(name: str, quick: bool = False) -> list[Submission]:
    """What the invented students hand in for a set."""
    source = problem_sets.read(problem_sets.source_path(name))
    student_version = problem_sets.read(problem_sets.RELEASED / f"{name}.ipynb")
    code = {cell for task in problem_sets.tasks(source) if not task.by_hand for cell in task.points}
    found = [
        Submission(REFERENCE, with_solutions(student_version, source), (), frozenset()),
        Submission(UNTOUCHED, student_version, (), frozenset(code)),
    ]
    if quick:
        return found[:1]
    answers = problem_sets.answers(name)
    cells = dict.fromkeys(answer.cell for answer in answers)
    by_cell = {cell: [a for a in answers if a.cell == cell] for cell in cells}
    for number in range(max(map(len, by_cell.values()), default=0)):
        # Turned by one from cell to cell, so that right and wrong answers meet.
        chosen = [
            group[(number + turn) % len(group)]
            for turn, group in enumerate(by_cell.values())
        ]
        notebook = with_solutions(student_version, source)
        for answer in chosen:
            problem_sets.cell_named(notebook, answer.cell).source = answer.code.strip("\n")
        fails = frozenset(cell for answer in chosen for cell in answer.fails)
        found.append(Submission(f"student-{number + 1:02}", notebook, tuple(chosen), fails))
    return found


def with_solutions(student_version: NotebookNode, source: NotebookNode) -> NotebookNode:
    """The student version with the solutions of the source, as a student would hand it in."""
    notebook = copy.deepcopy(student_version)
    for cell in notebook.cells:
        if problem_sets.nbgrader_of(cell).get("solution"):
            cell.source = problem_sets.cell_named(source, cell.id).source
    return notebook


def grade(name: str, handed_in: list[Submission], jobs: int) -> dict[str, Outcome]:
    """Have nbgrader grade submissions in several courses at once, each with its own gradebook."""
    with tempfile.TemporaryDirectory() as folder:
        course = Path(folder) / "course"
        make_course(course, {name: Settings()})
        shares = [handed_in[i :: max(1, jobs)] for i in range(max(1, jobs))]
        work = []
        for number, share in enumerate(share for share in shares if share):
            own = Path(folder) / f"course-{number}"
            shutil.copytree(course, own)
            work.append((own, name, share))
        if len(work) == 1:
            return {outcome.student: outcome for outcome in _grade_share(*work[0])}
        # Not by fork: a process with kernels' threads in it does not survive that.
        with multiprocessing.get_context("spawn").Pool(len(work)) as pool:
            results = pool.starmap(_grade_share, work)
        return {outcome.student: outcome for result in results for outcome in result}


def _grade_share(course: Path, name: str, share: Iterable[Submission]) -> list[Outcome]:
    outcomes = []
    with nbgrader_api(course) as api:
        for submission in share:
            folder = course / "submitted" / submission.student / name
            folder.mkdir(parents=True)
            text = problem_sets.to_text(submission.notebook)
            (folder / f"{name}.ipynb").write_text(text, encoding="utf-8")
            start = time.perf_counter()
            result = api.autograde(name, submission.student)
            error = "" if result["success"] else explain(result)
            with api.gradebook as gradebook:
                graded = gradebook.find_submission_notebook(name, name, submission.student)
                scores = {
                    grade.name: None if grade.needs_manual_grade else grade.auto_score
                    for grade in graded.grades
                }
            seconds = time.perf_counter() - start
            outcomes.append(Outcome(submission.student, scores, error, seconds))
    return outcomes


def compare(name: str, submission: Submission, outcome: Outcome) -> list[str]:
    """The marks of a submission that are not as they must be, one line each."""
    if outcome.error:
        return [f"{submission.student}: nbgrader failed\n{outcome.error}"]
    problems = []
    for task in problem_sets.tasks(problem_sets.read(problem_sets.source_path(name))):
        for cell, points in task.points.items():
            got = outcome.scores.get(cell)
            wanted = None if task.by_hand else 0.0 if cell in submission.fails else points
            if got != wanted:
                given = ", ".join(f"{a.cell}: {a.name}" for a in submission.answers)
                by = f" ({given})" if given else ""
                problems.append(
                    f"{submission.student}: {cell} got {got} of {points:g}, expected {wanted}{by}"
                )
    return problems


def run_directly(name: str) -> tuple[int, list[str]]:
    """Run the cells of a set in this process; return how many answers that were, and what is wrong.

    The source is run as a whole, which may take `problem_sets.LONGEST_RUN` seconds, the untouched
    version and each answer with the cells of its task only. A cell of tests fails as it does for
    nbgrader: with an error, or if it writes to stderr.
    What this does not show is what nbgrader does around it, and whether an answer spoils a later
    task.
    """
    import matplotlib

    matplotlib.use("agg")
    source = problem_sets.read(problem_sets.source_path(name))
    released = problem_sets.read(problem_sets.RELEASED / f"{name}.ipynb")
    code = [cell for cell in source.cells if cell.cell_type == "code"]
    tried, problems = 0, []
    with warnings.catch_warnings():
        began = time.perf_counter()
        failed = _run_cells(code, {}, {})
        seconds = time.perf_counter() - began
        if seconds > problem_sets.LONGEST_RUN:
            limit = problem_sets.LONGEST_RUN
            problems.append(f"{REFERENCE}: it ran for {seconds:.0f} s: expected {limit} at most")
        problems += [f"{REFERENCE}: {cell} failed with {why}" for cell, why in failed.items()]
        start: dict = {}
        _run_cells([cell for cell in code if problem_sets.task_of(cell) is None], {}, start)
        for task in problem_sets.tasks(source):
            cells = [cell for cell in code if problem_sets.task_of(cell) == task.name]
            while cells and cells[-1].id not in task.points:
                cells.pop()  # a figure after the last test changes no mark
            if task.by_hand or not cells:
                continue
            stubs = {c: problem_sets.cell_named(released, c).source for c in task.solutions}
            tries = [(UNTOUCHED, stubs, set(task.points))]
            for answer in problem_sets.answers(name):
                if answer.cell in task.solutions:
                    what = f"{answer.cell}: {answer.name}"
                    tries.append((what, {answer.cell: answer.code}, set(answer.fails)))
            for what, written, wanted in tries:
                failed = _run_cells(cells, written, dict(start))
                for cell in task.points:
                    if (cell in failed) != (cell in wanted):
                        outcome = f"failed with {failed[cell]}" if cell in failed else "passed"
                        problems.append(f"{what}: {cell} {outcome}")
            tried += len(tries) - 1
    return tried, problems


def _run_cells(
    cells: Iterable[NotebookNode], written: dict[str, str], namespace: dict
) -> dict[str, str]:
    """Run cells, some as a student wrote them; return the ids and the errors of those that fail."""
    failed = {}
    namespace["__name__"] = "__main__"
    for cell in cells:
        shown, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(errors):
            try:
                exec(compile(written.get(cell.id, cell.source), cell.id, "exec"), namespace)
            except Exception as error:
                failed[cell.id] = f"{type(error).__name__}: {error}"
        if errors.getvalue():
            failed.setdefault(cell.id, f"stderr: {errors.getvalue()}")
    return failed


def too_few(name: str) -> list[str]:
    """The tasks for which too few answers are tried, one line each."""
    answers = problem_sets.answers(name)
    problems = []
    for task in problem_sets.tasks(problem_sets.read(problem_sets.source_path(name))):
        for cell in task.solutions:
            right = sum(answer.right for answer in answers if answer.cell == cell)
            wrong = sum(not answer.right for answer in answers if answer.cell == cell)
            if not task.by_hand and (right < FEWEST_RIGHT or wrong < FEWEST_WRONG):
                problems.append(f"{cell}: {right} right and {wrong} wrong answers are too few")
    return problems


def marks_table(name: str) -> str:
    """The answers of a set and their marks, in Markdown."""
    source = problem_sets.read(problem_sets.source_path(name))
    rows = []
    for task in problem_sets.tasks(source):
        mine = [a for a in problem_sets.answers(name) if a.cell in task.solutions]
        for answer in mine:
            lost = sum(task.points[cell] for cell in answer.fails)
            what = answer.name if len(task.solutions) == 1 else f"{answer.cell}: {answer.name}"
            mark = f"{task.total - lost:g} of {task.total:g}"
            rows.append([task.number, what, mark, answer.reveals or "right"])
    title = f"**Problem set {name.removeprefix('ps')}**"
    return f"{title}\n\n" + table(["task", "answer", "points", "what it reveals"], rows)


if __name__ == "__main__":
    sys.exit(main())
