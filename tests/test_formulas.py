"""The formulas of chapter 3, in its order: each against quadrature, enumeration or vae_lib.

Which test is of which formula, tests/claims/03_elbo.toml says.
"""

import itertools
import math

import pytest
import torch
from torch.distributions import Bernoulli, MultivariateNormal, Normal, Uniform, kl_divergence
from torch.nn.functional import softplus
from torch.testing import assert_close


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


# All integrals over z are sums over this grid, by the trapezoidal rule.
Z = torch.linspace(-10, 10, 501, dtype=torch.float64)
PRIOR = Normal(*tensor(0, 1))
# Three small worlds, one a row, with their observations; the first is the chapter's.
W, S, X = tensor([1.5, -0.7, 3.0], [0.8, 0.5, 1.2], [2.0, -1.0, 0.3])[..., None]
LOG_JOINT = Normal(W * Z, S).log_prob(X) + PRIOR.log_prob(Z)
# For each world a q that is not the posterior, and a p that is not the prior.
Q = Normal(*tensor([0.4, -0.2, 1.0], [0.5, 1.3, 0.3])[..., None])
P = Normal(*tensor([1.0, 0.5, -0.7], [0.9, 0.6, 1.1])[..., None])
# Images of which four pixels vary: three that are grey there, and all that are black and white.
GREY, BINARY = torch.zeros(3, 784).double(), torch.zeros(16, 784).double()
GREY[:, :4] = tensor([0.1, 0.5, 0.9, 0.4], [0.8, 0.7, 0.2, 0.1], [0.0, 0.3, 0.6, 1.0])
BINARY[:, :4] = tensor(*itertools.product([0, 1], repeat=4))


def integral(values):
    return torch.trapezoid(values, Z)


def mean(q, values):
    """E_q of values on the grid."""
    return integral(q.log_prob(Z).exp() * values)


@pytest.fixture(scope="module")
def lib():
    # Not at the top: tools/mutate.py runs the files that import the package there.
    import vae_lib

    return vae_lib


@pytest.fixture(scope="module")
def vae(lib):
    """With one latent dimension; all pixels but four are black for sure, as its decoder knows."""
    vae = lib.VAE(1, 4, "tanh", generator=lib.stream("small")).double().requires_grad_(False)
    for parameter in vae.parameters():
        parameter.mul_(4)
    vae.decoder.logits.weight[4:] = 0
    vae.decoder.logits.bias[4:] = -200
    return vae


def log_likelihoods(vae, x):
    """log p(x | z) on the grid, one row per image; by torch."""
    logits = vae.decode(Z[:, None])
    return x @ -softplus(-logits).T + (1 - x) @ -softplus(logits).T


def log_joints(vae, x):
    return log_likelihoods(vae, x) + PRIOR.log_prob(Z)


def log_evidence(lib, vae, x):
    return lib.exact_log_evidence(vae, x, tolerance=1e-9)


def gaussian(mu, log_var):
    return Normal(mu, (0.5 * log_var).exp())


def exact_elbo(lib, vae, x, mu, log_var):
    """The expectation of the library's one-sample estimate."""
    logits, n = vae.decode(Z[:, None]), len(Z)
    estimates = [
        lib.elbo(row.expand(n, -1), logits, m.expand(n, 1), v.expand(n, 1))
        for row, m, v in zip(x, mu, log_var)
    ]
    return mean(gaussian(mu, log_var), torch.stack(estimates))


def close_to_mean(values, exact):
    """Whether the samples in each column have this mean, and say so with some precision."""
    error = values.std(dim=0) / math.sqrt(len(values))
    return ((values.mean(dim=0) - exact).abs() < 4 * error).all() and error.max() < 0.05


# The number we would like to have ----------------------------------------------------------------


def test_the_evidence_is_the_integral_of_the_joint(lib, vae):
    pixels = Bernoulli(logits=vae.decode(Z[:, None])[:, :4])
    likelihood = torch.stack([pixels.log_prob(b).sum(dim=1).exp() for b in BINARY[:, :4]])
    by_definition = integral(likelihood * PRIOR.log_prob(Z).exp())
    assert_close(log_evidence(lib, vae, BINARY), by_definition.log())
    assert_close(by_definition.sum(), tensor(1.0)[0])


def test_the_posterior_by_bayes_rule(lib, vae):
    evidence = log_evidence(lib, vae, BINARY).exp()[:, None]
    posterior = log_likelihoods(vae, BINARY).exp() * PRIOR.log_prob(Z).exp() / evidence
    assert_close(integral(posterior), torch.ones(16).double())
    # Whoever does not look at the image is left with the prior.
    assert_close((evidence * posterior).sum(dim=0), PRIOR.log_prob(Z).exp())


# A small world in which everything is known ------------------------------------------------------


def test_the_small_world_is_a_gaussian_in_z_and_x():
    for w, s, x, log_joint in zip(W[:, 0], S[:, 0], X[:, 0], LOG_JOINT):
        covariance = torch.stack((tensor(1, w), torch.stack((w, w**2 + s**2))))
        pairs = torch.stack((Z, x.expand(len(Z))), dim=1)
        assert_close(MultivariateNormal(tensor(0, 0), covariance).log_prob(pairs), log_joint)


def test_the_evidence_of_the_small_world():
    formula = Normal(0.0, (W**2 + S**2).sqrt()).log_prob(X)[:, 0]
    assert_close(integral(LOG_JOINT.exp()).log(), formula)


def test_the_log_joint_of_the_small_world_in_powers_of_z():
    first = -((X - W * Z) ** 2) / (2 * S**2) - Z**2 / 2
    second = -0.5 * (W**2 / S**2 + 1) * Z**2 + W * X / S**2 * Z
    for line in (first, second):
        dots = LOG_JOINT - line
        assert_close(dots, dots[:, :1].expand_as(dots))


def test_the_posterior_of_the_small_world():
    v, m = S**2 / (W**2 + S**2), W * X / (W**2 + S**2)
    log_posterior = LOG_JOINT - integral(LOG_JOINT.exp()).log()[:, None]
    assert_close(Normal(m, v.sqrt()).log_prob(Z), log_posterior)


def true_posterior():
    return Normal(W * X / (W**2 + S**2), S / (W**2 + S**2).sqrt())


# How far is one distribution from another? -------------------------------------------------------


def test_the_kl_divergence_is_an_integral_and_an_expectation(lib):
    log_q = Q.log_prob(Z)
    divergence = integral(log_q.exp() * (log_q - PRIOR.log_prob(Z)))
    assert_close(divergence, lib.kl_to_standard_normal(Q.mean, 2 * Q.stddev.log()))
    # As many z as there are quantiles, in the place of random ones.
    z = Q.icdf((torch.arange(100_000).double() + 0.5) / 100_000)
    expectation = (Q.log_prob(z) - PRIOR.log_prob(z)).mean(dim=1)
    assert_close(expectation, divergence, rtol=0, atol=1e-3)


def test_the_kl_divergence_is_never_negative(lib):
    # A q of height 1/3 that is zero in places, so that both inequalities are strict.
    q, z = Uniform(*tensor(-1, 2)), torch.linspace(-1, 2, 1001, dtype=torch.float64)
    t = PRIOR.log_prob(z).exp() * 3
    minus_kl, bound = (torch.trapezoid(values / 3, z) for values in (t.log(), t - 1))
    assert_close(minus_kl, -kl_divergence(q, PRIOR), rtol=1e-5, atol=0)
    assert_close(bound, PRIOR.cdf(z[-1]) - PRIOR.cdf(z[0]) - 1, rtol=1e-5, atol=0)
    assert minus_kl < bound < 0
    mu, log_var = torch.cartesian_prod(*[torch.arange(-20, 21).double() / 10] * 2).split(1, dim=1)
    kl = lib.kl_to_standard_normal(mu, log_var)
    at_the_prior = ((mu == 0) & (log_var == 0))[:, 0]
    assert kl[at_the_prior].item() == 0 and kl[~at_the_prior].min() > 1e-3


def test_the_difference_of_two_gaussian_log_densities():
    squares = -((Z - Q.mean) ** 2) / (2 * Q.stddev**2) + (Z - P.mean) ** 2 / (2 * P.stddev**2)
    assert_close((P.stddev / Q.stddev).log() + squares, Q.log_prob(Z) - P.log_prob(Z))


def test_the_mean_square_about_another_mean():
    shift = (Q.mean - P.mean)[:, 0]
    # The step holds under any distribution; under the prior its last term is not zero.
    for q in (Q, PRIOR):
        step = mean(q, (Z - Q.mean) ** 2) + shift**2 + 2 * shift * mean(q, Z - Q.mean)
        assert_close(step, mean(q, (Z - P.mean) ** 2))
    assert_close(Q.variance[:, 0] + shift**2, mean(Q, (Z - P.mean) ** 2))


def kl_gaussians(mu_q, scale_q, mu_p, scale_p):
    spread = (scale_q**2 + (mu_q - mu_p) ** 2) / (2 * scale_p**2)
    return (scale_p / scale_q).log() + spread - 0.5


def test_the_kl_divergence_of_two_gaussians(lib):
    formula = kl_gaussians(Q.mean, Q.stddev, P.mean, P.stddev)
    assert_close(formula[:, 0], mean(Q, Q.log_prob(Z) - P.log_prob(Z)))
    assert_close(formula, kl_divergence(Q, P))
    # Measured in units of p, q is some distance from the standard normal.
    mu, scale = (Q.mean - P.mean) / P.stddev, Q.stddev / P.stddev
    assert_close(formula[:, 0], lib.kl_to_standard_normal(mu, 2 * scale.log()))


# Many dimensions, and the standard normal --------------------------------------------------------


def test_kl_divergences_add_over_dimensions(lib):
    # The first two q as one in two dimensions, where the integral is over a plane; and so p.
    log_q = Q.log_prob(Z)[0, :, None] + Q.log_prob(Z)[1]
    for p in (P, PRIOR.expand((3, 1))):
        log_p = p.log_prob(Z)[0, :, None] + p.log_prob(Z)[1]
        over_the_plane = integral(integral(log_q.exp() * (log_q - log_p)))
        of_each = mean(Q, Q.log_prob(Z) - p.log_prob(Z))
        assert_close(of_each[:2].sum(), over_the_plane)
        assert_close(of_each, kl_gaussians(Q.mean, Q.stddev, p.mean, p.stddev)[:, 0])
    # The last p was the prior.
    mu, log_var = Q.mean[:2].T, 2 * Q.stddev[:2].T.log()
    of_each = [lib.kl_to_standard_normal(mu[:, [j]], log_var[:, [j]])[0] for j in range(2)]
    assert_close(sum(of_each), over_the_plane)
    assert_close(lib.kl_to_standard_normal(mu, log_var)[0], over_the_plane)


def test_the_kl_divergence_from_the_standard_normal(lib):
    mu, variance = Q.mean.T, Q.variance.T
    formula = 0.5 * sum(m**2 + v - 1 - v.log() for m, v in zip(mu[0], variance[0]))
    assert_close(lib.kl_to_standard_normal(mu, variance.log())[0], formula)
    standard = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    assert_close(kl_divergence(MultivariateNormal(mu[0], variance[0].diag()), standard), formula)


# The direction matters ---------------------------------------------------------------------------


def test_the_difference_of_the_two_divergences():
    q, p = (Normal(other.mean[:, 0], other.stddev[:, 0]) for other in (Q, P))
    u = 2 * torch.log(p.stddev / q.stddev)
    widths = 1 / q.variance - 1 / p.variance
    formula = torch.sinh(u) - u + (q.mean - p.mean) ** 2 / 2 * widths
    assert_close(formula, kl_divergence(p, q) - kl_divergence(q, p))
    assert ((formula > 0) == (p.stddev > q.stddev)).all() and len({*(formula > 0).tolist()}) == 2


# The bound, first way ----------------------------------------------------------------------------


def test_the_divergence_from_the_posterior_in_three_steps():
    log_q, log_p_x = Q.log_prob(Z), integral(LOG_JOINT.exp()).log()
    divergence = kl_divergence(Q, true_posterior())[:, 0]
    assert_close(mean(Q, log_q - true_posterior().log_prob(Z)), divergence)
    assert_close(mean(Q, log_q - LOG_JOINT + log_p_x[:, None]), divergence)
    assert_close(mean(Q, log_q - LOG_JOINT) + log_p_x, divergence)


def test_the_elbo_is_the_expectation_of_log_joint_minus_log_q(lib, vae):
    q = gaussian(*vae.encode(GREY))
    definition = mean(q, log_joints(vae, GREY) - q.log_prob(Z))
    # The importance-weighted bound with one sample estimates it.
    estimates = lib.iwae_bound(vae, GREY.repeat(1000, 1), 1, lib.stream("ELBO")).view(1000, 3)
    assert close_to_mean(estimates, definition)


def test_the_evidence_is_the_elbo_plus_the_divergence_from_the_posterior(lib, vae):
    q, log_joint = gaussian(*vae.encode(GREY)), log_joints(vae, GREY)
    log_posterior = log_joint - integral(log_joint.exp()).log()[:, None]
    divergence = mean(q, q.log_prob(Z) - log_posterior)
    assert divergence.min() > 0.01  # no q is the posterior
    bound = exact_elbo(lib, vae, GREY, *vae.encode(GREY))
    assert_close(log_evidence(lib, vae, GREY), bound + divergence)


def test_the_elbo_is_a_lower_bound(lib, vae):
    log_p_x = log_evidence(lib, vae, GREY)
    for mu, log_var in itertools.product((-1.0, 0.0, 1.5), (-2.0, -0.5, 0.5)):
        q = torch.full((3, 1), mu).double(), torch.full((3, 1), log_var).double()
        assert (exact_elbo(lib, vae, GREY, *q) < log_p_x).all()
    # In the small world q may be the posterior, and then the bound is tight.
    q = true_posterior()
    assert_close(mean(q, LOG_JOINT - q.log_prob(Z)), integral(LOG_JOINT.exp()).log())


def test_the_divergence_in_the_other_direction():
    p_x = integral(LOG_JOINT.exp())
    average = integral(LOG_JOINT.exp() * (LOG_JOINT - Q.log_prob(Z)))
    assert_close(average / p_x - p_x.log(), kl_divergence(true_posterior(), Q)[:, 0])


# The bound, second way ---------------------------------------------------------------------------


def test_the_elbo_by_jensens_inequality(lib, vae):
    q = gaussian(*vae.encode(GREY))
    log_p_x, log_joint = log_evidence(lib, vae, GREY), log_joints(vae, GREY)
    assert_close(integral(log_joint.exp()).log(), log_p_x)
    log_ratio = log_joint - q.log_prob(Z)
    assert_close(mean(q, log_ratio.exp()).log(), log_p_x)
    assert (log_p_x > mean(q, log_ratio)).all()
    assert_close(mean(q, log_ratio), exact_elbo(lib, vae, GREY, *vae.encode(GREY)))


def expected_log_likelihood(mu, scale):
    squares = (X - W * mu) ** 2 + W**2 * scale**2
    return -0.5 * (2 * math.pi * S**2).log() - squares / (2 * S**2)


def test_the_elbo_of_the_small_world(lib):
    log_likelihood = expected_log_likelihood(Q.mean, Q.stddev)[:, 0]
    assert_close(log_likelihood, mean(Q, Normal(W * Z, S).log_prob(X)))
    bound = log_likelihood - lib.kl_to_standard_normal(Q.mean, 2 * Q.stddev.log())
    assert_close(bound, mean(Q, LOG_JOINT - Q.log_prob(Z)))


# The two terms -----------------------------------------------------------------------------------


def test_the_elbo_in_two_terms(lib, vae):
    mu, log_var = vae.encode(GREY)
    q = gaussian(mu, log_var)
    two_terms = mean(q, log_likelihoods(vae, GREY)) - kl_divergence(q, PRIOR)[:, 0]
    assert_close(two_terms, mean(q, log_joints(vae, GREY) - q.log_prob(Z)))
    assert_close(exact_elbo(lib, vae, GREY, mu, log_var), two_terms)


def test_the_log_likelihood_of_a_pixel_from_its_logit(lib):
    pixels, logits = torch.linspace(0, 1, 11).double(), torch.linspace(-8, 8, 33).double()
    x, logit = torch.cartesian_prod(pixels, logits).split(1, dim=1)
    p = 1 / (1 + torch.exp(-logit))
    formula = x * logit - (1 + logit.exp()).log()
    assert_close(formula, x * p.log() + (1 - x) * (1 - p).log())
    assert_close(lib.bernoulli_log_likelihood(x, logit), formula[:, 0])


# Sums and means ----------------------------------------------------------------------------------


def terms_of_a_batch(lib, num_pixels):
    """Pixels, logits, mu and log_var of three images."""
    x = torch.rand(3, num_pixels, generator=lib.stream("pixels"), dtype=torch.float64)
    shapes = (num_pixels, 2, 2)
    generator = lib.stream("terms")
    return x, *(torch.randn(3, n, generator=generator, dtype=torch.float64) for n in shapes)


def test_the_loss_is_a_mean_over_images_of_sums_over_pixels_and_latents(lib):
    x, logits, mu, log_var = terms_of_a_batch(lib, 5)
    loss = 0.0
    for image in range(3):
        for pixel, p in zip(x[image], logits[image].sigmoid()):
            loss -= pixel * p.log() + (1 - pixel) * (1 - p).log()
        for m, v in zip(mu[image], log_var[image]):
            loss += kl_divergence(gaussian(m, v), PRIOR)
    assert_close(-lib.elbo(x, logits, mu, log_var).mean(), loss / 3)


def test_a_mean_over_pixels_is_a_hidden_beta(lib):
    x, logits, mu, log_var = terms_of_a_batch(lib, 784)
    reconstruction = torch.nn.functional.binary_cross_entropy_with_logits(logits, x) * 784
    kl = lib.kl_to_standard_normal(mu, log_var).mean()
    formula = (reconstruction + 784 * kl) / 784
    assert_close(formula, reconstruction / 784 + kl)
    assert_close(formula, -lib.elbo(x, logits, mu, log_var, beta=784).mean() / 784)


# What is log p(x) for a grey image? --------------------------------------------------------------


def probabilities_of_binary_images(x):
    """Of drawing each from x: one row per image in x."""
    return torch.where(BINARY == 1, x[:, None], 1 - x[:, None]).prod(dim=2)


def test_the_grey_evidence_is_below_the_mean_of_the_binary_ones(lib, vae):
    mean_over_b = probabilities_of_binary_images(GREY) @ log_evidence(lib, vae, BINARY)
    assert (log_evidence(lib, vae, GREY) < mean_over_b - 0.01).all()
    # An image without grey is the only one that can be drawn from it.
    assert_close(probabilities_of_binary_images(BINARY), torch.eye(16).double())


def test_the_mean_elbo_of_the_binary_images_is_the_grey_evidence(lib, vae):
    log_r = log_joints(vae, GREY) - log_evidence(lib, vae, GREY)[:, None]
    of_each_b = [
        integral(log_r.exp() * (log_joint_b - log_r)) for log_joint_b in log_joints(vae, BINARY)
    ]
    over_b = (probabilities_of_binary_images(GREY) * torch.stack(of_each_b, dim=1)).sum(dim=1)
    of_grey = integral(log_r.exp() * (log_joints(vae, GREY) - log_r))
    assert_close(over_b, of_grey)
    assert_close(of_grey, log_evidence(lib, vae, GREY))


def test_the_elbo_of_a_binary_image_under_the_grey_posterior(lib, vae):
    log_p_x = log_evidence(lib, vae, GREY)
    log_r = log_joints(vae, GREY) - log_p_x[:, None]
    mean_logits = integral(log_r.exp()[:, None] * vae.decode(Z[:, None]).T)
    log_p_b = log_evidence(lib, vae, BINARY)
    for b, log_joint_b, bound in zip(BINARY, log_joints(vae, BINARY), log_p_b):
        formula = log_p_x + ((b - GREY) * mean_logits).sum(dim=1)
        assert_close(formula, integral(log_r.exp() * (log_joint_b - log_r)))
        assert (formula < bound).all()


# Below the truth, by how much? -------------------------------------------------------------------


def test_the_importance_weighted_bound(lib, vae):
    q = gaussian(*vae.encode(GREY))
    log_w, q_z = log_joints(vae, GREY) - q.log_prob(Z), q.log_prob(Z).exp()
    bounds = {1: mean(q, log_w)}
    pairs = torch.logaddexp(log_w[:, :, None], log_w[:, None, :]) - math.log(2)
    bounds[2] = integral(integral(q_z[:, :, None] * q_z[:, None, :] * pairs))
    for k, bound in bounds.items():
        estimates = lib.iwae_bound(vae, GREY.repeat(1000, 1), k, lib.stream("IWAE"))
        assert close_to_mean(estimates.view(1000, 3), bound)
    assert (bounds[1] < bounds[2]).all()
    assert (bounds[2] < log_evidence(lib, vae, GREY)).all()


# Rate and distortion -----------------------------------------------------------------------------


def test_the_rate_and_the_distortion(lib, vae):
    q = gaussian(*vae.encode(GREY))
    rate = mean(q, q.log_prob(Z) - PRIOR.log_prob(Z)).mean()
    distortion = -mean(q, log_likelihoods(vae, GREY)).mean()
    result = lib.evaluate(vae, GREY.repeat(2000, 1))
    assert result.kl == pytest.approx(rate.item(), rel=1e-6)
    assert abs(result.reconstruction - distortion.item()) < 4 * result.reconstruction_error < 0.1
    assert result.negative_elbo == pytest.approx(result.reconstruction + result.kl)


def aggregate(q):
    return q.log_prob(Z).exp().mean(dim=0)


def test_the_aggregate_posterior_is_the_density_of_all_codes(lib, vae):
    mu, log_var = (term.repeat_interleave(20_000, dim=0) for term in vae.encode(GREY))
    # As many z as there are quantiles, in the place of random ones.
    noise = PRIOR.icdf((torch.arange(20_000).double() + 0.5) / 20_000).repeat(3)[:, None]
    codes = vae.reparameterize(mu, log_var, noise=noise)
    up_to = torch.cumulative_trapezoid(aggregate(gaussian(*vae.encode(GREY))), Z)
    for border in (200, 240, 250, 265, 300, 499):
        share = (codes < Z[border + 1]).double().mean()
        assert_close(share, up_to[border], rtol=0, atol=1e-3)


def test_the_mutual_information_of_image_and_code(vae):
    q = gaussian(*vae.encode(GREY))
    log_q, q_z = q.log_prob(Z), aggregate(q)
    information = mean(q, log_q - q_z.log()).mean()
    # By how much a code lowers the entropy of which image it is.
    which = log_q.softmax(dim=0)
    entropy = -torch.xlogy(which, which).sum(dim=0)
    assert_close(information, math.log(3) - integral(q_z * entropy))
    assert 0.05 < information < math.log(3)


def test_the_rate_is_the_information_plus_the_divergence_of_the_aggregate(lib, vae):
    q = gaussian(*vae.encode(GREY))
    log_q_z = aggregate(q).log()
    rate = lib.kl_to_standard_normal(*vae.encode(GREY)).mean()
    log_ratios = (q.log_prob(Z) - log_q_z) + (log_q_z - PRIOR.log_prob(Z))
    assert_close(rate, mean(q, log_ratios).mean())
    information = mean(q, q.log_prob(Z) - log_q_z).mean()
    divergence = integral(log_q_z.exp() * (log_q_z - PRIOR.log_prob(Z)))
    assert_close(rate, information + divergence)
    assert rate > information and divergence > 0.01


def test_the_rate_of_stretched_codes(lib):
    _, _, mu, log_var = terms_of_a_batch(lib, 1)
    for t in (0.25, 1.0, 3.0):
        summands = mu**2 + t**2 * log_var.exp() - 1 - log_var
        formula = (0.5 * summands.sum(dim=1)).mean() - 2 * math.log(t)
        assert_close(lib.kl_to_standard_normal(mu, log_var + 2 * math.log(t)).mean(), formula)


def test_the_gap_of_a_stretched_posterior():
    # The three worlds as one with three latent dimensions.
    log_p_x, posterior = integral(LOG_JOINT.exp()).log().sum(), true_posterior()
    for t in (0.5, 1.0, 2.0):
        q = Normal(posterior.mean, t * posterior.stddev)
        gap = log_p_x - mean(q, LOG_JOINT - q.log_prob(Z)).sum()
        assert_close(gap.item(), 3 / 2 * (t**2 - 1 - math.log(t**2)))


def test_the_slope_where_the_best_width_is(lib):
    posterior, step = true_posterior(), 1e-4
    log_t = torch.arange(-1, 1, step, dtype=torch.float64)
    scale = posterior.stddev * log_t.exp()  # (3, widths): a mean over the worlds follows
    distortion = -expected_log_likelihood(posterior.mean, scale).mean(dim=0)
    mu = posterior.mean.expand_as(scale).reshape(-1, 1)
    rate = lib.kl_to_standard_normal(mu, 2 * scale.log().reshape(-1, 1)).view_as(scale).mean(dim=0)
    slope = torch.gradient(distortion)[0] / torch.gradient(rate)[0]
    for beta in (0.5, 1.0, 2.0):
        best = (distortion + beta * rate).argmin()
        assert 0 < best < len(log_t) - 1
        assert slope[best].item() == pytest.approx(-beta, rel=1e-3)
    at_the_posterior = slope[log_t.abs().argmin()].item()
    assert at_the_posterior == pytest.approx(-1.0, rel=1e-3)
