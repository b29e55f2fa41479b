// The report on a list: counts, removed and changed entries, and the changes of `kamon clean`.

import { button, figures, h, name as named, names as listOf, table } from "./dom.js";
import { count, plural } from "./format.js";

/** @typedef {import("./api.js").Cleaned} Cleaned */

/**
 * The parts of the report.
 * @param {Cleaned} found
 * @param {string} format  of the list
 * @param {(format: "csv"|"tsv"|"jsonl"|"json") => void} readAs  reads the list as a table
 * @param {(text: string) => void} take  uses another list
 */
export function cleanReport(found, format, readAs, take) {
  const unit = ["csv", "tsv"].includes(format) ? "row" : "line";
  return [
    ...found.warnings.map((each) => h("p", { class: "error" }, `⚠ ${each}`)),
    tableHint(found, readAs),
    summary(found, unit),
    h("p", { class: "hint" }, "First entries: ", ...listOf(found.docs.slice(0, 5), " · ", 40)),
    figures([
      ["characters in the longest entry", count(found.longest)],
      ["unique characters", count(found.characters)],
    ]),
    ...changesOf(found, unit === "row" ? "Row" : "Line"),
    tidying(found, take),
  ];
}

/** @param {Cleaned} found @param {(format: "csv"|"tsv"|"jsonl"|"json") => void} readAs */
function tableHint({ looks_like: table }, readAs) {
  if (!table) return null;
  return h(
    "div",
    { class: "stack" },
    h(
      "p",
      { class: "error" },
      `⚠ These lines look like a table (${table.toUpperCase()}). Unless you read them as one, each line is an entry.`,
    ),
    button("Read them as a table", () => readAs(table)),
  );
}

/** @param {Cleaned} found @param {string} unit */
function summary(found, unit) {
  return h(
    "p",
    {},
    `${plural(found.num_lines, unit)}, ${plural(found.num_docs, "entry", "entries")}. `,
    `Left out: ${plural(found.num_repetitions, "duplicate")} and ${count(found.num_blank)} blank. `,
    found.num_stripped > 0 && `Spaces removed at the ends: ${count(found.num_stripped)}. `,
    found.num_normalized > 0 && `Normalised to NFC (ö as one character): ${count(found.num_normalized)}. `,
    found.num_validation > 0
      ? `Validation set: ${plural(found.num_validation, "entry", "entries")}.`
      : "Fewer than 100 entries, so Kamon measures the model by 5-fold cross-validation.",
  );
}

/** @param {Cleaned} found @param {string} heading  of the column of line numbers */
function changesOf({ removed, changed }, heading) {
  return [
    removed.length > 0 &&
      folded(
        `Left out${removed.length >= 100 ? ", the first hundred" : ""}`,
        "What was left out",
        [heading, "Text", "Why"],
        removed.map((each) => [each.line, named(each.text), each.why]),
      ),
    changed.length > 0 &&
      folded(
        "Changed",
        "What was changed",
        [heading, "Before", "After"],
        changed.map((each) => [each.line, named(each.before), named(each.after)]),
      ),
  ];
}

/** @param {Cleaned} found @param {(text: string) => void} take */
function tidying({ tidied }, take) {
  if (!tidied) return null;
  const steps = tidied.steps
    .filter((each) => each.count)
    .map((each) =>
      h(
        "li",
        {},
        `${each.name}: ${count(each.count)} ${each.action}`,
        ...(each.examples.length ? [", such as ", ...example(each.action, each.examples[0])] : []),
      ),
    );
  return h(
    "details",
    { open: true },
    h("summary", {}, "More to clean, as with kamon clean"),
    h("ul", {}, ...steps),
    button(`Use the cleaned list, ${plural(tidied.num_docs, "entry", "entries")}`, () => take(tidied.text)),
  );
}

/**
 * A long table that the user can open.
 * @param {string} summary
 * @param {string} caption
 * @param {string[]} headings
 * @param {import("./dom.js").Child[][]} rows
 */
function folded(summary, caption, headings, rows) {
  return h(
    "details",
    {},
    h("summary", {}, summary),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, table(caption, headings, rows)),
  );
}

/**
 * @param {string} action
 * @param {[string, string]} two  before and after, or the dropped entry and the reason
 */
function example(action, [first, second]) {
  return action === "dropped"
    ? ["“", named(first, 60), `” (${second})`]
    : ["“", named(first, 60), "” → “", named(second, 60), "”"];
}
