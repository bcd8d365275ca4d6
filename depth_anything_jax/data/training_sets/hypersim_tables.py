"""Finds Hypersim's files, and reads its tables, which lie in its repository."""

from __future__ import annotations

import csv
import os

import numpy as np
from jaxtyping import Float

from depth_anything_jax.data.sources.base import SourceError

CAMERAS = "metadata_camera_parameters.csv"  # of contrib/mikeroberts3000
SPLITS = "metadata_images_split_scene_v1.csv"  # of evermotion_dataset/analysis

Matrix = Float[np.ndarray, "3 3"]


def _found(root: str, given: str, option: str, name: str) -> str:
    root = os.path.expanduser(root)
    usual = ("", "contrib/mikeroberts3000", "evermotion_dataset/analysis")
    places = [given] if given else [os.path.join(root, folder, name) for folder in usual]
    found = next((p for p in places if os.path.isfile(os.path.expanduser(p))), None)
    if found is None:
        raise SourceError(
            f"hypersim: no {name} at {' or '.join(places)}; it is part of apple/ml-hypersim on "
            f"GitHub, not of the scenes: put it there, or give {option}=FILE"
        )
    return os.path.expanduser(found)


def read_cameras(root: str, given: str) -> dict[str, Matrix]:
    """Reads each scene's M_cam_from_uv from the table `given`, or the one below `root`.

    Raises:
      SourceError: there is none, or it has other columns.
    """
    path = _found(root, given, "cameras_file", CAMERAS)
    names = [f"M_cam_from_uv_{row}{column}" for row in range(3) for column in range(3)]
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return {
            row["scene_name"]: np.array([float(row[name]) for name in names]).reshape(3, 3)
            for row in rows
        }
    except (KeyError, ValueError, TypeError) as error:
        raise SourceError(
            f"{path}: not Hypersim's metadata_camera_parameters.csv, with the columns scene_name, "
            f"M_cam_from_uv_00 to M_cam_from_uv_22 ({error})"
        ) from error


def read_splits(root: str, given: str) -> dict[tuple[str, str, int], str]:
    """Reads the partition of each frame (scene, camera, number); "excluded" if it is not public.

    Raises:
      SourceError: there is no table, or it has other columns.
    """
    path = _found(root, given, "splits_file", SPLITS)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return {
            (row["scene_name"], row["camera_name"], int(row["frame_id"])): (
                row["split_partition_name"]
                if row["included_in_public_release"].lower() == "true"
                else "excluded"
            )
            for row in rows
        }
    except (KeyError, ValueError, AttributeError) as error:
        raise SourceError(
            f"{path}: not Hypersim's metadata_images_split_scene_v1.csv, with the columns "
            "scene_name, camera_name, frame_id, included_in_public_release and "
            f"split_partition_name ({error})"
        ) from error


def geometry_file(key: str, what: str) -> str:
    """The path of a frame's depth_meters or render_entity_id, beside its image `key`."""
    folder, _, name = key.rpartition("/")
    frame = name.split(".")[1]
    return f"{folder[: folder.rindex('_final_')]}_geometry_hdf5/frame.{frame}.{what}.hdf5"
