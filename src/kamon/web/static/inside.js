// Inside: one text as tokens, as attention, as surprise; the embeddings; a graph of Values.

import * as api from "./api.js";
import { bars, heat, lines } from "./charts.js";
import { copies, placeOf, python, shell } from "./copy.js";
import { button, field, h, panel, put, swap } from "./dom.js";
import { fixed, percent, visible } from "./format.js";
import { valueGraph } from "./graph.js";
import { change, numberIn } from "./state.js";
import { inline, readAs, unknownSentence } from "./text.js";

/**
 * @typedef {import("./main.js").Context} Context
 * @typedef {import("./api.js").ModelInfo} ModelInfo
 * @typedef {import("./api.js").Source} Source
 * @typedef {import("./api.js").Trace} Trace
 */

/**
 * Where the scalar engine computes what a panel shows.
 * @param {Record<string, Source>|undefined} sources
 * @param {...string} names  of panels
 */
function source(sources, ...names) {
  const found = names.map((name) => sources?.[name]).filter((each) => each !== undefined);
  if (!found.length) return null;
  return h(
    "p",
    { class: "source" },
    "Computed by ",
    ...found.flatMap((each, i) => [i ? ", " : "", h("code", {}, each.function), " in ", h("code", {}, `${each.file}:${each.line}`)]),
  );
}

/** @param {Context} context @param {ModelInfo} model */
export async function show(context, model) {
  const { root, signal, state } = context;
  const ask = api.latest(signal);
  const text = h("input", { type: "text", maxlength: 100, spellcheck: "false", autocomplete: "off" });
  const errors = h("div", { class: "errors" });
  const tokens = h("ol", { class: "tokens", dir: "auto", "aria-label": "Tokens of the text" });
  const parts = h("div", { class: "two" });
  const form = h(
    "form",
    { submit: (/** @type {Event} */ event) => event.preventDefault() },
    field("Text to look at", text, `Up to ${model.block_size - 1} tokens. Everything below follows what you type.`),
  );
  const sources = h("div");
  const reading = h("p", { class: "hint", "aria-live": "polite" });
  const known = await api.characters(model, signal);
  const wanted = () => readAs(text.value, known).text;
  const textPanel = panel(
    "The text as tokens",
    form,
    reading,
    errors,
    tokens,
    h("p", { class: "hint" }, "Point at a token, or step through them with the arrow keys. The text, the map and the tables mark what it looks at."),
    sources,
    copies(
      () => ({
        command: `kamon tokenizer show ${shell(placeOf(model))} ${shell(wanted())}`,
        python: `import kamon\n\nmodel = kamon.load(${python(placeOf(model))})\nmodel.tokenizer.encode(${python(wanted())})`,
      }),
      model,
    ).node,
  );
  /** @type {Trace|null} */
  let trace = null;
  let row = -1; // the token looked at
  let layer = numberIn(state.layer, 0, 0, model.n_layer - 1);
  let head = numberIn(state.head, 0, 0, model.n_head - 1);

  const map = heat("Attention: each row looks at the columns up to it", (to) => look(to));
  const layers = chooser("Layer", model.n_layer, layer, (to) => {
    layer = to;
    change({ layer: to || null });
    draw();
  });
  const heads = chooser("Head", model.n_head, head, (to) => {
    head = to;
    change({ head: to || null });
    draw();
  });
  const attentionSource = h("div");
  const attentionTold = h("p", { class: "told" });
  const attention = panel(
    "Attention",
    h("div", { class: "choosers" }, layers, heads),
    attentionTold,
    map.node,
    attentionSource,
    copies(() => ({
      command: `kamon plot ${shell(placeOf(model))} --kind attention --text ${shell(wanted())}`,
      python:
        `import kamon\nfrom kamon.evaluation.introspection import attention\n\nmodel = kamon.load(${python(placeOf(model))})\n` +
        `attention(model, ${python(wanted())}).weights[${layer}][${head}]`,
    }), model).node,
  );
  const surprise = bars("Surprise at each letter, in bits", { look: (to) => look(to) });
  const surpriseTold = h("p", { class: "told" });
  const surpriseSource = h("div");
  const surprised = panel(
    "Surprise",
    h("p", {}, "How many bits each letter costs, given all the letters before it. Fewer bits: the model expected it more."),
    surprise.node,
    surpriseTold,
    surpriseSource,
    copies(() => ({
      command: `echo ${shell(wanted())} | kamon score ${shell(placeOf(model))} --json`,
      python:
        `import kamon\n\nmodel = kamon.load(${python(placeOf(model))})\n` +
        `next(kamon.score(model, [${python(wanted())}]))`,
    }), model).node,
  );
  const embedded = embeddingPanel(context, model, (id) => {
    const found = trace?.tokens.findIndex((each) => each.id === id) ?? -1;
    if (found >= 0) look(found);
  });
  const values = graphPanel(context, model, () => (trace ? wanted() : ""));
  put(
    root,
    h("h1", {}, "Look inside"),
    h("p", { class: "lead" }, "The model reads a text letter by letter. The scalar engine, whose code you can read, computes what you see."),
    textPanel,
    parts,
  );
  put(parts, attention, surprised);
  put(root, embedded.node, values.node);

  /** @param {string[]} all */
  const labelsOf = (all) => all.map((each) => visible(each) === "end" ? "◦" : visible(each));

  /** @param {number} to */
  function look(to) {
    if (!trace || to === row || to < 0 || to >= trace.tokens.length) return;
    row = to;
    draw();
  }

  function draw() {
    if (!trace) return;
    const labels = labelsOf(trace.tokens.map((each) => each.text));
    const weights = trace.attention[layer]?.[head] ?? [];
    if (row < 0 || row >= labels.length) row = labels.length - 1;
    const looked = weights[row] ?? [];
    const focused = tokens.contains(document.activeElement);
    swap(
      tokens,
      ...trace.tokens.map((each, i) => {
        const weight = i <= row ? (looked[i] ?? 0) : 0;
        const meter = h("span", { class: "weight" });
        meter.style.height = `${Math.round(28 * weight)}px`;
        return h(
          "li",
          {},
          h(
            "button",
            {
              type: "button",
              class: i === row ? "here" : null,
              "aria-pressed": String(i === row),
              "aria-label": `${labels[i] === "◦" ? "beginning" : labels[i]}, token ${each.id}, position ${each.position}${i <= row ? `, looked at ${percent(weight)}` : ""}`,
              tabindex: i === row ? 0 : -1,
              click: () => look(i),
              pointerenter: () => look(i),
            },
            meter,
            h("span", { class: "piece" }, labels[i]),
            h("span", { class: "id" }, each.id),
          ),
        );
      }),
    );
    if (focused) /** @type {HTMLElement|null} */ (tokens.querySelector(".here"))?.focus();
    if (weights.length) {
      const best = looked.indexOf(Math.max(...looked));
      const sentence = `In layer ${layer + 1}, head ${head + 1}, “${labels[row]}” at position ${row} looks most at “${labels[best]}” at position ${best}, with ${percent(looked[best] ?? 0)}.`;
      attentionTold.textContent = sentence;
      map.show({ labels, values: weights, row, description: sentence });
    }
    const target = trace.surprise[row];
    surpriseTold.textContent = target
      ? `After “${inline(labels[row])}”, ${target.text === "" ? "the end" : `“${inline(visible(target.text))}”`} cost the GPT ${fixed(target.gpt)} bits${target.ngram === null ? "" : `, the n-gram ${fixed(target.ngram)}`}.`
      : "";
    embedded.light(trace.tokens[row].id, trace.tokens[row].position);
  }

  function drawSurprise() {
    if (!trace) return;
    const both = trace.surprise.some((each) => each.ngram !== null);
    /** @param {number} x */
    const bits = (x) => x.toFixed(1);
    const total = trace.surprise.reduce((sum, each) => sum + (each.gpt ?? Infinity), 0);
    surprise.show({
      names: both ? ["GPT", `${trace.ngram_order ?? "n"}-gram`] : undefined,
      format: bits,
      bars: trace.surprise.map((each) => ({
        label: visible(each.text),
        value: each.gpt ?? 0,
        second: each.ngram ?? undefined,
        title: `${visible(each.text)}: ${fixed(each.gpt)} bits by the GPT${each.ngram === null ? "" : `, ${fixed(each.ngram)} by the n-gram`}`,
      })),
      description: `All letters and the end cost the GPT ${total.toFixed(2)} bits.`,
      behind: {
        head: ["Letter", "GPT, bits", "n-gram, bits"],
        rows: trace.surprise.map((each) => [visible(each.text), fixed(each.gpt, 3), fixed(each.ngram, 3)]),
      },
    });
  }

  tokens.addEventListener("keydown", (event) => {
    const size = trace?.tokens.length ?? 0;
    const on = getComputedStyle(tokens).direction === "rtl" ? -1 : 1;
    const to = { ArrowRight: row + on, ArrowLeft: row - on, Home: 0, End: size - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    look(Math.min(size - 1, Math.max(0, to)));
  });

  /** @param {boolean} [fresh]  the view has just been opened, and draws its graph itself */
  async function read(fresh = false) {
    change({ text: text.value });
    swap(errors);
    reading.textContent = "";
    const { text: asked, unknown } = readAs(text.value, known);
    if (asked === "" || (unknown.length && known)) {
      ask(async () => {}); // nobody waits for the text before
      empty();
      if (known && unknown.length) context.fail(new api.ApiError(unknownSentence(unknown, known), 0), errors);
      else reading.textContent = "Type a text to look at.";
      return;
    }
    if (asked !== text.value) reading.textContent = `Read as “${inline(asked)}”.`;
    try {
      trace = await ask((own) => api.trace({ model: model.id, text: asked }, own));
      for (const each of [parts, tokens]) each.hidden = false;
      row = trace.tokens.length - 1;
      swap(sources, source(trace.sources, "tokens"));
      swap(attentionSource, source(trace.sources, "attention"));
      swap(surpriseSource, source(trace.sources, "surprise", "ngram"), trace.no_ngram && h("p", { class: "hint" }, `No n-gram beside it: ${trace.no_ngram}.`));
      drawSurprise();
      draw();
      if (!fresh) values.follow();
    } catch (error) {
      if (!api.isAbort(error)) empty();
      context.fail(error, errors);
    }
  }

  /** Nothing of a text that was there before. */
  function empty() {
    trace = null;
    for (const each of [parts, tokens]) each.hidden = true;
    swap(sources);
    embedded.light(-1, -1);
    values.follow();
  }
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  let timer;
  text.addEventListener("input", () => {
    change({ text: text.value });
    clearTimeout(timer);
    timer = setTimeout(() => read(), 120);
  });
  signal.addEventListener("abort", () => clearTimeout(timer));
  text.value = state.text ?? (await first(model, signal));
  await Promise.all([read(true).then(() => (signal.aborted ? undefined : values.begin())), embedded.begin()]);
}

/**
 * A text to begin with: the most probable one.
 * @param {ModelInfo} model
 * @param {AbortSignal} signal
 */
async function first(model, signal) {
  try {
    const most = Math.min(12, model.block_size - 1);
    if (model.text) {
      let text = "";
      for (let i = 0; i < most; i++) {
        const { tokens } = await api.nextToken({ model: model.id, prefix: text }, signal);
        text += tokens.filter((each) => each.kept).reduce((a, b) => (b.logit > a.logit ? b : a)).text;
      }
      return text;
    }
    const found = await api.sample({ model: model.id, n: 1, temperature: 0, min_len: 1 }, signal);
    return [...(found.samples[0]?.text ?? "")].slice(0, most).join("");
  } catch (error) {
    if (api.isAbort(error)) throw error;
    return "";
  }
}

/**
 * Buttons of which one is pressed.
 * @param {string} name
 * @param {number} n
 * @param {number} at
 * @param {(to: number) => void} choose
 */
function chooser(name, n, at, choose) {
  const presses = Array.from({ length: n }, (_, i) =>
    button(String(i + 1), () => {
      presses.forEach((each, j) => each.setAttribute("aria-pressed", String(i === j)));
      choose(i);
    }, { "aria-pressed": String(i === at), "aria-label": `${name} ${i + 1}` }),
  );
  return h("div", { class: "chooser", role: "group", "aria-label": name }, h("span", {}, name), ...presses);
}

/** @param {Context} context @param {ModelInfo} model @param {(id: number) => void} look */
function embeddingPanel(context, model, look) {
  /** @type {import("./api.js").Embeddings|null} */
  let found = null;
  const letters = lines("Tokens: similar ones lie close together", { height: 320, look: (i) => found && look(named()[i].id) });
  const places = lines("Positions, from the first to the last", { height: 320 });
  const told = h("p", { class: "told" });
  const sources = h("div");
  const named = () => (found ? found.tokens.filter((each) => each.named) : []);
  const node = panel(
    "Embeddings",
    h("p", {}, `Each token and each position is ${model.n_embd} numbers. Here they lie on the two axes along which they differ most.`),
    h("div", { class: "two" }, h("div", {}, letters.node), h("div", {}, places.node)),
    told,
    sources,
    copies(() => ({
      command: `kamon plot ${shell(placeOf(model))} --kind embeddings`,
      python: `import kamon\nfrom kamon.evaluation.introspection import embeddings\n\nmodel = kamon.load(${python(placeOf(model))})\nfound = embeddings(model)\nfound.tokens.points, found.positions.points`,
    }), model).node,
  );
  let lit = { id: -1, position: -1 };
  /** @param {number} id @param {number} position */
  function light(id, position) {
    lit = { id, position };
    if (!found) return;
    const shown = named();
    letters.show({
      series: [{ name: "", kind: "names", points: shown.map((each) => [each.x, each.y]), labels: shown.map((each) => visible(each.text)) }],
      lit: shown.findIndex((each) => each.id === id),
      xName: "",
      yName: "",
      plain: true,
      description: "Tokens on the plane of their first two principal components.",
      behind: {
        head: ["Token", "Id", "x", "y"],
        rows: found.tokens.map((each) => [visible(each.text), each.id, fixed(each.x, 3), fixed(each.y, 3)]),
      },
    });
    places.show({
      series: [{ name: "", kind: "faint", points: found.positions.map((each) => [each.x, each.y]), labels: found.positions.map((each) => String(each.position)) }],
      lit: found.positions.findIndex((each) => each.position === position),
      xName: "",
      yName: "",
      plain: true,
      description: "Positions on the plane of their first two principal components, joined in their order.",
      behind: {
        head: ["Position", "x", "y"],
        rows: found.positions.map((each) => [each.position, fixed(each.x, 3), fixed(each.y, 3)]),
      },
    });
  }
  return {
    node,
    light,
    async begin() {
      try {
        found = await api.embeddings(model.id, context.signal);
        const [a, b] = found.token_shares;
        const [c, d] = found.position_shares;
        told.textContent = `These axes show ${percent(a + b)} of the variation among tokens, and ${percent(c + d)} of that among positions.`;
        swap(sources, source(found.sources, ...Object.keys(found.sources)));
        light(lit.id, lit.position);
      } catch (error) {
        context.fail(error, node);
      }
    },
  };
}

/** @param {Context} context @param {ModelInfo} model @param {() => string} text */
function graphPanel(context, model, text) {
  const { state, signal, say } = context;
  const ask = api.latest(signal);
  const loss = h("input", { type: "radio", name: "graph", checked: state.graph === "loss" });
  const small = h("input", { type: "radio", name: "graph", checked: state.graph !== "loss" });
  /** @param {string} name @param {number} usual */
  const letter = (name, usual) => h("input", { type: "number", step: "any", min: -100, max: 100, value: String(numberIn(state[name], usual, -100, 100)) });
  const [a, b, c] = [letter("a", 2), letter("b", -3), letter("c", 10)];
  const position = h("input", { type: "number", min: 0, max: model.block_size - 1, step: 1, value: state.position ?? "0" });
  const errors = h("div", { class: "errors" });
  const sources = h("div");
  const folded = h("p", { class: "hint" });
  const picture = valueGraph(say, (step) => change({ at: step || null }));
  const given = h("div", { class: "row" }, field("a", a), field("b", b), field("c", c));
  const where = h("div", { class: "row" }, field("Position, from 0", position));
  const node = panel(
    "A graph of Values",
    h("p", {}, "Each number remembers how it was computed. Backwards, each hands its gradient on to what it came from, times the local derivative. The small expression is (relu(a·b + c) − 1)²."),
    h("fieldset", { class: "choice" }, h("legend", {}, "Which graph"), h("label", {}, small, "a small expression"), h("label", {}, loss, "one term of the loss")),
    given,
    where,
    errors,
    picture.node,
    folded,
    sources,
    copies(() => ({
      command: "# the graph is for Python; this takes one step with such graphs\nkamon train names --all --engine scalar --num-steps 1 -o one-step",
      python: loss.checked
        ? `import kamon\n\nmodel = kamon.load(${python(placeOf(model))}, engine="scalar")\nmodel.engine.logprobs(model.tokenizer.encode_documents([${python(text())}]))`
        : `from kamon.engines.scalar import Value\n\na, b, c = Value(${Number(a.value)}), Value(${Number(b.value)}), Value(${Number(c.value)})\nloss = ((a * b + c).relu() - 1) ** 2\nloss.backward()\na.grad, b.grad, c.grad`,
    }), model).node,
  );

  /** @param {number} [at] */
  async function draw(at = 0) {
    given.hidden = loss.checked;
    where.hidden = !loss.checked;
    change({
      graph: loss.checked ? "loss" : null,
      a: small.checked && a.value !== "2" ? a.value : null,
      b: small.checked && b.value !== "-3" ? b.value : null,
      c: small.checked && c.value !== "10" ? c.value : null,
      position: loss.checked ? position.value : null,
      at: at || null,
    });
    swap(errors);
    picture.node.hidden = loss.checked && text() === "";
    if (picture.node.hidden) return swap(sources);
    /** @type {api.BodyOf<"POST /graph">} */
    const asked = loss.checked
      ? { kind: "loss", model: model.id, text: text(), position: Number(position.value) }
      : { kind: "expression", a: Number(a.value), b: Number(b.value), c: Number(c.value) };
    try {
      const found = await ask((own) => api.graph(asked, own));
      swap(sources, source(found.sources, ...Object.keys(found.sources)));
      folded.textContent = found.folded ?? "";
      picture.show(found, at);
    } catch (error) {
      context.fail(error, errors);
    }
  }
  for (const input of [a, b, c, position]) input.addEventListener("input", () => draw());
  for (const input of [loss, small]) input.addEventListener("change", () => draw());
  return {
    node,
    begin: () => draw(Math.floor(numberIn(state.at, 0, 0, 10000))),
    follow: () => {
      position.max = String([...text()].length);
      if (loss.checked) draw();
    },
  };
}
