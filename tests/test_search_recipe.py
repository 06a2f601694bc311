"""The search for a recipe that forgets its rounding errors: it trains as `fit` does."""

import dataclasses
import inspect
import json
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from vae_lib import fit, stream, training

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import search_recipe  # noqa: E402

BOOK = search_recipe.RECIPES["batches of 125: the book's"]
IMAGES = torch.rand(60, 784, generator=stream("images"))


def test_the_book_s_recipe_is_the_default_of_fit():
    default = {p.name: p.default for p in inspect.signature(fit).parameters.values()}
    peak = default["learning_rate"]
    rates = [share * peak for share in (*default["encoder_rates"], 1.0)]
    assert list(BOOK.rates) == pytest.approx(rates)
    assert (BOOK.batch_size, BOOK.betas) == (default["batch_size"], default["betas"])
    assert (BOOK.epsilon, BOOK.epochs) == (default["epsilon"], default["epochs"])
    assert {"activation": BOOK.activation, "mean_start": True} == training.SETTINGS["default"]


def test_twins_are_trained_as_fit_trains():
    recipe = search_recipe.Recipe(batch_size=20, warmup_steps=2, epochs=2, rates=(1e-3, 2e-4, 2e-3))
    pair = [search_recipe.new_vae(recipe, 1, IMAGES, disturbed) for disturbed in (False, True)]
    by_fit = search_recipe.new_vae(recipe, 1, IMAGES, False)
    steps = list(search_recipe.train_together(pair, recipe, 1, IMAGES))
    fit(
        by_fit, IMAGES, epochs=2, batch_size=20, warmup_steps=2, learning_rate=2e-3,
        betas=(0.9, 0.999), encoder_rates=(0.5, 0.1), seed=1, progress=False,
    )  # fmt: skip
    assert steps == [1, 2, 3, 4, 5, 6]
    for first, second, fitted in zip(*(vae.parameters() for vae in (*pair, by_fit))):
        torch.testing.assert_close(first, fitted)
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)
    differ = [not torch.equal(a, b) for a, b in zip(pair[0].parameters(), pair[1].parameters())]
    assert any(differ)


def test_a_twin_that_is_lost_is_trained_no_further():
    recipe = search_recipe.Recipe(batch_size=20, warmup_steps=2, epochs=2)
    pair = [search_recipe.new_vae(recipe, 1, IMAGES, disturbed) for disturbed in (False, True)]
    steps, lost = search_recipe.train_together(pair, recipe, 1, IMAGES), pair[1]
    next(steps)
    del pair[1]
    before = [weight.clone() for weight in lost.parameters()]
    assert list(steps) == [2, 3, 4, 5, 6]
    assert all(torch.equal(now, then) for now, then in zip(lost.parameters(), before))


def test_averaged_weights_are_the_mean_over_the_last_epoch_s_steps():
    recipe = search_recipe.Recipe(batch_size=20, warmup_steps=2, epochs=2)
    plain, seen = [search_recipe.new_vae(recipe, 1, IMAGES, False)], []
    for _ in search_recipe.train_together(plain, recipe, 1, IMAGES):
        seen.append(parameters_to_vector(plain[0].parameters()).detach())
    averaged = [search_recipe.new_vae(recipe, 1, IMAGES, False)]
    with_mean = dataclasses.replace(recipe, averaged_epochs=1)
    assert list(search_recipe.train_together(averaged, with_mean, 1, IMAGES)) == [1, 2, 3, 4, 5, 6]
    mean = torch.stack(seen[3:]).mean(dim=0)
    torch.testing.assert_close(parameters_to_vector(averaged[0].parameters()).detach(), mean)


def test_a_cosine_falls_from_the_peak_to_zero_by_way_of_the_half():
    recipe = search_recipe.Recipe(warmup_steps=200, cosine=True)
    shares = [search_recipe.share_of_peak(step, 4200, recipe) for step in range(4200)]
    assert shares[0] == 1 / 200 and max(shares) == shares[199] == shares[200] == 1.0
    assert shares[2200] == pytest.approx(0.5) and 0 < shares[-1] < 1e-6
    line = dataclasses.replace(recipe, cosine=False)
    assert shares[1200] > search_recipe.share_of_peak(1200, 4200, line)


def test_a_plateau_is_put_between_the_warm_up_and_the_fall():
    line = search_recipe.Recipe(warmup_steps=200)
    plateau = dataclasses.replace(line, plateau_steps=300)
    shares = [search_recipe.share_of_peak(step, 1500, plateau) for step in range(1500)]
    without = [search_recipe.share_of_peak(step, 1200, line) for step in range(1200)]
    assert shares == without[:200] + [1.0] * 300 + without[200:]


def test_the_encoder_can_warm_up_more_slowly_than_the_decoder():
    recipe = search_recipe.Recipe(batch_size=20, warmup_steps=1, encoder_warmup_steps=4, epochs=2)
    vae = search_recipe.new_vae(recipe, 1, IMAGES, False)
    before = [weight.clone() for weight in vae.parameters()]
    steps = search_recipe.train_together([vae], recipe, 1, IMAGES)
    next(steps)
    moved = {
        name: (weight - old).abs().max().item()
        for (name, weight), old in zip(vae.named_parameters(), before)
    }
    # At its first step Adam moves a weight by its rate; a quarter of the peak, and all of it.
    hidden, heads, decoder = recipe.rates
    assert moved["encoder.hidden.0.bias"] == pytest.approx(hidden / 4, rel=0.01)
    assert moved["encoder.mu.bias"] == pytest.approx(heads / 4, rel=0.01)
    assert moved["decoder.logits.bias"] == pytest.approx(decoder, rel=0.01)


def test_the_decoder_can_start_with_another_first_layer():
    recipe = search_recipe.Recipe(decoder_start=2.0)
    plain = search_recipe.new_vae(dataclasses.replace(recipe, decoder_start=1.0), 1, IMAGES, False)
    changed = search_recipe.new_vae(recipe, 1, IMAGES, False)
    for (name, old), new in zip(plain.named_parameters(), changed.parameters()):
        factor = 2 if name.startswith("decoder.hidden.0.") else 1
        torch.testing.assert_close(new, factor * old, rtol=0, atol=0)


def test_an_outcome_stays_that_of_its_recipe_when_settings_are_added():
    # As of the first pairs in the file, before there were a cosine, averages and the like.
    assert search_recipe.digest_of(BOOK) == "6bab49da4ff0"
    assert search_recipe.digest_of(dataclasses.replace(BOOK, cosine=True)) != "6bab49da4ff0"


def test_the_table_counts_what_was_forgotten_and_what_was_lost():
    digest = search_recipe.digest_of(BOOK)
    records = {
        (digest, seed): {"weights apart": [1e-7, end], "negative ELBO": loss}
        for seed, (end, loss) in enumerate(((1e-5, 142.0), (3e-4, 143.0), (0.02, 144.0)))
    }
    records["another recipe", 0] = {"weights apart": [1.0], "negative ELBO": 999.0}
    header, _, *rows = search_recipe.as_table(records).splitlines()
    place = 1 + list(search_recipe.RECIPES.values()).index(BOOK)
    assert [cell.strip() for cell in rows[0].split("|")[1:2] + rows[0].split("|")[4:9]] == [
        str(place), "3", "1", "1", "> 0.01", "143.0 (142.0 to 144.0)",
    ]  # fmt: skip
    assert len(rows) == 1


def test_what_is_kept_is_of_recipes_in_the_list():
    digests = {search_recipe.digest_of(recipe) for recipe in search_recipe.RECIPES.values()}
    lines = search_recipe.KEPT.read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["digest"] for line in lines} == digests
