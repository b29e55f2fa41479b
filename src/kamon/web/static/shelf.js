// The trainings and models that the server has: to look at, to stop, to save and to delete.

import * as api from "./api.js";
import { button, h, panel, put, swap, switchOff } from "./dom.js";
import { count, fixed, percent } from "./format.js";
import { saveForm } from "./save.js";
import { inline } from "./text.js";
import { address } from "./state.js";
import { isOver, queued } from "./watch.js";

const LOOK = 2000; // ms between two looks, while something is being trained

/** @param {import("./main.js").Context} context */
export function shelfPanel(context) {
  const { signal, watch } = context;
  const list = h("ul", { class: "shelf" });
  const errors = h("div", { class: "errors" });
  const node = panel("Trainings and models", list, errors);
  const ask = api.latest(signal);
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  let timer;
  let saving = ""; // the id of the one whose form is open

  /** @param {() => Promise<unknown>} act */
  const doing = (act) => async (/** @type {Event} */ event) => {
    const press = /** @type {HTMLElement} */ (event.currentTarget);
    switchOff(press, true);
    swap(errors);
    try {
      await act();
      await look(true);
    } catch (error) {
      context.fail(error, errors);
    } finally {
      switchOff(press, false);
    }
  };

  /** @param {string} label @param {string} of @param {() => Promise<unknown>} act */
  const twice = (label, of, act) => {
    let sure = false;
    const press = button(label, (event) => {
      if (sure) doing(act)(event);
      else {
        sure = true;
        press.textContent = `${label}: sure?`;
      }
    }, { "aria-label": null, title: of });
    press.addEventListener("blur", () => {
      sure = false;
      press.textContent = label;
    });
    return press;
  };

  /** @param {import("./api.js").ModelInfo[]} models @param {import("./api.js").Job} job */
  const has = (models, job) => models.some((each) => each.id === job.id);

  /** @param {string} id */
  const gone = async (id) => {
    const { model, job } = context.state;
    if (model?.split("@")[0] === id || job === id || watch.job?.id === id) context.go({ model: null, job: null, step: null, session: null });
    else await context.refresh();
  };

  /** @param {import("./api.js").Job[]} jobs @param {import("./api.js").ModelInfo[]} models */
  const draw = (jobs, models) => {
    if (node.contains(document.activeElement) && document.activeElement !== node && saving) return; // somebody writes
    /** @type {HTMLElement[]} */
    const rows = jobs.filter((job) => !has(models, job)).map((job) => {
      const done = job.num_steps ? percent(job.step / job.num_steps) : "";
      const state = job.state === "queued" ? queued(job) : isOver(job) ? job.state : `${job.state} ${done}`;
      return h(
        "li",
        {},
        h("a", { href: address({ view: "train", job: job.id }, {}) }, `${inline(job.source, 40)} (${job.id.slice(4, 8)})`),
        h("span", { class: "quiet" }, job.num_docs ? `${state} · ${count(job.num_docs)} entries` : state),
        h(
          "span",
          { class: "buttons" },
          isOver(job) ? null : button("Stop", doing(() => api.steer(job.id, "stop"))),
          twice("Delete", "Forgets this training and its models", async () => {
            await api.forgetJob(job.id);
            await gone(job.id);
          }),
        ),
      );
    });
    for (const model of models) {
      if (model.parent !== null) continue;
      const job = jobs.find((each) => each.id === model.id);
      const loss = model.held_out_loss === null ? "" : ` · test loss ${fixed(model.held_out_loss, 2)}`;
      const facts = `${model.saved ? "saved" : "not saved"} · ${count(model.num_docs)} entries${loss}`;
      const row = h(
        "li",
        {},
        h("a", { href: address({ view: job ? "train" : "generate", model: model.id, job: job?.id }, {}) }, context.nameOf(model)),
        h("span", { class: "quiet" }, facts),
        h(
          "span",
          { class: "buttons" },
          model.saved ? null : button("Save as …", () => {
            saving = saving === model.id ? "" : model.id;
            draw(jobs, models);
            list.querySelector("input")?.focus();
          }),
          twice(model.saved ? "Remove" : "Delete", model.saved ? "Takes it off this list; its folder stays" : "Forgets this model", async () => {
            await (job ? api.forgetJob(model.id) : api.forgetModel(model.id));
            await gone(model.id);
          }),
        ),
      );
      if (saving === model.id) {
        put(row, saveForm(context, "Save this model as", async (name) => {
          const saved = await api.save(model.id, name);
          saving = "";
          return saved;
        }));
      }
      rows.push(row);
    }
    node.hidden = !rows.length;
    swap(list, ...rows);
  };

  /** @param {boolean} [refocus] */
  async function look(refocus) {
    clearTimeout(timer);
    try {
      const [jobs, models] = await ask((own) => Promise.all([api.jobs(own), api.models(own)]));
      if (signal.aborted) return;
      const pressed = list.contains(document.activeElement);
      if (!pressed || refocus) draw(jobs, models);
      if (refocus && document.activeElement === document.body) {
        node.tabIndex = -1;
        node.focus();
      }
      if (jobs.some((job) => !isOver(job) || (job.model && !has(models, job)))) timer = setTimeout(look, LOOK);
    } catch (error) {
      if (!api.isAbort(error)) timer = setTimeout(look, 2 * LOOK); // the views say it
    }
  }
  watch.listen((what) => {
    if (what === "job" || what === "end") look();
  }, signal);
  signal.addEventListener("abort", () => clearTimeout(timer));
  node.hidden = true;
  look();
  return node;
}
