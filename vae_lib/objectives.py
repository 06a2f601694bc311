"""What a VAE maximises: log-likelihoods, KL divergences and lower bounds on the evidence.

Every function returns one number per image, shape `(batch,)`, in nats. The only mean is the one
the caller takes at the end: `loss = -elbo(x, logits, mu, log_var).mean()`.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from vae_lib.checks import (
    check_finite,
    check_generator,
    check_integer,
    check_number,
    check_same_shape,
    check_tensor,
    check_unit_interval,
    fail,
)
from vae_lib.linear import fast_products
from vae_lib.models import VAE, check_vae
from vae_lib.runtime import full_precision, standard_normal

# The logarithm in the likelihood reads one of its constants for entries of −0.0 alone. Until a
# program has had such an entry, the constant's page of memory may be missing, and with AVX-512 the
# processor then stumbles over it at every call, which takes nine times as long.
torch.log1p(torch.full((16,), -0.0))


def bernoulli_log_likelihood(x: Tensor, logits: Tensor) -> Tensor:
    """log p(x | z) for independent Bernoulli pixels: nats per image, `(batch,)`, ≤ 0.

        log p(x | z) = Σ_pixels  x log p + (1 − x) log(1 − p),      p = sigmoid(logits)

    `x` in [0, 1] and `logits`, both `(batch, num_pixels)`; summed over pixels. For grey pixels
    this is the expected log-likelihood of images binarised at random with probability `x`
    (chapter 1); for binary pixels it is the log-likelihood itself (chapter 3).

    Raises `ValueError` for other shapes or types, pixels outside [0, 1], nan or infinite logits.
    """
    check_tensor("x", x, ("batch", "num_pixels"))
    check_tensor("logits", logits, ("batch", "num_pixels"))
    check_same_shape("logits", logits, "x", x)
    check_unit_interval("x", x)
    check_finite("logits", logits)
    # From logits rather than probabilities: log(sigmoid(-200)) would be log(0) in float32.
    return -binary_cross_entropy_with_logits(logits, x, reduction="none").sum(dim=1)


def kl_to_standard_normal(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(μ, diag σ²) ‖ N(0, I)): nats per image, `(batch,)`, ≥ 0.

        KL = ½ Σ_dimensions  μ² + σ² − 1 − log σ²

    `mu` and `log_var` (= log σ²), both `(batch, latent_dim)`; summed over latent dimensions.
    Derived in chapter 3. In float32 the result overflows to infinity where `log_var` > 88.7.

    Raises `ValueError` for other shapes or types, nan or infinite entries.
    """
    check_tensor("mu", mu, ("batch", "latent_dim"))
    check_tensor("log_var", log_var, ("batch", "latent_dim"))
    check_same_shape("log_var", log_var, "mu", mu)
    check_finite("mu", mu)
    check_finite("log_var", log_var)
    # expm1(v) is exp(v) − 1 without its rounding error near v = 0, where the KL itself is ~ v²/4.
    # Where expm1 is less exact than on CPU and CUDA, rounding could still make it negative.
    of_scale = (torch.expm1(log_var) - log_var).clamp_min(0.0)
    return 0.5 * (mu.square() + of_scale).sum(dim=1)


def elbo(x: Tensor, logits: Tensor, mu: Tensor, log_var: Tensor, beta: float = 1.0) -> Tensor:
    """One-sample estimate of the evidence lower bound: nats per image, `(batch,)`.

        ELBO = log p(x | z) − β KL(q(z | x) ‖ p(z)),      z ~ q(z | x)

    Larger is better; the loss is `-elbo(...).mean()`. The arguments are those of
    `bernoulli_log_likelihood` and `kl_to_standard_normal`. Its expectation is at most log p(x)
    for β ≥ 1. `beta` ≥ 0 weighs the KL term. Derived in chapter 3.

    Raises `ValueError` as those two functions do, and for batches of different size.
    """
    beta = check_number("beta", beta, 0.0)
    log_likelihood = bernoulli_log_likelihood(x, logits)
    kl = kl_to_standard_normal(mu, log_var)
    if len(kl) != len(log_likelihood):
        fail("mu", f"as many rows as x, {len(log_likelihood)}", f"{len(kl)}")
    return log_likelihood - beta * kl


@torch.no_grad()
@full_precision()
@fast_products()
def iwae_bound(
    vae: VAE,
    x: Tensor,
    num_samples: int,
    generator: torch.Generator | None = None,
    *,
    chunk_size: int = 20_000,
) -> Tensor:
    """Importance-weighted lower bound on log p(x): nats per image, `(batch,)`.

        IWAE_k = log (1/k) Σ_i  p(x | z_i) p(z_i) / q(z_i | x),      z_i ~ q(z | x)

    With `num_samples` (k) = 1 it estimates the ELBO, with k → ∞ it tends to log p(x), and its
    expectation never falls in between. `x` in [0, 1], `(batch, 784)`. The noise is drawn on the
    CPU from `generator`. `chunk_size` is how many latent samples are decoded at once, though
    never fewer than one for each image: it limits the memory and does not change the result beyond
    rounding. Derived in chapter 3.

    Raises `ValueError` for pixels outside [0, 1], other shapes, `num_samples` < 1.
    """
    check_vae(vae)
    check_integer("num_samples", num_samples, 1)
    check_integer("chunk_size", chunk_size, 1)
    check_generator("generator", generator)
    mu, log_var = vae.encode(x)
    batch = len(x)
    log_mean = torch.full((batch,), -math.inf, dtype=mu.dtype, device=mu.device)
    all_noise = standard_normal((num_samples, *mu.shape), generator, mu)
    for noise in all_noise.split(max(1, chunk_size // batch)):
        k = len(noise)
        z = mu + torch.exp(0.5 * log_var) * noise
        # log p(z) − log q(z | x): the two normalising constants (2π)^(−d/2) cancel.
        log_weight = 0.5 * (noise.square() + log_var - z.square()).sum(dim=2)
        logits = vae.decode(z.flatten(0, 1))
        log_likelihood = bernoulli_log_likelihood(x.repeat(k, 1), logits).view(k, batch)
        log_weight = log_weight + log_likelihood
        log_mean = torch.logaddexp(log_mean, log_weight.logsumexp(dim=0))
    return log_mean - math.log(num_samples)
