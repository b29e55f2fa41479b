// What a panel shows, as a command and as Python, to copy.

import { button, h, swap } from "./dom.js";

/**
 * A word of a command, quoted where a shell would read more into it.
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
 * " --prefix an --novel": flags that have a value; true stands alone.
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
 * ", prefix="an", novel=True": arguments that have a value.
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

/**
 * Where a command finds a model; one that is not saved has but a name.
 * @param {{id: string, path: string|null}} model
 */
export const placeOf = (model) => model.path ?? model.id;

/**
 * The two, folded; they are made when they are opened, and by `refresh` where they are open.
 * @param {() => {command: string, python: string}} make
 * @param {{id: string, saved: boolean}} [model]  that they load
 */
export function copies(make, model) {
  const inner = h("div", { class: "codes" });
  const node = h("details", { class: "copies" }, h("summary", {}, "As command, as Python"), inner);
  const refresh = () => {
    if (!node.open) return;
    const found = make();
    const hint = `${model?.id} is not saved yet: save it under a name, and take what stands here for that one.`;
    swap(inner, model && !model.saved && h("p", { class: "hint" }, hint), piece("As command", found.command), piece("As Python", found.python));
  };
  node.addEventListener("toggle", refresh);
  return { node, refresh };
}
