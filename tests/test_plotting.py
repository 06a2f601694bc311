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

# What remains of a colour (linear red, green and blue) to an eye without the cones for long, for
# medium or for short waves: G. M. Machado, M. M. Oliveira and L. A. F. Fernandes, "A
# Physiologically-based Model for Simulation of Color Vision Deficiency", IEEE Transactions on
# Visualization and Computer Graphics 15 (2009), severity 1.0.
DICHROMATS = {
    "none": torch.eye(3),
    "long": torch.tensor([
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]),
    "medium": torch.tensor([
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]),
    "short": torch.tensor([
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ]),
}  # fmt: skip


def linear_rgb(colour):
    """The red, green and blue light of an sRGB colour, each in [0, 1]."""
    rgb = torch.tensor(matplotlib.colors.to_rgb(colour))
    return torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def in_cielab(rgb):
    """Linear sRGB as CIELAB (white D65), where distances are about those that an eye sees."""
    to_xyz = torch.tensor(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = to_xyz @ rgb.clamp(0.0, 1.0) / torch.tensor([0.9505, 1.0, 1.0890])
    f = torch.where(xyz > (6 / 29) ** 3, xyz ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return torch.stack((116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])))


def contrast(colour, ground):
    """The contrast of two colours, from 1 to 21, as WCAG 2 defines it."""
    weights = torch.tensor([0.2126, 0.7152, 0.0722])
    low, high = sorted(float(weights @ linear_rgb(c)) + 0.05 for c in (colour, ground))
    return high / low


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


def inches(figure):
    return tuple(figure.get_size_inches().tolist())


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

    def test_the_figure_s_size_is_that_of_its_images(self):
        assert inches(plotting.show_images(IMAGES)) == pytest.approx((7.5, 1.5))
        figure = plotting.show_images(IMAGES, ["title"] * 13, columns=5, size=2.0)
        assert inches(figure) == pytest.approx((5 * 2.0, 3 * 2.0 * 1.35))  # a title needs room

    def test_images_stand_close_together(self):
        axes = plotting.show_images(IMAGES, ["title"] * 13).axes
        grid = axes[0].get_gridspec()
        assert (grid.wspace, grid.hspace) == (0.05, 0.05)
        assert axes[0].title.get_fontsize() == 9

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_a_half_is_a_half_in_every_precision(self, dtype):
        figure = plotting.show_images(torch.full((1, 784), 0.5, dtype=dtype))
        assert (figure.axes[0].images[0].get_array() == 0.5).all()

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

    def test_training_and_validation_look_different(self, history):
        for axis in plotting.plot_history(history).axes[:2]:
            assert [line.get_color() for line in axis.lines] == ["#332288", "#CC6677"]
        assert plotting.plot_history(history).axes[2].lines[0].get_color() == "#117733"

    def test_the_horizontal_axes_are_epochs_and_steps(self, history):
        figure = plotting.plot_history(history)
        assert [axis.get_xlabel() for axis in figure.axes] == ["epoch", "epoch", "step"]
        assert inches(figure) == (9.6, 3.2)

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

    @pytest.mark.parametrize(
        ("n", "size"),
        [(200, 12), (1000, 12), (1001, 20_000 / 1001), (10_000, 2), (15_000, 4 / 3), (40_000, 1)],
    )
    def test_a_large_split_has_smaller_points(self, n, size):
        points = plotting.latent_scatter(MU.repeat(200, 1)[:n], LABELS.repeat(200)[:n]).collections
        assert points[0].get_sizes()[0] == pytest.approx(size)
        # Where points lie on one another it shows, and a saved page stays small.
        assert points[0].get_alpha() == 0.5 and points[0].get_rasterized()
        assert points[0].get_linewidths() == [0]

    def test_the_legend_stands_beside_the_plane_in_full_colours(self):
        ax = plotting.latent_scatter(MU, LABELS)
        ax.figure.canvas.draw()
        plane, legend = ax.get_window_extent(), ax.get_legend().get_window_extent()
        assert plane.x1 <= legend.x0 < plane.x1 + 0.05 * plane.width
        assert (legend.y0 + legend.y1) / 2 == pytest.approx((plane.y0 + plane.y1) / 2, abs=1)
        for handle in ax.get_legend().legend_handles:
            assert handle.get_alpha() == 1.0 and handle.get_sizes() == [36]

    def test_a_digit_is_written_over_the_points_and_centred(self):
        ax = plotting.latent_scatter(MU, LABELS)
        for text in ax.texts:
            assert (text.get_ha(), text.get_va()) == ("center", "center")
            assert text.get_weight() == "bold"
            # What WCAG asks of large text; the darker colours could not have black letters.
            ground = plotting.DIGIT_COLOURS[int(text.get_text())]
            assert contrast(text.get_color(), ground) >= 3.0
            assert text.get_zorder() > max(points.get_zorder() for points in ax.collections)

    def test_one_point_is_enough_and_a_title_is_not_needed(self):
        ax = plotting.latent_scatter(MU[:1], LABELS[:1])
        assert len(ax.collections) == 1 and ax.get_title() == ""
        assert inches(ax.figure) == (6.4, 6.0)

    def test_latents_with_a_gradient(self):
        plotting.latent_scatter(MU.clone().requires_grad_(), LABELS)

    @pytest.mark.parametrize("missing", DICHROMATS)
    def test_the_colours_stay_apart(self, missing):
        seen = [in_cielab(DICHROMATS[missing] @ linear_rgb(c)) for c in plotting.DIGIT_COLOURS]
        assert len(seen) == 10 and torch.pdist(torch.stack(seen)).min() > 19.0

    def test_the_simulation_knows_colours_that_a_deuteranope_confuses(self):
        wine, grey = (linear_rgb(c) for c in ("#882255", "#555555"))
        assert torch.dist(in_cielab(wine), in_cielab(grey)) > 30
        deuteranope = DICHROMATS["medium"]
        assert torch.dist(in_cielab(deuteranope @ wine), in_cielab(deuteranope @ grey)) < 2


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

    def test_the_defaults(self, vae):
        figure = plotting.latent_grid(vae, spacing="linear")
        texts = [text.get_text() for text in figure.axes[0].get_xticklabels()]
        assert len(texts) == 10 and (texts[0], texts[-1]) == ("-3.00", "3.00")
        assert inches(figure) == (6.4, 6.4)
        assert plotting.latent_axis(2, "linear", 0.5).tolist() == [-0.5, 0.5]
        assert plotting.latent_axis(3, "linear").tolist() == [-3.0, 0.0, 3.0]

    def test_no_line_is_drawn_over_the_images(self, vae):
        plotting.use_book_style()
        ax = plotting.latent_grid(vae, steps=2).axes[0]
        lines = [*ax.get_xgridlines(), *ax.get_ygridlines()]
        assert lines and not any(line.get_visible() for line in lines)

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


def test_the_book_style_is_that_of_the_stored_figures():
    # The chapters' figures are compared by their pixels: another style is another figure.
    with matplotlib.rc_context():
        plotting.use_book_style()
        style = {
            "figure.dpi": 110, "figure.figsize": [6.4, 4.0], "figure.constrained_layout.use": True,
            "axes.spines.top": False, "axes.spines.right": False, "grid.alpha": 0.3,
            "font.size": 10, "legend.frameon": False,
        }  # fmt: skip
        assert {name: plt.rcParams[name] for name in style} == style
