// Bar charts, in as many rows as they need.

import { chart, keyOf, onPointer, partId } from "./chart.js";
import { append, s } from "./dom.js";

/**
 * @typedef {import("./chart.js").Drawn} Drawn
 * @typedef {import("./chart.js").Behind} Behind
 *
 * @typedef {object} Bar
 * @property {string} label
 * @property {number} value
 * @property {number} [second]  of the second row of bars
 * @property {boolean} [cut]  whether top-k or top-p cut it off (hatched)
 * @property {boolean} [sum]  a sum of several, which the user cannot choose
 * @property {string} title  the tooltip
 *
 * @typedef {object} BarData
 * @property {Bar[]} bars
 * @property {Behind} behind
 * @property {string} description
 * @property {(x: number) => string} [format]
 * @property {[string, string]} [names]  of the first and the second bars
 *
 * @typedef {object} BarOptions
 * @property {(place: number) => void} [choose]  lets the user choose a bar with the arrow keys, Enter or a click
 * @property {(place: number) => void} [look]  called with the bar under the pointer
 */

const HIGHEST = 150; // px of the highest bar in a single row
const HIGHEST_OF_MANY = 110; // px of the highest bar if there are several rows
const ABOVE = 26; // px above a row, for numbers
const BELOW = 18; // px below a row, for labels

/**
 * Formats a number of percent. Below 1 it is "<1", so that no visible bar reads as 0.
 * @param {number} x
 */
export function short(x) {
  const p = 100 * x;
  if (p === 0) return "";
  return p < 0.95 ? "<1" : p.toFixed(0);
}

/**
 * A pattern for bars, so that they do not differ only in colour.
 * @param {"hatch"|"dots"} kind  "hatch" for bars that are cut off, "dots" for the second of two bars
 */
function pattern(kind) {
  const id = partId();
  const d = kind === "hatch" ? "M-1,7 L7,-1 M5,7 L7,5 M-1,1 L1,-1" : "M0,1.5 H6 M0,4.5 H6";
  return {
    fill: `url(#${id})`,
    node: s("pattern", { id, width: 6, height: 6, patternUnits: "userSpaceOnUse" }, s("path", { d, class: "lines" })),
  };
}

/**
 * The rows of a bar chart. They have the same scale, and each is as tall as its highest bar.
 * @param {BarData} data
 * @param {number} width
 */
export function barLayout({ bars, names }, width) {
  const two = names !== undefined;
  const capacity = Math.max(1, Math.floor(width / (two ? 34 : 24)));
  const rows = Math.max(1, Math.ceil(bars.length / capacity));
  const perRow = Math.max(1, Math.ceil(bars.length / rows));
  const slot = Math.min(width / perRow, two ? 72 : 52);
  /** @param {Bar[]} some */
  const highest = (some) => Math.max(1e-12, ...some.map((bar) => Math.max(bar.value, bar.second ?? 0)));
  const top = highest(bars);
  const full = rows === 1 ? HIGHEST : HIGHEST_OF_MANY;
  const heights = Array.from({ length: rows }, (_, i) =>
    Math.max(12, (full * highest(bars.slice(i * perRow, (i + 1) * perRow))) / top),
  );
  /** @type {number[]} */
  const bases = [];
  heights.forEach((height, i) => bases.push((i ? bases[i - 1] + ABOVE : two ? ABOVE : 0) + height + BELOW));
  return { two, perRow, slot, heights, bases, heightOf: (/** @type {number} */ value) => (value / top) * full };
}

/**
 * The legend for two kinds of bars.
 * @param {[string, string]} names
 * @param {string} fill  of the second
 */
function legend(names, fill) {
  return [
    s("rect", { x: 0, y: 4, width: 14, height: 12, class: "bar" }),
    s("text", { x: 20, y: 14 }, names[0]),
    s("rect", { x: 130, y: 4, width: 14, height: 12, class: "second", fill }),
    s("text", { x: 150, y: 14 }, names[1]),
  ];
}

/**
 * @param {BarData} data
 * @param {number} width
 * @param {BarOptions} options
 * @param {number} place  of the bar with the keyboard focus
 * @returns {Drawn}
 */
function drawBars(data, width, options, place) {
  const { bars, format = short, names, description } = data;
  const { two, perRow, slot, heights, bases, heightOf } = barLayout(data, width);
  const cut = pattern("hatch");
  const second = pattern("dots");
  /** @type {Record<string, string>} */
  const fills = { cut: cut.fill, second: second.fill };
  const inner = (slot - 4) / (two ? 2 : 1);
  const groups = bars.map((bar, i) => {
    const x = (i % perRow) * slot;
    const row = Math.floor(i / perRow);
    const [tall, base] = [heights[row], bases[row]];
    /** @param {number} value @param {number} shift @param {string} kind */
    const column = (value, shift, kind) => {
      const height = Math.max(value > 0 ? 1 : 0, heightOf(value));
      const size = { x: x + 2 + shift * inner, y: base - height, width: Math.max(1, inner - (two ? 1 : 0)), height };
      return [
        s("rect", { ...size, class: kind, fill: fills[kind] }),
        s("text", { x: x + 2 + (shift + 0.5) * inner, y: base - height - 4, class: "value" }, format(value)),
      ];
    };
    const group = s("g", groupProps(bar, i, options, place));
    append(
      group,
      s("title", {}, bar.title),
      s("rect", { x, y: base - tall - 16, width: slot, height: tall + 40, class: "slot" }),
      ...column(bar.value, 0, bar.cut ? "cut" : bar.sum ? "sum" : "bar"),
      ...(two ? column(bar.second ?? 0, 1, "second") : []),
      s("text", { x: x + slot / 2, y: base + 16, class: "letter" }, bar.label),
      s("line", { x1: x, x2: x + slot, y1: base, y2: base, class: "axis" }),
    );
    return group;
  });
  const parts = [s("defs", {}, cut.node, second.node), ...(names ? legend(names, second.fill) : []), ...groups];
  return { height: bases[bases.length - 1] + 26, description, parts };
}

/** @param {Bar} bar @param {number} i @param {BarOptions} options @param {number} place */
function groupProps(bar, i, { choose, look }, place) {
  if (!choose) return { "data-key": i, class: look ? "look" : null };
  return {
    "data-key": i,
    class: !bar.sum ? "option" : look ? "look" : null,
    role: "option",
    "aria-label": bar.title,
    "aria-selected": String(i === place),
    "aria-disabled": bar.sum ? "true" : null,
    tabindex: i === place ? 0 : -1,
  };
}

/**
 * A chart of bars.
 * @param {string} title
 * @param {BarOptions} [options]
 */
export function bars(title, options = {}) {
  const at = { place: 0, size: 0 };
  /** @param {BarData} data @param {number} width */
  const draw = (data, width) => {
    at.size = data.bars.length;
    at.place = Math.min(at.place, Math.max(0, at.size - 1));
    return drawBars(data, width, options, at.place);
  };
  const made = chart(title, options.choose ? "listbox" : "img", draw, (data) => data.behind);
  if (options.choose) listenForChoices(made.svg, at, options.choose);
  if (options.look) onPointer(made.svg, options.look);
  return made;
}

/**
 * @param {SVGElement} svg
 * @param {{place: number, size: number}} at  the bar with the keyboard focus, and the number of bars
 * @param {(place: number) => void} choose
 */
function listenForChoices(svg, at, choose) {
  /** @param {number} to */
  const move = (to) => {
    const groups = svg.querySelectorAll("g[data-key]");
    groups[at.place]?.setAttribute("tabindex", "-1");
    groups[at.place]?.setAttribute("aria-selected", "false");
    at.place = Math.min(at.size - 1, Math.max(0, to));
    const now = /** @type {SVGElement|undefined} */ (groups[at.place]);
    now?.setAttribute("tabindex", "0");
    now?.setAttribute("aria-selected", "true");
    now?.focus();
  };
  svg.addEventListener("click", (event) => {
    const key = keyOf(event);
    if (key >= 0) choose(key);
  });
  svg.addEventListener("keydown", (event) => {
    /** @type {Record<string, () => void>} */
    const keys = {
      ArrowRight: () => move(at.place + 1),
      ArrowDown: () => move(at.place + 1),
      ArrowLeft: () => move(at.place - 1),
      ArrowUp: () => move(at.place - 1),
      Home: () => move(0),
      End: () => move(at.size - 1),
      Enter: () => choose(at.place),
      " ": () => choose(at.place),
    };
    const act = event.ctrlKey || event.metaKey || event.altKey ? undefined : keys[event.key];
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  });
}
