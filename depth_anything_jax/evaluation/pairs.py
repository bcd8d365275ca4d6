"""Sets of point pairs: which of two points is closer (DA-2K, DIW).

The prediction is brought to the image's own size and read at [row, column]. A pair whose two values
are equal is wrong, and counted; so is one with a value that is no number.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num

from depth_anything_jax import resample
from depth_anything_jax.evaluation import metrics
from depth_anything_jax.evaluation.metrics import PairScore


class ImagePairs(NamedTuple):
    """Pairs of one image: its key, its scene type ("" where there is none), and their score."""

    key: str
    category: str
    score: PairScore


def values_at(
    prediction: Num[np.ndarray, "h w"], record: Mapping[str, Any], resize: str = "bilinear-corners"
) -> Float[np.ndarray, "n 2"]:
    """A prediction of the whole image at the points of each pair.

    Raises:
      ValueError: a point lies outside the image.
    """
    size, points = record["image"].shape[:2], np.asarray(record["points"])
    bad = (points < 0) | (points >= size)
    if bad.any():
        point = points[bad.any(-1)][0]
        raise ValueError(
            f"{record['key']}: point {point.tolist()} lies outside the image of {size}: points are "
            "[row, column] at the image's own size"
        )
    full = resample.resize(prediction, size, resize)
    return full[points[..., 0], points[..., 1]]


def score(
    prediction: Num[np.ndarray, "h w"],
    kind: str,
    record: Mapping[str, Any],
    resize: str = "bilinear-corners",
) -> ImagePairs:
    """How many of a record's pairs are in the right order.

    Args:
      prediction: disparity for the kind "disparity-affine" (larger is closer), depth for others.
      kind: one of protocols.KINDS.
      record: image, points (n, 2, 2), closer (n,): 0 or 1, perhaps a category.
      resize: as in a protocol.
    """
    values = values_at(prediction, record, resize)
    closer = np.asarray(record["closer"], np.int64)
    found = metrics.pair_accuracy(values, closer, larger_is_closer=kind == "disparity-affine")
    return ImagePairs(record["key"], record.get("category", ""), found)


def pool(images: Iterable[ImagePairs]) -> dict[str, PairScore]:
    """{category: all its pairs together}, and those of all categories as "all".

    Raises:
      ValueError: an image stands in the list twice.
    """
    images = list(images)
    twice = [k for k, n in collections.Counter(i.key for i in images).items() if n > 1]
    if twice:
        raise ValueError(f"{twice[0]} is scored twice: shards overlap, or a batch was padded")
    groups = {"all": images}
    for category in sorted({i.category for i in images} - {""}):
        groups[category] = [i for i in images if i.category == category]
    return {
        name: PairScore(*(sum(column) for column in zip(*(i.score for i in part), strict=True)))
        if part
        else PairScore(0, 0, 0)
        for name, part in groups.items()
    }


def whdr(score: PairScore) -> float:
    """WHDR of pairs with equal weights and no equals, as in DIW: the share that is wrong."""
    return 1 - score.accuracy
