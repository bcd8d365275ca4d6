"""Scores predictions on point pairs: which of two points is closer (DA-2K, DIW).

The prediction is resized to the image's own size and read at [row, column]. Pairs with equal values
or NaN count as wrong.

Nothing is aligned, capped or cropped, so the depth protocols do not apply to these sets: `Rules`
has the few switches that matter, and its hash is reported with the score.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.scores import metrics
from depth_anything_jax.evaluation.scores.aggregate import ImageScores
from depth_anything_jax.evaluation.scores.metrics import PairScore
from depth_anything_jax.utils import interpolation
from depth_anything_jax.utils.map_kinds import MapKind

# Data sets of pairs, and the metric reported for each: the share of right pairs, or of wrong ones.
MEASURES = {"da2k": "accuracy", "diw": "whdr"}
NAME = "pairs@1"  # the version is incremented with every change of the meaning of Rules


@dataclasses.dataclass(frozen=True)
class Rules(protocols.Switches):
    """All switches that the score of a set of pairs depends on; see `protocol.Protocol`.

    Attributes:
      resize: how the prediction is resized to the image's size; that of the released inference code
        by default.
      flip: whether the prediction is averaged with that of the mirrored image.
      input_size: the network's short side, multiples of the patch size.
    """

    resize: str = "bilinear-corners"
    flip: bool = False
    input_size: int = 518

    def __post_init__(self):
        super().__post_init__()
        if self.input_size < 1:
            raise protocols.ProtocolError(f"input_size {self.input_size} must be positive")


SWITCHES = tuple(field.name for field in dataclasses.fields(Rules))


def concerned(switches: Mapping[str, Any]) -> dict[str, Any]:
    """Selects the switches that `Rules` has as well."""
    return {name: value for name, value in switches.items() if name in SWITCHES}


def values_at(
    prediction: Num[np.ndarray, "h w"], record: Mapping[str, Any], resize: str = "bilinear-corners"
) -> Float[np.ndarray, "n 2"]:
    """Reads a prediction of the whole image at the points of each pair.

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
    full = interpolation.resize(prediction, size, resize)
    return full[points[..., 0], points[..., 1]]


def score(
    prediction: Num[np.ndarray, "h w"], kind: str, record: Mapping[str, Any], how: Rules
) -> ImageScores:
    """Counts the pairs of a record that are in the right order.

    Args:
      prediction: disparity for the kind "disparity-affine" (larger is closer), depth for others.
      kind: one of protocol.KINDS.
      record: image, points (n, 2, 2), closer (n,): 0 or 1, and optionally a category.
    """
    values = values_at(prediction, record, how.resize)
    closer = np.asarray(record["closer"], np.int64)
    found = metrics.pair_accuracy(values, closer, larger_is_closer=MapKind(kind).larger_is_nearer)
    return ImageScores(
        record["key"],
        record.get("dataset", ""),
        record.get("category", ""),
        not_finite=int(np.count_nonzero(~np.isfinite(values))),
        correct=found.correct,
        ties=found.ties,
        pairs=found.n,
        protocol=how.hash,
    )


def pool(images: Iterable[ImageScores]) -> dict[str, PairScore]:
    """Pools pairs over images: {category: its score}, and the score of all images as "all".

    Raises:
      ValueError: an image occurs twice.
    """
    images = list(images)
    twice = [k for k, n in collections.Counter(i.key for i in images).items() if n > 1]
    if twice:
        raise ValueError(f"{twice[0]} is scored twice: shards overlap, or a batch was padded")
    groups = {"all": images}
    for category in sorted({i.sequence for i in images} - {""}):
        groups[category] = [i for i in images if i.sequence == category]
    return {
        name: PairScore(*(sum(getattr(i, f) for i in part) for f in ("correct", "ties", "pairs")))
        for name, part in groups.items()
    }


def whdr(score: PairScore) -> float:
    """WHDR for equal weights and no pairs of equals, as in DIW: the share of wrong pairs."""
    return 1 - score.accuracy
