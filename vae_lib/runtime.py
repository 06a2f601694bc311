"""Where the book runs and where its randomness comes from: devices, seeds, the cache folder."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from vae_lib.checks import check_choice, check_integer, fail

DEVICES = ("cpu", "cuda", "mps")


def pick_device(name: str | None = None) -> torch.device:
    """The device to compute on.

    `name` is "cpu", "cuda" (or "cuda:1", …) or "mps". Without it the environment variable
    `VAE_DEVICE` decides, and without that the best device there is: CUDA, then MPS, then the CPU.

    Raises `ValueError` for an unknown device and for one that this machine does not have. Chapter 1
    calls it first.
    """
    if name is not None:
        return check_device("name", name)
    if name := os.environ.get("VAE_DEVICE"):
        return check_device("VAE_DEVICE", name)
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")


def check_device(origin: str, name: object) -> torch.device:
    """Return the device called `name` if this machine has it; `origin` is named in the error."""
    kind = name.type if isinstance(name, torch.device) else name
    kind = check_choice(origin, kind.partition(":")[0] if isinstance(kind, str) else kind, DEVICES)
    try:
        device = torch.device(name)
    except RuntimeError:
        fail(origin, 'a device such as "cpu", "cuda", "cuda:1" or "mps"', repr(name))
    available = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(_has_mps()),
    }[kind]
    # The number as it was written: torch keeps eight bits of it, and "cuda:256" would be "cuda:0".
    index = str(name).partition(":")[2]
    if int(index or 0) >= available:
        wanted = "a device that this machine has"
        fail(origin, wanted, f"{str(name)!r}, but it has {available} of that kind")
    return device


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def stream(name: str, seed: int = 0) -> torch.Generator:
    """A random generator of its own for one purpose, on the CPU.

    Two names give two independent streams from one seed, so that drawing more noise does not
    change the order of the images. The stream is drawn on the CPU whatever the device, and so
    is the same everywhere. What it is for is said in chapter 4. Raises `ValueError` for an empty
    `name` and for a `seed` that is not a whole number ≥ 0.
    """
    if not isinstance(name, str) or not name:
        fail("name", "a non-empty string", repr(name))
    check_integer("seed", seed, 0)
    digest = hashlib.sha256(f"{name}/{seed}".encode()).digest()
    # torch's generator on the CPU uses 32 bits of its seed.
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))


def standard_normal(
    shape: tuple[int, ...], generator: torch.Generator | None, like: Tensor
) -> Tensor:
    """Draws from N(0, 1) with the precision and on the device of `like`.

    Drawn on the CPU in float32 whatever these are, and then converted: from one generator torch
    draws other numbers in float64, and other ones again on another device.
    """
    noise = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
    return noise.to(like)


def uniform(
    shape: tuple[int, ...],
    generator: torch.Generator | None,
    low: float = 0.0,
    high: float = 1.0,
) -> Tensor:
    """Draws from the uniform distribution on [low, high): float32, on the CPU, for any model.

    Left to the caller to convert. A draw u that decides (u < p) should stay float32: rounded to
    half precision it could become 1.
    """
    draws = torch.empty(shape, dtype=torch.float32, device="cpu")
    return draws.uniform_(low, high, generator=generator)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products in true float32: some GPUs would round their inputs to 10 bits (TF32)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def cache_folder(root: str | os.PathLike | None = None) -> Path:
    """The folder for downloaded data: `root`, else `VAE_DATA`, else the user's cache folder."""
    from platformdirs import user_cache_dir  # here: `import vae_lib` stays quick

    from vae_lib.checks import check_path

    if root is not None:
        return check_path("root", root)
    return check_path("VAE_DATA", os.environ.get("VAE_DATA") or user_cache_dir("vae_lib"))
