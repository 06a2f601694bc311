"""Shared by the unit tests. The comparison of notebooks is switched on in ../conftest.py."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from browsing import ARGUMENTS, browser_or_skip, served, watch
from hypothesis import settings

ROOT = Path(__file__).parent.parent

# The first example of a test may wait for an import or for a busy machine; that is no failure.
settings.register_profile("vae_book", deadline=None)
settings.load_profile("vae_book")


@pytest.fixture(scope="session")
def mnist():
    """The whole of MNIST. Without it the test is skipped, but under CI it fails."""
    return load_or_skip()


def load_or_skip():
    from vae_lib import MNISTUnavailableError, load_mnist

    try:
        return load_mnist()
    except MNISTUnavailableError as error:
        if os.environ.get("CI"):
            raise
        reason = str(error).splitlines()[0]
        pytest.skip(f"no MNIST here ({reason}); `python -m vae_lib` fetches it")


# The built site, and a browser to look at it with -----------------------------------------------


@pytest.fixture(scope="session")
def site():
    """The folder of the site, built now unless it is up to date."""
    command = [sys.executable, str(ROOT / "tools" / "build_book.py")]
    # Two processes of pytest-xdist may ask for it at once: the script builds it once.
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return ROOT / "_build" / "html"


@pytest.fixture(scope="session")
def site_address(site):
    """The address at which the site is served to the browser, without a slash at the end.

    Two folders down, as GitHub Pages and courses serve it: no page may count on lying at the root.
    """
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "courses").mkdir()
        (Path(root) / "courses" / "vae").symlink_to(site, target_is_directory=True)
        with served(Path(root)) as url:
            yield f"{url}/courses/vae"


@pytest.fixture(scope="session")
def browser_path():
    """A browser that can be run without a screen. Without it tests are skipped, under CI fail."""
    return browser_or_skip()


@pytest.fixture(scope="session")
def browser(browser_path):
    """The browser, started once for all tests (playwright's `Browser`).

    While it runs, this thread has a running event loop. nbval and nbclient know how to live with
    one; a test that calls `asyncio.run` has to do so in another thread.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser_path, args=list(ARGUMENTS))
        yield started
        started.close()


@pytest.fixture
def open_page(browser):
    """A function that opens an address in a context of its own, and returns `(page, log)`.

    `open_page(url, viewport={"width": 360, "height": 740}, color_scheme="dark", has_touch=True)`
    takes what playwright's `Browser.new_context` takes. `page` is playwright's, loaded; `log` is
    a `browsing.Log`: what it asked for and complained of, until the test ends. No other host can
    be reached.
    """
    contexts = []

    def open_page(url, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        log = watch(page)
        page.goto(url)
        return page, log

    yield open_page
    for context in contexts:
        context.close()
