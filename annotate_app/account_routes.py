"""Login, logout and invitations. Passwords are hashed in the thread pool: argon2 would hold the event loop up."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from radpref.annotate_app import guard, invites
from radpref.annotate_app.accounts import Backoff, Sessions, check_password, token_hash
from radpref.annotate_app.gradio_pages import STATIC
from radpref.annotate_app.request_parts import identity_of, json_body
from radpref.data.core.errors import InvalidInput
from radpref.data.study.study import Study

_TEMPLATES = Environment(loader=FileSystemLoader(STATIC), autoescape=True)


def add_login_routes(app: FastAPI, study: Study, sessions: Sessions, backoff: Backoff) -> None:
    """/login (form or JSON), /logout and /api/session."""

    @app.get("/login")
    def login_page() -> HTMLResponse:
        return HTMLResponse(_page_html(study, "login.html"))

    @app.post("/login")
    async def login(request: Request) -> Response:
        wants_json = request.headers.get("content-type", "").startswith("application/json")
        username, password = _credentials(await json_body(request) if wants_json else _form(await request.body()))

        address = _address(request)
        try:
            _count_try(backoff, username, address)
            rater_id = await run_in_threadpool(check_password, study.db, username, password)
            if rater_id is None:
                raise HTTPException(401, "name or password is wrong")
        except HTTPException as refusal:
            if wants_json:
                raise
            page = _page_html(study, "login.html", refusal.detail)
            return HTMLResponse(page, refusal.status_code, refusal.headers)
        backoff.success(username, address)
        response: Response = JSONResponse({"ok": True}) if wants_json else RedirectResponse("./", status_code=303)
        await _log_in(sessions, request, response, rater_id)
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
        identity = identity_of(request)
        return JSONResponse({"username": identity.username, "role": identity.role})


def add_invite_routes(app: FastAPI, study: Study, sessions: Sessions, backoff: Backoff) -> None:
    """/invite: the page, whose link it is, and the new password."""

    @app.get("/invite")
    def invite_page() -> HTMLResponse:
        return HTMLResponse(_page_html(study, "invite.html"))

    @app.post("/invite")
    async def invite(request: Request) -> Response:
        """{token}: whose link it is; {token, password}: set the password and log in."""
        body = await json_body(request)
        fields = body if isinstance(body, dict) else {}
        token, address = fields.get("token"), _address(request)
        account = f"invite {token_hash(str(token))}"
        _count_try(backoff, account, address)
        found = await run_in_threadpool(invites.find, study.db, token)
        backoff.success(account, address)  # a link that exists was not guessed
        if "password" not in fields:
            return JSONResponse({"username": found.username, "expires_at": found.expires_at})
        rater_id = await run_in_threadpool(invites.accept, study.db, token, fields["password"])
        response = JSONResponse({"ok": True})
        await _log_in(sessions, request, response, rater_id)
        return response


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def _count_try(backoff: Backoff, account: str, address: str) -> None:
    """Let a try begin.

    Raises:
        HTTPException: 429 while the account or the address must wait.
    """
    wait = backoff.begin(account, address)
    if wait > 0:
        wait_s = max(1, round(wait))
        raise HTTPException(429, f"too many tries; wait {wait_s} s and try again", {"Retry-After": str(wait_s)})


async def _log_in(sessions: Sessions, request: Request, response: Response, rater_id: int) -> None:
    """Open a login and put its cookie into the response; an older login of the same browser ends."""
    old = guard.session_token(request.headers)
    token = await run_in_threadpool(lambda: sessions.open(rater_id, old_token=old))
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


def _page_html(study: Study, name: str, error: str = "") -> str:
    return _TEMPLATES.get_template(name).render(title=study.config.title, error=error)
