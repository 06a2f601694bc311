// Rate and distortion of models that Python has computed, and which is best for a weight β. The
// functions used here stand in small.js.

const WATCHED = ["beta", "t", "factors", "rate", "distortion", "slopes", "slope_errors", "betas"];

const dot = (x, y) => svg("circle", { cx: x, cy: y, r: 3, fill: "var(--indigo)" });
const disc = (x, y) => svg("circle", { cx: x, cy: y, r: 6, fill: "var(--rose)" });
const square = (x, y, side = 16) => svg("rect", {
  x: x - side / 2, y: y - side / 2, width: side, height: side, ...stroke("green", "", 2.5),
});

const short = (value) => String(Number(value.toPrecision(3))).replace("-", "−");

function nearest(values, number) {
  const distances = values.map((value) => Math.abs(value - number));
  return distances.indexOf(Math.min(...distances));
}

/** The numbers 1, 2, 5 times powers of ten that lie in a range: for a logarithmic axis. */
function logTicks(low, high) {
  const all = [];
  for (let power = -4; power <= 4; power++) {
    for (const factor of [1, 2, 5]) all.push(Number((factor * 10 ** power).toPrecision(2)));
  }
  return all.filter((value) => value >= low * 0.999 && value <= high * 1.001);
}

function render({ model, el }) {
  const { root, region, say, close } = frame(
    el, "Live figure: rate, distortion and the weight beta",
  );
  const holder = html("div", { class: "vf-row" });
  const pictures = html("div", { class: "vf-plots" });
  const findings = {};
  const finding = (name) => (findings[name] = html("span", { "data-quantity": name }));
  const strong = (name) => (findings[name] = html("strong", { "data-quantity": name }));
  const slopeLine = html("p", {},
    "The slope of the curve at the chosen t, measured: ", finding("slope"), ".");
  root.append(
    holder,
    html("div", { class: "vf-buttons" },
      button("go to the best t", () => assign(model, { t: model.get("factors")[state().best] })),
      button("reset", () => assign(model, model.get("start")))),
    pictures,
    html("p", {}, sign(square(13, 6, 9)), "Chosen, t = ", finding("t"),
      ": R ", finding("rate"), ", D ", finding("distortion"),
      ", D + βR = ", strong("total"), " nats."),
    html("p", {}, sign(disc(13, 6)), "Least D + βR of all, at t = ", finding("best_t"),
      ": ", strong("least"), " nats", finding("more"), "."),
    slopeLine, region,
  );

  // The sliders' values come from Python, and a new list of them makes new sliders.
  let sliders = {}, shownLists = "";
  const makeSliders = () => {
    const lists = JSON.stringify([model.get("betas"), model.get("factors")]);
    if (lists === shownLists) return;
    shownLists = lists;
    sliders = {
      beta: slider({
        label: ["weight β"], title: "beta, the weight of the rate",
        values: model.get("betas"), text: short,
        accent: "rose", change: (beta) => assign(model, { beta }),
      }),
      t: slider({
        label: ["width t"], title: "t, the factor of all widths", values: model.get("factors"),
        text: (value) => fixed(value, 2), accent: "green", change: (t) => assign(model, { t }),
      }),
    };
    holder.replaceChildren(sliders.beta.node, sliders.t.node);
  };

  const state = () => {
    const [beta, t, factors, rate, distortion] = WATCHED.map((name) => model.get(name));
    const totals = distortion.map((value, i) => value + beta * rate[i]);
    const best = totals.indexOf(Math.min(...totals));
    return { beta, factors, rate, distortion, totals, i: nearest(factors, t), best };
  };

  const draw = (width) => {
    makeSliders();
    const { beta, factors, rate, distortion, totals, i, best } = state();
    sliders.beta.show(beta);
    sliders.t.show(factors[i]);
    const values = {
      t: fixed(factors[i], 2), rate: fixed(rate[i], 2), distortion: fixed(distortion[i], 2),
      total: fixed(totals[i], 2),
      best_t: fixed(factors[best], 2), least: fixed(totals[best], 2),
      more: i === best ? ", which is the chosen one"
        : `, ${fixed(totals[i] - totals[best], 2)} less than the chosen one`,
    };
    const slopes = model.get("slopes"), errors = model.get("slope_errors");
    slopeLine.hidden = slopes.length === 0;
    values.slope = slopes.length === 0 ? ""
      : `${fixed(slopes[i], 2)} ± ${fixed(errors[i], 2)} (−β is ${short(-beta)})`;
    for (const [name, content] of Object.entries(values)) findings[name].textContent = content;

    // Side by side where there is room, below one another on a phone.
    const each = width >= 540 ? Math.floor((width - 20) / 2) : width;
    const [lowR, highR] = [Math.min(...rate), Math.max(...rate)];
    const [lowD, highD] = [Math.min(...distortion), Math.max(...distortion)];
    const roomR = 0.08 * (highR - lowR), roomD = 0.16 * (highD - lowD);
    const ends = [lowR - roomR, highR + roomR];
    const plane = plot({
      width: each, height: 280, x: ends, y: [lowD - roomD, highD + 0.5 * roomD],
      xLabel: "rate R (nats)", yLabel: "distortion D (nats)",
      label: `${factors.length} models in the plane of rate and distortion. `
        + `A line of slope ${short(-beta)} touches them at t = ${values.best_t}; `
        + `the chosen one, t = ${values.t}, has R ${values.rate} and D ${values.distortion}.`,
    });
    const lineAt = (total, attributes) => (
      curve(plane, ends, ends.map((end) => total - beta * end), attributes)
    );
    const dashes = svg("line", { x1: 0, x2: 26, y1: 6, y2: 6, ...stroke("rose", "7 4") });
    plane.add(
      lineAt(totals[best], stroke("rose", "7 4")),
      ...(i === best ? [] : [lineAt(totals[i], stroke("green", "2 4", 1.5))]),
      curve(plane, rate, distortion, stroke("indigo", "", 1)),
      ...rate.map((value, k) => dot(plane.X(value), plane.Y(distortion[k]))),
      disc(plane.X(rate[best]), plane.Y(distortion[best])),
      square(plane.X(rate[i]), plane.Y(distortion[i])),
      key(plane, [[`slope −β = ${short(-beta)}`, dashes]], "right"),
    );

    const [low, high] = [Math.min(...totals), Math.max(...totals)];
    const sums = plot({
      width: each, height: 280, x: [factors[0] / 1.15, factors.at(-1) * 1.15],
      y: [low - 0.12 * (high - low), high + 0.06 * (high - low)],
      logX: true, xTicks: logTicks(factors[0], factors.at(-1)),
      xLabel: "t (logarithmic)", yLabel: "D + βR (nats)",
      label: `D + βR of every model, least at t = ${values.best_t} with ${values.least} nats; `
        + `at the chosen t ${values.total} nats.`,
    });
    sums.add(
      curve(sums, factors, totals, stroke("indigo", "", 1)),
      ...factors.map((value, k) => dot(sums.X(value), sums.Y(totals[k]))),
      disc(sums.X(factors[best]), sums.Y(totals[best])),
      square(sums.X(factors[i]), sums.Y(totals[i])),
    );
    pictures.replaceChildren(plane.node, sums.node);
    say(`Beta ${short(beta)}, t ${values.t}: D plus beta R is ${values.total} nats. `
      + `The least is ${values.least}, at t ${values.best_t}.`);
  };

  const stop = keepDrawn(model, WATCHED, root, draw);
  return () => {
    stop();
    close();
  };
}

export default { render };
