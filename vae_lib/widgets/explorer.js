// The latent explorer: encoder and decoder in the browser, and a plane to move about in.
//
// The first part are functions of numbers, which the tests call; the second part, from `render` on,
// is what is seen. Nothing is imported and nothing is fetched: all data come from the model.

const SIDE = 28;
const NUM_PIXELS = SIDE * SIDE;
const NEIGHBOURS = 15;

// ---------------------------------------------------------------- numbers

/** The bytes of a binary trait, however the host hands them over. */
export function bytesOf(value) {
  if (value instanceof Uint8Array) return value;
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
}

/** Layers that `pack` in explorer.py wrote; `shapes` lists [rows, columns] of each. */
export function unpack(value, shapes) {
  const bytes = bytesOf(value);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const floats = (count) => {
    const result = new Float32Array(count);
    for (let i = 0; i < count; i++, at += 4) result[i] = view.getFloat32(at, true);
    return result;
  };
  const layers = shapes.map(([rows, columns]) => {
    const scale = floats(rows);
    const bias = floats(rows);
    const weight = new Float32Array(rows * columns);
    for (let i = 0; i < weight.length; i++) {
      const pair = at + 3 * (i >> 1);
      const number = i & 1
        ? (bytes[pair + 1] >> 4) | (bytes[pair + 2] << 4)
        : bytes[pair] | ((bytes[pair + 1] & 15) << 8);
      weight[i] = (number - 2048) * scale[Math.floor(i / columns)];
    }
    at += 4 * Math.ceil((3 * Math.ceil(weight.length / 2)) / 4);
    return { rows, columns, weight, bias };
  });
  if (at !== bytes.length) throw new Error(`weights: expected ${at} bytes, got ${bytes.length}`);
  return layers;
}

/** The network of a model: what `encode` and `decode` take. */
export function readNetwork({ hidden_dim: h, activation, encoder_weights, decoder_weights }) {
  if (!(activation in ACTIVATIONS)) throw new Error(`activation: ${activation} is not known`);
  return {
    activation: ACTIVATIONS[activation],
    encoder: unpack(encoder_weights, [[h, NUM_PIXELS], [h, h], [2, h], [2, h]]),
    decoder: unpack(decoder_weights, [[h, 2], [h, h], [NUM_PIXELS, h]]),
  };
}

// erf by formula 7.1.26 of Abramowitz and Stegun, off by at most 1.5e-7.
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const series = t * (0.254829592 + t * (-0.284496736
    + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - series * Math.exp(-x * x));
}

const ACTIVATIONS = {
  elu: (x) => (x > 0 ? x : Math.expm1(x)),
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  identity: (x) => x,
  leaky_relu: (x) => (x > 0 ? x : 0.2 * x),
  relu: (x) => (x > 0 ? x : 0),
  silu: (x) => x / (1 + Math.exp(-x)),
  tanh: Math.tanh,
};

function linear({ rows, columns, weight, bias }, input, activation) {
  const output = new Float32Array(rows);
  for (let row = 0, at = 0; row < rows; row++) {
    let sum = bias[row];
    for (let column = 0; column < columns; column++) sum += weight[at++] * input[column];
    output[row] = activation ? activation(sum) : sum;
  }
  return output;
}

/** Mean and log variance of q(z | x), two numbers each; x: 784 pixels in [0, 1]. */
export function encode({ encoder, activation }, x) {
  const h = linear(encoder[1], linear(encoder[0], x, activation), activation);
  return { mu: Array.from(linear(encoder[2], h)), logVar: Array.from(linear(encoder[3], h)) };
}

/** The 784 logits of p(x | z). */
export function decode({ decoder, activation }, z) {
  return linear(decoder[2], linear(decoder[1], linear(decoder[0], z, activation), activation));
}

/** The probability that a pixel is white, for each logit. */
export function probabilities(logits) {
  return logits.map((logit) => 1 / (1 + Math.exp(-logit)));
}

/** −log p(x | z) in nats, summed over pixels: the reconstruction term at one z. */
export function reconstructionTerm(x, logits) {
  let sum = 0;
  for (let i = 0; i < logits.length; i++) {
    const logit = logits[i];
    sum += Math.max(logit, 0) - x[i] * logit + Math.log1p(Math.exp(-Math.abs(logit)));
  }
  return sum;
}

/** KL(q(z | x) ‖ p(z)) in nats, exact. */
export function klTerm(mu, logVar) {
  return 0.5 * mu.reduce((sum, m, j) => sum + m * m + Math.expm1(logVar[j]) - logVar[j], 0);
}

/** z = μ + σ ε */
export function reparameterize(mu, logVar, noise) {
  return mu.map((m, j) => m + Math.exp(0.5 * logVar[j]) * noise[j]);
}

/** The codes as pairs of floats, one after the other. */
export function readCodes(value) {
  return new Float32Array(bytesOf(value).slice().buffer); // the copy begins at a multiple of four
}

/** How the nearest codes vote: { digit, votes, of, distance } of the farthest that voted. */
export function vote(codes, labels, z, k = NEIGHBOURS) {
  const nearest = []; // [squared distance, label], nearest first
  for (let i = 0; i < labels.length; i++) {
    const d = (codes[2 * i] - z[0]) ** 2 + (codes[2 * i + 1] - z[1]) ** 2;
    if (nearest.length === k && d >= nearest[k - 1][0]) continue;
    let place = nearest.length;
    while (place > 0 && nearest[place - 1][0] > d) place--;
    nearest.splice(place, 0, [d, labels[i]]);
    if (nearest.length > k) nearest.pop();
  }
  const votes = new Array(10).fill(0);
  for (const [, label] of nearest) votes[label]++;
  const digit = votes.indexOf(Math.max(...votes));
  const distance = Math.sqrt(nearest[nearest.length - 1][0]);
  return { digit, votes: votes[digit], of: nearest.length, distance };
}

/** The places moved as little as it takes for no two to be nearer than `distance`. */
export function apart(places, distance) {
  const moved = places.map((place) => place.slice());
  for (let round = 0; round < 50; round++) {
    for (let i = 1; i < moved.length; i++) {
      for (let j = 0; j < i; j++) {
        const [dx, dy] = [moved[i][0] - moved[j][0], moved[i][1] - moved[j][1]];
        const length = Math.hypot(dx, dy);
        if (length >= distance) continue;
        const [ux, uy] = length ? [dx / length, dy / length] : [0, 1];
        const half = (distance - length) / 2;
        moved[i] = [moved[i][0] + half * ux, moved[i][1] + half * uy];
        moved[j] = [moved[j][0] - half * ux, moved[j][1] - half * uy];
      }
    }
  }
  return moved;
}

/** The picture moved by whole pixels so that its centre of mass is in the middle, as MNIST's are. */
export function centred(x) {
  let mass = 0, across = 0, down = 0;
  x.forEach((value, i) => {
    mass += value;
    across += value * (i % SIDE);
    down += value * Math.floor(i / SIDE);
  });
  if (mass === 0) return x.slice();
  const dx = Math.round(across / mass - SIDE / 2 + 0.5);
  const dy = Math.round(down / mass - SIDE / 2 + 0.5);
  return x.map((_, i) => {
    const column = (i % SIDE) + dx, row = Math.floor(i / SIDE) + dy;
    return column >= 0 && column < SIDE && row >= 0 && row < SIDE ? x[row * SIDE + column] : 0;
  });
}

/** Ink of a round, soft brush at (column, row), which are in pixels from the top left corner. */
export function brush(x, column, row) {
  for (let i = 0; i < NUM_PIXELS; i++) {
    const distance = Math.hypot((i % SIDE) + 0.5 - column, Math.floor(i / SIDE) + 0.5 - row);
    const ink = Math.min(1, Math.max(0, 1.9 - distance)); // all of it within 0.9, none beyond 1.9
    if (ink > x[i]) x[i] = ink;
  }
}

/** Standard normal numbers, the same on every page: mulberry32 and the Box–Muller transform. */
export function normalStream(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

function median(values) {
  const sorted = Float32Array.from(values).sort();
  return sorted[(sorted.length - 1) >> 1];
}

/** For each digit that has codes, the median of each coordinate: Map of digit to [z1, z2]. */
export function classMedians(codes, labels) {
  const medians = new Map();
  for (let digit = 0; digit < 10; digit++) {
    const own = [...labels.keys()].filter((i) => labels[i] === digit);
    if (own.length) {
      medians.set(digit, [0, 1].map((j) => median(own.map((i) => codes[2 * i + j]))));
    }
  }
  return medians;
}

// ---------------------------------------------------------------- what is seen

// The plane and the pictures are the same on light and dark pages: ink on paper, white on black.
const STYLE = `
.vx { --ink: #1f2328; --soft: #57606a; --line: #8c959f; --hint: #d0d7de; --face: #f6f8fa;
  --mark: #0550ae; color: var(--ink); font: 14px/1.45 system-ui, sans-serif;
  container-type: inline-size; max-width: 820px; margin: 0.5rem 0; text-align: left; }
html[data-theme="dark"] .vx, body[data-jp-theme-light="false"] .vx {
  --ink: #e6edf3; --soft: #aab4be; --line: #768390; --hint: #3d444d; --face: #22272e;
  --mark: #79b8ff; }
.vx *, .vx *::before { box-sizing: border-box; }
.vx p { margin: 0; padding: 0; font: inherit; color: inherit; }
.vx-row { display: grid; gap: 20px 28px; align-items: start; }
.vx-row + .vx-row { margin-top: 20px; padding-top: 18px; border-top: 1px solid var(--hint); }
.vx-side { display: grid; gap: 10px; align-content: start; min-width: 0; }
.vx .vx-title { font-weight: 600; }
.vx .vx-note { color: var(--soft); font-size: 13px; }
.vx-plane { position: relative; width: 100%; aspect-ratio: 1; cursor: crosshair; background: #fdfdfb;
  border: 1px solid var(--line); border-radius: 4px; touch-action: none; user-select: none; }
.vx-plane canvas, .vx-plane svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.vx svg { display: block; font: 12px system-ui, sans-serif; fill: #1f2328; }
.vx-key { display: flex; flex-wrap: wrap; align-items: center; gap: 6px; margin-top: 10px; }
.vx-key span { color: var(--soft); font-size: 13px; margin-right: 2px; }
.vx button, .vx input { font: inherit; color: var(--ink); background: var(--face); margin: 0;
  border: 1px solid var(--line); border-radius: 6px; min-height: 32px; padding: 3px 10px; }
.vx button { cursor: pointer; }
.vx button:hover { border-color: var(--ink); }
.vx .vx-key button { display: inline-flex; align-items: center; gap: 5px; min-height: 28px;
  padding: 1px 7px; font-variant-numeric: tabular-nums; }
.vx .vx-key button[aria-pressed="true"] { border-color: var(--ink); box-shadow: inset 0 0 0 1px var(--ink); }
.vx-key i { width: 11px; height: 11px; border-radius: 50%; box-shadow: 0 0 0 1px #fdfdfb; }
.vx button:focus-visible, .vx input:focus-visible, .vx [tabindex]:focus-visible {
  outline: 3px solid var(--mark); outline-offset: 2px; }
.vx-buttons { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; }
.vx input[type="number"] { width: 84px; font-variant-numeric: tabular-nums; }
.vx input[type="range"] { flex: 1 1 120px; min-width: 0; padding: 0; accent-color: var(--mark);
  border: 0; background: none; }
.vx label { display: inline-flex; align-items: center; gap: 6px; margin: 0; font: inherit; }
.vx-picture { display: block; width: 100%; aspect-ratio: 1; background: #000;
  border: 1px solid var(--line); border-radius: 4px; image-rendering: pixelated; }
.vx-big { max-width: 224px; }
.vx-pad { position: relative; touch-action: none; cursor: crosshair; border-radius: 4px; }
.vx-pen { position: absolute; width: calc(100% / 28); aspect-ratio: 1; pointer-events: none;
  border: 2px solid #ffd33d; display: none; }
.vx-pad:focus-visible .vx-pen { display: block; }
.vx-pen.vx-down { background: #ffd33d; }
.vx-four { display: grid; gap: 14px 18px; grid-template-columns: repeat(4, minmax(0, 1fr)); }
.vx-four > div { display: grid; gap: 5px; align-content: start; }
.vx-close { width: 100%; aspect-ratio: 1; background: #fdfdfb; border: 1px solid var(--line);
  border-radius: 4px; overflow: hidden; }
.vx-examples { display: grid; grid-template-columns: repeat(15, minmax(0, 1fr)); gap: 4px; }
.vx .vx-examples button { padding: 0; min-height: 24px; aspect-ratio: 1; overflow: hidden;
  background: #000; border-radius: 3px; }
.vx .vx-examples button[aria-pressed="true"] { box-shadow: 0 0 0 3px var(--mark); }
.vx .vx-examples button:focus-visible { position: relative; z-index: 1; outline-color: var(--ink); }
.vx-examples canvas { display: block; width: 100%; height: 100%; }
.vx-terms { display: grid; grid-template-columns: auto auto 1fr; gap: 3px 14px; align-items: baseline; }
.vx-value { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.vx-sum { font-weight: 600; }
.vx-sample { transition: transform 0.3s ease-out; }
.vx-hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap; }
.vx-now { display: grid; gap: 10px 16px; align-items: start; }
@container (min-width: 620px) {
  .vx-top { grid-template-columns: minmax(0, 1fr) 224px; grid-template-rows: auto auto 1fr;
    row-gap: 18px; }
  .vx-top > :first-child { grid-row: 1 / 3; }
  .vx-top > .vx-note { grid-column: 1 / -1; } }
@container (max-width: 619px) {
  .vx-now { grid-template-columns: minmax(0, 152px) minmax(0, 1fr); }
  .vx-four { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .vx-now [data-part="readout"] { min-height: 5.8em; } /* four lines, so that nothing below moves */
  .vx-examples { grid-template-columns: repeat(8, minmax(0, 1fr)); }
  .vx-terms { grid-template-columns: 1fr auto; }
  .vx-terms .vx-note { grid-column: 1 / -1; margin-bottom: 6px; } }
@media (prefers-reduced-motion: reduce) { .vx-sample { transition: none; } }
`;

const SVG = "http://www.w3.org/2000/svg";
let instances = 0;

/** An element with attributes and children; `on…` attributes are listeners. */
function make(tag, attributes = {}, ...children) {
  const svg = /^(svg|g|path|circle|ellipse|line|rect|text)$/.test(tag);
  const element = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** White, or black on a colour (#rrggbb) too light to read white on: as the book's figures have it. */
function inkOn(colour) {
  const linear = [1, 3, 5].map((at) => (parseInt(colour.slice(at, at + 2), 16) / 255) ** 2.2);
  const luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return 1.05 / (luminance + 0.05) < 3.5 ? "#000000" : "#ffffff";
}

/** A number with a minus sign in place of a hyphen. */
function show(number, digits = 2) {
  const text = number.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}
const showPoint = (z) => `(${show(z[0])}, ${show(z[1])})`;

function paint(canvas, values) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(SIDE, SIDE);
  for (let i = 0; i < NUM_PIXELS; i++) {
    const grey = Math.round(255 * values[i]);
    image.data.set([grey, grey, grey, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
}
const picture = (attributes) =>
  make("canvas", { width: SIDE, height: SIDE, class: "vx-picture", role: "img", ...attributes });

function render({ model, el }) {
  const uid = `vx${++instances}`;
  const stops = []; // what has to be undone when the view goes
  const listen = (target, type, listener) => {
    target.addEventListener(type, listener);
    stops.push(() => target.removeEventListener(type, listener));
  };
  const reduced = window.matchMedia("(prefers-reduced-motion: reduce)");

  // ---- what the model holds
  let network, codes, labels, medians, colours, half, examples, exampleLabels;
  function read() {
    const fields = ["hidden_dim", "activation", "encoder_weights", "decoder_weights"];
    network = readNetwork(Object.fromEntries(fields.map((name) => [name, model.get(name)])));
    codes = readCodes(model.get("codes"));
    labels = bytesOf(model.get("labels"));
    medians = classMedians(codes, labels);
    colours = model.get("colours");
    half = model.get("half_width");
    exampleLabels = bytesOf(model.get("example_labels"));
    const bytes = bytesOf(model.get("examples"));
    examples = Array.from(exampleLabels, (_, i) =>
      Float32Array.from(bytes.subarray(i * NUM_PIXELS, (i + 1) * NUM_PIXELS), (v) => v / 255));
  }
  read();

  // ---- the state of this view
  const clip = (value) => Math.min(half, Math.max(-half, value));
  let z = model.get("z").slice();
  let [a, b] = farthest();
  let t = 0;
  let only = null; // the digit that alone is shown
  let picked = Math.floor(0.6 * examples.length); // a 6, if there are as many of each digit
  let x = examples[picked]; // as drawn or picked
  let seen = x; // as the encoder sees it
  let q = null; // { mu, logVar } of seen
  const normal = normalStream(5);
  let noise = [normal(), normal()];
  let drawn = []; // the reconstruction term of each sample
  let logits = null;

  /** The medians of the two classes that are farthest apart, as in chapter 5. */
  function farthest() {
    let best = [[-1, 0], [1, 0]], record = 0;
    for (const p of medians.values()) {
      for (const r of medians.values()) {
        const distance = Math.hypot(p[0] - r[0], p[1] - r[1]);
        if (distance > record) [record, best] = [distance, [p, r]];
      }
    }
    return best.map((p) => p.map(clip));
  }

  // ---- the first row: the plane, what is decoded, the walk
  const paper = make("canvas", { "aria-hidden": "true" });
  const overlay = make("svg", { "aria-hidden": "true" });
  const plane = make("div", {
    class: "vx-plane", tabindex: "0", role: "application", "data-part": "plane",
    "aria-label": "Latent plane: arrow keys move z", "aria-describedby": `${uid}-help`,
  }, paper, overlay);
  const key = make("div", { class: "vx-key", role: "group", "aria-label": "Digits of the codes" },
    make("span", {}, "Digit"));
  for (let digit = 0; digit < 10; digit++) {
    const button = make("button", {
      type: "button", "aria-pressed": "false", "aria-label": `Show only the codes of ${digit}`,
      "data-digit": digit, onclick: () => {
        only = only === digit ? null : digit;
        key.querySelectorAll("button").forEach((each) =>
          each.setAttribute("aria-pressed", String(Number(each.dataset.digit) === only)));
        drawCodes();
        say(only === null ? "The codes of all digits are shown."
          : `Only the codes of ${only} are shown.`);
      },
    }, make("i", {}), String(digit));
    key.append(button);
  }
  const help = make("p", { class: "vx-note", id: `${uid}-help` },
    "Drag, or focus the plane and use the arrow keys (with Shift: larger steps; Home: the origin). "
    + "Dashed: the circles of radius 1, 2 and 3, which hold 39, 86 and 99 % of the prior.");
  const decoded = picture({ class: "vx-picture vx-big", "data-part": "decoded" });
  const readout = make("p", { "data-part": "readout" });
  const inputs = [0, 1].map((j) => make("input", {
    type: "number", step: "0.1", "data-part": `z${j + 1}`,
    onchange: (event) => {
      const value = event.target.valueAsNumber;
      if (Number.isFinite(value)) move(z.map((old, i) => (i === j ? clip(value) : old)));
      else event.target.value = z[j].toFixed(2);
    },
  }));
  const slider = make("input", {
    type: "range", min: "0", max: "1", step: "0.01", value: "0", "data-part": "t",
    oninput: () => { pause(); walkTo(slider.valueAsNumber); },
  });
  const play = make("button", { type: "button", "data-part": "play", onclick: () => {
    if (walking) pause();
    else if (reduced.matches) walkTo(t >= 1 ? 0 : Math.min(1, Math.round(10 * t + 1) / 10));
    else start();
  } });
  const stop = make("button", { type: "button", "data-part": "stop", onclick: () => {
    pause();
    walkTo(0);
  } }, "Stop");
  const set = (name) => make("button", {
    type: "button", "data-part": `set-${name.toLowerCase()}`, onclick: () => {
      pause();
      if (name === "A") a = z.map(clip); else b = z.map(clip);
      t = name === "A" ? 0 : 1;
      slider.value = t;
      drawMarks();
      say(`${name} is now ${showPoint(z)}.`);
    },
  }, `Set ${name} to z`);
  const walk = make("div", { class: "vx-side", role: "group", "aria-labelledby": `${uid}-walk` },
    make("p", { class: "vx-title", id: `${uid}-walk` }, "Walk from A to B"),
    make("div", { class: "vx-buttons" }, set("A"), set("B")),
    make("label", {}, "t", slider),
    make("div", { class: "vx-buttons" }, play, stop));
  const top = make("div", { class: "vx-row vx-top" },
    make("div", {}, plane, key),
    make("div", { class: "vx-now" },
      decoded,
      make("div", { class: "vx-side" },
        make("p", { class: "vx-title" }, "Decoded at z"), readout,
        make("div", { class: "vx-buttons" },
          make("label", {}, "z₁", inputs[0]), make("label", {}, "z₂", inputs[1])))),
    walk, help);

  // ---- the second row: a picture, its posterior, a reconstruction, the ELBO
  const padPicture = picture({ "aria-hidden": "true", role: false });
  const pen = make("span", { class: "vx-pen" });
  const pad = make("div", {
    class: "vx-pad", tabindex: "0", role: "application", "data-part": "pad",
    "aria-label": "Drawing pad: arrow keys move the pen, Space lowers and lifts it, Delete clears",
  }, padPicture, pen);
  const clear = make("button", { type: "button", "data-part": "clear", onclick: () => wipe() }, "Clear");
  const seenPicture = picture({ "data-part": "seen", "aria-label": "The picture as the encoder sees it" });
  const close = make("svg", { class: "vx-close", role: "img", "data-part": "close", viewBox: "0 0 160 160" });
  const reconstruction = picture({ "data-part": "reconstruction" });
  const sampleButton = make("button", { type: "button", "data-part": "sample", onclick: () => {
    rest();
    draw();
    announceTerms();
  } }, "Draw a sample");
  const keepButton = make("button", { type: "button", "data-part": "keep", onclick: () => {
    if (sampling) { rest(); announceTerms(); } else sampleOn();
  } });
  const row = make("div", { class: "vx-examples", role: "group", "aria-label": "Pick a test image" });
  const terms = make("div", { class: "vx-terms", "data-part": "terms" });
  const bottom = make("div", { class: "vx-row" },
    make("div", { class: "vx-side" },
      make("p", { class: "vx-title" }, "Draw a digit, or pick one"), row),
    make("div", { class: "vx-four" },
      make("div", {}, make("p", { class: "vx-note" }, "Draw here"), pad, clear),
      make("div", {}, make("p", { class: "vx-note" }, "The encoder’s input, x"), seenPicture),
      make("div", {}, make("p", { class: "vx-note" }, "q(z | x), enlarged"), close),
      make("div", {}, make("p", { class: "vx-note" }, "Decoded sample of it"), reconstruction)),
    make("div", { class: "vx-buttons" }, sampleButton, keepButton),
    terms);

  const live = make("div", { class: "vx-hidden", role: "status", "aria-live": "polite", "data-part": "live" });
  const root = make("div", {
    class: "vx", role: "group", "aria-label": "Latent explorer", "data-lm-suppress-shortcuts": "true",
  }, make("style", {}, STYLE), top, bottom, live);

  // ---- saying what happened, once it has come to rest
  let saying = 0;
  function say(text) {
    clearTimeout(saying);
    saying = setTimeout(() => { live.textContent = text; }, 400);
  }
  stops.push(() => clearTimeout(saying));
  function nearest() {
    if (!labels.length) return "";
    const { digit, votes, of, distance } = vote(codes, labels, z);
    const far = distance > 0.5 ? `, but they are up to ${show(distance, 1)} away` : "";
    const share = votes === of ? `All ${of}` : `${votes} of the ${of}`;
    return `${share} nearest codes are of ${digit}${far}.`;
  }

  // ---- the plane
  let size = 400; // of the plane, in CSS pixels
  const px = (z1) => (size * (z1 + half)) / (2 * half);
  const py = (z2) => (size * (half - z2)) / (2 * half);

  function drawCodes() {
    const ratio = window.devicePixelRatio || 1;
    paper.width = paper.height = Math.round(size * ratio);
    const context = paper.getContext("2d");
    context.scale(ratio, ratio);
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.font = `${Math.max(6, size / 56)}px system-ui, sans-serif`;
    const others = only === null ? [] : [...labels.keys()].filter((i) => labels[i] !== only);
    const shown = only === null ? labels.keys() : [...labels.keys()].filter((i) => labels[i] === only);
    for (const [indices, alpha] of [[others, 0.08], [shown, 0.75]]) {
      context.globalAlpha = alpha;
      for (const i of indices) {
        context.fillStyle = colours[labels[i]];
        context.fillText(labels[i], px(codes[2 * i]), py(codes[2 * i + 1]));
      }
    }
    context.globalAlpha = 1;
    const radius = Math.max(8, size / 48);
    const digits = [...medians.keys()].filter((digit) => only === null || only === digit);
    const places = apart(digits.map((digit) => [px(medians.get(digit)[0]), py(medians.get(digit)[1])]),
      2 * radius + 2);
    for (const [digit, [cx, cy]] of digits.map((each, i) => [each, places[i]])) {
      context.beginPath();
      context.arc(cx, cy, radius, 0, 2 * Math.PI);
      context.fillStyle = colours[digit];
      context.fill();
      context.strokeStyle = "#ffffff";
      context.lineWidth = 1.5;
      context.stroke();
      context.font = `bold ${Math.round(1.3 * radius)}px system-ui, sans-serif`;
      context.fillStyle = inkOn(colours[digit]);
      context.fillText(digit, cx, cy + 0.5);
    }
  }

  const marks = make("g");
  function drawAxes() {
    overlay.setAttribute("viewBox", `0 0 ${size} ${size}`);
    overlay.replaceChildren();
    const halo = { stroke: "#fdfdfb", "stroke-width": "3", "paint-order": "stroke" };
    for (const radius of [1, 2, 3]) {
      const share = `${Math.round(100 * (1 - Math.exp(-radius * radius / 2)))} %`;
      overlay.append(
        make("circle", {
          cx: px(0), cy: py(0), r: px(radius) - px(0), fill: "none", stroke: "#1f2328",
          "stroke-dasharray": "5 4",
        }),
        make("text", { x: px(0), y: py(-radius) + 4, "text-anchor": "middle", ...halo,
          "stroke-width": "5", "font-weight": "600" }, share));
    }
    const step = half > 12 ? 5 : half > 3 ? 2 : half > 1.5 ? 1 : half / 2;
    for (let tick = step * Math.floor(0.02 - half / step) + step; tick < 0.98 * half; tick += step) {
      const text = show(tick, step < 1 ? 2 : 0);
      overlay.append(
        make("text", { x: px(tick), y: size - 6, "text-anchor": "middle", ...halo }, text),
        make("line", { x1: px(tick), x2: px(tick), y1: size - 3, y2: size, stroke: "#1f2328" }),
        make("text", { x: 7, y: py(tick) + 4, ...halo }, text),
        make("line", { x1: 0, x2: 3, y1: py(tick), y2: py(tick), stroke: "#1f2328" }));
    }
    overlay.append(
      make("text", { x: size - 8, y: size - 6, "text-anchor": "end", "font-style": "italic", ...halo }, "z₁"),
      make("text", { x: 7, y: 16, "font-style": "italic", ...halo }, "z₂"), marks);
    drawMarks();
  }

  function drawMarks() {
    const twice = (tag, attributes, inner, outer) => [
      make(tag, { ...attributes, fill: "none", stroke: "#ffffff", "stroke-width": outer }),
      make(tag, { ...attributes, fill: "none", stroke: "#000000", "stroke-width": inner })];
    marks.replaceChildren();
    const [ax, ay, bx, by] = [px(a[0]), py(a[1]), px(b[0]), py(b[1])];
    marks.append(...twice("line", { x1: ax, y1: ay, x2: bx, y2: by }, 1, 3));
    for (const [name, cx, cy] of [["A", ax, ay], ["B", bx, by]]) {
      marks.append(
        make("rect", { x: cx - 9, y: cy - 9, width: 18, height: 18, rx: 3, fill: "#ffffff",
          stroke: "#000000", "stroke-width": 1.2 }),
        make("text", { x: cx, y: cy + 4.5, "text-anchor": "middle", "font-weight": "600" }, name));
    }
    if (q) {
      const [cx, cy] = [px(q.mu[0]), py(q.mu[1])];
      for (const sds of [1, 2]) {
        const [rx, ry] = q.logVar.map((v) => (sds * Math.exp(0.5 * v) * size) / (2 * half));
        marks.append(make("ellipse", {
          cx, cy, rx, ry, fill: "#000000", "fill-opacity": "0.3", stroke: "#000000",
          "stroke-width": "1", "data-part": `ellipse-${sds}`,
        }));
      }
      marks.append(
        ...twice("circle", { cx, cy, r: 17 }, 1.5, 4),
        make("text", { x: cx, y: cy + (cy < 40 ? 32 : -23), "text-anchor": cx < 40 ? "start"
          : cx > size - 40 ? "end" : "middle", stroke: "#ffffff", "stroke-width": "3.5",
          "paint-order": "stroke", "font-weight": "600" }, "q(z | x)"));
    }
    const [zx, zy] = [px(clip(z[0])), py(clip(z[1]))];
    marks.append(
      ...twice("path", { d: `M${zx - 13} ${zy}h26M${zx} ${zy - 13}v26` }, 2, 5.5),
      make("circle", { cx: zx, cy: zy, r: 0.1, "data-part": "cross" }));
  }

  // ---- one frame: whatever changed, drawn once
  let frame = 0;
  const stale = new Set();
  function later(...what) {
    what.forEach((each) => stale.add(each));
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      const now = new Set(stale);
      stale.clear();
      if (now.has("model")) rebuild();
      if (now.has("posterior")) infer();
      if (now.has("z")) drawZ();
    });
  }
  stops.push(() => cancelAnimationFrame(frame));

  function drawZ() {
    logits = decode(network, z);
    paint(decoded, probabilities(logits));
    readout.textContent = nearest();
    decoded.setAttribute("aria-label", `What the decoder draws at z = ${showPoint(z)}`);
    inputs.forEach((input, j) => {
      if (document.activeElement !== input || Math.abs(input.valueAsNumber - z[j]) > 0.005) {
        input.value = z[j].toFixed(2);
      }
    });
    drawMarks();
  }

  /** z goes to a point, here and in the kernel; `quiet` while something else will be said. */
  function move(point, quiet = false) {
    z = point.map((value) => Number(value.toFixed(4)));
    model.set("z", z.slice());
    model.save_changes();
    later("z");
    if (!quiet) say(`z = ${showPoint(z)}. ${nearest()}`);
  }

  listen(plane, "keydown", (event) => {
    const step = event.shiftKey ? 0.5 : 0.1;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in steps) {
      pause();
      move(z.map((value, j) => clip(Math.round(100 * (value + step * steps[event.key][j])) / 100)));
    } else if (event.key === "Home") {
      pause();
      move([0, 0]);
    } else return;
    event.preventDefault();
  });
  const toPoint = (event) => {
    const box = plane.getBoundingClientRect();
    return [
      clip(((event.clientX - box.left) / box.width) * 2 * half - half),
      clip(half - ((event.clientY - box.top) / box.height) * 2 * half)];
  };
  let dragging = null;
  listen(plane, "pointerdown", (event) => {
    if (event.button) return;
    dragging = event.pointerId;
    plane.setPointerCapture(dragging);
    plane.focus({ preventScroll: true });
    pause();
    move(toPoint(event));
    event.preventDefault();
  });
  listen(plane, "pointermove", (event) => {
    if (event.pointerId === dragging) move(toPoint(event));
  });
  for (const type of ["pointerup", "pointercancel"]) {
    listen(plane, type, () => { dragging = null; });
  }

  // ---- the walk
  let walking = 0;
  function nameButtons() {
    play.textContent = walking ? "Pause" : reduced.matches ? "Next step" : "Play";
    keepButton.textContent = sampling ? "Pause" : "Keep sampling";
  }
  function walkTo(value, quiet = false) {
    t = value;
    slider.value = t;
    slider.setAttribute("aria-valuetext", `${show(t)} of the way from A to B`);
    move(a.map((from, j) => (1 - t) * from + t * b[j]), quiet);
  }
  function start() {
    let from = t >= 1 ? 0 : t, begun = null;
    const onward = (now) => {
      begun ??= now;
      const value = Math.min(1, from + (now - begun) / 5000);
      walking = value < 1 ? requestAnimationFrame(onward) : 0;
      walkTo(value, value < 1);
      nameButtons();
    };
    walking = requestAnimationFrame(onward);
    nameButtons();
  }
  function pause() {
    cancelAnimationFrame(walking);
    if (walking) say(`z = ${showPoint(z)}. ${nearest()}`);
    walking = 0;
    nameButtons();
  }
  stops.push(() => cancelAnimationFrame(walking));

  // ---- the picture, its posterior and samples of it
  let sampling = 0;
  function sampleOn() {
    let left = 30;
    sampling = setInterval(() => {
      draw();
      if (--left === 0) { rest(); announceTerms(); }
    }, 700);
    nameButtons();
  }
  function rest() {
    clearInterval(sampling);
    sampling = 0;
    nameButtons();
  }
  stops.push(() => clearInterval(sampling));

  /** Encode the picture; the noise stays what it was, so that the sample moves with q(z | x). */
  function infer() {
    q = encode(network, seen);
    drawn = [];
    paint(padPicture, x);
    paint(seenPicture, seen);
    drawClose();
    showSample();
    drawMarks();
  }
  function draw() {
    noise = [normal(), normal()];
    showSample();
  }
  function showSample() {
    const sample = reparameterize(q.mu, q.logVar, noise);
    const output = decode(network, sample);
    const cost = reconstructionTerm(seen, output), kl = klTerm(q.mu, q.logVar);
    drawn.push(cost);
    paint(reconstruction, probabilities(output));
    reconstruction.setAttribute("aria-label", `What the decoder draws at the sample ${showPoint(sample)}`);
    const dot = close.querySelector(".vx-sample");
    dot.style.transform = `translate(${20 * noise[0] * relative[0]}px, ${-20 * noise[1] * relative[1]}px)`;
    const n = drawn.length, mean = drawn.reduce((sum, value) => sum + value, 0) / n;
    const lines = [
      ["reconstruction term", show(cost, 1), "−log p(x | z) at the sample shown", "reconstruction-term"],
      ["KL term", show(kl, 1), "KL(q(z | x) ‖ p(z)), exact", "kl-term"],
      ["ELBO, estimate", show(-cost - kl, 1),
        "minus both terms: one sample; larger is better", "elbo"],
      ["mean estimate", show(-mean - kl, 1), n === 1 ? "over 1 sample" : `over ${n} samples`, "mean-elbo"]];
    terms.replaceChildren(...lines.flatMap(([name, value, note, part]) => [
      make("span", { class: part === "elbo" ? "vx-sum" : "" }, name),
      make("span", { class: part === "elbo" ? "vx-value vx-sum" : "vx-value", "data-part": part },
        `${value} nats`),
      make("span", { class: "vx-note" }, note)]));
    // For those who want all the digits.
    Object.assign(terms.dataset, {
      mu: q.mu, logVar: q.logVar, noise, sample,
      reconstruction: cost, kl, count: n,
    });
  }
  let relative = [1, 1]; // the scales in units of the larger one
  function drawClose() {
    const scales = q.logVar.map((v) => Math.exp(0.5 * v));
    const unit = Math.max(...scales);
    relative = scales.map((s) => s / unit);
    close.replaceChildren();
    for (let i = 0; i < labels.length; i++) { // a standard deviation is 20 units of the viewBox
      const [cx, cy] = [0, 1].map((j) => (20 * (codes[2 * i + j] - q.mu[j])) / unit);
      if (Math.abs(cx) > 84 || Math.abs(cy) > 84) continue;
      close.append(make("text", { x: 80 + cx, y: 80 - cy + 4, "text-anchor": "middle",
        fill: colours[labels[i]] }, labels[i]));
    }
    for (const sds of [1, 2]) {
      close.append(make("ellipse", { cx: 80, cy: 80, rx: 20 * sds * relative[0],
        ry: 20 * sds * relative[1], fill: "#000000", "fill-opacity": "0.06", stroke: "#000000",
        "stroke-width": "1.2" }));
    }
    // A bar for the scale: 1, 2 or 5 times a power of ten, at most as long as 60 units.
    const longest = 3 * unit, power = 10 ** Math.floor(Math.log10(longest));
    const length = power * [5, 2, 1].find((factor) => factor * power <= longest);
    const digits = Math.max(0, -Math.floor(Math.log10(length)));
    const halo = { stroke: "#fdfdfb", "stroke-width": "4", "paint-order": "stroke" };
    close.append(
      make("path", { d: "M76 80h8M80 76v8", stroke: "#000000", "stroke-width": "1.2" }),
      make("line", { x1: 10, x2: 10 + (20 * length) / unit, y1: 150, y2: 150, stroke: "#000000",
        "stroke-width": "2" }),
      make("text", { x: 10, y: 144, ...halo }, show(length, digits)),
      make("circle", { class: "vx-sample", cx: 80, cy: 80, r: 4.5, fill: "#000000",
        stroke: "#ffffff", "stroke-width": "2" }));
    close.setAttribute("aria-label", `q(z | x): mean ${showPoint(q.mu)}, standard deviations `
      + `${show(scales[0], 3)} and ${show(scales[1], 3)}; the ellipses at one and two of them hold `
      + "39 and 86 % of it");
  }
  function announceTerms() {
    const { reconstruction: cost, kl, count } = terms.dataset;
    say(`${count === "1" ? "One sample" : `${count} samples`} drawn. At the last one: reconstruction `
      + `term ${show(Number(cost), 1)} nats, KL term ${show(Number(kl), 1)} nats, ELBO `
      + `${show(-cost - kl, 1)} nats.`);
  }

  /** A new picture: z goes to the mean of its posterior, and samples are drawn. */
  function take(pixels, example, finished) {
    x = pixels;
    picked = example;
    seen = example === null ? centred(x) : x;
    markPicked();
    rest();
    pause();
    if (finished) noise = [normal(), normal()];
    const { mu, logVar } = encode(network, seen);
    move(mu.map(clip), true);
    later("posterior");
    if (!finished) return;
    const what = example === null ? "your drawing" : `the test image of a ${exampleLabels[example]}`;
    say(`The encoder puts ${what} at ${showPoint(mu)}, with standard deviations `
      + `${show(Math.exp(0.5 * logVar[0]), 3)} and ${show(Math.exp(0.5 * logVar[1]), 3)}. ${nearest()}`);
    if (!reduced.matches) sampleOn();
  }
  function markPicked() {
    [...row.children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === picked)));
  }
  function fillExamples() {
    row.replaceChildren(...examples.map((image, i) => {
      const canvas = make("canvas", { width: SIDE, height: SIDE, "aria-hidden": "true" });
      paint(canvas, image);
      const place = [...exampleLabels].slice(0, i + 1).filter((l) => l === exampleLabels[i]).length;
      return make("button", {
        type: "button", tabindex: i === 0 ? "0" : "-1", "aria-pressed": "false", "data-example": i,
        "aria-label": `Test image: a ${exampleLabels[i]}, number ${place}`,
        onclick: () => take(image, i, true),
      }, canvas);
    }));
    markPicked();
  }
  listen(row, "keydown", (event) => {
    const now = [...row.children].indexOf(event.target.closest("button"));
    const columns = getComputedStyle(row).gridTemplateColumns.split(" ").length;
    const last = row.children.length - 1;
    const next = {
      ArrowLeft: now - 1, ArrowRight: now + 1, ArrowUp: now - columns, ArrowDown: now + columns,
      Home: 0, End: last,
    }[event.key];
    if (next === undefined || now < 0) return;
    event.preventDefault();
    if (next < 0 || next > last) return;
    row.children[now].tabIndex = -1;
    row.children[next].tabIndex = 0;
    row.children[next].focus();
  });

  // ---- the drawing pad
  let stroke = null; // where the brush is, in pixels
  const tip = { column: 14, row: 14, down: false }; // the pen that the keys move
  function line(from, to) {
    const pixels = picked === null ? x.slice() : new Float32Array(NUM_PIXELS); // a clean sheet
    const steps = Math.max(1, Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])));
    for (let i = 0; i <= steps; i++) {
      brush(pixels, from[0] + ((to[0] - from[0]) * i) / steps, from[1] + ((to[1] - from[1]) * i) / steps);
    }
    take(pixels, null, false);
  }
  const toPixel = (event) => {
    const box = padPicture.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  };
  listen(pad, "pointerdown", (event) => {
    if (event.button) return;
    pad.setPointerCapture(event.pointerId);
    pad.focus({ preventScroll: true });
    stroke = toPixel(event);
    line(stroke, stroke);
    event.preventDefault();
  });
  listen(pad, "pointermove", (event) => {
    if (!stroke) return;
    const to = toPixel(event);
    line(stroke, to);
    stroke = to;
  });
  for (const type of ["pointerup", "pointercancel"]) {
    listen(pad, type, () => {
      if (stroke) take(x, null, true);
      stroke = null;
    });
  }
  function wipe() {
    take(new Float32Array(NUM_PIXELS), null, false);
    tip.down = false;
    placePen();
    say("The drawing pad is empty.");
  }
  function placePen() {
    pen.style.left = `${(100 * (tip.column - 0.5)) / SIDE}%`;
    pen.style.top = `${(100 * (tip.row - 0.5)) / SIDE}%`;
    pen.classList.toggle("vx-down", tip.down);
  }
  listen(pad, "keydown", (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in steps) {
      const [dx, dy] = steps[event.key];
      const from = [tip.column, tip.row];
      tip.column = Math.min(26, Math.max(2, tip.column + dx));
      tip.row = Math.min(26, Math.max(2, tip.row + dy));
      if (tip.down) line(from, [tip.column, tip.row]);
      else say(`Pen at column ${tip.column}, row ${tip.row}.`);
    } else if (event.key === " ") {
      tip.down = !tip.down;
      if (tip.down) {
        line([tip.column, tip.row], [tip.column, tip.row]);
        say("Pen down.");
      } else take(x, null, true);
    } else if (event.key === "Delete" || event.key === "Backspace") wipe();
    else return;
    placePen();
    event.preventDefault();
  });

  // In a notebook these keys must not reach its own shortcuts.
  listen(root, "keydown", (event) => {
    if (/^(Arrow|Home$|End$|Page|Delete$|Backspace$|Enter$| $)/.test(event.key)) event.stopPropagation();
  });

  // ---- begin, and follow the model
  function rebuild() {
    read();
    [a, b] = farthest();
    key.querySelectorAll("i").forEach((dot, digit) => { dot.style.background = colours[digit]; });
    drawCodes();
    drawAxes();
    infer();
    drawZ();
  }
  const inKernel = () => {
    const point = model.get("z");
    if (point[0] === z[0] && point[1] === z[1]) return;
    z = point.slice();
    pause();
    later("z");
    say(`z = ${showPoint(z)}. ${nearest()}`);
  };
  const replaced = () => later("model");
  const followed = { "change:z": inKernel };
  for (const name of ["encoder_weights", "decoder_weights", "codes", "half_width"]) {
    followed[`change:${name}`] = replaced;
  }
  for (const [type, callback] of Object.entries(followed)) {
    model.on(type, callback);
    stops.push(() => model.off(type, callback));
  }
  listen(reduced, "change", nameButtons);

  el.append(root);
  const observer = new ResizeObserver(() => {
    const width = plane.clientWidth;
    if (width && width !== size) {
      size = width;
      drawCodes();
      drawAxes();
    }
  });
  observer.observe(plane);
  stops.push(() => observer.disconnect());
  size = plane.clientWidth || size;
  fillExamples();
  placePen();
  nameButtons();
  rebuild();
  return () => {
    stops.forEach((undo) => undo());
    root.remove();
  };
}

export default { render };
