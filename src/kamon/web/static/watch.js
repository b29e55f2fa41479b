// Follows one training by the events that the server sends, whatever view is open.

import * as api from "./api.js";

/**
 * @typedef {import("./api.js").Job} Job
 * @typedef {"none"|"live"|"reconnecting"|"ended"} Connection
 */

/**
 * How long a training has yet to wait for its turn.
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

/** What is known of the training that is followed. */
export function watch() {
  /** @type {Set<(what: string) => void>} */
  const listeners = new Set();
  /** @type {EventSource|null} */
  let source = null;
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  let again;
  const self = {
    /** @type {Job|null} */
    job: null,
    /** @type {Connection} */
    connection: "none",
    follow,
    /**
     * Takes a job as it is known now.
     * @param {Job} job
     */
    take(job) {
      self.job = job;
      tell("job");
    },
    /**
     * @param {(what: string) => void} listener  is told "connection", or the kind of the event
     * @param {AbortSignal} signal
     */
    listen(listener, signal) {
      listeners.add(listener);
      signal.addEventListener("abort", () => listeners.delete(listener));
    },
  };

  /** @param {string} what */
  function tell(what) {
    for (const listener of [...listeners]) listener(what);
  }

  /** @param {Connection} connection */
  function connect(connection) {
    if (self.connection !== connection) {
      self.connection = connection;
      tell("connection");
    }
  }

  /** @param {Job|null} job */
  function follow(job) {
    source?.close();
    clearTimeout(again);
    source = null;
    self.job = job;
    tell("job");
    if (!job) return connect("none");
    if (isOver(job)) return connect("ended");
    const id = job.id;
    const own = (source = api.events(id));
    own.onopen = () => connect("live");
    own.onerror = () => {
      connect("reconnecting");
      if (own.readyState === EventSource.CLOSED) again = setTimeout(() => look(id), 1000);
    };
    for (const kind of ["start", "progress", "moment", "end"]) {
      own.addEventListener(kind, (event) => {
        if (self.job?.id !== id) return;
        self.job = merged(self.job, kind, JSON.parse(event.data));
        connect("live");
        if (kind === "end") {
          own.close();
          look(id);
        } else tell(kind);
      });
    }
  }

  /**
   * Asks what has become of a training whose events have ended.
   * @param {string} id
   */
  async function look(id) {
    try {
      const job = await api.job(id);
      if (self.job?.id !== id) return;
      if (isOver(job)) {
        self.job = job;
        connect("ended");
        tell("end");
      } else follow(job);
    } catch (error) {
      if (self.job?.id !== id) return;
      if (error instanceof api.ApiError && error.status === 404) {
        self.job = null;
        connect("none");
        tell("gone");
      } else again = setTimeout(() => look(id), 2000);
    }
  }
  return self;
}

/**
 * A job with what an event says of it: whole lists instead of those before, new points after them.
 * @param {Job} job
 * @param {string} kind
 * @param {any} said
 * @returns {Job}
 */
export function merged(job, kind, said) {
  const { losses, held_out, moments, loss, held_out_loss, samples, model, ...rest } = said;
  const found = { ...job, ...rest, id: job.id };
  if (kind === "start" || kind === "end") {
    if (losses) found.losses = losses;
    if (held_out) found.held_out = held_out;
    if (moments) found.moments = moments;
    if (model !== undefined) found.model = model;
    return found;
  }
  if (kind === "moment") {
    if (!job.moments.some((each) => each.step === said.step)) {
      found.moments = [...job.moments, { step: said.step, model, samples }];
    }
    return found;
  }
  /** @param {[number, number][]} old @param {[number, number][]|undefined} more @param {number|null|undefined} one */
  const longer = (old, more, one) => {
    const added = more ?? (one === null || one === undefined ? [] : [[said.step, one]]);
    const last = old.length ? old[old.length - 1][0] : -1;
    return /** @type {[number, number][]} */ ([...old, ...added.filter(([step]) => step > last)]);
  };
  found.losses = longer(job.losses, losses, loss);
  found.held_out = longer(job.held_out, held_out, held_out_loss);
  return found;
}
