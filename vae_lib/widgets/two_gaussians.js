// Two Gaussians and their KL divergences. The functions used here stand in small.js.

const MEANS = range(-3, 3, 0.1);
// Evenly spaced on a logarithmic scale, seven per cent apart, and 1 among them.
const SCALES = range(-20, 20, 1).map((k) => Number((2 ** (k / 10)).toFixed(2)));
const HALF_WIDTHS = [5, 10, 16];
const SITUATIONS = {
  "equal": { mu_q: 0, sigma_q: 1, mu_p: 0, sigma_p: 1 },
  "p much wider": { mu_q: 0, sigma_q: 0.5, mu_p: 0, sigma_p: 2 },
  "p much narrower": { mu_q: 0, sigma_q: 2, mu_p: 0, sigma_p: 0.5 },
  "far apart, equally wide": { mu_q: -2, sigma_q: 0.5, mu_p: 2, sigma_p: 0.5 },
};
const TRAITS = ["mu_q", "sigma_q", "mu_p", "sigma_p"];

function kl(mu, sigma, otherMu, otherSigma) {
  const spread = (sigma ** 2 + (mu - otherMu) ** 2) / (2 * otherSigma ** 2);
  return Math.log(otherSigma / sigma) + spread - 0.5;
}

function logDensity(z, mu, sigma) {
  return -0.5 * ((z - mu) / sigma) ** 2 - Math.log(sigma) - 0.5 * Math.log(2 * Math.PI);
}

const LINES = { q: stroke("indigo"), p: stroke("rose", "6 3") };
const mark = (name) => svg("line", { x1: 0, x2: 26, y1: 6, y2: 6, ...LINES[name] });

function render({ model, el }) {
  const { root, region, say, close } = frame(
    el, "Live figure: two Gaussians q and p, and their KL divergences",
  );

  const sliders = {};
  const group = (name, colour) => {
    const legend = html("legend", {}, sign(mark(name)), `Gaussian ${name}`);
    const set = html("fieldset", {}, legend);
    const add = (trait, symbol, title, values) => {
      sliders[trait] = slider({
        label: indexed(symbol, name), title: `${title} of ${name}`, values,
        text: (value) => fixed(value, 2), accent: colour,
        change: (value) => assign(model, { [trait]: value }),
      });
      set.append(sliders[trait].node);
    };
    add(`mu_${name}`, "μ", "mean", MEANS);
    add(`sigma_${name}`, "σ", "standard deviation", SCALES);
    return set;
  };
  const buttons = html("div", { class: "vf-buttons", role: "group", "aria-label": "situations" });
  for (const [name, values] of Object.entries(SITUATIONS)) {
    buttons.append(button(name, () => assign(model, values)));
  }
  buttons.append(button("reset", () => assign(model, model.get("start"))));

  const pictures = html("div");
  const qp = html("strong", { "data-quantity": "kl_qp" });
  const pq = html("strong", { "data-quantity": "kl_pq" });
  const verdict = html("p", { "data-quantity": "verdict" });
  root.append(
    html("div", { class: "vf-row" }, group("q", "indigo"), group("p", "rose")),
    buttons, pictures,
    html("div", { class: "vf-row" },
      html("p", {}, sign(mark("q")), "KL(q ‖ p) = ", qp, " nats, mean over q"),
      html("p", {}, sign(mark("p")), "KL(p ‖ q) = ", pq, " nats, mean over p")),
    verdict, region,
  );

  const draw = (width) => {
    const [muQ, sigmaQ, muP, sigmaP] = TRAITS.map((name) => model.get(name));
    for (const name of TRAITS) sliders[name].show(model.get(name));
    const klQP = kl(muQ, sigmaQ, muP, sigmaP), klPQ = kl(muP, sigmaP, muQ, sigmaQ);
    qp.textContent = fixed(klQP, 3);
    pq.textContent = fixed(klPQ, 3);
    verdict.textContent = judge(klQP, klPQ, { muQ, sigmaQ, muP, sigmaP });

    const reach = Math.max(Math.abs(muQ) + 3 * sigmaQ, Math.abs(muP) + 3 * sigmaP);
    const half = HALF_WIDTHS.find((value) => reach <= value) ?? HALF_WIDTHS.at(-1);
    const z = range(-half, half, half / 400);
    const logQ = z.map((value) => logDensity(value, muQ, sigmaQ));
    const logP = z.map((value) => logDensity(value, muP, sigmaP));
    const q = logQ.map(Math.exp), p = logP.map(Math.exp);
    const overQ = q.map((value, i) => value * (logQ[i] - logP[i]));
    const overP = p.map((value, i) => value * (logP[i] - logQ[i]));

    const upper = plot({
      width, height: 180, x: [-half, half], y: [0, 1.4 * Math.max(...q, ...p)],
      xLabel: "z", yLabel: "density",
      label: `Densities. q has mean ${fixed(muQ, 2)} and standard deviation ${fixed(sigmaQ, 2)}, `
        + `p has mean ${fixed(muP, 2)} and standard deviation ${fixed(sigmaP, 2)}.`,
    });
    upper.add(
      curve(upper, z, q, LINES.q), curve(upper, z, p, LINES.p),
      key(upper, [["q", mark("q")], ["p", mark("p")]]),
    );
    const low = Math.min(-0.05, ...overQ, ...overP), high = Math.max(0.1, ...overQ, ...overP);
    const lower = plot({
      width, height: 220, x: [-half, half],
      y: [low - 0.1 * (high - low), high + 0.4 * (high - low)],
      xLabel: "z", yLabel: "integrand (nats)",
      label: `Integrands. The area under q times log q minus log p is ${fixed(klQP, 3)} nats, `
        + `that under p times log p minus log q ${fixed(klPQ, 3)} nats; `
        + "below zero it counts as negative.",
    });
    const zero = lower.Y(0);
    lower.add(
      svg("line", { class: "vf-axis", x1: 0, x2: lower.w, y1: zero, y2: zero }),
      curve(lower, z, overQ, { fill: "var(--indigo)", opacity: 0.18 }, 0),
      curve(lower, z, overP, { fill: "var(--rose)", opacity: 0.18 }, 0),
      curve(lower, z, overQ, LINES.q), curve(lower, z, overP, LINES.p),
      key(lower, [["q (log q − log p)", mark("q")], ["p (log p − log q)", mark("p")]]),
    );
    pictures.replaceChildren(upper.node, lower.node);
    const both = `KL of q from p ${fixed(klQP, 3)}, KL of p from q ${fixed(klPQ, 3)} nats.`;
    say(`${both} ${verdict.textContent}`);
  };
  const stop = keepDrawn(model, TRAITS, root, draw);
  return () => {
    stop();
    close();
  };
}

/** Which of the two is larger, in words. */
function judge(klQP, klPQ, { muQ, sigmaQ, muP, sigmaP }) {
  const same = muQ === muP && sigmaQ === sigmaP;
  if (same) return "Both are zero: q and p are the same.";
  if (sigmaQ === sigmaP) return "The two are equal: q and p are equally wide.";
  const difference = fixed(Math.abs(klQP - klPQ), 3);
  if (Number(difference) === 0) {
    return "The two are equal to three decimals: q and p are nearly equally wide.";
  }
  const [larger, over] = klQP > klPQ ? ["KL(q ‖ p)", "q"] : ["KL(p ‖ q)", "p"];
  return `${larger} is larger, by ${difference} nats: the mean over ${over}, the wider of the two.`;
}

export default { render };
