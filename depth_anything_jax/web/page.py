"""Builds the web page in Gradio; every event calls a method of `handlers.Work`."""

from __future__ import annotations

from typing import Any

from depth_anything_jax.web import photo_tab, video_tab
from depth_anything_jax.web.handlers import Work

TITLE = "Depth Anything"
_SIZES = {"vits": "Small", "vitb": "Base", "vitl": "Large", "vitg": "Giant"}


def build(work: Work) -> Any:
    """Builds the page as Gradio Blocks."""
    import gradio as gr

    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(_head(work), elem_id="head")
        with gr.Tab("Photo"):
            photo_tab.build(work)
        with gr.Tab("Video"):
            video_tab.build(work)
    return page


def model_name(work: Work) -> str:
    """The name of a model, from its version, size and kind, whatever its file is called."""
    model = work.model
    size = _SIZES.get(model.variant, model.variant)
    name = f"{TITLE} {(model.version or '').upper()} {size}"
    return f"{name}, metric" if work.metric else name


def _head(work: Work) -> str:
    gives = "metres" if work.metric else "relative inverse depth"
    facts = [f"**{model_name(work)}**", gives, work.model.licence or "licence unknown"]
    return (
        f"# {TITLE}\n\n{' · '.join(facts)}. Everything is computed by this server; nothing is sent "
        f"elsewhere, and files are cleared after {work.folder.keep / 60:.0f} minutes."
    )
