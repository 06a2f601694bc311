"""Run a Jupyter kernel where a student's code can do no harm: in bubblewrap, docker or podman.

The kernel alone is inside. What starts it, talks to it and keeps the marks stays outside: neither
the notebook, nor the tests that are still to come, nor the gradebook are files that the kernel
could read. Inside there are the system's programs, Python and its packages, `vae_lib` and MNIST, all
read-only; an empty folder in memory to write to; the folder of the kernel's sockets; no network.

What this cannot keep: a test that has been sent is in the kernel's memory, and the student's code
is there too. So hidden tests can be read while they run, but not sent anywhere except into the
outputs, which the instructor sees before the student. And the kernel reports its own results: code
written to forge them, not merely to meddle with PyTorch, could. For an examination read the
submissions.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives", "/etc/fonts")
SYSTEM += ("/etc/ld.so.cache", "/etc/localtime", "/opt")
WORK = "/tmp/work"
IMAGE = os.environ.get("VAE_BOOK_IMAGE", "debian:stable-slim")
KINDS = ("bwrap", "docker", "podman")

# Runs first inside, with a Python that has not yet imported anything: sets the limits, then becomes
# the kernel. DATA counts what a process may allocate; torch needs far more of mere address space.
LIMITED = """
import os, resource, sys
memory, seconds, files, processes = map(int, sys.argv[1:5])
for name, limit in (("DATA", memory), ("CPU", seconds), ("FSIZE", files), ("NOFILE", 256),
                    ("CORE", 0), ("NPROC", processes)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (limit, limit))
os.execv(sys.executable, [sys.executable, *sys.argv[5:]])
"""


class NoSandboxError(Exception):
    """No program to make a sandbox with, or it does not work here."""


@dataclass(frozen=True)
class Limits:
    """What one submission may use."""

    cell_seconds: float = 60.0
    total_seconds: float = 600.0
    memory: int = 4 << 30  # bytes of each process
    written: int = 64 << 20  # bytes of each file
    folder: int = 256 << 20  # bytes in all, in memory
    output: int = 1 << 20  # bytes of each cell


def find(wanted: str | None = None) -> str:
    """The kind of sandbox to use: the one named, else the first that works here.

    Raises `NoSandboxError` that says what was tried.
    """
    tried = []
    for kind in (wanted,) if wanted else KINDS:
        if kind not in KINDS:
            raise NoSandboxError(f"{kind!r}: expected one of {', '.join(KINDS)}")
        if shutil.which(kind) is None:
            tried.append(f"{kind} is not installed")
            continue
        command = wrap(kind, [sys.executable, "-c", "print('inside')"], None, Limits())
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired:
            tried.append(f"{kind} does not answer")
            continue
        if done.returncode == 0 and "inside" in done.stdout:
            return kind
        tried.append(f"{kind} does not work: {(done.stderr.strip() or 'no reason given')[-200:]}")
    raise NoSandboxError("; ".join(tried))


def wrap(
    kind: str | None, command: Sequence[str], sockets: Path | None, limits: Limits
) -> list[str]:
    """The command that runs `command`, whose first word is this Python, inside a sandbox.

    kind: one of `KINDS`, or None for none (then the limits hold all the same).
    sockets: the one folder outside that can be written to.
    """
    # Outside a sandbox the limit would count everything that the user runs.
    processes = 256 if kind else -1
    resources = (limits.memory, int(limits.total_seconds), limits.written, processes)
    inside = [command[0], "-c", LIMITED, *map(str, resources), *command[1:]]
    environment = _environment(kind)
    if kind is None:
        return ["env", *(f"{name}={value}" for name, value in environment.items()), *inside]
    visible = [str(path) for path in _visible()]
    if kind == "bwrap":
        words = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
        words += ["--cap-drop", "ALL", "--proc", "/proc", "--dev", "/dev"]
        words += ["--size", str(limits.folder), "--tmpfs", "/tmp", "--dir", WORK, "--chdir", WORK]
        for path in visible:
            # /bin may be a link to /usr/bin, and is one inside too.
            if os.path.islink(path):
                words += ["--symlink", os.readlink(path), path]
            else:
                words += ["--ro-bind", path, path]
        if sockets:
            words += ["--bind", str(sockets), str(sockets)]
        for name, value in environment.items():
            words += ["--setenv", name, value]
        return [*words, "--remount-ro", "/", "--", *inside]
    words = [kind, "run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL"]
    words += ["--security-opt", "no-new-privileges", "--pids-limit", "256"]
    words += ["--memory", str(2 * limits.memory), "--user", f"{os.getuid()}:{os.getgid()}"]
    words += ["--tmpfs", f"/tmp:size={limits.folder},mode=1777", "--workdir", "/tmp"]
    for path in visible:
        if not os.path.islink(path):
            words += ["--volume", f"{path}:{path}:ro"]
    if sockets:
        words += ["--volume", f"{sockets}:{sockets}"]
    for name, value in environment.items():
        words += ["--env", f"{name}={value}"]
    return [*words, IMAGE, *inside]


def _visible() -> list[Path]:
    """What can be read inside, outermost first: nothing of the course's or the instructor's."""
    library = importlib.util.find_spec("vae_lib")
    package = Path(library.origin).parent if library else ROOT / "vae_lib"
    paths = [Path(path) for path in SYSTEM if os.path.lexists(path)]
    for path in (Path(sys.base_prefix), Path(sys.prefix), package, _data()):
        if path.exists() and not any(path.is_relative_to(seen) for seen in paths):
            paths.append(path)
    return paths


def _data() -> Path:
    from vae_lib.runtime import cache_folder

    return cache_folder(None).absolute()


def _environment(kind: str | None) -> dict[str, str]:
    library = importlib.util.find_spec("vae_lib")
    package = Path(library.origin).parent.parent if library else ROOT
    own = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": str(package),
        "VAE_DATA": str(_data()),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    if kind is not None:
        # Without a sandbox the folder does not exist, and the kernel uses the instructor's own.
        own |= {name: "/tmp" for name in ("HOME", "TMPDIR", "MPLCONFIGDIR", "IPYTHONDIR")}
    return own
