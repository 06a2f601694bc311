"""Draw the pictures of the intro page and of the README, book/images/plane.png and readme.png.

    python tools/make_picture.py            the first, from the reference weights
    python tools/make_picture.py --readme   the second, of two pages of the built site
"""

import argparse
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from vae_lib import load_mnist, plotting, trained_vae

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "book" / "images"
STEPS = 16
# Two pages with a live figure each, side by side.
VIEWS = ("intro.html", "03_elbo.html")
WIDTH, HEIGHT, BORDER = 815, 1000, 10


def draw_plane(path: Path) -> None:
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
    figure.savefig(path, dpi=110)


def photograph_pages(path: Path) -> None:
    """Needs the site (`make book`) and Chromium."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    picture = Image.new("RGB", (2 * WIDTH + 3 * BORDER, HEIGHT + 2 * BORDER), "#ccccdd")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        for number, name in enumerate(VIEWS):
            page.goto((ROOT / "_build" / "html" / "book" / name).as_uri())
            figure = page.locator(".live-figure").first
            figure.scroll_into_view_if_needed()
            page.wait_for_function("document.querySelector('.live-figure').liveFigure")
            # Below the bar at the top, with a line or two of the text before it.
            figure.evaluate("node => scrollBy(0, node.getBoundingClientRect().top - 180)")
            page.add_style_tag(content="#pst-back-to-top { display: none !important; }")
            page.wait_for_timeout(1000)  # the first decoded picture
            page.screenshot(path=path)
            place = (BORDER + number * (WIDTH + BORDER), BORDER)
            picture.paste(Image.open(path), place)
        browser.close()
    picture.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readme", action="store_true", help="photograph pages for the README")
    if parser.parse_args().readme:
        photograph_pages(IMAGES / "readme.png")
    else:
        draw_plane(IMAGES / "plane.png")


if __name__ == "__main__":
    main()
