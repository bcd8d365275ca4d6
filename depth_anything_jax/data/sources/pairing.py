"""Pairs images with label files by their names, and finds labels that lie among images.

A label is called as its image, with another suffix or with one of ENDINGS after the stem. Photos
and their depth maps may lie in one folder: then a file that is the label of another is no image,
and no file is its own label.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.sources import manifest
from depth_anything_jax.data.sources.entry import Entry
from depth_anything_jax.data.sources.manifest_rows import ManifestError

ENDINGS = ("", "_depth", "_disp", "_gt")
_SHOWN = 5  # names in a message


def pair_folders(
    images: str | os.PathLike[str],
    depths: str | os.PathLike[str],
    files: Sequence[str],
    defaults: Mapping[str, Any] | None = None,
    suffix: str | None = None,
) -> tuple[list[Entry], str]:
    """Makes entries for a folder of images and a folder of labels with the same names.

    Args:
      images, depths: the two folders, which may be one or lie in each other.
      files: the images' paths below `images`; labels among them are dropped, with a warning.
      defaults: fields of every entry (fmt, scale, kind, …).
      suffix: what follows the image's stem in the label's name, such as "_depth", ".npy" or
        "_depth.png"; None: one of ENDINGS.

    Returns:
      Entries, and the folder that their paths start from (`images`).

    Raises:
      ManifestError: images without a label or with several; the first few are named.
    """
    images, depths = pathlib.Path(images).expanduser(), pathlib.Path(depths).expanduser()
    if not depths.is_dir():
        raise ManifestError(f"no folder {depths}; 'depths' must name the folder of labels")
    defaults = dict(defaults or {})
    image_root, label_root = images.resolve(), depths.resolve()
    own = {f: os.path.join(image_root, f) for f in files}
    if label_root != image_root and label_root.is_relative_to(image_root):
        # Everything in a folder of labels below the images is a label.
        own = {f: p for f, p in own.items() if not p.startswith(f"{label_root}{os.sep}")}
    by_stem = _labels_by_stem(label_root, image_root)
    labels: dict[str, str] = {}
    without = []
    for file, path in own.items():
        found = _labels_of(file, by_stem, defaults.get("fmt"), suffix)
        found = [label for label in found if label != path]  # an image is not its own label
        if len(found) > 1:
            names = " and ".join(os.path.relpath(label, label_root) for label in found)
            raise ManifestError(
                f"{names} below {depths} both fit the image {file}; say with suffix= what follows "
                "the image's name in the label's, such as suffix=_depth or suffix=.npy"
            )
        if found:
            labels[file] = found[0]
        else:
            without.append(file)
    used = {label: file for file, label in labels.items()}
    for file, label in labels.items():
        other = used.get(own[file])
        if other is not None and own[other] == label:
            kind = pathlib.Path(label).suffix
            raise ManifestError(
                f"{file} and {other} below {images} could each be the label of the other: keep "
                f"labels in a folder of their own, or say which is one: suffix={kind}"
            )
    named = _named_as_labels(own, (*ENDINGS, (suffix or "").partition(".")[0]))
    missing = [f for f in without if own[f] not in used and f not in named]
    if missing:
        same = " (images and depths are the same folder)" if image_root == label_root else ""
        raise ManifestError(
            f"{len(missing)} of {len(files)} images below {images} have no label of the same name "
            f"below {depths}{same} ({', '.join(formats.LABEL_SUFFIXES)}): {_first(missing)}"
        )
    kept = [f for f in labels if own[f] not in used]
    _warn_of_labels(images, sorted(set(files) - set(kept)), len(files))
    entries = [
        manifest.parse({**defaults, "rgb": f, "depth": labels[f]}, f"{images}/{f}") for f in kept
    ]
    return entries, str(images)


def _labels_by_stem(label_root: pathlib.Path, image_root: pathlib.Path) -> dict[str, list[str]]:
    """Finds label files: {path below the folder without its suffix: absolute paths}."""
    images_inside = image_root != label_root and image_root.is_relative_to(label_root)
    by_stem = defaultdict(list)
    for path in sorted(label_root.rglob("*")):
        if path.suffix.lower() not in formats.LABEL_SUFFIXES or path.name.startswith("."):
            continue
        if not (images_inside and path.is_relative_to(image_root)):
            by_stem[path.relative_to(label_root).with_suffix("").as_posix()].append(str(path))
    return by_stem


def _labels_of(
    file: str, by_stem: Mapping[str, Sequence[str]], fmt: str | None, suffix: str | None
) -> list[str]:
    """Lists the labels that fit an image's name; of several only those whose suffix fits `fmt`."""
    stem = str(pathlib.PurePosixPath(file).with_suffix(""))
    if suffix is None:
        found = [label for ending in ENDINGS for label in by_stem.get(stem + ending, ())]
    else:
        ending, dot, kind = suffix.partition(".")
        found = [
            label
            for label in by_stem.get(stem + ending, ())
            if label.lower().endswith(dot + kind.lower())
        ]
    if len(found) > 1 and fmt in formats.FORMATS:
        arrays = formats.FORMATS[fmt][0] if fmt in ("npy", "npz", "pfm") else None
        found = [
            label
            for label in found
            if (label.lower().endswith(f".{arrays}") if arrays else _is_picture(label))
        ]
    return found


def _is_picture(path: str) -> bool:
    return not path.lower().endswith((".npy", ".npz", ".pfm"))


def without_labels(root: str | os.PathLike[str], files: Sequence[str]) -> list[str]:
    """Drops depth maps that lie beside their photos from a folder's images, with a warning.

    A depth map has its photo's name and one of ENDINGS; or the same stem, where it is a picture of
    one channel of 16 or more bits and the photo is none.
    """
    labels = _named_as_labels(files, ENDINGS)
    by_stem = defaultdict(list)
    for file in files:
        by_stem[os.path.splitext(file)[0]].append(file)
    for same in by_stem.values():
        if len(same) > 1:
            deep = {file for file in same if _is_deep(os.path.join(root, file))}
            labels |= deep if len(deep) < len(same) else set()
    _warn_of_labels(root, sorted(labels), len(files))
    return [file for file in files if file not in labels] if labels else list(files)


def _named_as_labels(files: Iterable[str], endings: Iterable[str]) -> set[str]:
    """The files whose stem is that of another and an ending."""
    stems = {file: os.path.splitext(file)[0] for file in files}
    known = set(stems.values())
    endings = tuple(e for e in endings if e)
    return {
        file
        for file, stem in stems.items()
        if stem.endswith(endings)
        and any(stem.endswith(e) and stem.removesuffix(e) in known for e in endings)
    }


def _is_deep(path: str) -> bool:
    """Whether a picture has one channel of 16 or more bits, by its header."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.mode.startswith(("I", "F"))
    except Exception:  # a broken file is named when it is read
        return False


def distinct(
    entries: Sequence[Entry], root: str | os.PathLike[str], where: str | os.PathLike[str]
) -> list[Entry]:
    """Drops entries that a manifest repeats, with a warning; each would count twice.

    Args:
      entries: of one source.
      root: folder that their paths start from.
      where: the manifest, for messages.

    Raises:
      ManifestError: an image with two different entries, or a file that is image and label.
    """
    # Paths are compared by their hashes, which take little memory; equal hashes are looked at.
    inside = os.path.normpath(root) + os.sep
    images = _places((e.rgb for e in entries), inside)
    found, counts = np.unique(images, return_counts=True)
    twice = set(found[counts > 1].tolist())
    by_image: dict[str, Entry] = {}
    repeated: list[str] = []
    kept: list[Entry] = []
    for entry, number in zip(entries, images.tolist(), strict=True) if twice else ():
        if number in twice:
            known = by_image.setdefault(os.path.normpath(entry.rgb), entry)
            if known is not entry:
                _check_equal(known, entry, where)
                repeated.append(entry.rgb)
                continue
        kept.append(entry)
    kept = kept if twice else list(entries)
    labels = _places((e.depth for e in entries if e.depth), inside)
    for number in np.intersect1d(found, labels)[:1]:
        entry = entries[int(np.flatnonzero(images == number)[0])]
        other = [e for e in entries if e.depth][int(np.flatnonzero(labels == number)[0])]
        raise ManifestError(
            f"{where}: {entry.rgb} is an image of one entry and the label of "
            f"{'the same' if other is entry else other.rgb}; correct 'rgb' or 'depth'"
        )
    if repeated:
        logging.warning(
            "%s: %d of %d entries repeat an earlier one and are left out: %s",
            where, len(repeated), len(entries), _first(repeated),
        )  # fmt: skip
    return kept


def _places(paths: Iterable[str], inside: str) -> np.ndarray:
    """Hashes of paths; of those below the folder `inside`, as if they were relative to it."""
    plain = (os.path.normpath(p) if "//" in p or "./" in p else p for p in paths)
    return np.fromiter((hash(p.removeprefix(inside)) for p in plain), np.int64)


def _check_equal(known: Entry, entry: Entry, where: str | os.PathLike[str]) -> None:
    if dataclasses.replace(known, rgb=entry.rgb) == entry:
        return
    old, new = manifest.to_fields(known), manifest.to_fields(entry)
    names = [n for n in dict.fromkeys((*old, *new)) if n != "rgb" and old.get(n) != new.get(n)]
    raise ManifestError(
        f"{where}: two entries name the image {entry.rgb} and differ: "
        + ", ".join(f"{n} {old.get(n)!r} and {new.get(n)!r}" for n in names)
        + "; keep or select one of them"
    )


def _warn_of_labels(root: str | os.PathLike[str], labels: Sequence[str], total: int) -> None:
    if labels:
        logging.warning(
            "%s: %d of %d files are labels of other images and are left out: %s",
            root, len(labels), total, _first(labels),
        )  # fmt: skip


def _first(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
