"""Computes the relative improvement of one candidate over another (ZoeDepth's mRI).

    better = relative_improvement.improvement(ours, theirs)      # of one set: {"abs_rel": 0.12, …}
    mean = relative_improvement.mean_improvement([better, …])    # over sets, and "mri"
    relative_improvement.rows(rows, images, "runs/before")       # of the evaluation program's rows

The relative improvement of a metric is (r − t) / r where less is better and (t − r) / r where more
is, t being ours and r the reference's: positive is better, 0.12 means 12 % (ZoeDepth, arXiv
2302.12288: mRI_D is its mean over data sets, mRI_η the mean over metrics). t and r are means over
the same images: those scored for both, under the same protocol.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from depth_anything_jax.evaluation.scores import aggregate
from depth_anything_jax.evaluation.scores.aggregate import ImageScores

LOWER_IS_BETTER = (
    "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "i_rmse", "norm_l1", "whdr",
)  # fmt: skip
HIGHER_IS_BETTER = ("delta1", "delta2", "delta3", "boundary1", "boundary2", "boundary3", "accuracy")
METRICS = (*LOWER_IS_BETTER, *HIGHER_IS_BETTER)
# "mri" is the mean over these metrics, where a set has them: those of ZoeDepth's tables; for pairs
# the share of wrong ones, which unlike the share of right ones always has room for improvement (our
# choice).
MRI = ("delta1", "abs_rel", "rmse", "whdr")

Row = Mapping[str, Any]


def of_metric(metric: str, ours: float, theirs: float) -> float:
    """Relative improvement of one metric: positive where ours is better.

    It is NaN where either value is missing or the reference is 0."""
    if math.isnan(ours) or math.isnan(theirs) or theirs == 0:
        return math.nan
    return (theirs - ours if metric in LOWER_IS_BETTER else ours - theirs) / theirs


def improvement(
    ours: Sequence[ImageScores], theirs: Sequence[ImageScores], how: str = "image"
) -> dict[str, float]:
    """Computes the relative improvement of each metric on one set, and "images", their number.

    Args:
      ours, theirs: scores of one set; images that are not scored in both are left out.
      how: as in `aggregate.means`.

    Raises:
      ValueError: an image was scored under different protocols, which cannot be compared.
    """
    by_key = [{(i.dataset, i.key): i for i in images if not i.why} for images in (ours, theirs)]
    both = [key for key in by_key[0] if key in by_key[1]]
    for key in both:
        a, b = (found[key].protocol for found in by_key)
        if a != b:
            raise ValueError(
                f"{key[1]}: scored under different protocols, {a} and {b}, which cannot be compared"
            )
    means = [_means([found[key] for key in both], how) for found in by_key]
    found: dict[str, float] = {m: of_metric(m, *(x[m] for x in means)) for m in METRICS}
    return {"images": len(both), **found}


def _means(images: Sequence[ImageScores], how: str) -> dict[str, float]:
    n = sum(i.pairs for i in images)
    accuracy = sum(i.correct for i in images) / n if n else math.nan
    return {**aggregate.means(images, how), "accuracy": accuracy, "whdr": 1 - accuracy}


def mean_improvement(sets: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Averages each metric's improvement over the sets that have it (mRI_D).

    Returns:
      {metric: mean, "mri": mean over the metrics of MRI, "sets": their number, "images": their
      total number}; sets without an image that both have scored are not counted.
    """
    sets = [s for s in sets if s["images"]]

    def mean(values: Iterable[float]) -> float:
        known = [v for v in values if not math.isnan(v)]
        return math.fsum(known) / len(known) if known else math.nan

    means = {m: mean(s[m] for s in sets) for m in METRICS}
    return {
        **means,
        "mri": mean(means[m] for m in MRI),
        "sets": len(sets),
        "images": sum(int(s["images"]) for s in sets),
    }


def rows(
    rows: Sequence[Row],
    images: Sequence[Row],
    reference: str,
    *,
    by: Sequence[str] = ("reader", "set", "hash"),
) -> list[dict[str, Any]]:
    """Builds a row for each other candidate: its mean improvement over `reference`.

    Args:
      rows: of sets, as returned by `tables.rows`; "aggregate" says how means are taken.
      images: of those sets; each also has the fields of `by`.
      reference: the "checkpoint" of one of them.
      by: fields that must be equal for two sets of scores to be compared; they must include all
        that varies within a set, such as corruption and severity.

    Returns:
      `mean_improvement`, with "checkpoint", "relative_to", and "left_out": the sets that only one
      of the two has, or that both have under different protocols.

    Raises:
      ValueError: the reference is not among the rows.
    """
    names = list(dict.fromkeys(r["checkpoint"] for r in rows))
    if reference not in names:
        raise ValueError(f"{reference!r} has no scores; relative to one of {', '.join(names)}")
    groups: dict[str, dict[tuple, list[ImageScores]]] = {name: {} for name in names}
    how = {tuple(r[field] for field in by): r["aggregate"] for r in rows}
    for image in images:
        key = tuple(image[field] for field in by)
        groups[image["checkpoint"]].setdefault(key, []).append(from_row(image))
    found = []
    for name in names:
        if name == reference:
            continue
        mine, theirs = groups[name], groups[reference]
        shared = [key for key in mine if key in theirs]
        mean = mean_improvement(improvement(mine[k], theirs[k], how[k]) for k in shared)
        lonely = {" ".join(map(str, key)) for key in mine.keys() ^ theirs.keys()}
        found.append(
            {"checkpoint": name, "relative_to": reference, **mean, "left_out": sorted(lonely)}
        )
    return found


def from_row(row: Row) -> ImageScores:
    """Converts an image's row of scores.json, with null for NaN and "hash", to its scores."""
    fields: dict[str, Any] = {
        f: row[f] for f in ImageScores._fields if f in row and f != "protocol"
    }
    fields |= {name: math.nan for name, value in fields.items() if value is None}
    return ImageScores(**fields, protocol=row["hash"])
