"""The mutants: what is changed and what is not, and that what no test notices needs a reason."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "tools")
    mutate = importlib.import_module("mutate")
    for shared_name in ("pages", "mutate"):  # other tests import their own
        sys.modules.pop(shared_name, None)


# Which mutants there are -------------------------------------------------------------------------


def changes(source):
    """(before, after) of every mutant of a module."""
    return {(mutant.before, mutant.after) for mutant in mutate.find_mutants("module", source)}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("return a + b", "return a - b"),
        ("return a < b", "return a <= b"),
        ("return a < b", "return a >= b"),
        ("return a and b", "return a or b"),
        ("return not a", "return a"),
        ("return -a", "return a"),
        ("return 3", "return 4"),
        ("return 3", "return 2"),
        ("return True", "return False"),
        ("a.sort()", "pass"),
        ("a[0] = b", "pass"),
        ("a += b", "pass"),
        ('raise ValueError("no")', "pass"),
        ("return f(a, key=b)", "return f(a)"),
        ("return f(key=b)", "return f()"),
    ],
)
def test_change(before, after):
    assert (before, after) in changes(f"def function(a, b):\n    {before}\n")


@pytest.mark.parametrize(
    "source",
    [
        '"""Not 1 + 1."""\n',
        "# not 1 + 1\n",
        'text = "not 1 + 1"\n',
        "def function(a: int | None, b: list[1 + 1]) -> dict[3]:\n    return a\n",
        'def function(a):\n    """Add 1."""\n',
    ],
)
def test_what_computes_nothing_is_left_as_it_is(source):
    assert changes(source) == set()


def test_of_a_message_only_the_whole_is_taken_away():
    source = "def function(a):\n    if a:\n        fail('a', f'less than {a + 1}', 2)\n"
    assert {after for before, after in changes(source) if "fail" in before} == {"pass"}


def test_mutants_are_programs_that_differ_and_can_be_told_apart():
    source = (ROOT / "vae_lib" / "checks.py").read_text(encoding="utf-8")
    mutants = mutate.find_mutants("checks", source)
    codes = {mutant.code for mutant in mutants}
    assert len(mutants) > 100 and len(codes) == len(mutants) and source not in codes
    assert len({mutant.key for mutant in mutants}) == len(mutants)
    for code in codes:
        compile(code, "checks.py", "exec")


def test_the_unit_tests_that_run_on_them_need_only_what_is_copied(tmp_path):
    project = mutate.Project(ROOT, "vae_lib").snapshot(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--setup-plan", "-q", "-W", "default",
         *project.test_files()],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "SETUP    S site" not in done.stdout, "a test needs the pages"


# Running them, on a package of one function -------------------------------------------------------

MODULE = """
def larger(a, b):
    return a if a > b else b
"""
TESTS = """
from tiny.module import larger

def test_larger():
    assert larger(1, 2) == 2
    assert larger(2, 1) == 2
"""
REASON = """
[[survivors]]
module = "module"
function = "larger"
reason = "Of two equal numbers either is the larger."
mutants = [
    ["return a if a > b else b", "return a if a >= b else b"],
]
"""


@pytest.fixture
def root(tmp_path):
    for folder in ("tiny", "tests", "tools"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tiny" / "__init__.py").write_text("")
    (tmp_path / "tiny" / "module.py").write_text(MODULE)
    (tmp_path / "tests" / "test_module.py").write_text(TESTS)
    return tmp_path


def run(root, *arguments):
    command = [
        sys.executable, ROOT / "tools" / "mutate.py", "--root", root, "--package", "tiny",
        "--jobs", "1", *arguments,
    ]  # fmt: skip
    # The plugins of this project would be imported anew for every mutant.
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def outcomes(root):
    """What became of the last attempt at each mutant, and which test noticed it."""
    lines = (root / "_build" / "mutants" / "results.jsonl").read_text().splitlines()
    return {
        record["after"]: (record["outcome"], record["by"]) for record in map(json.loads, lines)
    }


def test_a_survivor_needs_a_reason_and_a_reason_its_survivor(root):
    survivor, killed = "return a if a >= b else b", "return a if a <= b else b"
    unexplained = run(root)
    assert unexplained.returncode == 1, unexplained.stderr
    assert outcomes(root)[survivor] == ("survived", None)
    assert outcomes(root)[killed] == ("killed", "tests/test_module.py::test_larger")
    said = f"no reason for\n    {json.dumps(['return a if a > b else b', survivor])}"
    assert said in unexplained.stderr and "only 66.7% of the mutants" in unexplained.stderr
    assert (root / "tiny" / "module.py").read_text() == MODULE

    (root / "tools" / "mutants_survivors.toml").write_text(REASON)
    explained = run(root, "--resume", "--goal", "0.6")
    assert " 0 to be tested" in explained.stdout
    assert explained.returncode == 0, explained.stderr
    assert "Of two equal numbers either is the larger." in explained.stdout

    # A test that notices it leaves the reason without a survivor.
    better = "    assert isinstance(larger(0.0, 0), int)\n"
    (root / "tests" / "test_module.py").write_text(TESTS + better)
    needless = run(root, "--resume")
    assert " 1 to be tested" in needless.stdout and needless.returncode == 1
    assert "a reason for what is noticed now" in needless.stderr
