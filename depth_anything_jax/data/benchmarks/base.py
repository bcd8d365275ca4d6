"""What the readers of evaluation sets share: cards, items, counts, lists, records, errors.

A reader finds its images when it is made and reads one when it is asked for one. Its record is a
dict:
  key      str, unique: the image's path relative to the set's folder
  image    uint8 (h, w, 3) RGB
  depth    float32 (H, W) metres along the optical axis, 0 where there is no measurement
  valid    bool (H, W): measured and allowed by the set's own masks; no caps and no crops, which
           belong to a protocol
  sky      bool (H, W): sky where the set tells it, all False elsewhere
  dataset, domain ("indoor", "outdoor" or "" where it is not told), scene
  K        float64 (3, 3), where the set gives intrinsics, in its own convention (the centre of the
           first pixel is 0 in some and 0.5 in others)
Sets of point pairs have instead of depth, valid and sky:
  points   int (n, 2, 2): [pair, point, (row, column)] in the image
  closer   int (n,): which of the two points is closer, 0 or 1
  category str
Stereo sets have `disparity` instead of `depth`.
"""

from __future__ import annotations

import abc
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, UInt8

from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.sources.base import SourceError, maps_of, measured
from depth_anything_jax.data.sources.view import check_same_view

Record = dict[str, Any]
PathLike = str | os.PathLike[str]


class BenchmarkError(SourceError):
    """An evaluation set is not on disk as its reader expects it, or not completely."""


@dataclasses.dataclass(frozen=True)
class Card:
    """A set's description: what to know before numbers on it are reported.

    Attributes:
      title: the set's name in full.
      split: which part is read.
      images: how many images that is.
      units: what the files hold, and what is invalid.
      layout: the files that are looked for.
      where: where to get it, and the lists that are not part of it.
      licence, size, citation: of the set.
      traps: differences that made published numbers disagree.
      unverified: statements that were not checked against the data or its documentation.
    """

    title: str
    split: str
    images: str
    units: str
    layout: str
    where: str
    licence: str
    size: str
    citation: str
    traps: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Item:
    """One image: its key and its files, relative to the set's folder or absolute."""

    key: str
    image: str
    label: str = ""
    scene: str = ""
    domain: str = ""
    extra: tuple[Any, ...] = ()


def natural(text: str) -> list[tuple[int, int | str]]:
    """A sort key that puts frame 9 before frame 10."""
    return [(0, int(t)) if t.isdigit() else (1, t) for t in re.split(r"(\d+)", text) if t]


def existing_folder(name: str, folder: PathLike) -> pathlib.Path:
    """The folder as a path; an error where there is none."""
    path = pathlib.Path(folder).expanduser()
    if not path.is_dir():
        raise BenchmarkError(f"{name}: no folder {path}")
    return path


def contents(folder: PathLike) -> str:
    """What a folder holds, in a few words."""
    path = pathlib.Path(folder)
    if not path.is_dir():
        return "no such folder"
    names = sorted(p.name + "/" * p.is_dir() for p in path.iterdir())
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more if names else "nothing"


def wrong_layout(name: str, folder: PathLike, looked_for: str) -> BenchmarkError:
    """The error for a folder without what a set's folder has."""
    return BenchmarkError(
        f"{name}: looked for {looked_for} below {folder} and found none; that folder holds "
        f"{contents(folder)}. docs/benchmarks.md shows the layout"
    )


def read_list(name: str, path: PathLike | None, what: str) -> list[list[str]]:
    """The lines of a list file, each split at white space; no empty ones, no comments.

    Args:
      name: the reader's, for errors.
      path: the file; None is an error that says what is needed.
      what: what the list is and where it comes from, for that error.
    """
    if path is None:
        raise BenchmarkError(f"{name}: needs list_file: {what}")
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise BenchmarkError(f"{name}: no list at {path}; it should be {what}")
    lines = [line.split() for line in path.read_text().splitlines()]
    lines = [words for words in lines if words and not words[0].startswith("#")]
    if not lines:
        raise BenchmarkError(f"{name}: the list {path} is empty; it should be {what}")
    return lines


def choose(name: str, option: str, value: str, allowed: Iterable[str]) -> str:
    """`value`, or an error where it is none of those allowed."""
    if value not in allowed:
        raise BenchmarkError(f"{name}: {option} must be one of {', '.join(allowed)}, got {value!r}")
    return value


def depth_fields(
    values: Float[np.ndarray, "h w"],
    *,
    valid: Bool[np.ndarray, "h w"] | None = None,
    sky: Bool[np.ndarray, "h w"] | None = None,
) -> Record:
    """`depth`, `valid` and `sky` of a record; the depths themselves stay as they are."""
    sky = np.zeros(values.shape, np.bool_) if sky is None else sky
    counts = measured(values, "depth") & ~sky
    if valid is not None:
        counts &= valid
    return {"depth": np.where(counts, values, np.float32(0)), "valid": counts, "sky": sky}


class Reader(abc.ABC):
    """A sequence of records over files on disk; spawned workers can receive it.

    Subclasses set `name`, `card` and, where all images share it, `domain`; their `__init__` finds
    the items and ends with `_settle`; `_label` reads one.
    """

    name: str = ""
    domain: ClassVar[str] = ""
    card: ClassVar[Card]

    def __init__(self, folder: PathLike):
        self.root = str(existing_folder(self.name, folder))
        self.dataset = self.name
        self.items: list[Item] = []
        self.expected: int | None = None
        self.partial = False

    def __len__(self) -> int:
        return len(self.items)

    def key(self, index: int) -> str:
        """The image's path relative to the set's folder."""
        return self.items[index].key

    def sequence(self, index: int) -> str:
        """The scene or sequence of an image, without reading it."""
        return self.items[index].scene

    def __getitem__(self, index: int) -> Record:
        item = self.items[index]
        record: Record = {
            "key": item.key,
            "image": self._image(item),
            "dataset": self.dataset,
            "domain": item.domain or self.domain,
            "scene": item.scene,
        }
        record |= self._label(item, record["image"])
        # Some sets' cameras differ a little: ScanNet's colour is 968x1296, its depth 480x640.
        check_same_view(item.key, record["image"], maps_of(record), tolerance=0.05, fields=())
        return record

    def _image(self, item: Item) -> UInt8[np.ndarray, "h w 3"]:
        return formats.read_image(self._path(item.image))

    @abc.abstractmethod
    def _label(self, item: Item, image: np.ndarray) -> Record:
        """What a record has beside its image."""

    def _path(self, relative: str) -> str:
        return os.path.join(self.root, relative)

    def _glob(self, pattern: str, folder: PathLike | None = None) -> list[str]:
        """Paths below the root that match, with "/" between folders; no hidden files."""
        top = pathlib.Path(self.root if folder is None else folder)
        found = (p.relative_to(top).as_posix() for p in top.glob(pattern) if p.is_file())
        return sorted((p for p in found if not p.rpartition("/")[2].startswith(".")), key=natural)

    def _settle(
        self,
        items: Sequence[Item],
        *,
        looked_for: str,
        expected: int | None = None,
        partial: bool = False,
        files: bool = True,
    ) -> None:
        """Takes the items found, in natural order of their keys.

        Args:
          items: what the reader found, or what its list names.
          looked_for: the files, for the error where there are none.
          expected: how many images the split has.
          partial: accept fewer, and leave out those that lack a file.
          files: whether `image` and `label` are files of their own, to be checked.

        Raises:
          BenchmarkError: no item, missing files, or a count that is not the split's.
        """
        if not items:
            raise wrong_layout(self.name, self.root, looked_for)
        items = sorted(items, key=lambda item: natural(item.key))
        twice = [a.key for a, b in zip(items, items[1:], strict=False) if a.key == b.key]
        if twice:
            raise BenchmarkError(f"{self.name}: named twice: {', '.join(twice[:5])}")
        if files:
            items = self._with_files(items, partial)
        count = len(items)
        if expected is not None and count != expected and not (partial and count < expected):
            more = count > expected
            raise BenchmarkError(
                f"{self.name}: {count} images below {self.root} where the split has {expected}: "
                + (
                    "something else lies among them, or the list is another one"
                    if more
                    else "the copy is incomplete. Complete it, or pass partial=True (--dataset "
                    f"'{self.name}?partial=True'); scores on part of a set are not comparable with "
                    "others'"
                )
            )
        self.partial = self.partial or (expected is not None and count < expected)
        self.expected = expected
        self.items = items

    def _with_files(self, items: list[Item], partial: bool) -> list[Item]:
        complete, missing = [], []
        for item in items:
            absent = [
                p for p in (item.image, item.label) if p and not os.path.exists(self._path(p))
            ]
            missing += absent
            if not absent:
                complete.append(item)
        if missing and not (partial and complete):
            raise BenchmarkError(
                f"{self.name}: {len(items) - len(complete)} of {len(items)} images lack a file "
                f"below {self.root}: {', '.join(missing[:5])}{' …' * (len(missing) > 5)}. Unpack "
                f"what is missing, or pass partial=True (--dataset '{self.name}?partial=True'; and "
                "do not compare the scores with others')"
            )
        self.partial = self.partial or bool(missing)
        return complete
