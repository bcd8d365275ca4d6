"""Averages image scores over a data set, independently of order, batches and sharding.

Sums use `math.fsum`, which rounds the exact sum once. A metric over all pixels is computed from the
images' means and pixel counts: n · mean is the sum.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from depth_anything_jax.evaluation.scores import metrics

NAN = math.nan


class ImageScores(NamedTuple):
    """Scores of one image; NaN where its label does not define them.

    Attributes:
      key: the record's.
      dataset, sequence: the record's, "" where it has none.
      abs_rel … delta3: see `metrics.Errors`; NaN for labels that are not metric depth, unless the
        metrics are computed in disparity.
      norm_l1: in disparity, before any alignment; NaN for depth-affine predictions, which have no
        disparity.
      boundary1, boundary2, boundary3: F1 at these radii, where requested.
      scale, shift: of the alignment; a negative scale means an upside-down prediction.
      n: number of valid pixels.
      not_finite, not_positive: numbers of predictions among them that are not finite; that are
        depths of zero or below.
      constant: 1 where all predictions among them are equal.
      correlation: of prediction and label, in the space of the fit; below 0 the prediction is
        upside down, whether or not the alignment can turn it.
      label_depth: median of the label's valid depths in metres, whatever the range that is scored.
      correct, ties, pairs: numbers of point pairs in the right order, with equal values (wrong), in
        total.
      levels: number of values of a map from a file of 8 bits, most of whose pixels are therefore
        tied with others; 0 for other predictions.
      protocol: hash of the switches.
      why: why the image was not scored, "" if it was.
    """

    key: str
    dataset: str = ""
    sequence: str = ""
    abs_rel: float = NAN
    sq_rel: float = NAN
    rmse: float = NAN
    rmse_log: float = NAN
    log10: float = NAN
    silog: float = NAN
    log_bias: float = NAN
    i_rmse: float = NAN
    delta1: float = NAN
    delta2: float = NAN
    delta3: float = NAN
    norm_l1: float = NAN
    boundary1: float = NAN
    boundary2: float = NAN
    boundary3: float = NAN
    scale: float = NAN
    shift: float = NAN
    n: int = 0
    not_finite: int = 0
    not_positive: int = 0
    constant: int = 0
    correlation: float = NAN
    label_depth: float = NAN
    correct: int = 0
    ties: int = 0
    pairs: int = 0
    levels: int = 0
    protocol: str = ""
    why: str = ""


METRICS = (*metrics.Errors._fields, "norm_l1", "boundary1", "boundary2", "boundary3")
BOUNDARIES = {f"boundary{r}": r for r in (1, 2, 3)}
_ROOTS = ("rmse", "rmse_log", "i_rmse")  # roots of means of squares
_UNPOOLED = ("norm_l1", *BOUNDARIES)  # of medians and ratios of counts: not means over pixels


def merge(shards: Iterable[Sequence[ImageScores]]) -> list[ImageScores]:
    """Joins the images of all shards, sorted by set and key.

    Raises:
      ValueError: an image occurs twice.
    """
    images = sorted((i for shard in shards for i in shard), key=lambda i: (i.dataset, i.key))
    for a, b in zip(images, images[1:], strict=False):
        if (a.dataset, a.key) == (b.dataset, b.key):
            raise ValueError(
                f"{a.key} of {a.dataset!r} is scored twice: shards overlap, or a batch was padded"
            )
    return images


def means(images: Sequence[ImageScores], how: str = "image") -> dict[str, float]:
    """Averages each metric over the images that have it: {metric: mean}, NaN where none has.

    Args:
      images: may include skipped ones, which are ignored.
      how: "image": mean over images. "pixel": mean over all pixels together; normalised L1 and
        boundary F1 remain means over images. "sequence": mean of the means of sequences.
    """
    scored = [i for i in images if not i.why]
    rules: dict[str, Callable[[Sequence[ImageScores], str], float]] = {
        "image": _over_images,
        "pixel": _over_pixels,
        "sequence": _over_sequences,
    }
    if how not in rules:
        raise ValueError(f"aggregate {how!r}: one of {', '.join(rules)}")
    return {name: rules[how](_having(scored, name), name) for name in METRICS}


def _having(images: Sequence[ImageScores], name: str) -> list[ImageScores]:
    return [i for i in images if not math.isnan(getattr(i, name))]


def _mean(values: Sequence[float], weights: Sequence[float] | None = None) -> float:
    if not values:
        return NAN
    if weights is None:
        return math.fsum(values) / len(values)
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / math.fsum(weights)


def _over_images(images: Sequence[ImageScores], name: str) -> float:
    return _mean([getattr(i, name) for i in images])


def _over_sequences(images: Sequence[ImageScores], name: str) -> float:
    by_sequence = collections.defaultdict(list)
    for image in images:
        by_sequence[image.dataset, image.sequence].append(image)
    return _mean([_over_images(part, name) for part in by_sequence.values()])


def _over_pixels(images: Sequence[ImageScores], name: str) -> float:
    if name in _UNPOOLED:
        return _over_images(images, name)
    weights, values = [i.n for i in images], [getattr(i, name) for i in images]
    if name in _ROOTS:
        return math.sqrt(_mean([v * v for v in values], weights)) if images else NAN
    if name == "silog":  # variance within images and between them
        bias = _mean([i.log_bias for i in images], weights)
        squares = [(i.silog / 100) ** 2 + (i.log_bias - bias) ** 2 for i in images]
        return 100 * math.sqrt(_mean(squares, weights)) if images else NAN
    return _mean(values, weights)
