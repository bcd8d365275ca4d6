"""Builds the page of an evaluation, report.html: tables, metrics, images, protocols, the run.

Paths are shortened to the last parts that tell them apart: a report is passed on, and scores.json
and log.jsonl hold them in full.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from depth_anything_jax.evaluation.protocols.protocol import Protocol
from depth_anything_jax.evaluation.report import gallery, tables
from depth_anything_jax.visualization import html_report

# p: aligned prediction, g: label, over the scored pixels of an image. evaluation/scores/metrics.py
# computes them.
MEANINGS = {
    "abs_rel": "mean of |p − g| / g",
    "delta1": "share of pixels with max(p / g, g / p) below 1.25",
    "delta2": "share of pixels with max(p / g, g / p) below 1.25²",
    "delta3": "share of pixels with max(p / g, g / p) below 1.25³",
    "rmse": "root of the mean of (p − g)², in metres where p and g are depth",
    "rmse_log": "root of the mean of (ln p − ln g)²",
    "log10": "mean of |log₁₀ p − log₁₀ g|",
    "silog": "100 × standard deviation of ln p − ln g: a constant factor does not count",
    "norm_l1": "mean of |p̂ − ĝ| in disparity, each map less its median and divided by its mean "
    "absolute deviation from it; a constant map scores 1",
    "boundary1": "F1 of precision and recall of the label's depth edges, found at most one pixel "
    "away; the protocol's switch boundary chooses among three definitions",
    "boundary2": "the same, at most two pixels away",
    "boundary3": "the same, at most three pixels away",
    "accuracy": "share of pairs of points of which the nearer one is found",
    "whdr": "share of pairs of points that are put in the wrong order (weighted human disagreement "
    "rate)",
}
_KEPT = 2  # parts of a path that are kept at least: the last alone is often "model"
# An absolute path is all of a name, or follows a scheme or an option of it.
_PATH = re.compile(r"(?<![^:=,])/(?!/)[^?&=,:|]+")
_STYLE = (
    "nav ul{columns:22em;padding-left:1.2em;margin:.3em 0}"
    ".scores table td:first-child,.scores table th:first-child{position:sticky;left:0;"
    "background:var(--head);min-width:7em;max-width:14em;overflow-wrap:break-word}"
    ".facts td{overflow-wrap:anywhere}.facts td:first-child{white-space:nowrap}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.2em 1em}dt{font-weight:bold}"
    "dd{margin:0}"
)


class Section(NamedTuple):
    """The figures of a row of the table, as HTML."""

    row: Mapping[str, Any]
    figures: str

    @property
    def heading(self) -> str:
        """What was scored on what."""
        row, text = self.row, f"{self.row['checkpoint']} on {self.row['set']}"
        return f"{text}, {row['corruption']} {row['severity']}" if row.get("severity") else text


def build(
    title: str,
    rows: Sequence[tables.Row],
    relative: Sequence[tables.Row],
    sections: Sequence[Section],
    switches: Mapping[str, Protocol],
    facts: Mapping[str, Any],
) -> str:
    """Returns the page as HTML, which loads nothing but the pictures beside it.

    Args:
      rows, relative: of `tables.text`.
      sections: the figures, one for each row that has some.
      switches: hash → protocol of the figures.
      facts: of the run.
    """
    short = _Shortened([rows, relative, facts])
    rows, relative, facts = short(rows), short(relative), short(facts)
    sections = [Section(short(s.row), s.figures) for s in sections]
    links: dict[Any, str] = {digest: f"protocol-{digest}" for digest in switches}
    links |= {tables.identity(s.row): f"images-{i}" for i, s in enumerate(sections)}
    body = [_contents(sections)]
    table = html_report.tables(tables.text(rows, relative, links))
    body += [f"<h2 id=scores>Scores</h2><div class=scores>{table}</div>", _metrics(rows, relative)]
    body += ["<h2 id=images>Images</h2>", gallery.legend()]
    for i, s in enumerate(sections):
        row = s.row
        hashed = f"<a href='#protocol-{row['hash']}'>{row['hash']}</a>"
        about = html.escape(f"{row['view']}, {row['protocol']}")
        body += [f"<h3 id=images-{i}>{html.escape(s.heading)}</h3>"]
        body += [f"<p>{about} {hashed}, {row['images']} images · <a href='#scores'>scores</a></p>"]
        body += [s.figures]
    body += ["<h2 id=protocols>Protocols</h2>"]
    body += ["<p>Numbers are comparable exactly when their hashes agree.</p>"]
    for digest, protocol in switches.items():
        uses = {
            f"{r['protocol']} on {r['set']} as {r['view']}": None
            for r, _ in sections
            if r["hash"] == digest
        }
        body += [f"<h3 id=protocol-{digest}>{digest}</h3><p>{html.escape('; '.join(uses))}</p>"]
        body += [_table(json.loads(protocol.canonical))]
    body += ["<h2 id=run>Run</h2>"]
    body += ["<p>Paths are shortened here; log.jsonl and scores.json hold them in full.</p>"]
    body += [_table(facts)]
    return html_report.page(title, "".join(body), style=gallery.STYLE + _STYLE)


def _contents(sections: Sequence[Section]) -> str:
    images = "".join(
        f"<li><a href='#images-{i}'>{html.escape(s.heading)}</a></li>"
        for i, s in enumerate(sections)
    )
    parts = ("Scores", "Metrics", "Images", "Protocols", "Run")
    links = " · ".join(f"<a href='#{p.lower()}'>{p}</a>" for p in parts)
    return f"<nav aria-label=Contents>{links}{f'<ul>{images}</ul>' if images else ''}</nav>"


def _metrics(rows: Sequence[tables.Row], relative: Sequence[tables.Row]) -> str:
    """Explains the columns that the table has."""
    words = {"↑": "more is better", "↓": "less is better"}
    points = "".join(
        f"<dt>{title} {tables.BETTER[c]}</dt><dd>{MEANINGS[c]}; {words[tables.BETTER[c]]}</dd>"
        for c, title in tables.columns_of(rows).items()
    )
    compared = "<p>Relative improvements: in every column above 0 is better.</p>" * bool(relative)
    return (
        "<h2 id=metrics>Metrics</h2><p>p is the aligned prediction and g the label, at the scored "
        "pixels of an image; a row is the mean over its images. <b>Bold</b> is the best of the "
        f"rows with the same set, protocol hash and number of images.</p>{compared}"
        f"<dl>{points}</dl>"
    )


def _table(facts: Mapping[str, Any]) -> str:
    """Names and values as an HTML table; empty values are left out."""
    cells = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(_as_text(value))}</td></tr>"
        for name, value in facts.items()
        if value not in (None, "", [], {})
    )
    return f"<div class='scroll facts' tabindex=0><table>{cells}</table></div>"


def _as_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={v}" for k, v in value.items() if v is not None)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


class _Shortened:
    """Shortens the absolute paths in nested values to the last parts that tell them apart."""

    def __init__(self, values: Any):
        paths = {p.rstrip("/") for text in _texts(values) for p in _PATH.findall(text)}
        self._names = {}
        for path in paths:
            parts, others = path.split("/"), paths - {path}
            kept = _KEPT
            while kept < len(parts) and any(
                f"/{o}".endswith("/" + "/".join(parts[-kept:])) for o in others
            ):
                kept += 1
            self._names[path] = "/".join(parts[-kept:]).lstrip("/")

    def __call__(self, value: Any) -> Any:
        if isinstance(value, str):
            return _PATH.sub(lambda m: self._names.get(m[0].rstrip("/"), m[0]), value)
        if isinstance(value, Mapping):
            return {k: self(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self(v) for v in value]
        return value


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)
