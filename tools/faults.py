"""The faults that tools/plant_faults.py plants: what students and refactorings get wrong.

Each is a replacement of text that occurs exactly once: in the file for the library, in all code
cells together for a chapter. So a change to the code that touches a fault is noticed at once.

For a fault in the library, the chapters are those expected to notice, the quickest first. Faults
that change no result (a test of `x > 0.5` made `x >= 0.5` where no pixel is 0.5) have no place here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One mistake: `old` becomes `new` in `file`, and `chapters` are to notice it."""

    name: str
    file: str
    old: str
    new: str
    chapters: tuple[int, ...]


CHAPTERS = {
    1: "01_data",
    2: "02_architecture",
    3: "03_elbo",
    4: "04_training",
    5: "05_latent_space",
    6: "06_generation",
}


def library(module: str, *lines: tuple[str, str, str, str]) -> list[Fault]:
    """Faults in a module: (chapters, such as "1 3"; name; old text; new text) for each."""
    return [
        Fault(name, f"vae_lib/{module}.py", old, new, tuple(map(int, chapters.split())))
        for chapters, name, old, new in lines
    ]


def chapter(number: int, *lines: tuple[str, str, str]) -> list[Fault]:
    """Faults in a chapter's code cells: (name; old text; new text) for each."""
    file = f"book/{CHAPTERS[number]}.ipynb"
    return [Fault(name, file, old, new, (number,)) for name, old, new in lines]


OBJECTIVES = library(
    "objectives",
    ("1", "log-likelihood averaged over the pixels, not summed",
     'reduction="none").sum(dim=1)', 'reduction="none").mean(dim=1)'),
    ("2", "sigmoid taken before a function that takes logits",
     "binary_cross_entropy_with_logits(logits, x,",
     "binary_cross_entropy_with_logits(logits.sigmoid(), x,"),
    ("3", "KL term added to the bound, not subtracted",
     "return log_likelihood - beta * kl", "return log_likelihood + beta * kl"),
    ("3", "β too large by 1 %",
     "return log_likelihood - beta * kl", "return log_likelihood - 1.01 * beta * kl"),
    ("3", "β ignored",
     "return log_likelihood - beta * kl", "return log_likelihood - kl"),
    ("2", "KL without the half",
     "return 0.5 * (mu.square() + of_scale)", "return (mu.square() + of_scale)"),
    ("2", "KL averaged over the latent dimensions, not summed",
     "(mu.square() + of_scale).sum(dim=1)", "(mu.square() + of_scale).mean(dim=1)"),
    ("2 3", "KL reads log σ² as log σ",
     "(torch.expm1(log_var) - log_var)", "(torch.expm1(2 * log_var) - 2 * log_var)"),
    ("2", "KL without the −1", "torch.expm1(log_var)", "torch.exp(log_var)"),
    ("2 3", "KL in the other direction",
     "return 0.5 * (mu.square() + of_scale)",
     "return 0.5 * (log_var + (1 + mu.square()) / log_var.exp() - 1)"),
    ("3", "IWAE without the −log k",
     "return log_mean - math.log(num_samples)", "return log_mean"),
    ("3", "IWAE as the mean of the logs",
     "torch.logaddexp(log_mean, log_weight.logsumexp(dim=0))",
     "torch.logaddexp(log_mean, log_weight.mean(dim=0) + math.log(k))"),
    ("3", "IWAE without the prior in its weights",
     "(noise.square() + log_var - z.square())", "(noise.square() + log_var)"),
    ("3", "IWAE samples with the variance for the scale",
     "z = mu + torch.exp(0.5 * log_var) * noise", "z = mu + torch.exp(log_var) * noise"),
)  # fmt: skip

MODELS = library(
    "models",
    ("2", "reparameterisation with exp(log σ²) for the scale",
     "scale = torch.exp(0.5 * log_var)", "scale = torch.exp(log_var)"),
    ("2", "reparameterisation without noise", "return mu + scale * noise", "return mu"),
    ("2", "the encoder's two heads swapped",
     "return self.mu(h), self.log_var(h)", "return self.log_var(h), self.mu(h)"),
    ("2", "the encoder's second activation left out",
     "ACTIVATIONS[activation](),\n        )\n        self.mu", ")\n        self.mu"),
    ("2", "GELU for SiLU", '"silu": nn.SiLU,', '"silu": nn.GELU,'),
    ("4", "decoder's start at the mean itself, not at its logit",
     "torch.logit(mean.clamp(0.01, 0.99))", "mean.clamp(0.01, 0.99)"),
    ("4", "mean image clamped at 0.001",
     "mean.clamp(0.01, 0.99)", "mean.clamp(0.001, 0.999)"),
    ("4", "LeakyReLU with PyTorch's slope, 0.01", "nn.LeakyReLU(0.2)", "nn.LeakyReLU(0.01)"),
    ("2", "initial weights twice as wide", "bound = num_in**-0.5", "bound = 2 * num_in**-0.5"),
    ("2", "sampling without the sigmoid",
     "probabilities = self.decode(z).sigmoid()", "probabilities = self.decode(z)"),
    ("2", "sampling with the sigmoid twice",
     "self.decode(z).sigmoid()", "self.decode(z).sigmoid().sigmoid()"),
    ("6", "sampling from a prior of scale 2",
     "z = standard_normal((n, self.latent_dim)", "z = 2 * standard_normal((n, self.latent_dim)"),
    ("6", "sampled pixels inverted",
     "(threshold.to(weight.device) < probabilities)",
     "(threshold.to(weight.device) > probabilities)"),
    ("6", "sampled pixels thresholded, not drawn",
     "(threshold.to(weight.device) < probabilities)", "(0.5 < probabilities)"),
)  # fmt: skip

EVALUATION = library(
    "evaluation",
    ("5", "standard error without the square root", "/ math.sqrt(len(x)) for", "/ len(x) for"),
    ("5 3", "standard error with n for n − 1", "value.std().item()",
     "value.std(correction=0).item()"),
    ("5", "median over the images for the mean", "value.mean().item()", "value.median().item()"),
    ("3", "the sum over several draws not divided by their number",
     "reconstruction.append(total / num_samples)", "reconstruction.append(total)"),
    ("3", "the evaluation's seed ignored",
     'stream("evaluation", seed)', 'stream("evaluation")'),
    ("5", "KL subtracted from the reconstruction term",
     "values = (reconstruction + kl,", "values = (reconstruction - kl,"),
    ("5", "reconstruction and KL swapped in the result",
     "values = (reconstruction + kl, reconstruction, kl)",
     "values = (reconstruction + kl, kl, reconstruction)"),
    ("3", "quadrature with the side of a cell for its area",
     "vae.latent_dim * math.log(spacing)", "math.log(spacing)"),
    ("3", "quadrature with a prior that is not normalised",
     "(chunk.square() + math.log(2 * math.pi))", "chunk.square()"),
    ("3", "quadrature with the prior's half missing", "-0.5 * (chunk", "-1.0 * (chunk"),
    ("3", "quadrature that drops points which still matter", "> 1e-12", "> 1e-2"),
)  # fmt: skip

TRAINING = library(
    "training",
    ("4", "another seed", "BOOK_SEED = 3", "BOOK_SEED = 4"),
    ("4", "an epoch fewer", "epochs: int = 10", "epochs: int = 9"),
    ("4", "batches of 128, not 125", "batch_size: int = 125", "batch_size: int = 128"),
    ("4", "learning rate too small by 10 %", "float = 2e-3", "float = 1.8e-3"),
    ("4", "Adam's betas swapped", "= (0.9, 0.999)", "= (0.999, 0.9)"),
    ("4", "Adam's second beta 0.99", "= (0.9, 0.999)", "= (0.9, 0.99)"),
    ("4", "no start at the mean image", '"silu", "mean_start": True', '"silu", "mean_start": False'),
    ("4", "Adam's ε at PyTorch's value", "epsilon: float = 1e-5", "epsilon: float = 1e-8"),
    ("4", "the encoder's two rates swapped", "= (0.33, 0.13)", "= (0.13, 0.33)"),
    ("4", "one learning rate for all weights",
     'group["lr"] = group["share"] * rates[step]', 'group["lr"] = rates[step]'),
    ("4", "no warm-up", '200 if schedule == "linear" else 0', "0"),
    ("4", "no decay of the rate", "return peak * min(warmup, decay)", "return peak * warmup"),
    ("4", "the decay one step early", "(num_steps - step)", "(num_steps - step - 1)"),
    ("4", "the warm-up one step late", "(step + 1) / warmup_steps", "step / warmup_steps"),
    ("4", "images not shuffled", "shuffle: bool = True", "shuffle: bool = False"),
    ("4", "the same order in every epoch",
     "torch.randperm(n, generator=order_stream)",
     'torch.randperm(n, generator=stream("order", seed))'),
    ("4", "the same noise in every epoch",
     "vae.latent_dim), noise_stream", 'vae.latent_dim), stream("noise", seed)'),
    ("4", "loss summed over the batch", 'reduction: str = "mean"', 'reduction: str = "sum"'),
    ("4", "gradients not reset", "                optimizer.zero_grad()\n", ""),
    ("4", "trained with β too large by 1 %",
     "beta: float = 1.0,\n    seed", "beta: float = 1.01,\n    seed"),
    ("4", "the model's initial weights not drawn from the seed",
     'stream("initialization", seed)', 'stream("initialization")'),
    ("4", "KL and reconstruction swapped in the history",
     "(reconstruction.mean(), kl.mean())", "(kl.mean(), reconstruction.mean())"),
    ("4", "the last, smaller batch counted like a full one",
     "n - batch_size * (steps_per_epoch - 1)", "batch_size"),
    ("4", "validated on the training images",
     "evaluate(vae, validation_images, seed=seed)", "evaluate(vae, x, seed=seed)"),
    ("4", "the noise not restored when a run is resumed",
     '            noise_stream.set_state(saved["noise_stream"])\n', ""),
    ("4", "the original setting's rate too large by 10 %",
     '"learning_rate": 1e-3', '"learning_rate": 1.1e-3'),
    ("4", "the original setting with another second beta",
     '"betas": (0.9, 0.999)', '"betas": (0.9, 0.99)'),
    ("4", "the original setting shuffled", '"shuffle": False', '"shuffle": True'),
)  # fmt: skip

TRAINED = library(
    "trained",
    ("5", "reference weights never loaded", ".dtype).load_state_dict(tensors)", ".dtype)"),
    ("5 4", "reference weights rounded to half precision",
     "file.get_tensor(name)", "file.get_tensor(name).half().float()"),
)  # fmt: skip

DATA = library(
    "data",
    ("1", "labels shifted by one",
     "labels.to(torch.int64)", "(labels.to(torch.int64) + 1) % 10"),
    ("1", "training and test images swapped",
     'train=split("train"), test=split("t10k")', 'train=split("t10k"), test=split("train")'),
    ("1", "images transposed",
     'torch.from_numpy(arrays[f"{prefix}-images-idx3-ubyte"])',
     'torch.from_numpy(arrays[f"{prefix}-images-idx3-ubyte"]).transpose(1, 2)'),
    ("1", "held-out images left among the training images",
     "order[num_held_out:].sort()", "order[:-num_held_out].sort()"),
    ("1 4", "the first images held out, not random ones",
     'torch.randperm(len(split), generator=stream("hold-out", seed))', "torch.arange(len(split))"),
    ("1 4", "labels not split along with their images",
     "Split(split.images[kept], split.labels[kept])",
     "Split(split.images[kept], split.labels[: len(kept)])"),
    ("1", "binarisation threshold 0.4", "(x > 0.5)", "(x > 0.4)"),
    ("1", "static binarisation from another stream",
     'stream("static binarization")', 'stream("static binarization", 1)'),
    ("1", "binarised pixels inverted", "(u.to(x.device) < x)", "(u.to(x.device) > x)"),
)  # fmt: skip

CHECKS = library(
    "checks",
    ("1", "pixels divided by 256, not 255", "div_(255)", "div_(256)"),
)  # fmt: skip

PLOTTING = library(
    "plotting",
    ("1", "colour map reversed", '"image.cmap": "gray"', '"image.cmap": "gray_r"'),
    ("1", "images drawn transposed", "pixels[i].numpy()", "pixels[i].T.numpy()"),
    ("2", "each image stretched to its own range of grey",
     "pixels[i].numpy(), vmin=0, vmax=1", "pixels[i].numpy()"),
    ("1 5", "scatter plot's axes swapped",
     "ax.scatter(*points.T, color", "ax.scatter(*points.T.flip(0), color"),
    ("1", "scatter plot's colours in reverse", "enumerate(DIGIT_COLOURS)",
     "enumerate(DIGIT_COLOURS[::-1])"),
    ("1", "digits written at the mean, not the median",
     "points.median(dim=0).values", "points.mean(dim=0)"),
    ("5", "scatter plot's axis labels swapped",
     'xlabel="latent dimension $z_1$", ylabel="latent dimension $z_2$", aspect',
     'xlabel="latent dimension $z_2$", ylabel="latent dimension $z_1$", aspect'),
    ("6", "latent grid upside down", "torch.meshgrid(axis.flip(0), axis",
     "torch.meshgrid(axis, axis"),
    ("6", "latent grid's tick labels upside down", "texts[::-1]", "texts"),
    ("6", "latent grid transposed", "torch.stack((columns, rows)", "torch.stack((rows, columns)"),
    ("6", "latent grid of logits, without the sigmoid", ".sigmoid().cpu()", ".cpu()"),
    ("6", "evenly spaced points for the inverse CDF",
     "torch.special.ndtri(probabilities)", "torch.linspace(-half_width, half_width, steps)"),
    ("6", "quantiles at the wrong probabilities",
     "(torch.arange(steps) + 0.5) / steps", "(torch.arange(steps) + 1) / (steps + 1)"),
    ("4", "training curves that count epochs from 0",
     "torch.arange(1, len(history.epochs) + 1)", "torch.arange(len(history.epochs))"),
    ("4", "reconstruction drawn as the KL term", '(middle, "kl",', '(middle, "reconstruction",'),
    ("4", "the training curve drawn again as validation",
     "getattr(history.validation, term)", "getattr(history.epochs, term)"),
)  # fmt: skip

RUNTIME = library(
    "runtime",
    ("2 3", "noise drawn from [0, 1), not from the normal distribution",
     "noise = torch.randn(", "noise = torch.rand("),
    ("2 1", "the seed has no effect", '{name}/{seed}".encode', '{name}".encode'),
    ("2 1", "all streams of a seed the same", '{name}/{seed}".encode', '{seed}".encode'),
)  # fmt: skip

REPORTING = library(
    "reporting",
    ("1", "agreement only with what is below the expected value",
     "deviation = abs(value - expected)", "deviation = value - expected"),
    ("1", "a result that differs is said to agree",
     "elif deviation <= tolerance + slack:", "elif deviation > tolerance + slack:"),
    ("1", "a result printed to a digit too few",
     'max(0, (0 if mantissa.endswith("0") else 1) - int(exponent))',
     'max(0, (0 if mantissa.endswith("0") else 1) - int(exponent) - 1)'),
)  # fmt: skip

CHAPTER_1 = chapter(
    1,
    ("rows counted from 1", "torch.arange(28)).sum", "torch.arange(1, 29)).sum"),
    ("image shown transposed", "ax.imshow(image,", "ax.imshow(image.T,"),
    ("training and test counts swapped",
     'for name in ("train", "test")]', 'for name in ("test", "train")]'),
    ("pixels scaled by 256", "784) / 255", "784) / 256"),
    ("threshold 0.4", "return (x > 0.5).to(x)", "return (x > 0.4).to(x)"),
    ("bits drawn from the wrong side of u", "return (u < x).to(x)", "return (u > x).to(x)"),
    ("linear axis for a logarithmic one", 'ylabel="number of pixels", yscale="log"',
     'ylabel="number of pixels"'),
    ("standard error of the draws without the square root",
     "draws.std().item() / 1000**0.5", "draws.std().item() / 1000"),
    ("another seed for the draws", 'stream("theorem")', 'stream("theorem", 1)'),
    ("spread of the draws from p for x",
     "(x * (1 - x) * torch.logit(p).square())", "(p * (1 - p) * torch.logit(p).square())"),
    ("entropy without its second half",
     "(torch.special.entr(x) + torch.special.entr(1 - x))", "torch.special.entr(x)"),
    ("pixel model fitted to the test images",
     'four_kinds(x_train, "train")', 'four_kinds(x_test, "train")'),
    ("PCA of images that are not centred", "centred = batch.double() - m",
     "centred = batch.double()"),
    ("components of the smallest variance",
     "w = eigenvectors[:, [-1, -2]]", "w = eigenvectors[:, [0, 1]]"),
    ("codes divided by variances, not standard deviations",
     "codes / eigenvalues[[-1, -2]].sqrt()", "codes / eigenvalues[[-1, -2]]"),
    ("mean image forgotten in the reconstruction",
     "drawn = m + codes @ w.T", "drawn = codes @ w.T"),
)  # fmt: skip

CHAPTER_2 = chapter(
    2,
    ("smoothing kernel without the 2 in its exponent", "(2 * sigma**2)", "sigma**2"),
    ("answers normalised over the wrong index",
     "p_received / p_received.sum(dim=0)", "p_received / p_received.sum(dim=1)"),
    ("another seed for the arbitrary order", 'stream("numbering")', 'stream("numbering", 1)'),
    ("ReLU for SiLU in the encoder",
     "h = F.silu(self.hidden1(x))", "h = F.relu(self.hidden1(x))"),
    ("the second hidden layer of the decoder skipped",
     "h = F.silu(self.hidden2(h))\n        return self.logits(h)", "return self.logits(h)"),
    ("exp(log σ²) for the scale",
     "scale = torch.exp(0.5 * log_var)\n    return", "scale = torch.exp(log_var)\n    return"),
    ("noise added without its scale", "return mu + scale * noise", "return mu + noise"),
    ("score function multiplied by z for ε", "z.square() * noise", "z.square() * z"),
    ("variance for the standard deviation in the error",
     "error = draws.std() / len(draws)", "error = draws.var() / len(draws)"),
    ("baseline of the draw itself, without k / (k − 1)",
     "(f - f.mean()) * k / (k - 1)", "(f - f.mean())"),
    ("gradient of the score divided by the variance",
     "noise / torch.exp(0.5 * log_var)", "noise / torch.exp(log_var)"),
    ("derivative drawn with its axes swapped",
     "axes[1].plot(a.detach(), slope,", "axes[1].plot(slope, a.detach(),"),
    ("sigmoid of a sigmoid", "logits[:8].sigmoid()", "logits[:8].sigmoid().sigmoid()"),
    ("KL term summed over the images",
     "{kl_to_standard_normal(mu, log_var).mean()", "{kl_to_standard_normal(mu, log_var).sum()"),
)  # fmt: skip

CHAPTER_3 = chapter(
    3,
    ("toy posterior with its variance for its scale",
     "s / (w**2 + s**2).sqrt())", "s**2 / (w**2 + s**2))"),
    ("ratio of the scales upside down",
     "torch.log(scale_p / scale_q)", "torch.log(scale_q / scale_p)"),
    ("KL divided by the wrong variance", "(2 * scale_p**2)", "(2 * scale_q**2)"),
    ("KL without the half", "return 0.5 * (mu**2", "return (mu**2"),
    ("KL reads log σ² as log σ", "log_var.exp() - 1 - log_var)",
     "(2 * log_var).exp() - 1 - 2 * log_var)"),
    ("standard error without the square root",
     "samples.std() / math.sqrt(len(samples))", "samples.std() / len(samples)"),
    ("divergences drawn with their arguments swapped",
     "kl_gaussians(0, one, 0, sigma)", "kl_gaussians(0, sigma, 0, one)"),
    ("forward KL with its sign reversed", "(p * (p.log() - log_q))", "(p * (log_q - p.log()))"),
    ("toy likelihood without its normalising constant",
     "-0.5 * torch.log(2 * math.pi * s**2) - squared_error", "-squared_error"),
    ("log-likelihood averaged over the pixels",
     "(x * logits - softplus(logits)).sum(dim=1)", "(x * logits - softplus(logits)).mean(dim=1)"),
    ("KL term added in the ELBO",
     "logits) - beta * kl", "logits) + beta * kl"),
    ("quadrature weight of one dimension for two",
     "(axis[1] - axis[0]) ** 2", "(axis[1] - axis[0])"),
    ("the test images evaluated in part",
     "result = evaluate(vae, test.images)", "result = evaluate(vae, test.images[:9900])"),
    ("sampled posterior's density left out of the weights",
     "(Normal(0.0, 1.0).log_prob(z) - q.log_prob(z))", "Normal(0.0, 1.0).log_prob(z)"),
    ("IWAE as the mean of the logs",
     "logsumexp(dim=1) - math.log(k)  #", "mean(dim=1)  #"),
    ("standard error with n for n − 1", "groups.std(dim=0)", "groups.std(dim=0, correction=0)"),
    ("prior samples without the −log n",
     "log_likelihood.logsumexp(dim=1) - math.log(1000)", "log_likelihood.logsumexp(dim=1)"),
    ("posteriors drawn with their axes swapped",
     "axis.contourf(z1, z2, log_post", "axis.contourf(z2, z1, log_post"),
)  # fmt: skip

CHAPTER_4 = chapter(
    4,
    ("Adam's rate too large by 10 %", "lr=1e-4, betas", "lr=1.1e-4, betas"),
    ("warm-up from zero", "(step + 1) / warmup_steps", "step / warmup_steps"),
    ("decay that counts the warm-up", "/ (num_steps - warmup_steps)", "/ num_steps"),
    ("three curves of the rate without their shares", "share * rates,", "rates,"),
    ("shares in the wrong order where they are used",
     "shares=(0.33, 0.13, 1.0), epsilon", "shares=(0.13, 0.33, 1.0), epsilon"),
    ("gradients not reset", "            optimizer.zero_grad()\n            loss", "            loss"),
    ("Adam's betas swapped", "betas=(0.9, 0.999), eps=epsilon", "betas=(0.999, 0.9), eps=epsilon"),
    ("another seed", "epsilon=1e-5, seed=3", "epsilon=1e-5, seed=4"),
    ("the learning rate not passed on", '            for group in optimizer.param_groups:\n'
     '                group["lr"] = group["share"] * rate\n', ""),
    ("columns of the table swapped",
     "zip(epochs.loss, epochs.reconstruction, epochs.kl)",
     "zip(epochs.loss, epochs.kl, epochs.reconstruction)"),
    ("test result of the training images",
     "test = evaluate(model, mnist.test.images)", "test = evaluate(model, mnist.train.images)"),
    ("correction the wrong way round", "59_900 / 60_000", "60_000 / 59_900"),
    ("twins eight times as far apart", "2**-23 *", "2**-20 *"),
    ("two curves exchanged", 'plt.semilogy(at, one_rate, "--"',
     'plt.semilogy(at, slower_encoder, "--"'),
    ("layers' differences not made relative",
     "((ours - theirs).norm() / theirs.norm()).item()\n            for",
     "(ours - theirs).norm().item()\n            for"),
    ("gradients' difference not divided by that of the weights",
     "\n        / (weights[0] - weights[1]).norm()", ""),
    ("gradients of the images averaged over the pixels", "noise=noise)).sum()\n    return",
     "noise=noise)).sum() / 784\n    return"),
    ("the least sensitive images for the most", "argsort(descending=True)", "argsort()"),
    ("the falling rate left out", '("original", {"schedule": "linear"})', '("original", {})'),
    ("trained on the images held out",
     "small_vae, kept.images[:1000]", "small_vae, held_out.images[:1000]"),
    ("an epoch fewer", "epochs=40, batch_size=50", "epochs=39, batch_size=50"),
    ("learning rates too large by 10 %", "learning_rate=rate,", "learning_rate=1.1 * rate,"),
)  # fmt: skip

CHAPTER_5 = chapter(
    5,
    ("mean and log variance swapped",
     "return torch.cat(mu), torch.cat(log_var)", "return torch.cat(log_var), torch.cat(mu)"),
    ("scatter plot's axes swapped", "ax.scatter(*points.T,", "ax.scatter(*points.T.flip(0),"),
    ("class means for medians",
     "mu[labels == digit].median(dim=0).values", "mu[labels == digit].mean(dim=0)"),
    ("training set compared with itself",
     "class_medians(mu_test, mnist.test.labels)", "class_medians(mu_train, mnist.train.labels)"),
    ("aggregate covariance from scales, not variances",
     "log_var_train.exp().mean(dim=0)", "(0.5 * log_var_train).exp().mean(dim=0)"),
    ("histogram's axes swapped", "ax.hist2d(*z.T.numpy(),", "ax.hist2d(*z.T.flip(0).numpy(),"),
    ("histogram's colours reversed", 'bins=80, range=[[-4.5, 4.5]] * 2, cmap="Greys"',
     'bins=80, range=[[-4.5, 4.5]] * 2, cmap="Greys_r"'),
    ("radius density without its Jacobian",
     "plt.plot(r, r * torch.exp(-r**2 / 2),", "plt.plot(r, torch.exp(-r**2 / 2),"),
    ("shares of the means for those of the samples",
     "(z.norm(dim=1) > R)", "(mu_train.norm(dim=1) > R)"),
    ("aggregate posterior without the −log n",
     "log_q.logsumexp(dim=1) - math.log(len(mu))", "log_q.logsumexp(dim=1)"),
    ("aggregate posterior without the widths' part",
     "        log_q -= 0.5 * log_var[:, j]\n", ""),
    ("standard error without the square root", "/ math.sqrt(1000)", "/ 1000"),
    ("exp(log σ²) for the scale",
     "sigma = torch.exp(0.5 * log_var_test)", "sigma = torch.exp(log_var_test)"),
    ("ellipses of half the size", "(4 * sigma[n])", "(2 * sigma[n])"),
    ("one neighbour fewer", "k=15, chunk_size=500", "k=14, chunk_size=500"),
    ("90 % interval called one of 95 %", "c=1.96", "c=1.645"),
    ("PCA of images that are not centred", "centred = x_train - mean_image", "centred = x_train"),
    ("test images among the neighbours",
     "neighbour_votes(pca_test, pca_train, train_labels), test_labels)",
     "neighbour_votes(pca_test, pca_test, test_labels), test_labels)"),
    ("confusion matrix transposed", "(test_labels, predicted)", "(predicted, test_labels)"),
    ("confusion in percent of the votes, not of the digit",
     "confusion.sum(dim=1, keepdim=True)", "confusion.sum(dim=0, keepdim=True)"),
    ("end points of the lines swapped",
     "(1 - t) * medians[a] + t * medians[b]", "t * medians[a] + (1 - t) * medians[b]"),
    ("noise of the squared scale", "(x + s * noise)", "(x + s**2 * noise)"),
)  # fmt: skip

CHAPTER_6 = chapter(
    6,
    ("sigmoid missing", "probabilities = logits.sigmoid()", "probabilities = logits"),
    ("sigmoid twice", "probabilities = logits.sigmoid()",
     "probabilities = logits.sigmoid().sigmoid()"),
    ("prior of scale 2",
     "z = torch.randn(10, vae.latent_dim,", "z = 2 * torch.randn(10, vae.latent_dim,"),
    ("edges counted in one direction", "(across + down)", "across"),
    ("pixels of the samples thresholded, not drawn",
     'binarize(probabilities, "dynamic", generator=stream("sampled pixels"))',
     'binarize(probabilities, "threshold")'),
    ("weights without the widths' part",
     "(-0.5 * (squared + log_var_train).sum(dim=1))", "(-0.5 * squared.sum(dim=1))"),
    ("pixels clipped at 0.001 for 0.01", "eps=0.01", "eps=0.001"),
    ("mosaic upside down", "torch.meshgrid(axis.flip(0), axis", "torch.meshgrid(axis, axis"),
    ("mosaic transposed", "torch.stack((z1, z2)", "torch.stack((z2, z1)"),
    ("the prior's mass on a line for that on a square",
     "math.erf(a / math.sqrt(2)) ** 2", "math.erf(a / math.sqrt(2))"),
    ("evenly spaced points for the inverse CDF",
     "torch.special.ndtri((torch.arange(10) + 0.5) / 10)", "torch.linspace(-3, 3, 10)"),
    ("end points of the straight line swapped",
     "return (1 - t) * a + t * b", "return t * a + (1 - t) * b"),
    ("arc not divided by sin θ", "/ torch.sin(theta)", "/ 1"),
    ("midpoint scaled to the norm of its ends", "((a + b) / 2)", "((a + b) / math.sqrt(2))"),
    ("distance not the root of the square", "squared.clamp(min=0).sqrt()", "squared.clamp(min=0)"),
    ("binomial formula without its 2", "- 2 * part @ x_train.T", "- part @ x_train.T"),
    ("reconstructions from the means, without noise",
     'z = vae.reparameterize(*vae.encode(x), generator=stream("codes"))',
     "z = vae.encode(x)[0]"),
    ("bars of one kind over those of another", "0.27 * (k - 1)", "0.27 * k"),
    ("ratio to the third nearest image",
     "d / distances[name][:, 1]", "d / distances[name][:, 2]"),
)  # fmt: skip

FAULTS: tuple[Fault, ...] = (
    *OBJECTIVES, *MODELS, *EVALUATION, *TRAINING, *TRAINED, *DATA, *CHECKS, *PLOTTING, *RUNTIME,
    *REPORTING,
    *CHAPTER_1, *CHAPTER_2, *CHAPTER_3, *CHAPTER_4, *CHAPTER_5, *CHAPTER_6,
)  # fmt: skip
