"""The plane of rate and distortion, on models that were computed before (chapter 3)."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import traitlets
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from vae_lib.checks import check_number, describe, fail
from vae_lib.widgets.small import (
    GREEN,
    INDIGO,
    ROSE,
    Numbers,
    SmallFigure,
    check_numbers,
    module,
    number_text,
)

_Numbers = Tensor | Sequence[float]


class _OneOf(traitlets.TraitType):
    """A trait: one of the numbers in the trait `numbers`, to within rounding."""

    default_value = 1.0

    def __init__(self, numbers: str) -> None:
        super().__init__()
        self.numbers = numbers

    def validate(self, owner: traitlets.HasTraits, value: object) -> float:
        number, choices = check_number(self.name, value), getattr(owner, self.numbers)
        nearest = min(choices, key=lambda choice: abs(choice - number))
        if abs(nearest - number) > 1e-3 * abs(nearest):
            listed = ", ".join(map(number_text, choices))
            fail(self.name, f"one of {self.numbers} ({listed})", describe(value))
        return nearest


class RateDistortion(SmallFigure):
    """Points (R, D) of models that differ in one number t, and which is best for a weight β.

    `factors` are the values of t, ascending and above 0; `rate` and `distortion` what was computed
    for each, in nats per image; `slopes` and `slope_errors`, where given, the measured slopes dD/dR
    there and their standard errors. `betas`, too ascending and above 0, are the weights to choose
    from. All are kept to four decimals. `beta`, one of `betas`, and `t`, one of `factors`, can be
    read and set: they follow the sliders, and the sliders follow them. What does not fit is a
    ValueError. Chapter 3.
    """

    _esm = module("rate_distortion")
    factors = Numbers(3, 100).tag(sync=True)
    rate = Numbers(3, 100).tag(sync=True)
    distortion = Numbers(3, 100).tag(sync=True)
    slopes = Numbers(0, 100).tag(sync=True)
    slope_errors = Numbers(0, 100).tag(sync=True)
    betas = Numbers(1, 20).tag(sync=True)
    beta = _OneOf("betas").tag(sync=True)
    t = _OneOf("factors").tag(sync=True)

    def __init__(
        self,
        factors: _Numbers,
        rate: _Numbers,
        distortion: _Numbers,
        slopes: _Numbers = (),
        slope_errors: _Numbers = (),
        *,
        betas: _Numbers = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
        beta: float = 1.0,
        t: float = 1.0,
    ) -> None:
        lists = {
            "factors": check_numbers("factors", factors, 3, 100),
            "rate": check_numbers("rate", rate, 3, 100),
            "distortion": check_numbers("distortion", distortion, 3, 100),
            "slopes": check_numbers("slopes", slopes, 0, 100),
            "slope_errors": check_numbers("slope_errors", slope_errors, 0, 100),
            "betas": check_numbers("betas", betas, 1, 20),
        }
        for name in ("factors", "betas"):
            numbers = lists[name]
            if numbers[0] <= 0 or any(a >= b for a, b in zip(numbers, numbers[1:])):
                fail(name, "numbers above 0 in ascending order", describe(numbers))
        slopes_given = lists["slopes"] or lists["slope_errors"]
        n = len(lists["factors"])
        for name in ("rate", "distortion", *(("slopes", "slope_errors") if slopes_given else ())):
            if len(lists[name]) != n:
                fail(name, f"{n} numbers, one for each of factors", f"{len(lists[name])} of them")
        super().__init__(**lists, beta=beta, t=t)
        self.start = {"beta": self.beta, "t": self.t}

    @property
    def totals(self) -> tuple[float, ...]:
        """D + βR of every model, in nats per image."""
        return tuple(d + self.beta * r for d, r in zip(self.distortion, self.rate))

    @property
    def best_t(self) -> float:
        """The t, among `factors`, with the smallest D + βR."""
        return self.factors[self._best()]

    def _best(self) -> int:
        return self.totals.index(min(self.totals))

    def __repr__(self) -> str:
        beta, t = number_text(self.beta), number_text(self.t)
        return f"RateDistortion({len(self.factors)} models, beta={beta}, t={t})"

    def static_figure(self) -> Figure:
        """The plane with the line of slope −β that touches the points; D + βR of every t."""
        figure, (plane, sums) = plt.subplots(1, 2, figsize=(8.0, 5.4), layout="constrained")
        i, best = self.factors.index(self.t), self._best()
        plane.plot(self.rate, self.distortion, "o-", color=INDIGO, markersize=4, linewidth=1)
        low, high = min(self.distortion), max(self.distortion)
        ends = (min(self.rate) - 0.3, max(self.rate) + 0.3)
        touching = [self.totals[best] - self.beta * end for end in ends]
        plane.plot(ends, touching, "--", color=ROSE, label=rf"slope $-\beta$ = −{self.beta:g}")
        plane.set(xlabel="rate $R$ (nats)", ylabel="distortion $D$ (nats)", xlim=ends)
        plane.set_ylim(low - 0.15 * (high - low), high + 0.05 * (high - low))
        sums.plot(self.factors, self.totals, "o-", color=INDIGO, markersize=4, linewidth=1)
        sums.set(xscale="log", xlabel="$t$", ylabel=r"$D + \beta R$ (nats)")
        shown = self.factors[:: max(1, len(self.factors) // 4)]
        sums.set_xticks(shown, [number_text(t) for t in shown])
        sums.minorticks_off()
        for axis, x, y in (
            (plane, self.rate, self.distortion), (sums, self.factors, self.totals)
        ):  # fmt: skip
            self._mark(axis, x, y, i, best)
        return figure

    def _mark(
        self, axis: Axes, x: Sequence[float], y: Sequence[float], i: int, best: int
    ) -> None:
        axis.plot(x[best], y[best], "o", color=ROSE, markersize=9,
                  label=rf"least $D + \beta R$, $t$ = {self.best_t:.2f}")  # fmt: skip
        axis.plot(x[i], y[i], "s", color=GREEN, markersize=12, fillstyle="none",
                  label=f"chosen, $t$ = {self.t:.2f}")  # fmt: skip
        axis.legend(loc="upper center")
