"""Argument checks: every error names the argument, what was expected and what came.

Checks of shape and type cost nothing.  Checks of *values* (is every pixel in [0, 1]?) read the
whole tensor, and on an accelerator they make the program wait for the device.  A training loop
that has checked its data once switches them off for its steps with `trusted_values`.
"""

import contextlib
import contextvars
import math
import numbers
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

_values_are_checked = contextvars.ContextVar("values_are_checked", default=True)


@contextlib.contextmanager
def trusted_values() -> Iterator[None]:
    """Inside this block the values of tensors are taken on trust; shapes are still checked."""
    token = _values_are_checked.set(False)
    try:
        yield
    finally:
        _values_are_checked.reset(token)


def fail(name: str, expected: str, got: object) -> None:
    """Raise the one kind of error that this library raises for a wrong argument."""
    raise ValueError(f"{name}: expected {expected}, got {got}")


def describe(value: object) -> str:
    """A short description of `value` for an error message."""
    if isinstance(value, Tensor):
        kind = "" if value.layout == torch.strided else f" {str(value.layout).removeprefix('torch.')}"
        where = " on the meta device" if value.is_meta else ""
        return f"a {value.dtype}{kind} tensor of shape {tuple(value.shape)}{where}"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


# In others, of 8 bits, torch computes next to nothing.
PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def is_dense(value: Tensor) -> bool:
    """Whether the tensor has all its entries at hand: it is not sparse, and not without data."""
    return value.layout == torch.strided and not value.is_meta


def check_tensor(name: str, value: object, shape: tuple[int | str, ...]) -> Tensor:
    """Return `value` if it is a non-empty dense floating-point tensor of the given shape.

    A string in `shape` names a free dimension: `("batch", 784)`.
    """
    wanted = f"a floating-point tensor of shape ({', '.join(map(str, shape))})"
    if not isinstance(value, Tensor) or value.dtype not in PRECISIONS or not is_dense(value):
        fail(name, wanted, describe(value))
    fits = value.dim() == len(shape) and all(
        isinstance(want, str) or want == size for want, size in zip(shape, value.shape)
    )
    if not fits:
        fail(name, wanted, describe(value))
    if value.numel() == 0:
        fail(name, f"{wanted} with at least one entry", describe(value))
    return value


def check_same_shape(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Two tensors that are paired entry by entry must agree in shape: nothing is broadcast."""
    if value.shape != other.shape:
        fail(name, f"the shape of {other_name}, {tuple(other.shape)}", f"shape {tuple(value.shape)}")


def check_same_kind(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Two tensors that meet in a matrix product must agree in precision and device."""

    def kind(tensor: Tensor) -> tuple:  # "cpu" and "cpu:0" are the same device
        return tensor.dtype, tensor.device.type, tensor.device.index or 0

    if kind(value) != kind(other):
        wanted = f"{other.dtype} on {other.device}, as {other_name}"
        fail(name, wanted, f"{value.dtype} on {value.device}")


def check_finite(name: str, value: Tensor) -> Tensor:
    """Reject nan and infinities (unless values are trusted, see `trusted_values`)."""
    if _values_are_checked.get() and not torch.isfinite(value).all():
        num_bad = int((~torch.isfinite(value)).sum())
        fail(name, "finite numbers", f"{num_bad} of {value.numel()} entries nan or infinite")
    return value


def check_unit_interval(name: str, value: Tensor) -> Tensor:
    """Reject anything outside [0, 1], nan included (unless values are trusted)."""
    if _values_are_checked.get():
        low, high = (bound.item() for bound in torch.aminmax(value.detach()))
        if not (low >= 0.0 and high <= 1.0):  # written so that nan fails too
            fail(name, "values in [0, 1]", f"values from {low:g} to {high:g}")
    return value


def check_integer(name: str, value: object, minimum: int) -> int:
    """Return `value` as an `int` if it is a whole number of at least `minimum`."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < minimum:
        fail(name, f"a whole number ≥ {minimum}", describe(value))
    return int(value)


def check_number(
    name: str, value: object, minimum: float = -math.inf, *, exclusive: bool = False
) -> float:
    """Return `value` as a `float` if it is a finite real number within its bound."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        number = float(value) if real else math.nan
    except OverflowError:  # an integer of more than 308 digits
        number = math.inf
    below = number < minimum or (exclusive and number == minimum)
    if not math.isfinite(number) or below:
        bound = "" if minimum == -math.inf else f" {'>' if exclusive else '≥'} {minimum:g}"
        fail(name, f"a finite number{bound}", describe(value))
    return number


def check_flag(name: str, value: object) -> bool:
    """Return `value` if it is `True` or `False`; "no" or 0 would be a mistake waiting to happen."""
    if not isinstance(value, bool):
        fail(name, "True or False", describe(value))
    return value


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Return `value` if it is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        fail(name, "one of " + ", ".join(map(repr, choices)), describe(value))
    return value


def check_generator(name: str, value: object) -> torch.Generator | None:
    """Return `value` if it is `None` or a generator on the CPU, where all our randomness is drawn."""
    if value is None:
        return None
    if not isinstance(value, torch.Generator) or value.device.type != "cpu":
        fail(name, "None or a torch.Generator on the CPU", describe(value))
    return value


def check_path(name: str, value: object) -> Path:
    """Return `value` as a `Path` with `~` expanded, where that is somebody's home."""
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text or "\0" in text:
        fail(name, "a path", describe(value))
    return Path(os.path.expanduser(text))


def as_pixels(name: str, images: object) -> Tensor:
    """Images as the model takes them: floating point in [0, 1], shape `(n, 784)`.

    uint8 images are divided by 255; floating-point images are returned as they are. Either may
    come as `(n, 28, 28)` or `(n, 784)`.
    """
    wanted = "uint8 or floating-point images of shape (n, 28, 28) or (n, 784), n ≥ 1"
    if not isinstance(images, Tensor) or images.dim() < 2 or len(images) == 0:
        fail(name, wanted, describe(images))
    if not is_dense(images):
        fail(name, wanted, describe(images))
    if tuple(images.shape[1:]) not in {(28, 28), (784,)}:
        fail(name, wanted, describe(images))
    if images.dtype == torch.uint8:
        return images.reshape(len(images), 784).to(torch.get_default_dtype()).div_(255)
    if images.dtype not in PRECISIONS:
        fail(name, wanted, describe(images))
    return check_unit_interval(name, images.reshape(len(images), 784))
