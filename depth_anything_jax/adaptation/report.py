"""Writes the report of an adaptation: one HTML file with everything in it."""

from __future__ import annotations

import base64
import html
import io
import pathlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from depth_anything_jax.adaptation import choice
from depth_anything_jax.adaptation.plan import Plan
from depth_anything_jax.adaptation.selection import Selection
from depth_anything_jax.checkpoints import licences, orbax_io
from depth_anything_jax.data.pseudo_labels.join import reduced
from depth_anything_jax.evaluation.scores import metrics
from depth_anything_jax.training.logger import read_metrics
from depth_anything_jax.utils.formatting import duration
from depth_anything_jax.visualization import colormaps, html_report

PICTURED = 12  # held-out photos, those that changed most
WIDTH = 320  # pixels of a picture
LISTED = 50  # dropped files that are named
DIFFERENT = 2.0  # normalised difference of the brightest colour


def write(
    plan: Plan,
    chosen: Selection,
    networks: Mapping[str, Any],
    found: Mapping[str, Any],
    marks: Mapping[str, Any],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Writes OUT/report.html and returns its facts."""
    _, meta = orbax_io.load_params(found["model"])
    chain = meta.get("licence_chain", [])
    warnings = list(found["warnings"])
    if found["forgetting"].get("warning"):
        warnings.append(found["forgetting"]["warning"])
    parts = [
        ("Warnings", _list(warnings) if warnings else ""),
        ("Before and after on held-out photos", pictures(found)),
        ("Use it", "".join(f"<pre>{html.escape(c)}</pre>" for c in commands(plan, found["model"]))),
        ("The choice of a step", html_report.tables(steps_table(found)) + _curve(found)),
        ("Training", _losses(plan)),
        ("What was forgotten", html_report.tables(forgetting_table(found["forgetting"]))),
        ("Photos", html_report.tables(photos_table(chosen)) + _dropped(chosen)),
        ("Licence", html_report.tables(licences.note(chain))),
        ("How it was made", _list(_facts(plan, networks, marks))),
    ]
    body = "".join(f"<h2>{html.escape(t)}</h2>{text}" for t, text in parts if text)
    page = html_report.page("Adapted model", body, heading=f"Adapted to {', '.join(plan.photos)}")
    file = pathlib.Path(plan.path("report.html"))
    file.write_text(page, encoding="utf-8", errors="replace")
    tell(f"model: {found['model']} (licence: {licences.combined(chain)})")
    tell(f"report: {file}")
    return {"warnings": warnings, "chain": chain, "report": str(file), **found}


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def order(found: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Returns (number, change) of the held-out photos, the largest change first."""
    if found["before"] is None:
        return [(i, 0.0) for i in range(len(found["after"]))]
    changes = choice.differences(found["before"], found["after"], found["mask"])
    return sorted(enumerate(changes), key=lambda pair: -pair[1])


def pictures(found: Mapping[str, Any]) -> str:
    """Draws the photos that changed most: photo, before, after, and where they differ."""
    heads = ["photo", "after"] if found["before"] is None else [
        "photo", "before", "after", f"difference: dark 0, yellow {DIFFERENT:g} mean deviations"
    ]  # fmt: skip
    rows = "".join(f"<th>{html.escape(h)}</th>" for h in heads)
    out = [f"<table><tr>{rows}</tr>"]
    for i, change in order(found)[:PICTURED]:
        after = found["after"][i]
        valid = np.ones(after.shape, bool)
        if found["mask"] is not None:
            valid = reduced(found["mask"], after.shape)
        tiles = [found["images"][i], colormaps.colourise(after, valid)]
        if found["before"] is not None:
            before = found["before"][i]
            tiles.insert(1, colormaps.colourise(before, valid))
            tiles.append(_difference(before, after, valid))
        cells = "".join(f"<td><img src='{html_report.inlined(_fit(t))}'></td>" for t in tiles)
        name = html.escape(f"{found['keys'][i]}: changed by {change:.3f}")
        out.append(f"<tr><td colspan='{len(tiles)}'>{name}</td></tr><tr>{cells}</tr>")
    note = (
        "<p>Held-out photos, the largest changes first. Red is near, blue far, each map in its own "
        "range; grey does not count. Changes are normalised differences: 0 is the same map, 1 as "
        "far as a constant one.</p>"
    )
    return note + "".join(out) + "</table>"


def _fit(picture: np.ndarray) -> np.ndarray:
    height = max(1, round(picture.shape[0] * WIDTH / picture.shape[1]))
    how = cv2.INTER_AREA if picture.shape[1] > WIDTH else cv2.INTER_NEAREST
    return cv2.resize(picture, (WIDTH, height), interpolation=how)


def _difference(before: np.ndarray, after: np.ndarray, valid: np.ndarray) -> np.ndarray:
    from matplotlib import colormaps as maps

    values = np.zeros(after.shape)
    if valid.any():
        a, b = (metrics.normalise(x[valid].astype(np.float64)) for x in (before, after))
        values[valid] = np.abs(a - b) / DIFFERENT
    shown = maps["viridis"](np.clip(values, 0, 1), bytes=True)[..., :3].copy()
    shown[~valid] = colormaps.GREY
    return shown


def steps_table(found: Mapping[str, Any]) -> str:
    """Formats the scores of the steps, and how the choice compares with labels where there are."""
    rows = found["steps"]
    curve = choice.relative(rows)
    names = list(dict.fromkeys(n for row in rows.values() for n in row))
    lines = ["| step | agreement | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for step in sorted(rows):
        title = "before" if step == 0 else f"{step}{' (chosen)' if step == found['chosen'] else ''}"
        cells = " | ".join(f"{rows[step][n]:.4f}" if n in rows[step] else "" for n in names)
        lines.append(f"| {title} | {curve[step]:.3f} | {cells} |")
    lines += [
        "",
        "agreement: the mean of flip, scale and distortion, each as a share of its value in the "
        "first row; smaller is better. It is no error: nobody knows the truth of these photos.",
    ]
    for name in (n for n in names if n.startswith("abs_rel ")):
        lines.append(ranked(rows, found["chosen"], name))
    return "\n".join(lines)


def ranked(rows: Mapping[int, Mapping[str, float]], chosen: int, name: str) -> str:
    """Says how well the label-free measure ranked the trained steps on a set with labels."""
    trained = [s for s in sorted(rows) if s > 0 and name in rows[s]]
    curve = choice.relative(rows)
    errors = np.array([rows[s][name] for s in trained])
    places = [np.argsort(np.argsort(x)) for x in (errors, np.array([curve[s] for s in trained]))]
    best = trained[int(errors.argmin())]
    worse = rows[chosen][name] / errors.min() - 1
    text = f"{name}: the chosen step is {worse:.1%} above the best one ({best})"
    if len(trained) > 2:
        correlation = np.corrcoef(places[0], places[1])[0, 1]
        text += f"; rank correlation {correlation:.2f} over {len(trained)} steps"
    if 0 in rows and name in rows[0]:
        text += f"; before the training {rows[0][name]:.4f}, chosen {rows[chosen][name]:.4f}"
    return text


def _figure(draw: Callable[[Any], None]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    axis = figure.subplots()
    draw(axis)
    axis.set_xlabel("step")
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<img src='data:image/png;base64,{data}'>"


def _curve(found: Mapping[str, Any]) -> str:
    rows = found["steps"]
    steps = sorted(rows)
    first = rows[steps[0]]

    def draw(axis: Any) -> None:
        for view in choice.VIEWS:
            axis.plot(steps, [rows[s][view] / max(first[view], 1e-9) for s in steps], label=view)
        axis.plot(steps, [choice.relative(rows)[s] for s in steps], "k", label="mean")
        axis.axvline(found["chosen"], color="grey", linestyle=":", label="chosen")

    return _figure(draw)


def _losses(plan: Plan) -> str:
    logged = read_metrics(plan.path("run"))

    def draw(axis: Any) -> None:
        for name in ("loss/labelled", "loss/unlabelled", "loss/features"):
            points = [(r["step"], r[name]) for r in logged if name in r]
            if points:
                axis.plot(*zip(*points, strict=True), label=name, linewidth=1)

    return _figure(draw)


def forgetting_table(found: Mapping[str, Any]) -> str:
    """Formats the comparison on clean images."""
    if not found:
        return "There is no model before the training to compare with."
    lines = ["| clean images | before | after |", "|---|---|---|"]
    lines.append(f"| disagreement with before | 0 | {found['disagreement']:.1%} |")
    if "error_before" in found:
        before, after = found["error_before"], found["error_after"]
        lines.append(f"| normalised L1 to the labels | {before:.4f} | {after:.4f} |")
    lines += ["", f"{found['images']} images of {found['reference']}."]
    if "lost" in found:
        lines.append(f"The error changed by {found['lost']:+.1%}.")
    return "\n".join(lines)


def photos_table(chosen: Selection) -> str:
    """Formats how many photos were used, held out and dropped."""
    lines = ["| photos | |", "|---|---|", f"| trained on | {len(chosen.train):,} |"]
    lines.append(f"| held out: {chosen.how} | {len(chosen.held_out):,} |")
    for reason, count in chosen.reasons().most_common():
        lines.append(f"| dropped: {reason} | {count:,} |")
    return "\n".join(lines)


def _dropped(chosen: Selection) -> str:
    if not chosen.dropped:
        return ""
    lines = [f"{path}: {reason}" for path, reason in chosen.dropped[:LISTED]]
    more = len(chosen.dropped) - len(lines)
    lines += [f"and {more:,} more, in selection.json"] * (more > 0)
    return f"<details><summary>dropped, and why</summary>{_list(lines)}</details>"


def commands(plan: Plan, model: str) -> list[str]:
    """Returns commands that predict with the model, score it and export it."""
    program, model = "python -m depth_anything_jax", shlex.quote(model)
    size = f"--size={plan.size}"
    scored = shlex.quote(plan.evaluated[0] if plan.evaluated else "rgbd:pairs/manifest.json")
    return [
        f"{program}.predict {shlex.quote(plan.photos[0])} --checkpoint={model} {size} --out=depth",
        f"{program}.evaluate --checkpoint={model} --data={scored} {size} --out=scores",
        f"python tools/export_torch.py {model} adapted.safetensors --layout=official",
    ]


def _facts(plan: Plan, networks: Mapping[str, Any], marks: Mapping[str, Any]) -> list[str]:
    start = networks["start"]
    lines = [
        f"teacher: {plan.teacher}",
        f"start: {start['source']} ({start['variant']}, {start['parameters']:,} parameters)",
        f"crops of {plan.size} pixels, batches of {plan.unlabelled_batch} photos",
    ]
    lines += [f"labelled: {plan.labelled}, half of each batch"] if plan.labelled else []
    lines += [f"mask: {plan.mask}"] if plan.mask else []
    lines += [f"changed: {field}" for field in plan.fields]
    lines += [
        f"{name}: {duration(mark['seconds'])}" for name, mark in marks.items() if mark["command"]
    ]
    return lines
