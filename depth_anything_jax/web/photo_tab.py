"""Builds the tab of the page that shows the depth of a photo, its values, metres and points."""

from __future__ import annotations

from typing import Any

from depth_anything_jax.web import examples, parts
from depth_anything_jax.web.handlers import Limits, Work
from depth_anything_jax.web.parts import HEAVY, LIGHT, QUIET, checked, offered
from depth_anything_jax.web.problems import Problem, plain
from depth_anything_jax.web.results import Result

# For the file dialogue only: files are recognised by their content.
PHOTOS = ["image", ".heic", ".heif", ".hif", ".avif"]
ASSUME = (
    "Show points anyway: assumes that the unknown shift is 0. Proportions along the viewing "
    "direction are then a guess, and flat walls may bend."
)
NOTHING = "Upload a photo, or try a rendered scene, to see its depth here."
CLICK = "Click the photo, or type a column and a row, to read its value."
CONVERT = " Click two places whose distances you know, give them, and the map becomes metres."
DOWNLOADS = (
    ("Download 16-bit PNG", "photo-png16"),
    ("Download NumPy (.npz)", "photo-npz"),
    ("Download colours (PNG)", "photo-color"),
    ("Download points (.glb)", "photo-glb"),
)


def build(work: Work) -> None:
    """Adds the tab's parts and events to the Blocks that is being built."""
    import gradio as gr

    keep: dict[str, Any] = {"time_to_live": work.folder.keep}
    kept, first = gr.State(None, **keep), gr.State(None, **keep)  # as shown, and as predicted
    in_sight = gr.State(False)  # a 3-D canvas that is filled while its tab is closed stays empty
    needs_lens = work.model.recipe.focal is not None  # it needs the camera to predict metres
    hint = CLICK + CONVERT * (not work.metric)

    def metres(label: str, name: str) -> Any:
        return gr.Slider(0, 1, label=label, visible=False, elem_id=name)

    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            upload = gr.File(label="Photo", file_types=PHOTOS, height=150, elem_id="photo-upload")
            with gr.Row():
                tries = [
                    gr.Button(
                        name, size="md", min_width=250, elem_id=f"try-{i}", elem_classes="try"
                    )
                    for i, name in enumerate(examples.SCENES)
                ]
            colours = parts.colours("photo")
            invert = gr.Checkbox(label="Reverse colours", elem_id="photo-invert")
            near = metres("Colours from, metres", "photo-near")
            far = metres("Colours to, metres", "photo-far")
            if needs_lens:
                fov = parts.degrees("photo", "from its EXIF, else a guess")
            gr.Markdown(_limits(work.limits), elem_classes="quiet")
        with gr.Column(scale=5, min_width=320):
            with gr.Tabs():
                with gr.Tab("Depth") as flat:
                    note = parts.note("photo", NOTHING)
                    slider = gr.ImageSlider(
                        label="Photo and depth", show_label=False, interactive=False,
                        max_height=560, buttons=["fullscreen"], elem_id="photo-slider",
                        visible=False,
                    )  # fmt: skip
                    with gr.Group(visible=False, elem_id="photo-points") as group:
                        values = gr.Markdown(hint, elem_id="photo-values", padding=True)
                        places, known = [], []
                        for i in (1, 2):
                            with gr.Row():
                                for what in ("column", "row"):
                                    places.append(_whole(f"Point {i}, {what}", f"{what}-{i}"))
                                known.append(
                                    gr.Number(
                                        None,
                                        label=f"Point {i}, metres",
                                        minimum=0,
                                        min_width=90,
                                        visible=not work.metric,
                                        elem_id=f"distance-{i}",
                                    )  # fmt: skip
                                )
                        with gr.Row(visible=not work.metric):
                            convert = gr.Button("Convert to metres", elem_id="photo-convert")
                            undo = gr.Button(
                                "Back to relative", interactive=False, elem_id="photo-undo"
                            )
                with gr.Tab("3-D") as solid:
                    assume = gr.Checkbox(
                        label=ASSUME, visible=not work.metric, elem_id="photo-assume"
                    )
                    space = gr.Model3D(
                        label="Points in space", show_label=False, interactive=False,
                        elem_id="photo-cloud", clear_color=(0.07, 0.08, 0.1, 1.0),
                    )  # fmt: skip
                    clip = metres("Points up to, metres", "photo-clip")
                    points = gr.Markdown(elem_classes="quiet", elem_id="photo-cloud-text")
                    if not needs_lens:
                        fov = parts.degrees("photo", "from its EXIF, else a guess")
            about = gr.Markdown(elem_id="photo-about")
            with gr.Row():
                buttons = [
                    gr.DownloadButton(text, interactive=False, size="md", min_width=250, elem_id=i)
                    for text, i in DOWNLOADS
                ]
    png, npz, painted, glb = buttons
    sliders = [near, far, clip]

    def fields(result: Result | None) -> list[Any]:
        """Updates of what the user may click or type about a photo."""
        h, w = (1, 1) if result is None else result.size
        ends = [gr.Number(value=None, maximum=most - 1) for most in (w, h, w, h)]
        return [gr.Group(visible=result is not None), hint, *ends, None, None]

    def ends_of(result: Result | None) -> list[Any]:
        """Updates of the sliders in metres."""
        found = None if result is None else result.metres
        if found is None:
            return [gr.Slider(visible=False)] * 3
        own: dict[str, Any] = {
            "minimum": 0,  # the value of a slider not yet shown, which may be under way
            "maximum": found.most,
            "step": found.step,
            "visible": True,
        }
        return [gr.Slider(value=v, **own) for v in (found.near, found.far, found.clip)]

    def limits(result: Result, low: float, high: float) -> tuple[float, float] | None:
        return None if result.metres is None else (low, high)

    def clear() -> list[Any]:
        waits = [None, None, gr.ImageSlider(value=None, visible=True), parts.noted(), ""]
        return [*waits, None, "", *[offered(None)] * 4, *fields(None), *ends_of(None)]

    def empty() -> list[Any]:
        nothing = clear()
        nothing[2:4] = [gr.ImageSlider(value=None, visible=False), parts.noted(NOTHING)]
        return nothing

    def depth(file: str | None, name: str, turned: bool, degrees: float) -> list[Any]:
        try:
            if file is None:
                raise Problem("upload a photo first")
            result = work.depth(file, degrees or 0)
            pair = work.pair(result, name, turned)
        except Problem as problem:  # in the place of the map, not over the heading
            gone = gr.ImageSlider(value=None, visible=False)
            bad = parts.failed("There is no depth of this file.", problem)
            return [None, None, gone, bad, "", *fields(None), *ends_of(None)]
        shown = [result, result, pair, parts.noted(), result.text]
        return [*shown, *fields(result), *ends_of(result)]

    def files(result: Any, name: str, turned: bool, low: float, high: float) -> list[Any]:
        if result is None:
            return [offered(None)] * 3
        chosen = name, turned, limits(result, low, high)
        paths = [*checked(work.files, result), checked(work.colours, result, *chosen)]
        return [offered(path) for path in paths]

    def cloud(result: Any, assumed: bool, degrees: float, seen: bool, most: float) -> list[Any]:
        if result is None:
            return [None, "", offered(None)]
        most = most if result.metres else 0
        path, text, place = checked(work.cloud, result, assumed, degrees or 0, most or None)
        drawn = gr.Model3D(value=path, camera_position=place) if seen and path else None
        return [drawn, text, offered(path)]

    def redraw(result: Any, name: str, turned: bool, low: float, high: float) -> list[Any]:
        if result is None:
            return [None, offered(None)]
        chosen = name, turned, limits(result, low, high)
        path = checked(work.colours, result, *chosen)
        return [checked(work.pair, result, *chosen), offered(path)]

    def read_out(result: Any, *numbers: float | None) -> str:
        """The values at one or two places, given by columns and rows."""
        if result is None:
            return ""
        texts = []
        for i, place in enumerate((numbers[:2], numbers[2:4]), 1):
            if None not in place:
                texts.append(f"Point {i}, {checked(work.value, result, *place)}")
        return "  \n".join(texts) or hint

    def align(result: Any, x1: Any, y1: Any, x2: Any, y2: Any, *distances: Any) -> list[Any]:
        points = [(x1, y1, distances[0]), (x2, y2, distances[1])]
        try:
            metric = work.align(result, points)
        except Problem as problem:
            told = f"**Not converted:** {plain(str(problem))}"
            return [gr.skip(), told, *[gr.skip()] * 5]
        told = read_out(metric, x1, y1, x2, y2)
        return [metric, told, metric.text, gr.Button(interactive=True), *ends_of(metric)]

    def back(original: Any, *numbers: float | None) -> list[Any]:
        text = "" if original is None else original.text
        told = read_out(original, *numbers)
        return [original, told, text, gr.Button(interactive=False), *ends_of(original)]

    look, ends = [colours, invert], [near, far]
    view, three = [kept, assume, fov, in_sight, clip], [space, points, glb]
    clicked = [group, values, *places, *known]
    start = [kept, first, slider, note, about]
    everything = [*start, space, points, *buttons, *clicked, *sliders]
    drawn: dict[str, Any] = {"show_progress_on": space, **LIGHT}

    def whole(start_event: Any) -> None:
        """Chains the steps for a new photo; depth comes first, as users wait for it."""
        step = start_event.then(clear, None, everything, show_progress="hidden", **LIGHT)
        step = step.then(
            depth, [upload, *look, fov], [*start, *clicked, *sliders],
            show_progress_on=slider, **HEAVY,
        )  # fmt: skip
        finish(step)

    def finish(step: Any) -> None:
        step = step.success(
            files, [kept, *look, *ends], [png, npz, painted], show_progress="minimal", **LIGHT
        )
        step.success(cloud, view, three, **drawn)

    whole(upload.upload(lambda: None, None, None, **QUIET))
    for button in tries:
        whole(button.click(lambda name: checked(work.example, name), button, upload, **LIGHT))
    upload.clear(empty, None, everything, show_progress="hidden", **LIGHT)
    for change in (colours.change, invert.change, near.release, far.release):
        change(redraw, [kept, *look, *ends], [slider, painted], show_progress_on=slider, **LIGHT)
    flat.select(lambda: False, None, in_sight, **QUIET)
    opened = solid.select(lambda: True, None, in_sight, **QUIET)
    opened.then(cloud, view, three, **drawn)
    for change in (assume.change, clip.release):
        change(cloud, view, three, **drawn)
    if needs_lens:
        whole(fov.submit(lambda: None, None, None, **QUIET))
    else:
        fov.submit(cloud, view, three, **drawn)
    gr.on(
        [place.change for place in places], read_out, [kept, *places], values,
        show_progress="hidden", trigger_mode="always_last", **LIGHT,
    )  # fmt: skip
    changed = [kept, values, about, undo, *sliders]
    for step in (
        convert.click(align, [kept, *places, *known], changed, show_progress="hidden", **LIGHT),
        undo.click(back, [first, *places], changed, show_progress="hidden", **LIGHT),
    ):
        finish(
            step.then(
                redraw, [kept, *look, *ends], [slider, painted], show_progress_on=slider, **LIGHT
            )
        )


def _whole(label: str, name: str) -> Any:
    import gradio as gr

    return gr.Number(None, label=label, minimum=0, precision=0, min_width=90, elem_id=name)


def _limits(limits: Limits) -> str:
    return f"At most {limits.bytes / 1e6:.0f} MB and {limits.pixels / 1e6:g} million pixels."
