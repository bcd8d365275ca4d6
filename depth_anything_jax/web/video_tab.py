"""Builds the tab of the page that makes the depth of a video, and can be stopped."""

# No `annotations` of the future: Gradio looks for a parameter of its class Request.
from typing import Any

from depth_anything_jax.video import reader
from depth_anything_jax.web import parts
from depth_anything_jax.web.handlers import Work
from depth_anything_jax.web.parts import HEAVY, LIGHT
from depth_anything_jax.web.problems import Cancelled, Problem, plain

NOTHING = "Upload a video and press “Make depth” to see its depth here."
CANCELLED = "Cancelled; nothing of it was kept."


def build(work: Work) -> None:
    """Adds the tab's parts and events to the Blocks that is being built."""
    import gradio as gr

    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            upload = gr.File(
                label="Video", file_types=["video", *reader.SUFFIXES], height=150,
                elem_id="video-upload",
            )  # fmt: skip
            colours = parts.colours("video")
            smooth = gr.Checkbox(
                True, label="Smooth: keep scale and shift from frame to frame",
                visible=not work.metric,
            )  # fmt: skip
            beside = gr.Checkbox(False, label="Show the video beside its depth")
            sixteen = gr.Checkbox(False, label="Also 16-bit depth (.mkv, lossless)")
            fov = parts.degrees("video", "unknown", visible=work.model.recipe.focal is not None)
            with gr.Row():
                start = gr.Button("Make depth", variant="primary", elem_id="video-start")
                stop = gr.Button("Cancel", interactive=False, elem_id="video-cancel")
            gr.Markdown(
                f"Only the first {work.limits.seconds:g} seconds are processed; at most "
                f"{work.limits.bytes / 1e6:.0f} MB.",
                elem_classes="quiet",
            )
        with gr.Column(scale=5, min_width=320):
            note = parts.note("video", NOTHING)
            shown = gr.Video(
                label="Depth", show_label=False, interactive=False, height=360,
                buttons=["download"], elem_id="video-shown", visible=False,
            )  # fmt: skip
            about = gr.Markdown("", elem_id="video-about")
            raw = gr.DownloadButton(
                "Download 16-bit depth (.mkv)", interactive=False, size="md", elem_id="video-raw"
            )

    def begin() -> list[Any]:
        empty = gr.Video(value=None, visible=True)
        return [empty, parts.noted(), "", parts.offered(None), gr.Button(interactive=True)]

    def ended(told: Any) -> list[Any]:
        gone = gr.Video(value=None, visible=False)
        return [gone, told, "", parts.offered(None), gr.Button(interactive=False)]

    # Gradio finds the bar by its default value.
    def video(
        file: str | None, name: str, steady: bool, both: bool, deep: bool, degrees: float,
        request: gr.Request, bar: Any = gr.Progress(),  # noqa: B008
    ) -> list[Any]:  # fmt: skip
        def progress(done: int, count: int | None, text: str) -> None:
            bar((done, count) if count else None, desc=text, unit="frames")

        try:
            if file is None:
                raise Problem("upload a video first")
            found, mkv, text = work.video(
                file, name, smooth=steady, beside=both, sixteen=deep, fov=degrees or 0,
                progress=progress, session=request.session_hash or "",
            )  # fmt: skip
        except Cancelled as cancelled:
            return ended(parts.noted(plain(str(cancelled))))
        except Problem as problem:
            return ended(parts.failed("There is no depth of this file.", problem))
        return [found, parts.noted(), plain(text), parts.offered(mkv), gr.Button(interactive=False)]

    def cancel(request: gr.Request) -> list[Any]:
        work.cancel(request.session_hash or "")
        return ended(parts.noted(CANCELLED))

    inputs = [upload, colours, smooth, beside, sixteen, fov]
    outputs = [shown, note, about, raw, stop]
    run = start.click(begin, None, outputs, show_progress="hidden", **LIGHT).then(
        video, inputs, outputs, show_progress_on=shown, **HEAVY
    )
    # `cancels` takes one that waits out of the queue; the one that runs sees the flag.
    stop.click(cancel, None, outputs, cancels=[run], show_progress="hidden", **LIGHT)
