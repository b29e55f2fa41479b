// Look inside: the tokens of a text, attention, surprisal, embeddings, and a graph of Values.

import * as api from "./api.js";
import { bars } from "./bars.js";
import { copies, placeOf, python, shell } from "./copy.js";
import { button, explained, field, h, panel, append, replaceContent } from "./dom.js";
import { EmbeddingPanel } from "./embedding_panel.js";
import { percent } from "./format.js";
import { GraphPanel } from "./graph_panel.js";
import { fitting } from "./graphemes.js";
import { heat } from "./heat.js";
import { sourceLine } from "./sources.js";
import { change, numberIn } from "./state.js";
import { inline, readAs, unknownSentence } from "./text.js";
import { attentionSentence, labelsOf, surpriseChart, surpriseOfLetters, surpriseSentence, weightsOf } from "./trace.js";

/**
 * @typedef {import("./main.js").Context} Context
 * @typedef {import("./api.js").ModelInfo} ModelInfo
 * @typedef {import("./api.js").Trace} Trace
 */

const READ_DELAY = 120; // ms after the last key press
const METER = 28; // px, for a token that gets all the attention

/** @param {Context} context @param {ModelInfo} model */
export async function show(context, model) {
  const known = await api.characters(model, context.signal);
  await new InsideView(context, model, known).open();
}

class InsideView {
  /**
   * @param {Context} context
   * @param {ModelInfo} model
   * @param {ReadonlySet<string>|null} known  the characters that the model knows; null if it knows all
   */
  constructor(context, model, known) {
    const { state, signal } = context;
    this.context = context;
    this.model = model;
    this.known = known;
    this.ask = api.latest(signal);
    /** @type {Trace|null} */
    this.trace = null;
    this.row = -1; // the chosen token
    this.layer = numberIn(state.layer, 0, 0, model.n_layer - 1);
    this.head = numberIn(state.head, 0, 0, model.n_head - 1);
    this.text = h("input", { type: "text", maxlength: 100, spellcheck: "false", autocomplete: "off" });
    this.errors = h("div", { class: "errors" });
    this.reading = h("p", { class: "hint", "aria-live": "polite" });
    this.tokens = h("ol", { class: "tokens", dir: "auto", "aria-label": "Tokens of the text" });
    this.tokenSources = h("div");
    this.parts = h("div", { class: "two" });
    this.map = heat("Attention: each token (row) attends to the tokens up to it (columns)", (row) => this.look(row));
    this.attentionTold = h("p", { class: "told" });
    this.attentionSources = h("div");
    this.surprise = bars("Surprisal of each letter, in bits", { look: (letter) => this.lookAt(letter) });
    this.surpriseTold = h("p", { class: "told" });
    this.surpriseSources = h("div");
    this.embeddings = new EmbeddingPanel(context, model, (id) => this.lookAtToken(id));
    this.graph = new GraphPanel(context, model, () => (this.trace ? this.wanted() : ""));
    /** @type {ReturnType<typeof setTimeout>|undefined} */
    this.timer = undefined;
    this.tokens.addEventListener("keydown", (event) => this.pressed(event));
    this.text.addEventListener("input", () => this.typed());
    signal.addEventListener("abort", () => clearTimeout(this.timer));
  }

  async open() {
    const { root, signal, state } = this.context;
    append(
      root,
      h("h1", {}, "Look inside"),
      h(
        "p",
        { class: "lead" },
        "See how the GPT reads a text, token by token. " +
          (this.model.blend ? "The n-gram of the blend is left out, except in the surprisal chart. " : "") +
          "All numbers come from the scalar engine, and each panel names the code.",
      ),
      this.textPanel(),
      this.parts,
    );
    append(this.parts, this.attentionPanel(), this.surprisePanel());
    append(root, this.embeddings.node, this.graph.node);
    const text = state.text ?? (await firstText(this.model, signal));
    this.text.value ||= text; // the user may have typed already
    const reading = this.read(true).then(() => (signal.aborted ? undefined : this.graph.begin()));
    await Promise.all([reading, this.embeddings.begin()]);
  }

  /** The text as the model reads it. */
  wanted() {
    return readAs(this.text.value, this.known).text;
  }

  textPanel() {
    const { model } = this;
    return panel(
      "The text as tokens",
      h(
        "form",
        { submit: (/** @type {Event} */ event) => event.preventDefault() },
        field("Text", this.text, `Up to ${model.block_size - 1} tokens. Everything below changes as you type.`),
      ),
      this.reading,
      this.errors,
      this.tokens,
      h(
        "p",
        { class: "hint" },
        "Point at a token, or use the arrow keys. The text, the map and the tables mark the tokens it attends to.",
      ),
      this.tokenSources,
      copies(
        () => ({
          command: `kamon tokenizer show ${shell(placeOf(model))} ${shell(this.wanted())}`,
          python: `import kamon\n\nmodel = kamon.load(${python(placeOf(model))})\nmodel.tokenizer.encode(${python(this.wanted())})`,
        }),
        model,
      ).node,
    );
  }

  attentionPanel() {
    const { model } = this;
    const layers = chooser("Layer", model.n_layer, this.layer, (layer) => {
      this.layer = layer;
      change({ layer: layer || null });
      this.draw();
    });
    const heads = chooser("Head", model.n_head, this.head, (head) => {
      this.head = head;
      change({ head: head || null });
      this.draw();
    });
    return panel(
      "Attention",
      h("div", { class: "choosers" }, layers, heads),
      this.attentionTold,
      this.map.node,
      this.attentionSources,
      copies(
        () => ({
          command: `kamon plot ${shell(placeOf(model))} --kind attention --text ${shell(this.wanted())}`,
          python:
            `import kamon\nfrom kamon.evaluation.introspection import attention\n\nmodel = kamon.load(${python(placeOf(model))})\n` +
            `attention(model, ${python(this.wanted())}).weights[${this.layer}][${this.head}]`,
        }),
        model,
      ).node,
    );
  }

  surprisePanel() {
    const { model } = this;
    return panel(
      "Surprisal",
      h(
        "p",
        {},
        ...explained(
          "Surprisal of each letter given the letters before it, in bits. Lower means the model predicted it better. The losses are in nats, and 1 bit is 0.693 nats.",
        ),
      ),
      this.surprise.node,
      this.surpriseTold,
      this.surpriseSources,
      copies(
        () => ({
          command: `echo ${shell(this.wanted())} | kamon score ${shell(placeOf(model))} --json`,
          python:
            `import kamon\n\nmodel = kamon.load(${python(placeOf(model))})\n` +
            `next(kamon.score(model, [${python(this.wanted())}]))`,
        }),
        model,
      ).node,
    );
  }

  /** @param {number} id */
  lookAtToken(id) {
    const row = this.trace?.tokens.findIndex((each) => each.id === id) ?? -1;
    if (row >= 0) this.look(row);
  }

  /** @param {number} letter  in the chart of surprisals */
  lookAt(letter) {
    if (this.trace) this.look(surpriseOfLetters(this.trace)[letter]?.row ?? -1);
  }

  /** @param {number} row */
  look(row) {
    if (!this.trace || row === this.row || row < 0 || row >= this.trace.tokens.length) return;
    this.row = row;
    this.draw();
  }

  draw() {
    const { trace } = this;
    if (!trace) return;
    if (this.row < 0 || this.row >= trace.tokens.length) this.row = trace.tokens.length - 1;
    const { row } = this;
    this.drawTokens(trace);
    const values = trace.attention[this.layer]?.[this.head] ?? [];
    if (values.length) {
      const sentence = attentionSentence(trace, this);
      this.attentionTold.textContent = sentence;
      this.map.show({ labels: labelsOf(trace), values, row, description: sentence });
    }
    this.surpriseTold.textContent = surpriseSentence(trace, row);
    this.embeddings.light(trace.tokens[row].id, trace.tokens[row].position);
  }

  /** @param {Trace} trace */
  drawTokens(trace) {
    const labels = labelsOf(trace);
    const weights = weightsOf(trace, this);
    const focused = this.tokens.contains(document.activeElement);
    replaceContent(this.tokens, ...trace.tokens.map((each, i) => this.tokenItem(each, labels[i], i, weights[i] ?? 0)));
    if (focused) /** @type {HTMLElement|null} */ (this.tokens.querySelector(".here"))?.focus();
  }

  /**
   * @param {Trace["tokens"][number]} token
   * @param {string} label
   * @param {number} place
   * @param {number} weight  the attention that it gets from the token of the chosen row
   */
  tokenItem({ id, position }, label, place, weight) {
    const here = place === this.row;
    const seen = place <= this.row;
    const meter = h("span", { class: "weight" });
    meter.style.height = `${Math.round(METER * (seen ? weight : 0))}px`;
    const looked = seen ? `, attention ${percent(weight)}` : "";
    const props = {
      type: "button",
      class: here ? "here" : null,
      "aria-pressed": String(here),
      "aria-label": `${label === "◦" ? "beginning" : label}, token ${id}, position ${position}${looked}`,
      tabindex: here ? 0 : -1,
      click: () => this.look(place),
      pointerenter: () => this.look(place),
    };
    return h("li", {}, h("button", props, meter, h("span", { class: "piece" }, label), h("span", { class: "id" }, id)));
  }

  /** @param {KeyboardEvent} event */
  pressed(event) {
    const last = (this.trace?.tokens.length ?? 0) - 1;
    const forward = getComputedStyle(this.tokens).direction === "rtl" ? -1 : 1;
    const row = { ArrowRight: this.row + forward, ArrowLeft: this.row - forward, Home: 0, End: last }[event.key];
    if (row === undefined) return;
    event.preventDefault();
    this.look(Math.min(last, Math.max(0, row)));
  }

  typed() {
    change({ text: this.text.value });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.read(), READ_DELAY);
  }

  /** @param {boolean} [fresh]  whether the view has just opened, so that it draws its own graph */
  async read(fresh = false) {
    const { text, errors, reading, known } = this;
    change({ text: text.value });
    replaceContent(errors);
    reading.textContent = "";
    const { text: asked, unknown } = readAs(text.value, known);
    if (asked === "" || (unknown.length && known)) {
      this.ask(async () => {}); // aborts the request for the previous text
      this.empty();
      if (known && unknown.length) this.context.fail(new api.ApiError(unknownSentence(unknown, known), 0), errors);
      else reading.textContent = "Type a text.";
      return;
    }
    if (asked !== text.value) reading.textContent = `Read as “${inline(asked)}”.`;
    try {
      this.show(await this.ask((signal) => api.trace({ model: this.model.id, text: asked }, signal)));
      if (!fresh) this.graph.follow();
    } catch (error) {
      if (!api.isAbort(error)) this.empty();
      this.context.fail(error, errors);
    }
  }

  /** @param {Trace} trace */
  show(trace) {
    this.trace = trace;
    for (const each of [this.parts, this.tokens]) each.hidden = false;
    this.row = trace.tokens.length - 1;
    replaceContent(this.tokenSources, sourceLine(trace.sources, "tokens"));
    replaceContent(this.attentionSources, sourceLine(trace.sources, "qkv", "weights", "attention"));
    replaceContent(
      this.surpriseSources,
      sourceLine(trace.sources, "surprise", "ngram"),
      trace.no_ngram && h("p", { class: "hint" }, `Without an n-gram for comparison: ${trace.no_ngram}.`),
    );
    this.surprise.show(surpriseChart(trace));
    this.draw();
  }

  /** Hides the results of the previous text. */
  empty() {
    this.trace = null;
    for (const each of [this.parts, this.tokens]) each.hidden = true;
    replaceContent(this.tokenSources);
    this.embeddings.light(-1, -1);
    this.graph.follow();
  }
}

/**
 * Returns a first text: the most probable one.
 * @param {ModelInfo} model
 * @param {AbortSignal} signal
 */
async function firstText(model, signal) {
  try {
    const length = Math.min(12, model.block_size - 1);
    if (model.text) {
      let text = "";
      for (let i = 0; i < length; i++) {
        const { tokens } = await api.nextToken({ model: model.id, prefix: text }, signal);
        text += tokens.filter((each) => each.kept).reduce((a, b) => (b.logit > a.logit ? b : a)).text;
      }
      return text;
    }
    const found = await api.sample({ model: model.id, n: 1, temperature: 0, min_len: 1 }, signal);
    return fitting(found.samples[0]?.text ?? "", length);
  } catch (error) {
    if (api.isAbort(error)) throw error;
    return "";
  }
}

/**
 * A group of buttons. Exactly one is pressed.
 * @param {string} name
 * @param {number} n
 * @param {number} at
 * @param {(to: number) => void} choose
 */
function chooser(name, n, at, choose) {
  const presses = Array.from({ length: n }, (_, i) =>
    button(
      String(i),
      () => {
        presses.forEach((each, j) => each.setAttribute("aria-pressed", String(i === j)));
        choose(i);
      },
      { "aria-pressed": String(i === at), "aria-label": `${name} ${i}` },
    ),
  );
  return h("div", { class: "chooser", role: "group", "aria-label": name }, h("span", {}, name), ...presses);
}
