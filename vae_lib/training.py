"""Training: one loop, its learning-rate schedule, its history and its checkpoints (chapter 4)."""

import contextlib
import hashlib
import io
import math
import os
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vae_lib.checks import (
    as_pixels,
    check_choice,
    check_flag,
    check_integer,
    check_number,
    check_path,
    describe,
    fail,
    trusted_values,
)
from vae_lib.evaluation import evaluate
from vae_lib.linear import fast_products
from vae_lib.models import VAE, check_vae, start_at_mean_image
from vae_lib.objectives import bernoulli_log_likelihood, kl_to_standard_normal
from vae_lib.runtime import check_device, full_precision, standard_normal, stream

# Two settings by name; chapter 4 compares them. "default" is what `fit` does when told nothing.
SETTINGS = {
    "default": {"activation": "silu", "mean_start": True},
    "original": {
        "activation": "leaky_relu",
        "mean_start": False,
        "batch_size": 100,
        "learning_rate": 1e-3,
        "betas": (0.9, 0.999),
        "epsilon": 1e-8,
        "encoder_rates": (1.0, 1.0),
        "schedule": "constant",
        "shuffle": False,
        "reduction": "sum",
    },
}
# From this seed the default was measured to forget its rounding errors: other kernels or another
# number of threads end within 1e-4 of the same weights. Of eight starts six did, one did nearly,
# and one did not; this one also gives the best result. See tools/search_recipe.py.
BOOK_SEED = 3


@dataclass(frozen=True, eq=False)
class Curves:
    """How training went, as 1-D float32 tensors on the CPU, one entry per step or per epoch.

    `loss` is reconstruction + β · KL; `reconstruction` is −log p(x | z), estimated with one
    sample z per image; `kl` is KL(q(z | x) ‖ p(z)). All three are means in nats per image,
    whatever `reduction` was minimised. `learning_rate` is that of the step, or of the epoch's
    last step.
    """

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor
    learning_rate: Tensor

    def __len__(self) -> int:
        return len(self.loss)


@dataclass(frozen=True, eq=False)
class History:
    """What `fit` returns: `steps`, `epochs`, and, where images were held out, `validation`.

    `epochs` averages the steps of each epoch, weighted by their batch sizes, while the weights
    move. `validation` is measured with the weights at the end of each epoch. Read in chapter 4.
    """

    steps: Curves
    epochs: Curves
    validation: Curves | None = None

    def __repr__(self) -> str:
        return (
            f"History({len(self.epochs)} epochs of {len(self.steps) // len(self.epochs)} steps, "
            f"training loss {self.epochs.loss[-1]:.2f} nats per image)"
        )


def learning_rate_at(
    step: int, num_steps: int, peak: float, warmup_steps: int, schedule: str
) -> float:
    """The learning rate of step 0, 1, …, `num_steps` − 1.

    "linear" rises over `warmup_steps` steps to `peak`, then falls on a straight line that would
    reach zero one step after the last. "constant" stays at `peak` after the warm-up.
    Raises `ValueError` for a step outside the run or any other wrong argument. Drawn in chapter 4.
    """
    check_integer("num_steps", num_steps, 1)
    if check_integer("step", step, 0) >= num_steps:
        fail("step", f"less than num_steps, {num_steps}", step)
    check_number("peak", peak, 0.0, exclusive=True)
    check_integer("warmup_steps", warmup_steps, 0)
    check_choice("schedule", schedule, ("linear", "constant"))
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if schedule == "constant":
        return peak * warmup
    decay = (num_steps - step) / max(1, num_steps - warmup_steps)
    return peak * min(warmup, decay)


def train(
    images: Tensor,
    setting: str = "default",
    *,
    seed: int = BOOK_SEED,
    device: torch.device | str | None = None,
    **changes,
) -> tuple[VAE, History]:
    """Make a new VAE and `fit` it to `images` in one of the book's two settings.

    "default" is the recipe behind the reference weights; "original" is that of the notebook from
    which this book grew: LeakyReLU, batches of 100 in file order, a constant rate, and a loss
    summed over the batch. `changes` override any argument of `fit`, the `activation`, or
    `mean_start`: whether the decoder begins with the mean image, see `start_at_mean_image`.

    `images` are as in `fit`. The VAE is trained and returned on `device`, on the CPU if that is
    None. Raises what `fit` raises, and `ValueError` for another `setting` or a device that is not
    there. Both settings are run in chapter 4.
    """
    settings = SETTINGS[check_choice("setting", setting, tuple(SETTINGS))] | changes
    device = check_device("device", "cpu" if device is None else device)
    vae = VAE(activation=settings.pop("activation"), generator=stream("initialization", seed))
    if check_flag("mean_start", settings.pop("mean_start")):
        start_at_mean_image(vae, images)
    return vae.to(device), fit(vae, images, seed=seed, **settings)


def fit(
    vae: VAE,
    images: Tensor,
    *,
    epochs: int = 10,
    batch_size: int = 125,
    learning_rate: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-5,
    encoder_rates: tuple[float, float] = (0.33, 0.13),
    schedule: str = "linear",
    warmup_steps: int | None = None,
    shuffle: bool = True,
    reduction: str = "mean",
    beta: float = 1.0,
    seed: int = BOOK_SEED,
    validation_images: Tensor | None = None,
    checkpoint: str | os.PathLike | None = None,
    resume: bool = False,
    progress: bool = True,
) -> History:
    """Train `vae` in place with Adam to minimise the negative ELBO. Derived in chapter 4.

    The defaults are the book's recipe. Training runs on the device and in the precision of the
    VAE's weights; all random numbers are drawn on the CPU, in two streams named by `seed`: the
    order of the images and the noise ε.

    Args:
        vae: the model; its weights change.
        images: uint8 or floating point in [0, 1], `(n, 28, 28)` or `(n, 784)`.
        epochs, batch_size: ≥ 1. The last batch of an epoch may be smaller.
        learning_rate, betas: Adam's peak rate, > 0, and its two decay rates, in [0, 1).
        epsilon: Adam's ε, > 0: a gradient much smaller than this moves its weight by far less than
            the rate.
        encoder_rates: the learning rates of the encoder's hidden layers and of its two heads, as
            fractions of `learning_rate`, ≥ 0. The encoder decides where an image lies in the
            decoder's input; if it moves faster than the decoder can follow, rounding errors grow.
        schedule: "linear" or "constant", see `learning_rate_at`.
        warmup_steps: ≥ 0; without it 200 for "linear" and 0 for "constant".
        shuffle: draw a new order every epoch; else the images come in the order given.
        reduction: minimise the "mean" or the "sum" of the loss over a batch.
        beta: weight of the KL term, ≥ 0.
        validation_images: evaluated with `evaluate` after every epoch.
        checkpoint: a file to which all that is needed to go on is written after every epoch. It
            replaces the last one in one step: a crash leaves either the old or the new file.
        resume: go on from `checkpoint` if that file exists, to bitwise the result of an
            uninterrupted run; else start from the beginning.
        progress: show a progress bar with the running loss.

    Returns:
        A `History` of the whole run, the part before a resume included.

    Raises:
        ValueError: an argument is wrong, `checkpoint` exists and `resume` is false (nothing is
            overwritten), or it belongs to another run.
        FloatingPointError: the loss became nan or infinite; a checkpoint keeps its last epoch.
    """
    check_vae(vae)
    check_integer("epochs", epochs, 1)
    check_integer("batch_size", batch_size, 1)
    check_number("learning_rate", learning_rate, 0.0, exclusive=True)
    betas = _check_pair("betas", betas, 1.0)
    check_number("epsilon", epsilon, 0.0, exclusive=True)
    encoder_rates = _check_pair("encoder_rates", encoder_rates, math.inf)
    check_choice("schedule", schedule, ("linear", "constant"))
    if warmup_steps is None:
        warmup_steps = 200 if schedule == "linear" else 0
    check_integer("warmup_steps", warmup_steps, 0)
    check_flag("shuffle", shuffle)
    check_choice("reduction", reduction, ("mean", "sum"))
    check_number("beta", beta, 0.0)
    check_flag("resume", resume)
    check_flag("progress", progress)
    if not (torch.is_grad_enabled() and any(w.requires_grad for w in vae.parameters())):
        fail("vae", "weights that can be trained", "none that requires a gradient, or torch.no_grad()")
    weight = vae.decoder.logits.weight
    x = as_pixels("images", images).detach().to(weight.device, weight.dtype)
    if validation_images is not None:
        validation_images = as_pixels("validation_images", validation_images)
        if len(validation_images) < 2:
            fail("validation_images", "at least two images, as evaluate does", 1)
    order_stream, noise_stream = stream("order", seed), stream("noise", seed)
    heads = [*vae.encoder.mu.parameters(), *vae.encoder.log_var.parameters()]
    parts = ([*vae.encoder.hidden.parameters()], heads, [*vae.decoder.parameters()])
    params_by_share: dict[float, list[nn.Parameter]] = {}  # few groups: each costs a call per step
    for share, part in zip((*encoder_rates, 1.0), parts):
        params_by_share.setdefault(share, []).extend(part)
    groups = [{"params": params, "share": share} for share, params in params_by_share.items()]
    # The fused step does the same arithmetic in one pass over the weights, a quarter faster.
    fused = weight.device.type in ("cpu", "cuda")
    optimizer = torch.optim.Adam(groups, lr=learning_rate, betas=betas, eps=epsilon, fused=fused)

    n, steps_per_epoch = len(x), math.ceil(len(x) / batch_size)
    num_steps = epochs * steps_per_epoch
    rates = [
        learning_rate_at(step, num_steps, learning_rate, warmup_steps, schedule)
        for step in range(num_steps)
    ]
    # Both terms of every step stay on the device: reading one would make the loop wait for it.
    terms = torch.zeros(num_steps, 2, device=weight.device)
    validation_terms = torch.zeros(epochs, 2)
    first_epoch = 0

    run = None
    if checkpoint is not None:
        checkpoint = _check_checkpoint(check_path("checkpoint", checkpoint), resume)
        run = {
            "model": f"VAE({vae.latent_dim}, {vae.hidden_dim}, {vae.activation}, {weight.dtype})",
            "images": _fingerprint(x),
            "validation_images": _fingerprint(validation_images),
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "betas": betas,
            "epsilon": epsilon,
            "encoder_rates": encoder_rates,
            "schedule": schedule,
            "warmup_steps": warmup_steps,
            "shuffle": shuffle,
            "reduction": reduction,
            "beta": beta,
            "seed": seed,
        }
        if resume and checkpoint.exists():
            saved = _load_checkpoint(checkpoint, run)
            vae.load_state_dict(saved["weights"])
            optimizer.load_state_dict(saved["optimizer"])
            order_stream.set_state(saved["order_stream"])
            noise_stream.set_state(saved["noise_stream"])
            terms.copy_(saved["terms"])
            validation_terms.copy_(saved["validation_terms"])
            first_epoch = saved["epochs_done"]
    elif resume:
        fail("checkpoint", "a path, since resume is True", None)

    step = first_epoch * steps_per_epoch
    with (
        _progress_bar(num_steps, step, progress) as bar,
        full_precision(),
        fast_products(),
        trusted_values(),
    ):
        for epoch in range(first_epoch, epochs):
            order = torch.randperm(n, generator=order_stream) if shuffle else torch.arange(n)
            order = order.to(x.device)
            noise = standard_normal((n, vae.latent_dim), noise_stream, x)
            for indices, batch_noise in zip(order.split(batch_size), noise.split(batch_size)):
                x_batch = x[indices]
                logits, mu, log_var = vae(x_batch, noise=batch_noise)
                reconstruction = -bernoulli_log_likelihood(x_batch, logits)
                kl = kl_to_standard_normal(mu, log_var)
                loss = getattr(reconstruction + beta * kl, reduction)()  # .mean() or .sum()

                for group in optimizer.param_groups:
                    group["lr"] = group["share"] * rates[step]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

                terms[step] = torch.stack((reconstruction.mean(), kl.mean())).detach()
                step += 1
                bar.step_done(terms[:step], beta)
            _check_converging(terms, vae, epoch, steps_per_epoch)
            bar.show_loss(terms[:step], beta)
            if validation_images is not None:
                result = evaluate(vae, validation_images, seed=seed)
                validation_terms[epoch] = torch.tensor((result.reconstruction, result.kl))
            if checkpoint is not None:
                _save_atomically(checkpoint, {
                    "run": run,
                    "epochs_done": epoch + 1,
                    "weights": vae.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "order_stream": order_stream.get_state(),
                    "noise_stream": noise_stream.get_state(),
                    "terms": terms,
                    "validation_terms": validation_terms,
                })  # fmt: skip
        history = _history(terms.cpu(), validation_terms, rates, n, batch_size, epochs, beta)
        if validation_images is None:
            history = History(history.steps, history.epochs)
        bar.finish(repr(history))
    return history


def _check_pair(name: str, pair: object, below: float) -> tuple[float, float]:
    wanted = f"two numbers ≥ 0 and < {below:g}"
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        fail(name, wanted, describe(pair))
    first, second = (check_number(name, value, 0.0) for value in pair)
    if max(first, second) >= below:
        fail(name, wanted, describe(pair))
    return first, second


def _check_converging(terms: Tensor, vae: VAE, epoch: int, steps_per_epoch: int) -> None:
    finite = torch.isfinite(terms[: (epoch + 1) * steps_per_epoch]).all(dim=1)
    if not finite.all():
        step = int((~finite).nonzero()[0])
        raise FloatingPointError(
            f"the loss became nan or infinite at step {step} (epoch {step // steps_per_epoch + 1})"
            ": try a smaller learning_rate or more warmup_steps"
        )
    if not all(torch.isfinite(parameter).all() for parameter in vae.parameters()):
        raise FloatingPointError(
            f"the weights became nan or infinite in epoch {epoch + 1}"
            ": try a smaller learning_rate or more warmup_steps"
        )


def _history(
    terms: Tensor,
    validation_terms: Tensor,
    rates: list[float],
    n: int,
    batch_size: int,
    epochs: int,
    beta: float,
) -> History:
    def curves(terms: Tensor, rates: Tensor) -> Curves:
        reconstruction, kl = terms.unbind(dim=1)
        return Curves(reconstruction + beta * kl, reconstruction, kl, rates)

    steps_per_epoch = len(terms) // epochs
    sizes = torch.full((steps_per_epoch,), float(batch_size))
    sizes[-1] = n - batch_size * (steps_per_epoch - 1)  # the last batch may be smaller
    per_epoch = torch.einsum("esk,s->ek", terms.view(epochs, steps_per_epoch, 2), sizes) / n
    rates = torch.tensor(rates)
    last_rates = rates[steps_per_epoch - 1 :: steps_per_epoch]
    return History(
        curves(terms, rates), curves(per_epoch, last_rates), curves(validation_terms, last_rates)
    )


# Checkpoints.


def _fingerprint(x: Tensor | None) -> str | None:
    if x is None:
        return None
    entries = x.detach().cpu().contiguous().view(torch.uint8).numpy()
    return hashlib.blake2b(entries, digest_size=16).hexdigest()


def _check_checkpoint(path: Path, resume: bool) -> Path:
    if not path.parent.is_dir():
        fail("checkpoint", "a file in a folder that exists", path)
    if path.exists() and not path.is_file():
        fail("checkpoint", "a file", f"{path}, which is not one")
    if not os.access(path.parent, os.W_OK):
        fail("checkpoint", "a file in a folder that can be written to", path)
    if path.exists() and not resume:
        fail("checkpoint", "a new file, or resume=True to go on from it", f"{path}, which exists")
    return path


def _load_checkpoint(path: Path, run: dict[str, object]) -> dict:
    try:
        with zipfile.ZipFile(path) as file:
            if file.testzip() is not None:  # torch.load does not look at the checksums
                raise zipfile.BadZipFile
        saved = torch.load(path, map_location="cpu", weights_only=True)
        found = {key: saved["run"][key] for key in run}
    except Exception as error:  # torch raises many kinds for a file that is not a checkpoint
        fail("checkpoint", "a file written by fit", f"{path}, unreadable ({type(error).__name__})")
    for key, expected in run.items():
        if found[key] != expected:
            got = f"{path}, of a run with {key} = {found[key]!r}"
            fail("checkpoint", f"a run with {key} = {expected!r}", got)
    return saved


def _save_atomically(path: Path, state: dict) -> None:
    """Write beside `path`, then rename: no moment at which a reader finds half a file."""
    # To memory first: on a full disk torch.save itself would end in an error about its format.
    content = io.BytesIO()
    torch.save(state, content)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


# Progress.


class _Bar(tqdm):
    """A progress bar that shows the running loss: the mean over the last hundred steps."""

    def step_done(self, terms: Tensor, beta: float) -> None:
        # On a CPU the loss is at hand; elsewhere the loop would wait for the device to read it, and
        # it is shown once an epoch.
        if self.update() and terms.device.type == "cpu":
            self.show_loss(terms, beta)

    def show_loss(self, terms: Tensor, beta: float) -> None:
        if not self.disable:
            reconstruction, kl = terms[-100:].mean(dim=0).tolist()
            self.set_postfix_str(f"loss {reconstruction + beta * kl:.2f}", refresh=False)

    def finish(self, summary: str) -> None:
        """Called once training is complete."""


class _NotebookBar(_Bar):
    """The bar as one notebook output, replaced in place and at the end by the summary.

    The summary holds no times, so that a chapter that is run again shows the same output.
    """

    def __init__(self, *args, **kwargs) -> None:
        from IPython.display import display

        self._output = display({"text/plain": "Training …"}, raw=True, display_id=True)
        super().__init__(*args, file=io.StringIO(), **kwargs)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        self._output.update({"text/plain": str(self) if msg is None else msg}, raw=True)

    def finish(self, summary: str) -> None:
        self.close()
        self.display(summary)


@contextlib.contextmanager
def _progress_bar(total: int, done: int, enabled: bool) -> Iterator[_Bar]:
    bar_class = _NotebookBar if enabled and _in_notebook() else _Bar
    with bar_class(total=total, initial=done, disable=not enabled, unit="step") as bar:
        yield bar


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None
