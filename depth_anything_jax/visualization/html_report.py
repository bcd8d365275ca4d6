"""Builds self-contained HTML reports: the page, tables from Markdown, and embedded images."""

from __future__ import annotations

import base64
import html

import numpy as np
from jaxtyping import UInt8

_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:75em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;font-size:13px}"
    "td,th{border:1px solid #ccc;padding:.25em .6em}"
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
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}{style}</style><h1>{html.escape(heading or title)}</h1>{body}</html>"
    )


def tables(text: str) -> str:
    """Converts Markdown tables, lists and lines as written by this project to HTML."""
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
            rows.append([html.escape(c.strip()) for c in line.strip("|").split("|")])
            continue
        if rows:
            head = "".join(f"<th>{c}</th>" for c in rows[0])
            body = "".join(
                "<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows[1:]
            )
            out.append(f"<table><tr>{head}</tr>{body}</table><br>")
            rows = []
        if line:
            out.append(f"<p>{html.escape(line)}</p>")
    return "".join(out)


def inlined(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """Encodes an image as a data URI."""
    from depth_anything_jax.data.file_formats import formats

    data = base64.b64encode(formats.encode_png(np.ascontiguousarray(image))).decode()
    return f"data:image/png;base64,{data}"
