"""The settings on the page for instructors: valid Python, and nothing that the programs ignore."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "book" / "for_instructors.md"

# Reads settings from the standard input and prints those that the programs do not have. Not here,
# where each warning of nbgrader's packages would be an error.
CHECK = """
import importlib, sys, tempfile
from pathlib import Path
from traitlets.config import Configurable, PyFileConfigLoader

with tempfile.TemporaryDirectory() as folder:
    Path(folder, "settings.py").write_text(sys.stdin.read())
    config = PyFileConfigLoader("settings.py", path=folder).load_config()
importlib.import_module({"nbgrader": "nbgrader.apps", "jupyterhub": "jupyterhub.app"}[sys.argv[1]])
known, classes = {}, [Configurable]
while classes:
    cls = classes.pop()
    known.setdefault(cls.__name__, set()).update(cls.class_trait_names(config=True))
    classes += cls.__subclasses__()
assert config
for name, options in config.items():
    for option in options:
        if option not in known.get(name, ()):
            print(f"{name}.{option}")
"""


def blocks():
    """The settings on the page, and the program that each is for, as its first line says."""
    found = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return [(re.search(r"(\w+)_config\.py", text.splitlines()[0])[1], text) for text in found]


def unknown(program, text):
    if program == "jupyterhub":
        pytest.importorskip("jupyterhub")  # not part of the book's environment
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHECK, program],
        input=text,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_block_says_whose_settings_it_shows():
    programs = [program for program, _ in blocks()]
    assert set(programs) == {"jupyterhub", "nbgrader"}
    for program, text in blocks():
        compile(text, program, "exec")


@pytest.mark.parametrize("program", ["nbgrader", "jupyterhub"])
def test_settings_exist(program):
    text = "".join(text for each, text in blocks() if each == program)
    assert unknown(program, text) == []


def test_a_setting_that_does_not_exist_is_found():
    text = 'c.Exchange.root = "/srv"\nc.Exchange.rot = "/srv"\nc.Exchnge.root = "/srv"\n'
    assert sorted(unknown("nbgrader", text)) == ["Exchange.rot", "Exchnge.root"]
