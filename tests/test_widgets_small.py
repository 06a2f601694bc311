"""The small live figures: what Python refuses and keeps, and what a browser computes and says."""

import base64
import io
import json
import os
import re
import shutil

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributions import Normal, kl_divergence

from vae_lib import stream

pytest.importorskip("anywidget")

from vae_lib.widgets import RateDistortion, Reparameterisation, TwoGaussians

FACTORS = [2 ** (k / 4) for k in range(-8, 9)]
RATE = [7.0 - 2 * np.log(t) + 0.01 * t**2 for t in FACTORS]
DISTORTION = [136.0 + t**2 for t in FACTORS]
SLOPES = [-(t**2) for t in FACTORS]
ERRORS = [0.03] * 17


def rate_distortion(**settings):
    return RateDistortion(FACTORS, torch.tensor(RATE), torch.tensor(DISTORTION), **settings)


MAKERS = {
    "TwoGaussians": TwoGaussians,
    "Reparameterisation": Reparameterisation,
    "RateDistortion": lambda: rate_distortion(slopes=SLOPES, slope_errors=ERRORS),
}


@pytest.fixture(autouse=True)
def close_figures():
    with matplotlib.rc_context():
        yield
    plt.close("all")


# Python ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_the_output_carries_a_picture_and_a_text_of_its_own(name):
    data, _ = MAKERS[name]()._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("L"))
    assert pixels.std() > 10 and (pixels < 128).sum() > 1000
    again, _ = MAKERS[name]()._repr_mimebundle_()
    assert again["text/plain"] == data["text/plain"] and name in data["text/plain"]
    assert again["image/png"] == data["image/png"]
    assert not plt.get_fignums()


def test_the_texts_of_the_three():
    assert repr(TwoGaussians(1, 0.5)) == "TwoGaussians(mu_q=1, sigma_q=0.5, mu_p=0.5, sigma_p=1)"
    assert repr(Reparameterisation(0.5)) == "Reparameterisation(mu=0.5, sigma=1, 40 draws)"
    assert repr(rate_distortion(beta=2)) == "RateDistortion(17 models, beta=2, t=1)"


@pytest.mark.parametrize("name", MAKERS)
def test_the_picture_s_axes_are_labelled(name):
    figure = MAKERS[name]().static_figure()
    for axis in figure.axes:
        assert axis.get_ylabel() or [tick.get_text() for tick in axis.get_yticklabels()][0]
    assert figure.axes[-1].get_xlabel()


@pytest.mark.parametrize(
    ("make", "name", "value", "expected"),
    [
        (TwoGaussians, "mu_q", 3.5, "a number from -3 to 3"),
        (TwoGaussians, "mu_p", float("nan"), "a finite number"),
        (TwoGaussians, "sigma_q", 0.0, "a number from 0.25 to 4"),
        (TwoGaussians, "sigma_p", -1.0, "a number from 0.25 to 4"),
        (TwoGaussians, "sigma_p", "wide", "a finite number"),
        (Reparameterisation, "mu", 2.5, "a number from -2 to 2"),
        (Reparameterisation, "sigma", 0, "a number from 0.1 to 2"),
        (Reparameterisation, "noise", [0.1], "2 to 200 numbers"),
        (Reparameterisation, "noise", torch.zeros(2, 2), "2 to 200 numbers"),
        (Reparameterisation, "noise", "0123", "2 to 200 numbers"),
        (Reparameterisation, "noise", [0.0, float("inf")], "a finite number"),
        (Reparameterisation, "draws", -1, "a whole number ≥ 0"),
        (rate_distortion, "beta", 3.0, "one of betas (0.25, 0.5, 1, 2, 4, 8)"),
        (rate_distortion, "t", 1.1, "one of factors"),
        (rate_distortion, "betas", [0.0, 1.0], "numbers above 0 in ascending order"),
        (rate_distortion, "slopes", [1.0, 2.0], "17 numbers, one for each of factors"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(make, name, value, expected):
    with pytest.raises(ValueError, match=f"^{name}: expected {re.escape(expected)}"):
        make(**{name: value}) if name != "draws" else setattr(make(), name, value)
    if name not in ("betas", "slopes"):
        figure = make()
        before = getattr(figure, name)
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            setattr(figure, name, value)
        assert getattr(figure, name) == before


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("factors", ([1.0, 0.5, 2.0], [1.0] * 3, [1.0] * 3)),
        ("factors", ([-1.0, 0.5, 2.0], [1.0] * 3, [1.0] * 3)),
        ("factors", ([0.5, 1.0], [1.0] * 2, [1.0] * 2)),
        ("rate", (FACTORS, RATE[1:], DISTORTION)),
        ("distortion", (FACTORS, RATE, [1.0] * 18)),
        ("distortion", (FACTORS, RATE, [float("nan")] * 17)),
        ("slope_errors", (FACTORS, RATE, DISTORTION, SLOPES)),
    ],
)
def test_lists_that_do_not_fit_are_refused(name, arguments):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        RateDistortion(*arguments)


def test_an_argument_that_there_is_not():
    with pytest.raises(TypeError):
        TwoGaussians(mean=1.0)


def test_traits_can_be_read_and_set():
    figure = TwoGaussians()
    figure.mu_q, figure.sigma_p = 1, 2
    assert (figure.mu_q, figure.sigma_q, figure.mu_p, figure.sigma_p) == (1.0, 0.5, 0.5, 2.0)
    assert figure.get_state()["start"] == {"mu_q": -1, "sigma_q": 0.5, "mu_p": 0.5, "sigma_p": 1}


@pytest.mark.parametrize("values", [(0, 1, 0, 1), (-1, 0.5, 2, 3), (3, 4, -3, 0.25)])
def test_the_divergences_are_those_of_torch(values):
    figure = TwoGaussians(*values)
    q, p = (Normal(*torch.tensor(part).double()) for part in (values[:2], values[2:]))
    assert figure.kl_qp == pytest.approx(kl_divergence(q, p).item(), abs=1e-9)
    assert figure.kl_pq == pytest.approx(kl_divergence(p, q).item(), abs=1e-9)


def gradients(figure):
    """The exact gradient and the two estimates, by differentiation."""
    mu = torch.tensor(figure.mu, dtype=torch.float64, requires_grad=True)
    epsilon = torch.tensor(figure.noise, dtype=torch.float64)
    z = (mu + figure.sigma * epsilon).detach()
    pathwise = torch.func.jacrev(lambda mu: (mu + figure.sigma * epsilon) ** 2)(mu.detach())
    of_log_q = torch.func.jacrev(lambda mu: Normal(mu, figure.sigma).log_prob(z))(mu.detach())
    return {"pathwise": pathwise, "score": z**2 * of_log_q}


def test_the_estimates_are_those_of_the_definitions():
    figure = Reparameterisation(-0.7, 0.6)
    by_torch = gradients(figure)
    torch.testing.assert_close(figure.pathwise, by_torch["pathwise"])
    torch.testing.assert_close(figure.score_function, by_torch["score"])
    assert figure.exact == pytest.approx(-1.4)


def test_the_noise_is_standard_normal_and_the_same_each_time():
    assert Reparameterisation().noise == Reparameterisation().noise
    many = Reparameterisation(noise=torch.randn(200, generator=stream("many")))
    assert abs(np.mean(many.noise)) < 0.25 and abs(np.std(many.noise) - 1) < 0.2
    assert all(value == round(value, 4) for value in many.noise)


def test_the_best_width_is_the_root_of_beta():
    figure = rate_distortion()
    for beta, t in ((0.5, 0.5**0.5), (1, 1), (4, 2)):
        figure.beta = beta
        assert figure.best_t == pytest.approx(t, abs=1e-4)
        i = figure.factors.index(figure.best_t)
        assert figure.totals[i] == pytest.approx(DISTORTION[i] + beta * RATE[i], abs=1e-3)


# The browser -------------------------------------------------------------------------------------

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Figures</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<body><main><h1>Figures</h1></main>
<script type="module">
// What the real host gives a figure, with no kernel behind it.
class Model {
  constructor(state) { this.state = state; this.heard = {}; }
  get(name) { return this.state[name]; }
  set(name, value) {
    if (JSON.stringify(this.state[name]) === JSON.stringify(value)) return;
    this.state[name] = value;
    for (const callback of this.heard[`change:${name}`] ?? []) callback();
  }
  save_changes() {}
  on(event, callback) { (this.heard[event] ??= []).push(callback); }
  off(event, callback) {
    this.heard[event] = (this.heard[event] ?? []).filter((each) => each !== callback);
  }
}
window.models = {};
window.cleanups = {};
window.leaked = [];  // the keys that reach the page, as they would reach a notebook
document.addEventListener("keydown", (event) => window.leaked.push(event.key));
const style = document.createElement("style");
const states = STATES;
style.textContent = Object.values(states)[0]._css;
document.head.append(style);
for (const [name, state] of Object.entries(states)) {
  const url = URL.createObjectURL(new Blob([state._esm], { type: "text/javascript" }));
  const module = await import(url);
  const el = document.createElement("div");
  el.id = name;
  document.querySelector("main").append(el);
  window.models[name] = new Model(structuredClone(state));
  window.cleanups[name] = await module.default.render({ model: window.models[name], el });
}
window.ready = true;
</script></body></html>"""


def state_of(figure):
    state = figure.get_state()
    return {key: state[key] for key in state if key not in ("layout", "tabbable", "tooltip")}


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium here, and under CI there has to be one")
        pytest.skip("no Chromium here: the live figures are not tried in a browser")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """All three on one page, opened from a file."""
    states = {name: state_of(make()) for name, make in MAKERS.items()}
    path = tmp_path_factory.mktemp("figures") / "page.html"
    text = json.dumps(states, default=list).replace("</", "<\\/")
    path.write_text(PAGE.replace("STATES", text, 1), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.set_default_timeout(5000)
    page.problems = []
    page.on("console", lambda m: page.problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_function("window.ready")
    return page


@pytest.fixture(autouse=True)
def no_problem(request):
    yield
    if "page" in request.fixturenames:
        assert request.getfixturevalue("page").problems == []


def shown(page, figure, quantity):
    return page.locator(f"#{figure} [data-quantity={quantity}]").inner_text()


def number(page, figure, quantity):
    return float(shown(page, figure, quantity).replace("−", "-"))


def put(page, figure, **values):
    page.evaluate(
        "([name, values]) => Object.entries(values).forEach(([k, v]) => models[name].set(k, v))",
        [figure, values],
    )


def reset(page, figure):
    page.locator(f"#{figure}").get_by_role("button", name="reset").click()


@pytest.mark.parametrize(
    "values",
    [(0, 1, 0, 1), (-1, 0.5, 0.5, 1), (3, 4, -3, 0.25), (-2.5, 0.3, 1.7, 2.5), (1, 2, 2, 2)],
)
def test_the_browser_s_divergences_are_those_of_torch(page, values):
    put(page, "TwoGaussians", **dict(zip(("mu_q", "sigma_q", "mu_p", "sigma_p"), values)))
    q, p = (Normal(*torch.tensor(part).double()) for part in (values[:2], values[2:]))
    qp, pq = kl_divergence(q, p).item(), kl_divergence(p, q).item()
    assert number(page, "TwoGaussians", "kl_qp") == pytest.approx(qp, abs=6e-4)
    assert number(page, "TwoGaussians", "kl_pq") == pytest.approx(pq, abs=6e-4)
    verdict = shown(page, "TwoGaussians", "verdict")
    if values[:2] == values[2:]:
        assert verdict.startswith("Both are zero")
    elif values[1] == values[3]:
        assert verdict.startswith("The two are equal")
    else:
        larger = "KL(q ‖ p)" if qp > pq else "KL(p ‖ q)"
        assert verdict.startswith(f"{larger} is larger, by {abs(qp - pq):.3f} nats")
        # The one that averages over the wider: the chapter says that this is always so.
        assert (qp > pq) == (values[1] > values[3])


@pytest.mark.parametrize(
    ("button", "expected"),
    [
        ("equal", {"mu_q": 0, "sigma_q": 1, "mu_p": 0, "sigma_p": 1}),
        ("p much wider", {"mu_q": 0, "sigma_q": 0.5, "mu_p": 0, "sigma_p": 2}),
        ("p much narrower", {"mu_q": 0, "sigma_q": 2, "mu_p": 0, "sigma_p": 0.5}),
        ("far apart, equally wide", {"mu_q": -2, "sigma_q": 0.5, "mu_p": 2, "sigma_p": 0.5}),
        ("reset", {"mu_q": -1, "sigma_q": 0.5, "mu_p": 0.5, "sigma_p": 1}),
    ],
)
def test_named_situations_and_reset(page, button, expected):
    page.locator("#TwoGaussians").get_by_role("button", name=button, exact=True).click()
    state = page.evaluate("models.TwoGaussians.state")
    assert {name: state[name] for name in expected} == expected
    TwoGaussians(**expected)  # and Python takes them


@pytest.mark.parametrize("mu,sigma", [(1, 1), (-2, 0.1), (0, 2), (0.35, 0.55)])
def test_the_browser_s_estimates_are_those_of_the_definitions(page, mu, sigma):
    put(page, "Reparameterisation", mu=mu, sigma=sigma)
    figure = Reparameterisation(mu, sigma)
    assert number(page, "Reparameterisation", "exact") == pytest.approx(2 * mu, abs=1e-9)
    for name, draws in gradients(figure).items():
        error = draws.std() / len(draws) ** 0.5
        for quantity, value in (("mean", draws.mean()), ("error", error)):
            got = number(page, "Reparameterisation", f"{name}_{quantity}")
            assert got == pytest.approx(value.item(), abs=6e-4)
        got = number(page, "Reparameterisation", f"{name}_variance")
        assert got == pytest.approx(draws.var().item(), abs=6e-3)
    # The exact variances, by quadrature over ε.
    grid = torch.linspace(-12, 12, 2401, dtype=torch.float64)
    weight = Normal(0.0, 1.0).log_prob(grid).exp()
    z = mu + sigma * grid
    for name, values in (("pathwise", 2 * z), ("score", z**2 * grid / sigma)):
        variance = torch.trapezoid(weight * (values - 2 * mu) ** 2, grid).item()
        got = number(page, "Reparameterisation", f"{name}_exact_variance")
        assert got == pytest.approx(variance, abs=6e-3)


def test_new_noise_is_normal_repeatable_and_can_be_taken_back(page):
    def noise():
        return page.evaluate("models.Reparameterisation.state.noise")

    reset(page, "Reparameterisation")
    first = noise()
    assert first == list(Reparameterisation().noise)
    press = page.locator("#Reparameterisation").get_by_role("button", name="new noise")
    sets = []
    for _ in range(25):
        press.click()
        sets.append(noise())
    values = np.array(sets)
    assert values.shape == (25, 40) and page.evaluate("models.Reparameterisation.state.draws") == 25
    assert len({tuple(row) for row in sets}) == 25
    n = values.size
    assert abs(values.mean()) < 4 / n**0.5 and abs(values.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((values**4).mean() - 3) < 4 * (96 / n) ** 0.5
    Reparameterisation(noise=sets[-1])  # and Python takes them
    reset(page, "Reparameterisation")
    assert noise() == first
    press.click()
    assert noise() == sets[0]
    reset(page, "Reparameterisation")


@pytest.mark.parametrize("beta,k", [(1, 8), (4, 8), (0.25, 16), (8, 0)])
def test_the_browser_s_totals_are_python_s(page, beta, k):
    figure = rate_distortion(beta=beta, t=FACTORS[k])
    put(page, "RateDistortion", beta=beta, t=figure.t)
    total, least = figure.totals[k], min(figure.totals)
    assert number(page, "RateDistortion", "total") == pytest.approx(total, abs=6e-3)
    assert number(page, "RateDistortion", "least") == pytest.approx(least, abs=6e-3)
    assert shown(page, "RateDistortion", "best_t") == f"{figure.best_t:.2f}"
    assert shown(page, "RateDistortion", "rate") == f"{figure.rate[k]:.2f}"
    assert shown(page, "RateDistortion", "distortion") == f"{figure.distortion[k]:.2f}"
    assert shown(page, "RateDistortion", "slope").startswith(f"−{-SLOPES[k]:.2f} ± 0.03")
    page.locator("#RateDistortion").get_by_role("button", name="go to the best t").click()
    assert page.evaluate("models.RateDistortion.state.t") == figure.best_t
    reset(page, "RateDistortion")
    assert page.evaluate("models.RateDistortion.state.beta") == 1
    assert page.evaluate("models.RateDistortion.state.t") == 1


@pytest.mark.parametrize(
    ("figure", "label", "trait", "quantity"),
    [
        ("TwoGaussians", "mean of q", "mu_q", "kl_qp"),
        ("TwoGaussians", "standard deviation of p", "sigma_p", "kl_pq"),
        ("Reparameterisation", "mean of z", "mu", "pathwise_mean"),
        ("RateDistortion", "beta, the weight", "beta", "total"),
        ("RateDistortion", "t, the factor", "t", "total"),
    ],
)
def test_keys_move_a_slider_and_all_that_is_said_follows(page, figure, label, trait, quantity):
    reset(page, figure)
    region = page.locator(f"#{figure} [aria-live=polite]")
    page.wait_for_timeout(600)
    said, before = region.text_content(), shown(page, figure, quantity)
    was = page.evaluate(f"models.{figure}.state.{trait}")
    slider = page.locator(f"#{figure}").get_by_role("slider", name=label)
    slider.focus()
    page.evaluate("window.leaked = []")
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
    assert region.text_content() == said  # while it moves, nothing is said
    assert page.evaluate("window.leaked") == []  # and a notebook hears none of these keys
    assert page.evaluate(f"models.{figure}.state.{trait}") > was
    assert shown(page, figure, quantity) != before
    assert slider.get_attribute("aria-valuetext") != ""
    page.wait_for_function(
        "([figure, said]) => document.querySelector(`#${figure} [aria-live]`).textContent !== said",
        arg=[figure, said],
    )
    assert shown(page, figure, quantity)[:4] in region.text_content()
    page.keyboard.press("Tab")
    page.evaluate("window.leaked = []")
    page.keyboard.press("x")
    assert page.evaluate("window.leaked") == ["x"]  # what is not its own it leaves alone
    reset(page, figure)


def test_a_slider_shows_the_value_that_python_set(page):
    put(page, "TwoGaussians", sigma_q=1.03)
    slider = page.locator("#TwoGaussians").get_by_role("slider", name="standard deviation of q")
    assert slider.get_attribute("aria-valuetext") == "1.03"
    assert slider.input_value() == "20"  # the nearest of its values, 1
    reset(page, "TwoGaussians")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_serious_by_axe_in_light_and_dark(page, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.evaluate("theme => document.documentElement.setAttribute('data-theme', theme)", theme)
    found = axe.Axe().run(page).response["violations"]
    serious = [item["id"] for item in found if item["impact"] in ("serious", "critical")]
    page.evaluate("document.documentElement.removeAttribute('data-theme')")
    assert serious == []


@pytest.mark.parametrize("width", [360, 500, 600, 640, 1200])
def test_all_fits_and_is_drawn_anew_for_every_width(page, width):
    size = page.viewport_size
    page.set_viewport_size({"width": width, "height": 800})
    # Drawn for the room that there is: neither cut off nor scaled.
    page.wait_for_function(
        "[...document.querySelectorAll('main svg[role=img]')].every((n) =>"
        " n.clientWidth === Number(n.getAttribute('width')) && n.clientWidth > 200)"
    )
    try:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for name in MAKERS:
            edges = page.evaluate(
                "name => [...document.querySelectorAll(`#${name} *`)]"
                ".filter((node) => !node.closest('svg svg, .vf-hidden'))"
                ".map((node) => node.getBoundingClientRect().right)",
                name,
            )
            frame = page.locator(f"#{name} .vae-figure").bounding_box()
            assert max(edges) <= frame["x"] + frame["width"] <= width
    finally:
        page.set_viewport_size(size)


def test_a_figure_that_is_taken_away_leaves_nothing(page):
    """The last test of the page: its figures are gone afterwards."""
    for name in MAKERS:
        page.evaluate("name => cleanups[name]()", name)
        assert page.locator(f"#{name} *").count() == 0
        heard = page.evaluate("name => Object.values(models[name].heard).flat().length", name)
        assert heard == 0
