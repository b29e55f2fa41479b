// Texts: the encoding and the columns of a list, the letters that a model knows, and names that are
// safe to show in a sentence.

import { graphemes } from "./graphemes.js";

const CONTROLS = /[\u202a-\u202e\u2066-\u2069]/g;

/**
 * Returns the text with its direction controls written out, so that they do not affect other words.
 * @param {string} text
 */
export function safe(text) {
  return text.replace(CONTROLS, (each) => `[U+${each.charCodeAt(0).toString(16).toUpperCase()}]`);
}

const LEFTWARD = /[\u0590-\u08ff\u200f\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

/**
 * Returns a text for use in a sentence: safe, cut after `max` characters, with its own direction.
 * @param {string} text
 * @param {number} [max]
 */
export function inline(text, max = 60) {
  const shown = safe(clipped(text, max));
  return LEFTWARD.test(shown) ? `\u2068${shown}\u2069` : shown;
}

/**
 * Returns the beginning of a text, with "…" if it is longer.
 * @param {string} text
 * @param {number} [max]  characters
 */
export function clipped(text, max = 60) {
  const all = graphemes(text);
  return all.length <= max ? text : `${all.slice(0, max - 1).join("")}…`;
}

/**
 * Returns a text in letters that a model knows: unchanged, in lower case, capitals, or without accents.
 * @param {string} text
 * @param {ReadonlySet<string>|null} known  single characters, or null if the model knows all
 * @returns {{text: string, unknown: string[]}}
 */
export function readAs(text, known) {
  if (!known) return { text, unknown: [] };
  /** @type {string[]} */
  const unknown = [];
  /** @param {string} each */
  const knows = (each) => [...each].every((one) => known.has(one));
  if (knows(text)) return { text, unknown };
  const found = [...text.normalize("NFC")].map((each) => {
    const bare = each.normalize("NFD").replace(/\p{M}/gu, "");
    const ways = [each, each.toLowerCase(), each.toUpperCase(), bare, bare.toLowerCase(), bare.toUpperCase()];
    const way = ways.find((one) => one !== "" && knows(one));
    if (way === undefined) unknown.push(each);
    return way ?? each;
  });
  return { text: found.join(""), unknown: [...new Set(unknown)] };
}

/**
 * Returns the sentence for characters that a model does not know.
 * @param {string[]} unknown
 * @param {ReadonlySet<string>} known
 */
export function unknownSentence(unknown, known) {
  const list = unknown
    .slice(0, 5)
    .map((each) => `“${inline(each)}”`)
    .join(", ");
  return `This model does not know ${list}. It has only seen ${ranges(known)}.`;
}

/**
 * Returns the characters of a list, such as "a–z, space and -", or their number if they are many.
 * @param {ReadonlySet<string>} known
 */
export function ranges(known) {
  const codes = [...known]
    .filter((each) => each.length > 0)
    .map((each) => each.codePointAt(0) ?? 0)
    .sort((a, b) => a - b);
  /** @type {[number, number][]} */
  const runs = [];
  for (const code of codes) {
    const last = runs[runs.length - 1];
    if (last && code === last[1] + 1) last[1] = code;
    else runs.push([code, code]);
  }
  if (runs.length > 12) return `${codes.length} other characters`;
  /** @param {number} code */
  const one = (code) => (code === 32 ? "space" : safe(String.fromCodePoint(code)));
  return runs.flatMap(([a, b]) => (b - a < 2 ? [...new Set([one(a), one(b)])] : [`${one(a)}–${one(b)}`])).join(", ");
}

/**
 * Returns the text of a file in UTF-8, UTF-16 or otherwise Windows-1252, with a note for the user.
 * @param {Uint8Array} bytes
 * @param {string} name
 * @returns {{text: string, note: string, fault: string}}  fault: the reason why it is not a text
 */
export function decoded(bytes, name) {
  const [a, b] = bytes;
  /** @param {string} label @param {boolean} [fatal] */
  const as = (label, fatal = false) => new TextDecoder(label, { fatal }).decode(bytes);
  /** @param {string} fault */
  const refused = (fault) => ({ text: "", note: "", fault });
  if ((a === 0x50 && b === 0x4b) || (a === 0xd0 && b === 0xcf)) {
    return refused(
      `${name} is a spreadsheet or an archive, not a text. Open it and save the sheet as CSV (UTF-8), then choose that file.`,
    );
  }
  if (a === 0xff && b === 0xfe) return { text: as("utf-16le"), note: "", fault: "" };
  if (a === 0xfe && b === 0xff) return { text: as("utf-16be"), note: "", fault: "" };
  if (bytes.includes(0)) {
    const zeros = [0, 0];
    bytes.subarray(0, 2000).forEach((each, i) => (zeros[i % 2] += each === 0 ? 1 : 0));
    if (zeros[1] > 4 * zeros[0]) return { text: as("utf-16le"), note: "Read as UTF-16.", fault: "" };
    if (zeros[0] > 4 * zeros[1]) return { text: as("utf-16be"), note: "Read as UTF-16.", fault: "" };
    return refused(`${name} is not a text file. Choose a file with one entry per line, or a CSV, TSV or JSONL table.`);
  }
  try {
    return { text: as("utf-8", true), note: "", fault: "" };
  } catch {
    return {
      text: as("windows-1252"),
      note: "The file is not UTF-8. It was read as Windows-1252 (Latin-1): check letters such as ä and é.",
      fault: "",
    };
  }
}

const SAMPLED = 20000; // characters of a table to check
const NAMED = /^(text|names?|words?|titles?|entry|label|brand)$/i;

/**
 * Returns the column whose cells look most like words or names, not numbers or ids.
 * @param {string} text
 * @param {string} format
 * @param {string[]} columns
 */
export function wordiest(text, format, columns) {
  const isJson = format === "jsonl" || format === "json";
  const rows = isJson ? objects(text, columns, format) : cells(text, format, columns.length);
  const scores = columns.map((name, i) => wordy(rows.map((row) => row[i] ?? "")) * (NAMED.test(name.trim()) ? 1.2 : 1));
  return columns[scores.indexOf(Math.max(...scores))] ?? "";
}

/**
 * Returns how much the cells of a column look like words or names, from 0 to 1.
 * @param {string[]} column
 */
function wordy(column) {
  const some = column.map((each) => each.trim()).filter((each) => each !== "");
  if (!some.length) return 0;
  const words = some.filter((each) => {
    const letters = each.match(/[\p{L}\p{M}]/gu)?.length ?? 0;
    return letters >= 2 && letters >= 0.7 * [...each.replaceAll(" ", "")].length && !/@|:\/\//.test(each);
  });
  const length = some.reduce((sum, each) => sum + each.length, 0) / some.length;
  const different = new Set(some).size / some.length;
  return (words.length / some.length) * (0.1 + 0.9 * different) * (length > 40 ? 0.5 : 1);
}

/** @param {string} text @param {string[]} columns @param {string} format */
function objects(text, columns, format) {
  const found = format === "json" ? parsed(text) : text.slice(0, SAMPLED).split("\n").map(parsed);
  const rows = Array.isArray(found) ? found : [];
  return rows.map((row) => columns.map((each) => (typeof row?.[each] === "string" ? row[each] : "")));
}

/** @param {string} text @returns {any} null if it is not JSON */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/**
 * Returns the rows of a table without the first one.
 * @param {string} text
 * @param {string} format
 * @param {number} width  columns
 */
function cells(text, format, width) {
  const tries = format === "tsv" ? ["\t"] : [",", ";", "\t", "|"];
  const tables = tries.map((each) => split(text.slice(0, SAMPLED), each));
  return (tables.find((rows) => rows[0]?.length === width) ?? tables[0]).slice(1);
}

/** @param {string} text @param {string} delimiter */
function split(text, delimiter) {
  /** @type {string[][]} */
  const rows = [[""]];
  let quoted = false;
  for (let i = 0; i < text.length; i++) {
    const row = rows[rows.length - 1];
    const each = text[i];
    if (each === '"' && (quoted || row[row.length - 1] === "")) {
      if (quoted && text[i + 1] === '"') row[row.length - 1] += text[++i];
      else quoted = !quoted;
    } else if (!quoted && each === delimiter) row.push("");
    else if (!quoted && each === "\n") rows.push([""]);
    else if (each !== "\r") row[row.length - 1] += each;
  }
  return rows;
}

/**
 * Returns "You liked 9 of the last 20, 3 of the first 20.", or "" if there are too few.
 * @param {import("./api.js").Answer[]} answers
 */
export function likedSentence(answers) {
  const verdicts = answers.flatMap((each) => ("liked" in each ? [each.liked] : []));
  const n = Math.min(20, Math.floor(verdicts.length / 2));
  if (n < 3) return "";
  /** @param {boolean[]} some */
  const liked = (some) => some.filter((each) => each).length;
  return `You liked ${liked(verdicts.slice(-n))} of the last ${n}, ${liked(verdicts.slice(0, n))} of the first ${n}.`;
}

/**
 * Returns an unused name for a model. "my brands.txt" gives "my-brands".
 * @param {string} source
 * @param {string[]} taken
 */
export function freeName(source, taken) {
  const plain = source.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
  const base =
    plain
      .replace(/\.[a-z0-9]{1,5}$/, "")
      .replace(/[^a-z0-9]+/g, "-")
      .replace(/^-+|-+$/g, "")
      .slice(0, 34) || "model";
  for (let i = 1; ; i++) {
    const name = i === 1 ? base : `${base}-${i}`;
    if (!taken.includes(name)) return name;
  }
}
