"""Instructions that come with Kamon: which name is wanted; and whether answers obey.

A prompt has up to three parts, always in this order: `girl` or `boy`, the first letter, the number
of letters: "girl, m, 5", "boy", "a, 7". Its answer is a name of the built-in list for which that is
on record. Names that are rare, or given to both sexes, are left out of the answers: who has heard a
name five times does not know whose it is. Boys' names are repeated, so that with each first letter
they outweigh girls': the list has more girls, and a model that has learned it thinks of them first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from kamon.data.builtin import names_table
from kamon.engines.base import Engine
from kamon.generation.constraints import GenerationConstraints, find
from kamon.generation.sampling import SampleRequest
from kamon.tokenizers.base import Tokenizer

INSTRUCTIONS = "instructions"
TASKS = {  # which parts a prompt may have: sex, first letter, length
    "sexes": [(True, False, False)],
    "initials": [(False, True, True)],
    INSTRUCTIONS: [(True, True, True)],
}
PARTIAL = [(bool(n & 1), bool(n & 2), bool(n & 4)) for n in range(1, 7)]
WORDS = {"F": "girl", "M": "boy"}
BIRTHS = 80  # a name in the answers was given at least so often
SHARE = 0.95  # to one sex, of all that have it
WHOLE = 5  # times that a name answers to all parts, and PARTS times to some
TASK_SHARES = 1
BOYS = 1.75  # times as many as girls, with each first letter
MAX_REPEATED = 40
COMMON = 50  # names on record, or more: then an instruction is one to be tested with
ANSWERS = 2  # to each


def prompt_for(name: str, sex: str, parts: tuple[bool, bool, bool]) -> str:
    """
    >>> prompt_for("maria", "F", (True, True, True)), prompt_for("maria", "F", (False, True, True))
    ('girl, m, 5', 'm, 5')
    """
    words = (WORDS[sex], name[0], str(len(name)))
    return ", ".join([word for word, there in zip(words, parts, strict=True) if there])


def examples(task: str) -> list[dict[str, str]]:
    """{"prompt", "completion"} of one of TASKS, some of them more than once."""
    rows = names_table()
    births: Counter[str] = Counter()
    for name, _, number in rows:
        births[name] += number
    known = [
        (name, sex) for name, sex, number in rows if number >= max(BIRTHS, SHARE * births[name])
    ]
    cells = Counter((sex, name[0]) for name, sex in known)
    found = []
    for place, (name, sex) in enumerate(known):
        times = 1.0
        if sex == "M":
            times = BOYS * cells["F", name[0]] / cells["M", name[0]]
        asked = TASKS[task] * max(1, min(MAX_REPEATED, round(WHOLE * times)))
        if task == INSTRUCTIONS:
            asked += [PARTIAL[(place + 3 * i) % len(PARTIAL)] for i in range(TASK_SHARES)]
        found += [{"prompt": prompt_for(name, sex, parts), "completion": name} for parts in asked]
    return found


@dataclass(frozen=True)
class Obedience:
    """Which share of answers obeys, part by part, of num_answers.

    sex: of the answers that are names on record, `on_record` of all; strict_sex: of all, a name
    that is on record nowhere being none; together, strict: all three parts, in the same two ways.
    """

    num_answers: int
    initial: float
    length: float
    on_record: float
    sex: float
    strict_sex: float
    together: float
    strict: float


def instructions() -> list[tuple[str, str, int]]:
    """(sex, first letter, length) of all that COMMON names or more fulfil: always the same."""
    cells = Counter((sex, name[0], len(name)) for name, sex, _ in names_table())
    return sorted(cell for cell, number in cells.items() if number >= COMMON)


def obedience(
    engine: Engine, tokenizer: Tokenizer, temperature: float = 0.5, seed: int = 42
) -> Obedience:
    """Ask for all `instructions`, and look at ANSWERS answers to each."""
    answers = []
    for sex, initial, length in instructions():
        request = SampleRequest(ANSWERS, temperature, seed, tokenizer.bos)
        prompt = f"{WORDS[sex]}, {initial}, {length}"
        found = find(engine, tokenizer, request, GenerationConstraints(prompt=prompt), list)
        answers += [(sex, initial, length, text) for text in found.texts]
    return obedience_of(answers)


def obedience_of(answers: Iterable[tuple[str, str, int, str]]) -> Obedience:
    """Of (sex, first letter, length, answer).

    >>> obedience_of([("F", "m", 5, "maria"), ("M", "m", 5, "mqrix")]).strict
    0.5
    """
    table = {(name, sex) for name, sex, _ in names_table()}
    names = {name for name, _ in table}
    counts: Counter[str] = Counter()
    for sex, initial, length, text in answers:
        right = {
            "initial": text[:1] == initial,
            "length": len(text) == length,
            "on_record": text in names,
            "sex": (text, sex) in table,
        }
        right["together"] = right["initial"] and right["length"] and right["sex"]
        counts.update(name for name, is_right in right.items() if is_right)
        counts["all"] += 1
    every, known = max(1, counts["all"]), max(1, counts["on_record"])
    return Obedience(
        num_answers=counts["all"],
        initial=counts["initial"] / every,
        length=counts["length"] / every,
        on_record=counts["on_record"] / every,
        sex=counts["sex"] / known,
        strict_sex=counts["sex"] / every,
        together=counts["together"] / known,
        strict=counts["together"] / every,
    )
