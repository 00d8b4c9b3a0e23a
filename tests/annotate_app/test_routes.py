"""Every route of the application, both Gradio mounts included, against one explicit table of who gets what.

A route that is in no table fails the test, so that a Gradio release that adds one is looked at, although the guard
hides it anyway.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from radpref.annotate_app.server import create_app
from radpref.data.study.study import Study
from tests.support.annotate import PASSWORD, add_people, make_study

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
OWN: dict[str, tuple[int, int, int, int]] = {  # anonymous, rater, other rater (with the first one's tokens), admin
    "GET /": (303, 303, 303, 303),
    "GET /login": (200, 200, 200, 200),
    "POST /login": (401, 401, 401, 401),
    "POST /logout": (303, 303, 303, 303),
    "GET /invite": (200, 200, 200, 200),
    "POST /invite": (404, 404, 404, 404),
    "GET /static/{name}": (200, 200, 200, 200),
    "GET /manifest.json": (200, 200, 200, 200),
    "GET /favicon.ico": (204, 204, 204, 204),
    "GET /robots.txt": (200, 200, 200, 200),
    "GET /api/session": (401, 200, 200, 200),
    "GET /api/next": (401, 200, 200, 403),
    "GET /api/sets/{token}": (401, 200, 404, 403),
    "GET /api/sets/{token}/images/{letter}": (401, 200, 404, 403),
    "GET /api/sets/{token}/mask": (401, 200, 404, 403),
    "POST /api/sets/{token}/events": (401, 200, 404, 403),
    "POST /api/training/again": (401, 409, 409, 403),
    "GET /api/admin/overview": (401, 403, 403, 200),
    "GET /api/admin/agreement": (401, 403, 403, 200),
    "GET /api/admin/quality": (401, 403, 403, 200),
    "GET /api/admin/study": (401, 403, 403, 200),
    "POST /api/admin/raters": (401, 403, 403, 422),
    "GET /report": (303, 303, 303, 307),
    "GET /report/": (303, 303, 303, 200),
    "GET /report/{name}": (303, 303, 303, 200),
    "GET /read/": (303, 200, 200, 303),
    "GET /read/theme.css": (401, 200, 200, 403),
    "GET /read/assets/{path:path}": (401, 200, 200, 403),
    "GET /admin/": (303, 303, 303, 200),
    "GET /admin/theme.css": (401, 403, 403, 200),
    "GET /admin/assets/{path:path}": (401, 403, 403, 200),
}
HIDDEN = {  # what else Gradio mounts: nobody gets any of it, by any method
    "/login/",
    "/login",
    "/logout",
    "/svelte/{path:path}",
    "/config",
    "/config/",
    "/static/{path:path}",
    "/favicon.ico",
    "/robots.txt",
    "/pwa_icon/{size}",
    "/pwa_icon",
    "/manifest.json",
    "/monitoring",
    "/monitoring/summary",
    "/monitoring/{key}",
}
BODIES: dict[str, Any] = {"/api/sets/{token}/events": {"seen": 0, "tab": "t", "kind": "comment", "comment": "x"}}


def walk(routes: Any, prefix: str = "") -> Iterator[str]:
    """Path templates of all routes, through mounts and included routers."""
    for route in routes:
        path = prefix + getattr(route, "path", "")
        inside = getattr(route, "original_router", None) or getattr(route, "app", None)
        if hasattr(inside, "routes"):
            yield from walk(inside.routes, path)
        else:
            assert hasattr(route, "path"), f"a route without a path: {route!r}"
            yield path


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    opened = make_study(tmp_path, ("TM2I",))
    add_people(opened)
    (opened.reports / "one").mkdir(parents=True)
    (opened.reports / "one" / "index.html").write_text("<p>report</p>")
    (opened.reports / "one" / "table.csv").write_text("a\n1\n")
    yield opened
    opened.db.close()


@pytest.fixture
def people(study: Study) -> Iterator[list[TestClient]]:
    """Anonymous, rater, other rater, admin."""
    app = create_app(study)
    with TestClient(app):
        clients = [TestClient(app, follow_redirects=False, raise_server_exceptions=False) for _ in range(4)]
        for client, name in zip(clients[1:], ("ann", "bob", "office"), strict=True):
            assert client.post("/login", json={"username": name, "password": PASSWORD}).status_code == 200
        yield clients
        for client in clients:
            client.close()


@pytest.fixture
def fill(people: list[TestClient]) -> dict[str, str]:
    """Values of path parameters: the first rater's."""
    import gradio

    assets = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"
    token = people[1].get("/api/next").json()["set"]["token"]
    asset = next(path.name for path in sorted(assets.iterdir()) if path.suffix == ".css")
    return {"{token}": token, "{letter}": "A", "{path:path}": asset, "{size}": "192", "{key}": "x"}


def concrete(template: str, fill: dict[str, str]) -> str:
    name = "table.csv" if template.startswith("/report") else "scoring.js"
    for mark, value in {**fill, "{name}": name}.items():
        template = template.replace(mark, value)
    return template.split("{", 1)[0] + "x" if "{" in template else template


def ask(client: TestClient, method: str, template: str, fill: dict[str, str], **headers: str) -> int:
    body = None
    if method == "POST":
        body = {**BODIES.get(template, {}), **({"uuid": str(uuid.uuid4())} if template in BODIES else {})}
    return client.request(method, concrete(template, fill), json=body, headers=headers).status_code


def test_every_route_is_in_the_table(people: list[TestClient]) -> None:
    found = set(walk(people[0].app.routes))  # type: ignore[attr-defined]
    known = {key.split(" ", 1)[1] for key in OWN}
    gradio = {path for path in found if path.startswith(("/read/", "/admin/"))} - known
    private = {path for path in gradio if path.split("/", 2)[2].startswith("gradio_api/")}
    assert len(private) > 40, "Gradio's own interface was not enumerated"
    unknown = {path for path in gradio - private if "/" + path.split("/", 2)[2] not in HIDDEN}
    unknown |= found - known - gradio
    assert not unknown, f"routes that no table names; decide who may have them: {sorted(unknown)}"
    assert known <= found, f"in the table, but not there: {sorted(known - found)}"


@pytest.mark.slow
def test_every_route_with_every_method_as_everybody(people: list[TestClient], fill: dict[str, str]) -> None:
    templates = sorted(set(walk(people[0].app.routes)))  # type: ignore[attr-defined]
    wrong = []
    for template in (path for path in templates if path != "/logout"):
        for method in METHODS:
            key = f"{'GET' if method == 'HEAD' else method} {template}"
            wanted = OWN.get(key, (404, 404, 404, 404))
            got = tuple(ask(client, method, template, fill) for client in people)
            if method == "HEAD":  # as GET, or FastAPI's "GET only", or a refusal instead of a redirect
                fine = all(g in (w, 405) or (w, g) == (303, 403) for g, w in zip(got, wanted, strict=True))
            else:
                fine = got == wanted
            if not fine:
                wrong.append((method, template, got, wanted))
    assert wrong == []


def test_no_post_from_another_site(people: list[TestClient], fill: dict[str, str], study: Study) -> None:
    posts = [key.split(" ", 1)[1] for key in OWN if key.startswith("POST ")]
    for template in posts:
        for client in people:
            assert ask(client, "POST", template, fill, origin="https://evil.example") == 403, template
            assert ask(client, "POST", template, fill, **{"sec-fetch-site": "cross-site"}) == 403, template
            assert ask(client, "POST", template, fill, origin="null") == 403, template
    assert study.db.value("SELECT count(*) FROM score_events") == 0
    assert study.db.value("SELECT count(*) FROM sessions") == 3


def test_logging_out_ends_the_login_everywhere(people: list[TestClient]) -> None:
    assert [client.post("/logout").status_code for client in people] == [303] * 4
    assert [client.get("/api/session").status_code for client in people] == [401] * 4


@pytest.mark.parametrize("mount", ["read", "admin"])
def test_files_uploads_and_queue_are_not_there(people: list[TestClient], mount: str, study: Study) -> None:
    paths = [
        *(f"gradio_api/file={path}" for path in ("/etc/passwd", str(study.db.path), "../study.db", "%2e%2e/study.db")),
        *("file=/etc/passwd", "file/etc/passwd", "gradio_api/upload", "gradio_api/queue/join", "gradio_api/queue/data"),
        *(
            "gradio_api/call/x",
            "gradio_api/run/predict",
            "gradio_api/deep_link",
            "gradio_api/heartbeat/x",
            "monitoring",
        ),
        *(
            "gradio_api/component_server",
            "gradio_api/proxy=http://example.org/x",
            "gradio_api/stream/x/1/2/playlist.m3u8",
        ),
        *(
            "assets/../config",
            "assets/%2e%2e%2fconfig",
            "assets/..%5cconfig",
            "static/..%2f..%2fstudy.db",
            "mcp",
            "mcp/sse",
        ),
        *("gradio_api/mcp/sse", "gradio_api/app_id", "gradio_api/info", "gradio_api/startup-events", "dev/reload"),
    ]
    for client in people:
        for path in paths:
            for method in ("GET", "POST"):
                assert client.request(method, f"/{mount}/{path}").status_code == 404, (method, path)


def test_no_websocket(people: list[TestClient]) -> None:
    from starlette.websockets import WebSocketDisconnect

    for path in ("/read/gradio_api/queue/join", "/read/", "/api/next"):
        with pytest.raises(WebSocketDisconnect), people[1].websocket_connect(path):
            pass
