"""Draw the picture of the intro page, book/images/plane.png, from the reference weights."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from vae_lib import load_mnist, plotting, trained_vae

PICTURE = Path(__file__).parent.parent / "book" / "images" / "plane.png"
STEPS = 16


def main() -> None:
    plotting.use_book_style()
    vae, test = trained_vae(), load_mnist().test
    with torch.no_grad():
        mu, _ = vae.encode(test.pixels())
        axis = plotting.latent_axis(STEPS, "quantile")
        rows, columns = torch.meshgrid(axis.flip(0), axis, indexing="ij")
        digits = vae.decode(torch.stack((columns, rows), dim=-1).view(-1, 2)).sigmoid()
    mosaic = digits.view(STEPS, STEPS, 28, 28).transpose(1, 2).reshape(28 * STEPS, 28 * STEPS)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.8))
    plotting.latent_scatter(mu, test.labels, ax=left)
    right.imshow(mosaic, vmin=0, vmax=1)
    right.set_axis_off()
    figure.savefig(PICTURE, dpi=110)
    print(f"written: {PICTURE}")


if __name__ == "__main__":
    main()
