"""Which recipe forgets its rounding errors? Twins that differ in the last bit, from several starts.

    python tools/search_recipe.py                     the recipes below, from seeds 0 and 3
    python tools/search_recipe.py --recipes book --seeds 0 1 2 3 4 5 6 7
    python tools/search_recipe.py --no-run --write    put what is kept into the book

For each recipe and seed two runs of ten epochs on all of MNIST, side by side: the second starts
from the weights of the first, each multiplied by 1 + 2⁻²³ or 1 − 2⁻²³ at random, and sees the same
images and the same noise. A pair takes one to three minutes on one core. Twins that are 1 %
apart are lost: the second then stops, and the first goes on for its test result alone.

Every pair is a line in tools/search_recipe.jsonl, and those of a recipe that has not changed since
are not run again.
"""

import argparse
import concurrent.futures
import hashlib
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pages import BOOK, put_between_marks, table

KEPT = Path(__file__).with_suffix(".jsonl")
PAGE = BOOK / "reproducibility.md"
FORGOTTEN, LOST = 2e-4, 1e-2
EVERY = 60  # steps between two looks at the twins


@dataclass(frozen=True)
class Recipe:
    """What is varied.

    rates: the peak learning rates of the encoder's hidden layers, its heads, and the decoder.
    cosine: after the warm-up the rate falls along half a cosine, not in a straight line.
    averaged_epochs: the final weights are the mean of those after each step of so many last epochs.
    plateau_steps: for so many steps after the warm-up the rate stays at its peak.
    encoder_warmup_steps: the encoder's own, if not 0.
    decoder_start: a factor for the initial weights and biases of the decoder's first layer.
    """

    activation: str = "silu"
    batch_size: int = 250
    rates: tuple[float, float, float] = (1e-3, 4e-4, 2e-3)
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-5
    warmup_steps: int = 200
    mean_start: bool = True
    epochs: int = 10
    cosine: bool = False
    averaged_epochs: int = 0
    plateau_steps: int = 0
    encoder_warmup_steps: int = 0
    decoder_start: float = 1.0


def one_rate(rate: float) -> tuple[float, float, float]:
    return rate, rate, rate


THE_BOOK_S = (6.6e-4, 2.6e-4, 2e-3)
RECIPES = {
    # As this book had it before, and then what each change brings.
    "GELU, β₂ = 0.99, slower encoder": Recipe("gelu", betas=(0.9, 0.99), mean_start=False),
    "the same, from the mean image": Recipe("gelu", betas=(0.9, 0.99)),
    "SiLU, β₂ = 0.999, one rate": Recipe(rates=one_rate(2e-3)),
    "slower heads": Recipe(rates=(2e-3, 6e-4, 2e-3)),
    "slower encoder": Recipe(),
    "slower encoder, all rates × 1.5": Recipe(rates=(1.5e-3, 6e-4, 3e-3)),
    "slower encoder, decoder × 1.5": Recipe(rates=(1e-3, 4e-4, 3e-3)),
    "slower encoder, decoder × 2": Recipe(rates=(1e-3, 4e-4, 4e-3)),
    "batches of 200": Recipe(batch_size=200, rates=(1e-3, 4e-4, 3e-3)),
    "batches of 125: the book's": Recipe(batch_size=125, rates=THE_BOOK_S),
    # The book's with a single change each.
    "the book's, LeakyReLU": Recipe("leaky_relu", 125, THE_BOOK_S),
    "the book's, GELU": Recipe("gelu", 125, THE_BOOK_S),
    "the book's, β₂ = 0.99": Recipe(batch_size=125, rates=THE_BOOK_S, betas=(0.9, 0.99)),
    "the book's, ε = 10⁻⁸": Recipe(batch_size=125, rates=THE_BOOK_S, epsilon=1e-8),
    "the book's, warm-up of 1,000 steps": Recipe(
        batch_size=125, rates=THE_BOOK_S, warmup_steps=1000
    ),
    "the book's, rate falling along a cosine": Recipe(
        batch_size=125, rates=THE_BOOK_S, cosine=True
    ),
    "the book's, mean of the last two epochs' weights": Recipe(
        batch_size=125, rates=THE_BOOK_S, averaged_epochs=2
    ),
    # A warm-up of 1,000 steps, and what might win back the quality that it costs.
    "1,000 steps, GELU": Recipe("gelu", 125, THE_BOOK_S, warmup_steps=1000),
    "2,000 steps, GELU": Recipe("gelu", 125, THE_BOOK_S, warmup_steps=2000),
    "1,000 steps, GELU, all rates × 0.7": Recipe(
        "gelu", 125, (4.6e-4, 1.8e-4, 1.4e-3), warmup_steps=1000
    ),
    "1,000 steps, all rates × 1.4": Recipe(
        batch_size=125, rates=(9.2e-4, 3.6e-4, 2.8e-3), warmup_steps=1000
    ),
    "1,000 steps, decoder × 1.5": Recipe(
        batch_size=125, rates=(6.6e-4, 2.6e-4, 3e-3), warmup_steps=1000
    ),
    "1,000 steps, encoder × 2": Recipe(
        batch_size=125, rates=(1.32e-3, 5.2e-4, 2e-3), warmup_steps=1000
    ),
    "1,000 steps, encoder × 2, decoder × 0.75": Recipe(
        batch_size=125, rates=(1.32e-3, 5.2e-4, 1.5e-3), warmup_steps=1000
    ),
    "1,000 steps, then 1,500 at the peak": Recipe(
        batch_size=125, rates=THE_BOOK_S, warmup_steps=1000, plateau_steps=1500
    ),
    "1,250 steps, batches of 100": Recipe(batch_size=100, rates=THE_BOOK_S, warmup_steps=1250),
    "1,000 steps, decoder's first layer starts × 2": Recipe(
        batch_size=125, rates=THE_BOOK_S, warmup_steps=1000, decoder_start=2.0
    ),
    # The long warm-up for the encoder alone.
    "encoder's warm-up 900 steps": Recipe(
        batch_size=125, rates=(8.4e-4, 3.4e-4, 2e-3), encoder_warmup_steps=900
    ),
    "encoder's warm-up 1,440 steps, decoder × 0.8": Recipe(
        batch_size=125, rates=(1e-3, 4e-4, 1.6e-3), encoder_warmup_steps=1440
    ),
}


def run_pair(name: str, recipe: Recipe, seed: int) -> dict:
    """Train a pair of twins; what is worth keeping of it."""
    import torch

    from vae_lib import evaluate, load_mnist

    torch.set_num_threads(1)
    start, mnist = time.perf_counter(), load_mnist()
    images = mnist.train.pixels()
    pair = [new_vae(recipe, seed, images, disturbed) for disturbed in (False, True)]
    apart = []
    for step in train_together(pair, recipe, seed, images):
        if step % EVERY == 0 and len(pair) == 2:
            apart.append(relative_difference(*pair))
            if apart[-1] > LOST:
                del pair[1]
    if recipe.averaged_epochs and len(pair) == 2:
        apart.append(relative_difference(*pair))
    results = [evaluate(vae, mnist.test.images).negative_elbo for vae in pair]
    return {
        "recipe": name,
        "seed": seed,
        "digest": digest_of(recipe),
        "negative ELBO": results[0],
        "negative ELBO apart": abs(results[0] - results[1]) if len(results) == 2 else None,
        "weights apart": apart,
        "seconds": round(time.perf_counter() - start),
    }


def relative_difference(first, second) -> float:
    """‖w − w'‖ / ‖w‖ over all weights together."""
    from torch.nn.utils import parameters_to_vector

    ours, theirs = (parameters_to_vector(vae.parameters()).detach() for vae in (first, second))
    return ((ours - theirs).norm() / ours.norm()).item()


def new_vae(recipe: Recipe, seed: int, images, disturbed: bool):
    import torch

    from vae_lib import VAE, start_at_mean_image, stream

    vae = VAE(activation=recipe.activation, generator=stream("initialization", seed))
    if recipe.mean_start:
        start_at_mean_image(vae, images)
    with torch.no_grad():
        for weight in vae.decoder.hidden[0].parameters():
            weight *= recipe.decoder_start
    if disturbed:
        generator = stream("last bit")
        with torch.no_grad():
            for weight in vae.parameters():
                coin = torch.randint(0, 2, weight.shape, generator=generator)
                weight *= 1 + 2**-23 * (2 * coin - 1)
    return vae


def train_together(pair: list, recipe: Recipe, seed: int, images) -> Iterator[int]:
    """Train all that is in `pair`, as long as it is, on the same batches; yield 1, 2, …

    With `averaged_epochs` the pair has its averaged weights when nothing more is yielded.
    """
    import torch

    from vae_lib import elbo, stream
    from vae_lib.checks import trusted_values

    optimizers = {vae: optimizer_of(vae, recipe) for vae in pair}
    order_stream, noise_stream = stream("order", seed), stream("noise", seed)
    steps_per_epoch = -(-len(images) // recipe.batch_size)
    num_steps, step = recipe.epochs * steps_per_epoch, 0
    averaged_steps = recipe.averaged_epochs * steps_per_epoch
    averages = {vae: torch.optim.swa_utils.AveragedModel(vae) for vae in pair}
    with trusted_values():
        for _ in range(recipe.epochs):
            order = torch.randperm(len(images), generator=order_stream)
            noise = torch.randn(len(images), 2, generator=noise_stream)
            batches = zip(order.split(recipe.batch_size), noise.split(recipe.batch_size))
            for indices, batch_noise in batches:
                x_batch = images[indices]
                share = share_of_peak(step, num_steps, recipe)
                encoder_share = share
                if recipe.encoder_warmup_steps:
                    slower = replace(recipe, warmup_steps=recipe.encoder_warmup_steps)
                    encoder_share = share_of_peak(step, num_steps, slower)
                for vae in pair:
                    *encoder, decoder = optimizers[vae].param_groups
                    for group in encoder:
                        group["lr"] = group["peak"] * encoder_share
                    decoder["lr"] = decoder["peak"] * share
                    loss = -elbo(x_batch, *vae(x_batch, noise=batch_noise)).mean()
                    optimizers[vae].zero_grad()
                    loss.backward()
                    optimizers[vae].step()
                    if step >= num_steps - averaged_steps:
                        averages[vae].update_parameters(vae)
                step += 1
                yield step
    if averaged_steps:
        for vae in pair:
            vae.load_state_dict(averages[vae].module.state_dict())


def share_of_peak(step: int, num_steps: int, recipe: Recipe) -> float:
    """The learning rate of a step as a share of its peak."""
    from vae_lib import learning_rate_at

    # A plateau leaves out nothing: the line to zero begins so many steps later.
    step = max(min(step, recipe.warmup_steps), step - recipe.plateau_steps)
    num_steps -= recipe.plateau_steps
    if not recipe.cosine or step < recipe.warmup_steps:
        return learning_rate_at(step, num_steps, 1.0, recipe.warmup_steps, "linear")
    fallen = (step - recipe.warmup_steps) / (num_steps - recipe.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * fallen))


def optimizer_of(vae, recipe: Recipe):
    import torch

    heads = [*vae.encoder.mu.parameters(), *vae.encoder.log_var.parameters()]
    parts = ([*vae.encoder.hidden.parameters()], heads, [*vae.decoder.parameters()])
    groups = [{"params": part, "peak": peak} for part, peak in zip(parts, recipe.rates)]
    return torch.optim.Adam(groups, betas=recipe.betas, eps=recipe.epsilon, fused=True)


def digest_of(recipe: Recipe) -> str:
    settings = asdict(recipe)
    # Younger than the first pairs, which they would make useless: they count where they are used.
    younger = "cosine averaged_epochs plateau_steps encoder_warmup_steps decoder_start".split()
    for name in younger:
        if settings[name] == getattr(Recipe, name):
            del settings[name]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]


def kept() -> dict[tuple[str, int], dict]:
    """The last pair of each recipe, by its digest, and seed."""
    if not KEPT.exists():
        return {}
    records = map(json.loads, KEPT.read_text(encoding="utf-8").splitlines())
    return {(record["digest"], record["seed"]): record for record in records}


def as_table(records: dict[tuple[str, int], dict]) -> str:
    rows = []
    for number, (name, recipe) in enumerate(RECIPES.items(), 1):
        mine = [record for (digest, _), record in records.items() if digest == digest_of(recipe)]
        if not mine:
            continue
        ends = [record["weights apart"][-1] for record in mine]
        losses = [record["negative ELBO"] for record in mine]
        rates = " / ".join(f"{rate:g}" for rate in recipe.rates)
        lost = sum(end > LOST for end in ends)
        rows.append([
            number, name, rates, len(mine), f"{sum(end < FORGOTTEN for end in ends)}", lost,
            f"{max(ends):.0e}" if not lost else f"> {LOST:g}",
            f"{statistics.mean(losses):.1f} ({min(losses):.1f} to {max(losses):.1f})",
        ])  # fmt: skip
    header = [
        "no.", "recipe", "peak rates: encoder / heads / decoder", "starts",
        f"forgot: ended within {FORGOTTEN:g}", f"lost: beyond {LOST:g}", "farthest apart",
        "test negative ELBO, nats",
    ]  # fmt: skip
    return table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), metavar="RECIPE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 3])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="pairs at once")
    parser.add_argument("--no-run", action="store_true", help="only show what is kept")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    options = parser.parse_args()

    names = [] if options.no_run else options.recipes or list(RECIPES)
    known = kept()
    jobs = [
        (name, RECIPES[name], seed)
        for name in names
        for seed in options.seeds
        if (digest_of(RECIPES[name]), seed) not in known
    ]
    # New processes: a fork would copy torch's threads in an unknown state.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        for future in concurrent.futures.as_completed(pool.submit(run_pair, *job) for job in jobs):
            record = future.result()
            with KEPT.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
            print(
                f"{record['recipe']}, seed {record['seed']}: negative ELBO "
                f"{record['negative ELBO']:.2f} nats, twins {record['weights apart'][-1]:.0e} apart,"
                f" {record['seconds']} s",
                flush=True,
            )
    text = as_table(kept())
    print(text)
    if options.write:
        put_between_marks(PAGE, "search", text)


if __name__ == "__main__":
    main()
