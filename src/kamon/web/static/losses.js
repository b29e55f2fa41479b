// The losses of a training as a chart, and the steps that the user can go back to.

import { count, fixed, percent } from "./format.js";

/**
 * @typedef {import("./api.js").Job} Job
 * @typedef {import("./api.js").Moment} Moment
 * @typedef {Pick<import("./api.js").ModelInfo, "validation_loss"|"gpt_loss"|"ngram_loss"|"blend"|"num_folds">} Losses
 */

/**
 * Returns the range of the chart, from the lowest loss to a little above guessing. With the higher losses of the first
 * steps, all others would look the same.
 * @param {Job} job
 * @returns {[number, number]}
 */
export function rangeOf(job) {
  const all = [...job.losses, ...job.validation_losses].map(([, loss]) => loss);
  const { uniform, ngram } = job.lines;
  const most = uniform === null ? Math.max(...all) : uniform * 1.08;
  const least = Math.min(...all, ngram ?? Infinity, most);
  return [least - 0.06 * (most - least || 1), most];
}

/**
 * Returns the mean of the last tenth.
 * @param {[number, number][]} losses
 */
export function lastMean(losses) {
  const last = losses.slice(-Math.max(1, Math.floor(losses.length / 10)));
  return last.reduce((total, [, loss]) => total + loss, 0) / last.length;
}

/**
 * Returns each loss as the mean of 15 neighbours.
 * @param {[number, number][]} losses
 * @returns {[number, number][]}
 */
export function smoothed(losses) {
  const half = Math.min(7, Math.floor(losses.length / 8));
  return losses.map(([step], i) => {
    const near = losses.slice(Math.max(0, i - half), i + half + 1);
    return [step, near.reduce((total, [, loss]) => total + loss, 0) / near.length];
  });
}

/**
 * Returns the steps that the user can go back to, including that of the final model.
 * @param {Job|null} job
 * @returns {Moment[]}
 */
export function momentsOf(job) {
  if (!job?.best || !job.model) return job?.moments ?? [];
  const { step, samples, blend } = job.best;
  const others = job.moments.filter((each) => each.step !== step);
  return [...others, { step, model: job.model, samples, blend }].sort((a, b) => a.step - b.step);
}

/**
 * Returns the place of the final model among the moments, or else that of the newest one.
 * @param {Job|null} job
 */
export function usualPlace(job) {
  const moments = momentsOf(job);
  const made = moments.findIndex((each) => each.model === job?.model);
  return made < 0 ? moments.length - 1 : made;
}

/**
 * Returns the place of the moment nearest to a step, or the usual place for null.
 * @param {Job|null} job
 * @param {number|null} step
 */
export function placeAt(job, step) {
  if (step === null) return usualPlace(job);
  const distances = momentsOf(job).map((each) => Math.abs(each.step - step));
  return distances.reduce((best, distance, i) => (distance < distances[best] ? i : best), 0);
}

/**
 * Returns a sentence if the final model is not from the last step.
 * @param {Job} job
 */
export function whichStep(job) {
  const { best } = job;
  if (!best || best.step === job.step || best.validation_loss === null) return "";
  const early = job.state === "done" && job.step < job.num_steps ? ", ended early" : "";
  return (
    `${job.error ? ". The" : `${early}: the`} model of step ${count(best.step)} was kept. ` +
    `It has the lowest validation loss (${fixed(best.validation_loss, 3)}).` +
    (best.over_fitted
      ? " After that the model started to overfit. Fewer steps or a smaller model are enough for this list."
      : "")
  );
}

/**
 * Returns the validation loss of a model and of the parts of a blend, or "" without one.
 * @param {Losses} losses
 * @param {number} [digits]
 * @param {string} [unit]
 */
export function lossesOf({ validation_loss, gpt_loss, ngram_loss, blend, num_folds }, digits = 3, unit = "") {
  if (validation_loss === null) return "";
  const parts =
    blend && ngram_loss !== null
      ? ` (GPT ${fixed(gpt_loss, digits)}, ${blend.order}-gram ${fixed(ngram_loss, digits)})`
      : "";
  const how = num_folds === null ? "" : `, by ${num_folds}-fold cross-validation`;
  return `${fixed(validation_loss, digits)}${unit}${parts}${how}`;
}

/**
 * Returns a sentence about the blend.
 * @param {Losses["blend"]} blend
 */
export function blendSentence(blend) {
  if (!blend) return "The model is a GPT without an n-gram.";
  return `The model is a blend: ${percent(blend.weight)} GPT, ${percent(1 - blend.weight)} ${blend.order}-gram.`;
}

/**
 * Returns a sentence about the losses and the blend of the final model.
 * @param {Job} job
 */
export function bestSentence({ best }) {
  if (!best) return "";
  const losses = lossesOf(best, 3, " nats per token");
  return `${losses && `Validation loss: ${losses}. `}${blendSentence(best.blend)}`;
}

/**
 * Returns the rows of the chart's table: about 60 training losses, and all validation losses.
 * @param {Job} job
 */
function rowsOf(job) {
  /** @type {Map<number, [string, string]>} */
  const rows = new Map();
  const some = Math.ceil(job.losses.length / 60);
  job.losses.forEach(([step, loss], i) => {
    if (i % some === 0 || i === job.losses.length - 1) rows.set(step, [loss.toFixed(4), ""]);
  });
  for (const [step, loss] of job.validation_losses) rows.set(step, [rows.get(step)?.[0] ?? "", loss.toFixed(4)]);
  return [...rows].sort((a, b) => a[0] - b[0]).map(([step, both]) => [count(step), ...both]);
}

/**
 * Returns the explanation of the lines in the chart.
 * @param {Job} job
 */
export function legendOf({ lines: { uniform, ngram, ngram_order } }) {
  return (
    "Average surprisal per token, in nats. Lower is better. Validation: entries the model is not trained on." +
    (uniform === null ? "" : ` Uniform: guessing among all tokens, ${fixed(uniform, 3)}.`) +
    (ngram === null ? "" : ` ${ngram_order}-gram: the best n-gram model, ${fixed(ngram, 3)}.`)
  );
}

/**
 * Returns the chart of a training that has losses.
 * @param {Job} job
 * @param {number|null} cursor  the chosen step
 * @returns {import("./lines.js").LineData}
 */
export function chartOf(job, cursor) {
  const { uniform, ngram, ngram_order } = job.lines;
  const best = job.validation_losses.length ? Math.min(...job.validation_losses.map(([, loss]) => loss)) : null;
  return {
    series: [
      { name: "", points: job.losses, kind: "faint" },
      { name: "training", points: smoothed(job.losses), kind: "line" },
      { name: "validation", points: job.validation_losses, kind: "marked" },
    ],
    rules: [
      ...(uniform === null ? [] : [{ y: uniform, name: "uniform", dash: "2 4" }]),
      ...(ngram === null ? [] : [{ y: ngram, name: `${ngram_order}-gram`, dash: "8 4" }]),
    ],
    cursor,
    xName: "step",
    yRange: rangeOf(job),
    xRange: [0, Math.max(1, job.num_steps, job.losses[job.losses.length - 1][0])],
    description:
      `Nats per token, lower is better, after ${job.step} of ${job.num_steps} steps.` +
      (best === null ? "" : ` The lowest validation loss is ${best.toFixed(3)}.`) +
      (uniform === null ? "" : ` Guessing gives ${uniform.toFixed(3)}.`) +
      (ngram === null ? "" : ` The best n-gram gives ${ngram.toFixed(3)}.`),
    behind: { head: ["Step", "Training, nats per token", "Validation"], rows: rowsOf(job) },
  };
}

/**
 * Returns the step to mark in the chart, or null if it is the last one.
 * @param {Job} job
 * @param {number|null} wanted  a step that the user has chosen
 */
export function cursorOf(job, wanted) {
  const moments = momentsOf(job);
  if (!moments.length || (wanted === null && (job.best?.step ?? job.step) === job.step)) return null;
  return moments[placeAt(job, wanted)].step;
}
