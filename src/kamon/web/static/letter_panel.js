// Letter by letter: the user or the sampler chooses the next token of a name.

import * as api from "./api.js";
import { bars } from "./bars.js";
import { copies, keywords, flags, placeOf, python, shell } from "./copy.js";
import {
  button,
  reducedMotion,
  explained,
  h,
  isDisabled,
  name as named,
  panel,
  replaceContent,
  setDisabled,
} from "./dom.js";
import { visible } from "./format.js";
import { givenKeyword, givenText } from "./given.js";
import { graphemes } from "./graphemes.js";
import { mark, star } from "./kept.js";
import { blendSentence } from "./losses.js";
import { MAX_BARS, chartOf, distributionOf, drawn, orderOf } from "./letters.js";
import { change } from "./state.js";
import { inline, readAs, unknownSentence } from "./text.js";

/**
 * @typedef {import("./main.js").Context} Context
 * @typedef {import("./api.js").ModelInfo} ModelInfo
 * @typedef {import("./api.js").NextTokens} NextTokens
 * @typedef {import("./api.js").NextToken} NextToken
 * @typedef {import("./generate.js").Dials} Dials
 */

const DRAW_PAUSE = 90; // ms between two automatic samples
const PARTS = "Point at a bar to see the probability from each part, at temperature 1.";

export class LetterPanel {
  /**
   * @param {Context} context
   * @param {ModelInfo} model
   * @param {Dials} dials
   * @param {ReadonlySet<string>|null} known  the characters that the model knows; null if it knows all
   */
  constructor(context, model, dials, known) {
    this.context = context;
    this.model = model;
    this.dials = dials;
    this.known = known;
    this.asked = readAs(context.state.prefix ?? "", known);
    this.prefix = this.asked.unknown.length ? "" : this.asked.text;
    this.ended = context.state.end === "1";
    /** @type {NextTokens|null} */
    this.next = null;
    /** @type {number[]} */
    this.order = []; // the tokens in the chart
    this.running = false; // whether it samples to the end
    this.start = ""; // the letters before the first sampled one
    this.drew = false;
    this.ask = api.latest(context.signal);
    this.tiles = h("ol", { class: "tiles", dir: "auto", "aria-label": "The name so far" });
    this.told = h("div", { class: "told" });
    this.errors = h("div", { class: "errors" });
    this.chart = bars("Next letter, %", { choose: (place) => this.take(place) });
    this.draw = button("Sample one", () => this.drawOne(), { class: "main" });
    this.finish = button("Finish", () => this.run());
    this.another = button("Another", () => this.drawAnother(), { class: "main" });
    this.back = button("Back", () =>
      this.turn(
        graphemes(this.prefix)
          .slice(0, this.ended ? undefined : -1)
          .join(""),
      ),
    );
    this.again = button("Start again", () => this.startAgain());
    this.copy = copies(() => this.code(), model);
    this.node = this.layout();
    this.node.addEventListener("keydown", (event) => this.pressed(event));
  }

  layout() {
    return panel(
      "Letter by letter",
      this.tiles,
      this.told,
      h("div", { class: "buttons" }, this.draw, this.finish, this.another, this.back, this.again),
      this.errors,
      h("div", { class: "play" }, h("div", { class: "next" }, this.chart.node), this.dials.node),
      h(
        "p",
        { class: "hint" },
        h(
          "span",
          { class: "keys" },
          "Click a bar, or move with the arrow keys and press Enter. In the chart, type a letter to choose it, or press Backspace to remove the last one. ",
        ),
        "Hatched bars are cut off by top-k or top-p.",
        ...(this.model.blend ? explained(` ${blendSentence(this.model.blend)} ${PARTS}`) : []),
      ),
      this.copy.node,
    );
  }

  code() {
    const { temperature, top_k, top_p, seed, prompt, given } = this.dials.values();
    const { prefix } = this;
    const place = placeOf(this.model);
    const conditions = { top_k, top_p: top_p === 1 ? null : top_p };
    return {
      command:
        `# the most likely ways to continue\nkamon complete ${shell(place)} ${prefix ? shell(prefix) : "''"}` +
        `${flags({ temperature })}\n\n# ${prefix ? "a name that begins like this" : "the name that Finish makes"}\nkamon sample ${shell(place)} -n 1` +
        flags({ prefix, seed, temperature, ...conditions, prompt, given: givenText(given) }),
      python:
        `import kamon\nfrom kamon.completion import next_tokens\n\nmodel = kamon.load(${python(place)})\n` +
        `next_tokens(model, ${python(prefix)}, temperature=${temperature})\n` +
        `model.sample(1${keywords({ prefix, seed, temperature, ...conditions, prompt })}${givenKeyword(given)})`,
    };
  }

  async begin() {
    const { asked, known, context } = this;
    this.start = this.prefix;
    await this.go(this.prefix, this.ended);
    if (asked.unknown.length && known)
      context.fail(new api.ApiError(unknownSentence(asked.unknown, known), 0), this.errors);
    else if (asked.text !== (context.state.prefix ?? "")) {
      replaceContent(this.told, `“${inline(context.state.prefix)}” was read as “${inline(this.prefix)}”.`);
    }
  }

  /**
   * Reacts to a change of a dial.
   * @param {HTMLElement} by
   */
  turned(by) {
    this.copy.refresh();
    // A prompt or given values change what the model predicts, the other dials only what is shown.
    const asks = by instanceof HTMLSelectElement || (by instanceof HTMLInputElement && by.type === "text");
    if (asks) this.go(this.prefix, this.ended).catch(() => {});
    else if (!this.ended) this.drawChart();
  }

  drawChart() {
    if (!this.next) return;
    const distribution = distributionOf(this.next, this.dials.values());
    this.order = orderOf(distribution);
    this.chart.show(chartOf(this.next, distribution, this.order));
  }

  drawTiles() {
    const { ended, another, draw, finish } = this;
    const letters = graphemes(this.prefix);
    const tiles = letters.map((letter, i) => {
      const undo = { "aria-label": `${visible(letter)}, undo from here`, title: "Undo from here" };
      return h(
        "li",
        {},
        button(visible(letter), () => this.turn(letters.slice(0, i).join("")), undo),
      );
    });
    replaceContent(this.tiles, ...tiles, h("li", { class: ended ? "stop" : "gap" }, ended ? "end" : "?"));
    for (const each of [draw, finish]) setDisabled(each, ended || this.running);
    for (const each of [this.back, this.again]) setDisabled(each, !ended && !this.prefix);
    const focused = document.activeElement;
    another.hidden = !ended || this.model.text;
    draw.hidden = finish.hidden = !another.hidden;
    if (!another.hidden && (focused === draw || focused === finish)) another.focus();
    else if (another.hidden && focused === another) finish.focus();
    this.chart.node.hidden = ended;
  }

  /** Removes the chart, because nothing can come next. */
  close() {
    this.next = null;
    for (const each of [this.draw, this.finish]) setDisabled(each, true);
    this.chart.node.hidden = true;
  }

  /**
   * @param {string} prefix
   * @param {boolean} [ended]
   */
  async go(prefix, ended = false) {
    const { model } = this;
    this.prefix = prefix;
    this.ended = ended;
    change({ prefix, end: ended });
    this.drawTiles();
    this.copy.refresh();
    replaceContent(this.errors);
    if (ended) return this.showMark();
    replaceContent(this.told);
    if (model.tokenizer === "char" && !model.text && [...prefix].length >= model.block_size) {
      replaceContent(this.told, `The name has reached the context length of the model (${model.block_size}).`);
      return this.close();
    }
    try {
      const { prompt, given } = this.dials.values();
      this.next = await this.ask((signal) =>
        api.nextToken({ model: model.id, prefix, temperature: 1, prompt, given }, signal),
      );
      this.drawChart();
      this.drawTiles();
    } catch (error) {
      if (api.isAbort(error)) throw error;
      this.running = false;
      this.close();
      this.context.fail(error, this.errors);
    }
  }

  /**
   * Goes to another prefix, and shows errors.
   * @param {string} prefix
   * @param {() => unknown} [then]
   */
  turn(prefix, then) {
    return this.go(prefix)
      .then(then)
      .catch((error) => this.context.fail(error, this.errors));
  }

  startAgain() {
    this.dials.advance();
    this.drew = false;
    this.turn("");
    this.draw.focus();
  }

  drawAnother() {
    this.dials.advance();
    this.running = true; // until the next seed has sampled a name
    this.turn(this.drew ? this.start : "", () => this.run());
  }

  /** @param {number} place  in the chart */
  take(place) {
    if (!this.next || place >= Math.min(this.order.length, MAX_BARS)) return;
    this.drew = false;
    this.add(this.next.tokens[this.order[place]]);
  }

  /** @param {NextToken} token @param {boolean} [quiet] */
  add(token, quiet) {
    const { context, prefix } = this;
    const end = token.id === this.next?.end;
    if (end || !quiet) context.say(end ? `${prefix}, ended` : visible(token.text));
    return this.go(prefix + (end ? "" : token.text), end).catch((error) => context.fail(error, this.errors));
  }

  async drawOne() {
    if (!this.next || this.ended) return false;
    const { temperature, seed, ...others } = this.dials.values();
    const distribution = distributionOf(this.next, { temperature, ...others });
    const { token, u } = drawn(this.next, distribution, temperature, seed);
    if (!this.drew) this.start = this.prefix;
    this.drew = true;
    await this.add(token, this.running);
    if (!this.ended)
      replaceContent(this.told, `The random number ${u.toFixed(3)} falls on “${inline(visible(token.text))}”.`);
    return true;
  }

  /** Samples until the name ends. */
  async run() {
    const { signal } = this.context;
    this.running = true;
    this.drawTiles();
    while (this.running && this.next && !this.ended && !signal.aborted) {
      if (!(await this.drawOne())) break;
      if (!this.ended && !reducedMotion.matches) await new Promise((done) => setTimeout(done, DRAW_PAUSE));
    }
    this.running = false;
    if (!signal.aborted && this.next) this.drawTiles();
  }

  /** Shows whether a finished name is in the list, and the most similar entry. */
  async showMark() {
    const { model, prefix } = this;
    replaceContent(this.told, h("p", {}, "Finished."));
    if (prefix === "" || model.text) return;
    try {
      const { prompt, given } = this.dials.values();
      const size = graphemes(prefix).length;
      const request = { model: model.id, n: 1, prefix, min_len: size, max_len: size, nearest: true, prompt, given };
      const { samples } = await this.ask((signal) => api.sample(request, signal));
      const one = samples[0];
      if (!one) return;
      const kept = star(one.text, model.id, one.logprob, one.in_list);
      replaceContent(this.told, h("p", {}, h("strong", {}, named(one.text)), " ", mark(one), " ", kept));
    } catch (error) {
      this.context.fail(error, this.errors);
    }
  }

  /** @param {KeyboardEvent} event */
  pressed(event) {
    const target = /** @type {Element} */ (event.target);
    const inChart = this.chart.svg.contains(target);
    if (!inChart && !this.tiles.contains(target)) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Backspace") {
      event.preventDefault();
      if (!isDisabled(this.back)) this.back.click();
    } else if ([...event.key].length === 1 && event.key !== " " && inChart && !this.ended) {
      const token = this.next?.tokens.find((each) => each.text === event.key && each.kept);
      if (token) {
        event.preventDefault();
        this.add(token);
      }
    }
  }
}
