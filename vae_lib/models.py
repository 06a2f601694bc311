"""The model: an encoder and a decoder, each a network with two hidden layers, and the VAE of both.

    encoder   x (784) → 400 → 400 → μ and log σ², each (latent_dim)      chapter 2
    decoder   z (latent_dim) → 400 → 400 → logits (784)                  chapter 2
"""

import torch
from torch import Tensor, nn

from vae_lib.checks import (
    as_pixels,
    check_choice,
    check_finite,
    check_flag,
    check_generator,
    check_integer,
    check_same_kind,
    check_same_shape,
    check_tensor,
    check_unit_interval,
    fail,
)
from vae_lib.linear import Linear
from vae_lib.runtime import standard_normal, uniform

NUM_PIXELS = 28 * 28

ACTIVATIONS = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "identity": nn.Identity,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def _linear(num_in: int, num_out: int, generator: torch.Generator | None) -> Linear:
    """PyTorch's linear layer with PyTorch's default initialisation, drawn from `generator`."""
    layer = nn.utils.skip_init(Linear, num_in, num_out)
    bound = num_in**-0.5
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            parameter.copy_(uniform(parameter.shape, generator, -bound, bound))
    return layer


class Encoder(nn.Module):
    """Maps images to the mean and log variance of q(z | x), a Gaussian with diagonal covariance.

    Args:
        latent_dim: number of latent dimensions, ≥ 1.
        hidden_dim: width of both hidden layers, ≥ 1.
        activation: a name in `ACTIVATIONS`.
        generator: source of the initial weights; `None` is PyTorch's global generator.

    Call: `x` in [0, 1], shape `(batch, 784)` → `mu` and `log_var` (= log σ²), each
    `(batch, latent_dim)`. Derived in chapter 2. Raises `ValueError` for any other input.
    """

    def __init__(
        self,
        latent_dim: int = 2,
        hidden_dim: int = 400,
        activation: str = "silu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_integer("latent_dim", latent_dim, 1)
        check_integer("hidden_dim", hidden_dim, 1)
        check_choice("activation", activation, tuple(ACTIVATIONS))
        check_generator("generator", generator)
        self.hidden = nn.Sequential(
            _linear(NUM_PIXELS, hidden_dim, generator),
            ACTIVATIONS[activation](),
            _linear(hidden_dim, hidden_dim, generator),
            ACTIVATIONS[activation](),
        )
        self.mu = _linear(hidden_dim, latent_dim, generator)
        self.log_var = _linear(hidden_dim, latent_dim, generator)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        check_unit_interval("x", check_tensor("x", x, ("batch", NUM_PIXELS)))
        check_same_kind("x", x, "the weights are", self.mu.weight)
        h = self.hidden(x)
        return self.mu(h), self.log_var(h)


class Decoder(nn.Module):
    """Maps latent vectors to the logits of p(x | z): one Bernoulli distribution per pixel.

    The arguments are those of `Encoder`.

    Call: `z` of shape `(batch, latent_dim)` → `logits` of shape `(batch, 784)`; the probability
    that a pixel is white is `logits.sigmoid()`. Derived in chapter 2. Raises `ValueError` for any
    other input.
    """

    def __init__(
        self,
        latent_dim: int = 2,
        hidden_dim: int = 400,
        activation: str = "silu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.latent_dim = check_integer("latent_dim", latent_dim, 1)
        check_integer("hidden_dim", hidden_dim, 1)
        check_choice("activation", activation, tuple(ACTIVATIONS))
        check_generator("generator", generator)
        self.hidden = nn.Sequential(
            _linear(latent_dim, hidden_dim, generator),
            ACTIVATIONS[activation](),
            _linear(hidden_dim, hidden_dim, generator),
            ACTIVATIONS[activation](),
        )
        self.logits = _linear(hidden_dim, NUM_PIXELS, generator)

    def forward(self, z: Tensor) -> Tensor:
        check_finite("z", check_tensor("z", z, ("batch", self.latent_dim)))
        check_same_kind("z", z, "the weights are", self.logits.weight)
        return self.logits(self.hidden(z))


class VAE(nn.Module):
    """A variational autoencoder: prior N(0, I), Gaussian encoder, Bernoulli decoder.

    The arguments are those of `Encoder`; with a `generator` the same weights come on any machine.

    Call: `x` in [0, 1], shape `(batch, 784)` → `logits (batch, 784)`, `mu` and `log_var`, each
    `(batch, latent_dim)`: what `elbo(x, logits, mu, log_var)` takes. Built in chapter 2. Raises
    `ValueError` for wrong sizes and for any other input, as its methods do.
    """

    def __init__(
        self,
        latent_dim: int = 2,
        hidden_dim: int = 400,
        activation: str = "silu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(latent_dim, hidden_dim, activation, generator)
        self.decoder = Decoder(latent_dim, hidden_dim, activation, generator)
        # Kept so that a file of weights can say which network they belong to.
        self.latent_dim, self.hidden_dim, self.activation = latent_dim, hidden_dim, activation

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`mu` and `log_var` of q(z | x), each `(batch, latent_dim)`; `x` as in `Encoder`.

        Raises `ValueError` for any other `x`. Built in chapter 2.
        """
        return self.encoder(x)

    def reparameterize(
        self,
        mu: Tensor,
        log_var: Tensor,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """A sample z = μ + σ ε of q(z | x), shape `(batch, latent_dim)`. Derived in chapter 2.

        The noise ε ~ N(0, I) is `noise` if given, else drawn on the CPU from `generator`. All are
        `(batch, latent_dim)`; log σ² is `log_var`. Raises `ValueError` for other shapes and for
        what is not finite. In float32 σ overflows to infinity where `log_var` > 177.4.
        """
        check_tensor("mu", mu, ("batch", self.latent_dim))
        check_tensor("log_var", log_var, ("batch", self.latent_dim))
        check_same_shape("log_var", log_var, "mu", mu)
        check_finite("mu", mu)
        check_finite("log_var", log_var)
        check_generator("generator", generator)
        if noise is None:
            noise = standard_normal(mu.shape, generator, mu)
        else:
            check_tensor("noise", noise, ("batch", self.latent_dim))
            check_same_shape("noise", noise, "mu", mu)
            check_finite("noise", noise)
        scale = torch.exp(0.5 * log_var)
        return mu + scale * noise

    def decode(self, z: Tensor) -> Tensor:
        """Logits of p(x | z), `(batch, 784)`; `z` as in `Decoder`.

        Raises `ValueError` for any other `z`. Built in chapter 2.
        """
        return self.decoder(z)

    def forward(
        self,
        x: Tensor,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode, draw one latent sample per image, decode: `logits, mu, log_var`.

        Shapes as for the class; `noise` as in `reparameterize`. Raises `ValueError` for any other
        input. Built in chapter 2.
        """
        mu, log_var = self.encode(x)
        z = self.reparameterize(mu, log_var, generator, noise)
        return self.decode(z), mu, log_var

    @torch.no_grad()
    def sample(
        self, n: int, generator: torch.Generator | None = None, *, binarize: bool = False
    ) -> Tensor:
        """Generate `n` images by ancestral sampling: z ~ N(0, I), then p(x | z). `(n, 784)`.

        Returns the probability of each pixel, in [0, 1]: the mean of p(x | z). With
        `binarize=True` the pixels are drawn too, and each is 0 or 1. All draws come from
        `generator`, on the CPU. Raises `ValueError` for an `n` below 1. Derived in chapter 6.
        """
        check_integer("n", n, 1)
        check_generator("generator", generator)
        check_flag("binarize", binarize)
        weight = self.decoder.logits.weight
        z = standard_normal((n, self.latent_dim), generator, weight)
        probabilities = self.decode(z).sigmoid()
        if not binarize:
            return probabilities
        threshold = uniform(probabilities.shape, generator)
        return (threshold.to(weight.device) < probabilities).to(weight.dtype)


@torch.no_grad()
def start_at_mean_image(vae: VAE, images: Tensor) -> None:
    """Let an untrained decoder begin with the mean of `images`: sets its output bias, in place.

        bias = log m / (1 − m),      m the mean of each pixel

    Its weights being small, it then draws about the mean image whatever z is, and training need
    not begin by learning how often each pixel is white (chapter 4). A pixel that is nearly always
    black or white counts as m = 0.01 or 0.99: it could not be learnt from an infinite logit.

    `images`: uint8 or floating point in [0, 1], `(n, 28, 28)` or `(n, 784)`. Raises `ValueError`
    for any other and for a `vae` that is none.
    """
    check_vae(vae)
    pixels = as_pixels("images", images).cpu()
    # On the CPU and from float32 values, so that a run begins at the same numbers on every device
    # and in any precision; a part at a time, since in float64 they take twice the memory.
    mean = sum(part.float().double().sum(dim=0) for part in pixels.split(4096)) / len(pixels)
    vae.decoder.logits.bias.copy_(torch.logit(mean.clamp(0.01, 0.99)))


def check_vae(vae: object) -> VAE:
    """Return `vae` if it is a `VAE`."""
    if not isinstance(vae, VAE):
        fail("vae", "a vae_lib.VAE", type(vae).__name__)
    return vae
