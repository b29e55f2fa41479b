"""The source of walkthrough.ipynb, which `python dev/make_walkthrough.py` makes from it."""

# %% [markdown]
# # The walkthrough
#
# This notebook builds a GPT and looks at each of its parts while it works. Every number is computed
# by a cell that you can change and run again.
#
# There are nine chapters:
#
# 1. **The question** that everything here answers: what comes next?
# 2. **Data**: a list to train on
# 3. **Tokenizer**: text to numbers and back
# 4. **Autograd**: how to improve every number at once
# 5. **Parameters**: the numbers that will be trained
# 6. **Architecture**: from tokens to a guess, with one attention head followed number by number
# 7. **Training**: thousands of small corrections, slowly in Python and then the same in C++
# 8. **Inference**: the model writes
# 9. **Beyond microGPT**: subwords, answers to prompts, preferences
#
# Until the middle of chapter 7 the model is one file of plain Python that needs no library,
# [scalar.py](../src/kamon/engines/scalar.py). Read it beside this notebook. Its 470 lines are all
# that you need to train a GPT.
#
# **To run it:** `pip install "kamon[notebook]"`, then open the file in Jupyter or in an editor that
# supports notebooks. All of it takes about a minute.
#
# **Exercises:** each chapter ends with three. Replace each `None` by your answer and run the cell.
# The folded cell after it has the right answers and the reasons.

# %% [markdown]
# ## 1. The question
#
# Three helpers that have nothing to do with GPTs are in the folded cell. `bars` prints numbers as
# bars, `show` shows a picture, and `check` checks your answers.

# %% closed
import math

from IPython.display import SVG

from kamon import plotting

RIGHT = {}  # the answers to the exercises of each chapter, computed


def bars(rows, width=40):
    """Print (name, number) rows, each with a bar."""
    longest = max(number for _, number in rows)
    column = max(len(str(name)) for name, _ in rows)
    for name, number in rows:
        shown = f"{number:6.1%}" if isinstance(number, float) else f"{number:6,}"
        print(f"{name!s:>{column}} {shown} {'█' * round(width * number / longest)}")


def show(figure):
    """A matplotlib figure as SVG."""
    return SVG(plotting.render(figure, "svg"))


def is_right(answer, right):
    """Whole numbers and words exactly, other numbers to a hundredth."""
    if isinstance(right, float) and isinstance(answer, int | float):
        return math.isclose(answer, right, rel_tol=0.01, abs_tol=1e-3)
    return answer == right


def check(chapter, *answers, strictly=False):
    """Print which answers are right. strictly: stop if one is not."""
    for number, (answer, right) in enumerate(zip(answers, RIGHT[chapter], strict=True), 1):
        verdict = "no answer yet" if answer is None else "not yet"
        if is_right(answer, right):
            verdict = "right"
        print(f"{chapter}.{number}: {verdict}")
        assert not strictly or verdict == "right", f"{answer} is not {right}"


# %% [markdown]
# A language model answers one question: given how a text begins, how probable is each continuation?
# Here is a small list of everyday requests, with how often each one occurs.

# %%
WANTED = {
    "a cup of tea": 8,
    "a cup of coffee": 6,
    "a cup of water": 3,
    "a cup of milk": 2,
    "a cup of cocoa": 1,
    "a glass of water": 5,
    "a glass of milk": 4,
    "a bowl of soup": 4,
    "a bowl of rice": 4,
    "a piece of cake": 4,
    "a piece of chalk": 3,
    "a bar of soap": 5,
    "the book": 4,
    "the keyboard": 3,
}
OPENINGS = [
    f"{verb} {whom}"
    for verb in ("give", "bring", "pass", "fetch", "hand")
    for whom in ("me", "us", "him", "her", "them")
]
requests = []
turn = 0
for thing in [thing for thing, times in WANTED.items() for _ in range(times)]:
    opening = OPENINGS[7 * turn % len(OPENINGS)]
    if opening == "fetch them" and "cup" in thing:  # nobody says this: we ask for it later
        turn += 1
        opening = OPENINGS[7 * turn % len(OPENINGS)]
    requests.append(f"{opening} {thing}")
    turn += 1
print(len(requests), "requests, such as:")
print("", *requests[::8], sep="\n  ")

# %% [markdown]
# The simplest model counts. **Give me a cup of ____?** Find each place in the list that has the
# same words, and count what comes next.


# %%
from collections import Counter


def counted(context):
    """How often each word follows these words in the requests, as a share."""
    words = context.split()
    followers = Counter()
    for request in requests:
        spoken = [*request.split(), "(end)"]
        for place in range(len(words), len(spoken)):
            if spoken[place - len(words) : place] == words:
                followers[spoken[place]] += 1
    return {word: n / followers.total() for word, n in followers.most_common()}


for context in ("of", "cup of", "give me a cup of", "fetch them a cup of"):
    print(f"… {context} ____")
    found = counted(context)
    bars(list(found.items())[:6]) if found else print("  never seen")
    print()

# %% [markdown]
# Counting has a dilemma. With a short context (`of`), a cup may contain soap. With a long context
# there is almost no data. Only one request begins `give me a cup of`, so the answer is always tea.
# And no request begins `fetch them a cup of`.
#
# Here a context of two words is right, but it is not always two. We want a model that looks at
# *all* the words before and learns which of them matter. It should also have an answer for
# sentences that it never saw. In chapter 8 a GPT gets the same list and the same question.
#
# ### Exercises
#
# 1. How many of the requests have the words `a cup of`?
# 2. By counting, what is the probability of `water` after `glass of`?
# 3. And that of `soap` after `cup of`?

# %% closed
RIGHT[1] = (
    sum("a cup of" in request for request in requests),
    counted("glass of")["water"],
    counted("cup of").get("soap", 0.0),
)

# %%
answer_1 = None
answer_2 = None
answer_3 = None
check(1, answer_1, answer_2, answer_3)

# %% closed
# 1.1  sum("a cup of" in request for request in requests)
# 1.2  Nine requests have "glass of". In five of them water comes next.
# 1.3  It never occurs, so counting calls it impossible. That is too certain.
check(1, 20, 5 / 9, 0.0, strictly=True)

# %% [markdown]
# ## 2. Data
#
# There are only 26 letters, far fewer than words, and names are short. So our model learns first
# names. Each name is one entry of the list. The list comes with Kamon: the first names given in the
# United States in 2018, from the Social Security Administration's public record.

# %%
import random

from kamon.data import corpus
from kamon.data.split import split

names = list(corpus.read("names").docs)
print(f"{len(names):,} names")
print(random.Random(1).sample(names, 12))

# %% [markdown]
# Before you train on a list, look at it. How long are its entries, and which characters occur?

# %%
lengths = Counter(map(len, names))
bars([(n, lengths[n]) for n in sorted(lengths)])
characters = Counter("".join(names))
print("\ncharacters:", "".join(sorted(characters)))
print("the most frequent:", *[f"{c} {n:,}" for c, n in characters.most_common(5)], sep="  ")

# %% [markdown]
# Do two things before training, because later it is too late:
#
# - Remove **duplicates**. (This list has none, but most lists do.)
# - Set aside a **validation set**: entries that the model is never trained on. They show whether it
#   has learned a pattern or only memorised. `split` chooses a tenth by a hash of each entry, so the
#   choice does not change when the list grows.

# %%
training, validation = split(names)
print(f"{len(training):,} names in the training set, {len(validation):,} in the validation set")
print("in the validation set, for example:", *validation[:5])

# %% [markdown]
# ### Exercises
#
# 1. How many characters does the longest name have?
# 2. How many names begin with `q`?
# 3. With which letter do most names end?

# %% closed
RIGHT[2] = (
    max(lengths),
    sum(name.startswith("q") for name in names),
    Counter(name[-1] for name in names).most_common(1)[0][0],
)

# %%
answer_1 = None
answer_2 = None
answer_3 = None
check(2, answer_1, answer_2, answer_3)

# %% closed
# 2.1  The last bar above.
# 2.2  sum(name.startswith("q") for name in names)
# 2.3  Counter(name[-1] for name in names)
check(2, 15, 85, "a", strictly=True)

# %% [markdown]
# ## 3. Tokenizer
#
# A model computes with numbers, so each character gets one: its place in the alphabet of the list.
# One more token, BOS, marks where an entry begins and, after the last letter, where it ends.
# Without it the model could neither start nor stop.

# %%
alphabet = sorted(set("".join(names)))
number_of = {character: number for number, character in enumerate(alphabet)}
BOS = len(alphabet)


def encode(name):
    return [BOS, *(number_of[character] for character in name), BOS]


def decode(tokens):
    return "".join(alphabet[token] for token in tokens if token != BOS)


print("emma →", encode("emma"), "→", decode(encode("emma")))

# %% [markdown]
# That is a complete character tokenizer. Kamon's does the same and explains which character it does
# not know:

# %%
import kamon
from kamon.tokenizers.char import CharTokenizer

tokenizer = CharTokenizer.train(names)
assert all(tokenizer.encode_document(name) == encode(name) for name in names)
print("vocab_size:", tokenizer.vocab_size)
try:
    tokenizer.encode("zoë")
except kamon.TokenizerError as error:
    print("TokenizerError:", error)

# %% [markdown]
# The text contains both the questions and the answers, so nobody has to label anything. Each token
# is a question about the next one. This is called self-supervised learning.

# %%
tokens = encode("emma")
shown = [*alphabet, "BOS"]
for place in range(len(tokens) - 1):
    seen = " ".join(shown[token] for token in tokens[: place + 1])
    print(f"{seen:12} → {shown[tokens[place + 1]]}")

# %% [markdown]
# ### Exercises
#
# 1. Which token is `k`?
# 2. How many questions, as in the table above, does `anna` contain?
# 3. A list has the 26 letters and also `é` and `-`. What is its `vocab_size`?

# %% closed
RIGHT[3] = (
    tokenizer.encode("k")[0],
    len(tokenizer.encode_document("anna")) - 1,
    CharTokenizer.train([*names, "é-"]).vocab_size,
)

# %%
answer_1 = None
answer_2 = None
answer_3 = None
check(3, answer_1, answer_2, answer_3)

# %% closed
# 3.1  The eleventh letter, and counting starts at 0.
# 3.2  Four letters and the end.
# 3.3  28 characters and BOS.
check(3, 10, 5, 29, strictly=True)

# %% [markdown]
# ## 4. Autograd
#
# The model will be one long formula, from thousands of parameters to one number. That number is the
# loss: how badly it guessed. To improve the model we need to know one thing about each parameter.
# If it gets a little larger, does the loss rise or fall, and by how much? That is the **gradient**.
#
# A `Value` is a number that remembers what it was computed from. Each operation stores the
# derivative of its result with respect to each input. For $a \cdot b$ these are $b$ (for $a$) and
# $a$ (for $b$). Then `backward` goes through the formula from its end to its beginning. It
# multiplies along each path (the chain rule) and adds the paths that meet.

# %%
from kamon.engines.scalar import Value, softmax, topological_order

a, b = Value(2.0), Value(-3.0)
c = a * b
d = a**3
loss = c + d
loss.backward()
print("loss", loss.data, "  d loss/d a", a.grad, "  d loss/d b", b.grad)

# %% [markdown]
# Here is that formula as a graph. Each box shows a value with its gradient below, and each arrow
# its local derivative. Multiply along each path from the end to `a`, and add the two paths.

# %% closed
from collections import defaultdict

from matplotlib.figure import Figure


def draw_graph(root, labels):
    """Return a graph of Values from left to right. `labels` has the text of each box."""
    column = {}
    for value in topological_order(root):
        column[value] = 1 + max((column[source] for source in value.inputs), default=-1)
    rows = defaultdict(list)
    for value, x in column.items():
        rows[x].append(value)
    place = {
        value: (2.6 * x, 1.3 * ((len(row) - 1) / 2 - y))
        for x, row in rows.items()
        for y, value in enumerate(row)
    }
    figure = Figure(figsize=(8, 2.8))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.9, 2.6 * max(column.values()) + 0.9), ylim=(-1.25, 1.25))
    axes.axis("off")
    for value, end in place.items():
        for source, local in zip(value.inputs, value.local_grads, strict=True):
            start = place[source]
            arrow = {"arrowstyle": "<-", "color": plotting.GREY, "shrinkA": 34, "shrinkB": 34}
            axes.annotate("", start, end, arrowprops=arrow)
            # Near the start of the arrow, because two arrows may cross in the middle.
            x, y = (0.68 * p + 0.32 * q for p, q in zip(start, end, strict=True))
            axes.text(x, y + 0.14, f"× {local:g}", color=plotting.ORANGE, ha="center")
    for value, (x, y) in place.items():
        text = f"{labels[value]}\n{value.data:g}\ngrad {value.grad:g}"
        box = {"boxstyle": "round", "facecolor": "white", "edgecolor": plotting.BLUE}
        axes.text(x, y, text, ha="center", va="center", bbox=box)
    return figure


# %%
show(draw_graph(loss, {a: "a", b: "b", c: "c = a · b", d: "d = a³", loss: "loss = c + d"}))

# %% [markdown]
# **By hand.** $L = ab + a^3$, so $\partial L/\partial a = b + 3a^2 = -3 + 12 = 9$ and $\partial
# L/\partial b = a = 2$. And **by trying**: change $a$ a little, and see how $L$ changes. Trying
# needs no calculus and works for any formula, but it needs two runs for each parameter. `backward`
# gets all gradients from one run.


# %%
def formula(a, b):
    return a * b + a**3


step = 1e-6
by_hand = -3 + 3 * 2.0**2
by_trying = (formula(2 + step, -3) - formula(2 - step, -3)) / (2 * step)
print("by backward", a.grad, "  by hand", by_hand, "  by trying", round(by_trying, 6))
assert a.grad == by_hand
assert abs(by_trying - by_hand) < 1e-6

# %% [markdown]
# Every language model ends with the same formula. `softmax` turns logits (any numbers) into
# probabilities, and the loss is $-\log p$ of the token that really came. The gradient is simple:
# **the probability, minus 1 for the right token.** The more probable a wrong token was, the more it
# is pushed down. The less probable the right token was, the more it is pulled up.

# %%
logits = [Value(2.0), Value(1.0), Value(-1.0)]
probabilities = softmax(logits)
loss = -probabilities[1].log()  # token 1 was the right one
loss.backward()
print(f"loss {loss.data:.4f}\nlogit   p       gradient")
for logit, p in zip(logits, probabilities, strict=True):
    print(f"{logit.data:5}  {p.data:.4f}  {logit.grad:+.4f}")

# %% [markdown]
# ### Exercises
#
# 1. $L = ab + a^3$ at $a = 1$, $b = 5$: what is $\partial L/\partial a$?
# 2. `relu` keeps a number above 0 and replaces any other by 0. What is the gradient of
#    `Value(-2.0).relu()` with respect to its input?
# 3. Four tokens, all logits 0, and token 0 was the right one. What is the gradient of its logit?

# %% closed
a, b = Value(1.0), Value(5.0)
(a * b + a**3).backward()
negative = Value(-2.0)
negative.relu().backward()
logits = [Value(0.0) for _ in range(4)]
(-softmax(logits)[0].log()).backward()
RIGHT[4] = (a.grad, negative.grad, logits[0].grad)

# %%
answer_1 = None
answer_2 = None
answer_3 = None
check(4, answer_1, answer_2, answer_3)

# %% closed
# 4.1  b + 3a² = 5 + 3
# 4.2  Below 0 the result stays 0 whatever you change, so the gradient is 0.
# 4.3  Each probability is 1/4, minus 1 for the right token.
check(4, 8.0, 0.0, -0.75, strictly=True)

# %% [markdown]
# ## 5. Parameters
#
# Everything that the model learns is in these matrices. They start as random numbers near 0. If
# they were equal, they would have equal gradients and always stay equal.

# %%
from dataclasses import replace
from functools import reduce
from operator import add

from kamon.config import Config
from kamon.engines.parameters import init, num_params, parameter_shapes
from kamon.engines.scalar import document_logprobs
from kamon.evaluation.introspection import matrices

config = Config(vocab_size=tokenizer.vocab_size)
start = init(config, random.Random(config.seed))
params = {
    name: [[Value(number) for number in row] for row in matrix]
    for name, matrix in matrices(config, start).items()
}
flat = [value for matrix in params.values() for row in matrix for value in row]

print(f"n_layer {config.n_layer}, n_embd {config.n_embd}, n_head {config.n_head}", end=", ")
print(f"head_dim {config.head_dim}, block_size {config.block_size}\n")
for name, (rows, columns) in parameter_shapes(config).items():
    print(f"{name:16} {rows:3} × {columns:2} = {rows * columns:5,}")
print(f"{'together':16} {len(flat):15,}")

# %% [markdown]
# - `wte` has a row of `n_embd` numbers for each token, and `wpe` one for each position. A token
#   enters the model as the sum of its two rows, so a letter looks different at each position.
# - `attn_wq`, `attn_wk`, `attn_wv` and `attn_wo` belong to attention. `mlp_fc1` and `mlp_fc2`
#   belong to the small network after it. A layer has one of each.
# - `lm_head` turns the result into a logit for each token.
#
# A model that knows nothing should give each token the same probability. Its loss is then $-\log
# \frac{1}{27} = \log 27$ nats. Does ours?

# %%
logprobs = document_logprobs(params, config.n_layer, config.head_dim, encode("emma"))
for place, logprob in enumerate(logprobs):
    print(f"p({shown[tokens[place + 1]]:3}) = {math.exp(logprob.data):.4f}")
loss = reduce(add, [-logprob for logprob in logprobs]) * (1 / len(logprobs))
print(f"\nloss {loss.data:.4f} nats per token, log 27 = {math.log(27):.4f}")
print(f"{len(topological_order(loss)):,} Values were computed for these five guesses")

# %% [markdown]
# The graph of chapter 4 had five Values. This one has tens of thousands, and the rule is the same.
# Check one gradient by trying:

# %%
loss.backward()
one = params["layer0.attn_wv"][3][5]
exact = one.grad


def loss_with(number):
    """The loss of `emma` with another number for this one parameter."""
    before, one.data = one.data, number
    found = document_logprobs(params, config.n_layer, config.head_dim, encode("emma"))
    one.data = before
    return -math.fsum(logprob.data for logprob in found) / len(found)


by_trying = (loss_with(one.data + step) - loss_with(one.data - step)) / (2 * step)
print(f"by backward {exact:.9f}\nby trying   {by_trying:.9f}")
assert abs(exact - by_trying) < 1e-7
for value in flat:
    value.grad = 0.0

# %% [markdown]
# ### Exercises
#
# 1. How many parameters does this model have with `n_embd` 32 instead of 16?
# 2. How many does a second layer add, at `n_embd` 16?
# 3. Which loss do you expect from an untrained model with 50 tokens?

# %% closed
RIGHT[5] = (
    num_params(replace(config, n_embd=32)),
    num_params(replace(config, n_layer=2)) - num_params(config),
    math.log(50),
)

# %%
answer_1 = None
answer_2 = None
answer_3 = None
check(5, answer_1, answer_2, answer_3)

# %% closed
# 5.1  (27 + 16 + 27) rows of 32, four matrices of 32 × 32, two of 128 × 32.
# 5.2  Four matrices of 16 × 16 and two of 64 × 16: twelve times 16².
# 5.3  log 50.
check(5, 14_528, 3_072, 3.912, strictly=True)

# %% [markdown]
# ## 6. Architecture
#
# `gpt` takes a token and its position, and returns a logit for each possible next token. In between
# there is a stream of 16 numbers, and each part of the model adds to it:
#
# 1. The **embedding** adds token row and position row, then normalises the sum.
# 2. **Attention** looks at the positions before and adds what it finds.
# 3. A **small network** processes the result and adds its output.
# 4. `lm_head` turns the stream into logits.
#
# Let us follow `emma` up to its last letter. First the parts without attention. `rmsnorm` scales a
# vector to a fixed length and keeps its direction. `linear` is a matrix times a vector.

# %%
from kamon.engines.scalar import attention, attention_weights, dot, gpt, linear, relu, rmsnorm

floats = matrices(config, start)  # plain numbers: this chapter trains nothing


def input_of(token, position):
    """The start of the stream: which token, and where."""
    return rmsnorm(list(map(add, floats["wte"][token], floats["wpe"][position])))


def short(numbers):
    return " ".join(f"{number:+.2f}" for number in numbers)


x = input_of(encode("emma")[4], 4)  # the last letter of emma, at position 4
print("x       ", short(x[:8]), "…")
print("length² ", round(dot(x, x), 4), "of", len(x), "numbers: 1 each, on average")

# %% [markdown]
# ### One head, step by step
#
# Each position turns its vector into three others, with one matrix for each:
#
# - a **query**: what this position looks for
# - a **key**: what it can be found by
# - a **value**: what it passes on to those that find it
#
# Four heads share the 16 numbers of each vector. Head 0 takes the first four, and the others do the
# same with theirs.

# %%
queries, keys, values = [], [], []
for position, token in enumerate(encode("emma")[:-1]):
    normed = rmsnorm(input_of(token, position))
    queries.append(linear(normed, floats["layer0.attn_wq"]))
    keys.append(linear(normed, floats["layer0.attn_wk"]))
    values.append(linear(normed, floats["layer0.attn_wv"]))

head = slice(0, config.head_dim)
print("          key of head 0                 value of head 0")
for position, token in enumerate(encode("emma")[:-1]):
    print(f"{position} {shown[token]:>4}  ", short(keys[position][head]), end="     ")
    print(short(values[position][head]))
print("\nquery of the last letter:", short(queries[4][head]))

# %% [markdown]
# **Scores.** How well does the query fit each key? Take the dot product of the two and divide it by
# the root of their size, so that it does not grow with the size.
#
# **Weights.** Softmax turns the scores into weights that add up to 1.
#
# **Result.** Take the weighted mean of the values.

# %%
query = queries[4][head]
scores = [dot(query, key[head]) * (config.head_dim**0.5) ** -1 for key in keys]
weights = softmax(scores)
result = [dot(weights, column) for column in zip(*(value[head] for value in values), strict=True)]

for position, token in enumerate(encode("emma")[:-1]):
    print(f"{position} {shown[token]:>4}   score {scores[position]:+.5f}", end="")
    print(f"   weight {weights[position]:.4f}")
print("\nhead 0 passes on", short(result))

# %% [markdown]
# The weights are all near 1/5, because an untrained head looks equally at all positions. Chapter 7
# shows what training changes.
#
# Were these the right steps? The model's own functions, on all four heads, must give the same
# numbers to the last bit:

# %%
of_all_heads = attention_weights(queries[4], keys, config.head_dim)
together = attention(of_all_heads, values, config.head_dim)
assert of_all_heads[0] == weights
assert together[head] == result
print("equal, and all four heads together:", len(together), "numbers")

# %% [markdown]
# No mask was needed, but no position saw the future: keys and values of later positions did not
# exist yet. The lists `keys` and `values` are called the **KV cache**. A model that writes keeps
# them and computes only one new position for each new token.
#
# ### The rest of the layer
#
# `attn_wo` mixes the heads, and the result is *added* to the stream. The small network widens it to
# 64 numbers, sets those below 0 to 0, goes back to 16, and adds again. Adding instead of replacing
# gives gradients a direct path back through many layers.

# %%
x = list(map(add, linear(together, floats["layer0.attn_wo"]), x))
hidden = [relu(number) for number in linear(rmsnorm(x), floats["layer0.mlp_fc1"])]
x = list(map(add, linear(hidden, floats["layer0.mlp_fc2"]), x))
logits = linear(x, floats["lm_head"])
print(f"{sum(number > 0 for number in hidden)} of {len(hidden)} hidden numbers are above 0")

cache_k, cache_v = [[]], [[]]  # of one layer
for position, token in enumerate(encode("emma")[:-1]):
    from_model = gpt(floats, config.head_dim, token, position, cache_k, cache_v)
assert logits == from_model
print("the same 27 logits as from gpt(), to the last bit")

# %% [markdown]
# ### Exercises
#
# 1. A head sees two positions, with scores $0$ and $\log 3$. What is the weight of the second?
# 2. Positions count from 0. How many positions does position 5 look at?
# 3. What is the length of `rmsnorm([3.0, 4.0])`? (The length of $x$ is $\sqrt{x \cdot x}$.)

# %% closed
normed = rmsnorm([3.0, 4.0])
cache_k, cache_v = [[]], [[]]
for position, token in enumerate(encode("annabella")[:6]):
    watched = []  # gpt puts the weights there
    gpt(floats, config.head_dim, token, position, cache_k, cache_v, watched=watched)
RIGHT[6] = (
    softmax([0.0, math.log(3)])[1],
    len(watched[0][0]),
    math.sqrt(dot(normed, normed)),
)

# %%
answer_1 = None
answer_2 = None
answer_3 = None
check(6, answer_1, answer_2, answer_3)

# %% closed
# 6.1  exp(0) = 1 and exp(log 3) = 3, so the second has 3/4.
# 6.2  Positions 0, 1, 2, 3, 4 and itself.
# 6.3  The mean of the squares becomes 1, so their sum is 2.
check(6, 0.75, 6, 2**0.5, strictly=True)

# %% [markdown]
# ## 7. Training
#
# One step: take an entry, compute the loss, compute the gradient, and move each parameter a little
# against its gradient. `adam` decides how far. It keeps a running mean of each gradient and one of
# its square, and divides the first by the root of the second. If a gradient always points the same
# way, its parameter moves by the whole learning rate. If it changes direction, it moves less.
#
# That is the whole loop. After a thousand steps the names can be pronounced. We do sixty.

# %%
import time
from array import array

from kamon.engines.scalar import adam
from kamon.training.loop import learning_rate, make_plan

config = replace(config, num_steps=60)
documents = list(training)
random.Random(config.seed).shuffle(documents)
m, v = array("d", [0.0] * len(flat)), array("d", [0.0] * len(flat))
losses = []
began = time.process_time()
for step in range(config.num_steps):
    tokens = encode(documents[step])
    logprobs = document_logprobs(params, config.n_layer, config.head_dim, tokens)
    share = 1 / len(logprobs)
    loss = reduce(add, [-logprob * share for logprob in logprobs])
    loss.backward()
    if step == 0:
        first_gradient = [value.grad for value in flat]
    rate = learning_rate(config, step)  # falls to 0 in a straight line
    adam(flat, m, v, step, rate, config.beta1, config.beta2, config.eps_adam)
    losses.append(loss.data)
seconds = time.process_time() - began
scalar_seconds = seconds / config.num_steps
for first in range(0, config.num_steps, 10):
    mean = math.fsum(losses[first : first + 10]) / 10
    print(f"steps {first + 1:2} to {first + 10}: loss {mean:.3f} {'█' * round(12 * mean)}")
print(f"{seconds:.0f} seconds")

# %% [markdown]
# The loss starts at 3.3 nats, which is guessing, and falls already. But sixty names took long,
# because Python makes an object of every number.
#
# ### The same step in C++
#
# Kamon's native engine computes the same formulas without Values. Its gradients were derived by
# hand, formula by formula. That is easy to get wrong, and a model with a wrong gradient may still
# learn *something*. So we compare number for number: the gradient of the first step, and then the
# losses of all sixty. In float64 the gradients agree to $10^{-12}$ of the largest number. The rest
# is rounding, because sums are added in another order.

# %%
from kamon.engines.base import initial_state
from kamon.engines.batch import pack_sequences
from kamon.engines.factory import make_engine
from kamon.engines.loops import train
from kamon.native import library

assert not library.why_not(), f"the rest needs the native engine: {library.why_not()}"

fast = make_engine("native", config, dtype="float64")
fast.load(initial_state(start))
first = pack_sequences([encode(documents[0])])
fast.backward(first, [1 / first.num_targets] * first.num_targets)
largest = max(map(abs, first_gradient))
difference = max(abs(p - q) for p, q in zip(fast.gradients(), first_gradient, strict=True))
print(f"gradient: largest {largest:.3f}, largest difference {difference:.1e}")
assert difference <= 1e-12 * largest

plan = make_plan(
    pack_sequences(map(encode, documents[: config.num_steps])), config, 0, config.num_steps
)
native_seconds = 0.0
for _ in range(100):
    fast.load(initial_state(start))
    began = time.process_time()
    fast_losses = train(fast, plan)
    native_seconds += (time.process_time() - began) / config.num_steps / 100
difference = max(abs(p - q) for p, q in zip(fast_losses, losses, strict=True))
print(f"losses of {config.num_steps} steps: largest difference {difference:.1e}")
assert difference < 1e-9

times = scalar_seconds / native_seconds
digits = 1 - math.floor(math.log10(times))
print(f"\na step: scalar {1e3 * scalar_seconds:.0f} ms, native {1e6 * native_seconds:.1f} µs")
print(f"about {round(times, digits):,.0f} times as fast on the machine where this was run")

# %% [markdown]
# ### A real training
#
# With that engine, thousands of steps take a second or two. `kamon.train` does what we did. It
# splits the list, makes the tokens, and trains. Then it keeps the parameters with the lowest
# validation loss. By default it also blends the GPT with an n-gram of the list. This notebook is
# about the GPT, so it turns that off.

# %%
from kamon.evaluation import introspection

model = kamon.train("names", size="small", blend=False)
print(f"{model.num_params:,} parameters, {len(model.metrics):,} steps", end=", ")
print(f"validation loss {model.training['held_out']['loss']:.4f} nats per token")
show(plotting.draw_losses(introspection.losses(model)))

# %% [markdown]
# The upper line is guessing among 27 tokens. The lower line is the best n-gram model of this list.
# Chapter 8 explains it.
#
# ### What it has learned
#
# **Embeddings.** These are the rows of `wte` and `wpe`, plotted on the two axes along which they
# differ most. Nobody told the model what a vowel is, or that position 3 comes after position 2.

# %%
show(plotting.draw_embeddings(introspection.embeddings(model)))

# %% [markdown]
# **Attention.** Each row is a letter that was read, and each column a letter that it looks at. In
# chapter 6 all weights were equal. Now each head does something else. Does one of them mostly look
# at the letter before?

# %%
show(plotting.draw_attention(introspection.attention(model, "annabel")))

# %% [markdown]
# ### Exercises
#
# 1. Adam's first step: the gradient is 0.003, the learning rate 0.01. How far does the parameter
#    move?
# 2. The learning rate starts at 0.01 and falls in a straight line to 0 in 60 steps. What is it at
#    step 30, counted from 0?
# 3. A loss of 1.6094 nats is as good as guessing among how many equally likely tokens?

# %% closed
one = Value(0.0)
one.grad = 0.003
adam([one], array("d", [0.0]), array("d", [0.0]), 0, 0.01, 0.85, 0.99, 1e-8)
RIGHT[7] = (abs(one.data), learning_rate(config, 30), math.exp(1.6094))

# %%
answer_1 = None
answer_2 = None
answer_3 = None
check(7, answer_1, answer_2, answer_3)

# %% closed
# 7.1  In the first step the mean is the gradient, and the root of the mean square is its size.
#      Their quotient is 1, so the step is the whole learning rate, however small the gradient is.
# 7.2  Half of the steps, half of the rate.
# 7.3  exp(1.6094). This is called the perplexity.
check(7, 0.01, 0.005, 5.0, strictly=True)

# %% [markdown]
# ## 8. Inference
#
# To write, start with BOS, sample a token by its probability, feed it back in, and continue until
# BOS comes again. `temperature` divides the logits first. Below 1, probable tokens become more
# probable. Near 0, only the most probable one is left.


# %%
def write(reader, bos, rng, temperature=1.0, most=16):
    """The tokens of a new entry, sampled from any model that gives logits."""
    decoder = reader.decoder()
    token, written = bos, []
    while len(written) < most:
        logits = [logit / temperature for logit in decoder.push(token)]
        token = rng.choices(range(len(logits)), weights=softmax(logits))[0]
        if token == bos:
            break
        written.append(token)
    return written


slow = make_engine("scalar", config)
slow.load(initial_state(array("d", [value.data for value in flat])))
rng = random.Random(3)
print("60 steps:      ", *[decode(write(slow, BOS, rng)) for _ in range(6)])
for temperature in (0.3, 0.6, 1.0, 1.5):
    rng = random.Random(3)
    made = [decode(write(model.engine, BOS, rng, temperature)) for _ in range(7)]
    print(f"temperature {temperature}:", *made)

# %% [markdown]
# `model.sample` does the same in C++, many names side by side. Are they new? Some are in the
# training set. Others are in the validation set: real names that the model never saw and found
# anyway.

# %%
samples = model.sample(5_000, temperature=1.0)
made = set(samples)
seen, apart = made & set(training), made & set(validation)
print(f"{len(made):,} unique names: {len(seen):,} are in the training set,")
print(f"{len(apart):,} in the validation set, and {len(made - seen - apart):,} are new, such as")
print(*[name for name in samples if name not in seen | apart][:12])

# %% [markdown]
# ### Give me a cup of ____, again
#
# For a GPT, a token can be anything. We number the *words* of the requests of chapter 1, train a
# model on them for a moment, and ask it what we asked the counts. The list is so short that the
# model could memorise it. `dropout` randomly drops a fifth of what is added to the stream. So the
# model cannot rely on any one detail.

# %%
words = sorted({word for request in requests for word in request.split()})
word_number = {word: number for number, word in enumerate(words)}
END = len(words)
spoken = pack_sequences(
    [[END, *(word_number[w] for w in request.split()), END] for request in requests]
)
word_config = Config(
    vocab_size=END + 1,
    block_size=10,
    num_steps=150,
    batch_size=len(requests),
    weight_decay=0.1,
    dropout=0.2,
)
talker = make_engine("native", word_config)
talker.load(initial_state(init(word_config, random.Random(42))))
word_losses = train(talker, make_plan(spoken, word_config, 0, word_config.num_steps))
print(f"{len(words)} words, loss {word_losses[0]:.2f} → {word_losses[-1]:.2f} nats per word")


def guessed(context):
    """The probability of each next word, the most probable first."""
    decoder = talker.decoder()
    logits = decoder.push(END)
    for word in context.split():
        logits = decoder.push(word_number[word])
    pairs = zip([*words, "(end)"], softmax(list(logits)), strict=True)
    return dict(sorted(pairs, key=lambda pair: -pair[1]))


for context in ("give me a cup of", "fetch them a cup of", "fetch them a bowl of"):
    print(f"\n{context} ____        (by counting: {', '.join(counted(context)) or 'never seen'})")
    found = guessed(context)
    chosen = [*list(found)[:6], "soap", "keyboard", "book"]
    for word in dict.fromkeys(chosen):
        print(f"{word:>9} {found[word]:10.5%} {'█' * round(40 * found[word])}")

# %% [markdown]
# Nobody gave it a rule, and `fetch them a cup of` is not in the list. But the model has learned
# that after `of` the container matters and the person does not. The shares are nearly those of all
# twenty cups. Soap is improbable but not impossible, and a keyboard is even less probable. (The
# bowl is less certain, because there are only eight requests for one.) A chat model has the same
# kind of table, with about a hundred thousand tokens and a longer context.
#
# ### The GPT compared with n-grams
#
# How good is the model of names, compared with counting? An n-gram of order 3 looks at the two
# tokens before, and so on. Ours mixes all orders by a method that is hard to beat, modified
# Kneser-Ney. It gives nothing the probability 0. All models are tested on the validation set.

# %%
from kamon.ngrams.native import count_ngram

batch, tested = tokenizer.encode_documents(training), tokenizer.encode_documents(validation)
counts = count_ngram(batch, tokenizer.vocab_size, order=6)
rows = [("guessing", math.log(tokenizer.vocab_size))]
for order, logprobs in enumerate(counts.logprobs_of_orders(tested), 1):
    rows.append((f"{order}-gram", -math.fsum(logprobs) / tested.num_targets))
rows.append(("our GPT", model.training["held_out"]["loss"]))
for name, nats in rows:
    print(f"{name:>8} {nats:.4f} nats per token {'█' * round(15 * nats)}")

text = "".join(f"<{name}>" for name in training)
snippets = len({text[i : i + n] for n in range(1, 7) for i in range(len(text) - n + 1)})
print(f"\nThe GPT has {model.num_params:,} numbers and the 6-gram {snippets:,} counts.")
for name, reader in (("3-gram", counts.of_order(3)), ("6-gram", counts), ("GPT", model.engine)):
    rng = random.Random(8)
    print(f"{name}:", *[decode(write(reader, BOS, rng, 0.8)) for _ in range(8)])

# %% [markdown]
# On short names counting is strong. A small model with a second of training does not beat the best
# n-gram, but it comes close with a fraction of the numbers. Train it longer with
# `kamon.train("names", budget="30s", blend=False)` and see which one is ahead. On sentences
# counting cannot keep up, because nearly every long context is new.
#
# ### Exercises
#
# 1. At temperature 1 two tokens have the probabilities 0.8 and 0.2. What is the probability of the
#    first at temperature 0.5?
# 2. What is the probability of the most probable token as the temperature goes to 0?
# 3. How many bits are 2 nats?

# %% closed
logits = [math.log(0.8), math.log(0.2)]
RIGHT[8] = (
    softmax([logit / 0.5 for logit in logits])[0],
    softmax([logit / 0.001 for logit in logits])[0],
    2 / math.log(2),
)

# %%
answer_1 = None
answer_2 = None
answer_3 = None
check(8, answer_1, answer_2, answer_3)

# %% closed
# 8.1  Half the temperature squares each probability: 0.64 to 0.04.
# 8.2  1: it gets all of the probability.
# 8.3  A bit is log 2 nats.
check(8, 0.64 / 0.68, 1.0, 2.885, strictly=True)

# %% [markdown]
# ## 9. Beyond microGPT
#
# Large models are mostly larger versions of this one. Three steps are new, and Kamon has all of
# them.
#
# ### Subwords
#
# Character tokens make texts long, and word tokens need an endless vocabulary. Byte pair encoding
# (BPE) is in between. Start with bytes. Find the two neighbours that occur together most often, and
# make them one token. Repeat.

# %%
from kamon.tokenizers.bpe import BytePairTokenizer

pairs = BytePairTokenizer.train(names, vocab_size=400)
made = [pairs.token_text(token) for token in range(256, pairs.bos)]
print("first made:", *made[:14])
print("last made: ", *made[-10:])
for name in ("annabella", "katherine", "xzqw"):
    print(f"{name:>9} → {' '.join(pairs.token_text(token) for token in pairs.encode(name))}")

requests_pairs = BytePairTokenizer.train(requests, vocab_size=340)
for text in ("give us a teacup", "friendship"):
    print(f"{text:>16} → {' | '.join(map(requests_pairs.token_text, requests_pairs.encode(text)))}")

# %% [markdown]
# Frequent strings become one token. Strings that were never seen are split into smaller tokens,
# down to single bytes. Each tokenizer reflects the texts it was trained on. The one for kitchen
# requests has a token for tea but none for friends.
#
# ### Supervised fine-tuning
#
# A model of names makes names, but it does not answer prompts. Supervised fine-tuning shows it
# prompts with completions. The loss is on the completions only: the model reads the prompts but is
# not trained to write them. A special token separates the two.

# %%
from kamon.finetuning.losses import sft_weights
from kamon.finetuning.sft import sft

short_names = [name for name in training if len(name) <= 4]
long_names = [name for name in training if len(name) >= 8]
rng = random.Random(5)
examples = [
    {"prompt": prompt, "completion": name}
    for prompt, group in (("short", short_names), ("long", long_names))
    for name in rng.sample(group, 1_500)
]
asked = sft(model, examples, num_steps=400)
for prompt in ("short", "long"):
    answers = asked.sample(500, prompt=prompt)
    mean = math.fsum(map(len, answers)) / len(answers)
    print(f"{prompt:>5}: {mean:.1f} letters on average;", *answers[:6])

# %% [markdown]
# ### Preferences
#
# Sometimes nobody can write down the right answer, but everybody can say which of two is better.
# Direct preference optimisation (DPO) takes such pairs and makes the better one more probable
# *compared with a frozen copy of the model*. So the model does not forget what it knew. Here a rule
# decides which is better: names that end in n.

# %%
from kamon.finetuning.compare import compare
from kamon.finetuning.dpo import dpo
from kamon.finetuning.losses import dpo_loss

preferred = dpo(model, prefer='endswith "n"')
found = compare(model, {"tuned": preferred}, n=1_000, judge=lambda ns: [n[-1:] == "n" for n in ns])
before, after = (sum(n[-1:] == "n" for n in each.samples) / 1_000 for each in found.all)
print(f"names that end in n: {before:.0%} before, {after:.0%} after")
print(f"distance from the base (KL): {found.tuned[0].kl:.2f} nats per name")
print("before:", *found.base.samples[:8])
print("after: ", *found.tuned[0].samples[:8])

# %% [markdown]
# The KL measures how far the model moved away from its base. Without a limit, fine-tuning would end
# with a model that repeats one name.
#
# Where to read on:
#
# - [microGPT, section by section](seed.md): what GPT-2 and ChatGPT have beyond this notebook
# - [The ladder](ladder.md): the algorithm in seven short programs
# - [Other transformers](transformers.md): encoders and encoder-decoders
# - [Tokenizers](tokens.md), [Train on text](text.md), [Answer prompts (SFT)](sft.md),
#   [Scale up](scale.md)
# - [The playground](playground.md): the same in your browser, live
#
# ### Exercises
#
# 1. A tokenizer has two merges: `a` + `n`, then `an` + `a`. How many tokens does `banana` have?
# 2. You fine-tune on the prompt `short` with the completion `ava`. How many targets have a weight
#    above 0?
# 3. DPO starts with the model equal to its frozen copy. What is its loss, in nats?

# %% closed
toy = BytePairTokenizer([(ord("a"), ord("n")), (256, ord("a"))])
prompt, answer = len("short") + 1, len("ava") + 1  # with the separator, with the end
RIGHT[9] = (
    len(toy.encode("banana")),
    sum(weight > 0 for weight in sft_weights([(prompt, answer)], [prompt + answer])),
    dpo_loss([0.0], beta=0.1),
)

# %%
answer_1 = None
answer_2 = None
answer_3 = None
check(9, answer_1, answer_2, answer_3)

# %% closed
# 9.1  b an an a, and then b an ana.
# 9.2  a, v, a and the end: four.
# 9.3  −log σ(0) = log 2: it cannot distinguish the two yet.
check(9, 3, 4, 0.693, strictly=True)
