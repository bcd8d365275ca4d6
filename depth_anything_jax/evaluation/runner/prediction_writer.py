"""Writes the predictions of an evaluation as files that `predictions:FOLDER` scores again."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from depth_anything_jax.data.file_formats.formats import FormatError
from depth_anything_jax.data.sources.view import check_same_view
from depth_anything_jax.evaluation.protocols.protocol import Protocol, Switches
from depth_anything_jax.evaluation.runner import prediction_folder
from depth_anything_jax.evaluation.scores import scoring
from depth_anything_jax.evaluation.scores.pairs import Rules
from depth_anything_jax.utils import interpolation
from depth_anything_jax.utils.paths import is_remote


def check_folder(folder: str | os.PathLike[str], *, resume: bool = False) -> None:
    """Checks a folder for predictions.

    Raises:
      ValueError: it is no local path, or is not empty; with `resume` it may hold predictions.
    """
    if is_remote(folder):
        raise ValueError(f"--save_predictions={folder}: give a local or mounted folder")
    path = pathlib.Path(folder).expanduser()
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not resume)):
        raise ValueError(f"--save_predictions={folder} is not empty; choose another")


class PredictionWriter:
    """Writes one file for each image: npz as `predict`, or npy for kinds that it does not know.

    A map is what the network predicted for the whole image, after a flip where the protocol flips.
    Under a protocol with a frame or padding, and from a network that changes the aspect ratio, it
    has the label's size and is NaN outside the frame. Scored under the same protocol it gives the
    same numbers.

    Args:
      folder: is created where it does not exist.
      kind: of the predictions.
      keys: of all images of the run.

    Raises:
      ValueError: a key occurs twice or does not stay in the folder.
    """

    def __init__(self, folder: str | os.PathLike[str], kind: str, keys: Iterable[str]):
        self.folder, self.kind = pathlib.Path(folder).expanduser(), kind
        keys = list(keys)
        for key in keys:
            path = pathlib.PurePosixPath(key)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"--save_predictions: {key} would lie outside of {folder}")
        self._stems = prediction_folder.stems(keys)
        if len(self._stems) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(
                f"--save_predictions: several sets have an image {twice}; score them separately"
            )

    def write(self, record: Mapping[str, Any], prediction: np.ndarray, how: Switches) -> None:
        """Writes a prediction of the view that the network received."""
        from depth_anything_jax.inference.depth import Depth
        from depth_anything_jax.inference.depth_files import METRIC, RELATIVE

        values = prediction
        if isinstance(how, Rules):
            values = interpolation.resize(values, record["image"].shape[:2], how.resize)
        elif isinstance(how, Protocol) and not (
            how.frame == how.pad == "none" and _same_view(values, record["image"])
        ):
            values = scoring.on_whole_label(values, record, how)
        values = np.ascontiguousarray(values, np.float32)
        stem = self.folder / f"{self._stems[record['key']]}{prediction_folder.MAP}"
        stem.parent.mkdir(parents=True, exist_ok=True)
        said = {"disparity-affine": RELATIVE, "metric": METRIC}.get(self.kind)
        if said is None:
            np.save(f"{stem}.npy", values)
        else:
            Depth(values, said).save(f"{stem}.npz")


def _same_view(values: np.ndarray, image: np.ndarray) -> bool:
    """Whether a file of these values would be accepted for the image."""
    try:
        check_same_view("", image, {"prediction": values}, tolerance=0.05, fields=())
    except FormatError:
        return False
    return True
