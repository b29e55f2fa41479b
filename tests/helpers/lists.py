"""Made-up lists of words, which a tiny model learns in a moment."""

from __future__ import annotations

DOCS = [f"{a}{b}{c}" for a in "bdklmn" for b in "aeiou" for c in ("n", "nna", "ra", "s", "lo")]

# Three letters of fifteen: that a model has learned to end with k, say, is soon seen.
TRIPLES = [a + b + c for a in "abcde" for b in "fghij" for c in "klmno"]
MORE_TRIPLES = [a + b + c for a in "abcdefgh" for b in "ijklm" for c in "nopqr"]

# A table of two columns whose values show in the entries: the first letter and the last one.
COUNTRIES, SEXES = {"north": "bdk", "south": "lmn"}, {"f": ("nna", "ra"), "m": ("n", "s", "lo")}
PEOPLE = [
    {"name": doc, "country": country, "sex": sex, "births": 1 + 3 * number % 50}
    for number, doc in enumerate(DOCS)
    for country, letters in COUNTRIES.items()
    for sex, endings in SEXES.items()
    if doc[0] in letters and doc[2:] in endings
]
