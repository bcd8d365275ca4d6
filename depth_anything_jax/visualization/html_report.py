"""Builds self-contained HTML reports: the page, tables from Markdown, and embedded images."""

from __future__ import annotations

import base64
import html
import re

import numpy as np
from jaxtyping import UInt8

# Text and links have a contrast of at least 7 : 1 with the page and with a table's head.
_STYLE = (
    ":root{color-scheme:light dark;--page:#fff;--text:#1b1d21;--link:#0b4f9e;--line:#c4c8ce;"
    "--head:#f0f2f5}"
    "@media(prefers-color-scheme:dark){:root{--page:#15171a;--text:#e7e9ec;--link:#9cc4ff;"
    "--line:#454a52;--head:#23262b}}"
    "body{font:15px/1.5 sans-serif;max-width:75em;margin:2em auto;padding:0 1em;"
    "background:var(--page);color:var(--text);overflow-wrap:anywhere}"
    "a{color:var(--link)}"
    ".scroll{overflow-x:auto;margin:1em 0}"
    "table{border-collapse:collapse;font-size:13px;overflow-wrap:normal}"
    "td,th{border:1px solid var(--line);padding:.25em .6em;text-align:left}"
    "th{background:var(--head)}"
    "img{max-width:100%;image-rendering:pixelated}"
)


def page(title: str, body: str, *, heading: str = "", style: str = "") -> str:
    """Returns a complete HTML document.

    Args:
      title: of the window.
      body: HTML.
      heading: of the page; "": the title.
      style: additional CSS.
    """
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}{style}</style>"
        f"<h1>{html.escape(heading or title)}</h1>{body}</html>"
    )


def tables(text: str) -> str:
    """Converts Markdown as written by this project to HTML.

    That is tables (which scroll where the window is narrower), lists and lines; in a table's cells
    also **bold** and [links](#to) within the page.
    """
    out, rows, points = [], [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("- "):
            points.append(f"<li>{html.escape(line[2:])}</li>")
            continue
        if points:
            out.append(f"<ul>{''.join(points)}</ul>")
            points = []
        if line.startswith("|---"):
            continue
        if line.startswith("|"):
            rows.append([_cell(c.strip()) for c in line.strip("|").split("|")])
            continue
        if rows:
            head = "".join(f"<th>{c}</th>" for c in rows[0])
            body = "".join(
                "<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows[1:]
            )
            out.append(f"<div class=scroll tabindex=0><table><tr>{head}</tr>{body}</table></div>")
            rows = []
        if line:
            out.append(f"<p>{html.escape(line)}</p>")
    return "".join(out)


def _cell(text: str) -> str:
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(text))
    return re.sub(r"\[(.+?)\]\(#([\w-]+)\)", r"<a href='#\2'>\1</a>", text)


def inlined(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """Encodes an image as a data URI."""
    from depth_anything_jax.data.file_formats import formats

    data = base64.b64encode(formats.encode_png(np.ascontiguousarray(image))).decode()
    return f"data:image/png;base64,{data}"
