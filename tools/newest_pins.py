"""Rewrite constraints.txt with the newest versions that go together (`make newest`).

Nothing is installed: pip only works out what it would install on the oldest Python we support,
so that the versions serve every later one too. Run the tests before you commit the result.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
PYTHON_VERSION = "3.11.0"
# torch asks for these itself, by exact version, and only on Linux.
LINUX_ONLY = ("nvidia-", "cuda-", "triton")


def main() -> None:
    head, pins, tail = split_constraints(CONSTRAINTS.read_text(encoding="utf-8"))
    newest = resolve()
    CONSTRAINTS.write_text("\n".join([*head, *newest, *tail]) + "\n", encoding="utf-8")
    for line in sorted(set(pins) ^ set(newest)):
        print("+" if line in newest else "-", line)


def split_constraints(text: str) -> tuple[list[str], list[str], list[str]]:
    """Split into the comment at the top, the pins, and what follows the first gap after them."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if "==" in line and not line.startswith("#"))
    last = lines.index("", first) if "" in lines[first:] else len(lines)
    return lines[:first], lines[first:last], lines[last:]


def resolve() -> list[str]:
    """Return the newest versions that satisfy requirements.txt together, one NAME==VERSION each."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet"]
        command += ["--report", str(report), "--target", folder]
        # pip asks for wheels alone when it is to resolve for a Python other than its own.
        command += ["--only-binary", ":all:", "--python-version", PYTHON_VERSION]
        subprocess.run([*command, "-r", str(ROOT / "requirements.txt")], check=True)
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    names = {re.sub(r"[-_.]+", "-", item["name"]).lower(): item["version"] for item in found}
    return sorted(f"{n}=={v}" for n, v in names.items() if not n.startswith(LINUX_ONLY))


if __name__ == "__main__":
    main()
