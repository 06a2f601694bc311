"""Expected values, their spread over seeds, and what mistakes lead to: the page "Is my number right?".

    python tools/reference_numbers.py                    train what is not kept yet; about an hour
    python tools/reference_numbers.py --only latent      the runs whose name contains this
    python tools/reference_numbers.py --write            and put the tables that are complete into the page

Each setting is trained on all of MNIST from the seeds 0 to 4, each mistake once, from the book's seed.
A mistake is made in the library itself, by putting the wrong function in the right one's place, so
that its numbers are those that somebody sees who has made it. Every outcome is kept in
reference_numbers.jsonl beside this file, and none is used again after the library's code has changed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import hashlib
import json
import multiprocessing
import os
import pkgutil
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import torch
from code_only import code_only
from pages import BOOK, between_marks, put_between_marks, table
from torch import Tensor

from vae_lib import MNIST, VAE, binarize, evaluate, fit, load_mnist, start_at_mean_image, stream, train

ROOT = Path(__file__).resolve().parent.parent
PAGE = BOOK / "reference_numbers.md"
KEPT = Path(__file__).with_suffix(".jsonl")
SEEDS = range(5)
TERMS = ("negative_elbo", "reconstruction", "kl")


@dataclass(frozen=True)
class Setting:
    """A way to train: `setting` and `changes` as in `vae_lib.train`.

    pixels: "grey" or "dynamic". every_epoch: a row for the end of each epoch, not one for the last.
    """

    name: str
    setting: str = "default"
    changes: dict = field(default_factory=dict)
    latent_dim: int = 2
    pixels: str = "grey"
    every_epoch: bool = False


SETTINGS = [
    *(
        Setting(f"default, {n} epoch{'s' * (n > 1)}", changes={"epochs": n})
        for n in (1, 3, 10, 20)
    ),
    *(Setting(f"default, {d} latent dimensions", latent_dim=d) for d in (5, 10, 20)),
    Setting("default, dynamically binarised", pixels="dynamic"),
    Setting("original", setting="original", every_epoch=True),
]


@dataclass(frozen=True)
class Mistake:
    """Something done wrong: wrong arguments, wrong data, or wrong functions in the library.

    patches: the place of a function in vae_lib → what makes the wrong function from the right one.
    data: makes (training images, images measured on) from MNIST.
    loss_factor: by what the loss that is reported is wrong besides.
    """

    name: str
    changes: dict = field(default_factory=dict)
    patches: dict[str, Callable] = field(default_factory=dict)
    data: Callable | None = None
    loss_factor: float = 1.0


def in_both_terms(place: str, wrong: Callable) -> dict[str, Callable]:
    """A mistake in an objective, where training and measuring each use it."""
    return {f"vae_lib.{module}.{place}": wrong for module in ("training", "evaluation")}


def log_likelihood(wrong: Callable) -> dict[str, Callable]:
    return in_both_terms("bernoulli_log_likelihood", wrong)


def kl(wrong: Callable) -> dict[str, Callable]:
    return in_both_terms("kl_to_standard_normal", wrong)


def sample(wrong: Callable[[Tensor, Tensor, Tensor], Tensor]) -> dict[str, Callable]:
    """A mistake in z = μ + σ ε: `wrong(mu, log_var, noise)`."""

    def make(right: Callable) -> Callable:
        def reparameterize(self, mu, log_var, generator=None, noise=None):
            return wrong(mu, log_var, noise)

        return reparameterize

    return {"vae_lib.models.VAE.reparameterize": make}


MISTAKES = [
    Mistake("none: the default recipe"),
    Mistake(
        "mean over the 784 pixels, sum over the latent dimensions",
        patches=log_likelihood(lambda right: lambda x, logits: right(x, logits) / 784),
    ),
    Mistake(
        "sigmoid twice: probabilities given where logits are expected",
        patches=log_likelihood(lambda right: lambda x, logits: right(x, logits.sigmoid())),
    ),
    Mistake(
        "an activation (ReLU) on the logits",
        patches=log_likelihood(lambda right: lambda x, logits: right(x, logits.relu())),
    ),
    Mistake(
        "σ² for σ: noise multiplied by exp(log_var)",
        patches=sample(lambda mu, log_var, noise: mu + log_var.exp() * noise),
    ),
    Mistake("no noise: z = μ", patches=sample(lambda mu, log_var, noise: mu)),
    Mistake(
        "the KL term reads log_var as log σ, the sample as log σ²",
        patches=kl(lambda right: lambda mu, log_var: right(mu, 2 * log_var)),
    ),
    Mistake(
        "the KL term without its factor ½",
        patches=kl(lambda right: lambda mu, log_var: 2 * right(mu, log_var)),
    ),
    Mistake(
        "the KL term with the wrong sign",
        patches=kl(lambda right: lambda mu, log_var: -right(mu, log_var)),
    ),
    Mistake(
        "the KL term forgotten",
        patches=kl(lambda right: lambda mu, log_var: 0 * right(mu, log_var)),
    ),
    Mistake(
        "gradients never set to zero",
        patches={"torch.optim.Adam.zero_grad": lambda right: lambda self, *args: None},
    ),
    Mistake("learning rate 0.0002, a tenth of the recipe's", changes={"learning_rate": 2e-4}),
    Mistake("learning rate 0.02, ten times the recipe's", changes={"learning_rate": 2e-2}),
    Mistake("not shuffled: the images in file order", changes={"shuffle": False}),
    Mistake(
        "trained on the test set, and measured on it",
        data=lambda mnist: (mnist.test.images, mnist.test.images),
    ),
    Mistake(
        "measured on the training set",
        data=lambda mnist: (mnist.train.images, mnist.train.images),
    ),
    Mistake(
        "pixels made black and white by a threshold",
        data=lambda mnist: tuple(
            binarize(split.pixels(), "threshold") for split in (mnist.train, mnist.test)
        ),
    ),
    Mistake(
        "pixels divided by 256",
        data=lambda mnist: tuple(
            split.pixels() * (255 / 256) for split in (mnist.train, mnist.test)
        ),
    ),
    Mistake("the epoch's sum divided by 59,900", loss_factor=60_000 / 59_900),
]


# Running -----------------------------------------------------------------------------------------


def run_setting(setting: Setting, seed: int) -> list[list[float]]:
    """Train; the three terms on the test set, one list per row of the table."""
    mnist = load_mnist()
    changes = {"seed": seed, "progress": False, **setting.changes}
    images, measured_on = mnist.train.images, mnist.test.images
    if setting.every_epoch:
        _, history = train(images, setting.setting, validation_images=measured_on, **changes)
        curves = history.validation
        return torch.stack((curves.loss, curves.reconstruction, curves.kl), dim=1).tolist()
    if setting.pixels == "dynamic":
        # New bits every epoch. `fit` keeps one set of images: so ten epochs are one here, over ten
        # sets, each in an order of its own, which takes the same steps at the same rates.
        images = dynamic_epochs(images, 10, seed)
        changes |= {"epochs": 1, "shuffle": False}
        bits = stream("test set, binarised", seed)
        measured_on = binarize(mnist.test.pixels(), "dynamic", bits)
    vae = VAE(setting.latent_dim, generator=stream("initialization", seed))
    start_at_mean_image(vae, images)
    fit(vae, images, **changes)
    result = evaluate(vae, measured_on)
    return [[getattr(result, term) for term in TERMS]]


def dynamic_epochs(images: Tensor, num_epochs: int, seed: int) -> Tensor:
    """`num_epochs` binarisations of all images one after the other, each shuffled: uint8 0 or 255."""
    bits, order = stream("epochs, binarised", seed), stream("order", seed)
    x = images.reshape(len(images), -1).float() / 255
    epochs = torch.empty(num_epochs, *x.shape, dtype=torch.uint8)
    for epoch in epochs:
        shuffled = x[torch.randperm(len(x), generator=order)]
        epoch.copy_(binarize(shuffled, "dynamic", bits) * 255)
    return epochs.flatten(0, 1)


@contextlib.contextmanager
def made(mistake: Mistake) -> Iterator[None]:
    """In this context the library has the mistake."""
    with contextlib.ExitStack() as stack:
        for place, wrong in mistake.patches.items():
            owner, _, name = place.rpartition(".")
            owner = pkgutil.resolve_name(owner)
            stack.enter_context(mock.patch.object(owner, name, wrong(getattr(owner, name))))
        yield


def run_mistake(mistake: Mistake, mnist: MNIST | None = None) -> dict:
    """Train with the mistake; what it reports, and what the right measure says of the weights."""
    mnist = load_mnist() if mnist is None else mnist
    images, measured_on = mnist.train.images, mnist.test.images
    if mistake.data is not None:
        images, measured_on = mistake.data(mnist)
    try:
        with made(mistake):
            vae, history = train(images, progress=False, **mistake.changes)
            seen = evaluate(vae, measured_on)
    except FloatingPointError as error:
        return {"ended": str(error)}
    right = evaluate(vae, mnist.test.images)
    return {
        "training loss": history.epochs.loss[-1].item() * mistake.loss_factor,
        "seen": [getattr(seen, term) for term in TERMS],
        "right": [getattr(right, term) for term in TERMS],
    }


def tasks() -> Iterator[tuple[str, int | None]]:
    """All runs: a setting's name and a seed, or a mistake's name and None."""
    for seed in SEEDS:
        yield from ((setting.name, seed) for setting in SETTINGS)
    yield from ((mistake.name, None) for mistake in MISTAKES)


def run(name: str, seed: int | None) -> list | dict:
    """One of `tasks()`, on one thread."""
    torch.set_num_threads(1)
    if seed is not None:
        return run_setting(next(s for s in SETTINGS if s.name == name), seed)
    return run_mistake(next(m for m in MISTAKES if m.name == name))


def run_all(only: str, jobs: int) -> None:
    """Run what is not kept, and keep it."""
    done, digest = kept(), digest_of_runs()
    wanted = [
        (name, seed)
        for name, seed in tasks()
        if (name, seed) not in done and (only in name or (only == "mistakes" and seed is None))
    ]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = {pool.submit(run, *task): task for task in wanted}
        for count, future in enumerate(concurrent.futures.as_completed(futures), 1):
            name, seed = futures[future]
            outcome = future.result()
            line = {"name": name, "seed": seed, "digest": digest, "outcome": outcome}
            with KEPT.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            print(f"[{count}/{len(wanted)}] {name}, seed {seed}: {outcome}", flush=True)


def kept() -> dict[tuple[str, int | None], list | dict]:
    """Outcomes of earlier runs of this very code."""
    digest = digest_of_runs()
    lines = KEPT.read_text(encoding="utf-8").splitlines() if KEPT.exists() else []
    outcomes = map(json.loads, lines)
    return {(o["name"], o["seed"]): o["outcome"] for o in outcomes if o["digest"] == digest}


def digest_of_runs() -> str:
    """Of all that an outcome depends on: what the library trains with, and this file up to the tables."""
    here = Path(__file__).read_text(encoding="utf-8").partition("\n# Tables ---")[0]
    modules = "checks data evaluation linear models objectives runtime training".split()
    sources = [(ROOT / "vae_lib" / f"{name}.py").read_text("utf-8") for name in modules]
    code = "\0".join(map(code_only, [here, *sources]))
    return hashlib.sha256(code.encode()).hexdigest()[:16]


# Tables ------------------------------------------------------------------------------------------


def table_of_settings(outcomes: dict) -> str:
    """Mean, smallest and largest of each term over the seeds."""
    rows = []
    for setting in SETTINGS:
        of_seeds = [outcomes[setting.name, seed] for seed in SEEDS]
        for number, of_row in enumerate(zip(*of_seeds, strict=True), 1):
            name = f"{setting.name}, {number} epoch{'s' * (number > 1)}"
            cells = [
                f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"
                for values in zip(*of_row, strict=True)
            ]
            rows.append([name if setting.every_epoch else setting.name, *cells])
    return table(["setting", "test negative ELBO", "reconstruction", "KL"], rows)


def table_of_mistakes(outcomes: dict) -> str:
    """What each mistake shows, from the smallest negative ELBO to the largest."""

    def nats(value: float) -> str:
        digits = ".1e" if abs(value) > 1e5 else ".1f" if abs(value) >= 1 else ".2f"
        return f"{value:{digits}}"

    def row(mistake: Mistake) -> list[str]:
        outcome = outcomes[mistake.name, None]
        if "ended" in outcome:
            return [mistake.name, outcome["ended"].partition(":")[0], "", "", "", ""]
        loss, seen, right = outcome["training loss"], outcome["seen"], outcome["right"]
        return [mistake.name, *map(nats, (loss, *seen, right[0]))]

    def order(mistake: Mistake) -> float:
        return outcomes[mistake.name, None].get("seen", [float("inf")])[0]

    header = ["mistake", "training loss", "negative ELBO", "reconstruction", "KL", "in truth"]
    return table(header, [row(mistake) for mistake in sorted(MISTAKES, key=order)])


# Its marks in the page, what makes it, and whose outcomes it is made of: a setting's have a seed.
TABLES = (
    ("spread", table_of_settings, lambda seed: seed is not None),
    ("mistakes", table_of_mistakes, lambda seed: seed is None),
)


def complete_tables(outcomes: dict) -> dict[str, str]:
    """The text of each table of which no outcome is missing, by its marks."""
    return {
        mark: make(outcomes)
        for mark, make, is_its_own in TABLES
        if all(task in outcomes for task in tasks() if is_its_own(task[1]))
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="TEXT",
                        help="runs whose name contains this; 'mistakes' for all of these")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    options = parser.parse_args()  # fmt: skip
    for mark, *_ in TABLES:
        between_marks(PAGE, mark, "")  # an error for a missing mark now, not after an hour
    run_all(options.only, options.jobs)
    found = complete_tables(kept())
    for mark, *_ in TABLES:
        if mark not in found:
            print(f"No table of the {mark} yet: some of its runs are missing.")
            continue
        print(found[mark])
        if options.write:
            put_between_marks(PAGE, mark, found[mark])
    return 0 if len(found) == len(TABLES) or options.only else 1


if __name__ == "__main__":
    sys.exit(main())
