"""How fast is the book? Times, memory and agreement, each beside what it must reach (`make bench`).

Times are compared as ratios, measured in turns within one run: the same machine can be half as
fast an hour later. `--write` puts the table into the page book/how_fast.md. Takes about five
minutes on two cores; the exit status says whether everything was reached.
"""

import argparse
import io
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import torch
import torchvision
from pages import BOOK, machine, put_between_marks, table
from torch import nn
from tqdm import tqdm

from vae_lib import evaluate, linear, load_mnist, train
from vae_lib.runtime import cache_folder

PAGE = BOOK / "how_fast.md"
# For a result in seconds: a higher rate for all weights, and no care for rounding errors.
SHORT_RUN = {"epochs": 1, "learning_rate": 4e-3, "encoder_rates": (1.0, 1.0)}


class OriginalModel(nn.Module):
    """The network of the original notebook."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder_1, self.encoder_2 = nn.Linear(784, 400), nn.Linear(400, 400)
        self.mean, self.log_var = nn.Linear(400, 2), nn.Linear(400, 2)
        self.decoder_1, self.decoder_2 = nn.Linear(2, 400), nn.Linear(400, 400)
        self.output = nn.Linear(400, 784)
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = self.activation(self.encoder_1(x))
        h = self.activation(self.encoder_2(h))
        mean, log_var = self.mean(h), self.log_var(h)
        scale = torch.exp(0.5 * log_var)
        z = mean + scale * torch.randn_like(scale).to(x.device)
        h = self.activation(self.decoder_1(z))
        h = self.activation(self.decoder_2(h))
        return torch.sigmoid(self.output(h)), mean, log_var


class OriginalLoop:
    """The original notebook's training loop with its data pipeline, step for step.

    Kept apart from the library on purpose: it is what the library is compared with.
    """

    def __init__(self) -> None:
        torch.manual_seed(0)
        transform = torchvision.transforms.Compose([torchvision.transforms.ToTensor()])
        dataset = torchvision.datasets.MNIST(cache_folder(), train=True, transform=transform)
        self.loader = torch.utils.data.DataLoader(dataset, batch_size=100, shuffle=False)
        self.model = OriginalModel()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        x_hat, mean, log_var = self.model(x)
        reconstruction = nn.functional.binary_cross_entropy(x_hat, x, reduction="sum")
        return reconstruction + torch.sum(-log_var + log_var.exp() + mean.pow(2) - 1) / 2

    def epoch(self) -> float:
        total = 0.0
        for x, _ in tqdm(self.loader, file=io.StringIO()):
            x = x.view(100, 784).to("cpu")
            self.optimizer.zero_grad()
            loss = self.loss(x)
            total += loss.item()
            loss.backward()
            self.optimizer.step()
        return total / len(self.loader.dataset)

    @torch.no_grad()
    def test_loss(self, x: torch.Tensor) -> float:
        return sum(self.loss(batch).item() for batch in x.split(1000)) / len(x)


def seconds(function, *args, **kwargs) -> tuple[float, object]:
    start = time.perf_counter()
    result = function(*args, **kwargs)
    return time.perf_counter() - start, result


class Indispensable:
    """What no loop can leave out: an epoch's matrix products, and Adam's update after each batch.

    The same sizes as in training, on numbers drawn at random, by the faster of the two libraries
    of matrix products that PyTorch brings.
    """

    def __init__(self, batch_size: int) -> None:
        self.steps = 60_000 // batch_size
        model = OriginalModel()
        self.optimizer = torch.optim.Adam(model.parameters(), fused=True)
        for weight in model.parameters():
            weight.grad = torch.zeros_like(weight)
        self.layers = []
        for layer in model.children():
            if isinstance(layer, nn.Linear):
                weight = layer.weight
                x, y = (torch.randn(batch_size, n) for n in reversed(weight.shape))
                large = linear.AVAILABLE and min(weight.shape) >= linear.MIN_SIZE
                product = linear.times_transposed if large else nn.functional.linear
                # Gradients of the images are not needed.
                self.layers.append((product, weight, x, y, layer is not model.encoder_1))

    @torch.no_grad()
    def epoch(self) -> None:
        for _ in range(self.steps):
            for product, weight, x, y, with_gradient_of_x in self.layers:
                product(x, weight)
                weight.grad = product(y.T, x.T)
                if with_gradient_of_x:
                    product(y, weight.T)
            self.optimizer.step()


class Leanest:
    """A training loop with nothing in it but the mathematics: no modules, checks, order or record.

    It is the fastest that we know how to write in PyTorch without a compiler.
    """

    def __init__(self, images: torch.Tensor, batch_size: int, activation: Callable) -> None:
        self.images, self.batch_size, self.activation = images, batch_size, activation
        self.parameters = list(OriginalModel().parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=1e-3, fused=True)

    def epoch(self) -> None:
        act, small = self.activation, nn.functional.linear
        large = linear._OneDNN.apply if linear.AVAILABLE else small
        pairs = zip(self.parameters[::2], self.parameters[1::2])
        encoder_1, encoder_2, mean, log_var, decoder_1, decoder_2, output = pairs
        noise = torch.randn(len(self.images), 2)
        for x, eps in zip(self.images.split(self.batch_size), noise.split(self.batch_size)):
            h = act(large(act(large(x, *encoder_1)), *encoder_2))
            mu, v = small(h, *mean), small(h, *log_var)
            z = mu + torch.exp(0.5 * v) * eps
            logits = large(act(large(act(small(z, *decoder_1)), *decoder_2)), *output)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
            loss = (loss + 0.5 * (mu.square() + v.exp() - 1 - v).sum()) / len(x)
            for parameter in self.parameters:
                parameter.grad = None
            loss.backward()
            self.optimizer.step()


def in_new_process(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True
    )
    if result.returncode:
        raise SystemExit(f"a measurement failed:\n{result.stderr}")
    return result.stdout


TRAIN_AND_SAVE = r"""
import pathlib, re, resource, sys
from vae_lib import load_mnist, train, evaluate, save_vae
mnist = load_mnist()
vae, _ = train(mnist.train.images, progress=False)
if sys.platform == "darwin":
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
else:  # where ru_maxrss would count the memory of the process that started this one
    peak = 1024 * int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1])
save_vae(vae, {path!r})
print(evaluate(vae, mnist.test.images).negative_elbo, peak)
"""


def measure_speed(rounds: int) -> list[tuple]:
    """Rows of the table: epochs against the original's, then the time to its test loss."""
    mnist = load_mnist()
    images, test = mnist.train.images, mnist.test.pixels()
    original = OriginalLoop()
    # An epoch's time is that of two epochs less that of one: what a call does once per run
    # (checking and scaling the images) is counted in the time to a loss, below.
    epoch, same_steps, default = [], [], []
    leaky_relu = partial(nn.functional.leaky_relu, negative_slope=0.2)
    activations, pixels = {100: leaky_relu, 125: nn.functional.silu}, mnist.train.pixels()
    leanest = {size: (Leanest(pixels, size, act), []) for size, act in activations.items()}
    least = {size: (Indispensable(size), []) for size in leanest}
    for i in range(10):
        epoch.append(seconds(original.epoch)[0])
        if i < rounds:
            once, _ = seconds(train, images, "original", epochs=1, progress=False)
            twice, _ = seconds(train, images, "original", epochs=2, progress=False)
            same_steps.append(twice - once)
            once, _ = seconds(train, images, epochs=1, progress=False)
            twice, _ = seconds(train, images, epochs=2, progress=False)
            default.append(twice - once)
            for part, times in [*leanest.values(), *least.values()]:
                times.append(seconds(part.epoch)[0])
    target = original.test_loss(test)
    sooner, (vae, _) = seconds(train, images, **SHORT_RUN, progress=False)
    reached = evaluate(vae, mnist.test.images).negative_elbo

    def ratio(ours: list[float]) -> float:
        return statistics.median(theirs / mine for theirs, mine in zip(epoch, ours))

    def epoch_rows(what: str, ours: list[float], wanted: float, batch_size: int) -> list[tuple]:
        (_, lean), (_, times) = leanest[batch_size], least[batch_size]
        return [
            (f"{what}: an epoch", f"{statistics.median(ours):.1f} s", "", None),
            (f"{what}: times as fast", f"{ratio(ours):.2f}", f"≥ {wanted}", ratio(ours) >= wanted),
            (f"{what}: the leanest loop, times as fast", f"{ratio(lean):.2f}", "", None),
            (f"{what}: products and updates alone", f"{statistics.median(times):.1f} s", "", None),
            (f"{what}: so at most times as fast", f"{ratio(times):.2f}", "", None),
        ]

    return [
        ("the original's epoch", f"{statistics.median(epoch):.1f} s", "", None),
        *epoch_rows("the same steps by `fit`", same_steps, 2.8, 100),
        *epoch_rows("the default recipe", default, 3.5, 125),
        ("the original's test loss after ten epochs", f"{target:.1f} nats", "", None),
        ("one epoch by `fit`, settings below", f"{sooner:.1f} s, {reached:.1f} nats",
         "≤ the line above", reached <= target),
        ("so reached times sooner", f"{sum(epoch) / sooner:.0f}", "≥ 15", sum(epoch) / sooner >= 15),
    ]  # fmt: skip


def measure_agreement() -> list[tuple]:
    """Rows of the table: quality, memory, and how far two sets of kernels end up apart."""
    from vae_lib import trained_vae

    results, weights = [], []
    with tempfile.TemporaryDirectory() as folder:
        for i, environment in enumerate(({}, {"ATEN_CPU_CAPABILITY": "default"})):
            path = os.path.join(folder, f"{i}.safetensors")
            printed = in_new_process(TRAIN_AND_SAVE.format(path=path), **environment)
            results.append([float(value) for value in printed.split()])
            vae = trained_vae(weights=path)
            weights.append(nn.utils.parameters_to_vector(vae.parameters()).detach())
    (elbo, peak), (elbo_default, _) = results
    apart = ((weights[0] - weights[1]).norm() / weights[0].norm()).item()
    apart_nats = abs(elbo - elbo_default)
    return [
        ("test negative ELBO, default recipe", f"{elbo:.2f} nats", "≤ 143.5", elbo <= 143.5),
        ("portable kernels: weights apart (relative)", f"{apart:.0e}", "≤ 2e-4", apart <= 2e-4),
        (
            "portable kernels: negative ELBO apart", f"{apart_nats:.0e} nats", "≤ 0.001",
            apart_nats <= 0.001,
        ),
        ("peak memory of a training run", f"{peak / 1e9:.2f} GB", "< 1.5", peak < 1.5e9),
    ]  # fmt: skip


def measure_import(repeats: int = 9) -> tuple:
    code = (
        "import time, torch; start = time.perf_counter(); import vae_lib; "
        "print(time.perf_counter() - start)"
    )
    added = statistics.median(float(in_new_process(code)) for _ in range(repeats))
    return ("`import vae_lib` after `import torch`", f"{added:.2f} s", "< 0.3", added < 0.3)


def setup() -> str:
    return (
        f"{machine()} ({torch.backends.cpu.get_cpu_capability()} kernels), "
        f"torch {torch.__version__}, Python {platform.python_version()}, {date.today()}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each ratio")
    options = parser.parse_args()

    rows = [*measure_speed(options.rounds), *measure_agreement(), measure_import()]
    verdicts = {None: "", True: "yes", False: "**no**"}
    results = table(
        ["what", "measured", "must be", "reached"],
        [[what, got, want, verdicts[ok]] for what, got, want, ok in rows],
    )
    settings = ", ".join(f"{name}={value}" for name, value in SHORT_RUN.items())
    notes = ["", f"Settings of the one epoch: `{settings}`.", "", f"Machine: {setup()}."]
    text = "\n".join([results, *notes])
    print(text)
    if options.write:
        put_between_marks(PAGE, "bench", text)
    return int(any(ok is False for *_, ok in rows))


if __name__ == "__main__":
    sys.exit(main())
