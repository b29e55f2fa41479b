"""Step 5: the whole GPT.

Several heads look at once, each in its own part of the numbers. Layers of attention and of the
small network, which says what to make of what was seen, stand one on the other. Each adds to what
came in, and reads it at one length.
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
N_HEAD = 4  # heads, which share these numbers out among themselves
N_LAYER = 1  # how often a position looks back and thinks
LEARNING_RATE = 0.1
NUM_STEPS = 1000  # a name each


def encode(name):
    return [BOS, *map(CHARS.index, name), BOS]


def initial(rng):
    """Every parameter matrix, (out, in), with small random numbers.

    Were they all zero, all hidden numbers would get the same gradient and stay the same for ever.
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
    """W x: each output is the dot product of one row of W with x."""
    return [dot(row, x) for row in w]


def softmax(logits):
    """Any numbers to probabilities; less the largest, no exponential is too large."""
    largest = max(logit.data for logit in logits)
    exps = [(logit + -largest).exp() for logit in logits]
    scale = add_up(exps) ** -1
    return [e * scale for e in exps]


def rmsnorm(x):
    """x / √(mean(x²) + 1e-5): the same direction at one length, whatever the layers before did."""
    scale = (dot(x, x) * (1 / len(x)) + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def attention(q, keys, values):
    """The mean of the values so far, each weighing as much as its key fits the question q.

    softmax(q · k_t / √D) over the positions t, in each head for itself, which has D of the numbers.
    The root keeps the products as large as their factors are, however many are added up. There is
    no future to hide: its keys do not exist yet.
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
    """The probabilities of the next token; `keys` and `values`, of each layer, get one more."""
    # The same letter counts differently in another place, so a place has numbers of its own.
    x = add(params["wte"][token], params["wpe"][position])
    x = rmsnorm(x)
    for i in range(N_LAYER):
        normed = rmsnorm(x)
        q = linear(params[f"layer{i}.attn_wq"], normed)  # what this position looks for
        keys[i].append(linear(params[f"layer{i}.attn_wk"], normed))  # what it can be found by
        values[i].append(linear(params[f"layer{i}.attn_wv"], normed))  # what it tells the finder
        seen = attention(q, keys[i], values[i])
        x = add(x, linear(params[f"layer{i}.attn_wo"], seen))  # heads together again
        # max(0, ·) bends: two linear maps in a row, without a bend between them, are only one.
        h = [a.relu() for a in linear(params[f"layer{i}.mlp_fc1"], rmsnorm(x))]
        x = add(x, linear(params[f"layer{i}.mlp_fc2"], h))
    return softmax(linear(params["lm_head"], x))


def document_loss(params, name):
    """−log p(next token), in nats, averaged over the tokens of one document."""
    tokens = encode(name)
    keys, values = [[] for _ in range(N_LAYER)], [[] for _ in range(N_LAYER)]
    logs = []
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
    tokens = [BOS]
    keys, values = [[] for _ in range(N_LAYER)], [[] for _ in range(N_LAYER)]
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
