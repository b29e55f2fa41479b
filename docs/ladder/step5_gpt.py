"""Step 5: the whole GPT.

Several heads look at once, each in its own part of the numbers. Each layer has attention and a
small network that works on the result. Both add their output to their input. RMSNorm scales what
they read to the same length.
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

tape = []  # every computed Value, in order


class Value:
    """A number that remembers its inputs, and how it changes with each of them (the slope).

    An operation knows only its own derivative. The chain rule joins them. So `backward` is written
    once and works for every network made of Values.
    """

    __slots__ = ("data", "grad", "inputs", "slopes")

    def __init__(self, data, inputs=(), slopes=()):
        self.data = data
        self.grad = 0.0  # d loss / d self, once backward has run
        self.inputs = inputs
        self.slopes = slopes  # d self / d input, for each of `inputs`
        if inputs:
            tape.append(self)

    def __add__(self, other):
        if not isinstance(other, Value):
            other = Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other):
        if not isinstance(other, Value):
            other = Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, n):
        return Value(self.data**n, (self,), (n * self.data ** (n - 1),))

    def exp(self):
        e = math.exp(self.data)
        return Value(e, (self,), (e,))

    def log(self):
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def relu(self):
        return Value(max(0.0, self.data), (self,), (float(self.data > 0),))


def add_up(values):
    return Value(sum([v.data for v in values]), values, [1.0] * len(values))


def dot(a, b):
    """Return a₀b₀ + a₁b₁ + … as one operation: the slope in each a is its b, and vice versa.

    Built from + and ·, it would take several times as long. Anything with a known derivative may be
    one operation. Step 7 uses that for the whole model.
    """
    a_data = [v.data for v in a]
    b_data = [v.data for v in b]
    return Value(sum(map(mul, a_data, b_data)), [*a, *b], b_data + a_data)


def backward(loss):
    """Put d loss / d v into the `grad` of every Value v that the loss was computed from.

    The tape is read backwards. So everything that used a Value comes before it, and its gradient is
    complete when it passes the shares on to its inputs.
    """
    loss.grad = 1.0
    for value in reversed(tape):
        for source, slope in zip(value.inputs, value.slopes, strict=True):
            source.grad += slope * value.grad
    tape.clear()


BLOCK_SIZE = 16  # positions: no name has more than 15 letters
N_EMBD = 16  # numbers per token
N_HEAD = 4  # heads, which divide these numbers among themselves
N_LAYER = 1  # layers of attention and a small network
LEARNING_RATE = 0.1
NUM_STEPS = 1000  # one name each


def encode(name):
    return [BOS, *map(CHARS.index, name), BOS]


def initial(rng):
    """Return every parameter matrix, (out, in), with small random numbers.

    If all were zero, all hidden numbers would get the same gradient and always stay equal.
    """

    def matrix(n_out, n_in):
        return [[Value(rng.gauss(0, 0.08)) for _ in range(n_in)] for _ in range(n_out)]

    params = {
        "wte": matrix(VOCAB_SIZE, N_EMBD),
        "wpe": matrix(BLOCK_SIZE, N_EMBD),
        "lm_head": matrix(VOCAB_SIZE, N_EMBD),
    }
    for i in range(N_LAYER):
        params[f"layer{i}.attn_wq"] = matrix(N_EMBD, N_EMBD)
        params[f"layer{i}.attn_wk"] = matrix(N_EMBD, N_EMBD)
        params[f"layer{i}.attn_wv"] = matrix(N_EMBD, N_EMBD)
        params[f"layer{i}.attn_wo"] = matrix(N_EMBD, N_EMBD)
        params[f"layer{i}.mlp_fc1"] = matrix(4 * N_EMBD, N_EMBD)
        params[f"layer{i}.mlp_fc2"] = matrix(N_EMBD, 4 * N_EMBD)
    return params


def add(a, b):
    return [ai + bi for ai, bi in zip(a, b, strict=True)]


def linear(w, x):
    """Return W x: each output is the dot product of one row of W with x."""
    return [dot(row, x) for row in w]


def softmax(logits):
    """Turn any numbers into probabilities. Subtracting the largest avoids an overflow."""
    largest = max(logit.data for logit in logits)
    exps = [(logit + -largest).exp() for logit in logits]
    scale = add_up(exps) ** -1
    return [e * scale for e in exps]


def rmsnorm(x):
    """Return x / √(mean(x²) + 1e-5), which keeps the direction and sets the length."""
    scale = (dot(x, x) * (1 / len(x)) + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def attention(q, keys, values):
    """Return the mean of the values so far, each weighted by how well its key fits the query q.

    The weights are softmax(q · k_t / √D) over the positions t, separately in each head of D
    numbers. The root keeps the products small, however many are added up. No mask hides the future:
    its keys do not exist yet.
    """
    out = []
    head_dim = N_EMBD // N_HEAD
    for start in range(0, N_EMBD, head_dim):
        head = slice(start, start + head_dim)
        weights = softmax([dot(q[head], key[head]) * head_dim**-0.5 for key in keys])
        columns = zip(*[value[head] for value in values], strict=True)
        out += [dot(weights, column) for column in columns]
    return out


def forward(params, token, position, keys, values):
    """Return the probabilities of the next token. Appends to `keys` and `values` of each layer."""
    # The same letter means something else in another place, so each place has its own numbers.
    x = add(params["wte"][token], params["wpe"][position])
    x = rmsnorm(x)
    for i in range(N_LAYER):
        normed = rmsnorm(x)
        q = linear(params[f"layer{i}.attn_wq"], normed)  # what this position looks for
        keys[i].append(linear(params[f"layer{i}.attn_wk"], normed))  # what it can be found by
        values[i].append(linear(params[f"layer{i}.attn_wv"], normed))  # what it passes on
        seen = attention(q, keys[i], values[i])
        x = add(x, linear(params[f"layer{i}.attn_wo"], seen))  # joins the heads
        # Without max(0, ·) in between, two linear maps would be the same as one.
        h = [a.relu() for a in linear(params[f"layer{i}.mlp_fc1"], rmsnorm(x))]
        x = add(x, linear(params[f"layer{i}.mlp_fc2"], h))
    return softmax(linear(params["lm_head"], x))


def document_loss(params, name):
    """Return −log p(next token), in nats, averaged over the tokens of one document."""
    tokens = encode(name)
    keys, values = [[] for _ in range(N_LAYER)], [[] for _ in range(N_LAYER)]
    logs = []
    for position, target in enumerate(tokens[1:]):
        probs = forward(params, tokens[position], position, keys, values)
        logs.append(probs[target].log())
    return add_up(logs) * (-1 / len(logs))


def train(params, docs):
    """Train by stochastic gradient descent: take a document, its gradient, and a small step."""
    flat = [p for w in params.values() for row in w for p in row]
    losses = []
    for name in docs:
        loss = document_loss(params, name)
        backward(loss)
        for p in flat:
            p.data -= LEARNING_RATE * p.grad
            p.grad = 0.0
        losses.append(loss.data)
    return losses


def mean_loss(params, docs):
    """Return −log p(next token), in nats, averaged over all tokens of all documents."""
    total = 0.0
    for name in docs:
        total += document_loss(params, name).data * (len(name) + 1)
        tape.clear()  # no gradient is needed here
    return total / sum(len(name) + 1 for name in docs)


def sample(params, rng):
    """Return a new name: start with BOS and sample tokens by probability until BOS comes again."""
    tokens = [BOS]
    keys, values = [[] for _ in range(N_LAYER)], [[] for _ in range(N_LAYER)]
    for position in range(BLOCK_SIZE):
        probs = forward(params, tokens[-1], position, keys, values)
        tokens += rng.choices(range(VOCAB_SIZE), [p.data for p in probs])
        if tokens[-1] == BOS:
            break
    return "".join(CHARS[token] for token in tokens if token != BOS)


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
