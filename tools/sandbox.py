"""Run a Jupyter kernel where a student's code can do no harm: in bubblewrap, docker or podman.

The kernel alone is inside. What starts it, talks to it and keeps the marks stays outside: neither
the notebook, nor the tests that are still to come, nor the gradebook are files that the kernel
could read. Inside there are the system's programs, Python and its packages, `vae_lib` and MNIST, all
read-only; an empty folder in memory to write to; the folder of the kernel's sockets; no network.
A container needs an image, and gets one without a file in it, which is made here: all that is
inside comes from outside, as it does with bubblewrap.

What this cannot keep: a test that has been sent is in the kernel's memory, and the student's code
is there too. So hidden tests can be read while they run, but not sent anywhere except into the
outputs, which the instructor sees before the student. And the kernel reports its own results: code
written to forge them, not merely to meddle with PyTorch, could. For an examination read the
submissions.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives", "/etc/fonts")
SYSTEM += ("/etc/ld.so.cache", "/etc/localtime", "/opt")
WORK = "/tmp/work"
KINDS = ("bwrap", "docker", "podman")

# Runs first inside, with a Python that has not yet imported anything: sets the limits, then becomes
# the kernel. DATA counts what a process may allocate; torch needs far more of mere address space.
LIMITED = """
import os, resource, sys
memory, seconds, files, processes = map(int, sys.argv[1:5])
for name, limit in (("DATA", memory), ("CPU", seconds), ("FSIZE", files), ("NOFILE", 256),
                    ("CORE", 0), ("NPROC", processes)):
    number = getattr(resource, "RLIMIT_" + name)
    limits = {limit, resource.getrlimit(number)[1]} - {resource.RLIM_INFINITY}
    if limits:  # a limit may be lowered and not raised
        resource.setrlimit(number, (min(limits), min(limits)))
os.execv(sys.executable, [sys.executable, *sys.argv[5:]])
"""

# Before that in a container, where it is the first process: nothing else ends a container when the
# program that asked for it is killed. With it goes what holds the other end of this one's input.
WATCHED = """
import os, select
kernel = os.fork()
if kernel:
    select.select([0, os.pidfd_open(kernel)], [], [])
    ended, status = os.waitpid(kernel, os.WNOHANG)
    os._exit(os.waitstatus_to_exitcode(status) & 255 if ended else 1)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
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
        try:
            done = _try(kind)
        except subprocess.TimeoutExpired:
            tried.append(f"{kind} does not answer")
            continue
        if done.returncode == 0 and b"inside" in done.stdout:
            return kind
        reason = done.stderr.decode(errors="replace").strip() or "no reason given"
        tried.append(f"{kind} does not work: {reason[-200:]}")
    raise NoSandboxError("; ".join(tried))


def _try(kind: str) -> subprocess.CompletedProcess[bytes]:
    """Have a sandbox print "inside", if what kernels are made of is there."""
    if kind != "bwrap":
        name, packed = _image()
        there = subprocess.run([kind, "image", "inspect", name], capture_output=True, timeout=120)
        if there.returncode:
            made = subprocess.run(
                [kind, "import", "-", name], input=packed, capture_output=True, timeout=120
            )
            if made.returncode:
                return made
    program = "import ipykernel; print('inside')"
    command = wrap(kind, [sys.executable, "-c", program], None, Limits())
    reading, writing = os.pipe()
    try:
        return subprocess.run(command, stdin=reading, capture_output=True, timeout=120)
    finally:
        os.close(reading)
        os.close(writing)


def wrap(
    kind: str | None, command: Sequence[str], sockets: Path | None, limits: Limits
) -> list[str]:
    """The command that runs `command`, whose first word is this Python, inside a sandbox.

    kind: one of `KINDS`, or None for none (then the limits hold all the same).
    sockets: the one folder outside that can be written to.

    A container lives as long as its standard input stays open, which nothing may be written to.
    """
    # Outside a sandbox, and in docker, the limit would count everything that the user runs.
    processes = 256 if kind in ("bwrap", "podman") else -1
    resources = (limits.memory, int(limits.total_seconds), limits.written, processes)
    program = WATCHED + LIMITED if kind in ("docker", "podman") else LIMITED
    inside = [command[0], "-c", program, *map(str, resources), *command[1:]]
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
    words = [kind, "run", "--rm", "--interactive", "--pull", "never", "--network", "none"]
    words += ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    words += ["--pids-limit", "256", "--ulimit", "nofile=256:256"]
    words += ["--memory", str(2 * limits.memory), "--user", f"{os.getuid()}:{os.getgid()}"]
    if kind == "podman":
        words += ["--ulimit", "nproc=256:256"]
        if os.getuid():  # otherwise the folder of the sockets would be somebody else's inside
            words += ["--userns", "keep-id"]
    words += ["--tmpfs", f"/tmp:size={limits.folder},mode=1777", "--workdir", "/tmp"]
    for path in visible:
        if not os.path.islink(path):
            words += ["--volume", f"{path}:{path}:ro"]
    if sockets:
        words += ["--volume", f"{sockets}:{sockets}"]
    for name, value in environment.items():
        words += ["--env", f"{name}={value}"]
    return [*words, _image()[0], *inside]


def _image() -> tuple[str, bytes]:
    """The name of an image for containers, and what it is made from: folders to mount on, links."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("dev", "etc", "proc", "sys", "tmp", "usr"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for path in filter(os.path.islink, SYSTEM):
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, os.readlink(path), 0o777
            archive.addfile(entry)
    content = packed.getvalue()
    return f"vae-book-sandbox:{hashlib.sha256(content).hexdigest()[:12]}", content


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
