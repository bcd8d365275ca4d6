"""Scores of a model on labelled images, per image and per set, under a protocol.

The network sees the whole image (or the protocol's frame of it) at its official size: short side
`input_size`, multiples of 14, bicubic, or as the network's own transform has it; everything after
that is `scoring`. The protocol without a name is `golden`: least squares in disparity, caps by
domain, image means.

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
from depth_anything_jax.data import transforms
from depth_anything_jax.evaluation import aggregate, candidates, pairs, protocols, scoring
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
    transform: transforms.InputTransform = transforms.OFFICIAL_INPUT,
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
      transform: makes the network's input.

    Raises:
      ValueError: a record without a label, no image could be scored, or a size for a network whose
        inputs all have one shape.
      Exception: what reading a record raised; an evaluation leaves nothing out silently.
    """
    changed = {"input_size": size, "max_depth": cap}
    return evaluate_candidate(
        candidates.of_network(predict, kind=kind, batch_size=batch_size, transform=transform),
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
) -> Scores:
    """Scores of anything that predicts, as the kind that it is: see `evaluate_views`."""
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
) -> dict[str, Scores]:
    """Scores of anything that predicts, as each of several kinds, from one look at each image.

    Other arguments and errors are those of `evaluate`; without a protocol it is
    `protocols.default`'s of the first view. What a candidate has no prediction of is not scored and
    named among the skipped. Records of point pairs are scored by `pairs.Rules`.

    Args:
      views: kinds that the prediction is or can be made (`protocols.VIEWS`).
      switches: of the protocol, changed.
    """
    for view in views:
        protocols.check_view(candidate.kind, view)
    changed = dict(switches or {})
    if "input_size" in changed and candidate.own_size:
        raise ValueError(
            f"input_size={changed['input_size']}: every input of "
            f"{candidate.name or 'this network'} has one shape, its own; leave the size out"
        )
    count = min(limit or len(source), len(source))
    by_view = {
        view: _protocols(protocol or protocols.default(views[0]), view, changed) for view in views
    }
    rules_of_pairs = pairs.Rules(**pairs.concerned(changed))

    def rules_of(record: Mapping[str, Any], view: str = views[0]) -> Protocol:
        return by_view[view](record.get("dataset", ""), record.get("domain", ""))

    # What the network sees is the same for all views: kinds of a protocol differ in the alignment.
    def read(index: int) -> tuple[Mapping[str, Any], Protocol | pairs.Rules, list[Any]]:
        record = source[index]
        if not record.keys() & {"disparity", "depth", "points"}:
            raise ValueError(f"{record['key']} has no label to evaluate against")
        rules = rules_of_pairs if "points" in record else rules_of(record)
        if candidate.know is not None:
            return record, rules, [candidate.know(record, rules)]
        image = seen(record, rules)
        inputs = [candidate.prepare(image, rules.input_size)]
        if rules.flip and isinstance(inputs[0], np.ndarray):
            inputs.append(inputs[0][:, ::-1])  # not resized again: exactly the mirror image
        elif rules.flip:
            inputs.append(candidate.prepare(image[:, ::-1], rules.input_size))
        return record, rules, inputs

    def inputs() -> Iterator[tuple[Any, Any]]:
        for index, found in inference.read_ahead(read, range(count), threads=threads):
            if isinstance(found, Exception):
                raise found
            record, rules, images = found
            for mirrored, x in enumerate(images):
                yield (index, record, rules, bool(mirrored)), x

    whole = candidate.look is None
    scored: dict[str, dict[int, ImageScores]] = {view: {} for view in views}
    waiting: dict[int, np.ndarray] = {}  # one of a mirrored pair
    sequences: dict[Any, dict[int, np.ndarray]] = collections.defaultdict(dict)
    done, how = 0, "image"
    for (index, record, rules, mirrored), prediction in (candidate.look or iter)(inputs()):
        if mirrored:
            prediction = prediction[:, ::-1]
        if rules.flip and not whole:
            if index not in waiting:
                waiting[index] = prediction
                continue
            prediction = (waiting.pop(index) + prediction) / 2
        for view in views:
            mine = rules if isinstance(rules, pairs.Rules) else rules_of(record, view)
            blank = scoring.unscored(record, mine)
            if prediction is None:
                scored[view][index] = blank._replace(why="no prediction")
            elif isinstance(mine, pairs.Rules):
                scored[view][index] = pairs.score(prediction, candidate.kind, record, mine)
            else:
                how = mine.aggregate  # the same for all sets of a named protocol
                values = scoring.convert(prediction, candidate.kind, view)
                if mine.per == "sequence":
                    sequences[view, mine, blank.dataset, blank.sequence][index] = values
                else:
                    scored[view][index] = scoring.score(
                        values, view, record, mine, whole=whole, boundary=boundary
                    )
        done += 1
        if progress is not None:
            progress(done, count)
    for (view, mine, *_), frames in sequences.items():
        order = sorted(frames)
        found = scoring.score_sequence(
            [frames[i] for i in order],
            view,
            _Lazy(source, order),
            mine,
            boundary=boundary,
            whole=whole,
        )
        scored[view] |= zip(order, found, strict=True)
    result = {}
    for view in views:
        images = [scored[view][i] for i in sorted(scored[view])]
        if all(i.why for i in images):
            first = f" ({images[0].key}: {images[0].why})" if images else ""
            raise ValueError(f"none of {count} images could be scored{first}")
        result[view] = summarise(images, how)
    return result


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


def seen(record: Mapping[str, Any], protocol: Protocol | pairs.Rules) -> np.ndarray:
    """What of a record's image the network sees: the frame, padded.

    Raises:
      ProtocolError: a frame or padding counts in pixels, and label and image differ in size.
    """
    image = record["image"]
    if isinstance(protocol, pairs.Rules) or protocol.frame == protocol.pad == "none":
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
