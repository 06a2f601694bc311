"""Sphinx extension: buttons that need the repository's address are there if it is set, else not.

`repository.url` in _config.yml is the one setting. From it follow, for each chapter, the buttons
that open it on Colab and on Binder, and on every page those that lead to the repository and to a
new issue. An instructor's own JupyterHub is `launch_buttons.jupyterhub_url`.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ConfigError

COLAB = "https://colab.research.google.com"
BINDER = "https://mybinder.org"

# Colab opens what lies on GitHub, and Binder's short addresses are for it.
REPOSITORY = re.compile(r"https://github\.com/[A-Za-z0-9-]+/[A-Za-z0-9._-]*[A-Za-z0-9_-]")
HUB = re.compile(r"https?://[A-Za-z0-9.-]+(:\d+)?(/[A-Za-z0-9._~/-]*)?")


def repository_address(url: str) -> str:
    """Return the address without a slash or `.git` at its end; "" stays "".

    Raises `ValueError` for anything but `https://github.com/OWNER/REPOSITORY`.
    """
    address = url.strip().rstrip("/").removesuffix(".git")
    if address and not REPOSITORY.fullmatch(address):
        raise ValueError(
            f"repository.url: expected https://github.com/OWNER/REPOSITORY or nothing, got {url!r}"
        )
    return address


def set_buttons(app: Sphinx, config: Config) -> None:
    """Turn on the buttons that the address allows, and no other."""
    options = config.html_theme_options
    launch = options.setdefault("launch_buttons", {})
    hub = str(launch.get("jupyterhub_url") or "").strip().rstrip("/")
    try:
        address = repository_address(str(options.get("repository_url") or ""))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if hub and not HUB.fullmatch(hub):
        raise ConfigError(f"launch_buttons.jupyterhub_url: expected https://HOST, got {hub!r}")
    if hub and not address:
        raise ConfigError(
            "launch_buttons.jupyterhub_url: a JupyterHub fetches chapters from the repository;"
            " expected repository.url to be set too, got nothing"
        )
    options["repository_url"] = address
    options["use_repository_button"] = options["use_issues_button"] = bool(address)
    launch["colab_url"] = COLAB if address else ""
    launch["binderhub_url"] = BINDER if address else ""
    launch["jupyterhub_url"] = hub


def colab_first(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Put the service that asks for no set-up, and starts soonest, at the top of the menu."""
    for group in context.get("header_buttons", ()):
        if group.get("label") == "launch-buttons":
            group["buttons"].sort(key=lambda button: button["text"] != "Colab")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", set_buttons)
    # After the theme has made the buttons, at 501.
    app.connect("html-page-context", colab_first, priority=600)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
