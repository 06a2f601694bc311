"""tools/reference_numbers.py: mistakes are made while they should be, and the tables say what was found."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from vae_lib import MNIST, VAE, Split, fit, stream, training

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import reference_numbers as tool  # noqa: E402

IMAGES = torch.randint(0, 256, (200, 28, 28), generator=stream("images")).to(torch.uint8)
SMALL = MNIST(
    Split(IMAGES[:150], torch.zeros(150, dtype=torch.int64)),
    Split(IMAGES[150:], torch.zeros(50, dtype=torch.int64)),
)


def short(mistake):
    changes = {"epochs": 1, "batch_size": 50, "warmup_steps": 1} | mistake.changes
    return dataclasses.replace(mistake, changes=changes)


@pytest.mark.parametrize("mistake", tool.MISTAKES[1:], ids=lambda mistake: mistake.name)
def test_each_mistake_changes_what_is_seen_and_leaves_the_library_as_it_was(mistake):
    before = vars(training).copy(), vars(VAE).copy(), torch.optim.Adam.zero_grad
    right = tool.run_mistake(short(tool.MISTAKES[0]), SMALL)
    wrong = tool.run_mistake(short(mistake), SMALL)
    assert right["seen"] == right["right"]
    assert (wrong["seen"], wrong["training loss"]) != (right["seen"], right["training loss"])
    assert (vars(training), dict(vars(VAE)), torch.optim.Adam.zero_grad) == before


def test_a_run_that_ends_in_an_error_says_so():
    endless = tool.Mistake("too fast", changes={"learning_rate": 1e30, "warmup_steps": 0})
    assert "nan or infinite" in tool.run_mistake(short(endless), SMALL)["ended"]


def test_every_epoch_is_binarised_and_shuffled_anew():
    epochs = tool.dynamic_epochs(IMAGES, 3, seed=1).view(3, 200, 784)
    assert set(epochs.unique().tolist()) == {0, 255}
    assert not torch.equal(epochs[0].sum(dim=1), epochs[1].sum(dim=1))
    # All images are there: the mean over many bits is the mean grey level.
    grey = IMAGES.float().mean() / 255
    assert (epochs.float().mean(dim=(1, 2)) / 255 - grey).abs().max() < 0.005
    assert torch.equal(epochs.flatten(0, 1), tool.dynamic_epochs(IMAGES, 3, seed=1))
    assert not torch.equal(epochs.flatten(0, 1), tool.dynamic_epochs(IMAGES, 3, seed=2))


def test_the_table_of_settings_has_mean_smallest_and_largest():
    outcomes = {
        (setting.name, seed): [[140.0 + seed, 130.0, 10.0 + seed]]
        * (10 if setting.every_epoch else 1)
        for setting in tool.SETTINGS
        for seed in tool.SEEDS
    }
    lines = tool.table_of_settings(outcomes).splitlines()
    assert lines[2] == (
        "| default, 1 epoch | 142.0 (140.0 to 144.0) | 130.0 (130.0 to 130.0) "
        "| 12.0 (10.0 to 14.0) |"
    )
    assert len(lines) == 2 + len(tool.SETTINGS) - 1 + 10
    assert lines[-10].startswith("| original, 1 epoch |")
    assert lines[-1].startswith("| original, 10 epochs |")


def test_the_table_of_mistakes_is_in_the_order_of_what_is_seen():
    outcomes = {
        (mistake.name, None): {"training loss": 1.0, "seen": [float(-n), 0, 0], "right": [9, 0, 0]}
        for n, mistake in enumerate(tool.MISTAKES)
    }
    outcomes[tool.MISTAKES[-1].name, None] = {"ended": "the loss became nan: try another"}
    rows = tool.table_of_mistakes(outcomes).splitlines()[2:]
    assert rows[0].startswith(f"| {tool.MISTAKES[-2].name} | 1.0 |")
    assert rows[-2].startswith(f"| {tool.MISTAKES[0].name} |")
    assert rows[-1] == f"| {tool.MISTAKES[-1].name} | the loss became nan |  |  |  |  |"


def test_the_page_has_the_tables_of_what_is_kept():
    page, outcomes = tool.PAGE.read_text(encoding="utf-8"), tool.kept()
    for name in [x.name for x in (*tool.SETTINGS, *tool.MISTAKES)]:
        assert f"\n| {name}" in page, f"no row for {name}: tools/reference_numbers.py --write"
    # Outcomes of another library do not count, so that there may be none to compare with.
    for mark, text in tool.complete_tables(outcomes).items():
        assert tool.between_marks(tool.PAGE, mark, text) == page, mark


def test_a_page_without_marks_is_refused_before_anything_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "PAGE", tmp_path / "page.md")
    tool.PAGE.write_text("<!-- spread: begin -->\n<!-- spread: end -->\n")
    monkeypatch.setattr(tool, "run_all", lambda *_: pytest.fail("it was run"))
    monkeypatch.setattr(sys, "argv", ["reference_numbers.py"])
    with pytest.raises(ValueError, match="mistakes: begin"):
        tool.main()


def test_what_is_kept_holds_for_this_library_only(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "KEPT", tmp_path / "kept.jsonl")
    monkeypatch.setattr(tool, "tasks", lambda: iter([("a mistake", None)]))
    assert tool.kept() == {}
    line = '{"name": "a mistake", "seed": null, "digest": "%s", "outcome": 1}\n'
    tool.KEPT.write_text(line % tool.digest_of_runs() + line.replace("a m", "m") % "old")
    assert tool.kept() == {("a mistake", None): 1}
    tool.run_all("", 1)  # nothing is left to run
    monkeypatch.setattr(tool, "digest_of_runs", lambda: "another")
    assert tool.kept() == {}


def test_dynamic_takes_the_same_steps_at_the_same_rates_as_ten_epochs():
    settings = {"batch_size": 50, "warmup_steps": 2, "progress": False}
    ten = fit(VAE(), IMAGES, epochs=10, **settings)
    one = fit(VAE(), tool.dynamic_epochs(IMAGES, 10, 0), epochs=1, shuffle=False, **settings)
    assert torch.equal(ten.steps.learning_rate, one.steps.learning_rate)
