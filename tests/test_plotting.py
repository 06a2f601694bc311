"""Every figure is labelled, and shows what it says it shows."""

import math

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from vae_lib import VAE, fit, plotting, stream

IMAGES = torch.randint(0, 256, (13, 28, 28), generator=stream("images")).to(torch.uint8)
MU = torch.randn(200, 2, generator=stream("latents"))
LABELS = torch.arange(200) % 10


@pytest.fixture(autouse=True)
def close_figures():
    with matplotlib.rc_context():
        yield
    plt.close("all")


@pytest.fixture(scope="module")
def history():
    vae = VAE(hidden_dim=8, generator=stream("small"))
    return fit(vae, IMAGES, epochs=3, batch_size=5, beta=2.0, validation_images=IMAGES[:4],
               progress=False)  # fmt: skip


@pytest.fixture(scope="module")
def vae():
    return VAE(hidden_dim=8, generator=stream("small"))


def is_labelled(axis):
    return bool(axis.get_xlabel().strip()) and bool(axis.get_ylabel().strip())


class TestShowImages:
    @pytest.mark.parametrize(
        ("n", "columns", "rows"), [(13, 10, 2), (13, 5, 3), (1, 10, 1), (10, 10, 1), (13, 1, 13)]
    )
    def test_row_by_row(self, n, columns, rows):
        figure = plotting.show_images(IMAGES[:n], columns=columns)
        assert isinstance(figure, Figure) and len(figure.axes) == rows * min(columns, n)
        shown = [axis.images[0].get_array() for axis in figure.axes if axis.images]
        assert len(shown) == n
        for pixels, image in zip(shown, IMAGES):
            torch.testing.assert_close(torch.tensor(pixels), image / 255, check_dtype=False)

    def test_black_is_zero_and_white_is_one_whatever_the_image(self):
        figure = plotting.show_images(torch.full((2, 784), 0.5))
        assert all(axis.images[0].get_clim() == (0, 1) for axis in figure.axes)

    def test_no_axis_and_no_number_is_drawn_around_an_image(self):
        figure = plotting.show_images(IMAGES, columns=5)
        assert not any(axis.axison for axis in figure.axes)

    def test_titles(self):
        titles = [f"image {i}" for i in range(13)]
        figure = plotting.show_images(IMAGES, titles, columns=5)
        assert [axis.get_title() for axis in figure.axes] == [*titles, "", ""]

    def test_images_from_a_model(self, vae):
        plotting.show_images(vae.decode(MU[:3]).sigmoid())  # with a gradient

    @pytest.mark.parametrize("titles", [["a"], ["a"] * 14, 5, "a text of 13.", [1] * 13])
    def test_wrong_titles(self, titles):
        with pytest.raises(ValueError, match="^titles: expected 13 texts"):
            plotting.show_images(IMAGES, titles)


class TestPlotHistory:
    def test_it_is_labelled_with_units(self, history):
        figure = plotting.plot_history(history)
        assert isinstance(figure, Figure) and all(map(is_labelled, figure.axes))
        labels = [axis.get_ylabel() for axis in figure.axes]
        assert any("loss" in label and "nats per image" in label for label in labels)
        assert any("KL" in label and "nats per image" in label for label in labels)
        assert any("learning rate" in label for label in labels)

    def test_the_curves_are_the_history_s(self, history):
        figure = plotting.plot_history(history)
        axes = {axis.get_ylabel().split(" (")[0]: axis for axis in figure.axes}
        for label, term in (("loss", "loss"), ("KL term", "kl")):
            training, validation = axes[label].lines
            for line, curves, name in (
                (training, history.epochs, "training"),
                (validation, history.validation, "validation"),
            ):
                assert list(line.get_xdata()) == [1, 2, 3] and line.get_label() == name
                assert list(line.get_ydata()) == getattr(curves, term).tolist()
            assert axes[label].get_legend() is not None
        (line,) = axes["learning rate"].lines
        assert list(line.get_ydata()) == history.steps.learning_rate.tolist()

    def test_without_validation(self, history):
        bare = type(history)(history.steps, history.epochs)
        assert all(len(axis.lines) == 1 for axis in plotting.plot_history(bare).axes)

    @pytest.mark.parametrize("wrong", [None, [1.0], "history"])
    def test_wrong_input(self, wrong):
        with pytest.raises(ValueError, match="^history: expected a History"):
            plotting.plot_history(wrong)


class TestLatentScatter:
    def test_each_digit_has_its_colour_its_points_and_its_name(self):
        ax = plotting.latent_scatter(MU, LABELS, title="test set")
        assert isinstance(ax, Axes) and is_labelled(ax) and ax.get_title() == "test set"
        assert len(ax.collections) == 10
        for digit, points in enumerate(ax.collections):
            assert points.get_label() == str(digit)
            colour = to_hex(points.get_facecolor()[0])
            assert colour == plotting.DIGIT_COLOURS[digit].lower()
            torch.testing.assert_close(
                torch.tensor(points.get_offsets().data, dtype=torch.float32), MU[LABELS == digit]
            )

    def test_each_digit_is_written_among_its_points(self):
        ax = plotting.latent_scatter(MU, LABELS)
        assert [text.get_text() for text in ax.texts] == list("0123456789")
        for digit, text in enumerate(ax.texts):
            median = MU[LABELS == digit].median(dim=0).values
            assert text.get_position() == pytest.approx(tuple(median.tolist()))
            box = to_hex(text.get_bbox_patch().get_facecolor())
            assert box == plotting.DIGIT_COLOURS[digit].lower()
        legend = ax.get_legend()
        assert [text.get_text() for text in legend.get_texts()] == list("0123456789")
        assert legend.get_title().get_text() == "digit"

    def test_both_dimensions_have_one_scale(self):
        assert plotting.latent_scatter(MU, LABELS).get_aspect() == 1

    def test_a_digit_that_is_not_there_is_left_out(self):
        ax = plotting.latent_scatter(MU[:3], torch.tensor([7, 7, 1]))
        assert [points.get_label() for points in ax.collections] == ["1", "7"]

    def test_on_given_axes(self):
        ax = plt.subplots()[1]
        assert plotting.latent_scatter(MU, LABELS, ax=ax) is ax
        assert len(plt.get_fignums()) == 1

    def test_a_large_split_has_smaller_points(self):
        few = plotting.latent_scatter(MU, LABELS).collections[0].get_sizes()[0]
        mu, labels = MU.repeat(50, 1), LABELS.repeat(50)
        assert plotting.latent_scatter(mu, labels).collections[0].get_sizes()[0] < few

    def test_latents_with_a_gradient(self):
        plotting.latent_scatter(MU.clone().requires_grad_(), LABELS)

    def test_the_colours_stay_apart(self):
        colours = [torch.tensor(matplotlib.colors.to_rgb(c)) for c in plotting.DIGIT_COLOURS]
        distances = torch.pdist(torch.stack(colours))
        assert len(colours) == 10 and distances.min() > 0.15


class TestLatentGrid:
    @pytest.mark.parametrize("spacing", ["quantile", "linear"])
    def test_every_cell_is_where_its_latent_point_is(self, vae, spacing):
        steps = 4
        figure = plotting.latent_grid(vae, steps=steps, spacing=spacing)
        (ax,) = figure.axes
        mosaic = torch.tensor(ax.images[0].get_array().data)
        assert mosaic.shape == (28 * steps, 28 * steps)
        axis = plotting.latent_axis(steps, spacing)
        for i, z1 in enumerate(axis.tolist()):
            for j, z2 in enumerate(axis.tolist()):
                row, column = steps - 1 - j, i  # z₂ points up
                cell = mosaic[28 * row : 28 * (row + 1), 28 * column : 28 * (column + 1)]
                with torch.no_grad():
                    expected = vae.decode(torch.tensor([[z1, z2]])).sigmoid().view(28, 28)
                torch.testing.assert_close(cell, expected)

    def test_the_top_right_cell_is_where_both_are_largest(self, vae):
        ax = plotting.latent_grid(vae, steps=10, spacing="linear", half_width=3.0).axes[0]
        mosaic = torch.tensor(ax.images[0].get_array().data)
        assert ax.images[0].origin == "upper"
        with torch.no_grad():
            corners = {z: vae.decode(torch.tensor([z])).sigmoid().view(28, 28)
                       for z in ((3.0, 3.0), (-3.0, 3.0), (3.0, -3.0))}  # fmt: skip
        torch.testing.assert_close(mosaic[:28, -28:], corners[3.0, 3.0])
        torch.testing.assert_close(mosaic[:28, :28], corners[-3.0, 3.0])
        torch.testing.assert_close(mosaic[-28:, -28:], corners[3.0, -3.0])
        assert not torch.allclose(corners[3.0, 3.0], corners[-3.0, 3.0], atol=1e-3)

    def test_the_ticks_say_where(self, vae):
        ax = plotting.latent_grid(vae, steps=3, spacing="linear", half_width=2.0).axes[0]
        assert is_labelled(ax) and "z_1" in ax.get_xlabel() and "z_2" in ax.get_ylabel()
        assert [text.get_text() for text in ax.get_xticklabels()] == ["-2.00", "0.00", "2.00"]
        assert [text.get_text() for text in ax.get_yticklabels()] == ["2.00", "0.00", "-2.00"]
        assert list(ax.get_xticks()) == list(ax.get_yticks()) == [13.5, 41.5, 69.5]

    def test_black_is_zero_and_white_is_one(self, vae):
        assert plotting.latent_grid(vae).axes[0].images[0].get_clim() == (0, 1)

    def test_a_model_in_double_precision(self):
        plotting.latent_grid(VAE(hidden_dim=8).double(), steps=2)

    def test_the_axis(self):
        linear = plotting.latent_axis(5, "linear", 2.0)
        torch.testing.assert_close(linear, torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))
        quantile = plotting.latent_axis(10, "quantile")
        below = torch.special.ndtr(quantile)  # the share of the prior below each point
        torch.testing.assert_close(below, torch.arange(0.05, 1.0, 0.1))
        assert math.isclose(quantile[-1], 1.6449, abs_tol=1e-4)

    def test_three_dimensions_are_no_plane(self):
        with pytest.raises(ValueError, match="^vae: expected two latent dimensions, got 3"):
            plotting.latent_grid(VAE(3, 8))


def test_the_book_style_changes_matplotlib_s_defaults():
    with matplotlib.rc_context():
        plotting.use_book_style()
        assert plt.rcParams["image.cmap"] == "gray" and plt.rcParams["axes.grid"]
        plotting.latent_grid(VAE(hidden_dim=8), steps=2).canvas.draw()
        plotting.latent_scatter(MU, LABELS).figure.canvas.draw()
        plotting.show_images(IMAGES).canvas.draw()
