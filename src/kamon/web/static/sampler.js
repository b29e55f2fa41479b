// Sampling a token without the server, exactly as in kamon/engines/philox.py and kamon/generation/.
// The tests compare the two.

const MASK32 = 0xffffffffn;

/**
 * Returns a number in [0, 1) for the token at `position` of sample `index`: Philox4x32-10, 53 bits.
 * @param {number|bigint} seed
 * @param {number|bigint} index
 * @param {number|bigint} position
 * @returns {number}
 */
export function uniform(seed, index, position) {
  const [s, i, p] = [seed, index, position].map((n) => BigInt.asUintN(64, BigInt(n)));
  let [c0, c1, c2, c3] = [p & MASK32, p >> 32n, i & MASK32, i >> 32n];
  let [k0, k1] = [s & MASK32, s >> 32n];
  for (let round = 0; round < 10; round++) {
    const product0 = 0xd2511f53n * c0;
    const product1 = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [(product1 >> 32n) ^ c1 ^ k0, product1 & MASK32, (product0 >> 32n) ^ c3 ^ k1, product0 & MASK32];
    k0 = (k0 + 0x9e3779b9n) & MASK32;
    k1 = (k1 + 0xbb67ae85n) & MASK32;
  }
  return Number((c0 << 21n) | (c1 >> 11n)) * 2 ** -53;
}

/**
 * Returns softmax(logits / temperature), or 1 for the largest logit if the temperature is too low.
 * @param {number[]} logits
 * @param {number} temperature
 * @returns {number[]}
 */
export function probabilities(logits, temperature) {
  const scale = 1 / temperature;
  const largestSize = logits.reduce((found, logit) => Math.max(found, Math.abs(logit)), 0);
  if (!Number.isFinite(scale * largestSize)) {
    const first = logits.indexOf(logits.reduce((a, b) => Math.max(a, b)));
    return logits.map((_, i) => (i === first ? 1 : 0));
  }
  const scaled = logits.map((logit) => logit * scale);
  const largest = scaled.reduce((a, b) => Math.max(a, b));
  const exps = scaled.map((each) => Math.exp(each - largest));
  const inverse = 1 / exps.reduce((a, b) => a + b);
  return exps.map((each) => each * inverse);
}

/**
 * @param {number[]} numbers
 * @returns {number[]} the sum up to each
 */
function sums(numbers) {
  let total = 0;
  return numbers.map((each) => (total += each));
}

/**
 * Returns the place at which the running sum of softmax(logits / temperature) passes u, 0 ≤ u < 1.
 * @param {number[]} logits
 * @param {number} temperature
 * @param {number} u
 * @returns {number}
 */
export function choose(logits, temperature, u) {
  const running = sums(probabilities(logits, temperature));
  const passed = u * running[running.length - 1];
  const found = running.findIndex((each) => each > passed);
  return found < 0 ? running.length - 1 : found;
}

/**
 * @typedef {object} Conditions
 * @property {number|null} [top_k]
 * @property {number} [top_p]
 */

/**
 * Returns the tokens that top_k and top_p keep, in ascending order.
 * @param {number[]} logits
 * @param {number} temperature
 * @param {Conditions} conditions
 * @param {Set<number>} [excluded]  tokens to leave out
 * @returns {number[]}
 */
export function allowed(logits, temperature, conditions, excluded) {
  const { top_k = null, top_p = 1 } = conditions;
  let tokens = logits.map((_, token) => token).filter((token) => !excluded?.has(token));
  if (top_k !== null || top_p < 1) {
    tokens.sort((a, b) => logits[b] - logits[a]); // a stable sort, so that the first of equal ones wins
    if (top_k !== null) tokens = tokens.slice(0, top_k);
    if (top_p < 1) {
      const running = sums(
        probabilities(
          tokens.map((token) => logits[token]),
          temperature,
        ),
      );
      const enough = top_p * running[running.length - 1];
      tokens = tokens.slice(0, running.findIndex((each) => each >= enough) + 1);
    }
    tokens.sort((a, b) => a - b);
  }
  return tokens;
}
