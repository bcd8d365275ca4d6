"""Input discovery: finds the images and videos that a command line names, and names their outputs.

Folders keep their structure below the output folder. Two inputs never share a name there: where
names would clash (`a.jpg` beside `a.png`, two folders that both have an `a.jpg`), each keeps its
suffix, and names that still clash are numbered.
"""

from __future__ import annotations

import collections
import dataclasses
import glob
import os
import pathlib
from collections.abc import Callable, Sequence

from depth_anything_jax.data.file_formats import photos
from depth_anything_jax.utils.paths import is_remote
from depth_anything_jax.video import reader

STDIN = "-"


@dataclasses.dataclass(frozen=True)
class Item:
    """An image or video to process.

    Attributes:
      source: its file, or STDIN.
      stem: of its outputs, relative to the output folder, without suffix.
      video: whether its suffix is that of a video.
    """

    source: str
    stem: pathlib.PurePath
    video: bool = False


def find(inputs: Sequence[str], *, without: str | os.PathLike[str] | None = None) -> list[Item]:
    """Finds all images and videos in files, folders (recursively), globs and "-".

    Files that are named explicitly are taken whatever their suffix; in folders and globs only files
    with the suffix of an image or video. Duplicates are removed.

    Args:
      inputs: as on the command line.
      without: a folder below which only explicitly named files are taken: the output folder, which
        may lie in an input and whose images are results.

    Raises:
      FileNotFoundError: the only input does not exist, or matches nothing; one of several is
        returned like an image, so that reading it reports the error while the others are processed.
      ValueError: a folder holds no image or video, or lies in the output folder; or an input is an
        address.
    """
    skipped = None if without is None else pathlib.Path(without).expanduser().resolve()
    found: dict[str, tuple[str, pathlib.PurePath]] = {}  # resolved: (source, path below the output)
    for text in inputs:
        path = pathlib.Path(text).expanduser()
        named = text == STDIN or (path.exists() and not path.is_dir())
        taken = 0
        try:
            expanded = _expand(text, several=len(inputs) > 1)
        except FileNotFoundError:
            if len(inputs) == 1:
                raise
            expanded, named = [(str(path), pathlib.PurePath(path.name))], True
        for source, below in expanded:
            real = source if source == STDIN else str(pathlib.Path(source).resolve())
            if named or skipped is None or skipped not in pathlib.Path(real).parents:
                found.setdefault(real, (source, below))
                taken += 1
        if not taken:
            raise ValueError(
                f"{text}: all of it lies in --out={without}, where results cannot be told from "
                "inputs; name another folder for the results"
            )
    return _named(list(found.values()))


def _expand(text: str, *, several: bool) -> list[tuple[str, pathlib.PurePath]]:
    if text == STDIN:
        return [(STDIN, pathlib.PurePath("stdin"))]
    if is_remote(text):
        raise ValueError(f"{text}: addresses are not fetched; download it and give the path")
    path = pathlib.Path(text).expanduser()
    if path.is_dir():
        files = [f for f in sorted(path.rglob("*")) if _wanted(f)]
        if not files:
            raise ValueError(f"{text}: no picture or video in this folder or below it")
        top = pathlib.PurePath(path.resolve().name if several else "")
        return [(str(f), top / f.relative_to(path)) for f in files]
    if path.exists():
        return [(str(path), pathlib.PurePath(path.name))]
    if glob.has_magic(text):
        matches = sorted(glob.glob(str(path), recursive=True))
        files = [f for f in map(pathlib.Path, matches) if _wanted(f)]
        if not files:
            raise FileNotFoundError(f"{text}: matches no picture or video")
        top = pathlib.Path(os.path.commonpath([f.resolve().parent for f in files]))
        return [(str(f), f.resolve().relative_to(top)) for f in files]
    raise FileNotFoundError(f"{text}: no such file or folder")


def _wanted(file: pathlib.Path) -> bool:
    known = file.suffix.lower() in (*photos.SUFFIXES, *reader.SUFFIXES)
    # A broken link is taken, so that it is reported as a failure.
    there = file.is_file() or (file.is_symlink() and not file.exists())
    return known and there and not file.name.startswith(".")  # ._a.jpg is macOS metadata


def _named(found: list[tuple[str, pathlib.PurePath]]) -> list[Item]:
    def clashing(names: list[pathlib.PurePath]) -> list[bool]:
        # On file systems of phones, macOS and Windows a.jpg and A.jpg are the same file.
        counts = collections.Counter(str(n).lower() for n in names)
        return [counts[str(n).lower()] > 1 for n in names]

    def changed(
        names: list[pathlib.PurePath], change: Callable[[int, pathlib.PurePath], pathlib.PurePath]
    ) -> list[pathlib.PurePath]:
        return [
            change(i, n) if bad else n
            for i, (n, bad) in enumerate(zip(names, clashing(names), strict=True))
        ]

    names = [below.with_suffix("") for _, below in found]
    names = changed(names, lambda i, n: n.with_name(found[i][1].name.replace(".", "_")))
    while any(clashing(names)):  # a.jpg, a.png and a_jpg.png; a numbered name may clash again
        names = changed(names, lambda i, n: n.with_name(f"{n.name}_{i}"))
    return [
        Item(source, name, below.suffix.lower() in reader.SUFFIXES)
        for (source, below), name in zip(found, names, strict=True)
    ]
