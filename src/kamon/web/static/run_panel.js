// The current training: its state, its losses, and its samples step by step.

import * as api from "./api.js";
import { lines } from "./lines.js";
import { button, explained, figures, h, name as named, names as listOf, panel, replaceContent, table } from "./dom.js";
import { count, fixed } from "./format.js";
import {
  bestSentence,
  chartOf,
  cursorOf,
  lastMean,
  legendOf,
  momentsOf,
  placeAt,
  usualPlace,
  whichStep,
} from "./losses.js";
import { saveForm } from "./save.js";
import { address, change } from "./state.js";
import { isOver, queued } from "./watch.js";

/**
 * @typedef {import("./main.js").Context} Context
 * @typedef {import("./api.js").Job} Job
 * @typedef {import("./api.js").Moment} Moment
 */

const STATES = {
  queued: "waiting",
  starting: "getting ready",
  running: "training",
  paused: "paused",
  stopped: "stopped",
  done: "done",
  failed: "failed",
};
const STEERED = { pause: "Paused.", resume: "Resumed.", stop: "Stopped. The model so far is kept." };

export class RunPanel {
  /** @param {Context} context */
  constructor(context) {
    const { state, signal, watch } = context;
    this.context = context;
    this.watch = watch;
    this.shown = ""; // the model whose samples are on the page
    this.wanted = state.step === undefined ? null : Number(state.step); // the chosen step, or null for the usual one
    this.status = h("p", { class: "status" });
    this.numbers = h("div");
    this.made = h("p", { class: "made" });
    this.chart = lines("Loss by step");
    this.legend = h("p", { class: "hint" });
    this.errors = h("div", { class: "errors" });
    this.pause = button("Pause", () => this.steer("pause"));
    this.resume = button("Resume", () => this.steer("resume"));
    this.stop = button("Stop", () => this.steer("stop"));
    this.slider = h("input", { type: "range", min: 0, max: 0, step: 1, value: 0, id: "scrub" });
    this.sliderText = h("output", { for: "scrub" });
    this.names = h("ul", { class: "names", "aria-label": "Samples of this step" });
    this.onward = h("p", { class: "onward" });
    this.allSamples = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Samples of all steps" });
    this.all = h("details", { class: "behind" }, h("summary", {}, "Samples of all steps"), this.allSamples);
    this.back = h(
      "div",
      { class: "scrub" },
      h("label", { for: "scrub" }, "Step to look at"),
      h("div", { class: "range" }, this.slider, this.sliderText),
      this.names,
      this.onward,
    );
    this.node = this.layout();
    this.all.addEventListener("toggle", () => this.all.open && this.drawAll());
    this.slider.addEventListener("input", () => this.scrub());
    this.frame = 0; // the requested animation frame
    watch.listen((what) => this.heard(what), signal);
    signal.addEventListener("abort", () => cancelAnimationFrame(this.frame));
    this.draw();
  }

  layout() {
    return panel(
      "Training",
      this.status,
      h("div", { class: "buttons" }, this.pause, this.resume, this.stop),
      this.errors,
      this.numbers,
      this.made,
      this.chart.node,
      this.legend,
      this.back,
      this.all,
      this.saveForm(),
    );
  }

  saveForm() {
    const form = saveForm(this.context, "Save this model as", (name) => {
      const moment = momentsOf(this.watch.job)[this.place()];
      return moment ? api.save(moment.model, name) : null;
    });
    const look = () => (form.hidden = !this.watch.job?.moments.length);
    this.watch.listen(look, this.context.signal);
    look();
    return form;
  }

  /** Returns the place of the chosen step among the moments. */
  place() {
    return placeAt(this.watch.job, this.wanted);
  }

  /** @param {string} what  has happened to the training */
  heard(what) {
    const { watch, context } = this;
    if (what === "job" && (!watch.job || watch.job.id !== context.state.job)) this.wanted = null;
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.draw());
  }

  scrub() {
    const { job } = this.watch;
    const place = Number(this.slider.value);
    this.wanted = place === usualPlace(job) ? null : momentsOf(job)[place].step;
    change({ step: this.wanted });
    this.draw();
  }

  /** @param {"pause"|"resume"|"stop"} action */
  async steer(action) {
    const { watch } = this;
    replaceContent(this.errors);
    if (!watch.job) return;
    try {
      watch.take(await api.steer(watch.job.id, action));
      this.draw();
      [this.pause, this.resume, this.stop].find((each) => !each.hidden)?.focus(); // the pressed one may be hidden now
      this.context.say(STEERED[action]);
    } catch (error) {
      this.context.fail(error, this.errors);
    }
  }

  draw() {
    const { job } = this.watch;
    for (const part of [this.numbers, this.made, this.chart.node, this.legend]) part.hidden = !job;
    this.pause.hidden = !job || (job.state !== "running" && job.state !== "starting");
    this.resume.hidden = job?.state !== "paused";
    this.stop.hidden = !job || isOver(job);
    this.drawMoment();
    if (!job) {
      replaceContent(this.status, "No training yet. Press Train to start one.");
      return;
    }
    replaceContent(
      this.status,
      h("strong", {}, job.state === "queued" ? queued(job) : STATES[job.state]),
      job.state === "starting" && job.seconds ? `: short cross-validation runs first, ${fixed(job.seconds, 1)} s` : "",
      job.error ? `: ${job.error}` : "",
      whichStep(job),
      this.watch.connection === "reconnecting" && h("span", { class: "lost" }, " ⚠ connection lost, trying again"),
    );
    this.drawNumbers(job);
    replaceContent(this.made, ...explained(bestSentence(job)));
    this.made.hidden = !job.best;
    if (!job.losses.length) {
      this.chart.node.hidden = this.legend.hidden = true;
      return;
    }
    replaceContent(this.legend, ...explained(legendOf(job)));
    this.chart.show(chartOf(job, cursorOf(job, this.wanted)));
  }

  /** @param {Job} job */
  drawNumbers(job) {
    const validation = job.validation_losses[job.validation_losses.length - 1];
    const done = job.state === "done" ? job.num_steps : job.step;
    replaceContent(
      this.numbers,
      h("progress", { max: Math.max(1, job.num_steps), value: done, "aria-label": "Steps done" }),
      figures([
        ["step", `${count(job.step)} of ${count(job.num_steps)}`],
        ["seconds", `${fixed(job.seconds, 1)}${job.budget === null ? "" : ` of ${job.budget}`}`],
        ["validation loss, nats per token", fixed(job.best ? job.best.validation_loss : validation?.[1], 3)],
        ["training loss, nats per token", job.losses.length ? fixed(lastMean(job.losses), 3) : "–"],
        ["entries", count(job.num_docs)],
        ["parameters", count(job.num_params)],
        ["started from", job.num_params ? (job.init_from ?? "random") : "–"],
      ]),
    );
  }

  drawMoment() {
    const moments = momentsOf(this.watch.job);
    this.back.hidden = this.all.hidden = !moments.length;
    if (!moments.length) return;
    const place = this.place();
    const moment = moments[place];
    this.slider.max = String(moments.length - 1);
    this.slider.value = String(place);
    this.slider.setAttribute("aria-valuetext", `step ${moment.step}`);
    this.sliderText.textContent = `step ${count(moment.step)}`;
    if (this.all.open) this.drawAll();
    if (this.shown === moment.model) return; // replacing the links would prevent clicks
    this.shown = moment.model;
    if (!moment.samples.length) replaceContent(this.names, h("li", {}, "only copies of entries in the list"));
    else replaceContent(this.names, ...moment.samples.map((each) => h("li", {}, named(each))));
    replaceContent(
      this.onward,
      "Use this model: ",
      h("a", { href: address({ view: "generate", model: moment.model }, {}) }, "generate"),
      " · ",
      h("a", { href: address({ view: "inside", model: moment.model }, {}) }, "look inside"),
    );
  }

  drawAll() {
    const rows = momentsOf(this.watch.job).map((each) => [
      count(each.step),
      h("span", {}, ...listOf(each.samples, ", ")),
    ]);
    replaceContent(this.allSamples, table("Samples of all steps", ["Step", "Samples"], rows));
  }
}
