"""Rendered evaluation sets: Sintel, Hypersim, Virtual KITTI 2."""

from __future__ import annotations

import csv
import os
import pathlib
import re
from typing import ClassVar

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


class Sintel(Reader):
    """MPI Sintel, the training sequences, in the rendering "final" or "clean"."""

    name = "sintel"
    card = Card(
        title="MPI Sintel, depth training data",
        split="the 23 training sequences; rendering=final (default) or clean",
        images="1,064",
        units="metres along the axis, float32 (.dpt); nothing is invalid. Far backgrounds and sky "
        "reach 1e5 m and more and are not marked",
        layout="training/{final,clean}/SEQUENCE/frame_NNNN.png, "
        "training/depth/SEQUENCE/frame_NNNN.dpt, "
        "training/camdata_left/SEQUENCE/frame_NNNN.cam (intrinsics, if there)",
        where="http://sintel.is.tue.mpg.de: the complete flow data (images) and the depth training "
        "data (depth, cameras)",
        licence="images from the Durian open movie (CC BY 3.0); the terms of the site for the rest",
        size="about 8 GB",
        citation="Butler, Wulff, Stanley, Black: A naturalistic open source movie for optical flow "
        "evaluation, ECCV 2012",
        traps=(
            "Protocols treat the far field differently and that decides the score: pixels beyond "
            "72 m left out (MiDaS), set to 72 m and kept (DepthAnythingAC), beyond 70 m left out "
            "(per-sequence protocols).",
            "final and clean differ by some 4 % in AbsRel (.2321 and .2224, pixels up to 70 m).",
            "The paper's AbsRel (.487 for V2-L) is near twice what depth-space evaluators find "
            "(.214) at nearly the same δ1: it was measured in disparity space.",
        ),
        unverified=("size",),
    )

    def __init__(self, folder: PathLike, *, rendering: str = "final", partial: bool = False):
        super().__init__(folder)
        choose(self.name, "rendering", rendering, ("final", "clean"))
        top = "training/" if os.path.isdir(self._path("training")) else ""
        pattern = f"{top}{rendering}/*/frame_*.png"
        items = []
        for image in self._glob(pattern):
            sequence, frame = image.split("/")[-2:]
            label = f"{top}depth/{sequence}/{frame.removesuffix('.png')}.dpt"
            items.append(Item(image, image, label, scene=sequence))
        looked_for = f"training/{rendering}/SEQUENCE/frame_NNNN.png"
        self._settle(items, looked_for=looked_for, expected=1064, partial=partial)

    def _label(self, item: Item, image: np.ndarray) -> Record:
        path = self._path(item.label)
        fields = depth_fields(files.decode_dpt(formats.read_bytes(path), path))
        folder, _, name = item.label.rpartition("/")
        camera = self._path(
            f"{folder.removesuffix('depth/' + item.scene)}camdata_left/{item.scene}/"
            f"{name.removesuffix('.dpt')}.cam"
        )
        if os.path.exists(camera):
            fields["K"] = files.decode_cam(formats.read_bytes(camera), camera)
        return fields


class Hypersim(Reader):
    """Hypersim: rendered rooms; ray distance becomes planar depth by one focal length."""

    name = "hypersim"
    domain = "indoor"
    focal = 886.81  # pixels at 1024 x 768: a field of view of 60 degrees
    counts: ClassVar = {"train": 59543, "val": 7386, "test": 7690}
    card = Card(
        title="Hypersim",
        split="split=test (default), val or train of the official table, given as list_file; or "
        "the images of another list, such as Depth Anything V2's val.txt (= val)",
        images="7,690 (test), 7,386 (val)",
        units="metres from the optical centre (not along the axis), float16 in HDF5; NaN is "
        "invalid",
        layout="ai_VVV_NNN/images/scene_cam_XX_final_preview/frame.IIII.tonemap.jpg, "
        "ai_VVV_NNN/images/scene_cam_XX_geometry_hdf5/frame.IIII.depth_meters.hdf5",
        where="https://github.com/apple/ml-hypersim; the table is its "
        "evermotion_dataset/analysis/metadata_images_split_scene_v1.csv",
        licence="CC BY-SA 3.0",
        size="1.9 TB in all; images and depth of the test scenes are a small part",
        citation="Roberts et al.: Hypersim: a photorealistic synthetic dataset for holistic indoor "
        "scene understanding, ICCV 2021",
        traps=(
            "Distances must become planar depth: z = d · f / sqrt(x² + y² + f²), f = 886.81 "
            "pixels, as ZoeDepth, Marigold and V2 do. The true cameras differ: depth is off by "
            "more than 1 % in 146 scenes, by up to 15 %.",
            "ZoeDepth applies NYU's pixel window [45:471, 41:601] to these 768x1024 images.",
        ),
    )

    def __init__(
        self,
        folder: PathLike,
        *,
        split: str = "test",
        list_file: PathLike | None = None,
        partial: bool = False,
    ):
        super().__init__(folder)
        choose(self.name, "split", split, self.counts)
        what = (
            "the official metadata_images_split_scene_v1.csv, or a list of 'image depth' lines "
            "(Depth Anything V2's splits/hypersim/val.txt)"
        )
        lines = read_list(self.name, list_file, what)
        if "split_partition_name" in lines[0][0]:
            frames, expected = self._table(list_file, split), self.counts[split]
        else:
            frames, expected = self._pairs(lines, list_file), len(lines)
        items = []
        for scene, camera, frame in frames:
            stem = f"{scene}/images/scene_{camera}"
            image = f"{stem}_final_preview/frame.{frame}.tonemap.jpg"
            label = f"{stem}_geometry_hdf5/frame.{frame}.depth_meters.hdf5"
            items.append(Item(image, image, label, scene=scene))
        self._settle(items, looked_for="frames of the list", expected=expected, partial=partial)

    def _table(self, path: PathLike | None, split: str) -> list[tuple[str, str, str]]:
        assert path is not None  # read_list has read it
        with open(pathlib.Path(path).expanduser(), newline="") as file:
            rows = list(csv.DictReader(file))
        return [
            (row["scene_name"], row["camera_name"], f"{int(row['frame_id']):04d}")
            for row in rows
            if row["split_partition_name"] == split
            and row["included_in_public_release"].lower() == "true"
        ]

    def _pairs(self, lines: list[list[str]], path: PathLike | None) -> list[tuple[str, str, str]]:
        pattern = r"(ai_\d{3}_\d{3})/images/scene_(cam_\d+)_final_preview/frame\.(\d{4})\."
        matches = [re.search(pattern, words[0]) for words in lines]
        if None in matches:
            bad = lines[matches.index(None)][0]
            raise BenchmarkError(
                f"{self.name}: {path} names {bad!r}, which is no path like "
                "ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg"
            )
        return [(m[1], m[2], m[3]) for m in matches if m is not None]

    def _label(self, item: Item, image: np.ndarray) -> Record:
        distance = files.read_hdf5(self._path(item.label), "dataset").astype(np.float64)
        height, width = distance.shape
        focal = self.focal * width / 1024
        x = np.arange(width) + 0.5 - width / 2
        y = np.arange(height)[:, None] + 0.5 - height / 2
        depth = distance * focal / np.sqrt(x**2 + y**2 + focal**2)
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        return depth_fields(depth.astype(np.float32)) | {"K": K}


_VKITTI = re.compile(r"(Scene\d\d)/([^/]+)/frames/rgb/(Camera_[01])/rgb_(\d{5})\.")


class VKITTI2(Reader):
    """Virtual KITTI 2: the frames of a list, or those of Camera_0 that a list leaves out."""

    name = "vkitti2"
    domain = "outdoor"
    all_frames, train_frames = 21260, 19559  # of Camera_0
    card = Card(
        title="Virtual KITTI 2",
        split="split=v1_test (default): frames of Camera_0 that Depth Anything V2's training list, "
        "given as list_file, leaves out; split=list: the frames of list_file",
        images="1,701 (v1_test)",
        units="centimetres along the axis, 16-bit PNG; 65535 is sky",
        layout="SceneNN/VARIATION/frames/rgb/Camera_0/rgb_NNNNN.jpg and "
        "…/frames/depth/Camera_0/depth_NNNNN.png, below one folder, below rgb/ and depth/ or below "
        "vkitti_2.0.3_rgb/ and vkitti_2.0.3_depth/",
        where="the Virtual KITTI 2 page of Naver Labs Europe (parts rgb and depth); the list is "
        "metric_depth/dataset/splits/vkitti2/train.txt of DepthAnything/Depth-Anything-V2",
        licence="CC BY-NC-SA 3.0",
        size="under 10 GB each for images and depth",
        citation="Cabon, Murray, Humenberger: Virtual KITTI 2, arXiv:2001.10773",
        traps=(
            "V1's loader splits at random, 8 % of each variation, and wrote the split down once: "
            "the 1,701 frames are inferred as the complement of V2's list of 19,559.",
            "V2's metric outdoor models were trained on that complement's other part: these 1,701 "
            "are unseen by them but are frames of the same drives.",
            "Depths above 80 m are dropped by ZoeDepth's protocol, sky among them.",
        ),
        unverified=("licence", "size"),
    )

    def __init__(
        self,
        folder: PathLike,
        *,
        split: str = "v1_test",
        list_file: PathLike | None = None,
        partial: bool = False,
    ):
        super().__init__(folder)
        choose(self.name, "split", split, ("v1_test", "list"))
        what = "Depth Anything V2's splits/vkitti2/train.txt for v1_test, or a list of images"
        matches = [_VKITTI.search(words[0]) for words in read_list(self.name, list_file, what)]
        if None in matches:
            raise BenchmarkError(
                f"{self.name}: line {matches.index(None) + 1} of {list_file} names no "
                "SceneNN/VARIATION/frames/rgb/Camera_0/rgb_NNNNN.jpg"
            )
        listed = {m.group(0) for m in matches if m is not None}
        tops = [("", ""), ("rgb/", "depth/"), ("vkitti_2.0.3_rgb/", "vkitti_2.0.3_depth/")]
        pattern = "Scene*/*/frames/rgb/Camera_0/rgb_*.jpg"
        globs = [(self._glob(top + pattern), top, labels) for top, labels in tops]
        found, top, label_top = max(globs, key=lambda g: len(g[0]))
        if not found:
            raise wrong_layout(self.name, self.root, pattern)
        if split == "v1_test":
            if not partial and len(found) != self.all_frames:
                raise BenchmarkError(
                    f"{self.name}: {len(found)} frames of Camera_0 below {self.root}, all of them "
                    f"are {self.all_frames}: what the list leaves out cannot be told from a part "
                    "(partial=True to go on)"
                )
            if not partial and len(listed) != self.train_frames:
                raise BenchmarkError(
                    f"{self.name}: {list_file} lists {len(listed)} frames, V2's has "
                    f"{self.train_frames}"
                )
            images = [f for f in found if _key(f) not in listed]
            expected: int | None = self.all_frames - self.train_frames
        else:
            images = [f"{top}{key}jpg" for key in listed]
            expected = len(listed)
        items = []
        for image in images:
            frame = image.removeprefix(top)
            label = label_top + frame.replace("/rgb/", "/depth/").replace("rgb_", "depth_")
            scene = "/".join(frame.split("/")[:2])
            items.append(Item(image, image, label.removesuffix("jpg") + "png", scene=scene))
        self._settle(items, looked_for="frames", expected=expected, partial=partial)

    def _label(self, item: Item, image: np.ndarray) -> Record:
        path = self._path(item.label)
        depth, sky, _ = formats.decode_with_masks(
            formats.read_bytes(path), path, formats.LabelFormat("vkitti")
        )
        K = np.array([[725.0087, 0, 620.5], [0, 725.0087, 187], [0, 0, 1]])
        return depth_fields(depth, sky=sky) | {"K": K}


def _key(path: str) -> str:
    match = _VKITTI.search(path)
    assert match is not None, path  # the pattern of the search gives nothing else
    return match.group(0)
