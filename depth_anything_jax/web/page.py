"""Builds the web page in Gradio; every event calls a method of `handlers.Work`."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from depth_anything_jax.video import reader
from depth_anything_jax.web.handlers import COLORMAPS, Limits, Problem, Work

TITLE = "Depth Anything"
# For the file dialogue only: files are recognised by their content.
PHOTOS = ["image", ".heic", ".heif", ".hif", ".avif"]
ASSUME = (
    "Show points anyway: assumes that the unknown shift is 0. Proportions along the viewing "
    "direction are then a guess, and flat walls may bend."
)
NOTHING = "Upload a photo to see its depth here."
_CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
#head h1 { margin-bottom: .1em; }
#head p, .quiet p { color: var(--body-text-color-subdued); }
.quiet p { font-size: .85em; }
footer { display: none !important; }
"""


def build(work: Work) -> Any:
    """Builds the page as Gradio Blocks."""
    import gradio as gr

    def checked(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            return call(*args, **options)
        except Problem as problem:  # shown as HTML
            text = html.escape(str(problem))
            raise gr.Error(text, duration=None, print_exception=False) from problem

    # The page calls its events by number; they are not offered as an API.
    quiet: dict[str, Any] = {"api_visibility": "private"}
    heavy: dict[str, Any] = {**quiet, "concurrency_id": "network", "concurrency_limit": 1}
    light: dict[str, Any] = {**quiet, "concurrency_id": "files", "concurrency_limit": 2}

    needs_lens = work.model.recipe.focal is not None  # it needs the camera to predict metres

    def degrees(of: str, unknown: str, **how: Any) -> Any:
        return gr.Number(
            value=0, minimum=0, maximum=179, label="Field of view, degrees", elem_id=f"{of}-fov",
            info=f"Of the {of}'s longer side. 0: {unknown}.", **how,
        )  # fmt: skip

    def photo_tab() -> None:
        kept = gr.State(None, time_to_live=work.folder.keep)
        # A 3-D canvas that is filled while its tab is closed stays empty.
        in_sight = gr.State(False)
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                upload = gr.File(
                    label="Photo", file_types=PHOTOS, height=150, elem_id="photo-upload"
                )
                colours = gr.Dropdown(list(COLORMAPS), value=COLORMAPS[0], label="Colours")
                invert = gr.Checkbox(label="Near is cold, or dark", elem_id="photo-invert")
                if needs_lens:
                    fov = degrees("photo", "from its EXIF, else a guess")
                gr.Markdown(_limits(work.limits), elem_classes="quiet")
            with gr.Column(scale=5, min_width=320):
                with gr.Tabs():
                    with gr.Tab("Depth") as flat:
                        slider = gr.ImageSlider(
                            label="Photo and depth", show_label=False, interactive=False,
                            max_height=560, buttons=["fullscreen"], elem_id="photo-slider",
                        )  # fmt: skip
                    with gr.Tab("3-D") as solid:
                        assume = gr.Checkbox(
                            label=ASSUME, visible=not work.metric, elem_id="photo-assume"
                        )
                        # seen from the camera's position, along -z
                        space = gr.Model3D(
                            label="Points in space", show_label=False, interactive=False,
                            height=480, camera_position=(90, 90, None), elem_id="photo-cloud",
                            clear_color=(0.07, 0.08, 0.1, 1.0),
                        )  # fmt: skip
                        points = gr.Markdown(elem_classes="quiet", elem_id="photo-points")
                        if not needs_lens:
                            fov = degrees("photo", "from its EXIF, else a guess")
                about = gr.Markdown(NOTHING, elem_id="photo-about")
                with gr.Row():
                    buttons = [
                        gr.DownloadButton(
                            text, interactive=False, size="md", min_width=130, elem_id=name
                        )
                        for text, name in (
                            ("16-bit PNG", "photo-png16"),
                            ("NumPy (.npz)", "photo-npz"),
                            ("Colours (PNG)", "photo-color"),
                            ("Points (.glb)", "photo-glb"),
                        )
                    ]
        png, npz, painted, glb = buttons

        def offered(path: str | None) -> Any:
            return gr.DownloadButton(value=path, interactive=path is not None)

        def clear() -> list[Any]:
            return [None, None, NOTHING, None, "", *[offered(None)] * 4]

        def depth(file: str | None, name: str, turned: bool, degrees: float) -> list[Any]:
            if file is None:
                return clear()[:3]
            result = checked(work.depth, file, degrees or 0)
            return [result, checked(work.pair, result, name, turned), result.text]

        def files(result: Any, name: str, turned: bool) -> list[Any]:
            if result is None:
                return [offered(None)] * 3
            paths = [*checked(work.files, result), checked(work.colours, result, name, turned)]
            return [offered(path) for path in paths]

        def cloud(result: Any, assumed: bool, degrees: float, seen: bool) -> list[Any]:
            if result is None:
                return [None, "", offered(None)]
            path, text = checked(work.cloud, result, assumed, degrees or 0)
            return [path if seen else None, text, offered(path)]

        def redraw(result: Any, name: str, turned: bool) -> list[Any]:
            if result is None:
                return [None, offered(None)]
            path = checked(work.colours, result, name, turned)
            return [checked(work.pair, result, name, turned), offered(path)]

        look, view, three = [colours, invert], [kept, assume, fov, in_sight], [space, points, glb]
        everything = [kept, slider, about, space, points, *buttons]

        def whole(start: Any) -> None:
            """Chains the steps for a new photo; depth comes first, as users wait for it."""
            step = start.then(clear, None, everything, show_progress="hidden", **light)
            step = step.then(
                depth, [upload, *look, fov], [kept, slider, about], show_progress_on=slider, **heavy
            )
            step = step.success(
                files, [kept, *look], [png, npz, painted], show_progress="minimal", **light
            )
            step.success(cloud, view, three, show_progress_on=space, **light)

        whole(upload.upload(lambda: None, None, None, **quiet))
        upload.clear(clear, None, everything, show_progress="hidden", **light)
        for change in (colours.change, invert.change):
            change(redraw, [kept, *look], [slider, painted], show_progress_on=slider, **light)
        flat.select(lambda: False, None, in_sight, **quiet)
        opened = solid.select(lambda: True, None, in_sight, **quiet)
        opened.then(cloud, view, three, show_progress_on=space, **light)
        assume.change(cloud, view, three, show_progress_on=space, **light)
        if needs_lens:
            whole(fov.submit(lambda: None, None, None, **quiet))
        else:
            fov.submit(cloud, view, three, show_progress_on=space, **light)

    def video_tab() -> None:
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                upload = gr.File(
                    label="Video", file_types=["video", *reader.SUFFIXES], height=150,
                    elem_id="video-upload",
                )  # fmt: skip
                colours = gr.Dropdown(list(COLORMAPS), value=COLORMAPS[0], label="Colours")
                smooth = gr.Checkbox(
                    True, label="Smooth: keep scale and shift from frame to frame",
                    visible=not work.metric,
                )  # fmt: skip
                beside = gr.Checkbox(False, label="Show the video beside its depth")
                sixteen = gr.Checkbox(False, label="Also 16-bit depth (.mkv, lossless)")
                fov = degrees("video", "unknown", visible=needs_lens)
                start = gr.Button("Make depth", variant="primary", elem_id="video-start")
                gr.Markdown(
                    f"Only the first {work.limits.seconds:g} seconds are processed; at most "
                    f"{work.limits.bytes / 1e6:.0f} MB.",
                    elem_classes="quiet",
                )
            with gr.Column(scale=5, min_width=320):
                shown = gr.Video(
                    label="Depth", show_label=False, interactive=False, height=360,
                    buttons=["download"], elem_id="video-shown",
                )  # fmt: skip
                about = gr.Markdown("", elem_id="video-about")
                raw = gr.DownloadButton(
                    "16-bit depth (.mkv)", interactive=False, size="md", elem_id="video-raw"
                )

        # Gradio finds the bar by its default value.
        def video(
            file: str | None, name: str, steady: bool, both: bool, deep: bool, degrees: float,
            bar: Any = gr.Progress(),  # noqa: B008
        ) -> list[Any]:  # fmt: skip
            if file is None:
                raise gr.Error("upload a video first", print_exception=False)

            def progress(done: int, count: int | None) -> None:
                bar((done, count) if count else None, desc=f"frame {done}", unit="frames")

            found, mkv, text = checked(
                work.video, file, name,
                smooth=steady, beside=both, sixteen=deep, fov=degrees or 0, progress=progress,
            )  # fmt: skip
            return [found, text, gr.DownloadButton(value=mkv, interactive=mkv is not None)]

        inputs = [upload, colours, smooth, beside, sixteen, fov]
        start.click(video, inputs, [shown, about, raw], show_progress_on=shown, **heavy)

    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(_head(work), elem_id="head")
        with gr.Tab("Photo"):
            photo_tab()
        with gr.Tab("Video"):
            video_tab()
    return page


def appearance() -> dict[str, Any]:
    """Appearance arguments of `Blocks.launch`: system fonts, nothing loaded from other servers."""
    import gradio as gr

    theme = gr.themes.Soft(
        primary_hue="indigo",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return {"theme": theme, "css": _CSS, "footer_links": []}


def _head(work: Work) -> str:
    model = work.model
    name = model.source.rstrip("/").rpartition("/")[2]  # no path of this machine
    gives = "metres" if work.metric else "relative inverse depth"
    facts = [f"**{name}**", gives, model.licence or "licence unknown"]
    return (
        f"# {TITLE}\n\n{' · '.join(facts)}. Everything is computed by this server; nothing is sent "
        f"elsewhere, and files are cleared after {work.folder.keep / 60:.0f} minutes."
    )


def _limits(limits: Limits) -> str:
    return f"At most {limits.bytes / 1e6:.0f} MB and {limits.pixels / 1e6:g} million pixels."
