"""The blinding crawler: a rater works through a whole study in real Chromium, and every byte of it is searched.

The study holds rating, comparison (two arms), attention and repeated sets. Requests, answers, headers, addresses,
cookies, storage, caches, performance entries and what stands in the page are kept; none may hold a model, arm, run,
seed, path, content hash, other rater, or the kind of a set; and the four kinds of sets must not differ in anything.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio
import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Page, expect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from radpref.annotate_app.server import STATIC, create_app
from radpref.data.study.study import Study
from tests.support.annotate import PASSWORD, add_people, add_sets, make_study
from tests.support.browser import Room, press, saved, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]
TOML = """[annotate]
training_sets = 0
repeats = 0.5
repeat_gap_sets = 1
repeat_gap_hours = 0.0
attention = 0.5
break_minutes = 0.0
"""
ARMS = ("zebra-arm", "yak-arm")
CAPTION = {"TM2I": "Severe left pleural effusion", "T2I": "Severe left pleural effusion", "M2I": None}
FRONTEND = Path(gradio.__file__).parent / "templates" / "frontend"
KINDS = {"rating", "comparison", "attention", "repeat"}


@dataclass
class Exchange:
    """One request and its answer, as the server got and gave them."""

    method: str
    path: str
    sent: list[tuple[str, str]]
    body: bytes = b""
    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    answer: bytes = b""
    over: bool = False


class Recorder:
    """ASGI middleware that keeps every byte."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.exchanges: list[Exchange] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        assert scope["type"] == "http", "the page opened a websocket"
        path = scope["path"] + (f"?{scope['query_string'].decode()}" if scope["query_string"] else "")
        exchange = Exchange(scope["method"], path, texts(scope["headers"]))
        self.exchanges.append(exchange)

        async def incoming() -> Message:
            message = await receive()
            exchange.body += message.get("body", b"")
            return message

        async def outgoing(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status, exchange.headers = message["status"], texts(message["headers"])
            exchange.answer += message.get("body", b"")
            await send(message)

        await self.app(scope, incoming, outgoing)
        exchange.over = True


def texts(headers: Any) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


class Crawl:
    """Everything that one browser window sent and received, and what the browser keeps of it."""

    def __init__(self, page: Page, recorder: Recorder) -> None:
        self.exchanges = recorder.exchanges
        self.seen_by_browser: list[str] = []
        self.sockets: list[str] = []
        self.snapshots: list[str] = []
        page.on("response", lambda response: self.seen_by_browser.append(f"{response.url} {response.headers}"))
        page.on("request", lambda request: self.seen_by_browser.append(f"{request.url} {request.headers}"))
        page.on("websocket", lambda socket: self.sockets.append(socket.url))

    def collect(self, page: Page) -> None:
        """Take up what the browser keeps at this moment."""
        self.snapshots.append(page.evaluate(KEPT))

    def api(self, end: str) -> Iterator[tuple[str, Exchange]]:
        """(token, exchange) of requests whose path under api/sets/ ends so."""
        for exchange in self.exchanges:
            found = re.search(rf"^/api/sets/([^/]+){end}$", exchange.path)
            if found:
                yield found[1], exchange


KEPT = """async () => {
    const caches_ = [];
    for (const name of await caches.keys()) {
        for (const request of await (await caches.open(name)).keys()) caches_.push(name + ' ' + request.url);
    }
    return JSON.stringify({
        local: {...localStorage}, session: {...sessionStorage}, databases: await indexedDB.databases(), caches: caches_,
        workers: (await navigator.serviceWorker.getRegistrations()).map((one) => one.scope), cookie: document.cookie,
        entries: performance.getEntries().map((one) => JSON.stringify(one)), url: location.href, title: document.title,
        history: history.state, name: window.name, html: document.documentElement.outerHTML,
        root: Object.keys(window).filter((key) => key.startsWith('radpref')),
    });
}"""


def mixed_study(root: Path) -> Study:
    """Two sets of every mode for rating, and one more of every mode for comparison and attention each."""
    study = make_study(root, modes=(), toml=TOML)
    add_people(study)
    modes = ("TM2I", "T2I", "M2I")
    for seed, purpose in ((1, "rating"), (2, "rating"), (3, "comparison"), (4, "attention")):
        names = add_sets(study, modes, seed=seed, texts=CAPTION)
        with study.db.write() as connection:
            for name in names:
                connection.execute("UPDATE image_sets SET purpose = ? WHERE set_id = ?", (purpose, name))
                connection.execute("UPDATE set_images SET arm = ? WHERE set_id = ?", (ARMS[0], name))
                if purpose == "comparison":
                    connection.execute("UPDATE set_images SET arm = ? WHERE set_id = ? AND slot > 1", (ARMS[1], name))
                if purpose == "attention":
                    criteria = {"TM2I": ("text", "mask"), "T2I": ("text",), "M2I": ("mask",)}[modes[names.index(name)]]
                    connection.executemany(
                        "INSERT INTO set_expectations VALUES (?, ?, ?, 4, 5, 'secret-reason')",
                        [(name, slot, criterion) for slot in range(4) for criterion in criteria],
                    )
    return study


def work_through(room: Room, page: Page, crawl: Crawl) -> None:
    """Every set to its end, every feature of the page used on some of them."""
    root = page.locator(".radpref-root")
    for number in range(1, 60):
        place = page.get_by_test_id("place")
        finished = page.get_by_text("sets are done")
        expect(finished.or_(place.filter(has_text=f"Set {number} /"))).to_be_visible()
        crawl.collect(page)
        if finished.is_visible():
            return
        if number % 3 == 1:
            press(page, "fifiloo[]+-rxuxu")
            page.keyboard.press("n")
            page.get_by_role("dialog").get_by_role("textbox").fill(f"remark {number}")
            page.get_by_role("dialog").get_by_role("button", name=re.compile("save|ok|keep", re.I)).click()
            press(page, "cc")
            page.keyboard.press("?")
            page.keyboard.press("Escape")
        if number == 2:
            page.reload()
            expect(place).to_have_text(re.compile(f"Set {number} /"))
        press(page, "qt" if root.get_attribute("data-mode") != "M2I" else "qm")
        press(page, "3z" + ("01234501" if root.get_attribute("data-mode") == "TM2I" else "0153"))
        saved(page)
        page.keyboard.press("Enter")
    raise AssertionError("the study has no end")


def forbidden(study: Study) -> dict[str, str]:
    """Word -> what it would tell. Hashes by their first twelve characters."""
    words = dict.fromkeys(ARMS, "arm")
    words |= {"secret-run": "run", "secret-reason": "expected answer", "77110": "seed", "effusion-patient": "patient"}
    words |= {"condition-": "condition", "study.db": "file", str(study.root): "path", "simulated": "other raters"}
    words |= dict.fromkeys(("bob", "office", "sim-1"), "other rater")
    words |= {row["set_id"]: "set" for row in study.db.rows("SELECT set_id FROM image_sets")}
    for table in ("images", "masks"):
        words |= {row["sha256"][:12]: "content hash" for row in study.db.rows(f"SELECT sha256 FROM {table}")}
    ann = study.db.value("SELECT rater_id FROM raters WHERE username = 'ann'")
    others = study.db.rows("SELECT token FROM presentations WHERE rater_id <> ?", (ann,))
    assert others
    return words | {row["token"]: "another rater's set" for row in others}


def is_static(exchange: Exchange) -> bool:
    """Whether an answer is, byte for byte, a file of ours or of Gradio's, which know nothing of any study."""
    name = exchange.path.split("?")[0].rsplit("/", 1)[-1]
    places = [STATIC / name] if exchange.path.startswith("/static/") else [FRONTEND / "assets" / name]
    return any(place.is_file() and place.read_bytes() == exchange.answer for place in places)


def shape(value: Any) -> Any:
    """Keys all the way down and types; texts, numbers and null of a leaf alike."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in sorted(value.items())}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return "flag" if isinstance(value, bool) else "leaf"


@pytest.fixture(scope="module")
def crawled(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Study, Crawl, Page]]:
    study = mixed_study(tmp_path_factory.mktemp("crawl"))
    with TestClient(create_app(study)) as other:  # on a server of its own: nothing of bob's is in ann's record
        assert other.post("/login", json={"username": "bob", "password": PASSWORD}).status_code == 200
        assert other.get("/api/next").json()["set"]
    recorders: list[Recorder] = []

    def recorded(of: Study) -> Recorder:
        recorders.append(Recorder(create_app(of)))
        return recorders[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.support.browser.create_app", recorded)
        room = Room(study, browser)
    context = room.context()
    page = room.page(context)
    crawl = Crawl(page, recorders[-1])
    violation = "addEventListener('securitypolicyviolation', (event) => console.error('CSP', event.blockedURI))"
    page.add_init_script(violation)
    page.goto(room.url)
    page.get_by_label("Name", exact=True).fill("ann")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.keyboard.press("Enter")
    work_through(room, page, crawl)
    crawl.snapshots.append(json.dumps(context.storage_state()))
    crawl.collect(page)
    wait_for(page, lambda: all(one.over for one in crawl.exchanges), "every answer that was begun")
    yield study, crawl, page
    room.close()


def kind_of_token(study: Study) -> dict[str, tuple[str, str]]:
    """token -> (mode, kind) of all presentations."""
    rows = study.db.rows(
        "SELECT token, mode, CASE WHEN repeat_of IS NULL THEN purpose ELSE 'repeat' END AS kind FROM presentations"
        " JOIN image_sets USING (set_id) JOIN conditions USING (condition_id)"
    )
    return {str(row["token"]): (str(row["mode"]), str(row["kind"])) for row in rows}


def test_nothing_that_unblinds_reaches_the_browser(crawled: tuple[Study, Crawl, Page]) -> None:
    study, crawl, _ = crawled
    shown = {kind_of_token(study)[token][1] for token, _ in crawl.api("/images/A")}
    assert shown == KINDS, "the rater was not shown all kinds of sets"
    assert len(crawl.exchanges) > 150
    assert crawl.sockets == []
    everything = [("what the browser keeps", text) for text in (*crawl.snapshots, *crawl.seen_by_browser)]
    for one in crawl.exchanges:
        everything.append((f"{one.method} {one.path}", f"{one.path}\n{one.sent}\n{one.body.decode('latin-1')}"))
        text = "" if is_static(one) else one.answer.decode("latin-1")
        everything.append((f"answer to {one.method} {one.path}", f"{one.status}\n{one.headers}\n{text}"))
    found = [
        f"{where.split('?')[0]} holds {word!r}, which tells the {what}"
        for where, text in everything
        for word, what in forbidden(study).items()
        if word in text
    ]
    assert found == []


def test_answers_name_no_kind_of_set(crawled: tuple[Study, Crawl, Page]) -> None:
    _, crawl, _ = crawled
    words = re.compile(
        r"comparison|attention|repeat|purpose|expect|\barms?\b|seed|sha|rater_|set_id|condition_id|model"
    )
    answers = [one.answer.decode() for _, one in crawl.api("(/events)?") if one.status == 200]
    answers += [one.answer.decode() for one in crawl.exchanges if one.path == "/api/next"]
    assert len(answers) > 60
    assert [found for text in answers for found in words.findall(text)] == []


def test_the_four_kinds_of_sets_do_not_differ(crawled: tuple[Study, Crawl, Page]) -> None:
    study, crawl, _ = crawled
    kinds, seen = kind_of_token(study), defaultdict[tuple[str, str], dict[str, set[str]]](lambda: defaultdict(set))

    def note(what: str, token: str, *facts: Any) -> None:
        mode, kind = kinds[token]
        seen[mode, what][kind].add(json.dumps(facts))

    for end in (*(f"/images/{letter}" for letter in "ABCD"), "/mask"):
        for token, one in crawl.api(end):
            note(end, token, one.status, len(one.answer), one.headers)
    for token, one in crawl.api("/events"):
        event = json.loads(one.body)
        note(
            f"event {event['kind']}",
            token,
            one.status,
            shape(json.loads(one.answer)),
            [name for name, _ in one.headers],
        )
    for token, one in crawl.api(""):
        state = json.loads(one.answer)
        if state["version"] == 0:
            own = {"token", "number", "n_done", "next", "previous"}  # say where in the rater's order it stands
            rest = {key: value for key, value in state.items() if key not in own}
            note("state", token, one.status, shape(state), rest, [name for name, _ in one.headers])
    compared = 0
    for (mode, what), by_kind in seen.items():
        assert len(set(map(frozenset, by_kind.values()))) == 1, (mode, what, dict(by_kind))
        compared += len(by_kind) == len(KINDS)
    assert compared >= 3 * 5, "too few facts were seen for all four kinds"


def test_repeats_share_no_address_with_the_first_showing(crawled: tuple[Study, Crawl, Page]) -> None:
    study, crawl, _ = crawled
    tokens = [token for token, _ in crawl.api("/images/A")]
    assert len(set(tokens)) == study.db.value(
        "SELECT count(*) FROM presentations JOIN raters USING (rater_id) WHERE username = 'ann'"
    )
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{24}", token) for token in tokens)
