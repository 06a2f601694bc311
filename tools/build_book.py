"""Build the site from the committed chapters, with warnings as errors (`make book`).

It is built anew whenever a page or a setting changed, and not at all otherwise. Building only the
pages that changed would hide the warnings of the others, and leave their menus as they were.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
INPUTS = ("_config.yml", "_toc.yml", "constraints.txt", "book/**/*", "tools/sphinx_ext/**/*")
# jupyter-book has no `python -m` form, and its script may not be on the path.
JUPYTER_BOOK = (sys.executable, "-c", "from jupyter_book.cli.main import main; main()")


def main() -> int:
    build = ROOT / "_build"
    build.mkdir(exist_ok=True)
    # Two tests that need the site may ask for it at the same time.
    with FileLock(build / "site.lock"):
        return bring_up_to_date(build)


def bring_up_to_date(build: Path) -> int:
    page, stamp = build / "html" / "index.html", build / "built-from"
    inputs = fingerprint(ROOT)
    if page.exists() and stamp.exists() and stamp.read_text() == inputs:
        print("The site is up to date.")
    else:
        for old in (build / "html", build / ".doctrees"):
            shutil.rmtree(old, ignore_errors=True)
        stamp.unlink(missing_ok=True)
        print("Building the site: a few seconds.", flush=True)
        arguments = ("build", str(ROOT), "-W", "-n", "--keep-going", "-q")
        # With -q the warnings go to stderr, and stdout holds nothing of interest.
        done = subprocess.run(
            [*JUPYTER_BOOK, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        if done.returncode != 0:
            print(done.stdout, "The site was not built: see above.", sep="\n", file=sys.stderr)
            return 1
        stamp.write_text(inputs)
    print(f"It is here: {page}")
    print(f"To read it, open {page.as_uri()} in a browser, or serve it to others by")
    print("    python -m http.server --directory _build/html 8000")
    return 0


def fingerprint(root: Path) -> str:
    """Return a digest of everything that the pages are made from."""
    digest = hashlib.sha256()
    for pattern in INPUTS:
        for file in sorted(root.glob(pattern)):
            name = file.relative_to(root)
            if file.is_file() and ".ipynb_checkpoints" not in name.parts:
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                digest.update(f"{name.as_posix()} {content}\n".encode())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
