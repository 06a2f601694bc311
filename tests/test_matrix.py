"""The table of environments: what a run means, what is kept of it, what the tables then say."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from nb_compare import Deviation, Tolerance

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import matrix  # noqa: E402

FACTS = {
    "python": "3.11.7", "torch": "2.14.1", "numpy": "2.4.6", "matplotlib": "3.11.2",
    "threads": 2, "capability": "AVX512", "dtype": "float32", "device": "cpu",
    "device name": "", "bits of a product": "a", "bits of an activation": "b",
}  # fmt: skip
BASE = matrix.BASE


def code(source, *texts, **tolerance):
    outputs = [{"output_type": "stream", "name": "stdout", "text": text} for text in texts]
    metadata = {"vae_book": tolerance} if tolerance else {}
    return {"cell_type": "code", "source": source, "outputs": outputs, "metadata": metadata}


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A project with one chapter: cell 0 by default, cell 1 with a tolerance of its own."""
    for folder in ("book", "vae_lib"):
        (tmp_path / folder).mkdir()
    (tmp_path / "vae_lib" / "a.py").write_text("x = 1  # one\n")
    monkeypatch.setattr(matrix, "ROOT", tmp_path)
    monkeypatch.setattr(matrix, "BOOK", tmp_path / "book")
    monkeypatch.setattr(matrix, "PAGE", tmp_path / "book" / "page.md")
    monkeypatch.setattr(matrix, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(matrix, "has_cuda", lambda: False)
    monkeypatch.setattr(matrix, "newest_torch", lambda: "99.0")  # it would ask the network
    matrix.library_digest.cache_clear()
    yield SimpleNamespace(folder=tmp_path, chapter=tmp_path / "book" / "03_a.ipynb")
    matrix.library_digest.cache_clear()


def write(book, *cells):
    cells = cells or (code("a", "1.50 and 7\n"), code("b", "2.5\n", atol=0.2))
    markdown = {"cell_type": "markdown", "source": "words", "metadata": {}}
    book.chapter.write_text(json.dumps({"cells": [markdown, *cells]}))
    return book.chapter


def record(book, row=BASE, deviations=(), problems=(), outputs=2, **facts):
    return {
        "row": row.name,
        "chapter": "book/03_a.ipynb",
        "digest": matrix.digest_of(book.chapter),
        "definition": matrix.definition(row),
        "date": "2026-11-24",
        "seconds": 1,
        "machine": "a machine, 2 cores",
        "facts": FACTS | facts,
        "problems": list(problems),
        "outputs": outputs,
        "deviations": [
            {"cell": c, "kind": kind, "size": size, "magnitude": magnitude, "where": ""}
            | {"unit": 0.0 if kind == "figure" else 0.01}
            for c, kind, size, magnitude in deviations
        ],
    }


def kept(book, *records):
    file = book.folder / "kept.jsonl"
    for each in records:
        matrix.keep(file, each)
    return matrix.latest(file, [book.chapter])


# The rows --------------------------------------------------------------------------------------


def test_the_rows_are_those_that_were_promised():
    names = [row.name for row in matrix.ROWS]
    assert names == [
        "threads-2", "threads-1", "avx2", "portable", "oldest", "newest", "float64", "cuda",
    ]  # fmt: skip
    assert all(row.facts["threads"] == int(row.variables["OMP_NUM_THREADS"]) for row in matrix.ROWS)
    assert any(row.in_ci for row in matrix.ROWS)


def test_a_row_starts_from_nothing_of_the_user_s(monkeypatch, tmp_path):
    for name in ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "PYTHONPATH", "VAE_DEVICE", "PYTEST_ADDOPTS"):
        monkeypatch.setenv(name, "the user's")
    monkeypatch.setenv("VAE_DATA", "kept")
    portable = next(row for row in matrix.ROWS if row.name == "portable")
    for row, capability in ((BASE, None), (portable, "default")):
        variables = matrix.environment_of(row, tmp_path)
        assert "the user's" not in variables.values()
        assert variables.get("ATEN_CPU_CAPABILITY") == capability
        assert variables["VAE_DEVICE"] == "cpu" and variables["VAE_DATA"] == "kept"
    assert json.loads(variables["VAE_BOOK_ROW"])["dtype"] == "float32"


def test_the_versions_of_the_two_other_environments():
    constraints = "numpy==2.4.6\ntorch==2.14.1\ntorchvision==0.29.1\ntqdm==4.70.1\n"
    requirements = "torch>=2.4\ntorchvision>=0.19\nnumpy>=1.26\n"
    assert matrix.oldest_torch(constraints, requirements).splitlines() == [
        "numpy==2.4.6", "tqdm==4.70.1", "torch==2.4", "torchvision==0.19",
    ]  # fmt: skip
    report = {"install": [{"metadata": {"name": "torch", "version": "2.15.0+cpu"}}]}
    assert matrix.newest_of(json.dumps(report)) == "2.15.0"


def pinned_torch():
    return matrix.pinned_torch((ROOT / "constraints.txt").read_text())


def test_the_newest_version_is_not_run_twice(monkeypatch):
    newest = next(row for row in matrix.ROWS if row.torch == "newest")
    pinned = pinned_torch()
    monkeypatch.setattr(matrix, "newest_torch", lambda: pinned)
    with pytest.raises(matrix.Unavailable, match=f"it is the pinned {pinned}"):
        matrix.python_for(newest)


# A kernel --------------------------------------------------------------------------------------


def kernel(tmp_path, code, dtype):
    """Run the start-up file and then `code`, as one namespace; return what was printed."""
    settings = {"dtype": dtype, "device": "cpu", "facts": str(tmp_path / f"{dtype}.jsonl")}
    program = (ROOT / "tools" / "matrix_kernel.py").read_text() + "\n" + code
    environment = os.environ | {"VAE_BOOK_ROW": json.dumps(settings)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_kernel_in_float64_draws_the_numbers_of_float32(tmp_path):
    code = """
assert not [name for name in globals() if not name.startswith("__")]
import torch
from vae_lib import VAE, stream, trained_vae
from vae_lib.data import Split
drawn = [
    torch.randn(20, generator=stream("a")),
    torch.rand(20, generator=stream("a")),
    next(VAE(hidden_dim=8, generator=stream("a")).parameters())[0, :20],
    trained_vae().decoder.logits.bias[:20],
    Split(torch.full((1, 28, 28), 51, dtype=torch.uint8), torch.zeros(1).long()).pixels()[0, :20],
    torch.randn(20, generator=stream("a"), dtype=torch.float64),
]
print({tensor.dtype for tensor in drawn[:5]})
print([value for tensor in drawn for value in tensor.float().tolist()])
"""
    single, double = (
        kernel(tmp_path, code, dtype).splitlines() for dtype in ("float32", "float64")
    )
    assert single[0] == "{torch.float32}" and double[0] == "{torch.float64}"
    assert single[1] == double[1]
    facts = [json.loads((tmp_path / f"{d}.jsonl").read_text()) for d in ("float32", "float64")]
    assert [found["dtype"] for found in facts] == ["float32", "float64"]
    assert facts[0].keys() == FACTS.keys()
    assert facts[0]["bits of a product"] != facts[1]["bits of a product"]


# A run -----------------------------------------------------------------------------------------


CELLS = [{"cell": 0, "differences": 0}, {"cell": 1, "differences": 0}]


def test_a_run_without_problems():
    assert matrix.problems_of(BASE, [FACTS], CELLS, 2, 0) == []


@pytest.mark.parametrize(
    ("facts", "cells", "status", "expected"),
    [
        ([], CELLS, 0, "the kernel was not prepared"),
        ([FACTS | {"threads": 4}], CELLS, 0, "threads: wanted 2, found 4"),
        ([FACTS | {"dtype": "float64"}], CELLS, 0, "dtype: wanted float32, found float64"),
        ([FACTS | {"device": "cuda"}], CELLS, 0, "device: wanted cpu, found cuda"),
        ([FACTS], CELLS[:1], 0, "1 of 2 cells compared"),
        ([FACTS], [], 4, "0 of 2 cells compared"),
        ([FACTS], [CELLS[0], {"cell": 1, "differences": 3}], 1, "differs in cells 1"),
        ([FACTS], CELLS, 2, "pytest ended with status 2"),
    ],
)
def test_what_keeps_a_run_from_success(facts, cells, status, expected):
    assert expected in "\n".join(matrix.problems_of(BASE, facts, cells, 2, status))


@pytest.mark.slow
def test_a_chapter_is_run_and_kept(book, monkeypatch):
    for name in ("conftest.py", "pyproject.toml", "tests/nb_compare.py", "tools/matrix_kernel.py"):
        (book.folder / name).parent.mkdir(exist_ok=True)
        (book.folder / name).write_bytes((ROOT / name).read_bytes())
    cells = [code("print(1.6)", "1.5\n"), code("print(7)", "8\n"), code("x = 1")]
    for number, cell in enumerate(cells):
        cell |= {"execution_count": number, "id": f"cell-{number}"}
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}
    notebook["metadata"]["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    book.chapter.write_text(json.dumps(notebook))
    found = matrix.run_chapter(BASE, sys.executable, book.chapter)
    assert found["facts"]["threads"] == 2
    assert found["problems"] == ["differs in cells 1"] and found["outputs"] == 2
    (deviation,) = found["deviations"]
    assert deviation["cell"] == 0 and deviation["size"] == pytest.approx(0.1)
    assert "stored 8, new 7" in (book.folder / "logs" / "threads-2-03_a.log").read_text()


# What is kept ----------------------------------------------------------------------------------


def test_the_last_run_counts_until_something_changes(book):
    write(book)
    one, two = record(book, outputs=1), record(book, outputs=2)
    assert kept(book, one, two)[BASE.name]["book/03_a.ipynb"]["outputs"] == 2
    write(book, code("a", "1.50 and 7\n", rtol=0.5), code("b", "2.5\n"))
    assert kept(book)[BASE.name], "tolerances may change"
    (book.folder / "vae_lib" / "a.py").write_text("x = 1  # uno\n")
    matrix.library_digest.cache_clear()
    assert kept(book)[BASE.name], "comments too"
    (book.folder / "vae_lib" / "a.py").write_text("x = 2\n")
    matrix.library_digest.cache_clear()
    assert not kept(book)[BASE.name]


def test_a_run_of_another_chapter_or_row_does_not_count(book):
    write(book)
    stale = record(book) | {"definition": "another"}
    gone = record(book) | {"row": "gone"}
    assert not any(kept(book, stale, gone).values())
    found = kept(book, record(book))
    assert found[BASE.name]
    write(book, code("a", "1.51 and 7\n"), code("b", "2.5\n", atol=0.2))
    assert not kept(book)[BASE.name]


# The tables ------------------------------------------------------------------------------------


def row_of(text, title):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {title} |")]
    return [entry.strip() for entry in line.strip("|").split("|")]


def test_the_table_of_environments(book):
    write(book)
    portable = next(row for row in matrix.ROWS if row.name == "portable")
    found = kept(
        book,
        record(book, deviations=[(0, "number", 3e-5, 1.5), (1, "number", 0.1, 2.5)]),
        record(book, portable, **{"bits of an activation": "c"}),
    )
    text, agrees = matrix.matrix_table(found, [book.chapter], {"cuda": "no CUDA GPU at hand"})
    assert agrees
    base = row_of(text, "two threads")
    assert base[1] == "torch 2.14.1, Python 3.11.7" and base[3] == "2" and base[5] == "agrees"
    assert base[4] == "0.5, chapter 3, cell 1"
    assert row_of(text, portable.title)[2] == "activations"
    assert row_of(text, portable.title)[4] == "0"
    assert row_of(text, "CUDA")[5] == "no CUDA GPU at hand"
    assert row_of(text, "one thread")[5] == "not run"
    notes = matrix.footnotes(found, {"cuda": "no CUDA GPU at hand"})
    assert "2026-11-24, on a machine, 2 cores" in notes and "CUDA: no CUDA GPU at hand" in notes


def test_a_tolerance_that_became_too_narrow_is_a_failure(book):
    write(book)
    found = kept(book, record(book, deviations=[(1, "number", 0.1, 2.5)]))
    assert matrix.matrix_table(found, [book.chapter], {})[1]
    write(book, code("a", "1.50 and 7\n"), code("b", "2.5\n", atol=0.01))
    text, agrees = matrix.matrix_table(kept(book), [book.chapter], {})
    assert not agrees and "chapter 3: beyond the tolerance in cell 1" in text


def test_a_failure_is_told(book):
    write(book)
    found = kept(book, record(book, problems=["differs in cells 1"]))
    text, agrees = matrix.matrix_table(found, [book.chapter], {})
    assert not agrees and "**does not agree**: chapter 3: differs in cells 1" in text


def test_a_row_with_chapters_missing(book):
    write(book)
    other = book.folder / "book" / "04_b.ipynb"
    other.write_text(book.chapter.read_text())
    text, agrees = matrix.matrix_table(kept(book, record(book)), [book.chapter, other], {})
    assert not agrees and row_of(text, "two threads")[5] == "agrees in 1 of 2 chapters"


def test_the_table_of_tolerances(book):
    write(
        book,
        code("a", "1.50\n"),
        code("b", "2.5\n", atol=0.2),
        code("c", "7 of 10\n", integers=True),
        code("d", "2.50\n", atol=0.11),
        code("e", rms=9.0),
        code("f", "12\n", integers=True, atol=3.0),
    )
    found = kept(
        book,
        record(
            book,
            deviations=[
                (0, "number", 0.008, 1.5), (0, "figure", 0.1, 0.0), (1, "number", 0.1, 2.5),
                (4, "figure", 3.0, 0.0), (5, "number", 1.0, 12.0),
            ],
        ),
    )  # fmt: skip
    text, pairs, narrow = matrix.tolerance_table(found, [book.chapter])
    lines = [[x.strip() for x in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    assert [line[0] for line in lines] == [
        "every other cell", "every other cell",
        *(f"chapter 3, cell {n}" for n in (1, 2, 3, 4, 5)),
    ]  # fmt: skip
    assert [line[-1] for line in lines] == [
        "yes", "**no**", "yes", "it is as narrow as can be", "**no**", "yes", "yes",
    ]  # fmt: skip
    assert lines[0][1:5] == [
        "one unit of the last digit", "0.008 at 1.5 (chapter 3, cell 0)", "two threads", "1.3",
    ]  # fmt: skip
    assert lines[1][1:5] == ["rms 2", "0.1 (chapter 3, cell 0)", "two threads", "20"]
    assert lines[3][1:3] == ["one unit of the last digit, integers too", "none"]
    assert lines[6][1] == "atol 3, integers too"
    assert not narrow
    assert [matrix.proposal(*pair) for pair in pairs] == [
        "one unit of the last digit", "rms 0.5", "atol 0.5 (or rtol 0.2)",
        "one unit of the last digit", "remove it: nothing deviated", "rms 10", "atol 5 (or rtol 0.5)",
    ]  # fmt: skip


def test_a_proposal_where_zero_is_stored(book):
    write(book, code("a", "0.00\n", atol=1.0))
    found = kept(book, record(book, deviations=[(0, "number", 0.02, 0.0)]))
    _, pairs, narrow = matrix.tolerance_table(found, [book.chapter])
    assert matrix.proposal(*pairs[-1]) == "atol 0.1" and not narrow


@pytest.mark.parametrize(("value", "expected"), [(1, 1), (1.01, 2), (0.03, 0.05), (60, 100)])
def test_rounding_up(value, expected):
    assert matrix.rounded_up(value) == pytest.approx(expected)


# The command line ------------------------------------------------------------------------------


def test_one_row_that_fails_does_not_stop_the_others(book, monkeypatch, capsys):
    write(book)
    ran = []

    def run(row, python, chapter):
        ran.append(row.name)
        return record(book, row, problems=["differs in cells 0"] * (row.name == "threads-1"))

    monkeypatch.setattr(matrix, "run_chapter", run)
    arguments = ["--keep", str(book.folder / "kept.jsonl"), "--rows"]
    assert matrix.main([*arguments, "threads-2", "threads-1", "float64", "cuda"]) == 1
    assert ran == ["threads-2", "threads-1", "float64"]
    assert "cuda: no CUDA GPU at hand" in capsys.readouterr().out
    assert matrix.main([*arguments, "threads-2", "cuda"]) == 0

    def unmade(row):
        raise matrix.Unavailable("no network: pip cannot reach the package index")

    monkeypatch.setattr(matrix, "python_for", unmade)
    assert matrix.main([*arguments, "oldest"]) == 1


def test_the_tables_go_into_the_page(book, monkeypatch, capsys):
    write(book)
    matrix.keep(book.folder / "kept.jsonl", record(book))
    marks = "<!-- {0}: begin -->\n<!-- {0}: end -->\n"
    matrix.PAGE.write_text(marks.format("matrix") + marks.format("tolerances"))
    arguments = ["--no-run", "--write", "--propose"]
    assert matrix.main([*arguments, "--keep", str(book.folder / "kept.jsonl")]) == 1
    page = matrix.PAGE.read_text()
    assert "newest torch allowed |  |  |  |  | not run" in page
    monkeypatch.setattr(matrix, "newest_torch", lambda: pinned_torch())
    assert matrix.main([*arguments, "--keep", str(book.folder / "kept.jsonl")]) == 1
    assert f"| it is the pinned {pinned_torch()}, that of the other rows |" in matrix.PAGE.read_text()
    assert "| two threads | torch 2.14.1" in page and "one unit of the last digit" in page


def test_a_deviation_in_units_of_a_tolerance():
    number = Deviation("number", 0.02, 100.0, 0.01, "")
    figure = Deviation("figure", 1.0, 0.0, 0.0, "")
    assert number.ratio(Tolerance(rtol=1e-4, atol=0.01)) == pytest.approx(1.0)
    assert number.ratio(Tolerance()) == pytest.approx(2.0)
    assert figure.ratio(Tolerance(rms=4.0)) == 0.25
    assert figure.ratio(Tolerance(rms=0.0)) == float("inf")
