"""Tables that a program writes into a page of the book, between two comments that mark where."""

import os
import platform
from pathlib import Path

BOOK = Path(__file__).parent.parent / "book"


def put_between_marks(page: Path, name: str, text: str) -> None:
    """Replace what stands in `page` between `<!-- name: begin -->` and `<!-- name: end -->`.

    Raises `ValueError` if the page does not have each mark once, in this order; it is then left
    as it was.
    """
    new = between_marks(page, name, text)
    page.write_text(new, encoding="utf-8", newline="\n")


def between_marks(page: Path, name: str, text: str) -> str:
    """What `put_between_marks` would write."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    content = page.read_text(encoding="utf-8")
    if content.count(begin) != 1 or content.count(end) != 1:
        raise ValueError(f"page: expected one {begin} and one {end}, got {page} without them")
    before, rest = content.split(begin)
    if end not in rest:
        raise ValueError(f"page: expected {begin} before {end}, got {page}")
    after = rest.split(end)[1]
    return f"{before}{begin}\n{text.strip()}\n{end}{after}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table. A `|` in a cell, as in p(x | z), would end it, and is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    cells = ([str(cell).replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def machine() -> str:
    """The processor's name and the number of cores."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = lines[0].partition(":")[2].strip() if lines else name
    return f"{name}, {os.cpu_count()} cores"
