"""Sampling under conditions: each token is chosen with an eye on what it makes possible.

A `Trellis` has the states of the conditions after each number of tokens. A small n-gram imitates
the model. From it, `look_ahead` computes for each place in the trellis the chance that a document
which is there will fulfil the conditions. The sampler multiplies the model's probabilities by these
chances, so that nearly every candidate fulfils the conditions.

The n-gram is not the model, so these candidates do not have the model's distribution. Each has a
weight that corrects this: the probability of the document under the model, divided by that with
which it was sampled, and by the chance at the start. If a candidate of weight w is kept w / limit
times on average, the samples follow the model's distribution under the conditions, whatever the
n-gram is.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.engines.native import NativeEngine
from kamon.engines.philox import uniform
from kamon.errors import ConfigError
from kamon.generation.automaton import TOO_LARGE, Automaton
from kamon.generation.blend import BlendedModel
from kamon.generation.sampling import LanguageModel, SampleRequest, prefill, probabilities
from kamon.native import library
from kamon.native.library import address
from kamon.tokenizers.base import Tokenizer

MAY_END, FULL = 1, 2
MAX_ENTRIES = 1 << 23  # of a table: nodes times tokens, or nodes times contexts
MAX_WORK = 1 << 26  # multiplications of a look-ahead
MAX_WORK_SLOW = 1 << 19
MAX_ORDER = 3
MAX_TABLE = 1 << 22  # numbers of an n-gram
TRUST = 1.0  # how many tokens after a context count as much as the shorter context
SEED = 0xC0FFEE_5EED  # of the candidates that are not samples
SURVEY = 2000  # candidates without conditions from which the n-gram learns
PILOT = 1000  # candidates under conditions, for the weights and the n-gram
SLOW = 10  # times fewer of both for a model that samples slowly
ROUNDS = 4
GOOD = 0.5  # share of candidates kept that needs no other round
SURPLUS = 0.01  # share of the weights above the limit: candidates that become two samples or more

Truncate = Callable[[Sequence[float], list[int]], list[int]]  # logits, tokens that fit -> fewer


@dataclass(frozen=True, eq=False)
class Trellis:
    """The states of the conditions, after each number of tokens. Node 0 is the start.

    Attributes:
        positions: of each node, the number of tokens before it.
        next: [node][token], the node after a token: a later one, or −1 if no document that fulfils
            the conditions continues so.
        ends: of each node: MAY_END if a document may end there, FULL if it has no room for more
            tokens and so ends without BOS, or 0.
        room: the most tokens of a document.
    """

    vocab_size: int
    bos: int
    room: int
    positions: array[int]
    next: array[int]
    ends: bytearray

    def __len__(self) -> int:
        return len(self.ends)

    def after(self, node: int) -> array[int]:
        """Return the node after each token."""
        return self.next[node * self.vocab_size : (node + 1) * self.vocab_size]


@dataclass(frozen=True, eq=False)
class Guide:
    """What a sampler needs to fulfil conditions.

    Attributes:
        num_contexts: the last tokens, as one number, are a context: V to the power of order − 1.
        chances: [node][context], that a document which is there fulfils the conditions.
        limit: a candidate of this weight is one sample.
    """

    trellis: Trellis
    num_contexts: int
    chances: array[float]
    limit: float = 1.0

    @property
    def share(self) -> float:
        """The share of all documents that fulfil the conditions, according to the n-gram."""
        trellis = self.trellis
        return self.chances[start_context(trellis.bos, trellis.vocab_size, self.num_contexts)]


# ---- the trellis


class TokenStates:
    """The states of an automaton after tokens, whose texts may end within a character.

    A state is that of the automaton, and the tokens since the last whole character.
    """

    def __init__(self, automaton: Automaton, tokenizer: Tokenizer) -> None:
        self.automaton = automaton
        self.tokenizer = tokenizer
        self.states: list[tuple[int, tuple[int, ...]]] = [(0, ())]
        self.numbers: dict[tuple[int, tuple[int, ...]], int] = {self.states[0]: 0}
        self.special = set(tokenizer.special.values())
        self.first = [self.step((), token) for token in range(tokenizer.vocab_size)]

    def step(self, rest: tuple[int, ...], token: int) -> tuple[str, tuple[int, ...]] | None:
        """Return the characters that a token completes, and the tokens of an unfinished one."""
        if token in self.special:
            return None
        tokens = (*rest, token)
        unfinished = self.tokenizer.unfinished(tokens)
        if unfinished is None:
            return None
        text = self.tokenizer.decode(tokens)
        if not unfinished:
            return (self.whole(text, rest), ())
        return (self.whole(text[:-1], rest), tokens)

    def whole(self, text: str, rest: tuple[int, ...]) -> str:
        """Return `text` without the characters that `rest` had completed."""
        return text[len(self.tokenizer.decode(rest)) - 1 :] if rest else text

    def row(self, number: int) -> list[int]:
        """Return the number of the state after each token, −1 if there is plainly none."""
        state, rest = self.states[number]
        found = []
        for token, step in enumerate(self.first):
            if rest:
                step = self.step(rest, token)
            after = -1
            if step:
                reached = self.automaton.after(state, step[0])
                if not self.automaton.is_dead(reached):
                    key = reached, step[1]
                    after = self.numbers.setdefault(key, len(self.states))
                    if after == len(self.states):
                        self.states.append(key)
            found.append(after)
        return found

    def accepts(self, number: int) -> bool:
        state, rest = self.states[number]
        return not rest and self.automaton.accepts(state)


def unroll(automaton: Automaton, tokenizer: Tokenizer, room: int) -> Trellis | None:
    """Return the trellis of documents of at most `room` tokens. None if none is accepted.

    Raises: ConfigError if it becomes too large.
    """
    states = TokenStates(automaton, tokenizer)
    rows = explore(states, room)
    least = tokens_to_accept(states, rows)
    vocab_size = tokenizer.vocab_size
    if least[0] > room:
        return None
    positions, next_nodes, ends = array("i"), array("i"), bytearray()
    layer = [0]
    first = 0  # node of the layer
    for left in range(room, -1, -1):
        following: dict[int, int] = {}
        positions.extend([room - left] * len(layer))
        for state in layer:
            if left == 0:
                next_nodes.extend([-1] * vocab_size)
                ends.append(FULL)
                continue
            for after in rows[state]:
                if after < 0 or least[after] >= left:
                    next_nodes.append(-1)
                    continue
                node = following.setdefault(after, first + len(layer) + len(following))
                next_nodes.append(node)
            ends.append(MAY_END if states.accepts(state) else 0)
        first += len(layer)
        layer = list(following)
        if len(next_nodes) > MAX_ENTRIES:
            raise ConfigError(TOO_LARGE, "use a smaller max_len, or fewer conditions")
    return Trellis(vocab_size, tokenizer.bos, room, positions, next_nodes, ends)


def explore(states: TokenStates, room: int) -> list[list[int]]:
    """Return the rows of all states that up to `room` tokens reach."""
    rows: list[list[int]] = []
    for _ in range(room + 1):
        end = len(states.states)
        if len(rows) == end:
            break
        if end * len(states.first) > MAX_ENTRIES:
            raise ConfigError(TOO_LARGE, "use a smaller max_len, or fewer conditions")
        rows.extend(states.row(number) for number in range(len(rows), end))
    rows.extend([-1] * len(states.first) for _ in range(len(rows), len(states.states)))
    return rows


def tokens_to_accept(states: TokenStates, rows: Sequence[Sequence[int]]) -> list[float]:
    """Return how many tokens each state needs at least before a document can end."""
    before: list[list[int]] = [[] for _ in rows]
    for state, row in enumerate(rows):
        for after in {*row} - {-1}:
            before[after].append(state)
    least: list[float] = [math.inf] * len(rows)
    reached = [state for state in range(len(rows)) if states.accepts(state)]
    distance = 0
    while reached:
        for state in reached:
            least[state] = distance
        distance += 1
        earlier = {state for after in reached for state in before[after]}
        reached = [state for state in earlier if least[state] > distance]
    return least


def num_documents(trellis: Trellis) -> int:
    """Return how many sequences of tokens fulfil the conditions."""
    numbers = [0] * len(trellis)
    for node in range(len(trellis) - 1, -1, -1):
        following = sum(numbers[after] for after in trellis.after(node) if after >= 0)
        numbers[node] = following + bool(trellis.ends[node])
    return numbers[0]


# ---- the n-gram and the chances


class ExpectedCounts:
    """An n-gram that learns from the probabilities of a model, not only from the tokens sampled.

    It also knows the position, because the model ends a document according to its length.

    Attributes:
        sums: [position][context][token], the sums of p of a token over all documents sampled that
            were in the context at this position.
    """

    def __init__(self, vocab_size: int, num_positions: int, order: int) -> None:
        self.vocab_size = vocab_size
        self.num_positions = num_positions
        self.order = order
        self.num_contexts = vocab_size ** (order - 1)
        self.sums = library.zeros(num_positions * self.num_contexts * vocab_size)

    def add(self, position: int, context: int, p: Sequence[float]) -> None:
        begin = (position * self.num_contexts + context) * self.vocab_size
        for token, share in enumerate(p, begin):
            self.sums[token] += share

    def probabilities(self) -> array[float]:
        """Return p, like `sums`.

        That of a context which was rarely seen is close to that of the shorter one, and that of a
        context at a position to that of the context at all positions.
        """
        sums, vocab_size = self.sums, self.vocab_size
        if not library.why_not():
            p = library.zeros(len(sums))
            error = library.exact("smooth")(
                *(vocab_size, self.num_positions, self.num_contexts, TRUST),
                *(address(sums), address(p)),
            )
            library.raise_for(error)
            return p
        levels = [fold(sums, self.num_contexts * vocab_size)]
        levels += [fold(levels[0], vocab_size**k) for k in range(self.order - 1, 0, -1)]
        prior = array("d", [1 / vocab_size] * vocab_size)
        for level in (*reversed(levels), sums):
            prior = smoothed(level, prior, vocab_size)
        return prior


def fold(numbers: array[float], size: int) -> array[float]:
    """Return the sum of all blocks of this size."""
    return array("d", [math.fsum(numbers[i::size]) for i in range(size)])


def smoothed(sums: array[float], prior: array[float], vocab_size: int) -> array[float]:
    """Return p of sums, in which `prior` counts as much as TRUST tokens."""
    found = array("d")
    for begin in range(0, len(sums), vocab_size):
        row, place = sums[begin : begin + vocab_size], begin % len(prior)
        scale = 1 / (math.fsum(row) + TRUST)
        shorter = prior[place : place + vocab_size]
        found.extend([(s + TRUST * p) * scale for s, p in zip(row, shorter, strict=True)])
    return found


def start_context(bos: int, vocab_size: int, num_contexts: int) -> int:
    """Return the context in which only BOS has been read."""
    context, power = 0, 1
    while power < num_contexts:
        context, power = context * vocab_size + bos, power * vocab_size
    return context


def look_ahead(trellis: Trellis, p: array[float], num_contexts: int) -> array[float]:
    """Return the `chances` of a Guide for an n-gram."""
    vocab_size = trellis.vocab_size
    chances = library.zeros(len(trellis) * num_contexts)
    if not library.why_not():
        error = library.exact("look_ahead")(
            *(vocab_size, trellis.bos, len(trellis), address(trellis.positions, "i")),
            *(address(trellis.next, "i"), address(trellis.ends)),
            *(len(p) // vocab_size // num_contexts, num_contexts, address(p), address(chances)),
        )
        library.raise_for(error)
        return chances
    for node in range(len(trellis) - 1, -1, -1):
        following = [(v, after) for v, after in enumerate(trellis.after(node)) if after >= 0]
        ends = trellis.ends[node]
        for context in range(num_contexts):
            chance = 1.0 if ends == FULL else 0.0
            if ends != FULL:
                begin = (trellis.positions[node] * num_contexts + context) * vocab_size
                row = p[begin : begin + vocab_size]
                chance = row[trellis.bos] if ends else 0.0
                for v, after in following:
                    place = after * num_contexts + (context * vocab_size + v) % num_contexts
                    chance += row[v] * chances[place]
            chances[node * num_contexts + context] = chance
    return chances


def order_for(trellis: Trellis) -> int:
    """Return the order of the n-gram: the highest that is not too much work."""
    work = MAX_WORK_SLOW if library.why_not() else MAX_WORK
    order = MAX_ORDER
    while order > 1:
        contexts = trellis.vocab_size ** (order - 1)
        nodes = len(trellis)
        if (
            contexts * trellis.vocab_size * trellis.room <= MAX_TABLE
            and contexts * nodes <= MAX_ENTRIES
            and contexts * nodes * trellis.vocab_size <= work
        ):
            break
        order -= 1
    return order


# ---- sampling


def guided_documents(
    model: LanguageModel,
    request: SampleRequest,
    guide: Guide,
    truncate: Truncate | None = None,
    counts: ExpectedCounts | None = None,
) -> tuple[PackedBatch, array[float]]:
    """Return `request.n` candidates without BOS, and their weights. Those of weight 0 do not fit.

    Args:
        counts: learns from the candidates.
    """
    gpt = model.gpt if isinstance(model, BlendedModel) else model
    table = model.table if isinstance(model, BlendedModel) else None
    fused = isinstance(gpt, NativeEngine) and (table is not None or gpt is model)
    if fused and not (truncate or request.prompt_tokens or request.excluded):
        return gpt.sample_guided(
            *(request.n, request.temperature, request.seed, request.bos, request.first),
            *(guide.trellis.positions, guide.trellis.next, guide.trellis.ends),
            *(guide.num_contexts, guide.chances),
            counts=counts.sums if counts else None,
            ngram=table,
            weight=model.weight if isinstance(model, BlendedModel) else 1.0,
        )
    documents, weights = [], array("d")
    for number in range(request.first, request.first + request.n):
        document, weight = guided_document(model, request, guide, number, truncate, counts)
        documents.append(document)
        weights.append(weight)
    return pack_sequences(documents), weights


def guided_document(
    model: LanguageModel,
    request: SampleRequest,
    guide: Guide,
    number: int,
    truncate: Truncate | None = None,
    counts: ExpectedCounts | None = None,
) -> tuple[list[int], float]:
    """Return the tokens and the weight of one candidate."""
    trellis, chances, num_contexts = guide.trellis, guide.chances, guide.num_contexts
    vocab_size, bos = trellis.vocab_size, request.bos
    node, context = 0, start_context(bos, vocab_size, num_contexts)
    weight = 1.0
    tokens: list[int] = []
    decoder, token = prefill(model, bos, request.prompt_tokens), (bos, *request.prompt_tokens)[-1]
    while trellis.ends[node] != FULL:
        logits = decoder.push(token)
        p = allowed_probabilities(logits, request)
        if counts:
            counts.add(len(tokens), context, p)
        after = trellis.after(node)
        fitting = [v for v in range(vocab_size) if after[v] >= 0 or (v == bos and trellis.ends[node])]
        factor = 1.0
        if truncate:
            before = math.fsum([p[v] for v in fitting])
            fitting = truncate(logits, fitting)
            kept = math.fsum([p[v] for v in fitting])
            factor = before / kept if kept else 0.0
        ahead = [
            1.0
            if v == bos
            else chances[after[v] * num_contexts + (context * vocab_size + v) % num_contexts]
            for v in fitting
        ]
        running = list(accumulate([p[v] * chance for v, chance in zip(fitting, ahead, strict=True)]))
        total = running[-1] if running else 0.0
        if not total:
            return tokens, 0.0
        weight *= factor * total / chances[node * num_contexts + context]
        u = uniform(request.seed, number, len(tokens))
        token = fitting[bisect(running, u * total, 0, len(running) - 1)]
        if token == bos:
            break
        tokens.append(token)
        node, context = after[token], (context * vocab_size + token) % num_contexts
    return tokens, weight


def allowed_probabilities(logits: Sequence[float], request: SampleRequest) -> list[float]:
    """Return p (V) of each token at the temperature, 0 for those excluded."""
    if not request.excluded:
        return probabilities(logits, request.temperature)
    stay = [token for token in range(len(logits)) if token not in request.excluded]
    found = [0.0] * len(logits)
    shares = probabilities([logits[token] for token in stay], request.temperature)
    for token, share in zip(stay, shares, strict=True):
        found[token] = share
    return found


# ---- preparing


def survey(
    model: LanguageModel, request: SampleRequest, everything: Trellis, order: int, n: int
) -> ExpectedCounts:
    """Return the n-gram of a model, from n samples without conditions.

    everything: the trellis of all documents.
    """
    counts = ExpectedCounts(everything.vocab_size, model.config.block_size, order)
    chances = array("d", [1.0]) * (len(everything) * counts.num_contexts)
    guide = Guide(everything, counts.num_contexts, chances)
    guided_documents(model, pilot_request(request, 0, n), guide, None, counts)
    return counts


def pilot_request(request: SampleRequest, number: int, n: int) -> SampleRequest:
    return SampleRequest(
        *(n, request.temperature, SEED + number, request.bos, 0),
        *(request.prompt_tokens, request.excluded),
    )


def tuned_guide(
    model: LanguageModel,
    request: SampleRequest,
    trellis: Trellis,
    counts: ExpectedCounts,
    truncate: Truncate | None,
    n: int,
) -> tuple[Guide, float]:
    """Return a guide whose n-gram has also learned from candidates, and the share that it keeps.

    n: candidates of each round.
    """
    for number in range(1, ROUNDS + 1):
        chances = look_ahead(trellis, counts.probabilities(), counts.num_contexts)
        guide = Guide(trellis, counts.num_contexts, chances)
        sample = pilot_request(request, number, n)
        _, weights = guided_documents(model, sample, guide, truncate, counts)
        limit = limit_of(weights)
        kept = math.fsum([min(1.0, weight / limit) for weight in weights]) / n
        if kept >= GOOD:
            break
    return Guide(trellis, guide.num_contexts, guide.chances, limit), kept


def limit_of(weights: Sequence[float]) -> float:
    """Return the smallest of the weights above which lies at most SURPLUS of their sum."""
    ordered = sorted(weights, reverse=True)
    allowed, above = SURPLUS * math.fsum(weights), 0.0  # above: the sum of what exceeds the limit
    limit = ordered[0]
    for number, weight in enumerate(ordered[1:], 1):
        above += number * (limit - weight)
        if above > allowed or not weight:
            break
        limit = weight
    return limit or 1.0


def num_copies(weight: float, limit: float, u: float) -> int:
    """Return how many samples a candidate is: weight / limit on average."""
    whole = math.floor(weight / limit)
    return whole + (u < weight / limit - whole)
