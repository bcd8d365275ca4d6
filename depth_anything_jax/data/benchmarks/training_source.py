"""Evaluation sets and their training halves as labelled sources to train on."""

from __future__ import annotations

from depth_anything_jax.data import camera
from depth_anything_jax.data.benchmarks.base import BenchmarkError, Record
from depth_anything_jax.data.sources.base import Source


class TrainingSource:
    """A reader's records with their cameras as in `data.registry`."""

    labelled = True

    def __init__(self, reader: Source, name: str | None = None):
        """Raises BenchmarkError where the set has no depth in metres. The name is for messages."""
        self.reader, self.name = reader, name or reader.name
        if "depth" not in reader[0]:
            raise BenchmarkError(f"{self.name} has no depth in metres to learn from")

    def __len__(self) -> int:
        return len(self.reader)

    def key(self, index: int) -> str:
        """The reader's."""
        return self.reader.key(index)

    def __getitem__(self, index: int) -> Record:
        record = self.reader[index] | {"shift_known": True}
        c = camera.of(record)
        if c is not None:
            record["camera"] = c
        record.pop("K", None)
        return record
