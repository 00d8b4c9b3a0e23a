"""A real chat endpoint on the loopback address, with scripted answers and failures."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


def completion(text: Any, **usage: int) -> Reply:
    """A chat completion with ``text`` as content."""
    body = {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage or None}
    return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()


def failure(status: int, body: str = "", **headers: str) -> Reply:
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, body.encode()


class Endpoint:
    """What was asked (``requests``: bodies, ``headers``) and who answers (``reply``: body -> Reply)."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.reply: Callable[[dict[str, Any]], Reply] = lambda body: completion("Normal")
        self.script: list[Reply] = []
        self.url = ""
        self._lock = threading.Lock()

    def answer(self, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        with self._lock:
            self.requests.append(body)
            self.headers.append(headers)
            if self.script:
                return self.script.pop(0)
        return self.reply(body)


@contextmanager
def serve() -> Iterator[Endpoint]:
    """The endpoint, listening on a free port of 127.0.0.1 until the block ends."""
    endpoint = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, headers, content = endpoint.answer(body, dict(self.headers))
            if self.path != "/v1/chat/completions":
                status, headers, content = failure(404, "no such path")
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
