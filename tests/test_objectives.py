"""The objectives agree with closed forms, with torch.distributions and with brute force."""

import itertools
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Normal, kl_divergence

from vae_lib import (
    VAE,
    bernoulli_log_likelihood,
    elbo,
    exact_log_evidence,
    iwae_bound,
    kl_to_standard_normal,
    stream,
    trained_vae,
)

# From far below the smallest rounding error to where float32 overflows.
sizes = st.floats(-45, 1.9).map(lambda exponent: 10.0**exponent)
log_vars = st.builds(lambda size, sign: size * sign, sizes, st.sampled_from([-1.0, 1.0]))
dtypes = st.sampled_from([torch.float32, torch.float64])

outside = st.floats().filter(lambda value: not 0 <= value <= 1)  # nan too
pixels = st.lists(st.floats(0, 1), min_size=7, max_size=7)  # repeated to make an image


def images(min_batch=1):
    """Up to four images of any grey: `(batch, 784)`, in float64."""
    rows = st.lists(pixels, min_size=min_batch, max_size=4)
    return rows.map(lambda rows: torch.tensor(rows, dtype=torch.float64).repeat(1, 784 // 7))


def randn(*shape, name="test", dtype=torch.float64):
    return torch.randn(*shape, generator=stream(name), dtype=dtype)


def small_vae(latent_dim=2, hidden_dim=8, gain=1.0):
    """A VAE in float64; with a `gain` its decoder bends more over the latent space."""
    vae = VAE(latent_dim, hidden_dim, "tanh", generator=stream("small")).double()
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter.mul_(gain)
    return vae


def constant_decoder(latent_dim):
    """A VAE whose decoder forgets z, so that log p(x) is known, and the logits it gives."""
    vae = small_vae(latent_dim)
    logits = 3 * randn(1, 784, name="logits")
    with torch.no_grad():
        vae.decoder.logits.weight.zero_()
        vae.decoder.logits.bias.copy_(logits[0])
    return vae, logits


class TestKL:
    @given(st.lists(log_vars, min_size=1, max_size=20), dtypes)
    def test_it_is_never_negative(self, values, dtype):
        log_var = torch.tensor(values, dtype=dtype)[:, None]
        assert (kl_to_standard_normal(torch.zeros_like(log_var), log_var) >= 0).all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_it_is_never_negative_where_rounding_errors_are_largest(self, dtype):
        # The KL is about log_var²/4 there, below the last digit of log_var itself.
        exponents = torch.linspace(-12, 0, 200_000, dtype=dtype)
        log_var = torch.cat((10**exponents, -(10**exponents)))[:, None]
        kl = kl_to_standard_normal(torch.zeros_like(log_var), log_var)
        assert (kl >= 0).all()
        assert (kl[log_var[:, 0].abs() > 1e-3] > 0).all()

    def test_not_even_where_expm1_is_exp_minus_one(self, monkeypatch):
        monkeypatch.setattr(torch, "expm1", lambda v: torch.exp(v) - 1)  # as some devices have it
        log_var = 10 ** torch.linspace(-9, -3, 10_000)[:, None]
        assert (kl_to_standard_normal(torch.zeros_like(log_var), log_var) >= 0).all()

    def test_it_keeps_its_digits_near_the_prior(self):
        log_var = torch.cat((torch.linspace(1e-3, 0.1, 500), -torch.linspace(1e-3, 0.1, 500)))
        exact = 0.5 * (torch.expm1(log_var.double()) - log_var.double())
        kl = kl_to_standard_normal(torch.zeros(1000, 1), log_var[:, None])
        torch.testing.assert_close(kl.double(), exact, rtol=3e-4, atol=0)

    def test_it_is_zero_at_the_prior_and_only_there(self):
        zeros = torch.zeros(3, 4)
        assert (kl_to_standard_normal(zeros, zeros) == 0).all()
        for shifted in ((zeros + 0.1, zeros), (zeros, zeros + 0.1), (zeros, zeros - 0.1)):
            assert (kl_to_standard_normal(*shifted) > 1e-3).all()

    def test_values_by_hand(self):
        # Mean 3, variance 1: 9/2. Mean 0, variance 4: (4 − 1 − log 4)/2. Together: their sum.
        mu = torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
        log_var = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 1.0]]).double() * math.log(4)
        of_variance = (3 - math.log(4)) / 2
        expected = torch.tensor([4.5, 4.5 + of_variance, of_variance]).double()
        torch.testing.assert_close(kl_to_standard_normal(mu, log_var), expected, rtol=1e-6, atol=0)

    @given(st.integers(1, 6), st.integers(1, 5))
    def test_it_agrees_with_torch(self, latent_dim, batch):
        mu, log_var = 3 * randn(batch, latent_dim), randn(batch, latent_dim, name="log_var") * 2
        scale = (0.5 * log_var).exp()
        theirs = kl_divergence(Normal(mu, scale), Normal(0.0, 1.0)).sum(dim=1)
        torch.testing.assert_close(kl_to_standard_normal(mu, log_var), theirs)

    def test_it_agrees_with_monte_carlo(self):
        # KL = E_q[log q(z) − log p(z)]
        mu, log_var = torch.tensor([[0.8, -1.5]]), torch.tensor([[-1.0, 0.7]])
        q, p = Normal(mu, (0.5 * log_var).exp()), Normal(0.0, 1.0)
        z = mu + (0.5 * log_var).exp() * randn(200_000, 2, dtype=torch.float32)
        values = (q.log_prob(z) - p.log_prob(z)).sum(dim=1)
        error = values.std() / math.sqrt(len(values))
        assert error < 0.01
        assert (values.mean() - kl_to_standard_normal(mu, log_var)[0]).abs() < 4 * error

    def test_it_adds_over_dimensions(self):
        mu, log_var = randn(5, 4), randn(5, 4, name="log_var")
        each = [kl_to_standard_normal(mu[:, [i]], log_var[:, [i]]) for i in range(4)]
        torch.testing.assert_close(kl_to_standard_normal(mu, log_var), sum(each))

    @given(st.permutations(range(6)))
    def test_it_follows_a_permutation_of_the_images(self, order):
        mu, log_var = randn(6, 3), randn(6, 3, name="log_var")
        kl = kl_to_standard_normal(mu, log_var)
        assert torch.equal(kl_to_standard_normal(mu[order], log_var[order]), kl[order])

    def test_its_gradient(self):
        mu, log_var = randn(4, 3).requires_grad_(), randn(4, 3, name="log_var").requires_grad_()
        assert torch.autograd.gradcheck(kl_to_standard_normal, (mu, log_var))
        # At the prior itself the gradient is zero.
        zeros = torch.zeros(2, 2, requires_grad=True), torch.zeros(2, 2, requires_grad=True)
        kl_to_standard_normal(*zeros).sum().backward()
        assert all((z.grad == 0).all() for z in zeros)


class TestBernoulliLogLikelihood:
    def test_it_agrees_with_torch_on_binary_pixels(self):
        logits = 4 * randn(20, 784)
        x = (randn(20, 784, name="pixels") > 0).double()
        theirs = Bernoulli(logits=logits).log_prob(x).sum(dim=1)
        torch.testing.assert_close(bernoulli_log_likelihood(x, logits), theirs)

    @given(
        st.lists(st.tuples(st.floats(0, 1), st.floats(-30, 30)), min_size=1, max_size=20), dtypes
    )
    def test_it_is_never_positive(self, pairs, dtype):
        x, logits = torch.tensor(pairs, dtype=dtype).T
        assert (bernoulli_log_likelihood(x[:, None], logits[:, None]) <= 0).all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("size", [200.0, 1e4])
    def test_it_is_exact_where_the_sigmoid_is_zero_or_one(self, size, dtype):
        x = torch.tensor([[1.0], [0.0], [1.0], [0.0], [0.25], [0.25]], dtype=dtype)
        logits = torch.tensor([[size], [-size], [-size], [size], [size], [-size]], dtype=dtype)
        expected = torch.tensor([0.0, 0.0, -size, -size, -0.75 * size, -0.25 * size], dtype=dtype)
        torch.testing.assert_close(bernoulli_log_likelihood(x, logits), expected, rtol=0, atol=1e-9)

    def test_values_by_hand(self):
        # p = 3/4, 1/2 and 1/4; pixels 1, 0 and 0.5.
        logits = torch.tensor([[math.log(3), 0.0, -math.log(3)]])
        x = torch.tensor([[1.0, 0.0, 0.5]])
        expected = math.log(3 / 4) + math.log(1 / 2) + (math.log(1 / 4) + math.log(3 / 4)) / 2
        assert bernoulli_log_likelihood(x, logits).item() == pytest.approx(expected, rel=1e-6)

    def test_grey_pixels_give_the_mean_over_all_binary_images(self):
        # Every binary image of four pixels, weighted with the probability of drawing it from x.
        x, logits = torch.rand(7, 4, generator=stream("grey")).double(), 2 * randn(7, 4)
        mean = torch.zeros(7).double()
        for bits in itertools.product([0.0, 1.0], repeat=4):
            b = torch.tensor(bits).double().expand(7, 4)
            probability = torch.where(b == 1, x, 1 - x).prod(dim=1)
            mean += probability * Bernoulli(logits=logits).log_prob(b).sum(dim=1)
        difference = (bernoulli_log_likelihood(x, logits) - mean).abs().max()
        assert difference < 1e-6

    def test_the_likelihoods_of_all_binary_images_add_up_to_one(self):
        images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
        logits = randn(1, 4, dtype=torch.float32).expand(16, 4)
        assert bernoulli_log_likelihood(images, logits).exp().sum().item() == pytest.approx(1.0)

    def test_it_is_best_where_the_sigmoid_is_the_pixel(self):
        x = torch.tensor([[0.1, 0.5, 0.9]])
        logits = torch.logit(x).requires_grad_()
        bernoulli_log_likelihood(x, logits).sum().backward()
        torch.testing.assert_close(logits.grad, torch.zeros(1, 3), rtol=0, atol=1e-6)

    def test_its_gradient(self):
        x = torch.rand(3, 5, generator=stream("grey")).double()
        logits = randn(3, 5).requires_grad_()
        assert torch.autograd.gradcheck(lambda y: bernoulli_log_likelihood(x, y), logits)

    def test_in_single_precision_it_is_good_to_a_thousandth_of_a_nat(self):
        x = torch.rand(50, 784, generator=stream("grey"))
        logits = 8 * randn(50, 784)
        exact = bernoulli_log_likelihood(x.double(), logits)
        single = bernoulli_log_likelihood(x, logits.float())
        assert (single.double() - exact).abs().max() < 2e-3 and exact.mean() < -1000


class TestELBO:
    x = torch.rand(6, 784, generator=stream("grey")).double()
    terms = (2 * randn(6, 784), randn(6, 2, name="mu"), randn(6, 2, name="log_var"))

    @pytest.mark.parametrize("beta", [0, 0.5, 1.0, 4.0])
    def test_it_is_the_log_likelihood_minus_beta_times_the_kl(self, beta):
        logits, mu, log_var = self.terms
        log_likelihood = bernoulli_log_likelihood(self.x, logits)
        expected = log_likelihood - beta * kl_to_standard_normal(mu, log_var)
        assert torch.equal(elbo(self.x, *self.terms, beta=beta), expected)

    def test_beta_is_one_unless_said_otherwise(self):
        assert torch.equal(elbo(self.x, *self.terms), elbo(self.x, *self.terms, 1.0))

    def test_one_number_per_image_in_the_images_order(self):
        values = elbo(self.x, *self.terms)
        assert values.shape == (6,)
        order = [3, 0, 5, 1, 4, 2]
        permuted = elbo(self.x[order], *(term[order] for term in self.terms))
        torch.testing.assert_close(permuted, values[order])

    def test_its_gradient(self):
        x = self.x[:, :5]
        inputs = [term[:, :5].clone().requires_grad_() for term in self.terms]
        assert torch.autograd.gradcheck(lambda *terms: elbo(x, *terms, beta=2.0), inputs)

    def test_batches_of_different_size(self):
        logits, mu, log_var = self.terms
        with pytest.raises(ValueError, match="^mu: expected as many rows as x, 6, got 5"):
            elbo(self.x, logits, mu[:5], log_var[:5])


class TestIWAE:
    def test_with_one_sample_it_estimates_the_elbo(self):
        vae, x = small_vae(), torch.rand(2, 784, generator=stream("grey")).double()
        n = 4000
        many = x.repeat(n, 1)
        iwae = iwae_bound(vae, many, 1, stream("iwae")).view(n, 2)
        with torch.no_grad():
            plain = elbo(many, *vae(many, generator=stream("elbo"))).view(n, 2)
        error = ((iwae.var(0) + plain.var(0)) / n).sqrt()
        assert ((iwae.mean(0) - plain.mean(0)).abs() < 4 * error).all()

    def test_one_sample_by_hand(self):
        vae, x = small_vae(), torch.rand(3, 784, generator=stream("grey")).double()
        noise = torch.randn(1, 3, 2, generator=stream("iwae"), dtype=torch.float64)[0]
        binary = (x > 0.5).double()
        mu, log_var = vae.encode(binary)
        scale = (0.5 * log_var).exp()
        z = mu + scale * noise
        log_weight = (
            Bernoulli(logits=vae.decode(z)).log_prob(binary).sum(1)
            + Normal(0.0, 1.0).log_prob(z).sum(1)
            - Normal(mu, scale).log_prob(z).sum(1)
        )
        torch.testing.assert_close(iwae_bound(vae, binary, 1, stream("iwae")), log_weight)

    def test_more_samples_never_make_it_looser_on_average(self):
        vae, x = small_vae(gain=2.0), torch.rand(1, 784, generator=stream("grey")).double()
        x, n = (x > 0.5).double(), 500
        bounds = []
        for k in (1, 3, 10, 30):
            values = iwae_bound(vae, x.expand(n, 784), k, stream("iwae"))
            bounds.append((values.mean().item(), values.std().item() / math.sqrt(n)))
        bounds.append((exact_log_evidence(vae, x).item(), 1e-3))
        for (low, low_error), (high, high_error) in zip(bounds, bounds[1:]):
            # Each step is larger than its error bar, so that the order means something.
            assert low + 3 * math.hypot(low_error, high_error) < high

    @pytest.mark.parametrize("chunk_size", [1, 3, 4, 7, 64, 10**6])
    def test_the_chunk_size_does_not_matter(self, chunk_size):
        vae, x = small_vae(), torch.rand(3, 784, generator=stream("grey")).double()
        expected = iwae_bound(vae, x, 21, stream("iwae"))
        chunked = iwae_bound(vae, x, 21, stream("iwae"), chunk_size=chunk_size)
        torch.testing.assert_close(chunked, expected, rtol=1e-12, atol=0)

    @given(
        x=images(), num_samples=st.integers(1, 6), latent_dim=st.integers(1, 4),
        chunk_size=st.integers(1, 30), seed=st.integers(0, 2**70), dtype=dtypes,
    )  # fmt: skip
    @settings(max_examples=30)
    def test_any_images_and_samples_by_hand(
        self, x, num_samples, latent_dim, chunk_size, seed, dtype
    ):
        vae, x = small_vae(latent_dim), x.to(dtype)
        with torch.no_grad():  # so that μ and log σ² matter
            for layer in (vae.encoder.mu, vae.encoder.log_var):
                layer.weight.mul_(8)
        bound = iwae_bound(
            vae.to(dtype), x, num_samples, stream("iwae", seed), chunk_size=chunk_size
        )
        vae, x = vae.double(), x.double()
        noise = torch.randn(num_samples, len(x), latent_dim, generator=stream("iwae", seed))
        mu, log_var = vae.encode(x)
        q = Normal(mu, (0.5 * log_var).exp())
        log_weights = []
        for z in mu + q.scale * noise.double():
            log_prior, log_q = Normal(0.0, 1.0).log_prob(z).sum(1), q.log_prob(z).sum(1)
            log_weights.append(bernoulli_log_likelihood(x, vae.decode(z)) + log_prior - log_q)
        expected = torch.stack(log_weights).logsumexp(0) - math.log(num_samples)
        assert bound.dtype == dtype and bound.isfinite().all()
        torch.testing.assert_close(bound.double(), expected, rtol=1e-5, atol=0)

    @given(
        x=images(min_batch=2), other=pixels, where=st.integers(0, 3),
        num_samples=st.integers(1, 6), chunk_size=st.integers(1, 30),
    )  # fmt: skip
    @settings(max_examples=20)
    def test_an_image_s_bound_does_not_depend_on_its_neighbours(
        self, x, other, where, num_samples, chunk_size
    ):
        vae, where = small_vae(gain=2.0), where % len(x)
        before = iwae_bound(vae, x, num_samples, stream("iwae"), chunk_size=chunk_size)
        x[where] = torch.tensor(other, dtype=torch.float64).repeat(784 // 7)
        after = iwae_bound(vae, x, num_samples, stream("iwae"), chunk_size=chunk_size)
        after[where] = before[where]
        torch.testing.assert_close(after, before, rtol=1e-12, atol=0)

    @given(
        x=images(), mu=st.floats(-8, 8), log_var=st.floats(-200, 4),
        num_samples=st.integers(1, 6), seed=st.integers(0, 2**70),
    )  # fmt: skip
    @settings(max_examples=30)
    def test_it_is_not_far_above_the_evidence_wherever_q_is(
        self, x, mu, log_var, num_samples, seed
    ):
        # Since E[exp(IWAE)] = p(x), it is 25 nats too high less than once in 10¹⁰ (Markov).
        vae = small_vae(1, gain=2.0)
        with torch.no_grad():
            for layer, value in ((vae.encoder.mu, mu), (vae.encoder.log_var, log_var)):
                layer.weight.zero_()
                layer.bias.fill_(value)
        bound = iwae_bound(vae, x, num_samples, stream("iwae", seed))
        assert bound.isfinite().all() and (bound < exact_log_evidence(vae, x) + 25).all()

    @given(outside, st.integers(0, 2 * 784 - 1))
    @settings(max_examples=30)
    def test_a_pixel_outside_the_unit_interval_wherever_it_is(self, value, where):
        x = torch.full((2, 784), 0.5, dtype=torch.float64)
        x.view(-1)[where] = value
        with pytest.raises(ValueError, match=r"^x: expected values in \[0, 1\], got values from"):
            iwae_bound(small_vae(), x, 2)

    @given(st.lists(st.integers(0, 3) | st.sampled_from([783, 784]), max_size=4), dtypes)
    @example([0, 784], torch.float32)
    @settings(max_examples=30)
    def test_images_of_another_shape(self, shape, dtype):
        assume(len(shape) != 2 or shape[0] == 0 or shape[1] != 784)
        x = torch.tensor(0.5, dtype=dtype).expand(shape)
        with pytest.raises(ValueError, match=r"^x: expected a .* tensor of shape \(batch, 784\)"):
            iwae_bound(small_vae().to(dtype), x, 2)

    @pytest.mark.parametrize(("chunk_size", "largest"), [(7, 6), (1, 3), (10**6, 63)])
    def test_no_more_is_decoded_at_once(self, monkeypatch, chunk_size, largest):
        vae, x, seen = small_vae(), torch.rand(3, 784, generator=stream("grey")).double(), []
        decode = vae.decode
        monkeypatch.setattr(vae, "decode", lambda z: seen.append(len(z)) or decode(z))
        iwae_bound(vae, x, 21, chunk_size=chunk_size)
        assert max(seen) == largest and sum(seen) == 63  # a chunk holds whole samples of 3 images

    def test_the_precision_is_that_of_the_model(self):
        vae = VAE(hidden_dim=8).bfloat16()
        assert iwae_bound(vae, torch.zeros(2, 784).bfloat16(), 3).dtype == torch.bfloat16

    @pytest.mark.parametrize("latent_dim", [1, 2, 5])
    def test_it_is_unbiased_for_the_evidence_itself(self, latent_dim):
        # E[exp(IWAE)] = p(x) for every k; with a decoder that forgets z, log p(x) is known.
        vae, logits = constant_decoder(latent_dim)
        x = torch.rand(1, 784, generator=stream("grey")).double()
        known = bernoulli_log_likelihood(x, logits)
        weights = (iwae_bound(vae, x.expand(4000, 784), 3, stream("iwae")) - known).exp()
        error = weights.std() / math.sqrt(4000)
        assert 0 < error < 0.05 and (weights.mean() - 1).abs() < 4 * error

    def test_it_is_exact_where_q_is_the_posterior(self):
        vae, logits = constant_decoder(2)
        with torch.no_grad():  # z says nothing about x, so the posterior is the prior
            for parameter in (*vae.encoder.mu.parameters(), *vae.encoder.log_var.parameters()):
                parameter.zero_()
        x = torch.rand(4, 784, generator=stream("grey")).double()
        known = bernoulli_log_likelihood(x, logits.expand(4, 784))
        for k in (1, 10):
            torch.testing.assert_close(iwae_bound(vae, x, k), known, rtol=1e-12, atol=0)

    def test_the_generator_decides_and_nothing_else_changes(self):
        vae, x = small_vae(), torch.rand(3, 784, generator=stream("grey")).double()
        before = torch.get_rng_state()
        first, second = (iwae_bound(vae, x, 5, stream("iwae")) for _ in range(2))
        assert torch.equal(first, second)
        assert not torch.equal(first, iwae_bound(vae, x, 5, stream("iwae", 1)))
        assert torch.equal(torch.get_rng_state(), before) and not first.requires_grad

    def test_matrix_products_are_in_full_precision(self, monkeypatch):
        vae, seen = small_vae(), []
        decode = vae.decode

        def watched(z):
            seen.append(torch.get_float32_matmul_precision())
            return decode(z)

        monkeypatch.setattr(vae, "decode", watched)
        before = torch.get_float32_matmul_precision()
        try:
            torch.set_float32_matmul_precision("medium")
            x = torch.rand(1, 784).double()
            iwae_bound(vae, x, 2)
            exact_log_evidence(vae, x)
            assert set(seen) == {"highest"} and torch.get_float32_matmul_precision() == "medium"
        finally:
            torch.set_float32_matmul_precision(before)


def test_the_constant_of_the_logarithm_is_loaded_with_the_library():
    """A full vector register of −0.0: without it the likelihood is slow, see objectives.py."""
    code = """
import torch
log1p, seen = torch.log1p, []
torch.log1p = lambda x: seen.append(x) or log1p(x)
import vae_lib
(x,) = seen
print(x.dtype, x.numel() >= 16, bool((x == 0).all() and x.signbit().all()))
"""
    run = [sys.executable, "-c", code]
    result = subprocess.run(run, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["torch.float32", "True", "True"]


def test_elbo_iwae_and_the_exact_evidence_come_in_this_order(mnist):
    vae, x = trained_vae(), mnist.test.pixels()[:10]
    n = 300
    many = x.repeat(n, 1)
    with torch.no_grad():
        bounds = [elbo(many, *vae(many, generator=stream("elbo"))).view(n, 10)]
    bounds.append(torch.stack([iwae_bound(vae, x, 100, stream("iwae", i)) for i in range(20)]))
    means = [values.mean(0) for values in bounds]
    errors = [values.std(0) / math.sqrt(len(values)) for values in bounds]
    exact = exact_log_evidence(vae, x)
    assert (means[0] < means[1] + 4 * (errors[0].square() + errors[1].square()).sqrt()).all()
    assert (means[1] < exact + 4 * errors[1] + 2e-3).all()
    # And neither bound is loose beyond reason, nor the error bars so wide that anything passes.
    assert (exact - means[0]).median() < 3 and (exact - means[1]).median() < 0.2
    assert errors[0].median() < 0.3 and errors[1].median() < 0.3
    assert (exact - means[0]).mean() > 0.1
