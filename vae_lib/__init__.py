"""The shared library of the book: a variational autoencoder on MNIST, small enough to read whole."""

from vae_lib.data import (
    MNIST,
    MNISTUnavailableError,
    Split,
    binarize,
    hold_out,
    load_mnist,
)
from vae_lib.evaluation import Evaluation, evaluate, exact_log_evidence
from vae_lib.models import VAE, Decoder, Encoder, start_at_mean_image
from vae_lib.objectives import (
    bernoulli_log_likelihood,
    elbo,
    iwae_bound,
    kl_to_standard_normal,
)
from vae_lib.reporting import compare_result
from vae_lib.runtime import pick_device, stream
from vae_lib.trained import save_vae, trained_vae
from vae_lib.training import SETTINGS, Curves, History, fit, learning_rate_at, train

__version__ = "0.1.0"

__all__ = [
    "MNIST",
    "SETTINGS",
    "VAE",
    "Curves",
    "Decoder",
    "Encoder",
    "Evaluation",
    "History",
    "MNISTUnavailableError",
    "Split",
    "bernoulli_log_likelihood",
    "binarize",
    "compare_result",
    "elbo",
    "evaluate",
    "exact_log_evidence",
    "fit",
    "hold_out",
    "iwae_bound",
    "kl_to_standard_normal",
    "learning_rate_at",
    "load_mnist",
    "pick_device",
    "save_vae",
    "start_at_mean_image",
    "stream",
    "train",
    "trained_vae",
]
