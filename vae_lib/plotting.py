"""One call per figure: labelled axes with units, colours that colour-blind readers can tell apart.

Every function draws on a new figure, or on `ax` where it takes one, and returns it. A chapter
ends the cell with `plt.show()`.
"""

import math

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from vae_lib.checks import (
    as_pixels,
    check_choice,
    check_finite,
    check_integer,
    check_number,
    check_tensor,
    describe,
    fail,
)
from vae_lib.models import VAE, check_vae
from vae_lib.training import History

# Ten colours that also stay apart for those who lack one kind of cone: seen with any of the three
# missing, or with none, two of them differ by 19 or more in CIELAB (tests/test_plotting.py). The
# class is always written beside its points as well.
DIGIT_COLOURS = (
    "#332288", "#49B5D8", "#2C8C6C", "#005F12", "#97983D",
    "#D1A528", "#F1859F", "#781256", "#AB4599", "#4F4738",
)  # fmt: skip
# The digits whose colour is light, so that what is written on it must be dark.
LIGHT_DIGITS = (1, 4, 5, 6)


def use_book_style() -> None:
    """Set matplotlib's defaults for the book's figures. Each chapter calls it once."""
    plt.rcParams.update({
        "figure.dpi": 110,
        "figure.figsize": (6.4, 4.0),
        "figure.facecolor": "white",
        "figure.constrained_layout.use": True,
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.alpha": 0.3,
        "font.size": 10,
        "image.cmap": "gray",
        "image.interpolation": "nearest",
        "legend.frameon": False,
    })  # fmt: skip


def show_images(
    images: Tensor, titles: list[str] | None = None, *, columns: int = 10, size: float = 0.75
) -> Figure:
    """A grid of images, row by row; black is 0, white is 1.

    `images` is uint8 or in [0, 1], `(n, 28, 28)` or `(n, 784)`; `titles` one text per image;
    `size` is the side of one image in inches. First used in chapter 1. Raises `ValueError` for
    other images, and for `titles` that are not one text for each.
    """
    pixels = as_pixels("images", images).detach().cpu().view(-1, 28, 28)
    if pixels.dtype == torch.bfloat16:  # NumPy has none
        pixels = pixels.float()
    columns = min(check_integer("columns", columns, 1), len(pixels))
    check_number("size", size, 0.0, exclusive=True)
    if titles is not None:
        texts = isinstance(titles, (list, tuple)) and all(isinstance(t, str) for t in titles)
        if not texts or len(titles) != len(pixels):
            fail("titles", f"{len(pixels)} texts, one per image", describe(titles))
    rows = math.ceil(len(pixels) / columns)
    height = size * (1.35 if titles else 1.0)
    figure, axes = plt.subplots(
        rows, columns, figsize=(columns * size, rows * height), squeeze=False,
        gridspec_kw={"wspace": 0.05, "hspace": 0.05},
    )  # fmt: skip
    for axis in axes.flat:
        axis.axis("off")
    for i, axis in zip(range(len(pixels)), axes.flat):
        axis.imshow(pixels[i].numpy(), vmin=0, vmax=1)
        if titles is not None:
            axis.set_title(titles[i], fontsize=9, pad=2)
    return figure


def plot_history(history: History) -> Figure:
    """Training curves per epoch: the loss and its KL term, and the learning rate per step.

    Loss and KL in nats per image, of the images held out too if there are any. Read in chapter 4.
    Raises `ValueError` for a `history` that `fit` did not return.
    """
    if not isinstance(history, History):
        fail("history", "a History, as fit returns it", describe(history))
    epochs = torch.arange(1, len(history.epochs) + 1)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.6, 3.2))
    for axis, term, label in (
        (left, "loss", "loss (nats per image)"),
        (middle, "kl", "KL term (nats per image)"),
    ):
        axis.plot(epochs, getattr(history.epochs, term), "o-", color="#332288", label="training")
        if history.validation is not None:
            values = getattr(history.validation, term)
            axis.plot(epochs, values, "s--", color="#CC6677", label="validation")
            axis.legend()
        axis.set(xlabel="epoch", ylabel=label)
    right.plot(history.steps.learning_rate, color="#117733")
    right.set(xlabel="step", ylabel="learning rate")
    return figure


def latent_scatter(
    mu: Tensor, labels: Tensor, *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Where the encoder puts images in a latent plane: one point per image, coloured by digit.

    `mu` is `(n, 2)`, `labels` is int64 `(n,)` with digits 0 to 9. Each digit is also written at
    its class's median, so that colour is not the only cue. Read in chapter 5. Raises `ValueError`
    for other shapes, other labels and what is not finite.
    """
    check_finite("mu", check_tensor("mu", mu, ("n", 2)))
    labels = _check_labels(labels, len(mu))
    if title is not None and not isinstance(title, str):
        fail("title", "None or a text", describe(title))
    if ax is not None and not isinstance(ax, Axes):
        fail("ax", "None or matplotlib Axes", describe(ax))
    mu = mu.detach().cpu()
    if ax is None:
        ax = plt.subplots(figsize=(6.4, 6.0))[1]
    # Thin out the ink as the number of points grows.
    style = {"s": max(1.0, 20_000 / len(mu)) if len(mu) > 1000 else 12, "linewidths": 0}
    for digit, colour in enumerate(DIGIT_COLOURS):
        points = mu[labels == digit]
        if len(points) == 0:
            continue
        ax.scatter(*points.T, color=colour, alpha=0.5, label=str(digit), rasterized=True, **style)
        ax.text(
            *points.median(dim=0).values.tolist(), str(digit),
            color="black" if digit in LIGHT_DIGITS else "white", weight="bold",
            ha="center", va="center", zorder=5,
            bbox={"boxstyle": "circle,pad=0.25", "facecolor": colour, "edgecolor": "white"},
        )  # fmt: skip
    ax.set(xlabel="latent dimension $z_1$", ylabel="latent dimension $z_2$", aspect="equal")
    legend = ax.legend(title="digit", loc="center left", bbox_to_anchor=(1.0, 0.5))
    for handle in legend.legend_handles:
        handle.set(alpha=1.0, sizes=[36])
    if title:
        ax.set_title(title)
    return ax


def latent_grid(
    vae: VAE, *, steps: int = 10, spacing: str = "quantile", half_width: float = 3.0
) -> Figure:
    """The images that a grid of latent points decodes to, laid out as the plane is: z₂ points up.

    `spacing` "linear" places `steps` points evenly over [−`half_width`, `half_width`] in each
    dimension; "quantile" places them at equal steps of the prior's probability, so that every
    image stands for the same share of what the model generates. Derived in chapter 6. Raises
    `ValueError` for another spacing, fewer than two steps, or a model with other than two
    dimensions.
    """
    axis = latent_axis(steps, spacing, half_width)
    if check_vae(vae).latent_dim != 2:
        fail("vae", "two latent dimensions", vae.latent_dim)
    weight = vae.decoder.logits.weight
    rows, columns = torch.meshgrid(axis.flip(0), axis, indexing="ij")  # first row: largest z₂
    z = torch.stack((columns, rows), dim=-1).view(-1, 2)
    with torch.no_grad():
        pixels = vae.decode(z.to(weight.device, weight.dtype)).sigmoid().cpu()
    mosaic = pixels.view(steps, steps, 28, 28).transpose(1, 2).reshape(28 * steps, 28 * steps)
    figure, ax = plt.subplots(figsize=(6.4, 6.4))
    ax.imshow(mosaic.numpy(), vmin=0, vmax=1)
    centres = [28 * i + 13.5 for i in range(steps)]
    texts = [f"{value:.2f}" for value in axis.tolist()]
    ax.set_xticks(centres, texts)
    ax.set_yticks(centres, texts[::-1])
    ax.set(xlabel="latent dimension $z_1$", ylabel="latent dimension $z_2$")
    ax.grid(False)
    return figure


def latent_axis(steps: int, spacing: str, half_width: float = 3.0) -> Tensor:
    """The coordinates of `latent_grid` along one dimension, rising, shape `(steps,)`.

    Derived in chapter 6. Raises `ValueError` as `latent_grid` does.
    """
    check_integer("steps", steps, 2)
    check_choice("spacing", spacing, ("linear", "quantile"))
    check_number("half_width", half_width, 0.0, exclusive=True)
    if spacing == "linear":
        return torch.linspace(-half_width, half_width, steps)
    # The middles of `steps` intervals of equal probability under N(0, 1).
    probabilities = (torch.arange(steps) + 0.5) / steps
    return torch.special.ndtri(probabilities)


def _check_labels(labels: object, n: int) -> Tensor:
    wanted = f"int64 digits 0 to 9, shape ({n},)"
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (n,):
        fail("labels", wanted, describe(labels))
    if labels.min() < 0 or labels.max() > 9:
        fail("labels", wanted, f"digits from {labels.min()} to {labels.max()}")
    return labels.cpu()
