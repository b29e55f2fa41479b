// Elements of the page. Text is always inserted as text, never as markup.

import { TERMS } from "./terms.js";
import { clipped, safe } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";

/** @typedef {Node|string|number|null|undefined|false} Child */

/**
 * Sets attributes and listeners, and appends children.
 * @param {Element} element
 * @param {Record<string, any>} props  attributes. A function is a listener for the event of that name
 * @param {Child[]} children
 */
function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "value" || name === "checked") /** @type {any} */ (element)[name] = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, String(value));
    }
  }
  append(element, ...children);
}

/**
 * An HTML element.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, any>} [props]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  if (tag === "textarea" || (tag === "input" && props.type === "text")) element.dir = "auto";
  fill(element, props, children);
  return element;
}

/**
 * An SVG element.
 * @template {keyof SVGElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, any>} [props]
 * @param {...Child} children
 * @returns {SVGElementTagNameMap[T]}
 */
export function s(tag, props = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  fill(element, props, children);
  return element;
}

/**
 * Appends children, except null, undefined and false.
 * @param {Element} element
 * @param {...Child} children
 */
export function append(element, ...children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    element.append(typeof child === "number" ? String(child) : child);
  }
}

/**
 * Replaces all children.
 * @param {Element} element
 * @param {...Child} children
 */
export function replaceContent(element, ...children) {
  element.replaceChildren();
  append(element, ...children);
}

/**
 * A table.
 * @param {string} caption
 * @param {string[]} head
 * @param {Child[][]} rows  the first cell of each is its heading
 */
export function table(caption, head, rows) {
  return h(
    "table",
    {},
    h("caption", {}, caption),
    h("thead", {}, h("tr", {}, ...head.map((each) => h("th", { scope: "col" }, each)))),
    h(
      "tbody",
      {},
      ...rows.map((row) =>
        h("tr", {}, h("th", { scope: "row" }, row[0]), ...row.slice(1).map((each) => h("td", {}, each))),
      ),
    ),
  );
}

let ids = 0;

/** @returns {string} a new id */
export function newId() {
  return `k${++ids}`;
}

/**
 * A control with its label above, and a hint below if there is one.
 * @param {string} text
 * @param {HTMLElement} control
 * @param {Child} [hint]
 */
export function field(text, control, hint) {
  control.id ||= newId();
  const below = hint ? h("small", { id: newId() }, hint) : null;
  if (below) control.setAttribute("aria-describedby", below.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, text), control, below);
}

/**
 * A box to tick.
 * @param {string} text
 * @param {HTMLInputElement} box
 */
export function tick(text, box) {
  box.type = "checkbox";
  return h("label", { class: "tick" }, box, text);
}

/**
 * A button.
 * @param {string} text
 * @param {(event: Event) => void} press
 * @param {Record<string, any>} [props]
 */
export function button(text, press, props = {}) {
  const click = (/** @type {Event} */ event) => isDisabled(event.currentTarget) || press(event);
  return h("button", { type: "button", click, ...props }, text);
}

/**
 * Disables or enables a button. It keeps the focus, unlike with the attribute "disabled".
 * @param {Element} node
 * @param {boolean} disabled
 */
export function setDisabled(node, disabled) {
  if (disabled) node.setAttribute("aria-disabled", "true");
  else node.removeAttribute("aria-disabled");
}

/** @param {EventTarget|null} node */
export function isDisabled(node) {
  return node instanceof Element && node.getAttribute("aria-disabled") === "true";
}

/**
 * A name in a sentence. It cannot change the writing direction of the words around it.
 * @param {string} text
 * @param {number} [max]  characters
 */
export function name(text, max = 10000) {
  const shown = clipped(text, max);
  return h("bdi", shown === text ? {} : { title: safe(text) }, safe(shown));
}

/**
 * Names with a separator between them.
 * @param {string[]} texts
 * @param {string} between
 * @param {number} [max]  characters of each
 */
export function names(texts, between, max = 60) {
  return texts.flatMap((each, i) => [i ? between : "", name(each, max)]);
}

/**
 * A part of a view, with a heading.
 * @param {string} title
 * @param {...Child} children
 */
export function panel(title, ...children) {
  const heading = h("h2", { id: newId() }, title);
  return h("section", { class: "panel", "aria-labelledby": heading.id }, heading, ...children);
}

/**
 * A sentence with a tooltip at the first use of each term.
 * @param {string} text
 * @param {typeof TERMS} terms
 * @returns {Child[]}
 */
export function explained(text, terms = TERMS) {
  if (!terms.length) return [text];
  const [[pattern, meaning], ...others] = terms;
  const found = pattern.exec(text);
  if (!found) return explained(text, others);
  const before = text.slice(0, found.index);
  const after = text.slice(found.index + found[0].length);
  return [...explained(before, others), h("abbr", { title: meaning }, found[0]), ...explained(after, others)];
}

/**
 * Numbers with their labels.
 * @param {[string, Child][]} pairs
 */
export function figures(pairs) {
  return h(
    "dl",
    { class: "figures" },
    ...pairs.map(([name, value]) => h("div", {}, h("dt", {}, ...explained(name)), h("dd", {}, value))),
  );
}

/**
 * Returns true if the target is a text field.
 * @param {EventTarget|null} target
 */
export function isWriting(target) {
  return target instanceof HTMLElement && target.matches("input, textarea, select");
}

export const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
