// The list to train on (built in or the user's own), the report on it, and the button that starts.

import * as api from "./api.js";
import { cleanReport } from "./clean_report.js";
import { copies } from "./copy.js";
import { button, field, h, isDisabled, panel, replaceContent, setDisabled, tick } from "./dom.js";
import { plural } from "./format.js";
import { change, recall, remember } from "./state.js";
import { decoded, wordiest } from "./text.js";
import {
  codeOf,
  columnsRequest,
  formatOf,
  isTable,
  jobRequest,
  listRequest,
  mayHaveHeader,
  sourceOf,
} from "./training_form.js";

/** @typedef {import("./main.js").Context} Context */

const BUDGETS = [0.5, 1, 3, 10, 30, 60, 120]; // seconds
const SETTINGS = [
  { name: "n_layer", label: "Layers", min: 1, max: 8 },
  { name: "n_embd", label: "Width (n_embd)", min: 4, max: 256 },
  { name: "n_head", label: "Heads", min: 1, max: 16 },
  { name: "block_size", label: "Block size", min: 2, max: 256 },
  { name: "num_steps", label: "Steps", min: 1, max: 100000 },
  { name: "batch_size", label: "Batch size", min: 1, max: 512 },
];
const STARTS = [
  ["", "automatic"],
  ["base", "the pretrained base"],
  ["scratch", "random parameters"],
];
/** @type {[api.Format, string][]} */
const FORMATS = [
  ["text", "one entry per line"],
  ["csv", "a table, CSV"],
  ["tsv", "a table, TSV"],
  ["jsonl", "JSON lines"],
  ["json", "a JSON array"],
];
const PREVIEW_DELAY = 300; // ms after the last change
// The list stays while other views are open. file: name of its file.
const draft = {
  text: "",
  name: "",
  file: "",
  format: "text",
  column: "",
  given: /** @type {string[]} */ ([]),
  weight: "",
  header: true,
  ...recall("draft", {}),
};

export class ListPanel {
  /** @param {Context} context */
  constructor(context) {
    const { state } = context;
    this.context = context;
    this.ask = api.latest(context.signal);
    /** @type {ReturnType<typeof setTimeout>|undefined} */
    this.timer = undefined;
    this.list = listInputs();
    this.budget = h("select", {}, ...BUDGETS.map((each) => h("option", { value: each }, plural(each, "second"))));
    this.budget.value = BUDGETS.map(String).includes(state.budget) ? state.budget : "1";
    this.seed = h("input", { type: "number", min: 0, max: 2 ** 31, step: 1, value: state.seed ?? "42" });
    this.settings = SETTINGS.map(({ name, min, max }) =>
      h("input", { type: "number", name, min, max, step: 1, placeholder: "automatic" }),
    );
    this.initFrom = h("select", {}, ...STARTS.map(([value, label]) => h("option", { value }, label)));
    this.blend = h("input", { checked: true });
    this.errors = h("div", { class: "errors" });
    this.start = h("button", { type: "submit", class: "main" }, "Train");
    this.copy = copies(
      () => codeOf(this.form()),
      undefined,
      () => this.saveHint(),
    );
    this.node = panel("List", this.layout(), this.copy.node);
    this.takeLimits();
    this.listen();
    this.preview();
  }

  layout() {
    const submit = (/** @type {Event} */ event) => {
      event.preventDefault();
      this.train();
    };
    return h(
      "form",
      { submit, input: this.copy.refresh },
      h(
        "fieldset",
        { class: "choice" },
        h("legend", {}, "Choose a list"),
        h("label", {}, this.list.builtin, "29,693 first names"),
        h("label", {}, this.list.own, "Your own list"),
      ),
      this.list.node,
      h("div", { class: "row" }, field("Training time", this.budget), field("Seed", this.seed)),
      h(
        "details",
        {},
        h("summary", {}, "Settings"),
        h(
          "div",
          { class: "stack" },
          h(
            "p",
            {},
            "Empty fields are chosen to fit the training time. If you set the number of steps, the training time is ignored.",
          ),
          h("div", { class: "row" }, ...SETTINGS.map(({ label }, i) => field(label, this.settings[i]))),
          h("div", { class: "row end" }, field("Start from", this.initFrom), tick("Blend with an n-gram", this.blend)),
          h(
            "p",
            { class: "hint" },
            "The base is a GPT with 4 layers, trained on names, places and words of many languages. To set layers, width or heads yourself, start from random parameters.",
          ),
        ),
      ),
      this.start,
      this.errors,
    );
  }

  takeLimits() {
    api
      .limits()
      .then(({ limits, settings }) => {
        for (const input of this.settings) if (input.name in settings) input.max = String(settings[input.name]);
        for (const each of this.budget.options)
          each.hidden = each.disabled = Number(each.value) > (limits.job_seconds ?? Infinity);
      })
      .catch(() => {}); // without limits, the server checks the values
  }

  listen() {
    for (const radio of [this.list.builtin, this.list.own]) radio.addEventListener("change", () => this.drawChoice());
    this.list.text.addEventListener("input", () => {
      if (!this.list.text.value) draft.file = "";
      this.list.note.hidden = true;
      this.preview();
    });
    for (const each of [this.list.given, this.list.weight]) {
      each.addEventListener("change", () => {
        this.keep();
        this.copy.refresh();
      });
    }
    for (const each of [this.list.format, this.list.column, this.list.header]) {
      each.addEventListener("change", () => this.preview(this.list.text.value !== ""));
    }
    this.list.name.addEventListener("input", () => this.keep());
    this.list.file.addEventListener("change", () => this.readFile(this.list.file.files?.[0]));
    this.node.addEventListener("dragover", (event) => {
      event.preventDefault();
      this.node.classList.add("drop");
    });
    this.node.addEventListener("dragleave", () => this.node.classList.remove("drop"));
    this.node.addEventListener("drop", (event) => {
      event.preventDefault();
      this.node.classList.remove("drop");
      this.dropped(event.dataTransfer);
    });
  }

  /** @returns {import("./training_form.js").Form} */
  form() {
    const filled = this.settings.filter((input) => input.value !== "");
    return {
      own: this.list.own.checked,
      text: this.list.text.value,
      name: this.list.name.value,
      file: draft.file,
      format: /** @type {api.Format} */ (this.list.format.value),
      column: this.list.column.value,
      given: [...this.list.given.selectedOptions].map((each) => each.value),
      weight: this.list.weight.value,
      header: this.list.header.checked,
      budget: this.budget.value,
      seed: this.seed.value,
      initFrom: this.initFrom.value,
      blend: this.blend.checked,
      settings: Object.fromEntries(filled.map((input) => [input.name, Number(input.value)])),
    };
  }

  /** Tells the user to save a pasted list before running the commands. */
  saveHint() {
    const form = this.form();
    if (!form.own || form.file) return null;
    const file = sourceOf(form);
    return h(
      "div",
      { class: "stack" },
      h("p", { class: "hint" }, `Save the list as ${file} first. The commands below read that file.`),
      button("Save list", () => saveText(file, this.list.text.value)),
    );
  }

  keep() {
    const { text, name, format, column, given, weight, header } = this.form();
    Object.assign(draft, { text, name, format, column, given, weight, header });
    remember("draft", draft);
  }

  drawChoice() {
    this.list.node.hidden = !this.list.own.checked;
    this.copy.refresh();
  }

  /**
   * Shows the report on the list, shortly after the last change.
   * @param {boolean} [also]  also for an empty list, because a file may be empty
   */
  preview(also) {
    clearTimeout(this.timer);
    for (const each of [this.list.columnField, this.list.givenFields]) each.hidden = !isTable(this.form());
    this.list.headerField.hidden = !mayHaveHeader(this.form());
    this.keep();
    this.timer = setTimeout(() => this.drawReport(also), PREVIEW_DELAY);
  }

  /** @param {boolean} [also] */
  async drawReport(also) {
    if (!also && !this.list.text.value.trim()) return replaceContent(this.list.report);
    try {
      const form = this.form();
      const found = await this.ask(async (signal) => {
        const column = isTable(form) ? await this.findColumns(form, signal) : "";
        return api.clean(listRequest({ ...form, column }), signal);
      });
      const readAs = (/** @type {api.Format} */ format) => this.take(form.text, format);
      replaceContent(this.list.report, ...cleanReport(found, form.format, readAs, (text) => this.take(text, "text")));
    } catch (error) {
      if (!api.isAbort(error)) replaceContent(this.list.report);
      this.context.fail(error, this.list.report);
    }
  }

  /**
   * Shows the columns of a table, and returns the chosen one.
   * @param {import("./training_form.js").Form} form
   * @param {AbortSignal} signal
   */
  async findColumns(form, signal) {
    const { column } = this.list;
    const found = await api.columns(columnsRequest(form), signal);
    const before = column.value;
    replaceContent(column, ...found.map((each) => h("option", { value: each }, each)));
    column.value = found.find((each) => each === before) ?? wordiest(form.text, form.format, found);
    this.offerGiven(found.filter((each) => each !== column.value));
    this.keep();
    this.copy.refresh();
    return column.value;
  }

  /**
   * Offers the other columns of a table as given ones and as the weight.
   * @param {string[]} columns
   */
  offerGiven(columns) {
    const { given, weight } = this.list;
    const options = () => columns.map((each) => h("option", { value: each }, each));
    const [chosen, before] = [draft.given, draft.weight];
    replaceContent(given, ...options());
    for (const each of given.options) each.selected = chosen.includes(each.value);
    replaceContent(weight, h("option", { value: "" }, "none"), ...options());
    weight.value = columns.includes(before) ? before : "";
  }

  /** @param {string} text @param {api.Format} format */
  take(text, format) {
    this.list.text.value = text;
    this.list.format.value = format;
    this.list.text.focus(); // the pressed button disappears
    this.preview();
    this.copy.refresh();
  }

  /** @param {DataTransfer|null} transfer */
  dropped(transfer) {
    if (transfer?.files.length) {
      this.readFile(transfer.files[0]);
      return;
    }
    this.list.text.value = transfer?.getData("text/plain") ?? "";
    draft.file = "";
    this.list.own.checked = true;
    this.drawChoice();
    this.preview();
  }

  /** @param {File|undefined|null} file */
  async readFile(file) {
    if (!file) return;
    this.list.own.checked = true;
    draft.file = file.name;
    this.list.name.value = file.name.slice(0, 100);
    this.list.format.value = formatOf(file.name);
    replaceContent(this.list.column); // removes the columns of the previous file
    const { text, note, fault } = await textOf(file);
    this.list.text.value = text;
    if (note) draft.file = ""; // the command line may not read this encoding, so offer to save it as UTF-8
    this.list.note.textContent = note;
    this.list.note.hidden = !note;
    this.drawChoice();
    this.preview(true);
    if (!fault) return;
    clearTimeout(this.timer);
    replaceContent(this.list.report);
    this.context.fail(new api.ApiError(fault, 0), this.list.report);
  }

  async train() {
    const { context, errors, start } = this;
    if (isDisabled(start)) return;
    replaceContent(errors);
    const form = this.form();
    if (form.own && !form.text.trim()) {
      context.fail(new api.ApiError("Paste a list or choose a file first.", 0), errors);
      return;
    }
    setDisabled(start, true);
    try {
      const job = await api.startJob(jobRequest(form));
      change({ job: job.id, model: null, step: null, budget: this.budget.value, seed: this.seed.value });
      context.say("Training started.");
      context.watch.follow(job);
    } catch (error) {
      context.fail(error, errors);
    } finally {
      setDisabled(start, false);
    }
  }
}

/** The inputs of the list. `node` contains those for the user's own list. */
function listInputs() {
  const isOwn = draft.text !== "";
  const builtin = h("input", { type: "radio", name: "source", checked: !isOwn, id: "source-names" });
  const own = h("input", { type: "radio", name: "source", checked: isOwn, id: "source-own" });
  const placeholder = "One entry per line: brands, places, plants …";
  const text = h("textarea", { rows: 8, spellcheck: "false", placeholder, value: draft.text });
  const file = h("input", { type: "file", accept: ".txt,.csv,.tsv,.json,.jsonl,.ndjson,text/plain" });
  const name = h("input", { type: "text", maxlength: 100, placeholder: "a pasted list", value: draft.name });
  const format = h("select", {}, ...FORMATS.map(([value, label]) => h("option", { value }, label)));
  format.value = draft.format;
  const column = h("select", {}, draft.column && h("option", { value: draft.column }, draft.column));
  const columnField = field("Column", column);
  const given = h(
    "select",
    { multiple: true, size: 3 },
    ...draft.given.map((/** @type {string} */ each) => h("option", { value: each }, each)),
  );
  for (const each of given.options) each.selected = true;
  const weight = h("select", {}, h("option", { value: draft.weight }, draft.weight || "none"));
  const givenFields = h(
    "details",
    {},
    h("summary", {}, "Given columns"),
    h(
      "div",
      { class: "row wide" },
      field("Given columns", given, "The model learns the entries under each combination of their values."),
      field("Weight", weight, "A column of numbers that say how often each row counts."),
    ),
  );
  const header = h("input", { checked: draft.header });
  const headerField = tick("The first row is a header", header);
  const report = h("div", { class: "report stack", "aria-live": "polite" });
  const note = h("p", { class: "hint", hidden: true });
  const node = h(
    "div",
    { hidden: !isOwn, class: "stack" },
    field("Your list", text, "One entry per line. Paste it, or drop a file here."),
    h(
      "div",
      { class: "row wide" },
      field("Or choose a file", file),
      field("List name", name),
      field("Format", format),
      columnField,
      headerField,
    ),
    givenFields,
    note,
    report,
  );
  return {
    builtin,
    own,
    text,
    file,
    name,
    format,
    column,
    columnField,
    given,
    weight,
    givenFields,
    header,
    headerField,
    report,
    note,
    node,
  };
}

/**
 * Returns the text of a file, or the reason why it cannot be read.
 * @param {File} file
 * @returns {Promise<{text: string, note: string, fault: string}>}
 */
async function textOf(file) {
  if (file.size > 2 * api.MAX_BYTES) return { text: "", note: "", fault: api.TOO_LARGE };
  try {
    return decoded(new Uint8Array(await file.arrayBuffer()), file.name);
  } catch {
    return { text: "", note: "", fault: `${file.name} cannot be read. Choose it again.` };
  }
}

/**
 * Saves a text as a file with the browser.
 * @param {string} file
 * @param {string} text
 */
function saveText(file, text) {
  const link = h("a", {
    href: URL.createObjectURL(new Blob([text.endsWith("\n") ? text : `${text}\n`])),
    download: file,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
