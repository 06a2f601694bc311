"""Make the environment .venv, with everything that the book needs.

Run it with whatever Python there is (`python tools/setup_env.py`); `make` does. It is safe to run
again: it does nothing when nothing changed, and starts afresh when it was interrupted. With
--oldest it makes .venv-oldest, from the lowest versions that requirements.txt allows.

The Python that starts this file may be too old for the book, and should then be told so in one
line. So this file keeps to what every Python understands: no f-strings, no annotations.
"""

from __future__ import print_function

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOWEST = (3, 11)
# Later Pythons have no builds of the pinned torch, nor of the oldest one we allow.
HIGHEST, HIGHEST_FOR_OLDEST = (3, 14), (3, 12)
# torch for Linux brings the CUDA libraries along.
GIGABYTES = 8 if sys.platform.startswith("linux") else 3
LARGE_DOWNLOAD_MB = 20

# Run by another Python to learn its version and whether it can make an environment.
ASK = "import sys; print('%d %d' % sys.version_info[:2]); import ensurepip, venv; print('venv')"

NO_NETWORK = (
    "connection broken|establish a new connection|name resolution|getaddrinfo failed"
    "|connection refused|timed out|unreachable|connection reset|ProxyError|SSLError"
    "|Connection aborted|IncompleteRead|name or service not known|nodename nor servname"
)


class Problem(Exception):
    """What keeps the set-up from going on, and what to do about it, in one line."""


def main(arguments):
    oldest = "--oldest" in arguments
    if [argument for argument in arguments if argument != "--oldest"]:
        raise Problem("usage: python tools/setup_env.py [--oldest]")
    env = os.path.join(ROOT, ".venv-oldest" if oldest else ".venv")
    wanted = fingerprint(oldest)
    if is_ready(env, wanted):
        return
    with OnlyOne(env):
        if not is_ready(env, wanted):
            set_up(env, oldest)
            write(stamp(env), wanted)
            say("ready")


def set_up(env, oldest):
    interrupted = os.path.exists(marker(env))
    if interrupted:
        say("the last set-up was interrupted, so it starts afresh")
    if interrupted or (os.path.exists(env) and not runs(python_of(env), "import pip")):
        remove(env)
    if not os.path.exists(env):
        python = find_python(HIGHEST_FOR_OLDEST if oldest else HIGHEST)
        check_disk()
        say("making {0} with {1}".format(os.path.basename(env), python))
        create(python, env)
    if os.path.exists(stamp(env)):
        os.remove(stamp(env))
    mark(env)
    pins = os.path.join(ROOT, "constraints.txt")
    if oldest:
        pins = os.path.join(env, "oldest.txt")
        write(pins, oldest_versions(read("requirements.txt")))
    # First what builds the library: small, so that a missing network shows at once.
    pip(env, ["--retries", "1", "setuptools>=77", "wheel"], pins)
    pip(env, ["-r", os.path.join(ROOT, "requirements.txt")], pins)
    pip(env, ["--no-deps", "--no-build-isolation", "-e", ROOT], pins)
    os.remove(marker(env))


def find_python(highest):
    """Return the first Python that can make the environment; PYTHON=... names the only choice."""
    named = os.environ.get("PYTHON")
    names = ["python3." + str(minor) for minor in range(highest[1], LOWEST[1] - 1, -1)]
    candidates = [named] if named else [sys.executable] + names + ["python3", "python"]
    seen, without_venv = [], None
    for candidate in candidates:
        version, has_venv = ask(candidate)
        if version is not None and LOWEST <= version <= highest:
            if has_venv:
                return candidate
            without_venv = without_venv or (candidate, "{0}.{1}".format(*version))
        elif version is not None:
            seen.append("{0} is {1}.{2}".format(candidate, *version))
    if without_venv:
        raise Problem(
            "{0} has no venv module: install it (on Debian and Ubuntu: apt install "
            "python{1}-venv) and try again".format(*without_venv)
        )
    if seen:
        found = seen[0]
    else:
        found = named + " does not run" if named else "there is none"
    raise Problem(
        "Python {0}.{1} to {2}.{3} is needed, and {4}: install one, or name it with "
        "PYTHON=/path/to/python".format(LOWEST[0], LOWEST[1], highest[0], highest[1], found)
    )


def ask(python):
    """Return the version of a Python, None if it does not run, and whether it has venv."""
    try:
        process = subprocess.Popen(
            [python, "-c", ASK], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        output = process.communicate()[0].decode()
    except (OSError, ValueError):
        return None, False
    version = re.match(r"(\d+) (\d+)\s", output)
    if version is None:
        return None, False
    return (int(version.group(1)), int(version.group(2))), "venv" in output


def check_disk():
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < GIGABYTES:
        raise Problem(
            "the disk is too full: the environment needs about {0} GB, and {1} has {2:.1f} GB "
            "free".format(GIGABYTES, ROOT, free)
        )


def create(python, env):
    os.mkdir(env)
    mark(env)
    process = subprocess.Popen(
        [python, "-m", "venv", env], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output = process.communicate()[0].decode("utf-8", "replace")
    if process.returncode != 0:
        remove(env)
        raise Problem(explain(output.splitlines()) or "venv failed: " + last_line(output))


def pip(env, arguments, pins):
    """Install with pip, showing what it does in a few lines; the whole goes into a log."""
    log = os.path.join(env, "setup.log")
    # On the disk that was checked. /tmp is often too small for the larger packages.
    temporary = os.path.join(env, "tmp")
    if not os.path.isdir(temporary):
        os.mkdir(temporary)
    command = [python_of(env), "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    command += ["--disable-pip-version-check", "-c", pins] + arguments
    # PIP_USER: a user's own setting for other environments must not redirect this one.
    environment = dict(os.environ, PYTHONIOENCODING="utf-8", PIP_USER="0")
    environment.update(TMPDIR=temporary, TEMP=temporary, TMP=temporary)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=ROOT
    )
    progress = Progress()
    lines = []
    try:
        with open(log, "ab") as whole:
            for raw in iter(process.stdout.readline, b""):
                whole.write(raw)
                lines.append(raw.decode("utf-8", "replace").rstrip())
                progress.show(lines[-1])
        failed = process.wait() != 0
    except BaseException:
        process.kill()
        raise
    finally:
        progress.stop()
        process.stdout.close()
    shutil.rmtree(temporary, ignore_errors=True)
    if failed:
        if not any(line.startswith("Installing collected packages") for line in lines):
            # Nothing was changed yet, so that the next attempt need not start afresh.
            os.remove(marker(env))
        errors = [line.strip() for line in lines if re.match(r"(?i)\s*[a-z]*error: ", line)]
        reason = (errors or lines[-1:] or ["it said nothing"])[0]
        raise Problem(explain(lines) or "pip failed ({0}); see {1}".format(reason, log))


def explain(lines):
    """Return what is missing, if the last lines of a failed command tell it; else ""."""
    end = "\n".join(lines[-30:])
    if "No space left" in end or "Errno 28" in end:
        return "the disk is full: the environment needs about {0} GB".format(GIGABYTES)
    if "ensurepip" in end:
        return "this Python has no venv module: on Debian and Ubuntu, apt install python3-venv"
    if re.search(NO_NETWORK, end, re.IGNORECASE):
        return "no network: pip cannot reach the package index"
    return ""


def last_line(text):
    return (text.strip().splitlines() or [""])[-1]


def oldest_versions(requirements):
    """Return constraints that hold every requirement at the lowest version it allows."""
    pins = []
    for line in requirements.splitlines():
        line = line.split("#")[0].strip()
        if line:
            bound = re.match(r"([A-Za-z0-9._-]+)>=([^,;\s]+)(,<[^,;\s]+)?$", line)
            if bound is None:
                raise Problem("requirements.txt: expected NAME>=VERSION or NAME>=VERSION,<VERSION, "
                              "got " + line)
            pins.append(bound.group(1) + "==" + bound.group(2))
    return "\n".join(pins)


class Progress:
    """Tells what pip is doing: one line that changes, or in a log a line now and then."""

    def __init__(self):
        self.live = sys.stdout.isatty()
        self.packages, self.doing = 0, "starting"
        self.start = time.time()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.tick)
        self.thread.daemon = True
        self.thread.start()

    def show(self, line):
        size = re.search(r"\(([\d.]+) ([kMG]B)\)", line)
        if line.startswith("Collecting "):
            self.packages += 1
            self.doing = "looking at " + line.split()[1]
        elif line.startswith("Downloading ") or line.startswith("  Downloading "):
            self.doing = "downloading " + line.split()[1].split("/")[-1].split("-")[0]
            if size:
                self.doing += " ({0} {1})".format(*size.groups())
                megabytes = float(size.group(1)) * {"kB": 1e-3, "MB": 1, "GB": 1e3}[size.group(2)]
                if megabytes >= LARGE_DOWNLOAD_MB and not self.live:
                    say("  " + self.doing)
        elif line.startswith("Installing collected packages"):
            self.doing = "installing {0} packages".format(line.count(",") + 1)
            if not self.live:
                say("  " + self.doing)

    def tick(self):
        pause = 0.5 if self.live else 30
        while not self.done.wait(pause):
            pause = 0.5 if self.live else min(2 * pause, 300)
            state = "{0}, {1:.0f} s so far".format(self.doing, time.time() - self.start)
            if self.live:
                sys.stdout.write("\r\033[K" + "set-up:   {0}".format(state)[:78])
                sys.stdout.flush()
            else:
                say("  " + state)

    def stop(self):
        self.done.set()
        self.thread.join()
        if self.live:
            sys.stdout.write("\r\033[K")
            sys.stdout.flush()


class OnlyOne:
    """Lets one process at a time set an environment up; the others wait for it."""

    def __init__(self, env):
        name = "vae-book-" + hashlib.sha256(env.encode("utf-8")).hexdigest()[:16] + ".lock"
        self.path = os.path.join(tempfile.gettempdir(), name)

    def __enter__(self):
        self.file = open(self.path, "a")
        try:
            import fcntl
        except ImportError:  # Windows, where whoever runs two at once is not protected
            return
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (IOError, OSError):
            say("waiting for another set-up of the same folder")
            fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *exception):
        self.file.close()


def fingerprint(oldest):
    """Return a digest of everything that the environment depends on."""
    parts = [ROOT, read("requirements.txt"), read("pyproject.toml")]
    parts.append(oldest_versions(parts[1]) if oldest else read("constraints.txt"))
    return hashlib.sha256("\0".join(parts).encode("utf-8")).hexdigest()


def is_ready(env, wanted):
    try:
        with open(stamp(env)) as file:
            found = file.read()
    except (IOError, OSError):
        return False
    return found == wanted and not os.path.exists(marker(env)) and runs(python_of(env), "")


def runs(python, code):
    try:
        with open(os.devnull, "w") as nothing:
            return subprocess.call([python, "-c", code], stdout=nothing, stderr=nothing) == 0
    except OSError:
        return False


def remove(env):
    """Remove an environment, and nothing that merely bears its name."""
    if os.path.isdir(env) and os.listdir(env):
        known = (os.path.join(env, "pyvenv.cfg"), marker(env))
        if not any(os.path.exists(path) for path in known):
            raise Problem("{0} is no environment: move it out of the way".format(env))
    shutil.rmtree(env, ignore_errors=True)


def python_of(env):
    return os.path.join(env, *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))


def stamp(env):
    return os.path.join(env, "setup-complete")


def marker(env):
    return os.path.join(env, "setup-under-way")


def mark(env):
    write(marker(env), "An interrupted set-up leaves this file behind.\n")


def read(name):
    with open(os.path.join(ROOT, name), "rb") as file:
        return file.read().decode("utf-8")


def write(path, text):
    """Write a file that is there whole or not at all."""
    with open(path + ".new", "wb") as file:
        file.write(text.encode("utf-8"))
    getattr(os, "replace", os.rename)(path + ".new", path)


def say(text):
    print("set-up: " + text)
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Problem as problem:
        sys.exit("set-up: {0}".format(problem))
    except EnvironmentError as error:  # a full disk, a folder that may not be written to
        where = " ({0})".format(error.filename) if error.filename else ""
        sys.exit("set-up: {0}{1}".format(error.strerror or error, where))
    except KeyboardInterrupt:
        sys.exit("set-up: interrupted; run it again")
