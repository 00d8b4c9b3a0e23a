"""What routes take from a request: who asks, and the JSON body. Roles are checked here again, after the guard."""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn

from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from radpref.annotate_app.accounts import Identity
from radpref.data.core.errors import InvalidInput


def identity_of(request: Request) -> Identity:
    """Who is logged in.

    Raises:
        HTTPException: 401 without a login.
    """
    found: Identity | None = request.state.identity
    if found is None:
        raise HTTPException(401, "log in again")
    return found


def rater_id_of(request: Request) -> int:
    """The rater who asks; an admin gets 403. Raises what :func:`identity_of` raises."""
    return _with_role(request, "rater").rater_id


def admin_of(request: Request) -> Identity:
    """The admin who asks; a rater gets 403. Raises what :func:`identity_of` raises."""
    return _with_role(request, "admin")


def _with_role(request: Request, role: str) -> Identity:
    identity = identity_of(request)
    if identity.role != role:
        raise HTTPException(403, f"this is for the role {role} only")
    return identity


Admin = Annotated[Identity, Depends(admin_of)]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


async def json_body(request: Request) -> Any:
    """The body as JSON; NaN, numbers of endless digits and endless nesting are refused as invalid JSON.

    Raises:
        InvalidInput: the content type or the body is not JSON.
        ClientDisconnect: the body is cut off or too large (the guard counts).
    """
    body = await request.body()
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise InvalidInput("send JSON with content-type application/json")
    try:
        return json.loads(body.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("the body is not valid JSON") from error
