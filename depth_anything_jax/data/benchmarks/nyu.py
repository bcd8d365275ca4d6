"""NYU Depth V2 in both of its forms: images and PNG, or the labelled MATLAB file."""

from __future__ import annotations

import os

import numpy as np
from jaxtyping import UInt8

from depth_anything_jax.data.benchmarks import files
from depth_anything_jax.data.benchmarks.base import (
    BenchmarkError,
    Card,
    Item,
    PathLike,
    Reader,
    Record,
    choose,
    depth_fields,
    wrong_layout,
)
from depth_anything_jax.data.file_formats import formats

# The colour camera, to which depth was projected: camera_params.m of the set's toolbox.
_K = np.array([[518.857901, 0, 325.582449], [0, 519.469611, 253.736166], [0, 0, 1]])
_MAT, _SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"


class NYU(Reader):
    """The 654 test images, with raw depth (holes) unless filled depth is asked for.

    A folder with `nyu_depth_v2_labeled.mat` and `splits.mat` is read as such; any other one as
    `official_splits/test`.
    """

    name = "nyu"
    domain = "indoor"
    card = Card(
        title="NYU Depth V2",
        split="the official test split",
        images="654",
        units="PNG: millimetres, 16 bits, 0 is a hole; MATLAB file: metres, float32, 0 is a hole",
        layout="official_splits/test/SCENE/rgb_NNNNN.jpg and sync_depth_NNNNN.png (BTS, ZoeDepth), "
        f"or {_MAT} and {_SPLITS}",
        where="https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html (labelled dataset and "
        "train/test split); the folder form is cut from it by the preparation script of BTS",
        licence="none stated; for research",
        size="2.8 GB",
        citation="Silberman, Hoiem, Kohli, Fergus: Indoor segmentation and support inference from "
        "RGBD images, ECCV 2012",
        traps=(
            "Filled depth instead of raw gives AbsRel .062 for .051 (V2-S) and .055 for .043 "
            "(V2-L). The MATLAB file's `depths` is filled, its `rawDepths` is not; this reader "
            "refuses PNG without a hole.",
            "The two forms differ: PNG rounds to millimetres, and its images are JPEG with a black "
            "border.",
            "The protocols' window [45:471, 41:601] is in pixels of 480x640.",
            "splits.mat counts from 1.",
        ),
        unverified=("size",),
    )

    def __init__(
        self,
        folder: PathLike,
        *,
        depth: str = "raw",
        form: str | None = None,
        partial: bool = False,
    ):
        """`form`: "mat" or "folder"; None takes what is there. `depth`: "raw" or "filled"."""
        super().__init__(folder)
        self.depth = choose(self.name, "depth", depth, ("raw", "filled"))
        if form is None:
            form = "mat" if os.path.exists(self._path(_MAT)) else "folder"
        self.form = choose(self.name, "form", form, ("mat", "folder"))
        if self.form == "mat":
            self._find_in_mat(partial)
        else:
            self._find_files(partial)

    def _find_files(self, partial: bool) -> None:
        for top in ("official_splits/test/", "test/", ""):
            if images := self._glob(f"{top}*/rgb_*.jpg") or self._glob(f"{top}*/rgb_*.png"):
                break
        items = []
        for image in images:
            folder, _, name = image.rpartition("/")
            label = f"{folder}/sync_depth_{os.path.splitext(name)[0].removeprefix('rgb_')}.png"
            items.append(Item(image, image, label, scene=folder.rpartition("/")[2]))
        looked_for = f"{_MAT}, or official_splits/test/SCENE/rgb_NNNNN.jpg"
        self._settle(items, looked_for=looked_for, expected=654, partial=partial)
        if self.depth == "raw" and self._label(self.items[0], np.empty(0))["valid"].all():
            raise BenchmarkError(
                f"{self.name}: {self.items[0].label} has no hole: these are filled depths, on "
                "which AbsRel is some 20 % higher. Get the raw ones, or pass depth='filled'"
            )

    def _find_in_mat(self, partial: bool) -> None:
        for name in (_MAT, _SPLITS):
            if not os.path.exists(self._path(name)):
                raise wrong_layout(self.name, self.root, name)
        test = np.ravel(files.read_mat(self._path(_SPLITS), "testNdxs")).astype(int)
        if test.min() < 1:
            raise BenchmarkError(f"{self.name}: {_SPLITS} counts from {test.min()}, MATLAB from 1")
        items = [Item(f"{_MAT}/{n:05d}", _MAT, extra=(int(n) - 1,)) for n in test]
        self._settle(items, looked_for=_SPLITS, expected=654, partial=partial)

    def _image(self, item: Item) -> UInt8[np.ndarray, "h w 3"]:
        if self.form == "folder":
            return super()._image(item)
        # MATLAB stores columns first, HDF5 says so by reversed axes: (3, w, h).
        values = files.read_hdf5(self._path(_MAT), "images", item.extra[0])
        return np.ascontiguousarray(values.transpose(2, 1, 0))

    def _label(self, item: Item, image: np.ndarray) -> Record:
        if self.form == "mat":
            array = "rawDepths" if self.depth == "raw" else "depths"
            values = files.read_hdf5(self._path(_MAT), array, item.extra[0])
            return depth_fields(np.ascontiguousarray(values.T, np.float32)) | {"K": _K.copy()}
        path = self._path(item.label)
        fields = depth_fields(formats.read_label(path, formats.LabelFormat("nyu")))
        return fields | {"K": _K.copy()}
