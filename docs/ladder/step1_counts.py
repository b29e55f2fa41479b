"""Step 1: count which character follows which.

A language model tells how probable each next token is, given those before. The simplest one that
deserves the name looks one token back, and learns by counting.
"""

import math
import random
from itertools import pairwise

from kamon.data.builtin import names
from kamon.data.split import split

# A token a character, and one more, BOS, that stands before and behind each name: where names begin
# and end is learned like anything else.
CHARS = sorted(set("".join(names())))
BOS = len(CHARS)
VOCAB_SIZE = len(CHARS) + 1


def encode(name):
    return [BOS, *map(CHARS.index, name), BOS]


def count_pairs(docs):
    """counts[a][b]: how often b follows a, plus one.

    Without the one, a pair that never occurred would be impossible, and a single name with such a
    pair would have probability 0 and make the loss infinite.
    """
    counts = [[1] * VOCAB_SIZE for _ in range(VOCAB_SIZE)]
    for name in docs:
        tokens = encode(name)
        for token, target in pairwise(tokens):
            counts[token][target] += 1
    return counts


def probabilities(counts, token):
    """Of each token that may follow `token`: its share of all that did."""
    total = sum(counts[token])
    return [count / total for count in counts[token]]


def mean_loss(counts, docs):
    """−log p(next token), in nats, averaged over all tokens of all documents.

    It says how surprised the model is. A guess among all 27 costs log 27 = 3.2958 nats; each nat
    less makes what really follows e = 2.718 times as probable.
    """
    losses = []
    for name in docs:
        tokens = encode(name)
        for token, target in pairwise(tokens):
            losses.append(-math.log(probabilities(counts, token)[target]))
    return sum(losses) / len(losses)


def sample(counts, rng):
    """A new name: from BOS on, draw each token by its probability, until BOS comes up again."""
    name = ""
    token = BOS
    while True:
        token = rng.choices(range(VOCAB_SIZE), probabilities(counts, token))[0]
        if token == BOS:
            return name
        name += CHARS[token]


def main():
    # A tenth is set aside by content, the same tenth in all steps and in `kamon train`: tested on
    # names that it learned from, a model shows only that its memory is good.
    learned, held_out = map(list, split(names()))
    rng = random.Random(42)
    counts = count_pairs(learned)
    print(f"held-out loss {mean_loss(counts, held_out):.4f}")
    print("samples:", *[sample(counts, rng) for _ in range(8)])


if __name__ == "__main__":
    main()
