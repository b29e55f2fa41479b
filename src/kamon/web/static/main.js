// The page: the open view, the current model, light or dark.

import * as api from "./api.js";
import * as state from "./state.js";
import { plans } from "./copy.js";
import { button, reducedMotion, h, isWriting, append, replaceContent } from "./dom.js";
import { percent } from "./format.js";
import { freeName, inline } from "./text.js";
import { Watch, isOver, queued } from "./watch.js";

/**
 * @typedef {import("./api.js").ModelInfo} ModelInfo
 * The context of a view. The view fills `root`, and ends when `signal` aborts.
 * @typedef {object} Context
 * @property {HTMLElement} root
 * @property {AbortSignal} signal
 * @property {state.State} state
 * @property {ModelInfo[]} models
 * @property {Watch} watch
 * @property {(text: string) => void} say  makes a screen reader read the text
 * @property {(error: unknown, place?: Element) => void} fail  shows an error in the place
 * @property {(changes: Record<string, any>) => void} go  opens another view or model
 * @property {() => Promise<void>} refresh  loads the models again
 * @property {(model: ModelInfo) => string} nameOf  its name on the page
 * @property {(ratings: import("./api.js").Ratings, use: boolean) => Promise<void>} taught  stores a Teach session. use: whether to use its model
 * @property {(model: ModelInfo) => string|null} sessionOf  the session of Teach that a model belongs to
 * @property {(session: string) => void} forgetSession
 */

/**
 * The views. Each is loaded when the user opens it.
 * @typedef {{show: (context: Context, model: ModelInfo) => unknown}} View
 * @type {Record<string, {title: string, needsModel: boolean, load: () => Promise<View>}>}
 */
const VIEWS = {
  train: { title: "Train", needsModel: false, load: () => import("./train.js") },
  generate: { title: "Generate", needsModel: true, load: () => import("./generate.js") },
  teach: { title: "Teach", needsModel: true, load: () => import("./teach.js") },
  inside: { title: "Look inside", needsModel: true, load: () => import("./inside.js") },
  data: { title: "Data", needsModel: true, load: () => import("./data.js") },
};
const THEMES = ["auto", "light", "dark"];

/** @template {Element} T @param {string} id */
const byId = (id) => /** @type {T} */ (/** @type {unknown} */ (document.getElementById(id)));
const root = /** @type {HTMLElement} */ (byId("main"));
const select = /** @type {HTMLSelectElement} */ (byId("model"));
const watched = new Watch();
/** @type {ModelInfo[]} */
let models = [];
let ends = new AbortController();

/** @param {string} text */
function say(text) {
  byId("say").textContent = text;
}

/**
 * Shows the message of an error in the place where it happened.
 * @param {unknown} error
 * @param {Element} [place]
 */
function fail(error, place = root) {
  if (api.isAbort(error)) return;
  const known = error instanceof api.ApiError;
  const text = known
    ? error.message
    : "The page has a bug. Reload it, and please report the error in the browser's console.";
  for (const each of place.querySelectorAll(":scope > .error, :scope > .another")) each.remove();
  place.append(h("p", { class: "error", role: "alert" }, `⚠ ${text}`));
  if (known && error.status === 404 && /model/.test(text))
    place.append(h("p", { class: "another" }, button("Choose another model", another)));
  if (!known) throw error;
}

async function refresh() {
  models = await api.models();
  showModels(await wantedModel());
  showViews();
}

/** The model of the address, else of its training, else the last one of this tab, else the newest one that
 * was not taught, else one of an early step. Null if the training of the address has no model yet. */
async function wantedModel() {
  const { model, job: id } = state.read();
  if (model) return models.find((each) => each.id === model) ?? api.model(model);
  const made = models.find((each) => each.id === id);
  if (made) return made;
  const job = watched.job;
  const moments = job?.moments ?? [];
  const last = () => api.model(moments[moments.length - 1].model);
  if (job && job.id === id && moments.length) return last();
  if (job && job.id === id && !isOver(job)) return null;
  const whole = models.filter((each) => each.parent === null);
  const own = state.recall("model", "");
  const untaught = whole.filter((each) => each.kind !== "tuned");
  const found = whole.find((each) => each.id === own) ?? [...whole, ...untaught].pop();
  return found ?? (moments.length ? last() : null);
}

/** @type {Map<string, string>} */
const lists = new Map(); // names of lists, by training id
/** @typedef {{session: string, base: string, name: string, answers: number}} Taught */
/** @type {Record<string, Taught>} */
let sessions = state.recall("sessions", {}); // sessions of Teach, by model id

/** @param {import("./api.js").Ratings} ratings @param {boolean} use */
async function taught(ratings, use) {
  const base = models.find((each) => each.id === ratings.base);
  const before = sessions[ratings.base]?.session === ratings.id ? sessions[ratings.base].name : ratings.base;
  const name = base ? nameOf(base) : before;
  forgetSession(ratings.id);
  const known = { session: ratings.id, base: ratings.base, name, answers: ratings.num_aligned };
  sessions = { ...sessions, [ratings.base]: known, [ratings.model]: known };
  state.remember("sessions", sessions);
  if (!use || state.read().model === ratings.model) return showModels(await wantedModel());
  state.change({ model: ratings.model });
  await refresh();
}

/** @param {string} session */
function forgetSession(session) {
  sessions = Object.fromEntries(Object.entries(sessions).filter(([, each]) => each.session !== session));
  state.remember("sessions", sessions);
}

/** @param {ModelInfo} model */
const sessionOf = (model) => (Object.hasOwn(sessions, model.id) ? sessions[model.id].session : null);

/**
 * Returns the name of a saved model, or the name of its list.
 * @param {ModelInfo} model
 */
function nameOf(model) {
  const id = model.parent ?? model.id;
  const list = lists.get(id);
  const session = model.kind === "tuned" && !model.saved && Object.hasOwn(sessions, id) ? sessions[id] : null;
  if (session && session.base !== id) return `${session.name} · taught, ${session.answers} answers`;
  const name = list === undefined ? id : `${inline(list, 40)} (${id.replace("job-", "").slice(0, 4)})`;
  if (model.parent !== null) return `${name}, step ${model.step?.toLocaleString("en-GB")}`;
  return name;
}

/** @param {ModelInfo|null} current */
function showModels(current) {
  const chosen = current?.id;
  const listed = models.filter((each) => each.parent === null || each.id === chosen);
  if (current && !listed.some((each) => each.id === current.id)) listed.push(current);
  const taken = models.map((each) => each.id);
  for (const each of listed) {
    const of = each.parent ?? each.id;
    const list = each.kind === "tuned" ? `${sessions[of]?.base ?? "names"}-taught` : (lists.get(of) ?? of);
    if (!each.saved)
      plans.set(each.id, freeName(each.parent === null ? list : `${freeName(list, [])}-step-${each.step}`, taken));
  }
  replaceContent(
    select,
    ...listed.map((each) =>
      h("option", { value: each.id }, each.parent !== null || each.saved ? nameOf(each) : `${nameOf(each)}, not saved`),
    ),
  );
  if (!listed.length) append(select, h("option", { value: "" }, "none yet"));
  if (listed.length && !chosen) append(select, h("option", { value: "" }, "none yet"));
  select.disabled = !listed.length;
  select.value = chosen ?? "";
  const asked = state.read();
  if (chosen && (asked.model || asked.job)) state.remember("model", chosen);
}

/** @param {state.State} asked */
const viewOf = (asked) => (Object.hasOwn(VIEWS, asked.view) ? asked.view : "train");

/** Updates the links. They open the views as the user left them, with the current model and training. */
function showViews() {
  const asked = state.read();
  for (const link of document.querySelectorAll("#views a")) {
    const own = link.getAttribute("data-view") ?? "";
    link.setAttribute("href", state.address({}, own === viewOf(asked) ? asked : state.left(own)));
    if (own === viewOf(asked)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** Opens the view in the address. */
async function open() {
  ends.abort();
  ends = new AbortController();
  const signal = ends.signal;
  const asked = state.read();
  const name = viewOf(asked);
  const view = VIEWS[name];
  document.title = `${view.title} · Kamon`;
  showViews();
  /** @type {Context} */
  const context = {
    root,
    signal,
    state: asked,
    models,
    watch: watched,
    say,
    fail,
    go,
    refresh,
    nameOf,
    taught,
    sessionOf,
    forgetSession,
  };
  replaceContent(root, h("p", { class: "loading" }, "Loading …"));
  root.dataset.view = name;
  try {
    await followAsked(asked, signal);
    const [model, { show }] = await Promise.all([wantedModel(), load(view)]);
    if (signal.aborted) return;
    replaceContent(root);
    showModels(model);
    context.models = models;
    if (model === null && view.needsModel) {
      waitForModel(signal);
      return;
    }
    if (notice) append(root, h("p", { class: "error notice", role: "alert" }, `⚠ ${notice}`));
    notice = "";
    await show(context, /** @type {ModelInfo} */ (model));
  } catch (error) {
    if (signal.aborted) return;
    root.querySelector(":scope > .loading")?.remove();
    try {
      fail(error);
    } finally {
      waysOn();
    }
  }
}

let missing = false; // whether a part of the page failed to load. A browser may not ask for it twice

/** @param {{load: () => Promise<View>}} view */
async function load(view) {
  try {
    return await view.load();
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    missing = true;
    throw new api.ApiError("The server does not answer. Is kamon serve still running?", 0);
  }
}

/**
 * Follows the training in the address, or that of the model in the address.
 * @param {state.State} asked
 * @param {AbortSignal} signal
 */
async function followAsked(asked, signal) {
  const own = asked.model?.split("@")[0];
  const id = asked.job ?? (own !== undefined && lists.has(own) ? own : undefined);
  if (id === undefined || id === watched.job?.id) return;
  try {
    watched.follow(await api.job(id, signal));
  } catch (error) {
    if (!(error instanceof api.ApiError) || error.status !== 404) throw error;
    state.change({ job: null, step: null });
    notice = "This training is gone. The server was restarted, or newer trainings replaced it.";
  }
}

let notice = ""; // appears above the next view

function another() {
  state.push(state.address({ model: null, session: null }));
  return start();
}

/** Shows links to continue with, below an error that ends the view. */
function waysOn() {
  const retry = async () => {
    if (missing) {
      try {
        await api.jobs();
        return location.reload();
      } catch {
        // The server still does not answer. start shows the error.
      }
    }
    return start();
  };
  const offered = root.querySelector(".another") !== null;
  append(
    root,
    button("Try again", retry),
    state.read().model && !offered ? button("Choose another model", another) : null,
  );
}

/** Opens another view, and moves the focus if it was in the previous one. */
async function turn() {
  await open();
  if (document.activeElement === document.body) root.focus({ preventScroll: true });
  say(document.title);
}

/** @param {AbortSignal} signal */
function waitForModel(signal) {
  append(
    root,
    h("h1", {}, "No model yet"),
    h("p", {}, "A model is training and will appear here in a moment. Follow its progress in the Train tab."),
  );
  const timer = setInterval(async () => {
    try {
      await refresh();
      const job = watched.job;
      if (!signal.aborted && ((await wantedModel()) || (job && isOver(job)))) open();
    } catch (error) {
      fail(error);
    }
  }, 700);
  signal.addEventListener("abort", () => clearInterval(timer));
}

/**
 * Goes to another view or model. The browser's Back button returns.
 * @param {Record<string, any>} changes
 */
function go(changes) {
  const same = !("view" in changes) || changes.view === state.read().view;
  const from = same ? state.read() : state.left(changes.view);
  state.push(state.address(changes, from));
  turn();
}

/** @param {string} theme */
function paint(theme) {
  document.documentElement.dataset.theme = theme;
  const press = byId("theme");
  replaceContent(
    press,
    h("span", { "aria-hidden": "true" }, { auto: "◐", light: "○", dark: "●" }[theme]),
    ` Colours: ${theme}`,
  );
}

function setUpTheme() {
  let theme = "auto";
  try {
    theme = localStorage.getItem("theme") ?? "auto";
  } catch {
    // This browser has no storage, so it uses the system's theme.
  }
  if (!THEMES.includes(theme)) theme = "auto";
  paint(theme);
  byId("theme").addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    paint(theme);
    try {
      localStorage.setItem("theme", theme);
    } catch {
      // As above.
    }
  });
}

/**
 * Shows the state of the training in the header.
 * @param {string} what
 */
function showTraining(what) {
  const job = watched.job;
  if (job) lists.set(job.id, job.source);
  const place = byId("training");
  if (what === "gone") {
    notice = "The server was restarted, so the running training is gone.";
    state.change({ job: null, step: null });
    start();
  }
  if (job && job.id === state.read().job) state.remember("job", job.id);
  if (!job || isOver(job)) place.textContent = "";
  else {
    const done = job.num_steps ? percent(job.step / job.num_steps) : "";
    place.textContent =
      watched.connection === "reconnecting"
        ? "connection lost, trying again"
        : `${{ queued: queued(job), starting: "training starts", running: "training", paused: "paused" }[String(job.state)]} ${done}`;
  }
  if (what === "moment" && job?.moments.length === 1) refresh().catch(() => {});
  if (what === "end") {
    const { job: asked, model } = state.read();
    if (job?.model && asked === job.id && !model) state.change({ model: job.model });
    refresh().catch(() => {});
    if (job?.state === "done") say("Training is done.");
  }
}

/** Loads the trainings and models from the server, and opens the view. */
async function start() {
  try {
    const jobs = await api.jobs();
    for (const job of jobs) lists.set(job.id, job.source);
    const { model, job: id = model?.split("@")[0] } = state.read();
    const newest = jobs.findLast((job) => !isOver(job)) ?? jobs[jobs.length - 1] ?? null;
    const own = jobs.find((job) => job.id === state.recall("job", "") && (id === undefined || !isOver(job)));
    watched.follow(jobs.find((job) => job.id === id) ?? own ?? (id === undefined ? newest : null));
    await refresh();
  } catch (error) {
    replaceContent(root);
    fail(error);
    waysOn();
    return;
  }
  await open();
}

function setUp() {
  replaceContent(
    byId("views"),
    ...Object.entries(VIEWS).map(([name, { title }], i) =>
      h("li", {}, h("a", { "data-view": name, "aria-keyshortcuts": i + 1 }, title)),
    ),
  );
  document.addEventListener("click", (event) => {
    const link = /** @type {Element} */ (event.target).closest("a[href^='?']");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    state.push(link.getAttribute("href") ?? "");
    turn().then(() => scrollTo({ top: 0, behavior: reducedMotion.matches ? "auto" : "smooth" }));
  });
  addEventListener("popstate", () => {
    state.moved();
    turn();
  });
  addEventListener("keydown", (event) => {
    const name = Object.keys(VIEWS)[Number(event.key) - 1];
    if (!name || event.defaultPrevented || isWriting(event.target)) return;
    if (!event.ctrlKey && !event.metaKey && !event.altKey) go({ view: name });
  });
  select.addEventListener("change", () => {
    const id = select.value.split("@")[0];
    go({
      model: select.value,
      job: lists.has(id) ? id : null,
      step: null,
      session: null,
      text: null,
      prefix: null,
      end: null,
    });
  });
  api.busy.tell = (waiting) => {
    byId("waiting").textContent = waiting ? "The server is busy. Waiting …" : "";
  };
  document.addEventListener("models", () => refresh().catch(() => {}));
  watched.listen(showTraining, new AbortController().signal);
  setUpTheme();
}

setUp();
start();
