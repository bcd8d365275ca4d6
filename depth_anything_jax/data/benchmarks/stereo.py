"""Sets with stereo: Middlebury's layout, which ETH3D's two-view sets share; DIML's sample."""

from __future__ import annotations

import os
import re
from typing import ClassVar

import numpy as np

from depth_anything_jax.data.benchmarks.base import (
    BenchmarkError,
    Card,
    Item,
    PathLike,
    Reader,
    Record,
    choose,
    depth_fields,
)
from depth_anything_jax.data.file_formats import formats


class DIML(Reader):
    """The test part of DIML's sample release: a Kinect indoors, stereo outdoors."""

    name = "diml"
    counts: ClassVar = {"indoor": 503, "outdoor": 500, "all": 1003}
    layouts: ClassVar = {  # images, and what of their path becomes the depth's
        "indoor": (
            "indoor/test/{size}/*/color/*_c.png",
            (("/color/", "/depth_filled/"), ("_c.png", "_depth_filled.png")),
        ),
        "outdoor": ("outdoor/test/{size}/outleft/*.png", (("/outleft/", "/depthmap/"),)),
    }
    card = Card(
        title="DIML/CVL RGB-D, sample release",
        split="test; split=all (default), indoor or outdoor; size=LR (default) or HR",
        images="1,003 = 503 indoor + 500 outdoor",
        units="16-bit PNG, millimetres, 0 is invalid",
        layout="indoor/test/{LR,HR}/SCENE/{color/NAME_c.png,depth_filled/NAME_depth_filled.png}; "
        "outdoor/test/{LR,HR}/{outleft,depthmap,confidencemap}/NAME.png",
        where="https://dimlrgbd.github.io (sample data)",
        licence="for research",
        size="a few GB",
        citation="Cho, Min, Kim, Sohn: DIML/CVL RGB-D dataset: 2M RGB-D images of natural indoor "
        "and outdoor scenes, arXiv:2110.11590",
        traps=(
            "Indoor depth is filled, so that there are no holes where a Kinect sees nothing.",
            "Outdoor depth comes from stereo matching; confidencemap tells how sure it is. "
            "confidence=0.6 keeps what is above that share of 255; by default, as under ZoeDepth's "
            "protocol, all of it counts.",
            "V1 was trained on DIML; whether these frames were among its images is not known.",
        ),
        unverified=("licence", "size", "that ZoeDepth ignores the confidence, and reads LR"),
    )

    def __init__(
        self,
        folder: PathLike,
        *,
        split: str = "all",
        size: str = "LR",
        confidence: float = 0.0,
        partial: bool = False,
    ):
        super().__init__(folder)
        choose(self.name, "split", split, self.counts)
        choose(self.name, "size", size, ("LR", "HR"))
        if not 0 <= confidence < 1:
            raise BenchmarkError(f"{self.name}: confidence={confidence} is a share: 0 to below 1")
        self.confidence = confidence
        items = []
        for domain, (pattern, changes) in self.layouts.items():
            if split not in ("all", domain):
                continue
            for image in self._glob(pattern.format(size=size)):
                label = image
                for old, new in changes:
                    label = label.replace(old, new)
                scene = image.split("/")[3] if domain == "indoor" else ""
                items.append(Item(image, image, label, scene, domain))
        looked_for = f"indoor/test/{size}/SCENE/color/NAME_c.png, outdoor/test/{size}/outleft/*.png"
        self._settle(items, looked_for=looked_for, expected=self.counts[split], partial=partial)

    def _label(self, item: Item, image: np.ndarray) -> Record:
        path = self._path(item.label)
        values = formats.read_label(path, formats.LabelFormat("png16", 1000))
        if not self.confidence or item.domain == "indoor":
            return depth_fields(values)
        file = path.replace("/depthmap/", "/confidencemap/")
        sure = formats.decode_raw(formats.read_bytes(file), file, bits=8)
        if sure.shape != values.shape:
            raise formats.FormatError(f"{file}: {sure.shape}, its depth {values.shape}")
        return depth_fields(values, valid=sure > 255 * self.confidence)


class Middlebury(Reader):
    """The left images of stereo scenes, with disparity that is zero at infinity.

    The record's `disparity` is d + doffs (the principal points' distance), proportional to 1 / z.
    """

    name = "middlebury"
    card = Card(
        title="Middlebury stereo (2014, 2021, the evaluation's training set), ETH3D two-view",
        split="all scenes that are there",
        images="depends on the part",
        units="pixels of disparity, PFM; infinity is unknown",
        layout="SCENE/im0.png, SCENE/disp0.pfm or disp0GT.pfm, SCENE/calib.txt (cam0, doffs, "
        "baseline)",
        where="https://vision.middlebury.edu/stereo/data, https://www.eth3d.net/datasets",
        licence="none stated; for research (ETH3D: CC BY-NC-SA 4.0)",
        size="1 GB or less a part",
        citation="Scharstein et al.: High-resolution stereo datasets with subpixel-accurate ground "
        "truth, GCPR 2014",
        traps=(
            "Disparity alone is not proportional to 1 / z: doffs must be added. Values without it "
            "are off by a shift, which aligned scores hide and others do not.",
            "SceneFlow's PFM have another layout and no doffs: read them through a manifest.",
        ),
        unverified=("size",),
    )

    def __init__(self, folder: PathLike):
        super().__init__(folder)
        looked_for = "SCENE/im0.png, SCENE/disp0.pfm or SCENE/disp0GT.pfm, SCENE/calib.txt"
        items = []
        for image in self._glob("**/im0.png"):
            top = image.removesuffix("im0.png")
            names = ("disp0.pfm", "disp0GT.pfm")
            label = next((n for n in names if os.path.exists(self._path(top + n))), names[0])
            items.append(Item(image, image, top + label, scene=top.strip("/")))
        self._settle(items, looked_for=looked_for)
        needed = [i.image.removesuffix("im0.png") + "calib.txt" for i in self.items]
        if missing := [p for p in needed if not os.path.exists(self._path(p))]:
            raise BenchmarkError(
                f"{self.name}: {len(missing)} scenes below {self.root} lack their calib.txt "
                f"({', '.join(missing[:3])}): doffs stands there, without which disparity is off"
            )

    def _label(self, item: Item, image: np.ndarray) -> Record:
        path = self._path(item.label)
        values = formats.decode_pfm(formats.read_bytes(path), path)
        calibration = os.path.join(os.path.dirname(path), "calib.txt")
        doffs, K = read_calibration(calibration)
        valid = np.isfinite(values) & (values > 0)
        disparity = np.where(valid, values, 0) + np.where(valid, np.float32(doffs), 0)
        return {
            "disparity": disparity.astype(np.float32),
            "valid": valid,
            "sky": np.zeros(valid.shape, np.bool_),
            "shift_known": True,
            "K": K,
        }


def read_calibration(path: PathLike) -> tuple[float, np.ndarray]:
    """doffs (0 where the file has none) and the left camera's matrix."""
    text = formats.read_bytes(path).decode()
    doffs = re.search(r"^doffs=([-+.\deE]+)", text, re.MULTILINE)
    matrix = re.search(r"^cam0=\[(.*?)\]", text, re.MULTILINE)
    numbers = matrix[1].replace(";", " ").split() if matrix else []
    if len(numbers) != 9:
        raise formats.FormatError(f"{path}: no line 'cam0=[f 0 cx; 0 f cy; 0 0 1]'")
    K = np.array([float(n) for n in numbers]).reshape(3, 3)
    return (float(doffs[1]) if doffs else 0.0), K
