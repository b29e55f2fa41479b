// The page: which view is open, which model, light or dark.

import * as api from "./api.js";
import * as state from "./state.js";
import { button, calm, h, isWriting, percent, put, swap } from "./dom.js";
import { isOver, watch } from "./watch.js";

/**
 * @typedef {import("./api.js").ModelInfo} ModelInfo
 * What a view is given: it fills `root`, and ends with `signal`.
 * @typedef {object} Context
 * @property {HTMLElement} root
 * @property {AbortSignal} signal
 * @property {state.State} state
 * @property {ModelInfo[]} models
 * @property {ReturnType<typeof watch>} watch
 * @property {(text: string) => void} say  to those who cannot see it
 * @property {(error: unknown, where?: Element) => void} fail  shows what went wrong
 * @property {(changes: Record<string, any>) => void} go  to another view, or another model
 * @property {() => Promise<void>} refresh  asks for the models again
 * @property {(model: ModelInfo) => string} nameOf  as it is shown
 */

/**
 * Each is loaded when it is opened.
 * @typedef {{show: (context: Context, model: ModelInfo) => unknown}} View
 * @type {Record<string, {title: string, needsModel: boolean, load: () => Promise<View>}>}
 */
const VIEWS = {
  train: { title: "Train", needsModel: false, load: () => import("./train.js") },
  generate: { title: "Generate", needsModel: true, load: () => import("./generate.js") },
  teach: { title: "Teach", needsModel: true, load: () => import("./teach.js") },
  inside: { title: "Inside", needsModel: true, load: () => import("./inside.js") },
  data: { title: "Data", needsModel: true, load: () => import("./data.js") },
};
const THEMES = ["auto", "light", "dark"];

/** @template {Element} T @param {string} id */
const byId = (id) => /** @type {T} */ (/** @type {unknown} */ (document.getElementById(id)));
const root = /** @type {HTMLElement} */ (byId("main"));
const select = /** @type {HTMLSelectElement} */ (byId("model"));
const watched = watch();
/** @type {ModelInfo[]} */
let models = [];
let ends = new AbortController();

/** @param {string} text */
function say(text) {
  byId("say").textContent = text;
}

/**
 * The sentence of an error, where it happened.
 * @param {unknown} error
 * @param {Element} [where]
 */
function fail(error, where = root) {
  if (api.isAbort(error)) return;
  if (!(error instanceof api.ApiError)) throw error;
  where.querySelector(":scope > .error")?.remove();
  where.append(h("p", { class: "error", role: "alert" }, `⚠ ${error.message}`));
}

async function refresh() {
  models = await api.models();
  showModels(await wantedModel());
  showViews();
}

/** The one that the address asks for, else the newest, but not one that was taught; else a moment. */
async function wantedModel() {
  const asked = state.read().model;
  if (asked) {
    const found = models.find((each) => each.id === asked);
    return found ?? api.model(asked);
  }
  const whole = models.filter((each) => each.parent === null);
  const moments = watched.job?.moments ?? [];
  const untaught = whole.filter((each) => each.kind !== "tuned");
  const newest = [...whole, ...untaught].pop();
  if (newest) return newest;
  return moments.length ? api.model(moments[moments.length - 1].model) : null;
}

/** @type {Map<string, string>} */
const lists = new Map(); // what a training learns from, by its id

/**
 * The list of a training, or the name under which a model is saved.
 * @param {ModelInfo} model
 */
function nameOf(model) {
  const id = model.parent ?? model.id;
  const list = lists.get(id);
  const name = list === undefined ? id : `${list} (${id.replace("job-", "").slice(0, 4)})`;
  if (model.parent !== null) return `${name}, step ${model.step?.toLocaleString("en-GB")}`;
  return name;
}

/** @param {ModelInfo|null} current */
function showModels(current) {
  const chosen = current?.id;
  const listed = models.filter((each) => each.parent === null || each.id === chosen);
  if (current && !listed.some((each) => each.id === current.id)) listed.push(current);
  swap(
    select,
    ...listed.map((each) => h("option", { value: each.id }, each.parent !== null || each.saved ? nameOf(each) : `${nameOf(each)}, not saved`)),
  );
  if (!listed.length) put(select, h("option", { value: "" }, "none yet"));
  select.disabled = !listed.length;
  select.value = chosen ?? "";
}

/** @param {state.State} asked */
const viewOf = (asked) => (Object.hasOwn(VIEWS, asked.view) ? asked.view : "train");

/** The links to the views, with the model that is chosen. */
function showViews() {
  const asked = state.read();
  for (const link of document.querySelectorAll("#views a")) {
    const own = link.getAttribute("data-view") ?? "";
    link.setAttribute("href", state.address({ view: own, model: asked.model ?? null }, {}));
    if (own === viewOf(asked)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** Opens the view that the address names. */
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
  const context = { root, signal, state: asked, models, watch: watched, say, fail, go, refresh, nameOf };
  swap(root);
  root.dataset.view = name;
  try {
    const [model, { show }] = await Promise.all([wantedModel(), view.load()]);
    if (signal.aborted) return;
    showModels(model);
    context.models = models;
    if (model === null && view.needsModel) {
      waitForModel(signal);
      return;
    }
    await show(context, /** @type {ModelInfo} */ (model));
  } catch (error) {
    if (signal.aborted) return;
    fail(error);
    waysOn();
  }
}

/** Below an error, with which nothing else is to be done. */
function waysOn() {
  const without = () => {
    state.push(state.address({ model: null }));
    return start();
  };
  put(root, button("Try again", start), state.read().model ? button("Take another model", without) : null);
}

/** Opens a view in place of another, in which the focus may have been. */
async function turn() {
  await open();
  if (document.activeElement === document.body) root.focus({ preventScroll: true });
  say(document.title);
}

/** @param {AbortSignal} signal */
function waitForModel(signal) {
  put(
    root,
    h("h1", {}, "No model yet"),
    h("p", {}, "One is learned as you read this: it opens here in a moment. The Train view shows how it comes on."),
  );
  const timer = setInterval(async () => {
    try {
      await refresh();
      if (!signal.aborted && (models.length || watched.job?.moments.length)) open();
    } catch (error) {
      fail(error);
    }
  }, 700);
  signal.addEventListener("abort", () => clearInterval(timer));
}

/**
 * Another view, with a step back in the history.
 * @param {Record<string, any>} changes
 */
function go(changes) {
  const same = !("view" in changes) || changes.view === state.read().view;
  const from = same ? state.read() : { model: state.read().model ?? "" };
  state.push(state.address(changes, from));
  turn();
}

/** @param {string} theme */
function paint(theme) {
  document.documentElement.dataset.theme = theme;
  const press = byId("theme");
  swap(press, h("span", { "aria-hidden": "true" }, { auto: "◐", light: "○", dark: "●" }[theme]), ` ${theme}`);
  press.setAttribute("aria-label", `Colours: ${theme}`);
}

function setUpTheme() {
  let theme = "auto";
  try {
    theme = localStorage.getItem("theme") ?? "auto";
  } catch {
    // A browser that keeps nothing asks each time.
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

/** @param {string} what */
function showTraining(what) {
  const job = watched.job;
  if (job) lists.set(job.id, job.source);
  const place = byId("training");
  if (what === "gone") {
    say("The server was started again, and that training is gone.");
    state.change({ job: null, step: null });
    start();
  }
  if (!job || isOver(job)) place.textContent = "";
  else {
    const done = job.num_steps ? percent(job.step / job.num_steps) : "";
    place.textContent =
      watched.connection === "reconnecting"
        ? "connection lost, trying again"
        : `${{ starting: "training starts", running: "training", paused: "paused" }[String(job.state)]} ${done}`;
  }
  if (what === "end") {
    refresh().catch(() => {});
    if (job?.state === "done") say("The training is done.");
  }
}

/** Finds out what there is, and opens the view. */
async function start() {
  try {
    const jobs = await api.jobs();
    for (const job of jobs) lists.set(job.id, job.source);
    await refresh();
    const wanted =
      jobs.find((job) => job.id === state.read().job) ??
      jobs.findLast((job) => !isOver(job)) ??
      jobs[jobs.length - 1] ??
      null;
    watched.follow(wanted);
  } catch (error) {
    swap(root);
    fail(error);
    waysOn();
    return;
  }
  await open();
}

function setUp() {
  swap(
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
    turn().then(() => scrollTo({ top: 0, behavior: calm.matches ? "auto" : "smooth" }));
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
  select.addEventListener("change", () => go({ model: select.value, session: null, text: null, prefix: null }));
  watched.listen(showTraining, new AbortController().signal);
  setUpTheme();
}

setUp();
start();
