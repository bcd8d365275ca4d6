"""Evaluation sets from laser scanners and lidar: ETH3D, DIODE, DDAD."""

from __future__ import annotations

import os
from typing import ClassVar

import cv2
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
    read_list,
)
from depth_anything_jax.data.file_formats import formats


class ETH3D(Reader):
    """ETH3D, the high-resolution training scenes; depth files carry no size."""

    name = "eth3d"
    size = (4032, 6048)  # of the distorted images, for which the depth maps are rendered
    indoor = ("delivery_area", "kicker", "office", "pipes", "relief", "relief_2", "terrains")
    card = Card(
        title="ETH3D, high-resolution multi-view",
        split="the 13 training scenes",
        images="454",
        units="metres along the axis, raw float32 without a header, 4032x6048; infinity is invalid",
        layout="SCENE/images/dslr_images/NAME.JPG and "
        "SCENE/ground_truth_depth/dslr_images/NAME.JPG (no JPEG: raw numbers)",
        where="https://www.eth3d.net/datasets (multi_view_training_dslr_jpg and the scenes' depth)",
        licence="CC BY-NC-SA 4.0",
        size="44 GB of depth, some 10 GB of images",
        citation="Schöps et al.: A multi-view stereo benchmark with high-resolution images and "
        "multi-camera videos, CVPR 2017",
        traps=(
            "The depth maps belong to the distorted images; with images=dslr_images_undistorted, "
            "whose sizes differ, label and picture do not meet exactly.",
            "Least squares over 24 million pixels in float32 loses digits: float64.",
            "Published scores differ by more than a factor of two: V2-L .131 in the paper, .089 at "
            "full size, .047 in MoGe's bundle; the scene meadow alone has some .30.",
        ),
        unverified=("which scenes are indoors", "size of the images"),
    )

    def __init__(self, folder: PathLike, *, images: str = "dslr_images", partial: bool = False):
        super().__init__(folder)
        choose(self.name, "images", images, ("dslr_images", "dslr_images_undistorted"))
        pattern = f"*/images/{images}/*.JPG"
        items = []
        for image in self._glob(pattern):
            scene, name = image.split("/")[0], image.rpartition("/")[2]
            domain = "indoor" if scene in self.indoor else "outdoor"
            label = f"{scene}/ground_truth_depth/dslr_images/{name}"
            items.append(Item(image, image, label, scene, domain))
        looked_for = f"SCENE/images/{images}/NAME.JPG"
        self._settle(items, looked_for=looked_for, expected=454, partial=partial)

    def _image(self, item: Item) -> UInt8[np.ndarray, "h w 3"]:
        # As stored: a depth map follows the sensor's rows, whatever EXIF says of the camera's pose.
        data = np.frombuffer(formats.read_bytes(self._path(item.image)), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            raise formats.FormatError(f"{item.image}: not an image that OpenCV can decode")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _label(self, item: Item, image: np.ndarray) -> Record:
        path = self._path(item.label)
        data = formats.read_bytes(path)
        if data.startswith(b"\xff\xd8\xff"):
            raise BenchmarkError(
                f"{self.name}: {path} is a photo where ETH3D's raw depth should be: images lie in "
                "ground_truth_depth"
            )
        same = len(data) == 4 * image.shape[0] * image.shape[1]
        shape = (image.shape[0], image.shape[1]) if same else self.size
        return depth_fields(files.decode_raw_float32(data, shape, path))


class DIODE(Reader):
    """DIODE's validation set, indoors, outdoors or both."""

    name = "diode"
    counts: ClassVar = {"indoor": 325, "outdoor": 446, "all": 771}
    K = np.array([[886.81, 0, 512], [0, 927.06, 384], [0, 0, 1]])  # the devkit's intrinsics.txt
    card = Card(
        title="DIODE",
        split="validation; split=all (default), indoor or outdoor",
        images="771 = 325 indoor + 446 outdoor",
        units="metres along the axis, float32 .npy of (768, 1024, 1); valid where the mask is 1",
        layout="val/{indoors,outdoor}/scene_NNNNN/scan_NNNNN/NAME.png, NAME_depth.npy, "
        "NAME_depth_mask.npy",
        where="https://diode-dataset.org (val)",
        licence="MIT",
        size="2.8 GB",
        citation="Vasiljevic et al.: DIODE: a dense indoor and outdoor depth dataset, "
        "arXiv:1908.00463",
        traps=(
            "The paper's .073 (V2-S) is what indoor alone gives (.072); outdoor alone gives .327, "
            "both together .22.",
            "ZoeDepth reads the masks and does not use them; protocols' caps differ: 10 and 80 m, "
            "150, 350, 50 m.",
        ),
        unverified=("size", "licence"),
    )

    def __init__(self, folder: PathLike, *, split: str = "all", partial: bool = False):
        super().__init__(folder)
        choose(self.name, "split", split, self.counts)
        top = "val/" if os.path.isdir(self._path("val")) else ""
        parts = {"indoors": "indoor", "outdoor": "outdoor"}
        items, masks = [], []
        for part, domain in parts.items():
            if split not in ("all", domain):
                continue
            for image in self._glob(f"{top}{part}/scene_*/scan_*/*.png"):
                stem = image.removesuffix(".png")
                scene = "/".join(image.split("/")[-3:-1])
                items.append(Item(image, image, f"{stem}_depth.npy", scene, domain))
                masks.append(f"{stem}_depth_mask.npy")
        looked_for = "val/{indoors,outdoor}/scene_NNNNN/scan_NNNNN/NAME.png"
        self._settle(items, looked_for=looked_for, expected=self.counts[split], partial=partial)
        if missing := [m for m in masks if not os.path.exists(self._path(m))]:
            raise BenchmarkError(
                f"{self.name}: {len(missing)} masks are missing below {self.root}: "
                f"{', '.join(missing[:3])}. Depths without them hold artefacts at edges"
            )

    def _label(self, item: Item, image: np.ndarray) -> Record:
        path = self._path(item.label)
        values = formats.read_label(path, formats.LabelFormat("npy"))
        mask = path.removesuffix(".npy") + "_mask.npy"
        valid = formats.read_mask(mask)
        if valid.shape != values.shape:
            raise formats.FormatError(f"{mask}: {valid.shape}, its depth {values.shape}")
        return depth_fields(values, valid=valid) | {"K": self.K.copy()}


class DDAD(Reader):
    """DDAD's front camera as ZoeDepth and V1 read it: images and NumPy depth, made beforehand."""

    name = "ddad"
    domain = "outdoor"
    card = Card(
        title="DDAD (Dense Depth for Autonomous Driving)",
        split="validation, front camera",
        images="3,950",
        units="metres along the axis, .npy of the image's size, 0 where no lidar point falls",
        layout="*_rgb.png and *_depth.npy in one folder (ZoeDepth), or list_file with lines of "
        "'image depth' (V1), paths below the folder",
        where="https://github.com/TRI-ML/DDAD (DDAD_train_val.tar); its own devkit, dgp, projects "
        "the lidar points, which this reader does not do",
        licence="CC BY-NC-SA 4.0",
        size="some 250 GB",
        citation="Guizilini et al.: 3D packing for self-supervised monocular depth estimation, "
        "CVPR 2020",
        traps=(
            "Caps differ: 80 m (ZoeDepth), 120 m (UniDepth), 200 m (much literature).",
            "ZoeDepth resizes images to 352x1216 before the network.",
        ),
        unverified=(
            "the count",
            "the names of the files: from ZoeDepth's and V1's loaders",
            "size",
        ),
    )

    def __init__(
        self, folder: PathLike, *, list_file: PathLike | None = None, partial: bool = False
    ):
        super().__init__(folder)
        looked_for = "*_rgb.png and *_depth.npy (or give list_file with 'image depth' lines)"
        if list_file is None:
            images = self._glob("*_rgb.png")
            items = [Item(i, i, i.removesuffix("rgb.png") + "depth.npy") for i in images]
        else:
            lines = read_list(self.name, list_file, "lines of 'image depth'")
            if bad := [words for words in lines if len(words) != 2]:
                raise BenchmarkError(f"{self.name}: {list_file} has {bad[0]}, not 'image depth'")
            items = [
                Item(self._below(image), self._below(image), self._below(label))
                for image, label in lines
            ]
        self._settle(items, looked_for=looked_for, expected=3950, partial=partial)

    def _below(self, path: str) -> str:
        """A path of the list, relative to the root where it lies below it."""
        return os.path.relpath(path, self.root) if os.path.isabs(path) else path

    def _label(self, item: Item, image: np.ndarray) -> Record:
        return depth_fields(formats.read_label(self._path(item.label), formats.LabelFormat("npy")))
