"""The latent explorer: what Python gives to the page, and what the page makes of it."""

import base64
import io
import json
import re

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

import vae_lib
from vae_lib import VAE, bernoulli_log_likelihood, kl_to_standard_normal, plotting, stream

pytest.importorskip("anywidget")

from vae_lib.widgets import LatentExplorer
from vae_lib.widgets.explorer import pack, quantise, rounded

SMALL = VAE(hidden_dim=5, activation="gelu", generator=stream("small"))
LABELS = torch.arange(12) % 10
IMAGES = torch.randint(0, 256, (12, 28, 28), generator=stream("pixels"), dtype=torch.uint8)
SPLIT = vae_lib.Split(IMAGES, LABELS)
MIB = 2**20


def small(**settings):
    return LatentExplorer(SMALL, SPLIT, **settings)


@pytest.fixture(autouse=True)
def close_figures():
    with matplotlib.rc_context():
        yield
    plt.close("all")


# Python ------------------------------------------------------------------------------------------


def unpacked(data, shapes):
    """Weights and biases from what `pack` wrote, by another way than the page's."""
    layers = []
    for rows, columns in shapes:
        scale, data = np.frombuffer(data[: 4 * rows], "<f4"), data[4 * rows :]
        bias, data = np.frombuffer(data[: 4 * rows], "<f4"), data[4 * rows :]
        count = rows * columns
        length = 3 * ((count + 1) // 2)
        bits = np.unpackbits(np.frombuffer(data[:length], np.uint8), bitorder="little")
        numbers = bits.reshape(-1, 12) @ (1 << np.arange(12)) - 2048
        weight = numbers[:count].reshape(rows, columns).astype(np.float32) * scale[:, None]
        layers.append((torch.from_numpy(weight.astype(np.float32)), torch.tensor(bias.tolist())))
        data = data[length + -length % 4 :]
    assert not data
    return layers


def as_on_the_page(explorer):
    """A VAE with the weights that the page computes with."""
    vae = VAE(2, explorer.hidden_dim, explorer.activation)
    h = explorer.hidden_dim
    encoder = unpacked(explorer.encoder_weights, [(h, 784), (h, h), (2, h), (2, h)])
    decoder = unpacked(explorer.decoder_weights, [(h, 2), (h, h), (784, h)])
    layers = [vae.encoder.hidden[0], vae.encoder.hidden[2], vae.encoder.mu, vae.encoder.log_var]
    layers += [vae.decoder.hidden[0], vae.decoder.hidden[2], vae.decoder.logits]
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, encoder + decoder, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return vae


@pytest.fixture(scope="module")
def reference(mnist):
    return vae_lib.trained_vae()


@pytest.fixture(scope="module")
def explorer(reference, mnist):
    return LatentExplorer(reference, mnist.test)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("vae", [None, SMALL.encoder], "a vae_lib.VAE"),
        ("vae", [VAE(3, 4), VAE(1, 4)], "two latent dimensions"),
        ("split", [None, IMAGES, "test"], "a vae_lib.Split"),
        ("num_codes", [0, -1, 1.5, True, "2"], "a whole number ≥ 1"),
        ("num_codes", [13], "at most the 12 images of split"),
        ("examples_per_digit", [0, 1.0, None], "a whole number ≥ 1"),
        ("half_width", [0, -1.0, float("nan"), None], "a finite number > 0"),
        ("z", [None, [1.0], [1.0, 2.0, 3.0], "ab", 1.0, torch.zeros(1, 2, 2)], "two finite numbers"),
        ("z", [[0.0, float("inf")], [float("nan"), 0.0], ["1", 0.0]], "a finite number"),
    ],
)
def test_a_wrong_argument_is_named(name, values, expected):
    for value in values:
        with pytest.raises(ValueError, match=rf"^{name}: expected {re.escape(expected)}, got"):
            LatentExplorer(**{"vae": SMALL, "split": SPLIT, name: value})


def test_a_model_that_is_not_finite_is_refused():
    broken = VAE(hidden_dim=3, generator=stream("small"))
    with torch.no_grad():
        broken.decoder.logits.bias[0] = float("nan")
    with pytest.raises(ValueError, match="^vae: expected finite weights"):
        LatentExplorer(broken, SPLIT)


def test_rounded_weights_are_within_half_a_step():
    weight = torch.randn(7, 33, generator=stream("weights")).numpy()
    weight[3] = 0
    numbers, scale = quantise(weight)
    assert numbers.dtype == np.int16 and scale.shape == (7,)
    assert np.abs(numbers).max(axis=1).tolist() == [2047, 2047, 2047, 0, 2047, 2047, 2047]
    error = np.abs(numbers * scale[:, None] - weight)
    assert (error <= 0.5001 * scale[:, None]).all()
    assert error[0].max() > 0.3 * scale[0]


@pytest.mark.parametrize("shape", [(2, 3), (3, 3), (1, 1), (5, 784)])
def test_packed_weights_can_be_unpacked(shape):
    layer = torch.nn.Linear(shape[1], shape[0])
    [(weight, bias)] = unpacked(pack([layer]), [shape])
    assert torch.equal(bias, layer.bias.detach())
    torch.testing.assert_close(weight, layer.weight.detach(), rtol=0, atol=1 / 2047)
    assert len(pack([layer, layer])) == 2 * len(pack([layer]))


def test_the_rounded_model_is_the_packed_one(explorer, reference):
    for vae, given in ((rounded(reference), explorer), (rounded(SMALL), small())):
        packed = as_on_the_page(given).state_dict()
        for name, value in vae.state_dict().items():
            assert torch.equal(value, packed[name])
    assert not torch.equal(rounded(SMALL).decoder.logits.weight, SMALL.decoder.logits.weight)
    with pytest.raises(ValueError, match="^vae: expected a vae_lib.VAE"):
        rounded(None)


def test_the_weights_are_small_and_near_enough(explorer, reference, mnist):
    assert len(explorer.decoder_weights) < 0.73e6 < MIB
    assert len(explorer.decoder_weights) + len(explorer.encoder_weights) < 1.45e6 < 2 * MIB
    on_page, x = as_on_the_page(explorer), mnist.test.pixels()
    axis = torch.linspace(-4, 4, 65)
    with torch.no_grad():
        mu, log_var = reference.encode(x)
        z = torch.cat((torch.cartesian_prod(axis, axis), mu))
        difference = (on_page.decode(z).sigmoid() - reference.decode(z).sigmoid()).abs().max()
        assert 0.001 < difference < 0.005  # what the docstring says; 8 bits would give 0.08
        # With the same noise, each of the two terms.
        noise = torch.randn(len(x), 2, generator=stream("noise"))
        terms = []
        for vae in (reference, on_page):
            logits, mu, log_var = vae(x, noise=noise)
            terms.append((bernoulli_log_likelihood(x, logits), kl_to_standard_normal(mu, log_var)))
        of_reconstruction, of_kl = ((a - b).abs() for a, b in zip(*terms))
    assert of_reconstruction.max() < 0.3 and of_reconstruction.mean() < 0.015
    assert of_kl.max() < 0.01


def test_the_codes_are_the_encoder_s(explorer, reference, mnist):
    with torch.no_grad():
        mu = reference.encode(mnist.test.pixels())[0]
    codes = torch.from_numpy(np.frombuffer(explorer.codes, "<f4").copy()).view(-1, 2)
    torch.testing.assert_close(codes, mu, rtol=0, atol=1e-5)
    assert list(explorer.labels) == mnist.test.labels.tolist()
    assert list(explorer.example_labels) == [digit for digit in range(10) for _ in range(3)]
    fives = mnist.test.images[mnist.test.labels == 5]
    assert explorer.examples[784 * 15 : 784 * 16] == fives[0].numpy().tobytes()
    assert explorer.examples[784 * 17 : 784 * 18] == fives[2].numpy().tobytes()
    assert explorer.colours == list(plotting.DIGIT_COLOURS)


def test_fewer_codes_and_examples():
    explorer = small(num_codes=4, examples_per_digit=1)
    assert len(explorer.codes) == 4 * 2 * 4 and list(explorer.labels) == [0, 1, 2, 3]
    assert list(explorer.example_labels) == list(range(10))
    assert list(small().example_labels) == [0, 0, 1, 1, *range(2, 10)]


def test_python_sees_z_and_sets_it():
    explorer, seen = small(z=(1, -2)), []
    assert explorer.z == [1.0, -2.0]
    explorer.observe(lambda change: seen.append(change.new), "z")
    explorer.z = torch.tensor([0.5, 0.25])
    explorer.set_state({"z": [3.0, -1.5]})  # as a message from the page would
    assert seen == [[0.5, 0.25], [3.0, -1.5]] and explorer.z == [3.0, -1.5]
    with pytest.raises(ValueError, match="^z: expected two finite numbers"):
        explorer.z = [1.0]
    assert explorer.z == [3.0, -1.5]


def test_a_new_model_is_put_in(monkeypatch):
    explorer, other = small(), VAE(hidden_dim=8, activation="tanh", generator=stream("other"))
    before, figure = explorer.get_state(), explorer._repr_mimebundle_()[0]["image/png"]
    sent = []
    monkeypatch.setattr(explorer, "send_state", lambda names: sent.append(set(names)))
    explorer.vae = other
    after = explorer.get_state()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {
        "hidden_dim", "activation", "encoder_weights", "decoder_weights", "codes",
    }  # fmt: skip
    assert explorer.vae is other
    assert sent == [changed]  # one message
    fresh = LatentExplorer(other, SPLIT).get_state()
    assert all(after[name] == fresh[name] for name in changed)
    monkeypatch.undo()
    assert explorer._repr_mimebundle_()[0]["image/png"] != figure
    with pytest.raises(ValueError, match="^vae: expected two latent dimensions"):
        explorer.vae = VAE(3, 4)
    assert explorer.vae is other and explorer.get_state() == after


def test_models_of_double_precision():
    explorer = LatentExplorer(VAE(hidden_dim=5, generator=stream("small")).double(), SPLIT)
    single = LatentExplorer(VAE(hidden_dim=5, generator=stream("small")), SPLIT)
    assert explorer.decoder_weights == single.decoder_weights
    explorer.static_figure()


def test_the_output_carries_a_picture_and_a_text(explorer):
    assert repr(explorer) == "LatentExplorer(latent_dim=2, codes=10000)"
    data, _ = explorer._repr_mimebundle_()
    assert data["text/plain"] == repr(explorer)
    assert "application/vnd.jupyter.widget-view+json" in data
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB"))
    for colour in plotting.DIGIT_COLOURS:
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(pixels.astype(int) - rgb).max(axis=2) < 4).sum() > 30, colour
    assert not plt.get_fignums()


def test_the_picture_shows_where_z_is_and_what_it_decodes_to(explorer, reference):
    moved = LatentExplorer(SMALL, SPLIT, z=(1.0, -0.5))
    left, right = moved.static_figure().axes
    assert left.lines[-1].get_xydata().tolist() == [[1.0, -0.5]]
    assert [patch.radius for patch in left.patches] == [1, 2, 3]
    assert {"39 %", "86 %", "99 %"} <= {text.get_text() for text in left.texts}
    with torch.no_grad():
        expected = SMALL.decode(torch.tensor([[1.0, -0.5]])).sigmoid().view(28, 28)
    np.testing.assert_allclose(right.images[0].get_array(), expected, atol=1e-6)


# The page -----------------------------------------------------------------------------------------

# The front end that a host gives to a widget, and no more: an object to get, set and hear traits.
# `kernel` does what a message from Python would.
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>explorer</title>
<style>body { margin: 16px; }</style><main></main>
<script type="application/json" id="state">STATE</script>
<script type="module">
const { esm, state, buffers } = JSON.parse(document.getElementById("state").textContent);
const view = window.view = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const put = (values, buffers) => {
  for (const [name, text] of Object.entries(buffers)) values[name] = view(text);
  Object.assign(state, values);
  return values;
};
put(state, buffers);
const heard = {};
window.saved = [];
window.leaked = [];
document.addEventListener("keydown", (event) => window.leaked.push(event.key));
window.model = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = value; },
  save_changes: () => window.saved.push([...state.z]),
  on: (type, listener) => (heard[type] ||= []).push(listener),
  off: (type, listener) => { heard[type] = heard[type].filter((each) => each !== listener); },
  send: () => {},
};
window.heard = heard;
window.kernel = (values, buffers = {}) => {
  for (const name of Object.keys(put(values, buffers))) {
    (heard[`change:${name}`] || []).forEach((listener) => listener());
  }
};
// When all that was asked for has been drawn.
window.drawn = () => new Promise((done) =>
  requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(done))));
// Red, green, blue and opacity; from a copy, as the browser warns of a canvas that is read often.
window.data = (canvas) => {
  const { width, height } = canvas;
  const copy = Object.assign(document.createElement("canvas"), { width, height });
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  return context.getImageData(0, 0, width, height).data;
};
window.pixels = (part) => {
  const values = data(document.querySelector(`canvas[data-part="${part}"]`));
  return Array.from({ length: 784 }, (_, i) => values[4 * i]);
};
const code = new Blob([esm], { type: "text/javascript" });
window.explorer = await import(URL.createObjectURL(code));
window.network = () => explorer.readNetwork(state);
window.unmount = explorer.default.render({ model, el: document.querySelector("main") });
window.ready = true;
</script></html>"""


def state_of(explorer):
    """What the page is given: texts and numbers, and the binary traits in base64."""
    state, buffers = {}, {}
    for name, value in explorer.get_state().items():
        if isinstance(value, bytes):
            buffers[name] = base64.b64encode(value).decode()
        elif not name.startswith("_") and name not in ("layout", "tabbable", "tooltip"):
            state[name] = value
    return state, buffers


def address_of(explorer, folder):
    state, buffers = state_of(explorer)
    content = {"esm": explorer.get_state()["_esm"], "state": state, "buffers": buffers}
    path = folder / "page.html"
    text = PAGE.replace("STATE", json.dumps(content).replace("</", "<\\/"), 1)
    path.write_text(text, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def address(explorer, tmp_path_factory):
    return address_of(explorer, tmp_path_factory.mktemp("explorer"))


@pytest.fixture
def small_address(tmp_path):
    return address_of(small(), tmp_path)


@pytest.fixture
def open_explorer(open_page):
    """Open the explorer's page; no page may have complained when the test ends."""
    logs = []

    def open_explorer(url, **options):
        # Without motion nothing moves by itself, and each test says what is to happen.
        page, log = open_page(url, **({"reduced_motion": "reduce"} | options))
        page.set_default_timeout(10_000)
        page.wait_for_function("window.ready")
        logs.append(log)
        return page

    yield open_explorer
    for log in logs:
        assert log.complaints == [] and log.other_hosts == []


def part(page, name):
    return page.locator(f'[data-part="{name}"]')


def z_of(page):
    return page.evaluate("[...model.get('z')]")


def numbers(page):
    """What the terms were computed from, with all their digits."""
    data = page.evaluate("({...document.querySelector('[data-part=terms]').dataset})")
    return {
        key: [float(value) for value in data[key].split(",")]
        for key in ("mu", "logVar", "noise", "sample", "reconstruction", "kl", "count")
    }


def number(page, name):
    text = part(page, name).inner_text()
    assert text.endswith(" nats")
    return float(text.removesuffix(" nats").replace("−", "-"))


def assert_decoded(page, name, vae, z, tolerance=0.005):
    """The picture is what `vae` draws at z; half a grey level is lost in the canvas."""
    page.evaluate("drawn()")
    with torch.no_grad():
        expected = vae.decode(torch.tensor([z], dtype=torch.float32)).sigmoid()[0]
    shown = torch.tensor(page.evaluate("(name) => pixels(name)", name)) / 255
    assert shown.std() > 0.05
    assert (shown - expected).abs().max() < tolerance + 0.5 / 255


def wait_for_live(page, pattern):
    page.wait_for_function(
        "(p) => new RegExp(p).test(document.querySelector('[data-part=live]').textContent)",
        arg=pattern,
    )


def test_the_decoder_in_the_browser_is_pytorch_s(open_explorer, address, reference):
    page = open_explorer(address)
    axis = torch.linspace(-4, 4, 9)
    z = torch.cartesian_prod(axis, axis)
    found = page.evaluate(
        """(points) => {
          const net = network();
          return points.map((z) => [...explorer.probabilities(explorer.decode(net, z))]);
        }""",
        z.tolist(),
    )
    with torch.no_grad():
        expected = reference.decode(z).sigmoid()
    assert (torch.tensor(found) - expected).abs().max() < 0.005


def test_the_encoder_and_the_terms_in_the_browser_are_pytorch_s(
    open_explorer, address, reference, mnist
):
    page = open_explorer(address)
    x = mnist.test.pixels()[:40]
    noise = torch.randn(40, 2, generator=stream("noise"))
    found = page.evaluate(
        """([images, noise]) => {
          const net = network();
          return images.map((x, i) => {
            const { mu, logVar } = explorer.encode(net, x);
            const z = explorer.reparameterize(mu, logVar, noise[i]);
            const cost = explorer.reconstructionTerm(x, explorer.decode(net, z));
            return [...mu, ...logVar, cost, explorer.klTerm(mu, logVar)];
          });
        }""",
        [x.tolist(), noise.tolist()],
    )
    found = torch.tensor(found)
    with torch.no_grad():
        logits, mu, log_var = reference(x, noise=noise)
    torch.testing.assert_close(found[:, :2], mu, rtol=0, atol=2e-3)
    torch.testing.assert_close(found[:, 2:4], log_var, rtol=0, atol=2e-3)
    expected = -bernoulli_log_likelihood(x, logits)
    torch.testing.assert_close(found[:, 4], expected, rtol=0, atol=0.3)
    torch.testing.assert_close(found[:, 5], kl_to_standard_normal(mu, log_var), rtol=0, atol=0.01)


def test_every_activation(open_explorer, small_address):
    page = open_explorer(small_address)
    z, x = torch.tensor([[1.5, -2.0], [-0.3, 0.1]]), SPLIT.pixels()[:1]
    for activation in vae_lib.models.ACTIVATIONS:
        vae = VAE(hidden_dim=7, activation=activation, generator=stream("small"))
        explorer = LatentExplorer(vae, SPLIT)
        vae = as_on_the_page(explorer)
        logits, code = page.evaluate(
            """([state, buffers, z, x]) => {
              for (const name in buffers) state[name] = view(buffers[name]);
              const net = explorer.readNetwork(state);
              return [z.map((point) => [...explorer.decode(net, point)]), explorer.encode(net, x)];
            }""",
            [*state_of(explorer), z.tolist(), x[0].tolist()],
        )
        with torch.no_grad():
            expected = [vae.decode(z), *vae.encode(x)]
        for found, tensor in zip((logits, [code["mu"]], [code["logVar"]]), expected, strict=True):
            torch.testing.assert_close(torch.tensor(found), tensor, rtol=1e-5, atol=1e-5)


def test_functions_of_numbers(open_explorer, small_address):
    page = open_explorer(small_address)
    # The vote: of the three nearest codes two are of 7.
    arguments = [[0, 0, 1, 0, 0, 1, 5, 5], [7, 7, 3, 3], [0.1, 0.0], 3]
    vote = page.evaluate(
        "([codes, labels, z, k]) => explorer.vote(Float32Array.from(codes), labels, z, k)", arguments
    )
    assert (vote["digit"], vote["votes"], vote["of"]) == (7, 2, 3)
    assert vote["distance"] == pytest.approx(1.01**0.5, abs=1e-6)
    # Labels on the plane: pushed apart, and no farther.
    places = page.evaluate("explorer.apart([[0, 0], [1, 0], [50, 0]], 10)")
    assert places == [[-4.5, 0], [5.5, 0], [50, 0]]
    # Centred: MNIST's images are, and a blot in a corner comes to the middle.
    corner = torch.zeros(28, 28)
    corner[2:6, 20:26] = 1.0
    moved = torch.tensor(page.evaluate("(x) => explorer.centred(x)", corner.flatten().tolist()))
    rows, columns = moved.view(28, 28).nonzero().T
    assert moved.sum() == 24 and {rows.min().item(), rows.max().item()} == {12, 15}
    assert {columns.min().item(), columns.max().item()} == {11, 16}
    # The noise is standard normal.
    draws = np.array(page.evaluate("{ const n = explorer.normalStream(1); [...Array(4000)].map(n) }"))
    assert abs(draws.mean()) < 0.08 and abs(draws.std() - 1) < 0.06
    assert (np.abs(draws) < 1.96).mean() == pytest.approx(0.95, abs=0.02)


def test_mouse(open_explorer, address, reference):
    page = open_explorer(address)
    assert_decoded(page, "decoded", reference, [0.0, 0.0])
    box = part(page, "plane").bounding_box()

    def at(z):
        return box["x"] + box["width"] * (z[0] + 5) / 10, box["y"] + box["height"] * (5 - z[1]) / 10

    page.mouse.move(*at((1.0, 1.0)))
    assert z_of(page) == [0, 0]  # the button is not down
    page.mouse.down()
    page.mouse.move(*at((0.0, -1.0)))
    page.mouse.move(*at((-2.0, 1.5)), steps=5)
    assert z_of(page) == pytest.approx([-2.0, 1.5], abs=0.02)
    assert_decoded(page, "decoded", reference, z_of(page))
    page.mouse.move(box["x"] - 10, box["y"] - 10)
    assert z_of(page) == [-5, 5]  # no farther than the rim
    page.mouse.up()
    page.mouse.move(*at((1.0, 1.0)))
    assert z_of(page) == [-5, 5]
    assert page.evaluate("saved.length") >= 7
    wait_for_live(page, r"^z = \(−5\.00, 5\.00\)\. .* nearest codes are of 7, but")


def test_touch(open_explorer, address, reference):
    page = open_explorer(address, viewport={"width": 360, "height": 740}, has_touch=True)
    box = part(page, "plane").bounding_box()
    page.touchscreen.tap(box["x"] + 0.7 * box["width"], box["y"] + 0.4 * box["height"])
    assert z_of(page) == pytest.approx([2.0, 1.0], abs=0.02)
    assert_decoded(page, "decoded", reference, z_of(page))
    # A finger that moves over the plane moves z, and the page stays where it is.
    touch = page.context.new_cdp_session(page)
    points = [(0.5, 0.5), (0.45, 0.45), (0.4, 0.4), (0.3, 0.3)]
    for kind, (u, v) in zip(("touchStart", *["touchMove"] * 3), points):
        point = {"x": box["x"] + u * box["width"], "y": box["y"] + v * box["height"]}
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.evaluate("drawn()")
    assert z_of(page) == pytest.approx([-2.0, 2.0], abs=0.02)
    assert page.evaluate("scrollY") == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_keys(open_explorer, address, reference):
    page = open_explorer(address)
    plane = part(page, "plane")
    plane.focus()
    top = page.evaluate("scrollY")
    for key, expected in (
        ("ArrowRight", [0.1, 0]), ("ArrowUp", [0.1, 0.1]), ("Shift+ArrowLeft", [-0.4, 0.1]),
        ("Shift+ArrowDown", [-0.4, -0.4]), ("ArrowLeft", [-0.5, -0.4]),
        ("ArrowDown", [-0.5, -0.5]), ("ArrowDown", [-0.5, -0.6]),
    ):  # fmt: skip
        page.keyboard.press(key)
        assert z_of(page) == pytest.approx(expected)
    assert_decoded(page, "decoded", reference, [-0.5, -0.6])
    wait_for_live(page, r"^z = \(−0\.50, −0\.60\)\. (All|\d+ of the) 15 nearest codes are of \d\.$")
    assert part(page, "z1").input_value() == "-0.50"
    assert page.evaluate("scrollY") == top  # the page has stood still
    page.keyboard.press("Home")
    assert z_of(page) == [0, 0]
    assert page.evaluate("leaked") == ["Shift", "Shift"]  # a notebook sees nothing of the rest
    assert plane.evaluate("(e) => getComputedStyle(e).outlineStyle") == "solid"
    # The place can be typed as well.
    part(page, "z2").fill("1.25")
    part(page, "z2").press("Enter")
    assert z_of(page) == [0, 1.25]
    part(page, "z1").fill("99")
    part(page, "z1").press("Enter")
    assert z_of(page) == [5, 1.25]
    wait_for_live(page, r"^z = \(5\.00, 1\.25\)\.")


def test_every_control_can_be_reached_and_shows_the_focus(open_explorer, small_address):
    page = open_explorer(small_address)
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        element = page.evaluate(
            """() => {
              const e = document.activeElement;
              if (!e.closest("main")) return null;
              const shown = getComputedStyle(e).outlineStyle !== "none";
              return [e.dataset.part || e.dataset.digit || `example ${e.dataset.example}`, shown];
            }"""
        )
        if element is None:
            break
        reached.append(element)
    assert all(shown for _, shown in reached)
    assert [name for name, _ in reached] == [
        "plane", *"0123456789", "z1", "z2", "set-a", "set-b", "t", "play", "stop", "example 0",
        "pad", "clear", "sample", "keep",
    ]  # fmt: skip


def test_the_nearest_class_is_the_vote_of_the_nearest_codes(open_explorer, address, explorer):
    page = open_explorer(address)
    codes = torch.from_numpy(np.frombuffer(explorer.codes, "<f4").copy()).view(-1, 2)
    for z in ([1.6, 0.8], [-0.4, 0.8], [0.35, 0.0]):
        page.evaluate("(z) => kernel({ z })", z)
        page.evaluate("drawn()")
        nearest = (codes - torch.tensor(z)).norm(dim=1).topk(15, largest=False).indices.tolist()
        votes = np.bincount([explorer.labels[i] for i in nearest], minlength=10)
        share = "All 15" if votes.max() == 15 else f"{votes.max()} of the 15"
        expected = f"{share} nearest codes are of {votes.argmax()}."
        assert part(page, "readout").inner_text() == expected
    wait_for_live(page, r"^z = \(0\.35, 0\.00\)\. " + re.escape(expected))


def test_the_kernel_moves_z_and_changes_the_model(open_explorer, address, reference):
    page = open_explorer(address)
    page.evaluate("kernel({ z: [1.5, -1] })")
    assert_decoded(page, "decoded", reference, [1.5, -1.0])
    assert page.evaluate("saved") == []  # nothing is sent back
    picked = number(page, "reconstruction-term")
    other = LatentExplorer(SMALL, SPLIT)
    state, buffers = state_of(other)
    changed = ("hidden_dim", "activation", "encoder_weights", "decoder_weights", "codes", "labels")
    page.evaluate(
        "([state, buffers]) => kernel(state, buffers)",
        [{k: v for k, v in each.items() if k in changed} for each in (state, buffers)],
    )
    page.evaluate("drawn()")
    # SMALL is untrained: its picture is nearly grey.
    with torch.no_grad():
        expected = SMALL.decode(torch.tensor([[1.5, -1.0]])).sigmoid()[0]
    shown = torch.tensor(page.evaluate("pixels('decoded')")) / 255
    assert (shown - expected).abs().max() < 0.005
    assert number(page, "reconstruction-term") > picked + 100


def test_a_view_can_be_removed(open_explorer, small_address):
    page = open_explorer(small_address)
    page.evaluate("unmount()")
    assert page.locator("main").inner_html() == ""
    assert page.evaluate("Object.values(heard).flat().length") == 0
    page.evaluate("kernel({ z: [1, 1] })")
    page.evaluate("drawn()")


def test_one_class_can_be_shown_alone(open_explorer, address):
    page = open_explorer(address)
    ink = """() => data(document.querySelector('[data-part=plane] canvas'))
      .reduce((sum, value, i) => sum + (i % 4 === 3 ? value : 0), 0)"""
    full = page.evaluate(ink)
    four = page.get_by_role("button", name="Show only the codes of 4")
    four.press("Enter")
    assert four.get_attribute("aria-pressed") == "true"
    assert page.evaluate(ink) < 0.6 * full
    wait_for_live(page, "^Only the codes of 4 are shown")
    four.press(" ")
    assert page.evaluate(ink) == full and four.get_attribute("aria-pressed") == "false"


def test_a_digit_on_a_light_colour_is_written_in_black(open_explorer, address):
    page = open_explorer(address)
    black = """() => data(document.querySelector('[data-part=plane] canvas')).some(
      (_, i, all) => i % 4 === 0 && !all[i] && !all[i + 1] && !all[i + 2] && all[i + 3] === 255)"""
    found = []
    for digit in range(10):
        key = page.get_by_role("button", name=f"Show only the codes of {digit}")
        key.press("Enter")
        found += [digit] if page.evaluate(black) else []
        key.press("Enter")
    assert tuple(found) == plotting.LIGHT_DIGITS


def check_terms(page, reference, x):
    """The numbers shown are PyTorch's at the sample shown; returns them."""
    page.evaluate("drawn()")
    found = numbers(page)
    with torch.no_grad():
        mu, log_var = reference.encode(x)
        z = reference.reparameterize(mu, log_var, noise=torch.tensor([found["noise"]]))
        logits = reference.decode(z)
    torch.testing.assert_close(torch.tensor([found["mu"]]), mu, rtol=0, atol=2e-3)
    torch.testing.assert_close(torch.tensor([found["logVar"]]), log_var, rtol=0, atol=2e-3)
    torch.testing.assert_close(torch.tensor([found["sample"]]), z, rtol=0, atol=2e-3)
    reconstruction = -bernoulli_log_likelihood(x, logits).item()
    kl = kl_to_standard_normal(mu, log_var).item()
    # What is shown has one digit after the point.
    assert number(page, "reconstruction-term") == pytest.approx(reconstruction, abs=0.35)
    assert number(page, "kl-term") == pytest.approx(kl, abs=0.06)
    assert number(page, "elbo") == pytest.approx(-reconstruction - kl, abs=0.36)
    assert_decoded(page, "reconstruction", reference, found["sample"])
    return found


def test_an_example_is_encoded(open_explorer, address, reference, explorer):
    page = open_explorer(address)
    for example, digit in ((9, 3), (28, 9)):
        pixels = np.frombuffer(explorer.examples, np.uint8).reshape(-1, 784)[example]
        x = torch.tensor(pixels.tolist())[None] / 255
        button = page.get_by_role("button", name=re.compile(f"^Test image: a {digit}, number"))
        button = button.nth(example % 3)
        button.press("Enter") if example == 28 else button.click()
        assert button.get_attribute("aria-pressed") == "true"
        found = check_terms(page, reference, x)
        assert page.evaluate("pixels('seen')") == pixels.tolist()
        # z has gone to the mean, and the ellipses lie about it at one and two σ.
        assert z_of(page) == pytest.approx(found["mu"], abs=1e-3)
        box = part(page, "plane").bounding_box()
        for sds in (1, 2):
            ellipse = part(page, f"ellipse-{sds}")
            for name, log_var in zip(("rx", "ry"), found["logVar"]):
                radius = sds * np.exp(0.5 * log_var) * (box["width"] - 2) / 10
                assert float(ellipse.get_attribute(name)) == pytest.approx(radius, rel=0.01)
        wait_for_live(page, f"^The encoder puts the test image of a {digit} at ")
        assert found["count"] == [1] and part(page, "mean-elbo").inner_text() == part(
            page, "elbo"
        ).inner_text()


def test_samples_are_drawn_one_at_a_time(open_explorer, address, reference, explorer):
    page = open_explorer(address)
    x = torch.tensor(list(explorer.examples[784 * 18 : 784 * 19]))[None] / 255  # shown at first
    costs, places = [check_terms(page, reference, x)["reconstruction"][0]], []
    for n in range(2, 6):
        part(page, "sample").press("Enter")
        found = check_terms(page, reference, x)
        costs.append(found["reconstruction"][0])
        places.append(tuple(found["sample"]))
        assert found["count"] == [n]
    assert len(set(places)) == 4
    mean = -np.mean(costs) - found["kl"][0]
    assert number(page, "mean-elbo") == pytest.approx(mean, abs=0.06)
    wait_for_live(page, "^5 samples drawn. At the last one: reconstruction term [0-9.]+ nats, KL")
    # The dot in the enlarged picture lies where the sample does.
    dot = page.locator(".vx-sample").evaluate("(e) => new DOMMatrix(getComputedStyle(e).transform)")
    widths = np.exp(0.5 * np.array(found["logVar"]))
    expected = 20 * np.array(found["noise"]) * widths / widths.max() * (1, -1)
    assert [dot["e"], dot["f"]] == pytest.approx(expected, abs=0.01)
    # Nothing has been drawn meanwhile by itself.
    assert numbers(page)["count"] == [5]


def test_arrow_keys_go_through_the_examples(open_explorer, address):
    page = open_explorer(address)
    page.locator('[data-example="0"]').focus()
    focused = "document.activeElement.dataset.example"
    for key, expected in (("ArrowRight", "1"), ("End", "29"), ("ArrowRight", "29"),
                          ("Home", "0"), ("ArrowDown", "15")):  # fmt: skip
        page.keyboard.press(key)
        assert page.evaluate(focused) == expected
    page.keyboard.press(" ")
    wait_for_live(page, "^The encoder puts the test image of a 5 at")
    # Tab comes back to the one that was left.
    assert page.locator('[data-example][tabindex="0"]').get_attribute("data-example") == "15"


def test_drawing_with_the_mouse(open_explorer, address, reference):
    page = open_explorer(address)
    part(page, "pad").scroll_into_view_if_needed()
    box = part(page, "pad").bounding_box()

    def at(column, row):
        return box["x"] + box["width"] * column / 28, box["y"] + box["height"] * row / 28

    # An upright stroke, right of the middle: the encoder gets it centred.
    page.mouse.move(*at(19, 5))
    page.mouse.down()
    page.mouse.move(*at(19, 23), steps=8)
    page.mouse.up()
    page.evaluate("drawn()")
    seen = torch.tensor(page.evaluate("pixels('seen')")).view(28, 28) / 255
    columns = (seen.sum(dim=0) * torch.arange(28)).sum() / seen.sum()
    assert 13 <= columns <= 14.1 and 40 < seen.sum() < 90
    assert ((0.05 < seen) & (seen < 0.95)).any()  # a soft brush
    found = check_terms(page, reference, seen.view(1, 784))
    assert z_of(page) == pytest.approx(found["mu"], abs=1e-3)
    wait_for_live(page, r"^The encoder puts your drawing at .* nearest codes are of 1")
    part(page, "clear").click()
    page.evaluate("drawn()")
    assert sum(page.evaluate("pixels('seen')")) == 0
    wait_for_live(page, "^The drawing pad is empty")


def test_drawing_with_keys(open_explorer, address, reference):
    page = open_explorer(address)
    part(page, "pad").focus()
    for _ in range(9):
        page.keyboard.press("ArrowUp")
    wait_for_live(page, "^Pen at column 14, row 5")
    page.evaluate("drawn()")
    before = page.evaluate("pixels('seen')")
    page.keyboard.press(" ")
    for _ in range(18):
        page.keyboard.press("ArrowDown")
    page.keyboard.press(" ")
    page.evaluate("drawn()")
    after = page.evaluate("pixels('seen')")
    assert after != before
    check_terms(page, reference, torch.tensor([after]) / 255)
    wait_for_live(page, r"^The encoder puts your drawing at .* nearest codes are of 1")
    page.keyboard.press("Delete")
    wait_for_live(page, "^The drawing pad is empty")
    assert "ArrowDown" not in page.evaluate("leaked")


def test_the_walk_with_reduced_motion(open_explorer, address, reference):
    page = open_explorer(address)
    play = part(page, "play")
    assert play.inner_text() == "Next step"
    # Set both ends with the keys.
    part(page, "plane").focus()
    page.keyboard.press("Shift+ArrowRight")
    part(page, "set-a").press("Enter")
    page.keyboard.press("Tab")
    part(page, "plane").focus()
    for _ in range(4):
        page.keyboard.press("Shift+ArrowUp")
    part(page, "set-b").press("Enter")
    assert float(part(page, "t").input_value()) == 1 and z_of(page) == [0.5, 2]
    part(page, "stop").press("Enter")
    assert z_of(page) == [0.5, 0]
    play.press("Enter")
    assert z_of(page) == pytest.approx([0.5, 0.2])
    assert_decoded(page, "decoded", reference, [0.5, 0.2])
    page.evaluate("drawn()")
    assert z_of(page) == pytest.approx([0.5, 0.2])  # one step, and no more
    part(page, "t").press("End")
    assert z_of(page) == [0.5, 2]
    play.press("Enter")
    assert z_of(page) == [0.5, 0]  # from the start again
    wait_for_live(page, r"^z = \(0\.50, 0\.00\)")


def test_the_walk_and_the_samples_in_motion(open_explorer, address):
    page = open_explorer(address, reduced_motion="no-preference")
    assert page.evaluate("saved") == []  # nothing moves before anything is asked for
    play = part(page, "play")
    assert play.inner_text() == "Play"
    play.click()
    assert play.inner_text() == "Pause"
    page.wait_for_function("document.querySelector('[data-part=t]').valueAsNumber > 0.05")
    play.click()
    assert play.inner_text() == "Play"
    rest = z_of(page)
    page.evaluate("drawn()")
    assert z_of(page) == rest != [0, 0]
    part(page, "stop").click()
    assert float(part(page, "t").input_value()) == 0
    # A picture that is picked: samples of its posterior, until they are stopped.
    keep = part(page, "keep")
    page.locator('[data-example="4"]').click()
    assert keep.inner_text() == "Pause"
    page.wait_for_function("document.querySelector('[data-part=terms]').dataset.count >= 2")
    keep.click()
    assert keep.inner_text() == "Keep sampling"
    count = numbers(page)["count"]
    page.wait_for_function("document.querySelector('[data-part=live]').textContent !== ''")
    assert numbers(page)["count"] == count


def test_the_live_region_does_not_flood(open_explorer, address):
    page = open_explorer(address)
    page.evaluate(
        """() => {
          window.said = [];
          const live = document.querySelector('[data-part=live]');
          new MutationObserver(() => said.push(live.textContent)).observe(live, { childList: true });
        }"""
    )
    part(page, "plane").focus()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    wait_for_live(page, r"^z = \(1\.20, 0\.00\)")
    assert len(page.evaluate("said")) <= 2


def test_everyone_can_use_it(open_explorer, small_address):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_explorer(small_address, viewport={"width": 360, "height": 740})
    for theme, background in (("light", "#ffffff"), ("dark", "#14181e")):
        page.evaluate(
            """([theme, background]) => {
              document.documentElement.dataset.theme = theme;
              document.body.style.background = background;
            }""",
            [theme, background],
        )
        found = axe.run(page, context="main").response["violations"]
        assert [(theme, each["id"], each["nodes"][0]["html"]) for each in found] == []


# The built site -----------------------------------------------------------------------------------

# `pixels` and `drawn`, as on the page above.
HELPERS = re.search(r"// When all that.*?(?=const code)", PAGE, re.DOTALL)[0]


@pytest.mark.parametrize("name", ["intro", "05_latent_space", "06_generation"])
def test_a_reader_without_kernel_mouse_and_network(site, open_page, reference, explorer, name):
    address = (site / "book" / f"{name}.html").as_uri()
    page, log = open_page(address, offline=True, reduced_motion="reduce")
    page.set_default_timeout(20_000)
    page.evaluate(HELPERS + "null")  # a function as the result would be called
    page.locator(".live-figure").last.scroll_into_view_if_needed()
    page.wait_for_selector('.live-figure[data-phase="live"]')
    # The keys go to the plane, and from there on with Tab.
    part(page, "plane").focus()
    for key in ("Home", "Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowUp", "ArrowDown"):
        page.keyboard.press(key)
    z = page.evaluate("document.querySelector('.live-figure').liveFigure.model.get('z')")
    assert z == pytest.approx([1.0, 0.4])
    assert_decoded(page, "decoded", reference, z)
    wait_for_live(page, r"^z = \(1\.00, 0\.40\)\. (All|\d+ of the) 15 nearest codes are of \d")
    page.locator('[data-example="18"]').focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    five = torch.tensor(list(explorer.examples[784 * 17 : 784 * 18]))[None] / 255
    check_terms(page, reference, five)
    wait_for_live(page, "^The encoder puts the test image of a 5 at ")
    # The theme complains of the browser's memory, which a file has not.
    assert [each for each in log.complaints if "invalid theme mode" not in each] == []
    assert log.other_hosts == []
