"""Sampling under conditions: each token is chosen with an eye on what it makes possible.

A `Trellis` has the states of the conditions after each number of tokens. A small n-gram imitates
the model. From it, `look_ahead` computes for each place in the trellis the chance that a document
will fulfil the conditions after it. The sampler multiplies the model's probabilities by these
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
from bisect import bisect, bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from heapq import heappop, heappush
from itertools import accumulate, pairwise
from typing import NamedTuple

from kamon.engines.batch import UTF_32, PackedBatch, pack_sequences
from kamon.engines.native import GuideArrays, NativeEngine
from kamon.engines.philox import uniform, uniforms
from kamon.generation.automaton import AnyAutomaton, TooLarge
from kamon.generation.blend import BlendedModel
from kamon.generation.given import GivenModel
from kamon.generation.sampling import (
    LanguageModel,
    PrefixCache,
    SampleRequest,
    allowed,
    drawn,
    log_sum_exp,
    prefill,
    probabilities,
)
from kamon.native import library
from kamon.native.library import address
from kamon.tokenizers.base import Tokenizer

MAY_END, FULL = 1, 2
MAX_ENTRIES = 1 << 22  # of a table: nodes times tokens
MAX_WORK = 1 << 26  # multiplications of a look-ahead: chances times tokens
MAX_WORK_SLOW = 1 << 20  # without the native library
MAX_SUMS = 1 << 20  # contexts times tokens
LENGTH = 5  # tokens of a context
MIN_VISITS = 3  # of a context that is told apart from the shorter one
TRUST = 1.0  # how many tokens after a context count as much as its prior
PILOT_SEED = 0xC0FFEE_5EED  # of the candidates that are not samples
ROUNDS = 4  # of candidates at most, from which a guide learns
MAX_READS = 20_000  # tokens that the search for the most probable document reads
MAX_EXPANSIONS = 1e7  # tokens that might follow these
GOOD = 0.5  # share of candidates kept that needs no other round

Candidates = Iterator[tuple[str, int, int]]  # text, number of tokens, how many samples it is


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
        chances: of each node and each context of its position, that a document which is there
            fulfils the conditions.
        limit: a candidate of this weight is one sample.
    """

    arrays: GuideArrays
    chances: array[float]
    limit: float = 1.0

    @property
    def share(self) -> float:
        """The share of all documents that fulfil the conditions, according to the n-gram."""
        return self.chances[0]


class Stage(NamedTuple):
    """How good a guide must be, and up to which candidate it is used.

    Attributes:
        n: candidates of a round, from which it learns.
        surplus: the share of the weights that may lie above the limit. A candidate above it can be
            several samples.
        end: the number of the first candidate that needs the next stage.
    """

    n: int
    surplus: float
    end: int


STAGES = (Stage(500, 0.01, 5_000), Stage(8000, 0.05, 1 << 40))


# ---- the trellis


Step = tuple[str, bytes, tuple[int, ...]] | None  # see `TokenStates.step`


class TokenStates:
    """The states of an automaton after tokens, which may end within a character.

    A state is that of the automaton, and the bytes of an unfinished character. To keep them few,
    only characters of the conditions and of `chars` may be spread over several tokens.
    """

    def __init__(self, automaton: AnyAutomaton, tokenizer: Tokenizer, chars: Iterable[str]) -> None:
        self.automaton = automaton
        self.tokenizer = tokenizer
        self.states: list[tuple[int, tuple[int, ...]]] = [(0, ())]
        self.numbers = {(0, b""): 0}
        self.special = set(tokenizer.special.values())
        spread = [char.encode() for char in {*chars, *automaton.literals}]
        self.begins = {char[:size] for char in spread for size in range(len(char))}
        self.steps: dict[tuple[int, ...], list[Step]] = {}

    def step(self, rest: tuple[int, ...], token: int) -> tuple[str, bytes, tuple[int, ...]] | None:
        """Return the characters that a token completes, and what it leaves unfinished.

        rest: the tokens with the bytes of an unfinished character. The last result is the new rest.
        """
        if token in self.special:
            return None
        tokens = (*rest, token)
        unfinished = self.tokenizer.unfinished(tokens)
        if unfinished is None or unfinished not in self.begins | {b""}:
            return None
        known = max(0, len(self.tokenizer.decode(rest)) - 1)  # characters before that one
        text = self.tokenizer.decode(tokens)[known:]
        return (text[:-1], unfinished, tokens) if unfinished else (text, b"", ())

    def row(self, number: int) -> list[int]:
        """Return the number of the state after each token, −1 if there is plainly none."""
        state, rest = self.states[number]
        if rest not in self.steps:
            tokens_of_vocabulary = range(self.tokenizer.vocab_size)
            self.steps[rest] = [self.step(rest, token) for token in tokens_of_vocabulary]
        found = []
        for reached in self.steps[rest]:
            after = -1
            if reached:
                text, unfinished, tokens = reached
                following = self.automaton.after(state, text)
                if not self.automaton.is_dead(following):
                    key = following, unfinished
                    after = self.numbers.setdefault(key, len(self.states))
                    if after == len(self.states):
                        self.states.append((following, tokens))
            found.append(after)
        return found

    def accepts(self, number: int) -> bool:
        state, rest = self.states[number]
        return not rest and self.automaton.accepts(state)


def unroll(
    automaton: AnyAutomaton, tokenizer: Tokenizer, room: int, chars: Iterable[str] = ()
) -> Trellis | None:
    """Return the trellis of documents of at most `room` tokens. None if none is accepted.

    chars: see TokenStates.

    Raises: TooLarge.
    """
    states = TokenStates(automaton, tokenizer, chars)
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
            raise TooLarge
    return Trellis(vocab_size, tokenizer.bos, room, positions, next_nodes, ends)


def explore(states: TokenStates, room: int) -> list[list[int]]:
    """Return the rows of all states that up to `room` tokens reach."""
    rows: list[list[int]] = []
    for _ in range(room + 1):
        end = len(states.states)
        if len(rows) == end:
            break
        if end * states.tokenizer.vocab_size > MAX_ENTRIES:
            raise TooLarge
        rows.extend(states.row(number) for number in range(len(rows), end))
    rows.extend([-1] * states.tokenizer.vocab_size for _ in range(len(rows), len(states.states)))
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


class Contexts:
    """An n-gram that learns from the probabilities of a model, not only from the tokens sampled.

    A context is a position in the document, which is the number of tokens before it, and up to
    LENGTH of the last tokens. Those that occurred often enough are told apart. The same tokens at
    any position are a context, too, of position −1, for what single positions know too little of.

    Attributes:
        keys: of each context, its position + 1 and its tokens as code points. Position −1 comes
            last.
        after: [context][token], the context after a token.
        sums: [context][token], the sums of p of a token over all documents sampled of which this
            was the longest context.
    """

    def __init__(self, vocab_size: int, room: int, most: int = MAX_SUMS) -> None:
        """Begin without any tokens. most: contexts, besides those of no tokens."""
        self.vocab_size = vocab_size
        self.room = room
        self.most = min(most, MAX_SUMS // vocab_size // 2)
        self.visits: Counter[str] = Counter()
        self.keys: list[str] = []
        self.sums = array("d")
        self.learn(PackedBatch(array("i"), array("q", [0])))

    def learn(self, documents: PackedBatch) -> None:
        """Choose the contexts again, after these documents without BOS, which were sampled."""
        codes = documents.tokens.tobytes().decode(UTF_32, "surrogatepass")
        places = [
            (chr(end - begin + 1), end)
            for begin, stop in pairwise(documents.offsets)
            for end in range(begin, min(stop, begin + self.room - 1) + 1)
        ]
        for size in range(1, LENGTH + 1):
            self.visits.update(
                [mark + codes[end - size : end] for mark, end in places if ord(mark) > size]
            )
        old, sums, vocab_size = self.keys, self.sums, self.vocab_size
        self._choose()
        for number, key in enumerate(old):
            if key[0] == "\0":
                break
            begin = number * vocab_size
            if key in self.numbers:
                new = self.numbers[key] * vocab_size
                self.sums[new : new + vocab_size] = sums[begin : begin + vocab_size]

    def _choose(self) -> None:
        least = MIN_VISITS
        if len(self.visits) > self.most:
            least = max(least, sorted(self.visits.values())[-self.most - 1] + 1)
        chosen = {key for key, visits in self.visits.items() if visits >= least}
        chosen.update(chr(position + 1) for position in range(self.room + 1))
        timeless = {"\0" + key[1:] for key in chosen}
        ordered = sorted(chosen, key=lambda key: (key[0], len(key), key))
        self.keys = [*ordered, *sorted(timeless, key=lambda key: (len(key), key))]
        self.numbers = {key: number for number, key in enumerate(self.keys)}
        self.sums = library.zeros(len(self.keys) * self.vocab_size)
        marks = [key[0] for key in ordered]
        firsts = [bisect_left(marks, chr(position + 1)) for position in range(self.room + 2)]
        self.first_contexts = array("q", firsts)
        self.after = self._after(ordered)

    def _after(self, keys: Sequence[str]) -> array[int]:
        extended: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, key in enumerate(keys):
            if len(key) > 1:
                extended[chr(ord(key[0]) - 1) + key[1:-1]].append((ord(key[-1]), number))
        after = array("i")
        vocab_size, numbers = self.vocab_size, self.numbers
        for key in keys:
            if len(key) > 1:
                shorter = numbers[key[0] + key[2:]] * vocab_size
                row = after[shorter : shorter + vocab_size]
            else:
                row = array("i", [numbers.get(chr(ord(key) + 1), -1)]) * vocab_size
            for token, longer in extended[key]:
                row[token] = longer
            after.extend(row)
        return after

    def probabilities(self) -> array[float]:
        """Return p, [context][token].

        That of a context which was rarely seen is close to that at all positions, and this to that
        of the shorter one.
        """
        vocab_size, numbers, sums = self.vocab_size, self.numbers, self.sums[:]
        keys, num = self.keys, self.first_contexts[-1]
        shorter = array("i", [numbers.get(key[:1] + key[2:], -1) for key in keys])
        for number in (*self.first_contexts[:-1], num):  # those without tokens
            shorter[number] = -1
        timeless = array("i", [numbers["\0" + key[1:]] for key in keys[:num]])
        timeless.extend([-1] * (len(keys) - num))
        p = library.zeros(len(sums))
        if not library.why_not():
            error = library.exact("smooth")(
                *(vocab_size, len(self.keys), address(shorter), address(timeless)),
                *(TRUST, address(sums), address(p)),
            )
            library.raise_for(error)
            return p
        for context in reversed(range(num)):
            for other in (shorter[context], timeless[context]):
                for v in range(vocab_size if other >= 0 else 0):
                    sums[other * vocab_size + v] += sums[context * vocab_size + v]
        for context in (*range(num, len(self.keys)), *range(num)):
            prior = shorter[context] if context >= num else timeless[context]
            begin = context * vocab_size
            scale = 1 / (math.fsum(sums[begin : begin + vocab_size]) + TRUST)
            for v in range(vocab_size):
                expected = p[prior * vocab_size + v] if prior >= 0 else 1 / vocab_size
                p[begin + v] = (sums[begin + v] + TRUST * expected) * scale
        return p


def make_guide(trellis: Trellis, contexts: Contexts) -> Guide:
    """Return the guide to the documents of a trellis, with the chances that the n-gram gives."""
    firsts = contexts.first_contexts
    sizes = [firsts[position + 1] - firsts[position] for position in trellis.positions]
    arrays = GuideArrays(
        *(trellis.vocab_size, trellis.bos, trellis.room),
        *(trellis.positions, trellis.next, trellis.ends),
        *(firsts, contexts.after, array("q", accumulate(sizes, initial=0))),
    )
    return Guide(arrays, look_ahead(arrays, contexts.probabilities()))


def look_ahead(guide: GuideArrays, p: array[float]) -> array[float]:
    """Return the `chances` of a Guide for an n-gram."""
    vocab_size, begins, firsts = guide.vocab_size, guide.begins, guide.first_contexts
    chances = library.zeros(begins[-1])
    if not library.why_not():
        error = library.exact("look_ahead")(
            *(*guide.arguments(), len(chances), address(p, "d"), address(chances))
        )
        library.raise_for(error)
        return chances
    for node in range(len(guide.ends) - 1, -1, -1):
        position, ends = guide.positions[node], guide.ends[node]
        row = guide.next_nodes[node * vocab_size : (node + 1) * vocab_size]
        following = [(v, after) for v, after in enumerate(row) if after >= 0]
        for context in range(firsts[position], firsts[position + 1]):
            first = context * vocab_size
            chance = 1.0 if ends == FULL else p[first + guide.bos] if ends else 0.0
            for v, after in following:
                place = begins[after] + guide.after[first + v] - firsts[position + 1]
                chance += p[first + v] * chances[place]
            chances[begins[node] + context - firsts[position]] = chance
    return chances


# ---- sampling


def guided_documents(
    model: LanguageModel,
    request: SampleRequest,
    guide: Guide,
    contexts: Contexts | None = None,
) -> tuple[PackedBatch, array[float]]:
    """Return `request.n` candidates without BOS, and their weights. Those of weight 0 do not fit.

    Args:
        contexts: learns from the candidates.
    """
    if not (request.prompt_tokens or request.excluded):
        limits = request.top_k, request.top_p
        seeded = request.temperature, request.seed, request.first, *limits
        guided = *seeded, guide.arrays, guide.chances
        counts = contexts.sums if contexts else None
        if isinstance(model, NativeEngine):
            return model.sample_guided(request.n, *guided, counts=counts)
        if isinstance(model, BlendedModel) and model.is_native:
            assert isinstance(model.gpt, NativeEngine)
            parts = [model.part(request.bos)]
            return model.gpt.sample_guided(request.n, *guided, counts=counts, parts=parts)
        if isinstance(model, GivenModel) and model.is_native:
            return model.in_groups(
                *(request.n, request.seed, request.first),
                lambda gpt, numbers, parts: gpt.sample_guided(
                    len(numbers), *guided, counts=counts, parts=parts, numbers=numbers
                ),
            )
    documents, weights = [], array("d")
    for number in range(request.first, request.first + request.n):
        document, weight = guided_document(model, request, guide, number, contexts)
        documents.append(document)
        weights.append(weight)
    return pack_sequences(documents), weights


def guided_document(
    model: LanguageModel,
    request: SampleRequest,
    guide: Guide,
    number: int,
    contexts: Contexts | None = None,
) -> tuple[list[int], float]:
    """Return the tokens and the weight of one candidate."""
    arrays, chances, bos = guide.arrays, guide.chances, request.bos
    vocab_size, firsts = arrays.vocab_size, arrays.first_contexts
    node, context, weight = 0, 0, 1.0
    tokens: list[int] = []
    decoder = prefill(drawn(model, request, number), bos, request.prompt_tokens)
    token = (bos, *request.prompt_tokens)[-1]
    while arrays.ends[node] != FULL:
        logits = decoder.push(token)
        p = allowed_probabilities(logits, request)
        first = context * vocab_size
        if contexts:
            for v in range(vocab_size):
                contexts.sums[first + v] += p[v]
        after = arrays.next_nodes[node * vocab_size : (node + 1) * vocab_size]
        fitting = [v for v, each in enumerate(after) if each >= 0]
        if arrays.ends[node]:
            insort(fitting, bos)
        factor = 1.0
        if request.truncates:  # the tokens that stay take over the probability of the others
            before = math.fsum([p[v] for v in fitting])
            fitting = allowed(logits, fitting, request.temperature, request.top_k, request.top_p)
            kept = math.fsum([p[v] for v in fitting])
            factor = before / kept if kept else 0.0
        ahead = partial(chance_after, guide, len(tokens), context)
        shares = [p[v] * (1.0 if v == bos else ahead(v, after[v])) for v in fitting]
        running = list(accumulate(shares))
        total = running[-1] if running else 0.0
        if not total:
            return tokens, 0.0
        weight *= factor * total / chances[arrays.begins[node] + context - firsts[len(tokens)]]
        u = uniform(request.seed, number, len(tokens))
        token = fitting[bisect(running, u * total, 0, len(running) - 1)]
        if token == bos:
            break
        tokens.append(token)
        node, context = after[token], arrays.after[first + token]
    return tokens, weight


def chance_after(guide: Guide, position: int, context: int, token: int, node: int) -> float:
    """Return the chance of `node` after a token that follows a context at a position."""
    arrays = guide.arrays
    reached = arrays.after[context * arrays.vocab_size + token]
    return guide.chances[arrays.begins[node] + reached - arrays.first_contexts[position + 1]]


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
    model: LanguageModel, request: SampleRequest, everything: Trellis, trellis: Trellis
) -> Contexts:
    """Return the n-gram of a model, from `request.n` samples without conditions.

    Args:
        everything: the trellis of all documents.
        trellis: that of the conditions.
    """
    contexts = Contexts(trellis.vocab_size, trellis.room, max_contexts(trellis))
    for number in (0, 1):  # the first to choose the contexts
        guide = make_guide(everything, contexts)
        some = pilot(request, number, request.n)
        docs, _ = guided_documents(model, some, guide, contexts)
        if number == 0:
            contexts.learn(docs)
    return contexts


def max_contexts(trellis: Trellis) -> int:
    """Return how many contexts do not make the look-ahead of a trellis too much work."""
    widest = max(Counter(trellis.positions).values())
    work = MAX_WORK_SLOW if library.why_not() else MAX_WORK
    return work // trellis.vocab_size // widest


def pilot(request: SampleRequest, number: int, n: int) -> SampleRequest:
    """Return a request of n candidates that do not depend on those of the samples."""
    return replace(request, n=n, first=0, seed=PILOT_SEED + number)


def tuned_guide(
    model: LanguageModel,
    request: SampleRequest,
    trellis: Trellis,
    contexts: Contexts,
    stage: Stage,
    first_round: int,
) -> Guide:
    """Return a guide whose n-gram has also learned from candidates."""
    docs: PackedBatch | None = None
    for number in range(first_round, first_round + ROUNDS):
        if docs:
            contexts.learn(docs)
        guide = make_guide(trellis, contexts)
        some = pilot(request, number, stage.n)
        docs, weights = guided_documents(model, some, guide, contexts)
        limit = limit_of(weights, stage.surplus)
        if math.fsum([min(limit, weight) for weight in weights]) >= GOOD * stage.n * limit:
            break
    return replace(guide, limit=limit)


def limit_of(weights: Sequence[float], surplus: float) -> float:
    """Return the smallest of the weights above which lies at most this share of their sum.

    It is 0 if all of them are.
    """
    ordered = sorted(weights, reverse=True)
    allowed, above = surplus * math.fsum(weights), 0.0  # above: the sum of what exceeds the limit
    limit = ordered[0]
    for number, weight in enumerate(ordered[1:], 1):
        above += number * (limit - weight)
        if above > allowed or not weight:
            break
        limit = weight
    return limit


def guided_candidates(
    model: LanguageModel,
    tokenizer: Tokenizer,
    request: SampleRequest,
    guides: Iterable[tuple[Guide, int]],
    at_once: int,
) -> Candidates:
    """Yield all candidates, made `at_once` at most.

    guides: each with the number of the candidate before which it ends.
    """
    done, size = 0, max(200, 2 * request.n)
    for guide, end in guides:
        while done < end:
            size = min(size, end - done, at_once)
            some = replace(request, n=size, first=done)
            docs, weights = guided_documents(model, some, guide)
            texts = tokenizer.decode_documents(docs)
            draws = uniforms(request.seed, done, size, model.config.block_size)
            for i, text in enumerate(texts):
                share = weights[i] / guide.limit
                times = int(share) + (draws[i] < share - int(share))
                yield text, docs.offsets[i + 1] - docs.offsets[i], times
            done, size = done + size, 4 * size


def guides_for(
    model: LanguageModel,
    request: SampleRequest,
    trellis: Trellis,
    contexts: Contexts,
    effort: float,
) -> Iterator[tuple[Guide, int]]:
    """Yield guides, each with the number of the candidate before which it ends.

    Many samples are worth a better guide, unless the model is slow.

    effort: how many of the usual candidates to learn from.
    """
    stages = STAGES if effort == 1 else (STAGES[-1]._replace(n=STAGES[0].n),)
    for number, stage in enumerate(stages):
        first_round = 2 + number * ROUNDS  # after those of the survey
        stage = stage._replace(n=max(10, int(effort * stage.n)))
        yield tuned_guide(model, request, trellis, contexts, stage, first_round), stage.end


def most_probable(
    model: LanguageModel,
    tokenizer: Tokenizer,
    request: SampleRequest,
    guide: Guide,
    fits: Callable[[str], bool],
    known: Collection[str],
    effort: float,
) -> tuple[str, int, int]:
    """Return the most probable document that fits and is not known, as a candidate.

    The search reads the most promising beginning first. It misses the best document only if the
    n-gram takes too little for the chance of an end, or after MAX_READS. Temperature 0 counts as 1.

    guide: with the chances at temperature 1.
    """
    arrays, bos = guide.arrays, request.bos
    scale = 1 / (request.temperature or 1.0)
    stay = [v for v in range(arrays.vocab_size) if v not in request.excluded]
    prefixes = PrefixCache(model, bos, request.prompt_tokens)
    most = min(effort * MAX_READS, MAX_EXPANSIONS / arrays.vocab_size)
    # −log p with the chance of the rest, −log p, tokens, node, context, and whether it has ended
    heap: list[tuple[float, float, tuple[int, ...], int, int, bool]] = [(0, 0, (), 0, 0, False)]
    while heap:
        _, cost, tokens, node, context, ended = heappop(heap)
        if prefixes.reads >= most:
            heap.clear()  # it compares no more, but finishes this document
        if ended or arrays.ends[node] == FULL:
            text = tokenizer.normal(tokenizer.decode(tokens))
            if fits(text) and text not in known:
                return text, len(tokens), 1
            continue
        logits = [scale * logit for logit in prefixes.logits(tokens)]
        base = cost + log_sum_exp([logits[v] for v in stay])
        if arrays.ends[node]:
            own = base - logits[bos]
            heappush(heap, (own, own, tokens, node, context, True))
        for v in stay:
            after = arrays.next_nodes[node * arrays.vocab_size + v]
            if after >= 0:
                chance = chance_after(guide, len(tokens), context, v, after)
                promise = base - logits[v] - scale * math.log(chance)
                reached = arrays.after[context * arrays.vocab_size + v]
                heappush(heap, (promise, base - logits[v], (*tokens, v), after, reached, False))
    return "", 0, 0


def every_document(
    model: LanguageModel, tokenizer: Tokenizer, request: SampleRequest, trellis: Trellis
) -> Candidates:
    """Yield each document of a trellis once, as a candidate, in a random order.

    Each is the next one with its share of the probability of those left. So this is sampling
    without repetition. A document arrives at an exponential time with the rate p.
    """
    bos, scale = request.bos, 1 / request.temperature
    stay = [v for v in range(trellis.vocab_size) if v not in request.excluded]
    prefixes = PrefixCache(model, bos, request.prompt_tokens)
    arrivals: list[tuple[float, tuple[int, ...]]] = []  # log of the time, tokens

    def arrive(tokens: tuple[int, ...], logprob: float) -> None:
        time = -math.log1p(-uniform(request.seed, len(arrivals), 0))
        arrivals.append((math.log(time) - logprob if time else -math.inf, tokens))

    left: list[tuple[tuple[int, ...], int, float]] = [((), 0, 0.0)]
    while left:
        tokens, node, logprob = left.pop()
        if trellis.ends[node] == FULL:
            arrive(tokens, logprob)
            continue
        logits = [scale * logit for logit in prefixes.logits(tokens)]
        base = log_sum_exp([logits[v] for v in stay]) - logprob
        if trellis.ends[node]:
            arrive(tokens, logits[bos] - base)
        after = trellis.after(node)
        left.extend(((*tokens, v), after[v], logits[v] - base) for v in stay if after[v] >= 0)
    for _, tokens in sorted(arrivals):
        yield tokenizer.normal(tokenizer.decode(tokens)), len(tokens), 1
