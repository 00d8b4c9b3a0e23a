"""The guard in front of every route, Gradio's included: an explicit allow-list, own cookie, Origin check, headers.

Input: ASGI requests. Output: the request with ``state.identity`` set (None on public routes), or 303 / 401 / 403 / 404
/ 413. A route that is not on the list does not exist, so a Gradio release that adds one changes nothing here.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from radpref.annotate_app.accounts import Sessions
from radpref.annotate_app.forwarded_prefix import route_path

Who = Literal["public", "any", "rater", "admin"]
COOKIE, SECURE_COOKIE = "radpref_session", "__Host-radpref_session"
MAX_BODY = 16_384


class Rule(NamedTuple):
    """One kind of request that may pass. ``page``: anonymous browsers are led to the login instead of a 401."""

    method: str
    path: str
    who: Who
    page: bool = False


_TOKEN = r"[A-Za-z0-9_-]{24}"
_GRADIO = r"(theme\.css|assets/[A-Za-z0-9_-]+\.[a-z0-9]+|static/js/iframeResizer[A-Za-z.]+\.js)"
RULES: tuple[Rule, ...] = (  # tried in this order: the most frequent requests come first
    Rule("POST", rf"/api/sets/{_TOKEN}/events", "rater"),
    Rule("GET", rf"/api/sets/{_TOKEN}/images/[A-D]", "rater"),
    Rule("GET", rf"/api/sets/{_TOKEN}", "rater"),
    Rule("GET", rf"/api/sets/{_TOKEN}/mask", "rater"),
    Rule("GET", r"/", "any", page=True),
    Rule("GET", r"/(login|invite)", "public"),
    Rule("POST", r"/(login|logout|invite)", "public"),
    Rule("GET", r"/static/[a-z-]+\.(js|css)", "public"),
    Rule("GET", r"/(manifest\.json|favicon\.ico|robots\.txt)", "public"),
    Rule("GET", r"/api/session", "any"),
    Rule("GET", r"/api/next", "rater"),
    Rule("POST", r"/api/training/again", "rater"),
    Rule("GET", r"/api/admin/overview", "admin"),
    Rule("GET", r"/api/admin/agreement", "admin"),
    Rule("GET", r"/api/admin/quality", "admin"),
    Rule("GET", r"/api/admin/study", "admin"),
    Rule("POST", r"/api/admin/raters", "admin"),
    Rule("GET", r"/report(/|/[A-Za-z0-9_.-]+\.csv)?", "admin", page=True),
    Rule("GET", r"/read/?", "rater", page=True),
    Rule("GET", rf"/read/{_GRADIO}", "rater"),
    Rule("GET", r"/admin/?", "admin", page=True),
    Rule("GET", rf"/admin/{_GRADIO}", "admin"),
)

_COMMON = "default-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'; object-src 'none'; "
_OWN = _COMMON + "script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; manifest-src 'self'"
# Gradio's page has inline scripts, and compiles the templates of its HTML component.
_GRADIO_CSP = _COMMON + (
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:;"
    " font-src 'self' data:; connect-src 'self'; manifest-src 'self'; worker-src 'self' blob:"
)
_REPORT_CSP = _COMMON + "style-src 'unsafe-inline'; img-src data:; font-src data:"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers send "Origin: null" from our own login form
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), interest-cohort=()",
    "X-Robots-Tag": "noindex, nofollow",
}


def policy_for(path: str) -> str:
    """Content-Security-Policy of a path."""
    if path.startswith(("/read", "/admin")):
        return _GRADIO_CSP
    return _REPORT_CSP if path.startswith("/report") else _OWN


def find_rule(method: str, path: str) -> Rule | None:
    """The rule that lets this request in, if any (HEAD counts as GET)."""
    verb = "GET" if method == "HEAD" else method
    return next((rule for rule in RULES if verb == rule.method and re.fullmatch(rule.path, path)), None)


def session_token(headers: Headers) -> str | None:
    """The value of our cookie."""
    cookies = cookie_parser(headers.get("cookie", ""))
    return cookies.get(SECURE_COOKIE) or cookies.get(COOKIE)


class Guard:
    """ASGI middleware; see the module's docstring."""

    def __init__(self, app: ASGIApp, sessions: Sessions) -> None:
        self.app, self.sessions = app, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no websocket is used here
            await send({"type": "websocket.close", "code": 1008})
            return
        path, headers = route_path(scope), Headers(scope=scope)
        refusal = await self._refusal(scope, path, headers)
        if refusal is not None:
            status, error, extra = refusal
            await JSONResponse({"error": error}, status, extra)(scope, receive, send)
            return
        if path in ("/read", "/admin"):  # relative, so that it stays under the path a proxy serves us at
            await RedirectResponse(f"{path[1:]}/", 307)(scope, receive, send)
            return
        if path.startswith(("/read", "/admin")):
            scope["query_string"] = b""  # Gradio's deep links, views and themes by address are not used
            scope["headers"] = [field for field in scope["headers"] if field[0] not in _NOT_FOR_GRADIO]
        await self.app(scope, _limited(receive), send)

    async def _refusal(self, scope: Scope, path: str, headers: Headers) -> tuple[int, str, dict[str, str]] | None:
        rule = find_rule(str(scope["method"]), path)
        if rule is None:
            return 404, "there is no such page", {}
        if scope["method"] not in ("GET", "HEAD") and not _same_origin(headers):
            return 403, "this request came from another site", {}
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY:
            return 413, f"the request is larger than {MAX_BODY} bytes", {}
        token = None if rule.who == "public" else session_token(headers)
        identity = await run_in_threadpool(self.sessions.find, token) if token else None
        scope.setdefault("state", {})["identity"] = identity
        if rule.who == "public":
            return None
        if identity is None:
            if rule.page:
                return 303, "log in first", {"location": "../" * (path.count("/") - 1) + "login"}
            return 401, "log in again", {}
        if rule.who not in ("any", identity.role):
            if rule.page and scope["method"] == "GET":
                return 303, "this page is not for your role", {"location": "../" * (path.count("/") - 1) or "./"}
            return 403, f"this is for the role {rule.who} only", {}
        return None


def _same_origin(headers: Headers) -> bool:
    """Browsers send Origin with every POST; a request of another site is refused whatever its cookie says."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if site not in (None, "same-origin", "none"):
        return False
    return origin is None or urlsplit(origin).netloc == headers.get("host")


class SecurityHeaders:
    """ASGI middleware: every answer carries the policy of its path, and none of the headers that Gradio would set."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; replace the headers of the answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = route_path(scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name in _DROPPED:
                    del headers[name]
                headers.update({**_HEADERS, "Content-Security-Policy": policy_for(path), **_cache_control(path)})
            await send(message)

        await self.app(scope, receive, with_headers)


def _cache_control(path: str) -> dict[str, str]:
    if "/assets/" in path:  # names hold a hash of the content
        return {"Cache-Control": "private, max-age=31536000, immutable"}
    return {} if "/static/" in path else {"Cache-Control": "no-store"}


_NOT_FOR_GRADIO = (b"x-forwarded-host", b"x-gradio-server")  # Gradio would take its own address from these
_DROPPED = ("Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Server")


def _limited(receive: Receive) -> Receive:
    total = 0

    async def wrapped() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > MAX_BODY:
            return {"type": "http.disconnect"}
        return message

    return wrapped
