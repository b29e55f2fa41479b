"""Rating sessions. The model of a session learns from ratings, as in `kamon.finetuning.rating`.

The state of a session is a `Rated`, which is immutable. A request makes a new one, and replaces
the old one only when the new one is complete. So a request has no effect if it fails or its client
disconnects.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any

from kamon.data.documents import nfc
from kamon.data.readers import checked_text
from kamon.engines.base import has_fused_ops
from kamon.engines.factory import make_engine
from kamon.engines.numerics import mean
from kamon.errors import ConfigError
from kamon.evaluation.nearest import logprobs
from kamon.finetuning import rating
from kamon.finetuning.dpo import BETA
from kamon.finetuning.metrics import novelty, sampled_kl
from kamon.finetuning.preferences import Feedback, Preference, Rating, pairs_of, texts_of
from kamon.model import Model
from kamon.web.errors import WebError, not_found
from kamon.web.limits import Limits
from kamon.web.services.registry import Entry, ModelRegistry
from kamon.web.services.workers import Stop

NUM_MEASURED = 100  # samples of the base and of the fine-tuned model to measure
NUM_MEASURED_SLOW = 10  # for the scalar engine
NUM_COMPARED = 10  # of these samples to show
NUM_PROPOSED = 10  # extra proposals, because the user may skip some
SEEDS = 2**63
GONE_KEPT = 1000  # ids of ended sessions to remember

Shown = str | tuple[str, str]  # a text to rate, or two texts to choose from


@dataclass(frozen=True)
class Compared:
    """A sample of the base and one of the fine-tuned model with the same random numbers, and
    whether each is in the list that the base learned."""

    base: str
    tuned: str
    base_in_list: bool
    tuned_in_list: bool


@dataclass(frozen=True)
class Measured:
    """How much fine-tuning has changed the model, measured on samples at temperature 1.

    kl: KL(tuned ‖ base) in nats per document, kl_error: its standard error. liked, disliked: see
    `rating.likelihood_gain`. reward: DPO's implicit reward, β·(log p − log p of the base). It is
    the mean over samples of the fine-tuned model minus the mean over samples of the base, because
    the reward is only known up to a constant. novelty, base_novelty: share of novel samples.
    seconds: duration of the alignment.
    """

    kl: float
    kl_error: float
    liked: float
    disliked: float
    reward: float
    novelty: float
    base_novelty: float
    seconds: float


@dataclass(frozen=True)
class Rated:
    """The state of a session.

    model: id of the model that is aligned with the first num_aligned answers, or of the base before
    the first alignment. proposals: texts to rate until the next alignment, empty if the model finds
    no new texts.
    """

    id: str
    base: str
    model: str
    pairs: bool
    every: int
    seed: int
    answers: list[Feedback]
    num_aligned: int
    proposals: list[Shown]
    compared: list[Compared]
    measured: Measured | None


@dataclass
class RatedSession:
    """A session.

    Attributes:
        base: the base, with its own engine.
        rated: the current state.
        used: value of a counter at the last use.
        entry: the fine-tuned model in the registry.
        samples: samples of the base to compare with, empty until the first alignment.
        turn: how often the user asked for other proposals.
    """

    base: rating.Base
    rated: Rated
    used: int
    entry: Entry | None = None
    samples: list[str] = field(default_factory=list)
    turn: int = 0
    ended: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class Ratings:
    """All sessions. If there are too many, the least recently used one ends. `gone` has its id."""

    def __init__(self, registry: ModelRegistry, limits: Limits) -> None:
        self.registry = registry
        self.limits = limits
        self.sessions: dict[str, RatedSession] = {}
        self.gone: deque[str] = deque(maxlen=GONE_KEPT)
        self.lock = threading.Lock()
        self.clock = count()

    def start(self, model: str, *, pairs: bool, every: int, seed: int | None, stop: Stop) -> Rated:
        """Start a session. If the model was rated before, it has those answers. ConfigError for a
        text model."""
        base = open_base(self.registry.get(model))
        stop.check()
        seed = base.model.config.seed if seed is None else seed
        id, answers = secrets.token_hex(8), base.answers
        rated = Rated(id, model, model, pairs, every, seed % SEEDS, answers, 0, [], [], None)
        session = RatedSession(base, rated, next(self.clock))
        with session.lock:
            self._update(session, answers, stop, now=True)
        self._make_room()
        with self.lock:
            self.sessions[rated.id] = session
        return session.rated

    def _make_room(self) -> None:
        """End the least recently used session that is not computing."""
        with self.lock:
            oldest_first = sorted(self.sessions.values(), key=lambda session: session.used)
        for session in oldest_first:
            if len(self.sessions) < self.limits.sessions:
                return
            if session.lock.acquire(blocking=False):
                session.lock.release()
                self.gone.append(session.rated.id)
                self._end(session)

    def get(self, id: str) -> Rated:
        """Return the state of a session. WebError 404 for an unknown id, 410 for an ended one."""
        return self.session(id).rated

    def answer(self, id: str, answers: Sequence[Feedback], stop: Stop) -> Rated:
        """Add answers. After every `every` answers, or when no proposals are left, align the model
        and make new proposals. An empty list does both immediately.

        The last rating of a text counts. All pairs count, even if they contradict each other.
        TokenizerError if the model does not know a character.
        """
        with self.using(id) as session:
            check(session.base.model, answers)
            all_answers = [*session.rated.answers, *answers]
            if len(all_answers) > self.limits.answers:
                raise WebError(
                    409,
                    f"a session has at most {self.limits.answers:,} answers",
                    "save the model, and continue with the saved one",
                )
            session.turn += not answers
            self._update(session, all_answers, stop, now=not answers)
            return session.rated

    def undo(self, id: str, stop: Stop) -> Rated:
        """Undo the last answer, also in the model, and propose its text again."""
        with self.using(id) as session:
            if not session.rated.answers:
                raise WebError(409, "nothing to undo")
            *answers, last = session.rated.answers
            self._update(session, answers, stop, again=last)
            return session.rated

    def save(self, id: str, name: str, stop: Stop) -> Entry:
        """Save the model, aligned with all answers, under a name. `kamon rate` can resume it."""
        with self.using(id) as session:
            answers, base = session.rated.answers, session.base
            if not pairs_of(answers):
                why = "nothing to save yet: first like one text and dislike another"
                raise WebError(409, why)
            align = partial(rating.align, base, answers, should_stop=stop.check)
            return self.registry.write(name, "tuned", lambda path: align(output=path))

    def forget(self, id: str) -> None:
        """End a session and forget its model, except saved copies."""
        self._end(self.session(id))

    def _end(self, session: RatedSession) -> None:
        with self.lock:
            self.sessions.pop(session.rated.id, None)
        with session.lock:
            session.ended = True
            self._unregister(session)

    @contextmanager
    def using(self, id: str) -> Iterator[RatedSession]:
        """Hold a session, also during turns of other requests. WebError 404 if it was forgotten.

        Work that needs the session has it as its key, so that no other work waits for it.
        """
        session = self.session(id)
        with session.lock:
            if session.ended:
                raise not_found(f"session of ratings {id!r}")
            yield session

    def session(self, id: str) -> RatedSession:
        """Return the session with this id, and mark it as used. Raises the errors of `get`."""
        with self.lock:
            session = self.sessions.get(id)
            if session is None and id in self.gone:
                raise WebError(
                    410,
                    f"this session was closed: {self.limits.sessions} others were used after it",
                    "start a new one, and save the models you want to keep",
                )
            if session is None:
                raise not_found(f"session of ratings {id!r}")
            session.used = next(self.clock)
            return session

    def _update(
        self,
        session: RatedSession,
        answers: list[Feedback],
        stop: Stop,
        *,
        now: bool = False,
        again: Feedback | None = None,
    ) -> None:
        """Replace the state with one that has these answers. The caller holds the session.

        now: whether to align and make new proposals immediately. again: an answer whose text is the
        first proposal, unless it has another answer.
        """
        before = session.rated
        rated = texts_of(answers)
        proposals = [shown for shown in before.proposals if rated.isdisjoint(texts(shown))]
        undone = len(answers) < before.num_aligned
        now = now or not proposals
        every = 1 if undone or now else before.every
        tuned = None
        changes: dict[str, Any] = {}
        if rating.needs_realignment(answers, 0 if undone else before.num_aligned, every):
            start = time.perf_counter()
            tuned = rating.align(session.base, answers, should_stop=stop.check)
            seconds = time.perf_counter() - start
            stop.check()
            changes = self._measured(session, tuned, answers, seconds)
        stop.check()
        if tuned or undone or now:
            proposals = self._proposals(session, tuned, answers, by_base=undone and not tuned)
            stop.check()
        if again is not None and (first := shown_again(again, before.pairs)):
            its_texts = {*texts(first)}
            if rated.isdisjoint(its_texts):
                others = [shown for shown in proposals if its_texts.isdisjoint(texts(shown))]
                proposals = [first, *others]
        if tuned:
            changes |= {"num_aligned": len(answers), "model": self._register(session, tuned)}
        elif undone:
            self._unregister(session)
            changes = {"num_aligned": 0, "model": before.base, "measured": None, "compared": []}
        session.rated = replace(before, answers=answers, proposals=proposals, **changes)

    def _proposals(
        self, session: RatedSession, tuned: Model | None, answers: list[Feedback], *, by_base: bool
    ) -> list[Shown]:
        """Return new proposals by `tuned`, the session's model or, with by_base, the base."""
        rated = session.rated
        n = rated.every + NUM_PROPOSED
        seed = (rated.seed + len(answers) + session.turn) % SEEDS
        size = 2 * n if rated.pairs else n
        if tuned is None and session.entry and not by_base:
            with session.entry.use() as model:
                proposed = rating.proposals(model, size, seed, answers)
        else:
            proposed = rating.proposals(tuned or session.base.model, size, seed, answers)
        if rated.pairs:
            return list(zip(proposed[::2], proposed[1::2], strict=False))
        return [*proposed]

    def _measured(
        self, session: RatedSession, tuned: Model, answers: Sequence[Feedback], seconds: float
    ) -> dict[str, Any]:
        """Return the fields `measured` and `compared` of the session's next state."""
        base, seed = session.base.model, session.rated.seed
        n = NUM_MEASURED if has_fused_ops(base.engine) else NUM_MEASURED_SLOW
        session.samples = session.samples or base.sample(n, temperature=1.0, seed=seed)
        tuned_samples = tuned.sample(n, temperature=1.0, seed=seed)
        kl, error = sampled_kl(tuned, base, n, seed)
        liked, disliked = rating.likelihood_gain(tuned, base, answers)
        rewards = []
        for samples in (tuned_samples, session.samples):
            scores = [logprobs(model.engine, model.tokenizer, samples) for model in (tuned, base)]
            rewards.append(BETA * mean([p - q for p, q in zip(*scores, strict=True)]))
        copies = base.docs.intersection([*tuned_samples, *session.samples])
        compared = [
            Compared(before, after, before in copies, after in copies)
            for before, after in zip(session.samples, tuned_samples, strict=True)
        ]
        measured = Measured(
            kl=kl,
            kl_error=error,
            liked=liked,
            disliked=disliked,
            reward=rewards[0] - rewards[1],
            novelty=novelty(tuned_samples, copies),
            base_novelty=novelty(session.samples, copies),
            seconds=seconds,
        )
        return {"measured": measured, "compared": compared[:NUM_COMPARED]}

    def _register(self, session: RatedSession, tuned: Model) -> str:
        """Add the fine-tuned model to the registry, or replace the session's earlier one."""
        with self.lock:
            before = session.entry
            if before is None or self.registry.entries.get(before.id) is not before:
                id = next(id for n in count(1) if (id := f"rated-{n}") not in self.registry.entries)
            else:
                id = before.id
            entry = Entry(id, "tuned", lambda: tuned, opened=tuned)
            self.registry.add(entry)
        session.entry = entry
        return id

    def _unregister(self, session: RatedSession) -> None:
        entry, session.entry = session.entry, None
        if entry and self.registry.entries.get(entry.id) is entry:
            self.registry.forget(entry.id)


def open_base(entry: Entry) -> rating.Base:
    """Return the base of a session, with its own engine."""
    with entry.use() as model:
        if entry.path and model.training.kind == rating.KIND:
            return rating.opened(entry.path)
        engine = make_engine(None, model.config, dtype=model.engine.dtype)
        engine.load(model.engine.state())
        return rating.base_from(replace(model, engine=engine), entry.path)


def check(model: Model, answers: Sequence[Feedback]) -> None:
    """Raise an error for answers about texts that the model cannot read completely."""
    max_tokens = model.config.block_size
    for number, answer in enumerate(answers, 1):
        for text in sorted(texts_of([answer])):
            checked_text("the answers", f"number {number}", text)
            if not text:
                raise ConfigError(f"answer {number} rates an empty text")
            size = len(model.tokenizer.encode(text))
            if size > max_tokens:
                unit = model.tokenizer.unit
                raise ConfigError(
                    f"answer {number} has a text of {size:,} {unit}s, more than the "
                    f"model's block_size {max_tokens}"
                )
        if isinstance(answer, Preference) and nfc(answer.chosen) == nfc(answer.rejected):
            raise ConfigError(f"answer {number} compares a text with itself")


def texts(shown: Shown) -> Sequence[str]:
    return (shown,) if isinstance(shown, str) else shown


def shown_again(answer: Feedback, pairs: bool) -> Shown | None:
    """Return the text or pair of an answer, in an order that does not reveal the answer. None if
    the session does not show that kind."""
    if isinstance(answer, Rating):
        return None if pairs else answer.text
    first, second = sorted((answer.chosen, answer.rejected))
    return (first, second) if pairs else None
