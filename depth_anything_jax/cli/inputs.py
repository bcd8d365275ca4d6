"""What a command line names → pictures and videos, and where their depth goes.

Folders keep their structure below the output folder. Two inputs never share a name there: where
two would (`a.jpg` beside `a.png`, two folders that both have an `a.jpg`), each keeps its suffix,
and what is still the same is numbered.
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
    """A picture or video.

    Attributes:
      source: its file, or STDIN.
      stem: of its outputs, relative to the output folder, without suffix.
      video: by its suffix.
    """

    source: str
    stem: pathlib.PurePath
    video: bool = False


def find(inputs: Sequence[str], *, without: str | os.PathLike[str] | None = None) -> list[Item]:
    """All pictures and videos of files, folders (with all below them), globs and "-".

    A file that was named is taken whatever its suffix; of folders and globs what looks like a
    picture or a video. A file that is named twice comes once.

    Args:
      inputs: as on the command line.
      without: a folder below which only files that were named are taken: the output folder, which
        may lie in an input, and whose pictures are results.

    Raises:
      FileNotFoundError: the only input is not there, or matches nothing; one of several is given
        back like a picture, whose reading names it while the rest is done.
      ValueError: a folder without a picture or video, or one that lies in the output folder; an
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
                f"{text}: all of it lies in --out={without}, where results are not told from "
                "pictures; name another folder for the results"
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
    # A link to nothing is taken, so that it is named among what failed.
    there = file.is_file() or (file.is_symlink() and not file.exists())
    return known and there and not file.name.startswith(".")  # ._a.jpg is macOS' own


def _named(found: list[tuple[str, pathlib.PurePath]]) -> list[Item]:
    def clashing(names: list[pathlib.PurePath]) -> list[bool]:
        # File systems of phones, macOS and Windows take a.jpg and A.jpg for one.
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
    while any(clashing(names)):  # a.jpg, a.png and a_jpg.png; the numbers may meet a name, too
        names = changed(names, lambda i, n: n.with_name(f"{n.name}_{i}"))
    return [
        Item(source, name, below.suffix.lower() in reader.SUFFIXES)
        for (source, below), name in zip(found, names, strict=True)
    ]
