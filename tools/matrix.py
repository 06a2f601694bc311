"""Do the chapters say the same elsewhere? Every chapter, strictly compared, in each environment.

    python tools/matrix.py                          every row; about five minutes each on two cores
    python tools/matrix.py --list                   only say what the rows are
    python tools/matrix.py --rows float64 avx2      these
    python tools/matrix.py --chapters book/01_data.ipynb
    python tools/matrix.py --ci                     the rows that CI runs
    python tools/matrix.py --no-run --write         put what is kept into book/reproducibility.md
    python tools/matrix.py --no-run --propose       tolerances that the deviations would justify

A row is an environment: variables, a Python with its packages, a precision, a device. Each chapter
of a row is a run of pytest of its own, and one that fails does not stop the others. What a run found
is kept (--keep FILE), so that a table can be made of rows that were run at different times, or on
different machines. A kept run counts as long as neither the chapter's code and outputs nor vae_lib
have changed; tolerances may change, since the deviations are kept and judged anew.

The exit status is 1 if a row that was run does not agree, and, with --no-run, if one that is kept
does not or a tolerance is too wide.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]

import setup_env  # noqa: E402
from code_only import code_only  # noqa: E402
from nb_compare import Deviation, Tolerance, cell_tolerance  # noqa: E402
from pages import BOOK, machine, put_between_marks, table  # noqa: E402

PAGE = BOOK / "reproducibility.md"
KEPT = ROOT / "_build" / "matrix.jsonl"
LOGS = ROOT / "_build" / "matrix"
# A tolerance may be so many times the largest deviation seen.
WIDEST = 10.0
ONE_UNIT = "one unit of the last digit"
# Everything by which a user's own settings could change a row.
CLEARED = (
    "ATEN_", "CUBLAS_", "CUDA_", "DNNL_", "IPYTHONDIR", "KMP_", "MKL_", "MPLBACKEND", "NVIDIA_",
    "OMP_", "ONEDNN_", "PYTEST_", "PYTHONPATH", "TORCH_", "VAE_BOOK_", "VAE_DEVICE",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """An environment to run the chapters in.

    torch: "" for the pinned version, "oldest" or "newest" that requirements.txt allows.
    facts: what a kernel must find, beside `dtype` and `device`.
    """

    name: str
    title: str
    variables: dict[str, str]
    facts: dict[str, object] = field(default_factory=dict)
    torch: str = ""
    dtype: str = "float32"
    device: str = "cpu"
    in_ci: bool = False


def threads(n: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(n), "MKL_NUM_THREADS": str(n)}


# ATEN_CPU_CAPABILITY chooses torch's own kernels, and not those of the matrix products: these are
# MKL's, and on some processors oneDNN's.
ROWS = (
    Row("threads-2", "two threads", threads(2), {"threads": 2}),
    Row("threads-1", "one thread", threads(1), {"threads": 1}),
    Row(
        "avx2",
        "AVX2 kernels",
        threads(2)
        | {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"threads": 2, "capability": "AVX2"},
    ),
    Row(
        "portable",
        "portable kernels, MKL's compatible mode",
        threads(2)
        | {
            "ATEN_CPU_CAPABILITY": "default",
            "MKL_CBWR": "COMPATIBLE",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
        },
        {"threads": 2, "capability": "DEFAULT"},
        in_ci=True,
    ),
    Row("oldest", "oldest torch allowed", threads(2), {"threads": 2}, torch="oldest"),
    Row("newest", "newest torch allowed", threads(2), {"threads": 2}, torch="newest"),
    Row("float64", "float64, the same draws", threads(2), {"threads": 2}, dtype="float64"),
    Row(
        "cuda",
        "CUDA",
        threads(2)
        | {
            # Deterministic products, and none in TF32 whatever the machine's own setting is.
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            "NVIDIA_TF32_OVERRIDE": "0",
            "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "0",
        },
        {"threads": 2},
        device="cuda",
    ),
)
BASE = ROWS[0]


class Unavailable(Exception):
    """Why a row cannot be run here."""


# Environments ----------------------------------------------------------------------------------


def python_for(row: Row) -> str:
    """The Python to run a row with; its environment is made, or brought up to date, if need be."""
    if reason := why_not_here(row):
        raise Unavailable(reason)
    if not row.torch:
        return sys.executable
    constraints = setup_env.read("constraints.txt")
    try:
        if row.torch == "oldest":
            pins = oldest_torch(constraints, setup_env.read("requirements.txt"))
        else:
            pins = without_torch(constraints) + f"\ntorch=={newest_torch()}"
        return make_environment(f".venv-{row.torch}-torch", pins)
    except setup_env.Problem as problem:
        raise Unavailable(str(problem)) from problem


def why_not_here(row: Row) -> str | None:
    """Why this machine cannot run a row, or need not; None if it is to be run."""
    if row.name == "avx2" and platform.machine().lower() not in ("x86_64", "amd64"):
        return f"no AVX2 on {platform.machine()}"
    if row.device == "cuda" and not has_cuda():
        return "no CUDA GPU at hand"
    if row.torch == "newest":
        pinned = pinned_torch(setup_env.read("constraints.txt"))
        with contextlib.suppress(setup_env.Problem):  # no network: what is newest is not known
            if newest_torch() == pinned:
                return f"it is the pinned {pinned}, that of the other rows"
    return None


def has_cuda() -> bool:
    code = "import torch; raise SystemExit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def without_torch(constraints: str) -> str:
    lines = constraints.splitlines()
    return "\n".join(x for x in lines if not x.startswith(("torch==", "torchvision==")))


def oldest_torch(constraints: str, requirements: str) -> str:
    """The pinned versions, but torch and torchvision as old as the requirements allow."""
    oldest = setup_env.oldest_versions(requirements).splitlines()
    torch = [line for line in oldest if line.startswith(("torch==", "torchvision=="))]
    return "\n".join([without_torch(constraints), *torch])


def pinned_torch(constraints: str) -> str:
    (line,) = [line for line in constraints.splitlines() if line.startswith("torch==")]
    return line.removeprefix("torch==")


def newest_torch() -> str:
    """The newest version that pip would install here, within what its own settings allow."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    command += ["--no-deps", "--quiet", "--report", "-", "torch"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        lines = result.stderr.splitlines()
        raise setup_env.Problem(setup_env.explain(lines) or setup_env.last_line(result.stderr))
    return newest_of(result.stdout)


def newest_of(report: str) -> str:
    """From pip's report of what it would install. A local version, 2.15.0+cpu, is 2.15.0."""
    (torch,) = json.loads(report)["install"]
    return torch["metadata"]["version"].partition("+")[0]


def make_environment(name: str, pins: str) -> str:
    """Make the environment `name` with exactly these versions; return its Python."""
    env = str(ROOT / name)
    parts = [str(ROOT), setup_env.read("requirements.txt"), setup_env.read("pyproject.toml"), pins]
    wanted = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    python = setup_env.python_of(env)
    with setup_env.OnlyOne(env):
        if setup_env.is_ready(env, wanted):
            return python
        interrupted = os.path.exists(setup_env.marker(env))
        if interrupted or (os.path.exists(env) and not setup_env.runs(python, "import pip")):
            setup_env.remove(env)
        if not os.path.exists(env):
            chosen = setup_env.find_python(setup_env.HIGHEST_FOR_OLDEST)
            setup_env.check_disk()
            print(f"making {name} with {chosen}", flush=True)
            setup_env.create(chosen, env)
        setup_env.mark(env)
        file = os.path.join(env, "pins.txt")
        setup_env.write(file, pins + "\n")
        setup_env.pip(env, ["setuptools>=77", "wheel"], file)
        setup_env.pip(env, ["-r", str(ROOT / "requirements.txt")], file)
        setup_env.pip(env, ["--no-deps", "--no-build-isolation", "-e", str(ROOT)], file)
        os.remove(setup_env.marker(env))
        setup_env.write(setup_env.stamp(env), wanted)
    return python


# Running ---------------------------------------------------------------------------------------


def every_chapter() -> list[Path]:
    return sorted(BOOK.glob("[0-9]*.ipynb"))


def relative(chapter: Path) -> str:
    return chapter.resolve().relative_to(ROOT).as_posix()


def environment_of(row: Row, folder: Path) -> dict[str, str]:
    """The variables of a run whose files lie in `folder`."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(CLEARED)}
    settings = {"dtype": row.dtype, "device": row.device, "facts": str(folder / "facts.jsonl")}
    return kept | row.variables | {
        "VAE_DEVICE": row.device,
        "VAE_BOOK_REPORT": str(folder / "report.jsonl"),
        "VAE_BOOK_ROW": json.dumps(settings),
        "IPYTHONDIR": str(folder / "ipython"),
    }  # fmt: skip


def run_chapter(row: Row, python: str, chapter: Path) -> dict:
    """Run a chapter and return what is to be kept of it."""
    start, digest = time.perf_counter(), digest_of(chapter)
    with tempfile.TemporaryDirectory(prefix="vae-book-") as name:
        folder = Path(name)
        # IPython runs the files of this folder before the first cell.
        startup = folder / "ipython" / "profile_default" / "startup"
        startup.mkdir(parents=True)
        shutil.copy(ROOT / "tools" / "matrix_kernel.py", startup / "00-matrix.py")
        command = [
            python, "-m", "pytest", "--nbval", "-q", "-W", "default", "--color=no",
            "-p", "no:cacheprovider", relative(chapter),
        ]  # fmt: skip
        process = subprocess.run(
            command, cwd=ROOT, env=environment_of(row, folder), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
        )  # fmt: skip
        facts, cells = lines_of(folder / "facts.jsonl"), lines_of(folder / "report.jsonl")
    problems = problems_of(row, facts, cells, len(code_cells(chapter)), process.returncode)
    if problems:
        LOGS.mkdir(parents=True, exist_ok=True)
        log = LOGS / f"{row.name}-{chapter.stem}.log"
        log.write_text(process.stdout, encoding="utf-8")
    return {
        "row": row.name,
        "chapter": relative(chapter),
        "digest": digest,
        "definition": definition(row),
        "date": str(date.today()),
        "seconds": round(time.perf_counter() - start),
        "machine": machine(),
        "facts": facts[0] if facts else {},
        "problems": problems,
        "outputs": sum(cell["outputs"] for cell in cells),
        "deviations": [
            {"cell": cell["cell"]} | deviation for cell in cells for deviation in cell["deviations"]
        ],
    }


def problems_of(
    row: Row, facts: list[dict], cells: list[dict], num_cells: int, status: int
) -> list[str]:
    """What keeps a run from being a success, a line each."""
    if not facts:
        return ["the kernel was not prepared as the row asks"]
    wanted = row.facts | {"dtype": row.dtype, "device": row.device}
    problems = [
        f"{key}: wanted {value}, found {found.get(key)}"
        for found in facts
        for key, value in wanted.items()
        if found.get(key) != value
    ]
    different = sorted(cell["cell"] for cell in cells if cell["differences"])
    if different:
        problems.append(f"differs in cells {', '.join(map(str, different))}")
    if len(cells) != num_cells:
        problems.append(f"{len(cells)} of {num_cells} cells compared")
    if status and not problems:
        problems.append(f"pytest ended with status {status}")
    return problems


def lines_of(path: Path) -> list[dict]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def code_cells(chapter: Path) -> list[dict]:
    notebook = json.loads(chapter.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def digest_of(chapter: Path) -> str:
    """A digest of all that decides how a run of the chapter ends, its tolerances apart."""
    cells = [[cell["source"], cell["outputs"]] for cell in code_cells(chapter)]
    return hashlib.sha256((json.dumps(cells) + library_digest()).encode()).hexdigest()[:16]


@functools.cache
def library_digest() -> str:
    """Of the library's code, and of the weights that ship with it."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "vae_lib").glob("*.py")):
        digest.update(code_only(path.read_text(encoding="utf-8")).encode())
    for path in sorted((ROOT / "vae_lib" / "weights").glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def definition(row: Row) -> str:
    """A digest of all that decides how a run in this row ends: not its title, nor whether CI runs it."""
    parts = asdict(row) | {"title": None, "in_ci": None}
    return hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()[:16]


# What is kept ----------------------------------------------------------------------------------


def keep(file: Path, record: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a", encoding="utf-8") as kept:
        kept.write(json.dumps(record) + "\n")


def latest(file: Path, chapters: list[Path]) -> dict[str, dict[str, dict]]:
    """The last run of each row and chapter that still counts: row → chapter → record."""
    digests = {relative(chapter): digest_of(chapter) for chapter in chapters}
    definitions = {row.name: definition(row) for row in ROWS}
    result: dict[str, dict[str, dict]] = {row.name: {} for row in ROWS}
    for record in lines_of(file):
        row, chapter = record["row"], record["chapter"]
        if (
            record["digest"] == digests.get(chapter)
            and record["definition"] == definitions.get(row)
        ):
            result[row][chapter] = record
    return result


@dataclass(frozen=True)
class Seen:
    """A deviation, where it was seen, and how much of that cell's present tolerance it is."""

    row: str
    chapter: str
    cell: int
    deviation: Deviation
    ratio: float


def all_seen(records: Iterable[dict], tolerances: dict[str, list[Tolerance]]) -> Iterator[Seen]:
    for record in records:
        for entry in record["deviations"]:
            entry = dict(entry)
            cell = entry.pop("cell")
            deviation = Deviation(**entry)
            tolerance = tolerances[record["chapter"]][cell]
            ratio = deviation.ratio(tolerance)
            yield Seen(record["row"], record["chapter"], cell, deviation, ratio)


def tolerances_of(chapters: list[Path]) -> dict[str, list[Tolerance]]:
    return {
        relative(chapter): [cell_tolerance(cell["metadata"]) for cell in code_cells(chapter)]
        for chapter in chapters
    }


# Tables ----------------------------------------------------------------------------------------


def matrix_table(
    kept: dict[str, dict[str, dict]], chapters: list[Path], absent: dict[str, str]
) -> tuple[str, bool]:
    """The first table, and whether every row that has been run agrees."""
    tolerances, all_agree = tolerances_of(chapters), True
    lines = []
    for row in ROWS:
        records = list(kept[row.name].values())
        if not records:
            lines.append([row.title, "", "", "", "", absent.get(row.name, "not run")])
            continue
        seen = list(all_seen(records, tolerances))
        worst = max(seen, key=lambda s: s.ratio, default=None)
        verdict = verdict_of(records, seen, chapters)
        all_agree &= verdict == "agrees"
        lines.append([
            row.title,
            " and ".join(sorted({versions(record["facts"]) for record in records})),
            perturbed(records, kept[BASE.name]),
            f"{sum(record['outputs'] for record in records):,}",
            f"{worst.ratio:.2g}, {place(worst)}" if worst else "0",
            verdict,
        ])  # fmt: skip
    header = [
        "environment", "versions", "other bits than the first row in", "outputs compared",
        "largest deviation ÷ tolerance", "verdict",
    ]  # fmt: skip
    return table(header, lines), all_agree


def versions(facts: dict) -> str:
    if not facts:
        return "unknown"
    text = f"torch {facts['torch']}, Python {facts['python']}"
    return text + (f", {facts['device name']}" if facts["device name"] else "")


def verdict_of(records: list[dict], seen: list[Seen], chapters: list[Path]) -> str:
    problems = [
        f"{chapter_name(record['chapter'])}: {problem}"
        for record in records
        for problem in record["problems"]
    ]
    # Tolerances may have become narrower since the run.
    beyond = sorted({(s.chapter, s.cell) for s in seen if s.ratio > 1})
    known = {record["chapter"] for record in records if record["problems"]}
    problems += [
        f"{chapter_name(chapter)}: beyond the tolerance in cell {cell}"
        for chapter, cell in beyond
        if chapter not in known
    ]
    if problems:
        return "**does not agree**: " + "; ".join(problems)
    if len(records) < len(chapters):
        return f"agrees in {len(records)} of {len(chapters)} chapters"
    return "agrees"


def perturbed(records: list[dict], base: dict[str, dict]) -> str:
    """In which arithmetic a row differs bit by bit from the first: else it would prove nothing."""
    if not base or records[0]["row"] == BASE.name:
        return ""
    first, facts = next(iter(base.values()))["facts"], records[0]["facts"]
    kinds = {"products": "bits of a product", "activations": "bits of an activation"}
    other = [name for name, key in kinds.items() if facts.get(key) != first.get(key)]
    return ", ".join(other) or "neither products nor activations"


def chapter_name(chapter: str) -> str:
    return f"chapter {int(Path(chapter).name.partition('_')[0])}"


def place(seen: Seen) -> str:
    return f"{chapter_name(seen.chapter)}, cell {seen.cell}"


@dataclass(frozen=True)
class Declared:
    """A tolerance as it is declared: for one cell, or by default for all that declare none."""

    chapter: str  # "" for the default
    cell: int
    kind: str  # "number" or "figure"
    tolerance: Tolerance

    @property
    def where(self) -> str:
        if not self.chapter:
            return "every other cell"
        return f"{chapter_name(self.chapter)}, cell {self.cell}"

    @property
    def text(self) -> str:
        if self.kind == "figure":
            return f"rms {self.tolerance.rms:g}"
        parts = [f"{name} {getattr(self.tolerance, name):g}" for name in ("atol", "rtol")
                 if getattr(self.tolerance, name)]  # fmt: skip
        both = " + ".join(parts) or ONE_UNIT
        return both + (", integers too" if self.tolerance.integers else "")

    @property
    def one_unit(self) -> bool:
        """Whether it allows no more than every number must be allowed."""
        return self.kind == "number" and not self.tolerance.atol and not self.tolerance.rtol


def declared_tolerances(chapters: list[Path]) -> list[Declared]:
    found = [Declared("", -1, kind, Tolerance()) for kind in ("number", "figure")]
    for chapter in chapters:
        for number, cell in enumerate(code_cells(chapter)):
            keys = set(cell["metadata"].get("vae_book", {}))
            tolerance = cell_tolerance(cell["metadata"])
            if keys - {"rms"}:
                found.append(Declared(relative(chapter), number, "number", tolerance))
            if "rms" in keys:
                found.append(Declared(relative(chapter), number, "figure", tolerance))
    return found


def largest_of(declared: Declared, seen: list[Seen], owners: set[tuple]) -> Seen | None:
    """The deviation that uses most of a declared tolerance. owners: cells that declare their own."""
    if declared.chapter:
        mine = [s for s in seen if (s.chapter, s.cell) == (declared.chapter, declared.cell)]
    else:
        mine = [s for s in seen if (s.chapter, s.cell, s.deviation.kind) not in owners]
    mine = [s for s in mine if s.deviation.kind == declared.kind]
    return max(mine, key=lambda s: s.ratio, default=None)


def tolerance_table(
    kept: dict[str, dict[str, dict]], chapters: list[Path]
) -> tuple[str, list[tuple[Declared, Seen | None]], bool]:
    """The second table, what it is made of, and whether every tolerance is narrow enough."""
    tolerances, all_narrow = tolerances_of(chapters), True
    records = [record for runs in kept.values() for record in runs.values()]
    seen = list(all_seen(records, tolerances))
    declarations = declared_tolerances(chapters)
    owners = {(d.chapter, d.cell, d.kind) for d in declarations if d.chapter}
    titles = {row.name: row.title for row in ROWS}
    lines, pairs = [], []
    for declared in declarations:
        largest = largest_of(declared, seen, owners)
        pairs.append((declared, largest))
        if largest is None:
            narrow = declared.one_unit
            line = ["none", "", "", "it is as narrow as can be" if narrow else "**no**"]
        else:
            times = 1 / largest.ratio if largest.ratio else math.inf
            narrow = times <= WIDEST
            size = f"{largest.deviation.size:.2g}"
            if declared.kind == "number":
                size += f" at {largest.deviation.magnitude:g}"
            if not declared.chapter:
                size += f" ({place(largest)})"
            verdict = "yes" if narrow else "**no**"
            line = [size, titles[largest.row], f"{times:.2g}", verdict]
        all_narrow &= narrow
        lines.append([declared.where, declared.text, *line])
    header = [
        "where", "tolerance", "largest deviation seen", "in", "tolerance ÷ deviation",
        f"at most {WIDEST:g}",
    ]  # fmt: skip
    return table(header, lines), pairs, all_narrow


def proposal(declared: Declared, largest: Seen | None) -> str:
    """A tolerance about three times the largest deviation."""
    if declared.one_unit:
        return ONE_UNIT
    if largest is None:
        return "remove it: nothing deviated"
    size = largest.deviation.size
    if declared.kind == "figure":
        return f"rms {rounded_up(3 * size):g}"
    text, magnitude = f"atol {rounded_up(3 * size):g}", largest.deviation.magnitude
    return text + (f" (or rtol {rounded_up(3 * size / magnitude):g})" if magnitude else "")


def rounded_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, … times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if value <= step * power * (1 + 1e-9))


def footnotes(kept: dict[str, dict[str, dict]], absent: dict[str, str]) -> str:
    records = [record for runs in kept.values() for record in runs.values()]
    days, machines = ({record[key] for record in records} for key in ("date", "machine"))
    facts = [record["facts"] for record in records if record["facts"]]
    lines = []
    if records:
        span = " to ".join(sorted({min(days), max(days)}))
        packages = "; ".join(
            f"{name} {' and '.join(sorted({fact[name] for fact in facts}))}"
            for name in ("numpy", "matplotlib")
        )
        lines.append(f"Run on {span}, on {'; '.join(sorted(machines))}; {packages}.")
    if not kept["cuda"]:
        reason = absent.get("cuda", "not run yet")
        lines.append(
            f"CUDA: {reason}. The code is ready for it: chapters 1, 2 and 4 move what they compute"
            " to the device that `pick_device` names, all random numbers are drawn on the CPU,"
            " products are computed without TF32, and the row asks for deterministic kernels."
            " Chapters 3, 5 and 6 compute on the CPU wherever they run."
        )
    return "\n\n".join(lines)


# The command line ------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="matrix.py", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=names, metavar="ROW", help="default: all")
    parser.add_argument("--ci", action="store_true", help="the rows that CI runs")
    parser.add_argument("--chapters", nargs="+", type=Path, help="default: book/*.ipynb")
    parser.add_argument("--keep", type=Path, default=KEPT, help="the file of results")
    parser.add_argument("--list", action="store_true", help="only list the rows")
    parser.add_argument("--no-run", action="store_true", help="only make tables of what is kept")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    parser.add_argument("--propose", action="store_true", help="say what tolerances could be")
    options = parser.parse_args(arguments)

    wanted = [row for row in ROWS if row.name in (options.rows or names)]
    if options.ci:
        wanted = [row for row in wanted if row.in_ci]
    if options.list:
        for row in wanted:
            settings = " ".join(f"{name}={value}" for name, value in row.variables.items())
            print(f"{row.name:10} {row.title}{' (CI)' if row.in_ci else ''}\n{'':10} {settings}")
        return 0

    absent: dict[str, str] = {}
    failed = False
    if options.no_run:
        absent = {row.name: reason for row in ROWS if (reason := why_not_here(row))}
    else:
        for row in wanted:
            reason = run_row(row, options.chapters or every_chapter(), options.keep)
            if reason is not None:
                absent[row.name] = reason
    chapters = every_chapter()
    kept = latest(options.keep, chapters)
    first, all_agree = matrix_table(kept, chapters, absent)
    second, pairs, all_narrow = tolerance_table(kept, chapters)
    if options.no_run:
        failed = not (all_agree and all_narrow)
    else:
        run = {name: kept[name] for name in (row.name for row in wanted) if kept[name]}
        records = [record for runs in run.values() for record in runs.values()]
        beyond = any(s.ratio > 1 for s in all_seen(records, tolerances_of(chapters)))
        failed = beyond or any(record["problems"] for record in records)
        # A row that should have run and could not: only a missing device or version excuses it.
        failed |= any(not excused(reason) for reason in absent.values())
    print(f"\n{first}\n\n{footnotes(kept, absent)}\n\n{second}")
    if options.propose:
        print()
        for declared, largest in pairs:
            print(f"{declared.where}: {declared.text}; {proposal(declared, largest)}")
    if options.write:
        put_between_marks(PAGE, "matrix", f"{first}\n\n{footnotes(kept, absent)}")
        put_between_marks(PAGE, "tolerances", second)
    return int(failed)


def run_row(row: Row, chapters: list[Path], file: Path) -> str | None:
    """Run a row and keep the results; return why it could not be run, or None."""
    try:
        python = python_for(row)
    except Unavailable as reason:
        print(f"{row.name}: {reason}", flush=True)
        return str(reason)
    for chapter in chapters:
        record = run_chapter(row, python, chapter)
        keep(file, record)
        outcome = "; ".join(record["problems"]) or f"{record['outputs']} outputs agree"
        print(f"{row.name}: {chapter.stem}: {record['seconds']} s, {outcome}", flush=True)
    return None


def excused(reason: str) -> bool:
    return reason.startswith(("no CUDA GPU", "no AVX2", "it is the pinned"))


if __name__ == "__main__":
    sys.exit(main())
