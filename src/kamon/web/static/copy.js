// What a panel shows, as a command and as Python to copy.

import * as api from "./api.js";
import { button, h, replaceContent } from "./dom.js";
import { freeName } from "./text.js";

/**
 * A word of a command, in quotes if a shell would read more into it.
 * @param {string|number} word
 */
export function shell(word) {
  const text = String(word);
  return /^[\w@%+:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/**
 * A text or number as Python writes it.
 * @param {string|number|boolean|null} value
 */
export function python(value) {
  if (value === true || value === false) return value ? "True" : "False";
  return value === null ? "None" : JSON.stringify(value);
}

/**
 * " --prefix an --novel": the flags that have a value; true needs none.
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
 * ", prefix="an", novel=True": the arguments that have a value.
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
export const plans = new Map(); // free names to save models under, by the ids of the models
/** @type {Map<string, string>} */
const places = new Map(); // the folders of models that were saved from here, by the ids of the models

/** @param {{id: string}} model */
const planOf = (model) => plans.get(model.id) ?? freeName(model.id, []);

/**
 * The folder in which a command finds a model; for an unsaved one, the folder that it will have.
 * @param {{id: string, path: string|null}} model
 */
export const placeOf = (model) => model.path ?? places.get(model.id) ?? `models/${planOf(model)}`;

/**
 * The command and the Python, folded. They are made when the user opens them, and again by `refresh`.
 * @param {() => {command: string, python: string}} make
 * @param {{id: string, path: string|null}} [model]  the model that they load
 * @param {() => Element|null} [first]  what the user has to do before they run
 */
export function copies(make, model, first) {
  const inner = h("div", { class: "codes" });
  const node = h("details", { class: "copies" }, h("summary", {}, "Copy as command or Python"), inner);
  const refresh = () => {
    if (!node.open) return;
    const found = make();
    replaceContent(inner, first?.() ?? unsaved(), piece("As command", found.command), piece("As Python", found.python));
  };
  /** A button that saves the model under the name that the commands have. */
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
