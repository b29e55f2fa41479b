// The form of the Train view (list, time and settings) as requests and as code.

import { flags, keywords, python, shell } from "./copy.js";

/**
 * @typedef {import("./api.js").Format} Format
 *
 * @typedef {object} Form
 * @property {boolean} own  whether to train on the user's own list, not the built-in one
 * @property {string} text  the list
 * @property {string} name  of the list, or ""
 * @property {string} file  the name of its file, or "" for a pasted list
 * @property {Format} format
 * @property {string} column  of a table
 * @property {string[]} given  columns of a table whose values the entries are learned under
 * @property {string} weight  the column of a table that counts its rows; "" for none
 * @property {boolean} header  whether the first row of a table is a header
 * @property {string} budget  seconds to train for
 * @property {string} seed
 * @property {string} initFrom  "base", "scratch", or "" for automatic
 * @property {boolean} blend  whether to blend the GPT with an n-gram
 * @property {Record<string, number>} settings  those that the user has set
 */

/** @param {Pick<Form, "format">} form */
export function isTable({ format }) {
  return format !== "text";
}

/** @param {Pick<Form, "format">} form */
export function mayHaveHeader({ format }) {
  return format === "csv" || format === "tsv";
}

/** @param {Form} form */
function hasHeader(form) {
  return form.header || !mayHaveHeader(form);
}

/**
 * Returns the list for the command line: a file, or the built-in list.
 * @param {Form} form
 */
export function sourceOf(form) {
  if (!form.own) return "names";
  return form.file || `list.${isTable(form) ? form.format : "txt"}`;
}

/**
 * Returns the format for a file name.
 * @param {string} name
 * @returns {Format}
 */
export function formatOf(name) {
  const ending = /\.(csv|tsv|json|jsonl|ndjson)$/i.exec(name)?.[1].toLowerCase() ?? "text";
  return ending === "ndjson" ? "jsonl" : /** @type {Format} */ (ending);
}

/**
 * The given columns and the weight, if there are any.
 * @param {Form} form
 */
function givenColumns(form) {
  const given = form.own && isTable(form) ? form.given.filter((each) => each !== form.column) : [];
  return { given, weight: given.length && form.weight !== form.column ? form.weight : "" };
}

/** @param {Form} form */
const named = ({ name }) => (name ? { name } : {});

/**
 * Returns the body of a request about the list.
 * @param {Form} form
 */
export function listRequest(form) {
  const { text, format, column } = form;
  return {
    text,
    ...named(form),
    ...(isTable(form) ? { format, column: column || null, header: hasHeader(form) } : {}),
  };
}

/**
 * Returns the body of a request for the columns of a table.
 * @param {Form} form
 */
export function columnsRequest(form) {
  const format = /** @type {Exclude<Format, "text">} */ (form.format);
  return { text: form.text, format, header: hasHeader(form), ...named(form) };
}

/**
 * Returns the body of a request that starts the training.
 * @param {Form} form
 * @returns {import("./api.js").BodyOf<"POST /jobs">}
 */
export function jobRequest(form) {
  const { own, budget, seed, initFrom, blend, settings } = form;
  const { given, weight } = givenColumns(form);
  return {
    ...(own ? listRequest(form) : { builtin: "names" }),
    ...(given.length ? { given } : {}),
    ...(weight ? { weight } : {}),
    ...("num_steps" in settings ? {} : { budget: Number(budget) }),
    seed: Number(seed),
    ...(initFrom ? { init_from: /** @type {"base"|"scratch"} */ (initFrom) } : {}),
    ...(blend ? {} : { blend }),
    settings,
  };
}

/**
 * Returns the training as a command and as Python.
 * @param {Form} form
 */
export function codeOf(form) {
  const source = sourceOf(form);
  const table = {
    format: form.format === formatOf(source) ? null : form.format,
    column: isTable(form) ? form.column : null,
  };
  const { given, weight } = givenColumns(form);
  const options = {
    ...(form.own ? table : {}),
    budget: "num_steps" in form.settings ? null : `${form.budget}s`,
    seed: Number(form.seed),
    ...form.settings,
  };
  const noHeader = form.own && !hasHeader(form);
  const command = flags({
    ...options,
    given: given.join(","),
    weight,
    from: form.initFrom,
    no_blend: !form.blend,
    no_header: noHeader,
  });
  const columns = given.length ? `, given=[${given.map(python).join(", ")}]` : "";
  const others = `${columns}${weight ? `, weight=${python(weight)}` : ""}${form.blend ? "" : ", blend=False"}${noHeader ? ", header=False" : ""}`;
  return {
    command: `kamon train ${shell(source)}${command} -o model`,
    python: `import kamon\n\nmodel = kamon.train(${python(source)}${keywords({ ...options, init_from: form.initFrom })}${others})\nmodel.save("model")`,
  };
}
