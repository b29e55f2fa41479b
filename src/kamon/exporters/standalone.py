#!/usr/bin/env python3
"""A language model in one file, which needs only Python.

    python THIS_FILE 20                        print 20 samples
    python THIS_FILE 20 --temperature 0.7      below 1 more typical, above 1 more varied
    python THIS_FILE --complete an             print the most probable texts that begin with "an"
    python THIS_FILE --score anna              print the log probability and the bits per character

You can also import it: `sample`, `complete`, `next_tokens` and `score` do the same, and `Decoder`
is the model. The parts, from top to bottom:

    1. the GPT          linear, softmax, rmsnorm, attention and a small neural network
    2. the n-gram       how often each token follows the last ones, and the blend with the GPT
    3. tokens           from text to numbers and back
    4. random numbers   each depends only on the seed, the sample and the position
    5. documents        samples, scores, completions
    6. command line
    7. the model        settings, tokens, weights, counts

Every number is bit for bit that of Kamon's scalar engine. Therefore sums run from left to right,
and the GPT computes a * b**-1 instead of a / b. In shapes, T is the number of positions so far, C
is N_EMBD, D is C / N_HEAD and V is the number of tokens. Each document has a BOS before and after
it. The model sees at most BLOCK_SIZE tokens.
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
    """Return the weight matrices by name, each of shape (out, in)."""
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
    """Return a₀b₀ + a₁b₁ + …"""
    total: float = reduce(add, map(mul, a, b))
    return total


def linear(x: list[float], w: Matrix) -> list[float]:
    """Return W x: each output is one row of weights times x."""
    return [dot(row, x) for row in w]


def softmax(logits: Sequence[float]) -> list[float]:
    """Return probabilities. Subtracting the largest logit keeps exponentials from overflowing."""
    largest = max(logits)
    exps = [math.exp(logit - largest) for logit in logits]
    total = reduce(add, exps)
    return [e * total**-1 for e in exps]


def rmsnorm(x: list[float]) -> list[float]:
    """Return x / √(mean(x²) + 1e-5)."""
    scale = (dot(x, x) * len(x) ** -1 + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def attention(q: list[float], keys: Matrix, values: Matrix) -> list[float]:
    """Return, for each head, the sum of the values so far, weighted by softmax(q·k / √D)."""
    head_dim = N_EMBD // N_HEAD
    out = []
    for start in range(0, N_EMBD, head_dim):
        head = slice(start, start + head_dim)
        weights = softmax([dot(q[head], k[head]) * (head_dim**0.5) ** -1 for k in keys])
        out += [dot(weights, column) for column in zip(*(v[head] for v in values), strict=True)]
    return out


class GptDecoder:
    """A GPT that reads a document token by token. It keeps keys and values, (N_LAYER, T, C)."""

    def __init__(self) -> None:
        self.position = 0
        self.keys: list[Matrix] = [[] for _ in range(N_LAYER)]
        self.values: list[Matrix] = [[] for _ in range(N_LAYER)]

    def push(self, token: int) -> list[float]:
        """Read a token and return the logits (V,) of the next one."""
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
    """Return the counted k-grams as a tree: (first, tokens, counts).

    Node 0 is the empty k-gram. The children of node i are nodes 1 + first[i] to first[i + 1], in
    the order of their tokens. The last token of node i is tokens[i - 1], its count counts[i - 1].
    """
    num_children, tokens, counts = json.loads(bz2.decompress(base64.b64decode(NGRAM)))
    return list(accumulate(num_children, initial=0)), tokens, counts


def children(context: Sequence[int]) -> slice:
    """Return the place of the k-grams after `context` in the tokens and counts of `grams`."""
    first, tokens, _ = grams()
    begin, end = 0, first[1]
    for token in context:
        place = bisect_left(tokens, token, begin, end)
        if place == end or tokens[place] != token:
            return slice(0, 0)
        begin, end = first[place + 1], first[place + 2]
    return slice(begin, end)


def ngram_probabilities(context: Sequence[int]) -> list[float]:
    """Return p (V,) of each token after `context`: interpolated modified Kneser-Ney.

    It subtracts a discount from each count, and gives the sum of the discounts to p after a context
    that is one token shorter. The discounts of the empty context go to 1 / V. Source: Chen and
    Goodman 1999, doi:10.1006/csla.1999.0128.
    """
    _, tokens, counts = grams()
    found = [1 / VOCAB_SIZE] * VOCAB_SIZE
    for size in range(min(len(context), ORDER - 1) + 1):
        at = children(context[len(context) - size :])
        total = sum(counts[at])
        if not total:
            break
        classes = [min(count, 3) for count in counts[at]]  # each has its own discount
        taken = dot([classes.count(j) for j in range(4)], DISCOUNTS[size])
        found = [taken / total * p for p in found]
        for token, count, j in zip(tokens[at], counts[at], classes, strict=True):
            found[token] += (count - DISCOUNTS[size][j]) / total
    return found


class Decoder:
    """The model, which reads a document token by token. It blends the GPT with the n-gram, if any.

    p = GPT_WEIGHT · p of the GPT + (1 − GPT_WEIGHT) · p of the n-gram.
    """

    def __init__(self) -> None:
        self.gpt = GptDecoder()
        self.tokens: list[int] = []

    def push(self, token: int) -> list[float]:
        """Read a token and return the logits (V,) of the next one. Those of a blend are log p."""
        self.logits = self.gpt.push(token)
        if not NGRAM:
            return self.logits
        self.tokens.append(token)
        self.ngram = ngram_probabilities(self.tokens)
        gpt, rest = softmax(self.logits), 1 - GPT_WEIGHT
        mixed = [GPT_WEIGHT * p + rest * q for p, q in zip(gpt, self.ngram, strict=True)]
        return [math.log(max(p, sys.float_info.min)) for p in mixed]

    def logprob(self, token: int) -> float:
        """Return log p in nats of this token after those that were read."""
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
    """One token per code point, in the order of `pieces`. Longer pieces are special tokens.

    A character that people see may have several code points. If CLUSTERS is not empty, texts have
    only such characters that were in the training set.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = pieces
        self.tokens = {piece: token for token, piece in enumerate(pieces)}
        self.special = {piece: token for piece, token in self.tokens.items() if len(piece) > 1}

    def normal(self, text: str) -> str:
        """Return `text` in the form of the training set: Unicode's NFC, if the model uses it.

        A character that has no token is split if its parts have tokens.
        """
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

    def ruled_out(self, tokens: Sequence[int]) -> set[int]:
        out = set(self.special.values()) - {BOS}
        if not CLUSTERS:
            return out
        state = 0
        for char in self.decode(tokens):
            _, new, joined = clusters()[state]
            if char not in new and char not in joined:
                return out
            state = joined[char] if char in joined else new[char]
        whole, new, joined = clusters()[state]
        out |= {t for char, t in self.tokens.items() if char not in new and char not in joined}
        return out - {BOS} if whole else out | {BOS}


@cache
def clusters() -> list[tuple[bool, dict[str, int], dict[str, int]]]:
    """Return the automaton of the characters, whose state 0 is the start.

    Each state is whether a text may end there, and the state after each code point that begins a
    character, and after each that continues one.
    """
    found: list[tuple[bool, dict[str, int], dict[str, int]]]
    found = json.loads(bz2.decompress(base64.b64decode(CLUSTERS)))
    return found


def whole_characters(text: str) -> str | None:
    """Return the text without an unfinished last character. None: one is not in the list."""
    state, begin = 0, 0
    for place, char in enumerate(text if CLUSTERS else ""):
        _, new, joined = clusters()[state]
        if char not in new and char not in joined:
            return None
        state, begin = (joined[char], begin) if char in joined else (new[char], place)
    return text if not CLUSTERS or clusters()[state][0] else text[:begin]


def num_characters(text: str) -> int:
    """Return how many characters people see.

    It knows those of the list. For others, a few rules say which code points belong together.
    """
    number, state, before = 0, 0, ""
    for char in text:
        _, new, joined = clusters()[state] if CLUSTERS else (True, {}, {})
        known = char in new or char in joined
        number += char in new if known else not (before and joins(before, char))
        if CLUSTERS:
            state = joined.get(char, new.get(char, clusters()[0][1].get(char, 0)))
        half = "\U0001f1e6" <= char <= "\U0001f1ff" and not joins(before, char)
        before = char if half or not "\U0001f1e6" <= char <= "\U0001f1ff" else ""
    return number


def joins(before: str, char: str) -> bool:
    """Return whether a code point belongs to the same character as the one before it."""
    if category(char)[0] == "M" or char in "\u200c\u200d\u0e33\u0eb3":
        return True
    if "\U0001f3fb" <= char <= "\U0001f3ff" or "\u1160" <= char <= "\u11ff":  # skin, Hangul
        return True
    if "\U0001f1e6" <= before <= "\U0001f1ff":  # the first half of a flag
        return "\U0001f1e6" <= char <= "\U0001f1ff"
    viramas = "\u094d\u09cd\u0acd\u0b4d\u0c4d\u0d4d"
    return before == "\u200d" or (before in viramas and category(char) == "Lo")


class BytePairs:
    """Tokens 0 to 255 are bytes, token 256 + i is merge i of two tokens, special tokens follow.

    Text is split into pieces. The UTF-8 bytes of each piece are merged, in the order of the merges.
    Here token t is the character chr(t), so that a merge is a `str.replace`.
    """

    def __init__(
        self, merges: Sequence[tuple[int, int]], specials: Sequence[str], version: int
    ) -> None:
        # Version 1 ends a word at each combining mark. Version 2 keeps marks with their letters.
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
        """Return the tokens of a piece. The earliest of the possible merges is made first."""
        tokens = piece.decode("latin-1")
        while made := [*filter(None, map(self.made.get, map(add, tokens, tokens[1:])))]:
            tokens = tokens.replace(self.pairs[min(made)], min(made))
        return tokens

    def normal(self, text: str) -> str:
        """Return `text` in the form of the training set: Unicode's NFC, if the model uses it."""
        return normalize("NFC", text) if COMPOSED else text

    def encode(self, text: str) -> list[int]:
        pieces = self.split.findall(self.normal(text))
        return [ord(token) for piece in pieces for token in self.merge(piece.encode())]

    def decode(self, tokens: Iterable[int]) -> str:
        return b"".join(map(self.bytes.__getitem__, tokens)).decode("utf-8", "replace")

    def unfinished(self, tokens: Sequence[int]) -> bytes | None:
        """Return the bytes of an incomplete last character, or None if this is not UTF-8."""
        return unfinished(b"".join(map(self.bytes.__getitem__, tokens)))

    def ruled_out(self, tokens: Sequence[int]) -> set[int]:
        """Return the tokens that cannot come next, because they would give invalid UTF-8."""
        end = b"".join(map(self.bytes.__getitem__, tokens[-3:]))[-3:]
        starts = [end[i:] for i in range(len(end)) if end[i] & 0xC0 != 0x80]
        begun = unfinished(starts[-1]) or b"" if starts else b""
        found = {token for token in self.special.values() if token != BOS or begun}
        return found | {t for t, each in enumerate(self.bytes) if unfinished(begun + each) is None}

    def openings(self, text: str) -> list[tuple[int, ...]]:
        """Return all token sequences that begin with `text`. It may end inside the last token."""
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
    """Return the bytes of an incomplete last character, or None if this is not UTF-8."""
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
    """Return the tokens between BOS and an answer: the prompt and a special token."""
    if prompt is None:
        return []
    if "<|answer|>" not in tokenizer().special:
        raise ValueError("this model does not take prompts")
    start = [*tokenizer().encode(prompt), tokenizer().special["<|answer|>"]]
    if len(start) >= BLOCK_SIZE:
        raise ValueError(
            f"the prompt leaves no room for a completion: it has {len(start) - 1} tokens"
        )
    return start


# ---- 4. Random numbers ------------------------------------------------------------------------


def uniform(seed: int, index: int, position: int) -> float:
    """Return a float in [0, 1) for the token at `position` of sample `index`: Philox4x32-10.

    Ten rounds mix a counter with a key. No number depends on another. Source: Salmon et al. 2011,
    doi:10.1145/2063384.2063405.
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
    """Return softmax(logits / temperature), or 1 for the largest logit if that overflows."""
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
    """Return the token at which the running sum of the probabilities passes u."""
    running = list(accumulate(probabilities(logits, temperature)))
    return bisect(running, u * running[-1], 0, len(running) - 1)


# ---- 5. Documents -----------------------------------------------------------------------------


def sample(
    n: int = 1, temperature: float | None = None, seed: int | None = None, prompt: str | None = None
) -> list[str]:
    """Return n samples: documents, or answers to a prompt. Sample i depends only on (seed, i)."""
    return list(samples(n, temperature, seed, prompt))


def samples(
    n: int, temperature: float | None = None, seed: int | None = None, prompt: str | None = None
) -> Iterator[str]:
    """Yield the samples of `sample` one by one."""
    temperature = TEMPERATURE if temperature is None else temperature
    seed = SEED if seed is None else seed
    if n < 0:
        raise ValueError(f"the number of samples must be 0 or more, not {n}")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be 0 or more and finite, not {temperature}")
    before = before_answer(prompt)
    for index in range(n):
        tokens = draw(index, temperature, seed, before)
        if CLUSTERS:
            yield of_clusters(tokens, index, temperature, seed, before)
            continue
        begun = tokenizer().unfinished(tokens)
        if begun is None or (begun and len(tokens) < BLOCK_SIZE - len(before)):
            tokens = draw(index, temperature, seed, before, valid=True)
        while tokenizer().unfinished(tokens):  # BLOCK_SIZE ended inside a character
            tokens = tokens[:-1]
        yield tokenizer().normal(tokenizer().decode(tokens))


def of_clusters(
    tokens: list[int], index: int, temperature: float, seed: int, before: Sequence[int]
) -> str:
    """Return the text of a sample, or of another one if it has a character not in the list."""
    for again in range(1, 52):
        text = tokenizer().normal(tokenizer().decode(tokens))
        known = whole_characters(text)
        if known is not None and (known == text or len(tokens) == BLOCK_SIZE - len(before)):
            return known
        valid = not temperature or again > 50
        tokens = draw(index if valid else index + (again << 40), temperature, seed, before, valid)
    return whole_characters(tokenizer().decode(tokens)) or ""


def draw(
    index: int, temperature: float, seed: int, before: Sequence[int], valid: bool = False
) -> list[int]:
    """Return the tokens of sample `index`. valid: whether to rule out invalid UTF-8."""
    decoder = Decoder()
    for token in [BOS, *before][:-1]:
        decoder.push(token)
    token = [BOS, *before][-1]
    tokens: list[int] = []
    # A document has no special token except its end.
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
    """Return (log p of the text and its end in nats, bits per character).

    The end counts as a character. The model reads a text longer than BLOCK_SIZE in windows. Each
    begins with BOS and the prompt, and half of the rest overlaps the previous window.
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
    return logprob, -(1 / math.log(2)) * logprob / (num_characters(text) + 1)


def next_tokens(prefix: str = "", prompt: str | None = None) -> list[tuple[str, float]]:
    """Return (token, probability) after `prefix`, the most probable first. The end is ""."""
    decoder = Decoder()
    for token in [BOS, *before_answer(prompt), *tokenizer().encode(prefix)]:
        logits = decoder.push(token)
    names = {BOS: ""} | {token: name for name, token in tokenizer().special.items() if token != BOS}
    out = tokenizer().ruled_out(tokenizer().encode(prefix)) if CLUSTERS else ()
    stay = [token for token in range(VOCAB_SIZE) if token not in out]
    tokens = zip(stay, softmax([logits[token] for token in stay]), strict=True)
    rows = [(names[t] if t in names else tokenizer().decode([t]), p) for t, p in tokens]
    return sorted(rows, key=lambda row: -row[1])


def log_sum_exp(logits: Sequence[float]) -> float:
    largest = max(logits)
    return largest + math.log(math.fsum([math.exp(logit - largest) for logit in logits]))


class Reading:
    """Computes logits. It does not read again the tokens that it has just read."""

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


# A search reads at most READS tokens, fewer if the model or the vocabulary is large.
READS, WORK, LOOKS = 2_000, 8e6, 1e7

Begun = tuple[float, tuple[int, ...]]  # a beginning of documents: −log p and its tokens


class Search:
    """A search for the n most probable documents whose first tokens are `forced`."""

    def __init__(self, n: int, forced: Sequence[int]) -> None:
        self.n, self.forced = n, forced
        self.reading = Reading()
        self.best: list[Begun] = []  # documents, the least probable on top
        self.left: list[Begun] = []  # beginnings that wait to be read
        self.special = set(tokenizer().special.values())

    def worst(self) -> float:
        """Return −log p of the worst of n documents, or infinity if there are fewer."""
        return -self.best[0][0] if len(self.best) == self.n else math.inf

    def keep(self, cost: float, tokens: tuple[int, ...]) -> None:
        # Of all token sequences of a text, only that of the tokenizer counts.
        text = tokenizer().decode(tokens)
        if whole_characters(text) != text:
            return
        if cost < self.worst() and tokenizer().encode(text) == list(tokens):
            heapq.heappush(self.best, (-cost, tokens))
            if len(self.best) > self.n:
                heapq.heappop(self.best)

    def add(self, begun: Begun) -> None:
        if len(begun[1]) == BLOCK_SIZE:
            self.keep(*begun)
        else:
            heapq.heappush(self.left, begun)

    def extend(self, begun: Begun) -> list[Begun]:
        """Keep the document that ends here. Return longer beginnings that can be among the best."""
        cost, tokens = begun
        logits = self.reading.logits(tokens)
        base = cost + log_sum_exp(logits)
        size = len(tokens)
        if size >= len(self.forced):
            self.keep(base - logits[BOS], tokens)
        extensions = []
        out = {BOS, *tokenizer().ruled_out(tokens)} if CLUSTERS else self.special
        for token in self.forced[size : size + 1] or range(VOCAB_SIZE):
            extended = base - logits[token]
            if token in out or extended >= self.worst():
                continue
            if size + 1 == BLOCK_SIZE:
                self.keep(extended, (*tokens, token))
            else:
                extensions.append((extended, (*tokens, token)))
        return extensions

    def best_first(self, most_reads: int) -> None:
        """Always extend the most probable beginning, until none can be among the best."""
        while self.left and self.left[0][0] < self.worst() and self.reading.reads < most_reads:
            for begun in self.extend(heapq.heappop(self.left)):
                heapq.heappush(self.left, begun)
            if len(self.left) > 4 * most_reads:  # more cannot be read
                self.left = heapq.nsmallest(most_reads, self.left)

    def beam(self, most_reads: int) -> None:
        """Extend only the most probable of the remaining beginnings of each length."""
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
    """Return the n most probable documents that begin with `prefix` and their log p, best first.

    Beginnings are in a heap. The search takes the most probable one and adds its extensions. No
    document is more probable than its beginning, so the search ends when no beginning is more
    probable than the documents found. If that takes too long, the search continues with only the
    best beginnings of each length. The documents that it then adds may not be the best.
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
    """Yield the openings that fit in BLOCK_SIZE, each with its log p in nats."""
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
    """Return the text with its line ends escaped."""
    return text.replace("\r", "\\r").replace("\n", "\\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("n", nargs="?", type=int, help="how many [default: 20, with --complete 10]")
    parser.add_argument(
        "--temperature", type=float, metavar="T", help=f"of samples [default: {TEMPERATURE}]"
    )
    parser.add_argument("--seed", type=int, help=f"of samples [default: {SEED}]")
    parser.add_argument("--prompt", help="generate or score answers to this prompt")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--score", metavar="TEXT", help="print the log probability of TEXT")
    what.add_argument("--complete", metavar="PREFIX", help="print the best completions")
    args = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):  # UTF-8 for pipes and files in any locale
        own = None if sys.stdout.isatty() else "utf-8"
        sys.stdout.reconfigure(encoding=own, errors="backslashreplace")
    try:
        if args.score is not None:
            logprob, bits = score(args.score, args.prompt)
            print(f"{logprob:.3f} nats, {bits:.3f} bits per character")
        elif args.complete is not None:
            if args.prompt is not None:
                raise ValueError("--complete cannot be combined with --prompt")
            for text, logprob in complete(args.complete, 10 if args.n is None else args.n):
                print(f"{logprob:10.3f}  {on_one_line(text)}")
        else:
            count = 20 if args.n is None else args.n
            for text in samples(count, args.temperature, args.seed, args.prompt):
                print(on_one_line(text), flush=True)
    except ValueError as error:
        parser.error(str(error))


# ---- 7. The model: `kamon export` replaces this part --------------------------------------------

N_LAYER, N_HEAD, N_EMBD = 1, 1, 1
BLOCK_SIZE, VOCAB_SIZE, BOS = 1, 1, 0
TEMPERATURE, SEED = 1.0, 0  # defaults for samples
CHARACTERS: list[str] = []
CLUSTERS = ""
MERGES: list[tuple[int, int]] = []
SPECIALS: list[str] = []
SPLIT_VERSION = 2  # how text is split into pieces
COMPOSED = False  # whether text is normalised to NFC
NUMBER = "f"
WEIGHTS = ""
GPT_WEIGHT, ORDER = 1.0, 1
DISCOUNTS: list[tuple[float, ...]] = []  # a row per context length, for counts of 0, 1, 2, 3+
NGRAM = ""

if __name__ == "__main__":
    main()
