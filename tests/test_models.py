"""The networks have the shapes, the initial weights and the randomness that the book promises."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from vae_lib import VAE, Decoder, Encoder, models, start_at_mean_image, stream
from vae_lib.linear import Linear


@st.composite
def latents(draw):
    """μ, log σ² and noise in any precision, from where σ vanishes to near where it overflows."""
    dtype = draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 4)))
    largest = 2 * math.log(torch.finfo(dtype).max / 100)

    def tensor(low, high):
        rows = st.lists(st.floats(low, high), min_size=shape[1], max_size=shape[1])
        return torch.tensor([draw(rows) for _ in range(shape[0])], dtype=dtype)

    return {
        "mu": tensor(-100, 100),
        "log_var": tensor(-3 * largest, largest) if draw(st.booleans()) else tensor(-5, 5),
        "noise": tensor(-8, 8),
    }


def small_vae(latent_dim=2, hidden_dim=8, **keywords):
    return VAE(latent_dim, hidden_dim, generator=stream("test"), **keywords)


def same_weights(first, second):
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)


class TestArchitecture:
    def test_the_encoder(self):
        encoder = Encoder()
        sizes = [(m.in_features, m.out_features) for m in encoder.modules() if type(m) is Linear]
        assert sizes == [(784, 400), (400, 400), (400, 2), (400, 2)]

    def test_the_decoder(self):
        decoder = Decoder()
        sizes = [(m.in_features, m.out_features) for m in decoder.modules() if type(m) is Linear]
        assert sizes == [(2, 400), (400, 400), (400, 784)]

    def test_the_number_of_weights(self):
        # Weights and biases of 784-400-400-(2 + 2) and 2-400-400-784.
        encoder = 784 * 400 + 400 + 400 * 400 + 400 + 2 * (400 * 2 + 2)
        decoder = 2 * 400 + 400 + 400 * 400 + 400 + 400 * 784 + 784
        assert sum(p.numel() for p in VAE().parameters()) == encoder + decoder

    def test_the_original_s_activation_has_slope_one_fifth(self):
        vae = VAE(activation="leaky_relu")
        slopes = [m.negative_slope for m in vae.modules() if isinstance(m, nn.LeakyReLU)]
        assert slopes == [0.2] * 4

    @pytest.mark.parametrize(
        ("activation", "function"),
        [
            ("elu", nn.functional.elu),
            ("gelu", nn.functional.gelu),
            ("identity", lambda h: h),
            ("leaky_relu", lambda h: torch.where(h > 0, h, 0.2 * h)),
            ("relu", torch.relu),
            ("silu", lambda h: h * torch.sigmoid(h)),
            ("tanh", torch.tanh),
        ],
    )
    def test_what_the_networks_compute(self, activation, function):
        vae = small_vae(activation=activation)
        weights = vae.state_dict()

        def linear(name, h):
            return h @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

        x = torch.rand(4, 784, generator=stream("pixels"))
        h = function(linear("encoder.hidden.0", x))
        h = function(linear("encoder.hidden.2", h))
        mu, log_var = vae.encode(x)
        torch.testing.assert_close(mu, linear("encoder.mu", h))
        torch.testing.assert_close(log_var, linear("encoder.log_var", h))

        z = 3 * torch.randn(4, 2, generator=stream("latents"))
        h = function(linear("decoder.hidden.0", z))
        h = function(linear("decoder.hidden.2", h))
        torch.testing.assert_close(vae.decode(z), linear("decoder.logits", h))

    @pytest.mark.parametrize("latent_dim", [1, 2, 5])
    @pytest.mark.parametrize("batch", [1, 7])
    def test_shapes(self, latent_dim, batch):
        vae = small_vae(latent_dim)
        logits, mu, log_var = vae(torch.rand(batch, 784))
        assert logits.shape == (batch, 784)
        assert mu.shape == log_var.shape == (batch, latent_dim)

    @pytest.mark.parametrize("network", [Encoder, Decoder, VAE])
    def test_the_smallest_of_all(self, network):
        assert {p.shape[-1] for p in network(1, 1).parameters()} <= {1, 784}

    def test_an_image_s_result_does_not_depend_on_its_neighbours(self):
        vae, x = small_vae(), torch.rand(6, 784)
        noise = torch.randn(6, 2)
        together = vae(x, noise=noise)
        alone = [vae(x[i : i + 1], noise=noise[i : i + 1]) for i in range(6)]
        for i, results in enumerate(zip(*alone)):
            torch.testing.assert_close(together[i], torch.cat(results))

    def test_in_double_precision(self):
        vae = small_vae().double()
        results = vae(torch.rand(3, 784, dtype=torch.float64), generator=stream("noise"))
        assert {result.dtype for result in results} == {torch.float64}
        assert vae.sample(2).dtype == vae.sample(2, binarize=True).dtype == torch.float64
        # The same weights in either precision give the same results.
        x = torch.rand(3, 784)
        torch.testing.assert_close(vae.encode(x.double())[0].float(), small_vae().encode(x)[0])


class TestInitialWeights:
    @pytest.mark.parametrize("network", [Encoder, Decoder, VAE])
    def test_a_generator_alone_decides_them(self, network):
        torch.manual_seed(1)
        first = network(generator=stream("initialization", 3))
        torch.manual_seed(2)
        second = network(generator=stream("initialization", 3))
        third = network(generator=stream("initialization", 4))
        assert same_weights(first, second) and not same_weights(first, third)

    def test_the_global_generator_is_left_alone(self):
        before = torch.get_rng_state()
        VAE(generator=stream("initialization"))
        assert torch.equal(torch.get_rng_state(), before)

    def test_without_a_generator_the_global_one_decides(self):
        def seeded(seed):
            torch.manual_seed(seed)
            return VAE(hidden_dim=8)

        assert same_weights(seeded(1), seeded(1)) and not same_weights(seeded(1), seeded(2))

    def test_no_two_layers_start_alike(self):
        vae = small_vae()
        layers = (vae.encoder.hidden[0], vae.encoder.hidden[2], vae.decoder.hidden[0])
        first, second, third = (layer.bias for layer in layers)
        assert not torch.equal(first, second)
        assert not torch.equal(first, third) and not torch.equal(second, third)

    def test_they_follow_pytorch_s_own_distribution(self):
        # nn.Linear: weights and biases are uniform within 1/√(number of inputs).
        vae = VAE(generator=stream("initialization"))
        for module in vae.modules():
            if not isinstance(module, nn.Linear):
                continue
            bound = 1 / math.sqrt(module.in_features)
            theirs = nn.Linear(module.in_features, module.out_features)
            for ours, their in ((module.weight, theirs.weight), (module.bias, theirs.bias)):
                values, n = ours.detach().flatten() / bound, ours.numel()
                assert ours.shape == their.shape
                assert their.abs().max() <= bound * 1.0001 and values.abs().max() <= 1.0001
                # A uniform distribution on [-1, 1] has mean 0, variance 1/3, and reaches its ends.
                assert values.mean().abs() < 5 / math.sqrt(3 * n)
                assert (values.square().mean() - 1 / 3).abs() < 5 * math.sqrt(4 / 45 / n)
                if n > 1000:
                    assert values.max() > 0.97 and values.min() < -0.97


class TestStartAtMeanImage:
    IMAGES = torch.tensor([0, 255, 102, 51], dtype=torch.uint8).repeat_interleave(196)[None]

    def test_the_decoder_draws_about_the_mean_image(self):
        vae = VAE(generator=stream("mean image"))
        images = torch.cat([self.IMAGES, self.IMAGES // 3]).view(2, 28, 28)
        start_at_mean_image(vae, images)
        drawn = vae.sample(20, generator=stream("samples"))
        mean = images.view(2, 784).float().mean(dim=0) / 255
        torch.testing.assert_close(drawn.mean(dim=0), mean, rtol=0, atol=0.08)

    def test_the_bias_is_the_logit_of_the_mean_and_never_infinite(self):
        vae = VAE(hidden_dim=3, generator=stream("mean image"))
        start_at_mean_image(vae, self.IMAGES.expand(5, 784))
        means = torch.tensor([0.01, 0.99, 0.4, 0.2]).repeat_interleave(196)
        torch.testing.assert_close(vae.decoder.logits.bias.detach().sigmoid(), means)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_nothing_else_changes(self, dtype):
        vae = VAE(hidden_dim=3, generator=stream("mean image")).to(dtype)
        before = {name: weight.clone() for name, weight in vae.state_dict().items()}
        start_at_mean_image(vae, self.IMAGES)
        for name, weight in vae.state_dict().items():
            assert weight.dtype == dtype
            assert torch.equal(weight, before[name]) == (name != "decoder.logits.bias")
        assert all(weight.requires_grad for weight in vae.parameters())


class TestReparameterize:
    def test_it_is_mu_plus_scale_times_noise(self):
        mu, log_var = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, math.log(9.0)]])
        z = small_vae().reparameterize(mu, log_var, noise=torch.tensor([[0.5, -1.0]]))
        torch.testing.assert_close(z, torch.tensor([[1.5, -5.0]]))

    def test_its_mean_and_variance(self):
        n = 200_000
        mu, log_var = torch.tensor([[0.7, -3.0]]), torch.tensor([[-1.5, 1.2]])
        z = small_vae().reparameterize(
            mu.expand(n, 2), log_var.expand(n, 2), generator=stream("noise")
        )
        variance = log_var.exp()[0]
        assert ((z.mean(0) - mu[0]).abs() < 4 * (variance / n).sqrt()).all()
        assert ((z.var(0) - variance).abs() < 4 * variance * math.sqrt(2 / n)).all()
        assert torch.corrcoef(z.T)[0, 1].abs() < 4 / math.sqrt(n)

    def test_its_gradient(self):
        # ∂z/∂μ = 1 and ∂z/∂(log σ²) = σ ε / 2.
        mu = torch.zeros(3, 2, requires_grad=True)
        log_var = torch.linspace(-2, 2, 6).view(3, 2).requires_grad_()
        noise = torch.randn(3, 2)
        small_vae().reparameterize(mu, log_var, noise=noise).sum().backward()
        torch.testing.assert_close(mu.grad, torch.ones(3, 2))
        torch.testing.assert_close(log_var.grad, 0.5 * (0.5 * log_var.detach()).exp() * noise)

    @given(latents())
    @settings(max_examples=50)
    def test_it_is_right_to_the_last_digits_in_any_precision(self, tensors):
        mu, log_var, noise = tensors.values()
        z = small_vae(mu.shape[1]).reparameterize(**tensors)
        shift = (0.5 * log_var.double()).exp() * noise.double()
        kind = torch.finfo(mu.dtype)
        rounding = 3 * kind.eps * (mu.double().abs() + shift.abs()) + 10 * kind.tiny
        assert z.dtype == mu.dtype and z.shape == mu.shape
        assert ((z.double() - (mu.double() + shift)).abs() <= rounding).all()

    @given(latents())
    @settings(max_examples=25)
    def test_without_noise_it_is_mu_and_opposite_noise_mirrors_it_there(self, tensors):
        vae, (mu, log_var, noise) = small_vae(tensors["mu"].shape[1]), tensors.values()
        zeros = torch.zeros_like(mu)
        assert torch.equal(vae.reparameterize(mu, log_var, noise=zeros), mu)
        mirrored = vae.reparameterize(-mu, log_var, noise=-noise)
        assert torch.equal(mirrored, -vae.reparameterize(**tensors))

    @given(latents())
    @settings(max_examples=25)
    def test_its_gradient_at_any_scale(self, tensors):
        # As above; and ∂z/∂ε = σ, so that σ ε is what the noise has added.
        mu, log_var, noise = (tensor.requires_grad_() for tensor in tensors.values())
        z = small_vae(mu.shape[1]).reparameterize(mu, log_var, noise=noise)
        z.backward(torch.ones_like(z))
        assert (mu.grad == 1).all()
        torch.testing.assert_close(noise.grad, (0.5 * log_var.detach()).exp())
        torch.testing.assert_close(log_var.grad, 0.5 * noise.grad * noise.detach())

    @given(latents(), st.integers(0, 2**70))
    @settings(max_examples=25)
    def test_the_noise_is_given_or_drawn_and_never_both(self, tensors, seed):
        vae, (mu, log_var, noise) = small_vae(tensors["mu"].shape[1]), tensors.values()
        drawn = vae.reparameterize(mu, log_var, stream("noise", seed))
        # In float32 for every precision: from one stream float64 would take other numbers.
        same = torch.randn(mu.shape, generator=stream("noise", seed)).to(mu.dtype)
        assert torch.equal(drawn, vae.reparameterize(mu, log_var, noise=same))
        generator = stream("noise", seed)
        z = vae.reparameterize(mu, log_var, generator, noise)
        assert torch.equal(z, vae.reparameterize(mu, log_var, noise=noise))
        assert torch.equal(generator.get_state(), stream("noise", seed).get_state())

    def test_the_noise_comes_from_the_generator(self):
        vae, zeros = small_vae(), torch.zeros(4, 2)
        first = vae.reparameterize(zeros, zeros, generator=stream("noise"))
        assert torch.equal(first, torch.randn(4, 2, generator=stream("noise")))
        generator = stream("noise")
        once, again = (vae.reparameterize(zeros, zeros, generator=generator) for _ in range(2))
        assert torch.equal(once, first) and not torch.equal(once, again)

    def test_forward_is_encode_reparameterize_decode(self):
        vae, x = small_vae(), torch.rand(3, 784)
        logits, mu, log_var = vae(x, generator=stream("noise"))
        expected_mu, expected_log_var = vae.encode(x)
        z = vae.reparameterize(mu, log_var, generator=stream("noise"))
        assert torch.equal(mu, expected_mu) and torch.equal(log_var, expected_log_var)
        assert torch.equal(logits, vae.decode(z))
        assert not torch.equal(logits, vae(x, generator=stream("other"))[0])

    def test_every_weight_gets_a_gradient(self):
        vae = small_vae()
        logits, _, _ = vae(torch.rand(5, 784), generator=stream("noise"))
        logits.sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vae.parameters())


class TestSample:
    @given(n=st.integers(1, 30), latent_dim=st.integers(1, 4), binarize=st.booleans())
    @settings(max_examples=25)
    def test_shape_and_range(self, n, latent_dim, binarize):
        images = small_vae(latent_dim).sample(n, binarize=binarize)
        assert images.shape == (n, 784) and not images.requires_grad
        assert images.min() >= 0 and images.max() <= 1
        assert not binarize or set(images.unique().tolist()) <= {0.0, 1.0}

    def test_the_generator_alone_decides_and_the_global_one_is_left_alone(self):
        vae, before = small_vae(), torch.get_rng_state()
        first, second = (vae.sample(3, stream("sample")) for _ in range(2))
        assert torch.equal(first, second)
        assert not torch.equal(first, vae.sample(3, stream("sample", 1)))
        assert torch.equal(torch.get_rng_state(), before)

    def test_it_decodes_the_prior(self):
        vae = small_vae()
        z = torch.randn(5, 2, generator=stream("sample"))
        expected = vae.decode(z).sigmoid().detach()
        torch.testing.assert_close(vae.sample(5, stream("sample")), expected)

    def test_binary_pixels_are_white_as_often_as_they_should_be(self):
        vae = small_vae()
        with torch.no_grad():  # every image the same, so that the frequencies are known
            vae.decoder.logits.weight.zero_()
            vae.decoder.logits.bias.copy_(torch.linspace(-4, 4, 784))
        n = 4000
        frequency = vae.sample(n, stream("sample"), binarize=True).mean(0)
        p = torch.linspace(-4, 4, 784).sigmoid()
        assert ((frequency - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all()

    def test_a_pixel_that_is_black_for_sure_is_black_whatever_is_drawn(self, monkeypatch):
        vae = small_vae()
        with torch.no_grad():
            vae.decoder.logits.bias.fill_(-200)  # whose sigmoid is 0
        monkeypatch.setattr(models, "uniform", lambda shape, generator: torch.zeros(shape))
        assert vae.sample(1, binarize=True).max() == 0

    def test_the_grey_image_and_the_binary_one_share_their_latents(self):
        vae = small_vae()
        grey = vae.sample(3, stream("sample"))
        binary = vae.sample(3, stream("sample"), binarize=True)
        generator = stream("sample")
        torch.randn(3, 2, generator=generator)
        assert torch.equal(binary, (torch.rand(3, 784, generator=generator) < grey).float())


class TestWrongInput:
    """The table in test_public_api.py has every argument; here is what only a model can know."""

    def test_pixels_in_another_precision(self):
        with pytest.raises(ValueError, match="^x: expected torch.float32 .*got torch.float64"):
            small_vae().encode(torch.rand(2, 784).double())

    def test_latents_in_another_precision(self):
        with pytest.raises(ValueError, match="^z: expected torch.float32 .*got torch.float64"):
            small_vae().decode(torch.zeros(2, 2).double())

    def test_latents_of_another_dimension(self):
        with pytest.raises(ValueError, match=r"^z: .*\(batch, 3\), got .*\(1, 2\)"):
            small_vae(latent_dim=3).decode(torch.zeros(1, 2))

    @given(
        latents(), st.sampled_from(["mu", "log_var", "noise"]),
        st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(0, 19),
    )  # fmt: skip
    @settings(max_examples=25)
    def test_one_entry_that_is_not_finite_wherever_it_is(self, tensors, name, value, where):
        entries = tensors[name].view(-1)
        entries[where % len(entries)] = value
        expected = f"^{name}: expected finite numbers, got 1 of {len(entries)} entries nan or inf"
        with pytest.raises(ValueError, match=expected):
            small_vae(tensors["mu"].shape[1]).reparameterize(**tensors)

    @given(latents(), st.sampled_from(["mu", "log_var", "noise"]), st.integers(0, 5), st.booleans())
    @settings(max_examples=50)
    def test_nothing_is_broadcast(self, tensors, name, rows, one_column):
        latent_dim = tensors["mu"].shape[1]
        changed = torch.zeros(rows, 1 if one_column else latent_dim, dtype=tensors["mu"].dtype)
        assume(changed.shape != tensors["mu"].shape)
        # Of two that do not fit each other the second is named.
        with pytest.raises(ValueError, match=f"^({name}|log_var): expected .*shape.*, got .*shape"):
            small_vae(latent_dim).reparameterize(**tensors | {name: changed})

    def test_pixels_on_another_scale(self):
        with pytest.raises(ValueError, match=r"^x: expected values in \[0, 1\], got .* to 255"):
            small_vae().encode(torch.full((1, 784), 255.0))
