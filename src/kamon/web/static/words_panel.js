// The words that fit into the gap of a sentence.

import * as api from "./api.js";
import { bars } from "./bars.js";
import { copies, flags, placeOf, python, shell } from "./copy.js";
import { button, field, h, panel, replaceContent } from "./dom.js";
import { percent, plural } from "./format.js";
import { givenKeyword, givenText } from "./given.js";
import { inline, readAs, unknownSentence } from "./text.js";

/**
 * @typedef {import("./main.js").Context} Context
 * @typedef {import("./api.js").ModelInfo} ModelInfo
 * @typedef {import("./api.js").AnswerTo<"POST /words">} Words
 */

const NUM_WORDS = 12;
const EXAMPLE = "Give me a cup of ____";
const GAP = /(?<![\p{L}\p{N}\\])_{2,}(?![\p{L}\p{N}])/u;

/**
 * Returns whether a model can have sentences: it is of a text, or knows the space.
 * @param {ModelInfo} model
 * @param {ReadonlySet<string>|null} known  the characters that the model knows; null if it knows all
 */
export const hasWords = (model, known) => model.text || known === null || known.has(" ");

/**
 * Returns the chart of the words, and one bar each for the other words and for what was not found.
 * @param {Words} answer
 * @returns {import("./bars.js").BarData}
 */
export function wordChart({ words, found, total }) {
  /** @type {import("./bars.js").Bar[]} */
  const all = words.map(({ text, probability }) => ({
    label: inline(text, 12),
    value: probability,
    title: `${text}: ${percent(probability)}`,
  }));
  const others = Math.max(
    0,
    words.reduce((rest, word) => rest - word.probability, total),
  );
  const more = plural(found - words.length, "other word");
  if (found > words.length)
    all.push({ label: "others", value: others, sum: true, title: `${more}: ${percent(others)}` });
  return {
    bars: all,
    description: `The most likely word is ${words[0].text}, ${percent(words[0].probability)}.`,
    behind: { head: ["Word", "Probability"], rows: words.map((each) => [each.text, percent(each.probability)]) },
  };
}

export class WordsPanel {
  /**
   * @param {Context} context
   * @param {ModelInfo} model
   * @param {import("./generate.js").Dials} dials
   * @param {ReadonlySet<string>|null} known
   */
  constructor(context, model, dials, known) {
    this.context = context;
    this.model = model;
    this.dials = dials;
    this.known = known;
    this.ask = api.latest(context.signal);
    const knowsExample = known === null || [...EXAMPLE].every((char) => char === "_" || known.has(char));
    const value = knowsExample ? EXAMPLE : "";
    this.input = h("input", { type: "text", maxlength: 1000, value, autocomplete: "off" });
    this.told = h("p", { role: "status" });
    this.errors = h("div", { class: "errors" });
    this.chart = bars("Words, %", {});
    this.chart.node.hidden = true;
    this.copy = copies(() => this.code(), model);
    const form = h(
      "form",
      {},
      field("Sentence", this.input, "Write ____ for the gap. Without a gap, you get the next word."),
      h(
        "div",
        { class: "buttons" },
        button("Find words", () => this.find(), { class: "main" }),
      ),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.find();
    });
    this.input.addEventListener("input", () => this.copy.refresh());
    this.node = panel("Words in a sentence", form, this.errors, this.told, this.chart.node, this.copy.node);
  }

  code() {
    const place = placeOf(this.model);
    const text = this.input.value;
    const { given } = this.dials.values();
    const [command, name, flag] = GAP.test(text)
      ? ["fill", "fill_words", ""]
      : ["complete", "complete_words", this.model.text ? "" : " --words"];
    return {
      command: `kamon ${command} ${shell(place)} ${shell(text)}${flag}${flags({ given: givenText(given) })}`,
      python: `import kamon\n\nmodel = kamon.load(${python(place)})\nkamon.${name}(model, ${python(text)}${givenKeyword(given)})`,
    };
  }

  async find() {
    const { context, known, model } = this;
    replaceContent(this.errors);
    const parts = this.input.value.split(GAP).map((part) => readAs(part, known));
    const unknown = parts.flatMap((part) => part.unknown);
    if (unknown.length && known) {
      context.fail(new api.ApiError(unknownSentence(unknown, known), 0), this.errors);
      return;
    }
    const text = parts.map((part) => part.text).join("____");
    try {
      const { given } = this.dials.values();
      const answer = await this.ask((signal) => api.words({ model: model.id, text, n: NUM_WORDS, given }, signal));
      this.show(answer);
    } catch (error) {
      if (!api.isAbort(error)) context.fail(error, this.errors);
    }
  }

  /** @param {Words} answer */
  show(answer) {
    this.chart.node.hidden = !answer.words.length;
    if (answer.words.length) this.chart.show(wordChart(answer));
    replaceContent(
      this.told,
      answer.words.length
        ? `Found ${plural(answer.found, "word")} with ${percent(answer.covered)} of the probability.`
        : "Found no word.",
    );
  }
}
