"""Step 1: count which character follows which.

A language model gives the probability of each next token, based on the tokens before it. The
simplest one looks one token back and learns by counting.
"""

import math
import random
from itertools import pairwise

from kamon.data.builtin import names
from kamon.data.split import split

# One token per character, and one more, BOS, before and after each name. So the model learns where
# names begin and end like anything else.
CHARS = sorted(set("".join(names())))
BOS = len(CHARS)
VOCAB_SIZE = len(CHARS) + 1


def encode(name):
    return [BOS, *map(CHARS.index, name), BOS]


def count_pairs(docs):
    """counts[a][b]: how often b follows a, plus one.

    Without the one, a pair that never occurred would have probability 0. A single name with such a
    pair would make the loss infinite.
    """
    counts = [[1] * VOCAB_SIZE for _ in range(VOCAB_SIZE)]
    for name in docs:
        tokens = encode(name)
        for token, target in pairwise(tokens):
            counts[token][target] += 1
    return counts


def probabilities(counts, token):
    """Return how often each token followed `token`, as a share."""
    total = sum(counts[token])
    return [count / total for count in counts[token]]


def mean_loss(counts, docs):
    """Return −log p(next token), in nats, averaged over all tokens of all documents.

    It measures how surprised the model is. Guessing among all 27 tokens gives log 27 = 3.2958. One
    nat less means that the model gives the right token e = 2.718 times the probability.
    """
    losses = []
    for name in docs:
        tokens = encode(name)
        for token, target in pairwise(tokens):
            losses.append(-math.log(probabilities(counts, token)[target]))
    return sum(losses) / len(losses)


def sample(counts, rng):
    """Return a new name: start with BOS and sample tokens by probability until BOS comes again."""
    name = ""
    token = BOS
    while True:
        token = rng.choices(range(VOCAB_SIZE), probabilities(counts, token))[0]
        if token == BOS:
            return name
        name += CHARS[token]


def main():
    # A tenth is the validation set: the same names in all steps and in `kamon train`. A test on the
    # training set would only show how good a model's memory is.
    training, validation = map(list, split(names()))
    rng = random.Random(42)
    counts = count_pairs(training)
    print(f"validation loss {mean_loss(counts, validation):.4f}")
    print("samples:", *[sample(counts, rng) for _ in range(8)])


if __name__ == "__main__":
    main()
