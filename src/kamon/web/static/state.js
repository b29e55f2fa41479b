// What a view shows is in the address, so that it can be shared and survives a reload.

/** @typedef {Record<string, string>} State */

const DELAY = 150; // ms; a browser refuses an address that changes with each move of a slider
/** @type {string|null} */
let next = null; // the address that the browser will get
/** @type {ReturnType<typeof setTimeout>|undefined} */
let timer;

/**
 * The state in the address.
 * @returns {State}
 */
export function read() {
  return Object.fromEntries(new URLSearchParams(next ?? location.search));
}

/**
 * The address with some of its values changed; null and "" take one out.
 * @param {Record<string, string|number|boolean|null|undefined>} changes
 * @param {State} [from]
 */
export function address(changes, from = read()) {
  const query = new URLSearchParams(Object.entries(from).filter(([, value]) => value !== ""));
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === "" || value === false) query.delete(name);
    else query.set(name, value === true ? "1" : String(value));
  }
  return `?${query}`;
}

/**
 * Changes the address in place.
 * @param {Record<string, string|number|boolean|null|undefined>} changes
 */
export function change(changes) {
  next = address(changes);
  clearTimeout(timer);
  timer = setTimeout(settle, DELAY);
}

/** Gives the browser its new address, and remembers the state of the view. */
function settle() {
  clearTimeout(timer);
  if (next !== null) history.replaceState(null, "", next);
  next = null;
  const { view = "train", model, job, session: _, ...rest } = read();
  remember(`view ${view}`, { model, job, rest });
}

const OF_A_MODEL = ["prefix", "end", "seed", "position", "at", "layer", "head"];

/**
 * The state in which the user left a view, for the current model and training.
 * @param {string} view
 * @returns {State}
 */
export function left(view) {
  const { model, job } = read();
  const found = recall(`view ${view}`, /** @type {any} */ ({}));
  const rest = { ...found.rest };
  if (found.model !== model) for (const name of OF_A_MODEL) delete rest[name];
  if (found.job !== job) delete rest.step;
  return { ...rest, view, ...(model ? { model } : {}), ...(job ? { job } : {}) };
}

const MAX_SIZE = 1 << 20; // characters of one value

/**
 * The value that was remembered under a name. It lasts as long as the tab is open.
 * @template T
 * @param {string} name
 * @param {T} usual
 * @returns {T}
 */
export function recall(name, usual) {
  try {
    return JSON.parse(sessionStorage.getItem(`kamon ${name}`) ?? "null") ?? usual;
  } catch {
    return usual; // the browser keeps nothing
  }
}

/**
 * Remembers a value under a name.
 * @param {string} name
 * @param {unknown} value  null forgets the value before
 */
export function remember(name, value) {
  try {
    const text = JSON.stringify(value);
    if (value === null || text.length > MAX_SIZE) sessionStorage.removeItem(`kamon ${name}`);
    else sessionStorage.setItem(`kamon ${name}`, text);
  } catch {
    // the browser keeps nothing, or its store is full
  }
}

/**
 * Goes to an address, as a step in the history.
 * @param {string} to
 */
export function push(to) {
  settle();
  history.pushState(null, "", to);
}

/** Forgets the address to be: the browser has gone to another one by itself. */
export function moved() {
  clearTimeout(timer);
  next = null;
}

addEventListener("pagehide", settle);

/**
 * A number from the address, moved into its limits.
 * @param {string|undefined} text
 * @param {number} usual  the number if the text is none
 * @param {number} min
 * @param {number} max
 */
export function numberIn(text, usual, min, max) {
  const found = text === undefined || text.trim() === "" ? NaN : Number(text);
  return Number.isFinite(found) ? Math.min(max, Math.max(min, found)) : usual;
}
