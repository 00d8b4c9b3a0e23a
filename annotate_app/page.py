"""The two Gradio pages: the reading room at /read and the dashboard at /admin, each a Blocks of its own.

Each holds one ``gr.HTML`` component, whose script is ours and talks to our own routes only. Gradio sees no score, no
image and no name; it has no event, no State and no upload.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI

_LOAD = "import(new URL('../static/{script}.js', document.baseURI).href).then((module) => module.start(element));"
_HEAD = """<meta name="color-scheme" content="dark">
<meta name="robots" content="noindex">
<link rel="stylesheet" href="../static/{style}.css">"""
_CSS = "html, body, gradio-app { background: #0b0d10 !important; color: #d9dee5; color-scheme: dark; }"


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
    pages = {"/read": ("Reading room", "reader"), "/admin": ("Reading room: dashboard", "admin")}
    for path, (title, script) in pages.items():
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
            head=_HEAD.format(style=script),
        )
