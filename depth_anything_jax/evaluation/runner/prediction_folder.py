"""Finds the prediction file of each image in a folder, written by any tool or by our programs.

    files = find("predictions:depth", ["a/1.jpg"], kind="metric")
    files.paths["a/1.jpg"]  # depth/a/1.npy, or of `predict` depth/a/1.depth.npz

A file has the path and stem of its image. The predict program puts .depth before the suffix, keeps
the image's own suffix where two images differ in nothing else (a.jpg and a.png give a_jpg and
a_png), and may write one map in several formats.
"""

from __future__ import annotations

import collections
import json
import pathlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from depth_anything_jax.evaluation.protocols.protocol import KINDS
from depth_anything_jax.evaluation.runner import prediction_files

MAP, PICTURE = ".depth", ".color"  # before the suffix: maps of `predict`, and its pictures
_NO_MAPS = (PICTURE, ".side-by-side")
SETTINGS = "predict.json"  # which `predict` leaves in its output folder
# Of several formats of one map: first those with metadata, then floats, then 16 bits.
PREFERRED = (".npz", ".exr", ".npy", ".pfm", ".png")


class Files(NamedTuple):
    """Prediction files of images.

    Attributes:
      root: the folder.
      paths: {key: file}, of images that have one.
      kind: of the predictions, one of KINDS.
      inverted: whether grey pictures among them are dark where the scene is near.
    """

    root: pathlib.Path
    paths: dict[str, pathlib.Path]
    kind: str
    inverted: bool


def stems(keys: Iterable[str]) -> dict[str, str]:
    """Names each image's files, without suffix: {key: stem}, as the predict program does."""
    plain = {key: pathlib.PurePosixPath(key).with_suffix("") for key in keys}
    count = collections.Counter(str(stem).lower() for stem in plain.values())
    return {
        key: str(stem if count[str(stem).lower()] == 1 else _with_suffix(key))
        for key, stem in plain.items()
    }


def _with_suffix(key: str) -> str:
    path = pathlib.PurePosixPath(key)
    return str(path.with_name(path.name.replace(".", "_")))


def find(
    source: str,
    keys: Sequence[str],
    *,
    kind: str | None = None,
    known: Sequence[str] = (),
    allow_missing: bool = False,
) -> Files:
    """Finds the files of images in a folder.

    Args:
      source: "predictions:FOLDER".
      keys: the images; each must have a file.
      kind: of the predictions; None: as the files say, which those of other tools do not.
      known: keys of other images whose files may be in the folder.
      allow_missing: whether images may lack files, though not all of them.

    Raises:
      ValueError: no kind; an image has several files, or several images one; files are missing or
        belong to no image (all listed). In a folder of `predict`, which may have been given more
        than the set's images, the last is a warning if no file is missing.
      FileNotFoundError: there is no such folder.
    """
    root = pathlib.Path(source.partition(":")[2]).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{source}: no folder {root}")
    there: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in prediction_files.SUFFIXES:
            there[path.relative_to(root).with_suffix("").as_posix()].append(path)
    everyone = list(dict.fromkeys((*keys, *known)))
    owned = _owned(source, there, everyone)
    chosen = {key: _best(source, paths) for key, paths in owned.items()}
    missing = [key for key in keys if key not in owned]
    theirs = {path for paths in owned.values() for path in paths}
    pictures = {stem + end for key in everyone for stem in _names(key) for end in _NO_MAPS}
    extra = [
        str(path)
        for stem, paths in there.items()
        for path in paths
        if path not in theirs and stem not in pictures
    ]
    ours = (root / SETTINGS).exists()
    _complain(source, keys, [] if allow_missing and owned else missing, extra, ours=ours)
    if kind is None and chosen:
        kind = prediction_files.kind_of(next(iter(chosen.values())))
    if kind is None:
        raise ValueError(f"{source}: files do not state their kind; give kind: {', '.join(KINDS)}")
    return Files(root, chosen, kind, ours and _inverted(root / SETTINGS))


def _inverted(settings: pathlib.Path) -> bool:
    """Whether `predict --invert` wrote the folder of these settings."""
    try:
        return bool(json.loads(settings.read_bytes())["invert"])
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{settings}: not the settings of predict ({error!r})") from error


def _names(key: str) -> tuple[str, str]:
    """The stems that an image's files may have: without its suffix, and with it."""
    return str(pathlib.PurePosixPath(key).with_suffix("")), _with_suffix(key)


def _owned(
    source: str, there: Mapping[str, list[pathlib.Path]], keys: Sequence[str]
) -> dict[str, list[pathlib.Path]]:
    """The files of each image that has some: maps, or a grey picture where there is no map."""
    shared, plain_stems = stems(keys), {_names(key)[0] for key in keys}
    owned: dict[str, list[pathlib.Path]] = {}
    users: dict[str, str] = {}
    for key in keys:
        plain, longer = _names(key)
        for name in (longer,) if shared[key] == longer else (plain, longer):
            maps = list(there.get(name, ()))
            if name + MAP not in plain_stems:  # else it is the map of an image of that name
                maps += there.get(name + MAP, ())
            owned[key] = maps or list(there.get(name + PICTURE, ()))
            if owned[key]:
                break
        else:
            del owned[key]
            other = users.setdefault(plain, key)
            if other != key and (plain in there or plain + MAP in there):
                raise ValueError(
                    f"{source}: the images {other} and {key} would share a file; name theirs "
                    f"{_names(other)[1]} and {longer}, or score them separately"
                )
    return owned


def _complain(
    source: str, keys: Sequence[str], missing: list[str], extra: list[str], *, ours: bool
) -> None:
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(keys)} images have no file: {_listed(missing)}")
    if extra:
        problems.append(f"{len(extra)} files belong to no image: {_listed(extra)}")
    text = f"{source}: {'; '.join(problems)}"
    if ours and extra and not missing:
        warnings.warn(text, stacklevel=2)
    elif problems:
        raise ValueError(
            f"{text}. A file has its image's path and stem ({', '.join(prediction_files.SUFFIXES)})"
        )


def _best(source: str, paths: Sequence[pathlib.Path]) -> pathlib.Path:
    """The most exact of an image's files; of several only where `predict` wrote them."""
    names = {path.name.removesuffix(path.suffix) for path in paths}
    if len(paths) > 1 and not (len(names) == 1 and names.pop().endswith(MAP)):
        raise ValueError(
            f"{source}: {paths[1]} and {paths[0]} belong to the same image; remove one"
        )
    return min(paths, key=lambda path: PREFERRED.index(path.suffix.lower()))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
