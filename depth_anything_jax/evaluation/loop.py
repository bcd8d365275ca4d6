"""Scores of a model on labelled images, per image and per set, under a protocol.

The network sees the whole image (or the protocol's frame of it) at its official size: short side
`input_size`, multiples of 14, bicubic; everything after that is `scoring`. The protocol without a
name is `golden`: least squares in disparity, caps by domain, image means.

The trainer's loop and the demo call `evaluate`; nothing here knows flags or files. A source may be
any sequence of records, a list in memory too.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from depth_anything_jax import inference
from depth_anything_jax.data import camera
from depth_anything_jax.evaluation import aggregate, candidates, protocols, scoring
from depth_anything_jax.evaluation.aggregate import ImageScores
from depth_anything_jax.evaluation.candidates import Candidate
from depth_anything_jax.evaluation.protocols import Protocol
from depth_anything_jax.inference import Predict

METRICS = ("abs_rel", "delta1", "norm_l1")


class Scores(NamedTuple):
    """Means over images.

    Attributes:
      abs_rel, delta1, norm_l1: over all images that have them; NaN where none has.
      sets: the same for each data set, {"name": {"images": n, "abs_rel": …}}.
      per_image: in the source's order.
      skipped: keys of images that could not be scored.
      skipped_images: what is known of those, and why.
    """

    abs_rel: float
    delta1: float
    norm_l1: float
    sets: dict[str, dict[str, float]]
    per_image: list[ImageScores]
    skipped: list[str]
    skipped_images: list[ImageScores]

    def of(self, name: str) -> np.ndarray:
        """One metric of every image, float64 (n,): for paired intervals."""
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
) -> Scores:
    """Scores of a model on a labelled source.

    Args:
      predict: normalised images (b, h, w, 3) → maps (b, h, w) of what `kind` says: disparity for
        "disparity-affine", as `inference.Predictor` gives it of any head, depth for the others. It
        is called with `batch_size` images of one shape; jit compiles once per shape.
      source: labelled records.
      kind: one of protocols.KINDS.
      protocol: a name, whose switches go by each record's set and domain, or switches for all.
      size: short side of the network's input; None: the protocol's.
      cap: metres, for all images; None: the protocol's.
      boundary: whether boundary F1 is wanted.
      batch_size: images at a time.
      limit: the first so many records; 0: all.
      threads: that read ahead.
      progress: called with (images done, images in all).

    Raises:
      ValueError: a record without a label, or no image could be scored.
      Exception: what reading a record raised; an evaluation leaves nothing out silently.
    """
    return evaluate_candidate(
        candidates.of_network(predict, kind=kind, batch_size=batch_size),
        source,
        protocol=protocol,
        size=size,
        cap=cap,
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
    size: int | None = None,
    cap: float | None = None,
    boundary: bool = False,
    limit: int = 0,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Scores of anything that predicts: checkpoints, other tools' models and files, baselines.

    Args and errors are those of `evaluate`; without a protocol it is `protocols.default`'s. What a
    candidate has no prediction of is not scored and named among the skipped.
    """
    kind = candidate.kind
    count = min(limit or len(source), len(source))
    changed = {"input_size": size, "max_depth": cap}
    protocol_of = _protocols(
        protocol or protocols.default(kind),
        kind,
        {k: v for k, v in changed.items() if v is not None},
    )

    def read(index: int) -> tuple[Mapping[str, Any], Protocol, list[Any]]:
        record = source[index]
        if "disparity" not in record and "depth" not in record:
            raise ValueError(f"{record['key']} has no label to evaluate against")
        rules = protocol_of(record.get("dataset", ""), record.get("domain", ""))
        if candidate.know is not None:
            return record, rules, [candidate.know(record, rules)]
        image = view(record, rules)
        if candidate.focal is not None:
            # Frames and padding move the principal point alone, which nothing here looks at.
            record = {**record, "camera": camera.needed(record), "view": image.shape[:2]}
        views = [candidate.prepare(image, rules.input_size)]
        if rules.flip and isinstance(views[0], np.ndarray):
            views.append(views[0][:, ::-1])  # not resized again: exactly the mirror image
        elif rules.flip:
            views.append(candidate.prepare(image[:, ::-1], rules.input_size))
        return record, rules, views

    def inputs() -> Iterator[tuple[Any, Any]]:
        for index, found in inference.read_ahead(read, range(count), threads=threads):
            if isinstance(found, Exception):
                raise found
            record, rules, views = found
            for mirrored, x in enumerate(views):
                yield (index, record, rules, bool(mirrored)), x

    whole = candidate.look is None
    scored: dict[int, ImageScores] = {}
    waiting: dict[int, np.ndarray] = {}  # one of a mirrored pair
    sequences: dict[Any, dict[int, np.ndarray]] = collections.defaultdict(dict)
    done, how = 0, "image"
    for (index, record, rules, mirrored), prediction in (candidate.look or iter)(inputs()):
        how = rules.aggregate  # the same for all sets of a named protocol
        if candidate.focal is not None and not whole:
            seen = camera.resized(record["camera"], record["view"], prediction.shape)
            prediction = inference.to_metres(
                prediction, inference.focal_length(seen), candidate.focal
            )
        if mirrored:
            prediction = prediction[:, ::-1]
        if rules.flip and not whole:
            if index not in waiting:
                waiting[index] = prediction
                continue
            prediction = (waiting.pop(index) + prediction) / 2
        if prediction is None:
            scored[index] = scoring.unscored(record, rules)._replace(why="no prediction")
        elif rules.per == "sequence":
            blank = scoring.unscored(record, rules)
            sequences[rules, blank.dataset, blank.sequence][index] = prediction
        else:
            scored[index] = scoring.score(
                prediction, kind, record, rules, whole=whole, boundary=boundary
            )
        done += 1
        if progress is not None:
            progress(done, count)
    for (rules, *_), frames in sequences.items():
        order = sorted(frames)
        found = scoring.score_sequence(
            [frames[i] for i in order],
            kind,
            _Lazy(source, order),
            rules,
            boundary=boundary,
            whole=whole,
        )
        scored |= zip(order, found, strict=True)
    images = [scored[i] for i in sorted(scored)]
    if all(i.why for i in images):
        first = f" ({images[0].key}: {images[0].why})" if images else ""
        raise ValueError(f"none of {count} images could be scored{first}")
    return summarise(images, how)


def _protocols(
    protocol: str | Protocol, kind: str, changed: dict[str, Any]
) -> Callable[[str, str], Protocol]:
    """(set, domain) → switches."""
    if isinstance(protocol, str):
        return functools.cache(lambda d, o: protocols.get(protocol, kind, d, o, **changed))
    fixed = dataclasses.replace(protocol, **changed)
    fixed.check_kind(kind)
    return lambda dataset, domain: fixed


class _Lazy(Sequence):
    """Records of a source, read when they are asked for."""

    def __init__(self, source: Any, indices: list[int]):
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, at: Any) -> Any:
        return self._source[self._indices[at]]


def view(record: Mapping[str, Any], protocol: Protocol) -> np.ndarray:
    """What of a record's image the network sees: the frame, padded.

    Raises:
      ProtocolError: a frame or padding counts in pixels, and label and image differ in size.
    """
    image = record["image"]
    if protocol.frame == protocol.pad == "none":
        return image
    label = record["valid"].shape
    if label != image.shape[:2]:
        raise protocols.ProtocolError(
            f"{record['key']}: frame {protocol.frame!r} and pad {protocol.pad!r} need a label of "
            f"the image's size, and they are {label} and {image.shape[:2]}; use 'none' for both"
        )
    image = image[protocols.window(protocol.frame, *label)]
    if protocol.pad == "zoe":
        above, left = (scoring.padding(n) for n in image.shape[:2])
        image = np.pad(image, ((above, above), (left, left), (0, 0)), "reflect")
    return image


def summarise(images: Sequence[ImageScores], how: str = "image") -> Scores:
    """Means of image scores, over all and per set; skipped images are named."""
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
