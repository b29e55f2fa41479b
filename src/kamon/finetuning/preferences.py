"""What is preferred to what: pairs from a file, from counts, or by a rule that is written down."""

from __future__ import annotations

import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
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
MAX_PAIRS = 1_000_000
TIMES_AS_COMMON = 1000  # in a pair of `common_pairs`: spelling hardly tells closer ones apart
HELD_OUT = 0.2  # of the names of `common_pairs`
PAIRS_PER_RATING = 4  # with which of the other kind a single verdict is paired
MIN_HELD_OUT = 5  # pairs: fewer tell nothing


@dataclass(frozen=True)
class Preference:
    """`chosen` is preferred to `rejected`, as an answer to `prompt` where there is one."""

    chosen: str
    rejected: str
    prompt: str | None = None


@dataclass(frozen=True)
class Rating:
    """What was said of one text alone, as an answer to `prompt` where there is one."""

    text: str
    liked: bool
    prompt: str | None = None


Feedback = Preference | Rating

# ---- files


def read(path: str | Path) -> list[Feedback]:
    """The answers in a JSONL file, in their order: {"chosen": …, "rejected": …}, or {"text": …,
    "liked": true}, each with a "prompt" or without. CorpusError says which line is none; blank
    ones are passed over. A last line that was torn is no JSON: `repair_tail` cuts it off.
    """
    name = name_of(path)
    lines = list(whole_lines(path))
    if not any(lines):
        raise CorpusError(f"{name} is empty")
    found = [parse(name, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise CorpusError(f"{name} holds nothing but blank lines")
    return found


def example() -> str:
    return '{"chosen": "…", "rejected": "…"}'


def parse(name: str, number: int, line: str) -> Feedback:
    """One line. CorpusError where it is none."""
    where = f"{name}, line {number}"
    record = json_object(where, line, example(), "pairs are JSON lines")
    return of_record(name, number, record)


def of_record(name: str, number: int, record: dict[str, Any]) -> Feedback:
    """The answer in a JSON object, line `number` of what is called `name`; other keys of it are
    passed over."""
    where = f"{name}, line {number}"

    def text(key: str) -> str:
        value = record.get(key)
        if not isinstance(value, str):
            what = "something else than text" if key in record else "no text"
            raise CorpusError(f'{where} has {what} under "{key}": it should be {example()}')
        return checked_text(name, f"line {number}", value)

    prompt = None if record.get("prompt") is None else text("prompt")
    if "liked" in record and "chosen" not in record:
        if not isinstance(record["liked"], bool):
            raise CorpusError(f'{where} has neither true nor false under "liked"')
        return Rating(text("text"), record["liked"], prompt)
    pair = Preference(text("chosen"), text("rejected"), prompt)
    if nfc(pair.chosen) == nfc(pair.rejected):
        raise CorpusError(f"{where} prefers a text to itself: leave the line out")
    return pair


def to_record(answer: Feedback) -> dict[str, Any]:
    """What a line of a file holds."""
    return {name: value for name, value in asdict(answer).items() if value is not None}


def to_line(answer: Feedback) -> bytes:
    return json.dumps(to_record(answer), ensure_ascii=False).encode() + b"\n"


def append(path: str | Path, answer: Feedback) -> None:
    """One more line, on the disk when this returns. CorpusError where it cannot be written."""
    with write_errors(path, CorpusError), open(path, "ab") as file:
        file.write(to_line(answer))
        file.flush()
        os.fsync(file.fileno())


def remove_last(path: str | Path) -> None:
    """Take the last line back: a reader sees the file with it or without it."""
    path = Path(path)
    with write_errors(path, CorpusError):
        lines = path.read_bytes().splitlines(keepends=True)
        replace_file(path, b"".join(lines[:-1]))


def write(path: str | Path, answers: Iterable[Feedback]) -> None:
    """All lines of a new file."""
    with write_errors(path, CorpusError):
        replace_file(Path(path), b"".join(map(to_line, answers)))


def repair_tail(path: str | Path) -> str | None:
    """Give the last line its end, or cut it off where it is torn; a sentence that says so, or None.

    Only `append` of a process that was killed, or a full disk, leaves such a line.
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
            said = f"{path}, line {number} was torn and is left out: {last[:60]!r}"
        else:
            file.write(b"\n")
            said = f"{path}, line {number} had no end: it has one now"
        file.flush()
        os.fsync(file.fileno())
        return said


def pairs_of(answers: Iterable[Feedback]) -> list[Preference]:
    """All pairs, and those of a liked with a disliked text that answer the same prompt, or none.

    Each of these is paired with as many as OTHERS of the other kind, which lie spread over them.

    >>> pairs_of([Rating("anna", True), Rating("bo", False)])
    [Preference(chosen='anna', rejected='bo', prompt=None)]
    """
    answers = list(answers)
    found = [each for each in answers if isinstance(each, Preference)]
    verdicts: dict[str | None, dict[str, bool]] = {}
    for each in answers:
        if isinstance(each, Rating):
            verdicts.setdefault(each.prompt, {})[each.text] = each.liked
    for prompt, of_texts in verdicts.items():
        liked = [text for text, good in of_texts.items() if good]
        disliked = [text for text, good in of_texts.items() if not good]
        more, fewer = sorted((liked, disliked), key=len, reverse=True)
        for place, text in enumerate(more):
            for turn in range(min(PAIRS_PER_RATING, len(fewer))):
                other = fewer[(place + turn) % len(fewer)]
                chosen, rejected = (text, other) if more is liked else (other, text)
                found.append(Preference(chosen, rejected, prompt))
    return found


# ---- training and validation


@dataclass(frozen=True)
class Divided:
    """Pairs to learn from and pairs held out, which share no text.

    num_left_out: pairs of a text on either side, which are in neither.
    """

    learned: list[Preference]
    held_out: list[Preference]
    num_left_out: int = 0


def divided(answers: Iterable[Feedback]) -> Divided:
    """Return the pairs of these answers, with about a tenth held out that shares no text with them.

    The texts are divided, by `held_out_texts`. Ratings make pairs within each side. If fewer than
    MIN_HELD_OUT pairs would be held out, none is.

    >>> found = divided(Rating(f"{n}", n % 2 == 0) for n in range(100))
    >>> len(found.learned), len(found.held_out), found.num_left_out
    (180, 20, 0)
    """
    answers = list(answers)
    pairs = pairs_of(answers)
    liked = {nfc(each.text): each.liked for each in answers if isinstance(each, Rating)}
    links = [(nfc(pair.chosen), nfc(pair.rejected)) for pair in pairs]
    apart = held_out_texts(links, liked.get)
    sides = [{nfc(text) in apart for text in texts_of([answer])} for answer in answers]
    learned, held_out = (
        pairs_of(each for each, side in zip(answers, sides, strict=True) if side == {which})
        for which in (False, True)
    )
    if len(held_out) < MIN_HELD_OUT or not learned:
        return Divided(pairs, [])
    return Divided(learned, held_out, sum(len(side) == 2 for side in sides))


def texts_of(answers: Iterable[Feedback]) -> set[str]:
    found = set()
    for each in answers:
        found |= {each.chosen, each.rejected} if isinstance(each, Preference) else {each.text}
    return found


def held_out_texts(
    links: Sequence[tuple[str, str]], kind: Callable[[str], object] = lambda _: None
) -> set[str]:
    """Return the texts to hold out, a tenth, chosen by their content.

    Texts that are linked stay on one side, in groups of up to a tenth of all links. The texts of a
    larger group are divided one by one, a tenth of each kind.
    """
    group = {text: text for link in links for text in link}

    def root(text: str) -> str:
        while group[text] != text:
            group[text] = text = group[group[text]]
        return text

    for a, b in links:
        group[root(a)] = root(b)
    sizes = Counter(root(a) for a, _ in links)
    units: dict[object, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for text in sorted(group):
        own = root(text)
        whole = sizes[own] * NUM_BUCKETS <= len(links)
        units["groups" if whole else ("of kind", kind(text))][own if whole else text].append(text)
    found: set[str] = set()
    for of_kind in units.values():
        ordered = sorted(
            of_kind.values(), key=lambda texts: sha256(f"held out: {texts[0]}".encode()).digest()
        )
        found.update(*ordered[: len(ordered) // NUM_BUCKETS])
    return found


# ---- counts


def births() -> dict[str, int]:
    """How often each name of the built-in list was given, to girls and boys."""
    found: dict[str, int] = defaultdict(int)
    for name, _, number in names_table():
        found[name] += number
    return dict(found)


def checked_answers(answers: Iterable[Feedback]) -> list[Feedback]:
    """The answers as a list. CorpusError for one that is neither a Preference nor a Verdict."""
    found = list(answers)
    for number, each in enumerate(found, 1):
        if not isinstance(each, Preference | Rating):
            raise CorpusError(
                f"pair {number} is not a kamon.finetuning.preferences.Preference: {each!r:.80}"
            )
    return found


def common_pairs(
    n: int, seed: int, num_held_out: int = 0
) -> tuple[list[Preference], list[Preference]]:
    """(pairs, held-out pairs): of two names of the same sex and initial the much more common one.

    At least TIMES_AS_COMMON as many births. First names are drawn apart for the held-out pairs, so
    that no training pair has any of their names. A name is drawn evenly among those that have a
    rarer one, and then one of these. ConfigError for more than there are room for.
    """
    n = require_int("the number of pairs", n, 1, MAX_PAIRS)
    num_held_out = require_int("num_held_out", num_held_out, 0, MAX_PAIRS)
    rng = random.Random(seed)
    names = sorted({name for name, _, _ in names_table()})
    apart = set(rng.sample(names, int(HELD_OUT * len(names))))
    groups: dict[tuple[bool, str, str], list[tuple[int, str]]] = defaultdict(list)
    for name, sex, number in names_table():
        groups[name in apart, sex, name[0]].append((number, name))
    learned, held_out = (
        [group for (aside, _, _), group in sorted(groups.items()) if aside == which]
        for which in (False, True)
    )
    return drawn_pairs(learned, n, rng), drawn_pairs(held_out, num_held_out, rng)


def drawn_pairs(
    groups: Sequence[list[tuple[int, str]]], n: int, rng: random.Random
) -> list[Preference]:
    """n pairs of the same group: a name that has a rarer one, and one of these."""
    from bisect import bisect_right

    common: list[tuple[str, list[str]]] = []
    for group in groups:
        group.sort()
        counts = [number for number, _ in group]
        names = [name for _, name in group]
        for number, name in group:
            rarer = bisect_right(counts, number / TIMES_AS_COMMON)
            if rarer:
                common.append((name, names[:rarer]))
    found = []
    for _ in range(n):
        chosen, rarer_names = rng.choice(common)
        found.append(Preference(chosen, rng.choice(rarer_names)))
    return found


# ---- rules


def rule_pairs(texts: Iterable[str], rule: Rule) -> list[Preference]:
    """Pairs of a text that fulfils the rule with one that does not, in the order they come.

    ConfigError where all do, or none.

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
            f"{which} of {len(good) + len(bad):,} samples fulfils the rule: there is nothing to "
            "compare; choose another rule"
        )
    return [Preference(g, b) for g, b in zip(good, bad, strict=False)]
