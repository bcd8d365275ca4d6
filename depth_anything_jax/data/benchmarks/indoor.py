"""Indoor evaluation sets from depth cameras and scanners: ScanNet, iBims-1, SUN RGB-D, TUM."""

from __future__ import annotations

import os
import pathlib
import re

import numpy as np

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
    read_list,
    wrong_layout,
)
from depth_anything_jax.data.file_formats import formats


def _intrinsics(path: str, count: int) -> np.ndarray | None:
    """Nine numbers of a 3x3 matrix, sixteen of a 4x4 or four (fx, fy, cx, cy); None if absent."""
    if not os.path.exists(path):
        return None
    text = pathlib.Path(path).read_text().replace(",", " ").split()
    try:
        values = np.array([float(v) for v in text])
    except ValueError as error:
        raise formats.FormatError(f"{path}: intrinsics are numbers ({error})") from error
    if values.size != count:
        raise formats.FormatError(f"{path}: {count} numbers are intrinsics, this has {values.size}")
    if count == 4:
        return np.array([[values[0], 0, values[2]], [0, values[1], values[3]], [0, 0, 1]])
    side = {9: 3, 16: 4}[count]
    return values.reshape(side, side)[:3, :3]


class ScanNet(Reader):
    """ScanNet frames as its own tool exports them: all of a folder, or those of a list."""

    name = "scannet"
    domain = "indoor"
    card = Card(
        title="ScanNet",
        split="the images of list_file; all that are there without one",
        images="800 with Marigold's list",
        units="millimetres, 16-bit PNG, 0 is invalid; 480x640 beside colour of 968x1296",
        layout="sceneNNNN_NN/color/N.jpg, sceneNNNN_NN/depth/N.png, "
        "sceneNNNN_NN/intrinsic/intrinsic_depth.txt (if there), as the exporter of ScanNet's "
        "SensReader writes them",
        where="http://www.scan-net.org (terms to be signed); Marigold's data_split/scannet has the "
        "list of 800",
        licence="ScanNet's terms of use, not commercial",
        size="1.2 TB of .sens files",
        citation="Dai et al.: ScanNet: richly-annotated 3D reconstructions of indoor scenes, "
        "CVPR 2017",
        traps=(
            "Every paper takes other frames: Marigold 800, sequences of 90 or 500 frames (cropped "
            "by 8 rows and 11 columns) for video. Without the list no number is comparable.",
            "K belongs to the depth map, not to the larger colour image.",
        ),
        unverified=("Marigold's own copy is packed otherwise: convert its list to this layout",),
    )

    def __init__(
        self, folder: PathLike, *, list_file: PathLike | None = None, partial: bool = False
    ):
        super().__init__(folder)
        images, expected = self._glob("scene*/color/*.jpg"), None
        if list_file is not None:
            what = "paths like scene0568_00/color/100.jpg"
            images = []
            for words in read_list(self.name, list_file, what):
                match = re.search(r"(scene\d{4}_\d\d)/color/(\d+)\.jpg", words[0])
                if match is None:
                    raise BenchmarkError(f"{self.name}: {list_file} has {words[0]!r}, not {what}")
                images.append(match[0])
            expected = len(images)
        items = [
            Item(i, i, i.replace("/color/", "/depth/")[: -len("jpg")] + "png", i.split("/")[0])
            for i in images
        ]
        looked_for = "sceneNNNN_NN/color/N.jpg"
        self._settle(items, looked_for=looked_for, expected=expected, partial=partial)

    def _label(self, item: Item, image: np.ndarray) -> Record:
        fields = depth_fields(
            formats.read_label(self._path(item.label), formats.LabelFormat("nyu"))
        )
        K = _intrinsics(self._path(f"{item.scene}/intrinsic/intrinsic_depth.txt"), 16)
        return fields if K is None else fields | {"K": K}


class IBims(Reader):
    """iBims-1: depth by a laser scanner, masks for invalid and transparent pixels."""

    name = "ibims"
    domain = "indoor"
    card = Card(
        title="iBims-1",
        split="all",
        images="100",
        units="16-bit PNG, value · 50 / 65535 metres, 0 is invalid; invalid too where mask_invalid "
        "or mask_transp is 0",
        layout="ibims1_core_raw/{rgb,depth,mask_invalid,mask_transp}/NAME.png, calib/NAME.txt (fx, "
        "fy, cx, cy; if there)",
        where="the iBims-1 page of TU Munich (ibims1_core_raw.zip)",
        licence="stated in the download; academic use",
        size="under 1 GB",
        citation="Koch, Liebel, Fraundorfer, Körner: Evaluation of CNN-based single-image depth "
        "estimation methods, ECCV workshops 2018",
        traps=(
            "Scenes reach 50 m; ZoeDepth's protocol stops at 10 m, UniDepth's at 25 m.",
            "ZoeDepth applies NYU's window [45:471, 41:601] here.",
        ),
        unverified=("licence", "size"),
    )

    def __init__(self, folder: PathLike, *, partial: bool = False):
        super().__init__(folder)
        top = "ibims1_core_raw/" if os.path.isdir(self._path("ibims1_core_raw")) else ""
        images = self._glob(f"{top}rgb/*.png")
        items = [Item(i, i, i.replace("rgb/", "depth/"), _stem(i)) for i in images]
        looked_for = "ibims1_core_raw/rgb/NAME.png"
        self._settle(items, looked_for=looked_for, expected=100, partial=partial)
        folders = ("mask_invalid", "mask_transp")
        masks = [i.label.replace("depth/", f"{f}/") for i in self.items for f in folders]
        if missing := [m for m in masks if not os.path.exists(self._path(m))]:
            raise BenchmarkError(
                f"{self.name}: {len(missing)} masks are missing below {self.root}: "
                f"{', '.join(missing[:3])}. Without them glass and gaps would be scored"
            )

    def _label(self, item: Item, image: np.ndarray) -> Record:
        path = self._path(item.label)
        raw = formats.decode_raw(formats.read_bytes(path), path, bits=16)
        valid = np.ones(raw.shape, np.bool_)
        for folder in ("mask_invalid", "mask_transp"):
            mask = self._path(item.label.replace("depth/", f"{folder}/"))
            values = formats.read_mask(mask)
            if values.shape != raw.shape:
                raise formats.FormatError(f"{mask}: {values.shape}, its depth {raw.shape}")
            valid &= values
        fields = depth_fields((raw.astype(np.float64) * 50 / 65535).astype(np.float32), valid=valid)
        calibration = item.label.replace("depth/", "calib/").removesuffix("png") + "txt"
        K = _intrinsics(self._path(calibration), 4)
        return fields if K is None else fields | {"K": K}


class SUNRGBD(Reader):
    """SUN RGB-D, its test split: the original tree, or the flat copy that V1 reads."""

    name = "sunrgbd"
    domain = "indoor"
    card = Card(
        title="SUN RGB-D",
        split="the official test split",
        images="5,050",
        units="original: 16-bit PNG, millimetres rotated left by three bits, 0 is invalid; flat "
        "copy: 16-bit PNG, metres · 10,000, not rotated",
        layout="SUNRGBD/SENSOR/…/NAME/{image/*.jpg,depth/*.png,depth_bfx/*.png,intrinsics.txt} and "
        "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat; or rgb/img-NNNNNN.jpg and depth/N.png",
        where="https://rgbd.cs.princeton.edu (SUNRGBD.zip and SUNRGBDtoolbox.zip)",
        licence="none stated; for research",
        size="6.9 GB",
        citation="Song, Lichtenberg, Xiao: SUN RGB-D: a RGB-D scene understanding benchmark suite, "
        "CVPR 2015",
        traps=(
            "depth is what the sensor measured, depth_bfx is filled; depth=raw is the default.",
            "V1's row (AbsRel .500, ZoeDepth .520) cannot be matched to ZoeDepth's paper, whose "
            "loader divides by 1,000; V1's divides by 10,000 and reads another copy (V1#61, "
            "ZoeDepth#16, #19).",
            "Depths above 8 m are dropped by the protocols; the toolbox sets them to 8 m.",
        ),
        unverified=("the count", "licence", "size"),
    )

    def __init__(self, folder: PathLike, *, depth: str = "raw", partial: bool = False):
        super().__init__(folder)
        self.depth = choose(self.name, "depth", depth, ("raw", "filled"))
        flat = self._glob("rgb/img-*.jpg")
        self.flat = bool(flat)
        if self.flat:
            items = [Item(i, i, f"depth/{int(_stem(i)[len('img-') :])}.png") for i in flat]
        else:
            items = self._original(partial)
        looked_for = "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat, or rgb/img-NNNNNN.jpg"
        self._settle(items, looked_for=looked_for, expected=5050, partial=partial)

    def _original(self, partial: bool) -> list[Item]:
        split = self._path("SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat")
        if not os.path.exists(split):
            looked_for = "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat, or rgb/img-NNNNNN.jpg"
            raise wrong_layout(self.name, self.root, looked_for)
        items, missing = [], []
        for cell in np.ravel(files.read_mat(split, "alltest")):
            path = str(np.ravel(cell)[0])
            scene = "SUNRGBD/" + path.rpartition("SUNRGBD/")[2].strip("/")
            images = self._glob(f"{scene}/image/*.jpg")
            labels = self._glob(f"{scene}/{'depth' if self.depth == 'raw' else 'depth_bfx'}/*.png")
            if len(images) == len(labels) == 1:
                items.append(Item(images[0], images[0], labels[0], scene))
            else:
                missing.append(f"{scene} ({len(images)} images, {len(labels)} depth maps)")
        if missing and not (partial and items):
            raise BenchmarkError(
                f"{self.name}: {len(missing)} scenes of the test split lack their one image or "
                f"depth map: {', '.join(missing[:3])}. Unpack SUNRGBD.zip beside the toolbox, or "
                "pass partial=True"
            )
        return items

    def _label(self, item: Item, image: np.ndarray) -> Record:
        form = formats.LabelFormat("png16", 10000) if self.flat else None
        form = form or formats.LabelFormat("sunrgbd_png16")
        fields = depth_fields(formats.read_label(self._path(item.label), form))
        K = None if self.flat else _intrinsics(self._path(f"{item.scene}/intrinsics.txt"), 9)
        return fields if K is None else fields | {"K": K}


class TUM(Reader):
    """TUM RGB-D sequences; colour and depth are joined by their time stamps."""

    name = "tum"
    domain = "indoor"
    apart = 0.02  # seconds, as the benchmark's own associate.py allows by default
    card = Card(
        title="TUM RGB-D",
        split="all sequences that are there",
        images="depends on the sequences",
        units="metres · 5000, 16-bit PNG, 0 is invalid",
        layout="rgbd_dataset_freiburgN_NAME/{rgb.txt,depth.txt,rgb/,depth/}",
        where="https://cvg.cit.tum.de/data/datasets/rgbd-dataset",
        licence="CC BY 4.0",
        size="0.3 to 2 GB a sequence",
        citation="Sturm, Engelhard, Endres, Burgard, Cremers: A benchmark for the evaluation of "
        "RGB-D SLAM systems, IROS 2012",
        traps=(
            "MiDaS uses 1,815 images with people in them; which ones is not published with it, so "
            "its numbers can be compared only by whoever has that list.",
            "Each colour image takes the nearest depth in time, at most 0.02 s apart; each depth "
            "serves once. Colour images without one are left out.",
        ),
        unverified=("MiDaS' selection",),
    )

    def __init__(self, folder: PathLike):
        super().__init__(folder)
        looked_for = "rgbd_dataset_*/rgb.txt and depth.txt"
        sequences = [p.removesuffix("rgb.txt") for p in self._glob("*/rgb.txt")]
        if not sequences and os.path.exists(self._path("rgb.txt")):
            sequences = [""]
        items = []
        for top in sequences:
            colour = self._stamps(top + "rgb.txt")
            depth = self._stamps(top + "depth.txt")
            for image, label in associate(list(colour), list(depth), self.apart):
                name = top + colour[image]
                items.append(Item(name, name, top + depth[label], top.strip("/")))
        self._settle(items, looked_for=looked_for)

    def _stamps(self, path: str) -> dict[float, str]:
        lines = read_list(self.name, self._path(path), "lines of 'timestamp file'")
        return {float(words[0]): words[1] for words in lines}

    def _label(self, item: Item, image: np.ndarray) -> Record:
        return depth_fields(formats.read_label(self._path(item.label), formats.LabelFormat("tum")))


def associate(a: list[float], b: list[float], apart: float) -> list[tuple[float, float]]:
    """Pairs of times at most `apart` seconds apart, nearest pairs first; each time serves once."""
    times = np.sort(np.asarray(b))
    candidates = []
    for time in a:
        low, high = np.searchsorted(times, [time - apart, time + apart], side="left")
        candidates += [(abs(time - t), time, float(t)) for t in times[low : high + 1]]
    used_a: set[float] = set()
    used_b: set[float] = set()
    pairs = []
    for distance, first, second in sorted(candidates):
        if distance <= apart and first not in used_a and second not in used_b:
            used_a.add(first)
            used_b.add(second)
            pairs.append((first, second))
    return sorted(pairs)


def _stem(path: str) -> str:
    return os.path.splitext(path.rpartition("/")[2])[0]
