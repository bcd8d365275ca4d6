"""Parts that the page's tabs share: colours, numbers, messages, queues of events."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from depth_anything_jax.web.handlers import COLORMAPS
from depth_anything_jax.web.problems import Problem, plain

# The page calls its events by number; they are not offered as an API.
QUIET: dict[str, Any] = {"api_visibility": "private"}
HEAVY: dict[str, Any] = {**QUIET, "concurrency_id": "network", "concurrency_limit": 1}
LIGHT: dict[str, Any] = {**QUIET, "concurrency_id": "files", "concurrency_limit": 2}
_NAMES = {"Spectral_r": "Spectral (near = warm)"}


def checked(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Calls a method of `Work`; a Problem is shown as a message at the page's lower end."""
    import gradio as gr

    try:
        return call(*args, **options)
    except Problem as problem:  # shown as HTML
        text = html.escape(str(problem))
        raise gr.Error(text, duration=None, print_exception=False) from problem


def colours(of: str) -> Any:
    """A list of colour maps."""
    import gradio as gr

    choices = [(_NAMES.get(name, name.capitalize()), name) for name in COLORMAPS]
    return gr.Dropdown(
        choices, value=COLORMAPS[0], label="Colours", filterable=False, elem_id=f"{of}-colours"
    )


def degrees(of: str, unknown: str, **how: Any) -> Any:
    """A field of view; `unknown` says what 0 means."""
    import gradio as gr

    return gr.Number(
        value=0, minimum=0, maximum=179, label="Field of view, degrees", elem_id=f"{of}-fov",
        info=f"Of the {of}'s longer side. 0: {unknown}.", **how,
    )  # fmt: skip


def note(of: str, text: str = "") -> Any:
    """A text in the place of the canvas, where there is nothing to be drawn."""
    import gradio as gr

    return gr.Markdown(text, visible=bool(text), elem_id=f"{of}-note")


def noted(text: str = "") -> Any:
    """An update of `note`."""
    import gradio as gr

    return gr.Markdown(value=text, visible=bool(text))


def failed(what: str, problem: Problem) -> Any:
    """An update of `note` by an error."""
    return noted(f"**{what}**\n\n{plain(str(problem))}")


def offered(path: str | None) -> Any:
    """An update of a download button."""
    import gradio as gr

    return gr.DownloadButton(value=path, interactive=path is not None)
