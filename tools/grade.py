"""Grade what students handed in for a problem set, each submission in a sandbox (`make grade`).

    python tools/grade.py FOLDER ps3                 everything in FOLDER/submitted/*/ps3
    python tools/grade.py FOLDER ps3 --jobs 4        four at once
    python tools/grade.py FOLDER ps3 --no-sandbox    where there is none: only for code you trust

FOLDER is a course that `make course` made. Each notebook is run cell by cell in a kernel inside a
sandbox (tools/sandbox.py), and what came out is kept in FOLDER/.grading. nbgrader then does the
rest, as `nbgrader autograde` would: it puts the locked cells back, reads the outputs and writes the
marks into the gradebook. Killed half-way, the command goes on where it was; a submission that was
handed in again is graded again. The marks also come as a table, FOLDER/grades-ps3.csv.

What is done with a submission that is broken or hostile:

- a cell that takes too long is interrupted, and has no points; if that does not help, or if the
  kernel dies, a new one is started and the other cells, without those that killed it, are run
  again;
- a cell of tests that was deleted, changed or retyped is put back as it was; of two with the same
  name the last one counts; a file that is no notebook is graded as the untouched student version;
- what a cell prints beyond a limit is dropped; a warning costs no points;
- functions and classes of Python, numpy, torch and vae_lib that were replaced are put back before
  each locked cell; so are the names that the cell uses and has from earlier locked cells, and names
  that hide builtins which it uses.

A submission for which no kernel starts is not graded, and nobody's marks are changed by that.

Each of these is named in the table, for the instructor to look at.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import queue
import shutil
import signal
import stat
import subprocess
import symtable
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import problem_sets
import sandbox
from course import explain, nbgrader_api
from nbformat import NotebookNode
from problem_sets import is_marked, nbgrader_of
from sandbox import Limits, NoSandboxError

LARGEST_SUBMISSION = 20 << 20  # bytes
LARGEST_MESSAGE = 16 << 20  # bytes that a kernel may send at once
MOST_KERNELS = 8  # for one submission
NO_SANDBOX = """\
Install bubblewrap (on Debian and Ubuntu: apt install bubblewrap), docker or podman; or say
--no-sandbox, if you trust the code that was handed in."""
START_SECONDS = 120.0
LATE_SECONDS = 3.0  # that outputs may come after the reply

# Sent to each new kernel before anything of the student's. It remembers what Python, torch and
# others hold, and what a locked cell has defined once it is told to keep that. On request it puts
# back what was replaced, and says what. Of the notebook's own names it touches only those that it
# is asked for; among them a name of Python's builtins stands for what builtins have.
GUARD = r"""
def _make_guard():
    import builtins, sys, types
    import functools, math, numpy, operator, random, statistics, warnings
    import torch, torch.distributions, torch.nn.functional, torch.testing, torch.utils.data
    import vae_lib

    alone = ("builtins", "functools", "math", "numpy", "operator", "random", "statistics",
             "warnings", "torch", "torch._tensor", "torch.functional", "torch.random")
    families = ("numpy.linalg", "numpy.random", "torch.autograd", "torch.distributions",
                "torch.linalg", "torch.nn", "torch.optim", "torch.special", "torch.testing",
                "torch.utils.data", "vae_lib")
    modules = {n: m for n, m in list(sys.modules.items()) if isinstance(m, types.ModuleType)
               and (n in alone or any(n == f or n.startswith(f + ".") for f in families))}
    for kind in vars(torch.optim).values():
        # The first optimizer of a class wraps its `step`, once and for all.
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer):
            try:
                kind([torch.nn.Parameter(torch.zeros(1, 1))])
            except Exception:
                pass  # an abstract class
    classes = {c for m in modules.values() for c in vars(m).values()
               if isinstance(c, type) and c.__module__.startswith(("torch", "vae_lib"))}

    def watched(holder):
        if isinstance(holder, type):
            return {n: v for n, v in vars(holder).items() if hasattr(type(v), "__get__")
                    or callable(v)}
        kinds = (types.ModuleType, float, torch.dtype)
        return {n: v for n, v in vars(holder).items() if (callable(v) or isinstance(v, kinds))
                and (not n.startswith("__") or n in ("__build_class__", "__import__"))
                # the kernel's own
                and (holder is not builtins or n not in ("_", "display", "get_ipython", "input"))}

    kept = [(holder, watched(holder)) for holder in (*modules.values(), *classes)]
    shell = get_ipython()
    space, missing = shell.user_ns, object()
    own_names = {n: space.get(n, missing) for n in vars(builtins) if not n.startswith("_")}
    own_names["__builtins__"] = space["__builtins__"]
    names = ["ast_transformers", "input_transformers_post", "input_transformers_cleanup"]
    lists = [(shell, n, list(getattr(shell, n))) for n in names if hasattr(shell, n)]
    # Not what follows a cell: there matplotlib shows its figures.
    callbacks = {n: list(shell.events.callbacks[n]) for n in ("pre_execute", "pre_run_cell")}
    own = set(vars(shell))

    def keep(defined, variables):
        own_names.update({n: space[n] for n in defined if n in space})
        for name in variables:
            own_names.pop(name, None)  # it may have been that of an earlier definition

    def guard(names):
        changed = []
        for name in sorted({*names, "__builtins__"} & set(own_names)):
            value = own_names[name]
            if space.get(name, missing) is not value:
                changed.append(name)
                if value is missing:
                    del space[name]
                else:
                    space[name] = value
        for name, module in modules.items():
            if sys.modules.get(name) is not module:
                changed.append(f"the module {name}")
                sys.modules[name] = module
        for holder, values in kept:
            current = vars(holder)
            replaced = [n for n, v in values.items() if current.get(n, missing) is not v]
            for name in replaced:
                changed.append(f"{holder.__name__}.{name}")
                setattr(holder, name, values[name])
            if isinstance(holder, type):
                for name in [n for n in watched(holder) if n not in values]:
                    changed.append(f"{holder.__name__}.{name}")
                    delattr(holder, name)
        for owner, name, values in lists:
            if list(getattr(owner, name)) != values:
                changed.append(f"IPython's {name}")
                getattr(owner, name)[:] = values
        for name, values in callbacks.items():
            if list(shell.events.callbacks[name]) != values:
                changed.append(f"IPython's {name}")
                shell.events.callbacks[name][:] = values
        for name in ("run_cell", "run_code", "run_ast_nodes", "run_cell_async", "showtraceback"):
            if name in vars(shell) and name not in own:
                changed.append(f"IPython's {name}")
                delattr(shell, name)
        return ", ".join(changed)

    guard.keep = keep
    return guard


_guard_TOKEN = _make_guard()
del _make_guard
"""


@dataclass
class Record:
    """What became of a submission; kept on disk, so that a killed run can go on."""

    student: str
    digest: str
    cells: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0
    graded: bool = False


class KernelDied(Exception):
    """The kernel ended, or had to be ended."""


class NoKernelError(Exception):
    """A kernel in which nothing of a student's was run does not work: no submission's fault."""


class Kernel:
    """A Jupyter kernel in a sandbox, and what is needed to talk to it."""

    def __init__(self, kind: str | None, limits: Limits):
        import zmq
        from jupyter_client import BlockingKernelClient

        self.limits = limits
        # Short, since the path of a socket may have about a hundred characters.
        self.folder = Path(tempfile.mkdtemp(prefix="vae-"))
        self.token = os.urandom(8).hex()
        context = zmq.Context()
        context.setsockopt(zmq.MAXMSGSIZE, LARGEST_MESSAGE)
        context.setsockopt(zmq.LINGER, 0)
        self.context = context
        file = self.folder / "kernel.json"
        self.client = BlockingKernelClient(connection_file=str(file), context=context)
        self.client.transport, self.client.ip = "ipc", str(self.folder / "s")
        self.client.session.key = os.urandom(16).hex().encode()
        self.client.write_connection_file()
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", str(file)]
        command += ["--log-level=ERROR", "--HistoryManager.hist_file=:memory:"]
        self.process = subprocess.Popen(
            sandbox.wrap(kind, command, self.folder, limits),
            # A container lives as long as this is open.
            stdin=subprocess.PIPE if kind in ("docker", "podman") else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self.client.start_channels()
            end = time.monotonic() + START_SECONDS
            while True:
                try:
                    self.client.wait_for_ready(timeout=5)
                    break
                except RuntimeError as error:
                    if self.process.poll() is not None or time.monotonic() > end:
                        raise NoKernelError("the kernel did not start") from error
            guard = GUARD.replace("TOKEN", self.token)
            _, reply = self.run(guard, START_SECONDS, silent=True)
            if reply.get("status") != "ok":
                raise NoKernelError(f"the kernel is not usable: {reply}")
        except (KernelDied, TimeoutError) as error:
            self.close()
            raise NoKernelError(f"the kernel is not usable: {error.args[0]}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.client.stop_channels()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        self.context.destroy(linger=0)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run_cell(self, cell: NotebookNode, seconds: float) -> tuple[list[NotebookNode], dict]:
        """Run a cell; of a locked one the guard keeps what it defines and imports."""
        outputs, reply = self.run(cell.source, seconds)
        if nbgrader_of(cell).get("locked"):
            _, defined, variables = names_of(cell.source)
            self._ask_guard(f".keep({sorted(defined)}, {sorted(variables)})")
        return outputs, reply

    def _ask_guard(self, call: str) -> dict[str, Any]:
        expression = {"answer": f"_guard_{self.token}{call}"}
        _, reply = self.run("", 30.0, silent=True, user_expressions=expression)
        return reply.get("user_expressions", {}).get("answer", {})

    def replaced(self, names: set[str]) -> list[str]:
        """What the student's code has replaced, also of these names; it is put back."""
        found = self._ask_guard(f"({sorted(names)})")
        if found.get("status") != "ok":
            return ["what watches over replaced functions"]
        text = " ".join(found["data"].get("text/plain", "").split()).strip("'\"()")
        return [text[:300]] if text else []

    def run(
        self, code: str, seconds: float, *, silent: bool = False, user_expressions: Mapping = {}
    ) -> tuple[list[NotebookNode], dict[str, Any]]:
        """The outputs of some code and the kernel's reply.

        Raises `KernelDied` if the kernel ends or cannot be interrupted, `TimeoutError` if it was
        interrupted. Either has the outputs until then as its last argument.
        """
        message = self.client.execute(
            code,
            silent=silent,
            store_history=not silent,
            user_expressions=dict(user_expressions),
            allow_stdin=False,
        )
        outputs = Outputs(self.limits.output)
        end, interrupted = time.monotonic() + seconds, False
        reply, reply_seen = None, 0.0
        while True:
            try:
                left = end - time.monotonic()
                answer = self.client.get_iopub_msg(timeout=min(0.5, max(0.01, left)))
            except queue.Empty:
                answer = None
            if answer and answer["parent_header"].get("msg_id") == message:
                kind, content = answer["msg_type"], answer["content"]
                if kind == "status" and content.get("execution_state") == "idle":
                    break
                outputs.add(kind, content)
            elif answer is None and self.process.poll() is not None:
                raise KernelDied("the kernel died", outputs.nodes)
            elif answer is None and reply is None:
                reply, reply_seen = self._reply_to(message), time.monotonic()
            if reply is not None and time.monotonic() > reply_seen + LATE_SECONDS:
                self._connect_again()
                break
            if time.monotonic() > end and reply is None:
                if interrupted:
                    raise KernelDied("the kernel could not be interrupted", outputs.nodes)
                interrupted, end = True, time.monotonic() + 5
                request = self.client.session.msg("interrupt_request", {})
                self.client.control_channel.send(request)
        if interrupted:
            raise TimeoutError(f"more than {seconds:g} s", outputs.nodes)
        end = time.monotonic() + 10
        while reply is None and time.monotonic() < end:
            reply = self._reply_to(message, 1.0)
        if reply is None:
            raise KernelDied("the kernel does not reply", outputs.nodes)
        return outputs.nodes, reply

    def _connect_again(self) -> None:
        """After a message that was too large: ZeroMQ hangs up, and what came with it is lost."""
        socket = self.client.iopub_channel.socket
        socket.disconnect(socket.last_endpoint)
        socket.connect(socket.last_endpoint)
        time.sleep(0.5)  # until the kernel knows of it

    def _reply_to(self, message: str, seconds: float = 0.01) -> dict[str, Any] | None:
        try:
            reply = self.client.get_shell_msg(timeout=seconds)
        except queue.Empty:
            return None
        return reply["content"] if reply["parent_header"].get("msg_id") == message else None


def names_of(code: str) -> tuple[set[str], set[str], set[str]]:
    """The global names that code uses, that it defines or imports, and its other variables.

    Those among its variables count as its own, not as used.
    """
    try:
        tables = [symtable.symtable(code, "cell", "exec")]
    except SyntaxError:  # as that of a line for IPython
        return set(), set(), set()
    own = tables[0].get_symbols()
    defined = {s.get_name() for s in own if s.is_namespace() or s.is_imported()}
    variables = {s.get_name() for s in own if s.is_assigned()} - defined
    used = set()
    for table in tables:
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or table is tables[0]):
                used.add(symbol.get_name())
    return used - variables, defined, variables


def names_needed(test: str, locked: Iterable[str]) -> set[str]:
    """The global names that a test uses, itself or through what earlier locked cells define."""
    needed: set[str] = set()
    used = names_of(test)[0]
    while not used <= needed:
        needed |= used
        used = {n for used, defined, _ in map(names_of, locked) if defined & needed for n in used}
    return needed


class Outputs:
    """The outputs of a cell, up to a number of bytes; nothing that was shown is taken back."""

    def __init__(self, limit: int):
        self.nodes: list[NotebookNode] = []
        self.left = limit
        self.truncated = False

    def add(self, kind: str, content: dict[str, Any]) -> None:
        if kind not in ("stream", "error", "execute_result", "display_data"):
            return
        size = len(json.dumps(content))
        if size > self.left:
            if kind != "error":
                self.truncated = True
                return
            content = {**content, "evalue": content["evalue"][:1000], "traceback": []}
        self.left -= min(size, self.left)
        last = self.nodes[-1] if self.nodes else {}
        if kind == "stream" and last.get("name") == content["name"]:
            last.text += content["text"]
            return
        content = {key: value for key, value in content.items() if key != "transient"}
        self.nodes.append(nbformat.from_dict({"output_type": kind, **content}))


def main(arguments: list[str] | None = None) -> int:
    """Grade a batch; the exit status is 1 if a submission was not graded, 2 without a sandbox."""
    parser = argparse.ArgumentParser(prog="grade.py", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("set", metavar="SET")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--sandbox", choices=sandbox.KINDS, help="default: the first that works")
    parser.add_argument("--no-sandbox", action="store_true", help="run the code as yourself")
    parser.add_argument("--cell-seconds", type=float, default=Limits.cell_seconds)
    parser.add_argument("--total-seconds", type=float, default=Limits.total_seconds)
    parser.add_argument("--memory", type=float, default=4.0, help="GiB for one submission")
    options = parser.parse_args(arguments)
    if options.no_sandbox:
        kind = None
        print("Without a sandbox: students' code runs as you, with your files and your network.")
    else:
        try:
            kind = sandbox.find(options.sandbox)
        except NoSandboxError as error:
            print(f"grade: no sandbox: {error}", file=sys.stderr)
            print(NO_SANDBOX, file=sys.stderr)
            return 2
        print(f"Each submission runs in its own sandbox ({kind}).")
        if kind == "bwrap" and os.getuid() == 0:
            print("You are root, whose number of processes nothing limits: better be someone else.")
    limits = Limits(
        options.cell_seconds, options.total_seconds, memory=int(options.memory * (1 << 30))
    )
    try:
        return grade(options.folder.expanduser().resolve(), options.set, kind, limits, options.jobs)
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to go on.", file=sys.stderr)
        return 130


def grade(folder: Path, name: str, kind: str | None, limits: Limits, jobs: int) -> int:
    """Grade every submission of a set; return the exit status."""
    source_file = folder / "source" / name / f"{name}.ipynb"
    if not source_file.is_file():
        print(f"grade: {folder} is no course with a set {name}", file=sys.stderr)
        return 1
    source = problem_sets.read(source_file)
    release = problem_sets.read(folder / "release" / name / f"{name}.ipynb")
    kept = folder / ".grading" / name
    kept.mkdir(parents=True, exist_ok=True)
    files = {
        path.parent.name: path / f"{name}.ipynb"
        for path in sorted((folder / "submitted").glob(f"*/{name}"))
    }
    if not files:
        print(f"grade: nobody handed in {name}: {folder / 'submitted'}/*/{name} is empty")
        return 0
    records, failed = {}, {}
    with nbgrader_api(folder) as api, ThreadPoolExecutor(jobs) as pool:
        from tqdm import tqdm

        salt = hashlib.sha256(source_file.read_bytes() + repr(limits).encode()).hexdigest()
        futures = {
            pool.submit(examine, student, file, source, release, kind, limits, kept, salt): student
            for student, file in files.items()
        }
        waiting = set(futures)
        with tqdm(total=len(files), unit="submission", file=sys.stdout) as bar:
            try:
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        student = futures[future]
                        try:
                            record = future.result()
                            if not record.graded:
                                hand_over(api, folder, name, record)
                                record.graded = True
                                keep(record, kept)
                            records[student] = record
                        except Exception as error:  # whatever it is, the others go on
                            failed[student] = f"{type(error).__name__}: {error}"
                        bar.update()
            except BaseException:
                for future in waiting:
                    future.cancel()
                raise
        rows = summary(api, name, source, records, failed)
    table = folder / f"grades-{name}.csv"
    with open(table.with_suffix(".new"), "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    os.replace(table.with_suffix(".new"), table)
    show(rows)
    print(f"{len(records)} graded, {len(failed)} not. The table is in {table}.")
    return int(bool(failed))


def examine(
    student: str,
    file: Path,
    source: NotebookNode,
    release: NotebookNode,
    kind: str | None,
    limits: Limits,
    kept: Path,
    salt: str,
) -> Record:
    """Run a submission, unless that was done before; return what came of it."""
    start = time.perf_counter()
    try:
        content = read_submission(file)
    except OSError as error:
        content, problem = b"", str(error)
    else:
        problem = ""
    digest = hashlib.sha256(salt.encode() + content).hexdigest()
    path = kept / f"{student}.json"
    if path.is_file():
        record = Record(**json.loads(path.read_text(encoding="utf-8")))
        if record.digest == digest:
            return record
    record = Record(student, digest)
    try:
        submitted = nbformat.reads(content.decode("utf-8"), as_version=4) if content else None
        notebook = repaired(submitted, release, source, record.remarks) if submitted else None
    except Exception as error:  # nbformat raises many kinds
        notebook, problem = None, f"{type(error).__name__}: {str(error)[:200]}"
    if notebook is None:
        record.remarks.append(f"no notebook ({problem or 'an empty file'}): graded as untouched")
        notebook = repaired(release, release, source, [])
    execute(notebook, kind, limits, record.remarks)
    record.cells = json.loads(json.dumps(notebook.cells))
    record.seconds = round(time.perf_counter() - start, 1)
    keep(record, kept)
    return record


def keep(record: Record, kept: Path) -> None:
    new = kept / f"{record.student}.new"
    new.write_text(json.dumps(asdict(record)), encoding="utf-8")
    os.replace(new, kept / f"{record.student}.json")


def read_submission(file: Path) -> bytes:
    """The content of a file that was handed in.

    Raises `OSError` if it is a link, or anything but a file, or too large.
    """
    # O_NOFOLLOW: a link might lead to the gradebook. O_NONBLOCK: a pipe would never end.
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as opened:
        status = os.fstat(opened.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a file")
        if status.st_size > LARGEST_SUBMISSION:
            raise OSError(f"{status.st_size >> 20} MB, more than {LARGEST_SUBMISSION >> 20}")
        return opened.read()


def repaired(
    submitted: NotebookNode, release: NotebookNode, source: NotebookNode, remarks: list[str]
) -> NotebookNode:
    """The submission with every cell of nbgrader's in its place, as the source has it.

    Students' own cells stay where they are. nbgrader does much of this too, but gives a submission
    up where the cell before a deleted one is missing as well.
    """
    wanted = {nbgrader_of(c)["grade_id"]: c for c in release.cells if nbgrader_of(c)}
    originals = {nbgrader_of(c)["grade_id"]: c for c in source.cells if nbgrader_of(c)}
    last = {}
    for position, cell in enumerate(submitted.cells):
        data = cell.get("metadata", {}).get("nbgrader")
        grade_id = data.get("grade_id") if isinstance(data, dict) else None
        if grade_id in last:
            remarks.append(f"cell {grade_id} more than once")
        if grade_id in wanted:
            last[grade_id] = position
    cells: list[NotebookNode] = []
    for position, cell in enumerate(submitted.cells):
        grade_id = next((g for g, at in last.items() if at == position), None)
        if grade_id is None:
            if not isinstance(cell.source, str):
                continue
            metadata = {"tags": []} if cell.cell_type == "code" else {}
            plain = {"cell_type": cell.cell_type, "metadata": metadata, "source": cell.source}
            if cell.cell_type == "code":
                plain |= {"outputs": [], "execution_count": None}
            cells.append(nbformat.from_dict(plain))
            continue
        fresh = nbformat.from_dict(json.loads(json.dumps(wanted[grade_id])))
        if cell.cell_type != fresh.cell_type:
            remarks.append(f"cell {grade_id} was made a {cell.cell_type} cell")
        if nbgrader_of(fresh).get("solution"):
            fresh.source = cell.source
        elif fresh.source != cell.source:
            remarks.append(f"cell {grade_id} was changed")
        cells.append(fresh)
    order = list(wanted)
    for index, grade_id in enumerate(order):
        if grade_id in last:
            continue
        remarks.append(f"cell {grade_id} was deleted")
        before = order[index - 1] if index else None
        places = [i for i, c in enumerate(cells) if before and _name_of(c) == before]
        fresh = nbformat.from_dict(json.loads(json.dumps(wanted[grade_id])))
        cells.insert(places[-1] + 1 if places else 0, fresh)
        last[grade_id] = -1
    for number, cell in enumerate(cells):
        cell["id"] = nbgrader_of(cell).get("grade_id", f"cell-{number}")
        if nbgrader_of(cell) and not nbgrader_of(cell).get("solution"):
            cell.source = originals[cell["id"]].source
    return nbformat.from_dict(
        {"nbformat": 4, "nbformat_minor": 5, "metadata": dict(release.metadata), "cells": cells}
    )


def _name_of(cell: NotebookNode) -> str | None:
    return nbgrader_of(cell).get("grade_id")


def execute(notebook: NotebookNode, kind: str | None, limits: Limits, remarks: list[str]) -> None:
    """Run the code of a notebook, each cell with what came before it, whatever the cells do."""
    end = time.monotonic() + limits.total_seconds
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kernel, started, harmless, locked = None, 0, [], []
    try:
        for number, cell in enumerate(code):
            cell.execution_count = number + 1
            try:
                if time.monotonic() > end:
                    raise TimeoutError(f"more than {limits.total_seconds:g} s in all", [])
                while kernel is None:
                    if started >= MOST_KERNELS:
                        raise TimeoutError("the kernel died too often", [])
                    started += 1
                    kernel = _caught_up(Kernel(kind, limits), harmless, limits, end)
                if nbgrader_of(cell).get("locked"):
                    for name in kernel.replaced(names_needed(cell.source, locked)):
                        remarks.append(f"{name} replaced, before {cell.id}")
                    locked.append(cell.source)
                seconds = min(limits.cell_seconds, max(1.0, end - time.monotonic()))
                cell.outputs, reply = kernel.run_cell(cell, seconds)
                if reply.get("status") != "ok":
                    _add_error(cell, reply.get("ename", "Error"), reply.get("evalue", ""))
            except KernelDied as died:
                kernel = _closed(kernel)
                cell.outputs = died.args[1] if len(died.args) > 1 else []
                _add_error(cell, "DeadKernelError", died.args[0])
                remarks.append(f"{died.args[0]} in {cell.id}")
                continue
            except TimeoutError as late:
                cell.outputs = late.args[1]
                _add_error(cell, "CellTimeoutError", late.args[0])
                remarks.append(f"{late.args[0]}, {cell.id}")
            if is_marked(cell):
                _mark_fairly(cell)
            else:
                harmless.append(cell)
    finally:
        _closed(kernel)


def _closed(kernel: Kernel | None) -> None:
    if kernel is not None:
        kernel.close()


def _caught_up(
    kernel: Kernel, cells: list[NotebookNode], limits: Limits, end: float
) -> Kernel | None:
    """A new kernel in which the cells so far were run; None if one of them ended it this time."""
    try:
        for cell in list(cells):
            seconds = min(limits.cell_seconds, max(1.0, end - time.monotonic()))
            try:
                kernel.run_cell(cell, seconds)
            except TimeoutError:
                cells.remove(cell)
    except KernelDied:
        cells.remove(cell)
        return _closed(kernel)
    return kernel


def _add_error(cell: NotebookNode, name: str, message: str) -> None:
    """Say that the cell failed, if its outputs do not."""
    if not any(output.output_type == "error" for output in cell.outputs):
        text = f"{name}: {message}"
        error = {"output_type": "error", "ename": name, "evalue": message, "traceback": [text]}
        cell.outputs.append(nbformat.from_dict(error))


def _mark_fairly(cell: NotebookNode) -> None:
    """A warning on stderr costs nothing; a result shown before an error counts nothing."""
    failed = any(output.output_type == "error" for output in cell.outputs)
    for output in cell.outputs:
        if output.output_type == "stream":
            output.name = "stdout"
    if failed:
        cell.outputs = [o for o in cell.outputs if o.output_type != "execute_result"]


def hand_over(api: Any, folder: Path, name: str, record: Record) -> None:
    """Have nbgrader read the marks from what was run, and write them into its gradebook."""
    from nbgrader.converters import Autograde
    from nbgrader.utils import capture_log, temp_attrs

    executed = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": problem_sets.KERNEL},
        "cells": record.cells,
    }
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / record.student / name
        place.mkdir(parents=True)
        (place / f"{name}.ipynb").write_text(json.dumps(executed), encoding="utf-8")
        stamp = folder / "submitted" / record.student / name / "timestamp.txt"
        if stamp.is_file() and not stamp.is_symlink():
            shutil.copy(stamp, place)
        with temp_attrs(
            api.coursedir,
            assignment_id=name,
            student_id=record.student,
            submitted_directory=scratch,
        ):
            app = Autograde(coursedir=api.coursedir, parent=api)
            app.force = True
            # What was run outside takes the place of running it here.
            app.sanitize_preprocessors = app.sanitize_preprocessors[1:]  # not ClearOutput
            app.autograde_preprocessors = app.autograde_preprocessors[1:]  # not Execute
            result = capture_log(app)
    if not result["success"]:
        raise RuntimeError(explain(result))


def summary(
    api: Any,
    name: str,
    source: NotebookNode,
    records: Mapping[str, Record],
    failed: Mapping[str, str],
) -> list[list[str]]:
    """The table: a row for each student, a column for each task."""
    found = problem_sets.tasks(source)
    heads = [f"{task.number}. {task.name} (of {task.total:g})" for task in found]
    rows = [["student", *heads, "total", "to mark by hand", "seconds", "remarks"]]
    with api.gradebook as gradebook:
        for student in sorted({*records, *failed}):
            if student in failed:
                why = f"NOT GRADED: {failed[student]}"
                rows.append([student, *[""] * len(found), "", "", "", why])
                continue
            graded = gradebook.find_submission_notebook(name, name, student).grades
            scores = {grade.name: grade for grade in graded}
            row, total, by_hand = [student], 0.0, []
            for task in found:
                grades = [scores[cell] for cell in task.points]
                points = sum(grade.score for grade in grades)
                pending = any(grade.needs_manual_grade for grade in grades)
                row.append(f"{points:g}" + ("?" if pending else ""))
                total += points
                by_hand += [task.name] if pending else []
            record = records[student]
            remarks = "; ".join(dict.fromkeys(record.remarks))
            rows.append([*row, f"{total:g}", " ".join(by_hand), f"{record.seconds:g}", remarks])
    return rows


def show(rows: list[list[str]]) -> None:
    """Print the table, in columns; remarks are cut short."""
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [str(value).ljust(width) for value, width in zip(row, widths)]
        print("  ".join([*cells, str(row[-1])[:70]]).rstrip())


if __name__ == "__main__":
    sys.exit(main())
