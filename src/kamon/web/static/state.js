// What a view shows is in the address, so that it can be shared and survives a reload.

/** @typedef {Record<string, string>} State */

const LATER = 150; // ms; browsers refuse an address that is changed with each move of a slider
/** @type {string|null} */
let next = null; // the address to be
/** @type {ReturnType<typeof setTimeout>|undefined} */
let timer;

/** @returns {State} */
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
  timer = setTimeout(settle, LATER);
}

function settle() {
  clearTimeout(timer);
  if (next !== null) history.replaceState(null, "", next);
  next = null;
  const { view = "train", model, job, session: _, ...rest } = read();
  remember(`view ${view}`, { model, job, rest });
}

const OF_A_MODEL = ["prefix", "end", "seed", "position", "at", "layer", "head"];

/**
 * How a view stood when it was left, for the model and the training of now.
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

const MOST = 1 << 20; // characters of one thing that is remembered

/**
 * What was remembered under a name, for as long as the tab is open.
 * @template T
 * @param {string} name
 * @param {T} usual
 * @returns {T}
 */
export function recall(name, usual) {
  try {
    return JSON.parse(sessionStorage.getItem(`kamon ${name}`) ?? "null") ?? usual;
  } catch {
    return usual; // A browser that keeps nothing.
  }
}

/**
 * @param {string} name
 * @param {unknown} value  null forgets
 */
export function remember(name, value) {
  try {
    const text = JSON.stringify(value);
    if (value === null || text.length > MOST) sessionStorage.removeItem(`kamon ${name}`);
    else sessionStorage.setItem(`kamon ${name}`, text);
  } catch {
    // As above, or it is full.
  }
}

/**
 * A step in the history.
 * @param {string} to
 */
export function push(to) {
  settle();
  history.pushState(null, "", to);
}

/** The browser has gone to another address by itself. */
export function moved() {
  clearTimeout(timer);
  next = null;
}

addEventListener("pagehide", settle);

/**
 * A number out of the address, within its limits.
 * @param {string|undefined} text
 * @param {number} usual
 * @param {number} least
 * @param {number} most
 */
export function numberIn(text, usual, least, most) {
  const found = text === undefined || text.trim() === "" ? NaN : Number(text);
  return Number.isFinite(found) ? Math.min(most, Math.max(least, found)) : usual;
}
