"""KITTI: Eigen's test images with annotated ground truth or raw lidar, and MiDaS' 161 of them."""

from __future__ import annotations

import os
import pathlib
import re
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float

from depth_anything_jax.data.benchmarks.base import (
    BenchmarkError,
    Card,
    Item,
    PathLike,
    Reader,
    Record,
    choose,
    depth_fields,
    existing_folder,
    read_list,
    wrong_layout,
)
from depth_anything_jax.data.file_formats import formats

_DRIVE = re.compile(r"(\d{4}_\d\d_\d\d)_drive_\d{4}_sync")
_FRAME = re.compile(r"(?<!\d)(\d{10})(?!\d)")
_LISTS = (
    "Eigen's test list of 697 images, or the 652 of them with annotated depth: BTS' "
    "eigen_test_files_with_gt.txt, Depth Anything V2's "
    "metric_depth/dataset/splits/kitti/val.txt (652), or monodepth2's "
    "splits/eigen/test_files.txt and splits/eigen_benchmark/test_files.txt"
)


class Frame(NamedTuple):
    """One image of KITTI's raw data."""

    date: str
    drive: str
    frame: str
    camera: str  # "02" is the left colour camera, "03" the right one


def parse_line(words: list[str], where: str) -> Frame:
    """The frame that a line of any of the field's lists names.

    "DATE/DRIVE/image_02/data/FRAME.png …" (Eigen, BTS) or "DATE/DRIVE FRAME l" (monodepth2).
    """
    line = " ".join(words)
    drive, frame = _DRIVE.search(line), _FRAME.search(line)
    if drive is None or (frame is None and not (len(words) > 1 and words[1].isdigit())):
        raise BenchmarkError(
            f"{where}: {line!r} names no frame; expected lines like "
            "2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png"
        )
    number = frame[1] if frame else words[1].zfill(10)
    right = "image_03" in words[0] or words[-1] == "r"
    return Frame(drive[1], drive[0], number, "03" if right else "02")


class KITTI(Reader):
    """Eigen's test images. The ground truth of a split is in its card.

    Args:
      folder: KITTI's raw data, dates on top.
      split: eigen_652, eigen_697 or midas_161.
      list_file: Eigen's list.
      labels: the annotated depth (folders train and val, or drives); `folder` without it.
      validation_file: for midas_161, a list of the official validation images; without it, those
        in labels/val.
      partial: accept fewer images than the split has.
    """

    name = "kitti"
    domain = "outdoor"
    counts: ClassVar = {"eigen_652": 652, "eigen_697": 697, "midas_161": 161}
    card = Card(
        title="KITTI, Eigen's split",
        split="eigen_652: annotated depth; eigen_697: raw lidar, projected here; midas_161: those "
        "of Eigen's images that belong to the official validation set, annotated depth",
        images="652, 697, 161",
        units="annotated: metres · 256, 16-bit PNG, 0 is invalid; lidar: float32 points in metres. "
        "Images are 370-376 x 1224-1242",
        layout="DATE/DRIVE_sync/image_02/data/FRAME.png (or .jpg); "
        "{train,val}/DRIVE_sync/proj_depth/groundtruth/image_02/FRAME.png below labels; for raw "
        "lidar DATE/DRIVE_sync/velodyne_points/data/FRAME.bin and "
        "DATE/calib_{cam_to_cam,velo_to_cam}.txt",
        where="https://www.cvlibs.net/datasets/kitti: raw data (synced and rectified, calibration) "
        "and, under depth prediction, the annotated depth maps. list_file: " + _LISTS,
        licence="CC BY-NC-SA 3.0",
        size="raw data of Eigen's 28 drives some 45 GB, annotated depth 14 GB",
        citation="Geiger, Lenz, Stiller, Urtasun: Vision meets robotics, IJRR 2013; Uhrig et al.: "
        "Sparsity invariant CNNs, 3DV 2017; Eigen, Puhrsch, Fergus, NIPS 2014",
        traps=(
            "MiDaS' numbers are for 161 images; Depth Anything's .850 for MiDaS against its own "
            ".884 may be the split alone. monodepth2's lists give 145, because its validation list "
            "leaves out the person sequences.",
            "Garg's and Eigen's crops, the crop to 352x1216 and none at all are all in use: the "
            "protocol's choice.",
            "Raw lidar: pixels are round(u) − 1, as in KITTI's own tools, and of several points in "
            "a pixel the nearest counts. A widely copied projection finds those by "
            "row · (width − 1) + column, which takes some pixels of two rows for one; not here.",
        ),
        unverified=("size",),
    )

    def __init__(
        self,
        folder: PathLike,
        *,
        split: str = "eigen_652",
        list_file: PathLike | None = None,
        labels: PathLike | None = None,
        validation_file: PathLike | None = None,
        partial: bool = False,
    ):
        super().__init__(folder)
        self.split = choose(self.name, "split", split, self.counts)
        self.labels = str(existing_folder(self.name, folder if labels is None else labels))
        lines = read_list(self.name, list_file, _LISTS)
        frames = [parse_line(words, f"{self.name}, {list_file}") for words in lines]
        if split == "midas_161":
            frames = self._official_validation(frames, validation_file)
        items = [self._item(frame) for frame in frames]
        if split == "eigen_652" and len(items) == 697:
            items = [i for i in items if os.path.exists(self._path(i.label))]
        looked_for = (
            "{train,val}/DRIVE_sync/proj_depth/groundtruth/image_02/FRAME.png"
            f" in {self.labels}, and images DATE/DRIVE_sync/image_02/data/FRAME.png"
        )
        self._settle(items, looked_for=looked_for, expected=self.counts[split], partial=partial)
        if split == "eigen_697":
            needed = {self._calibration(i, f) for i in self.items for f in ("cam_to", "velo_to")}
            if missing := sorted(p for p in needed if not os.path.exists(p)):
                raise wrong_layout(self.name, self.root, ", ".join(missing))

    def _official_validation(
        self, frames: list[Frame], validation_file: PathLike | None
    ) -> list[Frame]:
        if validation_file is not None:
            lines = read_list(self.name, validation_file, "the official validation images")
            official = {parse_line(words, f"{self.name}, {validation_file}") for words in lines}
            return [f for f in frames if f in official]
        if not os.path.isdir(os.path.join(self.labels, "val")):
            raise wrong_layout(self.name, self.labels, "the folder val of the annotated depth")
        return [f for f in frames if os.path.exists(self._annotated("val", f))]

    def _annotated(self, part: str, frame: Frame) -> str:
        path = f"{frame.drive}/proj_depth/groundtruth/image_{frame.camera}/{frame.frame}.png"
        return os.path.join(self.labels, part, path)

    def _item(self, frame: Frame) -> Item:
        drive = f"{frame.date}/{frame.drive}"
        image = f"{drive}/image_{frame.camera}/data/{frame.frame}.png"
        if not os.path.exists(self._path(image)):
            jpeg = image.removesuffix("png") + "jpg"
            image = jpeg if os.path.exists(self._path(jpeg)) else image
        if self.split == "eigen_697":
            label = f"{drive}/velodyne_points/data/{frame.frame}.bin"
        else:
            # Unpacked as downloaded, without the two folders, or merged into the raw data.
            places = [self._annotated(part, frame) for part in ("val", "train", "", frame.date)]
            label = next((p for p in places if os.path.exists(p)), places[0])
        return Item(image, image, label, scene=frame.drive, extra=(frame,))

    def _calibration(self, item: Item, kind: str) -> str:
        return self._path(f"{item.extra[0].date}/calib_{kind}_cam.txt")

    def _label(self, item: Item, image: np.ndarray) -> Record:
        frame: Frame = item.extra[0]
        camera = self._calibration(item, "cam_to")
        calibration = read_calibration(camera) if os.path.exists(camera) else {}
        K = {}
        projection = calibration.get(f"P_rect_{frame.camera}", [])
        if len(projection) == 12:
            K = {"K": np.reshape(projection, (3, 4))[:, :3]}
        path = self._path(item.label)
        if self.split != "eigen_697":
            return depth_fields(formats.read_label(path, formats.LabelFormat("kitti"))) | K
        data = formats.read_bytes(path)
        if len(data) % 16:
            raise formats.FormatError(f"{path}: {len(data)} bytes are no points of four float32")
        points = np.frombuffer(data, "<f4").reshape(-1, 4)
        lidar = read_calibration(self._calibration(item, "velo_to"))
        matrix = velodyne_to_image(calibration, lidar, frame.camera, camera)
        return depth_fields(project(points[:, :3], matrix, image.shape[:2])) | K


def read_calibration(path: PathLike) -> dict[str, list[float]]:
    """The numbers of a calibration file, by name; lines of other things are left out."""
    found = {}
    for line in pathlib.Path(path).read_text().splitlines():
        name, colon, values = line.partition(":")
        try:
            if colon and values.strip():
                found[name.strip()] = [float(v) for v in values.split()]
        except ValueError:
            continue  # dates and the like
    return found


def velodyne_to_image(
    cameras: dict[str, list[float]], lidar: dict[str, list[float]], camera: str, where: PathLike
) -> Float[np.ndarray, "3 4"]:
    """P_rect · R_rect · [R T]: from lidar coordinates to pixels times depth."""
    projection = f"P_rect_{camera}"
    both = cameras | {name: lidar.get(name, []) for name in ("R", "T")}
    for name, count in {projection: 12, "R_rect_00": 9, "R": 9, "T": 3}.items():
        if len(both.get(name, [])) != count:
            raise formats.FormatError(
                f"{where} and calib_velo_to_cam.txt beside it: no {count} numbers of {name}"
            )
    rigid, rectify = np.eye(4), np.eye(4)
    rigid[:3, :3], rigid[:3, 3] = np.reshape(both["R"], (3, 3)), both["T"]
    rectify[:3, :3] = np.reshape(both["R_rect_00"], (3, 3))
    return np.reshape(both[projection], (3, 4)) @ rectify @ rigid


def project(
    points: Float[np.ndarray, "n 3"], matrix: Float[np.ndarray, "3 4"], shape: tuple[int, ...]
) -> Float[np.ndarray, "h w"]:
    """Depth of lidar points in an image, 0 where there is none; the nearest in a pixel counts.

    Points behind the scanner (x < 0) are left out, as everybody does; pixels are round(u) − 1, as
    in KITTI's own tools.
    """
    height, width = shape[:2]
    points = points[points[:, 0] >= 0].astype(np.float64)
    u, v, z = matrix[:, :3] @ points.T + matrix[:, 3:]
    front = z > 0
    u, v, z = u[front], v[front], z[front]
    column, row = np.round(u / z) - 1, np.round(v / z) - 1
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    depth = np.full((height, width), np.inf)
    np.minimum.at(depth, (row[inside].astype(int), column[inside].astype(int)), z[inside])
    return np.where(np.isfinite(depth), depth, 0).astype(np.float32)
