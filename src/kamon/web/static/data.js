// Data: the list of a model, the lengths of its entries, and the validation set.

import * as api from "./api.js";
import { bars } from "./bars.js";
import { copies, placeOf, python, shell } from "./copy.js";
import { figures, h, name, panel, append } from "./dom.js";
import { count, plural, percent, visible } from "./format.js";

const MAX_BARS = 60;

/** @param {import("./main.js").Context} context @param {import("./api.js").ModelInfo} model */
export async function show(context, model) {
  const { root, signal } = context;
  append(
    root,
    h("h1", {}, "Data"),
    h("p", { class: "lead" }, "The list this model was trained on, and the entries set aside to measure it."),
  );
  const data = await api.data(model.id, signal);
  const load = `import kamon\n\nmodel = kamon.load(${python(placeOf(model))})\n`;
  /** @param {string} command @param {string} code */
  const copy = (command, code) =>
    copies(() => ({ command: `kamon ${command.replace("DIR", shell(placeOf(model)))}`, python: load + code }), model)
      .node;
  const parts = [
    [
      counts(data, model.text),
      copy("inspect DIR", "training, validation = model.parts()\nlen(model.docs), len(training), len(validation)"),
    ],
    [lengths(data), copy("plot DIR --kind lengths --json", "[part.lengths() for part in model.parts()]")],
    [characters(data), copy("inspect DIR", 'from collections import Counter\n\nCounter("".join(model.docs))')],
    [examples(data), copy("inspect DIR --json", "[list(part[:10]) for part in model.parts()]")],
  ];
  for (const [part, below] of parts) {
    part.append(below);
    root.append(part);
  }
}

/** @param {import("./api.js").Data} data @param {boolean} text  whether it is one long text, counted in characters */
function counts(data, text) {
  const size = (/** @type {"num_train"|"num_validation"} */ part) =>
    data.lengths.reduce((sum, each) => sum + each[part] * (text ? each.length : 1), 0);
  const share = size("num_validation") / (size("num_train") + size("num_validation") || 1);
  return panel(
    "The list",
    h("p", {}, "From ", name(data.source, 100), "."),
    figures([
      ["unique entries", count(data.num_docs)],
      ["duplicates left out", count(data.num_repetitions)],
      ["truncated", count(data.num_cut)],
      ["training set", count(data.num_train)],
      ["validation set", count(data.num_validation)],
    ]),
    h("meter", { value: share, min: 0, max: 1, "aria-label": "Share of the validation set" }),
    h(
      "p",
      {},
      data.num_validation
        ? text
          ? `${percent(share)} of the text is the validation set.`
          : `${percent(share)} are in the validation set. The split depends on the text of each entry, so it stays nearly the same when the list grows.`
        : "Without a validation set, you cannot see how well the model predicts new entries.",
    ),
  );
}

/** @param {import("./api.js").Data} data */
function lengths(data) {
  const chart = bars("Length in characters, % of each set", {});
  const shown = data.lengths.slice(0, MAX_BARS);
  /** @param {number} n @param {number} of */
  const share = (n, of) => (of ? n / of : 0);
  chart.show({
    names: ["training", "validation"],
    bars: shown.map((each) => ({
      label: String(each.length),
      value: share(each.num_train, data.num_train),
      second: share(each.num_validation, data.num_validation),
      title: `${plural(each.length, "character")}: ${count(each.num_train)} training, ${count(each.num_validation)} validation`,
    })),
    description: `Length of the entries: from ${shown[0]?.length ?? 0} to ${data.lengths[data.lengths.length - 1]?.length ?? 0} characters.`,
    behind: {
      head: ["Characters", "Training", "Validation"],
      rows: data.lengths.map((each) => [count(each.length), count(each.num_train), count(each.num_validation)]),
    },
  });
  return panel("Length", chart.node);
}

/** @param {import("./api.js").Data} data */
function characters(data) {
  const all = [...data.characters].sort((a, b) => b.count - a.count);
  const total = all.reduce((sum, each) => sum + each.count, 0) || 1;
  const chart = bars("Characters, % of all", {});
  chart.show({
    bars: all.slice(0, MAX_BARS).map((each) => ({
      label: visible(each.text),
      value: each.count / total,
      title: `${visible(each.text)}: ${count(each.count)}, ${percent(each.count / total)}`,
    })),
    description: all.length
      ? `${all.length} unique characters. The most common is ${visible(all[0].text)}.`
      : "The list has no characters.",
    behind: {
      head: ["Character", "Count", "Share"],
      rows: all.map((each) => [visible(each.text), count(each.count), percent(each.count / total)]),
    },
  });
  return panel("Characters", chart.node);
}

/** @param {import("./api.js").Data} data */
function examples(data) {
  /** @param {string} title @param {string[]} texts */
  const list = (title, texts) =>
    h("div", {}, h("h3", {}, title), h("ul", { class: "names" }, ...texts.map((each) => h("li", {}, name(each)))));
  return panel(
    "Examples",
    h(
      "div",
      { class: "two" },
      list("training set", data.examples.train),
      list("validation set", data.examples.validation),
    ),
  );
}
