"""Maps global example numbers to records, reads them, replaces failed ones and augments them.

An example depends on (seed, part, i) alone. A record that fails is replaced by the next index of
its source and reported.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from depth_anything_jax.data import augment as augment_lib
from depth_anything_jax.data import camera, transforms
from depth_anything_jax.data.augment import NOTHING, Augment
from depth_anything_jax.data.sources.base import LeftOut, Source, disparity_of, kind_of

PARTS = ("labelled", "unlabelled")
NEIGHBOURS = 16  # records tried in a row before a source counts as broken


class DataError(ValueError):
    """Too many records cannot be read; the message names them."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """A record that could not be read."""

    source: str
    key: str
    error: str

    @property
    def record(self) -> tuple[str, str]:
        """The record's name, without what was wrong with it."""
        return self.source, self.key

    def __str__(self) -> str:
        return f"{self.source}: {self.key}: {self.error}"


class Read(NamedTuple):
    """An example, the failures before it, and the key of the record that it was made of."""

    example: dict[str, Any]
    failures: list[Failure]
    key: str


def stable_seed(*parts: Any) -> int:
    """A 31-bit seed from anything with a repr, the same on every machine and in every run."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1


def plan(
    sizes: Sequence[int], weights: Sequence[float] | None, seed: int, part: str
) -> grain.MapDataset:
    """Returns the endless sequence of record numbers of a part; sources are numbered end to end.

    Args:
      sizes: records of each source.
      weights: each source's weight in the mixture (kept to 1 % of the smallest), or None for a
        joint shuffle, in which each record comes once per epoch.
      seed: the run's seed.
      part: "labelled" or "unlabelled": two parts that read the same source are shuffled apart.
    """
    if weights is None:
        joint = grain.MapDataset.range(sum(sizes)).seed(stable_seed(seed, part, "joint"))
        return joint.shuffle().repeat()
    shuffled, start = [], 0
    for i, size in enumerate(sizes):
        records = grain.MapDataset.range(start, start + size).seed(stable_seed(seed, part, i))
        shuffled.append(records.shuffle().repeat())
        start += size
    if len(shuffled) == 1:
        return shuffled[0]
    return grain.MapDataset.mix(shuffled, weights=list(weights))


class Examples:
    """Reads example number i of a part, augmented, with failed records replaced."""

    def __init__(
        self,
        part: str,
        sources: Sequence[Source],
        weights: Sequence[float] | None,
        *,
        size: int | tuple[int, int],
        patch_size: int,
        seed: int,
        labels: bool,
        metric: bool = False,
        with_camera: bool = False,
        augment: Augment = NOTHING,
        label_resize: str = "auto",
    ):
        """`labels`: examples carry label fields, and a record without a label is a failure.

        Labels are given as disparity, which the relative loss needs. With `metric` they are depth,
        and a record without depth is a failure. With `with_camera`, one without a camera is too.
        """
        self.metric, self.with_camera, self.augment = metric, with_camera, augment
        self.label_resize = label_resize
        self.part, self.sources, self.size, self.seed = part, list(sources), size, seed
        self.labels, self.patch_size = labels, patch_size
        sizes = [len(s) for s in sources]
        self.starts = np.cumsum([0, *sizes])
        self.plan = plan(sizes, weights, seed, part)

    def record_of(self, index: int) -> tuple[int, int]:
        """Returns source and record number of global example `index`, before any replacement."""
        number = int(self.plan[index])
        source = int(np.searchsorted(self.starts, number, side="right")) - 1
        return source, number - int(self.starts[source])

    def read(self, index: int) -> Read:
        """Reads global example `index`.

        Raises:
          DataError: NEIGHBOURS records in a row (or all there are) cannot be read. Records that
            their source leaves out (`LeftOut`) do not count.
        """
        number, first = self.record_of(index)
        source = self.sources[number]
        failures: list[Failure] = []
        for offset in range(len(source)):
            record_index = (first + offset) % len(source)
            try:
                record = source[record_index]
                key = str(record.get("key") or source.key(record_index))
                return Read(self._augment(record, index), failures, key)
            except LeftOut:
                continue
            except Exception as error:  # decoders raise all kinds of errors
                failures.append(_failure(source, record_index, error))
                if len(failures) == NEIGHBOURS:
                    break
        if not failures:
            raise DataError(f"{source.name} leaves out all of its {len(source)} records")
        raise DataError(
            f"{len(failures)} {self.part} records in a row cannot be read:\n"
            + "\n".join(f"  {f}" for f in failures[:5])
        )

    def _augment(self, record: Mapping[str, Any], index: int) -> dict[str, Any]:
        if not self.labels:
            record = {"image": record["image"]}
        elif kind_of(record) is None:
            raise ValueError("the record has no label, but this part of the batch needs one")
        elif self.metric and "depth" not in record:
            raise ValueError("the record's label is disparity in no known unit, not metres")
        if self.with_camera:
            record = {**record, "camera": camera.needed(record)}
        else:  # a batch has a field in all rows or in none, and not every source has cameras
            record = {k: v for k, v in record.items() if k != "camera"}
        # Keyed by the position, not the record: a replacement keeps everything after it in place.
        rng = np.random.default_rng([self.seed, PARTS.index(self.part), index])
        record = augment_lib.crop_window(record, self.augment.window)
        height, width = record["image"].shape[:2]
        geometry = transforms.draw_geometry(
            rng, height, width, self.size, patch_size=self.patch_size
        )
        if self.augment.rotate:
            degrees = rng.uniform(-self.augment.rotate, self.augment.rotate)
            record = augment_lib.rotated(record, degrees)
        example = transforms.apply_geometry(record, geometry, self.size, self.label_resize)
        if self.labels and not self.metric:  # neither way of resizing mixes values: 1/x commutes
            example["disparity"] = disparity_of(example)
            example.pop("depth", None)
        kind = kind_of(example)
        if kind is not None and not np.isfinite(example[kind]).all():
            raise ValueError(f"the label's {kind} is not finite everywhere")
        if self.augment.p and rng.random() < self.augment.p:
            example["image"] = augment_lib.recolour(rng, example["image"], self.augment)
        return example


def _failure(source: Source, index: int, error: Exception) -> Failure:
    try:
        key = source.key(index)
    except Exception:  # the source cannot even name its record
        key = f"record {index}"
    return Failure(source.name, key, f"{type(error).__name__}: {error}")
