"""The routes of the study office: figures of the dashboard, accounts, and the newest report."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from radpref.annotate_app import admin, dashboard, invites
from radpref.annotate_app.request_parts import Admin, json_body
from radpref.data.reader_study.lifecycle import status as study_status
from radpref.data.study.study import Study


def add_admin_routes(app: FastAPI, study: Study) -> None:
    """Everything under /api/admin, and /report."""
    cached_agreement, cached_quality = (
        dashboard.CachedFigures(study, of) for of in (dashboard.agreement, dashboard.quality)
    )

    @app.get("/api/admin/overview")
    def overview(_: Admin) -> JSONResponse:
        return JSONResponse(asdict(admin.overview(study)))

    @app.get("/api/admin/agreement")
    def agreement(_: Admin) -> JSONResponse:
        return JSONResponse(cached_agreement.get())

    @app.get("/api/admin/quality")
    def quality(_: Admin) -> JSONResponse:
        return JSONResponse(
            {**cached_quality.get(), "remarks": dashboard.remarks(study), "audit": dashboard.audit_tail(study)}
        )

    @app.get("/api/admin/study")
    def stage(_: Admin) -> JSONResponse:
        return JSONResponse(asdict(study_status(study)))

    @app.post("/api/admin/raters")
    async def raters(request: Request, identity: Admin) -> JSONResponse:
        payload = await json_body(request)
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
