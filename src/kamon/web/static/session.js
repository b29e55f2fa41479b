// The state of a session of Teach: plain objects, and functions that return the next one.

/**
 * @typedef {import("./api.js").Ratings} Ratings
 * @typedef {import("./api.js").Answer} Answer
 * @typedef {string|string[]} Proposal  a name, or two to compare
 * @typedef {Answer|"undo"|"more"} Message  to the server; "more" asks for other proposals without an answer
 *
 * @typedef {object} Session
 * @property {Ratings} ratings  as the server last sent them
 * @property {Message[]} waiting  messages that the server has not answered yet; it may be working on the first
 * @property {ReadonlySet<string>} skipped  keys of proposals
 * @property {Proposal[]} before  what the model proposed before it last learned
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
 * The proposals that the user has neither answered nor skipped.
 * @param {Session} session
 * @returns {Proposal[]}
 */
export function queueOf(session) {
  const gone = new Set([...unsent(session).map(keyOfAnswer), ...session.skipped]);
  return session.ratings.proposals.filter((each) => !gone.has(keyOf(each)));
}

/**
 * How many answers there are, and how many are missing until the model learns.
 * @param {Session} session
 */
export function progressOf(session) {
  const { ratings, waiting } = session;
  const undone = waiting.filter((each) => each === "undo").length;
  const done = Math.max(0, ratings.answers.length + unsent(session).length - undone);
  return { done, left: ratings.every - ((done - ratings.num_aligned) % ratings.every || 0) };
}

/**
 * The answer that a key gives to a proposal; null if the key means nothing for it.
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
 * The server has answered the first message.
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
 * The first proposals, which are shown beside those before the model learned.
 * @param {Session} session
 */
export function shownOf(session) {
  return session.ratings.proposals.slice(0, NUM_SHOWN);
}

/**
 * The server could not be reached: it gets none of the messages.
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
 * The last answer is taken back. If the server may have it already, it gets the message "undo".
 * @param {Session} session
 * @param {boolean} busy  whether the server works on the first message
 * @returns {{session: Session, undo: boolean}}  undo: whether the server has to undo
 */
export function takenBack(session, busy) {
  const { waiting } = session;
  const last = waiting[waiting.length - 1];
  const undo = !last || typeof last === "string" || (waiting.length === 1 && busy);
  return { session: { ...session, skipped: new Set(), waiting: undo ? waiting : waiting.slice(0, -1) }, undo };
}
