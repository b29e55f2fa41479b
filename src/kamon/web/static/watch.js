// Follows one training through the server's events, in all views.

import * as api from "./api.js";

/**
 * @typedef {import("./api.js").Job} Job
 * @typedef {"none"|"live"|"reconnecting"|"ended"} Connection
 */

/**
 * Returns a sentence about the place of a training in the queue.
 * @param {Job} job
 */
export function queued(job) {
  return job.ahead ? `waiting, ${job.ahead} before you` : "waiting, next in line";
}

const OVER = ["stopped", "done", "failed"];

/** @param {Job} job */
export function isOver(job) {
  return OVER.includes(job.state);
}

const KINDS = ["start", "progress", "moment", "end"];
const LOOK_AGAIN = 1000; // ms after the event stream has closed
const RETRY = 2000; // ms after a failed request

/** Follows one training and notifies listeners. */
export class Watch {
  constructor() {
    /** @type {Job|null} */
    this.job = null;
    /** @type {Connection} */
    this.connection = "none";
    /** @type {Set<(what: string) => void>} */
    this.listeners = new Set();
    /** @type {EventSource|null} */
    this.source = null;
    /** @type {ReturnType<typeof setTimeout>|undefined} */
    this.timer = undefined;
  }

  /**
   * @param {(what: string) => void} listener  called with "job", "connection", "gone", or the kind of an event
   * @param {AbortSignal} signal  stops the listener when it aborts
   */
  listen(listener, signal) {
    this.listeners.add(listener);
    signal.addEventListener("abort", () => this.listeners.delete(listener));
  }

  /** @param {string} what */
  tell(what) {
    for (const listener of [...this.listeners]) listener(what);
  }

  /**
   * Uses a new state of the job from the server.
   * @param {Job} job
   */
  take(job) {
    this.job = job;
    this.tell("job");
  }

  /** @param {Connection} connection */
  connect(connection) {
    if (this.connection === connection) return;
    this.connection = connection;
    this.tell("connection");
  }

  /** @param {Job|null} job  the job to follow */
  follow(job) {
    this.source?.close();
    clearTimeout(this.timer);
    this.source = null;
    this.job = job;
    this.tell("job");
    if (!job) this.connect("none");
    else if (isOver(job)) this.connect("ended");
    else this.open(job.id);
  }

  /** @param {string} id */
  open(id) {
    const source = api.events(id);
    this.source = source;
    source.onopen = () => this.connect("live");
    source.onerror = () => {
      this.connect("reconnecting");
      if (source.readyState === EventSource.CLOSED) this.timer = setTimeout(() => this.look(id), LOOK_AGAIN);
    };
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => {
        if (this.job?.id !== id) return;
        this.job = merged(this.job, kind, JSON.parse(event.data));
        this.connect("live");
        if (kind === "end") {
          source.close();
          this.look(id);
        } else this.tell(kind);
      });
    }
  }

  /**
   * Loads the state of a training whose event stream has ended.
   * @param {string} id
   */
  async look(id) {
    try {
      const job = await api.job(id);
      if (this.job?.id !== id) return;
      if (isOver(job)) {
        this.job = job;
        this.connect("ended");
        this.tell("end");
      } else this.follow(job);
    } catch (error) {
      if (this.job?.id !== id) return;
      if (error instanceof api.ApiError && error.status === 404) {
        this.job = null;
        this.connect("none");
        this.tell("gone");
      } else this.timer = setTimeout(() => this.look(id), RETRY);
    }
  }
}

/**
 * Returns the job after an event. "start" and "end" contain all of it, "progress" and "moment" the new part.
 * @param {Job} job
 * @param {string} kind
 * @param {any} event
 * @returns {Job}
 */
export function merged(job, kind, event) {
  if (kind === "start" || kind === "end") return { ...job, ...event };
  if (kind === "moment") {
    const known = job.moments.some((each) => each.step === event.step);
    return known ? job : { ...job, moments: [...job.moments, event] };
  }
  return {
    ...job,
    ...event,
    losses: longer(job.losses, event.losses),
    validation_losses: longer(job.validation_losses, event.validation_losses),
  };
}

/**
 * Returns the points, with those of an event that come after the last one.
 * @param {[number, number][]} points
 * @param {[number, number][]} more
 */
function longer(points, more) {
  const last = points.length ? points[points.length - 1][0] : -1;
  return [...points, ...more.filter(([step]) => step > last)];
}
