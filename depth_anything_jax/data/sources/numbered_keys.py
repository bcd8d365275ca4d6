"""Keys that are numbers between two texts: millions of them without a loop over all.

A packed data set numbers its records. What is computed of all keys (a digest, the places of some)
takes a second for 62 million here, and a minute one by one.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from depth_anything_jax.data.sources.base import Source, unwrapped

ROWS = 10_000  # keys in a block: they share all digits but the last four


def joined_keys(source: Source) -> Iterator[bytes]:
    """Yields the keys of a source, each with a line feed behind it, in blocks."""
    base, indices = unwrapped(source, range(len(source)))
    ends = getattr(base, "key_ends", None)
    if ends is None or not (isinstance(indices, range) and indices.step == 1):
        for index in range(len(source)):
            yield source.key(index).encode(errors="surrogateescape") + b"\n"
        return
    before, after = (text.encode(errors="surrogateescape") for text in ends)
    start = indices.start
    while start < indices.stop:
        stop = min(indices.stop, (start // ROWS + 1) * ROWS)
        if start < ROWS // 10:  # their numbers of digits differ
            yield b"".join(b"%s%d%s\n" % (before, i, after) for i in range(start, stop))
        else:
            yield _block(before, start, stop, after + b"\n")
        start = stop


def _block(before: bytes, start: int, stop: int, after: bytes) -> bytes:
    head = before if start < ROWS else before + str(start // ROWS).encode()
    row = head + b"0000" + after
    rows = np.tile(np.frombuffer(row, np.uint8), (stop - start, 1))
    last = np.arange(start % ROWS, start % ROWS + stop - start)
    for place in range(4):
        digit = last // 10 ** (3 - place) % 10
        rows[:, len(head) + place] += digit.astype(np.uint8)
    return rows.tobytes()


def find(source: Source, keys: Iterable[str]) -> dict[str, int]:
    """Finds the records of some keys, without a table of all; keys that are not there are absent.

    Sources with numbered keys are asked directly, others are read through once.
    """
    wanted = set(keys)
    base, indices = unwrapped(source, range(len(source)))
    ends = getattr(base, "key_ends", None)
    if ends is None or not isinstance(indices, range):
        return {key: i for i in range(len(source)) if (key := source.key(i)) in wanted}
    found = {}
    for key in wanted:
        number = key.removeprefix(ends[0]).removesuffix(ends[1])
        if number.isascii() and number.isdigit() and int(number) in indices:
            index = indices.index(int(number))
            if source.key(index) == key:
                found[key] = index
    return found


class AllBut(Sequence[int]):
    """The numbers from 0 to `count`, without some, in memory for these alone."""

    def __init__(self, count: int, without: Iterable[int]):
        self._without = sorted(set(without))
        self._count = count - len(self._without)
        # How many numbers stay before each that is left out.
        self._before = [number - place for place, number in enumerate(self._without)]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index):  # type: ignore[override,no-untyped-def]
        if not -self._count <= index < self._count:
            raise IndexError(f"number {index} of {self._count}")
        index %= self._count
        return index + bisect.bisect_right(self._before, index)
