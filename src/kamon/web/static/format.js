// Numbers and tokens as the page writes them.

import { safe } from "./text.js";

/** @param {number} n */
export function count(n) {
  return n.toLocaleString("en-GB");
}

/**
 * "1 line", "2 lines".
 * @param {number} n
 * @param {string} word
 * @param {string} [several]
 */
export function plural(n, word, several = `${word}s`) {
  return `${count(n)} ${n === 1 ? word : several}`;
}

/**
 * @param {number|null|undefined} x
 * @param {number} [digits]
 */
export function fixed(x, digits = 2) {
  return x === null || x === undefined ? "–" : x.toFixed(digits).replace("-", "−");
}

/** @param {number} x  a share of 1 */
export function percent(x) {
  const p = 100 * x;
  if (p === 0) return "0%";
  return p < 0.1 ? "<0.1%" : `${p.toFixed(p < 10 ? 1 : 0)}%`;
}

/**
 * Returns a token or a text in visible form.
 * @param {string} text
 */
export function visible(text) {
  return text === "" ? "end" : safe(text).replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥");
}

/**
 * Returns a sentence about a search: names found, names tried, names left out.
 * @param {Pick<import("./api.js").Samples, "samples"|"tried"|"ended"|"left_out">} found
 * @param {number} wanted
 */
export function foundSentence({ samples, tried, ended, left_out }, wanted) {
  const n = samples.length;
  const tries = plural(tried, "candidate");
  const left = [
    left_out.copies && `${plural(left_out.copies, "copy", "copies")} of the list`,
    left_out.duplicates && plural(left_out.duplicates, "duplicate"),
  ].filter(Boolean);
  const dropped = left.length ? ` Left out: ${left.join(" and ")}.` : "";
  if (n >= wanted) return `${plural(n, "name")} from ${tries}.${dropped}`;
  const why = ended === "time" ? " before time ran out" : "";
  const hint = left.length ? "Ask for fewer, or include copies and duplicates." : "Loosen the conditions.";
  return `${n ? `Only ${count(n)} of ${count(wanted)} names` : "None"} from ${tries}${why}.${dropped} ${hint}`;
}
