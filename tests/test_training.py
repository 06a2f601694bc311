"""`fit` does what chapter 4 says, again and again, and picks up where it was cut off."""

import inspect
import io
import math
import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vae_lib
from vae_lib import (
    VAE,
    evaluate,
    fit,
    learning_rate_at,
    start_at_mean_image,
    stream,
    train,
    trained_vae,
    training,
)

IMAGES = torch.randint(0, 256, (50, 28, 28), generator=stream("images")).to(torch.uint8)
SHORT = {"epochs": 3, "batch_size": 20, "warmup_steps": 2, "progress": False}
NAN = math.nan


def small_vae(dtype=torch.float32):
    return VAE(hidden_dim=8, generator=stream("small")).to(dtype)


def weights_of(vae):
    return {name: value.clone() for name, value in vae.state_dict().items()}


def assert_same_weights(first, second):
    first, second = (w if isinstance(w, dict) else weights_of(w) for w in (first, second))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def assert_same_history(first, second):
    for curves in ("steps", "epochs", "validation"):
        ours, theirs = getattr(first, curves), getattr(second, curves)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            for name, values in vars(ours).items():
                assert torch.equal(values, getattr(theirs, name)), f"{curves}.{name}"


def run_python(script, *arguments):
    """Run `script` in a process of its own, which may be killed."""
    header = f"""
import sys, torch
from vae_lib import VAE, fit, stream
images = torch.randint(0, 256, (50, 28, 28), generator=stream("images")).to(torch.uint8)
vae = VAE(hidden_dim=8, generator=stream("small"))
short = {SHORT}
"""
    return subprocess.run(
        [sys.executable, "-c", header + inspect.cleandoc(script), *map(str, arguments)],
        cwd=Path(vae_lib.__file__).parents[1], capture_output=True, text=True, timeout=300,
    )  # fmt: skip


class TestLearningRate:
    @pytest.mark.parametrize(
        ("num_steps", "warmup_steps", "schedule", "expected"),
        [
            (10, 4, "linear", [1/4, 1/2, 3/4, 1, 1, 5/6, 4/6, 3/6, 2/6, 1/6]),
            (4, 0, "linear", [1, 3/4, 2/4, 1/4]),
            (3, 5, "linear", [1/5, 2/5, 3/5]),
            (1, 0, "linear", [1]),
            (1, 1, "linear", [1]),
            (4, 4, "linear", [1/4, 2/4, 3/4, 1]),
            (4, 0, "constant", [1, 1, 1, 1]),
            (4, 2, "constant", [1/2, 1, 1, 1]),
        ],
    )  # fmt: skip
    def test_values_by_hand(self, num_steps, warmup_steps, schedule, expected):
        rates = [
            learning_rate_at(step, num_steps, 0.002, warmup_steps, schedule)
            for step in range(num_steps)
        ]
        assert rates == pytest.approx([0.002 * share for share in expected], rel=1e-12)

    @given(st.integers(1, 300), st.integers(0, 400), st.sampled_from(["linear", "constant"]))
    def test_it_rises_then_falls_and_is_never_zero(self, num_steps, warmup_steps, schedule):
        rates = [
            learning_rate_at(step, num_steps, 1.0, warmup_steps, schedule)
            for step in range(num_steps)
        ]
        top = rates.index(max(rates))
        assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:])[::-1]
        assert min(rates) > 0 and max(rates) <= 1
        assert max(rates) == 1 or warmup_steps > num_steps

    def test_the_optimiser_uses_it(self):
        # Adam's first step moves every weight with a gradient by the rate, whatever the gradient.
        vae, before = small_vae(), weights_of(small_vae())
        fit(vae, IMAGES, epochs=1, batch_size=50, learning_rate=0.01, warmup_steps=4, epsilon=1e-12,
            encoder_rates=(0.5, 0.2), progress=False)  # fmt: skip
        for name, value in before.items():
            share = 1.0 if "decoder" in name else 0.5 if "hidden" in name else 0.2
            moved = (vae.state_dict()[name] - value).abs().max().item()
            assert moved == pytest.approx(0.0025 * share, rel=0.01), name


def by_hand(
    vae, images, *, epochs, batch_size, learning_rate, betas, epsilon, encoder_rates, schedule,
    warmup_steps, shuffle, reduction, beta, seed,
):  # fmt: skip
    """The training that `fit` promises, written out without its machinery; returns the terms."""
    x = (images.float() / 255).view(len(images), 784).double()
    order_stream, noise_stream = stream("order", seed), stream("noise", seed)
    shares = {"encoder.hidden": encoder_rates[0], "encoder": encoder_rates[1], "decoder": 1.0}
    optimizers = []  # one for each weight: they must not know of one another
    for name, weight in vae.named_parameters():
        share = next(share for start, share in shares.items() if name.startswith(start))
        optimizers.append((share, torch.optim.Adam([weight], betas=betas, eps=epsilon)))
    num_steps, terms = epochs * math.ceil(len(x) / batch_size), []
    for _ in range(epochs):
        order = range(len(x))
        if shuffle:
            order = torch.randperm(len(x), generator=order_stream).tolist()
        noise = torch.randn(len(x), 2, generator=noise_stream).double()
        for start in range(0, len(x), batch_size):
            batch = x[list(order[start : start + batch_size])]
            mu, log_var = vae.encode(batch)
            z = mu + (log_var / 2).exp() * noise[start : start + batch_size]
            p = vae.decode(z).sigmoid()
            reconstruction = -(batch * p.log() + (1 - batch) * (1 - p).log()).sum(1)
            kl = 0.5 * (mu**2 + log_var.exp() - 1 - log_var).sum(1)
            loss = reconstruction + beta * kl
            rate = learning_rate_at(len(terms), num_steps, learning_rate, warmup_steps, schedule)
            vae.zero_grad()
            (loss.sum() if reduction == "sum" else loss.mean()).backward()
            for share, optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = share * rate
                optimizer.step()
            terms.append((reconstruction.mean().item(), kl.mean().item()))
    return torch.tensor(terms)


RECIPE = {
    "epochs": 2, "batch_size": 20, "learning_rate": 2e-3, "betas": (0.9, 0.99),
    "epsilon": 1e-5, "encoder_rates": (0.33, 0.13),
    "schedule": "linear", "warmup_steps": 2, "shuffle": True, "reduction": "mean", "beta": 1.0,
    "seed": 0,
}  # fmt: skip


class TestTheLoop:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"epochs": 1},
            {"epochs": 5, "batch_size": 7},
            {"batch_size": 50},
            {"batch_size": 1000},
            {"schedule": "constant", "warmup_steps": 0},
            {"shuffle": False},
            {"reduction": "sum"},
            {"beta": 0},
            {"beta": 3.5},
            {"betas": (0.5, 0.95)},
            {"betas": [0.0, 0.0]},
            {"learning_rate": 1e-2},
            {"epsilon": 1e-8},
            {"epsilon": 0.1},
            {"encoder_rates": (1.0, 1.0)},
            {"encoder_rates": [0, 2.5]},
            {"seed": 7},
        ],
        ids=str,
    )
    def test_it_is_the_plain_loop(self, changes):
        ours, theirs, recipe = small_vae(torch.float64), small_vae(torch.float64), RECIPE | changes
        history = fit(ours, IMAGES, progress=False, **recipe)
        terms = by_hand(theirs, IMAGES, **recipe)
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-7, atol=1e-9)
        recorded = torch.stack((history.steps.reconstruction, history.steps.kl), dim=1)
        torch.testing.assert_close(recorded, terms, rtol=1e-6, atol=1e-6)

    def test_one_image(self):
        vae, before = small_vae(), weights_of(small_vae())
        history = fit(vae, IMAGES[:1], epochs=2, progress=False)
        assert len(history.steps) == len(history.epochs) == 2
        assert all(not torch.equal(vae.state_dict()[name], value) for name, value in before.items())

    def test_one_image_at_a_time(self):
        assert len(fit(small_vae(), IMAGES[:2], epochs=1, batch_size=1, progress=False).steps) == 2

    def test_bytes_and_pixels_are_the_same(self):
        results = []
        for images in (IMAGES, IMAGES.view(50, 784), IMAGES / 255, IMAGES.view(50, 784) / 255):
            results.append(small_vae())
            fit(results[-1], images, **SHORT)
        for vae in results[1:]:
            assert_same_weights(results[0], vae)

    def test_the_images_stay_as_they_are(self):
        pixels = IMAGES / 255
        before = pixels.clone()
        fit(small_vae(), pixels, **SHORT)
        assert torch.equal(pixels, before) and pixels.grad is None

    def test_the_same_call_gives_the_same_weights_and_another_seed_does_not(self):
        first, second, third = small_vae(), small_vae(), small_vae()
        torch.manual_seed(1)
        history = fit(first, IMAGES, **SHORT)
        torch.manual_seed(2)
        before = torch.get_rng_state()
        assert_same_history(history, fit(second, IMAGES, **SHORT))
        assert torch.equal(torch.get_rng_state(), before)
        assert_same_weights(first, second)
        fit(third, IMAGES, seed=training.BOOK_SEED + 1, **SHORT)
        with pytest.raises(AssertionError):
            assert_same_weights(first, third)

    def test_without_shuffling_the_seed_still_decides_the_noise(self):
        recipe = SHORT | {"shuffle": False}
        first, second = (fit(small_vae(), IMAGES, seed=seed, **recipe) for seed in (0, 1))
        assert not torch.equal(first.steps.loss, second.steps.loss)

    def test_it_learns(self):
        vae, dark = small_vae(), IMAGES // 4
        before = evaluate(vae, dark).negative_elbo
        history = fit(vae, dark, epochs=60, learning_rate=1e-2, warmup_steps=0, progress=False)
        after = evaluate(vae, dark).negative_elbo
        assert after < before - 100
        assert history.epochs.loss[-1].item() == pytest.approx(after, abs=5)

    def test_the_precision_is_full_inside_and_as_before_afterwards(self, monkeypatch):
        seen, before = [], torch.get_float32_matmul_precision()
        real = training.kl_to_standard_normal

        def watched(*terms):
            seen.append(torch.get_float32_matmul_precision())
            return real(*terms)

        monkeypatch.setattr(training, "kl_to_standard_normal", watched)
        try:
            torch.set_float32_matmul_precision("medium")
            fit(small_vae(), IMAGES, **SHORT)
            assert set(seen) == {"highest"} and torch.get_float32_matmul_precision() == "medium"
        finally:
            torch.set_float32_matmul_precision(before)

    def test_the_images_values_are_read_once_and_not_at_every_step(self, monkeypatch):
        calls, real = [], torch.aminmax
        monkeypatch.setattr(torch, "aminmax", lambda x: calls.append(x.shape) or real(x))
        fit(small_vae(), IMAGES / 255, **SHORT)
        assert calls == [(50, 784)]


class TestTrain:
    def test_the_default_is_the_recipe_from_the_book_s_start(self):
        vae, history = train(IMAGES, epochs=1, progress=False)
        expected = VAE(activation="silu", generator=stream("initialization", training.BOOK_SEED))
        start_at_mean_image(expected, IMAGES)
        assert_same_history(history, fit(expected, IMAGES, epochs=1, progress=False))
        assert_same_weights(vae, expected)
        # 200 steps of warm-up: in the first, a two-hundredth of the peak.
        peak = inspect.signature(fit).parameters["learning_rate"].default
        assert history.steps.learning_rate[0].item() == pytest.approx(peak / 200)

    def test_the_recipe_is_the_one_behind_the_reference_weights(self):
        # To change it is to train these anew: see CONTRIBUTING.md.
        parameters = inspect.signature(fit).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        assert defaults == {
            "epochs": 10, "batch_size": 125, "learning_rate": 2e-3, "betas": (0.9, 0.999),
            "epsilon": 1e-5, "encoder_rates": (0.33, 0.13), "schedule": "linear",
            "warmup_steps": None, "shuffle": True, "reduction": "mean", "beta": 1.0,
            "seed": training.BOOK_SEED, "validation_images": None, "checkpoint": None,
            "resume": False, "progress": True,
        }  # fmt: skip

    def test_the_reference_weights_began_at_the_book_s_start(self):
        # The corner of an image is always black, so that training never moves what reads it.
        start = VAE(generator=stream("initialization", training.BOOK_SEED)).encoder.hidden[0].weight
        assert torch.equal(trained_vae().encoder.hidden[0].weight[:, 0], start[:, 0])

    def test_the_original_s_setting(self):
        vae, history = train(IMAGES, "original", epochs=1, progress=False)
        expected = VAE(
            activation="leaky_relu", generator=stream("initialization", training.BOOK_SEED)
        )
        settings = {
            "batch_size": 100, "learning_rate": 1e-3, "betas": (0.9, 0.999), "schedule": "constant",
            "warmup_steps": 0, "shuffle": False, "reduction": "sum", "epsilon": 1e-8,
            "encoder_rates": (1.0, 1.0),
        }  # fmt: skip
        assert_same_history(history, fit(expected, IMAGES, epochs=1, progress=False, **settings))
        assert_same_weights(vae, expected)
        table = {"warmup_steps": 0} | training.SETTINGS["original"]
        assert table == settings | {"activation": "leaky_relu", "mean_start": False}

    def test_changes_and_the_seed(self):
        vae, history = train(
            IMAGES, "original", seed=3, epochs=1, batch_size=10, activation="relu", progress=False
        )
        assert vae.activation == "relu" and len(history.steps) == 5
        again, _ = train(
            IMAGES, "original", seed=3, epochs=1, batch_size=10, activation="relu", progress=False
        )
        assert_same_weights(vae, again)
        assert "activation" in training.SETTINGS["original"]  # the table itself is not used up

    @pytest.mark.parametrize("mean_start", [True, False])
    def test_the_start_at_the_mean_image_is_a_choice(self, mean_start):
        # A rate so small that the biases stay where they were.
        vae, _ = train(IMAGES, mean_start=mean_start, learning_rate=1e-30, epochs=1, progress=False)
        expected = VAE(generator=stream("initialization", training.BOOK_SEED))
        if mean_start:
            start_at_mean_image(expected, IMAGES)
        assert torch.equal(vae.decoder.logits.bias, expected.decoder.logits.bias)
        with pytest.raises(ValueError, match="^mean_start: expected True or False"):
            train(IMAGES, mean_start=1, epochs=1, progress=False)

    def test_an_unknown_argument_is_an_error(self):
        with pytest.raises(TypeError, match="learn_rate"):
            train(IMAGES, learn_rate=1e-3)


class TestHistory:
    def test_an_epoch_is_the_mean_over_its_images(self):
        # Batches of 20, 20 and 10: the last counts half.
        history = fit(small_vae(), IMAGES, beta=2.0, **SHORT)
        assert len(history.steps) == 9 and len(history.epochs) == 3
        for name in ("loss", "reconstruction", "kl"):
            steps = getattr(history.steps, name).view(3, 3)
            expected = steps @ torch.tensor([0.4, 0.4, 0.2])
            torch.testing.assert_close(getattr(history.epochs, name), expected)

    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    def test_the_loss_is_its_two_terms_in_nats_per_image(self, reduction):
        history = fit(small_vae(), IMAGES, beta=2.0, reduction=reduction, **SHORT)
        for curves in (history.steps, history.epochs):
            torch.testing.assert_close(curves.loss, curves.reconstruction + 2.0 * curves.kl)
        assert 400 < history.steps.loss[0] < 700  # about 784 log 2, not 20 times that

    def test_the_learning_rates(self):
        history = fit(small_vae(), IMAGES, learning_rate=0.01, **SHORT)
        rates = [learning_rate_at(step, 9, 0.01, 2, "linear") for step in range(9)]
        torch.testing.assert_close(history.steps.learning_rate, torch.tensor(rates))
        torch.testing.assert_close(history.epochs.learning_rate, torch.tensor(rates[2::3]))

    def test_every_curve_is_a_plain_tensor(self):
        history = fit(small_vae(torch.float64), IMAGES, validation_images=IMAGES[:5], **SHORT)
        for curves, length in (
            (history.steps, 9), (history.epochs, 3), (history.validation, 3),
        ):  # fmt: skip
            assert len(curves) == length
            for values in vars(curves).values():
                assert values.shape == (length,) and values.dtype == torch.float32
                assert values.device.type == "cpu" and not values.requires_grad

    def test_validation_is_evaluate_after_each_epoch(self):
        vae, held_out = small_vae(), IMAGES[40:]
        recipe = SHORT | {"schedule": "constant", "beta": 2.0, "seed": 4}
        history = fit(vae, IMAGES[:40], validation_images=held_out, **recipe)
        # A constant rate does not know how long the run is, so a shorter run is its beginning.
        for epochs in (1, 3):
            shorter = small_vae()
            fit(shorter, IMAGES[:40], **recipe | {"epochs": epochs})
            expected = evaluate(shorter, held_out, seed=4)
            curves, last = history.validation, epochs - 1
            assert curves.reconstruction[last].item() == pytest.approx(expected.reconstruction)
            assert curves.kl[last].item() == pytest.approx(expected.kl)
        torch.testing.assert_close(curves.loss, curves.reconstruction + 2.0 * curves.kl)
        torch.testing.assert_close(curves.learning_rate, history.epochs.learning_rate)

    def test_two_images_are_enough_for_validation(self):
        assert len(fit(small_vae(), IMAGES, validation_images=IMAGES[:2], **SHORT).validation) == 3

    def test_validation_does_not_change_training(self):
        with_it, without = small_vae(), small_vae()
        first = fit(with_it, IMAGES, validation_images=IMAGES[:9], **SHORT)
        second = fit(without, IMAGES, **SHORT)
        assert_same_weights(with_it, without)
        assert torch.equal(first.steps.loss, second.steps.loss)
        assert second.validation is None

    def test_it_prints_its_last_loss(self):
        history = fit(small_vae(), IMAGES, **SHORT)
        loss = f"{history.epochs.loss[-1]:.2f}"
        assert repr(history) == f"History(3 epochs of 3 steps, training loss {loss} nats per image)"

    def test_two_histories_are_two_objects_and_not_compared_entry_by_entry(self):
        first, second = (fit(small_vae(), IMAGES, **SHORT) for _ in range(2))
        assert first == first and first != second and first.steps != second.steps
        # Not even where the entries are the same tensors.
        assert training.Curves(**vars(first.steps)) != first.steps
        assert training.History(**vars(first)) != first

    def test_it_cannot_be_changed(self):
        history = fit(small_vae(), IMAGES, **SHORT)
        for thing, name in ((history, "steps"), (history.steps, "loss")):
            with pytest.raises(AttributeError):
                setattr(thing, name, torch.zeros(9))


class TestProgress:
    def test_the_bar_does_not_change_the_result(self, capsys):
        shown, hidden = small_vae(), small_vae()
        first = fit(shown, IMAGES, **SHORT | {"progress": True})
        captured = capsys.readouterr()
        assert captured.out == "" and "9/9" in captured.err
        second = fit(hidden, IMAGES, **SHORT)
        assert capsys.readouterr() == ("", "")
        assert_same_weights(shown, hidden)
        assert_same_history(first, second)

    def test_the_running_loss(self, capsys, monkeypatch):
        monkeypatch.setattr(training._Bar, "step_done", _every_step(training._Bar.step_done))
        history = fit(small_vae(), IMAGES, beta=2.0, **SHORT | {"progress": True})
        shown = re.findall(r"loss (\d+\.\d+)", capsys.readouterr().err)
        assert float(shown[-1]) == pytest.approx(history.steps.loss.mean().item(), abs=0.006)

    def test_the_running_loss_is_the_mean_over_the_last_hundred_steps(self):
        bar = training._Bar(total=150, file=io.StringIO(), mininterval=0, miniters=1)
        terms = torch.stack((torch.arange(150.0) ** 2, torch.arange(150.0)), dim=1)
        bar.step_done(terms, 3.0)
        expected = (terms[50:, 0] + 3.0 * terms[50:, 1]).mean()
        assert bar.postfix == f"loss {expected:.2f}"
        bar.close()

    def test_on_an_accelerator_the_loss_is_read_once_an_epoch_only(self):
        bar = training._Bar(total=150, file=io.StringIO(), mininterval=0, miniters=1)
        bar.step_done(SimpleNamespace(device=torch.device("cuda")), 1.0)  # has nothing to be read
        assert bar.postfix is None
        bar.show_loss(torch.tensor([[1.0, 2.0]]), 3.0)
        assert bar.postfix == "loss 7.00"
        bar.close()

    def test_after_every_epoch_the_bar_is_told_the_loss(self, monkeypatch):
        told = []
        monkeypatch.setattr(training._Bar, "step_done", lambda *_: None)
        monkeypatch.setattr(training._Bar, "show_loss", lambda _, terms, __: told.append(len(terms)))
        fit(small_vae(), IMAGES, **SHORT)
        assert told == [3, 6, 9]

    def test_a_resumed_run_begins_where_it_was(self, capsys, tmp_path):
        recipe = SHORT | {"checkpoint": tmp_path / "run.pt"}
        fit(small_vae(), IMAGES, **recipe)
        capsys.readouterr()
        fit(small_vae(), IMAGES, resume=True, **recipe | {"progress": True})
        shown = capsys.readouterr().err
        assert "9/9" in shown and "0/9" not in shown

    @pytest.mark.parametrize(
        ("shell", "expected"),
        [(None, False), (SimpleNamespace(), False), (SimpleNamespace(kernel=1), True)],
    )
    def test_only_a_kernel_makes_it_a_notebook(self, monkeypatch, shell, expected):
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        assert training._in_notebook() is expected

    def test_without_ipython_there_is_no_notebook(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "IPython", None)
        assert training._in_notebook() is False

    def test_in_a_notebook_one_output_ends_as_the_summary(self, capsys, monkeypatch):
        display = pytest.importorskip("IPython.display")
        outputs = []

        class Handle:
            def update(self, data, raw):
                assert raw is True  # else the text would be shown as the text of a dictionary
                outputs.append(data["text/plain"])

        def show(data, raw, display_id):
            assert raw is True and display_id is True
            return Handle()

        monkeypatch.setattr(display, "display", show)
        monkeypatch.setattr(training, "_in_notebook", lambda: True)
        shown, hidden = small_vae(), small_vae()
        history = fit(shown, IMAGES, **SHORT | {"progress": True})
        assert capsys.readouterr() == ("", "")
        assert outputs[-1] == repr(history)
        assert any("step/s" in text or "steps/s" in text for text in outputs[:-1])
        fit(hidden, IMAGES, **SHORT)
        assert_same_weights(shown, hidden)


def _every_step(step_done):
    def with_refresh(bar, terms, beta):
        bar.mininterval, bar.miniters = 0, 0
        step_done(bar, terms, beta)
        bar.refresh()

    return with_refresh


class TestDivergence:
    def test_too_high_a_rate_is_an_error(self):
        with pytest.raises(FloatingPointError, match="nan or infinite.*smaller learning_rate"):
            fit(small_vae(), IMAGES, learning_rate=1e30, **SHORT)

    def test_even_in_the_last_step_of_all(self):
        # Its loss was computed before the step, and is a number like any other.
        with pytest.raises(FloatingPointError, match="weights became nan or infinite in epoch 1"):
            fit(small_vae(), IMAGES, epochs=1, batch_size=50, learning_rate=1e300,
                schedule="constant", progress=False)  # fmt: skip

    def test_the_message_says_when_and_the_checkpoint_keeps_the_last_epoch(
        self, monkeypatch, tmp_path
    ):
        path, real, calls = tmp_path / "run.pt", training.bernoulli_log_likelihood, []

        def fails_at_the_fifth_step(x, logits):
            calls.append(None)
            return real(x, logits) * (NAN if len(calls) == 5 else 1.0)

        monkeypatch.setattr(training, "bernoulli_log_likelihood", fails_at_the_fifth_step)
        with pytest.raises(FloatingPointError, match=r"at step 4 \(epoch 2\)"):
            fit(small_vae(), IMAGES, checkpoint=path, **SHORT)
        assert torch.load(path, weights_only=True)["epochs_done"] == 1


class Stopped(Exception):
    """Stands for whatever ends a run early."""


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_is_no_checkpoint(tmp_path, resume):
    with pytest.raises(ValueError, match="^checkpoint: expected a file, got .*, which is not one"):
        fit(small_vae(), IMAGES, checkpoint=tmp_path, resume=resume, **SHORT)


def test_the_seed_of_train_decides_on_all_three_streams():
    vae, history = train(IMAGES, seed=7, **SHORT)
    by_hand = VAE(generator=stream("initialization", 7))
    start_at_mean_image(by_hand, IMAGES)
    assert_same_history(history, fit(by_hand, IMAGES, seed=7, **SHORT))
    assert_same_weights(vae, by_hand)


def stop_after(monkeypatch, epochs):
    """Let the validation after `epochs` epochs fail: its epoch is lost, the ones before are not."""
    real, calls = training.evaluate, []

    def stop(*arguments, **keywords):
        calls.append(None)
        if len(calls) > epochs:
            raise Stopped
        return real(*arguments, **keywords)

    monkeypatch.setattr(training, "evaluate", stop)


class TestResume:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("shuffle", [True, False])
    @pytest.mark.parametrize("epochs_done", [0, 1, 2])
    def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
        self, monkeypatch, tmp_path, epochs_done, shuffle, dtype
    ):
        recipe = SHORT | {"shuffle": shuffle, "validation_images": IMAGES[:5], "seed": 2}
        uninterrupted = small_vae(dtype)
        expected = fit(uninterrupted, IMAGES, **recipe)

        recipe["checkpoint"] = tmp_path / "run.pt"
        with monkeypatch.context() as patched, pytest.raises(Stopped):
            stop_after(patched, epochs_done)
            fit(small_vae(dtype), IMAGES, **recipe)
        # Even another model: all of the state is in the file.
        resumed = VAE(hidden_dim=8, generator=stream("other")) if epochs_done else small_vae()
        resumed = resumed.to(dtype)
        torch.manual_seed(99)
        history = fit(resumed, IMAGES, resume=True, **recipe)
        assert_same_weights(uninterrupted, resumed)
        assert_same_history(expected, history)

    def test_stopped_twice(self, monkeypatch, tmp_path):
        recipe = SHORT | {"validation_images": IMAGES[:5]}
        uninterrupted, resumed = small_vae(), small_vae()
        expected = fit(uninterrupted, IMAGES, **recipe)
        recipe["checkpoint"] = tmp_path / "run.pt"
        for _ in range(2):
            with monkeypatch.context() as patched, pytest.raises(Stopped):
                stop_after(patched, 1)
                fit(resumed, IMAGES, resume=True, **recipe)
        assert_same_history(expected, fit(resumed, IMAGES, resume=True, **recipe))
        assert_same_weights(uninterrupted, resumed)

    def test_a_finished_run_is_returned_as_it_was(self, tmp_path):
        vae, again = small_vae(), small_vae()
        history = fit(vae, IMAGES, checkpoint=tmp_path / "run.pt", **SHORT)
        assert_same_history(
            history, fit(again, IMAGES, checkpoint=tmp_path / "run.pt", resume=True, **SHORT)
        )
        assert_same_weights(vae, again)

    def test_a_checkpoint_does_not_change_training(self, tmp_path):
        with_it, without = small_vae(), small_vae()
        first = fit(with_it, IMAGES, checkpoint=str(tmp_path / "run.pt"), **SHORT)
        assert_same_history(first, fit(without, IMAGES, **SHORT))
        assert_same_weights(with_it, without)

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
    @pytest.mark.parametrize("killed_at", ["in the middle of an epoch", "while saving"])
    def test_kill_9(self, tmp_path, killed_at):
        path = tmp_path / "run.pt"
        killed = run_python(
            """
            import os, signal
            if sys.argv[2] == "while saving":
                real, calls = os.fsync, []
                def half(handle):
                    calls.append(None)
                    if len(calls) == 2:
                        os.ftruncate(handle, 2000)
                        os.kill(os.getpid(), signal.SIGKILL)
                    real(handle)
                os.fsync = half
            else:
                real, calls = torch.optim.Adam.step, []
                def step(self, *arguments):
                    calls.append(None)
                    if len(calls) == 5:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(self, *arguments)
                torch.optim.Adam.step = step
            fit(vae, images, checkpoint=sys.argv[1], **short)
            """,
            path,
            killed_at,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert torch.load(path, weights_only=True)["epochs_done"] == 1
        if killed_at == "while saving":
            # The half-written one was never the file, and says what it is.
            names = sorted(file.name for file in tmp_path.iterdir())
            assert len(names) == 2 and re.fullmatch(r"run\.pt.+\.partial", names[1])
        # On in another process, as a user would.
        done = run_python(
            """
            fit(vae, images, checkpoint=sys.argv[1], resume=True, **short)
            torch.save(vae.state_dict(), sys.argv[2])
            """,
            path,
            tmp_path / "weights.pt",
        )
        assert done.returncode == 0, done.stderr
        uninterrupted = small_vae()
        fit(uninterrupted, IMAGES, **SHORT)
        assert_same_weights(uninterrupted, torch.load(tmp_path / "weights.pt", weights_only=True))


def test_what_cannot_be_trained_is_refused():
    frozen = small_vae()
    frozen.requires_grad_(False)
    with pytest.raises(ValueError, match="^vae: expected weights that can be trained, got "):
        fit(frozen, IMAGES, **SHORT)
    with torch.no_grad(), pytest.raises(ValueError, match="^vae: expected weights that can be"):
        fit(small_vae(), IMAGES, **SHORT)
    # A part of the network may be kept as it is.
    half = small_vae()
    half.encoder.requires_grad_(False)
    before = weights_of(half.encoder)
    fit(half, IMAGES, **SHORT)
    assert_same_weights(before, half.encoder)


class TestCheckpoint:
    def test_a_folder_that_may_not_be_written_to_is_refused_before_training(
        self, monkeypatch, tmp_path
    ):
        vae = small_vae()
        before = weights_of(vae)
        monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))
        with pytest.raises(ValueError, match="^checkpoint: expected a file in a folder that can be"):
            fit(vae, IMAGES, checkpoint=tmp_path / "run.pt", **SHORT)
        assert_same_weights(before, vae)

    def test_a_folder_that_is_not_there_is_said_to_be_missing(self, tmp_path):
        with pytest.raises(ValueError, match="^checkpoint: expected a file in a folder that exists"):
            fit(small_vae(), IMAGES, checkpoint=tmp_path / "none" / "run.pt", **SHORT)

    @pytest.fixture
    def path(self, tmp_path):
        """A checkpoint of a run that has finished."""
        fit(small_vae(), IMAGES, checkpoint=tmp_path / "run.pt", **SHORT)
        return tmp_path / "run.pt"

    @pytest.fixture
    def half_done(self, monkeypatch, tmp_path):
        """A checkpoint after the first of three epochs, with validation."""
        with monkeypatch.context() as patched, pytest.raises(Stopped):
            stop_after(patched, 1)
            fit(
                small_vae(), IMAGES,
                checkpoint=tmp_path / "half.pt", validation_images=IMAGES[:5], **SHORT,
            )  # fmt: skip
        return tmp_path / "half.pt"

    def refused(self, path, vae=None, images=IMAGES, **changes):
        """The message with which `fit` refuses the file; neither it nor the model may change."""
        vae = small_vae() if vae is None else vae
        before, content = weights_of(vae), path.read_bytes()
        with pytest.raises(ValueError) as caught:
            fit(vae, images, checkpoint=path, **{"resume": True} | SHORT | changes)
        assert_same_weights(before, vae)
        assert path.read_bytes() == content
        assert all(parameter.grad is None for parameter in vae.parameters())
        message = str(caught.value)
        assert message.startswith("checkpoint: expected ") and str(path) in message
        return message

    def test_it_is_safe_to_load_and_leaves_nothing_else_behind(self, path):
        saved = torch.load(path, weights_only=True)
        assert saved["epochs_done"] == 3
        assert_same_weights(saved["weights"], _trained_weights())
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("epochs", 4), ("batch_size", 25), ("learning_rate", 1e-3), ("betas", (0.9, 0.99)),
            ("schedule", "constant"), ("warmup_steps", 3), ("shuffle", False),
            ("reduction", "sum"), ("beta", 2.0), ("seed", 1000), ("epsilon", 1e-8),
            ("encoder_rates", (1.0, 1.0)),
        ],
    )  # fmt: skip
    def test_another_run_s_is_refused_and_the_difference_named(self, path, name, value):
        message = self.refused(path, **{name: value})
        assert f"expected a run with {name} = {value!r}, got" in message
        assert f"of a run with {name} = " in message

    @pytest.mark.parametrize(
        "vae",
        [
            VAE(hidden_dim=9),
            VAE(latent_dim=3, hidden_dim=8),
            VAE(hidden_dim=8, activation="relu"),
            VAE(hidden_dim=8).double(),
        ],
        ids=["hidden_dim", "latent_dim", "activation", "precision"],
    )
    def test_another_model_s_is_refused(self, path, vae):
        assert "a run with model = " in self.refused(path, vae)

    def test_other_images_are_refused(self, path, half_done):
        one_grey_level = IMAGES.clone()
        one_grey_level[17, 3, 3] ^= 1
        assert "a run with images = " in self.refused(path, images=one_grey_level)
        assert "validation_images = " in self.refused(path, validation_images=IMAGES[:5])
        assert "validation_images = " in self.refused(half_done)
        assert "validation_images = " in self.refused(half_done, validation_images=IMAGES[5:10])

    @pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
    def test_a_truncated_file_is_refused(self, half_done, kept):
        content = half_done.read_bytes()
        length = kept if isinstance(kept, int) else int(kept * len(content))
        half_done.write_bytes(content[:length])
        message = self.refused(half_done, validation_images=IMAGES[:5])
        assert "expected a file written by fit" in message

    def test_a_file_with_one_bit_flipped_is_refused(self, half_done):
        with zipfile.ZipFile(half_done) as file:
            largest = max(file.infolist(), key=lambda entry: entry.file_size)
        content = bytearray(half_done.read_bytes())
        content[largest.header_offset + 1000] ^= 1
        half_done.write_bytes(content)
        self.refused(half_done, validation_images=IMAGES[:5])

    @pytest.mark.parametrize("state", [{}, [1], {"run": {}}, {"run": 3}, torch.zeros(3)], ids=str)
    def test_another_kind_of_file_is_refused(self, tmp_path, state):
        torch.save(state, tmp_path / "run.pt")
        self.refused(tmp_path / "run.pt")

    def test_a_file_with_code_in_it_is_refused_and_not_run(self, tmp_path):
        torch.save(Malicious(tmp_path / "trace"), tmp_path / "run.pt")
        self.refused(tmp_path / "run.pt")
        assert not (tmp_path / "trace").exists()

    def test_an_existing_file_is_never_overwritten_unasked(self, path):
        assert "resume=True" in self.refused(path, resume=False)
        path.write_text("my notes")
        assert "resume=True" in self.refused(path, resume=False)

    def test_a_place_where_no_file_can_be(self, tmp_path):
        for bad in (tmp_path / "no" / "run.pt", tmp_path):
            with pytest.raises(ValueError, match="^checkpoint: expected a file"):
                fit(small_vae(), IMAGES, checkpoint=bad, resume=True, **SHORT)

    def test_resume_needs_a_checkpoint(self):
        with pytest.raises(ValueError, match="^checkpoint: expected a path, since resume is True"):
            fit(small_vae(), IMAGES, resume=True, **SHORT)

    def test_a_full_disk_leaves_the_last_one(self, tmp_path):
        pytest.importorskip("resource", reason="no limits on this system")
        path = tmp_path / "run.pt"
        ended = run_python(
            """
            import resource
            from vae_lib import training
            real, calls = training._save_atomically, []
            def second_time_full(path, state):
                calls.append(None)
                if len(calls) == 2:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
                real(path, state)
            training._save_atomically = second_time_full
            try:
                fit(vae, images, checkpoint=sys.argv[1], **short)
            except OSError as error:
                print("OSError:", error.strerror)
            """,
            path,
        )
        assert ended.returncode == 0 and ended.stdout.startswith("OSError: "), ended.stderr
        assert torch.load(path, weights_only=True)["epochs_done"] == 1
        assert list(tmp_path.iterdir()) == [path]

    def test_all_of_it_is_on_the_disk_before_it_replaces_the_last_one(self, tmp_path, monkeypatch):
        done, fsync, replace = [], os.fsync, os.replace

        def watched_fsync(handle):
            done.append(os.fstat(handle).st_size)
            fsync(handle)

        def watched_replace(*names):
            done.append("replaced")
            replace(*names)

        monkeypatch.setattr(os, "fsync", watched_fsync)
        monkeypatch.setattr(os, "replace", watched_replace)
        for name, length in (("small", 1), ("large", 100_000)):  # the small one fits in a buffer
            training._save_atomically(tmp_path / name, {"entries": torch.zeros(length)})
            assert done == [(tmp_path / name).stat().st_size, "replaced"]
            done.clear()

    def test_an_interrupted_write_leaves_the_last_one(self, half_done, monkeypatch):
        content = half_done.read_bytes()

        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(small_vae(), IMAGES, checkpoint=half_done, resume=True,
                validation_images=IMAGES[:5], **SHORT)  # fmt: skip
        assert half_done.read_bytes() == content
        assert list(half_done.parent.iterdir()) == [half_done]

    def test_images_that_need_a_gradient_and_half_precision(self, tmp_path):
        pixels = (IMAGES / 255).requires_grad_()
        fit(small_vae(), pixels, checkpoint=tmp_path / "a.pt", **SHORT)
        assert pixels.grad is None
        fit(small_vae(torch.bfloat16), IMAGES, checkpoint=tmp_path / "b.pt", **SHORT)


def _trained_weights():
    vae = small_vae()
    fit(vae, IMAGES, **SHORT)
    return vae


class Malicious:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.slow
def test_the_original_s_losses_on_the_whole_of_mnist(mnist):
    """The five that the notebook printed; chapter 4 has two of them, and the default recipe."""
    # The original added up the loss over all 60,000 images and divided by 59,900.
    vae, history = train(mnist.train.images, "original", epochs=5, progress=False)
    printed = history.epochs.loss * 60_000 / 59_900
    expected = torch.tensor([180.5, 163.9, 159.5, 157.0, 155.2])
    assert ((printed - expected).abs() < 1.5).all(), printed
