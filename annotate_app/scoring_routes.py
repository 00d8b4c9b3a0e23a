"""The routes of the scoring page. Events go to the one writing thread, everything else to the server's thread pool.

Starlette's routes, not FastAPI's: these are asked for at every click, and solving dependencies would be a third of the
work.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from radpref.annotate_app import scoring
from radpref.annotate_app.request_parts import json_body, rater_id_of
from radpref.annotate_app.writer import Writer
from radpref.data.study.study import Study


def add_scoring_routes(app: Starlette, study: Study, writer: Writer) -> None:
    """Where the rater goes on, one set with its pixels, and the rater's events (acknowledged when durable)."""

    async def save_event(request: Request) -> Response:
        rater_id, payload = rater_id_of(request), await json_body(request)
        work = partial(scoring.save_event, study, rater_id, request.path_params["token"], payload)
        saved = asdict(await writer.run(work))
        return JSONResponse({key: value for key, value in saved.items() if value is not None})

    def image(request: Request) -> Response:
        token, letter = request.path_params["token"], request.path_params["letter"]
        return _pixels(scoring.image_bytes(study, rater_id_of(request), token, letter))

    def set_state(request: Request) -> Response:
        return JSONResponse(asdict(scoring.set_state(study, rater_id_of(request), request.path_params["token"])))

    def mask(request: Request) -> Response:
        return _pixels(scoring.mask_bytes(study, rater_id_of(request), request.path_params["token"]))

    def next_set(request: Request) -> Response:
        return JSONResponse(_next_json(scoring.next_set(study, rater_id_of(request))))

    def repeat_training(request: Request) -> Response:
        return JSONResponse(_next_json(scoring.repeat_training(study, rater_id_of(request))))

    app.add_route("/api/sets/{token}/events", save_event, methods=["POST"])
    app.add_route("/api/sets/{token}/images/{letter}", image)
    app.add_route("/api/sets/{token}", set_state)
    app.add_route("/api/sets/{token}/mask", mask)
    app.add_route("/api/next", next_set)
    app.add_route("/api/training/again", repeat_training, methods=["POST"])


def _next_json(found: scoring.NextSet) -> dict[str, object]:
    gate = found.gate and {
        "share": round(found.gate.share, 4),
        "pass": found.gate.required,
        "attempt": found.gate.attempt,
        "attempts": found.gate.attempts,
        "blocked": found.gate.blocked,
    }
    return {**asdict(found), "gate": gate}


def _pixels(content: bytes) -> Response:
    return Response(content, media_type="application/octet-stream")
