// Train: a list, its cleaning, a budget; the losses and samples as they come, and back again.

import * as api from "./api.js";
import { lines } from "./charts.js";
import { copies, flags, keywords, python } from "./copy.js";
import { button, field, figures, h, isOff, name as named, names as listOf, panel, put, swap, switchOff, table, tick } from "./dom.js";
import { count, fixed, many } from "./format.js";
import { saveForm } from "./save.js";
import { shelfPanel } from "./shelf.js";
import { address, change, recall, remember } from "./state.js";
import { decoded, wordiest } from "./text.js";
import { isOver, queued } from "./watch.js";

/**
 * @typedef {import("./main.js").Context} Context
 * @typedef {import("./api.js").Job} Job
 */

const BUDGETS = [0.5, 1, 3, 10, 30, 60, 120];
const STATES = {
  queued: "waiting",
  starting: "getting ready",
  running: "training",
  paused: "paused",
  stopped: "stopped",
  done: "done",
  failed: "failed",
};
const SETTINGS = [
  ["n_layer", "Layers", 1, 8],
  ["n_embd", "Width (n_embd)", 4, 256],
  ["n_head", "Heads", 1, 16],
  ["block_size", "Block size", 2, 256],
  ["num_steps", "Steps", 1, 100000],
  ["batch_size", "Batch size", 1, 512],
];
/** @type {[string, string][]} */
const FORMATS = [
  ["text", "one entry per line"],
  ["csv", "a table, CSV"],
  ["tsv", "a table, TSV"],
  ["jsonl", "JSON lines"],
  ["json", "JSON, an array"],
];
// A list that was begun stays while other views are open. file: the name of the one that it is from.
const draft = { text: "", name: "", file: "", format: "text", column: "", header: true, ...recall("draft", {}) };

/** @param {Context} context */
export async function show(context) {
  const { root } = context;
  put(
    root,
    h("h1", {}, "Train"),
    h(
      "p",
      { class: "lead" },
      "Give a list, and a tiny GPT learns what makes it sound right. Watch it improve, step by step.",
    ),
    h("div", { class: "two" }, listPanel(context), runPanel(context)),
    shelfPanel(context),
  );
}

/** @param {Context} context */
function listPanel(context) {
  const { state, signal, say, watch } = context;
  const own = draft.text !== "";
  const builtin = h("input", { type: "radio", name: "source", checked: !own, id: "source-names" });
  const pasted = h("input", { type: "radio", name: "source", checked: own, id: "source-own" });
  const text = h("textarea", {
    rows: 8,
    spellcheck: "false",
    placeholder: "One entry per line: brands, places, plants …",
    value: draft.text,
  });
  const file = h("input", { type: "file", accept: ".txt,.csv,.tsv,.json,.jsonl,.ndjson,text/plain" });
  const name = h("input", { type: "text", maxlength: 100, placeholder: "a pasted list", value: draft.name });
  const format = h("select", {}, ...FORMATS.map(([value, label]) => h("option", { value }, label)));
  format.value = draft.format;
  const column = h("select", {}, draft.column && h("option", { value: draft.column }, draft.column));
  const columnField = field("Column to learn", column);
  const header = h("input", { checked: draft.header });
  const headerField = tick("The first row is a header", header);
  const report = h("div", { class: "report stack", "aria-live": "polite" });
  const note = h("p", { class: "hint", hidden: true });
  const mine = h(
    "div",
    { hidden: !own, class: "stack" },
    field("Your list", text, "One entry per line. Paste it, or drop a file here."),
    h("div", { class: "row wide" }, field("Or choose a file", file), field("List name", name), field("Format", format), columnField, headerField),
    note,
    report,
  );
  const budget = h(
    "select",
    { value: "" },
    ...BUDGETS.map((each) => h("option", { value: each }, many(each, "second"))),
  );
  budget.value = BUDGETS.map(String).includes(state.budget) ? state.budget : "1";
  const seed = h("input", { type: "number", min: 0, max: 2 ** 31, step: 1, value: state.seed ?? "42" });
  const numbers = SETTINGS.map(([key, , least, most]) =>
    h("input", { type: "number", name: key, min: least, max: most, step: 1, placeholder: "chosen" }),
  );
  const errors = h("div", { class: "errors" });
  const start = h("button", { type: "submit", class: "main" }, "Train");

  const settings = () =>
    Object.fromEntries(
      numbers.filter((input) => input.value !== "").map((input) => [input.name, Number(input.value)]),
    );
  const isTable = () => format.value !== "text";
  const tableFormat = () => /** @type {Exclude<api.Format, "text">} */ (format.value);
  const mayHaveHeader = () => format.value === "csv" || format.value === "tsv";
  const hasHeader = () => header.checked || !mayHaveHeader();
  const given = () => (pasted.checked ? draft.file || `list.${isTable() ? format.value : "txt"}` : "names");
  const asked = () => ({
    text: text.value,
    ...(name.value ? { name: name.value } : {}),
    ...(isTable() ? { format: tableFormat(), column: column.value || null, header: hasHeader() } : {}),
  });
  const table = () => ({
    format: format.value === formatOf(given()) ? null : format.value,
    column: isTable() ? column.value : null,
  });
  const chosen = () => ({
    ...(pasted.checked ? table() : {}),
    budget: "num_steps" in settings() ? null : `${budget.value}s`,
    seed: Number(seed.value),
    ...settings(),
  });
  const copy = copies(() => ({
    command: `kamon train ${given()}${flags({ ...chosen(), no_header: pasted.checked && !hasHeader() })} -o model`,
    python: `import kamon\n\nmodel = kamon.train(${python(given())}${keywords(chosen())}${pasted.checked && !hasHeader() ? ", header=False" : ""})\nmodel.save("model")`,
  }), undefined, () =>
    pasted.checked && !draft.file
      ? h("div", { class: "stack" }, h("p", { class: "hint" }, `Save the list first: then there is a ${given()} to train on.`), button("Save list", () => saveText(given(), text.value)))
      : null,
  );
  api.limits().then(({ limits, settings: most }) => {
    for (const input of numbers) if (input.name in most) input.max = String(most[input.name]);
    for (const each of budget.options) each.hidden = each.disabled = Number(each.value) > (limits.job_seconds ?? Infinity);
  }).catch(() => {}); // Then the server says it.

  const ask = api.latest(signal);
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  let timer;
  const keep = () => {
    Object.assign(draft, { text: text.value, name: name.value, format: format.value, column: column.value, header: header.checked });
    remember("draft", draft);
  };
  /** @param {AbortSignal} own_ */
  const findColumns = async (own_) => {
    const found = await api.columns({ text: text.value, format: tableFormat(), header: hasHeader(), ...(name.value ? { name: name.value } : {}) }, own_);
    const before = column.value;
    swap(column, ...found.map((each) => h("option", { value: each }, each)));
    column.value = found.find((each) => each === before) ?? wordiest(text.value, format.value, found);
    keep();
    copy.refresh();
  };
  /** @param {boolean} [also]  also what is empty, as a file may be */
  const preview = (also) => {
    clearTimeout(timer);
    columnField.hidden = !isTable();
    headerField.hidden = !mayHaveHeader();
    keep();
    timer = setTimeout(async () => {
      if (!also && !text.value.trim()) return swap(report);
      try {
        const found = await ask(async (own_) => {
          if (isTable()) await findColumns(own_);
          return api.clean(asked(), own_);
        });
        /** @param {string} better @param {string} [kind] */
        const taken = (better, kind = "text") => {
          text.value = better;
          format.value = kind;
          text.focus(); // the button that was pressed goes
          preview();
          copy.refresh();
        };
        swap(report, ...cleaned(found, text.value, format.value, taken));
      } catch (error) {
        if (!api.isAbort(error)) swap(report);
        context.fail(error, report);
      }
    }, 300);
  };
  /** @param {File|undefined|null} given_ */
  const read = async (given_) => {
    if (!given_) return;
    pasted.checked = true;
    draft.file = given_.name;
    name.value = given_.name.slice(0, 100);
    format.value = formatOf(given_.name);
    swap(column); // those of the file before
    let { text: read_, note: told, fault } = { text: "", note: "", fault: given_.size > 2 * api.MAX_BYTES ? api.TOO_LARGE : "" };
    try {
      if (!fault) ({ text: read_, note: told, fault } = decoded(new Uint8Array(await given_.arrayBuffer()), given_.name));
    } catch {
      fault = `${given_.name} cannot be read: choose it again`;
    }
    text.value = read_;
    if (told) draft.file = ""; // the command line may not read its encoding: it can be saved from here
    note.textContent = told;
    note.hidden = !told;
    choose();
    preview(true);
    if (!fault) return;
    clearTimeout(timer);
    swap(report);
    context.fail(new api.ApiError(fault, 0), report);
  };
  const choose = () => {
    mine.hidden = !pasted.checked;
    copy.refresh();
  };
  const form = h(
    "form",
    {
      submit: async (/** @type {Event} */ event) => {
        event.preventDefault();
        if (isOff(start)) return;
        swap(errors);
        if (pasted.checked && !text.value.trim()) return context.fail(new api.ApiError("Paste a list or choose a file first.", 0), errors);
        switchOff(start, true);
        try {
          const job = await api.startJob({
            ...(pasted.checked ? asked() : { builtin: "names" }),
            ...("num_steps" in settings() ? {} : { budget: Number(budget.value) }),
            seed: Number(seed.value),
            settings: settings(),
          });
          change({ job: job.id, model: null, step: null, budget: budget.value, seed: seed.value });
          say("The training has begun.");
          watch.follow(job);
        } catch (error) {
          context.fail(error, errors);
        } finally {
          switchOff(start, false);
        }
      },
      input: copy.refresh,
    },
    h(
      "fieldset",
      { class: "choice" },
      h("legend", {}, "What to learn from"),
      h("label", {}, builtin, "29,693 first names"),
      h("label", {}, pasted, "Your own list"),
    ),
    mine,
    h(
      "div",
      { class: "row" },
      field("Training time", budget),
      field("Seed", seed),
    ),
    h(
      "details",
      {},
      h("summary", {}, "Settings"),
      h("p", {}, "Kamon chooses what you leave empty, to fit the training time. If you give the number of steps, the time does not count."),
      h("div", { class: "row" }, ...SETTINGS.map(([, label], i) => field(String(label), numbers[i]))),
    ),
    start,
    errors,
  );
  for (const radio of [builtin, pasted]) radio.addEventListener("change", choose);
  text.addEventListener("input", () => {
    if (!text.value) draft.file = "";
    note.hidden = true;
    preview();
  });
  for (const each of [format, column, header]) each.addEventListener("change", () => preview(text.value !== ""));
  name.addEventListener("input", keep);
  file.addEventListener("change", () => read(file.files?.[0]));
  const node = panel("The list", form, copy.node);
  node.addEventListener("dragover", (event) => {
    event.preventDefault();
    node.classList.add("drop");
  });
  node.addEventListener("dragleave", () => node.classList.remove("drop"));
  node.addEventListener("drop", (event) => {
    event.preventDefault();
    node.classList.remove("drop");
    const dropped = event.dataTransfer;
    if (dropped?.files.length) read(dropped.files[0]);
    else {
      text.value = dropped?.getData("text/plain") ?? "";
      draft.file = "";
      pasted.checked = true;
      choose();
      preview();
    }
  });
  preview();
  return node;
}

/**
 * Saves a text as a file, by the browser.
 * @param {string} file
 * @param {string} text
 */
function saveText(file, text) {
  const link = h("a", { href: URL.createObjectURL(new Blob([text.endsWith("\n") ? text : `${text}\n`])), download: file });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/**
 * What a file's ending says.
 * @param {string} name
 */
function formatOf(name) {
  const found = /\.(csv|tsv|json|jsonl|ndjson)$/i.exec(name)?.[1].toLowerCase() ?? "text";
  return found === "ndjson" ? "jsonl" : found;
}

/**
 * @param {import("./api.js").Cleaned} found
 * @param {string} text  that it is about
 * @param {string} format  of it
 * @param {(text: string, format?: string) => void} take
 */
function cleaned(found, text, format, take) {
  const unit = ["csv", "tsv"].includes(format) ? "row" : "line";
  const Unit = unit === "row" ? "Row" : "Line";
  const table = found.looks_like;
  return [
    ...found.warnings.map((each) => h("p", { class: "error" }, `⚠ ${each}`)),
    table &&
      h(
        "div",
        { class: "stack" },
        h("p", { class: "error" }, `⚠ These lines look like a table (${table.toUpperCase()}). As they stand, each is learned whole.`),
        button("Read them as a table", () => take(text, table)),
      ),
    h(
      "p",
      {},
      `${many(found.num_lines, unit)}, of which ${count(found.num_docs)} to learn: `,
      `${many(found.num_repetitions, "duplicate")} and ${count(found.num_blank)} blank left out, `,
      `${count(found.num_stripped)} with spaces removed at their ends. `,
      found.num_normalized > 0 && `${count(found.num_normalized)} brought to NFC (ö as one character). `,
      `${count(found.num_held_out)} are held out to test on.`,
    ),
    h("p", { class: "hint" }, "The first: ", ...listOf(found.docs.slice(0, 5), " · ", 40)),
    figures([
      ["characters in the longest", count(found.longest)],
      ["different characters", count(found.characters)],
    ]),
    found.removed.length > 0 &&
      folded(
        `Left out${found.removed.length >= 100 ? ", the first hundred" : ""}`,
        "What was left out",
        [Unit, "Text", "Why"],
        found.removed.map((each) => [each.line, named(each.text), each.why]),
      ),
    found.changed.length > 0 &&
      folded(
        "Changed",
        "What was changed",
        [Unit, "Before", "After"],
        found.changed.map((each) => [each.line, named(each.before), named(each.after)]),
      ),
    found.tidied &&
      h(
        "details",
        { open: true },
        h("summary", {}, "kamon clean would do more"),
        h(
          "ul",
          {},
          ...found.tidied.steps
            .filter((each) => each.count)
            .map((each) =>
              h(
                "li",
                {},
                `${each.name}: ${count(each.count)} ${each.action}`,
                ...(each.examples.length ? [", such as ", ...example(each.action, each.examples[0])] : []),
              ),
            ),
        ),
        button(`Take the cleaned list, ${many(found.tidied.num_docs, "entry").replace("entrys", "entries")}`, () => take(found.tidied?.text ?? "")),
      ),
  ];
}

/**
 * A long table that is opened when it is wanted.
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
 * @param {[string, string]} two  before and after, or what was dropped and why
 */
function example(action, [first, second]) {
  return action === "dropped" ? ["“", named(first, 60), `” (${second})`] : ["“", named(first, 60), "” → “", named(second, 60), "”"];
}

/** @param {Context} context */
function runPanel(context) {
  const { state, signal, watch, say } = context;
  const status = h("p", { class: "status" });
  const numbers = h("div");
  const chart = lines("Loss by step");
  const legend = h("p", { class: "hint" });
  const errors = h("div", { class: "errors" });
  const chosen = h("input", { type: "range", min: 0, max: 0, step: 1, value: 0, id: "scrub" });
  const told = h("output", { for: "scrub" });
  const names = h("ul", { class: "names", "aria-label": "Samples of this step" });
  const onward = h("p", { class: "onward" });
  const all = h("details", { class: "behind" }, h("summary", {}, "Samples of all steps"));
  const listed = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Samples of all steps" });
  all.append(listed);
  let shown = "";
  let wanted = state.step === undefined ? null : Number(state.step); // null: the newest

  /** @param {"pause"|"resume"|"stop"} what */
  const steer = (what) => async () => {
    swap(errors);
    if (!watch.job) return;
    try {
      watch.take(await api.steer(watch.job.id, what));
      draw();
      [pause, resume, stop].find((each) => !each.hidden)?.focus(); // the one pressed may be gone
      say({ pause: "Paused.", resume: "Resumed.", stop: "Stopped; what was learned stays." }[what]);
    } catch (error) {
      context.fail(error, errors);
    }
  };
  const pause = button("Pause", steer("pause"));
  const resume = button("Resume", steer("resume"));
  const stop = button("Stop", steer("stop"));
  const back = h(
    "div",
    { class: "scrub" },
    h("label", { for: "scrub" }, "Step to look at"),
    h("div", { class: "range" }, chosen, told),
    names,
    onward,
  );
  const node = panel(
    "The training",
    status,
    h("div", { class: "buttons" }, pause, resume, stop),
    errors,
    numbers,
    chart.node,
    legend,
    back,
    all,
    savePanel(context, () => {
      return momentsOf(watch.job)[place()]?.model ?? null;
    }),
  );

  /** The model that the training made, or the newest. */
  const usual = () => {
    const moments = momentsOf(watch.job);
    const made = moments.findIndex((each) => each.model === watch.job?.model);
    return made < 0 ? moments.length - 1 : made;
  };
  const place = () => {
    const moments = momentsOf(watch.job);
    if (wanted === null) return usual();
    return moments.reduce(
      (best, each, i) => (Math.abs(each.step - Number(wanted)) < Math.abs(moments[best].step - Number(wanted)) ? i : best),
      0,
    );
  };
  const drawMoment = () => {
    const moments = momentsOf(watch.job);
    back.hidden = all.hidden = !moments.length;
    if (!moments.length) return;
    const at = place();
    const moment = moments[at];
    chosen.max = String(moments.length - 1);
    chosen.value = String(at);
    chosen.setAttribute("aria-valuetext", `step ${moment.step}`);
    told.textContent = `step ${count(moment.step)}`;
    if (all.open) drawAll();
    if (shown === moment.model) return; // a link that is replaced cannot be clicked
    shown = moment.model;
    swap(names, ...moment.samples.map((each) => h("li", {}, named(each))));
    swap(
      onward,
      "Use this model: ",
      h("a", { href: address({ view: "generate", model: moment.model }, {}) }, "generate"),
      " · ",
      h("a", { href: address({ view: "inside", model: moment.model }, {}) }, "look inside"),
    );
  };
  const drawAll = () =>
    swap(
      listed,
      table(
        "Samples of all steps",
        ["Step", "Samples"],
        momentsOf(watch.job).map((each) => [count(each.step), h("span", {}, ...listOf(each.samples, ", "))]),
      ),
    );
  all.addEventListener("toggle", () => all.open && drawAll());
  const draw = () => {
    const job = watch.job;
    for (const part of [numbers, chart.node, legend]) part.hidden = !job;
    pause.hidden = !job || (job.state !== "running" && job.state !== "starting");
    resume.hidden = job?.state !== "paused";
    stop.hidden = !job || isOver(job);
    drawMoment();
    if (!job) {
      swap(status, "Nothing is being trained. Press Train to begin.");
      return;
    }
    swap(
      status,
      h("strong", {}, job.state === "queued" ? queued(job) : STATES[job.state]),
      job.error ? `: ${job.error}` : "",
      whichStep(job),
      watch.connection === "reconnecting" &&
        h("span", { class: "lost" }, " ⚠ the connection is lost; trying again"),
    );
    const trained = job.losses[job.losses.length - 1];
    const held = job.held_out[job.held_out.length - 1];
    swap(
      numbers,
      h("progress", { max: Math.max(1, job.num_steps), value: job.state === "done" ? job.num_steps : job.step, "aria-label": "Steps done" }),
      figures([
        ["step", `${count(job.step)} of ${count(job.num_steps)}`],
        ["seconds", `${fixed(job.seconds, 1)}${job.budget === null ? "" : ` of ${job.budget}`}`],
        ["test loss", fixed(job.best ? job.best.loss : held?.[1], 3)],
        ["training loss", trained ? fixed(mean(job.losses), 3) : "–"],
        ["entries", count(job.num_docs)],
        ["parameters", count(job.num_params)],
      ]),
    );
    drawLosses(job);
  };

  /** @param {Job} job */
  const drawLosses = (job) => {
    if (!job.losses.length) {
      chart.node.hidden = legend.hidden = true;
      return;
    }
    /** @type {import("./charts.js").LineData["rules"]} */
    const rules = [];
    const { uniform, ngram, ngram_order } = job.lines;
    if (uniform !== null) rules.push({ y: uniform, name: "uniform", dash: "2 4" });
    if (ngram !== null) rules.push({ y: ngram, name: `${ngram_order}-gram`, dash: "8 4" });
    legend.textContent =
      "Average surprisal per token, in nats. Lower is better. Test: on entries held out." +
      (uniform === null ? "" : ` Uniform: guessing among all tokens costs ln V = ${fixed(uniform, 3)}.`) +
      (ngram === null ? "" : ` ${ngram_order}-gram: the best that counting alone does, ${fixed(ngram, 3)}.`);
    const smooth = means(job.losses);
    const moments = momentsOf(job);
    const held = new Map(job.held_out);
    const best = job.held_out.length ? Math.min(...held.values()) : null;
    chart.show({
      series: [
        { name: "", points: job.losses, kind: "faint" },
        { name: "training", points: smooth, kind: "line" },
        { name: "test", points: job.held_out, kind: "marked" },
      ],
      rules,
      cursor: !moments.length || (wanted === null && (job.best?.step ?? job.step) === job.step) ? null : moments[place()].step,
      xName: "step",
      yName: "nats per token",
      yRange: rangeOf(job),
      xRange: [0, Math.max(1, job.num_steps, job.losses[job.losses.length - 1][0])],
      description:
        `Nats per token, lower is better, after ${job.step} of ${job.num_steps} steps.` +
        (best === null ? "" : ` The best on what is held out is ${best.toFixed(3)}.`) +
        (uniform === null ? "" : ` Guessing costs ${uniform.toFixed(3)}.`) +
        (ngram === null ? "" : ` The best n-gram costs ${ngram.toFixed(3)}.`),
      behind: {
        head: ["Step", "Training, nats per token", "Test"],
        rows: rowsOf(job),
      },
    });
  };

  chosen.addEventListener("input", () => {
    const at = Number(chosen.value);
    wanted = at === usual() ? null : momentsOf(watch.job)[at].step;
    change({ step: wanted });
    draw();
  });
  let due = 0;
  watch.listen((what) => {
    if (what === "job") wanted = watch.job && watch.job.id === state.job ? wanted : null;
    cancelAnimationFrame(due);
    due = requestAnimationFrame(draw);
  }, signal);
  signal.addEventListener("abort", () => cancelAnimationFrame(due));
  draw();
  return node;
}

/**
 * From the lowest to a little above guessing: the first steps, which are worse, would press all else
 * together.
 * @param {Job} job
 * @returns {[number, number]}
 */
function rangeOf(job) {
  const all = [...job.losses, ...job.held_out].map(([, loss]) => loss);
  const { uniform, ngram } = job.lines;
  const most = uniform === null ? Math.max(...all) : uniform * 1.08;
  const least = Math.min(...all, ngram ?? Infinity, most);
  return [least - 0.06 * (most - least || 1), most];
}

/** @param {[number, number][]} losses  the mean of the last tenth */
function mean(losses) {
  const last = losses.slice(-Math.max(1, Math.floor(losses.length / 10)));
  return last.reduce((total, [, loss]) => total + loss, 0) / last.length;
}

/**
 * Means of 15 neighbours.
 * @param {[number, number][]} losses
 * @returns {[number, number][]}
 */
function means(losses) {
  const half = Math.min(7, Math.floor(losses.length / 8));
  return losses.map(([step], i) => {
    const near = losses.slice(Math.max(0, i - half), i + half + 1);
    return [step, near.reduce((total, [, loss]) => total + loss, 0) / near.length];
  });
}

/**
 * The steps to go back to, and the one whose model the training made.
 * @param {Job|null} job
 * @returns {import("./api.js").Moment[]}
 */
export function momentsOf(job) {
  if (!job?.best || !job.model) return job?.moments ?? [];
  const { step, samples } = job.best;
  const others = job.moments.filter((each) => each.step !== step);
  return [...others, { step, model: job.model, samples }].sort((a, b) => a.step - b.step);
}

/**
 * What became of a training whose last step is not its model.
 * @param {Job} job
 */
export function whichStep(job) {
  const { best } = job;
  if (!best || best.step === job.step || best.loss === null) return "";
  const early = job.state === "done" && job.step < job.num_steps ? ", ended early" : "";
  return (
    `${job.error ? ". Of its steps," : `${early}:`} step ${count(best.step)} did best on the entries held out, and is the model ` +
    `(loss ${fixed(best.loss, 4)} there)` +
    (best.over_fitted ? ". After that it only memorised: this list needs fewer steps or a smaller model." : ".")
  );
}

/** @param {Job} job */
function rowsOf(job) {
  /** @type {Map<number, [string, string]>} */
  const rows = new Map();
  const some = Math.ceil(job.losses.length / 60);
  job.losses.forEach(([step, loss], i) => {
    if (i % some === 0 || i === job.losses.length - 1) rows.set(step, [loss.toFixed(4), ""]);
  });
  for (const [step, loss] of job.held_out) rows.set(step, [rows.get(step)?.[0] ?? "", loss.toFixed(4)]);
  return [...rows].sort((a, b) => a[0] - b[0]).map(([step, both]) => [count(step), ...both]);
}

/** @param {Context} context @param {() => string|null} chosen  the id of the model to save */
function savePanel(context, chosen) {
  const { watch, signal } = context;
  const form = saveForm(context, "Save this model as", (name) => {
    const id = chosen();
    return id ? api.save(id, name) : null;
  });
  const look = () => (form.hidden = !watch.job?.moments.length);
  watch.listen(look, signal);
  look();
  return form;
}
