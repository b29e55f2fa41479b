// A form that saves a model under a name.

import { field, h, replaceContent } from "./dom.js";
import { address } from "./state.js";

/** @typedef {import("./main.js").Context} Context */

const ALLOWED = "a to z, 0 to 9, - and _, at most 40, starting with a letter or digit";

/**
 * @param {Context} context
 * @param {string} label
 * @param {(name: string) => Promise<import("./api.js").ModelInfo>|null} save  returns null if there is nothing to save
 */
export function saveForm(context, label, save) {
  const name = h("input", {
    type: "text",
    required: true,
    maxlength: 40,
    pattern: "[a-z0-9][a-z0-9_\\-]*",
    title: ALLOWED,
  });
  const told = h("div", { class: "errors", "aria-live": "polite" });
  return h(
    "form",
    {
      class: "save",
      submit: async (/** @type {Event} */ event) => {
        event.preventDefault();
        replaceContent(told);
        const saving = save(name.value);
        if (!saving) return;
        try {
          const saved = await saving;
          await context.refresh();
          replaceContent(
            told,
            h(
              "p",
              {},
              `Saved as ${saved.id}, in ${saved.path}. `,
              h("a", { href: address({ view: "generate", model: saved.id }, {}) }, "Generate with it"),
            ),
          );
          context.say(`Saved as ${saved.id}.`);
        } catch (error) {
          context.fail(error, told);
        }
      },
    },
    h("div", { class: "row" }, field(label, name), h("button", { type: "submit" }, "Save")),
    told,
  );
}
