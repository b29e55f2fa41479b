// The terms that the page explains with tooltips.

/** @type {[RegExp, string][]} */
export const TERMS = [
  [/\bnats\b/, "A unit of surprisal. 1 nat is 1.44 bits."],
  [/\bKL\b/, "KL divergence: how far the model's distribution is from that of the base. 0 means no change."],
  [/\b(?:n|\d+)-gram\b/, "A model that counts which token follows the n − 1 tokens before it in the list."],
  [/\b[Ss]urprisal\b/, "Minus the logarithm of the probability that the model gave to a token."],
  [/\bblend\b/, "A weighted mean of the probabilities of the GPT and of the n-gram."],
];
