// Which value of a given column fits a name best, by a model of a table.

import * as api from "./api.js";
import { copies, placeOf, python, shell } from "./copy.js";
import { field, h, panel, replaceContent } from "./dom.js";
import { percent } from "./format.js";
import { change } from "./state.js";

const NUM_SHOWN = 10;

/**
 * @param {import("./main.js").Context} context
 * @param {import("./api.js").ModelInfo} model  of a table
 */
export function classPanel(context, model) {
  const { state } = context;
  const ask = api.latest(context.signal);
  const columns = Object.keys(model.given);
  const text = h("input", { type: "text", maxlength: 100, required: true, value: state.text ?? "" });
  const by = h("select", {}, ...columns.map((each) => h("option", { value: each }, each)));
  if (columns.includes(state.by)) by.value = state.by;
  const result = h("div", { "aria-live": "polite" });
  const errors = h("div", { class: "errors" });
  const copy = copies(
    () => ({
      command: `echo ${shell(text.value)} | kamon score ${shell(placeOf(model))} --by ${shell(by.value)}`,
      python: `import kamon\n\nmodel = kamon.load(${python(placeOf(model))})\nlist(kamon.classify(model, [${python(text.value)}], by=${python(by.value)}))`,
    }),
    model,
  );
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    replaceContent(errors);
    change({ text: text.value, by: by.value });
    try {
      const body = { model: model.id, texts: [text.value], by: by.value };
      const [found] = await ask((signal) => api.score(body, signal));
      const shares = Object.entries(found.values ?? {}).slice(0, NUM_SHOWN);
      replaceContent(
        result,
        h(
          "table",
          {},
          h("thead", {}, h("tr", {}, h("th", { scope: "col" }, by.value), h("th", { scope: "col" }, "Probability"))),
          h(
            "tbody",
            {},
            ...shares.map(([value, share]) => h("tr", {}, h("td", {}, value), h("td", {}, percent(share)))),
          ),
        ),
      );
    } catch (error) {
      replaceContent(result);
      context.fail(error, errors);
    }
  };
  return panel(
    "Which value fits best",
    h("p", {}, "Type a name. The model compares all values of a column and shows how likely each is."),
    h(
      "form",
      { submit, input: copy.refresh },
      h("div", { class: "row" }, field("Name", text), field("Column", by)),
      h("button", { type: "submit", class: "main" }, "Compare"),
    ),
    errors,
    result,
    copy.node,
  );
}
