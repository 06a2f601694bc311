"""The reparameterised sample, and two estimators of a gradient from the same noise (chapter 2)."""

import math

import matplotlib.pyplot as plt
import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from vae_lib.checks import check_integer
from vae_lib.runtime import stream
from vae_lib.widgets.small import CYAN, WINE, Between, Numbers, SmallFigure, module, number_text


class _Count(traitlets.TraitType):
    """A trait: a whole number that is not negative."""

    default_value = 0

    def validate(self, owner: object, value: object) -> int:
        return check_integer(self.name, value, 0)


class Reparameterisation(SmallFigure):
    """Noise points ε, the samples z = μ + σε, and d/dμ of the mean of z² estimated from them.

    `mu` is from −2 to 2, `sigma` (a standard deviation, not a variance) from 0.1 to 2. `noise` are
    the values of ε, 2 to 200 of them, kept to four decimals; by default 40 draws of the standard
    normal distribution. `draws` counts how often the button "new noise" has replaced them. All can
    be read and set: they follow the figure, and the figure follows them. A value out of its range
    is a ValueError. Chapter 2.
    """

    _esm = module("reparameterisation")
    mu = Between(-2.0, 2.0, 1.0).tag(sync=True)
    sigma = Between(0.1, 2.0, 1.0).tag(sync=True)
    noise = Numbers(2, 200).tag(sync=True)
    draws = _Count().tag(sync=True)

    def __init__(
        self, mu: float = 1.0, sigma: float = 1.0, noise: Tensor | list[float] | None = None
    ) -> None:
        if noise is None:
            noise = torch.randn(40, generator=stream("live reparameterisation"))
        super().__init__(mu=mu, sigma=sigma, noise=noise, draws=0)

    @property
    def exact(self) -> float:
        """The gradient itself, d/dμ E[z²] = 2μ."""
        return 2 * self.mu

    @property
    def pathwise(self) -> Tensor:
        """The pathwise estimate of each draw, 2z: `(n,)`, float64."""
        return 2 * self._z()

    @property
    def score_function(self) -> Tensor:
        """The score-function estimate of each draw, z²ε/σ: `(n,)`, float64."""
        return self._z() ** 2 * self._epsilon() / self.sigma

    def _epsilon(self) -> Tensor:
        return torch.tensor(self.noise, dtype=torch.float64)

    def _z(self) -> Tensor:
        return self.mu + self.sigma * self._epsilon()

    def __repr__(self) -> str:
        mu, sigma = number_text(self.mu), number_text(self.sigma)
        return f"Reparameterisation(mu={mu}, sigma={sigma}, {len(self.noise)} draws)"

    def static_figure(self) -> Figure:
        """From ε to z, the cost z² with its slopes, and the two estimates of every draw."""
        epsilon, z = self._epsilon(), self._z()
        figure, (lines, cost, estimates) = plt.subplots(
            3, figsize=(6.4, 7.6), height_ratios=(2, 3, 2), layout="constrained"
        )
        for pair in zip(epsilon.tolist(), z.tolist()):
            lines.plot(pair, (1, 0), color="#555555", alpha=0.35, linewidth=0.8)
        lines.plot(epsilon, torch.ones_like(epsilon), "o", color="#555555", markersize=4)
        lines.plot(z, torch.zeros_like(z), "o", color=CYAN, markersize=4)
        lines.set_yticks((0, 1), (r"$z = \mu + \sigma\varepsilon$", r"noise $\varepsilon$"))
        lines.set(xlim=(-8, 8), ylim=(-0.3, 1.3), xlabel=r"$\varepsilon$ and $z$")
        axis = torch.linspace(-8, 8, 201)
        cost.plot(axis, axis**2, color="#555555", linewidth=1)
        cost.plot(z, z**2, "o", color=CYAN, markersize=4)
        top = max(4.0, 1.1 * z.square().max().item())
        cost.set(xlim=(-8, 8), ylim=(-0.05 * top, top), xlabel="$z$", ylabel="cost $z^2$")
        rows = (
            ("pathwise $2z$", self.pathwise, "o", CYAN),
            (r"score function $z^2\varepsilon/\sigma$", self.score_function, "D", WINE),
        )
        for row, (_, draws, marker, colour) in enumerate(rows):
            height = torch.full_like(draws, 1 - row)
            estimates.plot(draws, height, marker, color=colour, markersize=4, fillstyle="none")
            error = draws.std() / math.sqrt(len(draws))
            estimates.errorbar(
                draws.mean(), 0.7 - row, xerr=error, fmt=marker, color=colour, capsize=4
            )
        estimates.axvline(self.exact, color="black", linestyle="--", linewidth=1)
        estimates.set_yticks((1, 0), [name for name, *_ in rows])
        estimates.set(ylim=(-0.6, 1.4))
        estimates.set_xlabel("gradient from each draw; below, mean ± standard error")
        return figure
