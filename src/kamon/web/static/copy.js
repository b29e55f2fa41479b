// The results of a panel as a command and as Python, to copy.

import * as api from "./api.js";
import { button, h, replaceContent } from "./dom.js";
import { freeName } from "./text.js";

/**
 * Returns a word of a command, in quotes if the shell needs them.
 * @param {string|number} word
 */
export function shell(word) {
  const text = String(word);
  return /^[\w@%+:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/**
 * Returns a value as Python code.
 * @param {string|number|boolean|null} value
 */
export function python(value) {
  if (value === true || value === false) return value ? "True" : "False";
  return value === null ? "None" : JSON.stringify(value);
}

/**
 * Returns options such as " --prefix an --novel". It drops empty values.
 * @param {Record<string, string|number|boolean|null|undefined>} given
 */
export function flags(given) {
  return Object.entries(given)
    .filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false)
    .map(([name, value]) => {
      const flag = ` --${name.replaceAll("_", "-")}`;
      if (value === true) return flag;
      const word = shell(/** @type {string|number} */ (value));
      return flag + (String(value).startsWith("-") ? "=" : " ") + word;
    })
    .join("");
}

/**
 * ", prefix="an", novel=True": the arguments that are not empty.
 * @param {Record<string, string|number|boolean|null|undefined>} given
 */
export function keywords(given) {
  return Object.entries(given)
    .filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false)
    .map(([name, value]) => `, ${name}=${python(/** @type {any} */ (value))}`)
    .join("");
}

/**
 * A piece of code with a button that copies it.
 * @param {string} name
 * @param {string} code
 */
function piece(name, code) {
  const shown = h("pre", { tabindex: 0, "aria-label": name }, h("code", {}, code));
  const press = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(code);
      press.textContent = "Copied";
    } catch {
      getSelection()?.selectAllChildren(shown);
      press.textContent = "Selected: press Ctrl+C";
    }
    setTimeout(() => (press.textContent = "Copy"), 2000);
  });
  press.setAttribute("aria-label", `Copy ${name.toLowerCase()}`);
  return h("div", { class: "code" }, h("h3", {}, name), press, shown);
}

/** @type {Map<string, string>} */
export const plans = new Map(); // names for saving models, by model id
/** @type {Map<string, string>} */
const places = new Map(); // the folders of models saved here, by model id

/** @param {{id: string}} model */
const planOf = (model) => plans.get(model.id) ?? freeName(model.id, []);

/**
 * Returns the folder of a model for commands. For an unsaved model, it is the future folder.
 * @param {{id: string, path: string|null}} model
 */
export const placeOf = (model) => model.path ?? places.get(model.id) ?? `models/${planOf(model)}`;

/**
 * The command and the Python, closed at first. Opening them, or `refresh`, makes them.
 * @param {() => {command: string, python: string}} make
 * @param {{id: string, path: string|null}} [model]  the model that they load
 * @param {() => Element|null} [first]  an instruction to show above them
 */
export function copies(make, model, first) {
  const inner = h("div", { class: "codes" });
  const node = h("details", { class: "copies" }, h("summary", {}, "Copy as command or Python"), inner);
  const refresh = () => {
    if (!node.open) return;
    const found = make();
    replaceContent(inner, first?.() ?? unsaved(), piece("As command", found.command), piece("As Python", found.python));
  };
  /** A button that saves the model under the name in the commands. */
  const unsaved = () => {
    if (!model || model.path !== null || places.has(model.id)) return null;
    const told = h(
      "div",
      { class: "stack" },
      h("p", { class: "hint" }, "Save this model first. Then the lines below run as they are."),
    );
    const name = planOf(model);
    told.append(
      button(`Save as ${name}`, async () => {
        try {
          const saved = await api.save(model.id, name);
          places.set(model.id, saved.path ?? name);
          document.dispatchEvent(new Event("models"));
          refresh();
          node.querySelector("button")?.focus();
        } catch (error) {
          if (!(error instanceof api.ApiError)) throw error;
          told.append(h("p", { class: "error", role: "alert" }, `⚠ ${error.message}`));
        }
      }),
    );
    return told;
  };
  node.addEventListener("toggle", refresh);
  return { node, refresh };
}
