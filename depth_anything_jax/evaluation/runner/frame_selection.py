"""Selects frames of each sequence of a source, as video benchmarks do."""

from __future__ import annotations

import collections
from typing import Any

from depth_anything_jax.evaluation.protocols.protocol import ProtocolError


class Selection:
    """A view of some records of a source, in its order.

    Attributes:
      selection: (frames, frame_step) by which they were chosen.
      indices: of the records in the source.
    """

    expected = None  # a split's size is not that of a selection

    def __init__(self, source: Any, frames: int, step: int):
        self._source, self.selection = source, (frames, step)
        seen: dict[str, int] = collections.defaultdict(int)
        self.indices = []
        for i in range(len(source)):
            at = seen[source.sequence(i)]
            seen[source.sequence(i)] += 1
            if at % step == 0 and (at // step < frames or not frames):
                self.indices.append(i)

    def __len__(self) -> int:
        return len(self.indices)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._source, name)

    def key(self, index: int) -> str:
        """The key of a record."""
        return self._source.key(self.indices[index])

    def sequence(self, index: int) -> str:
        """The sequence of a record."""
        return self._source.sequence(self.indices[index])

    def __getitem__(self, index: int) -> Any:
        return self._source[self.indices[index]]


def select(source: Any, frames: int, step: int) -> Any:
    """The first `frames` of every `step`-th frame of each sequence; 0 frames: all of them.

    A source from which the same was selected before is returned as it is.

    Raises:
      ProtocolError: the source does not know its sequences, or a number is too small.
    """
    if frames < 0 or step < 1:
        raise ProtocolError(f"frames {frames} must be 0 or more, frame_step {step} 1 or more")
    if (frames, step) == (0, 1) or getattr(source, "selection", None) == (frames, step):
        return source
    if not hasattr(source, "sequence"):
        raise ProtocolError(
            f"frames={frames} and frame_step={step}: this source does not say which sequence an "
            "image belongs to; use an evaluation set (--dataset), or leave them out"
        )
    return Selection(source, frames, step)
