// The trace of a text as labels, sentences and a chart.

import { fixed, percent, visible } from "./format.js";
import { graphemes } from "./graphemes.js";
import { inline } from "./text.js";

/** @typedef {import("./api.js").Trace} Trace */

/**
 * Returns the labels of the tokens. The one before and after a document is "◦".
 * @param {Trace} trace
 */
export function labelsOf(trace) {
  return trace.tokens.map(({ text }) => (visible(text) === "end" ? "◦" : visible(text)));
}

/**
 * Returns how much a token attends to each token up to it.
 * @param {Trace} trace
 * @param {{layer: number, head: number, row: number}} at
 */
export function weightsOf(trace, { layer, head, row }) {
  return trace.attention[layer]?.[head]?.[row] ?? [];
}

/**
 * Returns a sentence about the token that gets the most attention.
 * @param {Trace} trace
 * @param {{layer: number, head: number, row: number}} at
 */
export function attentionSentence(trace, at) {
  const labels = labelsOf(trace);
  const weights = weightsOf(trace, at);
  const best = weights.indexOf(Math.max(...weights));
  return (
    `In layer ${at.layer}, head ${at.head}, “${labels[at.row]}” at position ${at.row} attends most to ` +
    `“${labels[best]}” at position ${best}, with ${percent(weights[best] ?? 0)}.`
  );
}

/**
 * Returns a surprisal with its unit, in the unit of the losses too.
 * @param {number|null} x  in bits
 */
function bits(x) {
  return x === null ? "–" : `${fixed(x)} bits (${fixed(x * Math.LN2)} nats)`;
}

/**
 * Returns the surprisal of the next token, or "" for the last token.
 * @param {Trace} trace
 * @param {number} row
 */
export function surpriseSentence(trace, row) {
  const target = trace.surprise[row];
  if (!target) return "";
  const next = target.text === "" ? "end" : `“${inline(visible(target.text))}”`;
  const ngram = target.ngram === null ? "" : `, n-gram ${bits(target.ngram)}`;
  const blend = target.blend === null ? "" : `, blend ${bits(target.blend)}`;
  return `After “${inline(labelsOf(trace)[row])}”: ${next}. Surprisal: GPT ${bits(target.gpt)}${ngram}${blend}.`;
}

/**
 * Returns the surprisals of letters as people see them, the sums of those of their tokens, with the
 * row of the first token of each.
 * @param {Trace} trace
 * @returns {(Trace["surprise"][number] & {row: number})[]}
 */
export function surpriseOfLetters({ surprise }) {
  const text = surprise.map((each) => each.text).join("");
  let [end, place] = [0, 0];
  const begins = new Set([0, ...graphemes(text).map((each) => (end += each.length))]);
  /** @param {number|null} a @param {number|null} b */
  const sum = (a, b) => (a === null || b === null ? null : a + b);
  /** @type {(Trace["surprise"][number] & {row: number})[]} */
  const found = [];
  surprise.forEach((each, row) => {
    const last = found[found.length - 1];
    if (last && each.text !== "" && !begins.has(place)) {
      last.text += each.text;
      last.gpt = sum(last.gpt, each.gpt);
      last.ngram = sum(last.ngram, each.ngram);
      last.blend = sum(last.blend, each.blend);
    } else found.push({ ...each, row });
    place += each.text.length;
  });
  return found;
}

/**
 * @param {Trace} trace
 * @returns {import("./bars.js").BarData}
 */
export function surpriseChart(trace) {
  const { ngram_order } = trace;
  const surprise = surpriseOfLetters(trace);
  const blended = surprise.some((each) => each.blend !== null);
  const gpt = surprise.reduce((sum, each) => sum + (each.gpt ?? Infinity), 0);
  const blend = surprise.reduce((sum, each) => sum + (each.blend ?? Infinity), 0);
  return {
    names: surprise.some((each) => each.ngram !== null) ? ["GPT", `${ngram_order ?? "n"}-gram`] : undefined,
    format: (bits) => bits.toFixed(1),
    bars: surprise.map((each) => ({
      label: visible(each.text),
      value: each.gpt ?? 0,
      second: each.ngram ?? undefined,
      title: `${visible(each.text)}: ${fixed(each.gpt)} bits by the GPT${each.ngram === null ? "" : `, ${fixed(each.ngram)} by the n-gram`}`,
    })),
    description: `Total surprisal, end included: GPT ${bits(gpt)}${blended ? `, blend ${bits(blend)}` : ""}.`,
    behind: {
      head: ["Letter", "GPT, bits", "n-gram, bits", ...(blended ? ["blend, bits"] : [])],
      rows: surprise.map((each) => [
        visible(each.text),
        fixed(each.gpt, 3),
        fixed(each.ngram, 3),
        ...(blended ? [fixed(each.blend, 3)] : []),
      ]),
    },
  };
}
