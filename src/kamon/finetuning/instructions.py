"""Built-in instructions that ask for a kind of name, and a measure of how well a model obeys them.

A prompt has up to three parts, always in this order: `girl` or `boy`, the first letter, and the
number of letters, such as "girl, m, 5", "boy" or "a, 7". Its answer is a name of the built-in list
that fits. Rare names, and names of both sexes, are left out, because their sex is uncertain. Boys'
names are repeated until they outnumber the girls' names with the same first letter. Otherwise the
model would prefer girls' names, because the list has more of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from kamon.data.builtin import names_table
from kamon.engines.base import Engine
from kamon.finetuning.preferences import births
from kamon.generation.constraints import GenerationConstraints, find
from kamon.generation.sampling import SampleRequest
from kamon.tokenizers.base import Tokenizer

INSTRUCTIONS = "instructions"
TASKS = {  # the parts of a prompt: sex, first letter, length
    "sexes": [(True, False, False)],
    "initials": [(False, True, True)],
    INSTRUCTIONS: [(True, True, True)],
}
PARTIAL = [(bool(n & 1), bool(n & 2), bool(n & 4)) for n in range(1, 7)]
WORDS = {"F": "girl", "M": "boy"}
MIN_BIRTHS = 80  # how often a name must have been given to be an answer
MIN_SHARE = 0.95  # … and the share of these times that it must have been given to one sex
NUM_WHOLE = 5  # examples per name with all parts of the task
NUM_PARTIAL = 1  # … and, for `instructions`, with some of the parts
BOYS_PER_GIRL = 1.75  # ratio of examples, for each first letter
MAX_REPEATED = 40  # examples per name
MIN_NAMES = 50  # names that an instruction of `obedience` must fit
NUM_ANSWERS = 2  # answers to each of these instructions


def prompt_for(name: str, sex: str, parts: tuple[bool, bool, bool]) -> str:
    """Return the prompt that describes a name by these parts.

    >>> prompt_for("maria", "F", (True, True, True)), prompt_for("maria", "F", (False, True, True))
    ('girl, m, 5', 'm, 5')
    """
    words = (WORDS[sex], name[0], str(len(name)))
    return ", ".join([word for word, wanted in zip(words, parts, strict=True) if wanted])


def examples(task: str) -> list[dict[str, str]]:
    """Return the examples {"prompt": …, "completion": …} of one of TASKS, some repeatedly."""
    rows = names_table()
    born = births()
    known = [
        (name, sex) for name, sex, count in rows if count >= max(MIN_BIRTHS, MIN_SHARE * born[name])
    ]
    num_names = Counter((sex, name[0]) for name, sex in known)
    pairs = []
    for index, (name, sex) in enumerate(known):
        times = 1.0
        if sex == "M":
            times = BOYS_PER_GIRL * num_names["F", name[0]] / num_names["M", name[0]]
        asked = TASKS[task] * max(1, min(MAX_REPEATED, round(NUM_WHOLE * times)))
        if task == INSTRUCTIONS:
            asked += [PARTIAL[(index + 3 * i) % len(PARTIAL)] for i in range(NUM_PARTIAL)]
        pairs += [{"prompt": prompt_for(name, sex, parts), "completion": name} for parts in asked]
    return pairs


def instructions() -> list[tuple[str, str, int]]:
    """Return each (sex, first letter, length) that fits at least MIN_NAMES names."""
    counts = Counter((sex, name[0], len(name)) for name, sex, _ in names_table())
    return sorted(key for key, count in counts.items() if count >= MIN_NAMES)


def obedience(
    engine: Engine, tokenizer: Tokenizer, temperature: float = 0.5, seed: int = 42
) -> dict[str, float]:
    """Generate NUM_ANSWERS answers to each of `instructions`, and return `obedience_of` them."""
    answers = []
    for sex, initial, length in instructions():
        request = SampleRequest(NUM_ANSWERS, temperature, seed, tokenizer.bos)
        prompt = f"{WORDS[sex]}, {initial}, {length}"
        samples = find(engine, tokenizer, request, GenerationConstraints(prompt=prompt), list)
        answers += [(sex, initial, length, text) for text in samples.texts]
    return obedience_of(answers)


def obedience_of(answers: Iterable[tuple[str, str, int, str]]) -> dict[str, float]:
    """Return the shares of the answers (sex, first letter, length, answer) that obey, by part.

    on_record: share of answers that are names of the built-in list.
    sex, together: shares of these names that obey in sex, and in all three parts.
    strict_sex, strict: the same as shares of all answers.

    >>> obedience_of([("F", "m", 5, "maria"), ("M", "m", 5, "mqrix")])["strict"]
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
    num_answers, known = max(1, counts["all"]), max(1, counts["on_record"])
    return {
        "num_answers": counts["all"],
        "initial": counts["initial"] / num_answers,
        "length": counts["length"] / num_answers,
        "on_record": counts["on_record"] / num_answers,
        "sex": counts["sex"] / known,
        "strict_sex": counts["sex"] / num_answers,
        "together": counts["together"] / known,
        "strict": counts["together"] / num_answers,
    }
