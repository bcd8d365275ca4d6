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
from collections.abc import Callable, Iterable, Mapping, Sequence

from depth_anything_jax.data.file_formats import photos
from depth_anything_jax.utils.paths import is_remote
from depth_anything_jax.video import reader

STDIN = "-"
# Pictures that are read too, where they are named by these suffixes.
_SUFFIXES = {
    *photos.SUFFIXES, *reader.SUFFIXES,
    ".dib", ".j2k", ".jp2", ".jpf", ".jpx", ".pbm", ".pnm", ".tga",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Item:
    """An image or video to process.

    Attributes:
      source: its file, or STDIN.
      stem: of its outputs, relative to the output folder, without suffix.
      video: whether its content is that of a video; where that does not tell, its suffix.
    """

    source: str
    stem: pathlib.PurePath
    video: bool = False


def find(
    inputs: Sequence[str],
    *,
    without: str | os.PathLike[str] | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Item]:
    """Finds all images and videos in files, folders (recursively), globs and "-".

    Files that are named explicitly are taken whatever their suffix; in folders and globs only files
    with the suffix of an image or video, or with none and the content of one; the others are
    counted. Hidden files and folders are skipped. Linked folders are followed, each folder once. A
    file that is named twice is taken once; two links to it are two files.

    Args:
      inputs: as on the command line.
      without: a folder below which only explicitly named files are taken: the output folder, which
        may lie in an input and whose images are results.
      tell: takes a line on the files that are not read.

    Raises:
      FileNotFoundError: the only input does not exist, or matches nothing; one of several is
        returned like an image, so that reading it reports the error while the others are processed.
      ValueError: a folder holds no image or video, or lies in the output folder; or an input is an
        address.
    """
    skipped = None if without is None else pathlib.Path(without).expanduser().resolve()
    found: dict[str, tuple[str, pathlib.PurePath]] = {}  # file: (source, path below the output)
    for text in inputs:
        path = pathlib.Path(text).expanduser()
        named = text == STDIN or (path.exists() and not path.is_dir())
        taken = 0
        try:
            expanded, others = _expand(text, several=len(inputs) > 1)
        except FileNotFoundError:
            if len(inputs) == 1:
                raise
            expanded, others, named = [(str(path), pathlib.PurePath(path.name))], {}, True
        if others:
            tell(f"{text}: not read: {_counted(others)}")
        for source, below in expanded:
            file = pathlib.Path(source)
            real = file if source == STDIN else file.parent.resolve() / file.name
            if named or skipped is None or skipped not in real.parents:
                found.setdefault(str(real), (source, below))
                taken += 1
        if not taken:
            raise ValueError(
                f"{text}: all of it lies in --out={without}, where results cannot be told from "
                "inputs; name another folder for the results"
            )
    return _named(list(found.values()))


def _expand(
    text: str, *, several: bool
) -> tuple[list[tuple[str, pathlib.PurePath]], Mapping[str, int]]:
    """(file, output name) of all that is read, and counts of the rest by suffix."""
    if text == STDIN:
        return [(STDIN, pathlib.PurePath("stdin"))], {}
    if is_remote(text):
        raise ValueError(f"{text}: addresses are not fetched; download it and give the path")
    path = pathlib.Path(text).expanduser()
    if path.is_dir():
        below, refused = _below(path)
        files, others = _sorted_out(below)
        if refused:
            others["folders that cannot be read"] = len(refused)
        if not files:
            raise ValueError(
                f"{text}: no picture or video in this folder or below it"
                + (f", only {_counted(others)}" if others else "")
            )
        top = pathlib.PurePath(path.resolve().name if several else "")
        return [(str(f), top / f.relative_to(path)) for f in files], others
    if path.exists():
        return [(str(path), pathlib.PurePath(path.name))], {}
    if glob.has_magic(text):
        matches = sorted(glob.glob(str(path), recursive=True))
        files, others = _sorted_out(map(pathlib.Path, matches))
        if not files:
            raise FileNotFoundError(f"{text}: matches no picture or video")
        top = pathlib.Path(os.path.commonpath([f.parent.resolve() for f in files]))
        return [(str(f), (f.parent.resolve() / f.name).relative_to(top)) for f in files], others
    raise FileNotFoundError(f"{text}: no such file or folder")


def _below(top: pathlib.Path) -> tuple[list[pathlib.Path], list[OSError]]:
    """All files below a folder that are not hidden, sorted; each folder once, links to it last.

    Also returns an error for each folder that cannot be read."""
    files: list[pathlib.Path] = []
    refused: list[OSError] = []
    seen: set[str] = set()
    folders = [top]
    while folders:
        links: list[pathlib.Path] = []
        for folder in folders:
            for where, names, inside in os.walk(folder, onerror=refused.append):
                real = os.path.realpath(where)
                if real in seen:
                    names.clear()
                    continue
                seen.add(real)
                names[:] = [n for n in names if not n.startswith(".")]
                links += [f for f in (pathlib.Path(where, n) for n in names) if f.is_symlink()]
                files += [pathlib.Path(where, n) for n in inside]
        folders = sorted(links)
    return sorted(files), refused


def _sorted_out(
    files: Iterable[pathlib.Path],
) -> tuple[list[pathlib.Path], collections.Counter[str]]:
    """The files that are read, and counts of the others by suffix."""
    wanted: list[pathlib.Path] = []
    others: collections.Counter[str] = collections.Counter()
    for file in files:
        # A broken link is taken, so that it is reported as a failure; ._a.jpg is macOS metadata.
        there = file.is_file() or (file.is_symlink() and not file.exists())
        if not there or file.name.startswith("."):
            continue
        known = file.suffix.lower() in _SUFFIXES
        if known or (not file.suffix and reader.is_video(file) is not None):
            wanted.append(file)
        else:
            others[file.suffix.lower() or "without a suffix"] += 1
    return wanted, others


def _counted(others: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))


def _is_video(source: str, name: pathlib.PurePath) -> bool:
    found = None if source == STDIN else reader.is_video(source)
    return name.suffix.lower() in reader.SUFFIXES if found is None else found


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
        Item(source, name, _is_video(source, below))
        for (source, below), name in zip(found, names, strict=True)
    ]
