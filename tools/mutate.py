"""Break vae_lib on purpose, one small change at a time, and count what the unit tests notice.

    python tools/mutate.py                          every mutant; half an hour to an hour
    python tools/mutate.py --modules models         one module
    python tools/mutate.py --resume                 go on; what changed since is tried again
    python tools/mutate.py --resume --write         and put the table into the book
    python tools/mutate.py --list                   only say what the mutants are

A mutant is the library with one thing changed: a number, an operator, a condition, a statement or
a keyword argument taken away. The operators are cosmic-ray's, and two of our own. The unit tests
run on each until the first that fails; chapters do not count, nor do the tests marked as slow,
which train on all of MNIST. A mutant that no test notices needs a reason in
tools/mutants_survivors.toml. The exit status is 1 if one has none, if a reason has lost
its mutant, or if fewer than 95 % are noticed.

Not mutated, since nothing that the library computes depends on it: annotations, docstrings,
comments, strings, and the text of an error message (its `fail` or `raise` as a whole is).

How it is fast: one process imports what is slow, forks for every mutant, and runs the tests in the
child; those that execute the changed line come first. How it is honest: each child works in a copy
of the project where the mutant is a file, so that the processes which tests start see it too.
"""

from __future__ import annotations

import argparse
import ast
import collections
import compileall
import contextlib
import dataclasses
import difflib
import gc
import hashlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider
from pages import BOOK, put_between_marks, table

ROOT = Path(__file__).resolve().parent.parent
# What a mutant may take beyond the time that the test takes on the library as it is.
PATIENCE, PATIENCE_S = 5, 15
MEMORY = 8 * 2**30
# Imported once, before the forks; nothing of the package itself, which every child imports anew.
PRELOAD = """torch numpy matplotlib.pyplot safetensors.torch tqdm IPython.display filelock
    platformdirs torchvision torchvision.datasets nbformat nbclient nbval.plugin PIL.Image
    hypothesis coverage pip""".split()
FIELDS = ["module", "function", "before", "after", "operator"]


# Which mutants there are -------------------------------------------------------------------------

# Of cosmic-ray's: each operator changed to its opposite or its neighbour. All the others that it
# could be changed to (an addition to a shift, say) are noticed by the same tests.
COSMIC_RAY = """
    ReplaceBinaryOperator_Add_Sub ReplaceBinaryOperator_Sub_Add ReplaceBinaryOperator_Mul_Div
    ReplaceBinaryOperator_Div_Mul ReplaceBinaryOperator_FloorDiv_Mul ReplaceBinaryOperator_Pow_Mul
    ReplaceBinaryOperator_Mod_Mul ReplaceBinaryOperator_BitOr_BitAnd
    ReplaceBinaryOperator_BitAnd_BitOr
    ReplaceComparisonOperator_Eq_NotEq ReplaceComparisonOperator_NotEq_Eq
    ReplaceComparisonOperator_Lt_LtE ReplaceComparisonOperator_Lt_GtE
    ReplaceComparisonOperator_LtE_Lt ReplaceComparisonOperator_LtE_Gt
    ReplaceComparisonOperator_Gt_GtE ReplaceComparisonOperator_Gt_LtE
    ReplaceComparisonOperator_GtE_Gt ReplaceComparisonOperator_GtE_Lt
    ReplaceComparisonOperator_Is_IsNot ReplaceComparisonOperator_IsNot_Is
    ReplaceUnaryOperator_Delete_USub ReplaceUnaryOperator_Delete_Invert
    ReplaceUnaryOperator_Delete_Not
    AddNot ReplaceTrueWithFalse ReplaceFalseWithTrue ReplaceAndWithOr ReplaceOrWithAnd
    ReplaceBreakWithContinue ReplaceContinueWithBreak ExceptionReplacer NumberReplacer
    RemoveDecorator ZeroIterationForLoop
""".split()


class DropStatement(Operator):
    """Put `pass` for a call, a raise, or an assignment to a part (`a.b = `, `a += `)."""

    def mutation_positions(self, node):
        if node.type == "simple_stmt" and self._matters(node.children[0]):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node, index):
        first = node.get_first_leaf()
        node.children[0] = parso.python.tree.Keyword("pass", first.start_pos, first.prefix)
        return node

    @staticmethod
    def _matters(statement) -> bool:
        if statement.type == "expr_stmt":
            target, operator = statement.children[:2]
            augmented = operator.type == "operator" and operator.value not in ("=", ":")
            return augmented or target.type == "atom_expr"
        is_call = statement.type == "atom_expr" and statement.children[-1].type == "trailer"
        return is_call or statement.type == "raise_stmt" or statement == "raise"

    @classmethod
    def examples(cls):
        return ()


class DropKeyword(Operator):
    """Leave out a keyword argument of a call."""

    def mutation_positions(self, node):
        for argument in self._arguments(node):
            yield argument.start_pos, argument.end_pos

    def mutate(self, node, index):
        position = node.children.index(self._arguments(node)[index])
        # With it goes a comma, the next or else the one before.
        after = node.children[position + 1 : position + 2] == [","]
        before = not after and node.children[position - 1 : position] == [","]
        del node.children[position - before : position + 1 + after]
        return node

    @staticmethod
    def _arguments(node) -> list:
        # A lone argument has no list around it.
        children = node.children if node.type in {"arglist", "trailer", "decorator"} else []
        return [c for c in children if c.type == "argument" and c.children[1:2] == ["="]]

    @classmethod
    def examples(cls):
        return ()


@dataclasses.dataclass
class Mutant:
    """One change. The first five fields name it; they hold no line number, which any edit moves."""

    module: str
    function: str
    before: str  # the changed lines, without their indentation
    after: str
    operator: str
    line: int
    code: str = dataclasses.field(repr=False)
    lines: range = dataclasses.field(repr=False)  # a test that executes none cannot notice it

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(getattr(self, field) for field in FIELDS[:4])


def find_mutants(module: str, source: str) -> list[Mutant]:
    """All mutants of a module that differ from it, and from one another, in what they compute."""
    provider = OperatorProvider()
    operators = {"DropStatement": DropStatement(), "DropKeyword": DropKeyword()}
    operators |= {name: provider[name]() for name in COSMIC_RAY}
    tree, places = get_ast(source), _Places(source)
    nodes = list(ast_nodes(tree))
    seen, found = {_essence(source)}, []
    for name, operator in operators.items():
        places_for = [
            (node, index, *position)
            for node in nodes
            for index, position in enumerate(operator.mutation_positions(node))
        ]
        for node, index, start, end in places_for:
            if name != "DropStatement" and places.is_message(start):
                continue
            code = _mutated(tree, node, operator, index)
            try:
                essence = _essence(code)
            except SyntaxError:
                continue
            if essence in seen:
                continue
            seen.add(essence)
            before, after = _difference(source, code)
            function = places.function(start[0])
            lines = places.statement(start[0], end[0])
            found.append(Mutant(module, function, before, after, name, start[0], code, lines))
    found.sort(key=lambda mutant: mutant.line)
    count = collections.Counter()
    for mutant in found:  # the same line may stand in a function twice
        count[mutant.key] += 1
        if count[mutant.key] > 1:
            mutant.after += f"  # number {count[mutant.key]}"
    return found


def _mutated(tree, node, operator: Operator, index: int) -> str:
    """The code of `tree` with `node` mutated; the tree is then as before.

    cosmic_ray.mutating does the same to a fresh tree every time, which takes five times as long.
    """
    below = list(ast_nodes(node))
    lists = [(n, list(n.children)) for n in [node.parent, *below] if hasattr(n, "children")]
    values = [(leaf, leaf.value) for leaf in below if hasattr(leaf, "value")]
    mutated, siblings = operator.mutate(node, index), node.parent.children
    siblings[siblings.index(node)] = mutated or parso.python.tree.Keyword("", node.start_pos)
    try:
        return tree.get_code()
    finally:
        for changed, children in lists:
            changed.children = children
        for leaf, value in values:
            leaf.value = value


def _difference(source: str, code: str) -> tuple[str, str]:
    """The lines that differ, each as one line of text."""
    changes = [
        line for line in difflib.ndiff(source.splitlines(), code.splitlines()) if line[0] in "-+"
    ]
    return tuple(
        " ".join(" ".join(line[2:] for line in changes if line[0] == sign).split()) for sign in "-+"
    )


def _essence(source: str) -> str:
    """What remains of a program without annotations, docstrings, layout and needless negations."""
    tree = _Negations().visit(ast.parse(source))
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
            if ast.get_docstring(node, clean=False) is not None:
                del node.body[0]
            if isinstance(node, ast.FunctionDef):
                node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


class _Negations(ast.NodeTransformer):
    """`not a == b` is `a != b`; `not not a` is `a`, since only conditions get a `not` in a mutant."""

    OPPOSITES = {ast.Eq: ast.NotEq, ast.Is: ast.IsNot, ast.In: ast.NotIn}
    OPPOSITES |= {opposite: operator for operator, opposite in OPPOSITES.items()}

    def visit_UnaryOp(self, node):
        self.generic_visit(node)
        inner = node.operand
        if not isinstance(node.op, ast.Not):
            return node
        if isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.Not):
            return inner.operand
        if isinstance(inner, ast.Compare) and len(inner.ops) == 1:
            if opposite := self.OPPOSITES.get(type(inner.ops[0])):
                return ast.Compare(inner.left, [opposite()], inner.comparators)
        return node


class _Places:
    """Where in a module something is: in a message, in which function, in which statement."""

    def __init__(self, source: str) -> None:
        self.nodes = list(ast.walk(ast.parse(source)))
        texts = source.splitlines()
        self.messages = []
        for node in self.nodes:
            call = node.value if isinstance(node, ast.Expr) else None
            name = getattr(call.func, "id", None) if isinstance(call, ast.Call) else None
            if isinstance(node, ast.Raise) or name == "fail":
                # ast counts columns in bytes, parso in characters.
                start = len(texts[node.lineno - 1].encode()[: node.col_offset].decode())
                end = len(texts[node.end_lineno - 1].encode()[: node.end_col_offset].decode())
                self.messages.append(((node.lineno, start), (node.end_lineno, end)))

    def is_message(self, position: tuple[int, int]) -> bool:
        return any(start <= position < end for start, end in self.messages)

    def function(self, line: int) -> str:
        kinds = (ast.FunctionDef, ast.ClassDef)
        around = [
            node for node in self.nodes
            if isinstance(node, kinds) and _first_line(node) <= line <= node.end_lineno
        ]  # fmt: skip
        return ".".join(node.name for node in sorted(around, key=_first_line)) or "(module)"

    def statement(self, first: int, last: int) -> range:
        """The lines that a tracer may report when it is executed; empty: at import."""
        around = [
            node for node in self.nodes
            if isinstance(node, ast.stmt) and _first_line(node) <= first <= node.end_lineno
        ]  # fmt: skip
        if not around:
            return range(0)
        node = max(around, key=lambda node: (_first_line(node), -node.end_lineno))
        if isinstance(node, ast.FunctionDef):  # its defaults or decorators: all of its body
            return range(node.body[0].lineno, node.end_lineno + 1)
        inside = any(
            isinstance(other, ast.FunctionDef) and other.lineno < node.lineno <= other.end_lineno
            for other in self.nodes
        )
        if not inside:
            return range(0)
        end = node.end_lineno
        if hasattr(node, "body"):
            end = max(last, node.body[0].lineno - 1)
        return range(node.lineno, end + 1)


def _first_line(node: ast.AST) -> int:
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])


# Running tests -----------------------------------------------------------------------------------


@dataclasses.dataclass
class Project:
    """The package and its tests as they are."""

    root: Path
    package: str

    def modules(self) -> list[str]:
        return sorted(p.stem for p in (self.root / self.package).glob("*.py"))

    def source(self, module: str) -> str:
        return self.path(module).read_text(encoding="utf-8")

    def path(self, module: str) -> Path:
        return self.root / self.package / f"{module}.py"

    def test_files(self) -> list[str]:
        """The test files that import the package at their top."""
        found = []
        for path in sorted((self.root / "tests").glob("test_*.py")):
            names = set()
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.Import):
                    names |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names.add(node.module.split(".")[0])
            # These test what is not in the package, or what is not mutated; of the rest of it they
            # ask for little.
            others = (
                "test_live_figures.py", "test_nb_compare.py", "test_reference_numbers.py",
                "test_search_recipe.py", "test_widgets_explorer.py", "test_widgets_small.py",
            )  # fmt: skip
            if self.package in names and path.name not in others:
                found.append(f"tests/{path.name}")
        return found

    def copied(self) -> list[Path]:
        """All that the tests need."""
        top = [self.root / name for name in ("conftest.py", "pyproject.toml")]
        below = [
            path for folder in (self.package, "tests") for path in (self.root / folder).rglob("*")
            if "__pycache__" not in path.parts
        ]  # fmt: skip
        pages = (self.root / "book").glob("*.md")
        return sorted(path for path in [*top, *below, *pages] if path.is_file())

    def snapshot(self, folder: Path) -> Project:
        """A copy of it all, so that nobody's edit changes what a long run tests."""
        for path in self.copied():
            copy = folder / path.relative_to(self.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        return Project(folder, self.package)

    def tests_digest(self) -> str:
        digest = hashlib.sha256()
        for name in ("pyproject.toml", "tests/conftest.py", *self.test_files()):
            if (self.root / name).is_file():
                digest.update((self.root / name).read_bytes())
        return digest.hexdigest()[:16]

    def source_digest(self, module: str) -> str:
        return hashlib.sha256(self.source(module).encode()).hexdigest()[:16]


class Sandbox:
    """A copy of the project in which one child at a time works, with data and a home of its own."""

    def __init__(self, project: Project, folder: Path, data: Path | None) -> None:
        self.project, self.folder, self.data = project, folder, data
        self.tree, self.home = folder / "tree", folder / "home"
        self.temporary, self.report = folder / "tmp", folder / "report.json"
        self.now = folder / "now.txt"  # the test that is running
        self.changed: Path | None = None
        self._fill()

    def _fill(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in (self.tree, self.home, self.temporary):
            folder.mkdir(parents=True)
        self.project.snapshot(self.tree)
        compileall.compile_dir(self.tree, quiet=2)
        if self.data is not None:
            shutil.copytree(self.data, self.folder / "data" / "MNIST" / "raw")
        self.before = self._look()

    def _look(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file that a mutant might have spoilt."""
        found = {}
        for folder in (self.tree, self.folder / "data"):
            for path in folder.rglob("*"):
                hidden = any(part in ("__pycache__", ".hypothesis") for part in path.parts)
                if path.is_file() and not hidden and path.name != ".lock":
                    status = path.stat()
                    found[str(path)] = (status.st_size, status.st_mtime_ns)
        return found

    def put(self, mutant: Mutant | None) -> None:
        """Make the tree hold this mutant, or the package as it is."""
        if self.changed is not None:
            shutil.copyfile(self.project.root / self.changed, self.tree / self.changed)
            self.changed = None
        if mutant is not None:
            self.changed = self.project.path(mutant.module).relative_to(self.project.root)
            path = self.tree / self.changed
            path.write_text(mutant.code, encoding="utf-8")
            Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)

    def clean(self) -> None:
        """After a run: nothing that it left may reach the next mutant."""
        self.put(None)
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir()
        now = self._look()
        for path in self.before.keys() | now.keys():
            # A module that was changed has the old bytes and a new time.
            if self.before.get(path) != now.get(path) and not self._is_as_it_was(Path(path)):
                self._fill()
                return
        self.before = now

    def _is_as_it_was(self, path: Path) -> bool:
        if not path.is_relative_to(self.tree) or not path.exists():
            return False
        original = self.project.root / path.relative_to(self.tree)
        return original.exists() and original.read_bytes() == path.read_bytes()

    def environment(self) -> dict[str, str]:
        nowhere = dict.fromkeys(
            ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
        )
        return nowhere | {
            "no_proxy": "127.0.0.1,localhost",
            "PYTHONPATH": str(self.tree),  # for the processes that tests start
            "PYTHONDONTWRITEBYTECODE": "1",  # a compiled mutant must not outlive it
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
            "HOME": str(self.home),
            "USERPROFILE": str(self.home),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "TMPDIR": str(self.temporary),
            "VAE_DATA": str(self.folder / "data"),
        }


class Plugin:
    """What pytest does differently in a child."""

    def __init__(self, sandbox: Sandbox, chosen: dict[str, float] | None) -> None:
        self.sandbox, self.chosen = sandbox, chosen
        self.failed, self.durations = None, collections.Counter()
        self.coverage = None
        if chosen is None:  # measure instead
            import coverage

            package = str(sandbox.tree / sandbox.project.package)
            self.coverage = coverage.Coverage(data_file=None, source=[package])

    def pytest_configure(self, config) -> None:
        # Examples are the same for every mutant; conftest.py has set its own profile by now.
        with contextlib.suppress(ImportError):
            from hypothesis import settings

            settings.register_profile("mutants", derandomize=True, database=None, deadline=None)
            settings.load_profile("mutants")
        if self.coverage:
            self.coverage.start()

    def pytest_make_collect_report(self, collector) -> None:
        if self.coverage and collector.nodeid.endswith(".py"):
            self.coverage.switch_context(f"import {collector.nodeid}")

    def pytest_collection_modifyitems(self, config, items) -> None:
        imported = sys.modules.get(self.sandbox.project.package)
        if imported and not Path(imported.__file__).is_relative_to(self.sandbox.tree):
            raise RuntimeError("tested would be the library itself")
        if self.chosen is not None:
            place = {nodeid: number for number, nodeid in enumerate(self.chosen)}
            items[:] = [item for item in items if item.nodeid in place]
            items.sort(key=lambda item: place[item.nodeid])

    def pytest_runtest_protocol(self, item) -> None:
        if self.coverage:
            self.coverage.switch_context(item.nodeid)
        else:
            self.sandbox.now.write_text(item.nodeid)
            _be_patient(self.chosen[item.nodeid])

    def pytest_runtest_logreport(self, report) -> None:
        self.durations[report.nodeid] += report.duration
        if report.failed:
            self.failed = self.failed or report.nodeid

    def pytest_collectreport(self, report) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid

    def report(self) -> dict:
        result = {"failed": self.failed, "durations": self.durations}
        if self.coverage:
            self.coverage.stop()
            data, lines = self.coverage.get_data(), {}
            for file in data.measured_files():
                for line, contexts in data.contexts_by_lineno(file).items():
                    for context in contexts:
                        lines.setdefault(context, {}).setdefault(Path(file).stem, []).append(line)
            result["lines"] = lines
        return result


def _be_patient(seconds: float) -> None:
    """End this process if it takes much longer than so many seconds.

    By a signal that kills, since a loop in compiled code would not let Python code run. The limit
    is for its time on a processor, so that a busy machine is no failure; that for a process which
    waits for ever is far larger.
    """
    limit = PATIENCE * seconds + PATIENCE_S
    signal.setitimer(signal.ITIMER_PROF, limit)
    signal.setitimer(signal.ITIMER_REAL, 4 * limit)


def start(sandbox: Sandbox, chosen: dict[str, float] | None) -> int:
    """Fork a child that runs the chosen tests in their order, or all of them and measures."""
    sandbox.report.unlink(missing_ok=True)
    sandbox.now.unlink(missing_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 91
    try:
        os.setsid()  # so that all that it starts can be ended with it
        for number in (signal.SIGALRM, signal.SIGPROF, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        files = sandbox.project.test_files()
        if chosen is not None:
            files = list(dict.fromkeys(test.split("::")[0] for test in chosen))
            _be_patient(10)
        with contextlib.suppress(ImportError):
            import resource

            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        log = os.open(sandbox.folder / "log.txt", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        null = os.open(os.devnull, os.O_RDONLY)
        for number, stream in ((null, 0), (log, 1), (log, 2)):
            os.dup2(number, stream)
        os.environ.update(sandbox.environment())
        tempfile.tempdir = None
        os.chdir(sandbox.tree)
        sys.path[0] = str(sandbox.tree)
        sys.dont_write_bytecode = True
        import pytest

        plugin = Plugin(sandbox, chosen)
        arguments = [
            "-q", "--tb=short", "--assert=plain", "-p", "no:cacheprovider", "-o", "addopts=",
            "-m", "not slow", "--rootdir", str(sandbox.tree), *files,
        ]  # fmt: skip
        arguments += [] if chosen is None else ["-x"]
        status = int(pytest.main(arguments, plugins=[plugin]))
        sandbox.report.write_text(json.dumps(plugin.report()))
        sys.stdout.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def end(child: int) -> None:
    """End a child's whole family; it may have left processes behind."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def measure(sandbox: Sandbox, cache: Path) -> dict:
    """Which test executes which line, and how long each takes; all must pass."""
    project = sandbox.project
    sources = [project.source_digest(module) for module in project.modules()]
    digest = hashlib.sha256("".join([project.tests_digest(), *sources]).encode()).hexdigest()
    if cache.exists():
        known = json.loads(cache.read_text())
        if known["digest"] == digest:
            return known
    print("measuring which test executes what, on the package as it is …", flush=True)
    child = start(sandbox, None)
    _, status = os.waitpid(child, 0)
    end(child)
    if status != 0:
        log = (sandbox.folder / "log.txt").read_text(errors="replace")
        sys.exit(f"{log[-3000:]}\nthe tests do not pass on the package as it is")
    known = json.loads(sandbox.report.read_text()) | {"digest": digest}
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(json.dumps(known))
    sandbox.clean()
    return known


class Choice:
    """For each mutant the tests that could notice it, in the order that should be quickest."""

    def __init__(self, measured: dict) -> None:
        self.durations = measured["durations"]
        self.tests_of = collections.defaultdict(list)  # file: its tests, the quickest first
        for test in sorted(self.durations, key=self.durations.get):
            self.tests_of[test.split("::")[0]].append(test)
        self.by_line = collections.defaultdict(set)
        for context, modules in measured["lines"].items():
            # What is executed while a file of tests is imported, any of its tests would notice.
            tests = [context]
            if context.startswith("import "):
                tests = self.tests_of[context.removeprefix("import ")][:1]
            for module, lines in modules.items():
                for line in lines:
                    self.by_line[module, line].update(tests)
        self.successes = collections.defaultdict(collections.Counter)

    def tests(self, mutant: Mutant) -> dict[str, float]:
        """The tests to run, in this order, and how long each takes."""
        if mutant.lines:
            covering = {t for line in mutant.lines for t in self.by_line[mutant.module, line]}
        else:
            covering = set(self.durations)
        own = set(self._own_tests(mutant.module))
        best = self.successes[mutant.module, mutant.function]

        def rank(test: str) -> tuple:
            # What executes none of its lines in this process may do so in another.
            return test not in covering, -best[test], self.durations[test]

        chosen = covering | own or set(self.durations)
        return {test: self.durations[test] for test in sorted(chosen, key=rank)}

    def _own_tests(self, module: str) -> list[str]:
        files = {"mnist_files": "test_data", "__main__": "test_data", "__init__": "test_public_api"}
        return self.tests_of[f"tests/{files.get(module, f'test_{module}')}.py"]


def run_all(
    mutants: list[Mutant], sandboxes: list[Sandbox], choice: Choice, results: Path
) -> Iterator[dict]:
    """Test the mutants, as many at a time as there are sandboxes; yields one record for each."""
    waiting, free, running = collections.deque(mutants), [*sandboxes], {}
    project = sandboxes[0].project
    tests_digest = project.tests_digest()
    try:
        while waiting or running:
            while waiting and free:
                sandbox, mutant = free.pop(), waiting.popleft()
                sandbox.put(mutant)
                child = start(sandbox, choice.tests(mutant))
                running[child] = sandbox, mutant, time.monotonic()
            child, status = os.wait()
            if child not in running:
                continue
            end(child)
            sandbox, mutant, since = running.pop(child)
            outcome, by = _outcome(sandbox, status)
            if by is not None:
                choice.successes[mutant.module, mutant.function][by] += 1
            record = {field: getattr(mutant, field) for field in FIELDS} | {
                "line": mutant.line, "outcome": outcome, "by": by,
                "seconds": round(time.monotonic() - since, 1),
                "source": project.source_digest(mutant.module), "tests": tests_digest,
            }  # fmt: skip
            with open(results, "a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
            sandbox.clean()
            free.append(sandbox)
            yield record
    finally:
        for child in running:
            end(child)


def _outcome(sandbox: Sandbox, status: int) -> tuple[str, str | None]:
    """What became of a mutant, and which test, or which file of tests, noticed it."""
    if os.WIFSIGNALED(status):
        running = sandbox.now.read_text() if sandbox.now.exists() else None
        late = os.WTERMSIG(status) in (signal.SIGALRM, signal.SIGPROF)
        return ("timeout" if late else "killed"), running
    if os.WEXITSTATUS(status) == 0:
        return "survived", None
    if os.WEXITSTATUS(status) in (1, 2) and sandbox.report.exists():
        if failed := json.loads(sandbox.report.read_text())["failed"]:
            return "killed", failed
    log = (sandbox.folder / "log.txt").read_text(errors="replace")
    raise RuntimeError(f"could not run the tests on {sandbox.changed}:\n{log[-3000:]}")


# What it says ------------------------------------------------------------------------------------


def read_reasons(path: Path) -> dict[tuple[str, ...], str]:
    """Why mutants survive. One reason may serve several."""
    reasons = {}
    if path.exists():
        for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("survivors", []):
            for before, after in entry["mutants"]:
                reasons[entry["module"], entry["function"], before, after] = entry["reason"]
    return reasons


def summary(
    mutants: list[Mutant], records: dict, reasons: dict, goal: float
) -> tuple[str, list[str]]:
    """The table with the list of survivors, in Markdown, and what is wrong."""
    rows, survivors, faults = [], [], []
    total = collections.Counter()
    for module in sorted({mutant.module for mutant in mutants}):
        own = [mutant for mutant in mutants if mutant.module == module]
        count = collections.Counter(records[mutant.key]["outcome"] for mutant in own)
        total += count
        rows.append(_row(f"`{module}`", count))
        survivors += [m for m in own if records[m.key]["outcome"] == "survived"]
    rows.append(_row("all", total))
    share = 1 - total["survived"] / max(1, total.total())
    if share < goal:
        faults.append(f"only {share:.1%} of the mutants were noticed, less than {goal:.0%}")
    by_reason = collections.defaultdict(list)
    for mutant in survivors:
        reason = reasons.get(mutant.key)
        if reason is None:
            faults.append(
                f"line {mutant.line} of {mutant.module}, {mutant.function}: no reason for\n"
                f"    {_toml(mutant)}"
            )
        by_reason[reason or "No reason yet."].append(mutant)
    survived = {mutant.key for mutant in survivors}
    tried = {mutant.key for mutant in mutants}
    for key in reasons.keys() - survived:
        if key in tried:
            faults.append(f"{key[0]}, {key[1]}: a reason for what is noticed now: {key[2:]}")
    parts = [table(["module", "mutants", "noticed", "of these by timeout", "not", "share"], rows)]
    if survivors:
        parts.append("The mutants that no unit test notices, and why:")
    for reason, group in by_reason.items():
        lines = "\n".join(
            f"  - `{m.module}.{m.function}`: {_code(m.before)} → {_code(m.after)}" for m in group
        )
        parts.append(f"- {reason}\n{lines}")
    return "\n\n".join(parts), faults


def _row(name: str, count: collections.Counter) -> list[str]:
    noticed = count.total() - count["survived"]
    share = f"{noticed / count.total():.1%}"
    return [name, count.total(), noticed, count["timeout"], count["survived"], share]


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    text = text if len(text) <= 110 else text[:107] + "…"
    return f"{fence} {text} {fence}" if fence == "``" else f"`{text or '(nothing)'}`"


def _toml(mutant: Mutant) -> str:
    return json.dumps([mutant.before, mutant.after], ensure_ascii=False) + ","


def stale(project: Project, reasons: dict, known: dict[str, list[Mutant]]) -> list[str]:
    """Reasons for mutants that are no longer there."""
    keys = {mutant.key for mutants in known.values() for mutant in mutants}
    return [
        f"{key[0]}, {key[1]}: a reason for a mutant that is not there: {key[2:]}"
        for key in reasons
        if (key[0] in known or key[0] not in project.modules()) and key not in keys
    ]


# The command -------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time")
    parser.add_argument("--modules", nargs="+", help="only these, in this order")
    parser.add_argument("--goal", type=float, default=0.95, help="the share to be noticed")
    parser.add_argument("--resume", action="store_true", help="keep results that still hold")
    parser.add_argument("--write", action="store_true", help="put the table into the book")
    parser.add_argument("--list", action="store_true", help="list the mutants, test none")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    parser.add_argument("--package", default="vae_lib", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.write and options.modules:
        parser.error("--write needs all modules")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left behind
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        Path(folder).chmod(0o755)  # some tests go on as a user who may do little
        return _mutate(options, Path(folder), parser.error)


def _mutate(options: argparse.Namespace, folder: Path, error: Callable[[str], None]) -> int:
    root = options.root.resolve()
    project = Project(root, options.package).snapshot(folder / "project")
    modules = options.modules or project.modules()
    if unknown := set(modules) - set(project.modules()):
        error(f"no such module: {', '.join(unknown)}")
    known = {module: find_mutants(module, project.source(module)) for module in modules}
    mutants = [mutant for module in modules for mutant in known[module]]
    if options.list:
        for m in mutants:
            print(f"{m.module}:{m.line} {m.function} [{m.operator}]\n  - {m.before}\n  + {m.after}")
        print(f"{len(mutants)} mutants")
        return 0

    results = root / "_build" / "mutants" / "results.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    records = _read_records(results, project) if options.resume else {}
    if not options.resume:
        results.write_text("")
    left = [mutant for mutant in mutants if mutant.key not in records]
    print(f"{len(mutants)} mutants, {len(left)} to be tested", flush=True)
    if left:
        for record in _test(project, left, folder, results, options.jobs):
            records[tuple(record[field] for field in FIELDS[:4])] = record
    reasons = read_reasons(root / "tools" / "mutants_survivors.toml")
    text, faults = summary(mutants, records, reasons, options.goal)
    faults += stale(project, reasons, known)
    print(text)
    if options.write:
        put_between_marks(BOOK / "reproducibility.md", "mutants", text)
    print(*faults, sep="\n", file=sys.stderr)
    return 1 if faults else 0


def _read_records(results: Path, project: Project) -> dict:
    """The results that still hold: of the same source; a survivor's also of the same tests."""
    records, tests = {}, project.tests_digest()
    sources = {module: project.source_digest(module) for module in project.modules()}
    if results.exists():
        for line in results.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            key = tuple(record[field] for field in FIELDS[:4])
            records.pop(key, None)
            same_tests = record["outcome"] != "survived" or record["tests"] == tests
            if record["source"] == sources.get(record["module"]) and same_tests:
                records[key] = record
    return records


def _test(
    project: Project, mutants: list[Mutant], folder: Path, results: Path, jobs: int
) -> Iterator[dict]:
    os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}  # a fork copies no threads
    if project.package == "vae_lib":
        for name in PRELOAD:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    import pytest  # noqa: F401

    assert project.package not in sys.modules
    # Otherwise every child's search for garbage would touch, and so copy, all that is imported.
    gc.freeze()
    data = _real_data() if project.package == "vae_lib" else None
    sandboxes = [Sandbox(project, folder / str(i), data) for i in range(max(1, jobs))]
    choice = Choice(measure(sandboxes[0], results.with_suffix(".coverage.json")))
    began = time.monotonic()
    records = run_all(mutants, sandboxes, choice, results)
    for number, record in enumerate(records, start=1):
        if record["outcome"] == "survived":
            print(f"{record['module']}:{record['line']} {record['function']} survived:")
            print(f"  - {record['before']}\n  + {record['after']}", flush=True)
        if number % 25 == 0 or number == len(mutants):
            minutes = (time.monotonic() - began) / 60
            print(f"{number} of {len(mutants)} in {minutes:.1f} minutes", flush=True)
        yield record


def _real_data() -> Path | None:
    """The folder with the four files, if it is there."""
    from platformdirs import user_cache_dir

    root = Path(os.environ.get("VAE_DATA") or user_cache_dir("vae_lib")).expanduser()
    raw = root / "MNIST" / "raw"
    return raw if raw.is_dir() else None


if __name__ == "__main__":
    sys.exit(main())
