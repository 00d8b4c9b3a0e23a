"""The head of the Gradio pages: own style and modules stand in the HTML itself, once, and all of them."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from radpref.annotate_app.gradio_pages import STATIC, HeadMiddleware, head_of, module_names


@pytest.mark.parametrize("script", ["scoring", "admin"])
def test_every_imported_module_is_named(script: str) -> None:
    names = module_names(script)
    assert names[0] == f"{script}.js"
    assert len(names) == len(set(names))
    for name in names:
        text = (STATIC / name).read_text(encoding="utf-8")
        imported = re.findall(r"""from\s+['"]\./([\w-]+\.js)['"]""", text)
        assert set(imported) <= set(names), f"{name} imports something that is not fetched early"
        assert f'<link rel="modulepreload" href="../static/{name}">' in head_of(script)


def test_only_the_scoring_page_starts_early() -> None:
    assert head_of("scoring").count("data-early") == 1
    assert "<script" not in head_of("admin")


def answer(path: str, chunks: list[bytes], headers: list[tuple[bytes, bytes]]) -> tuple[dict[bytes, bytes], bytes]:
    """What a client of a wrapped application gets for ``path``."""
    sent: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for place, chunk in enumerate(chunks):
            await send({"type": "http.response.body", "body": chunk, "more_body": place < len(chunks) - 1})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    app = HeadMiddleware(inner, {"/read": "<i>ours</i>"})
    asyncio.run(app({"type": "http", "path": path}, receive, send))
    return dict(sent[0]["headers"]), b"".join(message["body"] for message in sent[1:])


HTML = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", b"26")]


@pytest.mark.parametrize("path", ["/read", "/read/"])
def test_the_head_is_put_in_once_also_when_the_page_comes_in_pieces(path: str) -> None:
    headers, body = answer(path, [b"<head></he", b"ad></head><body>"], HTML)
    assert body == b"<head><i>ours</i></head></head><body>"
    assert headers[b"content-length"] == str(len(body)).encode()


def test_other_paths_and_other_content_are_left_alone() -> None:
    page = b"<head></head>"
    assert answer("/read/theme.css", [page], HTML)[1] == page
    assert answer("/admin/", [page], HTML)[1] == page
    assert answer("/read/", [page], [(b"content-type", b"application/json")])[1] == page
    packed = [*HTML, (b"content-encoding", b"br")]
    assert answer("/read/", [page], packed) == (dict(packed), page)
