"""What tells whether files are still those that earlier results were made from."""

from __future__ import annotations

import hashlib
import os
import pathlib

from etils import epath

from depth_anything_jax.data import shards


def write(path: str | os.PathLike[str], text: str) -> None:
    """Writes a file whole or not at all."""
    shards.write_text(epath.Path(path), text)


def digest(path: str) -> str:
    """Returns the SHA-256 of a file; "" of no file."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest() if path else ""


def state(source: str) -> list[int]:
    """Describes local weights or labels cheaply: files, bytes, newest change in ns.

    [] where nothing local has that name, such as on the Hugging Face Hub. Hidden files, such as
    locks, do not count.
    """
    if os.path.isfile(source):
        found = [os.stat(source)]
    else:
        found = [
            os.stat(os.path.join(folder, name))
            for folder, _, names in os.walk(source)
            for name in names
            if not name.startswith(".")
        ]
    if not found:
        return []
    return [len(found), sum(s.st_size for s in found), max(s.st_mtime_ns for s in found)]
