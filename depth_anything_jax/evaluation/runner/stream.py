"""Images of a source → predictions → scores, with decoding, device and metrics side by side.

Threads decode and prepare images ahead, the device works on batches that are two deep, and other
threads compute the metrics of what came back. Nothing is kept but what is on its way, and, where a
sequence is aligned as a whole, its frames.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from depth_anything_jax.data import camera
from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.protocols.protocol import Protocol, Switches
from depth_anything_jax.evaluation.runner.predictors import Candidate
from depth_anything_jax.evaluation.runner.score_log import Scored
from depth_anything_jax.evaluation.scores import pairs, scoring
from depth_anything_jax.inference import predictor
from depth_anything_jax.models.outputs import focal_length, to_metres

Record = Mapping[str, Any]


class Rulebook:
    """The switches that each record is scored under, as each of several kinds.

    Args:
      views: kinds that the prediction is or can be made.
      protocol: a name, whose switches go by each record's set and domain, or switches for all.
      switches: of the protocol, changed.

    Attributes:
      per, aggregate: of the protocol; the same for all its sets.
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

    def of(self, record: Record, view: str = "") -> Switches:
        """The switches for a record; without a view the first one's, which share what is seen."""
        if "points" in record:
            return self._pairs
        return self._of[view or self.views[0]](record.get("dataset", ""), record.get("domain", ""))


def _protocols(
    protocol: str | Protocol, kind: str, changed: dict[str, Any]
) -> Callable[[str, str], Protocol]:
    """(set, domain) → switches."""
    if isinstance(protocol, str):
        return functools.cache(lambda d, o: protocols.get(protocol, kind, d, o, **changed))
    fixed = dataclasses.replace(protocol, **changed)
    fixed.check_kind(kind)
    return lambda dataset, domain: fixed


def sequence_of(source: Any, index: int) -> str:
    """The sequence of an image as far as it is known unread; "" for all where it is not."""
    return source.sequence(index) if hasattr(source, "sequence") else ""


def predictions(
    candidate: Candidate,
    source: Any,
    indices: Iterable[int],
    rules: Rulebook,
    *,
    threads: int = 2,
) -> Iterator[tuple[int, Record, np.ndarray | None]]:
    """(index, record, prediction) of the images, in any order.

    A prediction is what the candidate's kind says of the view that the network saw, or of the whole
    image where it did not look; the mean of both ways round where the protocol flips.

    Raises:
      ValueError: a record without a label.
      Exception: what reading a record raised.
    """

    # What the network sees is the same for all views: kinds of a protocol differ in the alignment.
    def read(index: int) -> tuple[Record, Any, list[Any]]:
        record = source[index]
        if not record.keys() & {"disparity", "depth", "points"}:
            raise ValueError(f"{record['key']} has no label to evaluate against")
        how: Any = rules.of(record)
        if candidate.know is not None:
            return record, how, [candidate.know(record, how)]
        image = seen(record, how)
        if candidate.focal is not None:
            # Frames and padding move the principal point alone, which nothing here looks at.
            record = {**record, "camera": camera.needed(record), "view": image.shape[:2]}
        images = [candidate.prepare(image, how.input_size)]
        if how.flip and isinstance(images[0], np.ndarray):
            images.append(images[0][:, ::-1])  # not resized again: exactly the mirror image
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
    for (index, record, how, mirrored), prediction in (candidate.look or iter)(inputs()):
        if candidate.focal is not None and candidate.look is not None:
            as_seen = camera.resized(record["camera"], record["view"], prediction.shape)
            focal = focal_length(as_seen)
            prediction = to_metres(prediction, focal, candidate.focal)
        if mirrored:
            prediction = prediction[:, ::-1]
        if how.flip and candidate.look is not None:
            if index not in waiting:
                waiting[index] = prediction
                continue
            prediction = (waiting.pop(index) + prediction) / 2
        yield index, record, prediction


def scores(
    candidate: Candidate,
    source: Any,
    groups: Mapping[int, Any],
    rules: Rulebook,
    *,
    boundary: bool = False,
    threads: int = 2,
) -> Iterator[Scored]:
    """Scores as they come: of an image, or of all frames of a group whose sequences are aligned as
    a whole, when the last of them has been predicted.

    Args:
      groups: the images to be scored, and the group that each belongs to.
      rules: what they are scored under, as which kinds.
      boundary: whether boundary F1 is wanted.
      threads: that read, and as many that score.
    """
    kind = candidate.kind
    how: dict[str, Any] = {"whole": candidate.look is None, "boundary": boundary}
    left = collections.Counter(groups.values())
    frames: dict[Any, dict[int, tuple[Any, np.ndarray]]] = collections.defaultdict(dict)
    flying: collections.deque[concurrent.futures.Future] = collections.deque()

    def one(index: int, record: Record, prediction: np.ndarray) -> Scored:
        found = {}
        for view in rules.views:
            mine: Any = rules.of(record, view)
            if isinstance(mine, pairs.Rules):
                found[view] = pairs.score(prediction, kind, record, mine)
            else:
                values = scoring.convert(prediction, kind, view)
                found[view] = scoring.score(values, view, record, mine, **how)
        return {index: found}

    def sequences(predicted: Mapping[int, tuple[Any, np.ndarray]]) -> Scored:
        """A group's; the same frames belong together in all views."""
        found: dict[int, dict[str, Any]] = {index: {} for index in predicted}
        for part in dict.fromkeys(part for part, _ in predicted.values()):
            order = sorted(i for i in predicted if predicted[i][0] == part)
            for view, mine in zip(rules.views, part[0], strict=True):
                maps = [scoring.convert(predicted[i][1], kind, view) for i in order]
                records = _Lazy(source, order)
                new = scoring.score_sequence(maps, view, records, mine, **how)
                for index, one_of_them in zip(order, new, strict=True):
                    found[index][view] = one_of_them
        return found

    def land(most: int) -> Iterator[Scored]:
        while len(flying) > most:
            yield flying.popleft().result()

    def start(index: int, record: Record, prediction: np.ndarray | None) -> None:
        group = groups[index]
        each = tuple(rules.of(record, view) for view in rules.views)
        blank = [scoring.unscored(record, mine) for mine in each]
        if prediction is None:
            missing = [b._replace(why="no prediction") for b in blank]
            found = {index: dict(zip(rules.views, missing, strict=True))}
            flying.append(pool.submit(lambda: found))
        elif rules.per == "image" or "points" in record:
            flying.append(pool.submit(one, index, record, prediction))
        else:
            part = each, blank[0].dataset, blank[0].sequence
            frames[group][index] = part, prediction
        left[group] -= 1
        if not left[group] and group in frames:
            flying.append(pool.submit(sequences, frames.pop(group)))

    problem: Exception | None = None
    with concurrent.futures.ThreadPoolExecutor(max(1, threads)) as pool:
        try:
            for found in predictions(candidate, source, groups, rules, threads=threads):
                start(*found)
                yield from land(2 * threads)
        except Exception as error:  # what was predicted before it is worth its score
            problem = error
        try:
            yield from land(0)
        finally:
            for future in flying:
                future.cancel()
    if problem is not None:
        raise problem


class _Lazy(Sequence):
    """Records of a source, read when they are asked for."""

    def __init__(self, source: Any, indices: list[int]):
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, at: Any) -> Any:
        return self._source[self._indices[at]]


def seen(record: Record, protocol: Any) -> np.ndarray:
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
