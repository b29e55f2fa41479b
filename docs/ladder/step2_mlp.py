"""Step 2: a neural network that looks three characters back, with a gradient derived by hand.

A table of counts for three characters would have 27³ rows, most of them nearly empty. What it
learns about "ann" would not help with "enn". A network has few parameters, and all contexts share
them. Counting cannot find them. Each step moves every parameter a little against its gradient.
"""

import math
import random
from operator import mul

from kamon.data.builtin import names
from kamon.data.split import split

# One token per character, and one more, BOS, before and after each name. So the model learns where
# names begin and end like anything else.
CHARS = sorted(set("".join(names())))
BOS = len(CHARS)
VOCAB_SIZE = len(CHARS) + 1

CONTEXT = 3  # tokens that the network sees
N_EMBD = 8  # numbers per token
N_HIDDEN = 32  # numbers between input and output
LEARNING_RATE = 0.1
NUM_STEPS = 2000  # one name each


def encode(name):
    return [*[BOS] * CONTEXT, *map(CHARS.index, name), BOS]


def examples(name):
    """Return (context, target) for each token of a name: the CONTEXT tokens before it, and it."""
    tokens = encode(name)
    return [(tokens[i - CONTEXT : i], tokens[i]) for i in range(CONTEXT, len(tokens))]


def initial(rng):
    """Return every parameter matrix, (out, in), with small random numbers.

    If all were zero, all hidden numbers would get the same gradient and always stay equal.
    """

    def matrix(n_out, n_in):
        return [[rng.gauss(0, 0.2) for _ in range(n_in)] for _ in range(n_out)]

    return {
        "wte": matrix(VOCAB_SIZE, N_EMBD),
        "fc1": matrix(N_HIDDEN, CONTEXT * N_EMBD),
        "lm_head": matrix(VOCAB_SIZE, N_HIDDEN),
    }


def linear(w, x):
    """Return W x: each output is the dot product of one row of W with x."""
    return [sum(map(mul, row, x)) for row in w]


def softmax(logits):
    """Turn any numbers into probabilities. Subtracting the largest avoids an overflow."""
    largest = max(logits)
    exps = [math.exp(logit - largest) for logit in logits]
    total = sum(exps)
    return [e / total for e in exps]


def forward(params, context):
    """Return the probabilities of the next token, with x and h, which the gradient needs."""
    x = [number for token in context for number in params["wte"][token]]
    # Without max(0, ·) in between, two linear maps would be the same as one.
    h = [max(0.0, a) for a in linear(params["fc1"], x)]
    return x, h, softmax(linear(params["lm_head"], h))


def add_outer(grad, a, b, factor):
    """grad += factor · a bᵀ"""
    for row, ai in zip(grad, a, strict=True):
        for j, bj in enumerate(b):
            row[j] += factor * ai * bj


def linear_backward(w, d_out):
    """Return Wᵀ d_out: how the loss changes with each input, added up over all outputs."""
    return [sum(map(mul, column, d_out)) for column in zip(*w, strict=True)]


def gradient(params, name):
    """Return the mean loss of a document, and its derivative with respect to every parameter."""
    grads = {key: [[0.0] * len(row) for row in w] for key, w in params.items()}
    pairs = examples(name)
    loss = 0.0
    for context, target in pairs:
        x, h, probs = forward(params, context)
        loss -= math.log(probs[target]) / len(pairs)
        # L = −log softmax(logits)[target]  →  dL/dlogitᵢ = pᵢ − [i = target]
        d_logits = [p - (i == target) for i, p in enumerate(probs)]
        # logits = W h  →  dL/dW = dL/dlogits hᵀ,  dL/dh = Wᵀ dL/dlogits
        add_outer(grads["lm_head"], d_logits, h, 1 / len(pairs))
        d_h = linear_backward(params["lm_head"], d_logits)
        # h = max(0, a)  →  dL/da = dL/dh where h > 0, else 0
        d_a = [d if hi > 0 else 0.0 for d, hi in zip(d_h, h, strict=True)]
        # a = W x, as above
        add_outer(grads["fc1"], d_a, x, 1 / len(pairs))
        d_x = linear_backward(params["fc1"], d_a)
        # x is three rows of wte: each gets its part, and twice if it occurs twice
        for i, token in enumerate(context):
            for j in range(N_EMBD):
                grads["wte"][token][j] += d_x[i * N_EMBD + j] / len(pairs)
    return loss, grads


def train(params, docs):
    """Train by stochastic gradient descent: take a document, its gradient, and a small step."""
    losses = []
    for name in docs:
        loss, grads = gradient(params, name)
        for key, w in params.items():
            for row, d_row in zip(w, grads[key], strict=True):
                for j, d in enumerate(d_row):
                    row[j] -= LEARNING_RATE * d
        losses.append(loss)
    return losses


def mean_loss(params, docs):
    """Return −log p(next token), in nats, averaged over all tokens of all documents."""
    pairs = [pair for name in docs for pair in examples(name)]
    losses = [-math.log(forward(params, context)[2][target]) for context, target in pairs]
    return sum(losses) / len(losses)


def sample(params, rng):
    """Return a new name: start with BOS and sample tokens by probability until BOS comes again."""
    tokens = [BOS] * CONTEXT
    while True:
        probs = forward(params, tokens[-CONTEXT:])[2]
        tokens += rng.choices(range(VOCAB_SIZE), probs)
        if tokens[-1] == BOS:
            return "".join(CHARS[token] for token in tokens[CONTEXT:-1])


def main():
    # A tenth is the validation set: the same names in all steps and in `kamon train`. A test on the
    # training set would only show how good a model's memory is.
    training, validation = map(list, split(names()))
    rng = random.Random(42)
    rng.shuffle(training)
    params = initial(rng)
    losses = train(params, training[:NUM_STEPS])
    print(f"loss {losses[0]:.4f} at first, {sum(losses[-500:]) / 500:.4f} in the last 500 steps")
    print(f"validation loss {mean_loss(params, validation):.4f}")
    print("samples:", *[sample(params, rng) for _ in range(8)])


if __name__ == "__main__":
    main()
