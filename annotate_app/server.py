"""The web server of the reading room: a FastAPI parent with own routes, Gradio's pages mounted on it.

Input: a Study. Output: an application for one uvicorn worker. Handlers are a few lines; the work is in scoring.py,
admin.py and invites.py. Every answer of an own route is JSON, raw pixels, or one of our static files.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect

from radpref.annotate_app.account_routes import add_invite_routes, add_login_routes
from radpref.annotate_app.accounts import Backoff, Sessions
from radpref.annotate_app.admin_routes import add_admin_routes
from radpref.annotate_app.forwarded_prefix import ForwardedPrefix
from radpref.annotate_app.gradio_pages import STATIC, mount_pages
from radpref.annotate_app.guard import MAX_BODY, Guard, SecurityHeaders
from radpref.annotate_app.request_parts import identity_of
from radpref.annotate_app.scoring_routes import add_scoring_routes
from radpref.annotate_app.writer import Writer
from radpref.data.core.errors import Conflict, InvalidInput, NotFound, StorageFull
from radpref.data.core.sqlite import sqlite3
from radpref.data.reader_study.check_sets import ensure_checks
from radpref.data.reader_study.scores import StaleWrite
from radpref.data.study.study import Study

_MEDIA = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
_log = logging.getLogger(__name__)


def create_app(study: Study) -> FastAPI:
    """The whole reading room of one study; missing training sets and attention checks are made first."""
    ensure_checks(study)
    config = study.config.annotate
    writer = Writer(study.db)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(writer.close)

    app = FastAPI(title="radpref", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_exception_handler(HTTPException, _error)
    sessions = Sessions(study.db, life_hours=config.session_hours, idle_minutes=config.idle_minutes)
    backoff = Backoff()
    add_scoring_routes(app, study, writer)  # first: routes are tried in order, and these are the most frequent
    add_login_routes(app, study, sessions, backoff)
    add_invite_routes(app, study, sessions, backoff)
    add_admin_routes(app, study)
    _add_files(app)
    mount_pages(app)
    # What is added last is outermost: an error, of the guard too, is answered under the same headers as all else.
    app.add_middleware(Guard, sessions=sessions)
    app.add_middleware(ExceptionMiddleware, handlers={Exception: _error})
    app.add_middleware(SecurityHeaders)
    return app


def serve(study: Study, host: str = "127.0.0.1", port: int = 7860, *, behind_reverse_proxy: bool = False) -> None:
    """Serve until interrupted: one worker, because logins' back-off is kept in memory.

    ``behind_reverse_proxy`` trusts X-Forwarded-* of a reverse proxy on this machine (TLS, client addresses, path).
    """
    import uvicorn

    app = create_app(study)
    uvicorn.run(
        ForwardedPrefix(app) if behind_reverse_proxy else app,
        host=host,
        port=port,
        workers=1,
        log_level="warning",
        server_header=False,
        proxy_headers=behind_reverse_proxy,
        timeout_graceful_shutdown=3,
        timeout_keep_alive=75,  # radiologists think longer than uvicorn's 5 s, and a new TLS connection costs a moment
    )


def _add_files(app: FastAPI) -> None:
    @app.get("/")
    def home(request: Request) -> Response:
        return RedirectResponse("admin/" if identity_of(request).role == "admin" else "read/", status_code=303)

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


def _error(_: Request, error: Exception) -> JSONResponse:
    """4xx and 5xx are JSON with one line that holds no path and no name of anything inside the study."""
    status, text = _public_error(error)
    reason = {"reason": "stale"} if isinstance(error, StaleWrite) else {}
    return JSONResponse({"error": text, **reason}, status, getattr(error, "headers", None))


def _public_error(error: Exception) -> tuple[int, str]:
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail)
    cause = str(error.__cause__ or error)
    refused_by_sqlite = isinstance(error.__cause__ or error, sqlite3.OperationalError)
    if refused_by_sqlite and "locked" in cause:
        return 503, "the study record is busy; the page tries again by itself"
    if isinstance(error, StorageFull) or "disk is full" in cause or "No space left" in cause:
        return 507, "the server's disk is full; nothing that was saved is lost, tell the study office"
    if refused_by_sqlite:  # a page keeps what a 5xx refuses
        _log.error("the study record refused: %s", error, exc_info=error)
        return 503, "the study record cannot be written just now; the page keeps trying, tell the study office"
    for kind, status in ((InvalidInput, 422), (NotFound, 404), (Conflict, 409)):
        if isinstance(error, kind):
            return status, str(error)
    if isinstance(error, ClientDisconnect):
        return 413, f"the request is larger than {MAX_BODY} bytes or was cut off"
    _log.error("a request failed: %s", error, exc_info=error)
    return 500, "the server could not do this; tell the study office"
