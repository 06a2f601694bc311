"""Plant faults in the code, one at a time, and see whether running the chapters notices each.

    python tools/plant_faults.py                          every fault; about an hour with one core
    python tools/plant_faults.py --only 04_training       those whose name or file contains this
    python tools/plant_faults.py --resume FILE            keep every outcome in FILE, use it again
                                                          (`make faults`: tools/faults.jsonl)
    python tools/plant_faults.py --resume FILE --write    put the table into the book
    python tools/plant_faults.py --list                   only say what the faults are

The faults are in tools/faults.py: mistakes that students and refactorings make, in the library and
in the chapters' own cells. Each is planted in a fresh copy of the project, and there the chapters
are run as `make test` runs them, without any unit test. A fault is caught if a cell raises an
error or puts out something else than is stored. One in a chapter runs that chapter; one in the
library runs the chapters named for it, then all others, until the first that notices. Only what
no chapter notices has survived.

Before that the unchanged chapters must pass: otherwise everything would look caught. A fault that
ends in a NameError or the like is a mistake in the list and not caught, and neither is a cell
that ran out of time. The exit status is 1 unless every fault is caught.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from pathlib import Path
from xml.etree import ElementTree

from code_only import code_only
from faults import FAULTS, Fault
from pages import BOOK, put_between_marks, table

ROOT = Path(__file__).resolve().parent.parent
PAGE = BOOK / "reproducibility.md"
# What a chapter's run reads of the project. The rest of book/ has no part in it.
PARTS = ("vae_lib", "book/*.ipynb", "tests/nb_compare.py", "conftest.py", "pyproject.toml")
# After the chapters that a fault names, the others in this order: the quick ones first.
CHEAPEST_FIRST = (2, 1, 6, 5, 3, 4)
# Errors of a program that does not hold together: no result is wrong, there is none.
NO_PROGRAM = ("NameError", "UnboundLocalError", "SyntaxError", "IndentationError", "ImportError",
              "ModuleNotFoundError")  # fmt: skip
COLOUR_CODES = re.compile(r"(?:\x1b|#x1B)\[[0-9;]*m")
ERROR_LINE = re.compile(r"^(\w*(?:Error|Exception|Interrupt|Warning))\b.*$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What running one chapter, or every chapter that a fault concerns, came to.

    kind: "passed", "caught", "timeout", or "broken" where nothing can be said.
    chapter, cell: where it was noticed; cells are numbered as pytest does, code cells from 0.
    said: the first difference, or the error.
    """

    kind: str
    chapter: int | None = None
    cell: int | None = None
    said: str = ""
    seconds: float = 0.0


class FaultError(Exception):
    """A fault that cannot be planted, or a project whose chapters fail as they are."""


# Planting ----------------------------------------------------------------------------------------


def planted(fault: Fault, root: Path) -> tuple[str, str, int | None]:
    """The text of the fault's file with the fault in it; the changed source, and its cell.

    The source is that of the module (the cell is then None) or of the code cell alone. Raises
    `FaultError` unless the old text is there exactly once.
    """
    path = root / fault.file
    if not path.is_file():
        raise FaultError(f"{fault.name}: there is no {fault.file}")
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        if (count := text.count(fault.old)) != 1:
            raise FaultError(f"{fault.name}: {count} times in {fault.file}: {fault.old!r}")
        changed = text.replace(fault.old, fault.new)
        return changed, changed, None

    notebook = json.loads(text)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    counts = [source.count(fault.old) for source in sources]
    if sum(counts) != 1:
        where = [number for number, count in enumerate(counts) if count]
        raise FaultError(
            f"{fault.name}: {sum(counts)} times in {fault.file}, cells {where}: {fault.old!r}"
        )
    number = counts.index(1)
    # Only the source: the stored outputs are what the run is compared with.
    cells[number]["source"] = sources[number].replace(fault.old, fault.new)
    return json.dumps(notebook, ensure_ascii=False), cells[number]["source"], number


def place(fault: Fault, root: Path) -> str:
    """Where the fault is, in words."""
    cell = planted(fault, root)[2]
    if cell is None:
        return fault.file
    return f"chapter {int(Path(fault.file).name[:2])}, cell {cell}"


def copy_project(root: Path, folder: Path) -> Path:
    """Copy what the chapters need into a new folder, and return the copy."""
    copy = Path(tempfile.mkdtemp(dir=folder))
    for part in PARTS:
        for source in root.glob(part):
            target = copy / source.relative_to(root)
            target.parent.mkdir(exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
    return copy


def chapter_file(root: Path, chapter: int) -> Path:
    """The notebook of that number."""
    (path,) = root.glob(f"book/{chapter:02}_*.ipynb")
    return path


# Running -----------------------------------------------------------------------------------------


def run_notebook(copy: Path, notebook: Path, timeout: float) -> Outcome:
    """Run a notebook of a copy under nbval, up to the first cell that fails."""
    report = copy / "report.xml"
    report.unlink(missing_ok=True)  # of the chapter before
    command = [sys.executable, "-m", "pytest", "--nbval", "-x", "-q", "--color=no"]
    # A warning of an old library at pytest's start is no catch; cells' own are compared as ever.
    command += ["-W", "default"]
    command += ["-p", "no:cacheprovider", f"--junitxml={report}", f"--nbval-cell-timeout={timeout}"]
    environment = {
        **os.environ,
        # Before site-packages, where the library may be installed from the original folder.
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        # Several runs at once on the same cores would otherwise wait for one another's threads.
        "OMP_NUM_THREADS": "1",
    }
    for name in ("PYTEST_ADDOPTS", "VAE_BOOK_REPORT"):
        environment.pop(name, None)
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, str(notebook)], cwd=copy, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=10 * timeout)  # the cells have their own limit
    except subprocess.TimeoutExpired:
        # Interrupted, pytest still stops the kernel.
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        return Outcome("timeout", said="pytest itself did not end", seconds=10 * timeout)
    seconds = round(time.perf_counter() - start, 1)
    kind, cell, said = read_report(report, process.returncode, output)
    return Outcome(kind, cell=cell, said=said, seconds=seconds)


def read_report(report: Path, status: int, output: str) -> tuple[str, int | None, str]:
    """What became of a run, which cell failed, and what it said, from pytest's JUnit report."""
    last_line = (output.strip().splitlines() or ["nothing"])[-1]
    if not report.is_file():
        return "broken", None, f"pytest said: {last_line}"
    tests = list(ElementTree.parse(report).iter("testcase"))
    if status == 0 and tests and not any(len(test) for test in tests):
        return "passed", None, ""
    for test in tests:
        failure = test.find("failure")
        # An <error> is a notebook that was not collected or a kernel that did not start.
        if failure is None or not (number := re.fullmatch(r"Cell (\d+)", test.get("name", ""))):
            continue
        cell = int(number[1])
        text = COLOUR_CODES.sub("", failure.text or "")
        # nbval: the verdict, then the cell's source, then the differences or the traceback.
        verdict = re.search(r"^Cell \d+: (.*)$", text, re.MULTILINE)
        details = text.partition("\nTraceback:\n")[2].strip()
        if verdict is None:  # a kernel that died
            return "broken", cell, shorten(text)
        if verdict[1].startswith("Timeout"):
            return "timeout", cell, verdict[1]
        if verdict[1] == "Cell outputs differ":
            return "caught", cell, shorten(details)
        if verdict[1] == "Cell execution caused an exception":
            errors = list(ERROR_LINE.finditer(details))
            kind = "broken" if errors and errors[-1][1] in NO_PROGRAM else "caught"
            return kind, cell, shorten(errors[-1][0] if errors else details)
        return "broken", cell, shorten(verdict[1])
    return "broken", None, f"pytest said: {last_line}"


def keys_of_run(copy: Path, chapter: Path) -> list[str]:
    """Digests of what decides a run: up to its first code cell, up to its second, …, to its last.

    A run ends at the first cell that notices, so what it came to depends on that cell, those
    before it, and the files that it reads. Prose decides nothing, be it a chapter's, a comment or a
    docstring, nor do a figure's alternative text, the number under which a cell was run and the
    hidden cell that would install a missing library. The live figures, and what is stored of them,
    count from the first cell that makes one.
    """
    notebook = json.loads(chapter.read_text(encoding="utf-8"))
    widgets = copy / "vae_lib" / "widgets"
    key, later = hashlib.sha256(), [json.dumps(notebook["metadata"].get("widgets")).encode()]
    for file in sorted(set(copy.rglob("*")) - set(copy.glob("book/*"))):
        if file.is_file() and file.name != "report.xml":
            content = file.read_bytes()
            if file == copy / "pyproject.toml":
                # Of the settings of a project only these have to do with one notebook's run.
                pytest = tomllib.loads(content.decode())["tool"]["pytest"]["ini_options"]
                content = json.dumps([pytest.get("addopts"), pytest.get("filterwarnings")]).encode()
            elif file.suffix == ".py":
                content = code_only(content.decode()).encode()
            content = f"{file.relative_to(copy)}\0".encode() + content + b"\0"
            if widgets in file.parents:
                later.append(content)
            else:
                key.update(content)
    keys = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        if "vae_lib.widgets" in "".join(cell["source"]):
            while later:
                key.update(later.pop())
        if "remove-cell" not in cell["metadata"].get("tags", []):
            metadata = {name: value for name, value in cell["metadata"].items() if name != "mystnb"}
            decisive = [cell["source"], cell["outputs"], metadata]
            key.update(json.dumps(decisive).encode() + b"\0")
        keys.append(key.hexdigest()[:32])
    return keys


def shorten(text: str, length: int = 100) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


class Runner:
    """Runs chapters in copies of a project; remembers what each run came to.

    The outcomes are kept by what decided them: see `keys_of_run`. So a file of outcomes serves
    across changes: whatever has changed since is run again.
    """

    def __init__(self, root: Path, folder: Path, timeout: float, outcomes: Path | None = None):
        self.root, self.folder, self.timeout, self.outcomes = root, folder, timeout, outcomes
        self._known: dict[str, Outcome] = {}
        self._used: set[str] = set()
        self._lock = threading.Lock()
        self._baselines: dict[int, threading.Lock] = collections.defaultdict(threading.Lock)
        if outcomes is not None and outcomes.exists():
            for line in outcomes.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                run = record.pop("run")
                self._known[run] = Outcome(**record)

    def check_import(self) -> None:
        """Raise `FaultError` unless a kernel started in a copy imports the copy's library."""
        copy = copy_project(self.root, self.folder)
        source = (
            "from pathlib import Path\nimport vae_lib\n"
            "assert Path(vae_lib.__file__).samefile(Path.cwd().parent / 'vae_lib/__init__.py')"
        )
        cell = {
            "cell_type": "code", "id": "probe", "metadata": {}, "source": source,
            "execution_count": 1, "outputs": [],
        }  # fmt: skip
        probe = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        path = copy / "book" / "probe.ipynb"
        path.write_text(json.dumps(probe), encoding="utf-8")
        outcome = run_notebook(copy, path, self.timeout)
        shutil.rmtree(copy)
        if outcome.kind != "passed":
            raise FaultError(f"a copy's kernel does not import the copy's vae_lib: {outcome.said}")

    def baseline(self, chapter: int) -> Outcome:
        """Run an unchanged chapter, once; raises `FaultError` if it fails."""
        with self._baselines[chapter]:
            copy = copy_project(self.root, self.folder)
            outcome = self._run(copy, chapter)
            shutil.rmtree(copy)
        if outcome.kind != "passed":
            raise FaultError(
                f"chapter {chapter} fails as it is: {outcome.kind}, cell {outcome.cell}: "
                f"{outcome.said}"
            )
        return outcome

    def try_fault(self, fault: Fault, need_baseline: bool = True) -> Outcome:
        """Plant a fault and run chapters until one notices. Seconds are those of all runs."""
        copy = copy_project(self.root, self.folder)
        (copy / fault.file).write_text(planted(fault, self.root)[0], encoding="utf-8")
        chapters = list(fault.chapters)
        if not fault.file.startswith("book/"):
            present = {int(path.name[:2]) for path in self.root.glob("book/*.ipynb")}
            chapters += [n for n in CHEAPEST_FIRST if n in present and n not in chapters]
        seconds, worst = 0.0, Outcome("passed")
        for chapter in chapters:
            outcome = self._run(copy, chapter)
            seconds += outcome.seconds
            if outcome.kind != "passed":
                if need_baseline:
                    self.baseline(chapter)
                worst = dataclasses.replace(outcome, chapter=chapter)
            if outcome.kind in ("caught", "broken"):
                break
        shutil.rmtree(copy)
        return dataclasses.replace(worst, seconds=round(seconds, 1))

    def _run(self, copy: Path, chapter: int) -> Outcome:
        path = chapter_file(copy, chapter)
        keys = keys_of_run(copy, path)
        with self._lock:
            for number, key in enumerate(keys):
                known = self._known.get(key)
                if known is not None and (known.kind == "caught" or number == len(keys) - 1):
                    self._used.add(key)
                    return known
        outcome = run_notebook(copy, path, self.timeout)
        # What time or another failure beyond the code's reach decided is tried again.
        if outcome.kind in ("passed", "caught"):
            run = keys[-1 if outcome.cell is None else outcome.cell]
            with self._lock:
                self._known[run] = outcome
                self._used.add(run)
                if self.outcomes is not None:
                    with self.outcomes.open("a", encoding="utf-8") as file:
                        file.write(self._line(run))
        return outcome

    def forget_unused(self) -> None:
        """Keep in the file only what this run has used: the rest is of code that is gone."""
        if self.outcomes is None:
            return
        new = self.outcomes.with_name(f"{self.outcomes.name}.new")
        lines = sorted(self._line(run) for run in self._used)
        new.write_text("".join(lines), encoding="utf-8")
        os.replace(new, self.outcomes)

    def _line(self, run: str) -> str:
        record = {"run": run, **dataclasses.asdict(self._known[run])}
        return json.dumps(record, ensure_ascii=False) + "\n"


# The command line --------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; the exit status is 1 unless all faults are caught."""
    parser = argparse.ArgumentParser(prog="plant_faults.py", description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="only list the faults")
    parser.add_argument("--only", action="append", metavar="TEXT",
                        help="the faults whose name or file contains this; may be repeated")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds that a cell may take")
    parser.add_argument("--resume", type=Path, metavar="FILE",
                        help="keep every outcome in this file, and run nothing that is in it")
    parser.add_argument("--no-baseline", action="store_true",
                        help="with --only: trust that the unchanged chapters pass")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    options = parser.parse_args(arguments)  # fmt: skip
    if options.no_baseline and not options.only:
        parser.error("--no-baseline needs --only")
    if options.write and options.only:
        parser.error("--write needs all faults, so no --only")

    faults = [
        fault
        for fault in FAULTS
        if not options.only or any(text in f"{fault.name} {fault.file}" for text in options.only)
    ]
    if not faults:
        parser.error(f"no fault has {' or '.join(options.only)} in its name or file")
    try:
        places = {fault: place(fault, ROOT) for fault in faults}
        if options.list:
            for fault in faults:
                print(f"{fault.name}\n    {places[fault]}: {shorten(fault.old, 200)}\n"
                      f"    becomes {shorten(fault.new, 200) or 'nothing'}")
            print(f"{len(faults)} faults")
            return 0
        results = run_all(faults, places, options)
    except FaultError as error:
        print(error, file=sys.stderr)
        return 2

    caught = [fault for fault in faults if results[fault].kind == "caught"]
    print(f"\n{len(caught)} of {len(faults)} faults caught by running the chapters alone")
    by_chapter = collections.Counter(results[fault].chapter for fault in caught)
    print("  by chapter:", ", ".join(f"{n}: {by_chapter[n]}" for n in sorted(by_chapter)))
    for fault in faults:
        if (outcome := results[fault]).kind != "caught":
            verdict = {"passed": "SURVIVED"}.get(outcome.kind, outcome.kind)
            print(f"  {verdict}: {fault.name} ({places[fault]}) {outcome.said}")
    if options.no_baseline:
        print("  The unchanged chapters were not run: a fault may seem caught by what was wrong")
        print("  before it was planted.")
    if options.write:
        put_between_marks(PAGE, "faults", as_page(faults, places, results))
    return int(len(caught) < len(faults))


def run_all(
    faults: list[Fault], places: dict[Fault, str], options: argparse.Namespace
) -> dict[Fault, Outcome]:
    """Try every fault, several at once; print a line for each as it ends."""
    results = {}
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as folder,
        concurrent.futures.ThreadPoolExecutor(options.jobs) as pool,
    ):
        runner = Runner(ROOT, Path(folder), options.timeout, options.resume)
        try:
            runner.check_import()
            if not options.no_baseline:
                chapters = sorted({chapter for fault in faults for chapter in fault.chapters})
                for chapter, outcome in zip(chapters, pool.map(runner.baseline, chapters)):
                    print(f"chapter {chapter} unchanged: passed, {outcome.seconds:.0f} s", flush=True)
            waiting = {
                pool.submit(runner.try_fault, fault, not options.no_baseline): fault
                for fault in faults
            }
            for number, future in enumerate(concurrent.futures.as_completed(waiting), 1):
                fault, outcome = waiting[future], future.result()
                results[fault] = outcome
                print(f"[{number}/{len(faults)}] {fault.name} ({places[fault]}): "
                      f"{in_words(outcome)}, {outcome.seconds:.0f} s", flush=True)  # fmt: skip
                if outcome.said:
                    print(f"    {outcome.said}", flush=True)
            if tuple(faults) == FAULTS:
                runner.forget_unused()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results


def in_words(outcome: Outcome) -> str:
    where = f"chapter {outcome.chapter}, cell {outcome.cell}"
    match outcome.kind:
        case "passed":
            return "SURVIVED"
        case "caught":
            return f"caught by {where}"
        case kind:
            return f"{kind.upper()} in {where}"


def as_page(faults: list[Fault], places: dict[Fault, str], results: dict[Fault, Outcome]) -> str:
    """The table for the book, with a sentence that counts."""
    rows = []
    for fault in faults:
        outcome = results[fault]
        where = f"{outcome.chapter}, cell {outcome.cell}" if outcome.kind == "caught" else "nothing"
        planted_in = places[fault]
        rows.append([fault.name, f"`{planted_in}`" if "/" in planted_in else planted_in, where])
    caught = sum(row[2] != "nothing" for row in rows)
    sentence = (
        f"Of {len(faults)} faults, planted one at a time, running the chapters catches {caught}."
        " Code cells are numbered from 0, as in the tests' report."
    )
    return f"{sentence}\n\n{table(['fault', 'planted in', 'caught by chapter'], rows)}"


if __name__ == "__main__":
    sys.exit(main())
