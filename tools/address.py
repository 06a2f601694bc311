"""Set the repository's address, from which the launch buttons follow (`make address URL=...`).

    python tools/address.py https://github.com/OWNER/REPOSITORY
    python tools/address.py ""            no address: no buttons
    python tools/address.py --check       only say whether the chapters agree with the setting

The setting is `repository.url` in _config.yml. The first cells of chapters and problem sets, which
the pages do not show, follow from it: where the library is missing they install it from that
address, or say how to install it while there is none. Nothing else of a chapter is touched, and the
sets are released anew.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools" / "sphinx_ext"))

from launch_buttons import repository_address  # noqa: E402

SETTING = re.compile(r'^(repository:\n(?:  .*\n)*?  url: )("[^"\n]*"|\S*)$', re.MULTILINE)
INTRODUCTION = (
    "# Where this file alone was opened, as on Colab,"
    " the book's library has to be installed first.\n"
)
WITHOUT_ADDRESS = (
    INTRODUCTION
    + """import importlib.util

if importlib.util.find_spec("vae_lib") is None:
    raise ModuleNotFoundError(
        "the book's library is missing; in the book's folder: pip install '.[widgets]'"
    )"""
)
# pip leaves packages that are there, such as Colab's own torch, as they are.
WITH_ADDRESS = (
    INTRODUCTION
    + """import importlib.util
import subprocess
import sys

if importlib.util.find_spec("vae_lib") is None:
    library = "vae-lib[widgets] @ git+{address}@{branch}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", library]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        raise ModuleNotFoundError("the book's library is missing, and pip says:\\n" + done.stderr)
    importlib.invalidate_caches()"""
)


def setup_source(address: str, branch: str = "main") -> str:
    """Return the source of a notebook's first cell for an address, which may be ""."""
    if not address:
        return WITHOUT_ADDRESS
    return WITH_ADDRESS.format(address=address, branch=branch)


def setting(root: Path) -> tuple[str, str]:
    """Return the address and the branch in `_config.yml`.

    Raises `ValueError` if the address is not one of a repository.
    """
    repository = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]
    return repository_address(str(repository["url"] or "")), str(repository["branch"])


def disagreeing(root: Path) -> list[Path]:
    """Return the chapters whose first cell is not the one that follows from the setting."""
    source = setup_source(*setting(root))
    return [path for path in chapters(root) if read_cell(path)[1] != source]


def set_address(root: Path, url: str) -> None:
    """Write the address into `_config.yml` and into the chapters.

    Raises `ValueError` if it is not one of a repository; nothing is then written.
    """
    address = repository_address(url)
    config = root / "_config.yml"
    text, count = SETTING.subn(
        lambda found: f'{found[1]}"{address}"', config.read_text(encoding="utf-8")
    )
    if count != 1:
        raise ValueError(f"_config.yml: expected one url under repository, got {count}")
    cells = {path: read_cell(path) for path in chapters(root)}
    config.write_text(text, encoding="utf-8", newline="\n")
    source = setup_source(*setting(root))
    for path, (notebook, old) in cells.items():
        if old != source:
            setup_cell(path, notebook)["source"] = source.splitlines(keepends=True)
            text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
            path.write_text(text, encoding="utf-8", newline="\n")


def chapters(root: Path) -> list[Path]:
    return sorted((root / "book").glob("*.ipynb"))


def read_cell(path: Path) -> tuple[dict, str]:
    """Return a chapter and the source of its first code cell."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return notebook, "".join(setup_cell(path, notebook)["source"])


def setup_cell(path: Path, notebook: dict) -> dict:
    cell = next((c for c in notebook["cells"] if c["cell_type"] == "code"), {"id": "none"})
    if not cell["id"].endswith("-setup") or "remove-cell" not in cell["metadata"].get("tags", []):
        raise ValueError(f"{path.name}: expected a hidden first code cell …-setup, got {cell['id']}")
    return cell


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="address.py", description=__doc__.splitlines()[0])
    parser.add_argument("url", nargs="?", help='the address, or "" for none')
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args(arguments)
    if (options.url is None) != options.check:
        parser.error('give an address ("" for none) or --check')
    try:
        if options.check:
            wrong = disagreeing(ROOT)
            for path in wrong:
                print(f"{path.name}: its first cell is not that of the address in _config.yml")
            if not wrong:
                print(f"The chapters agree with the address: {setting(ROOT)[0] or 'none is set'}")
            return int(bool(wrong))
        set_address(ROOT, options.url)
        import course  # here, since it imports this file

        try:
            course.release()
        except course.ProblemSetError as error:
            left = "the address is set, but the problem sets are not released (then: make release)"
            raise ValueError(f"{left}: {error}") from error
        address = setting(ROOT)[0] or "no address: no button needs one"
        print(f"{address}; `make book` builds the site with it")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
