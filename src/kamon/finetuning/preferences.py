"""Preferences: pairs and ratings in files, built-in pairs of names, and pairs made with a rule."""

from __future__ import annotations

import json
import os
import random
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import Any

from kamon.config import require_int
from kamon.data.builtin import names_table
from kamon.data.documents import nfc
from kamon.data.readers import checked_text, name_of, whole_lines
from kamon.data.split import NUM_BUCKETS
from kamon.data.tables import json_object
from kamon.errors import ConfigError, CorpusError
from kamon.files.atomic import replace_file
from kamon.files.output_path import write_errors
from kamon.finetuning.rules import Rule

COMMON = "common"
EXAMPLE = '{"chosen": "…", "rejected": "…"}'
MAX_PAIRS = 1_000_000
TIMES_AS_COMMON = 1000  # in built-in pairs: a model can hardly order closer names by spelling
HELD_OUT = 0.2  # share of the names that make the built-in validation pairs
PAIRS_PER_RATING = 4  # a rated text makes up to 4 pairs with texts of the other kind
MIN_HELD_OUT = 5  # a smaller validation set measures nothing


@dataclass(frozen=True)
class Preference:
    """A pair of texts: `chosen` is the better one, as an answer to `prompt` if there is one."""

    chosen: str
    rejected: str
    prompt: str | None = None

    @property
    def ratings(self) -> tuple[tuple[str, bool], ...]:
        """Each text, and True if it is liked."""
        return (self.chosen, True), (self.rejected, False)


@dataclass(frozen=True)
class Rating:
    """A text that somebody likes or dislikes, as an answer to `prompt` if there is one."""

    text: str
    liked: bool
    prompt: str | None = None

    @property
    def ratings(self) -> tuple[tuple[str, bool], ...]:
        return ((self.text, self.liked),)


Feedback = Preference | Rating
Data = str | PathLike[str] | Iterable[Feedback]  # a file, "common", or in memory

# ---- files


def read(path: str | Path) -> list[Feedback]:
    """Return the pairs and ratings of a JSON Lines file, in their order.

    A line is {"chosen": …, "rejected": …} or {"text": …, "liked": true}, with or without a
    "prompt". Blank lines are skipped.

    Raises: CorpusError with the number of a line that is neither.
    """
    name = name_of(path)
    lines = list(whole_lines(path))
    if not any(lines):
        raise CorpusError(f"{name} is empty")
    answers = [parse(name, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if not answers:
        raise CorpusError(f"{name} has only blank lines")
    return answers


def parse(name: str, number: int, line: str) -> Feedback:
    record = json_object(f"{name}, line {number}", line, EXAMPLE, "pairs are JSON lines")
    return of_record(name, number, record)


def of_record(name: str, number: int, record: dict[str, Any]) -> Feedback:
    """Return the pair or rating in a JSON object, and ignore other keys.

    name, number: the file and the line, for error messages.
    """
    where = f"{name}, line {number}"

    def text(key: str) -> str:
        value = record.get(key)
        if not isinstance(value, str):
            what = "a value that is not text" if key in record else "no text"
            raise CorpusError(f'{where} has {what} under "{key}"', f"write it like {EXAMPLE}")
        return checked_text(name, f"line {number}", value)

    prompt = None if record.get("prompt") is None else text("prompt")
    if "liked" in record and "chosen" not in record:
        if not isinstance(record["liked"], bool):
            raise CorpusError(f'{where}: "liked" must be true or false')
        return Rating(text("text"), record["liked"], prompt)
    pair = Preference(text("chosen"), text("rejected"), prompt)
    if nfc(pair.chosen) == nfc(pair.rejected):
        raise CorpusError(f"{where} compares a text with itself", "remove the line")
    return pair


def to_record(answer: Feedback) -> dict[str, Any]:
    """Return the JSON object of one line."""
    return {name: value for name, value in asdict(answer).items() if value is not None}


def to_line(answer: Feedback) -> bytes:
    return json.dumps(to_record(answer), ensure_ascii=False).encode() + b"\n"


def append(path: str | Path, answer: Feedback) -> None:
    """Append a line and wait until it is on the disk. Raises CorpusError."""
    with write_errors(path, CorpusError), open(path, "ab") as file:
        file.write(to_line(answer))
        file.flush()
        os.fsync(file.fileno())


def remove_last(path: str | Path) -> None:
    """Remove the last line, atomically."""
    path = Path(path)
    with write_errors(path, CorpusError):
        lines = path.read_bytes().splitlines(keepends=True)
        replace_file(path, b"".join(lines[:-1]))


def write(path: str | Path, answers: Iterable[Feedback]) -> None:
    """Write a file, atomically."""
    with write_errors(path, CorpusError):
        replace_file(Path(path), b"".join(map(to_line, answers)))


def repair_tail(path: str | Path) -> str | None:
    """End the last line, or remove it if it is incomplete. Return a message if anything changed.

    A full disk leaves such a line, or a process that was killed during `append`.
    """
    with write_errors(path, CorpusError), open(path, "r+b") as file:
        content = file.read()
        whole, newline, last = content.rpartition(b"\n")
        if not last:
            return None
        number = whole.count(b"\n") + bool(newline) + 1
        try:
            parse(str(path), number, last.decode())
        except (CorpusError, UnicodeDecodeError):
            file.truncate(len(whole) + len(newline))
            shown = last.decode(errors="replace")[:60]
            message = f"{path}, line {number} was incomplete and has been removed: {shown!r}"
        else:
            file.write(b"\n")
            message = f"{path}, line {number} had no line end, so Kamon added one"
        file.flush()
        os.fsync(file.fileno())
        return message


def pairs_of(answers: Iterable[Feedback]) -> list[Preference]:
    """Return all pairs, and pairs made from the ratings.

    A liked and a disliked text make a pair if they answer the same prompt, or none. A text of the
    larger kind gets up to PAIRS_PER_RATING partners, spread evenly over the other kind.

    >>> pairs_of([Rating("anna", True), Rating("bo", False)])
    [Preference(chosen='anna', rejected='bo', prompt=None)]
    """
    answers = list(answers)
    pairs = [answer for answer in answers if isinstance(answer, Preference)]
    ratings: dict[str | None, dict[str, bool]] = {}
    for answer in answers:
        if isinstance(answer, Rating):
            ratings.setdefault(answer.prompt, {})[answer.text] = answer.liked
    for prompt, of_texts in ratings.items():
        liked = [text for text, good in of_texts.items() if good]
        disliked = [text for text, good in of_texts.items() if not good]
        more, fewer = sorted((liked, disliked), key=len, reverse=True)
        for i, text in enumerate(more):
            for turn in range(min(PAIRS_PER_RATING, len(fewer))):
                other = fewer[(i + turn) % len(fewer)]
                chosen, rejected = (text, other) if more is liked else (other, text)
                pairs.append(Preference(chosen, rejected, prompt))
    return pairs


# ---- training and validation


@dataclass(frozen=True)
class Divided:
    """A training set and a validation set of pairs, which share no text.

    Attributes:
        num_left_out: pairs in neither set, because each set has one of their texts.
    """

    learned: list[Preference]
    held_out: list[Preference]
    num_left_out: int = 0


def divided(answers: Iterable[Feedback]) -> Divided:
    """Return the pairs of these answers, with about a tenth of them in the validation set.

    `held_out_texts` divides the texts. Ratings make pairs within each set. If the validation set
    would have fewer than MIN_HELD_OUT pairs, the training set has all pairs.

    >>> pairs = divided(Rating(f"{n}", n % 2 == 0) for n in range(100))
    >>> len(pairs.learned), len(pairs.held_out), pairs.num_left_out
    (180, 20, 0)
    """
    answers = list(answers)
    pairs = pairs_of(answers)
    liked = {nfc(answer.text): answer.liked for answer in answers if isinstance(answer, Rating)}
    links = [(nfc(pair.chosen), nfc(pair.rejected)) for pair in pairs]
    apart = held_out_texts(links, liked.get)
    sides = [{nfc(text) in apart for text in texts_of([answer])} for answer in answers]
    learned, held_out = (
        pairs_of(answer for answer, side in zip(answers, sides, strict=True) if side == {which})
        for which in (False, True)
    )
    if len(held_out) < MIN_HELD_OUT or not learned:
        return Divided(pairs, [])
    return Divided(learned, held_out, sum(len(side) == 2 for side in sides))


def texts_of(answers: Iterable[Feedback]) -> set[str]:
    return {text for answer in answers for text, _ in answer.ratings}


def held_out_texts(
    links: Sequence[tuple[str, str]], kind: Callable[[str], object] = lambda _: None
) -> set[str]:
    """Return the texts of the validation set: a tenth, chosen by their content.

    Linked texts stay together in groups of up to a tenth of all links. Kamon divides the texts of a
    larger group one by one, and takes a tenth of each kind.
    """
    parents = {text: text for link in links for text in link}  # a union-find forest

    def root(text: str) -> str:
        while parents[text] != text:
            parents[text] = text = parents[parents[text]]
        return text

    for a, b in links:
        parents[root(a)] = root(b)
    sizes = Counter(root(a) for a, _ in links)
    units: dict[object, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for text in sorted(parents):
        group = root(text)
        whole = sizes[group] * NUM_BUCKETS <= len(links)
        units["groups" if whole else ("of kind", kind(text))][group if whole else text].append(text)
    apart: set[str] = set()
    for of_kind in units.values():
        ordered = sorted(
            of_kind.values(), key=lambda texts: sha256(f"held out: {texts[0]}".encode()).digest()
        )
        apart.update(*ordered[: len(ordered) // NUM_BUCKETS])
    return apart


def load_pairs(data: Data, num_pairs: int, num_held_out: int, seed: int) -> tuple[Divided, str]:
    """Return the pairs of both sets, and the name of their source in messages.

    Args:
        data: a file, pairs and ratings in memory, or "common".
        num_pairs, num_held_out: sizes of the training and validation set for "common".
    """
    if isinstance(data, str) and data == COMMON:
        return Divided(*common_pairs(num_pairs, seed, num_held_out)), COMMON
    if isinstance(data, str | PathLike):
        return divided(read(os.fspath(data))), name_of(os.fspath(data))
    return divided(checked_answers(data)), "pairs in memory"


# ---- built-in pairs


def births() -> dict[str, int]:
    """Return how often each name of the built-in list was given, to girls and boys together."""
    births: dict[str, int] = defaultdict(int)
    for name, _, count in names_table():
        births[name] += count
    return dict(births)


def checked_answers(answers: Iterable[Feedback]) -> list[Feedback]:
    """Return the answers as a list. Raises CorpusError unless each is a Preference or a Rating."""
    checked = list(answers)
    for number, answer in enumerate(checked, 1):
        if not isinstance(answer, Preference | Rating):
            raise CorpusError(
                f"pair {number} must be a Preference or a Rating of kamon.finetuning, "
                f"not {answer!r:.80}"
            )
    return checked


def common_pairs(
    n: int, seed: int, num_held_out: int = 0
) -> tuple[list[Preference], list[Preference]]:
    """Return (training pairs, validation pairs) of names that prefer the more common one.

    Both names have the same sex and initial, and one was given at least TIMES_AS_COMMON times as
    often. The two sets share no name. Kamon chooses the common name evenly from all that have a
    rarer one, and the rejected name evenly from its rarer ones.
    """
    n = require_int("the number of pairs", n, 1, MAX_PAIRS)
    num_held_out = require_int("num_held_out", num_held_out, 0, MAX_PAIRS)
    rng = random.Random(seed)
    names = sorted({name for name, _, _ in names_table()})
    apart = set(rng.sample(names, int(HELD_OUT * len(names))))
    groups: dict[tuple[bool, str, str], list[tuple[int, str]]] = defaultdict(list)
    for name, sex, count in names_table():
        groups[name in apart, sex, name[0]].append((count, name))
    learned, held_out = (
        [group for (aside, _, _), group in sorted(groups.items()) if aside == which]
        for which in (False, True)
    )
    return drawn_pairs(learned, n, rng), drawn_pairs(held_out, num_held_out, rng)


def drawn_pairs(
    groups: Sequence[list[tuple[int, str]]], n: int, rng: random.Random
) -> list[Preference]:
    """Return n random pairs of names of one group. groups: (how often it was given, name)."""
    common: list[tuple[str, list[str]]] = []
    for group in groups:
        group.sort()
        counts = [count for count, _ in group]
        names = [name for _, name in group]
        for count, name in group:
            num_rarer = bisect_right(counts, count / TIMES_AS_COMMON)
            if num_rarer:
                common.append((name, names[:num_rarer]))
    pairs = []
    for _ in range(n):
        chosen, rarer = rng.choice(common)
        pairs.append(Preference(chosen, rng.choice(rarer)))
    return pairs


# ---- rules


def rule_pairs(texts: Iterable[str], rule: Rule) -> list[Preference]:
    """Pair each text that satisfies the rule with one that does not, in their order.

    Raises: ConfigError if all texts satisfy the rule, or none.

    >>> from kamon.finetuning.rules import parse_rule
    >>> rule_pairs(["anna", "bo", "lea"], parse_rule("len <= 2"))
    [Preference(chosen='bo', rejected='anna', prompt=None)]
    """
    good: list[str] = []
    bad: list[str] = []
    for text in texts:
        (good if rule(text) else bad).append(text)
    if not good or not bad:
        which = "none" if not good else "each"
        raise ConfigError(
            f"{which} of {len(good) + len(bad):,} samples satisfies the rule, so there is nothing "
            "to compare",
            "choose another rule",
        )
    return [Preference(g, b) for g, b in zip(good, bad, strict=False)]
