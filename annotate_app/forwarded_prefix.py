"""The path of another site under which a reverse proxy serves the reading room (docs/deploy.md).

Input: ASGI requests whose path the proxy has shortened, with the part it took off in X-Forwarded-Prefix. Output: the
same requests with ``root_path`` set as ASGI defines it, so that Gradio names its own files by addresses that exist.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

_PREFIX = re.compile(rb"(/[A-Za-z0-9._~-]+)+")


def route_path(scope: Scope) -> str:
    """The request's path inside the reading room."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


class ForwardedPrefix:
    """ASGI middleware for a server that only the proxy can reach."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put the path back together where the proxy says what it took off."""
        found = next((value for name, value in scope.get("headers", ()) if name == b"x-forwarded-prefix"), b"")
        prefix = found.rstrip(b"/")
        if _PREFIX.fullmatch(prefix):
            scope["root_path"] = prefix.decode()
            scope["path"] = prefix.decode() + scope["path"]
            scope["raw_path"] = prefix + scope.get("raw_path", scope["path"].encode())
        await self.app(scope, receive, send)
