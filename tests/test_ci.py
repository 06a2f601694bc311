"""The workflow: it runs the tests, and publishes the site with a push to main after they passed."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


def faults(text):
    """What is wrong with a workflow that tests and publishes, a line each."""
    # Not yaml.safe_load alone: it takes the key `on` for the truth value.
    workflow = yaml.load(text, Loader=yaml.BaseLoader)
    test, publish = workflow["jobs"]["test"], workflow["jobs"]["publish"]
    found = []

    def expect(holds, fault):
        if not holds:
            found.append(fault)

    expect(workflow["on"]["push"] == {"branches": ["main"]}, "not with every push to main")
    expect("pull_request" in workflow["on"], "a pull request is not tested")
    expect(any(step.get("run") == "bash .ci/run" for step in test["steps"]), "no test is run")
    expect(publish.get("needs") == "test", "published before the tests passed")
    only_main = "github.event_name == 'push' && github.ref == 'refs/heads/main'"
    expect(publish.get("if") == only_main, "published from elsewhere than main")
    expect(workflow.get("permissions") == {"contents": "read"}, "too many permissions")
    expect("permissions" not in test, "too many permissions for the tests")
    needed = {"pages": "write", "id-token": "write"}
    expect(publish.get("permissions") == needed, "not the permissions that publishing needs")
    only_requests = "${{ github.event_name == 'pull_request' }}"
    expect(workflow["concurrency"]["cancel-in-progress"] == only_requests, "cut off by a later push")
    expect(publish.get("concurrency", {}).get("cancel-in-progress") == "false", "cut off")
    uploads = [
        (number, step["with"]["path"])
        for number, step in enumerate(test["steps"])
        if step.get("uses", "").startswith("actions/upload-pages-artifact@")
    ]
    last = len(test["steps"]) - 1
    expect(uploads == [(last, "_build/html")], "not the site that was tested")
    for step in test["steps"] + publish["steps"]:
        pinned = re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/x@v1"))
        expect(pinned, f"not pinned: {step.get('uses')}")
    return found


def test_the_workflow_publishes_what_was_tested():
    assert faults(WORKFLOW) == []


@pytest.mark.parametrize(
    "old, new",
    [
        ("    needs: test\n", ""),
        ("bash .ci/run", "true"),
        (" && github.ref == 'refs/heads/main'", ""),
        ("contents: read", "contents: write"),
        ("      id-token: write\n", ""),
        ("path: _build/html", "path: book"),
        ("deploy-pages@v4", "deploy-pages@main"),
        ("cancel-in-progress: false", "cancel-in-progress: true"),
        ("  pull_request:\n", ""),
        ("${{ github.event_name == 'pull_request' }}", "true"),
    ],
)
def test_a_faulty_workflow_is_found(old, new):
    assert WORKFLOW.count(old) == 1
    assert len(faults(WORKFLOW.replace(old, new))) == 1


def test_make_test_looks_at_the_pages_in_a_browser():
    """`.ci/run` and `make test` run every test in tests/, with a browser or else failing."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "export CI=true" in script and "\nmake test\n" in script and "chromium" in script
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (command,) = re.findall(r"^test:.*\n\t.*-m pytest(.*)$", makefile, re.MULTILINE)
    assert not re.search(r"--ignore|--deselect|-k |-m |tests/", command)
    # These are the checks that a browser is needed for.
    pages = (ROOT / "tests" / "test_pages.py").read_text(encoding="utf-8")
    assert "look_at" in pages and "importorskip" not in pages
    checks = (ROOT / "tests" / "page_checks.py").read_text(encoding="utf-8")
    assert "axe.run(document" in checks
