// Generate: the dials and the panels that use them.

import * as api from "./api.js";
import { BatchPanel } from "./batch_panel.js";
import { classPanel } from "./class_panel.js";
import { button, field, h, append } from "./dom.js";
import { keptPanel } from "./kept.js";
import { LetterPanel } from "./letter_panel.js";
import { givenFields } from "./given.js";
import { WordsPanel, hasWords } from "./words_panel.js";
import { change, numberIn } from "./state.js";

/**
 * @typedef {import("./main.js").Context} Context
 * @typedef {import("./api.js").ModelInfo} ModelInfo
 * @typedef {ReturnType<typeof dialsOf>} Dials
 */

/**
 * The dials: temperature, top-k, top-p, seed, prompt and given values.
 * @param {Context} context
 * @param {ModelInfo} model
 * @param {number} usual  the default temperature of the model
 */
function dialsOf(context, model, usual) {
  const { state } = context;
  /** @param {string} label @param {string} name @param {number} least @param {number} most @param {number} step @param {number} usual */
  const slider = (label, name, least, most, step, usual) => {
    const input = h("input", { type: "range", min: least, max: most, step });
    input.value = String(numberIn(state[name], usual, least, most));
    const out = h("output");
    const node = field(label, input);
    node.append(out); // outside the label, so that it is not part of the label
    node.classList.add("dial");
    return { input, out, node };
  };
  const size = model.vocab_size;
  const temperature = slider("Temperature", "temperature", 0, 2, Math.round(usual * 100) % 5 ? 0.01 : 0.05, usual);
  const top_k = slider("Top-k", "top_k", 1, Math.min(size, 100), 1, Math.min(size, 100));
  const top_p = slider("Top-p", "top_p", 0.05, 1, 0.01, 1);
  const seed = h("input", { type: "number", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 });
  seed.value = state.seed ?? String(model.seed);
  /** Uses the next seed, for other names. */
  const advance = () => {
    const now = Math.floor(Number(seed.value || 0));
    seed.value = String(now < Number.MAX_SAFE_INTEGER ? now + 1 : 0);
    seed.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const next = button("Next seed", advance);
  const prompt = h("input", { type: "text", value: state.prompt ?? "" });
  const given = givenFields(model.given, state.given ?? "");
  const node = h(
    "div",
    { class: "dials" },
    temperature.node,
    top_k.node,
    top_p.node,
    h("div", { class: "row seed" }, field("Seed", seed), next),
    model.prompts ? field("Prompt", prompt, "The model completes this text.") : null,
    given.node,
  );
  const values = () => ({
    temperature: Number(temperature.input.value),
    top_k: top_k.input.value === top_k.input.max ? null : Number(top_k.input.value),
    top_p: Number(top_p.input.value),
    seed: Math.max(0, Math.floor(Number(seed.value) || 0)),
    prompt: model.prompts && prompt.value !== "" ? prompt.value : null,
    given: given.values(),
  });
  const draw = () => {
    const now = values();
    temperature.out.textContent = now.temperature.toFixed(2);
    top_k.out.textContent = now.top_k === null ? "all" : String(now.top_k);
    top_p.out.textContent = now.top_p.toFixed(2);
    change({
      temperature: now.temperature === usual ? null : now.temperature,
      top_k: now.top_k,
      top_p: now.top_p === 1 ? null : now.top_p,
      seed: now.seed === model.seed ? null : now.seed,
      prompt: now.prompt,
      given: given.text(),
    });
  };
  draw();
  return { node, values, draw, advance };
}

/** @param {Context} context @param {ModelInfo} model */
export async function show(context, model) {
  const { root, signal } = context;
  const [{ config }, known] = await Promise.all([api.model(model.id, signal), api.characters(model, signal)]);
  const dials = dialsOf(context, model, Number(config.temperature));
  const letters = new LetterPanel(context, model, dials, known);
  const batch = model.text ? null : new BatchPanel(context, model, dials, known);
  const words = hasWords(model, known) ? new WordsPanel(context, model, dials, known) : null;
  dials.node.addEventListener("input", (event) => {
    dials.draw();
    letters.turned(/** @type {HTMLElement} */ (event.target));
    batch?.copy.refresh();
    words?.copy.refresh();
  });
  append(
    root,
    h("h1", {}, "Generate"),
    h(
      "p",
      { class: "lead" },
      "The bars show how likely each next letter is. Choose one yourself, or let the model sample.",
    ),
    letters.node,
    batch && batch.node,
    Object.keys(model.given).length > 0 && classPanel(context, model),
    words && words.node,
    batch && keptPanel(context),
    !batch && h("p", {}, "This model was trained on one long text. To generate more of it, run `kamon sample`."),
  );
  await letters.begin();
}
