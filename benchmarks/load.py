"""The raters of the load test: one asyncio process, one keep-alive connection per rater, little work per request.

Input: a job as JSON on stdin (port, pid, cookies, seconds, pace, kind). Output: one JSON line: latencies, what was
sent, what was acknowledged, errors, the server's CPU seconds meanwhile. Kinds: ``room`` scores whole sets as the page
does it (next, images, prefetch, events, submit); ``scores`` sends score events only, its sets are opened before the
clock starts; ``soak`` goes through the sets again when all are done; ``gradio`` changes radios of the plain Gradio app
in :mod:`benchmarks.peers.gradio_queue`.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

# What Chromium sends with a fetch of the page; servers pay for parsing it.
BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/139.0.0.0"
    " Safari/537.36",
    "sec-ch-ua": '"Chromium";v="139", "Not;A=Brand";v="99"',
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": '"Linux"',
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-Mode": "cors",
    "Sec-Fetch-Dest": "empty",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Accept-Language": "en-GB,en;q=0.9",
}
ANSWER_WITHIN_S = 30.0
RETRY_S = 0.2


def browser(port: int, cookie: str) -> httpx.AsyncClient:
    """One keep-alive connection, as a browser on the scoring page has it."""
    origin = f"http://127.0.0.1:{port}"
    headers = BROWSER | {"Referer": f"{origin}/read/", "Origin": origin, "Cookie": cookie}
    limits = httpx.Limits(max_connections=1, keepalive_expiry=None)
    return httpx.AsyncClient(base_url=origin, headers=headers, timeout=ANSWER_WITHIN_S, limits=limits, trust_env=False)


@dataclass
class Tally:
    """What all raters of one process did."""

    ack_ms: list[float] = field(default_factory=list)
    other_ms: list[float] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    n_scores: int = 0
    n_sets: int = 0
    n_resent: int = 0
    n_logins_lost: int = 0
    errors: list[str] = field(default_factory=list)
    server_cpu_s: float = 0.0
    seconds: float = 0.0

    def note(self, text: str) -> None:
        """Keep the first errors."""
        if len(self.errors) < 20:
            self.errors.append(text)


class Rater:
    """One rater at their pace. ``resend``: hold on to what is not acknowledged, as the page's outbox does."""

    def __init__(self, job: dict[str, Any], cookie: str, seed: int, tally: Tally) -> None:
        self.connection = browser(job["port"], cookie)
        self.job, self.tally, self.random, self.tab = job, tally, random.Random(seed), str(uuid.uuid4())
        self.resend = bool(job.get("resend"))
        self.ready: list[dict[str, Any]] = []

    async def think(self) -> None:
        """The time between two scores."""
        low, high = self.job["pace_s"]
        await asyncio.sleep(self.random.uniform(low, high))

    def over(self, end: float) -> bool:
        """Whether the raters go home: time is up, or the file ``job["stop"]`` is there."""
        return time.monotonic() > end or ("stop" in self.job and Path(self.job["stop"]).exists())

    async def ask(self, method: str, path: str, times: list[float], content: Any = None) -> bytes:
        """The answer to a request, its milliseconds added to ``times``; with ``resend`` until the server is back."""
        started, cut_off = time.perf_counter(), False
        while True:
            try:
                answer = await self.connection.request(method, path, json=content)
            except httpx.TransportError:
                if not self.resend:
                    raise
                cut_off = True
            else:
                if answer.status_code == 200:
                    times.append((time.perf_counter() - started) * 1000)
                    self.tally.n_resent += cut_off and content is not None
                    return answer.content
                self.tally.n_logins_lost += answer.status_code == 401
                if answer.status_code < 500 or not self.resend:
                    raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text[:200]!r}")
            await asyncio.sleep(RETRY_S)

    async def get(self, path: str) -> bytes:
        """A request that is not an event."""
        return await self.ask("GET", path, self.tally.other_ms)

    async def post(self, state: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
        """One event, acknowledged."""
        client = {"shown_ms": self.random.randint(500, 60_000), "first_ms": 700, "active_ms": 5000}
        body = {**event, "client": client, "uuid": str(uuid.uuid4()), "seen": state["version"], "tab": self.tab}
        self.tally.sent.append(body["uuid"])
        answer = await self.ask("POST", f"/api/sets/{state['token']}/events", self.tally.ack_ms, body)
        self.tally.acknowledged.append(body["uuid"])
        found: dict[str, Any] = json.loads(answer)
        state["version"] = found["version"]
        return found

    async def images(self, state: dict[str, Any]) -> None:
        """Fetch what the page fetches to show a set."""
        for letter in "ABCD":
            await self.get(f"/api/sets/{state['token']}/images/{letter}")
        if state["mask"]:
            await self.get(f"/api/sets/{state['token']}/mask")

    async def open_room(self) -> None:
        """What happens before the clock starts: the room is opened; for ``scores`` all sets are."""
        state = json.loads(await self.get("/api/next"))["set"]
        self.ready = [state] if state else []
        while self.job["kind"] == "scores" and len(self.ready) < self.job["n_open"] and self.ready[-1]["next"]:
            self.ready.append(json.loads(await self.get(f"/api/sets/{self.ready[-1]['next']}")))

    async def score_all(self, state: dict[str, Any], end: float) -> bool:
        """Score every image of a set by every criterion; False where the time is up before."""
        for letter in "ABCD":
            for criterion in state["criteria"]:
                await self.think()
                if self.over(end):
                    return False
                event = {"kind": "score", "letter": letter, "criterion": criterion}
                await self.post(state, {**event, "value": self.random.randint(0, 5)})
                self.tally.n_scores += 1
        return True

    async def scores_only(self, end: float) -> None:
        """Score the sets opened before, one image after the other, without submitting."""
        while True:
            for state in self.ready:
                if not await self.score_all(state, end):
                    return

    async def whole_sets(self, end: float) -> None:
        """Score set after set as the page does: show, prefetch the next, score, submit, ask where to go on."""
        ahead: dict[str, dict[str, Any]] = {}
        state = self.ready[0] if self.ready else None
        while state is not None:
            if state["token"] not in ahead:
                await self.images(state)
            if state["next"] and state["next"] not in ahead:
                following = json.loads(await self.get(f"/api/sets/{state['next']}"))
                await self.images(following)
                ahead = {following["token"]: following}
            if not await self.score_all(state, end):
                return
            await self.post(state, {"kind": "submit"})
            self.tally.n_sets += 1
            state = json.loads(await self.get("/api/next"))["set"]

    async def again_and_again(self, end: float) -> None:
        """Whole sets; when all are done, from the last one back to the first, changing scores."""
        await self.whole_sets(end)
        token = json.loads(await self.get("/api/next"))["last"]
        while token and not self.over(end):
            state = json.loads(await self.get(f"/api/sets/{token}"))
            await self.images(state)
            if not await self.score_all(state, end):
                return
            token = state["previous"] or json.loads(await self.get("/api/next"))["last"]

    async def gradio(self, end: float) -> None:
        """Change a radio every now and then: join the queue, read the stream until the event is through."""
        session, radios = uuid.uuid4().hex[:11], self.job["radios"]
        stream = browser(self.job["port"], "")
        while True:
            await self.think()
            if self.over(end):
                return
            index, trigger = self.random.choice(radios)
            body = {"data": [self.random.randint(0, 5)], "event_data": None, "fn_index": index, "trigger_id": trigger}
            started = time.perf_counter()
            join = "/gradio_api/queue/join?__theme=system"
            await self.connection.post(join, json={**body, "session_hash": session})
            done = False
            async with stream.stream("GET", f"/gradio_api/queue/data?session_hash={session}") as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: ") and (frame := json.loads(line[6:]))["msg"] == "process_completed":
                        self.tally.ack_ms.append((time.perf_counter() - started) * 1000)
                        done = bool(frame["success"])
            if not done:
                raise RuntimeError("Gradio: the event failed")
            self.tally.n_scores += 1


async def run(job: dict[str, Any]) -> dict[str, Any]:
    """Let all raters work for ``job["seconds"]``; the clock starts when every room is open."""
    tally = Tally()
    raters = [Rater(job, cookie, seed, tally) for seed, cookie in enumerate(job["cookies"])]
    if job["kind"] != "gradio":
        await asyncio.gather(*(rater.open_room() for rater in raters))
    tally.other_ms.clear()
    started, cpu_s = time.monotonic(), server_cpu_s(job)
    end = started + job["seconds"]
    work = {
        "scores": Rater.scores_only,
        "room": Rater.whole_sets,
        "soak": Rater.again_and_again,
        "gradio": Rater.gradio,
    }[job["kind"]]

    async def one(rater: Rater) -> None:
        await asyncio.sleep(rater.random.uniform(0, job["pace_s"][1]))  # people do not start together
        try:
            await work(rater, end)
        except (RuntimeError, httpx.TransportError) as error:
            tally.note(f"{type(error).__name__}: {error}")

    await asyncio.gather(*(one(rater) for rater in raters))
    tally.server_cpu_s, tally.seconds = server_cpu_s(job) - cpu_s, time.monotonic() - started
    return vars(tally)


def server_cpu_s(job: dict[str, Any]) -> float:
    """CPU seconds of the server process and its children so far; 0.0 where the job names none (it is killed)."""
    if job.get("pid") is None:
        return 0.0
    process = psutil.Process(job["pid"])
    return float(sum(sum(one.cpu_times()[:2]) for one in [process, *process.children(recursive=True)]))


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(json.load(sys.stdin)))))
