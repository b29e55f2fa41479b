"""Models that learn from the answers of somebody at a page: `rating`, a request at a time.

What a session has come to is a `Rated`, which never changes: a request makes the next one, which
takes its place when all of it is there. So a request that fails, or whose client goes away, has no
effect.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from kamon.data.corpus import checked_text
from kamon.data.documents import nfc
from kamon.engines.base import has_fused_ops
from kamon.engines.factory import make_engine
from kamon.engines.numerics import mean
from kamon.errors import ConfigError
from kamon.evaluation.nearest import logprobs
from kamon.finetuning import rating
from kamon.finetuning.dpo import BETA
from kamon.finetuning.metrics import novelty, sampled_kl
from kamon.finetuning.preferences import Feedback, Preference, Rating, pairs_of, texts_of
from kamon.web.errors import WebError, not_found
from kamon.web.limits import Limits
from kamon.web.services.registry import Entry, ModelRegistry
from kamon.web.services.workers import Stop

if TYPE_CHECKING:
    from kamon.model import Model

NUM_MEASURED = 100  # samples that are measured, of the base and of the tuned model
NUM_MEASURED_SLOW = 10  # by the scalar engine
NUM_COMPARED = 10  # of them are shown
NUM_PROPOSED = 10  # more than are rated until the next alignment: some are passed over
SEEDS = 2**63
GONE_KEPT = 1000  # ids of sessions that made room for others

Shown = str | tuple[str, str]  # a text, or two to choose from


@dataclass(frozen=True)
class Compared:
    """A sample of the base and one of the tuned model by the same draws; whether they are copies of
    the list that was learned."""

    base: str
    tuned: str
    base_in_list: bool
    tuned_in_list: bool


@dataclass(frozen=True)
class Measured:
    """How far the tuned model has moved, by samples at temperature 1.

    kl: KL(tuned ‖ base) in nats per document, kl_error its standard error. liked, disliked: as of
    `rating.more likely`. reward: DPO's own, β·(log p − log p of the base), which is known but for a
    constant: so the mean over samples of the tuned model, less that over samples of the base.
    novelty, base_novelty: the share of samples that the list does not have. seconds: that the
    alignment took.
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
    """What a session has come to.

    model: the id of the model, which is aligned with the first num_aligned answers; that of the
    base, where there was nothing to align with. proposals: what is not rated yet, and all to come
    until the next alignment; none where the model has nothing else to say.
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
    """base: with an engine of its own. samples: of the base, to compare with, once they are made.

    turn: how often other proposals were asked for. used: when it was last, of a counter.
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
    """The sessions. If there are too many, the one that was not used for longest is ended; `gone`
    remembers its id."""

    def __init__(self, registry: ModelRegistry, limits: Limits) -> None:
        self.registry = registry
        self.limits = limits
        self.sessions: dict[str, RatedSession] = {}
        self.gone: deque[str] = deque(maxlen=GONE_KEPT)
        self.lock = threading.Lock()
        self.clock = count()

    def start(self, model: str, *, pairs: bool, every: int, seed: int | None, stop: Stop) -> Rated:
        """Of a model that was rated before, with its answers. ConfigError for a model of text."""
        base = open_base(self.registry.get(model))
        stop.check()
        seed = base.model.config.seed if seed is None else seed
        rated = Rated(
            *(secrets.token_hex(8), model, model, pairs, every, seed % SEEDS),
            *(base.answers, 0, [], [], None),
        )
        session = RatedSession(base, rated, next(self.clock))
        with session.lock:
            self._go_on(session, base.answers, stop, now=True)
        self._make_room()
        with self.lock:
            self.sessions[rated.id] = session
        return session.rated

    def _make_room(self) -> None:
        """End what was not used for longest, but no session that computes: nobody waits for it."""
        with self.lock:
            idle = sorted(self.sessions.values(), key=lambda each: each.used)
        for each in idle:
            if len(self.sessions) < self.limits.sessions:
                return
            if each.lock.acquire(blocking=False):
                each.lock.release()
                self.gone.append(each.rated.id)
                self._end(each)

    def get(self, id: str) -> Rated:
        """WebError 404 for an id that nothing has, 410 for a session that made room for others."""
        return self.session(id).rated

    def answer(self, id: str, answers: Sequence[Feedback], stop: Stop) -> Rated:
        """More answers; the model is aligned again where `every` have come since, or nothing is
        left to propose. No answers ask for both at once.

        Of two verdicts about one text the later one counts; pairs count each, also those that
        contradict each other. TokenizerError for a character that the model does not know.
        """
        session = self.session(id)
        check(session.base.model, answers)
        with using(session):
            both = [*session.rated.answers, *answers]
            if len(both) > self.limits.answers:
                raise WebError(
                    409,
                    f"a session takes {self.limits.answers:,} answers at most: save the model, and "
                    "go on with that",
                )
            session.turn += not answers
            self._go_on(session, both, stop, now=not answers)
            return session.rated

    def undo(self, id: str, stop: Stop) -> Rated:
        """Take the last answer back; it leaves no trace in the model. What it was about is proposed
        again, first."""
        session = self.session(id)
        with using(session):
            if not session.rated.answers:
                raise WebError(409, "there is no answer to take back")
            *answers, last = session.rated.answers
            self._go_on(session, answers, stop, again=last)
            return session.rated

    def save(self, id: str, name: str, stop: Stop) -> None:
        """Write the base, aligned with all answers, under a name: `kamon rate` goes on with it."""
        session = self.session(id)
        with using(session):
            answers, base = session.rated.answers, session.base
            if not pairs_of(answers):
                raise WebError(
                    409, "there is nothing to save yet: like one, and dislike another, first"
                )

            def write(path: Path) -> None:
                rating.align(base, answers, output=path, should_stop=stop.check)

            self.registry.write(name, "tuned", write)

    def forget(self, id: str) -> None:
        """A session and its model; what was saved stays."""
        self._end(self.session(id))

    def _end(self, session: RatedSession) -> None:
        with self.lock:
            self.sessions.pop(session.rated.id, None)
        with session.lock:
            session.ended = True
            self._take_down(session)

    def session(self, id: str) -> RatedSession:
        """Return the session with this id, and count it as used. Errors as of `get`."""
        with self.lock:
            session = self.sessions.get(id)
            if session is None and id in self.gone:
                raise WebError(
                    410,
                    f"this session was ended: {self.limits.sessions} others were in use after it; "
                    "begin another one, and save what you want to keep",
                )
            if session is None:
                raise not_found(f"session of ratings {id!r}")
            session.used = next(self.clock)
            return session

    def _go_on(
        self,
        session: RatedSession,
        answers: list[Feedback],
        stop: Stop,
        *,
        now: bool = False,
        again: Feedback | None = None,
    ) -> None:
        """To these answers, by who holds the session. now: whether to align and propose again at
        once; again: what is proposed first, if it still may be."""
        before, base = session.rated, session.base
        known = texts_of(answers)
        left = [each for each in before.proposals if known.isdisjoint(texts(each))]
        undone = len(answers) < before.num_aligned
        empty = now or not left
        every = 1 if undone or empty else before.every
        aligned = 0 if undone else before.num_aligned
        model, measured, compared = before.model, before.measured, before.compared
        tuned = None
        if rating.needs_realignment(answers, aligned, every):
            start = time.perf_counter()
            tuned = rating.align(base, answers, should_stop=stop.check)
            seconds = time.perf_counter() - start
            stop.check()
            aligned = len(answers)
            measured, compared = self._measured(session, tuned, answers, seconds)
        stop.check()
        if tuned or undone or empty:
            left = self._proposals(session, tuned, answers, back=undone and not tuned)
            stop.check()
        if again is not None and (shown := shown_again(again, before.pairs)):
            here = {*texts(shown)}
            if known.isdisjoint(here):
                left = [shown, *(each for each in left if here.isdisjoint(texts(each)))]
        if tuned:
            model = self._put_up(session, tuned)
        elif undone:
            self._take_down(session)
            aligned, model, measured, compared = 0, before.base, None, []
        session.rated = replace(
            before,
            model=model,
            answers=answers,
            num_aligned=aligned,
            proposals=left,
            compared=compared,
            measured=measured,
        )

    def _proposals(
        self, session: RatedSession, tuned: Model | None, answers: Sequence[Feedback], *, back: bool
    ) -> list[Shown]:
        """By the model that was just tuned, or else by the session's; back: by the base."""
        rated = session.rated
        n = rated.every + NUM_PROPOSED
        seed = (rated.seed + len(answers) + session.turn) % SEEDS
        size = 2 * n if rated.pairs else n
        if tuned is None and session.entry and not back:
            with session.entry.use() as model:
                found = rating.proposals(model, size, seed, answers)
        else:
            found = rating.proposals(tuned or session.base.model, size, seed, answers)
        return list(zip(found[::2], found[1::2], strict=False)) if rated.pairs else [*found]

    def _measured(
        self, session: RatedSession, tuned: Model, answers: Sequence[Feedback], seconds: float
    ) -> tuple[Measured, list[Compared]]:
        base, seed = session.base.model, session.rated.seed
        n = NUM_MEASURED if has_fused_ops(base.engine) else NUM_MEASURED_SLOW
        session.samples = session.samples or base.sample(n, temperature=1.0, seed=seed)
        own, other = tuned.sample(n, temperature=1.0, seed=seed), session.samples
        kl, error = sampled_kl(tuned, base, n, seed)
        liked, disliked = rating.likelihood_gain(tuned, base, answers)
        rewards = []
        for some in (own, other):
            scores = [logprobs(model.engine, model.tokenizer, some) for model in (tuned, base)]
            rewards.append(BETA * mean([p - q for p, q in zip(*scores, strict=True)]))
        copies = base.docs.intersection([*own, *other])
        compared = [
            Compared(left, right, left in copies, right in copies)
            for left, right in zip(other, own, strict=True)
        ]
        measured = Measured(
            *(kl, error, liked, disliked, rewards[0] - rewards[1]),
            *(novelty(own, copies), novelty(other, copies), seconds),
        )
        return measured, compared[:NUM_COMPARED]

    def _put_up(self, session: RatedSession, tuned: Model) -> str:
        """On the shelf, in the place of the session's model before, if that is still there."""
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

    def _take_down(self, session: RatedSession) -> None:
        entry, session.entry = session.entry, None
        if entry and self.registry.entries.get(entry.id) is entry:
            self.registry.forget(entry.id)


@contextmanager
def using(session: RatedSession) -> Iterator[None]:
    """Hold a session. WebError 404 where it was forgotten meanwhile.

    It stays held while others have their turn: what needs it has the session as its key.
    """
    with session.lock:
        if session.ended:
            raise not_found(f"session of ratings {session.rated.id!r}")
        yield


def open_base(entry: Entry) -> rating.Base:
    """The base of a session, with an engine of its own: nobody else uses it."""
    with entry.use() as model:
        model.check_documents("ratings are of documents")
        if entry.path and model.training.get("tuning", {}).get("kind") == rating.KIND:
            return rating.opened(entry.path)
        engine = make_engine(None, model.config, dtype=model.engine.dtype)
        engine.load(model.engine.state())
        return rating.base_from(replace(model, engine=engine), entry.path)


def check(model: Model, answers: Sequence[Feedback]) -> None:
    """Refuse what the model cannot read whole."""
    most = model.config.block_size
    for number, answer in enumerate(answers, 1):
        for text in sorted(texts_of([answer])):
            checked_text("the answers", f"number {number}", text)
            if not text:
                raise ConfigError(f"answer {number} is about an empty text")
            size = len(model.tokenizer.encode(text))
            if size > most:
                unit = model.tokenizer.unit
                raise ConfigError(
                    f"answer {number} is about a text of {size:,} {unit}s: block_size {most} is "
                    "all that the model reads"
                )
        if isinstance(answer, Preference) and nfc(answer.chosen) == nfc(answer.rejected):
            raise ConfigError(f"answer {number} prefers a text to itself")


def texts(shown: Shown) -> Sequence[str]:
    return (shown,) if isinstance(shown, str) else shown


def shown_again(answer: Feedback, pairs: bool) -> Shown | None:
    """What an answer was about, in an order that does not tell it; None where that is not shown."""
    if isinstance(answer, Rating):
        return None if pairs else answer.text
    first, second = sorted((answer.chosen, answer.rejected))
    return (first, second) if pairs else None
