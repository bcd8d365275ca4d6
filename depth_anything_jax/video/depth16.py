"""Writes and reads depth videos of 16 bits: lossless FFV1 in Matroska, the scale in its tags."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float

from depth_anything_jax.utils import json_files
from depth_anything_jax.utils.sixteen_bits import SCALES, WHITE, fitting_scale
from depth_anything_jax.video.reader import PathLike, VideoError, open_file
from depth_anything_jax.video.writer import Writer

HEADROOM = 8  # multiple of the first frame's largest disparity; that frame keeps 8192 levels
TAG = "DEPTH_ANYTHING"


class Depth16Writer:
    """Writes maps as uint16, all with one scale; use it in a `with` block like `Writer`.

    Metres beyond the range of a chosen scale become 0, which means unknown, and are counted in
    `notes`. Where the scale is not chosen, the first such frame makes the file anew, from what
    has been written of it, with a coarser scale.

    Args:
      path: the file, .mkv.
      open_writer: opens a `Writer` of these tags at a path.
      metric: whether the maps are in metres.
      scale: levels per metre; None: the finest of `sixteen_bits.SCALES` that fits.
      first: the first map, whose largest value gives the scale of relative maps.
    """

    def __init__(
        self,
        path: PathLike,
        open_writer: Callable[[PathLike, Mapping[str, str]], Writer],
        *,
        metric: bool,
        scale: float | None,
        first: Float[np.ndarray, "h w"],
    ):
        self._path, self._open, self._metric = pathlib.Path(path), open_writer, metric
        self._may_change = metric and scale is None
        largest = float(np.max(first, initial=0, where=np.isfinite(first)))
        if metric:
            self._scale = scale or fitting_scale(first)
        else:
            self._scale = WHITE / (HEADROOM * largest or 1.0)
        self._clipped = [0, 0]
        self._times: list[Fraction] = []  # of the frames so far
        self._finer: list[str] = []
        if self._may_change and self._scale != SCALES[0]:
            self._finer = [self._beyond(largest, SCALES[0], Fraction(0), self._scale)]
        self._writer = self._opened()

    def _opened(self) -> Writer:
        kind = "depth in metres" if self._metric else "relative inverse depth"
        meaning = {"kind": kind, "scale": self._scale, "value / scale": kind}
        if self._metric:
            meaning["0"] = "unknown"
        return self._open(self._path, {TAG: json.dumps(meaning)})

    def write(self, time: Fraction, values: Float[np.ndarray, "h w"]) -> None:
        """Adds a map, shown from `time` (seconds) on."""
        if self._may_change and (scale := fitting_scale(values)) < self._scale:
            deepest = float(np.max(values, where=np.isfinite(values), initial=0))
            self._finer = [self._beyond(deepest, self._scale, time, scale)]
            self._rescale(scale)
        self._writer.write(time, self._levels(values))
        self._times.append(time)

    def _levels(self, values: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", over="ignore"):
            raw = np.round(values.astype(np.float64) * self._scale)
        far = np.isfinite(raw) & (raw > WHITE)
        self._clipped[0] += int(far.sum())
        if self._metric:
            raw[~np.isfinite(raw) | (raw < 0) | far] = 0
        self._clipped[1] += int((raw < 0).sum())
        return np.nan_to_num(np.clip(raw, 0, WHITE), nan=0).astype(np.uint16)

    def _rescale(self, scale: float) -> None:
        """Writes the frames so far again, with a coarser scale."""
        finer = self._path.with_name(f".partial.{os.getpid()}.finer{self._path.suffix}")
        self._scale = scale
        try:
            self._writer.close(finer)
            self._writer = self._opened()
            # Its own times are those in the file, which the muxer may move for the sound.
            for moment, (_, values) in zip(self._times, read_depth(finer)[1], strict=True):
                self._writer.write(moment, self._levels(values))
        finally:
            finer.unlink(missing_ok=True)

    @staticmethod
    def _beyond(deepest: float, finer: float, time: Fraction, scale: float) -> str:
        return (
            f"depth16: {deepest:.1f} m at {float(time):.2f} s are beyond {WHITE / finer:.3f} m: "
            f"the file has 1/{scale:g} m"
        )

    @property
    def notes(self) -> list[str]:
        """Messages for the user, one sentence each."""
        far = f"nearer than {HEADROOM} times the first frame's nearest were clipped"
        if self._metric:
            far = f"beyond {WHITE / self._scale:.3f} m were stored as 0, unknown"
        names = far, "below 0 were clipped"
        clipped = [
            f"depth16: {count} values {name}"
            for count, name in zip(self._clipped, names, strict=True)
            if count
        ]
        return [*self._finer, *clipped, *self._writer.notes]

    def __enter__(self) -> Depth16Writer:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._writer.__exit__(kind, error, trace)


def read_depth(path: PathLike) -> tuple[str, Iterator[tuple[Fraction, Float[np.ndarray, "h w"]]]]:
    """Reads a depth16 video.

    Returns:
      the meaning of the values ("relative inverse depth", or "depth in metres", where 0 is
      unknown), and an iterator over (seconds, float32 map).

    Raises:
      VideoError: the file is not a depth16 video.
    """
    with open_file(path) as container:
        tag = container.metadata.get(TAG)
        stream = container.streams.best("video")
        if tag is None or stream is None or stream.codec_context.pix_fmt != "gray16le":
            raise VideoError(f"{path}: not a depth16 video of this program (no tag {TAG})")
    meaning = json_files.parse(tag, f"{path}, its tag {TAG}")
    scale = meaning.get("scale")
    if not isinstance(scale, int | float) or not scale > 0:
        raise VideoError(f"{path}: its tag {TAG} has no scale above 0; it was changed")

    def maps() -> Iterator[tuple[Fraction, np.ndarray]]:
        with open_file(path) as container:
            for frame in container.decode(video=0):
                raw = frame.to_ndarray().astype(np.float32)
                yield frame.pts * Fraction(frame.time_base), raw / np.float32(scale)

    return str(meaning.get("kind")), maps()
