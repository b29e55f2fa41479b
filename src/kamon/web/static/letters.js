// The probabilities of the next token, and the token that the sampler takes.

import { count, fixed, plural, percent, visible } from "./format.js";
import { allowed, choose, probabilities, uniform } from "./sampler.js";

/**
 * @typedef {import("./api.js").NextTokens} NextTokens
 * @typedef {{temperature: number, top_k: number|null, top_p: number}} Settings
 *
 * @typedef {object} Distribution
 * @property {number[]} logits  of all tokens
 * @property {number[]} free  the tokens that may come next, before top-k and top-p
 * @property {number[]} stay  the tokens that may come next
 * @property {Map<number, number>} shares  the probability of each token in `stay`
 * @property {Map<number, number>} whole  the probability of each token in `free`
 */

export const MAX_BARS = 30;

/**
 * Returns the probabilities that the sampler uses.
 * @param {NextTokens} next
 * @param {Settings} settings
 * @returns {Distribution}
 */
export function distributionOf({ tokens }, { temperature, top_k, top_p }) {
  const logits = tokens.map((each) => each.logit);
  const excluded = new Set(tokens.flatMap((each, i) => (each.kept ? [] : [i])));
  const free = tokens.map((_, i) => i).filter((i) => !excluded.has(i));
  const stay = allowed(logits, temperature, { top_k, top_p }, excluded);
  /** @param {number[]} some */
  const sharesOf = (some) => {
    const shares = probabilities(
      some.map((i) => logits[i]),
      temperature,
    );
    return new Map(some.map((token, i) => [token, shares[i]]));
  };
  return { logits, free, stay, shares: sharesOf(stay), whole: sharesOf(free) };
}

/**
 * Returns the tokens that may come next without top-k and top-p, the most probable first.
 * @param {Distribution} distribution
 */
export function orderOf({ free, logits }) {
  return free.slice().sort((a, b) => logits[b] - logits[a]);
}

/**
 * Returns the token that `kamon sample` takes here for sample 0 of this seed, and its random number.
 * @param {NextTokens} next
 * @param {Distribution} distribution
 * @param {number} temperature
 * @param {number} seed
 */
export function drawn(next, { stay, logits }, temperature, seed) {
  const u = uniform(seed, 0, next.position);
  const place = choose(
    stay.map((i) => logits[i]),
    temperature,
    u,
  );
  return { token: next.tokens[stay[place]], u };
}

/**
 * Returns the probability of a token from each part of a blend, at temperature 1.
 * @param {import("./api.js").NextToken} token
 * @param {NextTokens["blend"]} blend
 */
const partsOf = ({ gpt, ngram }, blend) =>
  blend ? ` (GPT ${percent(gpt ?? 0)}, ${blend.order}-gram ${percent(ngram ?? 0)})` : "";

/**
 * Returns the chart of a distribution: the first tokens, and one bar for the others.
 * @param {NextTokens} next
 * @param {Distribution} distribution
 * @param {number[]} order  of the tokens
 * @returns {import("./bars.js").BarData}
 */
export function chartOf({ tokens, blend }, { logits, free, stay, shares, whole }, order) {
  /** @param {number} i */
  const value = (i) => shares.get(i) ?? whole.get(i) ?? 0;
  /** @type {import("./bars.js").Bar[]} */
  const bars = order.slice(0, MAX_BARS).map((i) => ({
    label: visible(tokens[i].text),
    value: value(i),
    cut: !shares.has(i),
    title: `${visible(tokens[i].text)}: ${shares.has(i) ? percent(value(i)) : `cut off, otherwise ${percent(value(i))}`}${partsOf(tokens[i], blend)}`,
  }));
  const rest = order.slice(MAX_BARS);
  if (rest.length) {
    const sum = rest.reduce((total, i) => total + (shares.get(i) ?? 0), 0);
    bars.push({ label: "rest", value: sum, sum: true, title: `${count(rest.length)} more: ${percent(sum)}` });
  }
  const best = order[0];
  return {
    bars,
    description:
      `${count(stay.length)} of ${plural(free.length, "token")} can come next. ` +
      `The most likely is ${visible(tokens[best].text)}, ${percent(value(best))}.`,
    behind: {
      head: [
        "Next",
        "Probability",
        "Before top-k and top-p",
        ...(blend ? ["GPT", `${blend.order}-gram`] : []),
        blend ? "log p" : "Logit",
        "Token",
      ],
      rows: order.map((i) => [
        visible(tokens[i].text),
        shares.has(i) ? percent(value(i)) : "cut off",
        percent(whole.get(i) ?? 0),
        ...(blend ? [percent(tokens[i].gpt ?? 0), percent(tokens[i].ngram ?? 0)] : []),
        fixed(logits[i], 3),
        tokens[i].id,
      ]),
    },
  };
}
