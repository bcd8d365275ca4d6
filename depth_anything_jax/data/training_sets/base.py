"""What the readers of training sets share: the search for images, what is left out, records.

A reader says by a regular expression how the path of an image ends; whatever lies before that
(doubled folders, the folders of an archive) does not matter. Keys are paths relative to the set's
folder. A tar counts as a folder: sa_000000.tar/sa_1.jpg.
"""

from __future__ import annotations

import abc
import bisect
import collections
import fnmatch
import importlib.util
import os
import pathlib
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from depth_anything_jax.data.camera import Camera
from depth_anything_jax.data.file_formats import formats, tars
from depth_anything_jax.data.file_formats.orientation import exif_orientation
from depth_anything_jax.data.sources import view
from depth_anything_jax.data.sources.base import Record, SourceError, maps_of
from depth_anything_jax.data.training_sets.texts import Texts

PACKED = (".zip", ".tar", ".gz", ".tgz", ".z01", ".rar", ".7z")


class Others:
    """The files of a set that are no images: labels, masks, cameras."""

    def __init__(self, paths: Sequence[str]):
        self._paths = sorted(paths)

    def __contains__(self, path: str) -> bool:
        return path in self.starting(path)[:1]

    def starting(self, prefix: str) -> list[str]:
        """Lists the paths that begin so, of which `prefix` itself is the first."""
        start = bisect.bisect_left(self._paths, prefix)
        end = bisect.bisect_left(self._paths, prefix + "\U0010ffff", start)
        return self._paths[start:end]


class TrainingSet(abc.ABC):
    """A sequence of records over a training set's files; spawned workers can receive it.

    Attributes:
      set_name: in the table of sets, and of its records.
      domain: "indoor", "outdoor" or "", where the set has both.
      licence: as its authors state it; "unverified" says where no statement was seen.
      images: how the path of an image ends; named groups are there for `_left_out` and `_label_of`.
      archives: how the path of a tar that is read without unpacking ends; "": none.
      looked_for: the layouts in words, for errors.
      has_labels: False of sets of which only the images are read.
      encoding: how prepared data keep the label: "png16" (value / `scale`) or "float16".
      masks: those that are kept beside it, "sky" or "valid".
      needs: modules that the core does not bring.
      left_out: reason → number of images that were found and are not in the sequence.
    """

    set_name: ClassVar[str]
    domain: ClassVar[str] = ""
    licence: ClassVar[str]
    images: ClassVar[str]
    archives: ClassVar[str] = ""
    looked_for: ClassVar[str]
    has_labels: ClassVar[bool] = True
    encoding: ClassVar[str] = "float16"
    scale: ClassVar[float] = 1.0
    masks: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        exclude: Sequence[str] = (),
        labelled: bool = True,
        name: str | None = None,
    ):
        """Finds the images below a folder.

        Args:
          path: the folder that the set was unpacked into.
          exclude: patterns of keys that are left out.
          labelled: False reads the images alone.
          name: for messages; the set's own by default.

        Raises:
          SourceError: no such folder, or the set is not there in a layout that is known.
          ImportError: a module is missing that reads its files.
        """
        for module in self.needs:
            if importlib.util.find_spec(module) is None:
                raise ImportError(
                    f"{self.set_name} needs {module}: pip install 'depth_anything_jax[sets]'"
                )
        self.root = str(pathlib.Path(path).expanduser())
        self.name = name or self.set_name
        if not os.path.isdir(self.root):
            raise SourceError(f"{self.name}: no folder {self.root}; 'path' is where the set lies")
        self.labelled = labelled and self.has_labels
        self.left_out: collections.Counter[str] = collections.Counter()
        self._exclude = tuple(exclude)
        self._tars: list[str] = []
        self._search()

    def _search(self) -> None:
        """Finds the images and, where there are any, the label of each."""
        ends = re.compile(rf"(?:^|/){self.images}$")
        found: list[tuple[str, re.Match[str]]] = []
        keys, places, others, packed = Texts(), tars.Places(), [], 0
        for key, tar, start, size in self._files():
            match = ends.search(key)
            if match is None:
                packed += key.lower().endswith(PACKED)
                if self.labelled:
                    others.append(key)
            elif reason := self._reason(key, match):
                self.left_out[reason] += 1
            elif self.labelled:
                found.append((key, match))
            else:
                for one in self._expanded(key):
                    keys.append(one)
                    places.append(tar, start, size)
        labels, beside, missing = Texts(), Others(others), []
        for key, match in found:
            label = self._label_of(key, match, beside)
            if label is None:
                missing.append(key)
                continue
            keys.append(key)
            labels.append(label)
        if missing:
            self.left_out["no label file"] += len(missing)
            warnings.warn(
                f"{self.name}: {len(missing)} of {len(found)} images have no label file and are "
                f"left out (first: {missing[0]})",
                stacklevel=4,
            )
        if not len(keys):
            raise SourceError(self._nothing(packed))
        if self._tars and places.plain:
            raise SourceError(
                f"{self.name}: {places.plain} images lie unpacked below {self.root} and "
                f"{len(keys) - places.plain} in tars ({self._tars[0]}, …): some would come twice. "
                "Name the folder of the one or of the other"
            )
        self._keys, self._labels = keys.frozen(), labels.frozen()
        self._places = places.frozen() if self._tars else None

    def _files(self) -> Iterator[tuple[str, int, int, int]]:
        """Yields (key, tar's number or -1, start, size) of all files, in the order of folders."""
        archive = re.compile(rf"(?:^|/){self.archives}$") if self.archives else None
        for path in _walk(self.root):
            if archive is None or not archive.search(path):
                yield path, -1, 0, 0
                continue
            self._tars.append(path)
            index = tars.index(os.path.join(self.root, path))
            if index.cut_off:
                self.left_out["behind the end of a tar that is cut off"] += index.cut_off
                warnings.warn(
                    f"{self.name}: {path} is cut off; its last files are left out: download it "
                    "again",
                    stacklevel=5,
                )
            for member, start, size in index.files():
                yield f"{path}/{member}", len(self._tars) - 1, start, size

    def _reason(self, key: str, match: re.Match[str]) -> str | None:
        pattern = next((p for p in self._exclude if fnmatch.fnmatchcase(key, p)), None)
        return f"exclude={pattern}" if pattern else self._left_out(key, match)

    def _nothing(self, packed: int) -> str:
        names = sorted(os.listdir(self.root))
        text = (
            f"{self.name}: looked for {self.looked_for} below {self.root} and found none; that "
            f"folder holds {', '.join(names[:8]) or 'nothing'}{' …' * (len(names) > 8)}"
        )
        if packed:
            text += f". {packed} archives lie there: unpack them first"
        if self.left_out:
            text += "; left out: " + ", ".join(f"{n} {why}" for why, n in self.left_out.items())
        return text + " (docs/data.md)"

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        """Returns the image's path relative to the set's folder."""
        return self._keys[index]

    def files(self, index: int) -> list[str]:
        """Lists the files that a record is read from; tars are not among them."""
        names = [self._keys[index]] if self._places is None else []
        return [self._path(p) for p in names + ([self._labels[index]] if self.labelled else [])]

    def image_bytes(self, index: int) -> bytes:
        """Reads the image as it is stored."""
        if self._places is None:
            return formats.read_bytes(self._path(self._keys[index]))
        tar, start, size = (int(v) for v in self._places[index])
        return tars.read(self._path(self._tars[tar]), start, size)

    def __getitem__(self, index: int) -> Record:
        key, data = self.key(index), self.image_bytes(index)
        image = formats.decode_image(data, key)
        record: Record = {"key": key, "image": image, "dataset": self.set_name}
        if domain := self._domain(key):
            record["domain"] = domain
        camera = self._camera(key, image.shape[0], image.shape[1])
        if camera is not None:
            record["camera"] = camera
        if self.labelled:
            record |= self._label(self._path(self._labels[index]), key, image)
            exif = exif_orientation(data)
            record |= view.aligned(key, image, maps_of(record), exif, view.View(), fields=())
        return record

    def _path(self, relative: str) -> str:
        return os.path.join(self.root, relative)

    def _left_out(self, key: str, match: re.Match[str]) -> str | None:
        """Why an image that was found is not read, in a few words; None where it is."""
        return None

    def _expanded(self, key: str) -> list[str]:
        """The keys of the records of one file: of a video, one for each frame that is read."""
        return [key]

    def _domain(self, key: str) -> str:
        return self.domain

    def _camera(self, key: str, height: int, width: int) -> Camera | None:
        """The camera of an image of this size; None where it is unknown."""
        return None

    def _label_of(self, key: str, match: re.Match[str], others: Others) -> str | None:
        """The path of an image's label; None where it has none."""
        raise NotImplementedError(f"{self.name} has no labels")

    def _label(self, path: str, key: str, image: np.ndarray) -> Record:
        """The fields of `sources.base.label_fields`, read from the label's file."""
        raise NotImplementedError(f"{self.name} has no labels")


def _walk(root: str) -> Iterator[str]:
    """Yields all files below a folder but hidden ones: relative paths, in a fixed order."""
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        prefix = os.path.relpath(folder, root)
        prefix = "" if prefix == "." else f"{prefix}/".replace(os.sep, "/")
        yield from (prefix + file for file in sorted(files) if not file.startswith("."))


def beside(path: str, folder: str, other: str) -> str:
    """Replaces the name of the folder that a file lies in, if it is `folder`."""
    head, found, name = path.rpartition(f"/{folder}/")
    return f"{head}/{other}/{name}" if found and "/" not in name else path
