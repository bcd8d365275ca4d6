"""Writes numbered ArrayRecord shards of a folder, so that a killed run loses one shard at most.

A shard appears under its name complete or not at all. Pseudo labels and `tools/prepare_data.py` are
written by this module; what they keep beside the shards (a card, notes) is theirs.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath

from depth_anything_jax.utils.literal_paths import literal
from depth_anything_jax.utils.paths import is_remote


def changes(begun: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lists what differs between the settings a folder was begun with and those of this run."""
    return [
        f"{name}: {begun.get(name)!r} there, {now.get(name)!r} now"
        for name in sorted({*begun, *now})
        if begun.get(name) != now.get(name)
    ]


def write_text(file: epath.Path, text: str, *, alone: bool = True) -> None:
    """Writes a file under a temporary name, then renames it: it is never seen incomplete.

    `alone` says that nobody else writes the same file now.
    """
    temporary = _temporary(file, alone)
    temporary.write_text(text)
    temporary.replace(file)


def _temporary(file: epath.Path, alone: bool) -> epath.Path:
    """The path that `file` is written to before it is renamed; deletes what killed runs left.

    What others write of the same file at this moment stays.
    """
    if alone:
        for stale in file.parent.glob(f".{file.name}.*"):
            stale.unlink()
    return file.parent / f".{file.name}.{uuid.uuid4().hex[:8]}"


class ShardWriter:
    """Writes shards of `size` records each, in the source's order.

    Args:
      folder: local or on gs://.
      name: of a shard's file, formatted with `shard` and `shards`.
      count: records in all.
      size: records in a shard.
      options: of ArrayRecordWriter.
      alone: nobody else may write the same shard at the same time.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        name: str,
        count: int,
        size: int,
        options: str,
        *,
        alone: bool = True,
    ):
        self.folder = literal(folder)
        self.count, self.size, self.shards = count, size, -(-count // size)
        self._name, self._options, self._alone = name, options, alone

    def range(self, shard: int) -> range:
        """The source's indices that a shard holds."""
        start = shard * self.size
        return range(start, min(start + self.size, self.count))

    def file(self, shard: int) -> epath.Path:
        """Where a shard lies."""
        return self.folder / self._name.format(shard=shard, shards=self.shards)

    def done(self, shard: int) -> bool:
        """Whether a shard is there, with all its records."""
        file = self.file(shard)
        if not file.exists():
            return False
        if is_remote(file):
            return True
        try:
            reader = ArrayRecordReader(os.fspath(file))
            found = reader.num_records()
            reader.close()
        except Exception:  # truncated, for example by a full disk
            return False
        return found == len(self.range(shard))

    def write(self, shard: int, records: Iterable[bytes]) -> None:
        """Writes a shard under a temporary name, then renames it."""
        file = self.file(shard)
        temporary = _temporary(file, self._alone)
        with tempfile.TemporaryDirectory() as scratch:
            # ArrayRecord writes local files only.
            remote = is_remote(file)
            local = os.path.join(scratch, file.name) if remote else os.fspath(temporary)
            writer = ArrayRecordWriter(local, self._options)
            for record in records:
                writer.write(record)
            writer.close()
            if remote:
                epath.Path(local).copy(temporary, overwrite=True)
            else:
                with open(local, "rb+") as written:
                    os.fsync(written.fileno())
        temporary.replace(file)
