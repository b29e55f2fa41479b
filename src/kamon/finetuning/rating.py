"""A model that learns while you rate what it proposes: DPO from its base with all answers so far.

Each alignment starts at the base again: so the model depends on the answers alone, and not on when
it was aligned, and an answer that is taken back leaves no trace.
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
from kamon.finetuning import preferences
from kamon.finetuning.dpo import BETA, DPO, tuning_for, with_reference
from kamon.finetuning.loop import FineTuneMethod, FineTuneSpec, NewEngine, base_of, fine_tune
from kamon.finetuning.preferences import Feedback, Preference, pairs_of, texts_of, to_record
from kamon.model import Model, as_model, load
from kamon.storage import model_dir
from kamon.storage.checkpoint import unpack_examples
from kamon.training.options import Callbacks, RunOptions

KIND = "rate"
EVERY = 10  # answers, after which the model is aligned
NUM_STEPS = 12
BATCH_SIZE = 16
LEARNING_RATE = 0.001
TEMPERATURE = 1.0  # of proposals
MAX_ATTEMPTS = 500  # for each proposal
MAX_EXPONENT = 700.0  # whose exponential is a float
SETTINGS = {
    "loss": "dpo",
    "beta": BETA,
    "label_smoothing": 0.0,
    "max_kl": None,
    "prefer": None,
}


@dataclass(frozen=True)
class Base:
    """Where every alignment starts; record: what a Tuning keeps of it; answers: that the directory
    had already."""

    model: Model
    record: dict[str, Any]
    answers: list[Feedback]


def opened(path: str | Path, threads: int | None = None) -> Base:
    """The model in a directory; of one that was rated the base that is in it, and its answers."""
    model = load(path, threads=threads)
    kept = model.training.get("tuning")
    if kept is None or kept["kind"] != KIND:
        return base_from(model, path)
    found = model_dir.load(path)
    if found.reference_params is None or found.examples is None:  # saved by itself: `Model.save`
        return base_from(model, path)
    answers = [
        preferences.of_record(str(path), number, record)
        for number, record in enumerate(unpack_examples(found.examples), 1)
    ]
    model.engine.load(initial_state(found.reference_params))
    record = dict(kept["base"])
    before = {"tuning": record.pop("tuning")} if "tuning" in record else {}
    training = {name: value for name, value in model.training.items() if name != "tuning"} | before
    return Base(replace(model, training=training), record | {"training": training}, answers)


def base_from(model: Model | str | Path, path: str | Path | None = None) -> Base:
    """A model as it is, or in its directory, and no answers. ConfigError for a model of text."""
    path = path or (model if isinstance(model, str | PathLike) else None)
    model = as_model(model, "the base")
    model.check_documents("ratings are of documents")
    return Base(model, base_of(model, path), [])


def rate_steps(tuning: FineTuneSpec, new_engine: NewEngine) -> FineTuneMethod:
    """DPO on the pairs that the answers make."""
    assert tuning.frozen is not None
    pairs = pairs_in(tuning.examples)
    examples = with_reference(tuning.tokenizer, new_engine(tuning.frozen), pairs)
    return DPO(replace(tuning, examples=examples), new_engine, sample_at_end=False)


def pairs_in(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    answers = [preferences.of_record("answers", n, record) for n, record in enumerate(records, 1)]
    return [to_record(pair) for pair in pairs_of(answers)]


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
    """The base, aligned with all answers. CorpusError where they make no pair. should_stop: asked
    after each step; what it raises ends it, and nothing is written."""
    pairs = pairs_of(answers)
    if not pairs:
        raise CorpusError("there is nothing to compare yet: like one and dislike another")
    settings = {
        "num_steps": NUM_STEPS,
        "batch_size": min(BATCH_SIZE, len(pairs)),
        "learning_rate": LEARNING_RATE,
        "warmup_steps": 2,
    }
    params = base.model.engine.state()["params"]
    records = list(map(to_record, answers))
    tuning = tuning_for(base.model, None, params, records, source, settings, KIND)
    return fine_tune(
        replace(tuning, settings=SETTINGS, base=base.record),
        rate_steps,
        EngineSpec(best_engine(), base.model.engine.dtype, threads),
        RunOptions(output, overwrite, callbacks=Callbacks(should_stop=should_stop)),
    )


def proposals(
    model: Model, n: int, seed: int, answers: Sequence[Feedback], prompt: str | None = None
) -> list[str]:
    """n different samples, none of which was rated; fewer where TRIES for each found no more.
    prompt: that they answer."""
    rated = texts_of(each for each in answers if each.prompt == prompt)
    return model.generate(
        n,
        temperature=TEMPERATURE,
        seed=seed,
        unique=True,
        exclude=rated | {""},  # not by min_len: without it engines make many at once
        should_stop=lambda tried: tried >= MAX_ATTEMPTS * n,
        prompt=prompt,
    ).texts


def needs_realignment(answers: Sequence[Feedback], num_aligned: int, every: int) -> bool:
    """Whether a model that is aligned with num_aligned of the answers is to be aligned again."""
    return len(answers) - num_aligned >= every and bool(pairs_of(answers))


def likelihood_gain(tuned: Model, base: Model, answers: Sequence[Feedback]) -> tuple[float, float]:
    """(liked, disliked): how many times as likely as by the base they are, the geometric mean over
    what was liked or chosen, and what was disliked or rejected; 1 if there is none."""
    gains: dict[bool, list[float]] = {True: [], False: []}
    for prompt in {each.prompt: None for each in answers}:
        texts: dict[bool, list[str]] = {True: [], False: []}
        for each in answers:
            if each.prompt != prompt:
                continue
            if isinstance(each, Preference):
                texts[True].append(each.chosen)
                texts[False].append(each.rejected)
            else:
                texts[each.liked].append(each.text)
        for liked, some in texts.items():
            if some:
                own, other = (logprobs(m.engine, m.tokenizer, some, prompt) for m in (tuned, base))
                gains[liked] += [p - q for p, q in zip(own, other, strict=True)]
    first, second = (
        math.exp(min(MAX_EXPONENT, mean(some))) if some else 1.0 for some in gains.values()
    )
    return first, second


Ask = Callable[[str], str]  # shows a question; returns a key of KEYS, "q" where nobody answers
KEYS = {False: "ynsuq", True: "absuq"}  # by whether two are shown


@dataclass
class RatingSession:
    """What is going on: answers are kept in `journal` as they come.

    prompt: that proposals answer. model: aligned with the first `num_aligned` answers; say: is told
    what happens.
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
        """Until "q"."""
        while True:
            model = self.aligned()
            size = 2 if self.pairs else 1
            wanted = size * max(1, self.every - len(self.answers) % self.every)
            left = self.proposals(model, wanted, self.seed + len(self.answers))
            if len(left) < size:
                self.say("the model proposes nothing that is not rated already")
                return
            while len(left) >= size:
                shown = left[:size]
                key = ask("  ".join(shown) if size == 1 else f"A {shown[0]}   B {shown[1]}")
                if key == "q":
                    return
                if key == "u":
                    self.undo()
                    continue
                del left[:size]
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
            self.say("there is no answer to take back")
            return
        preferences.remove_last(self.journal)
        taken = self.answers.pop()
        self.num_aligned = min(self.num_aligned, len(self.answers))
        shown = (
            f"{taken.chosen} over {taken.rejected}"
            if isinstance(taken, Preference)
            else f"{taken.text} {'liked' if taken.liked else 'not liked'}"
        )
        self.say(f"taken back: {shown}")

    def aligned(self) -> Model:
        """The model for the next proposals: aligned where `every` answers have come since."""
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
                f"aligned with {len(self.answers):,} answers in "
                f"{self.model.training['seconds']:.2f} s: what you like is {liked:.2g} times as "
                f"likely as at first, what you do not {disliked:.2g} times"
            )
            self.say(f"before  {', '.join(before)}")
            self.say(f"now     {', '.join(after)}")
        return self.model


def start_session(
    base: Base, journal: str | Path, say: Callable[[str], None], **options: Any
) -> RatingSession:
    """Return a session that continues with the answers in `journal`, or in the base.

    options: the other fields of `RatingSession`.
    """
    journal, answers = Path(journal), base.answers
    if journal.exists():
        if message := preferences.repair_tail(journal):
            say(message)
        if journal.stat().st_size:
            answers = preferences.read(journal)
            say(f"{journal}: {len(answers):,} answers are there already")
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
        ask: shows a question and returns a key: "y" or "n" (with pairs "a" or "b"), "s" to skip,
            "u" to take the last answer back, "q" to end.
        journal: a JSON Lines file that keeps each answer at once.
        pairs: ask which of two samples is better.
        prompt: samples answer this prompt.
        every: answers after which the model learns again.
        output: the model directory to write.
        say: is told what happens.

    Raises: CorpusError if no answer can be compared with another one.
    """
    opened_model = opened(model, threads) if isinstance(model, str | PathLike) else base_from(model)
    session = start_session(
        opened_model,
        journal,
        say,
        every=every,
        pairs=pairs,
        threads=threads,
        prompt=prompt,
        seed=opened_model.model.config.seed,
    )
    session.run(ask)
    return align(
        opened_model,
        session.answers,
        threads=threads,
        output=output,
        overwrite=overwrite,
        source=name_of(str(journal)),
    )
