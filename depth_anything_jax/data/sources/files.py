"""Sources of image and label files: folders of images, RGB-D pairs."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.file_formats.orientation import exif_orientation
from depth_anything_jax.data.sources import manifest, pairing
from depth_anything_jax.data.sources.base import (
    Record,
    Source,
    SourceError,
    label_fields,
    list_images,
    maps_of,
)
from depth_anything_jax.data.sources.entry import Entry
from depth_anything_jax.data.sources.view import aligned, in_doubt


class FolderSource:
    """All images below a folder, sorted; the key is the path relative to it."""

    labelled = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        exclude: Sequence[str] = (),
        files: Sequence[str] | None = None,
        name: str | None = None,
    ):
        """Lists the images below a folder.

        `files` gives relative paths instead of a search; `exclude` drops those that match. Depth
        maps beside their photos are dropped, with a warning.
        """
        self.root = str(pathlib.Path(path).expanduser())
        self.name = name or pathlib.Path(self.root).name
        if files is None:
            files = pairing.without_labels(self.root, list_images(self.root, exclude))
        self.files = list(files)

    def __len__(self) -> int:
        return len(self.files)

    def key(self, index: int) -> str:
        """Returns the path relative to the folder."""
        return self.files[index]

    def __getitem__(self, index: int) -> Record:
        key = self.files[index]
        return {"key": key, **_image(os.path.join(self.root, key))}


def _image(path: str) -> Record:
    """Reads an image, and under "orientation" its EXIF orientation where it is not 1."""
    data = formats.read_bytes(path)
    fields: Record = {"image": formats.decode_image(data, path)}
    exif = exif_orientation(data)
    return fields if exif == 1 else {**fields, "orientation": exif}


class RGBDSource:
    """Pairs of image and label, one manifest entry each (see `manifest`)."""

    def __init__(
        self,
        entries: Sequence[Entry],
        root: str | os.PathLike[str],
        *,
        labelled: bool = True,
        name: str | None = None,
    ):
        """Takes the pairs as entries; `labelled=False` leaves the labels out.

        Raises:
          SourceError: labels are wanted, but some entries name none.
          FormatError: a label's unit is unknown.
        """
        without = [e.rgb for e in entries if e.depth is None] if labelled else []
        if without:
            raise SourceError(
                f"{name or root}: {len(without)} of {len(entries)} entries have no 'depth' (first: "
                f"{without[0]}); add it, or set labelled=False to use the images alone"
            )
        looked_at = set()
        for entry in entries if labelled else ():
            depth = entry.depth or ""
            same = id(entry.common), os.path.splitext(depth)[1]
            if same not in looked_at:
                formats.label_scale(depth, entry.label_format, entry.kind)
                looked_at.add(same)
        self.root = str(root)
        self.entries = list(entries)
        self.labelled = labelled
        self.name = name or pathlib.Path(self.root).name

    def __len__(self) -> int:
        return len(self.entries)

    def key(self, index: int) -> str:
        """Returns the image's path as in the manifest."""
        return self.entries[index].rgb

    def __getitem__(self, index: int) -> Record:
        entry = self.entries[index]
        record: Record = {
            "key": entry.rgb,
            **_image(self._path(entry.rgb)),
            "dataset": entry.dataset,
            "domain": entry.domain,
        }
        image, exif = record["image"], record.get("orientation", 1)
        doubt = entry.common.camera_in_doubt(exif)
        if entry.common.has_camera and not doubt:
            record["camera"] = entry.common.camera(image.shape[0], image.shape[1], exif)
        if self.labelled:
            record.pop("orientation", None)
            fields = self._label(entry)
            record |= fields | aligned(entry.rgb, image, maps_of(fields), exif, entry.view)
            if doubt:
                raise formats.FormatError(in_doubt(entry.rgb, exif))
        return record

    def _path(self, relative: str) -> str:
        return os.path.join(self.root, relative)

    def _label(self, entry: Entry) -> Record:
        assert entry.depth is not None  # checked when the source was made
        path = self._path(entry.depth)
        values, sky, invalid = formats.decode_with_masks(
            formats.read_bytes(path), path, entry.label_format, entry.kind
        )
        masks = {"sky": sky}
        for field in ("valid", "sky"):
            if path := getattr(entry, field):
                masks[field] = mask = formats.read_mask(self._path(path))
                if mask.shape != values.shape:
                    raise formats.FormatError(
                        f"{path}: {field} mask is {mask.shape}, its label {entry.depth} "
                        f"{values.shape}"
                    )
        masks["sky"] |= sky
        if "valid" in masks:
            masks["valid"] &= ~invalid
        return label_fields(values, entry.kind, shift_known=entry.common.shift_known, **masks)


def rgbd(
    path: str,
    *,
    root: str | None = None,
    depth_root: str | None = None,
    datasets: Sequence[str] | None = None,
    domains: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    scenes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    labelled: bool = True,
    name: str | None = None,
    outside: bool = False,
    default_dataset: str | None = None,
    default_domain: str | None = None,
    default_split: str | None = None,
    **defaults: Any,
) -> Source:
    """Makes a source of the pairs of a manifest or a list file.

    Args:
      path: of the manifest, or of its folder.
      root: folder of the images; None: the manifest's.
      depth_root: folder of the labels, where it is another.
      datasets, domains, splits, scenes: entries with one of these values; None: all.
      exclude: patterns of image names to leave out.
      labelled, name: as for `RGBDSource`.
      outside: read paths that leave the folder, absolute or by ".."; else they are refused.
      default_dataset, default_domain, default_split: of entries that have none of their own.
      defaults: other fields of entries that lack them (`manifest.DEFAULT_FIELDS`).

    Raises:
      SourceError: no manifest, or no entry is left.
    """
    names = {"dataset": default_dataset, "domain": default_domain, "split": default_split}
    entries, folder = manifest.load(path, {**defaults, **names})
    entries = manifest.select(
        entries, path, datasets=datasets, domains=domains, splits=splits, scenes=scenes,
        exclude=exclude,
    )  # fmt: skip
    moved = depth_root is not None or (root is not None and str(path).endswith(".txt"))
    if not outside:
        manifest.check_inside(entries, path, root or folder, rooted=moved)
    if moved:
        entries = [manifest.moved(e, depth_root) for e in entries]
    entries = pairing.distinct(entries, root or folder, path)
    return RGBDSource(entries, root or folder, labelled=labelled, name=name)


def pairs(
    images: str,
    depths: str,
    *,
    exclude: Sequence[str] = (),
    suffix: str | None = None,
    labelled: bool = True,
    name: str | None = None,
    **defaults: Any,
) -> Source:
    """Makes a source of one folder's images and the labels of the same names in another.

    Args:
      images, depths: folders, which may be one.
      suffix: what follows the image's stem in the label's name (see `pairing.pair_folders`).
      exclude, labelled, name, defaults: as for `rgbd`.

    Raises:
      SourceError: a folder is missing, or images have no label.
    """
    files = list_images(images, exclude)
    entries, root = pairing.pair_folders(images, depths, files, defaults, suffix)
    return RGBDSource(entries, root, labelled=labelled, name=name or pathlib.Path(images).name)
