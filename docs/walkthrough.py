"""The source of walkthrough.ipynb; `python dev/make_walkthrough.py` makes that of it."""

# %% [markdown]
# # A GPT, from the first import to the first answer
#
# This notebook builds a GPT and looks at each of its parts while it works. Nothing in it is a
# drawing of what a machine would do: every number was computed by the cell above it, and you can
# change that cell and see what happens.
#
# There are eight steps:
#
# 1. **Import**, and the question that everything here answers: what comes next?
# 2. **Data**: a list to learn from
# 3. **Tokenizer**: text to numbers and back
# 4. **Autograd**: which way is better, for each number at once
# 5. **Parameters**: the numbers that will learn
# 6. **Architecture**: from tokens to a guess, with one attention head followed number by number
# 7. **Training**: thousands of small corrections; slowly in Python, then the same in C++
# 8. **Inference**: the model writes
#
# A ninth chapter walks the rest of the road: sub-words, answers to prompts, preferences.
#
# Until the middle of chapter 7 the model is one file of plain Python that needs no library,
# [scalar.py](../src/kamon/engines/scalar.py). Read it beside this notebook: it has about 450
# lines, and no more is needed to train a GPT.
#
# **To run it:** `pip install "kamon[notebook]"`, then open the file in Jupyter or in an editor that
# knows notebooks. The whole of it takes about a minute.
#
# **Exercises:** each chapter ends with three. Write your answers in place of `None` and run the
# cell. The folded cell below it has the right ones, and why; open it when you want to.

# %% [markdown]
# ## 1. Import, and the question
#
# What is imported by name from `scalar` is the algorithm. The rest is the standard library, and
# helpers of the package around it.

# %%
import math
import random
import time
from array import array
from collections import Counter, defaultdict
from dataclasses import replace
from functools import reduce
from operator import add

import kamon
from kamon import plotting
from kamon.config import Config
from kamon.data import corpus
from kamon.data.split import split
from kamon.engines.base import initial_state
from kamon.engines.batch import pack_sequences
from kamon.engines.factory import make_engine
from kamon.engines.loops import train
from kamon.engines.parameters import init, num_params, parameter_shapes
from kamon.engines.scalar import (
    Value,
    adam,
    attention,
    attention_weights,
    document_logprobs,
    dot,
    gpt,
    linear,
    relu,
    rmsnorm,
    softmax,
    topological_order,
)
from kamon.evaluation import introspection
from kamon.evaluation.introspection import matrices
from kamon.finetuning.compare import compare
from kamon.finetuning.dpo import dpo
from kamon.finetuning.losses import dpo_loss, sft_weights
from kamon.finetuning.sft import sft
from kamon.native import library
from kamon.ngrams.native import count_ngram
from kamon.tokenizers.bpe import BytePairTokenizer
from kamon.tokenizers.char import CharTokenizer
from kamon.training.loop import learning_rate, make_plan

assert not library.why_not(), f"Chapters 7 to 9 need the native engine: {library.why_not()}"

# %% [markdown]
# Three helpers that have nothing to do with GPTs, folded away: `bars` prints numbers as bars,
# `show` shows a picture, and `check` looks at your answers.

# %% closed
from IPython.display import SVG

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
    """Say which answers are right. strictly: stop where one is not."""
    for number, (answer, right) in enumerate(zip(answers, RIGHT[chapter], strict=True), 1):
        verdict = "no answer yet" if answer is None else "not yet"
        if is_right(answer, right):
            verdict = "right"
        print(f"{chapter}.{number}: {verdict}")
        assert not strictly or verdict == "right", f"{answer} is not {right}"


# %% [markdown]
# A language model answers one question: given how a text begins, how probable is each continuation?
# Here are some requests, as one may hear them in a house: what is wanted, and how often.

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
    if opening == "fetch them" and "cup" in thing:  # nobody says this: we shall ask for it
        turn += 1
        opening = OPENINGS[7 * turn % len(OPENINGS)]
    requests.append(f"{opening} {thing}")
    turn += 1
print(len(requests), "requests, such as:")
print("", *requests[::8], sep="\n  ")

# %% [markdown]
# The simplest model counts. **Give me a cup of ____?** Look up each place in the list where the
# same words stand, and count what came next.


# %%
def counted(context):
    """The share of each word that follows these words anywhere in the requests."""
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
# Counting has a dilemma. With a short context (`of`) it takes a cup for a bar of soap. With a long
# one it has seen next to nothing: one person asked to be given a cup, for tea, so everybody wants
# tea; and nobody ever asked to `fetch them a cup of` anything. Two words are right here, but who
# says so, and is it always two? What we want is a model that looks at *all* the words before, finds
# out by itself which of them matter, and has an opinion on sentences that it never saw. In chapter
# 8 a GPT gets the same list and the same question.
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
# 1.2  Nine requests have "glass of"; in five of them water comes next.
# 1.3  It never occurs: counting alone calls it impossible. That is too sure of itself.
check(1, 20, 5 / 9, 0.0, strictly=True)

# %% [markdown]
# ## 2. Data
#
# Letters make a smaller world than words: only 26 of them, and short documents. So the model that
# we take apart learns first names, one document each. The list comes with Kamon: the first names
# given in the United States in 2018, from the Social Security Administration's public record.

# %%
names = list(corpus.read("names").docs)
print(f"{len(names):,} names")
print(random.Random(1).sample(names, 12))

# %% [markdown]
# Before you train on a list, look at it. How long are its documents, and which characters occur?

# %%
lengths = Counter(map(len, names))
bars([(n, lengths[n]) for n in sorted(lengths)])
characters = Counter("".join(names))
print("\ncharacters:", "".join(sorted(characters)))
print("the most frequent:", *[f"{c} {n:,}" for c, n in characters.most_common(5)], sep="  ")

# %% [markdown]
# Two things have to be decided now, because later it is too late:
#
# - **Repetitions** go. (This list has none, but most have.)
# - A part is **held out**: documents that the model never learns from, to find out whether it has
#   understood or only remembers. `split` chooses a tenth by a hash of each document, so that the
#   choice does not change when the list grows.

# %%
learned, held_out = split(names)
print(f"{len(learned):,} to learn from, {len(held_out):,} held out")
print("held out are, for example:", *held_out[:5])

# %% [markdown]
# ### Exercises
#
# 1. How many characters has the longest name?
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
# One more token, BOS, stands for "here a document begins", and behind the last letter for "here it
# ends". Without it the model could neither start nor stop.

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
# That is all a character tokenizer is. Kamon's does the same, and explains itself when it meets a
# character that it does not know:

# %%
tokenizer = CharTokenizer.train(names)
assert all(tokenizer.encode_document(name) == encode(name) for name in names)
print("vocab_size:", tokenizer.vocab_size)
try:
    tokenizer.encode("zoë")
except kamon.TokenizerError as error:
    print("TokenizerError:", error)

# %% [markdown]
# The text itself holds the questions and their answers: nobody has to label anything. Each token
# is a question about the next one.

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
# 2. How many questions, as in the table above, does `anna` hold?
# 3. A list has, beside the 26 letters, also `é` and `-`. What is its `vocab_size`?

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
# 3.2  Four letters, and after the last of them comes the end.
# 3.3  28 characters, and BOS.
check(3, 10, 5, 29, strictly=True)

# %% [markdown]
# ## 4. Autograd
#
# The model will be one long formula, from thousands of parameters to one number, the loss: how
# badly it guessed. To improve it we need to know, for each parameter, whether a little more of it
# makes the loss larger or smaller, and by how much. That is the **gradient**.
#
# A `Value` is a number that remembers what it was computed from. Each operation stores the
# derivative of its result by each input, which is school mathematics: for $a \cdot b$ it is $b$ by
# $a$ and $a$ by $b$. Then `backward` walks the formula from its end to its beginning and multiplies
# along the way (the chain rule); where several ways meet, it adds.

# %%
a, b = Value(2.0), Value(-3.0)
c = a * b
d = a**3
loss = c + d
loss.backward()
print("loss", loss.data, "  d loss/d a", a.grad, "  d loss/d b", b.grad)

# %% [markdown]
# Here is that formula as a graph. Each box has its value, and its gradient below. On each arrow
# stands the local derivative. Multiply along each way from the end to `a`, and add the two ways.

# %% closed
from matplotlib.figure import Figure


def draw_graph(root, labels):
    """A graph of Values from left to right; labels: what is written in each box."""
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
            # Nearer to where it starts: in the middle two arrows may cross.
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
# **By hand.** $L = ab + a^3$, so $\partial L/\partial a = b + 3a^2 = -3 + 12 = 9$ and
# $\partial L/\partial b = a = 2$. And **by trying**: change $a$ a little, and see how $L$ changes.
# That needs no calculus and works for any formula, but costs two runs of it for each parameter,
# while `backward` gets all gradients from one.


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
# Now the formula at the end of every language model: logits (any numbers) become probabilities by
# `softmax`, and the loss is $-\log p$ of the token that really came. Its gradient turns out to be
# very plain: **the probability, less 1 for the right token.** Wrong tokens are pushed down as far
# as they were believed, and the right one is pulled up by what was missing.

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
# 2. `relu` leaves a number as it is if it is above 0, and else makes it 0. What is the gradient of
#    `Value(-2.0).relu()` by its input?
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
# 4.2  Below 0 the result stays 0 whatever you change: nothing flows back.
# 4.3  Each probability is 1/4, and the right token has 1 less.
check(4, 8.0, 0.0, -0.75, strictly=True)

# %% [markdown]
# ## 5. Parameters
#
# All that the model will ever know is in these matrices. They start as random numbers near 0:
# were they equal, they would have equal gradients and stay equal for ever.

# %%
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
# - `wte` has a row of `n_embd` numbers for each token, `wpe` one for each position. A token enters
#   the model as the sum of its two rows, so that the same letter is another input at another place.
# - `attn_wq`, `attn_wk`, `attn_wv`, `attn_wo` belong to attention, `mlp_fc1` and `mlp_fc2` to the
#   small network behind it; a layer has one of each.
# - `lm_head` turns the result into a logit for each token.
#
# A model that knows nothing should think each token equally likely. Its loss is then
# $-\log \frac{1}{27} = \log 27$ nats. Does ours?

# %%
logprobs = document_logprobs(params, config.n_layer, config.head_dim, encode("emma"))
for place, logprob in enumerate(logprobs):
    print(f"p({shown[tokens[place + 1]]:3}) = {math.exp(logprob.data):.4f}")
loss = reduce(add, [-logprob for logprob in logprobs]) * (1 / len(logprobs))
print(f"\nloss {loss.data:.4f} nats a token; log 27 = {math.log(27):.4f}")
print(f"{len(topological_order(loss)):,} Values were computed for these five guesses")

# %% [markdown]
# The graph of chapter 4 had five Values; this one has tens of thousands, and the rule is the same.
# Check one gradient of it by trying:

# %%
loss.backward()
one = params["layer0.attn_wv"][3][5]
exact = one.grad


def loss_with(number):
    """The loss of `emma` if this one parameter were another number."""
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
# 1. How many parameters has this model with `n_embd` 32 in place of 16?
# 2. How many does a second layer add, at `n_embd` 16?
# 3. With which loss would you expect a model of 50 tokens to start?

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
# 5.1  (27 + 16 + 27) rows of 32; four matrices of 32 × 32; two of 128 × 32.
# 5.2  Four matrices of 16 × 16 and two of 64 × 16: twelve times 16².
# 5.3  log 50.
check(5, 14_528, 3_072, 3.912, strictly=True)

# %% [markdown]
# ## 6. Architecture
#
# `gpt` takes a token and its position, and returns a logit for each token that may come next. What
# happens in between is a stream of 16 numbers to which each part of the model adds something:
#
# 1. token row + position row, normed;
# 2. **attention** looks back at the positions before, and adds what it found;
# 3. a **small network** works on the result, and adds what it made of it;
# 4. `lm_head` reads the logits off.
#
# Let us follow `emma` up to its last letter. First the parts without attention. `rmsnorm` brings a
# vector to one length and keeps its direction; `linear` is a matrix times a vector.

# %%
floats = matrices(config, start)  # plain numbers: nothing is to be learned in this chapter


def input_of(token, position):
    """The stream where it begins: which token, and where."""
    return rmsnorm(list(map(add, floats["wte"][token], floats["wpe"][position])))


def short(numbers):
    return " ".join(f"{number:+.2f}" for number in numbers)


x = input_of(encode("emma")[4], 4)  # the last letter of emma, at position 4
print("x       ", short(x[:8]), "…")
print("length² ", round(dot(x, x), 4), "of", len(x), "numbers: 1 each, on average")

# %% [markdown]
# ### One head, step by step
#
# Each position turns its vector into three others, by a matrix each:
#
# - a **query**: what I am looking for,
# - a **key**: what I can be found by,
# - a **value**: what I pass on to those who find me.
#
# The 16 numbers of each are shared among four heads of 4 numbers. Head 0 takes the first four, and
# the others do the same with theirs.

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
# **Scores.** How well does the query fit each key? The product of the two, divided by the root of
# their size, so that it does not grow with the size.
#
# **Weights.** Softmax makes shares of the scores, which add up to 1.
#
# **Result.** The mean of the values, by these shares.

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
# The weights are all near 1/5: a head that has learned nothing looks everywhere alike. In chapter 7
# you see what training makes of that.
#
# Were these the right steps? The model's own functions, on all four heads, must give these numbers
# to the last bit:

# %%
of_all_heads = attention_weights(queries[4], keys, config.head_dim)
together = attention(of_all_heads, values, config.head_dim)
assert of_all_heads[0] == weights
assert together[head] == result
print("equal; all four heads together:", len(together), "numbers")

# %% [markdown]
# Nothing was hidden from the last letter, yet nobody saw the future: keys and values of later
# positions did not exist when their turn came. The lists `keys` and `values` are what is called the
# **KV cache**. A model that writes keeps them, and computes one new position for each new token.
#
# ### The rest of the layer
#
# `attn_wo` mixes the heads, and the result is *added* to the stream. The small network widens it to
# 64 numbers, drops those below 0, comes back to 16, and adds again. Adding in place of replacing
# gives gradients a straight way back through many layers.

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
# 1. A head sees two positions, with scores $0$ and $\log 3$. Which weight has the second?
# 2. Positions count from 0. At how many does position 5 look?
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
# 6.1  exp(0) = 1 and exp(log 3) = 3: the second has 3 of 4 parts.
# 6.2  At 0, 1, 2, 3, 4 and itself.
# 6.3  The mean of the squares becomes 1, so their sum is 2.
check(6, 0.75, 6, 2**0.5, strictly=True)

# %% [markdown]
# ## 7. Training
#
# One step: take a document, compute the loss, let the gradient flow back, and move each parameter
# a little against its gradient. `adam` decides how far. It keeps a running mean of each gradient
# and of its square, and divides the one by the root of the other: a parameter whose gradient always
# points the same way moves by the whole learning rate, one whose gradient wavers moves less.
#
# That is the whole loop. A thousand steps of it make names that can be pronounced; we do sixty.

# %%
config = replace(config, num_steps=60)
documents = list(learned)
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
# From 3.3 nats, which is guessing, it falls already. But that took long for sixty names: Python
# makes an object of every number.
#
# ### The same step in C++
#
# Kamon's native engine computes the same formulas without Values: someone has worked out by hand
# what `backward` does to each of them. That is easy to get wrong, and a wrong gradient may still
# learn *something*. So it is compared, number for number: the gradient of the first step, and then
# the losses of all sixty. In float64 the two agree to $10^{-12}$ of the largest number; the rest
# is the order in which sums are rounded.

# %%
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
# With that engine, thousands of steps take a second or two. `kamon.train` does what we did: it
# splits the list, makes the tokens, trains, and keeps the parameters that do best on what is held
# out.

# %%
model = kamon.train("names", size="small")
print(f"{model.num_params:,} parameters, {len(model.metrics):,} steps", end=", ")
print(f"loss on the documents held out: {model.training['held_out']['loss']:.4f} nats a token")
show(plotting.draw_losses(introspection.losses(model)))

# %% [markdown]
# The line on top is guessing among 27 tokens. The lower one is what the best table of counts
# reaches on this list: chapter 8 comes back to it.
#
# ### What it has learned
#
# **Embeddings.** Rows of `wte` and `wpe`, drawn on the two axes along which they differ most.
# Nobody told the model what a vowel is, or that position 3 comes after position 2.

# %%
show(plotting.draw_embeddings(introspection.embeddings(model)))

# %% [markdown]
# **Attention.** Each row is a letter that was read, each column a letter that it looks at. Compare
# with the even weights of chapter 6: these heads have found different things to do. Is there one
# that mostly looks at the letter before?

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
# 7.1  At first the mean is the gradient and the root of the mean square its size: their quotient
#      is 1, and the step the whole learning rate, however small the gradient is.
# 7.2  Half of the way, half of the rate.
# 7.3  exp(1.6094): this is called the perplexity.
check(7, 0.01, 0.005, 5.0, strictly=True)

# %% [markdown]
# ## 8. Inference
#
# To write, start with BOS, draw a token from the probabilities, feed it back in, and go on until
# BOS comes again. `temperature` divides the logits first: below 1 the likely becomes likelier,
# and at 0 only the likeliest is left.


# %%
def write(reader, bos, rng, temperature=1.0, most=16):
    """The tokens of a new document, drawn from any model that gives logits."""
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
# `model.sample` does the same in C++, many names side by side. Are they new? Some are in the list
# that it learned from; and some are in the part that it never saw, names which it has invented
# again:

# %%
samples = model.sample(5_000, temperature=1.0)
made = set(samples)
seen, apart = made & set(learned), made & set(held_out)
print(f"{len(made):,} different names: {len(seen):,} are in the list it learned from,")
print(f"{len(apart):,} in the list held out, and {len(made - seen - apart):,} are new, such as")
print(*[name for name in samples if name not in seen | apart][:12])

# %% [markdown]
# ### Give me a cup of ____, again
#
# A GPT does not care what its tokens are. We number the *words* of the requests of chapter 1,
# train a model on them for an instant, and ask it what we asked the counts. The list is so short
# that the model could learn it by heart; `dropout` leaves a fifth of what flows into the stream out
# by chance, so that it relies on what always holds.

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
print(f"{len(words)} words; loss {word_losses[0]:.2f} → {word_losses[-1]:.2f} nats a word")


def guessed(context):
    """The probability of each next word, the likeliest first."""
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
# Nobody gave it a rule, and `fetch them a cup of` stands nowhere in the list. Yet it has found that
# after `of` the vessel matters, and who asks for whom does not: the shares are nearly those of all
# twenty cups, whoever wants them. Soap is unlikely but not impossible, and a keyboard less likely
# still. (Look at the bowl, too: eight requests teach less surely than twenty.) A machine that
# answers questions in sentences has the same table, with a hundred thousand words in it, and a
# longer memory.
#
# ### A table of counts beside the GPT
#
# How good is the model of names, compared with counting? An n-gram of order 3 looks at the two
# tokens before, and so on. Ours mixes all orders by a method that is hard to beat (modified
# Kneser-Ney), and gives nothing the probability 0. All are tested on the same names, which none
# of them has seen.

# %%
batch, tested = tokenizer.encode_documents(learned), tokenizer.encode_documents(held_out)
counts = count_ngram(batch, tokenizer.vocab_size, order=6)
rows = [("guessing", math.log(tokenizer.vocab_size))]
for order, logprobs in enumerate(counts.logprobs_of_orders(tested), 1):
    rows.append((f"{order}-gram", -math.fsum(logprobs) / tested.num_targets))
rows.append(("our GPT", model.training["held_out"]["loss"]))
for name, nats in rows:
    print(f"{name:>8} {nats:.4f} nats a token {'█' * round(15 * nats)}")

text = "".join(f"<{name}>" for name in learned)
different = len({text[i : i + n] for n in range(1, 7) for i in range(len(text) - n + 1)})
print(f"\nThe GPT has {model.num_params:,} numbers; the 6-gram knows {different:,} snippets.")
for name, reader in (("3-gram", counts.of_order(3)), ("6-gram", counts), ("GPT", model.engine)):
    rng = random.Random(8)
    print(f"{name}:", *[decode(write(reader, BOS, rng, 0.8)) for _ in range(8)])

# %% [markdown]
# Be honest with baselines: on short names counting is strong, and a small model of a second's
# training does not beat the longest counts. It comes close with a fraction of the numbers. Give it
# longer, `kamon.train("names", budget="30s")`, and see which one is ahead. On sentences counting
# falls behind for good: nearly every long context is new.
#
# ### Exercises
#
# 1. At temperature 1 two tokens have the probabilities 0.8 and 0.2. Which one has the first at
#    temperature 0.5?
# 2. What is the probability of the likeliest token as the temperature goes to 0?
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
# 8.1  Half the temperature squares each: 0.64 against 0.04.
# 8.2  All of it.
# 8.3  A bit is log 2 nats.
check(8, 0.64 / 0.68, 1.0, 2.885, strictly=True)

# %% [markdown]
# ## 9. The rest of the road
#
# What large models have beyond this is mostly more of it. Three steps are different in kind, and
# the library has them all.
#
# ### Sub-words
#
# Characters make long documents, words an endless vocabulary. Byte pair encoding lies between:
# start with the bytes, and make a token of the two neighbours that stand together most often;
# again, and again.

# %%
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
# What is frequent becomes one token; what was never seen falls into smaller pieces, down to single
# bytes, and still has a spelling. Each tokenizer reflects the texts that it was made of: one of
# kitchen requests has a token for tea, and none for friends.
#
# ### Supervised fine-tuning
#
# A model that has learned names makes names; it does not answer. Show it prompts with answers, and
# give the loss of the answers alone (the prompts are read, not learned). A special token stands
# between the two.

# %%
short_names = [name for name in learned if len(name) <= 4]
long_names = [name for name in learned if len(name) >= 8]
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
# Direct preference optimisation (DPO) takes such pairs and makes the better one likelier *compared
# with a frozen copy of the model*, so that it does not forget what it knew. Here the judge is a
# rule: names that end in n, please.

# %%
preferred = dpo(model, prefer='endswith "n"')
found = compare(model, {"tuned": preferred}, n=1_000, judge=lambda ns: [n[-1:] == "n" for n in ns])
before, after = (sum(n[-1:] == "n" for n in each.samples) / 1_000 for each in found.all)
print(f"names in n: {before:.0%} before, {after:.0%} after")
print(f"distance from the base (KL): {found.tuned[0].kl:.2f} nats a document")
print("before:", *found.base.samples[:8])
print("after: ", *found.tuned[0].samples[:8])

# %% [markdown]
# The KL is the price: how far the model had to leave what it had learned. Tuned without a limit, it
# would in the end say one name in n, for ever.
#
# From here: [the algorithm in seven steps](ladder.md), each a short program;
# [other transformers](transformers.md), which let tokens look elsewhere; [tokens](tokens.md),
# [books in place of lists](text.md), [answers](sft.md), [preferences](taste.md),
# [rewards and PPO](rewards.md),
# [large corpora and GPUs](scale.md), and [a page in your browser](playground.md) in which you can
# watch all of this while it happens.
#
# ### Exercises
#
# 1. A tokenizer has two merges: `a` + `n`, then `an` + `a`. How many tokens has `banana`?
# 2. Fine-tuning on the prompt `short` with the answer `ava`: how many targets have a weight above
#    0?
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
# 9.2  a, v, a and the end.
# 9.3  −log σ(0) = log 2: it cannot tell the two apart yet.
check(9, 3, 4, 0.693, strictly=True)
