// Generate: letter by letter, by hand or by the sampler; then many, to order.

import * as api from "./api.js";
import { bars } from "./charts.js";
import { copies, flags, keywords, placeOf, python, shell } from "./copy.js";
import { button, calm, count, field, fixed, h, many, panel, percent, put, swap, tick, visible } from "./dom.js";
import { allowed, choose, probabilities, uniform } from "./sampler.js";
import { change, numberIn } from "./state.js";

/**
 * @typedef {import("./main.js").Context} Context
 * @typedef {import("./api.js").ModelInfo} ModelInfo
 * @typedef {import("./api.js").Next} Next
 */

const MOST_BARS = 30;
/** @type {Map<string, {text: string, model: string, logprob: number|null, in_list: boolean|null}>} */
const kept = new Map(); // as long as the page is open

/**
 * The dials that all of this view goes by.
 * @param {Context} context
 * @param {ModelInfo} model
 */
function dials(context, model) {
  const { state } = context;
  /** @param {string} label @param {string} name @param {number} least @param {number} most @param {number} step @param {number} usual */
  const slider = (label, name, least, most, step, usual) => {
    const input = h("input", { type: "range", min: least, max: most, step });
    input.value = String(numberIn(state[name], usual, least, most));
    const out = h("output");
    const node = field(label, input);
    node.append(out); // not in the label, which would be its label
    node.classList.add("dial");
    return { input, out, node };
  };
  const size = model.vocab_size;
  const temperature = slider("Temperature", "temperature", 0, 2, 0.05, 1);
  const top_k = slider("Top-k", "top_k", 1, Math.min(size, 100), 1, Math.min(size, 100));
  const top_p = slider("Top-p", "top_p", 0.05, 1, 0.01, 1);
  const seed = h("input", { type: "number", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 });
  seed.value = state.seed ?? String(model.seed);
  const next = button("Next seed", () => {
    seed.value = String(Number(seed.value || 0) + 1);
    seed.dispatchEvent(new Event("input", { bubbles: true }));
  });
  const prompt = h("input", { type: "text", value: state.prompt ?? "" });
  const node = h(
    "div",
    { class: "dials" },
    temperature.node,
    top_k.node,
    top_p.node,
    h("div", { class: "row seed" }, field("Seed", seed), next),
    model.prompts ? field("Prompt", prompt, "What the names are to answer.") : null,
  );
  const values = () => ({
    temperature: Number(temperature.input.value),
    top_k: top_k.input.value === top_k.input.max ? null : Number(top_k.input.value),
    top_p: Number(top_p.input.value),
    seed: Math.max(0, Math.floor(Number(seed.value) || 0)),
    prompt: model.prompts && prompt.value !== "" ? prompt.value : null,
  });
  const tell = () => {
    const now = values();
    temperature.out.textContent = now.temperature.toFixed(2);
    top_k.out.textContent = now.top_k === null ? "all" : String(now.top_k);
    top_p.out.textContent = now.top_p.toFixed(2);
    change({
      temperature: now.temperature === 1 ? null : now.temperature,
      top_k: now.top_k,
      top_p: now.top_p === 1 ? null : now.top_p,
      seed: now.seed === model.seed ? null : now.seed,
      prompt: now.prompt,
    });
  };
  tell();
  return { node, values, tell };
}

/** @param {Context} context @param {ModelInfo} model */
export async function show(context, model) {
  const { root } = context;
  const dial = dials(context, model);
  const letters = letterPanel(context, model, dial);
  const batch = model.text ? null : batchPanel(context, model, dial);
  dial.node.addEventListener("input", (event) => {
    dial.tell();
    letters.turned(/** @type {HTMLElement} */ (event.target));
    batch?.refresh();
  });
  put(
    root,
    h("h1", {}, "Generate"),
    h("p", { class: "lead" }, "The model gives each letter a chance to come next. Take one yourself, or let it draw."),
    letters.node,
    batch && batch.node,
    batch && keptPanel(context),
    !batch && h("p", {}, "This model has learned a text, which has no end: kamon sample writes as much as you want."),
  );
  await letters.begin();
}

/** @param {Context} context @param {ModelInfo} model @param {ReturnType<typeof dials>} dial */
function letterPanel(context, model, dial) {
  const { signal, state, say } = context;
  let prefix = state.prefix ?? "";
  let ended = state.end === "1";
  /** @type {{tokens: Next[], end: number, position: number}|null} */
  let now = null;
  /** @type {number[]} */
  let order = [];
  let busy = false; // a run to the end
  const ask = api.latest(signal);
  const tiles = h("ol", { class: "tiles", "aria-label": "The name so far" });
  const told = h("div", { class: "told" });
  const errors = h("div", { class: "errors" });
  const chart = bars("The next letter, in per cent", { choose: take });
  const draw = button("Draw one", () => drawOne(), { class: "main" });
  const finish = button("Finish", run);
  const back = button("Back", () => go([...prefix].slice(0, ended ? undefined : -1).join("")));
  const again = button("Start again", () => go(""));

  const copy = copies(() => {
    const { temperature, top_k, top_p, seed, prompt } = dial.values();
    const conditions = { top_k, top_p: top_p === 1 ? null : top_p };
    return {
      command:
        `# how it goes on from here\nkamon complete ${shell(placeOf(model))} ${prefix ? shell(prefix) : "''"}` +
        `${flags({ temperature })}\n\n# the name that Finish makes\nkamon sample ${shell(placeOf(model))} -n 1` +
        flags({ prefix, seed, temperature, ...conditions, prompt }),
      python:
        `import kamon\nfrom kamon.complete import next_tokens\n\nmodel = kamon.load(${python(placeOf(model))})\n` +
        `next_tokens(model, ${python(prefix)}, temperature=${temperature})\n` +
        `model.sample(1${keywords({ prefix, seed, temperature, ...conditions, prompt })})`,
    };
  }, model);
  const node = panel(
    "Letter by letter",
    tiles,
    told,
    h("div", { class: "buttons" }, draw, finish, back, again),
    errors,
    h("div", { class: "play" }, h("div", { class: "next" }, chart.node), dial.node),
    h(
      "p",
      { class: "hint" },
      "Click a bar, or move with the arrow keys and press Enter. Typing a letter takes it, Backspace takes the last one back. Hatched: cut off by top-k or top-p.",
    ),
    copy.node,
  );

  /** What the sampler makes of the logits, here and at once. */
  function compute() {
    if (!now) return null;
    const { temperature, top_k, top_p } = dial.values();
    const { tokens, end } = now;
    const logits = tokens.map((each) => each.logit);
    const bos = tokens.findIndex((each) => each.id === end);
    const excluded = new Set(tokens.flatMap((each, i) => (each.kept ? [] : [i])));
    const free = tokens.map((_, i) => i).filter((i) => !excluded.has(i));
    const stay = allowed(logits, temperature, bos, [...prefix].length, { top_k, top_p }, excluded);
    const shares = new Map(zip(stay, probabilities(stay.map((i) => logits[i]), temperature)));
    const whole = new Map(zip(free, probabilities(free.map((i) => logits[i]), temperature)));
    return { logits, free, stay, shares, whole, temperature };
  }

  function redraw() {
    const found = compute();
    if (!found || !now) return;
    const { tokens } = now;
    const { free, shares, whole, logits } = found;
    order = free.slice().sort((a, b) => logits[b] - logits[a]);
    const shown = order.slice(0, MOST_BARS);
    const rest = order.slice(MOST_BARS);
    /** @param {number} i */
    const value = (i) => shares.get(i) ?? whole.get(i) ?? 0;
    /** @type {import("./charts.js").Bar[]} */
    const all = shown.map((i) => ({
      label: visible(tokens[i].text),
      value: value(i),
      cut: !shares.has(i),
      title: `${visible(tokens[i].text)}: ${shares.has(i) ? percent(value(i)) : `cut off, else ${percent(value(i))}`}`,
    }));
    if (rest.length) {
      const sum = rest.reduce((total, i) => total + (shares.get(i) ?? 0), 0);
      all.push({ label: "rest", value: sum, sum: true, title: `${count(rest.length)} more: ${percent(sum)}` });
    }
    const best = shown[0];
    chart.show({
      bars: all,
      description:
        `${many(found.stay.length, "token")} of ${count(free.length)} may come next. ` +
        `The likeliest is ${visible(tokens[best].text)}, ${percent(value(best))}.`,
      behind: {
        head: ["Next", "Chance", "Before the cut", "Logit", "Token"],
        rows: order.map((i) => [
          visible(tokens[i].text),
          shares.has(i) ? percent(value(i)) : "cut off",
          percent(whole.get(i) ?? 0),
          fixed(logits[i], 3),
          tokens[i].id,
        ]),
      },
    });
  }

  function showTiles() {
    const letters = [...prefix];
    swap(
      tiles,
      ...letters.map((letter, i) =>
        h(
          "li",
          {},
          button(visible(letter), () => go(letters.slice(0, i).join("")), {
            "aria-label": `${visible(letter)}, take back from here`,
            title: "Take back from here",
          }),
        ),
      ),
      h("li", { class: ended ? "stop" : "gap" }, ended ? "end" : "?"),
    );
    draw.disabled = finish.disabled = ended || busy;
    back.disabled = !ended && !prefix;
    again.disabled = !ended && !prefix;
    chart.node.hidden = ended;
  }

  /** @param {string} to @param {boolean} [end] */
  async function go(to, end = false) {
    prefix = to;
    ended = end;
    change({ prefix, end });
    showTiles();
    copy.refresh();
    swap(errors);
    if (ended) return showMark();
    swap(told);
    if (model.tokenizer === "char" && !model.text && [...prefix].length >= model.block_size) {
      now = null;
      swap(told, `That is as far as the model sees: block_size is ${model.block_size}.`);
      draw.disabled = finish.disabled = chart.node.hidden = true;
      return;
    }
    try {
      now = await ask((own) =>
        api.nextToken({ model: model.id, prefix, temperature: 1, prompt: dial.values().prompt }, own),
      );
      redraw();
      showTiles();
    } catch (error) {
      if (api.isAbort(error)) throw error;
      now = null;
      busy = false;
      draw.disabled = finish.disabled = true;
      chart.node.hidden = true;
      context.fail(error, errors);
    }
  }

  /** @param {number} place  in the chart */
  function take(place) {
    if (now && place < Math.min(order.length, MOST_BARS)) add(now.tokens[order[place]]);
  }

  /** @param {Next} token @param {boolean} [quiet] */
  function add(token, quiet) {
    const end = token.id === now?.end;
    if (end || !quiet) say(end ? `${prefix}, ended` : visible(token.text));
    return go(prefix + (end ? "" : token.text), end).catch((error) => context.fail(error, errors));
  }

  /** The token that `kamon sample` takes here, as sample 0 of this seed. */
  function drawn() {
    const found = compute();
    if (!found || !now) return null;
    const u = uniform(dial.values().seed, 0, now.position);
    const token = found.stay[choose(found.stay.map((i) => found.logits[i]), found.temperature, u)];
    return { token: now.tokens[token], u };
  }

  async function drawOne() {
    const found = drawn();
    if (!found || ended) return false;
    await add(found.token, busy);
    if (!ended) swap(told, `The draw was ${found.u.toFixed(4)}, which falls on “${visible(found.token.text)}”.`);
    return true;
  }

  async function run() {
    busy = true;
    showTiles();
    while (busy && now && !ended && !signal.aborted) {
      if (!(await drawOne())) break;
      if (!ended && !calm.matches) await new Promise((done) => setTimeout(done, 90));
    }
    busy = false;
    if (!signal.aborted && now) showTiles();
  }

  /** Whether a finished name is in the list, and what it is like. */
  async function showMark() {
    swap(told, h("p", {}, "Finished."));
    if (prefix === "" || model.text) return;
    try {
      const size = [...prefix].length;
      const found = await ask((own) =>
        api.sample(
          { model: model.id, n: 1, prefix, min_len: size, max_len: size, nearest: true, prompt: dial.values().prompt },
          own,
        ),
      );
      const one = found.samples[0];
      if (one) swap(told, h("p", {}, h("strong", {}, one.text), " ", mark(one), " ", star(one.text, model.id, one.logprob, one.in_list)));
    } catch (error) {
      context.fail(error, errors);
    }
  }

  node.addEventListener("keydown", (event) => {
    const target = /** @type {Element} */ (event.target);
    const inChart = chart.svg.contains(target);
    if (!inChart && !tiles.contains(target)) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Backspace") {
      event.preventDefault();
      if (!back.disabled) back.click();
    } else if ([...event.key].length === 1 && event.key !== " " && inChart && !ended) {
      const token = now?.tokens.find((each) => each.text === event.key && each.kept);
      if (token) {
        event.preventDefault();
        add(token);
      }
    }
  });
  return {
    node,
    begin: () => go(prefix, ended),
    /** @param {HTMLElement} by */
    turned(by) {
      copy.refresh();
      if (by instanceof HTMLInputElement && by.type === "text") go(prefix, ended).catch(() => {});
      else if (!ended) redraw();
    },
  };
}

/** @param {import("./api.js").Sample} sample */
function mark(sample) {
  if (sample.in_list) return h("span", { class: "mark old" }, "● in the list");
  const near = sample.nearest;
  return h(
    "span",
    { class: "mark new" },
    near ? `○ new; most like ${near.text} (${percent(near.similarity > 1 ? near.similarity / 100 : near.similarity)})` : "○ new",
  );
}

/**
 * A button that keeps a text.
 * @param {string} text
 * @param {string} model
 * @param {number|null} logprob
 * @param {boolean|null} in_list
 */
function star(text, model, logprob, in_list) {
  const press = () => {
    if (kept.has(text)) kept.delete(text);
    else kept.set(text, { text, model, logprob, in_list });
    document.dispatchEvent(new Event("kept"));
  };
  const node = button("", press, { class: "star", "aria-label": `Keep ${text}`, "data-text": text });
  lightStar(node);
  return node;
}

/** @param {HTMLElement} node */
function lightStar(node) {
  const on = kept.has(node.dataset.text ?? "");
  node.textContent = on ? "★" : "☆";
  node.setAttribute("aria-pressed", String(on));
}

/** @param {Context} context @param {ModelInfo} model @param {ReturnType<typeof dials>} dial */
function batchPanel(context, model, dial) {
  const { state, signal, say } = context;
  const ask = api.latest(signal);
  const n = h("input", { type: "number", min: 1, max: 1000, value: state.n ?? "20", required: true });
  /** @param {string} name */
  const word = (name) => h("input", { type: "text", name, value: state[name] ?? "", maxlength: 100 });
  const begins = word("begins");
  const suffix = word("suffix");
  const contains = word("contains");
  /** @param {string} name */
  const length = (name) => h("input", { type: "number", min: 0, max: 1000, name, value: state[name] ?? "" });
  const min_len = length("min_len");
  const max_len = length("max_len");
  const novel = h("input", { checked: state.novel === "1" });
  const unique = h("input", { checked: state.unique === "1" });
  const errors = h("div", { class: "errors" });
  const result = h("div");
  /** @param {HTMLInputElement} input */
  const whole = (input) => (input.value === "" ? null : Number(input.value));
  const conditions = () => ({
    prefix: begins.value,
    suffix: suffix.value,
    contains: contains.value,
    min_len: whole(min_len) ?? 0,
    max_len: whole(max_len),
    novel: novel.checked,
    unique: unique.checked,
  });
  const copy = copies(() => {
    const { temperature, top_k, top_p, seed, prompt } = dial.values();
    const { min_len: least, ...others } = conditions();
    const given = {
      seed,
      temperature,
      top_k,
      top_p: top_p === 1 ? null : top_p,
      prompt,
      min_len: least || null,
      ...others,
    };
    return {
      command: `kamon sample ${shell(placeOf(model))} -n ${n.value}${flags(given)} --nearest`,
      python:
        `import kamon\n\nmodel = kamon.load(${python(placeOf(model))})\n` + `model.sample(${n.value}${keywords(given)})`,
    };
  }, model);
  const make = async () => {
    swap(errors);
    change({
      n: n.value === "20" ? null : n.value,
      begins: begins.value,
      suffix: suffix.value,
      contains: contains.value,
      min_len: min_len.value,
      max_len: max_len.value,
      novel: novel.checked,
      unique: unique.checked,
    });
    const { temperature, top_k, top_p, seed, prompt } = dial.values();
    result.setAttribute("aria-busy", "true");
    try {
      const found = await ask((own) =>
        api.sample(
          { model: model.id, n: Number(n.value), temperature, seed, top_k, top_p, prompt, ...conditions(), nearest: true },
          own,
        ),
      );
      showSamples(found);
    } catch (error) {
      if (!api.isAbort(error)) swap(result);
      context.fail(error, errors);
    } finally {
      result.removeAttribute("aria-busy");
    }
  };
  /** @param {import("./api.js").Samples} found */
  const showSamples = (found) => {
    const old = found.samples.filter((each) => each.in_list).length;
    const said = `${many(found.samples.length, "sample")} of ${count(found.tried)} drawn, ${old} in the list.`;
    say(said);
    swap(
      result,
      h("p", {}, said, found.samples.length < Number(n.value) ? " No more fulfil the conditions." : ""),
      h(
        "ul",
        { class: "samples" },
        ...found.samples.map((each) =>
          h(
            "li",
            {},
            star(each.text, model.id, each.logprob, each.in_list),
            h("span", { class: "name" }, each.text === "" ? "(empty)" : each.text),
            h("span", { class: "number", title: "log probability in nats" }, fixed(each.logprob, 2)),
            mark(each),
          ),
        ),
      ),
    );
  };
  const form = h(
    "form",
    {
      submit: (/** @type {Event} */ event) => {
        event.preventDefault();
        make();
      },
      input: copy.refresh,
    },
    h(
      "div",
      { class: "row" },
      field("How many", n),
      field("Begins with", begins),
      field("Ends with", suffix),
      field("Contains", contains),
      field("Shortest", min_len),
      field("Longest", max_len),
    ),
    h(
      "div",
      { class: "row end" },
      tick("None that is in the list", novel),
      tick("None twice", unique),
      h("button", { type: "submit", class: "main" }, "Make names"),
    ),
  );
  const node = panel(
    "To order",
    h("p", {}, "Temperature, top-k, top-p and seed are those above."),
    form,
    errors,
    result,
    copy.node,
  );
  return { node, refresh: copy.refresh };
}

/** @param {Context} context */
function keptPanel(context) {
  const list = h("ul", { class: "samples" });
  const empty = h("p", {}, "Press a star to keep a name. They stay as long as this page is open: export them to keep them for good.");
  const csv = button("Export CSV", () => {
    /** @param {string} text */
    const cell = (text) => `"${(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
    const rows = [...kept.values()].map((each) =>
      [cell(each.text), cell(each.model), each.logprob ?? "", each.in_list === null ? "" : each.in_list].join(","),
    );
    const blob = new Blob([["text,model,logprob,in_list", ...rows, ""].join("\r\n")], { type: "text/csv" });
    const link = h("a", { href: URL.createObjectURL(blob), download: "kept.csv" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    context.say("Exported.");
  });
  const draw = () => {
    for (const each of /** @type {NodeListOf<HTMLElement>} */ (context.root.querySelectorAll(".star[data-text]"))) {
      lightStar(each);
    }
    csv.disabled = !kept.size;
    list.hidden = !kept.size;
    swap(
      list,
      ...[...kept.values()].map((each) =>
        h(
          "li",
          {},
          button(
            "×",
            () => {
              kept.delete(each.text);
              draw();
            },
            { "aria-label": `Drop ${each.text}`, class: "star" },
          ),
          h("span", { class: "name" }, each.text),
        ),
      ),
    );
  };
  document.addEventListener("kept", draw, { signal: context.signal });
  draw();
  return panel("Kept", empty, list, csv);
}

/**
 * @template A, B
 * @param {A[]} a
 * @param {B[]} b
 * @returns {[A, B][]}
 */
function zip(a, b) {
  return a.map((each, i) => [each, b[i]]);
}
