"""Evaluates a model on labelled images under a protocol: scores per image and per data set.

The network gets the whole image (or the protocol's frame of it) at its official size: short side
`input_size`, multiples of the patch size, bicubic, or as the network's own transform defines it;
everything after that is done by `scoring`. The default protocol is `golden`: least squares in
disparity, caps by domain, means over images.

The training loop and the demo call `evaluate`; this module knows neither flags nor files. A source
may be any sequence of records, including a list in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from depth_anything_jax.data import transforms
from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.protocols.protocol import Protocol
from depth_anything_jax.evaluation.runner import frame_selection, predictors, stream
from depth_anything_jax.evaluation.runner.prediction_writer import PredictionWriter
from depth_anything_jax.evaluation.runner.predictors import Candidate
from depth_anything_jax.evaluation.runner.score_log import Ledger, Scored
from depth_anything_jax.evaluation.scores import aggregate
from depth_anything_jax.evaluation.scores.aggregate import ImageScores
from depth_anything_jax.inference.predictor import Predict

METRICS = ("abs_rel", "delta1", "norm_l1")


class Scores(NamedTuple):
    """Mean scores over images.

    Attributes:
      abs_rel, delta1, norm_l1: over all images that have them; NaN where none has.
      sets: the same for each data set, {"name": {"images": n, "abs_rel": …}}.
      per_image: in the source's order.
      skipped: keys of images that could not be scored.
      skipped_images: the entries of those images, which say why.
    """

    abs_rel: float
    delta1: float
    norm_l1: float
    sets: dict[str, dict[str, float]]
    per_image: list[ImageScores]
    skipped: list[str]
    skipped_images: list[ImageScores]

    def of(self, name: str) -> np.ndarray:
        """One metric of every image, float64 (n,), as paired intervals need it."""
        return np.array([getattr(s, name) for s in self.per_image], np.float64)


def evaluate(
    predict: Predict,
    source: Sequence[Mapping[str, Any]] | Any,
    *,
    kind: str = "disparity-affine",
    protocol: str | Protocol = "golden",
    size: int | None = None,
    cap: float | None = None,
    boundary: bool = False,
    batch_size: int = 1,
    limit: int = 0,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
    transform: transforms.InputTransform = transforms.OFFICIAL_INPUT,
) -> Scores:
    """Scores a network on a labelled source.

    Args:
      predict: normalised images (b, h, w, 3) → maps (b, h, w) of the given kind: disparity for
        "disparity-affine", as `predictor.Predictor` returns it for any head, depth for the others.
        It is called with `batch_size` images of one shape; jit compiles once per shape.
      source: labelled records.
      kind: one of protocol.KINDS.
      protocol: a name, whose switches depend on each record's set and domain, or the switches for
        all records.
      size: short side of the network's input; None: the protocol's.
      cap: maximum depth in metres for all images; None: the protocol's.
      boundary: whether to compute boundary F1.
      batch_size: images per batch.
      limit: number of records to score, from the first; 0: all.
      threads: number of threads that read ahead, and number of threads that score.
      progress: called with (images done, images in total).
      transform: makes the network's input.

    Raises:
      ValueError: a record has no label, no image could be scored, or a size is given for a network
        whose inputs all have one shape.
      Exception: reading a record failed; an evaluation never leaves a record out silently.
    """
    changed = {"input_size": size, "max_depth": cap}
    return evaluate_candidate(
        predictors.of_network(predict, kind=kind, batch_size=batch_size, transform=transform),
        source,
        protocol=protocol,
        switches={k: v for k, v in changed.items() if v is not None},
        boundary=boundary,
        limit=limit,
        threads=threads,
        progress=progress,
    )


def evaluate_candidate(
    candidate: Candidate,
    source: Sequence[Mapping[str, Any]] | Any,
    *,
    protocol: str | Protocol = "",
    switches: Mapping[str, Any] | None = None,
    boundary: bool = False,
    limit: int = 0,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
    ledger: Ledger | None = None,
) -> Scores:
    """Scores a candidate as its own kind of prediction: see `evaluate_views`."""
    (found,) = evaluate_views(
        candidate,
        source,
        views=(candidate.kind,),
        protocol=protocol,
        switches=switches,
        boundary=boundary,
        limit=limit,
        threads=threads,
        progress=progress,
        ledger=ledger,
    ).values()
    return found


def evaluate_views(
    candidate: Candidate,
    source: Sequence[Mapping[str, Any]] | Any,
    *,
    views: Sequence[str],
    protocol: str | Protocol = "",
    switches: Mapping[str, Any] | None = None,
    boundary: bool = False,
    limit: int = 0,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
    ledger: Ledger | None = None,
    keep: PredictionWriter | None = None,
) -> dict[str, Scores]:
    """Scores a candidate as each of several kinds of prediction; each image is predicted once.

    Other arguments and errors are those of `evaluate`; the default protocol is `protocol.default`
    of the first view. Images for which a candidate has no prediction are not scored and are listed
    as skipped. Records of point pairs are scored under `pairs.Rules`.

    Args:
      views: kinds that the prediction has or can be converted to (`protocol.VIEWS`).
      switches: changes of the protocol's switches.
      ledger: images that it holds are not scored again, and new scores are added to it at once.
        Each of several processes scores its share, which `progress` counts, and returns all
        scores.
      keep: writes each prediction.
    """
    for view in views:
        protocols.check_view(candidate.kind, view)
    changed = dict(switches or {})
    if "input_size" in changed and candidate.own_size:
        raise ValueError(
            f"input_size={changed['input_size']}: every input of "
            f"{candidate.name or 'this network'} has one shape, its own; leave the size out"
        )
    rules = stream.ProtocolResolver(views, protocol or protocols.default(views[0]), changed)
    source = frame_selection.select(source, rules.frames, rules.frame_step)
    count = min(limit or len(source), len(source))
    groups: Sequence[Any] = range(count)
    if rules.per == "sequence":
        groups = [stream.sequence_of(source, i) for i in range(count)]
    ledger = Ledger() if ledger is None else ledger
    indices = ledger.todo(groups)

    def reported() -> Iterator[Scored]:
        done, mine = ledger.progress()
        if done and progress is not None:
            progress(done, mine)
        wanted = {i: groups[i] for i in indices}
        for scored in stream.scores(
            candidate, source, wanted, rules, boundary=boundary, threads=threads, keep=keep
        ):
            yield scored
            done += len(scored)
            if progress is not None:
                progress(done, mine)

    found = ledger.collect(reported())
    result = {}
    for view in views:
        images = [found[i][view] for i in sorted(found)]
        if all(i.why for i in images):
            first = f" ({images[0].key}: {images[0].why})" if images else ""
            raise ValueError(f"none of {count} images could be scored{first}")
        result[view] = summarise(images, rules.aggregate)
    return result


def summarise(images: Sequence[ImageScores], how: str = "image") -> Scores:
    """Averages image scores over all images and per set, and lists skipped images."""
    scored = [i for i in images if not i.why]
    by_set: dict[str, list[ImageScores]] = {}
    for image in scored:
        by_set.setdefault(image.dataset, []).append(image)
    sets = {
        name: {"images": len(part), **_chosen(aggregate.means(part, how))}
        for name, part in by_set.items()
    }
    total = _chosen(aggregate.means(scored, how))
    left_out = [i for i in images if i.why]
    return Scores(
        **total,
        sets=sets,
        per_image=scored,
        skipped=[i.key for i in left_out],
        skipped_images=left_out,
    )


def _chosen(means: dict[str, float]) -> dict[str, float]:
    return {name: means[name] for name in METRICS}
