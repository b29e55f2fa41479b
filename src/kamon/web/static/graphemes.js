// Characters as people see them: the grapheme clusters of Unicode, as in kamon/data/graphemes.py.

const segmenter = new Intl.Segmenter("en", { granularity: "grapheme" });

/**
 * Returns the characters of a text as people see them. Each has one code point or several.
 * @param {string} text
 * @returns {string[]}
 */
export function graphemes(text) {
  return [...segmenter.segment(text)].map(({ segment }) => segment);
}

/**
 * Returns the first characters of a text, up to `max` code points in all.
 * @param {string} text
 * @param {number} max
 */
export function fitting(text, max) {
  let [found, size] = ["", 0];
  for (const each of graphemes(text)) {
    size += [...each].length;
    if (size > max) break;
    found += each;
  }
  return found;
}
