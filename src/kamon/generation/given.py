"""A GPT and n-grams under given values, such as country=fi: one model for each class of a table.

A class is a combination of values, one for each given column. The GPT reads the tokens of these
values instead of BOS. Each class has n-grams of the rows of the class, of the rows with one of its
values, and of all rows. The GPT is blended with a mixture of these n-grams.

If only some columns are given, the model is the mixture of all classes that fit, each with its
share of the rows. By Bayes' rule, the tokens so far change how likely each class is. If a column
has several values, such as country=fi:0.5,jp:0.5, each token is sampled from the weighted mean of
their distributions.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice, pairwise, product
from typing import TypeAlias

from kamon.config import Config, listed, suggestion
from kamon.data.columns import Row
from kamon.engines.base import Engine
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.engines.native import NativeEngine, SamplePart
from kamon.engines.philox import uniforms
from kamon.errors import ConfigError
from kamon.generation.blend import MIN_P, mix_logprobs
from kamon.generation.sampling import SampleRequest, log_sum_exp, sample_one_by_one
from kamon.native.library import zeros
from kamon.ngrams.native import NativeNgram, count_ngram
from kamon.ngrams.reference import Ngram
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.char import CharTokenizer

Values: TypeAlias = tuple[str, ...]
Given: TypeAlias = "str | Mapping[str, str | Mapping[str, float]]"


def token_name(column: str, value: str) -> str:
    """Return the name of the special token of a given value."""
    return f"{column}={value}"


def counts_of(rows: Sequence[Row]) -> list[float]:
    """Return how often each row counts: 1 + log₂ of its weight, relative to the smallest weight.

    So a name of 1,000 births counts about 11 times as often as a name of one, not 1,000 times.

    >>> counts_of([Row("emma", ("f",), 400.0), Row("zoe", ("f",), 100.0)])
    [3.0, 1.0]
    """
    smallest = min(row.weight for row in rows)
    return [1 + math.log2(row.weight / smallest) for row in rows]


@dataclass(frozen=True)
class ClassNgram:
    """The n-grams that know a class, mixed: p = Σ share · p of an n-gram.

    It has a vocabulary of the characters and BOS. Special tokens have probability 0.

    Attributes:
        parts: the n-grams, that of all rows first.
        shares: of the parts. They add up to 1.
    """

    config: Config
    parts: tuple[Ngram | NativeNgram, ...]
    shares: tuple[float, ...]

    @property
    def order(self) -> int:
        return max(part.order for part in self.parts)

    def probabilities(self, context: Sequence[int]) -> list[float]:
        """Return p (V,) of each token after `context`, which begins with BOS."""
        mixed = [0.0] * self.config.vocab_size
        for share, part in zip(self.shares, self.parts, strict=True):
            for token, p in enumerate(part.probabilities(context)):
                mixed[token] += share * p
        return mixed

    def logprobs(self, batch: PackedBatch) -> array[float]:
        """Return log p of every target in nats, document by document."""
        return mix_all([part.logprobs(batch) for part in self.parts], self.shares)


def mix_all(logprobs: Sequence[array[float]], shares: Sequence[float]) -> array[float]:
    """Return log Σ share · eˣ for the numbers x of each place."""
    mixed, total = logprobs[0], shares[0]
    for other, share in zip(logprobs[1:], shares[1:], strict=True):
        total += share
        if share:
            mixed = mix_logprobs(mixed, other, 1 - share / total)
    return mixed


@dataclass(frozen=True, eq=False)
class ClassModel:
    """A language model of one class. What sampling and scoring ask of an engine, it has.

    Attributes:
        before: the tokens of its values.
        ngram: None if the GPT is not blended.
        weight: of the GPT in the blend.
    """

    values: Values
    gpt: Engine
    before: tuple[int, ...]
    ngram: ClassNgram | None
    weight: float
    config: Config

    def decoder(self) -> ClassDecoder:
        """Return a decoder at the start of an entry, whose first token is BOS."""
        return ClassDecoder(self)

    @property
    def is_native(self) -> bool:
        """Whether the GPT and the n-grams are native."""
        ngrams = self.ngram.parts if self.ngram else ()
        native = all(isinstance(ngram, NativeNgram) for ngram in ngrams)
        return native and isinstance(self.gpt, NativeEngine)

    def sample_part(self, share: float) -> SamplePart:
        """Return the model as a part of a mixture, for the `sample` of a native GPT."""
        assert isinstance(self.gpt, NativeEngine)
        if self.ngram is None or self.weight == 1:
            return SamplePart(share, self.before)
        rest = 1 - self.weight
        tables = tuple(
            (ngram.table(self.gpt), rest * own)
            for own, ngram in zip(self.ngram.shares, self.ngram.parts, strict=True)
            if own and isinstance(ngram, NativeNgram)
        )
        return SamplePart(share, self.before, self.weight, tables)

    def mixing(self) -> Iterator[tuple[NativeNgram, float]]:
        """Yield the n-grams of the blend, each with the weight of all that were mixed before."""
        if self.ngram is None or self.weight == 1:
            return
        rest, total = 1 - self.weight, self.weight
        for share, ngram in zip(self.ngram.shares, self.ngram.parts, strict=True):
            assert isinstance(ngram, NativeNgram)
            if share:
                before, total = total, total + rest * share
                yield ngram, before / total

    def logprobs(self, batch: PackedBatch) -> array[float]:
        """Return log p of every target in nats, of documents that begin with BOS."""
        skipped = len(self.before) - 1
        read = pack_sequences([*self.before, *tokens[1:]] for tokens in batch)
        gpt = without_first(self.gpt.logprobs(read), read, skipped)
        if self.ngram is None:
            return gpt
        return mix_logprobs(gpt, self.ngram.logprobs(batch), self.weight)


def without_first(logprobs: array[float], batch: PackedBatch, skipped: int) -> array[float]:
    """Return the log-probabilities without those of the first targets of each document."""
    if not skipped:
        return logprobs
    kept, first = array("d"), 0
    for begin, end in pairwise(batch.offsets):
        size = max(0, end - begin - 1)
        kept.extend(logprobs[first + skipped : first + size])
        first += size
    return kept


class ClassDecoder:
    """One entry of a class, read token by token."""

    def __init__(self, model: ClassModel) -> None:
        self.model, self.gpt = model, model.gpt.decoder()
        self.tokens = array("i")

    def push(self, token: int) -> Sequence[float]:
        """Return log p (V,) of the token after this one. The first token is BOS."""
        model = self.model
        if self.tokens:
            logits = self.gpt.push(token)
        else:
            for value in model.before:
                logits = self.gpt.push(value)
        self.tokens.append(token)
        base = log_sum_exp(logits)  # of the tokens of values, too, as of `logprobs`
        logits = logits[: model.config.vocab_size]
        if model.ngram is None or model.weight == 1:
            return [logit - base for logit in logits]
        own, rest = model.weight, 1 - model.weight
        ngram = model.ngram.probabilities(self.tokens)
        return [
            math.log(max(own * math.exp(logit - base) + rest * p, MIN_P))
            for logit, p in zip(logits, ngram, strict=True)
        ]


def class_at(running: Sequence[float], u: float) -> int:
    """Return the first class whose running sum of shares passes u, from 0 to 1."""
    return bisect(running, u * running[-1], 0, len(running) - 1)


MakeGroup: TypeAlias = (
    "Callable[[NativeEngine, array[int], Sequence[SamplePart]], tuple[PackedBatch, array[float]]]"
)
Part: TypeAlias = "tuple[float, tuple[tuple[float, ClassModel], ...]]"


@dataclass(frozen=True, eq=False)
class GivenModel:
    """A language model under given values: a mixture of the models of classes.

    Attributes:
        parts: the share of each combination that the user has given, and the classes that fit it,
            with the share of each.
    """

    config: Config
    parts: tuple[Part, ...]

    def decoder(self) -> GivenDecoder:
        """Return a decoder at the start of an entry."""
        return GivenDecoder(self)

    @property
    def num_models(self) -> int:
        """The number of classes that a decoder reads."""
        return sum(len(classes) for _, classes in self.parts)

    @property
    def num_groups(self) -> int:
        """The number of ways in which the classes of a sample can be drawn."""
        return math.prod(len(classes) for _, classes in self.parts)

    @property
    def is_native(self) -> bool:
        """Whether the GPT and all n-grams are native. It then samples fast."""
        return all(model.is_native for _, classes in self.parts for _, model in classes)

    def sample(
        self, n: int, temperature: float, seed: int, bos: int, first: int = 0
    ) -> PackedBatch:
        """Return n documents, without BOS: see SampleRequest. Fast if all models are native."""
        if not self.is_native:
            return sample_one_by_one(self, SampleRequest(n, temperature, seed, bos, first))

        def make(
            gpt: NativeEngine, numbers: array[int], parts: Sequence[SamplePart]
        ) -> tuple[PackedBatch, array[float]]:
            found = gpt.sample(
                *(len(numbers), temperature, seed, bos),
                parts=parts,
                num_choices=self.config.vocab_size,
                numbers=numbers,
            )
            return found, zeros(len(numbers))

        return self.in_groups(n, seed, first, make)[0]

    def in_groups(
        self, n: int, seed: int, first: int, make: MakeGroup
    ) -> tuple[PackedBatch, array[float]]:
        """Return n documents and their weights, those of the same classes made together.

        make: makes the samples of these numbers.
        """
        groups: dict[tuple[int, ...], array[int]] = {}
        for number, classes in enumerate(self.drawn_classes(n, seed, first), first):
            groups.setdefault(classes, array("q")).append(number)
        made: list[tuple[PackedBatch, array[float]]] = []
        places = array("q", bytes(8 * n))  # of each document among those made
        place = 0
        for drawn, numbers in groups.items():
            models = [classes[i][1] for i, (_, classes) in zip(drawn, self.parts, strict=True)]
            shares = [share for share, _ in self.parts]
            parts = [m.sample_part(share) for m, share in zip(models, shares, strict=True)]
            gpt = models[0].gpt
            assert isinstance(gpt, NativeEngine)
            made.append(make(gpt, numbers, parts))
            for number in numbers:
                places[number - first] = place
                place += 1
        if len(made) == 1:
            return made[0]
        documents = pack_sequences(chain.from_iterable(batch for batch, _ in made))
        weights = array("d", chain.from_iterable(weights for _, weights in made))
        return documents.select(places), array("d", map(weights.__getitem__, places))

    def drawn_classes(self, n: int, seed: int, first: int) -> Iterable[tuple[int, ...]]:
        """Yield the number of the class in each part, for each of n samples: see `drawn`."""
        found = []
        for number, (_, classes) in enumerate(self.parts):
            if len(classes) == 1:
                found.append([0] * n)
                continue
            running = list(accumulate(share for share, _ in classes))
            draws = uniforms(seed, first, n, self.draw_of(number))
            found.append([class_at(running, u) for u in draws])
        return zip(*found, strict=True)

    def draw_of(self, number: int) -> int:
        """Return the position of the random number that decides the class of a part.

        That at block_size decides whether a candidate is kept.
        """
        return self.config.block_size + 1 + number

    def drawn(self, u: Callable[[int], float]) -> GivenModel:
        """Return the model with one class drawn for each part. Samples follow the same mixture.

        u: the random number of a position.
        """
        parts: list[Part] = []
        for number, (share, classes) in enumerate(self.parts):
            if len(classes) > 1:
                running = list(accumulate(share for share, _ in classes))
                chosen = class_at(running, u(self.draw_of(number)))
                classes = ((1.0, classes[chosen][1]),)
            parts.append((share, classes))
        return replace(self, parts=tuple(parts))

    def logprobs(self, batch: PackedBatch) -> array[float]:
        """Return log p of every target in nats, document by document."""
        mixed = [mixture_of_documents(classes, batch) for _, classes in self.parts]
        return mix_all(mixed, [share for share, _ in self.parts])


def mixture_of_documents(
    classes: Sequence[tuple[float, ClassModel]], batch: PackedBatch
) -> array[float]:
    """Return log p of every target if each document is of one of these classes."""
    found = [model.logprobs(batch) for _, model in classes]
    if len(found) == 1:
        return found[0]
    mixed, first = array("d"), 0
    start = [math.log(share) for share, _ in classes]
    for begin, end in pairwise(batch.offsets):
        logs, before = start, 0.0  # log p of the class and of what was read; log of their sum
        for place in range(first, first + max(0, end - begin - 1)):
            logs = [log + each[place] for log, each in zip(logs, found, strict=True)]
            after = log_sum_exp(logs)
            mixed.append(after - before)
            before = after
        first += max(0, end - begin - 1)
    return mixed


class GivenDecoder:
    """Reads one entry with all classes of a mixture."""

    def __init__(self, model: GivenModel) -> None:
        self.shares = [share for share, _ in model.parts]
        self.logs = [[math.log(share) for share, _ in classes] for _, classes in model.parts]
        models = [each for _, classes in model.parts for _, each in classes]
        self.readers = NativeReaders(models) if model.is_native else ClassReaders(models)
        self.found: list[list[Sequence[float]]] = []  # p of each token by each class

    def push(self, token: int) -> Sequence[float]:
        """Return log p (V,) of the token after this one."""
        if self.found:
            for logs, found in zip(self.logs, self.found, strict=True):
                after = [math.log(max(p[token], MIN_P)) for p in found]
                logs[:] = [log + x for log, x in zip(logs, after, strict=True)]
        rows = iter(self.readers.push(token))
        self.found = [list(islice(rows, len(logs))) for logs in self.logs]
        mixed = self.found[0][0]
        if len(self.found) > 1 or len(self.found[0]) > 1:
            mixed = [0.0] * len(mixed)
            for share, logs, found in zip(self.shares, self.logs, self.found, strict=True):
                base = log_sum_exp(logs)
                for log, probabilities in zip(logs, found, strict=True):
                    weight = share * math.exp(log - base)
                    mixed = [x + weight * p for x, p in zip(mixed, probabilities, strict=True)]
        return [math.log(max(p, MIN_P)) for p in mixed]


class ClassReaders:
    """The decoders of several classes, which read the same entry."""

    def __init__(self, models: Sequence[ClassModel]) -> None:
        self.decoders = [model.decoder() for model in models]

    def push(self, token: int) -> list[Sequence[float]]:
        """Return p (V,) of the token after this one, for each class."""
        return [list(map(math.exp, decoder.push(token))) for decoder in self.decoders]


class NativeReaders:
    """The same for native classes, whose GPT reads the entry for all of them at a time."""

    def __init__(self, models: Sequence[ClassModel]) -> None:
        self.vocab_size = models[0].config.vocab_size
        self.starts = [model.before for model in models]
        self.steps = [list(model.mixing()) for model in models]
        gpt = models[0].gpt
        assert isinstance(gpt, NativeEngine)
        self.gpt = gpt.branches()
        self.num_read = 0  # nodes of `gpt`
        self.tokens = array("i")

    def push(self, token: int) -> list[Sequence[float]]:
        """Return p (V,) of the token after this one, for each class."""
        if self.tokens:
            rows = self.read([token] * len(self.starts))
        else:
            for values in zip(*self.starts, strict=True):
                rows = self.read(values)
        self.tokens.append(token)
        found: list[Sequence[float]] = []
        for row, steps in zip(rows, self.steps, strict=True):
            p = row[: self.vocab_size]
            for ngram, weight in steps:
                p = ngram.mix_probabilities(p, self.tokens, weight)
            found.append(p)
        return found

    def read(self, tokens: Sequence[int]) -> list[array[float]]:
        """Let each class read its token."""
        first = self.num_read - len(tokens)
        parents = range(first, first + len(tokens)) if self.num_read else [-1] * len(tokens)
        self.num_read += len(tokens)
        return self.gpt.push(parents, tokens)


# ---- all classes of a table


@dataclass(frozen=True)
class Recipe:
    """How the parts of a conditional model are mixed.

    Attributes:
        order: of the n-grams, or 0 for the GPT only.
        weight: of the GPT in the blend.
        shares: of the n-grams: see `levels`.
    """

    order: int
    weight: float
    shares: tuple[float, ...] = ()


def levels(num_columns: int) -> list[tuple[int, ...]]:
    """Return the columns whose values each n-gram of a class knows, that of all rows first.

    >>> levels(1), levels(2)
    ([(), (0,)], [(), (0,), (1,), (0, 1)])
    """
    single = [(number,) for number in range(num_columns)]
    return [(), *single, *([tuple(range(num_columns))] if num_columns > 1 else [])]


class ClassNgrams:
    """The n-grams of rows, of all rows with one value, and of all rows of a class.

    They are counted when they are first asked for.
    """

    def __init__(self, tokenizer: Tokenizer, rows: Sequence[Row], num_columns: int) -> None:
        self.tokenizer = tokenizer
        self.rows: dict[tuple[int, Values], list[str]] = {}
        self.levels = levels(num_columns)
        for row in rows:
            for level, columns in enumerate(self.levels):
                key = level, tuple(row.values[column] for column in columns)
                self.rows.setdefault(key, []).append(row.text)
        self.counted: dict[tuple[int, Values, int], Ngram | NativeNgram] = {}

    def of_level(self, level: int, values: Values, order: int) -> Ngram | NativeNgram:
        """Return the n-gram of the rows that share these values of a class."""
        own = tuple(values[column] for column in self.levels[level])
        key = level, own, order
        if key not in self.counted:
            texts = self.rows.get((level, own), [])
            batch = self.tokenizer.encode_documents(texts)
            self.counted[key] = count_ngram(batch, self.tokenizer.bos + 1, order)
        return self.counted[key]

    def logprobs(
        self, level: int, rows: Sequence[Row], batch: PackedBatch, order: int
    ) -> array[float]:
        """Return log p of every target of a batch by the n-grams of a level.

        rows: those of the documents in the batch, which tell their classes.
        """
        places: dict[Values, list[int]] = {}
        for place, row in enumerate(rows):
            own = tuple(row.values[column] for column in self.levels[level])
            places.setdefault(own, []).append(place)
        pieces = [array("d")] * len(rows)
        for some in places.values():
            ngram = self.of_level(level, rows[some[0]].values, order)
            chosen = batch.select(some)
            found, first = ngram.logprobs(chosen), 0
            for place, (begin, end) in zip(some, pairwise(chosen.offsets), strict=True):
                size = max(0, end - begin - 1)
                pieces[place] = found[first : first + size]
                first += size
        joined = array("d")
        for piece in pieces:
            joined.extend(piece)
        return joined

    def of_class(self, config: Config, values: Values, recipe: Recipe) -> ClassNgram:
        parts = [self.of_level(n, values, recipe.order) for n in range(len(self.levels))]
        return ClassNgram(config, tuple(parts), recipe.shares)


class Conditional:
    """The models of all classes of a table, and their mixtures."""

    def __init__(
        self,
        gpt: Engine,
        tokenizer: Tokenizer,
        columns: Sequence[str],
        rows: Sequence[Row],
        recipe: Recipe,
    ) -> None:
        self.columns = tuple(columns)
        skipped = len(self.columns) - 1
        config = replace(
            gpt.config,
            vocab_size=tokenizer.bos + 1,
            block_size=max(1, gpt.config.block_size - skipped),
        )
        self.config = config
        self.shares = class_shares(rows)
        ngrams = ClassNgrams(tokenizer, rows, len(self.columns)) if recipe.order else None
        self.models = {
            values: ClassModel(
                values,
                gpt,
                value_tokens(tokenizer, self.columns, values),
                ngrams.of_class(config, values, recipe) if ngrams else None,
                recipe.weight,
                config,
            )
            for values in self.shares
        }

    @property
    def values(self) -> dict[str, list[str]]:
        """The values of each column, sorted."""
        return {
            column: sorted({values[number] for values in self.shares})
            for number, column in enumerate(self.columns)
        }

    def under(self, given: Given | None = None) -> GivenModel:
        """Return the model under these values. Raises ConfigError for values it does not know."""
        chosen = checked_given(given or {}, self.values)
        parts: list[Part] = []
        for combination in product(*(chosen[column].items() for column in chosen)):
            wanted = {column: value for column, (value, _) in zip(chosen, combination, strict=True)}
            fitting = [
                values
                for values in self.shares
                if all(
                    wanted.get(column, value) == value
                    for column, value in zip(self.columns, values, strict=True)
                )
            ]
            if not fitting:
                names = " and ".join(token_name(*pair) for pair in wanted.items())
                raise ConfigError(f"the table has no entry with {names}", "leave one of them out")
            total = math.fsum(self.shares[values] for values in fitting)
            classes = tuple((self.shares[v] / total, self.models[v]) for v in fitting)
            parts.append((math.prod(share for _, share in combination), classes))
        return GivenModel(self.config, tuple(parts))


def class_shares(rows: Sequence[Row]) -> dict[Values, float]:
    """Return the share of each class in a table, in the order of their values."""
    found: dict[Values, float] = {}
    for row, count in zip(rows, counts_of(rows), strict=True):
        found[row.values] = found.get(row.values, 0.0) + count
    total = math.fsum(found.values())
    return {values: found[values] / total for values in sorted(found)}


def value_tokens(
    tokenizer: Tokenizer, columns: Sequence[str], values: Sequence[str]
) -> tuple[int, ...]:
    """Return the tokens that the GPT reads instead of BOS."""
    names = map(token_name, columns, values)
    return tuple(tokenizer.special[name] for name in names)


def plain_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """Return the tokenizer of the entries, without the tokens of given values."""
    assert isinstance(tokenizer, CharTokenizer)
    clusters = tokenizer.clusters.all if tokenizer.clusters else ()
    return CharTokenizer(tokenizer.chars, composed=tokenizer.composed, clusters=clusters)


# ---- what users give


def parse_given(text: str) -> dict[str, dict[str, float]]:
    """Return the values in a text such as "country=fi:0.5,jp:0.5,sex=f", with the share of each.

    >>> parse_given("country=fi:0.5,jp:0.5,sex=f")
    {'country': {'fi': 0.5, 'jp': 0.5}, 'sex': {'f': 1.0}}
    """
    how = "write column=value, or column=value:share,value:share for a mix"
    found: dict[str, dict[str, float]] = {}
    column = ""
    for item in text.split(","):
        name, equals, value = item.partition("=") if "=" in item else ("", "", item)
        if equals:
            column = name.strip()
            if not column or column in found:
                raise ConfigError(f"{text!r:.200} names no column, or one twice", how)
            found[column] = {}
        value, share = with_share(value.strip())
        if not column or not value or value in found[column]:
            raise ConfigError(f"{text!r:.200} is not what values are given by", how)
        found[column][value] = share
    return found


def with_share(text: str) -> tuple[str, float]:
    value, colon, number = text.rpartition(":")
    if colon:
        try:
            return value.strip(), float(number)
        except ValueError:
            pass
    return text, 1.0


def checked_given(given: Given, known: Mapping[str, list[str]]) -> dict[str, dict[str, float]]:
    """Return the values of each column and their shares, which add up to 1.

    Raises: ConfigError for an unknown column or value, or shares that are not above 0.
    """
    if isinstance(given, str):
        given = parse_given(given)
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"given must be a mapping, not {given!r:.80}", 'such as {"country": "fi"}'
        )
    chosen: dict[str, dict[str, float]] = {}
    for column, values in given.items():
        if column not in known:
            raise ConfigError(
                f"the model knows no column {column!r:.80}{suggestion(str(column), list(known))}"
            )
        if not isinstance(values, str | Mapping):
            raise ConfigError(
                f"the values of {column} must be text or a mapping, not {values!r:.80}",
                'such as {"fi": 0.5, "jp": 0.5} for a mix',
            )
        shares = dict(values) if isinstance(values, Mapping) else {values: 1.0}
        for value, share in shares.items():
            if value not in known[column]:
                raise ConfigError(
                    f"the model knows no {column} {value!r:.80}"
                    f"{suggestion(str(value), known[column])}"
                )
            if isinstance(share, bool) or not isinstance(share, int | float):
                raise ConfigError(f"the share of {column}={value} must be a number, not {share!r}")
            if not 0 < share < math.inf:
                raise ConfigError(f"the share of {column}={value} must be above 0, not {share}")
        total = math.fsum(shares.values())
        if not shares:
            raise ConfigError(f"no {column} is given", f"give one of {listed(known[column])}")
        chosen[column] = {value: share / total for value, share in shares.items()}
    return chosen


def given_tokens(values: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the names of the special tokens for all values."""
    return list(chain(*([token_name(c, v) for v in values[c]] for c in values)))
