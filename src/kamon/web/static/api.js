// What the server is asked, and how what it answers looks.

/**
 * @typedef {object} ModelInfo
 * @property {string} id
 * @property {"opened"|"trained"|"tuned"} kind
 * @property {number} num_params
 * @property {number} n_layer
 * @property {number} n_embd
 * @property {number} n_head
 * @property {number} block_size
 * @property {number} vocab_size
 * @property {number} num_docs
 * @property {number} num_steps
 * @property {number|null} held_out_loss
 * @property {boolean} saved
 * @property {string|null} path  of its directory, from where the server was started
 * @property {string|null} parent
 * @property {number|null} step
 * @property {number[]} steps
 * @property {boolean} prompts
 * @property {boolean} text
 * @property {number} seed
 * @property {"char"|"bpe"} tokenizer
 *
 * @typedef {{step: number, model: string, samples: string[]}} Moment
 * @typedef {object} Job
 * @property {string} id
 * @property {"queued"|"starting"|"running"|"paused"|"stopped"|"done"|"failed"} state
 * @property {number|null} [ahead]  of one that is queued: how many begin before it
 * @property {string|null} error
 * @property {string} source
 * @property {number} num_steps
 * @property {number} step
 * @property {number} seconds
 * @property {number|null} budget  seconds; null where the steps were given
 * @property {number} num_docs
 * @property {number} num_params
 * @property {{uniform: number|null, ngram: number|null, ngram_order: number|null}} lines
 * @property {[number, number][]} losses
 * @property {[number, number][]} held_out
 * @property {Moment[]} moments
 * @property {string|null} model
 * @property {{step: number, loss: number|null, over_fitted: boolean, samples: string[]}|null} best  which step's it is
 *
 * @typedef {{text: string, similarity: number}} Near
 * @typedef {{text: string, logprob: number|null, in_list: boolean, nearest: Near|null}} Sample
 * @typedef {{seed: number, temperature: number, tried: number, ended?: string, samples: Sample[]}} Samples
 * The largest values that the server takes; a browser without them leaves it to the server.
 * @typedef {{limits: Record<string, number>, settings: Record<string, number>}} Limits
 * @typedef {{id: number, text: string, logit: number, probability: number, kept: boolean}} Next
 * @typedef {{tokens: Next[], end: number, position: number}} NextTokens
 * @typedef {{function: string, file: string, line: number}} Source
 * @typedef {object} Trace
 * @property {{id: number, text: string, position: number}[]} tokens
 * @property {number[][][][]} attention
 * @property {{text: string, gpt: number|null, ngram: number|null}[]} surprise
 * @property {number|null} ngram_order
 * @property {string|null} no_ngram  why there is none
 * @property {Record<string, Source>} sources
 *
 * @typedef {object} Embeddings
 * @property {{id: number, text: string, x: number, y: number, named: boolean}[]} tokens
 * @property {[number, number]} token_shares
 * @property {{position: number, x: number, y: number}[]} positions
 * @property {[number, number]} position_shares
 * @property {Record<string, Source>} sources
 *
 * @typedef {object} GraphNode
 * @property {number} id
 * @property {string} label
 * @property {string} op
 * @property {number} data
 * @property {number} grad
 * @property {number[]} inputs
 * @property {number[]} local_grads
 * @typedef {{nodes: GraphNode[], backward: number[], root: number, folded: string|null, sources: Record<string, Source>}} Graph
 *
 * @typedef {object} Cleaned
 * @property {number} num_lines
 * @property {number} num_docs
 * @property {number} num_blank
 * @property {number} num_repetitions
 * @property {number} num_held_out
 * @property {number} longest
 * @property {number} num_stripped
 * @property {number} num_normalized
 * @property {number} characters
 * @property {{text: string, why: string, line: number}[]} removed
 * @property {{before: string, after: string, line: number}[]} changed
 * @property {string[]} docs
 * @property {{text: string, num_docs: number, steps: {name: string, action: string, count: number, examples: [string, string][]}[]}|null} tidied
 * @property {string[]} warnings
 * @property {"csv"|"tsv"|"jsonl"|"json"|null} looks_like
 *
 * @typedef {object} Data
 * @property {string} source
 * @property {number} num_docs
 * @property {number} num_repetitions
 * @property {number} num_cut
 * @property {number} num_learned
 * @property {number} num_held_out
 * @property {{text: string, count: number}[]} characters
 * @property {{length: number, learned: number, held_out: number}[]} lengths
 * @property {{learned: string[], held_out: string[]}} examples
 *
 * @typedef {{text: string, liked: boolean}|{chosen: string, rejected: string}} Answer
 * @typedef {object} Measured
 * @property {number} kl
 * @property {number} kl_error
 * @property {number} liked
 * @property {number} disliked
 * @property {number} reward
 * @property {number} novelty
 * @property {number} base_novelty
 * @property {number} seconds
 * @typedef {object} Ratings
 * @property {string} id
 * @property {string} base
 * @property {string} model
 * @property {boolean} pairs
 * @property {number} every
 * @property {Answer[]} answers
 * @property {number} num_aligned
 * @property {(string|string[])[]} proposals
 * @property {{base: string, tuned: string, base_in_list: boolean, tuned_in_list: boolean}[]} compared
 * @property {Measured|null} measured
 */

/** What went wrong, as the sentence that the server says. */
export class ApiError extends Error {
  /**
   * @param {string} text
   * @param {number} status  0 where there was no answer
   */
  constructor(text, status) {
    super(text);
    this.status = status;
  }
}

const BASE = "/api/v1";
export const MOST_BYTES = 256 << 10;
export const TOO_LARGE = "That is more than 256 kB, the most the page sends: use the command line for it.";

/**
 * @param {string} method
 * @param {string} path  behind /api/v1
 * @param {unknown} [body]
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function call(method, path, body, signal) {
  /** @type {RequestInit} */
  const request = { method, signal, headers: { Accept: "application/json" } };
  if (body !== undefined) {
    const text = JSON.stringify(body);
    if (new Blob([text]).size > MOST_BYTES) {
      throw new ApiError(TOO_LARGE, 413);
    }
    request.body = text;
    request.headers = { Accept: "application/json", "Content-Type": "application/json" };
  }
  const answer = await patiently(() => fetch(BASE + path, request), signal);
  if (answer.status === 204) return null;
  const found = await answer.json().catch((error) => {
    if (isAbort(error)) throw error;
    return null;
  });
  if (!answer.ok) {
    throw new ApiError(found?.error ?? `The server answered ${answer.status}.`, answer.status);
  }
  return found;
}

export const busy = {
  /** @type {(waiting: number) => void}  is told how many requests the server has put off */
  tell: () => {},
};
let putOff = 0;

/**
 * An answer; a server that is busy says when to ask again, and is asked again then.
 * @param {() => Promise<Response>} ask
 * @param {AbortSignal} [signal]
 */
async function patiently(ask, signal) {
  let waited = false;
  try {
    for (;;) {
      const answer = await ask();
      const seconds = Number(answer.headers.get("Retry-After") ?? NaN);
      if (answer.status !== 503 || !(seconds >= 0)) return answer;
      if (!waited) busy.tell(++putOff);
      waited = true;
      await pause(1000 * (Math.min(seconds, 60) + 0.5 * Math.random()), signal); // not all at once
    }
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ApiError("The server does not answer: is kamon serve still running?", 0);
  } finally {
    if (waited) busy.tell(--putOff);
  }
}

/**
 * @param {number} ms
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
function pause(ms, signal) {
  return new Promise((done, stop) => {
    const ended = () => {
      clearTimeout(timer);
      stop(new DOMException("aborted", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", ended);
      done();
    }, ms);
    if (signal?.aborted) ended();
    else signal?.addEventListener("abort", ended, { once: true });
  });
}

/** @param {unknown} error  whether it only says that nobody waits any more */
export function isAbort(error) {
  return error instanceof DOMException && error.name === "AbortError";
}

/** @param {string} id */
const at = (id) => encodeURIComponent(id);

/** @type {(signal?: AbortSignal) => Promise<ModelInfo[]>} */
export const models = async (signal) => (await call("GET", "/models", undefined, signal)).models;
/** @type {(id: string, signal?: AbortSignal) => Promise<ModelInfo>} */
export const model = (id, signal) => call("GET", `/models/${at(id)}`, undefined, signal);
/** @type {(id: string) => Promise<null>} */
export const forgetModel = (id) => call("DELETE", `/models/${at(id)}`);
/** @type {(id: string) => Promise<null>} */
export const forgetJob = (id) => call("DELETE", `/jobs/${at(id)}`);
/** @type {(id: string, signal?: AbortSignal) => Promise<ModelInfo & {config: {temperature: number}, source: string}>} */
export const details = (id, signal) => call("GET", `/models/${at(id)}`, undefined, signal);
/** @type {(id: string, name: string) => Promise<ModelInfo>} */
export const save = (id, name) => call("POST", `/models/${at(id)}/save`, { name });
/** @type {(id: string, signal?: AbortSignal) => Promise<Data>} */
export const data = (id, signal) => call("GET", `/models/${at(id)}/data`, undefined, signal);
/** @type {(id: string, signal?: AbortSignal) => Promise<Embeddings>} */
export const embeddings = (id, signal) => call("GET", `/models/${at(id)}/embeddings`, undefined, signal);
/** @type {(asked: object, signal?: AbortSignal) => Promise<Samples>} */
export const sample = (asked, signal) => call("POST", "/sample", asked, signal);
/** @type {(asked: object, signal?: AbortSignal) => Promise<NextTokens>} */
export const nextToken = (asked, signal) => call("POST", "/next-token", asked, signal);
/** @type {(asked: object, signal?: AbortSignal) => Promise<Trace>} */
export const trace = (asked, signal) => call("POST", "/trace", asked, signal);
/** @type {(asked: object, signal?: AbortSignal) => Promise<Graph>} */
export const graph = (asked, signal) => call("POST", "/graph", asked, signal);
/** @type {(asked: object, signal?: AbortSignal) => Promise<Cleaned>} */
export const clean = (asked, signal) => call("POST", "/clean", asked, signal);
/** @type {(asked: object, signal?: AbortSignal) => Promise<string[]>} */
export const columns = async (asked, signal) => (await call("POST", "/columns", asked, signal)).columns;
/** @type {(signal?: AbortSignal) => Promise<Job[]>} */
export const jobs = async (signal) => (await call("GET", "/jobs", undefined, signal)).jobs;
/** @type {(id: string, signal?: AbortSignal) => Promise<Job>} */
export const job = (id, signal) => call("GET", `/jobs/${at(id)}`, undefined, signal);
/** @type {(asked: object) => Promise<Job>} */
export const startJob = (asked) => call("POST", "/jobs", asked);
/** @type {(id: string, what: "pause"|"resume"|"stop") => Promise<Job>} */
export const steer = (id, what) => call("POST", `/jobs/${at(id)}/${what}`);
/** @type {(id: string) => EventSource} */
export const events = (id) => new EventSource(`${BASE}/jobs/${at(id)}/events`);
/** @type {(asked: object) => Promise<Ratings>} */
export const startRatings = (asked) => call("POST", "/preferences", asked);
/** @type {(id: string, signal?: AbortSignal) => Promise<Ratings>} */
export const ratings = (id, signal) => call("GET", `/preferences/${at(id)}`, undefined, signal);
/** @type {(id: string, answers: Answer[]) => Promise<Ratings>} */
export const answer = (id, answers) => call("POST", `/preferences/${at(id)}/answers`, { answers });
/** @type {(id: string) => Promise<Ratings>} */
export const undo = (id) => call("DELETE", `/preferences/${at(id)}/answers/last`);
/** @type {(id: string, name: string) => Promise<ModelInfo>} */
export const saveRatings = (id, name) => call("POST", `/preferences/${at(id)}/save`, { name });

/** @type {Promise<Limits>|null} */
let known = null;

/** @returns {Promise<Limits>} what the server takes; asked for once */
export function limits() {
  known ??= call("GET", "/limits").catch((error) => {
    known = null;
    throw error;
  });
  return known;
}

/** @type {Map<string, ReadonlySet<string>|null>} */
const letters = new Map();

/**
 * The characters that a model knows; null where it knows all.
 * @param {ModelInfo} model
 * @param {AbortSignal} [signal]
 */
export async function characters(model, signal) {
  if (model.tokenizer !== "char") return null;
  let found = letters.get(model.id);
  if (found === undefined) {
    const { tokens } = await nextToken({ model: model.id }, signal);
    found = new Set(tokens.map((each) => each.text).filter((each) => each !== ""));
    letters.set(model.id, found);
  }
  return found;
}

/**
 * Runs one thing at a time: a new one aborts the one before.
 * @param {AbortSignal} whole  ends all
 * @returns {<T>(work: (signal: AbortSignal) => Promise<T>) => Promise<T>}
 */
export function latest(whole) {
  /** @type {AbortController|null} */
  let before = null;
  whole.addEventListener("abort", () => before?.abort());
  return (work) => {
    before?.abort();
    before = new AbortController();
    if (whole.aborted) before.abort();
    return work(before.signal);
  };
}
