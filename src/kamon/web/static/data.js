// Data: the list of a model, how long its entries are, and which of them are held out.

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
    h("p", { class: "lead" }, "What the model has learned from, and what was kept from it to test it."),
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
      copy("inspect DIR", "learned, held_out = model.parts()\nlen(model.docs), len(learned), len(held_out)"),
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

/** @param {import("./api.js").Data} data @param {boolean} text  whether it is a text, of which a part is held out and not entries */
function counts(data, text) {
  const size = (/** @type {"num_train"|"num_validation"} */ part) =>
    data.lengths.reduce((sum, each) => sum + each[part] * (text ? each.length : 1), 0);
  const share = size("num_validation") / (size("num_train") + size("num_validation") || 1);
  return panel(
    "The list",
    h("p", {}, "From ", name(data.source, 100), "."),
    figures([
      ["different entries", count(data.num_docs)],
      ["duplicates left out", count(data.num_repetitions)],
      ["truncated", count(data.num_cut)],
      ["to learn from", count(data.num_train)],
      ["held out to test on", count(data.num_validation)],
    ]),
    h("meter", { value: share, min: 0, max: 1, "aria-label": "Share held out" }),
    h(
      "p",
      {},
      data.num_validation
        ? text
          ? `${percent(share)} of the text is held out.`
          : `${percent(share)} are held out. The entries themselves decide which ones. Nearly all of them stay held out when the list grows.`
        : "No entries are held out, so nothing shows how well the model does on what it has not seen.",
    ),
  );
}

/** @param {import("./api.js").Data} data */
function lengths(data) {
  const chart = bars("Lengths in characters, in per cent of each part", {});
  const shown = data.lengths.slice(0, MAX_BARS);
  /** @param {number} n @param {number} of */
  const share = (n, of) => (of ? n / of : 0);
  chart.show({
    names: ["learned", "held out"],
    bars: shown.map((each) => ({
      label: String(each.length),
      value: share(each.num_train, data.num_train),
      second: share(each.num_validation, data.num_validation),
      title: `${plural(each.length, "character")}: ${count(each.num_train)} learned, ${count(each.num_validation)} held out`,
    })),
    description: `How long the entries are: from ${shown[0]?.length ?? 0} to ${data.lengths[data.lengths.length - 1]?.length ?? 0} characters.`,
    behind: {
      head: ["Characters", "Learned", "Held out"],
      rows: data.lengths.map((each) => [count(each.length), count(each.num_train), count(each.num_validation)]),
    },
  });
  return panel("Lengths", chart.node);
}

/** @param {import("./api.js").Data} data */
function characters(data) {
  const all = [...data.characters].sort((a, b) => b.count - a.count);
  const total = all.reduce((sum, each) => sum + each.count, 0) || 1;
  const chart = bars("Characters, in per cent of all", {});
  chart.show({
    bars: all.slice(0, MAX_BARS).map((each) => ({
      label: visible(each.text),
      value: each.count / total,
      title: `${visible(each.text)}: ${count(each.count)}, ${percent(each.count / total)}`,
    })),
    description: all.length
      ? `${all.length} different characters; the most common is ${visible(all[0].text)}.`
      : "There are none.",
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
    "Some of them",
    h("div", { class: "two" }, list("learned", data.examples.train), list("held out", data.examples.validation)),
  );
}
