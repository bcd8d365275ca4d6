"""LSUN (V1, unlabelled): images in LMDB, JPEG or WebP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.training_sets.base import TrainingSet

_open: dict[tuple[int, str], Any] = {}  # of this process: LMDB forbids to open a folder twice


class LSUN(TrainingSet):
    """The images of all CATEGORY_train_lmdb folders; a key is CATEGORY_train_lmdb/<40 digits>."""

    set_name = "lsun"
    licence = "research (unverified)"
    images = r"\w+_train_lmdb/[0-9a-f]{40}"
    looked_for = "CATEGORY_train_lmdb/data.mdb"
    has_labels, needs = False, ("lmdb",)

    def _files(self) -> Iterator[tuple[str, int, int, int]]:
        for path, tar, start, size in super()._files():
            folder, _, name = path.rpartition("/")
            if name != "data.mdb" or not (folder or self.root).endswith("_train_lmdb"):
                yield path, tar, start, size
                continue
            folder = folder or os.path.basename(os.path.abspath(self.root))
            with self._database(folder).begin(buffers=True) as transaction:
                for key in transaction.cursor().iternext(keys=True, values=False):
                    yield f"{folder}/{bytes(key).decode(errors='replace')}", -1, 0, 0

    def _database(self, folder: str) -> Any:
        import lmdb

        path = self._path(folder)
        path = os.path.realpath(path if os.path.isdir(path) else self.root)
        if (os.getpid(), path) not in _open:
            try:
                options = {"readonly": True, "lock": False, "readahead": False}
                _open[os.getpid(), path] = lmdb.open(path, **options)
            except lmdb.Error as error:
                raise formats.FormatError(
                    f"{path}: not an LMDB, or a damaged one: {error}"
                ) from error
        return _open[os.getpid(), path]

    def files(self, index: int) -> list[str]:
        """Lists nothing: a database is not looked through for changes."""
        return []

    def image_bytes(self, index: int) -> bytes:
        """Reads the image as it is stored."""
        folder, _, key = self.key(index).rpartition("/")
        with self._database(folder).begin() as transaction:
            data = transaction.get(key.encode())
        if not data:
            raise formats.FormatError(f"{self.key(index)}: no such image, or an empty one")
        return bytes(data)
