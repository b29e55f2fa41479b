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
 */
export function plural(n, word) {
  return `${count(n)} ${word}${n === 1 ? "" : "s"}`;
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
 * A token or a text as it can be seen.
 * @param {string} text
 */
export function visible(text) {
  return text === "" ? "end" : safe(text).replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥");
}
