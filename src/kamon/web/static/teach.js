// Teach: names come one by one or in pairs, a key says which is good, and the model follows.

import * as api from "./api.js";
import { copies, flags, placeOf, python, shell } from "./copy.js";
import { button, calm, field, figures, h, isOff, isWriting, name, names, panel, put, s, swap, switchOff, table } from "./dom.js";
import { count, fixed, many, percent } from "./format.js";
import { saveForm } from "./save.js";
import { address, change } from "./state.js";
import { inline, likedSentence } from "./text.js";

/**
 * @typedef {import("./main.js").Context} Context
 * @typedef {import("./api.js").ModelInfo} ModelInfo
 * @typedef {import("./api.js").Ratings} Ratings
 * @typedef {import("./api.js").Answer} Answer
 */

/** @param {Context} context @param {ModelInfo} model */
export async function show(context, model) {
  const { root, state, signal } = context;
  put(
    root,
    h("h1", {}, "Teach"),
    h("p", { class: "lead" }, "Say what you like. After every few answers the model learns from all of them, and proposes other names."),
  );
  const id = state.session ?? context.sessionOf(model);
  if (id) {
    try {
      const found = await api.ratings(id, signal);
      change({ session: found.id });
      return session(context, found);
    } catch (error) {
      if (!(error instanceof api.ApiError) || ![404, 410].includes(error.status)) throw error;
      context.forgetSession(id);
      change({ session: null });
      const why = error.status === 410 ? error.message : "That session is gone: the server was restarted, or newer sessions took its place.";
      put(root, h("p", { class: "error", role: "alert" }, `⚠ ${why} Begin a new one.`));
    }
  }
  put(root, beginning(context, model));
}

/** @param {Context} context @param {ModelInfo} model */
function beginning(context, model) {
  const { state, root } = context;
  if (model.text) return panel("Begin", h("p", {}, "This model has learned a text. Teaching is for models of names: take another one."));
  const one = h("input", { type: "radio", name: "way", checked: state.pairs !== "1" });
  const two = h("input", { type: "radio", name: "way", checked: state.pairs === "1" });
  const every = h("select", {}, ...[3, 5, 10, 20].map((n) => h("option", { value: n }, `every ${n} answers`)));
  every.value = ["3", "5", "10", "20"].includes(state.every) ? state.every : "5";
  const seed = h("input", { type: "number", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, value: state.seed ?? String(model.seed) });
  const errors = h("div", { class: "errors" });
  const start = h("button", { type: "submit", class: "main" }, "Begin");
  return panel(
    "Begin",
    h(
      "form",
      {
        submit: async (/** @type {Event} */ event) => {
          event.preventDefault();
          if (isOff(start)) return;
          swap(errors);
          switchOff(start, true);
          try {
            const found = await api.startRatings({
              model: model.id,
              pairs: two.checked,
              every: Number(every.value),
              seed: Number(seed.value),
            });
            change({ session: found.id, pairs: found.pairs, every: found.every, seed: seed.value });
            root.querySelector(".panel")?.remove();
            root.querySelector(".error")?.remove();
            session(context, found);
            const stage = /** @type {HTMLElement} */ (root.querySelector(".stage"));
            stage.tabIndex = -1;
            stage.focus({ preventScroll: true });
          } catch (error) {
            context.fail(error, errors);
          } finally {
            switchOff(start, false);
          }
        },
      },
      h(
        "fieldset",
        { class: "choice" },
        h("legend", {}, `How ${context.nameOf(model)} proposes`),
        h("label", {}, one, "one by one: good or not"),
        h("label", {}, two, "in pairs: the better one"),
      ),
      h("div", { class: "row wide" }, field("It learns", every), field("Seed", seed)),
      start,
      errors,
    ),
  );
}

/**
 * A button with a thumb.
 * @param {string} text
 * @param {boolean} down
 * @param {() => void} press
 * @param {Record<string, any>} props
 */
function thumb(text, down, press, props) {
  const hand = "M3 11h4v9H3z M8.5 11 12 3.5c1.6 0 2.6 1.2 2.3 2.7L13.6 10H19c1.3 0 2.2 1.1 1.9 2.4l-1.4 6c-.2.9-1 1.6-2 1.6H8.5z";
  const node = button("", press, props);
  put(
    node,
    s("svg", { viewBox: "0 0 24 24", width: 22, height: 22, "aria-hidden": "true" }, s("path", { d: hand, transform: down ? "rotate(180 12 12)" : null })),
    text,
  );
  return node;
}

/** @param {string} text */
const looks = (text) => `card${calm.matches ? "" : " come"}${[...text].length > 30 ? " long" : ""}`;

/** @param {string|string[]} proposal */
const keyOf = (proposal) => JSON.stringify(proposal);

/** @param {Answer} answer */
const keyOfAnswer = (answer) =>
  "text" in answer ? keyOf(answer.text) : keyOf([answer.chosen, answer.rejected].sort());

/** @param {string|string[]} proposal */
const plain = (proposal) => keyOf(typeof proposal === "string" ? proposal : [...proposal].sort());

/**
 * A session that goes on: cards at once, without waiting for the server.
 * @param {Context} context
 * @param {Ratings} begun
 */
function session(context, begun) {
  const { root, signal, say } = context;
  let ratings = begun;
  /** @type {(string|string[])[]} */
  let queue = [];
  /** @type {Set<string>} */
  const skipped = new Set();
  /** @type {(Answer|"undo"|"more")[]} */
  let waiting = []; // for the server, which has the first of them if it is `busy`
  let busy = false;
  /** @type {(string|string[])[]} */
  let before = []; // what was proposed before it learned

  const card = h("div", { class: "cards" });
  const progress = h("p", { class: "status", "aria-live": "polite" });
  const errors = h("div", { class: "errors" });
  const results = h("div", { class: "two" });
  const keys = ratings.pairs
    ? "Keys: a or b for the better one, s to skip, u to undo"
    : "Keys: y if you like it, n if not, s to skip, u to undo";
  const undo = button("↶ Undo", takeBack, { "aria-keyshortcuts": "u" });
  const stage = panel(ratings.pairs ? "Which is better?" : "Do you like it?", card, h("p", { class: "hint keys" }, keys), progress, errors);
  stage.classList.add("stage");
  const base = context.models.find((each) => each.id === ratings.base);
  const place = base ? placeOf(base) : ratings.base;
  const copy = copies(() => ({
    command:
      `kamon rate ${shell(place)}${flags({ pairs: ratings.pairs, every: ratings.every })} -o rated\n\n` +
      "# in the terminal, with the same keys; what was answered is kept in rated.jsonl",
    python:
      "from kamon import rate\nfrom kamon.preferences import Preference, Verdict\n\n" +
      `base = rate.opened(${python(place)})\nanswers = [\n` +
      ratings.answers
        .map((each) =>
          "text" in each
            ? `    Verdict(${python(each.text)}, ${python(each.liked)}),\n`
            : `    Preference(${python(each.chosen)}, ${python(each.rejected)}),\n`,
        )
        .join("") +
      ']\nmodel = rate.align(base, answers, output="rated")',
  }), base);
  put(root, stage, results, savePanel(), copy.node);

  const unsent = () => waiting.filter((each) => typeof each !== "string");

  function refill() {
    const gone = new Set([...unsent().map(keyOfAnswer), ...skipped]);
    queue = ratings.proposals.filter((each) => !gone.has(plain(each)));
  }

  function draw() {
    refill();
    drawCard();
    const taken = waiting.filter((each) => each === "undo").length;
    const done = Math.max(0, ratings.answers.length + unsent().length - taken);
    const left = ratings.every - ((done - ratings.num_aligned) % ratings.every || 0);
    switchOff(undo, !done);
    const learned = ratings.measured;
    swap(
      progress,
      `${many(done, "answer")}. `,
      learned && ratings.num_aligned
        ? `It has learned from ${count(ratings.num_aligned)}, in ${fixed(learned.seconds, 2)} s. `
        : "",
      `${left} more until it learns${ratings.num_aligned ? " again" : ""}.`,
    );
    copy.refresh();
  }

  function drawCard() {
    const focused = card.contains(document.activeElement) ? document.activeElement?.getAttribute("data-act") : null;
    const shown = queue[0];
    if (shown === undefined) {
      swap(card, h("p", { class: "wait" }, waiting.length ? "It is learning …" : "It has no more names that you have not seen. Start over with another seed."), h("div", { class: "buttons" }, undo));
      return;
    }
    const skip = button("Skip", pass, { "aria-keyshortcuts": "s", "data-act": "s" });
    if (typeof shown === "string") {
      swap(
        card,
        h("p", { class: looks(shown), "aria-live": "polite" }, name(shown)),
        h(
          "div",
          { class: "buttons thumbs" },
          thumb("No", true, () => answer("n"), { "data-act": "n", "aria-keyshortcuts": "n" }),
          thumb("Yes", false, () => answer("y"), { "data-act": "y", "aria-keyshortcuts": "y", class: "main" }),
        ),
        h("div", { class: "buttons" }, skip, undo),
      );
    } else {
      swap(
        card,
        h(
          "div",
          { class: "pair" },
          ...shown.slice(0, 2).map((text, i) =>
            h(
              "button",
              {
                type: "button",
                class: looks(text),
                click: () => answer(i ? "b" : "a"),
                "data-act": i ? "b" : "a",
                "aria-keyshortcuts": i ? "b" : "a",
              },
              h("span", { class: "which" }, i ? "b" : "a"),
              name(text),
            ),
          ),
        ),
        h("div", { class: "buttons" }, skip, undo),
      );
      say(shown.map((each) => inline(each)).join(" or "));
    }
    if (focused) /** @type {HTMLElement|null} */ (card.querySelector(`[data-act="${focused}"]`))?.focus();
  }

  /** @param {string} key */
  function answer(key) {
    const shown = queue[0];
    if (shown === undefined) return;
    /** @type {Answer} */
    let given;
    if (typeof shown === "string") {
      if (key !== "y" && key !== "n") return;
      given = { text: shown, liked: key === "y" };
    } else {
      if (key !== "a" && key !== "b") return;
      const [first, second] = key === "a" ? shown : [shown[1], shown[0]];
      given = { chosen: first, rejected: second };
    }
    send(given);
  }

  function pass() {
    if (!queue.length) return;
    skipped.add(plain(queue[0]));
    draw();
    if (!queue.length) send("more");
  }

  /**
   * One after the other; the next card does not wait for it.
   * @param {Answer|"undo"|"more"} what  "more": other proposals, without an answer
   */
  async function send(what) {
    waiting.push(what);
    draw();
    if (busy) return;
    busy = true;
    swap(errors);
    try {
      while (waiting.length) { // also those of a view that was left
        const first = waiting[0];
        const last = ratings.num_aligned;
        const shown = ratings.proposals.slice(0, 8);
        if (first === "undo") ratings = await api.undo(ratings.id);
        else ratings = await api.answer(ratings.id, first === "more" ? [] : [first]);
        waiting.shift();
        if (ratings.num_aligned > last) before = shown;
        if (ratings.num_aligned !== last) learned();
        draw();
      }
    } catch (error) {
      waiting = [];
      draw();
      context.fail(error, errors);
    } finally {
      busy = false;
    }
  }

  function takeBack() {
    if (isOff(undo)) return;
    skipped.clear();
    say("The last answer is undone.");
    const last = waiting[waiting.length - 1];
    if (last && typeof last !== "string" && (waiting.length > 1 || !busy)) {
      waiting.pop();
      draw();
    } else send("undo");
  }

  function learned() {
    const m = ratings.measured;
    if (m && ratings.num_aligned) say(`It has learned from ${many(ratings.num_aligned, "answer")} in ${fixed(m.seconds, 2)} seconds. ${liking()}`);
    drawResults();
    context.taught(ratings, !signal.aborted).catch(() => {}); // The header still has the model before.
  }

  const liking = () => likedSentence(ratings.answers);

  function drawResults() {
    const m = ratings.measured;
    if (!m || !ratings.num_aligned) {
      swap(results);
      return;
    }
    swap(
      results,
      panel(
        "What it has learned",
        h("p", { class: "big" }, liking() || `It has learned from ${many(ratings.num_aligned, "answer")}.`),
        h("p", {}, `The names that you liked are now ${m.liked >= 1 ? "more" : "less"} probable than before, and those that you disliked ${m.disliked <= 1 ? "less" : "more"}.`),
        figures([
          ["reward, on average", fixed(m.reward)],
          ["KL to the base, nats", `${fixed(m.kl)} ± ${fixed(m.kl_error)}`],
          ["new names, taught", percent(m.novelty)],
          ["new names, before", percent(m.base_novelty)],
        ]),
        h("p", { class: "hint" }, "Reward: how much better its names fit your answers than those of the base model. KL: how far it has moved. Near 0 it has hardly changed, above 5 it is another model. New: not in the list."),
        before.length > 0 &&
          h(
            "dl",
            { class: "change" },
            h("dt", {}, "proposed before"),
            h("dd", {}, ...names(before.flat(), ", ")),
            h("dt", {}, "proposed now"),
            h("dd", {}, ...names(ratings.proposals.slice(0, 8).flat(), ", ")),
          ),
      ),
      panel(
        "Side by side",
        h("p", {}, "The same draws, by the model as it was and as it is."),
        h(
          "div",
          { class: "scroll", tabindex: 0, role: "region", "aria-label": "Side by side" },
          table(
            "● is in the list that it learned",
            ["#", "Before", "Taught"],
            ratings.compared.map((each, i) => [
              i + 1,
              h("span", {}, name(each.base), each.base_in_list ? " ●" : ""),
              h("span", { class: each.base === each.tuned ? "same" : "other" }, name(each.tuned), each.tuned_in_list ? " ●" : ""),
            ]),
          ),
        ),
        h(
          "p",
          { class: "onward" },
          "This is now the model in use: ",
          h("a", { href: address({ view: "generate", model: ratings.model }, {}) }, "generate"),
          " · ",
          h("a", { href: address({ view: "inside", model: ratings.model }, {}) }, "look inside"),
        ),
      ),
    );
  }

  function savePanel() {
    return panel(
      "Save",
      saveForm(context, "Save the taught model as", (name) => api.saveRatings(ratings.id, name)),
      button("Start over", () => {
        context.forgetSession(ratings.id);
        context.go({ session: null, model: ratings.base });
      }),
    );
  }

  document.addEventListener(
    "keydown",
    (event) => {
      if (isWriting(event.target) || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
      const key = event.key.toLowerCase();
      if (key === "u") takeBack();
      else if (key === "s") pass();
      else if (["y", "n", "a", "b"].includes(key)) answer(key);
      else return;
      event.preventDefault();
    },
    { signal },
  );
  drawResults();
  draw();
  context.taught(ratings, true).catch(() => {}); // as above
}
