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
const { queued } = await import("./watch.js");

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
  const rows = [["id", "name", "mail", "country"], ["1", "Anna", "anna@x.org", "DE"], ["2", "Bo", "bo@x.org", "DE"], ["3", "Cleo", "c@x.org", "DE"]];
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
  assert.equal(text.likedSentence(answers), "You liked 2 of the first ten, 6 of the last ten.");
  assert.equal(text.likedSentence(answers.slice(0, 7)), "You liked 2 of the first three, 0 of the last three.");
  assert.equal(text.likedSentence(answers.slice(0, 5)), "");
  assert.equal(text.likedSentence([{ chosen: "a", rejected: "b" }]), "");
});

test("a search that gave up does not say that there is no more", () => {
  const some = (n, tried, ended) => ({ samples: Array(n), tried, ended });
  assert.equal(text.foundSentence(some(20, 48, "n"), 20, true), "20 found in 48 tries.");
  assert.match(text.foundSentence(some(0, 20000, "tried"), 20, false), /^None found in 20,000 tries\./);
  assert.match(text.foundSentence(some(3, 500, "time"), 20, true), /^Only 3 of 20 found in 500 tries before time ran out\. .*Only new names/);
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
  const answers = [answer(503, {}, { "Retry-After": "0" }), answer(503, {}, { "Retry-After": "0" }), answer(200, { models: [1] })];
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
  assert.deepEqual(state.left("generate"), { view: "generate", model: "m", temperature: "0.3", prefix: "ka", seed: "9" });
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
