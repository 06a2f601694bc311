"""Two Gaussians and the KL divergence of each from the other (chapter 3)."""

import math

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Normal

from vae_lib.widgets.small import INDIGO, ROSE, Between, SmallFigure, module, number_text

_MU, _SIGMA = (-3.0, 3.0), (0.25, 4.0)
_HALF_WIDTHS = (5.0, 10.0, 16.0)  # of the axis; two_gaussians.js has the same


class TwoGaussians(SmallFigure):
    """Two densities q and p on a line, and KL(q ‖ p) and KL(p ‖ q), to be moved by sliders.

    `mu_q` and `mu_p` are from −3 to 3, the scales `sigma_q` and `sigma_p` (standard deviations,
    not variances) from 0.25 to 4. All four can be read and set: they follow the sliders, and the
    sliders follow them. A value out of its range is a ValueError. Chapter 3.
    """

    _esm = module("two_gaussians")
    mu_q = Between(*_MU, 0.0).tag(sync=True)
    sigma_q = Between(*_SIGMA, 1.0).tag(sync=True)
    mu_p = Between(*_MU, 0.0).tag(sync=True)
    sigma_p = Between(*_SIGMA, 1.0).tag(sync=True)

    def __init__(
        self, mu_q: float = -1.0, sigma_q: float = 0.5, mu_p: float = 0.5, sigma_p: float = 1.0
    ) -> None:
        super().__init__(mu_q=mu_q, sigma_q=sigma_q, mu_p=mu_p, sigma_p=sigma_p)

    @property
    def kl_qp(self) -> float:
        """KL(q ‖ p) in nats, by the formula of chapter 3."""
        return _kl(self.mu_q, self.sigma_q, self.mu_p, self.sigma_p)

    @property
    def kl_pq(self) -> float:
        """KL(p ‖ q) in nats, by the formula of chapter 3."""
        return _kl(self.mu_p, self.sigma_p, self.mu_q, self.sigma_q)

    def __repr__(self) -> str:
        names = ("mu_q", "sigma_q", "mu_p", "sigma_p")
        values = ", ".join(f"{name}={number_text(getattr(self, name))}" for name in names)
        return f"TwoGaussians({values})"

    def static_figure(self) -> Figure:
        """Both densities above, and below them the two integrands with their areas shaded."""
        half = self._half_width()
        z = torch.linspace(-half, half, 1001, dtype=torch.float64)
        q, p = self._log_densities(z)
        figure, (upper, lower) = plt.subplots(
            2, sharex=True, figsize=(6.4, 5.6), layout="constrained"
        )
        upper.plot(z, q.exp(), color=INDIGO, label="$q$")
        upper.plot(z, p.exp(), "--", color=ROSE, label="$p$")
        upper.set(ylabel="density", ylim=(0, None))
        terms = (
            (q.exp() * (q - p), "-", INDIGO, rf"KL($q\,\Vert\,p$) = {self.kl_qp:.3f}"),
            (p.exp() * (p - q), "--", ROSE, rf"KL($p\,\Vert\,q$) = {self.kl_pq:.3f}"),
        )
        for values, style, colour, label in terms:
            lower.plot(z, values, style, color=colour, label=f"area {label} nats")
            lower.fill_between(z, values, color=colour, alpha=0.15)
        for axis in (upper, lower):  # room for the legend
            low, high = axis.get_ylim()
            axis.set_ylim(low, high + 0.4 * (high - low))
            axis.legend(loc="upper left")
        lower.axhline(0, color="#555555", linewidth=0.8)
        lower.set(xlabel="$z$", ylabel="integrand (nats)", xlim=(-half, half))
        return figure

    def _half_width(self) -> float:
        reach = max(abs(self.mu_q) + 3 * self.sigma_q, abs(self.mu_p) + 3 * self.sigma_p)
        return next((half for half in _HALF_WIDTHS if reach <= half), _HALF_WIDTHS[-1])

    def _log_densities(self, z: Tensor) -> tuple[Tensor, Tensor]:
        q, p = Normal(self.mu_q, self.sigma_q), Normal(self.mu_p, self.sigma_p)
        return q.log_prob(z), p.log_prob(z)


def _kl(mu_q: float, sigma_q: float, mu_p: float, sigma_p: float) -> float:
    spread = (sigma_q**2 + (mu_q - mu_p) ** 2) / (2 * sigma_p**2)
    return math.log(sigma_p / sigma_q) + spread - 0.5
