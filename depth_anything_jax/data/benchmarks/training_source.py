"""Evaluation sets and their training halves as training reads labels: disparity, valid, sky."""

from __future__ import annotations

from depth_anything_jax.data import camera
from depth_anything_jax.data.benchmarks.base import BenchmarkError, Record
from depth_anything_jax.data.sources.base import Source, label_fields


class TrainingSource:
    """A reader's records with labels as in `data.registry` (1 / depth), and its cameras."""

    labelled = True

    def __init__(self, reader: Source):
        """Raises BenchmarkError where the set has no depth in metres."""
        self.reader, self.name = reader, reader.name
        if "depth" not in reader[0]:
            raise BenchmarkError(f"{self.name} has no depth in metres to learn from")

    def __len__(self) -> int:
        return len(self.reader)

    def key(self, index: int) -> str:
        """The reader's."""
        return self.reader.key(index)

    def __getitem__(self, index: int) -> Record:
        record = dict(self.reader[index])
        valid, sky = record.pop("valid"), record.pop("sky")
        record |= label_fields(record.pop("depth"), "depth", valid=valid, sky=sky)
        c = camera.of(record)
        if c is not None:
            record["camera"] = c
        record.pop("K", None)
        return record | {"kind": "depth"}
