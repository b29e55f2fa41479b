// The base of all charts: SVG with a title and a description, and a table of the same numbers.

import { explained, h, newId, s, replaceContent, table } from "./dom.js";

/**
 * @typedef {import("./dom.js").Child} Child
 * @typedef {object} Drawn
 * @property {number} height
 * @property {string} description
 * @property {SVGElement[]} parts
 *
 * @typedef {{head: string[], rows: Child[][]}} Behind
 */

/**
 * A chart: it draws the figure and the table, and keeps the size and the focus.
 * @template T
 * @param {string} title
 * @param {string} role  "img", or a role with parts
 * @param {(data: T, width: number) => Drawn} draw
 * @param {(data: T) => Behind} behind  the table
 */
export function chart(title, role, draw, behind) {
  const name = s("title", { id: newId() }, title);
  const description = s("desc", { id: newId() });
  const svg = s("svg", {
    role,
    "aria-labelledby": name.id,
    "aria-describedby": description.id,
  });
  const inner = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${title}: table` });
  const details = h("details", { class: "behind" }, h("summary", {}, "Table"), inner);
  const node = h("figure", { class: "chart" }, h("figcaption", {}, ...explained(title)), svg, details);
  /** @type {T|undefined} */
  let data;
  let width = 0;

  const redraw = () => {
    if (data === undefined || width === 0) return;
    const focused = svg.contains(document.activeElement) ? document.activeElement?.getAttribute("data-key") : null;
    const drawn = draw(data, width);
    svg.setAttribute("viewBox", `0 0 ${width} ${drawn.height}`);
    svg.setAttribute("width", String(width));
    svg.setAttribute("height", String(drawn.height));
    description.textContent = drawn.description;
    svg.replaceChildren(name, description, ...drawn.parts);
    if (focused !== null && focused !== undefined) {
      const again = svg.querySelector(`[data-key="${CSS.escape(focused)}"]`) ?? svg.querySelector("[tabindex='0']");
      /** @type {SVGElement|null} */ (again)?.focus();
    }
    fillTable();
  };
  const fillTable = () => {
    if (!details.open || data === undefined) return;
    const found = behind(data);
    replaceContent(inner, table(title, found.head, found.rows));
  };
  details.addEventListener("toggle", fillTable);
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now !== width) {
      width = now;
      redraw();
    }
  }).observe(node);
  return {
    node,
    svg,
    table: inner,
    /** @param {T} shown */
    show(shown) {
      data = shown;
      redraw();
    },
  };
}

let lastId = 0;

/** Returns a new id for a part of a chart. */
export function partId() {
  return `p${++lastId}`;
}

/**
 * Returns the key of the part of a chart where an event happened, or -1.
 * @param {Event} event
 */
export function keyOf(event) {
  const found = /** @type {Element} */ (event.target).closest("[data-key]")?.getAttribute("data-key");
  return found === null || found === undefined ? -1 : Number(found);
}

/**
 * Calls `look` with the key of the part under the pointer.
 * @param {SVGElement} svg
 * @param {(key: number) => void} look
 */
export function onPointer(svg, look) {
  svg.addEventListener("pointerover", (event) => {
    const key = keyOf(event);
    if (key >= 0) look(key);
  });
}
