"""The routes that the scoring page asks for all the time, as plain ASGI: no dependency solving, no response classes.

Input: requests that the guard let in. Output: the same answers as any other route would give. Events go to the one
writing thread, everything else to a few reading threads.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from radpref.annotate_app import scoring as service
from radpref.annotate_app.accounts import Identity
from radpref.annotate_app.writer import Writer
from radpref.data.core.errors import InvalidInput
from radpref.data.study.study import Study

READERS = 4
"""Threads that read for the raters; each has a connection of its own."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def is_hot(path: str) -> bool:
    """Whether a path is one of these routes'."""
    return path.startswith("/api/sets/") or path in ("/api/next", "/api/training/again")


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def parse_json(body: bytes, content_type: str) -> Any:
    """The body as JSON; NaN, numbers of endless digits and endless nesting are refused like any other nonsense.

    Raises:
        InvalidInput: it is not announced as JSON, or is none.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise InvalidInput("send JSON with content-type application/json")
    try:
        return _decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidInput("the body is not valid JSON") from error


class HotRoutes:
    """The routes of one study with their threads; :meth:`close` ends these."""

    def __init__(self, study: Study) -> None:
        self._study, self._writer = study, Writer(study.db)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")

    def routes(self) -> list[Route]:
        """Routes for the application's router."""
        reads = {
            "/api/next": "next_set",
            "/api/sets/{token}": "set_state",
            "/api/sets/{token}/images/{letter}": "image_bytes",
            "/api/sets/{token}/mask": "mask_bytes",
        }
        found = [Route(path, self._answer(name), methods=["GET"]) for path, name in reads.items()]
        again = Route("/api/training/again", self._answer("train_again"), methods=["POST"])
        return [Route("/api/sets/{token}/events", _Event(self._study, self._writer), methods=["POST"]), *found, again]

    def _answer(self, name: str) -> _Answer:
        return _Answer(self._study, self._readers, lambda *arguments: getattr(service, name)(*arguments))

    def close(self) -> None:
        """Store what waits and end the threads."""
        self._writer.close()
        self._readers.shutdown()


class _Answer:
    """What a function of the service says, JSON or bytes."""

    def __init__(self, study: Study, pool: ThreadPoolExecutor, answer: Callable[..., Any]) -> None:
        self._study, self._pool, self._answer = study, pool, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = partial(self._answer, self._study, _rater(scope), *scope["path_params"].values())
        found = await asyncio.get_running_loop().run_in_executor(self._pool, work)
        await _send(scope, send, found)


class _Event:
    """POST of one event: acknowledged when it is durable."""

    def __init__(self, study: Study, writer: Writer) -> None:
        self._study, self._writer = study, writer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        rater = _rater(scope)
        kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        payload = parse_json(await _body(receive), kind.decode("latin-1"))
        work = partial(service.save_event, self._study, rater, scope["path_params"]["token"], payload)
        await _send(scope, send, await self._writer.run(work))


def _rater(scope: Scope) -> int:
    """Who asks; the guard let only raters through, and this says so again."""
    identity: Identity | None = scope["state"]["identity"]
    if identity is None:
        raise HTTPException(401, "log in again")
    if identity.role != "rater":
        raise HTTPException(403, "this is for the role rater only")
    return identity.rater_id


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _send(scope: Scope, send: Send, content: Any) -> None:
    is_bytes = isinstance(content, bytes)
    body = content if is_bytes else _encode(content).encode()
    kind = b"application/octet-stream" if is_bytes else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
