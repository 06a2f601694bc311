"""What the small live figures share: a base class, two kinds of trait, texts for the browser.

A live figure's ES module may import nothing: on a page without a kernel it is a text in the
notebook's widget state. So the functions that all of them need stand in `small.js`, and `module`
puts them before a figure's own code.
"""

from collections.abc import Sequence
from pathlib import Path

import traitlets
from torch import Tensor

from vae_lib.checks import check_number, describe, fail
from vae_lib.widgets.base import LiveFigure

_FOLDER = Path(__file__).parent

# The colours of the chapters' figures. In the browser `small.css` has them too, and lighter ones
# for a dark page.
INDIGO, CYAN, ROSE, GREEN, WINE, GREY = (
    "#332288", "#44AACC", "#CC6677", "#117733", "#882255", "#BBBBBB",
)  # fmt: skip


def module(name: str) -> str:
    """The text of the ES module `name`.js, with the shared functions before it."""
    return "\n".join((_FOLDER / f"{file}.js").read_text("utf-8") for file in ("small", name))


class SmallFigure(LiveFigure):
    """A live figure of sliders, buttons, curves and numbers that can go back to how it started."""

    _css = (_FOLDER / "small.css").read_text("utf-8")
    # What the button "reset" returns to: the values that the figure was made with.
    start = traitlets.Dict().tag(sync=True)

    def __init__(self, **values: object) -> None:
        super().__init__(**values)
        self.start = {name: getattr(self, name) for name in values}


class Between(traitlets.TraitType):
    """A trait: a number from `low` to `high`. What is none is a ValueError with its name."""

    def __init__(self, low: float, high: float, default: float) -> None:
        super().__init__(default_value=default)
        self.low, self.high = low, high

    def validate(self, owner: object, value: object) -> float:
        number = check_number(self.name, value)
        if not self.low <= number <= self.high:
            fail(self.name, f"a number from {self.low:g} to {self.high:g}", describe(value))
        return number


class Numbers(traitlets.TraitType):
    """A trait: a list of finite numbers, kept to four decimals; a tensor of one dimension will do.

    Four decimals, so that the last bits of another machine do not change what a page shows.
    """

    def __init__(self, minimum: int, maximum: int) -> None:
        super().__init__(default_value=())
        self.minimum, self.maximum = minimum, maximum

    def validate(self, owner: object, value: object) -> tuple[float, ...]:
        return check_numbers(self.name, value, self.minimum, self.maximum)


def check_numbers(name: str, value: object, minimum: int, maximum: int) -> tuple[float, ...]:
    """Return `value` as a tuple if it is a list, or a tensor, of so many finite numbers."""
    wanted = f"{minimum} to {maximum} numbers"
    if isinstance(value, Tensor) and value.dim() == 1:
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        fail(name, wanted, describe(value))
    if not minimum <= len(value) <= maximum:
        fail(name, wanted, f"{len(value)} of them")
    return tuple(round(check_number(name, number), 4) for number in value)


def number_text(value: float) -> str:
    """For a `repr`: as few digits as tell the number, the same on every machine."""
    return f"{value:.4g}"
