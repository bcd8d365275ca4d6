"""Scores of a model on labelled images: AbsRel, δ1 and normalised L1, per image and per set.

Protocol: the network sees the whole image at its official size (short side `size`, multiples of 14,
bicubic); its output is resized to the label's size (bilinear, align_corners=True, as V2 resizes);
scores per image (see `metrics`), then means over the images of each set. No crop, no flip.

The trainer's loop and the demo call `evaluate`; nothing here knows flags or files. A source may be
any sequence of records, a list in memory too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from depth_anything_jax import align, inference, metrics, resample
from depth_anything_jax.data import transforms
from depth_anything_jax.inference import Input, Predict

MIN_VALID = 10  # pixels; an image with fewer says nothing (as in the training loss)
METRICS = ("abs_rel", "delta1", "norm_l1")


class ImageScores(NamedTuple):
    """Scores of one image; NaN where the label cannot give them.

    Attributes:
      key: the record's.
      dataset: the set it belongs to, "" where records do not say.
      abs_rel, delta1: in depth; NaN for labels that are no metric depth.
      norm_l1: in disparity.
      scale, shift: of the alignment; a scale below 0 is an upside-down prediction.
      n: valid pixels.
    """

    key: str
    dataset: str
    abs_rel: float
    delta1: float
    norm_l1: float
    scale: float
    shift: float
    n: int


class Scores(NamedTuple):
    """Means over images.

    Attributes:
      abs_rel, delta1, norm_l1: over all images that have them; NaN where none has.
      sets: the same for each data set, {"name": {"images": n, "abs_rel": …}}.
      per_image: in the source's order.
      skipped: keys of images with fewer than MIN_VALID valid pixels.
    """

    abs_rel: float
    delta1: float
    norm_l1: float
    sets: dict[str, dict[str, float]]
    per_image: list[ImageScores]
    skipped: list[str]

    def of(self, name: str) -> np.ndarray:
        """One metric of every image, float64 (n,): for paired intervals."""
        return np.array([getattr(s, name) for s in self.per_image], np.float64)


def score(
    disparity: Float[np.ndarray, "h w"], record: Mapping[str, Any], *, cap: float | None = None
) -> ImageScores | None:
    """Scores of one prediction against its record's label.

    Args:
      disparity: the network's output, at any resolution of the whole view.
      record: as a labelled source gives it.
      cap: metres; None goes by the record's "domain" (10 indoor, 80 outdoor and unknown).

    Returns:
      None where fewer than MIN_VALID pixels are valid.
    """
    label, valid = record["disparity"], record["valid"]
    # Disparity labels have no metres to cap, and no depth to be relative to.
    metric = record.get("kind", "depth" if record["shift_known"] else "disparity") == "depth"
    if metric:
        if cap is None:
            cap = metrics.CAPS.get(record.get("domain", ""), metrics.DEFAULT_CAP)
        valid = metrics.depth_valid(label, valid, cap)
    n = int(valid.sum())
    if n < MIN_VALID:
        return None
    prediction = resample.resize(disparity, label.shape, "bilinear-corners")
    norm_l1 = metrics.normalised_l1(prediction, label, valid)
    if metric:
        found = metrics.depth_scores(prediction, label, valid, cap=float(cap))  # type: ignore[arg-type]
        abs_rel, delta1 = found.abs_rel, found.delta1
        scale, shift = found.scale, found.shift
    else:
        abs_rel = delta1 = math.nan
        scale, shift = align.least_squares(prediction[valid], label[valid])
    return ImageScores(
        record["key"], record.get("dataset", ""), abs_rel, delta1, norm_l1, scale, shift, n
    )


def evaluate(
    predict: Predict,
    source: Sequence[Mapping[str, Any]] | Any,
    *,
    size: int = transforms.SIZE,
    cap: float | None = None,
    batch_size: int = 1,
    limit: int = 0,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Scores of a model on a labelled source.

    Args:
      predict: normalised images (b, h, w, 3) → disparity (b, h, w); `inference.Predictor`, or any
        function. It is called with `batch_size` images of one shape; jit compiles once per shape.
      source: labelled records.
      size: short side of the network's input.
      cap: metres, for all images; None goes by each record's domain.
      batch_size: images at a time.
      limit: the first so many records; 0: all.
      threads: that read ahead.
      progress: called with (images done, images in all).

    Raises:
      ValueError: a record without a label, or no image could be scored.
      Exception: what reading a record raised; an evaluation leaves nothing out silently.
    """
    count = min(limit or len(source), len(source))

    def read(index: int) -> tuple[Mapping[str, Any], np.ndarray]:
        record = source[index]
        if "disparity" not in record:
            raise ValueError(f"{record['key']} has no label to evaluate against")
        return record, transforms.network_input(record["image"], size)

    def inputs():
        for index, found in inference.read_ahead(read, range(count), threads=threads):
            if isinstance(found, Exception):
                raise found
            record, image = found
            yield Input((index, record), image)

    scored: dict[int, ImageScores] = {}
    skipped: dict[int, str] = {}
    for out in inference.predict_all(predict, inputs(), batch_size=batch_size):
        index, record = out.tag
        found = score(out.disparity, record, cap=cap)
        if found is None:
            skipped[index] = record["key"]
        else:
            scored[index] = found
        if progress is not None:
            progress(len(scored) + len(skipped), count)
    if not scored:
        raise ValueError(f"none of {count} images has {MIN_VALID} valid pixels to score")
    return summarise([scored[i] for i in sorted(scored)], [skipped[i] for i in sorted(skipped)])


def summarise(per_image: list[ImageScores], skipped: Sequence[str] = ()) -> Scores:
    """Means of image scores, over all and per set."""
    by_set: dict[str, list[ImageScores]] = {}
    for image in per_image:
        by_set.setdefault(image.dataset, []).append(image)
    sets = {
        name: {"images": len(images), **{m: _mean(images, m) for m in METRICS}}
        for name, images in by_set.items()
    }
    abs_rel, delta1, norm_l1 = (_mean(per_image, m) for m in METRICS)
    return Scores(abs_rel, delta1, norm_l1, sets, per_image, list(skipped))


def _mean(images: list[ImageScores], name: str) -> float:
    values = [v for v in (getattr(i, name) for i in images) if not math.isnan(v)]
    return float(np.mean(values)) if values else math.nan
