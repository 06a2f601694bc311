"""What the tests of pages in a browser share: finding a browser, and what a page did in it.

The fixtures `browser_path`, `browser`, `open_page` and `site_address` of conftest.py use this.
"""

import contextlib
import functools
import http.server
import os
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
MAC_BROWSER = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
ARGUMENTS = (
    # Containers often lack what the sandbox needs; the pages opened are the book's own.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    # Every other host is unknown. What a page asks of it is still seen as a request.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
OWN_HOSTS = {"127.0.0.1", "localhost"}


def find_browser():
    """The path of an installed browser of Chromium's family, or None."""
    return next(filter(None, map(shutil.which, (*BROWSERS, MAC_BROWSER))), None)


def browser_or_skip():
    """The path of a browser. Without one the test is skipped, but under CI it fails."""
    if path := find_browser():
        return path
    reason = f"no browser to look at pages with: install one of {', '.join(BROWSERS)}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class Log:
    """What a page did since it was opened."""

    # Every address that was asked for.
    requests: list[str] = field(default_factory=list)
    # Errors and warnings on the console, exceptions, requests that failed or were refused.
    complaints: list[str] = field(default_factory=list)

    @property
    def other_hosts(self):
        """The hosts, other than this machine, that were asked for something."""
        hosts = {urlsplit(url).hostname for url in self.requests if is_remote(url)}
        return sorted(host for host in hosts if host not in OWN_HOSTS)


def is_remote(url):
    return urlsplit(url).scheme in ("http", "https", "ws", "wss", "ftp")


def watch(page):
    """Record what a page (of playwright) does from now on; return the record."""
    log = Log()

    def console(message):
        if message.type in ("error", "warning"):
            log.complaints.append(f"console, {message.type}: {message.text}")

    def response(answer):
        if answer.status >= 400:
            log.complaints.append(f"{answer.status} for {answer.url}")

    def failed(request):
        log.complaints.append(f"failed request: {request.url} ({request.failure})")

    page.on("request", lambda request: log.requests.append(request.url))
    page.on("websocket", lambda socket: log.requests.append(socket.url))
    page.on("console", console)
    page.on("pageerror", lambda error: log.complaints.append(f"exception: {error}"))
    page.on("requestfailed", failed)
    page.on("response", response)
    return log


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files as they are, without a word."""

    # Connections are kept, as a real server would.
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        # What a browser asks for by itself is nothing that a page did.
        if self.path == "/favicon.ico":
            self.send_response(204)
            self.end_headers()
        else:
            super().do_GET()


@contextlib.contextmanager
def served(folder: Path):
    """Serve a folder on this machine; give its address, without a slash at the end."""
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
