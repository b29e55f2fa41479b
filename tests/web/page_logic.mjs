// What the page works out without a page: run by test_page_logic.py, beside copies of the files.

import assert from "node:assert/strict";
import { test } from "node:test";

/** @type {Map<string, string>} */
const kept = new Map();
let full = false;
Object.assign(globalThis, {
  location: { search: "" },
  history: {
    replaceState: (_state, _title, to) => (location.search = to),
    pushState: (_state, _title, to) => (location.search = to),
  },
  addEventListener: () => {},
  matchMedia: () => ({ matches: true }),
  sessionStorage: {
    getItem: (name) => kept.get(name) ?? null,
    setItem: (name, text) => {
      if (full) throw new Error("it is full");
      kept.set(name, text);
    },
    removeItem: (name) => kept.delete(name),
  },
});
const api = await import("./api.js");
const state = await import("./state.js");
const text = await import("./text.js");
const format = await import("./format.js");
const sampler = await import("./sampler.js");
const letters = await import("./letters.js");
const session = await import("./session.js");
const form = await import("./training_form.js");
const given = await import("./given.js");
const losses = await import("./losses.js");
const trace = await import("./trace.js");
const graphemes = await import("./graphemes.js");
const graph = await import("./graph_layout.js");
const { barLayout } = await import("./bars.js");
const { ticks } = await import("./lines.js");
const { merged, queued } = await import("./watch.js");

const utf8 = (string) => new TextEncoder().encode(string);
const utf16 = (string, little, mark) => {
  const codes = [...(mark ? "\ufeff" : ""), ...string].map((each) => each.charCodeAt(0));
  return Uint8Array.from(codes.flatMap((code) => (little ? [code & 255, code >> 8] : [code >> 8, code & 255])));
};

test("a file is read in whatever encoding it has", () => {
  const list = "Zoë\nJosé\nאבג\nplain words\n";
  for (const bytes of [utf8(list), utf8(`\ufeff${list}`), utf16(list, true, true), utf16(list, false, true)]) {
    assert.deepEqual(text.decoded(bytes, "a.txt"), { text: list, note: "", fault: "" });
  }
  for (const little of [true, false]) {
    const found = text.decoded(utf16("plain\nZoë\n", little, false), "a.txt");
    assert.equal(found.text, "plain\nZoë\n");
    assert.match(found.note, /UTF-16/);
  }
  const latin = text.decoded(Uint8Array.from([0x5a, 0x6f, 0xeb, 0x0a]), "a.txt");
  assert.equal(latin.text, "Zoë\n");
  assert.match(latin.note, /Windows-1252/);
  assert.deepEqual(text.decoded(new Uint8Array(), "a.txt"), { text: "", note: "", fault: "" });
});

test("what is no text is refused with what to do", () => {
  const sheet = text.decoded(Uint8Array.from([0x50, 0x4b, 3, 4, 0, 0, 1]), "names.xlsx");
  assert.match(sheet.fault, /^names\.xlsx is a spreadsheet.*save the sheet as CSV/);
  const old = text.decoded(Uint8Array.from([0xd0, 0xcf, 0x11, 0xe0]), "names.xls");
  assert.match(old.fault, /spreadsheet/);
  const binary = text.decoded(Uint8Array.from([0x7f, 0x45, 0, 0, 0, 0, 1, 2, 0, 9]), "a.bin");
  assert.match(binary.fault, /is not a text file/);
});

test("the column of words is taken, and not the one of ids", () => {
  const table = (rows, by = ",") => rows.map((row) => row.join(by)).join("\r\n");
  const rows = [
    ["id", "name", "mail", "country"],
    ["1", "Anna", "anna@x.org", "DE"],
    ["2", "Bo", "bo@x.org", "DE"],
    ["3", "Cleo", "c@x.org", "DE"],
  ];
  for (const by of [",", ";", "|"]) assert.equal(text.wordiest(table(rows, by), "csv", rows[0]), "name");
  assert.equal(text.wordiest(table(rows, "\t"), "tsv", rows[0]), "name");
  const quoted = 'key,"the, brand"\nab12cd,"Red, ""Fox"""\nfe98ba,"Blue\nOwl"\n';
  assert.equal(text.wordiest(quoted, "csv", ["key", "the, brand"]), "the, brand");
  const objects = '{"uid": "3f2a-99", "title": "Red Fox"}\n{"uid": "81cc-02", "title": "Blue Owl"}\n{"uid": ';
  assert.equal(text.wordiest(objects, "jsonl", ["uid", "title"]), "title");
  const array = '[{"uid": "3f2a-99", "title": "Red Fox"},\n{"uid": "81cc-02", "title": "Blue Owl"}]';
  assert.equal(text.wordiest(array, "json", ["uid", "title"]), "title");
  assert.equal(text.wordiest("a,b\n1,2\n", "csv", ["a", "b"]), "a");
  assert.equal(text.wordiest("", "csv", []), "");
});

test("letters are read as those that the model knows", () => {
  const known = new Set("abcdefghijklmnopqrstuvwxyz");
  const read = (given, by = known) => text.readAs(given, by);
  assert.deepEqual(read("Anna"), { text: "anna", unknown: [] });
  assert.deepEqual(read("JOSÉ"), { text: "jose", unknown: [] });
  assert.deepEqual(read("jose\u0301", new Set("joseé")), { text: "josé", unknown: [] });
  assert.deepEqual(read("JOSÉ", new Set("joseé")), { text: "josé", unknown: [] });
  assert.deepEqual(read("anna", new Set("AN")), { text: "ANNA", unknown: [] });
  assert.deepEqual(read("Anna", new Set("Aan")), { text: "Anna", unknown: [] });
  assert.deepEqual(read("Jo9-9"), { text: "jo9-9", unknown: ["9", "-"] });
  assert.deepEqual(read("Jo9", null), { text: "Jo9", unknown: [] });
  assert.equal(text.unknownSentence(["9", "-"], known), "This model does not know “9”, “-”. It has only seen a–z.");
  assert.equal(text.ranges(new Set(" -abx")), "space, -, a, b, x");
});

test("controls of direction turn nothing around them", () => {
  assert.equal(text.safe("a\u202eb\u2066c"), "a[U+202E]b[U+2066]c");
  assert.equal(text.inline("\u202eabc"), "[U+202E]abc");
  assert.equal(text.inline("אב"), "\u2068אב\u2069");
  assert.equal(text.inline("Zoë"), "Zoë");
  assert.equal(text.clipped("🦊🦉🐻", 2), "🦊…");
  assert.equal(text.clipped("🦊🦉", 2), "🦊🦉");
});

test("what teaching did is counted", () => {
  const answers = [...Array(20).keys()].map((i) => ({ text: `${i}`, liked: i < 10 ? i < 2 : i < 16 }));
  assert.equal(text.likedSentence(answers), "You liked 6 of the last 10, 2 of the first 10.");
  assert.equal(text.likedSentence(answers.slice(0, 7)), "You liked 0 of the last 3, 2 of the first 3.");
  assert.equal(text.likedSentence(answers.slice(0, 5)), "");
  assert.equal(text.likedSentence([{ chosen: "a", rejected: "b" }]), "");
});

test("a search says what it left out, and does not say that there is no more", () => {
  const some = (n, tried, ended, copies, duplicates) => ({
    samples: Array(n),
    tried,
    ended,
    left_out: { copies, duplicates },
  });
  const found = (...given) => format.foundSentence(some(...given), 20);
  assert.equal(found(20, 20, "n", 0, 0), "20 names from 20 candidates.");
  assert.equal(
    found(20, 48, "n", 27, 1),
    "20 names from 48 candidates. Left out: 27 copies of the list and 1 duplicate.",
  );
  assert.match(found(0, 20000, "tried", 0, 0), /^None from 20,000 candidates\. Loosen the conditions\.$/);
  assert.match(
    found(3, 500, "time", 1, 0),
    /^Only 3 of 20 names from 500 candidates before time ran out\. Left out: 1 copy of the list\. .*include copies/,
  );
});

test("a name to save under is free, and one that the server takes", () => {
  assert.equal(text.freeName("My Bränds.txt", []), "my-brands");
  assert.equal(text.freeName("names", ["names", "names-2"]), "names-3");
  assert.equal(text.freeName("عيسى", []), "model");
  assert.match(text.freeName("x".repeat(200), []), /^[a-z0-9][a-z0-9_-]{0,39}$/);
});

test("a training says how many are before it", () => {
  assert.equal(queued({ ahead: 3 }), "waiting, 3 before you");
  assert.equal(queued({ ahead: 0 }), "waiting, next in line");
});

const answer = (status, body, headers = {}) => new Response(JSON.stringify(body), { status, headers });

test("a busy server is asked again when it says", async () => {
  const told = [];
  api.busy.tell = (waiting) => told.push(waiting);
  const answers = [
    answer(503, {}, { "Retry-After": "0" }),
    answer(503, {}, { "Retry-After": "0" }),
    answer(200, { models: [1] }),
  ];
  let asked = 0;
  globalThis.fetch = async () => answers[asked++];
  assert.deepEqual(await api.models(), [1]);
  assert.equal(asked, 3);
  assert.deepEqual(told, [1, 0]);
});

test("who goes away waits no longer", async () => {
  globalThis.fetch = async () => answer(503, {}, { "Retry-After": "60" });
  const leaves = new AbortController();
  const waiting = api.models(leaves.signal);
  setTimeout(() => leaves.abort());
  await assert.rejects(waiting, api.isAbort);
  await assert.rejects(api.models(leaves.signal), api.isAbort);
});

test("an error that no waiting heals is said", async () => {
  globalThis.fetch = async () => answer(503, { error: "It ends." });
  await assert.rejects(api.models(), (error) => error.status === 503 && error.message === "It ends.");
  globalThis.fetch = async () => Promise.reject(new TypeError("Failed to fetch"));
  await assert.rejects(api.models(), (error) => error.status === 0 && /kamon serve/.test(error.message));
});

test("an address has no empty values", () => {
  assert.equal(state.address({ view: "data" }, { model: "", text: "x" }), "?text=x&view=data");
});

test("a view is found as it was left", () => {
  state.push("?view=generate&model=m&temperature=0.3&prefix=ka&seed=9");
  state.push("?view=data&model=m");
  assert.deepEqual(state.left("generate"), {
    view: "generate",
    model: "m",
    temperature: "0.3",
    prefix: "ka",
    seed: "9",
  });
  state.push("?view=data&model=other&job=j");
  assert.deepEqual(state.left("generate"), { view: "generate", model: "other", job: "j", temperature: "0.3" });
});

test("a store that keeps nothing does no harm", () => {
  state.remember("a", [1]);
  assert.deepEqual(state.recall("a", []), [1]);
  state.remember("a", "x".repeat(2 << 20));
  assert.equal(state.recall("a", null), null);
  full = true;
  state.remember("a", 1);
  kept.set("kamon a", "{");
  assert.equal(state.recall("a", "usual"), "usual");
});

test("a number in the address stays within its limits", () => {
  assert.equal(state.numberIn("1.5", 1, 0, 2), 1.5);
  assert.equal(state.numberIn("7", 1, 0, 2), 2);
  assert.equal(state.numberIn("-7", 1, 0, 2), 0);
  for (const text of [undefined, "", " ", "x", "Infinity"]) assert.equal(state.numberIn(text, 1, 0, 2), 1);
});

test("random numbers are Philox's", () => {
  // philox4x32-10 of Random123's known answers: counter and key 0
  const bits = (BigInt(0x6627e8d5) << 21n) | (BigInt(0xe169c58d) >> 11n);
  assert.equal(sampler.uniform(0, 0, 0), Number(bits) * 2 ** -53);
  const drawn = [sampler.uniform(1, 0, 0), sampler.uniform(0, 1, 0), sampler.uniform(0, 0, 1)];
  assert.equal(new Set(drawn).size, 3);
  for (const u of drawn) assert.ok(u >= 0 && u < 1);
});

test("probabilities are a softmax, and the largest logit if it is cold", () => {
  const [a, b] = sampler.probabilities([Math.log(3), 0], 1);
  assert.ok(Math.abs(a - 0.75) < 1e-12 && Math.abs(b - 0.25) < 1e-12);
  assert.deepEqual(sampler.probabilities([1, 2, 2], 0), [0, 1, 0]);
  assert.equal(sampler.choose([Math.log(3), 0], 1, 0.74), 0);
  assert.equal(sampler.choose([Math.log(3), 0], 1, 0.76), 1);
});

test("top-k, top-p and the shortest length leave tokens out", () => {
  const logits = [0, 3, 2, 1];
  const allowed = (conditions, excluded) => sampler.allowed(logits, 1, conditions, excluded);
  assert.deepEqual(allowed({}), [0, 1, 2, 3]);
  assert.deepEqual(allowed({ top_k: 2 }), [1, 2]);
  assert.deepEqual(allowed({ top_p: 0.5 }), [1]);
  assert.deepEqual(allowed({ top_p: 0.8 }), [1, 2]);
  assert.deepEqual(allowed({ top_k: 2 }, new Set([1])), [2, 3]);
});

const NEXT = {
  end: 26,
  position: 0,
  tokens: ["a", "b", "c", ""].map((each, i) => ({
    id: i === 3 ? 26 : i,
    text: each,
    logit: [1, 3, 2, 0][i],
    probability: 0,
    kept: each !== "c",
  })),
};

test("the chances of the next letter are those before and after the cut", () => {
  const distribution = letters.distributionOf(NEXT, { temperature: 1, top_k: 1, top_p: 1 });
  assert.deepEqual(distribution.free, [0, 1, 3]);
  assert.deepEqual(distribution.stay, [1]);
  assert.equal(distribution.shares.get(1), 1);
  const whole = [0, 1, 3].reduce((sum, i) => sum + distribution.whole.get(i), 0);
  assert.ok(Math.abs(whole - 1) < 1e-12);
  const order = letters.orderOf(distribution);
  assert.deepEqual(order, [1, 0, 3]);
  const chart = letters.chartOf(NEXT, distribution, order);
  assert.deepEqual(
    chart.bars.map((bar) => [bar.label, bar.cut]),
    [
      ["b", false],
      ["a", true],
      ["end", true],
    ],
  );
  assert.match(chart.bars[1].title, /^a: cut off, otherwise 11%$/);
  assert.equal(chart.description, "1 of 3 tokens can come next. The most likely is b, 100%.");
  assert.deepEqual(chart.behind.rows[2], ["end", "cut off", "4.2%", "0.000", 26]);
  assert.equal(letters.drawn(NEXT, distribution, 1, 5).token.text, "b");
  assert.equal(letters.drawn(NEXT, distribution, 1, 5).u, sampler.uniform(5, 0, 0));
});

test("a letter of a blend has the chance that each part gives it", () => {
  const tokens = NEXT.tokens.map((each, i) => ({ ...each, gpt: [0.1, 0.6, 0.2, 0.1][i], ngram: [0, 0.5, 0.5, 0][i] }));
  const next = { ...NEXT, tokens, blend: { weight: 0.5, order: 3 } };
  const distribution = letters.distributionOf(next, { temperature: 1, top_k: 1, top_p: 1 });
  const chart = letters.chartOf(next, distribution, letters.orderOf(distribution));
  assert.match(chart.bars[0].title, /^b: 100% \(GPT 60%, 3-gram 50%\)$/);
  assert.deepEqual(chart.behind.head, [
    "Next",
    "Probability",
    "Before top-k and top-p",
    "GPT",
    "3-gram",
    "log p",
    "Token",
  ]);
  assert.deepEqual(chart.behind.rows[1].slice(3, 5), ["10%", "0%"]);
});

test("letters beyond the bars are one bar", () => {
  const tokens = [...Array(40).keys()].map((i) => ({
    id: i,
    text: String.fromCharCode(97 + i),
    logit: -i,
    probability: 0,
    kept: true,
  }));
  const next = { end: 39, position: 0, tokens };
  const distribution = letters.distributionOf(next, { temperature: 1, top_k: null, top_p: 1 });
  const { bars } = letters.chartOf(next, distribution, letters.orderOf(distribution));
  assert.equal(bars.length, letters.MAX_BARS + 1);
  assert.deepEqual([bars[30].label, bars[30].sum], ["rest", true]);
  assert.ok(Math.abs(bars.reduce((sum, bar) => sum + bar.value, 0) - 1) < 1e-12);
});

const RATINGS = { answers: [], num_aligned: 0, every: 3, proposals: ["ann", "bo", "cy"], pairs: false };

test("a card that was answered or skipped does not come again", () => {
  let now = session.begun(RATINGS);
  assert.deepEqual(session.queueOf(now), ["ann", "bo", "cy"]);
  now = session.sending(now, session.answerOf("ann", "y"));
  now = session.skipping(now, "bo");
  assert.deepEqual(session.queueOf(now), ["cy"]);
  assert.deepEqual(session.progressOf(now), { done: 1, left: 2 });
  const pairs = session.begun({
    ...RATINGS,
    proposals: [
      ["a", "b"],
      ["b", "a"],
      ["a", "c"],
    ],
  });
  const answered = session.sending(pairs, session.answerOf(["a", "b"], "b"));
  assert.deepEqual(session.queueOf(answered), [["a", "c"]]);
  assert.deepEqual(session.queueOf(session.skipping(pairs, ["c", "b"])), []);
});

test("a key answers the card that it is for", () => {
  assert.deepEqual(session.answerOf("ann", "y"), { text: "ann", liked: true });
  assert.deepEqual(session.answerOf("ann", "n"), { text: "ann", liked: false });
  assert.equal(session.answerOf("ann", "a"), null);
  assert.deepEqual(session.answerOf(["p", "q"], "a"), { chosen: "p", rejected: "q" });
  assert.deepEqual(session.answerOf(["p", "q"], "b"), { chosen: "q", rejected: "p" });
  assert.equal(session.answerOf(["p", "q"], "y"), null);
});

test("an answer that the server may have is undone by the server", () => {
  const first = session.sending(session.skipping(session.begun(RATINGS), "cy"), session.answerOf("ann", "y"));
  const second = session.sending(first, session.answerOf("bo", "n"));
  const idle = session.takenBack(first, false);
  assert.deepEqual([idle.undo, idle.session.waiting, session.queueOf(idle.session)], [false, [], ["ann", "bo"]]);
  assert.equal(session.takenBack(first, true).undo, true);
  assert.deepEqual(session.takenBack(second, true).session.waiting, first.waiting);
  assert.equal(session.takenBack(session.begun(RATINGS), false).undo, true);
  const undoing = session.sending(session.begun({ ...RATINGS, answers: [{ text: "x", liked: true }] }), "undo");
  assert.equal(session.progressOf(undoing).done, 0);
  assert.equal(session.takenBack(undoing, false).undo, true);
});

test("after learning, the proposals before are remembered", () => {
  const asked = session.sending(session.sending(session.begun(RATINGS), "more"), "undo");
  const same = session.answered(asked, { ...RATINGS, proposals: ["dee"] });
  assert.deepEqual([same.before, same.waiting, session.shownOf(same)], [[], ["undo"], ["dee"]]);
  const learned = session.answered(same, { ...RATINGS, num_aligned: 3, proposals: ["eve"] });
  assert.deepEqual([learned.before, session.shownOf(learned)], [["dee"], ["eve"]]);
  assert.deepEqual(session.failed(asked).waiting, []);
});

const FORM = {
  own: false,
  text: "a,b\n1,2",
  name: "",
  file: "",
  format: "text",
  column: "",
  given: [],
  weight: "",
  header: true,
  budget: "1",
  seed: "7",
  initFrom: "",
  blend: true,
  settings: {},
};

test("a training asks for the built-in list, or for the user's own", () => {
  assert.deepEqual(form.jobRequest(FORM), { builtin: "names", budget: 1, seed: 7, settings: {} });
  const steps = form.jobRequest({ ...FORM, settings: { num_steps: 5 } });
  assert.deepEqual(steps, { builtin: "names", seed: 7, settings: { num_steps: 5 } });
  const scratch = form.jobRequest({ ...FORM, initFrom: "scratch", blend: false });
  assert.deepEqual(scratch, {
    builtin: "names",
    budget: 1,
    seed: 7,
    init_from: "scratch",
    blend: false,
    settings: {},
  });
  const table = { ...FORM, own: true, format: "csv", column: "b", header: false, name: "n" };
  assert.deepEqual(form.listRequest(table), { text: "a,b\n1,2", name: "n", format: "csv", column: "b", header: false });
  assert.deepEqual(form.columnsRequest(table), { text: "a,b\n1,2", name: "n", format: "csv", header: false });
  assert.equal(form.columnsRequest({ ...table, format: "jsonl" }).header, true);
  assert.deepEqual(form.listRequest({ ...FORM, own: true }), { text: "a,b\n1,2" });
});

test("a training as a command names its list and its table", () => {
  assert.equal(form.codeOf(FORM).command, "kamon train names --budget 1s --seed 7 -o model");
  const table = { ...FORM, own: true, file: "my dogs.csv", format: "csv", column: "b", header: false };
  assert.equal(
    form.codeOf(table).command,
    "kamon train 'my dogs.csv' --column b --budget 1s --seed 7 --no-header -o model",
  );
  assert.match(
    form.codeOf(table).python,
    /kamon\.train\("my dogs\.csv", column="b", budget="1s", seed=7, header=False\)/,
  );
  const scratch = form.codeOf({ ...FORM, initFrom: "scratch", blend: false });
  assert.equal(scratch.command, "kamon train names --budget 1s --seed 7 --from scratch --no-blend -o model");
  assert.match(scratch.python, /train\("names", budget="1s", seed=7, init_from="scratch", blend=False\)/);
  const pasted = { ...FORM, own: true, format: "jsonl", column: "b", settings: { num_steps: 3 } };
  assert.equal(form.codeOf(pasted).command, "kamon train list.jsonl --column b --seed 7 --num-steps 3 -o model");
  assert.deepEqual(["a.CSV", "a.ndjson", "a.txt", "csv"].map(form.formatOf), ["csv", "jsonl", "text", "text"]);
});

const JOB = {
  id: "job-1",
  state: "running",
  step: 20,
  num_steps: 100,
  losses: [
    [1, 3],
    [2, 2],
  ],
  validation_losses: [[2, 2.5]],
  moments: [
    { step: 10, model: "job-1@10", samples: ["ann"] },
    { step: 20, model: "job-1@20", samples: ["bo"] },
  ],
  model: null,
  best: null,
  lines: { uniform: 3.3, ngram: 1.9, ngram_order: 4 },
};

const BEST = {
  step: 15,
  over_fitted: true,
  samples: ["cy"],
  validation_loss: 2.4,
  gpt_loss: null,
  ngram_loss: null,
  blend: null,
  num_folds: null,
};

test("an event adds what is new to a training", () => {
  const progress = {
    state: "paused",
    step: 30,
    losses: [
      [2, 2],
      [3, 1],
    ],
    validation_losses: [],
  };
  const after = merged(JOB, "progress", progress);
  assert.deepEqual(after.losses, [
    [1, 3],
    [2, 2],
    [3, 1],
  ]);
  assert.deepEqual(
    [after.state, after.step, after.validation_losses, after.moments],
    ["paused", 30, [[2, 2.5]], JOB.moments],
  );
  const moment = { step: 30, model: "job-1@30", samples: [] };
  const more = merged(after, "moment", moment);
  assert.deepEqual(more.moments, [...JOB.moments, moment]);
  assert.equal(more.model, null);
  assert.deepEqual(merged(more, "moment", moment).moments, more.moments);
  const ended = merged(JOB, "end", { id: "job-1", state: "done", model: "job-1" });
  assert.deepEqual([ended.state, ended.model, ended.losses], ["done", "job-1", JOB.losses]);
  assert.deepEqual(JOB.losses, [
    [1, 3],
    [2, 2],
  ]);
});

test("the step to look at is the model's, the newest or the nearest", () => {
  assert.equal(losses.placeAt(null, null), -1);
  assert.equal(losses.placeAt(JOB, null), 1);
  assert.equal(losses.placeAt(JOB, 12), 0);
  const done = { ...JOB, model: "job-1", step: 40, best: BEST };
  assert.deepEqual(
    losses.momentsOf(done).map((each) => each.model),
    ["job-1@10", "job-1", "job-1@20"],
  );
  assert.equal(losses.usualPlace(done), 1);
  assert.equal(losses.cursorOf(done, null), 15);
  assert.equal(losses.cursorOf(done, 19), 20);
  assert.equal(losses.cursorOf(JOB, null), null);
  assert.match(
    losses.whichStep(done),
    /^: the model of step 15 was kept\..*lowest validation loss \(2\.400\)\. After that the model started to overfit/,
  );
  assert.equal(losses.whichStep(JOB), "");
});

test("a model says its losses and how its parts are blended", () => {
  const blended = { ...BEST, gpt_loss: 2.5, ngram_loss: 2.45, blend: { weight: 0.75, order: 5 } };
  assert.equal(losses.lossesOf(blended), "2.400 (GPT 2.500, 5-gram 2.450)");
  assert.equal(
    losses.lossesOf({ ...blended, num_folds: 5 }, 1),
    "2.4 (GPT 2.5, 5-gram 2.5), by 5-fold cross-validation",
  );
  assert.equal(losses.lossesOf(BEST), "2.400");
  assert.equal(losses.lossesOf({ ...BEST, validation_loss: null }), "");
  assert.equal(
    losses.bestSentence({ ...JOB, best: blended }),
    "Validation loss: 2.400 nats per token (GPT 2.500, 5-gram 2.450). The model is a blend: 75% GPT, 25% 5-gram.",
  );
  assert.match(losses.bestSentence({ ...JOB, best: BEST }), /a GPT without an n-gram\.$/);
  assert.equal(losses.bestSentence(JOB), "");
});

test("the losses are a chart with lines to compare with", () => {
  const chart = losses.chartOf(JOB, 10);
  assert.deepEqual(
    chart.rules.map((rule) => rule.name),
    ["uniform", "4-gram"],
  );
  assert.deepEqual(chart.xRange, [0, 100]);
  assert.ok(chart.yRange[0] < 1.9 && Math.abs(chart.yRange[1] - 3.3 * 1.08) < 1e-12);
  assert.deepEqual(chart.behind.rows, [
    ["1", "3.0000", ""],
    ["2", "2.0000", "2.5000"],
  ]);
  const alone = { ...JOB, lines: { uniform: null, ngram: null, ngram_order: null } };
  assert.deepEqual(losses.chartOf(alone, null).rules, []);
  assert.ok(!losses.legendOf(alone).includes("Uniform") && losses.legendOf(JOB).includes("all tokens, 3.300"));
  const many = [...Array(80).keys()].map((i) => [i, i]);
  assert.equal(losses.lastMean(many), 75.5);
  assert.deepEqual(losses.smoothed(many)[40], [40, 40]);
  assert.deepEqual(losses.smoothed(many)[0], [0, 3.5]);
});

const TRACE = {
  tokens: [
    { id: 26, text: "", position: 0 },
    { id: 0, text: "a", position: 1 },
  ],
  attention: [[[[1], [0.3, 0.7]]]],
  surprise: [
    { text: "a", gpt: 1.5, ngram: 2, blend: null },
    { text: "", gpt: null, ngram: null, blend: null },
  ],
  ngram_order: 3,
};

test("a trace is told in sentences", () => {
  assert.deepEqual(trace.labelsOf(TRACE), ["◦", "a"]);
  const at = { layer: 0, head: 0, row: 1 };
  assert.deepEqual(trace.weightsOf(TRACE, at), [0.3, 0.7]);
  assert.deepEqual(trace.weightsOf(TRACE, { ...at, layer: 4 }), []);
  assert.equal(
    trace.attentionSentence(TRACE, at),
    "In layer 0, head 0, “a” at position 1 attends most to “a” at position 1, with 70%.",
  );
  assert.equal(
    trace.surpriseSentence(TRACE, 0),
    "After “◦”: “a”. Surprisal: GPT 1.50 bits (1.04 nats), n-gram 2.00 bits (1.39 nats).",
  );
  assert.equal(trace.surpriseSentence(TRACE, 1), "After “a”: end. Surprisal: GPT –.");
  assert.equal(trace.surpriseSentence(TRACE, 2), "");
  const chart = trace.surpriseChart(TRACE);
  assert.deepEqual(chart.names, ["GPT", "3-gram"]);
  assert.deepEqual(
    chart.bars.map((bar) => [bar.label, bar.value]),
    [
      ["a", 1.5],
      ["end", 0],
    ],
  );
});

test("the surprise of a letter is that of all its code points", () => {
  const surprise = ["ह", "ि", "न", "्", "द", "ी", ""].map((text) => ({ text, gpt: 1, ngram: 2, blend: null }));
  const found = trace.surpriseOfLetters({ ...TRACE, surprise });
  assert.deepEqual(
    found.map(({ text, gpt, ngram, blend, row }) => [text, gpt, ngram, blend, row]),
    [
      ["हि", 2, 4, null, 0],
      ["न्दी", 4, 8, null, 2],
      ["", 1, 2, null, 6],
    ],
  );
  assert.equal(
    found.reduce((sum, each) => sum + each.gpt, 0),
    7,
  );
});

test("texts are cut between letters", () => {
  assert.deepEqual(graphemes.graphemes("हिa🇩🇪"), ["हि", "a", "🇩🇪"]);
  assert.equal(graphemes.fitting("हिन्दी", 5), "हि");
  assert.equal(graphemes.fitting("हिन्दी", 6), "हिन्दी");
});

test("the surprise of a blend is beside that of its parts", () => {
  const surprise = TRACE.surprise.map((each, i) => ({ ...each, blend: [1, 2][i] }));
  const blended = { ...TRACE, surprise };
  assert.match(
    trace.surpriseSentence(blended, 0),
    /GPT 1\.50 bits \(1\.04 nats\), .*, blend 1\.00 bits \(0\.69 nats\)\.$/,
  );
  const chart = trace.surpriseChart(blended);
  assert.match(chart.description, /, blend 3\.00 bits \(2\.08 nats\)\.$/);
  assert.deepEqual(chart.behind.head[3], "blend, bits");
  assert.deepEqual(chart.behind.rows[1].slice(1), ["–", "–", "2.000"]);
});

// (a · b)², with its nodes out of order: ids 0 = a, 1 = b, 2 = a · b, 3 = the square.
const GRAPH = {
  nodes: [
    { id: 3, label: "", op: "**2", data: 36, grad: 1, inputs: [2], local_grads: [12] },
    { id: 0, label: "a", op: "", data: 2, grad: 36, inputs: [], local_grads: [] },
    { id: 2, label: "", op: "*", data: 6, grad: 12, inputs: [0, 1], local_grads: [3, 2] },
    { id: 1, label: "b", op: "", data: 3, grad: 24, inputs: [], local_grads: [] },
  ],
  backward: [3, 2, 0, 1],
  root: 3,
};

test("a graph has a column after the last input, and gradients step by step", () => {
  assert.deepEqual(Object.fromEntries(graph.layers(GRAPH)), { 0: 0, 1: 0, 2: 1, 3: 2 });
  const stepped = graph.steppable(GRAPH);
  assert.deepEqual(stepped.backward, [3, 2]);
  assert.deepEqual(Object.fromEntries(graph.gradients(stepped, 0)), { 0: 0, 1: 0, 2: 0, 3: 1 });
  assert.deepEqual(Object.fromEntries(graph.gradients(stepped, 1)), { 0: 0, 1: 0, 2: 12, 3: 1 });
  const last = graph.gradients(stepped, 2);
  for (const node of GRAPH.nodes) assert.equal(last.get(node.id), node.grad);
  assert.match(graph.stepSentence(stepped, 0), /^Forward: the root is 36\.000\./);
  assert.equal(
    graph.stepSentence(stepped, 2),
    "Step 2 of 2: * (2) passes on its gradient 12.000: a gets 3.000 × 12.000, b gets 2.000 × 12.000.",
  );
  assert.equal(graph.nodeAt(stepped, 0), null);
  assert.deepEqual([0, 12345, 0.0001, -1.5].map(graph.short), ["0", "1.2e+4", "1.0e−4", "−1.500"]);
});

test("no two nodes of a graph are drawn in one place", () => {
  const { corners, width, height } = graph.layoutOf(GRAPH);
  assert.equal(new Set([...corners.values()].map(({ x, y }) => `${x} ${y}`)).size, 4);
  assert.ok(
    corners.get(0).x === corners.get(1).x && corners.get(1).x < corners.get(2).x && corners.get(2).x < corners.get(3).x,
  );
  assert.ok(corners.get(0).y < corners.get(1).y);
  for (const { x, y } of corners.values())
    assert.ok(x >= 0 && x + graph.WIDTH <= width && y >= 0 && y + graph.HEIGHT <= height);
});

test("bars have as many rows as the width needs, in one scale", () => {
  const bars = [...Array(10).keys()].map((i) => ({ label: "", value: i < 5 ? 0.2 : 0.1, title: "" }));
  const wide = barLayout({ bars }, 1000);
  assert.deepEqual([wide.bases.length, wide.perRow, wide.slot, wide.heightOf(0.2)], [1, 10, 52, 150]);
  const narrow = barLayout({ bars }, 120);
  assert.deepEqual([narrow.bases.length, narrow.perRow, narrow.heights], [2, 5, [110, 55]]);
  assert.equal(narrow.bases[1] - narrow.bases[0], 26 + 55 + 18);
});

test("the numbers at an axis are round, and within it", () => {
  assert.deepEqual(ticks(0, 100, 5), [0, 20, 40, 60, 80, 100]);
  assert.deepEqual(ticks(1.1, 2.9, 3), [2]);
  assert.deepEqual(ticks(5, 5, 5), [5]);
});

test("a table may have given columns and a weight", () => {
  const table = { ...FORM, own: true, format: "csv", column: "b", given: ["a", "b", "c"], weight: "n" };
  const request = form.jobRequest(table);
  assert.deepEqual([request.column, request.given, request.weight], ["b", ["a", "c"], "n"]);
  assert.match(form.codeOf(table).command, /--column b .*--given a,c --weight n/);
  assert.match(form.codeOf(table).python, /, given=\["a", "c"\], weight="n"\)/);
  const without = form.jobRequest({ ...table, given: ["b"] });
  assert.deepEqual([without.given, without.weight], [undefined, undefined]);
  assert.equal(form.jobRequest({ ...table, own: false }).given, undefined);
});

test("given values are those of the choices, as requests and as code", () => {
  assert.equal(given.givenOf({ country: ["", ""] }), null);
  assert.deepEqual(given.givenOf({ country: ["fi", ""], sex: ["f", "f"] }), { country: "fi", sex: "f" });
  const mix = given.givenOf({ country: ["fi", "jp"], sex: ["", "m"] });
  assert.deepEqual(mix, { country: { fi: 0.5, jp: 0.5 }, sex: "m" });
  assert.equal(given.givenText(mix), "country=fi:0.5,jp:0.5,sex=m");
  assert.equal(given.givenKeyword(mix), ', given={"country": {"fi": 0.5, "jp": 0.5}, "sex": "m"}');
  assert.deepEqual([given.givenText(null), given.givenKeyword(null)], [null, ""]);
  assert.equal(given.givenText({ city: "Bath, UK" }), '{"city":"Bath, UK"}');
  assert.deepEqual(given.givenIn('{"a":"b"}'), { a: "b" });
  for (const wrong of ["", "[1]", "null", "{", "7"]) assert.deepEqual(given.givenIn(wrong), {});
});
