"""Draws the worst, median and best images of a set for the evaluation report.

These images are known only after all have been scored, so they are predicted a second time: memory
and disk use do not grow with the set. They are aligned with the scale and shift of their scores.
Each image gives two files: the photo, and label | aligned prediction | error side by side.
"""

from __future__ import annotations

import hashlib
import html
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.protocols.protocol import Protocol
from depth_anything_jax.evaluation.runner import stream
from depth_anything_jax.evaluation.runner.predictors import Candidate
from depth_anything_jax.evaluation.runner.stream import ProtocolResolver
from depth_anything_jax.evaluation.scores import metrics, scoring
from depth_anything_jax.evaluation.scores.aggregate import ImageScores
from depth_anything_jax.utils.scale_shift import Alignment
from depth_anything_jax.visualization.colormaps import GREY, colourise
from depth_anything_jax.visualization.strips import dilated

WIDTH = 320  # pixels of a picture at most, and of its height
ERROR = 0.5  # relative error at the end of the error map's colours, the same for all images
ERROR_COLOURS = "magma"
GAP = 4  # pixels of white between maps

STYLE = (
    "figure{margin:1.2em 0}figcaption{font-size:13px}"
    # Heads above four columns, of which the strip takes three; on a phone the photo is above it.
    ".maps{display:grid;grid-template-columns:repeat(4,minmax(0,var(--side)));gap:2px 4px;"
    "font-size:13px}"
    ".maps img{display:block;width:100%;height:auto;image-rendering:auto}"
    ".maps>*{grid-row:2}.maps>span{grid-row:1}.maps>a{grid-column:2/5}"
    "@media(max-width:600px){.maps{grid-template-columns:repeat(3,1fr)}"
    ".maps>*,.maps>span{grid-row:auto}.maps>:nth-child(-n+2),.maps>a{grid-column:1/4}}"
    ".bar{display:inline-block;width:12em;height:.8em;margin:0 .4em;vertical-align:middle}"
)


class Pick(NamedTuple):
    """An image to be shown: "worst", "median" or "best", its rank from 1, its scores."""

    why: str
    rank: int
    scores: ImageScores


def measure(images: Sequence[ImageScores]) -> str:
    """The metric to rank images by: AbsRel, or normalised L1 where no label gives AbsRel."""
    known = any(not math.isnan(i.abs_rel) for i in images)
    return "abs_rel" if known else "norm_l1"


def ranked(images: Sequence[ImageScores]) -> list[ImageScores]:
    """Sorts the images that have a score of that metric, the best first."""
    name = measure(images)
    found = [i for i in images if not i.why and not math.isnan(getattr(i, name))]
    return sorted(found, key=lambda i: (getattr(i, name), i.key))


def pick(images: Sequence[ImageScores], each: int) -> list[Pick]:
    """Picks up to `each` of the worst, the median and the best images.

    No image is picked twice; fewer are picked where there are not three times as many. Images
    without a score are left out. Ranks count from the best.
    """
    found = ranked(images)
    n = len(found)
    each = max(1, min(each, n // 3))
    middle = max(0, (n - each) // 2)
    groups: dict[str, Iterable[int]] = {
        "worst": range(n - 1, max(-1, n - 1 - each), -1),
        "best": range(min(each, n)),
        "median": range(middle, min(n, middle + each)),
    }
    chosen: dict[int, str] = {}
    for why, places in groups.items():
        for place in places:
            chosen.setdefault(place, why)
    order = ("worst", "median", "best")
    shown = sorted(chosen, key=lambda p: (order.index(chosen[p]), -p))
    return [Pick(chosen[p], p + 1, found[p]) for p in shown]


class Maps(NamedTuple):
    """The maps drawn for one image, at the size of the protocol's frame.

    Attributes:
      label, prediction: disparity in 1/m, or in the label's unit; the prediction is NaN where it
        is neither finite nor scored.
      valid: the scored pixels.
      error: |prediction − label| / label at those pixels, in the space of the protocol's metrics.
      metres: whether the unit is 1/m.
    """

    label: Float[np.ndarray, "h w"]
    prediction: Float[np.ndarray, "h w"]
    valid: Bool[np.ndarray, "h w"]
    error: Float[np.ndarray, "h w"]
    metres: bool


def maps(
    prediction: np.ndarray,
    kind: str,
    record: Mapping[str, Any],
    protocol: Protocol,
    alignment: Alignment,
    *,
    whole: bool,
) -> Maps:
    """Computes the maps to draw, with an alignment that was fitted before."""
    found = scoring.target(record, protocol)
    full = scoring.to_label(prediction, record, protocol, whole=whole)
    x = scoring.in_space(full, kind, protocol)
    metres = found.depth is not None
    if found.depth is not None:
        depth = scoring.aligned_depth(x, alignment, protocol, float(found.depth.max()))
        aligned = 1 / np.maximum(depth, metrics.TINY)
    else:
        aligned = alignment.scale * x + alignment.shift
    aligned = np.where(found.valid | np.isfinite(full), aligned, np.nan)
    label, error = (np.zeros(found.valid.shape) for _ in range(2))
    label[found.valid] = found.disparity
    if found.depth is not None and protocol.space == "depth":
        truth, ours = found.depth, depth[found.valid]
    else:
        truth, ours = found.disparity, aligned[found.valid]
    with np.errstate(divide="ignore", invalid="ignore"):
        error[found.valid] = np.abs(ours - truth) / truth
    return Maps(label, aligned, found.valid, error, metres)


def _small(
    values: np.ndarray, valid: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Shrinks a map to the mean of the valid pixels in each cell, and says which cells have any.

    Sparse measurements stay visible this way, and are drawn larger where they are still sparse."""
    rows = np.arange(values.shape[0]) * size[0] // values.shape[0]
    columns = np.arange(values.shape[1]) * size[1] // values.shape[1]
    cell = (rows[:, None] * size[1] + columns)[valid]
    count = np.bincount(cell, minlength=size[0] * size[1]).reshape(size)
    total = np.bincount(cell, values[valid], minlength=size[0] * size[1]).reshape(size)
    return dilated(total / np.maximum(count, 1), count > 0)


def fit(shape: tuple[int, int]) -> tuple[int, int]:
    """The size at which a map is drawn: no side longer than WIDTH, and never enlarged."""
    factor = min(1.0, WIDTH / max(shape))
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def draw(found: Maps) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[float, float]]:
    """Draws label | prediction | error; also returns the disparity range of the colours."""
    size = fit(found.label.shape)
    low, high = (float(v) for v in np.percentile(found.label[found.valid], [2, 98]))
    tiles = []
    everywhere = np.isfinite(found.prediction)
    for values, valid in ((found.label, found.valid), (found.prediction, everywhere)):
        small, some = _small(values, valid, size)
        tiles.append(colourise(small, some, limits=(low, high)))
    small, some = _small(found.error, found.valid & np.isfinite(found.error), size)
    tiles.append(colourise(small, some, limits=(0, ERROR), colormap=ERROR_COLOURS))
    gap = np.full((size[0], GAP, 3), 255, np.uint8)
    strip = [tiles[0], gap, tiles[1], gap, tiles[2]]
    return np.concatenate(strip, axis=1), (low, high)


def photo(record: Mapping[str, Any], protocol: Protocol) -> UInt8[np.ndarray, "h w 3"]:
    """Crops a record's image to the protocol's frame and resizes it to the size of the maps."""
    image = record["image"]
    if image.shape[:2] == record["valid"].shape:
        image = image[protocols.window(protocol.frame, *image.shape[:2])]
    height, width = fit(image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def section(
    candidate: Candidate,
    source: Any,
    images: Sequence[ImageScores],
    rules: ProtocolResolver,
    folder: pathlib.Path,
    *,
    each: int = 3,
) -> tuple[str, dict[str, Protocol]]:
    """Draws a set's images into folder/pictures.

    Args:
      candidate: predicts the chosen images again.
      source: the records.
      images: scores of all of them.
      rules: the switches they were scored under, as the one view that is shown.
      folder: of the report.
      each: how many of the worst, the median and the best images.

    Returns:
      HTML with links relative to `folder`, "" where no image can be ranked; and {hash: switches}.
    """
    (view,) = rules.views
    chosen = {p.scores.key: p for p in pick(images, each)}
    if not chosen:
        return "", {}
    count = len(ranked(images))
    at = {source.key(i): i for i in range(len(source)) if source.key(i) in chosen}
    (folder / "pictures").mkdir(exist_ok=True)
    figures, switches = {}, {}
    whole = candidate.predict is None
    for _, record, prediction in stream.predictions(
        candidate, source, sorted(at.values()), rules, threads=1
    ):
        if prediction is None:
            continue
        shown, switch = chosen[record["key"]], cast(Protocol, rules.of(record))
        switches[switch.hash] = switch
        a = Alignment(shown.scores.scale, shown.scores.shift)
        values = scoring.convert(prediction, candidate.kind, view)
        found = maps(values, view, record, switch, a, whole=whole)
        strip, limits = draw(found)
        unique = f"{candidate.name}\n{view}\n{shown.scores.protocol}\n{record['key']}"
        unique += f"\n{getattr(source, 'facts', '')}"
        name = hashlib.sha256(unique.encode(errors="surrogateescape")).hexdigest()[:16]
        files = [f"pictures/{name}-image.jpg", f"pictures/{name}-maps.png"]
        (folder / files[0]).write_bytes(formats.encode_jpeg(photo(record, switch)))
        (folder / files[1]).write_bytes(formats.encode_png(np.ascontiguousarray(strip)))
        side = fit(found.label.shape)[1]
        figures[record["key"]] = _figure(shown, count, files, side, limits, found.metres)
    return "".join(figures[key] for key in chosen if key in figures), switches


def _figure(
    shown: Pick,
    count: int,
    files: Sequence[str],
    side: int,
    limits: tuple[float, float],
    metres: bool,
) -> str:
    """The HTML of an image's pictures; `side` is the width of a map."""
    s = shown.scores
    caption = [f"<b>{shown.why}</b>, {shown.rank} of {count}: {html.escape(s.key)}"]
    caption += [f"AbsRel {s.abs_rel:.4f}", f"δ1 {s.delta1:.4f}"]
    if math.isnan(s.abs_rel):
        caption[1:] = [f"norm. L1 {s.norm_l1:.4f}"]
    caption.append(f"scale {s.scale:.6g}, shift {s.shift:.6g}, {s.n:,} pixels")
    if s.scale < 0:
        caption.append("<b>upside down</b>: the scale is negative")
    if s.not_finite:
        caption.append(f"{s.not_finite:,} predictions are not finite")
    ends = [f"{v:.3g}" for v in limits]
    if metres:
        ends = [f"{v:.3g}/m ({1 / v:.3g} m)" if v > 0 else f"{v:.3g}/m" for v in limits]
    unit = "" if metres else " in the label's unit"
    bar = f"label and prediction, disparity{unit}: {ends[0]}{_bar('Spectral_r')}{ends[1]}"
    alt = html.escape(f"{s.key}: label, aligned prediction, error")
    return (
        f"<figure><div class=maps style='--side:{side}px'><span>image</span>"
        f"<img loading=lazy src='{files[0]}' alt='{html.escape(s.key)}'>"
        "<span>label</span><span>prediction, aligned</span><span>relative error</span>"
        f"<a href='{files[1]}'><img loading=lazy src='{files[1]}' alt='{alt}'></a></div>"
        f"<figcaption>{' · '.join(caption)}<br>{bar}</figcaption></figure>"
    )


def _bar(colours: str) -> str:
    from matplotlib import colormaps

    stops = [tuple(c[:3]) for c in colormaps[colours](np.linspace(0, 1, 17), bytes=True)]
    css = ",".join("#" + "".join(f"{int(v):02x}" for v in c) for c in stops)
    return f"<span class=bar style='background:linear-gradient(90deg,{css})'></span>"


def legend() -> str:
    """HTML that explains the colours of the figures."""
    grey = f"rgb({GREY},{GREY},{GREY})"
    return (
        "<p>Label and prediction of an image share one range of colours, the 2nd to 98th "
        "percentile of its label, printed below it; red is near, blue is far, and values "
        "outside are clipped to the range. "
        "The error is |prediction − label| / label in the space of the protocol's metrics, for "
        f"all images 0{_bar(ERROR_COLOURS)}{ERROR} and more. Pixels that are not scored are "
        f"<span style='background:{grey};color:#000'>&nbsp;grey&nbsp;</span>.</p>"
    )
