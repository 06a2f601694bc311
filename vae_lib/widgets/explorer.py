"""The latent explorer: the plane of the codes, with encoder and decoder at work in the browser."""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import traitlets
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor, nn

from vae_lib.checks import check_integer, check_number, describe, fail
from vae_lib.data import Split
from vae_lib.models import VAE, check_vae
from vae_lib.plotting import DIGIT_COLOURS, latent_scatter
from vae_lib.widgets.base import LiveFigure

# The largest whole number that stands for a weight: 12 bits, of which one is the sign. With 8 bits
# a pixel of the reference decoder was off by up to 0.08, with 10 by 0.02, with 12 by 0.004.
_TOP = 2**11 - 1


def quantise(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers and a scale for each row: `weight ≈ numbers * scale[:, None]`.

    `weight` is float32, `(rows, columns)`. Returns int16 `numbers` from −2047 to 2047 of the same
    shape and float32 `scale`, `(rows,)`. An entry is off by at most half its row's scale.
    """
    scale = np.abs(weight).max(axis=1) / np.float32(_TOP)
    scale[scale == 0] = 1.0
    numbers = np.rint(weight / scale[:, None]).clip(-_TOP, _TOP)
    return numbers.astype(np.int16), scale


def pack(layers: Sequence[nn.Linear]) -> bytes:
    """Linear layers as bytes, little-endian, one layer after the other.

    For each layer: the scales of its rows and its biases, float32, then the rows' numbers, each
    plus 2048 as 12 bits. Two of them, a and b, are three bytes: the low byte of a; its upper four
    bits, with the lower four of b above them; the upper byte of b. Zeros fill up to a multiple of
    four bytes.
    """
    parts = []
    for layer in layers:
        weight, bias = (
            parameter.detach().cpu().float().numpy() for parameter in (layer.weight, layer.bias)
        )
        numbers, scale = quantise(weight)
        shifted = (numbers.ravel() + (_TOP + 1)).astype(np.uint16)
        a, b = np.append(shifted, np.zeros(len(shifted) % 2, np.uint16)).reshape(-1, 2).T
        packed = np.stack((a & 255, a >> 8 | (b & 15) << 4, b >> 4), axis=1).astype(np.uint8)
        filling = bytes(-packed.size % 4)
        parts += [scale.astype("<f4").tobytes(), bias.astype("<f4").tobytes()]
        parts += [packed.tobytes(), filling]
    return b"".join(parts)


def rounded(vae: VAE) -> VAE:
    """A copy of `vae` with the weights that the browser computes with: those that `pack` keeps."""
    copied = copy.deepcopy(check_vae(vae))
    for layer in copied.modules():
        if isinstance(layer, nn.Linear):
            numbers, scale = quantise(layer.weight.detach().cpu().float().numpy())
            values = torch.from_numpy(numbers.astype(np.float32) * scale[:, None])
            layer.weight.data.copy_(values)
    return copied


class _Point(traitlets.TraitType):
    """A list of two finite floats."""

    def validate(self, obj: object, value: object) -> list[float]:
        if isinstance(value, (Tensor, np.ndarray)):
            value = value.tolist()
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            fail("z", "two finite numbers", describe(value))
        return [check_number("z", coordinate) for coordinate in value]


class LatentExplorer(LiveFigure):
    """The latent plane of a VAE to move about in; needs no kernel once it is on a page.

    The plane shows the codes of the images of `split` (the means of q(z | x)), coloured by digit,
    and the prior's contours. A point z is moved by mouse, touch or keys, and the decoder draws
    p(x | z); a digit that is drawn by hand or picked among the examples is encoded, and q(z | x),
    samples of it and the two terms of the ELBO are shown; z walks from one point to another.

    Args:
        vae: the model, with two latent dimensions.
        split: the images with their labels, such as `load_mnist().test`.
        num_codes: how many images of `split`, from the first on, are shown; `None` is all.
        examples_per_digit: how many images of each digit can be picked, the first ones; ≥ 1.
        half_width: the plane reaches from −`half_width` to `half_width` in both dimensions; > 0.
        z: where z is at first.

    `z`, a list of two floats, is where the reader has moved to; setting it moves the cross on the
    page. Setting `vae` puts another model in: its weights, and the codes that it gives.

    The browser computes with the weights rounded to 12 bits (see `rounded`): of the reference
    model 0.72 MB for the decoder and as much for the encoder. Its probabilities then differ from
    PyTorch's by less than 0.005 in every pixel, for z on a grid over [−4, 4]² and at the codes of
    all 10,000 test images. With the same noise, the reconstruction term differs by less than 0.3
    nats for every test image, and by 0.014 on average, the KL term by less than 0.01.
    One decoding takes about 0.6 ms in Chromium on one core of a server, and with the drawing 2 to
    3 ms of script, of the 17 ms that a frame has at 60 a second.

    Raises `ValueError` for a `vae` with another number of latent dimensions and for any other
    wrong argument. Introduced in chapter 5.
    """

    _esm = Path(__file__).parent / "explorer.js"

    z = _Point([0.0, 0.0]).tag(sync=True)
    hidden_dim = traitlets.Int().tag(sync=True)
    activation = traitlets.Unicode().tag(sync=True)
    encoder_weights = traitlets.Bytes().tag(sync=True)
    decoder_weights = traitlets.Bytes().tag(sync=True)
    codes = traitlets.Bytes().tag(sync=True)  # float32 (n, 2)
    labels = traitlets.Bytes().tag(sync=True)  # uint8 (n,)
    examples = traitlets.Bytes().tag(sync=True)  # uint8 (m, 784)
    example_labels = traitlets.Bytes().tag(sync=True)  # uint8 (m,)
    colours = traitlets.List(traitlets.Unicode()).tag(sync=True)
    half_width = traitlets.Float().tag(sync=True)

    def __init__(
        self,
        vae: VAE,
        split: Split,
        *,
        num_codes: int | None = None,
        examples_per_digit: int = 3,
        half_width: float = 5.0,
        z: Sequence[float] = (0.0, 0.0),
    ) -> None:
        if not isinstance(split, Split):
            fail("split", "a vae_lib.Split", describe(split))
        num_codes = len(split) if num_codes is None else check_integer("num_codes", num_codes, 1)
        if num_codes > len(split):
            fail("num_codes", f"at most the {len(split)} images of split", num_codes)
        check_integer("examples_per_digit", examples_per_digit, 1)
        half_width = check_number("half_width", half_width, 0.0, exclusive=True)
        pixels = split.pixels()[:num_codes]
        state = _state_of(vae, pixels)
        labels = split.labels.cpu()
        picked = torch.cat([
            (labels == digit).nonzero()[:examples_per_digit, 0] for digit in range(10)
        ])
        super().__init__(
            **state,
            z=z,
            labels=_bytes(labels[:num_codes]),
            examples=_bytes(split.images.cpu()[picked]),
            example_labels=_bytes(labels[picked]),
            colours=list(DIGIT_COLOURS),
            half_width=half_width,
        )
        self._vae, self._pixels = vae, pixels

    @property
    def vae(self) -> VAE:
        """The model; setting it puts another one in, here and on the page."""
        return self._vae

    @vae.setter
    def vae(self, vae: VAE) -> None:
        state = _state_of(vae, self._pixels)
        self._vae = vae
        with self.hold_sync():  # one message: weights of one model do not fit another's sizes
            for name, value in state.items():
                setattr(self, name, value)

    def __repr__(self) -> str:
        return f"LatentExplorer(latent_dim=2, codes={len(self.labels)})"

    def static_figure(self) -> Figure:
        """The plane with the codes, the prior's contours and z, and beside it what z decodes to."""
        codes = torch.from_numpy(np.frombuffer(self.codes, "<f4").astype(np.float32).reshape(-1, 2))
        labels = torch.from_numpy(np.frombuffer(self.labels, np.uint8).astype(np.int64))
        weight = self.vae.decoder.logits.weight
        with torch.no_grad():
            point = torch.tensor([self.z], dtype=weight.dtype, device=weight.device)
            picture = self.vae.decode(point).sigmoid().view(28, 28).cpu().numpy()
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(7.6, 4.6), width_ratios=(2.4, 1), layout="constrained"
        )
        latent_scatter(codes, labels, ax=left)
        for radius, share in ((1, "39 %"), (2, "86 %"), (3, "99 %")):
            circle = {"fill": False, "color": "#222222", "linewidth": 0.9, "zorder": 4}
            left.add_patch(Circle((0, 0), radius, linestyle="--", **circle))
            left.text(0, -radius, share, fontsize=8, ha="center", va="center", zorder=6,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
        for colour, width in (("white", 5), ("black", 2)):
            left.plot(*self.z, "+", color=colour, markersize=15, markeredgewidth=width, zorder=7)
        limits = (-self.half_width, self.half_width)
        left.set(xlim=limits, ylim=limits)
        right.imshow(picture, vmin=0, vmax=1, cmap="gray", interpolation="nearest")
        right.set_title("decoded at the cross,\nz = ({:.2f}, {:.2f})".format(*self.z), fontsize=10)
        right.axis("off")
        return figure


def _bytes(values: Tensor) -> bytes:
    return values.to(torch.uint8).numpy().tobytes()


def _state_of(vae: VAE, pixels: Tensor) -> dict:
    """What the page needs of a model: its weights, and its codes of `pixels`, `(n, 784)`."""
    if check_vae(vae).latent_dim != 2:
        fail("vae", "two latent dimensions", vae.latent_dim)
    if not all(torch.isfinite(parameter).all() for parameter in vae.parameters()):
        fail("vae", "finite weights", "some that are nan or infinite")
    weight = vae.encoder.mu.weight
    with torch.no_grad():
        batches = pixels.to(weight.device, weight.dtype).split(2000)
        mu = torch.cat([vae.encode(x)[0] for x in batches]).cpu()
    encoder, decoder = vae.encoder, vae.decoder
    return {
        "hidden_dim": vae.hidden_dim,
        "activation": vae.activation,
        "encoder_weights": pack(
            [encoder.hidden[0], encoder.hidden[2], encoder.mu, encoder.log_var]
        ),
        "decoder_weights": pack([decoder.hidden[0], decoder.hidden[2], decoder.logits]),
        "codes": mu.numpy().astype("<f4").tobytes(),
    }
