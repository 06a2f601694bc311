"""Every number in a chapter's prose, and every other claim on its list, has something that backs it.

tests/claims/0N_….toml lists the claims of chapter N. Each has

    cell    the id of the Markdown cell in which it is made
    says    its words there, as they stand, line breaks aside
    by      what backs it, a list of
              {cell = "…", prints = "…"}  a code cell whose output contains this text
              {cell = "…", source = "…"}  a code cell whose source contains this text: a setting
              {cell = "…", checks = "…"}  a code cell with an assertion or comparison, by its text
              {cell = "…", draws = "…"}   a code cell with a figure, and what is seen there
              {cell = "…", derives = "…"} a Markdown cell with the derivation, by words of it
              {page = "…", shows = "…"}   another page of the book that contains this text
              {cite = "…", for = "…"}     a source listed in the book's references, by its address
              {known = "…"}               common knowledge, or a definition: says which
            A cell of another chapter is "03_elbo/its-id".
    equals  numbers that are computed from those of `by`: {"33" = "206.0 - 172.9"}
    tests   for a displayed formula: the unit tests of it, "test_file.py::Class::function"

The tests hold the list against the chapters: what is quoted is there, and what backs it is there; every
number of every sentence stands in a claim; and each displayed formula of chapter 3 has a unit test.
The numbers of a claim that rests on outputs, settings, checks or pages alone must be among those, or be
roundings of such, or `equals` says how they are computed. Where a derivation, a figure, a citation or
common knowledge has a part in the backing, nobody but the reader compares the numbers.
"""

from __future__ import annotations

import ast
import doctest
import functools
import json
import math
import operator
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
CHAPTERS = sorted(path.stem for path in BOOK.glob("0*.ipynb"))
KINDS = {
    frozenset(kind.split())
    for kind in (
        "cell prints", "cell source", "cell checks", "cell draws", "cell derives", "page shows",
        "cite for", "known",
    )
}  # fmt: skip
CHECKS = re.compile(r"\bassert\b|assert_close|compare_result|\bcompare\(")

# Reading -----------------------------------------------------------------------------------------


@functools.cache
def cells_of(chapter: str) -> dict[str, dict]:
    notebook = json.loads((BOOK / f"{chapter}.ipynb").read_text(encoding="utf-8"))
    return {cell["id"]: cell for cell in notebook["cells"]}


@functools.cache
def claims_of(chapter: str) -> list[dict]:
    file = ROOT / "tests" / "claims" / f"{chapter}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))["claim"]


def find_cell(chapter: str, name: str) -> dict:
    chapter, _, name = name.rpartition("/") if "/" in name else (chapter, "", name)
    assert name in cells_of(chapter), f"there is no cell {name!r} in {chapter}"
    return cells_of(chapter)[name]


def plain(text: str | list[str]) -> str:
    """On one line, and without the marks of quotations."""
    text = re.sub(r"(?m)^> ?", "", "".join(text))
    return " ".join(text.split())


def output_of(cell: dict) -> str:
    parts = []
    for output in cell.get("outputs", []):
        parts += [output.get("text", []), output.get("data", {}).get("text/plain", [])]
    return plain(["".join(part) + "\n" for part in parts])


def numbers_in(text: str) -> list[str]:
    r"""The numbers as written, without the marks that group their digits.

    >>> numbers_in("-0.5 to 60,000, $10^{-5}$, 28 × 28, x[:10_000] and 3e-4")
    ['0.5', '60000', '10', '5', '28', '28', '10000', '3', '4']
    """
    text = re.sub(r"(?<=\d)(?:,|_|\{,\}|\\,)(?=\d{3}\b)", "", text)
    return re.findall(r"\d+(?:\.\d+)?", text)


# What is no claim: names of chapters and of symbols, numbering, addresses.
NO_CLAIM = [
    r"(?s)```.*?```", r"(?s)\$\$.*?\$\$", r"`[^`]*`", r"(?<=\])\([^)]*\)", r"(?m)^#+ .*$",
    r"\*\*\d+\.\*\*", r"Self-check \d", r"\bfloat(?:16|32|64)\b",
    r"(?i)chapters? \d(?: and \d| to \d)?",
]  # fmt: skip


def sentences(source: str | list[str]) -> list[str]:
    """Those with a number, without what is no claim."""
    text = "".join(source)
    text = text.partition("## Further reading")[0]
    for pattern in NO_CLAIM:
        text = re.sub(pattern, " ", text)
    text = re.sub(r"(?m)^> ?", "", text)
    # A paragraph ends a sentence, and so does an item of a list or a row of a table.
    blocks = re.split(r"\n\s*\n|\n(?=\s*[-|] ?)", text)
    found = []
    for block in blocks:
        found += re.split(r"(?<=[.?!:;])\)?\s+(?=[A-Z$*(\[])", " ".join(block.split()))
    return [sentence for sentence in found if numbers_in(_without_symbols(sentence))]


def _without_symbols(sentence: str) -> str:
    """Without indices and exponents of symbols ($z_1$, $\\sigma^2$), which are names and no numbers."""
    sentence = re.sub(r"(?<=[A-Za-z}])[_^]\{?-?\d+\}?", "", sentence)
    return re.sub(r"\\[td]?frac ?\d ?\d|½|\{(?:,)\}", "", sentence)


# Backing -----------------------------------------------------------------------------------------


def missing(chapter: str, backing: dict) -> str | None:
    """What is wrong with it, if anything."""
    kind = frozenset(backing)
    if kind not in KINDS:
        return f"is of no known kind: {sorted(kind)}"
    if not all(isinstance(value, str) and value.strip() for value in backing.values()):
        return "has an entry that is empty or no text"
    if "cell" in kind:
        cell = find_cell(chapter, backing["cell"])
        wanted = "markdown" if "derives" in kind else "code"
        if cell["cell_type"] != wanted:
            return f"is a {cell['cell_type']} cell"
        source = plain(cell["source"])
        if "prints" in kind and plain(backing["prints"]) not in output_of(cell):
            return f"does not print that, but: {output_of(cell)}"
        for key in ("source", "derives", "checks"):
            if key in kind and plain(backing[key]) not in source:
                return "does not contain that"
        if "checks" in kind and not CHECKS.search(source):
            return "checks nothing"
        if "draws" in kind and not any("image/png" in o.get("data", {}) for o in cell["outputs"]):
            return "draws nothing"
    if "page" in kind:
        page = BOOK / backing["page"]
        if not page.is_file() or plain(backing["shows"]) not in plain(page.read_text("utf-8")):
            return "does not show that"
    if "cite" in kind and backing["cite"] not in references():
        return "is not in references.bib"
    return None


@functools.cache
def references() -> str:
    return (BOOK / "references.bib").read_text(encoding="utf-8")


OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.Pow: operator.pow, ast.USub: operator.neg,
}  # fmt: skip
FUNCTIONS = {"log": math.log, "exp": math.exp, "sqrt": math.sqrt, "erf": math.erf, "round": round}


def compute(formula: str) -> float:
    """Numbers, + - * / **, and a few functions.

    >>> compute("206.0 - 172.9 + log(10)") > 35.4
    True
    """

    def value(node: ast.AST) -> float:
        match node:
            case ast.Expression():
                return value(node.body)
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.BinOp():
                return OPERATORS[type(node.op)](value(node.left), value(node.right))
            case ast.UnaryOp():
                return OPERATORS[type(node.op)](value(node.operand))
            case ast.Call(func=ast.Name(id=name), keywords=[]) if name in FUNCTIONS:
                return FUNCTIONS[name](*map(value, node.args))
        raise ValueError(f"{formula!r} has more in it than arithmetic")

    return float(value(ast.parse(formula, mode="eval")))


def is_rounding(said: str, exact: float | str) -> bool:
    """Whether `said` is `exact` with fewer digits. Zeros at its end count from the fourth digit on.

    >>> is_rounding("76", "76.2"), is_rounding("77", "76.2")
    (True, False)
    >>> is_rounding("5420", "5421"), is_rounding("60000", "59900")
    (True, False)
    """
    digits = said.partition(".")[2]
    unit = 10.0 ** -len(digits)
    if not digits and int(said):
        zeros = len(said) - len(said.rstrip("0"))
        unit = 10.0 ** min(zeros, max(0, len(said) - 3))
    return abs(float(said) - abs(float(exact))) <= 0.5 * unit * (1 + 1e-9)


def unbacked(claim: dict) -> list[str]:
    """The numbers of a claim that are neither in its backing nor computed from it."""
    free = {"cite", "known", "derives", "draws"}
    if any(free & set(backing) for backing in claim["by"]):
        return []
    exact = [
        number
        for backing in claim["by"]
        for key in ("prints", "source", "shows", "checks")
        for number in numbers_in(backing.get(key, ""))
    ]
    computed = claim.get("equals", {})
    said = numbers_in(_without_symbols(_stripped(claim["says"])))
    return [
        number
        for number in said
        if number not in computed and not any(is_rounding(number, value) for value in exact)
    ]


# The tests ---------------------------------------------------------------------------------------

ALL_CLAIMS = [
    pytest.param(chapter, claim, id=f"{chapter}-{number}")
    for chapter in CHAPTERS
    for number, claim in enumerate(claims_of(chapter), 1)
]


@pytest.mark.parametrize(("chapter", "claim"), ALL_CLAIMS)
def test_a_claim_is_made_and_backed(chapter, claim):
    assert set(claim) <= {"cell", "says", "by", "equals", "tests"}, f"unknown: {sorted(claim)}"
    cell = find_cell(chapter, claim["cell"])
    assert plain(claim["says"]) in plain(cell["source"]), f"{claim['cell']} does not say that"
    assert claim["by"], "nothing backs it"
    for backing in claim["by"]:
        wrong = missing(chapter, backing)
        assert wrong is None, f"{backing} {wrong}"
    assert not unbacked(claim), f"{claim['says']!r}: where do {unbacked(claim)} come from?"


@pytest.mark.parametrize(("chapter", "claim"), ALL_CLAIMS)
def test_what_is_computed_comes_out(chapter, claim):
    evidence = " ".join(str(value) for backing in claim["by"] for value in backing.values())
    for said, formula in claim.get("equals", {}).items():
        assert is_rounding(said, compute(formula)), f"{formula} is {compute(formula)}, not {said}"
        # What the formula is made of is in the backing, but for small factors such as 2 and 100.
        foreign = [
            number
            for number in numbers_in(formula)
            if number not in numbers_in(evidence) and number not in ("1", "2", "10", "100")
        ]
        assert not foreign, f"{formula}: where do {foreign} come from?"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_sentence_with_a_number_has_a_claim(chapter):
    without = []
    for name, cell in cells_of(chapter).items():
        if cell["cell_type"] != "markdown":
            continue
        quoted = [_stripped(c["says"]) for c in claims_of(chapter) if c["cell"] == name]
        for sentence in sentences(cell["source"]):
            text = _stripped(sentence)
            quotes = [quote for quote in quoted if quote in text or text in quote]
            left = _numbers_claimed(text) - set().union(*map(_numbers_claimed, quotes))
            if left or not quotes:
                without.append(f"{name}: {sorted(left)} in {sentence}")
    assert not without, f"{len(without)} of {chapter}:\n" + "\n".join(without)


def _numbers_claimed(text: str) -> set[str]:
    return set(numbers_in(_without_symbols(text)))


def _stripped(text: str) -> str:
    """What is left of a sentence when all that `sentences` takes away is gone from it."""
    for pattern in NO_CLAIM:
        text = re.sub(pattern, " ", text)
    return plain(text)


def displayed_formulas(chapter: str) -> list[tuple[str, str]]:
    """The cell and the text of each, without what only arranges it on the page."""
    return [
        (name, re.sub(r"\\(?:begin|end)\{aligned\}", "", formula).strip().rstrip(" .,:"))
        for name, cell in cells_of(chapter).items()
        if cell["cell_type"] == "markdown"
        for formula in re.findall(r"(?s)\$\$(.+?)\$\$", "".join(cell["source"]))
    ]


def unit_tests(file: Path) -> set[str]:
    """Their names as pytest gives them."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        is_class = isinstance(node, ast.ClassDef) and node.name.startswith("Test")
        for test in node.body if is_class else [node]:
            if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
                found.add("::".join([file.name, *[node.name] * is_class, test.name]))
    return found


def test_every_formula_of_chapter_3_has_a_unit_test():
    claims = [claim for claim in claims_of("03_elbo") if "tests" in claim]
    formulas = displayed_formulas("03_elbo")
    assert len(formulas) == len(claims) > 30
    for (cell, formula), claim in zip(formulas, claims):
        assert cell == claim["cell"] and plain(claim["says"]).endswith(plain(formula))
        assert claim["tests"], f"no unit test: {formula}"
    named = {test for claim in claims for test in claim["tests"]}
    assert named <= set().union(*map(unit_tests, (ROOT / "tests").glob("test_*.py")))
    # And no test of a formula is left of which there is none.
    assert unit_tests(ROOT / "tests" / "test_formulas.py") <= named


def test_the_examples_above_hold():
    result = doctest.testmod(sys.modules[__name__])
    assert result.attempted > 0 and result.failed == 0


def test_the_lists_are_of_the_chapters():
    files = sorted(path.stem for path in (ROOT / "tests" / "claims").glob("*.toml"))
    assert files == CHAPTERS
