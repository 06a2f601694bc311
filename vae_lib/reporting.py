"""How a result compares with the book's: the line that a chapter prints at its key results."""

import math
import numbers

from torch import Tensor

from vae_lib.checks import check_number, describe, fail

_ELSEWHERE = 'see "Is my number right?"'  # the title of book/reference_numbers.md


def compare_result(
    name: str, value: float, expected: float, tolerance: float, unit: str = ""
) -> None:
    """Print in one line a result, the value expected, the tolerance, and whether they agree:

        test negative ELBO: 142.23 nats per image (expected 142.23, tolerance 0.01): agrees

    They agree if |value − expected| ≤ tolerance. If they do not, the line says `differs`, by how
    much and how many times the tolerance that is; nan and the infinities differ, too. Nothing is
    raised then: the run goes on, and only the test of the chapter fails, by the word that changed.

    All numbers have as many decimals as the tolerance needs for its first two digits, or for one
    if the second is 0. So what lies far below the tolerance, as the rounding errors of another
    processor do, changes nothing in the line; but a number near the middle between two of its
    last digits may still go either way. The verdict is on the numbers before they are rounded.

    Args:
        name: what was measured: text of one line, not blank.
        value: any real number, nan and ±inf included: Python's, NumPy's or a tensor of shape ().
        expected: like `value`, but finite.
        tolerance: like `value`, but finite and > 0.
        unit: the unit of all three, "nats per image" or "%" for example, printed after the value.

    Raises `ValueError` for any other argument. Chapter 1 uses it first.
    """
    _check_line("name", name)
    value = _as_float(value)
    expected = check_number("expected", _scalar(expected))
    tolerance = check_number("tolerance", _scalar(tolerance), 0.0, exclusive=True)
    if unit != "":
        _check_line("unit", unit)

    mantissa, _, exponent = f"{tolerance:.1e}".partition("e")
    decimals = max(0, (0 if mantissa.endswith("0") else 1) - int(exponent))

    def text(number: float) -> str:
        fixed = f"{number:z.{decimals}f}"  # z: what is rounded to zero has no minus sign
        return fixed if len(fixed) <= 20 else f"{number:.6g}"

    deviation = abs(value - expected)
    # 142.24 − 142.23 is a little more or less than 0.01: all three have been rounded to 53 bits.
    slack = 4 * math.ulp(max(abs(expected), tolerance))
    if not math.isfinite(value):
        verdict = f"differs, not a finite number; {_ELSEWHERE}"
    elif deviation <= tolerance + slack:
        verdict = "agrees"
    else:
        verdict = f"differs by {text(deviation)}, {_times(deviation / tolerance)}; {_ELSEWHERE}"
    found = f"{text(value)} {unit}".rstrip()
    wanted = text(expected) if expected else "0"
    print(f"{name}: {found} (expected {wanted}, tolerance {text(tolerance)}): {verdict}")


def _times(ratio: float) -> str:
    """A deviation of more than the tolerance, in units of it."""
    if ratio < 1.1:
        return "just above the tolerance"
    if ratio > 10_000:
        return "more than 10,000 times the tolerance"
    return f"{ratio:.{1 if ratio < 10 else 0}f} times the tolerance"


def _check_line(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip() or value.splitlines() != [value]:
        fail(name, "text of one line", describe(value))


def _scalar(value: object) -> object:
    return value.item() if isinstance(value, Tensor) and value.dim() == 0 else value


def _as_float(value: object) -> float:
    """Like `check_number`, but nan and the infinities are let through."""
    number = _scalar(value)
    if not isinstance(number, numbers.Real) or isinstance(number, bool):
        fail("value", "a number", describe(value))
    try:
        return float(number)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf if number > 0 else -math.inf
