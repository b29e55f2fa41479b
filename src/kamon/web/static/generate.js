// Generate: letter by letter, by hand or by the sampler; then many, to order.

import * as api from "./api.js";
import { bars } from "./charts.js";
import { copies, flags, keywords, placeOf, python, shell } from "./copy.js";
import { button, calm, field, h, isOff, name as named, panel, put, swap, switchOff, tick } from "./dom.js";
import { count, fixed, many, percent, visible } from "./format.js";
import { allowed, choose, probabilities, uniform } from "./sampler.js";
import { change, numberIn, recall, remember } from "./state.js";
import { foundSentence, inline, readAs, safe, unknownSentence } from "./text.js";

/**
 * @typedef {import("./main.js").Context} Context
 * @typedef {import("./api.js").ModelInfo} ModelInfo
 * @typedef {import("./api.js").NextToken} NextToken
 */

const MOST_BARS = 30;
const MOST_KEPT = 1000;
/** @typedef {{text: string, model: string, logprob: number|null, in_list: boolean|null}} Kept */
/** @type {Map<string, Kept>} */
const kept = new Map(recall("kept", /** @type {Kept[]} */ ([])).map((each) => [each.text, each])); // as long as the tab is open

/**
 * The dials that all of this view goes by.
 * @param {Context} context
 * @param {ModelInfo} model
 * @param {number} usual  the temperature
 */
function dials(context, model, usual) {
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
  const temperature = slider("Temperature", "temperature", 0, 2, Math.round(usual * 100) % 5 ? 0.01 : 0.05, usual);
  const top_k = slider("Top-k", "top_k", 1, Math.min(size, 100), 1, Math.min(size, 100));
  const top_p = slider("Top-p", "top_p", 0.05, 1, 0.01, 1);
  const seed = h("input", { type: "number", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 });
  seed.value = state.seed ?? String(model.seed);
  /** Other draws, which are as much the same each time as those before. */
  const advance = () => {
    const now = Math.floor(Number(seed.value || 0));
    seed.value = String(now < Number.MAX_SAFE_INTEGER ? now + 1 : 0);
    seed.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const next = button("Next seed", advance);
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
      temperature: now.temperature === usual ? null : now.temperature,
      top_k: now.top_k,
      top_p: now.top_p === 1 ? null : now.top_p,
      seed: now.seed === model.seed ? null : now.seed,
      prompt: now.prompt,
    });
  };
  tell();
  return { node, values, tell, advance };
}

/** @param {Context} context @param {ModelInfo} model */
export async function show(context, model) {
  const { root, signal } = context;
  const [{ config }, known] = await Promise.all([api.model(model.id, signal), api.characters(model, signal)]);
  const dial = dials(context, model, Number(config.temperature));
  const letters = letterPanel(context, model, dial, known);
  const batch = model.text ? null : batchPanel(context, model, dial, known);
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
    !batch && h("p", {}, "This model has learned a text, which has no end: `kamon sample` writes as much as you want."),
  );
  await letters.begin();
}

/**
 * @param {Context} context
 * @param {ModelInfo} model
 * @param {ReturnType<typeof dials>} dial
 * @param {ReadonlySet<string>|null} known
 */
function letterPanel(context, model, dial, known) {
  const { signal, state, say } = context;
  const asked = readAs(state.prefix ?? "", known);
  let prefix = asked.unknown.length ? "" : asked.text;
  let ended = state.end === "1";
  /** @type {{tokens: NextToken[], end: number, position: number}|null} */
  let now = null;
  /** @type {number[]} */
  let order = [];
  let busy = false; // a run to the end
  let own = ""; // the letters that were there before the first draw
  let drew = false;
  const ask = api.latest(signal);
  const tiles = h("ol", { class: "tiles", dir: "auto", "aria-label": "The name so far" });
  const told = h("div", { class: "told" });
  const errors = h("div", { class: "errors" });
  const chart = bars("The next letter, in per cent", { choose: take });
  const draw = button("Draw one", () => drawOne(), { class: "main" });
  const finish = button("Finish", run);
  /** @param {string} to @param {() => unknown} [then] */
  const turn = (to, then) => go(to).then(then).catch((error) => context.fail(error, errors));
  const back = button("Back", () => turn([...prefix].slice(0, ended ? undefined : -1).join("")));
  const again = button("Start again", () => {
    dial.advance();
    drew = false;
    turn("");
    draw.focus();
  });
  const another = button("Another", () => {
    dial.advance();
    busy = true; // until it is drawn by the next seed
    turn(drew ? own : "", run);
  }, { class: "main" });

  const copy = copies(() => {
    const { temperature, top_k, top_p, seed, prompt } = dial.values();
    const conditions = { top_k, top_p: top_p === 1 ? null : top_p };
    return {
      command:
        `# how it goes on from here\nkamon complete ${shell(placeOf(model))} ${prefix ? shell(prefix) : "''"}` +
        `${flags({ temperature })}\n\n# the name that Finish makes\nkamon sample ${shell(placeOf(model))} -n 1` +
        flags({ prefix, seed, temperature, ...conditions, prompt }),
      python:
        `import kamon\nfrom kamon.completion import next_tokens\n\nmodel = kamon.load(${python(placeOf(model))})\n` +
        `next_tokens(model, ${python(prefix)}, temperature=${temperature})\n` +
        `model.sample(1${keywords({ prefix, seed, temperature, ...conditions, prompt })})`,
    };
  }, model);
  const node = panel(
    "Letter by letter",
    tiles,
    told,
    h("div", { class: "buttons" }, draw, finish, another, back, again),
    errors,
    h("div", { class: "play" }, h("div", { class: "next" }, chart.node), dial.node),
    h(
      "p",
      { class: "hint" },
      h("span", { class: "keys" }, "Click a bar, or move with the arrow keys and press Enter. In the chart, typing a letter takes it and Backspace removes the last one. "),
      "Hatched: cut off by top-k or top-p.",
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
        `The most likely is ${visible(tokens[best].text)}, ${percent(value(best))}.`,
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
          button(visible(letter), () => turn(letters.slice(0, i).join("")), {
            "aria-label": `${visible(letter)}, undo from here`,
            title: "Undo from here",
          }),
        ),
      ),
      h("li", { class: ended ? "stop" : "gap" }, ended ? "end" : "?"),
    );
    for (const each of [draw, finish]) switchOff(each, ended || busy);
    for (const each of [back, again]) switchOff(each, !ended && !prefix);
    const focused = document.activeElement;
    another.hidden = !ended || model.text;
    draw.hidden = finish.hidden = !another.hidden;
    if (!another.hidden && (focused === draw || focused === finish)) another.focus();
    else if (another.hidden && focused === another) finish.focus();
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
      swap(told, `The model cannot read more: its block_size is ${model.block_size}.`);
      for (const each of [draw, finish]) switchOff(each, true);
      chart.node.hidden = true;
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
      for (const each of [draw, finish]) switchOff(each, true);
      chart.node.hidden = true;
      context.fail(error, errors);
    }
  }

  /** @param {number} place  in the chart */
  function take(place) {
    if (!now || place >= Math.min(order.length, MOST_BARS)) return;
    drew = false;
    add(now.tokens[order[place]]);
  }

  /** @param {NextToken} token @param {boolean} [quiet] */
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
    if (!drew) own = prefix;
    drew = true;
    await add(found.token, busy);
    if (!ended) swap(told, `The draw was ${found.u.toFixed(4)}, which falls on “${inline(visible(found.token.text))}”.`);
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
      if (one) swap(told, h("p", {}, h("strong", {}, named(one.text)), " ", mark(one), " ", star(one.text, model.id, one.logprob, one.in_list)));
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
      if (!isOff(back)) back.click();
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
    async begin() {
      own = prefix;
      await go(prefix, ended);
      if (asked.unknown.length && known) context.fail(new api.ApiError(unknownSentence(asked.unknown, known), 0), errors);
      else if (asked.text !== (state.prefix ?? "")) swap(told, `“${inline(state.prefix)}” was read as “${inline(prefix)}”.`);
    },
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
    ...(near ? ["○ new; most like ", named(near.text, 40), ` (${percent(near.similarity > 1 ? near.similarity / 100 : near.similarity)})`] : ["○ new"]),
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
    else if (kept.size < MOST_KEPT) kept.set(text, { text, model, logprob, in_list });
    document.dispatchEvent(new Event("kept"));
  };
  const node = button("", press, { class: "star", "aria-label": `Keep ${safe(text)}`, "data-text": text });
  lightStar(node);
  return node;
}

/** @param {HTMLElement} node */
function lightStar(node) {
  const on = kept.has(node.dataset.text ?? "");
  node.textContent = on ? "★" : "☆";
  node.setAttribute("aria-pressed", String(on));
}

/**
 * @param {Context} context
 * @param {ModelInfo} model
 * @param {ReturnType<typeof dials>} dial
 * @param {ReadonlySet<string>|null} known
 */
function batchPanel(context, model, dial, known) {
  const { state, signal, say } = context;
  const ask = api.latest(signal);
  const n = h("input", { type: "number", min: 1, value: state.n ?? "20", required: true });
  let nearest = Infinity; // samples that the server finds neighbours for
  api.limits().then(({ limits }) => {
    n.max = String(limits.samples);
    nearest = limits.nearest;
  }).catch(() => {}); // Then the server says it.
  /** @param {string} name */
  const word = (name) => h("input", { type: "text", name, value: state[name] ?? "", maxlength: 100 });
  const begins = word("begins");
  const suffix = word("suffix");
  const contains = word("contains");
  /** @param {string} name */
  const length = (name) => h("input", { type: "number", min: 0, max: 1000, name, value: state[name] ?? "" });
  const min_len = length("min_len");
  const max_len = length("max_len");
  const novel = h("input", { checked: state.novel !== "0" });
  const unique = h("input", { checked: state.unique !== "0" });
  const errors = h("div", { class: "errors" });
  const result = h("div");
  /** @param {HTMLInputElement} input */
  const whole = (input) => (input.value === "" ? null : Number(input.value));
  /** @param {HTMLInputElement} input */
  const read = (input) => readAs(input.value, known);
  const conditions = () => ({
    prefix: read(begins).text,
    suffix: read(suffix).text,
    contains: read(contains).text,
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
  let made = ""; // what the names that are shown were asked with
  let searching = false;
  const asked = () => {
    const { temperature, top_k, top_p, seed, prompt } = dial.values();
    const size = Number(n.value);
    return { model: model.id, n: size, temperature, seed, top_k, top_p, prompt, ...conditions(), nearest: size <= nearest };
  };
  const make = async () => {
    swap(errors);
    const inputs = [begins, suffix, contains];
    const unknown = inputs.flatMap((each) => read(each).unknown);
    swap(readings, ...inputs.filter((each) => read(each).text !== each.value && !read(each).unknown.length).map((each) => h("p", { class: "hint" }, `“${inline(each.value)}” was read as “${inline(read(each).text)}”.`)));
    if (unknown.length && known) {
      swap(result);
      return context.fail(new api.ApiError(unknownSentence([...new Set(unknown)], known), 0), errors);
    }
    if (JSON.stringify(asked()) === made) dial.advance(); // others, and not the same again
    change({
      n: n.value === "20" ? null : n.value,
      begins: begins.value,
      suffix: suffix.value,
      contains: contains.value,
      min_len: min_len.value,
      max_len: max_len.value,
      novel: novel.checked ? null : "0",
      unique: unique.checked ? null : "0",
    });
    const request = asked();
    show(true);
    try {
      const found = await ask((own) => api.sample(request, own));
      made = JSON.stringify(request);
      showSamples(found, request.n, request.novel);
      remember("names", { made, found });
    } catch (error) {
      made = "";
      swap(result, api.isAbort(error) && h("p", {}, "Stopped."));
      context.fail(error, errors);
    } finally {
      show(false);
    }
  };
  /** @param {boolean} working */
  const show = (working) => {
    searching = working;
    result.setAttribute("aria-busy", String(working));
    go.textContent = working ? "Searching … Stop" : "Generate";
    if (working) say("Searching.");
  };
  const stop = () => ask(async () => {}); // which ends the search before
  /** @param {import("./api.js").Samples} found @param {number} wanted @param {boolean} only  new ones */
  const showSamples = (found, wanted, only) => {
    const old = found.samples.filter((each) => each.in_list).length;
    const said = foundSentence(found, wanted, only) + (old ? ` ${count(old)} of them are in the list.` : "");
    say(said);
    swap(
      result,
      h("p", {}, said, ` Seed ${found.seed}.`),
      h(
        "ul",
        { class: "samples" },
        ...found.samples.map((each) =>
          h(
            "li",
            {},
            star(each.text, model.id, each.logprob, each.in_list),
            h("span", { class: "name" }, each.text === "" ? "(empty)" : named(each.text)),
            h("span", { class: "number", title: "log probability in nats" }, fixed(each.logprob, 2)),
            mark(each),
          ),
        ),
      ),
    );
  };
  const readings = h("div", { class: "errors" });
  const go = h("button", { type: "submit", class: "main" }, "Generate");
  const form = h(
    "form",
    {
      submit: (/** @type {Event} */ event) => {
        event.preventDefault();
        if (searching) stop();
        else make();
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
      tick("Only new names", novel),
      tick("No duplicates", unique),
      go,
    ),
  );
  const node = panel(
    "Make a batch",
    h("p", {}, "Temperature, top-k, top-p and seed are those above. Pressing Generate again takes the next seed."),
    form,
    readings,
    errors,
    result,
    copy.node,
  );
  const before = recall("names", /** @type {any} */ (null));
  if (before?.made === JSON.stringify(asked())) {
    made = before.made;
    showSamples(before.found, Number(n.value), novel.checked);
  }
  return { node, refresh: copy.refresh };
}

/** @param {Context} context */
function keptPanel(context) {
  const list = h("ul", { class: "samples" });
  const empty = h("p", {}, "Press a star to keep a name. They stay as long as this tab is open: export them to keep them.");
  const csv = button("Export CSV", () => {
    /** @param {string} text */
    const cell = (text) => `"${(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
    const rows = [...kept.values()].map((each) =>
      [cell(each.text), each.logprob ?? "", each.in_list === null ? "" : each.in_list].join(","),
    );
    const mark = "\ufeff"; // by which Excel knows UTF-8
    const blob = new Blob([mark + ["text,logprob,in_list", ...rows, ""].join("\r\n")], { type: "text/csv;charset=utf-8" });
    const link = h("a", { href: URL.createObjectURL(blob), download: "kept.csv" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    context.say("Exported.");
  });
  const draw = () => {
    for (const each of /** @type {NodeListOf<HTMLElement>} */ (context.root.querySelectorAll(".star[data-text]"))) {
      lightStar(each);
    }
    switchOff(csv, !kept.size);
    remember("kept", [...kept.values()]);
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
              /** @type {HTMLElement} */ (list.querySelector("button") ?? csv).focus();
            },
            { "aria-label": `Remove ${safe(each.text)}`, class: "star" },
          ),
          h("span", { class: "name" }, named(each.text)),
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
