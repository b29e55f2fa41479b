// Links to the code of the scalar engine that computes the contents of a panel.

import { h } from "./dom.js";

/**
 * Returns a line with the names of the functions, or null if there are none.
 * @param {Record<string, import("./api.js").Source>} sources
 * @param {...string} names  names of panels (by default all)
 */
export function sourceLine(sources, ...names) {
  const found = (names.length ? names : Object.keys(sources))
    .map((name) => sources[name])
    .filter((each) => each !== undefined);
  if (!found.length) return null;
  const places = found.flatMap((each, i) => [
    i ? ", " : "",
    h("code", {}, each.function),
    " in ",
    h("code", {}, `${each.file}:${each.line}`),
  ]);
  return h("p", { class: "source" }, "Computed by ", ...places);
}
