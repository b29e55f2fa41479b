// The trainings and models of the server, which the user can open, stop, save and delete.

import * as api from "./api.js";
import { button, h, panel, append, replaceContent, setDisabled } from "./dom.js";
import { count, percent } from "./format.js";
import { lossesOf } from "./losses.js";
import { saveForm } from "./save.js";
import { address } from "./state.js";
import { inline } from "./text.js";
import { isOver, queued } from "./watch.js";

/**
 * @typedef {import("./api.js").ModelInfo} ModelInfo
 * @typedef {import("./api.js").Job} Job
 */

const LOOK = 2000; // ms between two requests during a training

/** @param {ModelInfo[]} models @param {Job} job */
const has = (models, job) => models.some((each) => each.id === job.id);

/**
 * Returns the progress of a training.
 * @param {Job} job
 */
function stateOf(job) {
  if (job.state === "queued") return queued(job);
  if (isOver(job)) return job.state;
  return `${job.state} ${job.num_steps ? percent(job.step / job.num_steps) : ""}`;
}

/** @param {ModelInfo} model */
function factsOf(model) {
  const losses = lossesOf(model, 2);
  return `${model.saved ? "saved" : "not saved"} · ${count(model.num_docs)} entries${losses && ` · validation loss ${losses}`}`;
}

export class ShelfPanel {
  /** @param {import("./main.js").Context} context */
  constructor(context) {
    const { signal, watch } = context;
    this.context = context;
    this.list = h("ul", { class: "shelf" });
    this.errors = h("div", { class: "errors" });
    this.node = panel("Trainings and models", this.list, this.errors);
    this.node.hidden = true;
    this.ask = api.latest(signal);
    /** @type {ReturnType<typeof setTimeout>|undefined} */
    this.timer = undefined;
    this.saving = ""; // the id of the model with an open form
    watch.listen((what) => {
      if (what === "job" || what === "end") this.look();
    }, signal);
    signal.addEventListener("abort", () => clearTimeout(this.timer));
    this.look();
  }

  /**
   * Loads the trainings and models, and shows them.
   * @param {HTMLElement} [pressed]  a button that may have disappeared
   */
  async look(pressed) {
    clearTimeout(this.timer);
    try {
      const [jobs, models] = await this.ask((signal) => Promise.all([api.jobs(signal), api.models(signal)]));
      if (this.context.signal.aborted) return;
      const focus = document.activeElement;
      const inUse = focus !== pressed && this.list.contains(focus); // another button, or the field for a name
      if (!inUse) this.draw(jobs, models);
      if (pressed && document.activeElement === document.body) {
        this.node.tabIndex = -1;
        this.node.focus();
      }
      const changing = jobs.some((job) => !isOver(job) || (job.model && !has(models, job)));
      if (changing || inUse) this.lookIn(LOOK);
    } catch (error) {
      if (!api.isAbort(error)) this.lookIn(2 * LOOK); // the views show the error
    }
  }

  /** @param {number} ms */
  lookIn(ms) {
    this.timer = setTimeout(() => this.look(), ms);
  }

  /** @param {Job[]} jobs @param {ModelInfo[]} models */
  draw(jobs, models) {
    const trainings = jobs.filter((job) => !has(models, job)).map((job) => this.trainingRow(job));
    const whole = models.filter((model) => model.parent === null);
    const rows = [...trainings, ...whole.map((model) => this.modelRow(model, jobs, models))];
    this.node.hidden = !rows.length;
    replaceContent(this.list, ...rows);
  }

  /** @param {Job} job */
  trainingRow(job) {
    const state = stateOf(job);
    return h(
      "li",
      {},
      h(
        "a",
        { href: address({ view: "train", job: job.id }, {}) },
        `${inline(job.source, 40)} (${job.id.slice(4, 8)})`,
      ),
      h("span", { class: "quiet" }, job.num_docs ? `${state} · ${count(job.num_docs)} entries` : state),
      h(
        "span",
        { class: "buttons" },
        isOver(job) ? null : button("Stop", (event) => this.act(event, () => api.steer(job.id, "stop"))),
        this.askTwice("Delete", "Deletes this training and its models", async () => {
          await api.forgetJob(job.id);
          await this.forgotten(job.id);
        }),
      ),
    );
  }

  /** @param {ModelInfo} model @param {Job[]} jobs @param {ModelInfo[]} models */
  modelRow(model, jobs, models) {
    const job = jobs.find((each) => each.id === model.id);
    const save = () => {
      this.saving = this.saving === model.id ? "" : model.id;
      this.draw(jobs, models);
      this.list.querySelector("input")?.focus();
    };
    const forget = async () => {
      await (job ? api.forgetJob(model.id) : api.forgetModel(model.id));
      await this.forgotten(model.id);
    };
    const what = model.saved ? "Removes it from this list. Its folder stays." : "Deletes this model";
    const row = h(
      "li",
      {},
      h(
        "a",
        { href: address({ view: job ? "train" : "generate", model: model.id, job: job?.id }, {}) },
        this.context.nameOf(model),
      ),
      h("span", { class: "quiet" }, factsOf(model)),
      h(
        "span",
        { class: "buttons" },
        model.saved ? null : button("Save as …", save),
        this.askTwice(model.saved ? "Remove" : "Delete", what, forget),
      ),
    );
    if (this.saving === model.id) append(row, this.saveForm(model.id));
    return row;
  }

  /** @param {string} id */
  saveForm(id) {
    return saveForm(this.context, "Save this model as", async (name) => {
      const saved = await api.save(id, name);
      this.saving = "";
      return saved;
    });
  }

  /**
   * Runs the action of a button, and shows the new state.
   * @param {Event} event
   * @param {() => Promise<unknown>} act
   */
  async act(event, act) {
    const press = /** @type {HTMLElement} */ (event.currentTarget);
    setDisabled(press, true);
    replaceContent(this.errors);
    try {
      await act();
      await this.look(press);
    } catch (error) {
      this.context.fail(error, this.errors);
    } finally {
      setDisabled(press, false);
    }
  }

  /**
   * A button that acts only on the second press.
   * @param {string} label
   * @param {string} title
   * @param {() => Promise<unknown>} act
   */
  askTwice(label, title, act) {
    let sure = false;
    const press = button(
      label,
      (event) => {
        if (sure) this.act(event, act);
        else {
          sure = true;
          press.textContent = `${label}: sure?`;
        }
      },
      { title },
    );
    press.addEventListener("blur", () => {
      sure = false;
      press.textContent = label;
    });
    return press;
  }

  /**
   * Leaves a view if its training or model has been deleted.
   * @param {string} id  of the deleted training or model
   */
  async forgotten(id) {
    const { context } = this;
    const { model, job } = context.state;
    const open = model?.split("@")[0] === id || job === id || context.watch.job?.id === id;
    if (open) context.go({ model: null, job: null, step: null, session: null });
    else await context.refresh();
  }
}
