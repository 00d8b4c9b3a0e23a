"""The two Gradio pages: the reading room at /read and the dashboard at /admin, each a separate Blocks.

Each holds one ``gr.HTML`` component, whose script is ours and talks to our own routes only. Gradio sees no score, no
image and no name; it has no event, no State and no upload.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from radpref.annotate_app.forwarded_prefix import route_path

if TYPE_CHECKING:
    from fastapi import FastAPI

STATIC = Path(__file__).parent / "static"
PAGES = {"/read": ("Reading room", "scoring"), "/admin": ("Reading room: dashboard", "admin")}

_LOAD = "import(new URL('../static/{script}.js', document.baseURI).href).then((module) => module.start(element));"
_HEAD = """<meta name="color-scheme" content="dark">
<meta name="robots" content="noindex">"""
_STYLE = '<link rel="stylesheet" href="../static/{script}.css">'
_PRELOAD = '<link rel="modulepreload" href="../static/{name}">'
_EARLY = '<script type="module" data-early src="../static/{script}.js"></script>'
_IMPORT = re.compile(r"^import\b[^;]*?['\"]\./([a-z-]+\.js)['\"];", re.MULTILINE)
_CSS = "html, body, gradio-app { background: #0b0d10 !important; color: #d9dee5; color-scheme: dark; }"


def module_names(script: str) -> list[str]:
    """``script``.js and every module of ours that it imports, in the order of a walk through the imports."""
    found = [f"{script}.js"]
    for name in found:
        text = (STATIC / name).read_text(encoding="utf-8")
        found.extend(other for other in dict.fromkeys(_IMPORT.findall(text)) if other not in found)
    return found


def head_of(script: str) -> str:
    """The head of a page's HTML: the style, and the modules at once instead of one import after the other.

    Gradio itself adds its ``head`` only when its own bundle has run. The scoring page's script also starts from here,
    so that the first set is fetched meanwhile; see the end of scoring.js.
    """
    parts = [_STYLE.format(script=script), *(_PRELOAD.format(name=name) for name in module_names(script))]
    return "".join([*parts, _EARLY.format(script=script)] if script == "scoring" else parts)


class HeadMiddleware:
    """ASGI middleware: puts ``heads[path]`` before ``</head>`` of the HTML served at a path, its last slash aside."""

    def __init__(self, app: ASGIApp, heads: Mapping[str, str]) -> None:
        self.app, self.heads = app, {path: head.encode() for path, head in heads.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass; change the answer where it is one of the pages."""
        head = self.heads.get(route_path(scope).rstrip("/")) if scope["type"] == "http" else None
        if head is None:
            await self.app(scope, receive, send)
            return
        start: dict[str, Any] = {}
        body = bytearray()

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            if message["type"] != "http.response.body":  # Gradio's templates also send http.response.debug
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            headers = MutableHeaders(scope=start)
            whole = bytes(body)
            if headers.get("content-type", "").startswith("text/html") and "content-encoding" not in headers:
                whole = whole.replace(b"</head>", head + b"</head>", 1)
                headers["content-length"] = str(len(whole))
            await send(start)
            await send({"type": "http.response.body", "body": whole})

        await self.app(scope, receive, collect)


def _blocks(title: str, script: str) -> Any:
    import gradio as gr

    with gr.Blocks(analytics_enabled=False, title=title, fill_width=True) as blocks:
        gr.HTML(
            value="",
            html_template=f"<div class='radpref-root' data-page='{script}'>Opening …</div>",
            js_on_load=_LOAD.format(script=script),
            apply_default_css=False,
            container=False,
            padding=False,
            elem_id=f"radpref-{script}",
        )
    blocks.run_history = False
    blocks._queue.start = lambda: None  # there is no event to queue, and it would poll a thousand times a second
    return blocks


def mount_pages(app: FastAPI) -> None:
    """Mount both pages on the parent application.

    Gradio makes locks while it builds; without a running loop it opens one for each and never closes it.
    """

    async def mount() -> None:
        _mount(app)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(mount())
    else:
        _mount(app)


def _mount(app: FastAPI) -> None:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import gradio as gr

    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
        body_background_fill="#0b0d10", body_background_fill_dark="#0b0d10", body_text_color="#d9dee5"
    )
    for path, (title, script) in PAGES.items():
        gr.mount_gradio_app(
            app,
            _blocks(title, script),
            path,
            footer_links=[],
            run_history=False,
            app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
            show_error=False,
            max_file_size=1,
            ssr_mode=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
            theme=theme,
            css=_CSS,
            head=_HEAD,
        )
    app.add_middleware(HeadMiddleware, heads={path: head_of(script) for path, (_, script) in PAGES.items()})
