"""How good is a model? Metrics over a whole split, and the exact evidence in one or two dimensions."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from vae_lib.checks import (
    as_pixels,
    check_integer,
    check_number,
    check_same_kind,
    check_tensor,
    check_unit_interval,
    fail,
)
from vae_lib.linear import fast_products
from vae_lib.models import NUM_PIXELS, VAE, check_vae
from vae_lib.objectives import bernoulli_log_likelihood, kl_to_standard_normal
from vae_lib.runtime import full_precision, standard_normal, stream


@dataclass(frozen=True)
class Evaluation:
    """Means over a split and their standard errors, in nats per image.

    `negative_elbo` = `reconstruction` + `kl`. A standard error is the standard deviation over
    the images, divided by the square root of their number: the uncertainty that comes from having
    these images and not others. What the two terms are is derived in chapter 3.
    """

    negative_elbo: float
    reconstruction: float
    kl: float
    negative_elbo_error: float
    reconstruction_error: float
    kl_error: float
    num_images: int

    def __repr__(self) -> str:
        return (
            f"negative ELBO {self.negative_elbo:.2f} ± {self.negative_elbo_error:.2f} "
            f"nats per image ({self.num_images:,} images)\n"
            f"= reconstruction {self.reconstruction:.2f} ± {self.reconstruction_error:.2f} "
            f"+ KL {self.kl:.2f} ± {self.kl_error:.2f}"
        )


@torch.no_grad()
def evaluate(
    vae: VAE, images: Tensor, *, num_samples: int = 1, seed: int = 0, batch_size: int = 1000
) -> Evaluation:
    """The negative ELBO of `images`, its two terms and their standard errors: nats per image.

    The KL term is exact, the reconstruction term is averaged over `num_samples` draws of z per
    image. The noise comes from the stream "evaluation" of `seed`, so the same call gives the same
    number; `batch_size` changes speed and memory only. β does not enter: this is the bound
    itself. Derived in chapter 3.

    Args:
        vae: the model; it is not changed.
        images: uint8 or floating point in [0, 1], `(n, 28, 28)` or `(n, 784)`, n ≥ 2.
        num_samples, batch_size: ≥ 1.

    Raises `ValueError` for any other input.
    """
    check_vae(vae)
    check_integer("num_samples", num_samples, 1)
    check_integer("batch_size", batch_size, 1)
    x = as_pixels("images", images)
    if len(x) < 2:
        fail("images", "at least two images, to estimate a standard error", len(x))
    weight = vae.decoder.logits.weight
    generator = stream("evaluation", seed)
    noise = standard_normal((len(x), num_samples, vae.latent_dim), generator, weight)

    reconstruction, kl = [], []
    with full_precision(), fast_products():
        for x_batch, batch_noise in zip(x.split(batch_size), noise.split(batch_size)):
            x_batch = x_batch.to(weight.device, weight.dtype)
            mu, log_var = vae.encode(x_batch)
            kl.append(kl_to_standard_normal(mu, log_var))
            total = torch.zeros_like(kl[-1])
            for sample in range(num_samples):
                z = vae.reparameterize(mu, log_var, noise=batch_noise[:, sample])
                total -= bernoulli_log_likelihood(x_batch, vae.decode(z))
            reconstruction.append(total / num_samples)
    # Sums of ten thousand numbers: on the CPU, since not every device has float64.
    reconstruction, kl = torch.cat(reconstruction).cpu().double(), torch.cat(kl).cpu().double()
    values = (reconstruction + kl, reconstruction, kl)
    means = [value.mean().item() for value in values]
    errors = [value.std().item() / math.sqrt(len(x)) for value in values]
    return Evaluation(*means, *errors, num_images=len(x))


@torch.no_grad()
@full_precision()
@fast_products()
def exact_log_evidence(
    vae: VAE, x: Tensor, *, tolerance: float = 1e-3, half_width: float = 8.0
) -> Tensor:
    """log p(x) = log ∫ p(x | z) N(z; 0, I) dz by quadrature: nats per image, `(batch,)`.

    For one or two latent dimensions. The trapezoidal rule on a square grid over
    [−`half_width`, `half_width`] in each dimension: for a smooth integrand that vanishes at the
    border its error falls faster than any power of the spacing. The spacing is halved, where the
    integrand of some image is not negligible, until it makes no difference of more than `tolerance`
    nats, for any image, where the grid lies: moved by a quarter and by half of the spacing it gives
    the same. Derived in chapter 3.

    Args:
        vae: a model with `latent_dim` 1 or 2.
        x: pixels in [0, 1], `(batch, 784)`. Memory grows with the batch: take hundreds of images
            at a time, not thousands.
        tolerance: > 0, in nats.
        half_width: > 0 and at most 1000; the grid must hold all of the integrand's mass.

    Raises:
        ValueError: wrong input, or more than two latent dimensions.
        ArithmeticError: the grids do not agree within `tolerance`, or mass lies at the border.
    """
    if check_vae(vae).latent_dim > 2:
        fail("vae", "one or two latent dimensions", f"{vae.latent_dim}")
    check_unit_interval("x", check_tensor("x", x, ("batch", NUM_PIXELS)))
    check_same_kind("x", x, "the weights are", vae.decoder.logits.weight)
    check_number("tolerance", tolerance, 0.0, exclusive=True)
    if check_number("half_width", half_width, 0.0, exclusive=True) > 1000:
        fail("half_width", "at most 1000, or no grid would be fine enough", f"{half_width:g}")
    steps = 80  # from the origin to the border
    spacing = half_width / steps
    side = torch.arange(-steps, steps + 1)
    lattice = torch.cartesian_prod(*[side] * vae.latent_dim).view(-1, vae.latent_dim)
    border = (lattice.abs() == steps).any(dim=1).to(x.device)
    first = True
    # The number of points too has its bound: a wide posterior on a fine grid would fill the memory.
    while spacing > half_width / 5000 and len(lattice) <= 1_000_000:
        # log of (integrand × cell), one row per image, one column per grid point.
        log_mass = _log_joint(vae, x, lattice, spacing)
        log_evidence = log_mass.logsumexp(dim=1)
        share = torch.exp(log_mass - log_evidence[:, None])
        if first:
            # Beyond the border the prior falls by the factor e at least every 1/half_width.
            beyond = share[:, border].sum(dim=1) / (half_width * spacing)
            if beyond.max() > tolerance:
                raise ArithmeticError(
                    f"the posterior of an image reaches beyond the grid: half_width {half_width:g} "
                    "is too small"
                )
            first = False
        kept = lattice[(share.amax(dim=0) > 1e-12).cpu()]
        # A mode between the points of a coarse grid is elsewhere between those of a moved one. (Two
        # spacings in a row may agree by chance, and be wrong: a narrow mode halfway between points
        # of the finer grid.) No grid is right that is too coarse for the prior.
        moved = (_log_joint(vae, x, kept + shift, spacing).logsumexp(dim=1) for shift in (0.25, 0.5))
        if spacing <= 0.5 and all((log_evidence - m).abs().max() <= tolerance for m in moved):
            return log_evidence
        # Keep what matters to any image, and put new points on all sides of it.
        sides = torch.cartesian_prod(*[torch.arange(-1, 2)] * vae.latent_dim)
        children = 2 * kept[:, None, :] + sides.view(1, -1, vae.latent_dim)
        lattice, spacing = children.flatten(0, 1).unique(dim=0), spacing / 2
    raise ArithmeticError(
        f"quadrature did not reach a tolerance of {tolerance:g} nats at a spacing of "
        f"{2 * spacing:g}: a posterior is too narrow, or rounding errors are larger than that"
    )


def _log_joint(vae: VAE, x: Tensor, lattice: Tensor, spacing: float) -> Tensor:
    """log p(x | z) + log p(z) + log of a cell, at z = lattice · spacing: `(batch, num_points)`."""
    columns = []
    # In float64 the grid of a float32 model is as even as its numbers allow.
    for chunk in (lattice.double() * spacing).to(x.dtype).to(x.device).split(20_000):
        logits = vae.decode(chunk)
        # Bernoulli: log p(x | z) = x · logits − Σ log(1 + exp(logits)).
        log_likelihood = x @ logits.T - softplus(logits).sum(dim=1)
        log_prior = -0.5 * (chunk.square() + math.log(2 * math.pi)).sum(dim=1)
        columns.append(log_likelihood + log_prior)
    return torch.cat(columns, dim=1) + vae.latent_dim * math.log(spacing)
