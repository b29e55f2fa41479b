// The address contains the state of a view, so that the user can share and reload it.

/** @typedef {Record<string, string>} State */

const DELAY = 150; // ms. Browsers limit how often the address can change
/** @type {string|null} */
let next = null; // the next address of the browser
/** @type {ReturnType<typeof setTimeout>|undefined} */
let timer;

/**
 * Returns the state in the address.
 * @returns {State}
 */
export function read() {
  return Object.fromEntries(new URLSearchParams(next ?? location.search));
}

/**
 * Returns the address with some values changed. null and "" remove a value.
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
 * Changes the address without a new step in the history.
 * @param {Record<string, string|number|boolean|null|undefined>} changes
 */
export function change(changes) {
  next = address(changes);
  clearTimeout(timer);
  timer = setTimeout(settle, DELAY);
}

/** Sets the new address of the browser, and remembers the state of the view. */
function settle() {
  clearTimeout(timer);
  if (next !== null) history.replaceState(null, "", next);
  next = null;
  const { view = "train", model, job, session: _, ...rest } = read();
  remember(`view ${view}`, { model, job, rest });
}

const OF_A_MODEL = ["prefix", "end", "seed", "position", "at", "layer", "head"];

/**
 * Returns the last state of a view, for the current model and training.
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
 * Returns the value remembered under a name. It lasts while the tab is open.
 * @template T
 * @param {string} name
 * @param {T} usual
 * @returns {T}
 */
export function recall(name, usual) {
  try {
    return JSON.parse(sessionStorage.getItem(`kamon ${name}`) ?? "null") ?? usual;
  } catch {
    return usual; // the browser has no storage
  }
}

/**
 * Remembers a value under a name.
 * @param {string} name
 * @param {unknown} value  null removes the value
 */
export function remember(name, value) {
  try {
    const text = JSON.stringify(value);
    if (value === null || text.length > MAX_SIZE) sessionStorage.removeItem(`kamon ${name}`);
    else sessionStorage.setItem(`kamon ${name}`, text);
  } catch {
    // the browser has no storage, or it is full
  }
}

/**
 * Goes to an address and adds a step to the history.
 * @param {string} to
 */
export function push(to) {
  settle();
  history.pushState(null, "", to);
}

/** Drops the next address, because the browser has gone to another one. */
export function moved() {
  clearTimeout(timer);
  next = null;
}

addEventListener("pagehide", settle);

/**
 * Returns a number from the address, within limits.
 * @param {string|undefined} text
 * @param {number} usual  the default
 * @param {number} min
 * @param {number} max
 */
export function numberIn(text, usual, min, max) {
  const found = text === undefined || text.trim() === "" ? NaN : Number(text);
  return Number.isFinite(found) ? Math.min(max, Math.max(min, found)) : usual;
}
