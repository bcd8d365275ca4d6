"""MoGe's bundle: ten sets in one form, seen by one camera each."""

from __future__ import annotations

import json
import os
import pathlib
import re

import numpy as np

from depth_anything_jax.data.benchmarks import files
from depth_anything_jax.data.benchmarks.base import (
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
from depth_anything_jax.data.benchmarks.warp import warp
from depth_anything_jax.data.file_formats import formats

# set -> (name in our records, domain, width, height of the evaluation)
SETS: dict[str, tuple[str, str, int, int]] = {
    "NYUv2": ("nyu", "indoor", 640, 480),
    "KITTI": ("kitti", "outdoor", 750, 375),
    "ETH3D": ("eth3d", "", 2048, 1365),
    "iBims-1": ("ibims", "indoor", 640, 480),
    "GSO": ("gso", "", 512, 512),
    "Sintel": ("sintel", "", 872, 436),
    "DDAD": ("ddad", "outdoor", 1400, 700),
    "DIODE": ("diode", "", 1024, 768),
    "Spring": ("spring", "", 1920, 1080),
    "HAMMER": ("hammer", "indoor", 1664, 832),
}


class MoGe(Reader):
    """One of the ten sets of MoGe's bundle, warped to its evaluation size unless asked not to."""

    name = "moge"
    card = Card(
        title="MoGe's evaluation bundle",
        split="set=" + ", ".join(SETS),
        images="those of each set's .index.txt",
        units="16-bit PNG of log depth with its range in text chunks: 0 is unknown, 65535 infinite "
        "(sky)",
        layout="SET/.index.txt (a folder a line), SET/FOLDER/image.jpg (or .png), depth.png, "
        "meta.json with normalised intrinsics",
        where="the data set Ruicheng/monocular-geometry-evaluation of the Hugging Face hub",
        licence="those of the ten sets",
        size="some 40 GB",
        citation="Wang et al.: MoGe: unlocking accurate monocular geometry estimation for "
        "open-domain images with optimal training supervision, CVPR 2025; and the ten sets",
        traps=(
            "Scores belong to the warped images: "
            + ", ".join(f"{n} {w}x{h}" for n, (_, _, w, h) in SETS.items())
            + " (width x height).",
            "Depths beyond 1,000 times the 1 % quantile of an image are dropped by the loader.",
            "These are other numbers than on the original sets: MoGe has AbsRel .0473 for V2-L on "
            "ETH3D, .0533 on DIODE, .214 on Sintel.",
        ),
        unverified=(
            "the sets' folder names (punctuation and case do not matter)",
            "our warp against MoGe's own, which was not read",
            "whether MoGe uses masks beside these files (a reproduction mentions segmentation.png)",
            "size",
        ),
    )

    def __init__(self, folder: PathLike, *, set: str, warped: bool = True, partial: bool = False):
        """`folder` holds the set's folder, or is it."""
        super().__init__(folder)
        choose("moge", "set", set, SETS)
        self.dataset, self.domain_of_set, width, height = SETS[set]
        self.name = f"moge_{self.dataset}"
        self.target = (height, width) if warped else None
        if not os.path.exists(self._path(".index.txt")):
            plain = re.sub(r"\W", "", set).lower()
            near = [
                p
                for p in pathlib.Path(self.root).iterdir()
                if re.sub(r"\W", "", p.name).lower() == plain and (p / ".index.txt").exists()
            ]
            if not near:
                raise wrong_layout(self.name, self.root, f"{set}/.index.txt")
            self.root = str(near[0])
        lines = read_list(self.name, self._path(".index.txt"), "a folder on each line")
        items = []
        for sample in (" ".join(words) for words in lines):  # names may hold spaces
            jpeg, png = f"{sample}/image.jpg", f"{sample}/image.png"
            image = png if os.path.exists(self._path(png)) else jpeg
            scene, domain = sample.rpartition("/")[0], self.domain_of_set
            items.append(Item(image, image, f"{sample}/depth.png", scene, domain))
        self._settle(items, looked_for="images", expected=len(lines), partial=partial)

    def __getitem__(self, index: int) -> Record:
        record = super().__getitem__(index)
        if self.target is None:
            return record
        masks = {"valid": record["valid"], "sky": record["sky"]}
        image, depth, masks, K = warp(
            record["image"], record["depth"], masks, record["K"], self.target
        )
        masks["valid"] &= not_far(depth, masks["valid"])
        depth = np.where(masks["valid"], depth, np.float32(0))
        return record | {"image": image, "depth": depth, "K": K} | masks

    def _label(self, item: Item, image: np.ndarray) -> Record:
        path = self._path(item.label)
        values = files.decode_log_png(formats.read_bytes(path), path)
        if values.shape != image.shape[:2]:
            raise formats.FormatError(f"{path}: {values.shape}, its image {image.shape[:2]}")
        meta = path.removesuffix("depth.png") + "meta.json"
        with open(meta) as file:
            intrinsics = np.array(json.load(file).get("intrinsics", []), np.float64)
        if intrinsics.shape != (3, 3):
            raise formats.FormatError(f"{meta}: no 3x3 'intrinsics'")
        height, width = image.shape[:2]
        K = np.diag([width, height, 1.0]) @ intrinsics
        return depth_fields(values, sky=np.isposinf(values)) | {"K": K}


def not_far(depth: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Where depth is at most 1,000 times its 1 % quantile, as MoGe's loader demands."""
    if not valid.any():
        return valid
    return depth <= 1000 * np.quantile(depth[valid], 0.01)
