"""Streams images of a source through prediction and scoring, all stages in parallel.

Threads decode and prepare images ahead, the device has up to two batches queued, and other threads
compute the metrics of finished predictions. Only images in flight are kept in memory, and, where
sequences are aligned as a whole, the frames of unfinished sequences.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from depth_anything_jax.data import camera
from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.protocols.protocol import Protocol, Switches
from depth_anything_jax.evaluation.runner.prediction_writer import PredictionWriter
from depth_anything_jax.evaluation.runner.predictors import Candidate
from depth_anything_jax.evaluation.runner.score_log import Scored
from depth_anything_jax.evaluation.scores import pairs, scoring
from depth_anything_jax.inference import predictor
from depth_anything_jax.models.outputs import to_metres

Record = Mapping[str, Any]


class ProtocolResolver:
    """Resolves the switches that each record is scored under, for each of several views.

    Args:
      views: kinds that the prediction has or can be converted to.
      protocol: a name, whose switches depend on each record's set and domain, or the switches for
        all records.
      switches: changes of the protocol's switches.

    Attributes:
      per, aggregate, frames, frame_step: of the protocol; the same for all its sets.
    """

    def __init__(self, views: Sequence[str], protocol: str | Protocol, switches: Mapping[str, Any]):
        self.views = tuple(views)
        changed = dict(switches)
        self._of = {view: _protocols(protocol, view, changed) for view in views}
        self._pairs = pairs.Rules(**pairs.concerned(changed))
        if isinstance(protocol, str):
            general = {**protocols.named(protocol)[1].base, **changed}
        else:
            general = {**dataclasses.asdict(protocol), **changed}
        self.per = general.get("per", "image")
        self.aggregate = general.get("aggregate", "image")
        self.frames, self.frame_step = general.get("frames", 0), general.get("frame_step", 1)

    def of(self, record: Record, view: str = "") -> Switches:
        """The switches for a record and a view.

        Without a view they are the first one's: all views have the same frame, padding and size."""
        if "points" in record:
            return self._pairs
        return self._of[view or self.views[0]](record.get("dataset", ""), record.get("domain", ""))


def _protocols(
    protocol: str | Protocol, kind: str, changed: dict[str, Any]
) -> Callable[[str, str], Protocol]:
    """Returns a function (set, domain) → switches."""
    if isinstance(protocol, str):

        @functools.cache
        def get(dataset: str, domain: str) -> Protocol:
            switches = protocols.get(protocol, kind, dataset, domain, **changed)
            if not domain.startswith(("indoor", "outdoor")):
                try:
                    either = [
                        protocols.get(protocol, kind, dataset, area, **changed)
                        for area in ("indoor", "outdoor")
                    ]
                except protocols.ProtocolError:  # the user's switches fit one of them alone
                    return switches
                if either[0] != either[1]:
                    caps = tuple(s.max_depth for s in (*either, switches))
                    _warn_of_domain(protocol, dataset, domain, caps)
            return switches

        return get
    fixed = dataclasses.replace(protocol, **changed)
    fixed.check_kind(kind)
    return lambda dataset, domain: fixed


@functools.cache  # once for all views
def _warn_of_domain(protocol: str, dataset: str, domain: str, caps: tuple[float, ...]) -> None:
    logging.warning(
        "records of data set %r have the domain %r, and %s scores indoor and outdoor images "
        "differently (depths up to %g and %g m); up to %g m here. Say it in the manifest's "
        "'domain', or in the source: default_domain=indoor (of rgbd), domain=indoor (of pairs)",
        dataset, domain, protocol, *caps,
    )  # fmt: skip


def sequence_of(source: Any, index: int) -> str:
    """The sequence of an image, if the source knows it without reading the record, else ""."""
    return source.sequence(index) if hasattr(source, "sequence") else ""


def predictions(
    candidate: Candidate,
    source: Any,
    indices: Iterable[int],
    rules: ProtocolResolver,
    *,
    threads: int = 2,
) -> Iterator[tuple[int, Record, np.ndarray | None]]:
    """Predicts the images and yields (index, record, prediction), in any order.

    A prediction is a map of the candidate's kind. It covers the view that the network received, or
    the whole image where it was looked up. Where the protocol flips, it is the mean of the image's
    prediction and the mirrored image's.

    Raises:
      ValueError: a record has no label.
      Exception: reading a record failed.
    """

    # The network's input is the same for all views: they differ only in the alignment.
    def read(index: int) -> tuple[Record, Any, list[Any]]:
        record = source[index]
        if not record.keys() & {"disparity", "depth", "points"}:
            raise ValueError(f"{record['key']} has no label to evaluate against")
        how: Any = rules.of(record)
        if candidate.lookup is not None:
            return record, how, [candidate.lookup(record, how)]
        image = seen(record, how)
        if candidate.focal is not None:
            # Frames and padding move the principal point only, which is not used here.
            record = {**record, "camera": camera.needed(record), "view": image.shape[:2]}
        images = [candidate.prepare(image, how.input_size)]
        if how.flip and isinstance(images[0], np.ndarray):
            images.append(images[0][:, ::-1])  # not resized again: the exact mirror image
        elif how.flip:
            images.append(candidate.prepare(image[:, ::-1], how.input_size))
        return record, how, images

    def inputs() -> Iterator[tuple[Any, Any]]:
        for index, found in predictor.read_ahead(read, indices, threads=threads):
            if isinstance(found, Exception):
                raise found
            record, how, images = found
            for mirrored, x in enumerate(images):
                yield (index, record, how, bool(mirrored)), x

    waiting: dict[int, np.ndarray] = {}  # one of a mirrored pair
    for (index, record, how, mirrored), prediction in (candidate.predict or iter)(inputs()):
        if candidate.focal is not None and candidate.predict is not None:
            as_seen = camera.resized(record["camera"], record["view"], prediction.shape)
            focal = np.float64(as_seen.focal)
            prediction = to_metres(prediction, focal, candidate.focal)
        if mirrored:
            prediction = prediction[:, ::-1]
        if how.flip and candidate.predict is not None:
            if index not in waiting:
                waiting[index] = prediction
                continue
            prediction = (waiting.pop(index) + prediction) / 2
        yield index, record, prediction


def scores(
    candidate: Candidate,
    source: Any,
    groups: Mapping[int, Any],
    rules: ProtocolResolver,
    *,
    boundary: bool = False,
    threads: int = 2,
    keep: PredictionWriter | None = None,
) -> Iterator[Scored]:
    """Predicts and scores images, and yields scores as they are computed.

    Each item is one image, or, where sequences are aligned as a whole, all frames of a group after
    the last of them has been predicted.

    Args:
      groups: {image to score: the group it belongs to}.
      rules: the switches and views that they are scored under.
      boundary: whether to compute boundary F1.
      threads: number of threads that read, and number of threads that score.
      keep: writes each prediction before its scores are yielded.
    """
    kind = candidate.kind
    how: dict[str, Any] = {"whole": candidate.predict is None, "boundary": boundary}
    left = collections.Counter(groups.values())
    frames: dict[Any, dict[int, tuple[Any, np.ndarray]]] = collections.defaultdict(dict)
    in_flight: collections.deque[concurrent.futures.Future] = collections.deque()

    def one(index: int, record: Record, prediction: np.ndarray) -> Scored:
        found = {}
        if keep is not None:
            keep.write(record, prediction, rules.of(record))
        levels = _levels(prediction)
        for view in rules.views:
            mine: Any = rules.of(record, view)
            if isinstance(mine, pairs.Rules):
                new = pairs.score(prediction, kind, record, mine)
            else:
                values = scoring.convert(prediction, kind, view)
                new = scoring.score(values, view, record, mine, **how)
            found[view] = new._replace(levels=levels)
        return {index: found}

    def sequences(predicted: Mapping[int, tuple[Any, np.ndarray]]) -> Scored:
        """Scores the sequences of a group; all views have the same sequences."""
        found: dict[int, dict[str, Any]] = {index: {} for index in predicted}
        for part in dict.fromkeys(part for part, _ in predicted.values()):
            order = sorted(i for i in predicted if predicted[i][0] == part)
            for view, mine in zip(rules.views, part[0], strict=True):
                maps = [scoring.convert(predicted[i][1], kind, view) for i in order]
                records = _Lazy(source, order)
                new = scoring.score_sequence(maps, view, records, mine, **how)
                for index, one_of_them in zip(order, new, strict=True):
                    levels = _levels(predicted[index][1])
                    found[index][view] = one_of_them._replace(levels=levels)
        return found

    def collect(most: int) -> Iterator[Scored]:
        while len(in_flight) > most:
            yield in_flight.popleft().result()

    def start(index: int, record: Record, prediction: np.ndarray | None) -> None:
        group = groups[index]
        each = tuple(rules.of(record, view) for view in rules.views)
        blank = [scoring.unscored(record, mine) for mine in each]
        if prediction is None:
            missing = [b._replace(why="no prediction") for b in blank]
            found = {index: dict(zip(rules.views, missing, strict=True))}
            in_flight.append(pool.submit(lambda: found))
        elif rules.per == "image" or "points" in record:
            in_flight.append(pool.submit(one, index, record, prediction))
        else:
            if keep is not None:
                keep.write(record, prediction, rules.of(record))
            part = each, blank[0].dataset, blank[0].sequence
            frames[group][index] = part, prediction
        left[group] -= 1
        if not left[group] and group in frames:
            in_flight.append(pool.submit(sequences, frames.pop(group)))

    problem: Exception | None = None
    with concurrent.futures.ThreadPoolExecutor(max(1, threads)) as pool:
        try:
            for found in predictions(candidate, source, groups, rules, threads=threads):
                start(*found)
                yield from collect(2 * threads)
        except Exception as error:  # images predicted before it are still scored
            problem = error
        try:
            yield from collect(0)
        finally:
            for future in in_flight:
                future.cancel()
    if problem is not None:
        raise problem


def _levels(prediction: np.ndarray) -> int:
    """The number of values of a map from a file of 8 bits; 0 for other maps."""
    return np.unique(prediction).size if prediction.dtype == np.uint8 else 0


class _Lazy(Sequence):
    """Records of a source, read on access."""

    def __init__(self, source: Any, indices: list[int]):
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, at: Any) -> Any:
        return self._source[self._indices[at]]


def seen(record: Record, protocol: Any) -> np.ndarray:
    """Crops a record's image to the protocol's frame and pads it, for the network.

    Raises:
      ProtocolError: the protocol has a frame or padding, which count in pixels, and label and image
        differ in size.
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
