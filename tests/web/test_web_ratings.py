"""Ratings at the page: the model follows the answers alone, whatever way they came."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import kamon
from helpers.lists import MORE_TRIPLES as DOCS
from kamon import ConfigError, CorpusError, Model, StoreError, TokenizerError
from kamon.engines.numerics import mean
from kamon.evaluation.nearest import logprobs
from kamon.finetuning import rating
from kamon.finetuning.dpo import BETA
from kamon.finetuning.metrics import novelty, sampled_kl
from kamon.finetuning.preferences import Feedback, Preference, Rating
from kamon.native import library
from kamon.storage import model_dir
from kamon.web.errors import WebError
from kamon.web.limits import Limits
from kamon.web.services.ratings import NUM_COMPARED, NUM_MEASURED, NUM_PROPOSED, Rated, Ratings
from kamon.web.services.registry import Entry, ModelRegistry
from kamon.web.services.workers import Stop, Stopped

pytestmark = pytest.mark.skipif(bool(library.why_not()), reason="the native engine is not built")

GO_ON = Stop()


@pytest.fixture(scope="module")
def base() -> Model:
    shape = {"n_embd": 8, "n_head": 2, "block_size": 8, "num_steps": 60, "learning_rate": 0.02}
    return kamon.train(DOCS, size="original", **shape)


@pytest.fixture
def ratings(base: Model, tmp_path: Path) -> Ratings:
    return ratings_of(base, tmp_path)


def ratings_of(model: Model, folder: Path, **limits: int) -> Ratings:
    bounds = Limits(**limits)  # type: ignore[arg-type]
    registry = ModelRegistry(folder, bounds)
    registry.add(Entry("m", "trained", lambda: model, opened=model))
    return Ratings(registry, bounds)


def start(ratings: Ratings, **how: Any) -> Rated:
    given: dict[str, Any] = {"pairs": False, "every": 5, "seed": None} | how
    return ratings.start(given.pop("model", "m"), **given, stop=GO_ON)


def verdicts(texts: Any) -> list[Feedback]:
    return [Rating(text, text[-1] in "nop") for text in texts]


def params(ratings: Ratings, rated: Rated) -> Any:
    with ratings.registry.get(rated.model).use() as model:
        return model.engine.state()["params"]


def aligned(base: Model, answers: list[Feedback]) -> Any:
    return rating.align(rating.base_from(base), answers).engine.state()["params"]


def test_the_model_learns_after_every_few_answers(base: Model, ratings: Ratings) -> None:
    rated = start(ratings)
    assert (rated.base, rated.model, rated.num_aligned, rated.measured) == ("m", "m", 0, None)
    assert rated.seed == base.config.seed
    wanted = 5 + NUM_PROPOSED
    assert rated.proposals == rating.proposals(base, wanted, rated.seed, [])
    given = verdicts(rated.proposals[:5])
    assert {each.liked for each in given if isinstance(each, Rating)} == {True, False}
    for number, answer in enumerate(given[:4], 1):
        before = rated
        rated = ratings.answer(rated.id, [answer], GO_ON)
        assert rated.proposals == before.proposals[1:]
        assert (rated.model, rated.num_aligned) == ("m", 0)
        assert rated.answers == given[:number]
    rated = ratings.answer(rated.id, given[4:], GO_ON)
    assert (rated.model, rated.num_aligned, rated.answers) == ("rated-1", 5, given)
    assert ratings.get(rated.id) is rated
    assert ratings.registry.get("rated-1").kind == "tuned"
    assert params(ratings, rated) == aligned(base, given)
    tuned = rating.align(rating.base_from(base), given)
    assert rated.proposals == rating.proposals(tuned, wanted, rated.seed + 5, given)
    assert not rating.texts_of(given).intersection(map(str, rated.proposals))
    more = verdicts(rated.proposals[:7])  # several at once
    rated = ratings.answer(rated.id, more, GO_ON)
    assert (rated.model, rated.num_aligned) == ("rated-1", 12)
    assert params(ratings, rated) == aligned(base, [*given, *more])


def test_what_is_measured(base: Model, ratings: Ratings) -> None:
    rated = start(ratings, seed=7)
    rated = ratings.answer(rated.id, verdicts(rated.proposals), GO_ON)
    tuned = rating.align(rating.base_from(base), rated.answers)
    own, other = (m.sample(NUM_MEASURED, temperature=1.0, seed=7) for m in (tuned, base))
    pairs = zip(other, own, strict=True)
    expected = [(a, b, a in DOCS, b in DOCS) for a, b in pairs][:NUM_COMPARED]
    compared = [(c.base, c.tuned, c.base_in_list, c.tuned_in_list) for c in rated.compared]
    assert compared == expected
    assert any(a and not b for _, _, a, b in compared) or len(set(compared)) > 1
    found = rated.measured
    assert found is not None
    assert (found.kl, found.kl_error) == sampled_kl(tuned, base, NUM_MEASURED, 7)
    assert (found.liked, found.disliked) == rating.likelihood_gain(tuned, base, rated.answers)
    assert found.liked > 1 > found.disliked

    def reward(texts: list[str]) -> float:
        costs = [logprobs(model.engine, model.tokenizer, texts) for model in (tuned, base)]
        return BETA * mean([p - q for p, q in zip(*costs, strict=True)])

    assert found.reward == pytest.approx(reward(own) - reward(other))
    assert found.reward > 0
    assert (found.novelty, found.base_novelty) == (novelty(own, DOCS), novelty(other, DOCS))
    assert 0 < found.seconds < 60


def test_pairs(base: Model, ratings: Ratings) -> None:
    rated = start(ratings, pairs=True, every=2)
    texts = rating.proposals(base, 2 * (2 + NUM_PROPOSED), rated.seed, [])
    assert rated.proposals == list(zip(texts[::2], texts[1::2], strict=True))
    (a, b), (c, d) = rated.proposals[:2]  # type: ignore[misc]
    rated = ratings.answer(rated.id, [Preference(b, a)], GO_ON)
    assert rated.proposals[0] == (c, d)
    rated = ratings.answer(rated.id, [Preference(c, d)], GO_ON)
    assert rated.num_aligned == 2
    assert params(ratings, rated) == aligned(base, [Preference(b, a), Preference(c, d)])
    rated = ratings.undo(rated.id, GO_ON)
    assert rated.proposals[0] == tuple(sorted((c, d)))
    assert params(ratings, rated) == aligned(base, [Preference(b, a)])
    assert not {a, b} & {text for pair in rated.proposals for text in pair}


def test_what_is_taken_back_leaves_no_trace(base: Model, ratings: Ratings) -> None:
    rated = start(ratings, every=3)
    first = rated.proposals
    given = [Rating(str(text), n % 2 == 0) for n, text in enumerate(first[:4])]
    rated = ratings.answer(rated.id, given[:3], GO_ON)
    rated = ratings.answer(rated.id, given[3:], GO_ON)
    assert (rated.num_aligned, len(rated.answers)) == (3, 4)
    proposals = rated.proposals
    rated = ratings.undo(rated.id, GO_ON)  # not learned yet: the model stays
    assert (rated.num_aligned, rated.answers) == (3, given[:3])
    assert rated.proposals == [given[3].text, *(p for p in proposals if p != given[3].text)]
    rated = ratings.undo(rated.id, GO_ON)
    assert (rated.num_aligned, rated.answers) == (2, given[:2])
    assert rated.proposals[0] == given[2].text
    assert params(ratings, rated) == aligned(base, given[:2])
    rated = ratings.undo(rated.id, GO_ON)  # nothing to compare any longer: the base again
    assert (rated.model, rated.num_aligned) == ("m", 0)
    assert (rated.measured, rated.compared) == (None, [])
    assert "rated-1" not in ratings.registry.entries
    assert rated.proposals[0] == given[1].text
    rated = ratings.undo(rated.id, GO_ON)
    assert rated.answers == []
    with pytest.raises(WebError, match="nothing to undo") as error:
        ratings.undo(rated.id, GO_ON)
    assert error.value.status == 409
    assert rated.proposals[0] == first[0]


def test_repeated_and_contradicting_answers(base: Model, ratings: Ratings) -> None:
    """Of two verdicts the later one counts."""
    rated = start(ratings, every=2)
    given: list[Feedback] = [Rating("ain", True), Rating("bjo", False), Rating("ain", False)]
    rated = ratings.answer(rated.id, given, GO_ON)
    assert (rated.model, rated.num_aligned, rated.answers) == ("m", 0, given)  # no pair
    rated = ratings.answer(rated.id, [Rating("ckp", True)], GO_ON)
    now: list[Feedback] = [Rating("ain", False), Rating("bjo", False), Rating("ckp", True)]
    assert rated.num_aligned == 4
    assert params(ratings, rated) == aligned(base, now)
    rated = ratings.answer(rated.id, [Rating("ain", True)], GO_ON)
    rated = ratings.undo(rated.id, GO_ON)
    assert "ain" not in rated.proposals  # an earlier answer about it is left


def test_no_answers_ask_for_other_proposals_at_once(base: Model, ratings: Ratings) -> None:
    rated = start(ratings, every=50)
    first = rated.proposals
    other = ratings.answer(rated.id, [], GO_ON)
    assert other.proposals != first
    assert other.proposals == rating.proposals(base, 60, rated.seed + 1, [])
    assert other.num_aligned == 0
    given = verdicts(other.proposals[:4])
    rated = ratings.answer(rated.id, given, GO_ON)
    assert rated.num_aligned == 0
    rated = ratings.answer(rated.id, [], GO_ON)
    assert rated.num_aligned == 4
    assert params(ratings, rated) == aligned(base, given)
    again = ratings.answer(rated.id, [], GO_ON)  # by the tuned model, without another alignment
    with ratings.registry.get("rated-1").use() as tuned:
        assert again.proposals == rating.proposals(tuned, 60, rated.seed + 4 + 3, given)


def test_a_model_that_has_nothing_new_to_say(tmp_path: Path) -> None:
    shape: dict[str, Any] = {"n_embd": 4, "n_head": 1, "block_size": 2}
    model = kamon.train(["ab", "ac"], num_steps=400, hold_out=False, **shape)
    ratings = ratings_of(model, tmp_path)
    rated = start(ratings, every=50)
    said = len(rated.proposals)
    assert said < 50
    for number, text in enumerate(rated.proposals, 1):
        assert rated.num_aligned == 0
        rated = ratings.answer(rated.id, [Rating(str(text), number % 2 == 0)], GO_ON)
    assert rated.num_aligned == said  # at once: there was nothing left to rate
    for _ in range(10):
        rated = ratings.answer(rated.id, verdicts(rated.proposals), GO_ON)
    assert rated.proposals == []


def test_a_model_in_use_stays_as_it_is(ratings: Ratings) -> None:
    """Who holds the tuned model while it learns more keeps the one that they have."""
    rated = start(ratings, every=2)
    rated = ratings.answer(rated.id, verdicts(["ain", "bjq"]), GO_ON)
    entry = ratings.registry.get("rated-1")
    with entry.use() as model:
        before = model.engine.state()["params"]
        rated = ratings.answer(rated.id, verdicts(["ckn", "dlq"]), GO_ON)
        assert model.engine.state()["params"] == before
    assert params(ratings, rated) != before
    assert ratings.registry.get("rated-1") is not entry
    ratings.registry.forget("rated-1")  # by its own route: it comes back when it has learned more
    ratings.answer(rated.id, verdicts(["ekn", "flq"]), GO_ON)
    assert ratings.registry.get("rated-1").kind == "tuned"


def test_saved_and_gone_on_with(base: Model, ratings: Ratings, tmp_path: Path) -> None:
    rated = start(ratings, every=4)
    with pytest.raises(WebError, match="nothing to save yet") as error:
        ratings.save(rated.id, "mine", GO_ON)
    assert error.value.status == 409
    given = verdicts(["ain", "bjq", "ckn", "dlq", "ekn"])  # the last one not learned yet
    for answer in given:
        rated = ratings.answer(rated.id, [answer], GO_ON)
    assert rated.num_aligned == 4
    ratings.save(rated.id, "mine", GO_ON)
    assert kamon.load(tmp_path / "mine").engine.state()["params"] == aligned(base, given)
    assert model_dir.load(tmp_path / "mine").reference_params == base.engine.state()["params"]
    entry = ratings.registry.get("mine")
    assert (entry.kind, entry.path) == ("tuned", tmp_path / "mine")
    assert rating.opened(tmp_path / "mine").answers == given
    with pytest.raises(WebError, match="a model named mine already exists"):
        ratings.save(rated.id, "mine", GO_ON)
    with pytest.raises(WebError, match="name is not valid"):
        ratings.save(rated.id, "../mine", GO_ON)
    other = start(ratings, model="mine", every=50)
    assert (other.base, other.answers, other.num_aligned) == ("mine", given, 5)
    assert params(ratings, other) == aligned(base, given)
    other = ratings.undo(other.id, GO_ON)
    assert params(ratings, other) == aligned(base, given[:4])

    ratings.registry.save("rated-1", "plain")  # as any model, without what it learned from
    assert rating.opened(tmp_path / "plain").answers == []
    plain = start(ratings, model="plain")
    assert (plain.answers, plain.num_aligned) == ([], 0)


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (Rating("Éa", True), TokenizerError, "U\\+00C9"),
        (Rating("", True), ConfigError, "answer 2 rates an empty text"),
        (
            Rating("ainbjockp", True),
            ConfigError,
            "9 characters, more than the model's block_size 8",
        ),
        (Rating("a\0", True), CorpusError, "NUL"),
        (Preference("ain", "ain"), ConfigError, "answer 2 compares a text with itself"),
        (Preference("ain", "É"), TokenizerError, "U\\+00C9"),
    ],
)
def test_answers_that_cannot_be(
    answer: Feedback, error: type[Exception], said: str, ratings: Ratings
) -> None:
    rated = start(ratings, every=1)
    with pytest.raises(error, match=said):
        ratings.answer(rated.id, [Rating("ain", True), answer], GO_ON)
    assert ratings.get(rated.id) is rated
    assert ratings.answer(rated.id, [Rating("ainbjock", True)], GO_ON).answers


def test_bounds(base: Model, tmp_path: Path) -> None:
    ratings = ratings_of(base, tmp_path, sessions=2, answers=3)
    first, second = start(ratings), start(ratings, every=2)
    second = ratings.answer(second.id, verdicts(["ain", "bjq"]), GO_ON)
    with pytest.raises(WebError, match="at most 3 answers") as error:
        ratings.answer(second.id, verdicts(["ckn", "dlq"]), GO_ON)
    assert error.value.status == 409
    assert ratings.get(second.id) is second
    ratings.get(first.id)
    third = start(ratings)  # the second was not used for longest
    assert set(ratings.sessions) == {first.id, third.id}
    assert "rated-1" not in ratings.registry.entries
    for gone, status, said in (
        (second.id, 410, "closed: 2 others were used after it"),
        ("x", 404, "no session of ratings"),
    ):
        with pytest.raises(WebError, match=said) as error:
            ratings.get(gone)
        assert error.value.status == status
    ratings.forget(third.id)
    assert set(ratings.sessions) == {first.id}


def test_no_room_on_the_shelf(base: Model, tmp_path: Path) -> None:
    """A session needs none before it is saved, and nothing is learned or written for nothing."""
    ratings = ratings_of(base, tmp_path, models=1)
    rated = start(ratings, every=2)
    ratings.answer(rated.id, verdicts(["ain", "bjq"]), GO_ON)
    ratings.save(rated.id, "first", GO_ON)
    with pytest.raises(StoreError, match="the limit is 1 saved models"):
        ratings.save(rated.id, "second", GO_ON)
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_a_save_that_is_given_up_writes_nothing(ratings: Ratings, tmp_path: Path) -> None:
    rated = start(ratings)
    ratings.answer(rated.id, verdicts(["ain", "bjq"]), GO_ON)
    stop = Stop()
    stop.event.set()
    with pytest.raises(Stopped):
        ratings.save(rated.id, "mine", stop)
    assert list(tmp_path.iterdir()) == []
    assert "mine" not in ratings.registry.entries
    ratings.save(rated.id, "mine", GO_ON)


def test_a_model_of_text(tmp_path: Path) -> None:
    model = kamon.train([" ".join(DOCS * 5)], mode="text", num_steps=1, n_embd=4, block_size=8)
    ratings = ratings_of(model, tmp_path)
    with pytest.raises(ConfigError, match="rating needs a model of a list"):
        start(ratings)
    assert ratings.sessions == {}


def test_a_base_that_is_gone_and_the_engine_of_its_own(base: Model, ratings: Ratings) -> None:
    before = base.engine.state()["params"]
    rated = start(ratings, every=2)
    ratings.registry.forget("m")
    rated = ratings.answer(rated.id, verdicts(["ain", "bjq"]), GO_ON)
    assert rated.num_aligned == 2
    assert base.engine.state()["params"] == before
    assert ratings.sessions[rated.id].base.model.engine is not base.engine


def test_a_client_that_went_away_changes_nothing(ratings: Ratings) -> None:
    rated = start(ratings, every=2)
    gone = Stop()
    gone.event.set()
    with pytest.raises(Stopped):
        ratings.answer(rated.id, verdicts(["ain", "bjq"]), gone)
    assert ratings.get(rated.id) is rated
    assert "rated-1" not in ratings.registry.entries
    with pytest.raises(Stopped):
        ratings.start("m", pairs=False, every=5, seed=None, stop=gone)
    assert set(ratings.sessions) == {rated.id}


def test_many_at_once(base: Model, ratings: Ratings) -> None:
    """Answers, undoing and another user of the tuned model at the same time: none is lost."""
    rated = start(ratings, every=3)
    problems: list[BaseException] = []

    def answer(letters: str) -> None:
        try:
            for text in [a + b + "n" for a in letters for b in "ij"]:
                ratings.answer(rated.id, verdicts([text]), GO_ON)
                if entry := ratings.registry.entries.get("rated-1"):
                    with entry.use() as model:
                        model.sample(5)
        except BaseException as error:
            problems.append(error)

    ratings.answer(rated.id, verdicts(["ajq"]), GO_ON)
    threads = [threading.Thread(target=answer, args=(letters,)) for letters in ("ab", "cd", "ef")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    found = ratings.get(rated.id)
    assert len(found.answers) == 13
    answers = found.answers[: found.num_aligned]
    assert params(ratings, found) == aligned(base, answers)


def test_forgotten_while_it_is_waited_for(ratings: Ratings) -> None:
    rated = start(ratings)
    session = ratings.sessions[rated.id]
    problems: list[BaseException] = []

    def answer() -> None:
        try:
            ratings.answer(rated.id, verdicts(["ain"]), GO_ON)
        except WebError as error:
            problems.append(error)

    used = session.used
    with session.lock:
        thread = threading.Thread(target=answer)
        thread.start()
        while session.used == used:  # it waits for the session then
            time.sleep(0.001)
        session.ended = True
    thread.join()
    assert [getattr(error, "status", 0) for error in problems] == [404]


@pytest.fixture
def asking(base: Model, tmp_path: Path) -> Any:
    pytest.importorskip("fastapi", reason="the server is in kamon[web]")
    from helpers.app import Asking

    return Asking(tmp_path, {"m": base})


@pytest.mark.extra
def test_the_routes(asking: Any, base: Model) -> None:
    status, rated = asking.post("/preferences", model="m", every=2, seed=3)
    assert status == 201
    own = asking.playground.ratings
    known = start(ratings_of(base, own.registry.folder), every=2, seed=3)
    assert rated == json.loads(json.dumps(asdict(known))) | {"id": rated["id"]}
    path = f"/preferences/{rated['id']}"
    assert asking.get(path) == (200, rated)
    answers = [{"text": "ain", "liked": True}, {"chosen": "ckn", "rejected": "dlq"}]
    status, rated = asking.post(f"{path}/answers", answers=answers)
    assert status == 200
    assert rated["answers"] == [each | {"prompt": None} for each in answers]
    assert (rated["model"], rated["num_aligned"]) == ("rated-1", 2)
    assert set(rated["compared"][0]) == {"base", "tuned", "base_in_list", "tuned_in_list"}
    assert set(rated["measured"]) == {
        *("kl", "kl_error", "liked", "disliked", "reward", "novelty", "base_novelty", "seconds")
    }
    assert asking.get("/models/rated-1")[1]["kind"] == "tuned"
    status, info = asking.post(f"{path}/save", name="mine")
    assert (status, info["id"], info["kind"], info["saved"]) == (201, "mine", "tuned", True)
    status, rated = asking.delete(f"{path}/answers/last")
    assert (status, rated["answers"], rated["model"]) == (200, [answers[0] | {"prompt": None}], "m")
    assert asking.delete(path) == (204, None)
    assert asking.get(path)[0] == 404

    status, rated = asking.post("/preferences", model="m", pairs=True)
    assert all(isinstance(pair, list) and len(pair) == 2 for pair in rated["proposals"])
    path = f"/preferences/{rated['id']}"
    for where, body, status, said in (
        ("/preferences", {"model": "x"}, 404, "no model 'x'"),
        ("/preferences", {"model": "m", "every": 0}, 422, "every"),
        ("/preferences", {"model": "m", "prompt": "a"}, 422, "prompt"),
        (f"{path}/answers", {"answers": [{"text": "É", "liked": True}]}, 422, "U+00C9"),
        (f"{path}/answers", {"answers": [{"text": "a"}]}, 422, "answers.0"),
        (f"{path}/answers", {"answers": "a"}, 422, "answers"),
        (f"{path}/save", {"name": "new"}, 409, "nothing to save yet"),
        ("/preferences/x/answers", {"answers": []}, 404, "no session"),
        ("/preferences/x/save", {"name": "a"}, 404, "no session"),
    ):
        found, answer = asking.post(where, **body)
        assert found == status, answer
        assert said in answer["error"]
    assert asking.delete(f"{path}/answers/last")[0] == 409
    assert asking.delete("/preferences/x")[0] == 404
    assert asking.delete("/preferences/x/answers/last")[0] == 404
