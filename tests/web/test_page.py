"""The page of `kamon serve` in a real browser: every view, by keys alone, in both themes."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kamon
from helpers.lists import DOCS, PEOPLE
from helpers.server import CHROMIUM, Server, serving
from helpers.server import until as serving_until
from kamon.engines.philox import uniform
from kamon.engines.scalar import Value
from kamon.generation.constraints import GenerationConstraints, allowed
from kamon.generation.sampling import probabilities, sample_token

pytest.importorskip("uvicorn", reason="the server is in kamon[web]")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")

ARABIC = ["عيسى", "محمد", "كمال", "فاطمة"]
VIEWS = ["train", "generate", "teach", "inside", "data"]
pytestmark = [pytest.mark.extra]
if CHROMIUM is None and not os.environ.get("CI"):
    pytestmark.append(pytest.mark.skip(reason="no Chromium is installed"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    kamon.train(["<b>bad</b>", *DOCS], num_steps=60, init_from="scratch", output=folder / "m")
    kamon.train([*ARABIC, f"{ARABIC[0]}\u202e" + "a" * 40], num_steps=2, output=folder / "ar")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(folder, "ar", "m") as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    assert CHROMIUM is not None, "CI needs a Chromium: .ci/run installs it"
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page that notes what it must not do: complain, or ask anybody but its server."""

    def __init__(self, browser: Any, server: Server, **options: Any) -> None:
        self.base = server.url
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("console", self.hear)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", self.see)
        self.waiting = 0  # for so many answers
        for event in ("requestfinished", "requestfailed"):
            self.page.on(event, self.done)

    def hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)

    def see(self, request: Any) -> None:
        self.waiting += 1
        if not request.url.startswith((self.base, "blob:" + self.base)):
            self.wrong.append(request.url)

    def done(self, _: Any) -> None:
        self.waiting -= 1

    def open(self, query: str) -> Any:
        self.page.goto(f"{self.base}?model=m&{query}")
        self.page.wait_for_selector("main h1")
        quiet = 0  # "networkidle" would be half a second without a request
        while quiet < 3:
            self.page.wait_for_timeout(40)
            quiet = 0 if self.waiting else quiet + 1
        return self.page

    def keys(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)


@pytest.fixture
def watched(browser: Any, server: Server) -> Iterator[Watched]:
    watched = Watched(browser, server)
    yield watched
    watched.context.close()
    assert watched.wrong == []


def until(page: Any, condition: str) -> None:
    """Wait for it; playwright's own way would need what the page's policy forbids."""
    serving_until(lambda: page.evaluate(condition))


# ---- the sampler, in two languages


def test_the_samplers_are_one(watched: Watched) -> None:
    """The draws and choices of sampler.js are those of Python."""
    rng = random.Random(1)
    cases: list[dict[str, Any]] = []
    for _ in range(300):
        size = rng.randint(1, 60)
        logits = [rng.choice([rng.gauss(0, 3), float(rng.randint(-2, 2))]) for _ in range(size)]
        cases.append(
            {
                "logits": logits,
                "temperature": rng.choice([0.0, 0.3, 1.0, 1.7, 1e-320, 1e-3]),
                "seed": rng.choice([rng.randint(0, 2**64 - 1), -1, 42, 2**63]),
                "index": rng.randint(0, 10**6),
                "position": rng.randint(0, 300),
                "excluded": rng.sample(range(size), rng.randint(0, size // 3)),
                "conditions": {
                    "top_k": rng.choice([None, 1, 3, 20]),
                    "top_p": rng.choice([1.0, 0.9, 0.5, 0.05]),
                },
            }
        )
    wanted = []
    for c in cases:
        logits, heat = c["logits"], c["temperature"]
        u = uniform(c["seed"], c["index"], c["position"])
        conditions = GenerationConstraints(**c["conditions"])
        tokens = [token for token in range(len(logits)) if token not in c["excluded"]]
        stay = allowed(heat, conditions, logits, tokens)
        token = stay[sample_token([logits[t] for t in stay], heat, u)] if stay else None
        wanted.append((u, probabilities(logits, heat), stay, token))
    page = watched.open("view=data")
    found = page.evaluate(
        """async (text) => {
            const s = await import("/static/sampler.js");
            return JSON.parse(text).map((c) => {
                const u = s.uniform(BigInt(c.seed), c.index, c.position);
                const stay = s.allowed(c.logits, c.temperature, c.conditions,
                    new Set(c.excluded));
                const place = stay.length
                    ? s.choose(stay.map((t) => c.logits[t]), c.temperature, u) : null;
                return [u, s.probabilities(c.logits, c.temperature), stay,
                    place === null ? null : stay[place]];
            });
        }""",
        json.dumps([{**c, "seed": str(c["seed"])} for c in cases]),
    )
    for (u, shares, stay, token), theirs in zip(wanted, found, strict=True):
        assert theirs[0] == u
        assert theirs[1] == pytest.approx(shares, rel=1e-14, abs=0)
        assert theirs[2:] == [stay, token]


def finished(server: Server, prefix: str, seed: int, temperature: float, top_k: int = 99) -> str:
    """Return what Finish makes: a sample, one token after the other."""
    while True:
        asked = {"model": "m", "prefix": prefix, "temperature": 1}
        found = server.json("POST", "/next-token", asked)
        logits = [each["logit"] for each in found["tokens"]]
        kept = [i for i, each in enumerate(found["tokens"]) if each["kept"]]
        stay = allowed(temperature, GenerationConstraints(top_k=top_k), logits, kept)
        u = uniform(seed, 0, found["position"])
        token = stay[sample_token([logits[i] for i in stay], temperature, u)]
        if found["tokens"][token]["id"] == found["end"]:
            return prefix
        prefix += found["tokens"][token]["text"]


def test_finish_samples_until_the_end(watched: Watched, server: Server) -> None:
    """Without a prefix, it makes the sample of the seed."""
    for seed, top_k, prefix in ((7, 27, ""), (8, 3, ""), (7, 27, "k")):
        page = watched.open(
            f"view=generate&seed={seed}&top_k={top_k}&temperature=0.7&prefix={prefix}"
        )
        text = finished(server, prefix, seed, 0.7, top_k)
        asked = {"model": "m", "n": 1, "seed": seed, "top_k": top_k, "temperature": 0.7}
        if prefix:
            asked |= {"prefix": text, "max_len": len(text)}
        (wanted,) = server.json("POST", "/sample", asked)["samples"]
        assert text == wanted["text"]
        page.get_by_role("button", name="Finish").click()
        until(page, "document.querySelector('.told strong')")
        assert page.inner_text(".told strong") == wanted["text"]
        marked = page.inner_text(".told .mark")
        assert ("in the list" in marked) == wanted["in_list"]


def test_again_is_another(watched: Watched, server: Server) -> None:
    """Finish, Another, Generate and Generate again: by the seeds after, each of which is shown."""
    page = watched.open("view=generate&prefix=b")
    temperature = server.json("GET", "/models/m")["config"]["temperature"]
    assert page.get_by_label("Temperature").input_value() == str(temperature)

    def sampled(**asked: Any) -> list[str]:
        return [
            e["text"] for e in server.json("POST", "/sample", {"model": "m", **asked})["samples"]
        ]

    page.get_by_role("button", name="Finish").focus()
    watched.keys("Enter")
    for seed in (42, 43, 44):
        wanted = finished(server, "b", seed, temperature)
        until(page, f"document.querySelector('.told strong')?.textContent === '{wanted}'")
        assert page.get_by_label("Seed").input_value() == str(seed)
        assert page.evaluate("document.activeElement.textContent") == "Another"
        if seed < 44:
            watched.keys("Enter")
    seen = []
    for seed in (44, 45):
        page.get_by_role("button", name="Generate").click()
        until(page, f"document.querySelector('[aria-busy=false]')?.textContent.includes({seed})")
        seen.append(page.locator(".samples .name").all_inner_texts())
        assert seen[-1] == sampled(n=20, seed=seed, novel=True, unique=True)
    page.get_by_label("Include copies of the list and duplicates").check()
    page.get_by_role("button", name="Generate").click()  # of the same seed, since asked otherwise
    until(page, "document.querySelector('[aria-busy=false]')?.textContent.includes('in the list')")
    assert page.get_by_label("Seed").input_value() == "45"
    assert seen[0] != seen[1]


def test_a_capital_is_read_as_the_letter_that_is_known(watched: Watched) -> None:
    page = watched.open("view=inside&text=Bánna")
    until(page, "document.querySelectorAll('.tokens li').length === 6")
    assert "Read as “banna”" in page.inner_text("main")
    shown = page.get_by_role("heading", name="Attention")
    for text, says in (("b9", "does not know “9”"), ("", "Type a text")):
        page.get_by_label("Text", exact=True).fill(text)
        until(page, f"document.querySelector('main').textContent.includes('{says}')")
        assert not shown.is_visible()  # nothing of the text before
        assert not page.locator(".tokens").is_visible()
        assert page.locator("svg .point.lit").count() == 0
    page.get_by_label("Text", exact=True).fill("b")
    until(page, "document.querySelectorAll('.tokens li').length === 2")
    assert shown.is_visible()
    assert page.locator("main .error").count() == 0
    page = watched.open("view=generate&begins=Ba&n=2")
    page.get_by_role("button", name="Generate").click()
    until(page, "document.querySelectorAll('.samples .name').length")
    assert "“Ba” was read as “ba”" in page.inner_text("main")
    page.get_by_label("Ends with").fill("9")
    page.get_by_role("button", name="Generate").click()
    until(page, "document.querySelector('main .error')")
    assert "does not know “9”" in page.inner_text("main .error")
    assert page.locator(".samples .name").count() == 0


def test_arabic_runs_from_right_to_left(watched: Watched) -> None:
    page = watched.page
    page.goto(f"{watched.base}?model=ar&view=generate&prefix={ARABIC[0]}")
    until(page, "document.querySelectorAll('.tiles button').length === 4")
    place = "[...document.querySelectorAll('{} button')].map((e) => e.getBoundingClientRect().x)"
    places = page.evaluate(place.format(".tiles"))
    assert places == sorted(places, reverse=True)
    page.goto(f"{watched.base}?model=ar&view=inside&text={ARABIC[0]}")
    until(page, "document.querySelectorAll('.tokens button').length === 5")
    places = page.evaluate(place.format(".tokens"))
    assert places == sorted(places, reverse=True)
    page.locator(".tokens .here").focus()
    watched.keys("ArrowRight")  # to the one before
    assert page.locator(".tokens .here .piece").inner_text() == ARABIC[0][2]
    page.goto(f"{watched.base}?model=ar&view=data")
    until(page, "document.querySelector('.names bdi')")
    assert "\u202e" not in page.inner_text("main")
    assert "[U+202E]" in page.inner_text("main")


def test_what_the_server_takes_is_what_the_page_lets_one_ask(
    watched: Watched, server: Server
) -> None:
    schema = json.loads(server.ask("GET", "/api/v1/openapi.json")[2])["components"]["schemas"]
    most = int(schema["SampleBody"]["properties"]["n"]["maximum"])
    page = watched.open("view=generate&n=501")
    until(page, f"document.querySelector('main input[required]').max === '{most}'")
    page.get_by_role("button", name="Generate").click()  # more than have neighbours found
    until(page, "document.querySelector('[aria-busy=false]')?.textContent.includes(' candidates')")
    page = watched.open("view=train")
    for name, field in schema["Settings"]["properties"].items():
        if page.locator(f"[name={name}]").count():
            wanted = int(field["anyOf"][0]["maximum"])
            until(page, f"document.querySelector('[name={name}]').max === '{wanted}'")


def test_a_search_is_seen_and_stopped(watched: Watched) -> None:
    page = watched.open("view=generate&n=3")
    page.get_by_role("button", name="Generate").click()
    until(page, "document.querySelectorAll('.samples .name').length === 3")
    asked: list[Any] = []
    page.route("**/api/v1/sample", lambda route: asked.append(route))  # it takes its time
    page.get_by_role("button", name="Generate").click()
    until(page, "document.querySelector('[aria-busy=true]')")
    style = "getComputedStyle(document.querySelector('[aria-busy=true] .samples')).opacity"
    assert float(page.evaluate(style)) < 0.5
    page.get_by_role("button", name="Searching … Stop").click()
    until(page, "document.querySelector('[aria-busy=false]')?.textContent === 'Stopped.'")
    assert len(asked) == 1
    assert page.get_by_role("button", name="Generate").is_visible()


def test_a_busy_server_is_waited_for(watched: Watched) -> None:
    page = watched.open("view=generate&n=3")
    busy = {"status": 503, "headers": {"Retry-After": "0"}, "body": "{}"}
    tries: list[Any] = []

    def answer(route: Any) -> None:
        tries.append(page.inner_text("#waiting"))
        if len(tries) < 3:
            route.fulfill(**busy)
        else:
            route.continue_()

    page.route("**/api/v1/sample", answer)
    page.get_by_role("button", name="Generate").click()
    until(page, "document.querySelectorAll('.samples .name').length === 3")
    until(page, "document.querySelector('#waiting').textContent === ''")
    assert len(tries) == 3
    assert "Waiting" in tries[2]
    assert [each for each in watched.wrong if "503" not in each] == []
    watched.wrong.clear()


def test_nothing_is_lost_by_looking_elsewhere(watched: Watched) -> None:
    page = watched.open("view=generate&n=3")
    page.get_by_label("Top-k").focus()
    watched.keys("ArrowLeft", "ArrowLeft")
    page.get_by_role("button", name="Generate").click()
    until(page, "document.querySelectorAll('.samples .name').length === 3")
    page.locator(".samples .star").first.click()
    dial = page.get_by_label("Top-k").input_value()
    names = page.locator(".samples .name").all_inner_texts()
    assert len(names) == 4  # one of them is kept
    for view, field, text in (
        ("inside", "Text", "banna"),
        ("train", "Your list", "a\nb"),
    ):
        page.locator(f"#views [data-view={view}]").click()
        page.wait_for_selector(f"main[data-view={view}] h1")
        if view == "train":
            page.get_by_label("Your own list").check()
        page.get_by_label(field, exact=True).fill(text)
    until(page, "document.querySelector('.report').textContent.includes('2 lines')")
    page.reload()
    page.wait_for_selector("main h1")
    assert page.get_by_label("Your list", exact=True).input_value() == "a\nb"
    page.locator("#views [data-view=generate]").click()
    until(page, "document.querySelectorAll('.samples .name').length === 4")
    assert page.locator(".samples .name").all_inner_texts() == names
    assert page.get_by_label("Top-k").input_value() == dial
    watched.keys("4")
    until(page, "document.querySelectorAll('.tokens li').length === 6")
    assert page.get_by_label("Text", exact=True).input_value() == "banna"


# ---- views


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_views(browser: Any, server: Server, theme: str, width: int) -> None:
    """Each has its parts, fits, and can be read in both themes."""
    watched = Watched(browser, server, color_scheme=theme)
    watched.page.set_viewport_size({"width": width, "height": 800})
    for view in VIEWS:
        page = watched.open(f"view={view}")
        assert page.locator("nav a[aria-current=page]").get_attribute("data-view") == view
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
        assert page.evaluate(UNNAMED) == []
        assert page.evaluate(CONTRAST) == []
        assert page.locator("[style]:not(.weight)").count() == 0
    watched.context.close()
    assert watched.wrong == []


# Controls without a name.
UNNAMED = """() => [...document.querySelectorAll("input, select, textarea, button, svg")]
    .filter((e) => e.offsetParent !== null || e.tagName === "svg")
    .filter((e) => !(e.labels?.length || e.textContent.trim() || e.getAttribute("aria-label")
        || e.getAttribute("aria-labelledby") || e.getAttribute("aria-hidden")))
    .map((e) => e.outerHTML)"""

# Texts whose contrast with what is behind them is below 4.5, but for controls that are off.
CONTRAST = """() => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const rgb = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = (c) => c.slice(0, 3)
        .map((x) => x / 255 <= 0.04045 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4)
        .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (e) => {
        for (; e; e = e.parentElement) {
            const found = rgb(getComputedStyle(e).backgroundColor);
            if (found[3] === 255) return found;
        }
        return [255, 255, 255, 255];
    };
    const found = [];
    for (const e of document.querySelectorAll("body *")) {
        const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
        if (!own || e.closest("[hidden], [aria-disabled=true], :disabled")) continue;
        if (e.closest(".unseen, .skip, noscript")) continue;
        if (e.closest("title, desc, option")) continue;
        const style = getComputedStyle(e);
        const [a, b] = [light(rgb(e.closest("svg") ? style.fill : style.color)), light(behind(e))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) found.push([contrast, e.outerHTML.slice(0, 100)]);
    }
    return found;
}"""


def test_the_theme_is_kept(watched: Watched) -> None:
    page = watched.open("view=data")
    seen = []
    for _ in range(3):
        page.locator("#theme").click()
        seen.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(set(seen)) == 2
    page.locator("#theme").click()
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"


def test_what_is_in_a_corpus_is_text(watched: Watched) -> None:
    page = watched.open("view=data")
    assert "<b>bad</b>" in page.inner_text("main")
    assert page.locator("main b").count() == 0
    page = watched.open("view=generate&prefix=%3Cb%3E")
    assert page.locator(".tiles b").count() == 0
    assert page.locator(".tiles li").count() == 4


def test_every_chart_has_its_table(watched: Watched) -> None:
    for view, least in (("generate", 1), ("inside", 4), ("data", 2)):
        page = watched.open(f"view={view}&text=banna")
        for details in page.locator("details.behind").all():
            details.locator("summary").click()
        until(page, "[...document.querySelectorAll('.behind')].every((e) => e.querySelector('tr'))")
        assert page.locator("figure svg > title").count() >= least


# ---- by keys alone


def test_generate_by_keys(watched: Watched) -> None:
    page = watched.open("view=generate")
    page.locator(".option").first.focus()
    first = page.locator(".option .letter").nth(1).text_content()
    watched.keys("ArrowRight", "Enter")
    until(page, "document.querySelectorAll('.tiles button').length === 1")
    assert page.inner_text(".tiles button") == first
    assert page.evaluate("document.activeElement.closest('.option') !== null")
    page.keyboard.type("a")
    until(page, "document.querySelectorAll('.tiles button').length === 2")
    watched.keys("Backspace")
    until(page, "document.querySelectorAll('.tiles button').length === 1")
    until(page, f"location.search.includes('prefix={first}')")
    page.reload()
    until(page, "document.querySelectorAll('.tiles button').length === 1")


def test_dials_show_what_they_cut_off(watched: Watched) -> None:
    page = watched.open("view=generate")
    assert page.locator("rect.cut").count() == 0
    page.get_by_label("Top-k").focus()
    watched.keys("Home", "ArrowRight", "ArrowRight")
    assert page.locator("rect.bar").count() == 3
    assert page.locator("rect.cut").count() > 3
    assert all("url(#" in (e.get_attribute("fill") or "") for e in page.locator("rect.cut").all())
    took = page.evaluate(
        """async () => {
            const dial = document.querySelector("input[type=range]"), took = [];
            for (let i = 0; i < 40; i++) {
                dial.value = String(0.1 + i / 25);
                const start = performance.now();
                dial.dispatchEvent(new Event("input", {bubbles: true}));
                document.querySelector("svg").getBoundingClientRect();
                took.push(performance.now() - start);
                await new Promise(requestAnimationFrame);
            }
            return took.sort((a, b) => a - b);
        }"""
    )
    assert took[37] < 50


def test_samples_and_what_is_kept(watched: Watched, server: Server) -> None:
    page = watched.open("view=generate&n=8&suffix=a")
    page.get_by_role("button", name="Generate").focus()
    watched.keys("Enter")
    until(page, "document.querySelectorAll('.samples .name').length > 0")
    asked = {
        "model": "m",
        "n": 8,
        "suffix": "a",
        "unique": True,
        "novel": True,
    }  # and the model's temperature
    wanted = [each["text"] for each in server.json("POST", "/sample", asked)["samples"]]
    assert page.locator(".samples .name").all_inner_texts() == wanted
    page.locator(".samples .star").first.click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export CSV").click()
    exported = Path(download.value.path()).read_bytes()
    assert exported.startswith(b"\xef\xbb\xbf")  # by which Excel knows UTF-8
    lines = exported.decode("utf-8-sig").splitlines()
    assert lines[0] == "text,logprob,in_list"
    assert lines[1].startswith(f'"{wanted[0]}",-')
    assert len(lines) == 2


def test_teach_by_keys(watched: Watched, server: Server) -> None:
    page = watched.open("view=teach&every=3")
    assert page.evaluate(
        """() => {
            const e = document.querySelector("main select");
            const pen = document.createElement("canvas").getContext("2d");
            pen.font = getComputedStyle(e).font;
            return pen.measureText("every 20 answers").width + 40 <= e.clientWidth;
        }"""
    )
    page.get_by_role("button", name="Start rating").focus()
    watched.keys("Enter")
    until(page, "document.querySelector('.card')")
    seen = []
    for key in "ynsyn":
        seen.append(page.inner_text(".card"))
        watched.keys(key)
    assert len(set(seen)) == 5
    until(page, "document.querySelector('.big')")
    assert "learned from" in page.inner_text(".big")
    until(page, "document.querySelector('#model').value.startsWith('rated-')")
    watched.keys("u")
    until(page, "document.querySelector('.stage .status').textContent.startsWith('3 answers')")
    until(page, "location.search.includes('session=')")
    session = re.search(r"session=([^&]+)", page.url)
    assert session is not None
    wanted = [(seen[0], True), (seen[1], False), (seen[3], True)]

    def taken_back() -> bool:
        ratings = server.json("GET", f"/preferences/{session[1]}")
        return [(each["text"], each["liked"]) for each in ratings["answers"]] == wanted

    serving_until(taken_back)
    page.reload()
    until(page, "document.querySelector('.card')")
    assert page.inner_text(".stage .status").startswith("3 answers")
    chosen = "document.querySelector('#model').selectedOptions[0].textContent"
    for view, wait in (("generate", ".option"), ("teach", ".card")):  # and it is there again
        page.locator(f"#views [data-view={view}]").click()
        until(page, f"document.querySelector('main[data-view={view}] {wait}')")
        assert page.evaluate(chosen) == "m · taught, 3 answers, not saved"
        assert page.locator("#model").input_value().startswith("rated-")
    assert page.inner_text(".stage .status").startswith("3 answers")
    page.get_by_label("Save the taught model as").fill("mine")
    watched.keys("Enter")
    until(page, "document.querySelector('.save .errors').textContent.includes('Saved as mine')")
    assert server.json("GET", "/models/mine")["saved"]


def test_look_inside_by_keys(watched: Watched) -> None:
    page = watched.open("view=inside&text=banna&layer=0&head=1")
    until(page, "document.querySelectorAll('.tokens li').length === 6")
    page.locator(".tokens .here").focus()
    watched.keys("Home", "ArrowRight", "ArrowRight")
    assert page.locator("svg .row.here").get_attribute("data-key") == "2"
    assert page.inner_text(".tokens .here .piece") == "a"
    assert page.locator("svg .point.lit text").first.text_content() == "a"
    page.get_by_role("button", name="Head 2").focus()
    watched.keys("Enter")
    assert "head 2" in page.locator(".told").first.inner_text()


def test_a_graph_hands_its_gradient_on_as_the_engine_does(watched: Watched) -> None:
    page = watched.open("view=inside&text=banna&a=3&b=2&c=-1")
    until(page, "document.querySelectorAll('.node').length === 8")
    page.locator(".graph").focus()
    assert page.locator(".node.current").count() == 0
    watched.keys("ArrowRight")
    assert page.locator(".node.current").count() == 1
    assert page.locator(".edge.flows").count() == 1
    watched.keys("End")
    a, b, c = Value(3.0), Value(2.0), Value(-1.0)
    root = ((a * b + c).relu() - 1) ** 2
    root.backward()
    page.locator(".values summary").click()
    until(page, "document.querySelector('.values tr')")
    rows = [
        row.locator("th, td").all_inner_texts() for row in page.locator(".values tbody tr").all()
    ]
    shown = {row[0]: (row[3], row[4]) for row in rows}
    for name, value in (("a", a), ("b", b), ("c", c)):
        text = f"{value.grad:.3f}"
        assert shown[name] == (text, text)


def test_the_way_through_the_views(watched: Watched) -> None:
    page = watched.open("view=train")
    watched.keys("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    for number, view in enumerate(VIEWS, 1):
        watched.keys(str(number))
        until(page, f"document.querySelector('main').dataset.view === '{view}'")
    page.go_back()
    until(page, "document.querySelector('main').dataset.view === 'inside'")


def test_a_page_uses_the_model_that_it_shows(watched: Watched, server: Server) -> None:
    """Its own training's, also where somebody else began a later one; a list has them all."""
    page = watched.open("view=train")
    page.get_by_label("Your own list").check()
    page.get_by_label("Your list", exact=True).fill("\n".join(DOCS))
    page.get_by_label("List name").fill("dogs")
    page.locator("summary", has_text="Settings").click()
    page.get_by_label("Steps", exact=True).fill("20")
    page.get_by_role("button", name="Train", exact=True).focus()
    watched.keys("Enter")
    until(page, "document.querySelector('.status').textContent.startsWith('done')")
    until(page, "location.search.includes('model=job-')")  # with the training's end
    assert page.evaluate("document.activeElement.textContent") == "Train"
    until(page, "/^job-[^@]*$/.test(document.querySelector('#model').value)")  # of the last step
    own = page.locator("#model").input_value()
    assert f"job={own}" in page.url
    slow = {"num_steps": 100_000, "n_embd": 64, "n_layer": 4}  # it must not end by itself
    request = {"text": "a\nb", "name": "others", "settings": slow}
    other = server.json("POST", "/jobs", request, 202)["id"]
    page.goto(f"{server.url}?view=generate&job={own}")  # as an address before its end was
    page.wait_for_selector(".option")
    assert page.locator("#model").input_value() == own
    page.locator("details.copies summary").first.click()
    page.get_by_role("button", name="Save as dogs").click()
    until(page, "!document.querySelector('.copies').textContent.includes('Save this model first')")
    assert "kamon complete models/dogs " in page.inner_text("pre[aria-label='As command']")
    assert server.json("GET", "/models/dogs")["path"] == "models/dogs"
    page.locator("#views [data-view=train]").click()
    row = page.locator(".shelf li", has_text=f"others ({other[4:8]})")
    row.wait_for()
    assert page.inner_text(".status").startswith("done")  # its own, and not the other one
    row.get_by_role("button", name="Stop").click()
    serving_until(lambda: server.json("GET", f"/jobs/{other}")["state"] == "stopped")
    delete = row.get_by_role("button", name="Delete")
    delete.click()
    delete.click()
    serving_until(lambda: server.ask("GET", f"/api/v1/jobs/{other}")[0] == 404)
    until(page, "!document.querySelector('.shelf').textContent.includes('others')")


@pytest.mark.slow
def test_a_training(watched: Watched) -> None:
    """From a list that is pasted to the model of an earlier step."""
    page = watched.open("view=train")
    page.get_by_label("Your own list").check()
    page.get_by_label("Your list", exact=True).fill("\n".join([*DOCS, DOCS[0], "  oak  "]))
    until(page, "document.querySelector('.report').textContent.includes('152 lines')")
    assert "1 duplicate" in page.inner_text(".report")
    page.get_by_role("button", name="Train", exact=True).click()
    until(page, "document.querySelector('.status').textContent.startsWith('done')")
    assert page.locator("svg .rule").count() == 2
    page.locator("#scrub").focus()
    watched.keys("Home")
    assert page.inner_text(".range output") == "step 0"
    until(page, "location.search.includes('step=0')")
    page.get_by_role("link", name="generate", exact=True).click()
    until(page, "document.querySelector('.option')")
    assert page.locator("#model").input_value().endswith("@0")


def test_a_table_with_given_columns(watched: Watched) -> None:
    """It is trained, values are chosen and mixed, and a name is compared under all of them."""
    page = watched.open("view=train&budget=0.5")
    page.get_by_label("Your own list").check()
    rows = "".join(f"{row['name']},{row['sex']},{row['births']}\n" for row in PEOPLE)
    file = {"name": "p.csv", "mimeType": "text/csv", "buffer": f"name,sex,births\n{rows}".encode()}
    page.locator("input[type=file]").set_input_files(file)
    until(page, "document.querySelectorAll('select[multiple] option').length === 2")
    page.get_by_text("Given columns", exact=True).first.click()
    page.locator("select[multiple]").select_option("sex")
    page.get_by_label("Weight").select_option("births")
    page.locator("details.copies summary").click()
    commands = page.locator("pre[aria-label='As command']")
    assert "--given sex --weight births" in commands.text_content()
    page.get_by_role("button", name="Train", exact=True).click()
    until(page, "document.querySelector('.status').textContent.startsWith('done')")
    page.get_by_role("link", name="generate", exact=True).click()
    until(page, "document.querySelector('.option')")
    page.get_by_label("sex", exact=True).select_option("f")
    page.get_by_label("How many").fill("5")
    page.get_by_role("button", name="Generate").click()
    until(page, "document.querySelectorAll('.samples .name').length === 5")
    page.get_by_label("mixed with").select_option("m")
    until(page, "decodeURIComponent(location.search).includes('\"m\":0.5')")
    page.get_by_label("Name", exact=True).fill("banna")
    page.get_by_role("button", name="Compare").click()
    until(page, "document.querySelector('table')?.textContent.includes('%')")
    page.locator("#views [data-view=inside]").click()
    until(page, "document.querySelector('main').textContent.includes('given values')")
    watched.wrong[:] = [each for each in watched.wrong if "422" not in each]


def test_a_file_that_is_a_table(watched: Watched) -> None:
    """Its kind is seen, its column chosen; what it is called and how to say it are the file's."""
    page = watched.open("view=train&budget=0.5")
    page.get_by_label("Your own list").check()
    rows = "".join(f"{n},{doc}\n" for n, doc in enumerate(DOCS[:12]))
    file = {"name": "dogs.csv", "mimeType": "text/csv", "buffer": f"id,name\n{rows}".encode()}
    page.locator("input[type=file]").set_input_files(file)
    assert page.get_by_label("List name").input_value() == "dogs.csv"
    first = " · ".join(DOCS[:5])
    until(page, f"document.querySelector('.report').textContent.includes('First entries: {first}')")
    assert "5-fold cross-validation" in page.inner_text(".report")
    page.locator("details.copies summary").click()
    commands = page.locator("pre[aria-label='As command']")
    assert commands.text_content().startswith("kamon train dogs.csv --column name --budget 0.5s")
    file["buffer"] = rows.encode()
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_label("The first row is a header").uncheck()
    until(page, f"document.querySelector('.report').textContent.includes('First entries: {first}')")
    until(page, "document.querySelector('.copies pre').textContent.includes('--column 2')")
    assert "--no-header" in commands.text_content()
    page.get_by_label("The first row is a header").check()
    rows_ = f"id;name\n{rows}".replace(",", ";").replace(DOCS[0], "Zoë")
    for encoding in ("utf-16", "latin-1"):
        file["buffer"] = rows_.encode(encoding)
        page.locator("input[type=file]").set_input_files(file)
        until(page, "document.querySelector('.report').textContent.includes('First entries: Zoë')")
        page.get_by_label("Your list", exact=True).fill("")
        until(page, "document.querySelector('.report').textContent === ''")
    file["buffer"] = b"PK\x03\x04"
    page.locator("input[type=file]").set_input_files(file)
    until(page, "document.querySelector('.report').textContent.includes('spreadsheet')")
    file["buffer"] = b""
    page.locator("input[type=file]").set_input_files(file)
    until(page, "document.querySelector('.report').textContent.includes('dogs.csv is empty')")
    watched.wrong.remove(next(each for each in watched.wrong if "422" in each))  # as it should be
    page.get_by_label("Format", exact=True).select_option("text")
    page.get_by_label("Your list", exact=True).fill(f"id;name\n{rows}".replace(",", ";"))
    page.get_by_role("button", name="Read them as a table").click()
    until(page, "!document.querySelector('.report').textContent.includes('look like a table')")
    assert page.get_by_label("Format", exact=True).input_value() == "csv"


def test_a_model_is_saved_from_the_shelf(watched: Watched, server: Server) -> None:
    request = {"builtin": "names", "settings": {"num_steps": 2, "n_embd": 8}}
    id = server.json("POST", "/jobs", request, 202)["id"]
    serving_until(lambda: server.json("GET", f"/jobs/{id}")["state"] == "done")
    page = watched.open("view=train")
    row = page.locator(".shelf li", has_text=f"({id[4:8]})")
    row.get_by_role("button", name="Save as …").click()
    row.get_by_label("Save this model as").fill("shelved")
    watched.keys("Enter")
    until(page, "document.querySelector('.shelf').textContent.includes('shelved')")
    assert server.json("GET", "/models/shelved")["saved"]


def test_the_best_step_is_the_model(watched: Watched, server: Server) -> None:
    """A training that learns by heart: its model, and not its last step, is what the page shows."""
    settings = {"n_layer": 1, "n_embd": 32, "n_head": 2, "block_size": 8, "num_steps": 3000}
    request = {"text": "\n".join(DOCS), "settings": settings | {"learning_rate": 0.03}}
    id = server.json("POST", "/jobs", request, 202)["id"]
    serving_until(lambda: server.json("GET", f"/jobs/{id}")["state"] == "done")
    job = server.json("GET", f"/jobs/{id}")
    best = job["best"]
    assert best["step"] < job["step"] < 3000
    page = watched.open(f"view=train&job={id}")
    until(page, f"location.search.includes('{id}') && document.querySelector('progress')")
    said = page.inner_text("p.status")
    assert said.startswith(f"done, ended early: the model of step {best['step']:,} was kept.")
    assert f"{best['validation_loss']:.3f}" in said
    assert page.evaluate("document.querySelector('progress').position") == 1
    shown = best["samples"] or ["only copies of entries in the list"]
    assert page.locator(".scrub .names li").all_inner_texts() == shown
    assert page.inner_text(".range output") == f"step {best['step']:,}"
    page.locator("#scrub").focus()
    watched.keys("End")
    last = job["moments"][-1]  # of the last steps there may be none
    until(page, f"document.querySelector('.range output').textContent === 'step {last['step']:,}'")
    shown = last["samples"] or ["only copies of entries in the list"]
    assert page.locator(".scrub .names li").all_inner_texts() == shown


def test_the_graph_begins_with_what_goes_in(watched: Watched) -> None:
    for width in (1280, 390):
        watched.page.set_viewport_size({"width": width, "height": 900})
        page = watched.open("view=inside&text=banna")
        until(page, "document.querySelectorAll('.node').length === 8")
        assert page.evaluate("document.querySelector('.graph').scrollLeft") == 0
        if width == 1280:  # where all of it fits
            graph = "document.querySelector('.graph')"
            assert page.evaluate(f"{graph}.scrollWidth <= {graph}.clientWidth")
        page.locator(".graph").focus()
        watched.keys("ArrowRight")
        room = "document.querySelector('.graph').getBoundingClientRect()"
        box = "document.querySelector('.node.current rect').getBoundingClientRect()"
        assert page.evaluate(f"{box}.right <= {room}.right + 1")
        watched.keys("Home")
        assert page.evaluate("document.querySelector('.graph').scrollLeft") == 0


# ---- as command, as Python


@pytest.fixture
def beside(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own, with the model that the server has."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").symlink_to(folder / "m")


def run_copies(page: Any) -> None:
    """Everything that the panels of a view give to copy."""
    for details in page.locator("details.copies").all():
        details.locator("summary").click()
    until(page, "[...document.querySelectorAll('.copies')].every((e) => e.querySelector('pre'))")
    commands = page.locator("pre[aria-label='As command']").all_text_contents()
    programs = page.locator("pre[aria-label='As Python']").all_text_contents()
    assert len(commands) == len(programs) >= 1
    for program in programs:
        exec(program, {})
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands:
        shutil.rmtree("model", ignore_errors=True)  # that the program has saved
        subprocess.run(
            ["bash", "-c", f"set -e\n{command}"],
            check=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PATH": path},
        )


@pytest.mark.parametrize(
    "view", ["train&budget=0.5", "generate", "inside", "inside&graph=loss", "data"]
)
@pytest.mark.slow
@pytest.mark.usefixtures("beside")
def test_what_is_to_copy_runs(watched: Watched, view: str) -> None:
    run_copies(watched.open(f"view={view}&text=banna&prefix=k&top_k=3&novel=1&max_len=6&n=5"))


def test_what_is_saved_is_to_copy(
    watched: Watched, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server was started, the path of a saved model is where it says."""
    request = {"builtin": "names", "settings": {"num_steps": 2, "n_embd": 8}}
    id = server.json("POST", "/jobs", request, 202)["id"]
    serving_until(lambda: server.json("GET", f"/jobs/{id}")["state"] == "done")
    page = watched.open(f"view=train&job={id}")
    page.wait_for_selector(".save")
    name = page.get_by_label("Save this model as")
    name.fill("No!")
    assert "a to z, 0 to 9" in name.get_attribute("title")
    assert not name.evaluate("(e) => e.checkValidity()")
    name.fill("own")
    watched.keys("Enter")
    until(page, "document.querySelector('.save .errors').textContent.includes('in models/own.')")
    page.goto(f"{server.url}?model={id}&view=teach")
    until(page, "document.querySelector('main legend')")
    assert page.inner_text("main legend") == f"Rate what names ({id[4:8]}) generates"
    monkeypatch.chdir(folder)
    for view in ("generate", "inside", "data", "teach"):
        watched.page.goto(f"{server.url}?model=own&view={view}")
        until(page, "document.querySelector('main h1')")
        if view == "teach":
            page.get_by_role("button", name="Start rating").click()
        until(page, "document.querySelector('.copies')")
        for details in page.locator("details.copies").all():
            details.locator("summary").click()
        for piece in page.locator(".copies pre").all_text_contents():
            assert not re.search(r"""(?<!models/)\bown\b""", piece), piece
    assert kamon.load("models/own").metrics


@pytest.mark.usefixtures("beside")
def test_what_was_taught_is_to_copy(watched: Watched) -> None:
    page = watched.open("view=teach")
    page.get_by_role("button", name="Start rating").click()
    page.wait_for_selector(".card")
    for key in "yny":
        watched.keys(key)
    until(page, "document.querySelector('.stage .status').textContent.startsWith('3 answers')")
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(200)
    shutil.rmtree("rated", ignore_errors=True)
    page.locator("details.copies summary").click()
    exec(page.locator("pre[aria-label='As Python']").text_content(), {})
    assert kamon.load("rated").training["tuning"]["kind"] == "rate"


# ---- addresses of what is not there


@pytest.mark.parametrize("view", ["train", "generate"])
def test_a_model_that_is_gone(view: str, browser: Any, server: Server) -> None:
    """An address that somebody kept leads on, and not only to the same error again."""
    page = browser.new_page()
    page.goto(f"{server.url}?view={view}&model=gone")
    page.get_by_role("button", name="Choose another model").click()
    # Any that is there: other tests leave models on the shelf.
    until(page, "!['', 'gone'].includes(document.querySelector('#model').value)")
    until(page, "document.querySelector('main .error') === null")
    assert page.inner_text("main h1") == view.capitalize()
    assert page.get_attribute("#views [aria-current]", "data-view") == view
    assert page.query_selector("main .error") is None
    page.close()


@pytest.mark.parametrize("view", ["bogus", "__proto__", "constructor"])
def test_a_view_that_is_none(view: str, watched: Watched) -> None:
    assert watched.open(f"view={view}").inner_text("main h1") == "Train"


def test_a_saved_model_opens_in_generate(browser: Any, folder: Path, tmp_path: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    with serving(tmp_path, folder / "ar", folder / "m") as server:
        page.goto(server.url)
        page.get_by_role("heading", name="Generate", exact=True).wait_for()
        assert page.input_value("#model") == "m"
        page.locator("#views [data-view=train]").click()
        page.get_by_role("heading", name="Train", exact=True).wait_for()
    context.close()


# ---- a server that comes and goes


def test_a_part_of_the_page_that_does_not_come(browser: Any, server: Server) -> None:
    """A sentence and a way on, and no empty page; also in the moment before the page runs."""
    context = browser.new_context()
    page = context.new_page()
    page.route("**/static/main.js", lambda route: route.abort())
    page.goto(server.url)
    assert "Loading" in page.inner_text("main")
    page.unroute("**/static/main.js")
    page.goto(f"{server.url}?view=data&model=m")
    page.wait_for_selector("main h1")
    page.route("**/static/teach.js", lambda route: route.abort())
    page.locator("#views [data-view=teach]").click()
    page.wait_for_selector("main .error")
    assert "Is kamon serve still running?" in page.inner_text("main .error")
    page.unroute("**/static/teach.js")
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("heading", name="Teach", exact=True).wait_for()  # after a reload
    context.close()


@pytest.mark.slow
def test_a_server_that_was_started_again(browser: Any, folder: Path, tmp_path: Path) -> None:
    page = browser.new_page()
    with serving(tmp_path, "--budget=60") as server:
        page.goto(server.url)
        until(page, "document.querySelector('.status')?.textContent === 'training'")
        server.process.kill()
        server.process.communicate()
        until(page, "document.querySelector('.lost')")
        assert "connection lost" in page.inner_text("#training")
    with serving(tmp_path, folder / "m", f"--port={server.port}"):
        until(page, "document.querySelector('.status')?.textContent.startsWith('No training')")
        assert "The server was restarted" in page.inner_text("main .notice")
        until(page, "document.querySelector('#model').value === 'm'")
    page.close()


def test_words_in_a_sentence(browser: Any, tmp_path: Path) -> None:
    """Their panel has those of `kamon fill` and `kamon complete`, and their commands."""
    sentences = [f"a {what} of {it}" for what in ("cup", "can") for it in ("tea", "ale", "milk")]
    model = kamon.train(sentences * 5, num_steps=100, output=tmp_path / "m")
    with serving(tmp_path, "m") as server:
        watched = Watched(browser, server)
        page = watched.open("view=generate")
        panel = page.locator("section", has_text="Words in a sentence")
        panel.get_by_label("Sentence").fill("a cup of ____")
        panel.get_by_role("button", name="Find words").click()
        until(page, "document.body.textContent.includes('of the probability.')")
        found = kamon.fill_words(model, "a cup of ____", 12).words
        assert f"The most likely word is {found[0].text}" in panel.inner_html()
        panel.locator("details.copies summary").click()
        until(page, "document.body.textContent.includes(\"kamon fill m 'a cup of ____'\")")
        panel.get_by_label("Sentence").fill("a c")
        panel.get_by_label("Sentence").press("Enter")
        until(page, "document.body.textContent.includes('kamon complete m')")
        panel.get_by_label("Sentence").fill("a cup of % ____")
        panel.get_by_role("button", name="Find words").click()
        until(page, "document.body.textContent.includes('does not know')")
        watched.context.close()
        assert watched.wrong == []
