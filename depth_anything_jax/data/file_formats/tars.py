"""Finds and reads files inside tars without unpacking them; an index is kept from run to run.

An index of a tar of 11 GB takes as many reads as it has files. It goes into the user's cache folder
($XDG_CACHE_HOME or ~/.cache, then depth_anything_jax/tars), under the tar's path, size and time.
"""

from __future__ import annotations

import array
import dataclasses
import hashlib
import os
import pathlib
import tarfile
import uuid
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from depth_anything_jax.data.file_formats.file_checks import FormatError

BLOCK = 512  # bytes: files and headers begin at multiples of it


@dataclasses.dataclass(frozen=True)
class Index:
    """The files of a tar, and how many lie, in part or whole, behind its end."""

    names: list[str]
    starts: np.ndarray
    sizes: np.ndarray
    cut_off: int

    def files(self) -> Iterator[tuple[str, int, int]]:
        """Yields name, start and size in bytes of each file."""
        for name, start, size in zip(self.names, self.starts, self.sizes, strict=True):
            yield name, int(start), int(size)


def cache() -> pathlib.Path:
    """The folder of the indexes."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(base).expanduser() / "depth_anything_jax" / "tars"


def index(path: str | os.PathLike[str]) -> Index:
    """Lists a tar's files; those of tars in it too, as "inner.tar/name".

    Raises:
      FormatError: not a tar, or one that was compressed, whose files cannot be read singly.
    """
    stat = os.stat(path)
    what = f"{os.path.abspath(path)}|{stat.st_size}|{stat.st_mtime_ns}"
    kept = cache() / (hashlib.sha256(what.encode(errors="surrogateescape")).hexdigest() + ".npz")
    try:
        with np.load(kept) as arrays:
            names = bytes(arrays["names"]).decode(errors="surrogateescape").split("\0")
            names = names if len(arrays["starts"]) else []
            return Index(names, arrays["starts"], arrays["sizes"], int(arrays["cut_off"]))
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):  # none, or a damaged one
        pass
    with open(path, "rb") as file:
        found, cut_off = _list(file, 0, stat.st_size, path, "")
    made = Index(
        [name for name, _, _ in found],
        np.array([start for _, start, _ in found], np.int64),
        np.array([size for _, _, size in found], np.int64),
        cut_off,
    )
    try:
        _keep(made, kept)
    except OSError:  # no space or no right to write: the next run makes it again
        pass
    return made


def _keep(made: Index, file: pathlib.Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    names = np.frombuffer("\0".join(made.names).encode(errors="surrogateescape"), np.uint8)
    temporary = file.with_name(f".{uuid.uuid4().hex}.npz")
    np.savez(temporary, names=names, starts=made.starts, sizes=made.sizes, cut_off=made.cut_off)
    temporary.replace(file)


def _list(
    file: BinaryIO, start: int, end: int, path: str | os.PathLike[str], prefix: str
) -> tuple[list[tuple[str, int, int]], int]:
    """Lists the files of the tar that lies between two positions of a file."""
    file.seek(start)
    found, cut_off = [], 0
    try:
        tar = tarfile.TarFile(fileobj=file)
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # a kilobyte each
            if not member.isfile():
                continue
            name, last = member.name.removeprefix("./"), member.offset_data + member.size
            if name.endswith(".tar"):
                place = member.offset_data, min(last, end), path, f"{prefix}{name}/"
                inner, behind = _list(file, *place)
                found.extend(inner)
                cut_off += behind
                file.seek(tar.offset)
            elif last > end:
                cut_off += 1
            else:
                found.append((prefix + name, member.offset_data, member.size))
        file.seek(tar.offset)
        whole = file.read(BLOCK) == bytes(BLOCK)
    except tarfile.TarError as error:
        if not (found or cut_off):
            what = f"{path}{f' ({prefix})' * bool(prefix)}"
            raise FormatError(
                f"{what}: not a tar that can be read without unpacking it ({error}); decompress "
                ".tar.gz first"
            ) from error
        whole = False
    return found, cut_off or int(not whole)


def read(path: str | os.PathLike[str], start: int, size: int) -> bytes:
    """Reads a file of a tar."""
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read(size)
    if len(data) < size or not size:
        raise FormatError(f"{path}: {len(data)} of {size} bytes at {start}: cut off, or replaced")
    return data


class Places:
    """Where each of many files lies: the number of its tar, start and size; -1 outside of tars."""

    def __init__(self) -> None:
        self._values = array.array("q")
        self.plain = 0  # files outside of tars

    def append(self, tar: int, start: int, size: int) -> None:
        """Adds a file; not after `frozen`."""
        self._values.extend((tar, start, size))
        self.plain += tar < 0

    def frozen(self) -> np.ndarray:
        """Returns the places as rows (tar, start, size)."""
        return np.array(self._values, np.int64).reshape(-1, 3)
