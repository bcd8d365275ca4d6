"""Builds the result rows of an evaluation, and writes them as Markdown, JSON and CSV."""

from __future__ import annotations

import csv
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from depth_anything_jax.evaluation.scores import aggregate, pairs, relative_improvement
from depth_anything_jax.evaluation.scores.aggregate import NAN, ImageScores
from depth_anything_jax.evaluation.scores.metrics import PairScore

COLUMNS = {
    "abs_rel": "AbsRel",
    "delta1": "δ1",
    "delta2": "δ2",
    "delta3": "δ3",
    "rmse": "RMSE",
    "rmse_log": "RMSE log",
    "log10": "log10",
    "silog": "SILog",
    "norm_l1": "norm. L1",
    "boundary1": "boundary F1, 1 px",
    "boundary2": "2 px",
    "boundary3": "3 px",
    "accuracy": "pairs right",
    "whdr": "WHDR",
}
# Shown in the table only beside published numbers of theirs; always in the files.
_OPTIONAL = ("delta2", "delta3", "rmse_log")
# Metres between which the median of a label is expected; beyond them it is read in a wrong unit, as
# a thousandth or a thousandfold. Our choice.
_NEAREST, _FARTHEST = 0.05, 1000
_MAX_NAMED = 3  # images that a note names
BETTER = dict.fromkeys(relative_improvement.LOWER_IS_BETTER, "↓")
BETTER |= dict.fromkeys(relative_improvement.HIGHER_IS_BETTER, "↑")
Row = dict[str, Any]


def rows(
    images: Sequence[ImageScores], about: Mapping[str, Any], *, reader: str, split: int, how: str
) -> list[Row]:
    """Builds one row for each set of a source and protocol; for pairs also one per kind of scene.

    Args:
      images: scored and skipped ones of one source.
      about: fields that every row begins with: checkpoint, kind, view, protocol.
      reader: the source's name with its options, "kitti?split=midas_161".
      split: the number of images in the whole split.
      how: as in `aggregate.means`.
    """
    found: list[Row] = []
    for dataset, digest in sorted({(i.dataset, i.protocol) for i in images}):
        mine = [i for i in images if (i.dataset, i.protocol) == (dataset, digest)]
        name = dataset or reader
        row = {**about, "reader": reader, "hash": digest, "aggregate": how, "read": len(images)}
        row["split"] = split
        measure = pairs.MEASURES.get(reader.partition("?")[0])
        if measure is None:
            found.append(_row(row, name, mine, aggregate.means(mine, how)))
            continue
        for category, score in pairs.pool(mine).items():
            whole = category == "all"
            part = mine if whole else [i for i in mine if i.sequence == category]
            value = score.accuracy if measure == "accuracy" else pairs.whdr(score)
            label = name if whole else f"{name}/{category}"
            found.append(_row(row, label, part, {measure: value}, score))
    return found


def _row(
    row: Row,
    name: str,
    images: Sequence[ImageScores],
    values: Mapping[str, float],
    score: PairScore | None = None,
) -> Row:
    skipped = sum(bool(i.why) for i in images)
    blank = dict.fromkeys((*aggregate.METRICS, "accuracy", "whdr"), NAN)
    return {
        **row,
        "set": name,
        "images": len(images) - skipped,
        "skipped": skipped,
        "notes": _notes(images),
        "pairs": score.n if score else 0,
        "ties": score.ties if score else 0,
        **blank,
        **values,
    }


def _notes(images: Sequence[ImageScores]) -> list[str]:
    """Notes on a row: images that its mean leaves out, and images with suspicious predictions."""
    left_out: dict[str, list[str]] = {}
    for image in images:
        if image.why:
            left_out.setdefault(image.why, []).append(image.key)
    found = [f"not scored, {why}: {_list(keys)}" for why, keys in left_out.items()]
    levels = [i.levels for i in images if i.levels]
    tied = f"8 bits, at most {max(levels, default=0)} values, so that most pixels are tied"
    for text, keys in (
        (tied, [i.key for i in images if i.levels]),
        ("negative scale, the prediction is upside down", [i.key for i in images if i.scale < 0]),
        (
            "the prediction falls where the label rises: is it disparity declared as depth, or the "
            "other way round?",
            [i.key for i in images if i.correlation < 0 < i.scale],
        ),
        ("predictions that are not finite", [i.key for i in images if i.not_finite]),
        ("depths of zero or below", [i.key for i in images if i.not_positive]),
        ("the prediction is constant", [i.key for i in images if i.constant]),
        (
            f"half of the label lies below {_NEAREST} m or beyond {_FARTHEST} m: check its scale",
            [i.key for i in images if i.label_depth < _NEAREST or i.label_depth > _FARTHEST],
        ),
    ):
        if keys:
            found.append(f"{text}: {_list(keys)}")
    return found


def _list(keys: Sequence[str]) -> str:
    more = ", …" if len(keys) > _MAX_NAMED else ""
    return f"{len(keys)} images ({', '.join(keys[:_MAX_NAMED])}{more})"


def columns_of(rows: Sequence[Row]) -> dict[str, str]:
    """The table's columns of metrics and their titles; those that no row fills are left out."""
    beside = {name for r in rows for p in r["published"] for name in p["values"]}
    return {
        c: t
        for c, t in COLUMNS.items()
        if (c not in _OPTIONAL or c in beside) and any(not math.isnan(r[c]) for r in rows)
    }


def identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells a row of a run from all others."""
    return row["checkpoint"], *_compared(row), row["view"]


def _compared(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Rows with the same are of one set under one protocol."""
    return row["set"], row["hash"], row.get("corruption", ""), row.get("severity", 0)


def _best(rows: Sequence[Row], column: str) -> set[int]:
    """Numbers of the rows that have the best value (as printed) of two or more that compare."""
    found = set()
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, r in enumerate(rows):
        if not math.isnan(r[column]):
            groups.setdefault((*_compared(r), r["images"]), []).append(i)
    choose = max if BETTER[column] == "↑" else min
    for group in groups.values():
        values = {i: round(rows[i][column], 4) for i in group}
        if len(set(values.values())) > 1:
            found |= {i for i in group if values[i] == choose(values.values())}
    return found


def table(rows: Sequence[Row], links: Mapping[Any, str] | None = None) -> str:
    """Formats the rows as a Markdown table.

    Args:
      links: for the report: `identity` of a row, or a protocol's hash → the part of the page that
        is about it. Then heads have arrows that say which direction is better, and the best value
        of each set and protocol is bold.
    """
    columns = columns_of(rows)
    best = {c: set() if links is None else _best(rows, c) for c in columns}
    links, arrows = links or {}, {} if links is None else BETTER

    def linked(text: str, to: Any) -> str:
        return f"[{text}](#{links[to]})" if to in links else text

    viewed = any(r["view"] != r["kind"] for r in rows)
    compared = any(r["published"] for r in rows)
    corrupted = any("corruption" in r for r in rows)
    heads = ["checkpoint", "set", *["corruption"] * corrupted, *["scored as"] * viewed]
    heads += ["protocol", "images"]
    heads += [*(f"{t} {arrows.get(c, '')}".strip() for c, t in columns.items())]
    heads += [*["published (ours / theirs)"] * compared]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for i, r in enumerate(rows):
        cells = [linked(r["checkpoint"], identity(r)), r["set"]]
        cells += [*[_corruption(r)] * corrupted, *[r["view"]] * viewed]
        cells.append(f"{r['protocol']} {linked(r['hash'], r['hash'])}")
        cells.append(_count(r))
        for c in columns:
            text = "" if math.isnan(r[c]) else f"{r[c]:.4f}"
            cells.append(f"**{text}**" if i in best[c] else text)
        cells += [_published(r)] * compared
        lines.append("| " + " | ".join(cells) + " |")
    notes = [
        f"{r['set']}, {p['title']}: {note}"
        for r in rows for p in r["published"] for note in p["notes"]
    ]  # fmt: skip
    notes += [f"{r['set']}: {note}" for r in rows for note in r["not_compared"]]
    notes += [
        f"{r['protocol']}: AbsRel and RMSE are of disparity, RMSE in 1/m"
        for r in rows
        if r.get("space") == "disparity"
    ]
    notes += [f"{r['checkpoint']} on {_place(r)}: {n}" for r in rows for n in r.get("notes", ())]
    if notes:
        lines += ["", *(f"- {note}." for note in dict.fromkeys(notes))]
    return "\n".join(lines)


def _place(row: Row) -> str:
    """What a note refers to: the set, its corruption, and the view if it is not the kind."""
    parts = [row["set"], _corruption(row), "" if row["view"] == row["kind"] else row["view"]]
    return ", ".join(filter(None, parts))


def _corruption(row: Row) -> str:
    name, severity = row.get("corruption", ""), row.get("severity", 0)
    return f"mean of {severity}" if name == "mean" else f"{name} {severity or ''}".strip()


def _count(row: Row) -> str:
    text = f"{row['images']}"
    if row["pairs"]:
        text += f", {row['pairs']} pairs, {row['ties']} ties"
    if row["skipped"]:
        text += f" (+{row['skipped']} skipped)"
    if row["read"] < row["split"]:
        text += f"; {row['read']} of {row['split']} read"
    return text


def _published(row: Row) -> str:
    """Formats published numbers: "V2, table 2: AbsRel 0.045 (1.01), δ1 0.979 (0.999)"."""
    found = []
    for p in row["published"]:
        values = [
            f"{COLUMNS.get(name, name)} {value:.4g} ({p['ratios'][name]:.3f})"
            for name, value in p["values"].items()
        ]
        found.append(f"{p['title']}: {', '.join(values)}")
    return "; ".join(found)


def relative_table(relative: Sequence[Row]) -> str:
    """Formats `relative_improvement.rows` as a Markdown table in per cent; above 0 is better."""
    columns = [
        c for c in COLUMNS if c not in _OPTIONAL and any(not math.isnan(r[c]) for r in relative)
    ]
    several = any("over" in r for r in relative)
    heads = ["checkpoint", "relative to", *["over"] * several, "sets", "images"]
    heads += [*(COLUMNS[c] for c in columns), "mRI"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for r in relative:
        numbers = [
            f"{100 * r[c]:+.1f} %" if not math.isnan(r[c]) else "" for c in (*columns, "mri")
        ]
        cells = [r["checkpoint"], r["relative_to"], *[r.get("over", "")] * several]
        cells += [str(r["sets"]), str(r["images"]), *numbers]
        lines.append("| " + " | ".join(cells) + " |")
    left_out = [f"{r['checkpoint']}: {name}" for r in relative for name in r["left_out"]]
    if left_out:
        lines += ["", f"- Not scored by both under one protocol: {'; '.join(left_out)}."]
    return "\n".join(lines)


def text(
    rows: Sequence[Row], relative: Sequence[Row] = (), links: Mapping[Any, str] | None = None
) -> str:
    """Formats all tables as Markdown; `links` is that of `table`."""
    return table(rows, links) + (f"\n\n{relative_table(relative)}" if relative else "")


def write(
    path: pathlib.Path,
    rows: Sequence[Row],
    images: Sequence[Row],
    relative: Sequence[Row] = (),
    speed: Sequence[Row] = (),
) -> None:
    """Writes table.md, scores.json and scores.csv.

    scores.json has {"sets": …, "images": …, "relative": …, "speed": …}, with null for NaN;
    scores.csv has the images."""

    def plain(row: Row) -> Row:
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}

    (path / "table.md").write_text(text(rows, relative) + "\n", encoding="utf-8")
    found = {
        "sets": [plain(r) for r in rows],
        "images": [plain(r) for r in images],
        "relative": [plain(r) for r in relative],
        "speed": list(speed),
    }
    (path / "scores.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    with open(path / "scores.csv", "w", newline="", encoding="utf-8") as file:
        names = dict.fromkeys(name for row in images for name in row)
        writer = csv.DictWriter(file, fieldnames=list(names))
        writer.writeheader()
        writer.writerows(plain(r) for r in images)
