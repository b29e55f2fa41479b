// A heat map. A larger square shows a larger number.

import { chart, keyOf } from "./chart.js";
import { append, s } from "./dom.js";

/**
 * @typedef {object} HeatData
 * @property {string[]} labels  of rows and columns
 * @property {number[][]} values  from 0 to 1. Row t has t + 1
 * @property {number} row  the chosen one
 * @property {string} description
 */

const LEFT = 34; // px for the labels of rows
const TOP = 22; // px for the labels of columns
const NARROW = 14; // px of a cell. Narrower ones have only every second label

/**
 * A row: its label, its cells, and a description for screen readers.
 * @param {HeatData} data
 * @param {number} t
 * @param {number} cell  px of a cell
 */
function drawRow({ labels, values, row }, t, cell) {
  const label = labels[t];
  const y = TOP + t * cell;
  const here = t === row;
  const looks = labels
    .slice(0, t + 1)
    .map((to, i) => `${to} ${Math.round(100 * values[t][i])}%`)
    .join(", ");
  const props = {
    "data-key": t,
    class: here ? "row here" : "row",
    role: "img",
    tabindex: here ? 0 : -1,
    "aria-label": `${label} attends to ${looks}`,
  };
  const node = s(
    "g",
    props,
    s("rect", { x: 0, y, width: LEFT + labels.length * cell, height: cell, class: "slot" }),
    s("text", { x: 26, y: y + cell / 2 + 5, class: "side" }, here ? `▸${label}` : label),
  );
  for (let i = 0; i <= t; i++) {
    const side = Math.sqrt(Math.max(0, Math.min(1, values[t][i]))) * (cell - 3);
    const x = LEFT + i * cell;
    const title = s("title", {}, `${label} attends to ${labels[i]}: ${values[t][i].toFixed(3)}`);
    append(
      node,
      s("rect", { x: x + 0.5, y: y + 0.5, width: cell - 1, height: cell - 1, class: "cell" }),
      s("rect", { x: x + (cell - side) / 2, y: y + (cell - side) / 2, width: side, height: side, class: "bar" }, title),
    );
  }
  return node;
}

/**
 * @param {HeatData} data
 * @param {number} width
 * @returns {import("./chart.js").Drawn}
 */
function draw(data, width) {
  const { labels, description } = data;
  const cell = Math.max(8, Math.min(40, (width - LEFT - 2) / labels.length));
  const columns = labels.map((label, i) =>
    s("text", { x: LEFT + (i + 0.5) * cell, y: 14, class: "letter" }, cell < NARROW && i % 2 ? "" : label),
  );
  const rows = labels.map((_, t) => drawRow(data, t, cell));
  return { height: TOP + 4 + labels.length * cell, description, parts: [...columns, ...rows] };
}

/**
 * @param {HeatData} data
 * @returns {import("./chart.js").Behind}
 */
function tableOf({ labels, values, row }) {
  return {
    head: ["Token", ...labels],
    rows: labels.map((label, t) => [
      t === row ? `▸ ${label}` : label,
      ...values[t].map((value, i) => (i <= t ? value.toFixed(2) : "")),
    ]),
  };
}

/**
 * A heat map with rows that the user can choose.
 * @param {string} title
 * @param {(row: number) => void} look
 */
export function heat(title, look) {
  let [row, last] = [0, -1];
  /** @param {HeatData} data @param {number} width */
  const redraw = (data, width) => {
    [row, last] = [data.row, data.labels.length - 1];
    return draw(data, width);
  };
  const made = chart(title, "group", redraw, tableOf);
  for (const kind of ["pointerover", "click"]) {
    made.svg.addEventListener(kind, (event) => {
      const key = keyOf(event);
      if (key >= 0 && key !== row) look(key);
    });
  }
  made.svg.addEventListener("keydown", (event) => {
    const to = { ArrowDown: row + 1, ArrowUp: row - 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    look(Math.min(last, Math.max(0, to)));
    /** @type {SVGElement|null} */ (made.svg.querySelector(`[data-key="${row}"]`))?.focus();
  });
  return made;
}
