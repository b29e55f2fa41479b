#!/usr/bin/env python3
"""A language model in one file: what it learned is below, and only Python is needed to use it.

    python THIS_FILE 20                        twenty new ones
    python THIS_FILE 20 --temperature 0.7      0: the likeliest token each time, 1: the model's odds
    python THIS_FILE --complete an             the most probable that begin with "an"
    python THIS_FILE --score anna              log probability in nats; bits a character

Or import it: `sample`, `complete`, `next_tokens` and `score` do the same, and `Decoder` is the
model itself. Read it from top to bottom:

    1. the GPT        linear, softmax, rmsnorm, attention and a small neural network
    2. the n-gram     what followed the last tokens in the list, and its mixture with the GPT
    3. tokens         how text becomes numbers, and back
    4. draws          random numbers that depend on where they are needed, and on nothing else
    5. documents      samples, scores, completions
    6. command line
    7. what was learned: settings, tokens, weights, counts

Sums run from left to right and the GPT has a * b**-1 for a / b, for then every number is that of
Kamon's scalar engine, to the last bit. Legend of shapes: T positions so far, C N_EMBD, D C /
N_HEAD, V tokens. A document stands between two BOS; the model sees at most BLOCK_SIZE tokens.
"""

from __future__ import annotations

import argparse
import base64
import bz2
import codecs
import heapq
import io
import json
import math
import re
import sys
from array import array
from bisect import bisect, bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, reduce
from itertools import accumulate
from operator import add, mul
from unicodedata import category, normalize

Matrix = list[list[float]]

# ---- 1. The GPT -------------------------------------------------------------------------------


@cache
def parameters() -> dict[str, Matrix]:
    """Every matrix of weights by its name, (out, in)."""
    shapes = {"wte": (VOCAB_SIZE, N_EMBD), "wpe": (BLOCK_SIZE, N_EMBD)}
    shapes["lm_head"] = (VOCAB_SIZE, N_EMBD)
    for i in range(N_LAYER):
        for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):
            shapes[f"layer{i}.{name}"] = (N_EMBD, N_EMBD)
        shapes[f"layer{i}.mlp_fc1"] = (4 * N_EMBD, N_EMBD)
        shapes[f"layer{i}.mlp_fc2"] = (N_EMBD, 4 * N_EMBD)
    numbers = array(NUMBER)
    numbers.frombytes(base64.b64decode(WEIGHTS))
    if sys.byteorder == "big":
        numbers.byteswap()
    left = iter(numbers)
    return {
        name: [[next(left) for _ in range(n_in)] for _ in range(n_out)]
        for name, (n_out, n_in) in shapes.items()
    }


def dot(a: Iterable[float], b: Iterable[float]) -> float:
    """a₀b₀ + a₁b₁ + …"""
    total: float = reduce(add, map(mul, a, b))
    return total


def linear(x: list[float], w: Matrix) -> list[float]:
    """W x: each output is one row of weights times x."""
    return [dot(row, x) for row in w]


def softmax(logits: Sequence[float]) -> list[float]:
    """Any numbers to probabilities. The largest is subtracted so that no exponential overflows."""
    largest = max(logits)
    exps = [math.exp(logit - largest) for logit in logits]
    total = reduce(add, exps)
    return [e * total**-1 for e in exps]


def rmsnorm(x: list[float]) -> list[float]:
    """The same direction at one length: x / √(mean(x²) + 1e-5)."""
    scale = (dot(x, x) * len(x) ** -1 + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def attention(q: list[float], keys: Matrix, values: Matrix) -> list[float]:
    """Each head adds up the values so far, weighted by softmax(q·k / √D)."""
    head_dim = N_EMBD // N_HEAD
    out = []
    for start in range(0, N_EMBD, head_dim):
        head = slice(start, start + head_dim)
        weights = softmax([dot(q[head], k[head]) * (head_dim**0.5) ** -1 for k in keys])
        out += [dot(weights, column) for column in zip(*(v[head] for v in values), strict=True)]
    return out


class GptDecoder:
    """The GPT reads a document token by token, and remembers keys and values (N_LAYER, T, C)."""

    def __init__(self) -> None:
        self.position = 0
        self.keys: list[Matrix] = [[] for _ in range(N_LAYER)]
        self.values: list[Matrix] = [[] for _ in range(N_LAYER)]

    def push(self, token: int) -> list[float]:
        """The logits (V,) of the token after this one."""
        if self.position == BLOCK_SIZE:
            raise ValueError(f"the model reads at most {BLOCK_SIZE} tokens")
        w = parameters()
        x = list(map(add, w["wte"][token], w["wpe"][self.position]))
        x = rmsnorm(x)
        for i in range(N_LAYER):
            residual = x
            x = rmsnorm(x)
            q = linear(x, w[f"layer{i}.attn_wq"])
            self.keys[i].append(linear(x, w[f"layer{i}.attn_wk"]))
            self.values[i].append(linear(x, w[f"layer{i}.attn_wv"]))
            x = linear(attention(q, self.keys[i], self.values[i]), w[f"layer{i}.attn_wo"])
            x = list(map(add, x, residual))

            residual = x
            x = linear(rmsnorm(x), w[f"layer{i}.mlp_fc1"])
            x = [xi if xi > 0 else 0.0 for xi in x]
            x = linear(x, w[f"layer{i}.mlp_fc2"])
            x = list(map(add, x, residual))
        self.position += 1
        return linear(x, w["lm_head"])


# ---- 2. The n-gram ----------------------------------------------------------------------------


@cache
def grams() -> tuple[list[int], list[int], list[int]]:
    """All k-grams that were counted as a tree: (first child of each, last token, count).

    Number 0 has no token; the children of number i, each with one token more, are the numbers from
    1 + first[i] to first[i + 1], in the order of their tokens. Number i has tokens[i - 1].
    """
    num_children, tokens, counts = json.loads(bz2.decompress(base64.b64decode(NGRAM)))
    return list(accumulate(num_children, initial=0)), tokens, counts


def children(context: Sequence[int]) -> slice:
    """Where the k-grams that continue `context` are in the tokens and counts of `grams`."""
    first, tokens, _ = grams()
    begin, end = 0, first[1]
    for token in context:
        place = bisect_left(tokens, token, begin, end)
        if place == end or tokens[place] != token:
            return slice(0, 0)
        begin, end = first[place + 1], first[place + 2]
    return slice(begin, end)


def ngram_probabilities(context: Sequence[int]) -> list[float]:
    """p (V,) of each token after `context`: interpolated modified Kneser-Ney.

    From each count a discount is taken, and what was taken goes to the p after the context without
    its first token; before the empty context all tokens are equally likely. Source: Chen and
    Goodman 1999, doi:10.1006/csla.1999.0128.
    """
    _, tokens, counts = grams()
    found = [1 / VOCAB_SIZE] * VOCAB_SIZE
    for size in range(min(len(context), ORDER - 1) + 1):
        at = children(context[len(context) - size :])
        total = sum(counts[at])
        if not total:
            break
        classes = [min(count, 3) for count in counts[at]]  # a discount for each
        taken = dot([classes.count(j) for j in range(4)], DISCOUNTS[size])
        found = [taken / total * p for p in found]
        for token, count, j in zip(tokens[at], counts[at], classes, strict=True):
            found[token] += (count - DISCOUNTS[size][j]) / total
    return found


class Decoder:
    """The model reads a document token by token: the GPT, and the n-gram if there is one.

    p = GPT_WEIGHT · p of the GPT + (1 − GPT_WEIGHT) · p of the n-gram.
    """

    def __init__(self) -> None:
        self.gpt = GptDecoder()
        self.tokens: list[int] = []

    def push(self, token: int) -> list[float]:
        """The logits (V,) of the token after this one; with an n-gram they are log p."""
        self.logits = self.gpt.push(token)
        if not NGRAM:
            return self.logits
        self.tokens.append(token)
        self.ngram = ngram_probabilities(self.tokens)
        gpt, rest = softmax(self.logits), 1 - GPT_WEIGHT
        mixed = [GPT_WEIGHT * p + rest * q for p, q in zip(gpt, self.ngram, strict=True)]
        return [math.log(max(p, sys.float_info.min)) for p in mixed]

    def logprob(self, token: int) -> float:
        """log p in nats of this token, after those that were read."""
        p = softmax(self.logits)[token]
        a = math.log(p) if p else -math.inf
        if not NGRAM or GPT_WEIGHT == 1:
            return a
        b = math.log(self.ngram[token])
        if GPT_WEIGHT == 0:
            return b
        if a >= b:
            return a + math.log(GPT_WEIGHT + (1 - GPT_WEIGHT) * math.exp(b - a))
        return b + math.log(GPT_WEIGHT * math.exp(a - b) + (1 - GPT_WEIGHT))


# ---- 3. Tokens --------------------------------------------------------------------------------


class Characters:
    """A token a character, in the order of `pieces`; those of more characters are special."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = pieces
        self.tokens = {piece: token for token, piece in enumerate(pieces)}
        self.special = {piece: token for piece, token in self.tokens.items() if len(piece) > 1}

    def normal(self, text: str) -> str:
        """`text` in the form of the training set: Unicode's NFC, where ö is one character, except
        for characters without a token whose parts have tokens."""
        if not COMPOSED or text.isascii():
            return text
        text = normalize("NFC", text)
        parts = {char: normalize("NFD", char) for char in set(text) - self.tokens.keys()}
        known = {ord(c): each for c, each in parts.items() if self.tokens.keys() >= set(each)}
        return text.translate(known) if known else text

    def encode(self, text: str) -> list[int]:
        text = self.normal(text)
        for char in text:
            if char not in self.tokens:
                raise ValueError(f"the model does not know the character {char!r}")
        return [self.tokens[char] for char in text]

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join([self.pieces[token] for token in tokens])

    def unfinished(self, tokens: Sequence[int]) -> bytes:  # noqa: ARG002
        return b""

    def ruled_out(self, tokens: Sequence[int]) -> set[int]:  # noqa: ARG002
        return set(self.special.values()) - {BOS}


class BytePairs:
    """Tokens 0 to 255 are bytes, 256 + i is the i-th merge of two tokens, then come special ones.

    Text is split into pieces, each becomes the bytes of its UTF-8, and the merges are made in their
    order. Here token t is the character chr(t): a merge is then a `str.replace`.
    """

    def __init__(
        self, merges: Sequence[tuple[int, int]], specials: Sequence[str], version: int
    ) -> None:
        # Version 1 ends a word at each combining mark; later ones keep marks with their letters.
        marks = [*range(0x300, 0x1F000), *range(0xE0100, 0xE01F0)] if version > 1 else []
        on_letters = "\u200c\u200d" + "".join(c for c in map(chr, marks) if category(c)[0] == "M")
        more = rf"(?:[^\W\d_]|[{on_letters}]){{0,63}}" if version > 1 else r"[^\W\d_]{0,63}"
        self.split = re.compile(
            rf" ?[^\W\d_]{more}"
            r"| ?(?:[^\w\s\0]|_){1,64}|\d{1,3}|\s{1,64}(?= [^\s\d\0])|\s{1,64}|\0"
        )
        first = 256 + len(merges)
        self.special = {name: first + i for i, name in enumerate(specials)}
        self.pairs = {chr(256 + i): chr(a) + chr(b) for i, (a, b) in enumerate(merges)}
        self.made = {pair: token for token, pair in self.pairs.items()}
        self.bytes = [bytes([byte]) for byte in range(256)]
        for a, b in merges:
            self.bytes.append(self.bytes[a] + self.bytes[b])

    def merge(self, piece: bytes) -> str:
        """The tokens of a piece. Of the merges that can be made, the earliest comes first."""
        tokens = piece.decode("latin-1")
        while made := [*filter(None, map(self.made.get, map(add, tokens, tokens[1:])))]:
            tokens = tokens.replace(self.pairs[min(made)], min(made))
        return tokens

    def normal(self, text: str) -> str:
        """`text` in the form of the training set: Unicode's NFC, where ö is one character."""
        return normalize("NFC", text) if COMPOSED else text

    def encode(self, text: str) -> list[int]:
        pieces = self.split.findall(self.normal(text))
        return [ord(token) for piece in pieces for token in self.merge(piece.encode())]

    def decode(self, tokens: Iterable[int]) -> str:
        return b"".join(map(self.bytes.__getitem__, tokens)).decode("utf-8", "replace")

    def unfinished(self, tokens: Sequence[int]) -> bytes | None:
        """The bytes of a character that the tokens begin but do not end; None if not UTF-8."""
        return unfinished(b"".join(map(self.bytes.__getitem__, tokens)))

    def ruled_out(self, tokens: Sequence[int]) -> set[int]:
        """The tokens that cannot follow these in a text: a character must be finished first."""
        end = b"".join(map(self.bytes.__getitem__, tokens[-3:]))[-3:]
        starts = [end[i:] for i in range(len(end)) if end[i] & 0xC0 != 0x80]
        begun = unfinished(starts[-1]) or b"" if starts else b""
        found = {token for token in self.special.values() if token != BOS or begun}
        return found | {t for t, each in enumerate(self.bytes) if unfinished(begun + each) is None}

    def openings(self, text: str) -> list[tuple[int, ...]]:
        """All ways in which tokens can begin with `text`, which may end inside a token."""
        text = self.normal(text)
        found = {tuple(self.encode(text)): None}
        *before, last = self.split.findall(text)
        ways = [(before, last)]
        if last.isspace() and last[1:].endswith(" "):  # a space can belong to the next word
            ways.append(([*before, last[:-1]], " "))
        for pieces, end in ways:
            whole, data = "".join(self.merge(piece.encode()) for piece in pieces), end.encode()
            for place in range(len(data)):
                begun, rest = data[:place], data[place:]
                first = self.merge(begun)
                for token, each in enumerate(self.bytes):
                    tokens = first + chr(token)
                    if each.startswith(rest) and self.merge(begun + each) == tokens:
                        found[tuple(map(ord, whole + tokens))] = None
        return list(found)


def unfinished(data: bytes) -> bytes | None:
    """The bytes of a character that `data` begins but does not end, or None if it is not UTF-8."""
    try:
        rest = data[codecs.utf_8_decode(data, "strict", False)[1] :]
    except UnicodeDecodeError:
        return None
    is_surrogate = rest[:1] == b"\xed" and rest[1:] >= b"\xa0"
    return None if is_surrogate else rest


@cache
def tokenizer() -> Characters | BytePairs:
    return BytePairs(MERGES, SPECIALS, SPLIT_VERSION) if SPECIALS else Characters(CHARACTERS)


def before_answer(prompt: str | None) -> list[int]:
    """The tokens between BOS and an answer: the prompt, then a special one."""
    if prompt is None:
        return []
    if "<|answer|>" not in tokenizer().special:
        raise ValueError("this model knows no prompts")
    start = [*tokenizer().encode(prompt), tokenizer().special["<|answer|>"]]
    if len(start) >= BLOCK_SIZE:
        raise ValueError(
            f"the prompt leaves no room for a completion: it has {len(start) - 1} tokens"
        )
    return start


# ---- 4. Draws ---------------------------------------------------------------------------------


def uniform(seed: int, index: int, position: int) -> float:
    """A float in [0, 1) for the draw at `position` of sample `index`: Philox4x32-10.

    Ten rounds scramble a counter under a key, and no draw depends on another. Source: Salmon et al.
    2011, doi:10.1145/2063384.2063405.
    """
    mask = 0xFFFFFFFF
    c0, c1, c2, c3 = position & mask, position >> 32 & mask, index & mask, index >> 32 & mask
    k0, k1 = seed & mask, seed >> 32 & mask
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = b >> 32 ^ c1 ^ k0, b & mask, a >> 32 ^ c3 ^ k1, a & mask
        k0, k1 = k0 + 0x9E3779B9 & mask, k1 + 0xBB67AE85 & mask
    return ((c0 << 21) | (c1 >> 11)) * 2.0**-53


def probabilities(logits: Sequence[float], temperature: float) -> list[float]:
    """softmax(logits / temperature), or 1 for the largest logit if the quotients overflow."""
    try:
        scale = temperature**-1
    except ArithmeticError:  # 0, or too small to divide by
        scale = math.inf
    if not math.isfinite(scale * max(abs(logit) for logit in logits)):
        found = [0.0] * len(logits)
        found[logits.index(max(logits))] = 1.0
        return found
    return softmax([logit * scale for logit in logits])


def choose(logits: Sequence[float], temperature: float, u: float) -> int:
    """The token at which the running sum of the probabilities passes u."""
    running = list(accumulate(probabilities(logits, temperature)))
    return bisect(running, u * running[-1], 0, len(running) - 1)


# ---- 5. Documents -----------------------------------------------------------------------------


def sample(
    n: int = 1, temperature: float | None = None, seed: int | None = None, prompt: str | None = None
) -> list[str]:
    """n new documents, or answers to a prompt. Number i depends only on (seed, i)."""
    return list(samples(n, temperature, seed, prompt))


def samples(
    n: int, temperature: float | None = None, seed: int | None = None, prompt: str | None = None
) -> Iterator[str]:
    """`sample`, one by one."""
    temperature = TEMPERATURE if temperature is None else temperature
    seed = SEED if seed is None else seed
    if n < 0:
        raise ValueError(f"the number of samples must be 0 or more, not {n}")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be 0 or more and finite, not {temperature}")
    before = before_answer(prompt)
    for index in range(n):
        tokens = draw(index, temperature, seed, before)
        begun = tokenizer().unfinished(tokens)
        if begun is None or (begun and len(tokens) < BLOCK_SIZE - len(before)):
            tokens = draw(index, temperature, seed, before, valid=True)
        while tokenizer().unfinished(tokens):  # BLOCK_SIZE ended inside a character
            tokens = tokens[:-1]
        yield tokenizer().normal(tokenizer().decode(tokens))


def draw(
    index: int, temperature: float, seed: int, before: Sequence[int], valid: bool = False
) -> list[int]:
    """The tokens of sample `index`; only those that a text can have, if `valid`."""
    decoder = Decoder()
    for token in [BOS, *before][:-1]:
        decoder.push(token)
    token = [BOS, *before][-1]
    tokens: list[int] = []
    # The end is the only special token of a document.
    out = {token for token in tokenizer().special.values() if token != BOS}
    for position in range(BLOCK_SIZE - len(before)):
        logits = decoder.push(token)
        if valid:
            out = tokenizer().ruled_out(tokens)
        stay = [t for t in range(VOCAB_SIZE) if t not in out]
        u = uniform(seed, index, position)
        token = stay[choose([logits[t] for t in stay], temperature, u)]
        if token == BOS:
            break
        tokens.append(token)
    return tokens


def score(text: str, prompt: str | None = None) -> tuple[float, float]:
    """(log p of the text and its end in nats, the same in bits a character, the end being one).

    A text that is longer than BLOCK_SIZE is read in windows. Each begins with BOS and the prompt,
    and half of the rest repeats the window before.
    """
    text = tokenizer().normal(text)
    before = [BOS, *before_answer(prompt)]
    tokens = [*tokenizer().encode(text), BOS]
    room = BLOCK_SIZE + 1 - len(before)
    logprob, known, end = 0.0, 0, min(room, len(tokens))
    while known < len(tokens):
        window = before + tokens[max(0, end - room) : end]
        decoder = Decoder()
        for i, target in enumerate(window[1:], 1):
            decoder.push(window[i - 1])
            if i >= len(window) - (end - known):
                logprob += decoder.logprob(target)
        known, end = end, min(end + room - room // 2, len(tokens))
    return logprob, -(1 / math.log(2)) * logprob / (len(text) + 1)


def next_tokens(prefix: str = "", prompt: str | None = None) -> list[tuple[str, float]]:
    """Each token and its probability after `prefix`, the most probable first; the end is ""."""
    decoder = Decoder()
    for token in [BOS, *before_answer(prompt), *tokenizer().encode(prefix)]:
        logits = decoder.push(token)
    names = {BOS: ""} | {token: name for name, token in tokenizer().special.items() if token != BOS}
    tokens = enumerate(softmax(logits))
    rows = [(names[t] if t in names else tokenizer().decode([t]), p) for t, p in tokens]
    return sorted(rows, key=lambda row: -row[1])


def log_sum_exp(logits: Sequence[float]) -> float:
    largest = max(logits)
    return largest + math.log(math.fsum([math.exp(logit - largest) for logit in logits]))


class Reading:
    """Logits after tokens. It continues from the tokens before if these begin with them."""

    def __init__(self) -> None:
        self.read: tuple[int, ...] | None = None
        self.reads = 0

    def logits(self, tokens: tuple[int, ...]) -> list[float]:
        read = self.read
        if read is not None and len(read) < len(tokens) and tokens[: len(read)] == read:
            rest = tokens[len(read) :]
        else:
            self.decoder = Decoder()
            rest = (BOS, *tokens)
        for token in rest:
            logits = self.decoder.push(token)
        self.reads += len(rest)
        self.read = tokens
        return logits


# The most tokens that a search reads: fewer of a large model, or of a large vocabulary.
READS, WORK, LOOKS = 2_000, 8e6, 1e7

Begun = tuple[float, tuple[int, ...]]  # −log p and the tokens of the beginning of documents


class Search:
    """A search for the n most probable documents whose first tokens are `forced`."""

    def __init__(self, n: int, forced: Sequence[int]) -> None:
        self.n, self.forced = n, forced
        self.reading = Reading()
        self.best: list[Begun] = []  # documents, the least probable on top
        self.left: list[Begun] = []  # beginnings that wait to be read
        self.special = set(tokenizer().special.values())

    def worst(self) -> float:
        """What a document must cost less than to be among the best."""
        return -self.best[0][0] if len(self.best) == self.n else math.inf

    def keep(self, cost: float, tokens: tuple[int, ...]) -> None:
        # Of the ways to write a document as tokens only that of the tokenizer counts.
        if cost < self.worst() and tokenizer().encode(tokenizer().decode(tokens)) == list(tokens):
            heapq.heappush(self.best, (-cost, tokens))
            if len(self.best) > self.n:
                heapq.heappop(self.best)

    def add(self, begun: Begun) -> None:
        if len(begun[1]) == BLOCK_SIZE:
            self.keep(*begun)
        else:
            heapq.heappush(self.left, begun)

    def extend(self, begun: Begun) -> list[Begun]:
        """The extensions that can be among the best; documents that end here are kept at once."""
        cost, tokens = begun
        logits = self.reading.logits(tokens)
        base = cost + log_sum_exp(logits)
        size = len(tokens)
        if size >= len(self.forced):
            self.keep(base - logits[BOS], tokens)
        extensions = []
        for token in self.forced[size : size + 1] or range(VOCAB_SIZE):
            extended = base - logits[token]
            if token in self.special or extended >= self.worst():
                continue
            if size + 1 == BLOCK_SIZE:
                self.keep(extended, (*tokens, token))
            else:
                extensions.append((extended, (*tokens, token)))
        return extensions

    def best_first(self, most_reads: int) -> None:
        """Read the most probable beginning each time, until none can be among the best."""
        while self.left and self.left[0][0] < self.worst() and self.reading.reads < most_reads:
            for begun in self.extend(heapq.heappop(self.left)):
                heapq.heappush(self.left, begun)
            if len(self.left) > 4 * most_reads:  # no more than these can be read
                self.left = heapq.nsmallest(most_reads, self.left)

    def beam(self, most_reads: int) -> None:
        """Read only the best beginnings of each length, of those that are left."""
        pools: list[list[Begun]] = [[] for _ in range(BLOCK_SIZE)]  # by their length
        for begun in self.left:
            pools[len(begun[1])].append(begun)
        end = self.reading.reads + most_reads
        for length, pool in enumerate(pools):
            cost = (BLOCK_SIZE * (BLOCK_SIZE + 1) - length * (length + 1)) // 2
            width = max(1, (end - self.reading.reads) // cost)
            for begun in heapq.nsmallest(width, pool):
                if self.reading.reads >= end:
                    break
                for extended in self.extend(begun):
                    pools[length + 1].append(extended)


def complete(prefix: str = "", n: int = 10) -> list[tuple[str, float]]:
    """The n most probable documents that begin with `prefix` and their log p, the best first.

    Beginnings wait in a heap; the most probable one is read and its extensions are put back. No
    document is more probable than its beginning, so those found are the best as soon as none that
    waits is above them. If that would take too long, the search goes on with only the best
    beginnings of each length, and what it adds need not be the best there is.
    """
    encoded = tokenizer().encode(prefix)
    if not 1 <= n <= 10_000:
        raise ValueError(f"n must be from 1 to 10,000, not {n}")
    if len(encoded) >= BLOCK_SIZE:
        raise ValueError(f"the prefix leaves nothing to complete: it has {len(encoded)} tokens")
    num_params = (2 * VOCAB_SIZE + BLOCK_SIZE + 12 * N_LAYER * N_EMBD) * N_EMBD
    most_reads = max(1, int(min(READS, WORK / num_params, LOOKS / VOCAB_SIZE)))
    made_of = tokenizer()
    search = Search(n, encoded if isinstance(made_of, Characters) else [])
    if prefix and isinstance(made_of, BytePairs):
        for tokens, logprob in with_logprobs(made_of.openings(prefix)):
            search.add((-logprob, tokens))
    else:
        search.add((0.0, ()))
    search.best_first(most_reads)
    if search.left and search.left[0][0] < search.worst():
        search.beam(most_reads)
    documents = sorted(search.best, key=lambda each: (-each[0], each[1]))
    return [(tokenizer().decode(tokens), logprob) for logprob, tokens in documents]


def with_logprobs(openings: Iterable[tuple[int, ...]]) -> Iterator[tuple[tuple[int, ...], float]]:
    """The openings that fit, each with log p in nats that a document begins like it."""
    reading = Reading()

    @cache
    def logprobs(tokens: tuple[int, ...]) -> list[float]:
        logits = reading.logits(tokens)
        base = log_sum_exp(logits)
        return [logit - base for logit in logits]

    for tokens in openings:
        if len(tokens) <= BLOCK_SIZE:
            yield tokens, math.fsum(logprobs(tokens[:i])[t] for i, t in enumerate(tokens))


# ---- 6. Command line --------------------------------------------------------------------------


def on_one_line(text: str) -> str:
    """The text with its line ends escaped."""
    return text.replace("\r", "\\r").replace("\n", "\\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("n", nargs="?", type=int, help="how many (20; completions 10)")
    parser.add_argument(
        "--temperature", type=float, metavar="T", help=f"of samples ({TEMPERATURE})"
    )
    parser.add_argument("--seed", type=int, help=f"of samples ({SEED})")
    parser.add_argument("--prompt", help="make, or score, answers to this; if the model knows how")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--score", metavar="TEXT", help="log probability, bits a character")
    what.add_argument("--complete", metavar="PREFIX", help="the most probable that begin with this")
    args = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):  # UTF-8 for pipes and files, whatever the locale
        own = None if sys.stdout.isatty() else "utf-8"
        sys.stdout.reconfigure(encoding=own, errors="backslashreplace")
    try:
        if args.score is not None:
            logprob, bits = score(args.score, args.prompt)
            print(f"{logprob:.3f} nats, {bits:.3f} bits a character")
        elif args.complete is not None:
            if args.prompt is not None:
                raise ValueError("completions do not take --prompt")
            for text, logprob in complete(args.complete, 10 if args.n is None else args.n):
                print(f"{logprob:10.3f}  {on_one_line(text)}")
        else:
            count = 20 if args.n is None else args.n
            for text in samples(count, args.temperature, args.seed, args.prompt):
                print(on_one_line(text), flush=True)
    except ValueError as error:
        parser.error(str(error))


# ---- 7. What was learned: `kamon export` puts it in --------------------------------------------

N_LAYER, N_HEAD, N_EMBD = 1, 1, 1
BLOCK_SIZE, VOCAB_SIZE, BOS = 1, 1, 0
TEMPERATURE, SEED = 1.0, 0  # of samples, by default
CHARACTERS: list[str] = []
MERGES: list[tuple[int, int]] = []
SPECIALS: list[str] = []
SPLIT_VERSION = 2  # of the pieces that a text is split into
COMPOSED = False  # whether texts are brought to NFC
NUMBER = "f"
WEIGHTS = ""
GPT_WEIGHT, ORDER = 1.0, 1
DISCOUNTS: list[tuple[float, ...]] = []  # of counts 0, 1, 2, 3 or more; by length of context
NGRAM = ""

if __name__ == "__main__":
    main()
