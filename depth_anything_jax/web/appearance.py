"""The looks of the page: theme, style sheet and script; nothing is loaded from other servers."""

from __future__ import annotations

import pathlib
from typing import Any

from depth_anything_jax.web import examples

_ASSETS = pathlib.Path(__file__).parent.parent / "assets"

_FIELDS = ("input", "checkbox")
# Of text at least 4.5 to 1 (WCAG 2, AA), in both themes: tests/web/test_browser.py measures it.
_CONTRAST = {
    "block_label_text_color": "*primary_700",
    "block_title_text_color": "*primary_700",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_300",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_dark": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "button_primary_background_fill_hover_dark": "*primary_700",
    "button_secondary_background_fill_dark": "*neutral_700",
    "button_secondary_background_fill_hover_dark": "*neutral_700",
    "color_accent": "*primary_600",
    # Edges of fields and boxes at least 3 to 1 (WCAG 1.4.11): the theme has none.
    **{f"{x}_border_width{d}": "1px" for x in ("input", "checkbox") for d in ("", "_dark")},
    **{
        f"{x}_border_color{d}": "*neutral_500" for x in ("input", "checkbox") for d in ("", "_dark")
    },
    "link_text_color_dark": "*primary_300",
    "link_text_color_active_dark": "*primary_300",
    "link_text_color_hover_dark": "*primary_200",
    "link_text_color_visited_dark": "*primary_300",
}


def of_launch() -> dict[str, Any]:
    """Returns the appearance arguments of `Blocks.launch`."""
    import gradio as gr

    theme = gr.themes.Soft(
        primary_hue="indigo",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(**_CONTRAST)
    style = (_ASSETS / "page.css").read_text(encoding="utf-8")
    for i, name in enumerate(examples.SCENES):
        style += f"#try-{i} {{ background-image: url({examples.thumbnail(name)}); }}\n"
    script = (_ASSETS / "page.js").read_text(encoding="utf-8")
    head = f"<script>{script}</script>"
    return {"theme": theme, "css": style, "head": head, "footer_links": []}
