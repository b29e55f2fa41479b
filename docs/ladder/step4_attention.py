"""Step 4: one attention head, which looks at all that came before and learns where to look.

The network of step 2 sees three characters and has separate weights for each of the three places.
Here each position asks a question of all positions so far, and takes up most of what fits it best.
"""

import math
import random
from operator import mul

from kamon.data.builtin import names
from kamon.data.split import split

# A token a character, and one more, BOS, that stands before and behind each name: where names begin
# and end is learned like anything else.
CHARS = sorted(set("".join(names())))
BOS = len(CHARS)
VOCAB_SIZE = len(CHARS) + 1

tape = []  # every Value that was computed, in the order in which it was


class Value:
    """A number that remembers what it was computed from, and its slope in each of that.

    An operation knows its own derivative and nothing else. The chain rule joins them: `backward`
    needs to be written once, and holds for every network that will ever be built of Values.
    """

    __slots__ = ("data", "grad", "inputs", "slopes")

    def __init__(self, data, inputs=(), slopes=()):
        self.data = data
        self.grad = 0.0  # d loss / d self, when backward has been here
        self.inputs = inputs
        self.slopes = slopes  # d self / d input, one for each of `inputs`
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
    """a₀b₀ + a₁b₁ + … as one operation: the slope in each a is the b beside it, and vice versa.

    It could be built of + and ·, at several times the time. Whatever has a known derivative may be
    one operation; step 7 drives that to its end.
    """
    a_data = [v.data for v in a]
    b_data = [v.data for v in b]
    return Value(sum(map(mul, a_data, b_data)), [*a, *b], b_data + a_data)


def backward(loss):
    """Put d loss / d v into the `grad` of every Value v that the loss was computed from.

    The tape, read backwards, has each Value behind everything that it went into, so its own
    gradient is complete before it hands its share on to its inputs.
    """
    loss.grad = 1.0
    for value in reversed(tape):
        for source, slope in zip(value.inputs, value.slopes, strict=True):
            source.grad += slope * value.grad
    tape.clear()


BLOCK_SIZE = 16  # positions: no name has more than 15 letters
N_EMBD = 16  # numbers that stand for a token
N_HIDDEN = 64  # numbers between what is seen and what is said
LEARNING_RATE = 0.1
NUM_STEPS = 1000  # a name each


def encode(name):
    return [BOS, *map(CHARS.index, name), BOS]


def initial(rng):
    """Every parameter matrix, (out, in), with small random numbers.

    Were they all zero, all hidden numbers would get the same gradient and stay the same for ever.
    """

    def matrix(n_out, n_in):
        return [[Value(rng.gauss(0, 0.2)) for _ in range(n_in)] for _ in range(n_out)]

    return {
        "wte": matrix(VOCAB_SIZE, N_EMBD),
        "wpe": matrix(BLOCK_SIZE, N_EMBD),
        "lm_head": matrix(VOCAB_SIZE, N_HIDDEN),
        "attn_wq": matrix(N_EMBD, N_EMBD),
        "attn_wk": matrix(N_EMBD, N_EMBD),
        "attn_wv": matrix(N_EMBD, N_EMBD),
        "fc1": matrix(N_HIDDEN, N_EMBD),
    }


def add(a, b):
    return [ai + bi for ai, bi in zip(a, b, strict=True)]


def linear(w, x):
    """W x: each output is the dot product of one row of W with x."""
    return [dot(row, x) for row in w]


def softmax(logits):
    """Any numbers to probabilities; less the largest, no exponential is too large."""
    largest = max(logit.data for logit in logits)
    exps = [(logit + -largest).exp() for logit in logits]
    scale = add_up(exps) ** -1
    return [e * scale for e in exps]


def attention(q, keys, values):
    """The mean of the values so far, each weighing as much as its key fits the question q.

    softmax(q · k_t / √C) over the positions t. The root keeps the products as large as their
    factors are, however many are added up. There is no future to hide: its keys do not exist yet.
    """
    weights = softmax([dot(q, key) * len(q) ** -0.5 for key in keys])
    return [dot(weights, column) for column in zip(*values, strict=True)]


def forward(params, token, position, keys, values):
    """The probabilities of the next token; `keys` and `values`, of all before, get one more."""
    # The same letter counts differently in another place, so a place has numbers of its own.
    x = add(params["wte"][token], params["wpe"][position])
    q = linear(params["attn_wq"], x)  # what this position looks for
    keys.append(linear(params["attn_wk"], x))  # what it can be found by
    values.append(linear(params["attn_wv"], x))  # what it tells those who find it
    x = add(x, attention(q, keys, values))  # added: the token itself is not forgotten
    # max(0, ·) bends: two linear maps in a row, without a bend between them, are only one.
    h = [a.relu() for a in linear(params["fc1"], x)]
    return softmax(linear(params["lm_head"], h))


def document_loss(params, name):
    """−log p(next token), in nats, averaged over the tokens of one document."""
    tokens = encode(name)
    keys, values, logs = [], [], []
    for position, target in enumerate(tokens[1:]):
        probs = forward(params, tokens[position], position, keys, values)
        logs.append(probs[target].log())
    return add_up(logs) * (-1 / len(logs))


def train(params, docs):
    """Stochastic gradient descent: a document, its gradient, a small step downhill."""
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
    """−log p(next token), in nats, averaged over all tokens of all documents."""
    total = 0.0
    for name in docs:
        total += document_loss(params, name).data * (len(name) + 1)
        tape.clear()  # nothing is to be learned from these
    return total / sum(len(name) + 1 for name in docs)


def sample(params, rng):
    """A new name: from BOS on, draw each token by its probability, until BOS comes up again."""
    tokens, keys, values = [BOS], [], []
    for position in range(BLOCK_SIZE):
        probs = forward(params, tokens[-1], position, keys, values)
        tokens += rng.choices(range(VOCAB_SIZE), [p.data for p in probs])
        if tokens[-1] == BOS:
            break
    return "".join(CHARS[token] for token in tokens if token != BOS)


def main():
    # A tenth is set aside by content, the same tenth in all steps and in `kamon train`: tested on
    # names that it learned from, a model shows only that its memory is good.
    learned, held_out = map(list, split(names()))
    rng = random.Random(42)
    rng.shuffle(learned)
    params = initial(rng)
    losses = train(params, learned[:NUM_STEPS])
    print(f"loss {losses[0]:.4f} at first, {sum(losses[-500:]) / 500:.4f} in the last 500 steps")
    print(f"held-out loss {mean_loss(params, held_out):.4f}")
    print("samples:", *[sample(params, rng) for _ in range(8)])


if __name__ == "__main__":
    main()
