// Teach: the user rates names or pairs of names, and the model learns from the answers.

import * as api from "./api.js";
import { copies, flags, placeOf, python, shell } from "./copy.js";
import {
  button,
  reducedMotion,
  explained,
  field,
  figures,
  h,
  isDisabled,
  isWriting,
  name,
  names,
  panel,
  append,
  s,
  replaceContent,
  setDisabled,
  table,
} from "./dom.js";
import { count, fixed, plural, percent } from "./format.js";
import { graphemes } from "./graphemes.js";
import { saveForm } from "./save.js";
import * as session from "./session.js";
import { address, change } from "./state.js";
import { inline, likedSentence } from "./text.js";

/**
 * @typedef {import("./main.js").Context} Context
 * @typedef {import("./api.js").ModelInfo} ModelInfo
 * @typedef {import("./api.js").Ratings} Ratings
 */

/** @param {Context} context @param {ModelInfo} model */
export async function show(context, model) {
  const { root, state, signal } = context;
  append(
    root,
    h("h1", {}, "Teach"),
    h(
      "p",
      { class: "lead" },
      "Rate names, and the model learns your taste. It learns after every few answers, then proposes new names.",
    ),
  );
  const id = state.session ?? context.sessionOf(model);
  if (id) {
    try {
      const found = await api.ratings(id, signal);
      change({ session: found.id });
      return new SessionView(context, found).open();
    } catch (error) {
      if (!(error instanceof api.ApiError) || ![404, 410].includes(error.status)) throw error;
      context.forgetSession(id);
      change({ session: null });
      const why =
        error.status === 410
          ? error.message
          : "That session is gone. The server was restarted, or newer sessions replaced it.";
      append(root, h("p", { class: "error", role: "alert" }, `⚠ ${why} Start a new one.`));
    }
  }
  append(root, beginPanel(context, model));
}

/** @param {Context} context @param {ModelInfo} model */
function beginPanel(context, model) {
  const { state } = context;
  if (model.text)
    return panel(
      "Start rating",
      h("p", {}, "This model was trained on one long text. Teaching needs a model of a list, so choose another one."),
    );
  const one = h("input", { type: "radio", name: "way", checked: state.pairs !== "1" });
  const two = h("input", { type: "radio", name: "way", checked: state.pairs === "1" });
  const every = h("select", {}, ...[3, 5, 10, 20].map((n) => h("option", { value: n }, `every ${n} answers`)));
  every.value = ["3", "5", "10", "20"].includes(state.every) ? state.every : "5";
  const seed = h("input", {
    type: "number",
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    step: 1,
    value: state.seed ?? String(model.seed),
  });
  const errors = h("div", { class: "errors" });
  const start = h("button", { type: "submit", class: "main" }, "Start rating");
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (isDisabled(start)) return;
    replaceContent(errors);
    setDisabled(start, true);
    try {
      const request = { model: model.id, pairs: two.checked, every: Number(every.value), seed: Number(seed.value) };
      const found = await api.startRatings(request);
      change({ session: found.id, pairs: found.pairs, every: found.every, seed: seed.value });
      openInPlace(context, found);
    } catch (error) {
      context.fail(error, errors);
    } finally {
      setDisabled(start, false);
    }
  };
  const ways = h(
    "fieldset",
    { class: "choice" },
    h("legend", {}, `Rate what ${context.nameOf(model)} generates`),
    h("label", {}, one, "one by one"),
    h("label", {}, two, "in pairs"),
  );
  const row = h("div", { class: "row wide" }, field("Learn", every), field("Seed", seed));
  return panel("Start rating", h("form", { submit }, ways, row, start, errors));
}

/**
 * Replaces the start panel with the session, and moves the focus there.
 * @param {Context} context
 * @param {Ratings} ratings
 */
function openInPlace(context, ratings) {
  const { root } = context;
  root.querySelector(".panel")?.remove();
  root.querySelector(".error")?.remove();
  new SessionView(context, ratings).open();
  const stage = /** @type {HTMLElement} */ (root.querySelector(".stage"));
  stage.tabIndex = -1;
  stage.focus({ preventScroll: true });
}

/**
 * A button with a thumb.
 * @param {string} text
 * @param {boolean} down
 * @param {() => void} press
 * @param {Record<string, any>} props
 */
function thumb(text, down, press, props) {
  const hand =
    "M3 11h4v9H3z M8.5 11 12 3.5c1.6 0 2.6 1.2 2.3 2.7L13.6 10H19c1.3 0 2.2 1.1 1.9 2.4l-1.4 6c-.2.9-1 1.6-2 1.6H8.5z";
  const node = button("", press, props);
  append(
    node,
    s(
      "svg",
      { viewBox: "0 0 24 24", width: 22, height: 22, "aria-hidden": "true" },
      s("path", { d: hand, transform: down ? "rotate(180 12 12)" : null }),
    ),
    text,
  );
  return node;
}

/** @param {string} text */
const looks = (text) => `card${reducedMotion.matches ? "" : " come"}${graphemes(text).length > 30 ? " long" : ""}`;

/**
 * Returns the session as Python, and the command that starts one.
 * @param {Ratings} ratings
 * @param {string} place  of the base model
 */
function codeOf(ratings, place) {
  const answers = ratings.answers.map((each) =>
    "text" in each
      ? `    Rating(${python(each.text)}, ${python(each.liked)}),\n`
      : `    Preference(${python(each.chosen)}, ${python(each.rejected)}),\n`,
  );
  return {
    command:
      `kamon rate ${shell(place)}${flags({ pairs: ratings.pairs, every: ratings.every })} -o rated\n\n` +
      "# rate in the terminal with the same keys. Your answers are kept in rated.jsonl",
    python:
      "from kamon.finetuning import rating\nfrom kamon.finetuning.preferences import Preference, Rating\n\n" +
      `base = rating.opened(${python(place)})\nanswers = [\n${answers.join("")}` +
      ']\nmodel = rating.align(base, answers, output="rated")',
  };
}

/** A running session. The next card appears without waiting for the server. */
class SessionView {
  /**
   * @param {Context} context
   * @param {Ratings} ratings
   */
  constructor(context, ratings) {
    this.context = context;
    this.state = session.begun(ratings);
    this.busy = false; // whether the server is working on a message
    this.card = h("div", { class: "cards" });
    this.progress = h("p", { class: "status", "aria-live": "polite" });
    this.errors = h("div", { class: "errors" });
    this.results = h("div", { class: "two" });
    this.undo = button("↶ Undo", () => this.takeBack(), { "aria-keyshortcuts": "u" });
    const base = context.models.find((each) => each.id === ratings.base);
    this.copy = copies(() => codeOf(this.state.ratings, base ? placeOf(base) : ratings.base), base);
  }

  open() {
    const { root, signal } = this.context;
    const { pairs } = this.state.ratings;
    const keys = pairs
      ? "Keys: a or b for the better one, s to skip, u to undo"
      : "Keys: y if you like it, n if not, s to skip, u to undo";
    const hint = h("p", { class: "hint keys" }, keys);
    const stage = panel(pairs ? "Which is better?" : "Do you like it?", this.card, hint, this.progress, this.errors);
    stage.classList.add("stage");
    append(root, stage, this.results, this.savePanel(), this.copy.node);
    document.addEventListener("keydown", (event) => this.pressed(event), { signal });
    this.drawResults();
    this.draw();
    this.takeNote(true);
  }

  savePanel() {
    const { context } = this;
    const { id, base } = this.state.ratings;
    return panel(
      "Save",
      saveForm(context, "Save the taught model as", (name) => api.saveRatings(id, name)),
      button("Start over", () => {
        context.forgetSession(id);
        context.go({ session: null, model: base });
      }),
    );
  }

  /** @param {KeyboardEvent} event */
  pressed(event) {
    if (isWriting(event.target) || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const key = event.key.toLowerCase();
    if (key === "u") this.takeBack();
    else if (key === "s") this.skip();
    else if (["y", "n", "a", "b"].includes(key)) this.answer(key);
    else return;
    event.preventDefault();
  }

  draw() {
    this.drawCard();
    const { ratings } = this.state;
    const { done, left } = session.progressOf(this.state);
    setDisabled(this.undo, !done);
    const measured = ratings.measured;
    replaceContent(
      this.progress,
      `${plural(done, "answer")}. `,
      measured && ratings.num_aligned
        ? `The model learned from ${count(ratings.num_aligned)} in ${fixed(measured.seconds, 2)} s. `
        : "",
      `${left} more until the model learns${ratings.num_aligned ? " again" : ""}.`,
    );
    this.copy.refresh();
  }

  drawCard() {
    const { card, undo } = this;
    const focused = card.contains(document.activeElement) ? document.activeElement?.getAttribute("data-act") : null;
    const shown = session.queueOf(this.state)[0];
    if (shown === undefined) {
      const text = this.state.waiting.length
        ? "The model is learning …"
        : "The model has no more unseen names. Start over with another seed.";
      replaceContent(card, h("p", { class: "wait" }, text), h("div", { class: "buttons" }, undo));
      return;
    }
    const skip = button("Skip", () => this.skip(), { "aria-keyshortcuts": "s", "data-act": "s" });
    const choice = typeof shown === "string" ? this.nameCard(shown) : [this.pairCard(shown)];
    replaceContent(card, ...choice, h("div", { class: "buttons" }, skip, undo));
    if (typeof shown !== "string") this.context.say(shown.map((each) => inline(each)).join(" or "));
    if (focused) /** @type {HTMLElement|null} */ (card.querySelector(`[data-act="${focused}"]`))?.focus();
  }

  /** @param {string} text */
  nameCard(text) {
    return [
      h("p", { class: looks(text), "aria-live": "polite" }, name(text)),
      h(
        "div",
        { class: "buttons thumbs" },
        thumb("No", true, () => this.answer("n"), { "data-act": "n", "aria-keyshortcuts": "n" }),
        thumb("Yes", false, () => this.answer("y"), { "data-act": "y", "aria-keyshortcuts": "y", class: "main" }),
      ),
    ];
  }

  /** @param {string[]} pair */
  pairCard(pair) {
    const cards = pair.slice(0, 2).map((text, i) => {
      const key = i ? "b" : "a";
      const click = () => this.answer(key);
      const props = { type: "button", class: looks(text), click, "data-act": key, "aria-keyshortcuts": key };
      return h("button", props, h("span", { class: "which" }, key), name(text));
    });
    return h("div", { class: "pair" }, ...cards);
  }

  /** @param {string} key */
  answer(key) {
    const shown = session.queueOf(this.state)[0];
    const given = shown === undefined ? null : session.answerOf(shown, key);
    if (given) this.send(given);
  }

  skip() {
    const shown = session.queueOf(this.state)[0];
    if (shown === undefined) return;
    this.state = session.skipping(this.state, shown);
    this.draw();
    if (!session.queueOf(this.state).length) this.send("more");
  }

  takeBack() {
    if (isDisabled(this.undo)) return;
    this.context.say("Undid the last answer.");
    const { session: next, undo } = session.takenBack(this.state, this.busy);
    this.state = next;
    if (undo) this.send("undo");
    else this.draw();
  }

  /**
   * Sends a message after the waiting ones. The next card does not wait for it.
   * @param {import("./session.js").Message} message
   */
  async send(message) {
    this.state = session.sending(this.state, message);
    this.draw();
    if (this.busy) return;
    this.busy = true;
    replaceContent(this.errors);
    try {
      while (this.state.waiting.length) await this.sendFirst(); // even if the user has left the view
    } catch (error) {
      this.state = session.failed(this.state);
      this.draw();
      this.context.fail(error, this.errors);
    } finally {
      this.busy = false;
    }
  }

  async sendFirst() {
    const { ratings, waiting } = this.state;
    const first = waiting[0];
    const found = await (first === "undo"
      ? api.undo(ratings.id)
      : api.answer(ratings.id, first === "more" ? [] : [first]));
    this.state = session.answered(this.state, found);
    if (found.num_aligned !== ratings.num_aligned) this.learned();
    this.draw();
  }

  learned() {
    const { measured, num_aligned, answers } = this.state.ratings;
    if (measured && num_aligned) {
      const seconds = fixed(measured.seconds, 2);
      this.context.say(
        `The model learned from ${plural(num_aligned, "answer")} in ${seconds} seconds. ${likedSentence(answers)}`,
      );
    }
    this.drawResults();
    this.takeNote(!this.context.signal.aborted);
  }

  /** @param {boolean} use  whether to use the taught model from now on */
  takeNote(use) {
    this.context.taught(this.state.ratings, use).catch(() => {}); // on an error, the header keeps the previous model
  }

  drawResults() {
    const { measured, num_aligned } = this.state.ratings;
    if (measured && num_aligned)
      replaceContent(this.results, learnedPanel(this.state, measured), comparedPanel(this.state.ratings));
    else replaceContent(this.results);
  }
}

/**
 * @param {session.Session} state
 * @param {NonNullable<Ratings["measured"]>} measured
 */
function learnedPanel(state, measured) {
  const { answers, num_aligned } = state.ratings;
  const change = [
    h("dt", {}, "proposed before"),
    h("dd", {}, ...names(state.before.flat(), ", ")),
    h("dt", {}, "proposed now"),
    h("dd", {}, ...names(session.shownOf(state).flat(), ", ")),
  ];
  return panel(
    "Result",
    h("p", { class: "big" }, likedSentence(answers) || `The model learned from ${plural(num_aligned, "answer")}.`),
    figures([
      ["mean reward", fixed(measured.reward)],
      ["KL to the base, nats per sample", `${fixed(measured.kl)} ± ${fixed(measured.kl_error)}`],
      ["novel names, taught", percent(measured.novelty)],
      ["novel names, before", percent(measured.base_novelty)],
    ]),
    h(
      "p",
      { class: "hint" },
      ...explained(
        "Reward: how much better the new names fit your answers than the names of the base. KL: how far the model moved from the base. Near 0 it hardly changed, above 5 it is a different model. Novel: not in the list.",
      ),
    ),
    state.before.length > 0 && h("dl", { class: "change" }, ...change),
  );
}

/** @param {Ratings} ratings */
function comparedPanel(ratings) {
  const rows = ratings.compared.map((each, i) => [
    i + 1,
    h("span", {}, name(each.base), each.base_in_list ? " ●" : ""),
    h("span", { class: each.base === each.tuned ? "same" : "other" }, name(each.tuned), each.tuned_in_list ? " ●" : ""),
  ]);
  return panel(
    "Side by side",
    h("p", {}, "Names from both models, sampled with the same random numbers."),
    h(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Side by side" },
      table("● in the list", ["#", "Before", "Taught"], rows),
    ),
    h(
      "p",
      { class: "onward" },
      "You now use the taught model: ",
      h("a", { href: address({ view: "generate", model: ratings.model }, {}) }, "generate"),
      " · ",
      h("a", { href: address({ view: "inside", model: ratings.model }, {}) }, "look inside"),
    ),
  );
}
