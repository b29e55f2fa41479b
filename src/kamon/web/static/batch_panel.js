// Make a batch: many names at once, with conditions.

import * as api from "./api.js";
import { copies, flags, keywords, placeOf, python, shell } from "./copy.js";
import { field, h, name as named, panel, replaceContent, tick } from "./dom.js";
import { count, fixed, foundSentence } from "./format.js";
import { givenKeyword, givenText } from "./given.js";
import { mark, star } from "./kept.js";
import { change, recall, remember } from "./state.js";
import { inline, readAs, unknownSentence } from "./text.js";

/**
 * @typedef {import("./main.js").Context} Context
 * @typedef {import("./api.js").ModelInfo} ModelInfo
 * @typedef {import("./api.js").Samples} Samples
 * @typedef {import("./generate.js").Dials} Dials
 */

const USUAL_SIZE = "20";

/** @param {HTMLInputElement} input  if empty, the number is null */
const numberOf = (input) => (input.value === "" ? null : Number(input.value));

export class BatchPanel {
  /**
   * @param {Context} context
   * @param {ModelInfo} model
   * @param {Dials} dials
   * @param {ReadonlySet<string>|null} known  the characters that the model knows; null if it knows all
   */
  constructor(context, model, dials, known) {
    const { state } = context;
    this.context = context;
    this.model = model;
    this.dials = dials;
    this.known = known;
    this.ask = api.latest(context.signal);
    /** @param {string} name */
    const word = (name) => h("input", { type: "text", name, value: state[name] ?? "", maxlength: 100 });
    /** @param {string} name */
    const length = (name) => h("input", { type: "number", min: 0, max: 1000, name, value: state[name] ?? "" });
    this.size = h("input", { type: "number", min: 1, value: state.n ?? USUAL_SIZE, required: true });
    this.begins = word("begins");
    this.suffix = word("suffix");
    this.contains = word("contains");
    this.pattern = word("pattern");
    this.regex = word("regex");
    this.minLen = length("min_len");
    this.maxLen = length("max_len");
    this.copies = h("input", { checked: state.copies === "1" });
    this.maxNearest = Infinity; // maximum number of samples for similar entries
    this.takeLimits();
    this.errors = h("div", { class: "errors" });
    this.readings = h("div", { class: "errors" });
    this.result = h("div");
    this.submit = h("button", { type: "submit", class: "main" }, "Generate");
    this.copy = copies(() => this.code(), model);
    this.made = ""; // the request for the names on the page
    this.searching = false;
    this.node = this.layout();
    this.restore();
  }

  takeLimits() {
    api
      .limits()
      .then(({ limits }) => {
        this.size.max = String(limits.samples);
        this.maxNearest = limits.nearest;
      })
      .catch(() => {}); // without limits, the server checks the values
  }

  layout() {
    const submit = (/** @type {Event} */ event) => {
      event.preventDefault();
      if (this.searching)
        this.ask(async () => {}); // aborts the search
      else this.make();
    };
    const form = h(
      "form",
      { submit, input: this.copy.refresh },
      h(
        "div",
        { class: "row" },
        field("How many", this.size),
        field("Begins with", this.begins),
        field("Ends with", this.suffix),
        field("Contains", this.contains),
        field("Pattern", this.pattern, "_ is one character, * any number"),
        field("Regular expression", this.regex, "matches the whole name"),
        field("Shortest length", this.minLen),
        field("Longest length", this.maxLen),
      ),
      h("div", { class: "row end" }, tick("Include copies of the list and duplicates", this.copies), this.submit),
    );
    return panel(
      "Generate many",
      h(
        "p",
        {},
        "Only new names, and no duplicates. Temperature, top-k, top-p and seed are those above. Press Generate again for the next seed.",
      ),
      form,
      this.readings,
      this.errors,
      this.result,
      this.copy.node,
    );
  }

  /** Shows the names from before the user left the view. */
  restore() {
    const before = recall("names", /** @type {any} */ (null));
    if (before?.made !== JSON.stringify(this.request())) return;
    this.made = before.made;
    this.drawSamples(before.found, Number(this.size.value));
  }

  /** @param {HTMLInputElement} input */
  read(input) {
    return readAs(input.value, this.known);
  }

  conditions() {
    const fresh = !this.copies.checked && this.dials.values().prompt === null; // answers to a prompt may repeat
    return {
      prefix: this.read(this.begins).text,
      suffix: this.read(this.suffix).text,
      contains: this.read(this.contains).text,
      pattern: this.pattern.value || null,
      regex: this.regex.value || null,
      min_len: numberOf(this.minLen) ?? 0,
      max_len: numberOf(this.maxLen),
      novel: fresh && this.model.num_docs > 0,
      unique: fresh,
    };
  }

  request() {
    const { temperature, top_k, top_p, seed, prompt, given } = this.dials.values();
    const n = Number(this.size.value);
    return {
      model: this.model.id,
      n,
      temperature,
      seed,
      top_k,
      top_p,
      prompt,
      given,
      ...this.conditions(),
      nearest: n <= this.maxNearest,
    };
  }

  code() {
    const { temperature, top_k, top_p, seed, prompt, given: values } = this.dials.values();
    const { min_len, novel, unique, ...others } = this.conditions();
    const given = {
      seed,
      temperature,
      top_k,
      top_p: top_p === 1 ? null : top_p,
      prompt,
      min_len: min_len || null,
      ...others,
    };
    const [n, place] = [this.size.value, placeOf(this.model)];
    return {
      command: `kamon sample ${shell(place)} -n ${n}${flags({ ...given, given: givenText(values), copies: this.copies.checked })} --nearest`,
      python: `import kamon\n\nmodel = kamon.load(${python(place)})\nmodel.sample(${n}${keywords({ ...given, novel, unique })}${givenKeyword(values)})`,
    };
  }

  /** Shows how the texts were read. Returns false, with an error, if the model does not know a character. */
  checkTexts() {
    const inputs = [this.begins, this.suffix, this.contains];
    const changed = inputs.filter((each) => this.read(each).text !== each.value && !this.read(each).unknown.length);
    const hints = changed.map((each) => `“${inline(each.value)}” was read as “${inline(this.read(each).text)}”.`);
    replaceContent(this.readings, ...hints.map((each) => h("p", { class: "hint" }, each)));
    const unknown = inputs.flatMap((each) => this.read(each).unknown);
    if (!unknown.length || !this.known) return true;
    replaceContent(this.result);
    this.context.fail(new api.ApiError(unknownSentence([...new Set(unknown)], this.known), 0), this.errors);
    return false;
  }

  writeAddress() {
    change({
      n: this.size.value === USUAL_SIZE ? null : this.size.value,
      begins: this.begins.value,
      suffix: this.suffix.value,
      contains: this.contains.value,
      pattern: this.pattern.value,
      regex: this.regex.value,
      min_len: this.minLen.value,
      max_len: this.maxLen.value,
      copies: this.copies.checked ? "1" : null,
    });
  }

  async make() {
    replaceContent(this.errors);
    if (!this.checkTexts()) return;
    if (JSON.stringify(this.request()) === this.made) this.dials.advance(); // the next names, not the same ones
    this.writeAddress();
    const request = this.request();
    this.drawSearching(true);
    try {
      const found = await this.ask((signal) => api.sample(request, signal));
      this.made = JSON.stringify(request);
      this.drawSamples(found, request.n);
      remember("names", { made: this.made, found });
    } catch (error) {
      this.made = "";
      replaceContent(this.result, api.isAbort(error) && h("p", {}, "Stopped."));
      this.context.fail(error, this.errors);
    } finally {
      this.drawSearching(false);
    }
  }

  /** @param {boolean} searching */
  drawSearching(searching) {
    this.searching = searching;
    this.result.setAttribute("aria-busy", String(searching));
    this.submit.textContent = searching ? "Searching … Stop" : "Generate";
    if (searching) this.context.say("Searching.");
  }

  /** @param {Samples} found @param {number} wanted */
  drawSamples(found, wanted) {
    const old = found.samples.filter((each) => each.in_list).length;
    const sentence = foundSentence(found, wanted) + (old ? ` ${count(old)} of them are in the list.` : "");
    this.context.say(sentence);
    const rows = found.samples.map((each) =>
      h(
        "li",
        {},
        star(each.text, this.model.id, each.logprob, each.in_list),
        h("span", { class: "name" }, each.text === "" ? "(empty)" : named(each.text)),
        h("span", { class: "number", title: "log-probability in nats" }, fixed(each.logprob, 2)),
        mark(each),
      ),
    );
    const warning = found.warning && h("p", { class: "hint", role: "alert" }, `⚠ ${found.warning}`);
    replaceContent(
      this.result,
      warning,
      h("p", {}, sentence, ` Seed ${found.seed}.`),
      h("ul", { class: "samples" }, ...rows),
    );
  }
}
