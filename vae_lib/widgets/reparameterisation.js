// The reparameterised sample and two estimators of a gradient. The functions used here stand in
// small.js.

const MEANS = range(-2, 2, 0.1);
const SCALES = range(0.1, 2, 0.05);
const TRAITS = ["mu", "sigma", "noise", "draws"];
// The ends of the axis of gradients: the first that holds all of them, so that it seldom changes.
const ENDS = [10, 15, 25, 40, 60, 100, 150, 250, 400, 600];

/** Numbers from 0 to 1, the same for the same seed (mulberry32). */
function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Draws of the standard normal distribution (Box and Muller), to four decimals as in Python. */
function normals(seed, count) {
  const next = uniform(seed);
  return Array.from({ length: count }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - next()));
    return Number((radius * Math.cos(2 * Math.PI * next())).toFixed(4));
  });
}

const two = (value) => fixed(value, 2);
const disc = (x, y, filled = true) => svg("circle", {
  cx: x, cy: y, r: 3.5, ...stroke("cyan", "", 1.5), fill: filled ? "var(--cyan)" : "none",
});
const diamond = (x, y, filled = true) => svg("path", {
  d: `M${x - 4.5} ${y}L${x} ${y - 4.5}L${x + 4.5} ${y}L${x} ${y + 4.5}Z`,
  ...stroke("wine", "", 1.5), fill: filled ? "var(--wine)" : "none",
});

function render({ model, el }) {
  const { root, region, say, close } = frame(
    el, "Live figure: the reparameterised sample and two gradient estimators",
  );
  const mu = slider({
    label: ["mean μ"], title: "mean of z", values: MEANS, text: two, accent: "cyan",
    change: (value) => assign(model, { mu: value }),
  });
  const sigma = slider({
    label: ["scale σ"], title: "standard deviation of z", values: SCALES, text: two, accent: "cyan",
    change: (value) => assign(model, { sigma: value }),
  });
  const buttons = html("div", { class: "vf-buttons" },
    button("new noise", () => {
      const draws = model.get("draws") + 1;
      assign(model, { noise: normals(draws, model.get("noise").length), draws });
    }),
    button("reset", () => assign(model, model.get("start"))),
  );
  const pictures = html("div");

  const cells = {};
  const row = (name, node, title) => {
    const tr = html("tr", {}, html("th", { scope: "row" }, sign(node), title));
    for (const column of ["mean", "error", "variance", "exact_variance"]) {
      cells[`${name}_${column}`] = html("td", { "data-quantity": `${name}_${column}` });
      tr.append(cells[`${name}_${column}`]);
    }
    return tr;
  };
  const heads = ["estimator", "mean", "± error", "variance", "exact variance"];
  const table = html("table", {},
    html("thead", {}, html("tr", {}, ...heads.map((head) => html("th", { scope: "col" }, head)))),
    html("tbody", {},
      row("pathwise", disc(13, 6), "pathwise"), row("score", diamond(13, 6), "score")),
  );
  const exact = html("strong", { "data-quantity": "exact" });
  const count = html("span");
  root.append(
    html("div", { class: "vf-row" }, mu.node, sigma.node), buttons, pictures,
    html("p", {}, "Gradient of the mean of z² with respect to μ, exactly 2μ = ", exact,
      "; estimates from ", count, " draws:"),
    table, region,
  );

  const draw = (width) => {
    const [m, s, noise] = TRAITS.map((name) => model.get(name));
    mu.show(m);
    sigma.show(s);
    const z = noise.map((value) => m + s * value);
    const estimates = {
      pathwise: z.map((value) => 2 * value),
      score: z.map((value, i) => (value ** 2 * noise[i]) / s),
    };
    const variances = { pathwise: 4 * s ** 2, score: m ** 4 / s ** 2 + 14 * m ** 2 + 15 * s ** 2 };
    const summary = {};
    for (const [name, values] of Object.entries(estimates)) {
      const { mean, deviation } = moments(values);
      summary[name] = { mean, error: deviation / Math.sqrt(values.length) };
      cells[`${name}_mean`].textContent = fixed(mean, 3);
      cells[`${name}_error`].textContent = fixed(summary[name].error, 3);
      cells[`${name}_variance`].textContent = fixed(deviation ** 2, 2);
      cells[`${name}_exact_variance`].textContent = fixed(variances[name], 2);
    }
    exact.textContent = fixed(2 * m, 2);
    count.textContent = String(noise.length);

    const lines = plot({
      width, height: 150, x: [-8, 8], y: [0, 1], xLabel: "ε and z", yLabel: "", yHidden: true,
      label: `Lines lead from ${noise.length} noise points ε to z = μ + σε, `
        + `here ${two(m)} plus ${two(s)} times ε.`,
    });
    noise.forEach((value, i) => {
      lines.add(svg("line", {
        x1: lines.X(value), y1: lines.Y(0.9), x2: lines.X(z[i]), y2: lines.Y(0.08),
        stroke: "var(--soft)", "stroke-width": 1, opacity: 0.45,
      }));
    });
    noise.forEach((value, i) => {
      lines.add(
        svg("circle", { cx: lines.X(value), cy: lines.Y(0.9), r: 3, fill: "var(--soft)" }),
        disc(lines.X(z[i]), lines.Y(0.08)),
      );
    });
    lines.add(text(6, lines.Y(0.9) + 4, "noise ε"), text(6, lines.Y(0.08) + 4, "z = μ + σε"));

    const top = Math.max(4, 1.1 * Math.max(...z.map((value) => value ** 2)));
    const cost = plot({
      width, height: 190, x: [-8, 8], y: [-0.05 * top, top], xLabel: "z", yLabel: "cost z²",
      label: "The cost z² as a curve, with every z on it and the slope there, 2z, as a short line: "
        + "the pathwise estimate.",
    });
    const axis = range(-8, 8, 0.05);
    cost.add(curve(cost, axis, axis.map((value) => value ** 2), stroke("soft", "", 1)));
    for (const value of z) {
      // A piece of the tangent, 44 pixels long whatever its slope.
      const rise = (2 * value * cost.h) / (1.05 * top), across = cost.w / 16;
      const share = 22 / Math.hypot(rise, across);
      const [x, y] = [cost.X(value), cost.Y(value ** 2)];
      cost.add(svg("line", {
        x1: x - share * across, x2: x + share * across,
        y1: y + share * rise, y2: y - share * rise, ...stroke("cyan", "", 1),
      }), disc(x, y));
    }

    const largest = Math.max(...Object.values(estimates).flat().map(Math.abs));
    const end = ENDS.find((value) => largest <= value) ?? largest;
    const { pathwise, score } = summary;
    const strip = plot({
      width, height: 200, x: [-end, end], y: [0, 1],
      xLabel: "gradient from one draw", yLabel: "", yHidden: true,
      label: "The estimates of every draw. "
        + `Pathwise: mean ${two(pathwise.mean)} with standard error ${two(pathwise.error)}. `
        + `Score function: mean ${two(score.mean)} with standard error ${two(score.error)}. `
        + `The exact gradient is ${two(2 * m)}.`,
    });
    const at = strip.X(2 * m);
    strip.add(svg("line", { x1: at, x2: at, y1: 0, y2: strip.h, ...stroke("ink", "5 4", 1.5) }));
    const shapes = {
      pathwise: [disc, "cyan", 0.8, "pathwise: 2z"],
      score: [diamond, "wine", 0.32, "score function: z²ε/σ"],
    };
    for (const [name, [shape, colour, height, title]] of Object.entries(shapes)) {
      for (const value of estimates[name]) strip.add(shape(strip.X(value), strip.Y(height), false));
      const { mean, error } = summary[name], y = strip.Y(height - 0.17);
      const [low, high] = [strip.X(mean - error), strip.X(mean + error)];
      const bar = `M${low} ${y}H${high}M${low} ${y - 5}V${y + 5}M${high} ${y - 5}V${y + 5}`;
      strip.add(
        svg("path", { d: bar, ...stroke(colour) }), shape(strip.X(mean), y),
        text(6, strip.Y(height) - 12, title),
      );
    }
    pictures.replaceChildren(lines.node, cost.node, strip.node);
    say(`Exact gradient ${two(2 * m)}. `
      + `Pathwise ${two(pathwise.mean)} plus or minus ${two(pathwise.error)}, `
      + `score function ${two(score.mean)} plus or minus ${two(score.error)}.`);
  };

  const stop = keepDrawn(model, TRAITS, root, draw);
  return () => {
    stop();
    close();
  };
}

export default { render };
