"""Does training forget its rounding errors? Twins that differ by 1e-6 in their initial weights.

    python tools/twins.py 5 10 11          the recipe, from these seeds
    python tools/twins.py --one-rate 5     the same with one rate for encoder and decoder

For each seed two runs of the default recipe on all of MNIST, about a minute together on two cores.
Prints how far apart the twins end: their weights (relative) and their test negative ELBOs.
"""

import argparse

import torch
from torch.nn.utils import parameters_to_vector

from vae_lib import VAE, evaluate, fit, load_mnist, stream

DISTURBANCE = 1e-6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--one-rate", action="store_true", help="encoder_rates=(1, 1)")
    options = parser.parse_args()
    changes = {"encoder_rates": (1.0, 1.0)} if options.one_rate else {}
    mnist = load_mnist()

    for seed in options.seeds:
        weights, elbos = [], []
        for disturbance in (0.0, DISTURBANCE):
            vae = VAE(generator=stream("initialization", seed))
            generator = stream("disturbance")
            with torch.no_grad():
                for weight in vae.parameters():
                    weight *= 1 + disturbance * torch.randn(weight.shape, generator=generator)
            fit(vae, mnist.train.images, seed=seed, progress=False, **changes)
            weights.append(parameters_to_vector(vae.parameters()).detach())
            elbos.append(evaluate(vae, mnist.test.images).negative_elbo)
        apart = (weights[0] - weights[1]).norm() / weights[0].norm()
        print(
            f"seed {seed}: negative ELBO {elbos[0]:.2f} nats; twins apart: weights {apart:.0e}, "
            f"negative ELBO {abs(elbos[0] - elbos[1]):.0e} nats",
            flush=True,
        )


if __name__ == "__main__":
    main()
