// The names that the user has starred. They stay while the tab is open.

import { button, h, name as named, panel, append, replaceContent, setDisabled } from "./dom.js";
import { percent } from "./format.js";
import { recall, remember } from "./state.js";
import { safe } from "./text.js";

/** @typedef {{text: string, model: string, logprob: number|null, in_list: boolean|null}} Kept */

const MAX_KEPT = 1000;
/** @type {Map<string, Kept>} */
const kept = new Map(recall("kept", /** @type {Kept[]} */ ([])).map((each) => [each.text, each]));

/**
 * Marks whether a sample is in the list, and shows the most similar entry.
 * @param {import("./api.js").Sample} sample
 */
export function mark(sample) {
  if (sample.in_list) return h("span", { class: "mark old" }, "● in the list");
  const near = sample.nearest;
  const node = h("span", { class: "mark new" }, "○ new");
  if (near) append(node, ", closest: ", named(near.text, 40), ` (${percent(near.similarity)})`);
  return node;
}

/**
 * A button that keeps a text.
 * @param {string} text
 * @param {string} model
 * @param {number|null} logprob
 * @param {boolean|null} in_list
 */
export function star(text, model, logprob, in_list) {
  const press = () => {
    if (kept.has(text)) kept.delete(text);
    else if (kept.size < MAX_KEPT) kept.set(text, { text, model, logprob, in_list });
    document.dispatchEvent(new Event("kept"));
  };
  const node = button("", press, { class: "star", "aria-label": `Keep ${safe(text)}`, "data-text": text });
  lightStar(node);
  return node;
}

/** @param {HTMLElement} node */
function lightStar(node) {
  const on = kept.has(node.dataset.text ?? "");
  node.textContent = on ? "★" : "☆";
  node.setAttribute("aria-pressed", String(on));
}

/**
 * Returns a CSV table of names. It starts with a byte order mark, so that Excel reads UTF-8.
 * @param {Kept[]} names
 */
function csvOf(names) {
  /** @param {string} text  a quote before = + - @ stops a spreadsheet from computing it */
  const cell = (text) => `"${(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
  const rows = names.map((each) => [cell(each.text), each.logprob ?? "", each.in_list ?? ""].join(","));
  return ["\ufefftext,logprob,in_list", ...rows, ""].join("\r\n");
}

/** @param {import("./main.js").Context} context */
export function keptPanel(context) {
  const list = h("ul", { class: "samples" });
  const empty = h(
    "p",
    {},
    "Press a star to keep a name. Names stay while this tab is open. Export them before you close it.",
  );
  const csv = button("Export CSV", () => {
    const blob = new Blob([csvOf([...kept.values()])], { type: "text/csv;charset=utf-8" });
    const link = h("a", { href: URL.createObjectURL(blob), download: "kept.csv" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    context.say("Exported.");
  });
  /** @param {Kept} each */
  const row = (each) => {
    const remove = () => {
      kept.delete(each.text);
      draw();
      /** @type {HTMLElement} */ (list.querySelector("button") ?? csv).focus();
    };
    const props = { "aria-label": `Remove ${safe(each.text)}`, class: "star" };
    return h("li", {}, button("×", remove, props), h("span", { class: "name" }, named(each.text)));
  };
  const draw = () => {
    /** @type {NodeListOf<HTMLElement>} */
    const stars = context.root.querySelectorAll(".star[data-text]");
    stars.forEach(lightStar);
    setDisabled(csv, !kept.size);
    remember("kept", [...kept.values()]);
    list.hidden = !kept.size;
    replaceContent(list, ...[...kept.values()].map(row));
  };
  document.addEventListener("kept", draw, { signal: context.signal });
  draw();
  return panel("Kept", empty, list, csv);
}
