"""The web server of the reading room: a FastAPI parent with own routes, Gradio's pages mounted on it.

Input: a Study. Output: an application for one uvicorn worker. Handlers are a few lines; the work is in service.py and
admin.py. Every answer of an own route is JSON, raw pixels, or one of our static files.
"""

from __future__ import annotations

import html
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import Depends, FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from radpref.annotate_app import admin, dashboard, guard, invites
from radpref.annotate_app.accounts import Backoff, Identity, Sessions, check_password, token_hash
from radpref.annotate_app.forwarded_prefix import ForwardedPrefix, route_path
from radpref.annotate_app.gradio_pages import mount_pages
from radpref.annotate_app.guard import Guard
from radpref.annotate_app.scoring_routes import HotRoutes, is_hot, parse_json
from radpref.data.core.errors import Conflict, InvalidInput, NotFound, RadprefError, StorageFull
from radpref.data.core.sqlite import sqlite3
from radpref.data.reader_study.check_sets import ensure_checks
from radpref.data.reader_study.lifecycle import status as study_status
from radpref.data.reader_study.scores import StaleWrite
from radpref.data.study.study import Study

STATIC = Path(__file__).parent / "static"
_MEDIA = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
_log = logging.getLogger(__name__)


def create_app(study: Study) -> FastAPI:
    """The whole reading room of one study; missing training sets and attention checks are made first."""
    ensure_checks(study)
    config = study.config.annotate
    hot = HotRoutes(study)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(hot.close)

    app = _Room(title="radpref", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    sessions = Sessions(study.db, life_hours=config.session_hours, idle_minutes=config.idle_minutes)
    _add_errors(app)
    backoff = Backoff()
    _add_login(app, study, sessions, backoff)
    _add_invite(app, study, sessions, backoff)
    _add_admin(app, study)
    _add_files(app)
    mount_pages(app)
    app.add_middleware(Guard, sessions=sessions)
    app.add_hot(hot.routes(), sessions)
    return app


class _Room(FastAPI):
    """The application, with a way past FastAPI's middleware for the hot routes: the guard, their errors, their handler.

    The layers passed by cost a fifth of the CPU of a score and do nothing for these routes.
    """

    _front: ASGIApp | None = None

    def add_hot(self, routes: list[Route], sessions: Sessions) -> None:
        """Answer ``routes`` here. They stand in the ordinary router too, where every route is listed."""
        self.router.routes[:0] = routes
        handlers = {**self.exception_handlers, Exception: _on_known}
        self._front = Guard(ExceptionMiddleware(Router(routes), handlers=handlers), sessions)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if self._front is not None and scope["type"] == "http" and is_hot(route_path(scope)):
            scope["app"] = self
            await self._front(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def serve(study: Study, host: str = "127.0.0.1", port: int = 7860, *, behind_proxy: bool = False) -> None:
    """Serve until interrupted: one worker, because logins' back-off is kept in memory.

    ``behind_proxy`` trusts X-Forwarded-* of a reverse proxy on this machine (TLS, client addresses, path).
    """
    import uvicorn

    app = create_app(study)
    uvicorn.run(
        ForwardedPrefix(app) if behind_proxy else app,
        host=host,
        port=port,
        workers=1,
        log_level="warning",
        server_header=False,
        proxy_headers=behind_proxy,
        timeout_graceful_shutdown=3,
        timeout_keep_alive=75,  # radiologists think longer than uvicorn's 5 s, and a new TLS connection costs a moment
    )


def _identity(request: Request) -> Identity:
    """Who asks; the guard let only the right role through, and this says so again."""
    found: Identity | None = request.state.identity
    if found is None:
        raise HTTPException(401, "log in again")
    return found


def _admin(request: Request) -> Identity:
    identity = _identity(request)
    if identity.role != "admin":
        raise HTTPException(403, "this is for the role admin only")
    return identity


Admin = Annotated[Identity, Depends(_admin)]


async def _json_body(request: Request) -> Any:
    return parse_json(await request.body(), request.headers.get("content-type", ""))


def _add_admin(app: FastAPI, study: Study) -> None:
    @app.get("/api/admin/overview")
    def overview(_: Admin) -> JSONResponse:
        return JSONResponse(admin.overview(study))

    agreement_kept, quality_kept = (dashboard.Kept(study, of) for of in (dashboard.agreement, dashboard.quality))

    @app.get("/api/admin/agreement")
    def agreement(_: Admin) -> JSONResponse:
        return JSONResponse(agreement_kept.get())

    @app.get("/api/admin/quality")
    def quality(_: Admin) -> JSONResponse:
        latest = {"remarks": dashboard.remarks(study), "audit": dashboard.audit_tail(study)}
        return JSONResponse({**quality_kept.get(), **latest})

    @app.get("/api/admin/study")
    def stage(_: Admin) -> JSONResponse:
        return JSONResponse(study_status(study))

    @app.post("/api/admin/raters")
    async def raters(request: Request, identity: Admin) -> JSONResponse:
        payload = await _json_body(request)
        return JSONResponse(await run_in_threadpool(invites.office_action, study.db, payload, identity.username))

    @app.get("/report")
    def report_redirect(_: Admin) -> Response:
        return RedirectResponse("report/", status_code=307)

    @app.get("/report/")
    def report(_: Admin) -> Response:
        return FileResponse(admin.latest_report(study) / "index.html", media_type="text/html; charset=utf-8")

    @app.get("/report/{name}")
    def report_file(name: str, _: Admin) -> Response:
        return FileResponse(admin.report_table(study, name), media_type="text/csv; charset=utf-8")


def _add_files(app: FastAPI) -> None:
    @app.get("/")
    def home(request: Request) -> Response:
        return RedirectResponse("admin/" if _identity(request).role == "admin" else "read/", status_code=303)

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        path = STATIC / name
        if path.suffix not in _MEDIA or not path.is_file():
            raise NotFound("there is no such file")
        return FileResponse(path, media_type=_MEDIA[path.suffix], headers={"Cache-Control": "no-cache"})

    @app.get("/manifest.json")
    def manifest() -> JSONResponse:
        return JSONResponse({"name": "Reading room", "display": "browser"}, media_type="application/manifest+json")

    @app.get("/favicon.ico")
    def favicon() -> Response:
        return Response(status_code=204)

    @app.get("/robots.txt")
    def robots() -> Response:
        return Response("User-agent: *\nDisallow: /\n", media_type="text/plain")


def _add_login(app: FastAPI, study: Study, sessions: Sessions, backoff: Backoff) -> None:
    @app.get("/login")
    def login_page() -> HTMLResponse:
        return HTMLResponse(_login_html(study, ""))

    @app.post("/login")
    async def login(request: Request) -> Response:
        wants_json = request.headers.get("content-type", "").startswith("application/json")
        username, password = _credentials(await _json_body(request) if wants_json else _form(await request.body()))
        address = request.client.host if request.client else "unknown"
        wait = backoff.begin(username, address)
        if wait > 0:
            text = f"too many tries; wait {max(1, round(wait))} s and try again"
            return _login_failed(study, wants_json, 429, text, {"Retry-After": str(max(1, round(wait)))})
        rater_id = await run_in_threadpool(check_password, study.db, username, password)
        if rater_id is None:
            return _login_failed(study, wants_json, 401, "name or password is wrong", {})
        backoff.success(username, address)
        old = guard.session_token(request.headers)
        token = await run_in_threadpool(lambda: sessions.open(rater_id, old_token=old))
        response: Response = JSONResponse({"ok": True}) if wants_json else RedirectResponse("./", status_code=303)
        _set_cookie(response, request, token)
        return response

    @app.post("/logout")
    async def logout(request: Request) -> Response:
        await run_in_threadpool(sessions.close, guard.session_token(request.headers))
        response = RedirectResponse("login", status_code=303)
        for name in (guard.COOKIE, guard.SECURE_COOKIE):
            response.delete_cookie(name, path="/", httponly=True, samesite="strict", secure=name.startswith("__Host-"))
        return response

    @app.get("/api/session")
    def session(request: Request) -> JSONResponse:
        identity = _identity(request)
        return JSONResponse({"username": identity.username, "role": identity.role})


def _add_invite(app: FastAPI, study: Study, sessions: Sessions, backoff: Backoff) -> None:
    @app.get("/invite")
    def invite_page() -> HTMLResponse:
        return HTMLResponse(_page_html(study, "invite.html", ""))

    @app.post("/invite")
    async def invite(request: Request) -> Response:
        """{token}: whose link it is; {token, password}: set the password and log in."""
        body = await _json_body(request)
        fields = body if isinstance(body, dict) else {}
        token, address = fields.get("token"), request.client.host if request.client else "unknown"
        account = f"invite {token_hash(str(token))}"
        if (wait := backoff.begin(account, address)) > 0:
            seconds = max(1, round(wait))
            text = {"error": f"too many tries; wait {seconds} s and try again"}
            return JSONResponse(text, status_code=429, headers={"Retry-After": str(seconds)})
        found = await run_in_threadpool(invites.find, study.db, token)
        backoff.success(account, address)  # a link that exists was not guessed
        if "password" not in fields:
            return JSONResponse({"username": found.username, "expires_at": found.expires_at})
        rater_id = await run_in_threadpool(invites.accept, study.db, token, fields["password"])
        old = guard.session_token(request.headers)
        session = await run_in_threadpool(lambda: sessions.open(rater_id, old_token=old))
        response = JSONResponse({"ok": True})
        _set_cookie(response, request, session)
        return response


def _set_cookie(response: Response, request: Request, token: str) -> None:
    secure = request.url.scheme == "https"
    name = guard.SECURE_COOKIE if secure else guard.COOKIE
    response.set_cookie(name, token, path="/", httponly=True, samesite="strict", secure=secure)


def _form(body: bytes) -> dict[str, str]:
    try:
        return {key: values[0] for key, values in parse_qs(body.decode(), max_num_fields=10).items()}
    except ValueError as error:
        raise InvalidInput("the form cannot be read; type name and password again") from error


def _credentials(content: Any) -> tuple[str, str]:
    found = [content.get(key, "") if isinstance(content, dict) else "" for key in ("username", "password")]
    if not all(isinstance(text, str) and len(text) <= 256 for text in found):
        raise InvalidInput("name and password must be texts of at most 256 characters")
    return found[0].strip(), found[1]


def _login_failed(study: Study, wants_json: bool, status: int, text: str, headers: dict[str, str]) -> Response:
    if wants_json:
        return JSONResponse({"error": text}, status_code=status, headers=headers)
    return HTMLResponse(_login_html(study, text), status_code=status, headers=headers)


def _login_html(study: Study, error: str) -> str:
    return _page_html(study, "login.html", error)


def _page_html(study: Study, name: str, error: str) -> str:
    page = (STATIC / name).read_text(encoding="utf-8")
    return page.replace("{{title}}", html.escape(study.config.title)).replace("{{error}}", html.escape(error))


def _on_known(_: Request, error: Exception) -> JSONResponse:
    status, text = _public_error(error)
    reason = {"reason": "stale"} if isinstance(error, StaleWrite) else {}
    return JSONResponse({"error": text, **reason}, status_code=status)


def _add_errors(app: FastAPI) -> None:
    """4xx and 5xx are JSON with one line that holds no path and no name of anything inside the study."""

    def on_http(_: Request, error: Exception) -> JSONResponse:
        assert_http: HTTPException = error  # type: ignore[assignment]
        return JSONResponse({"error": str(assert_http.detail)}, status_code=assert_http.status_code)

    handlers: dict[type[Exception], Callable[[Request, Exception], JSONResponse]] = {
        RadprefError: _on_known,
        sqlite3.Error: _on_known,
        OSError: _on_known,
        ClientDisconnect: _on_known,
        HTTPException: on_http,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _public_error(error: Exception) -> tuple[int, str]:
    cause = str(error.__cause__ or error)
    if "locked" in cause and isinstance(error.__cause__ or error, sqlite3.OperationalError):
        return 503, "the study record is busy; the page tries again by itself"
    if isinstance(error, StorageFull) or "disk is full" in cause or "No space left" in cause:
        return 507, "the server's disk is full; nothing that was saved is lost, tell the study office"
    if isinstance(error.__cause__ or error, sqlite3.OperationalError):  # a page keeps what a 5xx refuses
        _log.error("the study record refused: %s", error, exc_info=error)
        return 503, "the study record cannot be written just now; the page keeps trying, tell the study office"
    known = {InvalidInput: 422, NotFound: 404, Conflict: 409}
    for kind, status in known.items():
        if isinstance(error, kind):
            return status, str(error)
    if isinstance(error, ClientDisconnect):
        return 413, f"the request is larger than {guard.MAX_BODY} bytes or was cut off"
    _log.error("a request failed: %s", error, exc_info=error)
    return 500, "the server could not do this; tell the study office"
