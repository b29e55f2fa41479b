// The state of a Teach session: plain objects, and functions that return the next state.

/**
 * @typedef {import("./api.js").Ratings} Ratings
 * @typedef {import("./api.js").Answer} Answer
 * @typedef {string|string[]} Proposal  a name, or two names to compare
 * @typedef {Answer|"undo"|"more"} Message  a message to the server. "more" asks for other proposals
 *
 * @typedef {object} Session
 * @property {Ratings} ratings  as the server last sent them
 * @property {Message[]} waiting  messages without an answer yet. The server may be working on the first
 * @property {ReadonlySet<string>} skipped  keys of skipped proposals
 * @property {Proposal[]} before  the proposals from before the model last learned
 */

const NUM_SHOWN = 8; // proposals before and after learning

/**
 * @param {Ratings} ratings
 * @returns {Session}
 */
export function begun(ratings) {
  return { ratings, waiting: [], skipped: new Set(), before: [] };
}

/** @param {Proposal} proposal  its key is the same in either order */
const keyOf = (proposal) => JSON.stringify(typeof proposal === "string" ? proposal : [...proposal].sort());

/** @param {Answer} answer */
const keyOfAnswer = (answer) => keyOf("text" in answer ? answer.text : [answer.chosen, answer.rejected]);

/** @param {Session} session */
function unsent({ waiting }) {
  return waiting.filter((each) => typeof each !== "string");
}

/**
 * Returns the proposals that the user has neither answered nor skipped.
 * @param {Session} session
 * @returns {Proposal[]}
 */
export function queueOf(session) {
  const gone = new Set([...unsent(session).map(keyOfAnswer), ...session.skipped]);
  return session.ratings.proposals.filter((each) => !gone.has(keyOf(each)));
}

/**
 * Returns the number of answers, and how many more the model needs to learn.
 * @param {Session} session
 */
export function progressOf(session) {
  const { ratings, waiting } = session;
  const undone = waiting.filter((each) => each === "undo").length;
  const done = Math.max(0, ratings.answers.length + unsent(session).length - undone);
  return { done, left: ratings.every - ((done - ratings.num_aligned) % ratings.every || 0) };
}

/**
 * Returns the answer for a key, or null if the key has no meaning for this proposal.
 * @param {Proposal} proposal
 * @param {string} key  "y" or "n" for a name, "a" or "b" for a pair
 * @returns {Answer|null}
 */
export function answerOf(proposal, key) {
  if (typeof proposal === "string") return key === "y" || key === "n" ? { text: proposal, liked: key === "y" } : null;
  const [a, b] = proposal;
  if (key === "a") return { chosen: a, rejected: b };
  return key === "b" ? { chosen: b, rejected: a } : null;
}

/**
 * @param {Session} session
 * @param {Message} message
 * @returns {Session}
 */
export function sending(session, message) {
  return { ...session, waiting: [...session.waiting, message] };
}

/**
 * Returns the state after the server's answer to the first message.
 * @param {Session} session
 * @param {Ratings} ratings
 * @returns {Session}
 */
export function answered(session, ratings) {
  const learned = ratings.num_aligned > session.ratings.num_aligned;
  const before = learned ? shownOf(session) : session.before;
  return { ...session, ratings, before, waiting: session.waiting.slice(1) };
}

/**
 * Returns the first proposals, to compare with those from before the model learned.
 * @param {Session} session
 */
export function shownOf(session) {
  return session.ratings.proposals.slice(0, NUM_SHOWN);
}

/**
 * Returns the state after a failed connection, without the waiting messages.
 * @param {Session} session
 * @returns {Session}
 */
export function failed(session) {
  return { ...session, waiting: [] };
}

/**
 * @param {Session} session
 * @param {Proposal} proposal
 * @returns {Session}
 */
export function skipping(session, proposal) {
  return { ...session, skipped: new Set([...session.skipped, keyOf(proposal)]) };
}

/**
 * Returns the state without the last answer. If the server may have it, the message is "undo".
 * @param {Session} session
 * @param {boolean} busy  whether the server is working on the first message
 * @returns {{session: Session, undo: boolean}}  undo: whether the server has to undo
 */
export function takenBack(session, busy) {
  const { waiting } = session;
  const last = waiting[waiting.length - 1];
  const undo = !last || typeof last === "string" || (waiting.length === 1 && busy);
  return { session: { ...session, skipped: new Set(), waiting: undo ? waiting : waiting.slice(0, -1) }, undo };
}
