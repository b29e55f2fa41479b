"""A model that learns while you rate its samples: DPO from its base with all answers so far.

Each alignment starts from the base again. So the model depends only on the answers, not on the time
of the alignments. If you undo an answer, it has no effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from kamon.data.readers import name_of
from kamon.engines.base import initial_state
from kamon.engines.factory import EngineSpec, best_engine
from kamon.engines.numerics import mean
from kamon.errors import CorpusError
from kamon.evaluation.nearest import logprobs
from kamon.finetuning import loop, preferences
from kamon.finetuning.dpo import DPO, DPOConfig, make_spec, with_reference
from kamon.finetuning.preferences import Feedback, Preference, pairs_of, texts_of, to_record
from kamon.model import Model, as_model, load
from kamon.storage import model_dir
from kamon.storage.checkpoint import unpack_examples
from kamon.storage.records import BaseRecord
from kamon.training.options import Callbacks, RunOptions

KIND = "rate"
EVERY = 10  # answers between two alignments
NUM_STEPS = 12
BATCH_SIZE = 16
LEARNING_RATE = 0.001
TEMPERATURE = 1.0  # of proposals
MAX_ATTEMPTS = 500  # samples to try per proposal
MAX_EXPONENT = 700.0  # exp of a little more overflows


@dataclass(frozen=True)
class Base:
    """The model that every alignment starts from.

    Attributes:
        record: its record for training.json (see `base_of`).
        answers: the answers that its directory already has.
    """

    model: Model
    record: BaseRecord
    answers: list[Feedback]


def opened(path: str | Path, threads: int | None = None) -> Base:
    """Return the model in a directory, or, for a rated model, its base and its answers."""
    model = load(path, threads=threads)
    known = model.training.tuning
    if known is None or known.kind != KIND:
        return base_from(model, path)
    saved = model_dir.load(path)
    if saved.reference_params is None or saved.examples is None:  # written by `Model.save`
        return base_from(model, path)
    answers = [
        preferences.of_record(str(path), number, record)
        for number, record in enumerate(unpack_examples(saved.examples), 1)
    ]
    model.engine.load(initial_state(saved.reference_params))
    record = {name: value for name, value in known.base.items() if name != "tuning"}
    training = model.training | {"tuning": known.base.tuning}
    return Base(replace(model, training=training), BaseRecord.read(record), answers)


def base_from(model: Model | str | Path, path: str | Path | None = None) -> Base:
    """Return a model, or the one in a directory, without answers.

    Raises: ConfigError for a model of running text.
    """
    base = as_model(model, "the base").without_blend()
    base.check_documents("rating")
    return Base(base, loop.base_of(base, path or model), [])


def make_method(spec: loop.FineTuneSpec, new_engine: loop.NewEngine) -> loop.FineTuneMethod:
    """Return DPO on the pairs that the answers make."""
    assert spec.frozen is not None
    answers = [preferences.of_record("answers", n, each) for n, each in enumerate(spec.examples, 1)]
    pairs = [to_record(pair) for pair in pairs_of(answers)]
    examples = with_reference(spec.tokenizer, new_engine(spec.frozen), pairs)
    return DPO(replace(spec, examples=examples), new_engine, sample_at_end=False)


def align(
    base: Base,
    answers: Sequence[Feedback],
    *,
    threads: int | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    source: str = "ratings",
    should_stop: Callable[[], bool] | None = None,
) -> Model:
    """Return the base, aligned with all answers.

    Args:
        should_stop: a function that returns True to stop after a step. If it raises an error, Kamon
            writes nothing.

    Raises: CorpusError if the answers make no pair.
    """
    pairs = pairs_of(answers)
    if not pairs:
        raise CorpusError("there is nothing to compare yet", "like one name and dislike another")
    settings = {
        "num_steps": NUM_STEPS,
        "batch_size": min(BATCH_SIZE, len(pairs)),
        "learning_rate": LEARNING_RATE,
        "warmup_steps": 2,
    }
    records = list(map(to_record, answers))
    spec = make_spec(base.model, base.record, records, source, settings, KIND)
    return loop.fine_tune(
        replace(spec, settings=DPOConfig().settings()),
        make_method,
        EngineSpec(best_engine(), base.model.engine.dtype, threads),
        RunOptions(output, overwrite, callbacks=Callbacks(should_stop=should_stop)),
    )


def proposals(
    model: Model, n: int, seed: int, answers: Sequence[Feedback], prompt: str | None = None
) -> list[str]:
    """Return n unique samples without a rating, or fewer after MAX_ATTEMPTS samples for each.

    prompt: the prompt that the samples answer.
    """
    rated = texts_of(each for each in answers if each.prompt == prompt)
    return model.generate(
        n,
        temperature=TEMPERATURE,
        seed=seed,
        unique=True,
        exclude=rated | {""},  # not min_len=1: engines batch samples only without constraints
        should_stop=lambda tried: tried >= MAX_ATTEMPTS * n,
        prompt=prompt,
    ).texts


def needs_realignment(answers: Sequence[Feedback], num_aligned: int, every: int) -> bool:
    """Return True if at least `every` answers follow the first num_aligned answers."""
    return len(answers) - num_aligned >= every and bool(pairs_of(answers))


def likelihood_gain(tuned: Model, base: Model, answers: Sequence[Feedback]) -> tuple[float, float]:
    """Return how many times as likely (liked, disliked) texts have become, compared with the base.

    These are geometric means, the first over all liked and chosen texts, the second over all
    disliked and rejected texts. Without such texts it is 1.
    """
    gains: dict[bool, list[float]] = {True: [], False: []}
    texts = {(answer.prompt, liked): list[str]() for answer in answers for liked in gains}
    for answer in answers:
        for text, liked in answer.ratings:
            texts[answer.prompt, liked].append(text)
    for (prompt, liked), some in texts.items():
        if some:
            own, other = (logprobs(m.engine, m.tokenizer, some, prompt) for m in (tuned, base))
            gains[liked] += [p - q for p, q in zip(own, other, strict=True)]
    first, second = (
        math.exp(min(MAX_EXPONENT, mean(some))) if some else 1.0 for some in gains.values()
    )
    return first, second


Ask = Callable[[str], str]  # shows a question and returns one of KEYS, or "q" at the end of input
KEYS = {False: "ynsuq", True: "absuq"}  # True: for pairs of samples


def change(ratio: float) -> str:
    """Return how a probability has changed, such as "84× more likely"."""
    times = ratio if ratio >= 1 else 1 / ratio if ratio else math.inf
    shown = f"{times:,.0f}" if times >= 10 else f"{times:.2g}"
    return f"{shown}× {'more' if ratio >= 1 else 'less'} likely"


@dataclass
class RatingSession:
    """A rating session, which appends each answer to `journal` immediately.

    Attributes:
        say: a function that Kamon calls with each message.
        every: answers between two alignments.
        pairs: ask which of two samples is better.
        prompt: the prompt that the samples answer.
        model: the model aligned with the first `num_aligned` answers.
    """

    base: Base
    answers: list[Feedback]
    journal: Path
    say: Callable[[str], None]
    every: int = EVERY
    pairs: bool = False
    seed: int = 0
    threads: int | None = None
    prompt: str | None = None
    num_aligned: int = 0
    model: Model | None = None

    def run(self, ask: Ask) -> None:
        """Ask about samples until `ask` returns "q"."""
        while True:
            model = self.aligned()
            size = 2 if self.pairs else 1
            n = size * max(1, self.every - len(self.answers) % self.every)
            remaining = self.proposals(model, n, self.seed + len(self.answers))
            if len(remaining) < size:
                self.say("the model has no more names to rate")
                return
            while len(remaining) >= size:
                shown = remaining[:size]
                key = ask("  ".join(shown) if size == 1 else f"A {shown[0]}   B {shown[1]}")
                if key == "q":
                    return
                if key == "u":
                    self.undo()
                    continue
                del remaining[:size]
                if key != "s":
                    self.answer(shown, key)

    def proposals(self, model: Model, n: int, seed: int) -> list[str]:
        return proposals(model, n, seed, self.answers, self.prompt)

    def answer(self, shown: Sequence[str], key: str) -> None:
        answer: Feedback
        if self.pairs:
            first, second = shown if key == "a" else reversed(shown)
            answer = Preference(first, second, self.prompt)
        else:
            answer = preferences.Rating(shown[0], key == "y", self.prompt)
        preferences.append(self.journal, answer)
        self.answers.append(answer)

    def undo(self) -> None:
        if not self.answers:
            self.say("nothing to undo")
            return
        preferences.remove_last(self.journal)
        taken = self.answers.pop()
        self.num_aligned = min(self.num_aligned, len(self.answers))
        shown = (
            f"{taken.chosen} over {taken.rejected}"
            if isinstance(taken, Preference)
            else f"{taken.text} {'liked' if taken.liked else 'not liked'}"
        )
        self.say(f"undone: {shown}")

    def aligned(self) -> Model:
        """Return the model for the next samples, aligned again after every `every` answers."""
        if self.model is None:
            self.model = self.base.model
        every = 1 if self.model is self.base.model else self.every
        if needs_realignment(self.answers, self.num_aligned, every):
            before = self.proposals(self.model, 5, self.seed)
            self.model = align(self.base, self.answers, threads=self.threads)
            self.num_aligned = len(self.answers)
            liked, disliked = likelihood_gain(self.model, self.base.model, self.answers)
            after = self.proposals(self.model, 5, self.seed)
            self.say(
                f"learned from {len(self.answers):,} answers in "
                f"{self.model.training.seconds:.2f} s: names you like are now {change(liked)}, "
                f"names you dislike {change(disliked)}"
            )
            self.say(f"before  {', '.join(before)}")
            self.say(f"now     {', '.join(after)}")
        return self.model

    def finish(self, output: str | Path | None, overwrite: bool) -> Model:
        """Return the base, aligned with all answers, and save it."""
        return align(
            self.base,
            self.answers,
            threads=self.threads,
            output=output,
            overwrite=overwrite,
            source=name_of(self.journal),
        )


def start_session(
    base: Base, journal: str | Path, say: Callable[[str], None], **options: Any
) -> RatingSession:
    """Return a session that continues with the answers in `journal`, or with those of the base.

    options: the other attributes of `RatingSession`.
    """
    journal, answers = Path(journal), base.answers
    if journal.exists():
        if message := preferences.repair_tail(journal):
            say(message)
        if journal.stat().st_size:
            answers = preferences.read(journal)
            say(f"{journal} already has {len(answers):,} answers")
    elif answers:
        preferences.write(journal, answers)
    return RatingSession(base, answers, journal, say, **options)


def rate(
    model: Model | str | Path,
    ask: Ask,
    journal: str | Path,
    *,
    pairs: bool = False,
    prompt: str | None = None,
    every: int = EVERY,
    threads: int | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,  # noqa: ARG005
) -> Model:
    """Ask about samples until `ask` returns "q", and return the model aligned with all answers.

    Args:
        model: the base, or its directory. For a rated model, Kamon continues with its answers.
        ask: shows a question and returns a key: "y" or "n" (with pairs "a" or "b"), "s" to skip,
            "u" to undo the last answer, "q" to end.
        journal: a JSON Lines file. Kamon saves each answer in it immediately.
        pairs: ask which of two samples is better.
        prompt: the prompt that the samples answer.
        every: answers between two alignments.
        output: the model directory to write.
        say: a function that Kamon calls with each message.

    Raises: CorpusError if the answers make no pair.
    """
    base = opened(model, threads) if isinstance(model, str | PathLike) else base_from(model)
    options = {"every": every, "pairs": pairs, "threads": threads, "prompt": prompt}
    session = start_session(base, journal, say, seed=base.model.config.seed, **options)
    session.run(ask)
    return session.finish(output, overwrite)
