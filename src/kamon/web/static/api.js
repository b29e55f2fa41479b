// Requests to the server and the types of its answers.

/**
 * The operations of the server with their bodies and answers, generated from its OpenAPI document.
 * @typedef {import("../api_types").Operations} Operations
 */
/**
 * @template {keyof Operations} O
 * @typedef {Operations[O]["answer"]} AnswerTo
 */
/**
 * @template {keyof Operations} O
 * @typedef {Operations[O]["body"]} BodyOf
 */
/**
 * @typedef {AnswerTo<"GET /models">["models"][number]} ModelInfo
 * @typedef {AnswerTo<"GET /jobs/{id}">} Job
 * @typedef {AnswerTo<"GET /jobs">["jobs"][number]} JobSummary
 * @typedef {Job["moments"][number]} Moment
 * @typedef {AnswerTo<"POST /sample">} Samples
 * @typedef {Samples["samples"][number]} Sample
 * @typedef {AnswerTo<"POST /next-token">} NextTokens
 * @typedef {NextTokens["tokens"][number]} NextToken
 * @typedef {AnswerTo<"POST /trace">} Trace
 * @typedef {Trace["sources"][string]} Source  where the scalar engine computes something
 * @typedef {AnswerTo<"GET /models/{id}/embeddings">} Embeddings
 * @typedef {AnswerTo<"POST /graph">} Graph
 * @typedef {Graph["nodes"][number]} GraphNode
 * @typedef {AnswerTo<"POST /clean">} Cleaned
 * @typedef {NonNullable<BodyOf<"POST /clean">["format"]>} Format
 * @typedef {AnswerTo<"GET /models/{id}/data">} Data
 * @typedef {AnswerTo<"GET /preferences/{id}">} Ratings
 * @typedef {BodyOf<"POST /preferences/{id}/answers">["answers"][number]} Answer
 * @typedef {AnswerTo<"GET /limits">} Limits
 */

/** An error, with the message from the server. */
export class ApiError extends Error {
  /**
   * @param {string} text
   * @param {number} status  0 if there was no answer
   */
  constructor(text, status) {
    super(text);
    this.status = status;
  }
}

const BASE = "/api/v1";
export const MAX_BYTES = 256 << 10;
export const TOO_LARGE = "The list is larger than 256 kB, the limit of this page. Use the command line instead.";

/**
 * Returns the server's answer, or throws ApiError.
 * @template {keyof Operations} O
 * @param {O} operation  the method and the path after /api/v1
 * @param {{id?: string, body?: BodyOf<O>, signal?: AbortSignal}} [given]  id: for {id} in the path
 * @returns {Promise<AnswerTo<O>>}
 */
async function call(operation, { id = "", body, signal } = {}) {
  const [method, path] = operation.split(" ");
  /** @type {RequestInit} */
  const request = { method, signal, headers: { Accept: "application/json" } };
  if (body !== undefined) {
    const text = JSON.stringify(body);
    if (new Blob([text]).size > MAX_BYTES) throw new ApiError(TOO_LARGE, 413);
    request.body = text;
    request.headers = { Accept: "application/json", "Content-Type": "application/json" };
  }
  const response = await patiently(() => fetch(urlOf(path, id), request), signal);
  /** @type {any} */
  const nothing = null;
  if (response.status === 204) return nothing;
  const found = await response.json().catch((error) => {
    if (isAbort(error)) throw error;
    return null;
  });
  if (!response.ok) throw new ApiError(found?.error ?? `The server answered ${response.status}.`, response.status);
  return found;
}

/** @param {string} path @param {string} id */
const urlOf = (path, id) => BASE + path.replace("{id}", () => encodeURIComponent(id));

export const busy = {
  /** @type {(waiting: number) => void}  called with the number of requests that wait for a busy server */
  tell: () => {},
};
let putOff = 0;

/**
 * Returns the answer to a request. A busy server sends a time to wait, then the page asks again.
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
      await pause(1000 * (Math.min(seconds, 60) + 0.5 * Math.random()), signal); // spreads the requests
    }
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ApiError("The server does not answer: is kamon serve still running?", 0);
  } finally {
    if (waited) busy.tell(--putOff);
  }
}

/**
 * Waits for some time.
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

/**
 * Returns true if the error only means that the request was aborted.
 * @param {unknown} error
 */
export function isAbort(error) {
  return error instanceof DOMException && error.name === "AbortError";
}

/** @param {AbortSignal} [signal] */
export const models = async (signal) => (await call("GET /models", { signal })).models;
/** @param {string} id @param {AbortSignal} [signal] */
export const model = (id, signal) => call("GET /models/{id}", { id, signal });
/** @param {string} id */
export const forgetModel = (id) => call("DELETE /models/{id}", { id });
/** @param {string} id @param {string} name */
export const save = (id, name) => call("POST /models/{id}/save", { id, body: { name } });
/** @param {string} id @param {AbortSignal} [signal] */
export const data = (id, signal) => call("GET /models/{id}/data", { id, signal });
/** @param {string} id @param {AbortSignal} [signal] */
export const embeddings = (id, signal) => call("GET /models/{id}/embeddings", { id, signal });
/** @param {BodyOf<"POST /sample">} body @param {AbortSignal} [signal] */
export const sample = (body, signal) => call("POST /sample", { body, signal });
/** @param {BodyOf<"POST /score">} body @param {AbortSignal} [signal] */
export const score = async (body, signal) => (await call("POST /score", { body, signal })).scores;
/** @param {BodyOf<"POST /next-token">} body @param {AbortSignal} [signal] */
export const nextToken = (body, signal) => call("POST /next-token", { body, signal });
/** @param {BodyOf<"POST /words">} body @param {AbortSignal} [signal] */
export const words = (body, signal) => call("POST /words", { body, signal });
/** @param {BodyOf<"POST /trace">} body @param {AbortSignal} [signal] */
export const trace = (body, signal) => call("POST /trace", { body, signal });
/** @param {BodyOf<"POST /graph">} body @param {AbortSignal} [signal] */
export const graph = (body, signal) => call("POST /graph", { body, signal });
/** @param {BodyOf<"POST /clean">} body @param {AbortSignal} [signal] */
export const clean = (body, signal) => call("POST /clean", { body, signal });
/** @param {BodyOf<"POST /columns">} body @param {AbortSignal} [signal] */
export const columns = async (body, signal) => (await call("POST /columns", { body, signal })).columns;
/** @param {AbortSignal} [signal] */
export const jobs = async (signal) => (await call("GET /jobs", { signal })).jobs;
/** @param {string} id @param {AbortSignal} [signal] */
export const job = (id, signal) => call("GET /jobs/{id}", { id, signal });
/** @param {string} id */
export const forgetJob = (id) => call("DELETE /jobs/{id}", { id });
/** @param {BodyOf<"POST /jobs">} body */
export const startJob = (body) => call("POST /jobs", { body });
/** @param {string} id @param {"pause"|"resume"|"stop"} action */
export const steer = (id, action) => call(/** @type {const} */ (`POST /jobs/{id}/${action}`), { id });
/** @param {string} id */
export const events = (id) => new EventSource(urlOf("/jobs/{id}/events", id));
/** @param {BodyOf<"POST /preferences">} body */
export const startRatings = (body) => call("POST /preferences", { body });
/** @param {string} id @param {AbortSignal} [signal] */
export const ratings = (id, signal) => call("GET /preferences/{id}", { id, signal });
/** @param {string} id @param {Answer[]} answers */
export const answer = (id, answers) => call("POST /preferences/{id}/answers", { id, body: { answers } });
/** @param {string} id */
export const undo = (id) => call("DELETE /preferences/{id}/answers/last", { id });
/** @param {string} id @param {string} name */
export const saveRatings = (id, name) => call("POST /preferences/{id}/save", { id, body: { name } });

/** @type {Promise<Limits>|null} */
let known = null;

/**
 * Returns the limits of the server. The page asks for them only once.
 * @returns {Promise<Limits>}
 */
export function limits() {
  known ??= call("GET /limits").catch((error) => {
    known = null;
    throw error;
  });
  return known;
}

/** @type {Map<string, ReadonlySet<string>|null>} */
const letters = new Map();

/**
 * Returns the characters that a model knows, or null if it knows all.
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
 * Returns a function that runs one task at a time. A new task aborts the previous one.
 * @param {AbortSignal} whole  aborts all
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
