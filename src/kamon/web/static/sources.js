// Where the scalar engine computes what a panel shows.

import { h } from "./dom.js";

/**
 * A line that names the functions; null if there are none.
 * @param {Record<string, import("./api.js").Source>} sources
 * @param {...string} names  of panels; all if none is given
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
