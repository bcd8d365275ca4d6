"""Keeps millions of short texts in one block of memory, as workers receive it."""

from __future__ import annotations

import array

import numpy as np


class Texts:
    """A list of texts that takes their bytes and eight more for each."""

    def __init__(self) -> None:
        self._bytes: bytearray | bytes = bytearray()
        self._ends: array.array[int] | np.ndarray = array.array("q")

    def append(self, text: str) -> None:
        """Adds a text; not after `frozen`."""
        assert isinstance(self._bytes, bytearray) and isinstance(self._ends, array.array)
        self._bytes += text.encode(errors="surrogateescape")
        self._ends.append(len(self._bytes))

    def frozen(self) -> Texts:
        """Returns the texts in the form that is read fast and sent to workers."""
        other = Texts()
        other._bytes, other._ends = bytes(self._bytes), np.array(self._ends, np.int64)
        return other

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        index %= len(self)
        start = self._ends[index - 1] if index else 0
        return bytes(self._bytes[start : self._ends[index]]).decode(errors="surrogateescape")
