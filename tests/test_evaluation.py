"""Metrics over a split, and the exact evidence against brute force."""

import math
import statistics

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Normal
from torch.nn.functional import logsigmoid

from vae_lib import (
    VAE,
    bernoulli_log_likelihood,
    evaluate,
    exact_log_evidence,
    kl_to_standard_normal,
    stream,
)
from vae_lib.evaluation import Evaluation

IMAGES = torch.randint(0, 256, (23, 28, 28), generator=stream("images")).to(torch.uint8)
X = IMAGES.view(23, 784) / 255

outside = st.floats().filter(lambda value: not 0 <= value <= 1)  # nan too
sizes = st.integers(0, 3) | st.sampled_from([27, 28, 783, 784])


def images(min_batch, max_batch):
    """Images of any grey, seven pixels repeated: `(batch, 784)`, in float64."""
    pixels = st.lists(st.floats(0, 1), min_size=7, max_size=7)
    rows = st.lists(pixels, min_size=min_batch, max_size=max_batch)
    return rows.map(lambda rows: torch.tensor(rows, dtype=torch.float64).repeat(1, 784 // 7))


def small_vae(latent_dim=2, hidden_dim=8, activation="gelu"):
    return VAE(latent_dim, hidden_dim, activation, generator=stream("small"))


def curved_vae(latent_dim, gain, hidden_dim=4):
    """In float64, and larger decoder weights give narrower posteriors with several modes."""
    vae = small_vae(latent_dim, hidden_dim, "tanh").double()
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter.mul_(gain)
    return vae


def constant_vae(latent_dim, logits):
    """In float64; its decoder forgets z, and gives seven logits repeated."""
    vae = small_vae(latent_dim).double()
    with torch.no_grad():
        vae.decoder.logits.weight.zero_()
        vae.decoder.logits.bias.copy_(torch.tensor(logits).double().repeat(784 // 7))
    return vae


def line_vae(mode, slope):
    """In float64, one latent dimension; every pixel has the logit slope · (z − mode)."""
    vae = VAE(1, 1, "identity", generator=stream("line")).double()
    with torch.no_grad():
        for weight in vae.decoder.parameters():
            weight.zero_()
        vae.decoder.hidden[0].weight.fill_(1)
        vae.decoder.hidden[2].weight.fill_(1)
        vae.decoder.logits.weight.fill_(slope)
        vae.decoder.logits.bias.fill_(-slope * mode)
    return vae


def brute_force(vae, x, num_points, half_width=8.0):
    """log p(x) as a plain sum over a fine grid, in float64 and with torch's own densities."""
    side = torch.linspace(-half_width, half_width, num_points, dtype=torch.float64)
    spacing = side[1] - side[0]
    grid = torch.cartesian_prod(*[side] * vae.latent_dim).view(-1, vae.latent_dim)
    sums = []
    with torch.no_grad():
        for z in grid.split(5000):
            logits = vae.decode(z)
            log_likelihood = x @ logsigmoid(logits).T + (1 - x) @ logsigmoid(-logits).T
            log_joint = log_likelihood + Normal(0.0, 1.0).log_prob(z).sum(dim=1)
            sums.append(log_joint.logsumexp(dim=1))
    return torch.stack(sums).logsumexp(dim=0) + vae.latent_dim * spacing.log()


class TestEvaluate:
    def test_by_default_there_is_one_draw_per_image(self):
        assert evaluate(small_vae(), X) == evaluate(small_vae(), X, num_samples=1)

    def test_no_graph_is_built(self):
        vae, recorded = small_vae(), []
        vae.decoder.register_forward_hook(lambda *_: recorded.append(torch.is_grad_enabled()))
        evaluate(vae, X)
        assert recorded and not any(recorded)

    @pytest.mark.parametrize("num_samples", [1, 3])
    def test_it_is_the_mean_and_its_standard_error(self, num_samples):
        vae = small_vae()
        noise = torch.randn(23, num_samples, 2, generator=stream("evaluation", 5))
        with torch.no_grad():
            mu, log_var = vae.encode(X)
            draws = [mu + (0.5 * log_var).exp() * noise[:, i] for i in range(num_samples)]
            reconstruction = -sum(
                bernoulli_log_likelihood(X, vae.decode(z)) for z in draws
            ).double() / num_samples
            kl = kl_to_standard_normal(mu, log_var).double()
        result = evaluate(vae, IMAGES, num_samples=num_samples, seed=5)
        for name, values in (
            ("negative_elbo", reconstruction + kl), ("reconstruction", reconstruction), ("kl", kl),
        ):  # fmt: skip
            mean, error = values.mean().item(), values.std().item() / math.sqrt(23)
            assert getattr(result, name) == pytest.approx(mean, rel=1e-6)
            assert getattr(result, f"{name}_error") == pytest.approx(error, rel=1e-4)
        assert result.num_images == 23
        assert result.negative_elbo == pytest.approx(result.reconstruction + result.kl)

    @given(
        x=images(2, 6), logits=st.lists(st.floats(-30, 30), min_size=7, max_size=7),
        latent_dim=st.integers(1, 4), num_samples=st.integers(1, 3),
        batch_size=st.integers(1, 7), seed=st.integers(0, 2**70),
    )  # fmt: skip
    @settings(max_examples=30)
    def test_where_the_decoder_forgets_z_it_is_known_for_any_images(
        self, x, logits, latent_dim, num_samples, batch_size, seed
    ):
        vae = constant_vae(latent_dim, logits)
        result = evaluate(vae, x, num_samples=num_samples, batch_size=batch_size, seed=seed)
        known = -bernoulli_log_likelihood(x, vae.decoder.logits.bias.detach().expand_as(x))
        kl = kl_to_standard_normal(*vae.encode(x)).detach()
        for name, values in (
            ("negative_elbo", known + kl), ("reconstruction", known), ("kl", kl),
        ):  # fmt: skip
            mean, error = getattr(result, name), getattr(result, f"{name}_error")
            rounding = 1e-12 * known.max().item()
            assert mean == pytest.approx(statistics.fmean(values.tolist()), abs=rounding)
            # The variance of a mean is that of one value, divided by their number.
            variance = statistics.variance(values.tolist()) / len(x)
            assert error == pytest.approx(math.sqrt(variance), abs=rounding)

    @given(
        x=images(2, 6), num_samples=st.integers(1, 3), batch_size=st.integers(1, 7),
        seed=st.integers(0, 2**70), dtype=st.sampled_from([torch.float32, torch.float64]),
    )  # fmt: skip
    @settings(max_examples=30)
    def test_its_terms_add_up_and_their_errors_form_a_triangle(
        self, x, num_samples, batch_size, seed, dtype
    ):
        result = evaluate(
            curved_vae(2, 2.0).to(dtype), x,
            num_samples=num_samples, batch_size=batch_size, seed=seed,
        )  # fmt: skip
        assert all(0 <= number < math.inf for number in vars(result).values())
        assert result.negative_elbo == pytest.approx(result.reconstruction + result.kl, rel=1e-6)
        # A standard deviation is a norm, so that no side is longer than the other two.
        sides = (result.negative_elbo_error, result.reconstruction_error, result.kl_error)
        assert 2 * max(sides) <= sum(sides) + 1e-6 * result.negative_elbo
        assert result.num_images == len(x)

    @given(st.permutations(range(6)), st.integers(1, 7), st.integers(0, 2**70))
    @settings(max_examples=20)
    def test_the_kl_term_is_exact_and_so_the_order_and_the_noise_do_not_matter_to_it(
        self, order, batch_size, seed
    ):
        vae, expected = small_vae(), evaluate(small_vae(), IMAGES[:6])
        result = evaluate(vae, IMAGES[order], batch_size=batch_size, seed=seed, num_samples=2)
        assert result.kl == pytest.approx(expected.kl, rel=1e-5)
        assert result.kl_error == pytest.approx(expected.kl_error, rel=1e-4)

    def test_values_in_a_case_that_can_be_worked_out(self):
        # With all weights zero, q is the prior and every pixel is 0 or 1 with probability 1/2.
        vae = small_vae()
        with torch.no_grad():
            for parameter in vae.parameters():
                parameter.zero_()
        result = evaluate(vae, IMAGES)
        assert result.reconstruction == pytest.approx(784 * math.log(2), rel=1e-6)
        assert result.kl == 0.0 and result.kl_error == 0.0
        assert result.negative_elbo == result.reconstruction
        assert result.negative_elbo_error < 1e-4

    @pytest.mark.parametrize("batch_size", [1, 5, 22, 23, 24, 1000])
    def test_the_batch_size_does_not_matter(self, batch_size):
        vae, expected = small_vae(), evaluate(small_vae(), IMAGES, num_samples=2)
        result = evaluate(vae, IMAGES, num_samples=2, batch_size=batch_size)
        assert vars(result) == pytest.approx(vars(expected), rel=1e-5)

    def test_the_seed_decides_and_nothing_else_changes(self):
        vae, before = small_vae(), torch.get_rng_state()
        weights = {name: value.clone() for name, value in vae.state_dict().items()}
        vae.train()
        first, second = (evaluate(vae, IMAGES) for _ in range(2))
        assert first == second and first != evaluate(vae, IMAGES, seed=1)
        assert torch.equal(torch.get_rng_state(), before) and vae.training
        assert all(torch.equal(weights[name], value) for name, value in vae.state_dict().items())
        assert all(parameter.grad is None for parameter in vae.parameters())

    def test_bytes_and_pixels_in_either_shape(self):
        vae, expected = small_vae(), evaluate(small_vae(), IMAGES)
        for images in (IMAGES.view(23, 784), X, X.view(23, 28, 28), X.double()):
            assert evaluate(vae, images) == expected

    def test_in_double_precision(self):
        single, double = evaluate(small_vae(), IMAGES), evaluate(small_vae().double(), IMAGES)
        assert vars(double) == pytest.approx(vars(single), rel=1e-5)

    def test_more_samples_give_the_same_number_with_less_noise(self):
        vae = small_vae()

        def reconstructions(num_samples, num_seeds):
            results = [
                evaluate(vae, IMAGES, num_samples=num_samples, seed=seed)
                for seed in range(num_seeds)
            ]
            return torch.tensor([result.reconstruction for result in results])

        few, many = reconstructions(1, 40), reconstructions(50, 5)
        assert (few.mean() - many.mean()).abs() < 4 * few.std() / math.sqrt(40) + 1e-3
        assert many.std() < few.std()

    def test_one_image_has_no_standard_error(self):
        with pytest.raises(ValueError, match="^images: expected at least two"):
            evaluate(small_vae(), IMAGES[:1])

    @given(outside, st.integers(0, 3 * 784 - 1), st.sampled_from([(784,), (28, 28)]))
    @settings(max_examples=30)
    def test_a_pixel_outside_the_unit_interval_wherever_it_is(self, value, where, shape):
        x = torch.full((3, *shape), 0.5, dtype=torch.float64)
        x.view(-1)[where] = value
        expected = r"^images: expected values in \[0, 1\], got values from"
        with pytest.raises(ValueError, match=expected):
            evaluate(small_vae().double(), x, batch_size=1)

    @given(
        st.lists(sizes, max_size=4),
        st.sampled_from([torch.uint8, torch.float32, torch.float64]),
    )  # fmt: skip
    @example([0, 784], torch.float32)
    @example([1, 28, 28], torch.uint8)
    @example([2, 1, 28, 28], torch.uint8)
    @settings(max_examples=50)
    def test_images_of_another_shape(self, shape, dtype):
        assume(len(shape) == 0 or shape[0] < 2 or shape[1:] not in ([784], [28, 28]))
        with pytest.raises(ValueError, match="^images: expected .+, got .+"):
            evaluate(small_vae(), torch.tensor(0, dtype=dtype).expand(shape))

    def test_two_images_have_one(self):
        assert evaluate(small_vae(), IMAGES[:2]).negative_elbo_error > 0

    def test_a_result_cannot_be_changed(self):
        result = evaluate(small_vae(), IMAGES[:2])
        with pytest.raises(AttributeError):
            result.kl = 0.0

    def test_it_prints_its_numbers_with_their_errors(self):
        result = Evaluation(142.804, 136.123, 6.681, 0.4, 0.41, 0.021, 10_000)
        assert repr(result) == (
            "negative ELBO 142.80 ± 0.40 nats per image (10,000 images)\n"
            "= reconstruction 136.12 ± 0.41 + KL 6.68 ± 0.02"
        )


class TestExactLogEvidence:
    def test_many_images_may_reach_as_near_to_the_border_as_one(self):
        vae, x = small_vae(), X[:1]
        alone = exact_log_evidence(vae, x, half_width=3.0)
        together = exact_log_evidence(vae, x.expand(500, -1), half_width=3.0)
        torch.testing.assert_close(together, alone.expand(500))

    @pytest.mark.parametrize("latent_dim", [1, 2])
    def test_it_is_exact_where_the_decoder_forgets_z(self, latent_dim):
        vae = small_vae(latent_dim).double()
        bias = 3 * torch.randn(784, generator=stream("logits"), dtype=torch.float64)
        with torch.no_grad():
            vae.decoder.logits.weight.zero_()
            vae.decoder.logits.bias.copy_(bias)
        x = (X > 0.5).double()
        known = Bernoulli(logits=bias).log_prob(x).sum(dim=1)
        torch.testing.assert_close(exact_log_evidence(vae, x), known, rtol=0, atol=1e-6)

    @given(
        x=images(1, 4), logits=st.lists(st.floats(-1e3, 1e3), min_size=7, max_size=7),
        half_width=st.floats(7, 20),
    )  # fmt: skip
    @settings(max_examples=30)
    def test_it_is_the_likelihood_of_any_pixels_where_the_decoder_forgets_z(
        self, x, logits, half_width
    ):
        vae = constant_vae(1, logits)
        known = bernoulli_log_likelihood(x, vae.decoder.logits.bias.detach().expand_as(x))
        log_evidence = exact_log_evidence(vae, x, half_width=half_width)
        torch.testing.assert_close(log_evidence, known, rtol=1e-12, atol=1e-6)

    @given(x=images(1, 3), gain=st.floats(0, 4))
    @settings(max_examples=30)
    def test_it_is_between_the_mean_log_likelihood_and_the_largest(self, x, gain):
        # By Jensen's inequality, for z from the prior; and no likelihood is above 1.
        vae, z = curved_vae(1, gain), torch.linspace(-8, 8, 1001, dtype=torch.float64)[:, None]
        prior = Normal(0.0, 1.0).log_prob(z)[:, 0].softmax(dim=0)
        with torch.no_grad():
            logits = vae.decode(z)
        log_likelihood = x @ logsigmoid(logits).T + (1 - x) @ logsigmoid(-logits).T
        log_evidence = exact_log_evidence(vae, x)
        assert (log_evidence > log_likelihood @ prior - 1e-3).all()
        assert (log_evidence < log_likelihood.amax(dim=1) + 1e-3).all()
        assert (log_evidence <= 0).all()

    @given(x=images(1, 4), gain=st.floats(0, 4), data=st.data())
    @settings(max_examples=30)
    def test_black_and_white_and_left_and_right_are_alike(self, x, gain, data):
        vae, order = curved_vae(1, gain), data.draw(st.permutations(range(len(x))))
        expected = exact_log_evidence(vae, x)
        with torch.no_grad():  # the decoder of 1 − x, and as a function of −z
            vae.decoder.logits.weight.neg_()
            vae.decoder.logits.bias.neg_()
            vae.decoder.hidden[0].weight.neg_()
        turned = exact_log_evidence(vae, 1 - x[order])
        torch.testing.assert_close(turned, expected[order], rtol=0, atol=1e-6)

    @given(
        x=images(1, 2), gain=st.floats(0, 3), half_width=st.floats(7, 20),
        tolerance=st.floats(-7, -1).map(lambda exponent: 10.0**exponent),
    )  # fmt: skip
    @settings(max_examples=30)
    def test_any_grid_that_is_wide_enough_gives_it_within_the_tolerance(
        self, x, gain, half_width, tolerance
    ):
        vae = curved_vae(1, gain)
        log_evidence = exact_log_evidence(vae, x, half_width=half_width, tolerance=tolerance)
        expected = brute_force(vae, x, 1001)
        torch.testing.assert_close(log_evidence, expected, rtol=0, atol=tolerance + 2e-6)

    @given(outside, st.integers(0, 2 * 784 - 1), st.sampled_from([torch.float32, torch.float64]))
    @settings(max_examples=30)
    def test_a_pixel_outside_the_unit_interval_wherever_it_is(self, value, where, dtype):
        x = torch.full((2, 784), 0.5, dtype=torch.float64)
        x.view(-1)[where] = value
        x = x.to(dtype)
        assume(not 0 <= x.view(-1)[where] <= 1)  # as rounded
        with pytest.raises(ValueError, match=r"^x: expected values in \[0, 1\], got values from"):
            exact_log_evidence(small_vae(1).to(dtype), x)

    @given(st.lists(sizes, max_size=4), st.integers(1, 2))
    @example([0, 784], 2)
    @settings(max_examples=30)
    def test_images_of_another_shape(self, shape, latent_dim):
        assume(len(shape) != 2 or shape[0] == 0 or shape[1] != 784)
        with pytest.raises(ValueError, match=r"^x: expected a .* tensor of shape \(batch, 784\)"):
            exact_log_evidence(small_vae(latent_dim), torch.tensor(0.5).expand(shape))

    @given(
        st.sampled_from(["tolerance", "half_width"]),
        st.floats(max_value=0) | st.sampled_from([math.nan, math.inf]) | st.text(max_size=9),
    )  # fmt: skip
    @settings(max_examples=30)
    def test_what_is_no_width_and_no_tolerance(self, name, value):
        with pytest.raises(ValueError, match=f"^{name}: expected a finite number > 0, got"):
            exact_log_evidence(small_vae(1), X[:1], **{name: value})

    @pytest.mark.parametrize("gain", [1.0, 3.0, 5.0])
    def test_it_agrees_with_brute_force_in_one_dimension(self, gain):
        vae, x = curved_vae(1, gain), X[:3].double()
        expected = brute_force(vae, x, 20_001)
        torch.testing.assert_close(exact_log_evidence(vae, x), expected, rtol=0, atol=1e-3)

    @pytest.mark.parametrize("gain", [1.0, 2.0])
    def test_it_agrees_with_brute_force_in_two_dimensions(self, gain):
        vae, x = curved_vae(2, gain), X[:2].double()
        expected = brute_force(vae, x, 201)
        torch.testing.assert_close(exact_log_evidence(vae, x), expected, rtol=0, atol=1e-3)

    def test_a_posterior_narrower_than_the_first_grid(self):
        # Pixels that change fast along z: on the first grid alone the answer would be wrong.
        vae = curved_vae(1, 1.0)
        with torch.no_grad():
            vae.decoder.hidden[0].weight.mul_(10)
            vae.decoder.logits.weight.mul_(10)
        x = vae.decode(torch.tensor([[0.03]]).double()).sigmoid().detach()
        expected = brute_force(vae, x, 40_001)
        first_grid = brute_force(vae, x, 161)
        assert (first_grid - expected).abs() > 1
        torch.testing.assert_close(exact_log_evidence(vae, x), expected, rtol=0, atol=1e-3)

    def test_the_probabilities_of_all_images_add_up_to_one(self):
        # Only three pixels vary; the others are black for sure, as the decoder well knows.
        vae = curved_vae(2, 2.0)
        with torch.no_grad():
            vae.decoder.logits.weight[3:] = 0
            vae.decoder.logits.bias[3:] = -200
        x = torch.zeros(8, 784, dtype=torch.float64)
        x[:, :3] = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
        probabilities = exact_log_evidence(vae, x).exp()
        assert probabilities.sum().item() == pytest.approx(1.0, abs=1e-6)
        assert probabilities.min() > 1e-4

    def test_single_precision_is_enough(self):
        vae = small_vae()
        single = exact_log_evidence(vae, X[:4]).double()
        double = exact_log_evidence(vae.double(), X[:4].double())
        torch.testing.assert_close(single, double, rtol=0, atol=1e-3)

    def test_each_image_on_its_own(self):
        vae, x = small_vae(), X[:3]
        together = exact_log_evidence(vae, x)
        alone = torch.cat([exact_log_evidence(vae, row[None]) for row in x])
        assert together.shape == (3,) and not together.requires_grad
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-3)

    def test_the_defaults(self):
        vae, x = curved_vae(1, 3.0), X[:2].double()
        expected = exact_log_evidence(vae, x, tolerance=1e-3, half_width=8.0)
        assert torch.equal(exact_log_evidence(vae, x), expected)

    @pytest.mark.parametrize("latent_dim", [1, 2])
    def test_the_first_grid_reaches_from_border_to_border(self, monkeypatch, latent_dim):
        vae, seen = curved_vae(latent_dim, 1.0), []
        decode = vae.decode
        monkeypatch.setattr(vae, "decode", lambda z: seen.append(z) or decode(z))
        exact_log_evidence(vae, X[:2].double(), half_width=6.0)
        first = seen[0] if latent_dim == 1 else torch.cat(seen[:2])  # in chunks of 20,000
        assert (first.amin(dim=0) == -6.0).all() and (first.amax(dim=0) == 6.0).all()

    def test_a_wider_grid_changes_nothing(self):
        vae, x = small_vae(), X[:2]
        expected = exact_log_evidence(vae, x)
        wide = exact_log_evidence(vae, x, half_width=13.0)
        torch.testing.assert_close(wide, expected, rtol=0, atol=1e-3)

    @pytest.mark.parametrize("tolerance", [1e-3, 0.1])
    @pytest.mark.parametrize("half_width", [1e-30, 0.01, 0.5, 2.0])
    def test_a_grid_that_is_too_small(self, half_width, tolerance):
        with pytest.raises(ArithmeticError, match="half_width .* is too small"):
            exact_log_evidence(
                curved_vae(2, 1.0), X[:1].double(), half_width=half_width, tolerance=tolerance
            )

    def test_a_tolerance_that_single_precision_cannot_reach(self):
        with pytest.raises(ArithmeticError, match="tolerance of 1e-12 nats"):
            exact_log_evidence(small_vae(1), X, tolerance=1e-12)

    def test_in_two_dimensions_it_gives_up_before_the_memory_is_full(self, monkeypatch):
        # The kinks of a ReLU make the error fall slowly, so that the grid goes on growing.
        vae, points = small_vae(2, activation="relu").double(), []
        decode = vae.decode
        monkeypatch.setattr(vae, "decode", lambda z: points.append(len(z)) or decode(z))
        with pytest.raises(ArithmeticError, match="tolerance of 1e-12 nats"):
            exact_log_evidence(vae, X[:1].double(), tolerance=1e-12)
        assert 100_000 < sum(points) < 1_500_000

    @pytest.mark.parametrize("half_width", [1001, 1e6, 1e39, 1e300])
    def test_a_grid_so_wide_that_it_is_too_coarse(self, half_width):
        with pytest.raises(ValueError, match="^half_width: expected at most 1000, .*, got 1"):
            exact_log_evidence(small_vae(1), X[:1], half_width=half_width)

    @pytest.mark.parametrize("tolerance", [1e-3, 1.0, 100.0])
    @pytest.mark.parametrize("mode", [0.0, 0.0125, 0.025, 0.03, 0.05])
    @pytest.mark.parametrize("slope", [7.14, 0.5])
    def test_grids_that_agree_by_chance(self, mode, slope, tolerance):
        # One logit for all pixels, proportional to z − mode: with the mode at 0.025 and a posterior
        # of width 0.01 the grids of spacing 0.1 and 0.05 agree, 1.7 nats from the truth.
        vae, x = line_vae(mode, slope), torch.full((1, 784), 0.5, dtype=torch.float64)
        log_evidence = exact_log_evidence(vae, x, tolerance=tolerance)
        expected = brute_force(vae, x, 4001)
        torch.testing.assert_close(log_evidence, expected, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("half_width", [500.0, 1000.0])
    def test_a_wide_grid_is_fine_enough_or_refused(self, half_width):
        vae, x = line_vae(0.0, 0.01), torch.full((1, 784), 0.5, dtype=torch.float64)
        log_evidence = exact_log_evidence(vae, x, half_width=half_width, tolerance=1.0)
        torch.testing.assert_close(log_evidence, brute_force(vae, x, 4001), rtol=0, atol=1e-3)

    def test_in_float64_the_grid_is_of_float64_too(self):
        vae, x = line_vae(0.0, 7.14), torch.full((1, 784), 0.5, dtype=torch.float64)
        log_evidence = exact_log_evidence(vae, x, half_width=11.3, tolerance=1e-9)
        torch.testing.assert_close(log_evidence, brute_force(vae, x, 4001), rtol=0, atol=1e-9)

    def test_three_dimensions_are_too_many(self):
        with pytest.raises(ValueError, match="^vae: expected one or two latent dimensions, got 3"):
            exact_log_evidence(small_vae(3), X)
