"""Made-up lists of words, which a tiny model learns in a moment."""

from __future__ import annotations

DOCS = [f"{a}{b}{c}" for a in "bdklmn" for b in "aeiou" for c in ("n", "nna", "ra", "s", "lo")]

# Three letters of fifteen: that a model has learned to end with k, say, is soon seen.
TRIPLES = [a + b + c for a in "abcde" for b in "fghij" for c in "klmno"]
MORE_TRIPLES = [a + b + c for a in "abcdefgh" for b in "ijklm" for c in "nopqr"]
