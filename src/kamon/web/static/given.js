// The given values of a model of a table: one choice for each column, with a second value for a mix.

import { python } from "./copy.js";
import { field, h } from "./dom.js";

/**
 * The values that are given, and in a mix their shares.
 * @typedef {Record<string, string | Record<string, number>>} Given
 */

/**
 * The values as `kamon sample --given` takes them; null without any.
 * @param {Given|null} given
 */
export function givenText(given) {
  if (given === null) return null;
  const plain = Object.entries(given).every(([, value]) =>
    (typeof value === "string" ? [value] : Object.keys(value)).every((each) => !/[,:=]/.test(each)),
  );
  if (!plain) return JSON.stringify(given);
  return Object.entries(given)
    .map(([column, value]) => {
      if (typeof value === "string") return `${column}=${value}`;
      const shares = Object.entries(value).map(([each, share]) => `${each}:${share}`);
      return `${column}=${shares.join(",")}`;
    })
    .join(",");
}

/**
 * ", given={"country": "fi"}": the values as an argument in Python; "" without any.
 * @param {Given|null} given
 */
export function givenKeyword(given) {
  if (given === null) return "";
  const items = Object.entries(given).map(([column, value]) => {
    if (typeof value === "string") return `${python(column)}: ${python(value)}`;
    const shares = Object.entries(value).map(([each, share]) => `${python(each)}: ${share}`);
    return `${python(column)}: {${shares.join(", ")}}`;
  });
  return `, given={${items.join(", ")}}`;
}

/**
 * The values in an address, as JSON; nothing if they are not valid.
 * @param {string} text
 * @returns {Given}
 */
export function givenIn(text) {
  try {
    const found = JSON.parse(text);
    return found !== null && typeof found === "object" && !Array.isArray(found) ? found : {};
  } catch {
    return {};
  }
}

/**
 * The given values of two choices per column.
 * @param {Record<string, [string, string]>} chosen  the first and the second value; "" for none
 * @returns {Given|null}
 */
export function givenOf(chosen) {
  /** @type {Given} */
  const given = {};
  for (const [column, [first, second]] of Object.entries(chosen)) {
    const different = [...new Set([first, second].filter((each) => each !== ""))];
    if (different.length === 1) given[column] = different[0];
    if (different.length === 2) given[column] = { [different[0]]: 0.5, [different[1]]: 0.5 };
  }
  return Object.keys(given).length ? given : null;
}

/**
 * The fields of a model's given columns; no node for a model without.
 * @param {Record<string, string[]>} columns  the values of each
 * @param {string} before  the values in the address
 */
export function givenFields(columns, before) {
  const known = givenIn(before);
  /** @param {string[]} values @param {string} none @param {string|undefined} value */
  const choice = (values, none, value) => {
    const select = h(
      "select",
      {},
      h("option", { value: "" }, none),
      ...values.map((each) => h("option", { value: each }, each)),
    );
    select.value = value !== undefined && values.includes(value) ? value : "";
    return select;
  };
  const fields = Object.entries(columns).map(([column, values]) => {
    const value = known[column];
    const [first, second] = typeof value === "string" ? [value] : Object.keys(value ?? {});
    return { column, first: choice(values, "any", first), second: choice(values, "nothing", second) };
  });
  const values = () =>
    givenOf(Object.fromEntries(fields.map((each) => [each.column, [each.first.value, each.second.value]])));
  const node = fields.length
    ? h(
        "div",
        { class: "given stack" },
        ...fields.map(({ column, first, second }) =>
          h("div", { class: "row" }, field(column, first), field(`mixed with`, second)),
        ),
      )
    : null;
  const text = () => {
    const now = values();
    return now === null ? null : JSON.stringify(now);
  };
  return { node, values, text };
}
