// Shared by the small live figures. small.py puts this text before each figure's own module, since
// a module that stands in a notebook's widget state can import nothing. Nothing here moves by
// itself, so there is no motion to reduce.

const SVG = "http://www.w3.org/2000/svg";

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function html(tag, attributes = {}, ...children) {
  return build(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

/** A number as text, with a real minus sign, and without one before zero. */
function fixed(value, digits) {
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

/** From `low` to `high`, both included, free of the rounding errors of adding up steps. */
function range(low, high, step) {
  const count = Math.round((high - low) / step);
  return Array.from({ length: count + 1 }, (_, i) => Number((low + i * step).toFixed(6)));
}

/** About `count` round numbers between `low` and `high`, and how many decimals they need. */
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const values = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) {
    values.push(Number((i * step).toFixed(decimals)));
  }
  return { values, decimals };
}

/** Mean and standard deviation (with n − 1) of numbers. */
function moments(values) {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, deviation: Math.sqrt(squares / (values.length - 1)) };
}

// The keys that sliders and buttons use. A notebook would take them for its own.
const OWN_KEYS = new Set([
  "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown",
  "Enter", " ",
]);

/** The figure's frame: its root, and a region that tells a screen reader what has changed. */
function frame(el, label) {
  const root = html("div", {
    class: "vae-figure", role: "group", "aria-label": label, "data-lm-suppress-shortcuts": "true",
  });
  const region = html("p", { class: "vf-hidden", "aria-live": "polite" });
  root.addEventListener("keydown", (event) => {
    if (OWN_KEYS.has(event.key)) event.stopPropagation();
  });
  el.append(root);
  let waiting;
  return {
    root,
    region,
    // Only what holds for a moment is said, not every value that a slider passes.
    say(text) {
      clearTimeout(waiting);
      waiting = setTimeout(() => { region.textContent = text; }, 500);
    },
    close() {
      clearTimeout(waiting);
      root.remove();
    },
  };
}

/**
 * A native slider with its label and value; it takes the given `values`, in their order.
 * `show` sets it to the nearest of them, while the text beside it says the value itself.
 */
function slider({ label, title, values, text, change, accent = "indigo" }) {
  const id = `vae-${Math.random().toString(36).slice(2)}`;
  const input = html("input", {
    type: "range", id, min: 0, max: values.length - 1, step: 1, style: `--accent: var(--${accent})`,
  });
  const value = html("span", { class: "vf-value", "aria-hidden": "true" });
  const name = html("label", { for: id },
    html("span", { "aria-hidden": "true" }, ...label),
    html("span", { class: "vf-hidden" }, title));
  input.addEventListener("input", () => change(values[Number(input.value)]));
  return {
    node: html("div", { class: "vf-slider" }, name, input, value),
    input,
    show(number) {
      let best = 0;
      values.forEach((candidate, i) => {
        if (Math.abs(candidate - number) < Math.abs(values[best] - number)) best = i;
      });
      input.value = best;
      value.textContent = text(number);
      input.setAttribute("aria-valuetext", text(number));
    },
  };
}

function button(label, press) {
  const node = html("button", { type: "button" }, label);
  node.addEventListener("click", press);
  return node;
}

/** A symbol with its index, as "μ" with a small "q". */
function indexed(symbol, index) {
  return [symbol, html("sub", {}, index)];
}

/** The line or mark by which something is drawn, for a text that speaks of it. */
function sign(node) {
  return svg("svg", { class: "vf-sign", viewBox: "0 0 26 12", "aria-hidden": "true" }, node);
}

function stroke(colour, dash = "", width = 2) {
  const line = { stroke: `var(--${colour})`, "stroke-width": width, fill: "none" };
  return dash ? { ...line, "stroke-dasharray": dash } : line;
}

/**
 * Axes to draw in. `x` and `y` are [low, high]; `logX` makes x logarithmic, with `xTicks`.
 * Returns the SVG element, `add` for what is clipped to the axes, and the scales X and Y.
 */
function plot({
  width, height, x, y, xLabel, yLabel, label, xTicks = null, logX = false, yHidden = false,
}) {
  const left = 52, right = 12, top = 8, bottom = 40;
  const w = width - left - right, h = height - top - bottom;
  const along = logX ? Math.log : (value) => value;
  const X = (v) => (w * (along(v) - along(x[0]))) / (along(x[1]) - along(x[0]));
  const Y = (v) => h - (h * (v - y[0])) / (y[1] - y[0]);
  const inner = svg("svg", { x: left, y: top, width: w, height: h });
  const node = svg("svg", { width, height, role: "img", "aria-label": label });
  const horizontal = ticks(x[0], x[1], Math.max(4, w / 70));
  for (const value of xTicks ?? horizontal.values) {
    const at = left + X(value);
    const label = xTicks ? String(value) : fixed(value, horizontal.decimals);
    node.append(
      svg("line", { class: "vf-grid", x1: at, x2: at, y1: top, y2: top + h }),
      text(at, top + h + 14, label, { class: "vf-tick", "text-anchor": "middle" }),
    );
  }
  if (!yHidden) {
    const vertical = ticks(y[0], y[1], Math.max(3, h / 40));
    for (const value of vertical.values) {
      const at = top + Y(value), label = fixed(value, vertical.decimals);
      node.append(
        svg("line", { class: "vf-grid", x1: left, x2: left + w, y1: at, y2: at }),
        text(left - 6, at + 4, label, { class: "vf-tick", "text-anchor": "end" }),
      );
    }
    const turned = { "text-anchor": "middle", transform: "rotate(-90)" };
    node.append(text(-(top + h / 2), 12, yLabel, turned));
  }
  node.append(
    svg("line", { class: "vf-axis", x1: left, x2: left + w, y1: top + h, y2: top + h }),
    text(left + w / 2, top + h + 32, xLabel, { "text-anchor": "middle" }),
    inner,
  );
  return { node, add: (...children) => inner.append(...children), X, Y, w, h };
}

function text(x, y, content, attributes = {}) {
  return svg("text", { x, y, ...attributes }, content);
}

/** A line through points of the plot `axes`; with `base`, the area between it and that height. */
function curve(axes, xs, ys, attributes, base = null) {
  const points = xs.map((x, i) => `${axes.X(x).toFixed(2)},${axes.Y(ys[i]).toFixed(2)}`);
  if (base !== null) {
    const at = axes.Y(base).toFixed(2);
    points.push(`${axes.X(xs.at(-1)).toFixed(2)},${at}`, `${axes.X(xs[0]).toFixed(2)},${at}`);
  }
  return svg("path", { d: `M${points.join("L")}${base === null ? "" : "Z"}`, ...attributes });
}

/** Lines of text with their signs in the corner of a plot, on a plate that keeps them readable. */
function key(axes, entries, corner = "left") {
  const wide = 34 + 6.6 * Math.max(...entries.map(([content]) => content.length));
  const at = corner === "left" ? 6 : axes.w - wide - 4;
  const group = svg("g", {}, svg("rect", {
    class: "vf-plate", x: at, y: 2, width: wide, height: 18 * entries.length + 2,
  }));
  entries.forEach(([content, ...nodes], i) => {
    const mark = svg("svg", { x: at, y: 5 + 18 * i, width: 26, height: 12 }, ...nodes);
    group.append(mark, text(at + 30, 15 + 18 * i, content));
  });
  return group;
}

/** Draw now, whenever one of the `names` changes in the model, and whenever the width does. */
function keepDrawn(model, names, root, draw) {
  const redraw = () => draw(Math.min(704, Math.max(240, inside(root))));
  const events = names.map((name) => `change:${name}`);
  for (const event of events) model.on(event, redraw);
  let width = inside(root);
  const observer = new ResizeObserver(() => {
    if (inside(root) !== width) {
      width = inside(root);
      redraw();
    }
  });
  observer.observe(root);
  redraw();
  return () => {
    observer.disconnect();
    for (const event of events) model.off(event, redraw);
  };
}

function inside(root) {
  const style = getComputedStyle(root);
  const padding = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
  return Math.floor(root.clientWidth - padding) || 560;  // not on the page yet: a guess
}

/** Set several traits of the model at once. */
function assign(model, values) {
  for (const [name, value] of Object.entries(values)) model.set(name, value);
  model.save_changes();
}
