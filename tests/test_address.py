"""The repository's address: one setting, the chapters' first cells and the launch buttons agree."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import nbformat
import pytest
import yaml
from browsing import served
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from page_checks import look_at
from sphinx.errors import ConfigError

ROOT = Path(__file__).parent.parent
ADDRESS = "https://github.com/some-owner/some.book"
HUB = "https://hub.example.org/school"
SET = "assignments/released/ps1.ipynb"
WRONG = [
    "git@github.com:owner/book.git",
    "http://github.com/owner/book",
    "https://github.com/owner",
    "https://github.com/owner/book/tree/main",
    "https://github.com/owner/book?x=1",
    "https://example.org/owner/book",
    'https://github.com/owner/book"; import os',
]


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


address = load(ROOT / "tools" / "address.py")
launch_buttons = load(ROOT / "tools" / "sphinx_ext" / "launch_buttons.py")


# The setting and the chapters -------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path):
    """A folder with the settings and the chapters, without an address."""
    (tmp_path / "book").mkdir()
    shutil.copy(ROOT / "_config.yml", tmp_path)
    for path in (ROOT / "book").glob("*.ipynb"):
        shutil.copy(path, tmp_path / "book")
    address.set_address(tmp_path, "")
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_chapters_agree_with_the_setting():
    names = [path.name for path in address.disagreeing(ROOT)]
    assert names == [], "run `make address URL=...` with the address that is meant"


@pytest.mark.parametrize("end", ["", "/", ".git"])
def test_an_address_goes_into_the_setting_and_the_first_cells_only(copy, end):
    before = contents(copy)
    address.set_address(copy, ADDRESS + end)
    assert address.setting(copy) == (ADDRESS, "main")
    assert address.disagreeing(copy) == []
    for path in (copy / "book").glob("*.ipynb"):
        old, new = json.loads(before[path.name]), json.loads(path.read_text())
        cells = [(a, b) for a, b in zip(old["cells"], new["cells"], strict=True) if a != b]
        assert [b["id"].endswith("-setup") for _, b in cells] == [True]
        assert f'"vae-lib[widgets] @ git+{ADDRESS}@main"' in "".join(cells[0][1]["source"])
        assert {key for key in cells[0][0] if cells[0][0][key] != cells[0][1][key]} == {"source"}
    address.set_address(copy, "")
    assert contents(copy) == before


@pytest.mark.parametrize("url", WRONG)
def test_a_wrong_address_is_refused_and_nothing_written(copy, url):
    before = contents(copy)
    with pytest.raises(ValueError, match="repository.url: expected https://github.com/OWNER/REPO"):
        address.set_address(copy, url)
    assert contents(copy) == before


def test_a_setting_changed_by_hand_is_found(copy):
    text = (copy / "_config.yml").read_text()
    (copy / "_config.yml").write_text(text.replace('  url: ""', f'  url: "{ADDRESS}"'))
    assert len(address.disagreeing(copy)) == 6


def test_a_chapter_without_its_first_cell_is_refused(copy):
    path = copy / "book" / "01_data.ipynb"
    path.write_text(path.read_text().replace('"data-setup"', '"data-0"'))
    before = contents(copy)
    with pytest.raises(ValueError, match="01_data.ipynb: expected a hidden first code cell"):
        address.set_address(copy, ADDRESS)
    assert contents(copy) == before


def test_the_sets_are_released_anew_with_the_address(copy, monkeypatch):
    """Their versions for students hold the first cell, and nbgrader's checksum of it."""
    released = []
    monkeypatch.setattr(address, "ROOT", copy)
    release = SimpleNamespace(release=lambda: released.append(address.setting(copy)[0]))
    monkeypatch.setitem(sys.modules, "course", release)
    assert address.main([ADDRESS]) == 0
    assert address.main([WRONG[0]]) == 1
    assert released == [ADDRESS]


def test_a_failed_release_is_said_in_a_sentence(copy, monkeypatch, capsys):
    class ProblemSetError(Exception):
        pass

    def release():
        raise ProblemSetError("nbgrader says no")

    monkeypatch.setattr(address, "ROOT", copy)
    course = SimpleNamespace(release=release, ProblemSetError=ProblemSetError)
    monkeypatch.setitem(sys.modules, "course", course)
    assert address.main([ADDRESS]) == 1
    said = capsys.readouterr().err
    assert "nbgrader says no" in said and "make release" in said


# The first cell ---------------------------------------------------------------------------------


@pytest.fixture
def pip(monkeypatch):
    """Instead of pip, a list of the commands that were to be run; `.result` is what they return."""
    commands = SimpleNamespace(seen=[], result=SimpleNamespace(returncode=0, stderr=""))

    def run(command, **options):
        commands.seen.append(command)
        return commands.result

    monkeypatch.setattr(subprocess, "run", run)
    return commands


@pytest.mark.parametrize("url", ["", ADDRESS])
def test_with_the_library_the_first_cell_does_nothing(pip, capfd, url):
    exec(address.setup_source(url), {})
    assert pip.seen == []
    assert capfd.readouterr() == ("", "")


def test_without_the_library_the_first_cell_installs_it_and_nothing_else(pip, monkeypatch, capfd):
    asked = []
    monkeypatch.setattr(importlib.util, "find_spec", asked.append)
    exec(address.setup_source(ADDRESS), {})
    assert asked == ["vae_lib"]
    ((*command, library),) = pip.seen
    # Not --upgrade: what is installed and new enough, such as Colab's torch, stays.
    assert command == [sys.executable, "-m", "pip", "install", "--quiet"]
    requirement = Requirement(library)
    assert (requirement.name, requirement.extras) == ("vae-lib", {"widgets"})
    assert requirement.url == f"git+{ADDRESS}@main"
    assert capfd.readouterr() == ("", "")


def test_when_pip_fails_the_first_cell_says_why(pip, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    pip.result = SimpleNamespace(returncode=1, stderr="no such repository")
    with pytest.raises(ModuleNotFoundError, match="no such repository"):
        exec(address.setup_source(ADDRESS), {})


def test_without_an_address_the_first_cell_says_what_to_do(pip, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"in the book's folder: pip install '\.\[widgets\]'"):
        exec(address.setup_source(""), {})
    assert pip.seen == []


# The buttons ------------------------------------------------------------------------------------


def options_for(url, hub=""):
    options = {"repository_url": url, "launch_buttons": {"jupyterhub_url": hub}}
    launch_buttons.set_buttons(None, SimpleNamespace(html_theme_options=options))
    return options


def test_without_an_address_no_button_is_on():
    options = options_for("")
    assert not any(options.pop("launch_buttons").values())
    assert not any(options.values())


def test_with_an_address_the_buttons_are_on():
    options = options_for(ADDRESS + ".git")
    assert options == {
        "repository_url": ADDRESS,
        "use_repository_button": True,
        "use_issues_button": True,
        "launch_buttons": {
            "colab_url": "https://colab.research.google.com",
            "binderhub_url": "https://mybinder.org",
            "jupyterhub_url": "",
        },
    }
    assert options_for(ADDRESS, HUB + "/")["launch_buttons"]["jupyterhub_url"] == HUB


@pytest.mark.parametrize("url", WRONG)
def test_a_wrong_address_stops_the_build(url):
    with pytest.raises(ConfigError, match="repository.url: expected .* got"):
        options_for(url)


@pytest.mark.parametrize("hub", ["hub.example.org", "javascript:alert(1)", "https://"])
def test_a_wrong_jupyterhub_stops_the_build(hub):
    with pytest.raises(ConfigError, match="jupyterhub_url: expected https://HOST, got"):
        options_for(ADDRESS, hub)


def test_a_jupyterhub_without_an_address_stops_the_build():
    with pytest.raises(ConfigError, match="expected repository.url to be set too"):
        options_for("", HUB)


@pytest.fixture(scope="module")
def small_site(tmp_path_factory):
    """The book's settings, an address and a JupyterHub: an introduction, a chapter, a problem set."""
    root = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "tools" / "sphinx_ext", root / "tools" / "sphinx_ext")
    shutil.copytree(ROOT / "book" / "styles", root / "book" / "styles")
    shutil.copy(ROOT / "book" / "references.bib", root / "book")
    (root / "book" / "intro.md").write_text("# A book\n\nWords.\n")
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# A chapter\n\nWords."),
            nbformat.v4.new_code_cell(
                address.setup_source(""), id="a-setup", metadata={"tags": ["remove-cell"]}
            ),
            nbformat.v4.new_code_cell("1 + 1"),
        ],
        metadata={"kernelspec": {"display_name": "Python 3", "name": "python3"}},
    )
    nbformat.write(notebook, root / "book" / "01_data.ipynb")
    (root / "book" / SET).parent.mkdir(parents=True)
    shutil.copy(ROOT / "book" / SET, root / "book" / SET)
    files = ["book/01_data", f"book/{SET}"]
    contents = {"format": "jb-book", "root": "book/intro", "chapters": [{"file": f} for f in files]}
    (root / "_toc.yml").write_text(yaml.safe_dump(contents))
    shutil.copy(ROOT / "_config.yml", root)
    address.set_address(root, ADDRESS)
    text = (root / "_config.yml").read_text()
    text = re.sub(r'jupyterhub_url: ""', f'jupyterhub_url: "{HUB}"', text)
    (root / "_config.yml").write_text(text)
    command = "from jupyter_book.cli.main import main; main()"
    built = subprocess.run(
        [sys.executable, "-c", command, "build", str(root), "-q"], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return root / "_build" / "html"


LINK = re.compile(r'<a href="(https://[^"]+)"[^>]*class="[^"]*\bbtn\b')


def buttons(page):
    """The addresses that a page's buttons lead to."""
    return [url.replace("&amp;", "&") for url in LINK.findall(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("name", ["01_data.ipynb", SET])
def test_the_buttons_lead_where_the_services_want_it(small_site, name):
    page = (small_site / "book" / name).with_suffix(".html")
    colab, binder, hub, repository, issue = buttons(page)
    path = f"book/{name}"
    assert repository == ADDRESS
    assert issue.startswith(f"{ADDRESS}/issues/new?")
    assert colab == (
        f"https://colab.research.google.com/github/some-owner/some.book/blob/main/{path}"
    )
    assert binder == (
        f"https://mybinder.org/v2/gh/some-owner/some.book/main?urlpath=lab/tree/{path}"
    )
    assert hub.startswith(f"{HUB}/hub/user-redirect/git-pull?")
    assert parse_qs(urlsplit(hub).query) == {
        "repo": [ADDRESS],
        "branch": ["main"],
        "urlpath": [f"lab/tree/some.book/{path}"],
    }


def test_only_notebooks_can_be_launched(small_site):
    repository, issue = buttons(small_site / "book" / "intro.html")
    assert repository == ADDRESS and issue.startswith(f"{ADDRESS}/issues/new?")


def test_a_page_with_buttons_is_as_good_as_one_without(small_site, browser):
    context = browser.new_context(reduced_motion="reduce")
    with served(small_site) as url:
        look = look_at(context, f"{url}/book/01_data.html")
    context.close()
    assert (look.complaints, look.other_hosts, look.images, look.widths) == ([], [], [], [])
    assert (look.keyboard, look.light, look.dark) == ([], [], [])


def test_no_page_of_the_book_has_a_dead_button(site):
    """Without an address no button leads out of the site."""
    has_address = bool(address.setting(ROOT)[0])
    for page in (site / "book").rglob("*.html"):
        assert bool(buttons(page)) == has_address, page.name
        assert ("launch-buttons" in page.read_text(encoding="utf-8")) <= has_address, page.name


def test_binder_installs_the_library_with_its_live_figures():
    """What Binder runs once for its image; the image itself was never built here."""
    script = ROOT / "binder" / "postBuild"
    assert script.stat().st_mode & 0o111 and script.read_text().startswith("#!/usr/bin/env bash\n")
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    assert '-c constraints.txt ".[widgets]"\n' in script.read_text()
    version = (ROOT / "binder" / "runtime.txt").read_text().removeprefix("python-").strip()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(project["requires-python"]).contains(version)
    assert "widgets" in project["optional-dependencies"]
