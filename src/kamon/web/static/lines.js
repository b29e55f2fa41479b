// Line charts and point charts with labels.

import { chart, onPointer, partId } from "./chart.js";
import { s } from "./dom.js";

/**
 * @typedef {import("./chart.js").Drawn} Drawn
 * @typedef {import("./chart.js").Behind} Behind
 *
 * @typedef {object} Series
 * @property {string} name
 * @property {[number, number][]} points
 * @property {"line"|"faint"|"dots"|"marked"|"names"} kind
 * @property {string[]} [labels]  labels of the points, for "names" and "marked"
 *
 * @typedef {object} LineData
 * @property {Series[]} series
 * @property {{y: number, name: string, dash: string}[]} [rules]  horizontal lines
 * @property {number|null} [cursor]  the chosen x
 * @property {number} [lit]  the chosen point
 * @property {string} xName
 * @property {[number, number]} [xRange]
 * @property {[number, number]} [yRange]  points outside are not drawn
 * @property {boolean} [plain]  without numbers on the axes
 * @property {string} description
 * @property {Behind} behind
 */

const NARROW = 480; // px. A narrower chart has less room for names
const NAME_HEIGHT = 15; // px between two names

/**
 * Returns about as many round numbers in a range as wanted.
 * @param {number} min
 * @param {number} max
 * @param {number} wanted
 */
export function ticks(min, max, wanted) {
  const rough = (max - min || 1) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((each) => each * power >= rough) ?? 10);
  const found = [];
  for (let i = Math.ceil(min / step); i * step <= max + 1e-9 * step; i++) found.push(i * step);
  return found;
}

/**
 * Returns a range with some room at its ends.
 * @param {number} min
 * @param {number} max
 * @returns {[number, number]}
 */
function spread(min, max) {
  const room = (max - min || 1) * 0.06;
  return [min - room, max + room];
}

/**
 * The plot area: its edges in pixels, its ranges, and functions from numbers to pixels.
 * @param {LineData} data
 * @param {number} width
 * @param {number} height
 */
function areaOf({ series, rules = [], plain = false, xRange, yRange }, width, height) {
  const [left, top, below] = plain ? [12, 10, 12] : [38, 10, 38];
  const right = width - (plain ? 12 : width < NARROW ? 92 : 132);
  const bottom = height - below;
  const points = series.flatMap((each) => each.points);
  const xs = points.map(([x]) => x);
  const ys = [...points.map(([, y]) => y), ...rules.map(({ y }) => y)];
  const [x0, x1] = xRange ?? [Math.min(...xs), Math.max(...xs)];
  const [y0, y1] = yRange ?? spread(Math.min(...ys), Math.max(...ys));
  return {
    ...{ left, right, top, bottom, width, height, x0, x1, y0, y1 },
    px: (/** @type {number} */ x) => left + ((x - x0) / (x1 - x0 || 1)) * (right - left),
    py: (/** @type {number} */ y) => bottom - ((y - y0) / (y1 - y0 || 1)) * (bottom - top),
  };
}

/** @typedef {ReturnType<typeof areaOf>} Area */

/**
 * The axes with their numbers.
 * @param {Area} area
 * @param {string} xName
 */
function axes({ left, right, width, height, bottom, x0, x1, y0, y1, px, py }, xName) {
  return [
    ...ticks(y0, y1, 5).flatMap((y) => [
      s("line", { x1: left, x2: right, y1: py(y), y2: py(y), class: "grid" }),
      s("text", { x: left - 6, y: py(y) + 4, class: "side" }, String(Number(y.toFixed(6)))),
    ]),
    ...ticks(x0, x1, width < NARROW ? 3 : 6).map((x) =>
      s("text", { x: px(x), y: height - 18, class: "letter small" }, x.toLocaleString("en-GB")),
    ),
    s("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" }),
    s("text", { x: (left + right) / 2, y: height - 3, class: "letter small" }, xName),
  ];
}

/**
 * A line, its dots, and its points with labels.
 * @param {Series} series
 * @param {Area} area
 * @param {string|null} clip  id of the area that clips the line
 * @param {number} [lit]  the chosen point
 */
function drawSeries({ kind, points, labels }, { px, py }, clip, lit) {
  /** @type {SVGElement[]} */
  const parts = [];
  if (kind === "line" || kind === "faint" || kind === "marked") {
    const d = points.map(([x, y], i) => `${i ? "L" : "M"}${px(x).toFixed(1)},${py(y).toFixed(1)}`).join("");
    parts.push(s("path", { d, class: `stroke ${kind}`, "clip-path": clip }));
  }
  if (kind === "dots" || kind === "marked") {
    for (const [x, y] of points) parts.push(s("circle", { cx: px(x), cy: py(y), r: 3.5, class: "dot" }));
  }
  if (kind !== "names" && !labels) return { parts, top: null };
  const named = points.map(([x, y], i) =>
    s(
      "g",
      { "data-key": i, class: i === lit ? "point lit" : "point" },
      s("circle", { cx: px(x), cy: py(y), r: i === lit ? 13 : 11, class: "slot" }),
      s("text", { x: px(x), y: py(y) + 5, class: "letter" }, labels?.[i] ?? ""),
    ),
  );
  parts.push(...named.filter((_, i) => i !== lit));
  return { parts, top: (lit === undefined ? null : named[lit]) ?? null };
}

/**
 * The names of rules and series, moved so that they do not overlap.
 * @param {LineData} data
 * @param {Area} area
 */
function names({ rules = [], series, plain }, { right, py }) {
  const found = rules.map((each) => ({ y: py(each.y), text: each.name }));
  for (const { name, points } of series) {
    const last = points[points.length - 1];
    if (name && last && !plain) found.push({ y: py(last[1]), text: name });
  }
  found.sort((a, b) => a.y - b.y);
  found.forEach((each, i) => {
    if (i) each.y = Math.max(each.y, found[i - 1].y + NAME_HEIGHT);
  });
  return found.map((each) => s("text", { x: right + 8, y: each.y + 4, class: "name" }, each.text));
}

/**
 * @param {number} x
 * @param {Area} area
 */
function drawCursor(x, { top, bottom, px }) {
  return [
    s("line", { x1: px(x), x2: px(x), y1: top, y2: bottom, class: "cursor" }),
    s("path", { d: `M${px(x) - 5},${top - 6} h10 l-5,8 z`, class: "dot" }),
  ];
}

/**
 * @param {LineData} data
 * @param {number} width
 * @param {number} height
 * @returns {Drawn}
 */
function draw(data, width, height) {
  const { series, rules = [], plain = false, cursor, lit, description } = data;
  const area = areaOf(data, width, height);
  const { left, right, top, bottom, py } = area;
  const clip = partId();
  const inside = s("rect", { x: left, y: top, width: right - left, height: bottom - top });
  const drawn = series.map((each) => drawSeries(each, area, plain ? null : `url(#${clip})`, lit));
  const tops = drawn.map((each) => each.top).filter((each) => each !== null);
  const hasCursor = cursor !== null && cursor !== undefined && series.some((each) => each.points.length);
  const parts = [
    ...(plain ? [] : [s("clipPath", { id: clip }, inside), ...axes(area, data.xName)]),
    ...rules.map(({ y, dash }) =>
      s("line", { x1: left, x2: right, y1: py(y), y2: py(y), class: "rule", "stroke-dasharray": dash }),
    ),
    ...drawn.flatMap((each) => each.parts),
    ...(hasCursor ? drawCursor(cursor, area) : []),
    ...tops, // last, so that nothing hides it
    ...names(data, area),
  ];
  return { height, description, parts };
}

/**
 * A chart of lines and points.
 * @param {string} title
 * @param {{height?: number, look?: (place: number) => void}} [options]
 */
export function lines(title, { height = 300, look } = {}) {
  const made = chart(
    title,
    "img",
    (/** @type {LineData} */ data, width) => draw(data, width, height),
    (data) => data.behind,
  );
  if (look) onPointer(made.svg, look);
  return made;
}
